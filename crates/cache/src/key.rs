//! Keys: what a kernel was compiled from, as 32 bytes.
//!
//! A key is a BLAKE3 hash in derive-key mode (domain [`DOMAIN`]) over named fields. Each field enters as
//! `len(name) ‖ name ‖ len(value) ‖ blake3(value)` with 64-bit little-endian lengths, so no two different
//! lists of fields give the same input: `("ab", "c")` and `("a", "bc")` differ, and so do one field and two.
//!
//! Because values enter by their digest, the list of names, lengths and digests ([`Preimage`]) is enough to
//! compute the key again. Entries store it: an entry proves by itself which key it belongs to, and two
//! entries can be compared field by field to explain why a kernel was compiled twice.
//!
//! The compiler's build is deliberately no field: see [`crate::Metadata::provenance`].

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The domain string that separates these hashes from every other use of BLAKE3.
pub const DOMAIN: &str = "bespoke kernel v1";

/// Values of at most this many bytes may be kept readable in the preimage.
const READABLE: usize = 1024;

/// The address of one kernel: 32 bytes, printed as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub [u8; 32]);

impl Key {
    /// All 64 hexadecimal digits: the entry's file name.
    #[must_use]
    pub fn hex(&self) -> String {
        hex(&self.0)
    }

    /// The first 12 digits, enough for people.
    #[must_use]
    pub fn short(&self) -> String {
        hex(&self.0[..6])
    }

    /// The two digits that name the entry's shard.
    #[must_use]
    pub fn shard(&self) -> String {
        hex(&self.0[..1])
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.hex())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.short())
    }
}

/// A text that is not 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a kernel key: expected 64 lower-case hexadecimal digits (see `cache ls`)")]
pub struct NotAKey(pub String);

impl FromStr for Key {
    type Err = NotAKey;

    fn from_str(text: &str) -> Result<Self, NotAKey> {
        unhex(text)
            .map(Key)
            .ok_or_else(|| NotAKey(text.chars().take(80).collect()))
    }
}

/// One field of a key, as kept in the entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Field {
    /// What the field is: `source`, `options`, `arch`, `abi`, …
    pub name: String,
    /// Length of the value in bytes.
    pub len: u64,
    /// BLAKE3 digest of the value, hexadecimal.
    pub blake3: String,
    /// The value itself where it is short and text; for people only, never hashed from here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// One part of a kernel's specification.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Which part.
    pub name: String,
    /// Its text: words with spaces between them.
    pub text: String,
}

/// What a key was computed from: enough to compute it again and to tell two keys apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preimage {
    /// Always [`DOMAIN`].
    pub domain: String,
    /// The kernel's specification in readable form. It is a description and no part of the key.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub spec: String,
    /// The parts of the specification by name, such as `template`, `tile` and `baked`, for people; no part of the key.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<Part>,
    /// The fields in the order in which they were hashed.
    pub fields: Vec<Field>,
}

impl Preimage {
    /// The key of these fields, or `None` when a digest is not 64 hexadecimal digits or the domain is another.
    #[must_use]
    pub fn key(&self) -> Option<Key> {
        if self.domain != DOMAIN {
            return None;
        }
        let mut hasher = blake3::Hasher::new_derive_key(DOMAIN);
        for field in &self.fields {
            hasher.update(&(field.name.len() as u64).to_le_bytes());
            hasher.update(field.name.as_bytes());
            hasher.update(&field.len.to_le_bytes());
            hasher.update(&unhex(&field.blake3)?);
        }
        Some(Key(*hasher.finalize().as_bytes()))
    }

    /// Whether this is the source in the field `source`.
    pub(crate) fn has_source(&self, source: &str) -> bool {
        let digest = blake3::hash(source.as_bytes()).to_hex();
        self.field("source")
            .is_some_and(|field| field.len == source.len() as u64 && field.blake3 == *digest)
    }

    /// A field by its name.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields.iter().find(|field| field.name == name)
    }

    /// A part of the specification by its name; empty if there is none.
    #[must_use]
    pub fn part(&self, name: &str) -> &str {
        let found = self.parts.iter().find(|part| part.name == name);
        found.map_or("", |part| part.text.as_str())
    }

    /// Names of the fields in which two preimages differ, including fields that only one of them has.
    #[must_use]
    pub fn differing_fields(&self, other: &Preimage) -> Vec<String> {
        let mut names = Vec::new();
        for index in 0..self.fields.len().max(other.fields.len()) {
            let (a, b) = (self.fields.get(index), other.fields.get(index));
            let same = matches!((a, b), (Some(a), Some(b)) if a.name == b.name && a.len == b.len && a.blake3 == b.blake3);
            if !same {
                for name in [a, b].into_iter().flatten().map(|field| &field.name) {
                    if !names.contains(name) {
                        names.push(name.clone());
                    }
                }
            }
        }
        names
    }
}

/// Collects the fields of a key. The order of the calls matters.
///
/// ```
/// use bespoke_cache::KeyBuilder;
/// let preimage = KeyBuilder::kernel("extern \"C\" …", &["--std=c++17"], "sm_89", "params v1")
///     .spec("gemm m=run-time n=512 k=512")
///     .finish();
/// assert_eq!(preimage.key().map(|key| key.hex().len()), Some(64));
/// ```
#[derive(Debug, Clone)]
pub struct KeyBuilder {
    preimage: Preimage,
}

impl Default for KeyBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl KeyBuilder {
    /// A key without fields.
    #[must_use]
    pub fn new() -> Self {
        KeyBuilder {
            preimage: Preimage {
                domain: DOMAIN.to_owned(),
                spec: String::new(),
                parts: Vec::new(),
                fields: Vec::new(),
            },
        }
    }

    /// The four fields of a kernel: CUDA source, compiler options in order, target such as `sm_90a`, and the
    /// version of the calling convention between host and kernel.
    #[must_use]
    pub fn kernel<S: AsRef<str>>(source: &str, options: &[S], arch: &str, abi: &str) -> Self {
        Self::new()
            .bytes("source", source.as_bytes())
            .list("options", options)
            .text("arch", arch)
            .text("abi", abi)
    }

    /// Adds a field by its digest only.
    #[must_use]
    pub fn bytes(self, name: &str, value: &[u8]) -> Self {
        self.field(name, value, None)
    }

    /// Adds a text field; short ones stay readable in the entry.
    #[must_use]
    pub fn text(self, name: &str, value: &str) -> Self {
        self.field(name, value.as_bytes(), Some(value.to_owned()))
    }

    /// Adds a list of texts as one field. Items are length-prefixed: `["a b"]` and `["a", "b"]` differ.
    #[must_use]
    pub fn list<S: AsRef<str>>(self, name: &str, items: &[S]) -> Self {
        let mut value = Vec::new();
        for item in items {
            value.extend_from_slice(&(item.as_ref().len() as u64).to_le_bytes());
            value.extend_from_slice(item.as_ref().as_bytes());
        }
        let readable: Vec<&str> = items.iter().map(AsRef::as_ref).collect();
        self.field(name, &value, Some(readable.join(" ")))
    }

    /// Describes the kernel for people. No part of the key.
    #[must_use]
    pub fn spec(mut self, text: &str) -> Self {
        self.preimage.spec = text.to_owned();
        self
    }

    /// Describes a part of the kernel for people. No part of the key.
    #[must_use]
    pub fn part(mut self, name: &str, text: &str) -> Self {
        self.preimage.parts.push(Part {
            name: name.to_owned(),
            text: text.to_owned(),
        });
        self
    }

    /// The finished list of fields; [`Preimage::key`] is always `Some` for it.
    #[must_use]
    pub fn finish(self) -> Preimage {
        self.preimage
    }

    /// The key of the fields so far.
    #[must_use]
    pub fn key(&self) -> Key {
        // Fields made here carry well-formed digests, so the preimage always has a key; an all-zero key would
        // merely be a miss.
        self.preimage.key().unwrap_or(Key([0; 32]))
    }

    fn field(mut self, name: &str, value: &[u8], text: Option<String>) -> Self {
        self.preimage.fields.push(Field {
            name: name.to_owned(),
            len: value.len() as u64,
            blake3: blake3::hash(value).to_hex().to_string(),
            text: text.filter(|text| text.len() <= READABLE),
        });
        self
    }
}

/// Lower-case hexadecimal digits of `bytes`.
pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}

/// The inverse of [`hex`] for 32 bytes; upper-case digits are refused so that a key has one spelling.
pub(crate) fn unhex(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let nibble = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key_of(fields: &[(String, Vec<u8>)]) -> Key {
        fields
            .iter()
            .fold(KeyBuilder::new(), |key, (name, value)| {
                key.bytes(name, value)
            })
            .key()
    }

    #[test]
    fn moving_bytes_between_fields_changes_the_key() {
        let two = |a: &str, b: &str| KeyBuilder::new().text("x", a).text("y", b).key();
        assert_ne!(two("ab", "c"), two("a", "bc"));
        assert_ne!(two("abc", ""), two("", "abc"));
        assert_ne!(
            KeyBuilder::new().text("ab", "c").key(),
            KeyBuilder::new().text("a", "bc").key()
        );
        assert_ne!(
            KeyBuilder::new().list("o", &["a b"]).key(),
            KeyBuilder::new().list("o", &["a", "b"]).key()
        );
        assert_ne!(
            KeyBuilder::new().key(),
            KeyBuilder::new().text("", "").key()
        );
    }

    #[test]
    fn the_key_is_stable_across_releases() {
        // Changing this value orphans every cache in the field: change the folder's version with it.
        let key =
            KeyBuilder::kernel("__global__ void k() {}", &["--std=c++17"], "sm_89", "abi 1").key();
        assert_eq!(
            key.hex(),
            "e7a6267ec50e2bc805a6df2be2869a872de3cab11e11365d557af75cdabbf587"
        );
    }

    #[test]
    fn the_description_is_no_part_of_the_key() {
        let plain = KeyBuilder::new().text("x", "1");
        assert_eq!(plain.key(), plain.clone().spec("anything").key());
        let parts = plain.clone().part("tile", "THREADS=128");
        assert_eq!(plain.key(), parts.key());
        assert_eq!(parts.finish().part("tile"), "THREADS=128");
    }

    #[test]
    fn the_preimage_names_what_differs() {
        let a = KeyBuilder::kernel("s", &["-x"], "sm_80", "1").finish();
        let b = KeyBuilder::kernel("s", &["-y"], "sm_89", "1").finish();
        assert_eq!(a.differing_fields(&b), ["options", "arch"]);
        assert!(a.differing_fields(&a).is_empty());
    }

    #[test]
    fn keys_have_one_spelling() {
        let key = KeyBuilder::new().key();
        assert_eq!(key.hex().parse::<Key>(), Ok(key));
        assert!(key.hex().to_uppercase().parse::<Key>().is_err());
        assert!("../../etc/passwd".parse::<Key>().is_err());
        assert!("é".repeat(32).parse::<Key>().is_err());
    }

    fn fields() -> impl Strategy<Value = Vec<(String, Vec<u8>)>> {
        prop::collection::vec(("[ab]{0,3}", prop::collection::vec(0u8..3, 0..4)), 0..4)
    }

    proptest! {
        #[test]
        fn equal_keys_mean_equal_fields(a in fields(), b in fields()) {
            prop_assert_eq!(a == b, key_of(&a) == key_of(&b));
        }

        #[test]
        fn cutting_one_text_anywhere_gives_other_keys(text in "[a-c]{2,8}", i in 0usize..9, j in 0usize..9) {
            let (i, j) = (i % (text.len() + 1), j % (text.len() + 1));
            let cut = |at: usize| KeyBuilder::new().text("x", &text[..at]).text("y", &text[at..]).key();
            prop_assert_eq!(i == j, cut(i) == cut(j));
        }

        #[test]
        fn the_preimage_survives_json(a in fields()) {
            let preimage = a.iter().fold(KeyBuilder::new(), |key, (name, value)| key.bytes(name, value)).finish();
            let text = serde_json::to_string(&preimage).unwrap();
            let back: Preimage = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(back.key(), Some(key_of(&a)));
        }
    }
}

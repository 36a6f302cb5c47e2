//! The file format of one entry.
//!
//! ```text
//! offset  bytes  what
//!      0      8  magic "BSPKERN\n"
//!      8      2  format, little-endian, now 2
//!     10      2  zero
//!     12      4  header length H, at most MAX_HEADER
//!     16      8  payload length P, at most MAX_PAYLOAD
//!     24      4  source length S, at most MAX_SOURCE; 0 if the source is not kept
//!     28      4  zero
//!     32     32  key
//!     64     32  BLAKE3 of bytes 0..64, then the header, the source and the payload
//!     96      H  header: JSON {"preimage": …, "metadata": …}
//!   96+H      S  CUDA source, UTF-8: for people who ask why two kernels differ
//! 96+H+S      P  payload, for example a cubin
//! ```
//!
//! The digest covers lengths, key, header, source and payload, so a flipped bit anywhere is found. It is not a
//! signature: whoever can write the file can write a matching digest (see the crate's promises). A source must be the one
//! that the preimage has the digest of; inspecting and verifying see to that, a lookup does not.
//!
//! Format 1 had no source; an entry of it is a miss, as one of any other format.

use serde::{Deserialize, Serialize};

use crate::key::{Key, Preimage};

/// Largest accepted payload: 64 MiB.
pub const MAX_PAYLOAD: u64 = 64 << 20;
/// Largest accepted header: 64 KiB.
pub const MAX_HEADER: u64 = 64 << 10;
/// Largest kept source: 1 MiB. A larger one is left out.
pub const MAX_SOURCE: u64 = 1 << 20;
/// Largest accepted file.
pub(crate) const MAX_FILE: u64 = FIXED as u64 + MAX_HEADER + MAX_SOURCE + MAX_PAYLOAD;
/// Length of the part before the JSON header.
pub(crate) const FIXED: usize = 96;
/// End of the bytes that precede the digest.
const DIGEST_AT: usize = 64;
/// Where the key begins.
const KEY_AT: usize = 32;

const MAGIC: &[u8; 8] = b"BSPKERN\n";
const FORMAT: u16 = 2;

/// What one kernel of a payload needs from the device, as the assembler reported it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelInfo {
    /// Name of the entry point, as `cuModuleGetFunction` wants it.
    pub name: String,
    /// Registers per thread.
    pub registers: u32,
    /// Static shared memory per block, bytes.
    pub shared_bytes: u32,
    /// Bytes stored by spilled registers, per thread.
    pub spill_store_bytes: u32,
    /// Bytes loaded by spilled registers, per thread.
    pub spill_load_bytes: u32,
    /// Stack frame per thread, bytes.
    pub stack_bytes: u32,
    /// Hardware barriers per block.
    pub barriers: u32,
}

/// What a hit should know without a compiler.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// The entry points of the payload.
    pub kernels: Vec<KernelInfo>,
    /// How long the compiler took, in microseconds: what a hit saves.
    pub compile_micros: u64,
    /// Which compiler build made the payload, for example `nvrtc 13.0 104857600`. A reader that has another
    /// build compiles again; a reader that has no compiler accepts the entry.
    pub provenance: String,
    /// The CUDA source, given to [`crate::Cache::put`] to be kept beside the artifact; empty if it is not known. Lookups
    /// leave it empty: a run has no use for it, [`crate::Cache::inspect`] reads it.
    #[serde(skip)]
    pub source: String,
}

/// An entry's contents, borrowed from the bytes they were decoded from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded<'a> {
    /// The key in the header, equal to the key of `preimage`.
    pub key: Key,
    /// What the key was computed from.
    pub preimage: Preimage,
    /// What is known about the payload; its source is in `source`.
    pub metadata: Metadata,
    /// The CUDA source, if it was kept.
    pub source: Option<&'a str>,
    /// The artifact.
    pub payload: &'a [u8],
}

/// Why bytes are not a valid entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Fewer bytes than the format or the lengths in it ask for.
    #[error("truncated: {have} bytes, {need} expected")]
    Truncated {
        /// Bytes there are.
        have: u64,
        /// Bytes there should be.
        need: u64,
    },
    /// More bytes than the lengths in the file account for.
    #[error("extended: {have} bytes, {need} expected")]
    Extended {
        /// Bytes there are.
        have: u64,
        /// Bytes there should be.
        need: u64,
    },
    /// The file does not begin with the magic bytes.
    #[error("not a cache entry (wrong magic bytes)")]
    Magic,
    /// Another format version.
    #[error("format {0} where this build reads {FORMAT}")]
    Version(u16),
    /// A length over the limits.
    #[error(
        "too large: header of {header} bytes (limit {MAX_HEADER}), source of {source_bytes} bytes (limit {MAX_SOURCE}), payload of {payload} bytes (limit {MAX_PAYLOAD})"
    )]
    TooLarge {
        /// Header length in the file.
        header: u64,
        /// Source length in the file.
        source_bytes: u64,
        /// Payload length in the file.
        payload: u64,
    },
    /// The digest does not fit the contents.
    #[error("digest mismatch: the contents were damaged")]
    Digest,
    /// The header is not the expected JSON.
    #[error("unreadable header: {0}")]
    Header(String),
    /// The key in the header is not the key of the preimage.
    #[error("the key in the header is not the key of the preimage")]
    Preimage,
    /// The source is not the one that the preimage names, or not text.
    #[error("the source is not the one that the preimage names")]
    Source,
}

#[derive(Serialize)]
struct HeaderOut<'a> {
    preimage: &'a Preimage,
    metadata: &'a Metadata,
}

#[derive(Deserialize)]
struct HeaderIn {
    preimage: Preimage,
    metadata: Metadata,
}

/// The lengths, key and version from the fixed part, checked against the limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fixed {
    pub(crate) header: usize,
    pub(crate) source: usize,
    pub(crate) payload: usize,
    pub(crate) key: Key,
}

impl Fixed {
    /// Length of the whole file.
    pub(crate) fn total(&self) -> u64 {
        (FIXED + self.header + self.source + self.payload) as u64
    }
}

/// Copies `N` bytes at `at`; the caller has checked the length.
fn array<const N: usize>(bytes: &[u8; FIXED], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

/// Reads the fixed part.
pub(crate) fn decode_fixed(fixed: &[u8; FIXED]) -> Result<Fixed, DecodeError> {
    if fixed[..8] != *MAGIC {
        return Err(DecodeError::Magic);
    }
    let format = u16::from_le_bytes(array(fixed, 8));
    if format != FORMAT {
        return Err(DecodeError::Version(format));
    }
    let header = u64::from(u32::from_le_bytes(array(fixed, 12)));
    let payload = u64::from_le_bytes(array(fixed, 16));
    let source_bytes = u64::from(u32::from_le_bytes(array(fixed, 24)));
    if header > MAX_HEADER || source_bytes > MAX_SOURCE || payload > MAX_PAYLOAD {
        return Err(DecodeError::TooLarge {
            header,
            source_bytes,
            payload,
        });
    }
    // All are at most 64 MiB, so the conversions keep the values.
    Ok(Fixed {
        header: header as usize,
        source: source_bytes as usize,
        payload: payload as usize,
        key: Key(array(fixed, KEY_AT)),
    })
}

/// Reads and checks a whole entry. Never panics, and allocates no more than a small multiple of `bytes.len()`.
///
/// # Errors
///
/// A [`DecodeError`] that says in what way `bytes` is not an entry.
pub fn decode_entry(bytes: &[u8]) -> Result<Decoded<'_>, DecodeError> {
    let (decoded, source) = decode_parts(bytes)?;
    let source = match source {
        [] => None,
        bytes => {
            let text = std::str::from_utf8(bytes).map_err(|_| DecodeError::Source)?;
            let fits = decoded.preimage.has_source(text);
            Some(fits.then_some(text).ok_or(DecodeError::Source)?)
        }
    };
    Ok(Decoded { source, ..decoded })
}

/// As [`decode_entry`], for who has no use for the source: it is covered by the digest of the whole as everything is, but
/// not compared with the preimage, which would hash it once more, and not returned.
pub(crate) fn decode_artifact(bytes: &[u8]) -> Result<Decoded<'_>, DecodeError> {
    Ok(decode_parts(bytes)?.0)
}

/// Everything but the source, and the source's bytes.
fn decode_parts(bytes: &[u8]) -> Result<(Decoded<'_>, &[u8]), DecodeError> {
    let have = bytes.len() as u64;
    let Some((fixed_part, rest)) = bytes.split_first_chunk::<FIXED>() else {
        return Err(DecodeError::Truncated {
            have,
            need: FIXED as u64,
        });
    };
    let fixed = decode_fixed(fixed_part)?;
    let need = fixed.total();
    if have < need {
        return Err(DecodeError::Truncated { have, need });
    }
    if have > need {
        return Err(DecodeError::Extended { have, need });
    }
    let (header, rest) = rest.split_at(fixed.header);
    let (source, payload) = rest.split_at(fixed.source);
    if digest(&fixed_part[..DIGEST_AT], [header, source, payload]) != fixed_part[DIGEST_AT..] {
        return Err(DecodeError::Digest);
    }
    let HeaderIn { preimage, metadata } = decode_header(header)?;
    if preimage.key() != Some(fixed.key) {
        return Err(DecodeError::Preimage);
    }
    let decoded = Decoded {
        key: fixed.key,
        preimage,
        metadata,
        source: None,
        payload,
    };
    Ok((decoded, source))
}

fn decode_header(header: &[u8]) -> Result<HeaderIn, DecodeError> {
    serde_json::from_slice(header).map_err(|error| DecodeError::Header(error.to_string()))
}

/// Preimage and metadata of a header whose digest is not checked: good for listings, not for use.
pub(crate) fn describe_header(header: &[u8]) -> Option<(Preimage, Metadata)> {
    decode_header(header)
        .ok()
        .map(|header| (header.preimage, header.metadata))
}

fn digest(prefix: &[u8], parts: [&[u8]; 3]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(prefix);
    for part in parts {
        hasher.update(part);
    }
    *hasher.finalize().as_bytes()
}

/// Writes an entry: the part before the payload, which the caller writes after it.
///
/// # Errors
///
/// [`DecodeError::TooLarge`] over the limits, [`DecodeError::Header`] or [`DecodeError::Preimage`] for a preimage
/// that has no key, [`DecodeError::Source`] for a source that is not the preimage's.
pub(crate) fn encode_head(
    preimage: &Preimage,
    metadata: &Metadata,
    payload: &[u8],
) -> Result<Vec<u8>, DecodeError> {
    let key = preimage.key().ok_or(DecodeError::Preimage)?;
    let header = serde_json::to_vec(&HeaderOut { preimage, metadata })
        .map_err(|error| DecodeError::Header(error.to_string()))?;
    let (header_len, payload_len) = (header.len() as u64, payload.len() as u64);
    if header_len > MAX_HEADER || payload_len > MAX_PAYLOAD {
        return Err(DecodeError::TooLarge {
            header: header_len,
            source_bytes: metadata.source.len() as u64,
            payload: payload_len,
        });
    }
    if !metadata.source.is_empty() && !preimage.has_source(&metadata.source) {
        return Err(DecodeError::Source);
    }
    // The source is only a help for people: where it is too long, the entry does without.
    let source = match metadata.source.len() as u64 {
        0..=MAX_SOURCE => metadata.source.as_bytes(),
        _ => &[],
    };
    let mut head = Vec::with_capacity(FIXED + header.len() + source.len());
    head.extend_from_slice(MAGIC);
    head.extend_from_slice(&FORMAT.to_le_bytes());
    head.extend_from_slice(&[0; 2]);
    head.extend_from_slice(&(header_len as u32).to_le_bytes());
    head.extend_from_slice(&payload_len.to_le_bytes());
    head.extend_from_slice(&(source.len() as u32).to_le_bytes());
    head.extend_from_slice(&[0; 4]);
    head.extend_from_slice(&key.0);
    let digest = digest(&head, [&header, source, payload]);
    head.extend_from_slice(&digest);
    head.extend_from_slice(&header);
    head.extend_from_slice(source);
    Ok(head)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::KeyBuilder;
    use proptest::prelude::*;

    fn sample() -> Vec<u8> {
        let preimage = KeyBuilder::kernel("src", &["-o"], "sm_89", "1")
            .spec("add")
            .finish();
        let metadata = Metadata {
            kernels: vec![KernelInfo {
                name: "add".into(),
                registers: 12,
                ..KernelInfo::default()
            }],
            compile_micros: 30_000,
            provenance: "nvrtc 13.0".into(),
            source: "src".into(),
        };
        let mut bytes = encode_head(&preimage, &metadata, b"payload").unwrap();
        bytes.extend_from_slice(b"payload");
        bytes
    }

    /// Replaces bytes and makes the digest right again.
    fn resealed(mut bytes: Vec<u8>) -> Vec<u8> {
        let fixed = decode_fixed(bytes[..FIXED].try_into().unwrap()).unwrap();
        let (head, rest) = bytes[FIXED..].split_at(fixed.header);
        let (source, payload) = rest.split_at(fixed.source);
        let digest = digest(&bytes[..DIGEST_AT], [head, source, payload]);
        bytes[DIGEST_AT..FIXED].copy_from_slice(&digest);
        bytes
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = sample();
        let entry = decode_entry(&bytes).unwrap();
        assert_eq!(entry.payload, b"payload");
        assert_eq!(entry.metadata.kernels[0].registers, 12);
        assert_eq!(entry.preimage.spec, "add");
        assert_eq!(entry.source, Some("src"));
        assert_eq!(Some(entry.key), entry.preimage.key());
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let good = sample();
        for bit in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(decode_entry(&bytes).is_err(), "bit {bit} went unnoticed");
        }
    }

    #[test]
    fn every_truncation_and_extension_is_found() {
        let good = sample();
        for len in 0..good.len() {
            assert!(
                matches!(
                    decode_entry(&good[..len]),
                    Err(DecodeError::Truncated { .. })
                ),
                "{len}"
            );
        }
        let mut long = good;
        long.push(0);
        assert!(matches!(
            decode_entry(&long),
            Err(DecodeError::Extended { .. })
        ));
    }

    #[test]
    fn lengths_in_the_file_are_not_believed() {
        let mut bytes = sample();
        bytes[16..24].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(matches!(
            decode_entry(&bytes),
            Err(DecodeError::TooLarge { .. })
        ));
        let mut bytes = sample();
        bytes[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(
            decode_entry(&bytes),
            Err(DecodeError::TooLarge { .. })
        ));
        let mut bytes = sample();
        bytes[24..28].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(
            decode_entry(&bytes),
            Err(DecodeError::TooLarge { .. })
        ));
    }

    #[test]
    fn an_entry_of_the_format_before_is_told_as_such() {
        let mut bytes = sample();
        bytes[8] = 1;
        assert_eq!(decode_entry(&bytes), Err(DecodeError::Version(1)));
    }

    #[test]
    fn a_source_that_the_preimage_does_not_name_is_refused() {
        let mut bytes = sample();
        let at = FIXED
            + decode_fixed(bytes[..FIXED].try_into().unwrap())
                .unwrap()
                .header;
        assert_eq!(&bytes[at..at + 3], b"src");
        for byte in [b'S', 0xff] {
            bytes[at] = byte;
            assert_eq!(
                decode_entry(&resealed(bytes.clone())),
                Err(DecodeError::Source)
            );
        }
        let preimage = KeyBuilder::kernel("src", &["-o"], "sm_89", "1").finish();
        let metadata = Metadata {
            source: "other".into(),
            ..Metadata::default()
        };
        assert_eq!(
            encode_head(&preimage, &metadata, b""),
            Err(DecodeError::Source)
        );
    }

    #[test]
    fn a_long_source_is_left_out() {
        let source = "x".repeat(MAX_SOURCE as usize + 1);
        let preimage = KeyBuilder::kernel(&source, &["-o"], "sm_89", "1").finish();
        let metadata = Metadata {
            source,
            ..Metadata::default()
        };
        let bytes = encode_head(&preimage, &metadata, b"").unwrap();
        assert_eq!(decode_entry(&bytes).unwrap().source, None);
    }

    #[test]
    fn a_well_sealed_entry_with_a_foreign_key_is_refused() {
        let mut bytes = sample();
        bytes[KEY_AT] ^= 1;
        assert_eq!(decode_entry(&resealed(bytes)), Err(DecodeError::Preimage));
    }

    #[test]
    fn a_well_sealed_entry_with_a_broken_header_is_refused() {
        let mut bytes = sample();
        bytes[FIXED] = b'[';
        assert!(matches!(
            decode_entry(&resealed(bytes)),
            Err(DecodeError::Header(_))
        ));
    }

    #[test]
    fn oversized_parts_are_not_written() {
        let preimage = KeyBuilder::new().spec(&"x".repeat(70_000)).finish();
        assert!(matches!(
            encode_head(&preimage, &Metadata::default(), b""),
            Err(DecodeError::TooLarge { .. })
        ));
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(decode_entry(&bytes).is_err());
        }

        #[test]
        fn random_tails_never_panic(cut in 0usize..96, tail in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut bytes = sample();
            bytes.truncate(cut);
            bytes.extend_from_slice(&tail);
            prop_assert!(decode_entry(&bytes).is_err() || bytes == sample());
        }
    }
}

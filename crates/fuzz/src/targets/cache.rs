//! Target `cache-entry`: a file of the kernel cache.
//!
//! A digest covers every entry, so that random damage ends there; half of the mutated entries are therefore sealed
//! again, with the right digest and the right lengths, and reach the header.
//!
//! Promises: what is decoded has the digest and the key that it says; a lookup hits exactly where decoding succeeds and
//! the key is the one asked for, and gives the same payload; listing and verifying go on. One thing a lookup leaves to
//! decoding and verifying: whether the source kept for people is the one that the key was made from. Only a file sealed
//! on purpose differs there.

use std::fs;
use std::path::{Path, PathBuf};

use bespoke_cache::{
    Cache, CacheConfig, DecodeError, KernelInfo, Key, KeyBuilder, Lookup, Metadata, Preimage,
    decode_entry,
};

use crate::mutate::mutate;
use crate::random::{BORDERS, Rng};
use crate::target::{Seen, Target, outline};

/// Where the digest lies in an entry: behind magic, version, lengths and key.
const DIGEST: std::ops::Range<usize> = 64..96;
/// Where the key lies.
const KEY: std::ops::Range<usize> = 32..64;

/// The target.
struct Entries {
    scratch: PathBuf,
}

/// Makes the target.
pub(crate) fn make(scratch: &Path) -> Result<Box<dyn Target>, String> {
    Ok(Box::new(Entries {
        scratch: scratch.to_owned(),
    }))
}

/// The file of a key.
fn path_of(dir: &Path, key: &Key) -> PathBuf {
    dir.join("kernels-v2").join(key.shard()).join(key.hex())
}

/// What is put into a real cache to see its files.
fn samples(rng: &mut Rng) -> Vec<(Preimage, Metadata, Vec<u8>)> {
    let kernel = |name: &str| KernelInfo {
        name: name.into(),
        registers: 40,
        ..KernelInfo::default()
    };
    let metadata = |kernels: &[&str], source: &str| Metadata {
        kernels: kernels.iter().map(|k| kernel(k)).collect(),
        compile_micros: 1 << 15,
        provenance: "compiler 13.0".into(),
        source: source.into(),
    };
    vec![
        (KeyBuilder::new().finish(), Metadata::default(), Vec::new()),
        (
            KeyBuilder::kernel("source", &["-o"], "sm_89", "1")
                .spec("gemm m=? n=512")
                .finish(),
            metadata(&["gemm"], "source"),
            rng.bytes(300),
        ),
        (
            KeyBuilder::kernel("s", &["a", "b"], "sm_90a", "2").finish(),
            metadata(&["a", "b", "c"], ""),
            rng.bytes(5000),
        ),
    ]
}

/// Makes lengths and digest right for the header's length `header`, and perhaps the key.
fn seal(bytes: &mut [u8], header: usize, key: bool) {
    if bytes.len() < DIGEST.end {
        return;
    }
    let header = header.min(bytes.len() - DIGEST.end);
    let rest = bytes.len() - DIGEST.end - header;
    let source = number(&bytes[24..28]).min(rest);
    let payload = (rest - source) as u64;
    bytes[12..16].copy_from_slice(&(header as u32).to_le_bytes());
    bytes[24..28].copy_from_slice(&(source as u32).to_le_bytes());
    bytes[16..24].copy_from_slice(&payload.to_le_bytes());
    if key {
        let text = &bytes[DIGEST.end..DIGEST.end + header];
        if let Some(key) = key_of(text) {
            bytes[KEY].copy_from_slice(&key);
        }
    }
    let digest = digest(bytes);
    bytes[DIGEST].copy_from_slice(&digest);
}

/// The key of a header's fields as the format defines it; written again here so that a mistake there is noticed.
fn key_of(header: &[u8]) -> Option<[u8; 32]> {
    let text = std::str::from_utf8(header).ok()?;
    let mut hasher = blake3::Hasher::new_derive_key("bespoke kernel v1");
    // Fields are written by serde in this order; anything else is left to decoding.
    for field in text.split("{\"name\":\"").skip(1) {
        let Some((name, rest)) = field.split_once("\",\"len\":") else {
            continue;
        };
        let Some((length, rest)) = rest.split_once(",\"blake3\":\"") else {
            continue;
        };
        hasher.update(&(name.len() as u64).to_le_bytes());
        hasher.update(name.as_bytes());
        hasher.update(&length.parse::<u64>().ok()?.to_le_bytes());
        hasher.update(blake3::Hash::from_hex(rest.get(..64)?).ok()?.as_bytes());
    }
    Some(*hasher.finalize().as_bytes())
}

fn digest(bytes: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher
        .update(&bytes[..DIGEST.start])
        .update(&bytes[DIGEST.end..]);
    *hasher.finalize().as_bytes()
}

/// Length of the header, as the entry says.
fn header_length(bytes: &[u8]) -> usize {
    bytes.get(12..16).map_or(0, number)
}

/// A little-endian number of four bytes.
fn number(bytes: &[u8]) -> usize {
    bytes.iter().rev().fold(0, |n, &b| n << 8 | usize::from(b))
}

/// A mutation inside the header's JSON: pieces that mean something to a parser.
fn change_header(rng: &mut Rng, bytes: &mut Vec<u8>) {
    let length = header_length(bytes).min(bytes.len().saturating_sub(DIGEST.end));
    let mut header = bytes[bytes.len().min(DIGEST.end)..][..length].to_vec();
    let pieces: [&[u8]; 12] = [
        b"{",
        b"}",
        b"[",
        b"]",
        b"null",
        b"-1",
        b"1e999",
        b"\"\\ud800\"",
        b"\"\"",
        b",",
        b":",
        b"\xff",
    ];
    match rng.below(5) {
        0 => {
            // Nested deeply, which a recursive parser pays for with its stack.
            let depth = 1 << rng.below(15);
            let at = rng.below(header.len() + 1);
            header.splice(at..at, vec![b'['; depth]);
        }
        1 => {
            // Another number in the place of one.
            let digits: Vec<usize> = (0..header.len())
                .filter(|&i| header[i].is_ascii_digit())
                .collect();
            if let Some(&at) = rng.pick(&digits) {
                let value = BORDERS[rng.below(BORDERS.len())];
                header.splice(at..=at, value.to_string().into_bytes());
            }
        }
        2 => {
            let at = rng.below(header.len() + 1);
            header.splice(at..at, pieces[rng.below(pieces.len())].iter().copied());
        }
        _ => header = mutate(rng, &header, b"{\"preimage\":{},\"metadata\":{}}"),
    }
    let start = bytes.len().min(DIGEST.end);
    let new_length = header.len();
    bytes.splice(start..start + length, header);
    let with_key = rng.once_in(2);
    seal(bytes, new_length, with_key);
}

impl Target for Entries {
    fn seeds(&mut self, rng: &mut Rng) -> Vec<Vec<u8>> {
        let mut seeds = vec![Vec::new()];
        let dir = self.scratch.join("seeds");
        let cache = Cache::open(CacheConfig::at(&dir));
        for (preimage, metadata, payload) in samples(rng) {
            cache.put(&preimage, &metadata, &payload);
            let key = preimage.key();
            seeds.extend(key.and_then(|key| fs::read(path_of(&dir, &key)).ok()));
        }
        seeds
    }

    fn mutate(&mut self, rng: &mut Rng, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut input = rng.pick(corpus).cloned().unwrap_or_default();
        match rng.below(4) {
            0 | 1 if input.len() > DIGEST.end => change_header(rng, &mut input),
            0..=2 => {
                let other = rng.pick(corpus).map_or(&[][..], Vec::as_slice);
                input = mutate(rng, &input, other);
            }
            _ => {
                let other = rng.pick(corpus).map_or(&[][..], Vec::as_slice);
                input = mutate(rng, &input, other);
                let header = header_length(&input);
                seal(&mut input, header, false);
            }
        }
        input.truncate(crate::mutate::LONGEST);
        input
    }

    fn run(&mut self, input: &[u8]) -> Result<Seen, String> {
        let mut seen = Vec::new();
        let decoded = decode_entry(input);
        match &decoded {
            Err(error) => seen.push(outline("decode", &error.to_string())),
            Ok(entry) => {
                if input[DIGEST] != digest(input) {
                    return Err("an entry with a wrong digest was decoded".into());
                }
                if entry.preimage.key() != Some(entry.key) || input[KEY] != entry.key.0 {
                    return Err("an entry with a foreign key was decoded".into());
                }
                if !input.ends_with(entry.payload) {
                    return Err("the payload is not the end of the file".into());
                }
                seen.push(format!(
                    "decoded: {} kernels, {} fields",
                    entry.metadata.kernels.len().min(9),
                    entry.preimage.fields.len().min(9)
                ));
            }
        }
        // The file under its own name, or under another one where it has none.
        let key = Key(input
            .get(KEY)
            .and_then(|k| k.try_into().ok())
            .unwrap_or([7; 32]));
        let dir = self.scratch.join("cache");
        let path = path_of(&dir, &key);
        let folder = path.parent().ok_or("a path without a folder")?;
        let failed = |e: std::io::Error| format!("the entry cannot be written: {e}");
        // What an earlier input left must not be counted again.
        let _ = fs::remove_dir_all(&dir);
        drop(Cache::open(CacheConfig::at(&dir)));
        fs::create_dir_all(folder).map_err(failed)?;
        fs::write(&path, input).map_err(failed)?;
        let cache = Cache::open(CacheConfig::at(&dir));
        match cache.list() {
            Ok(list) => seen.push(format!("list: {}", list.len())),
            Err(error) => seen.push(outline("list", &error.to_string())),
        }
        match cache.verify() {
            Ok(_) => seen.push("verify".into()),
            Err(error) => seen.push(outline("verify", &error.to_string())),
        }
        // Verifying may have moved a damaged file away.
        fs::create_dir_all(folder).map_err(failed)?;
        fs::write(&path, input).map_err(failed)?;
        match (cache.get(&key, None), &decoded) {
            (Lookup::Hit(found), Ok(entry)) if found.payload == entry.payload => {
                seen.push("get: hit".into());
            }
            (Lookup::Hit(_), Err(DecodeError::Source)) => seen.push("get: source unread".into()),
            (Lookup::Hit(_), _) => return Err("the cache gave what decoding does not".into()),
            (Lookup::Miss(reason), Err(_)) => seen.push(outline("get", &reason.to_string())),
            (Lookup::Miss(reason), Ok(_)) => {
                return Err(format!("a good entry was missed: {reason}"));
            }
        }
        if let Lookup::Hit(_) = cache.get(&Key([9; 32]), None) {
            return Err("an entry was found under a name that it does not have".into());
        }
        Ok(seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_seen_sealed_and_found() {
        let scratch = tempfile::tempdir().unwrap();
        let mut target = make(scratch.path()).unwrap();
        let mut rng = Rng::new(1);
        let seeds = target.seeds(&mut rng);
        assert_eq!(seeds.len(), 4);
        for good in &seeds[1..] {
            let seen = target.run(good).unwrap();
            assert!(seen.contains(&"get: hit".to_owned()), "{seen:?}");
            // Sealing a good entry changes nothing, key included.
            let mut again = good.clone();
            seal(&mut again, header_length(good), true);
            assert_eq!(&again, good);
        }
        let mut damaged = seeds[2].clone();
        damaged[100] ^= 1;
        let seen = target.run(&damaged).unwrap();
        assert!(seen[0].contains("digest mismatch"), "{seen:?}");
    }

    #[test]
    fn a_foreign_source_is_seen_by_decoding_alone() {
        let scratch = tempfile::tempdir().unwrap();
        let mut target = make(scratch.path()).unwrap();
        let mut rng = Rng::new(1);
        let mut input = target.seeds(&mut rng).remove(2);
        let header = header_length(&input);
        input[DIGEST.end + header] ^= 1;
        seal(&mut input, header, false);
        assert_eq!(decode_entry(&input), Err(DecodeError::Source));
        let seen = target.run(&input).unwrap();
        assert!(seen.contains(&"get: source unread".to_owned()), "{seen:?}");
    }

    #[test]
    fn changed_headers_get_past_the_digest() {
        let scratch = tempfile::tempdir().unwrap();
        let mut target = make(scratch.path()).unwrap();
        let mut rng = Rng::new(1);
        let seed = target.seeds(&mut rng).remove(2);
        let mut outcomes = std::collections::BTreeSet::new();
        for _ in 0..200 {
            let mut input = seed.clone();
            change_header(&mut rng, &mut input);
            outcomes.extend(
                decode_entry(&input)
                    .err()
                    .map(|e| outline("", &e.to_string())),
            );
        }
        assert!(
            outcomes.iter().any(|o| o.contains("unreadable header")),
            "{outcomes:?}"
        );
        assert!(
            !outcomes.iter().any(|o| o.contains("digest")),
            "{outcomes:?}"
        );
    }
}

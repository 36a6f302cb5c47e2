//! Finding one entry by the beginning of its key, and everything that is in it.
//!
//! What runs never need: lookups know the whole key and leave the source alone. Entries of read-only layers are found
//! too, and shown with the folder in which they lie.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::config::CacheError;
use crate::entry::{Metadata, decode_entry};
use crate::file::read_entry_file;
use crate::key::{Key, Preimage};
use crate::stats::MissReason;
use crate::store::{Cache, Layer};
use crate::upkeep::{Usage, scan, sum};

/// How many keys an ambiguous beginning names.
const NAMED: usize = 5;

/// One entry, read whole and checked as a lookup does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// The key.
    pub key: Key,
    /// The file.
    pub path: PathBuf,
    /// Whether it lies in a read-only layer.
    pub in_layer: bool,
    /// Size of the file, bytes.
    pub bytes: u64,
    /// Size of the artifact, bytes.
    pub payload_bytes: u64,
    /// Time of last use; of an entry in a layer, when it was written.
    pub used: SystemTime,
    /// What the key was computed from.
    pub preimage: Preimage,
    /// Entry points, resources, compile time, provenance and, where it was kept, the source.
    pub metadata: Metadata,
}

/// A read-only layer and how full it is.
#[derive(Debug)]
pub struct LayerUse {
    /// The folder.
    pub folder: PathBuf,
    /// Number and size of its entries.
    pub usage: Result<Usage, CacheError>,
}

impl Cache {
    /// The key that begins with these digits, in the main folder or in a layer.
    ///
    /// # Errors
    ///
    /// [`CacheError::NotAKey`], [`CacheError::NoEntry`] and [`CacheError::Ambiguous`], which names some candidates.
    pub fn find_key(&self, prefix: &str) -> Result<Key, CacheError> {
        let digits = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
        if prefix.is_empty() || prefix.len() > 64 || !prefix.chars().all(digits) {
            let shown = prefix.chars().take(80).collect();
            return Err(CacheError::NotAKey(shown));
        }
        self.readable()?;
        let mut found = Vec::new();
        for (_, layer) in self.layers() {
            found.extend(scan(layer)?.into_iter().map(|found| found.key));
        }
        found.retain(|key| key.hex().starts_with(prefix));
        found.sort_unstable();
        found.dedup();
        match found.as_slice() {
            [] => Err(CacheError::NoEntry(prefix.to_owned())),
            [key] => Ok(*key),
            several => Err(CacheError::Ambiguous {
                prefix: prefix.to_owned(),
                count: several.len(),
                // long enough to tell them apart
                some: several
                    .iter()
                    .take(NAMED)
                    .map(|key| key.hex().chars().take(prefix.len().max(8) + 4).collect())
                    .collect(),
            }),
        }
    }

    /// Everything in an entry, from the first folder that has a good one. Changes nothing, not even the time of use.
    ///
    /// # Errors
    ///
    /// [`CacheError::NoEntry`], or [`CacheError::Entry`] with what is wrong with it.
    pub fn inspect(&self, key: &Key) -> Result<Inspection, CacheError> {
        let mut wrong = None;
        for (index, layer) in self.layers() {
            match look(layer, key) {
                Ok(found) => {
                    return Ok(Inspection {
                        in_layer: index > 0,
                        ..found
                    });
                }
                Err(MissReason::Absent) => {}
                Err(reason) => wrong = wrong.or(Some(reason)),
            }
        }
        Err(match wrong {
            Some(reason) => CacheError::Entry {
                key: key.short(),
                reason,
            },
            None => CacheError::NoEntry(key.hex()),
        })
    }

    /// How full the read-only layers are, in the order in which they are asked.
    #[must_use]
    pub fn layer_uses(&self) -> Vec<LayerUse> {
        self.below
            .iter()
            .map(|layer| LayerUse {
                folder: layer.folder().to_owned(),
                usage: scan(layer).map(|found| sum(&found)),
            })
            .collect()
    }
}

/// Reads an entry file and checks that it is the one of `key`.
pub(crate) fn read_whole(path: &Path, layer: &Layer, key: &Key) -> Result<Vec<u8>, MissReason> {
    let (bytes, _) = read_entry_file(path, layer.trust, || Ok(()))?;
    match decode_entry(&bytes)?.key == *key {
        true => Ok(bytes),
        false => Err(MissReason::KeyMismatch),
    }
}

fn look(layer: &Layer, key: &Key) -> Result<Inspection, MissReason> {
    let path = layer.path_of(key);
    let bytes = read_whole(&path, layer, key)?;
    let decoded = decode_entry(&bytes)?;
    let used = std::fs::metadata(&path).and_then(|about| about.modified());
    Ok(Inspection {
        key: *key,
        in_layer: false,
        bytes: bytes.len() as u64,
        payload_bytes: decoded.payload.len() as u64,
        used: used.unwrap_or(SystemTime::UNIX_EPOCH),
        metadata: Metadata {
            source: decoded.source.unwrap_or_default().to_owned(),
            ..decoded.metadata
        },
        preimage: decoded.preimage,
        path,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::CacheConfig;
    use crate::key::KeyBuilder;

    fn put(cache: &Cache, source: &str) -> Key {
        let preimage = KeyBuilder::kernel(source, &["-o"], "sm_89", "1")
            .spec(source)
            .finish();
        let metadata = Metadata {
            source: source.to_owned(),
            provenance: "nvrtc 13.0".into(),
            ..Metadata::default()
        };
        cache.put(&preimage, &metadata, b"payload");
        preimage.key().unwrap()
    }

    #[test]
    fn the_beginning_of_a_key_finds_it() {
        let temp = tempfile::tempdir().unwrap();
        let cache = Cache::open(CacheConfig::at(temp.path().join("c")));
        // more than 16 entries, so that two keys begin with the same digit
        let keys: Vec<Key> = (0..20).map(|n| put(&cache, &format!("k{n}"))).collect();
        for key in &keys {
            assert_eq!(cache.find_key(&key.hex()).unwrap(), *key);
            assert_eq!(cache.find_key(&key.short()).unwrap(), *key);
        }
        let first = |key: &Key| key.hex()[..1].to_owned();
        let twice = keys
            .iter()
            .find(|a| keys.iter().filter(|b| first(a) == first(b)).count() > 1)
            .unwrap();
        match cache.find_key(&first(twice)) {
            Err(CacheError::Ambiguous { count, some, .. }) => {
                assert!(count > 1 && some.len() == count.min(NAMED), "{some:?}");
            }
            other => panic!("{other:?}"),
        }
        for wrong in ["", "xyz", "AB", "../..", &"0".repeat(65)] {
            assert!(
                matches!(cache.find_key(wrong), Err(CacheError::NotAKey(_))),
                "{wrong}"
            );
        }
        assert!(matches!(
            cache.find_key("0123456789abcdef"),
            Err(CacheError::NoEntry(_))
        ));
    }

    #[test]
    fn everything_in_an_entry_is_shown_also_from_a_layer() {
        let temp = tempfile::tempdir().unwrap();
        let layer = temp.path().join("layer");
        let key = put(&Cache::open(CacheConfig::at(&layer)), "a\nb");
        let cache = Cache::open(CacheConfig {
            ro_layers: Some(vec![layer.clone()]),
            ..CacheConfig::at(temp.path().join("own"))
        });
        let found = cache.inspect(&key).unwrap();
        assert!(found.in_layer && found.path.starts_with(&layer));
        assert_eq!(found.metadata.source, "a\nb");
        assert_eq!(
            (found.payload_bytes, found.preimage.spec.as_str()),
            (7, "a\nb")
        );
        assert_eq!(cache.find_key(&key.short()).unwrap(), key);
        let uses = cache.layer_uses();
        assert_eq!(uses.len(), 1);
        assert_eq!(uses[0].usage.as_ref().unwrap().entries, 1);

        std::fs::write(&found.path, b"junk").unwrap();
        assert!(matches!(cache.inspect(&key), Err(CacheError::Entry { .. })));
        std::fs::remove_file(&found.path).unwrap();
        assert!(matches!(cache.inspect(&key), Err(CacheError::NoEntry(_))));
    }
}

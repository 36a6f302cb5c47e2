//! Learned documents: what was found out about a model, shared by every process that runs it.
//!
//! One small JSON document per model (chosen variants, times, shape counts), named by a digest of the model
//! without its weights. Several processes learn at once, so nobody overwrites: [`Learned::update`] takes an
//! advisory lock, reads what is there now, hands it to the caller's merge function, and publishes the result
//! by rename. Readers take no lock; they see the old or the new document, never half of one.
//!
//! The file is one line `bespoke-learned 1 <blake3 of the rest>` and the JSON text. A damaged or foreign file
//! counts as absent and is replaced by the next update.

use std::fs::TryLockError;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::config::{CacheError, Mode};
use crate::file::write_atomically;
use crate::key::{hex, unhex};
use crate::os::{self, Trust};
use crate::store::{Cache, Layer};

/// The folder of this format version.
pub(crate) const FOLDER: &str = "learned-v1";
/// The folder of what is known of this machine; no archive carries it.
pub(crate) const MACHINE: &str = "machine-v1";
/// Largest document: 4 MiB.
pub const MAX_DOCUMENT: u64 = 4 << 20;
/// How long an update waits for other processes.
const PATIENCE: Duration = Duration::from_secs(30);
const TITLE: &str = "bespoke-learned 1 ";

/// Why a document was not updated. The run goes on; what it learned is lost.
#[derive(Debug, thiserror::Error)]
pub enum LearnedError {
    /// The cache may not be written.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// Another process held the lock all the time.
    #[error("`{}` was locked by another process for {} s", path.display(), PATIENCE.as_secs())]
    Busy {
        /// The lock file.
        path: PathBuf,
    },
    /// The merged document is too large.
    #[error(
        "the learned document has {0} bytes, more than {MAX_DOCUMENT}: forget old shapes when merging"
    )]
    TooLarge(u64),
    /// The file system failed.
    #[error("`{}`: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
}

/// Access to the learned documents of a cache.
#[derive(Debug, Clone, Copy)]
pub struct Learned<'a> {
    cache: &'a Cache,
    folder: &'static str,
}

impl Cache {
    /// The learned documents that live beside the kernels.
    #[must_use]
    pub fn learned(&self) -> Learned<'_> {
        Learned {
            cache: self,
            folder: FOLDER,
        }
    }

    /// Documents about this machine and not about a model, kept in the same way under digests of their own: which file is
    /// which compiler build, say. They say nothing on another machine, so that no archive carries them.
    #[must_use]
    pub fn machine(&self) -> Learned<'_> {
        Learned {
            cache: self,
            folder: MACHINE,
        }
    }
}

impl Learned<'_> {
    /// The document of a model, or `None` if there is no readable one. A read-only layer's is read where the main folder
    /// has none.
    #[must_use]
    pub fn read(&self, model: &[u8; 32]) -> Option<Value> {
        if self.cache.mode() == Mode::Off {
            return None;
        }
        self.cache
            .layers()
            .find_map(|(_, layer)| read_in(layer, self.folder, model))
    }

    /// The models that have a document, in order.
    #[must_use]
    pub fn list(&self) -> Vec<[u8; 32]> {
        let mut found: Vec<[u8; 32]> = self
            .cache
            .layers()
            .filter_map(|(_, layer)| std::fs::read_dir(folder_of(layer, self.folder)).ok())
            .flatten()
            .flatten()
            .filter_map(|file| model_of(file.file_name().to_str()?))
            .collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Replaces a model's document by what `merge` makes of the present one, and returns the result.
    ///
    /// `merge` must keep what it does not know: a newer version of the program may have written it.
    ///
    /// # Errors
    ///
    /// A [`LearnedError`]; the old document is then still in place.
    pub fn update(
        &self,
        model: &[u8; 32],
        merge: impl FnOnce(Option<Value>) -> Value,
    ) -> Result<Value, LearnedError> {
        self.update_within(PATIENCE, model, merge)
    }

    fn update_within(
        &self,
        patience: Duration,
        model: &[u8; 32],
        merge: impl FnOnce(Option<Value>) -> Value,
    ) -> Result<Value, LearnedError> {
        let main = self.cache.writable()?;
        let folder = folder_of(main, self.folder);
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| LearnedError::Io { path, source }
        };
        os::create_private_dir(&folder).map_err(io(&folder))?;
        if let Err(distrust) = os::check_dir(&folder, Trust::Own).map_err(io(&folder))? {
            return Err(CacheError::Off(crate::OffReason::Distrusted(distrust)).into());
        }
        let path = folder.join(file_name(model));
        let lock_path = path.with_extension("lock");
        let lock = os::open_lock_file(&lock_path).map_err(io(&lock_path))?;
        let start = Instant::now();
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if start.elapsed() < patience => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(LearnedError::Busy { path: lock_path });
                }
                // A file system without locks: renames still keep the document whole, only a merge may be lost.
                Err(TryLockError::Error(_)) => break,
            }
        }
        // What a layer knows is where learning begins; afterwards the main folder's document stands before it.
        let merged = merge(self.read(model));
        let body = merged.to_string();
        if body.len() as u64 > MAX_DOCUMENT {
            return Err(LearnedError::TooLarge(body.len() as u64));
        }
        write_atomically(
            &main.kernels.join("tmp"),
            &path,
            &[title(&body).as_bytes(), body.as_bytes()],
            || self.cache.step(),
        )
        .map_err(io(&path))?;
        // Closing the file releases the lock, also when the process dies.
        drop(lock);
        Ok(merged)
    }
}

/// Joins two documents: objects key by key, at every depth; where both have something else, `present` stays. Nothing that
/// is present is lost or changed.
#[must_use]
pub fn merged_keeping(present: Value, incoming: Value) -> Value {
    match (present, incoming) {
        (Value::Object(mut present), Value::Object(incoming)) => {
            for (name, value) in incoming {
                let joined = match present.remove(&name) {
                    Some(own) => merged_keeping(own, value),
                    None => value,
                };
                present.insert(name, joined);
            }
            Value::Object(present)
        }
        (present, _) => present,
    }
}

fn folder_of(layer: &Layer, folder: &str) -> PathBuf {
    layer.kernels.with_file_name(folder)
}

fn read_in(layer: &Layer, folder: &str, model: &[u8; 32]) -> Option<Value> {
    let folder = folder_of(layer, folder);
    os::check_dir(&folder, layer.trust).ok()?.ok()?;
    parse(&read_text(&folder.join(file_name(model)), layer.trust)?)
}

/// The name of a model's document in the folder.
pub(crate) fn file_name(model: &[u8; 32]) -> String {
    format!("{}.json", hex(model))
}

/// The inverse of [`file_name`].
pub(crate) fn model_of(name: &str) -> Option<[u8; 32]> {
    unhex(name.strip_suffix(".json")?)
}

fn read_text(path: &Path, trust: Trust) -> Option<String> {
    use std::io::Read;
    let file = os::open_no_follow(path).ok()?;
    let about = file.metadata().ok()?;
    os::check_file(path, &about, trust).ok()?;
    if about.len() > MAX_DOCUMENT + 128 {
        return None;
    }
    let mut text = String::new();
    file.take(MAX_DOCUMENT + 128)
        .read_to_string(&mut text)
        .ok()?;
    Some(text)
}

/// The first line of a document's file.
fn title(body: &str) -> String {
    format!("{TITLE}{}\n", blake3::hash(body.as_bytes()).to_hex())
}

/// A document as its file holds it.
pub(crate) fn text_of(document: &Value) -> String {
    let body = document.to_string();
    title(&body) + &body
}

/// A document from what its file holds; `None` if the digest does not fit.
pub(crate) fn parse(text: &str) -> Option<Value> {
    let (digest, body) = text.strip_prefix(TITLE)?.split_once('\n')?;
    if *blake3::hash(body.as_bytes()).to_hex() != *digest {
        return None;
    }
    serde_json::from_str(body).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::CacheConfig;
    use serde_json::json;

    fn add_one(old: Option<Value>) -> Value {
        json!({ "count": old.and_then(|old| old["count"].as_u64()).unwrap_or(0) + 1 })
    }

    #[test]
    fn updates_from_many_instances_are_all_kept() {
        let temp = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    // Each thread has its own instance, as each process would.
                    let cache = Cache::open(CacheConfig::at(temp.path().join("c")));
                    for _ in 0..10 {
                        cache.learned().update(&[7; 32], add_one).unwrap();
                    }
                });
            }
        });
        let cache = Cache::open(CacheConfig::at(temp.path().join("c")));
        assert_eq!(cache.learned().read(&[7; 32]), Some(json!({ "count": 40 })));
        assert_eq!(cache.learned().read(&[8; 32]), None);
    }

    #[test]
    fn a_damaged_document_counts_as_absent() {
        let temp = tempfile::tempdir().unwrap();
        let cache = Cache::open(CacheConfig::at(temp.path().join("c")));
        cache.learned().update(&[1; 32], add_one).unwrap();
        let path = temp.path().join("c").join(FOLDER).join(file_name(&[1; 32]));
        let text = std::fs::read_to_string(&path).unwrap();
        for bad in [
            text.replace("1}", "2}"),
            text[..text.len() - 1].to_owned(),
            String::new(),
        ] {
            std::fs::write(&path, bad).unwrap();
            assert_eq!(cache.learned().read(&[1; 32]), None);
        }
        assert_eq!(
            cache.learned().update(&[1; 32], add_one).unwrap(),
            json!({ "count": 1 })
        );
    }

    #[test]
    fn a_held_lock_is_waited_for_and_then_reported() {
        let temp = tempfile::tempdir().unwrap();
        let cache = Cache::open(CacheConfig::at(temp.path().join("c")));
        cache.learned().update(&[1; 32], add_one).unwrap();
        let lock_path = temp
            .path()
            .join("c")
            .join(FOLDER)
            .join(file_name(&[1; 32]))
            .with_extension("lock");
        let held = std::fs::File::open(&lock_path).unwrap();
        held.lock().unwrap();
        let short = Duration::from_millis(20);
        let busy = cache.learned().update_within(short, &[1; 32], add_one);
        assert!(matches!(busy, Err(LearnedError::Busy { .. })), "{busy:?}");
        held.unlock().unwrap();
        assert!(
            cache
                .learned()
                .update_within(short, &[1; 32], add_one)
                .is_ok()
        );
    }

    #[test]
    fn a_read_only_cache_reads_but_does_not_learn() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("c");
        Cache::open(CacheConfig::at(&dir))
            .learned()
            .update(&[1; 32], add_one)
            .unwrap();
        let ro = Cache::open(CacheConfig {
            mode: Mode::Ro,
            ..CacheConfig::at(&dir)
        });
        assert_eq!(ro.learned().read(&[1; 32]), Some(json!({ "count": 1 })));
        assert!(matches!(
            ro.learned().update(&[1; 32], add_one),
            Err(LearnedError::Cache(CacheError::ReadOnly(_)))
        ));
    }

    #[test]
    fn what_is_known_of_the_machine_is_no_model() {
        let temp = tempfile::tempdir().unwrap();
        let cache = Cache::open(CacheConfig::at(temp.path().join("c")));
        cache.machine().update(&[1; 32], add_one).unwrap();
        assert_eq!(cache.machine().read(&[1; 32]), Some(json!({ "count": 1 })));
        assert_eq!(cache.learned().read(&[1; 32]), None);
        assert!(cache.learned().list().is_empty());
    }

    #[test]
    fn joining_keeps_what_is_present() {
        let joined = merged_keeping(
            json!({ "a": { "x": 1 }, "b": [1] }),
            json!({ "a": { "x": 2, "y": 3 }, "b": [2], "c": null }),
        );
        assert_eq!(
            joined,
            json!({ "a": { "x": 1, "y": 3 }, "b": [1], "c": null })
        );
    }

    #[test]
    fn what_a_layer_knows_is_read_and_is_where_learning_begins() {
        let temp = tempfile::tempdir().unwrap();
        let (layer, own) = (temp.path().join("layer"), temp.path().join("own"));
        let below = Cache::open(CacheConfig::at(&layer));
        below.learned().update(&[1; 32], add_one).unwrap();
        let cache = Cache::open(CacheConfig {
            ro_layers: Some(vec![layer]),
            ..CacheConfig::at(own)
        });
        assert_eq!(cache.learned().list(), [[1; 32]]);
        assert_eq!(cache.learned().read(&[1; 32]), Some(json!({ "count": 1 })));
        cache.learned().update(&[1; 32], add_one).unwrap();
        assert_eq!(cache.learned().read(&[1; 32]), Some(json!({ "count": 2 })));
        assert_eq!(below.learned().read(&[1; 32]), Some(json!({ "count": 1 })));
    }

    #[test]
    fn an_oversized_document_is_refused_and_the_old_one_stays() {
        let temp = tempfile::tempdir().unwrap();
        let cache = Cache::open(CacheConfig::at(temp.path().join("c")));
        cache.learned().update(&[1; 32], add_one).unwrap();
        let huge = cache
            .learned()
            .update(&[1; 32], |_| Value::String("x".repeat(5 << 20)));
        assert!(matches!(huge, Err(LearnedError::TooLarge(_))));
        assert_eq!(cache.learned().read(&[1; 32]), Some(json!({ "count": 1 })));
    }
}

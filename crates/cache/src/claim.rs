//! Claims: of several processes that miss the same entry at once, one makes it and the others wait.
//!
//! A claim is a lock on a small file beside the entries, `tmp/<key>.claim`. The system gives a lock back when its process
//! ends in whatever way, so a claim outlives nobody; the file is removed by whoever lets go, or swept as a stale one.
//!
//! Like everything here a claim is never load-bearing. Where files cannot be locked, where the folder cannot be written,
//! or where the wait becomes too long, [`Cache::claim`] returns without one: the artifact is then made twice, which costs
//! time and no more.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::config::Mode;
use crate::key::Key;
use crate::os;
use crate::store::Cache;

/// The longest pause between two looks at a claim that somebody else has.
const PAUSE: Duration = Duration::from_millis(8);

/// The right to make the artifact of a key, as far as processes agree on it; given back on drop.
#[derive(Debug)]
pub struct Claim {
    held: Option<(File, PathBuf)>,
    late: bool,
}

impl Claim {
    /// Whether another process may have stored the artifact since it was missed: look it up again before making it.
    #[must_use]
    pub fn is_late(&self) -> bool {
        self.late
    }

    /// Whether other processes wait for this one now.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.held.is_some()
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some((file, path)) = self.held.take() {
            // Under the lock, so that nobody else's claim is removed. What stays behind is locked again by the next
            // process, or swept.
            let _ = std::fs::remove_file(&path);
            // Closing gives the lock back.
            drop(file);
        }
    }
}

impl Cache {
    /// Claims a key that was missed. While another process has the claim, waits as long as `wait` says: it is asked again
    /// and again with the time that has passed.
    #[must_use]
    pub fn claim(&self, key: &Key, wait: impl Fn(Duration) -> bool) -> Claim {
        let mut claim = Claim {
            held: None,
            late: false,
        };
        let Some(main) = self.main.as_ref().filter(|_| self.mode() == Mode::Rw) else {
            return claim;
        };
        let folder = main.kernels.join("tmp");
        let path = folder.join(format!("{}.claim", key.hex()));
        let start = Instant::now();
        let mut pause = Duration::from_millis(1);
        loop {
            match self.try_claim(&folder, &path) {
                // No locks here, or no folder: nothing to agree on.
                Err(_) => return claim,
                Ok(Some(file)) => {
                    claim.held = Some((file, path));
                    claim.late |= main.path_of(key).exists();
                    return claim;
                }
                Ok(None) => claim.late = true,
            }
            if !wait(start.elapsed()) {
                return claim;
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(PAUSE);
        }
    }

    /// One attempt; `None` if another process has the claim.
    fn try_claim(&self, folder: &Path, path: &Path) -> std::io::Result<Option<File>> {
        self.step()?;
        os::create_private_dir(folder)?;
        let file = os::open_lock_file(path)?;
        self.step()?;
        match file.try_lock() {
            // Between opening and locking, the one who had the claim may have removed the file: then the lock is on a
            // file that nobody else finds.
            Ok(()) => Ok(os::is_at(&file, path).then_some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::CacheConfig;
    use std::sync::atomic::{AtomicU32, Ordering};

    const KEY: Key = Key([7; 32]);

    fn folder() -> (tempfile::TempDir, Cache) {
        let temp = tempfile::tempdir().unwrap();
        let cache = Cache::open(CacheConfig::at(temp.path().join("cache")));
        (temp, cache)
    }

    fn files(cache: &Cache) -> usize {
        let kernels = &cache.main.as_ref().unwrap().kernels;
        std::fs::read_dir(kernels.join("tmp")).map_or(0, Iterator::count)
    }

    #[test]
    fn a_claim_excludes_others_and_leaves_no_file() {
        let (_temp, cache) = folder();
        let first = cache.claim(&KEY, |_| true);
        assert!(first.is_held() && !first.is_late());
        let second = cache.claim(&KEY, |passed| passed < Duration::from_millis(20));
        assert!(!second.is_held() && second.is_late(), "the wait was over");
        assert!(
            cache.claim(&Key([8; 32]), |_| false).is_held(),
            "another key is free"
        );
        drop(first);
        assert_eq!(files(&cache), 0);
        assert!(cache.claim(&KEY, |_| false).is_held());
    }

    #[test]
    fn never_two_at_once() {
        let (_temp, cache) = folder();
        let (inside, held) = (AtomicU32::new(0), AtomicU32::new(0));
        std::thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| {
                    for _ in 0..30 {
                        let claim = cache.claim(&KEY, |_| true);
                        assert!(claim.is_held());
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        std::thread::yield_now();
                        inside.fetch_sub(1, Ordering::SeqCst);
                        held.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!(held.into_inner(), 180);
        assert_eq!(files(&cache), 0);
    }

    #[test]
    fn a_file_that_a_dead_process_left_is_claimed() {
        let (_temp, cache) = folder();
        drop(cache.claim(&KEY, |_| false));
        let kernels = cache.main.as_ref().unwrap().kernels.clone();
        let path = kernels.join("tmp").join(format!("{}.claim", KEY.hex()));
        std::fs::write(&path, b"").unwrap();
        assert!(cache.claim(&KEY, |_| false).is_held());
        assert!(!path.exists());
    }

    #[test]
    fn without_locks_or_a_folder_there_is_no_claim_and_no_wait() {
        let (temp, cache) = folder();
        for step in 0..2 {
            cache.faults.arm(step, std::io::ErrorKind::Unsupported);
            let claim = cache.claim(&KEY, |_| true);
            assert!(!claim.is_held() && !claim.is_late());
        }
        let off = Cache::open(CacheConfig {
            mode: Mode::Ro,
            ..CacheConfig::at(temp.path().join("cache"))
        });
        assert!(!off.claim(&KEY, |_| true).is_held());
    }
}

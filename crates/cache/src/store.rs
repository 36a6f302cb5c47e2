//! [`Cache`]: open, look up, store, reject.
//!
//! Reading: the whole file, then digest and key, then the provenance. Writing: in one step, see `file`. A writer that loses
//! a race keeps the artifact it has in memory; it never reads the winner's file.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use crate::config::{CacheConfig, LayerRefusal, Mode, OffReason};
use crate::entry::{Metadata, decode_artifact, encode_head};
#[cfg(test)]
use crate::file::faults;
use crate::file::{read_entry_file, renew_use, write_atomically};
use crate::key::{Key, Preimage};
use crate::os::{self, Trust};
use crate::stats::{Counters, MissReason, PutSkip, Stats};

/// The folder of this format version.
pub(crate) const KERNELS: &str = "kernels-v2";
/// Entries kept in the quarantine.
const QUARANTINE: usize = 16;

/// An entry that was found and believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The artifact, for example a cubin.
    pub payload: Vec<u8>,
    /// Entry points, resources, compile time and provenance.
    pub metadata: Metadata,
    /// What the key was computed from.
    pub preimage: Preimage,
}

/// The answer of [`Cache::get`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    /// Use this artifact.
    Hit(Box<Entry>),
    /// Compile, for this reason.
    Miss(MissReason),
}

impl Lookup {
    /// The entry of a hit.
    #[must_use]
    pub fn hit(self) -> Option<Entry> {
        match self {
            Lookup::Hit(entry) => Some(*entry),
            Lookup::Miss(_) => None,
        }
    }
}

/// The answer of [`Cache::put`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PutOutcome {
    /// On disk under its key.
    Stored(Key),
    /// Not stored, for this reason.
    Skipped(PutSkip),
}

/// One folder of entries.
#[derive(Debug)]
pub(crate) struct Layer {
    /// `<dir>/kernels-v2`.
    pub(crate) kernels: PathBuf,
    pub(crate) trust: Trust,
}

impl Layer {
    /// The folder that was named.
    pub(crate) fn folder(&self) -> &Path {
        self.kernels.parent().unwrap_or(&self.kernels)
    }

    pub(crate) fn path_of(&self, key: &Key) -> PathBuf {
        self.kernels.join(key.shard()).join(key.hex())
    }
}

/// What the cache may do now, and why not more.
#[derive(Debug)]
struct State {
    mode: Mode,
    reason: Option<OffReason>,
}

/// How full the main folder is thought to be: one full look, then this process's own additions.
#[derive(Debug, Default)]
pub(crate) struct Estimate {
    pub(crate) known: bool,
    pub(crate) bytes: u64,
    pub(crate) entries: u64,
    /// Stores to wait before looking again, after a look that could not free enough.
    pub(crate) pause: u32,
}

/// A store of compiled kernels; see the crate's text for what it promises. Shared by reference between threads.
#[derive(Debug)]
pub struct Cache {
    dir: Option<PathBuf>,
    /// The folder that is also written, if it is usable.
    pub(crate) main: Option<Layer>,
    /// Read-only folders, asked after `main`.
    pub(crate) below: Vec<Layer>,
    state: Mutex<State>,
    pub(crate) counters: Counters,
    /// Refused by the driver and still in a folder from which they cannot be moved: (layer, key), 0 is `main`.
    rejected: Mutex<BTreeSet<(usize, Key)>>,
    pub(crate) estimate: Mutex<Estimate>,
    pub(crate) max_bytes: u64,
    pub(crate) max_entries: u64,
    /// Read-only folders that were not believed, with the reason.
    refused_layers: Vec<LayerRefusal>,
    #[cfg(test)]
    pub(crate) faults: faults::Faults,
}

impl Cache {
    /// Opens the cache. Whatever is wrong with the folder makes it do less ([`Cache::mode`], [`Cache::reason`]);
    /// nothing makes it fail.
    #[must_use]
    pub fn open(config: CacheConfig) -> Cache {
        Self::open_with(config, |name| std::env::var_os(name), os::runs_elevated())
    }

    fn open_with(
        config: CacheConfig,
        env: impl Fn(&str) -> Option<OsString>,
        elevated: bool,
    ) -> Cache {
        let mut cache = Cache {
            dir: config.resolve_dir(&env).ok(),
            main: None,
            below: Vec::new(),
            state: Mutex::new(State {
                mode: config.mode,
                reason: None,
            }),
            counters: Counters::default(),
            rejected: Mutex::default(),
            estimate: Mutex::default(),
            max_bytes: config.max_bytes,
            max_entries: config.max_entries,
            refused_layers: Vec::new(),
            #[cfg(test)]
            faults: faults::Faults::default(),
        };
        let off = |reason| State {
            mode: Mode::Off,
            reason: Some(reason),
        };
        if config.mode == Mode::Off || elevated {
            let reason = if config.mode == Mode::Off {
                OffReason::Asked
            } else {
                OffReason::Elevated
            };
            cache.state = Mutex::new(off(reason));
            return cache;
        }
        for dir in config.resolve_layers(&env) {
            match open_layer(&dir, Mode::Ro, Trust::OwnOrRoot) {
                Ok(layer) => cache.below.push(layer),
                Err(reason) => cache.refused_layers.push(LayerRefusal::of(&dir, reason)),
            }
        }
        let main = match &cache.dir {
            Some(dir) => open_layer(dir, config.mode, Trust::Own),
            None => Err(OffReason::NoFolder),
        };
        match main {
            Ok(layer) => cache.main = Some(layer),
            // Layers below stay readable when the main folder is not usable.
            Err(reason) if !cache.below.is_empty() => {
                // Who only reads, from layers, need not have a folder of their own.
                let missed =
                    config.mode == Mode::Rw || cache.dir.as_ref().is_some_and(|dir| dir.exists());
                cache.state = Mutex::new(State {
                    mode: Mode::Ro,
                    reason: Some(reason).filter(|_| missed),
                });
            }
            Err(reason) => cache.state = Mutex::new(off(reason)),
        }
        if cache.mode() == Mode::Rw {
            cache.sweep_stale(SystemTime::now());
        }
        cache
    }

    /// The folder, also where it is not usable; `None` if no folder is known.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.dir.as_deref()
    }

    /// What the cache may do now; a failed write can lower it from `Rw` to `Ro`.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.state().mode
    }

    /// Why the cache does less than the default, if it does. Worth one warning per process.
    #[must_use]
    pub fn reason(&self) -> Option<OffReason> {
        self.state().reason.clone()
    }

    /// Read-only layers that were not believed.
    #[must_use]
    pub fn refused_layers(&self) -> &[LayerRefusal] {
        &self.refused_layers
    }

    /// What happened since [`Cache::open`].
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.counters.snapshot()
    }

    /// Looks a kernel up.
    ///
    /// `provenance` is the compiler build of this process. An entry of another build is a miss, so that a compiler
    /// update takes effect; with `None` (no compiler here) any build is accepted.
    #[must_use]
    pub fn get(&self, key: &Key, provenance: Option<&str>) -> Lookup {
        let found = self.find(key, provenance);
        self.counters.change(|stats| match &found {
            Ok(entry) => {
                stats.hits += 1;
                stats.bytes_read += entry.payload.len() as u64;
                stats.micros_saved = stats
                    .micros_saved
                    .saturating_add(entry.metadata.compile_micros);
            }
            Err(reason) => *stats.misses.entry(reason.code()).or_default() += 1,
        });
        match found {
            Ok(entry) => Lookup::Hit(Box::new(entry)),
            Err(reason) => Lookup::Miss(reason),
        }
    }

    /// Whether there is a file for a kernel that is worth a [`get`](Cache::get). It may still be a miss; where there is
    /// none, it is. Counts nothing.
    #[must_use]
    pub fn has_file(&self, key: &Key) -> bool {
        self.mode() != Mode::Off && self.layers().any(|(_, layer)| layer.path_of(key).exists())
    }

    fn find(&self, key: &Key, provenance: Option<&str>) -> Result<Entry, MissReason> {
        let (mode, reason) = {
            let state = self.state();
            (state.mode, state.reason.clone())
        };
        if mode == Mode::Off {
            return Err(MissReason::Off(reason.unwrap_or(OffReason::Asked)));
        }
        let mut miss = MissReason::Absent;
        for (index, layer) in self.layers() {
            let read = if lock(&self.rejected).contains(&(index, *key)) {
                Err(MissReason::Rejected)
            } else {
                self.read(layer, key, provenance, index == 0 && mode == Mode::Rw)
            };
            match read {
                Ok(entry) => return Ok(entry),
                Err(reason) => {
                    if index == 0 && mode == Mode::Rw && reason.is_damage() {
                        self.quarantine(layer, key);
                    }
                    // The first layer that had something to say explains the miss.
                    if miss == MissReason::Absent {
                        miss = reason;
                    }
                }
            }
        }
        Err(miss)
    }

    fn read(
        &self,
        layer: &Layer,
        key: &Key,
        provenance: Option<&str>,
        renew: bool,
    ) -> Result<Entry, MissReason> {
        let path = layer.path_of(key);
        let (mut bytes, marked) = read_entry_file(&path, layer.trust, || self.step())?;
        let decoded = decode_artifact(&bytes)?;
        if decoded.key != *key {
            return Err(MissReason::KeyMismatch);
        }
        if let Some(wanted) = provenance
            && decoded.metadata.provenance != wanted
        {
            return Err(MissReason::Provenance {
                found: decoded.metadata.provenance,
                wanted: wanted.to_owned(),
            });
        }
        let (metadata, preimage, head) = (
            decoded.metadata,
            decoded.preimage,
            bytes.len() - decoded.payload.len(),
        );
        bytes.drain(..head);
        if renew {
            // Where renewing fails the entry merely looks older than it is.
            let _ = renew_use(&path, marked);
        }
        Ok(Entry {
            payload: bytes,
            metadata,
            preimage,
        })
    }

    /// Stores an artifact under the key of its preimage. Losing a race to another writer of the same key is as good
    /// as winning it.
    pub fn put(&self, preimage: &Preimage, metadata: &Metadata, payload: &[u8]) -> PutOutcome {
        let stored = self.store(preimage, metadata, payload);
        self.counters.change(|stats| match &stored {
            Ok(_) => {
                stats.puts += 1;
                stats.bytes_written += payload.len() as u64;
            }
            Err(skip) => *stats.put_skips.entry(skip.code()).or_default() += 1,
        });
        match stored {
            Ok(key) => PutOutcome::Stored(key),
            Err(skip) => PutOutcome::Skipped(skip),
        }
    }

    fn store(
        &self,
        preimage: &Preimage,
        metadata: &Metadata,
        payload: &[u8],
    ) -> Result<Key, PutSkip> {
        let (mode, reason) = {
            let state = self.state();
            (state.mode, state.reason.clone())
        };
        let main = match (mode, &self.main) {
            (Mode::Rw, Some(main)) => main,
            (Mode::Off, _) => return Err(PutSkip::Off(reason.unwrap_or(OffReason::Asked))),
            _ => return Err(PutSkip::ReadOnly(reason)),
        };
        let head = encode_head(preimage, metadata, payload).map_err(PutSkip::Unfit)?;
        let key = preimage
            .key()
            .ok_or(PutSkip::Unfit(crate::DecodeError::Preimage))?;
        let path = main.path_of(&key);
        if let Err(error) = self.write(main, &key, &path, &head, payload) {
            if os::writing_is_hopeless(&error) {
                let mut state = self.state();
                state.mode = Mode::Ro;
                state.reason = Some(OffReason::WriteFailed {
                    path,
                    error: error.to_string(),
                });
            }
            return Err(PutSkip::Io(error.to_string()));
        }
        lock(&self.rejected).remove(&(0, key));
        self.after_put((head.len() + payload.len()) as u64);
        Ok(key)
    }

    fn write(
        &self,
        main: &Layer,
        key: &Key,
        path: &Path,
        head: &[u8],
        payload: &[u8],
    ) -> std::io::Result<()> {
        self.step()?;
        os::create_private_dir(&main.kernels.join(key.shard()))?;
        write_atomically(&main.kernels.join("tmp"), path, &[head, payload], || {
            self.step()
        })
    }

    /// Reports that the driver refused an entry's payload. It is moved to the quarantine or, where nothing may be
    /// moved, not offered again by this process.
    pub fn reject(&self, key: &Key) {
        let writable = self.mode() == Mode::Rw;
        for (index, layer) in self.layers() {
            if !(index == 0 && writable && self.quarantine(layer, key))
                && layer.path_of(key).exists()
            {
                lock(&self.rejected).insert((index, *key));
            }
        }
    }

    /// Moves an entry of the main folder to `bad/` and keeps that short. False if it is still in place.
    pub(crate) fn quarantine(&self, main: &Layer, key: &Key) -> bool {
        let bad = main.kernels.join("bad");
        let age = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
            .as_nanos();
        // The name begins with the time, so that sorting by name is sorting by age.
        let moved = self
            .step()
            .and_then(|()| os::create_private_dir(&bad))
            .and_then(|()| {
                std::fs::rename(
                    main.path_of(key),
                    bad.join(format!("{age:024}-{}", key.hex())),
                )
            });
        if moved.is_err() {
            return false;
        }
        self.counters.change(|stats| stats.quarantined += 1);
        let mut names: Vec<OsString> = std::fs::read_dir(&bad)
            .into_iter()
            .flatten()
            .flatten()
            .map(|found| found.file_name())
            .collect();
        names.sort();
        for name in names.iter().rev().skip(QUARANTINE) {
            // Another process may have removed it first.
            let _ = std::fs::remove_file(bad.join(name));
        }
        true
    }

    /// The layers in the order in which they are asked; index 0 is always the main one.
    pub(crate) fn layers(&self) -> impl Iterator<Item = (usize, &Layer)> {
        let main = self.main.iter().map(|layer| (0, layer));
        main.chain(
            self.below
                .iter()
                .enumerate()
                .map(|(index, layer)| (index + 1, layer)),
        )
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// A point at which tests let the file system fail.
    #[cfg(test)]
    pub(crate) fn step(&self) -> std::io::Result<()> {
        self.faults.step()
    }

    #[cfg(not(test))]
    #[expect(
        clippy::unused_self,
        reason = "the test build looks for an injected fault here"
    )]
    pub(crate) fn step(&self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Locks, also after a panic of another thread: everything behind these locks is valid at every moment.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes (if writing is allowed) and checks a folder and its versioned part.
fn open_layer(dir: &Path, mode: Mode, trust: Trust) -> Result<Layer, OffReason> {
    let kernels = dir.join(KERNELS);
    for path in [dir, &kernels] {
        let unusable = |error: std::io::Error| OffReason::Unusable {
            path: path.to_owned(),
            error: error.to_string(),
        };
        if mode == Mode::Rw
            && let Err(error) = os::create_private_dir(path)
            && std::fs::symlink_metadata(path).is_err()
        {
            return Err(unusable(error));
        }
        os::check_dir(path, trust)
            .map_err(unusable)?
            .map_err(OffReason::Distrusted)?;
    }
    Ok(Layer { kernels, trust })
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;

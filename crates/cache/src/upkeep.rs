//! Listing, verifying, evicting, clearing.
//!
//! Eviction removes the least recently used entries (by file time, which hits renew) until nine tenths of the
//! limits are reached, and never one younger than ten minutes: another process may be between its lookup and
//! its use. Only names that this crate itself writes are touched; anything else in the folders, such as the
//! `.nfs…` files of a network file system, is left alone.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::config::{CacheError, Mode};
use crate::entry::{
    FIXED, KernelInfo, MAX_HEADER, Metadata, decode_entry, decode_fixed, describe_header,
};
use crate::file::read_entry_file;
use crate::key::{Key, Preimage};
use crate::os;
use crate::stats::MissReason;
use crate::store::{Cache, Layer, lock};

/// No entry younger than this is evicted.
const MIN_AGE: Duration = Duration::from_secs(600);
/// Temporary files older than this belong to processes that died.
const STALE: Duration = Duration::from_secs(3600);
/// Stores between two looks at a folder that is over its limits but has nothing old enough to evict.
const PAUSE: u32 = 64;

/// One entry of a listing. Its digest has not been checked; [`Cache::verify`] does that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryInfo {
    /// The key, from the file name.
    pub key: Key,
    /// Size of the file, bytes.
    pub bytes: u64,
    /// Time of last use.
    pub used: SystemTime,
    /// What the key was computed from; `None` if the header is unreadable.
    pub preimage: Option<Preimage>,
    /// Entry points and resources; `None` if the header is unreadable.
    pub metadata: Option<Metadata>,
}

impl EntryInfo {
    /// The entry points, if the header is readable.
    #[must_use]
    pub fn kernels(&self) -> &[KernelInfo] {
        self.metadata
            .as_ref()
            .map(|metadata| metadata.kernels.as_slice())
            .unwrap_or_default()
    }
}

/// How full the main folder is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Entries.
    pub entries: u64,
    /// Sum of their sizes, bytes.
    pub bytes: u64,
}

/// The result of [`Cache::verify`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Entries that are whole.
    pub ok: u64,
    /// Entries that are not, with the reason. In mode `rw` those of the main folder are now in the quarantine.
    pub bad: Vec<(PathBuf, MissReason)>,
}

/// The result of [`Cache::gc`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GcReport {
    /// Before.
    pub before: Usage,
    /// After.
    pub after: Usage,
    /// Temporary files of dead processes that were removed.
    pub stale: u64,
}

/// The result of [`Cache::clear`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ClearReport {
    /// Files removed, the quarantine and learned documents included.
    pub files: u64,
    /// Their sizes, bytes.
    pub bytes: u64,
}

/// An entry file as the folder shows it.
pub(crate) struct Found {
    pub(crate) key: Key,
    pub(crate) path: PathBuf,
    pub(crate) bytes: u64,
    pub(crate) used: SystemTime,
}

impl Cache {
    /// The entries of the main folder, most recently used first.
    ///
    /// # Errors
    ///
    /// [`CacheError::Off`] without a usable folder, [`CacheError::Io`] if it cannot be read.
    pub fn list(&self) -> Result<Vec<EntryInfo>, CacheError> {
        let mut found = scan(self.folder()?)?;
        found.sort_by(|a, b| (b.used, a.key).cmp(&(a.used, b.key)));
        Ok(found
            .into_iter()
            .map(|found| {
                let (preimage, metadata) = read_header(&found.path).unzip();
                EntryInfo {
                    key: found.key,
                    bytes: found.bytes,
                    used: found.used,
                    preimage,
                    metadata,
                }
            })
            .collect())
    }

    /// Number and size of the entries of the main folder.
    ///
    /// # Errors
    ///
    /// As [`Cache::list`].
    pub fn usage(&self) -> Result<Usage, CacheError> {
        Ok(sum(&scan(self.folder()?)?))
    }

    /// Reads every entry of every layer and checks it as a lookup would. Damaged entries of the main folder are
    /// moved to the quarantine if the cache may write.
    ///
    /// # Errors
    ///
    /// As [`Cache::list`].
    pub fn verify(&self) -> Result<VerifyReport, CacheError> {
        self.readable()?;
        let mut report = VerifyReport::default();
        for (index, layer) in self.layers() {
            for found in scan(layer)? {
                match check(layer, &found) {
                    // Somebody evicted it between the listing and the reading.
                    Err(MissReason::Absent) => {}
                    Ok(()) => report.ok += 1,
                    Err(reason) => {
                        if index == 0 && self.mode() == Mode::Rw && reason.is_damage() {
                            self.quarantine(layer, &found.key);
                        }
                        report.bad.push((found.path, reason));
                    }
                }
            }
        }
        Ok(report)
    }

    /// Brings the main folder under its limits and removes temporary files of dead processes.
    ///
    /// # Errors
    ///
    /// [`CacheError::ReadOnly`] if nothing may be changed, otherwise as [`Cache::list`].
    pub fn gc(&self) -> Result<GcReport, CacheError> {
        self.gc_at(SystemTime::now())
    }

    pub(crate) fn gc_at(&self, now: SystemTime) -> Result<GcReport, CacheError> {
        let main = self.writable()?;
        let stale = self.sweep_stale(now);
        let mut found = scan(main)?;
        let before = sum(&found);
        let mut after = before;
        if before.bytes > self.max_bytes || before.entries > self.max_entries {
            // A tenth of air, so that the next store does not evict again.
            let (bytes, entries) = (
                self.max_bytes - self.max_bytes / 10,
                self.max_entries - self.max_entries / 10,
            );
            // A mark far in the future was made by a clock that was wrong and says nothing: such an entry is as good as
            // never used.
            for entry in &mut found {
                if entry
                    .used
                    .duration_since(now)
                    .is_ok_and(|ahead| ahead > MIN_AGE)
                {
                    entry.used = SystemTime::UNIX_EPOCH;
                }
            }
            found.sort_by_key(|found| (found.used, found.key));
            for old in &found {
                let young = now
                    .duration_since(old.used)
                    .map_or(true, |age| age < MIN_AGE);
                if young || (after.bytes <= bytes && after.entries <= entries) {
                    break;
                }
                if std::fs::remove_file(&old.path).is_ok() {
                    self.counters.change(|stats| stats.evicted += 1);
                }
                // Where removing failed another process was faster: gone either way.
                after.bytes = after.bytes.saturating_sub(old.bytes);
                after.entries = after.entries.saturating_sub(1);
            }
        }
        let mut estimate = lock(&self.estimate);
        estimate.known = true;
        (estimate.bytes, estimate.entries) = (after.bytes, after.entries);
        estimate.pause = if after.bytes > self.max_bytes || after.entries > self.max_entries {
            PAUSE
        } else {
            0
        };
        Ok(GcReport {
            before,
            after,
            stale,
        })
    }

    /// Removes every entry, the quarantine and what was learned.
    ///
    /// # Errors
    ///
    /// As [`Cache::gc`].
    pub fn clear(&self) -> Result<ClearReport, CacheError> {
        let main = self.writable()?;
        let mut report = ClearReport::default();
        let mut remove = |path: &Path, bytes: u64| {
            if std::fs::remove_file(path).is_ok() {
                report.files += 1;
                report.bytes += bytes;
            }
        };
        for found in scan(main)? {
            remove(&found.path, found.bytes);
        }
        let [learned, machine] = [crate::learned::FOLDER, crate::learned::MACHINE]
            .map(|name| main.kernels.with_file_name(name));
        let (bad, tmp) = (main.kernels.join("bad"), main.kernels.join("tmp"));
        for folder in [bad, tmp, learned, machine] {
            for file in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                // Lock files stay: removing one that is held would let two processes hold "the" lock.
                if file
                    .path()
                    .extension()
                    .is_none_or(|extension| extension != "lock")
                {
                    remove(&file.path(), file.metadata().map_or(0, |about| about.len()));
                }
            }
        }
        *lock(&self.estimate) = crate::store::Estimate::default();
        Ok(report)
    }

    /// Removes temporary files older than an hour. Returns how many.
    pub(crate) fn sweep_stale(&self, now: SystemTime) -> u64 {
        let Some(main) = &self.main else { return 0 };
        let mut removed = 0;
        for file in std::fs::read_dir(main.kernels.join("tmp"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let old = file
                .metadata()
                .and_then(|about| about.modified())
                .is_ok_and(|then| now.duration_since(then).is_ok_and(|age| age > STALE));
            let foreign = file.file_name().to_string_lossy().starts_with(".nfs");
            if old && !foreign && std::fs::remove_file(file.path()).is_ok() {
                removed += 1;
            }
        }
        removed
    }

    /// Counts a stored entry and evicts when the limits seem to be passed.
    pub(crate) fn after_put(&self, bytes: u64) {
        let over = {
            let mut estimate = lock(&self.estimate);
            estimate.bytes = estimate.bytes.saturating_add(bytes);
            estimate.entries += 1;
            let paused = estimate.pause > 0;
            estimate.pause = estimate.pause.saturating_sub(1);
            !estimate.known
                || (!paused
                    && (estimate.bytes > self.max_bytes || estimate.entries > self.max_entries))
        };
        if over {
            // Eviction that fails leaves the folder larger than wished, which `gc` on the command line reports.
            let _ = self.gc();
        }
    }

    /// The main folder, to read.
    fn folder(&self) -> Result<&Layer, CacheError> {
        self.main.as_ref().ok_or_else(|| match self.reason() {
            Some(reason) => CacheError::Off(reason),
            None => CacheError::NoFolder,
        })
    }

    /// An error if neither the main folder nor a layer can be read.
    pub(crate) fn readable(&self) -> Result<(), CacheError> {
        match self.below.is_empty() {
            true => self.folder().map(|_| ()),
            false => Ok(()),
        }
    }

    /// The main folder, to change.
    pub(crate) fn writable(&self) -> Result<&Layer, CacheError> {
        let main = self.folder()?;
        if self.mode() == Mode::Rw {
            Ok(main)
        } else {
            Err(CacheError::ReadOnly(self.reason()))
        }
    }
}

pub(crate) fn sum(found: &[Found]) -> Usage {
    Usage {
        entries: found.len() as u64,
        bytes: found.iter().map(|found| found.bytes).sum(),
    }
}

/// Every file of a layer whose name and shard are those of a key.
pub(crate) fn scan(layer: &Layer) -> Result<Vec<Found>, CacheError> {
    let mut all = Vec::new();
    for shard in std::fs::read_dir(&layer.kernels)
        .map_err(CacheError::io(&layer.kernels))?
        .flatten()
    {
        let name = shard.file_name();
        if name.len() != 2 {
            continue;
        }
        // A shard that vanishes or cannot be read contributes nothing.
        for file in std::fs::read_dir(shard.path())
            .into_iter()
            .flatten()
            .flatten()
        {
            let key = file
                .file_name()
                .to_str()
                .and_then(|name| name.parse::<Key>().ok());
            if let (Some(key), Ok(about)) = (key, file.metadata())
                && *key.shard() == *name
            {
                let used = about.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                all.push(Found {
                    key,
                    path: file.path(),
                    bytes: about.len(),
                    used,
                });
            }
        }
    }
    Ok(all)
}

/// Reads the description of an entry without its payload.
fn read_header(path: &Path) -> Option<(Preimage, Metadata)> {
    use std::io::Read;
    let mut file = os::open_no_follow(path).ok()?;
    let mut fixed = [0; FIXED];
    file.read_exact(&mut fixed).ok()?;
    let fixed = decode_fixed(&fixed).ok()?;
    debug_assert!(fixed.header as u64 <= MAX_HEADER);
    let mut header = Vec::new();
    file.take(fixed.header as u64)
        .read_to_end(&mut header)
        .ok()?;
    describe_header(&header)
}

/// Checks one entry as a lookup does.
fn check(layer: &Layer, found: &Found) -> Result<(), MissReason> {
    let (bytes, _) = read_entry_file(&found.path, layer.trust, || Ok(()))?;
    if decode_entry(&bytes)?.key == found.key {
        Ok(())
    } else {
        Err(MissReason::KeyMismatch)
    }
}

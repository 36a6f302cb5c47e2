//! Reasons and counters: nothing the cache does is silent.

use std::collections::BTreeMap;
use std::sync::Mutex;

use crate::config::OffReason;
use crate::entry::DecodeError;
use crate::os::Distrust;

/// Why a lookup found nothing usable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MissReason {
    /// There is no such entry.
    #[error("no entry")]
    Absent,
    /// The cache is off.
    #[error("{0}")]
    Off(OffReason),
    /// Fewer bytes than the entry says.
    #[error("truncated: {have} bytes, {need} expected")]
    Truncated {
        /// Bytes there are.
        have: u64,
        /// Bytes there should be.
        need: u64,
    },
    /// More bytes than the entry says.
    #[error("extended: {have} bytes, {need} expected")]
    Extended {
        /// Bytes there are.
        have: u64,
        /// Bytes there should be.
        need: u64,
    },
    /// Contents and digest disagree, or the file is no entry at all.
    #[error("damaged: {0}")]
    Digest(DecodeError),
    /// The entry belongs to another key than its name says.
    #[error("the entry belongs to another key")]
    KeyMismatch,
    /// Another format version.
    #[error("entry format {0}")]
    Version(u16),
    /// Over the size limits.
    #[error("too large: {0} bytes")]
    TooLarge(u64),
    /// Another user owns the file, or its owner is unknown.
    #[error("{0}")]
    Owner(Distrust),
    /// Others may write the file.
    #[error("{0}")]
    Mode(Distrust),
    /// A symbolic link, pipe, folder or device instead of a file.
    #[error("{0}")]
    Kind(Distrust),
    /// Made by another compiler build.
    #[error("made by `{found}`, this process has `{wanted}`")]
    Provenance {
        /// The build in the entry.
        found: String,
        /// The build of this process.
        wanted: String,
    },
    /// The driver refused this entry earlier in this process.
    #[error("refused by the driver earlier")]
    Rejected,
    /// The file system failed.
    #[error("input/output: {0}")]
    Io(String),
}

impl MissReason {
    /// A short stable name for counters and events.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            MissReason::Absent => "absent",
            MissReason::Off(_) => "off",
            MissReason::Truncated { .. } => "truncated",
            MissReason::Extended { .. } => "extended",
            MissReason::Digest(_) => "digest",
            MissReason::KeyMismatch => "key",
            MissReason::Version(_) => "version",
            MissReason::TooLarge(_) => "too-large",
            MissReason::Owner(_) => "owner",
            MissReason::Mode(_) => "mode",
            MissReason::Kind(_) => "kind",
            MissReason::Provenance { .. } => "provenance",
            MissReason::Rejected => "rejected",
            MissReason::Io(_) => "io",
        }
    }

    /// Whether the file itself is broken, so that keeping it in place helps nobody.
    pub(crate) fn is_damage(&self) -> bool {
        matches!(
            self,
            MissReason::Truncated { .. }
                | MissReason::Extended { .. }
                | MissReason::Digest(_)
                | MissReason::KeyMismatch
                | MissReason::TooLarge(_)
        )
    }
}

impl From<DecodeError> for MissReason {
    fn from(error: DecodeError) -> Self {
        match error {
            DecodeError::Truncated { have, need } => MissReason::Truncated { have, need },
            DecodeError::Extended { have, need } => MissReason::Extended { have, need },
            DecodeError::Version(version) => MissReason::Version(version),
            DecodeError::TooLarge {
                header,
                source_bytes,
                payload,
            } => MissReason::TooLarge(header.saturating_add(source_bytes).saturating_add(payload)),
            DecodeError::Preimage => MissReason::KeyMismatch,
            damage @ (DecodeError::Magic
            | DecodeError::Digest
            | DecodeError::Header(_)
            | DecodeError::Source) => MissReason::Digest(damage),
        }
    }
}

impl From<Distrust> for MissReason {
    fn from(distrust: Distrust) -> Self {
        match distrust {
            Distrust::Owner { .. } | Distrust::UnknownUser => MissReason::Owner(distrust),
            Distrust::Mode { .. } => MissReason::Mode(distrust),
            Distrust::Symlink(_) | Distrust::Kind(_) => MissReason::Kind(distrust),
        }
    }
}

/// Why an artifact was not stored. The run goes on with the artifact it has in memory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PutSkip {
    /// The cache is off.
    #[error("{0}")]
    Off(OffReason),
    /// The cache is read-only, by request (`None`) or after a failed write.
    #[error("the cache is read-only")]
    ReadOnly(Option<OffReason>),
    /// Over the size limits, or a preimage that has no key.
    #[error("{0}")]
    Unfit(DecodeError),
    /// The write failed.
    #[error("input/output: {0}")]
    Io(String),
}

impl PutSkip {
    /// A short stable name for counters and events.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            PutSkip::Off(_) => "off",
            PutSkip::ReadOnly(_) => "read-only",
            PutSkip::Unfit(_) => "unfit",
            PutSkip::Io(_) => "io",
        }
    }
}

/// What one [`crate::Cache`] did since it was opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Lookups that gave an entry.
    pub hits: u64,
    /// Lookups that did not, by [`MissReason::code`].
    pub misses: BTreeMap<&'static str, u64>,
    /// Artifacts stored.
    pub puts: u64,
    /// Artifacts not stored, by [`PutSkip::code`].
    pub put_skips: BTreeMap<&'static str, u64>,
    /// Entries moved to the quarantine.
    pub quarantined: u64,
    /// Entries deleted to keep the limits.
    pub evicted: u64,
    /// Payload bytes of hits.
    pub bytes_read: u64,
    /// Payload bytes stored.
    pub bytes_written: u64,
    /// Compile time that hits saved, microseconds.
    pub micros_saved: u64,
}

impl Stats {
    /// All misses.
    #[must_use]
    pub fn total_misses(&self) -> u64 {
        self.misses.values().sum()
    }
}

/// The live counters behind [`Stats`].
#[derive(Debug, Default)]
pub(crate) struct Counters(Mutex<Stats>);

impl Counters {
    pub(crate) fn change(&self, change: impl FnOnce(&mut Stats)) {
        // Counters stay meaningful after a panic elsewhere, so a poisoned lock is used as it is.
        change(
            &mut self
                .0
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner),
        );
    }

    pub(crate) fn snapshot(&self) -> Stats {
        self.0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clone()
    }
}

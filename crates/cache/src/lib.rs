//! The kernel cache: compiled kernels on disk, found by what they were compiled from.
//!
//! A kernel that was compiled once should not be compiled again by the next process. This crate keeps
//! one file per kernel, named by a [`Key`] that is the BLAKE3 hash of everything that decides the code
//! (source, options, architecture, ABI). The file also says which compiler build made it (its
//! *provenance*), how many registers the kernel needs and what its entry points are called, so a hit
//! needs no compiler at all.
//!
//! # What it promises
//!
//! 1. **It is never load-bearing.** [`Cache::open`], [`Cache::get`] and [`Cache::put`] do not return
//!    errors. Whatever goes wrong is a [`MissReason`] or a [`PutSkip`] and a counter in [`Stats`].
//! 2. **It never lies.** The file name, the key in the header and the key recomputed from the stored
//!    preimage must agree, and one digest covers the whole file: any flipped bit is a miss.
//! 3. **It never reads more than it should.** Sizes are compared with the file's real length and with
//!    fixed limits before anything is allocated ([`MAX_PAYLOAD`], [`MAX_HEADER`]).
//! 4. **It is safe to share.** Entries are written to a temporary name, flushed and renamed; threads and
//!    processes may read, write and evict at once.
//! 5. **Only you can have written it.** A cubin is code. Folders and files that another user owns or may
//!    write are ignored, symbolic links are not followed, and a set-uid process has no cache.
//!    There is no signature: against somebody with the same account it would protect nothing.
//!
//! # On disk
//!
//! ```text
//! <dir>/kernels-v2/ab/ab34…   one entry, 64 hexadecimal digits; 256 shards by the first two
//! <dir>/kernels-v2/tmp/       entries being written, and claims; swept after an hour
//! <dir>/kernels-v2/bad/       the last 16 entries found damaged or refused by the driver
//! <dir>/learned-v1/<digest>.json   what was learned about a model, see [`learned`]
//! <dir>/machine-v1/<digest>.json   what was learned about this machine, in the same way
//! ```
//!
//! A format change gets a new folder name, so versions of the program live side by side.
//!
//! # Map of the crate
//!
//! [`inspect`] finds and shows one entry, [`mod@explain`] says how two differ, and [`archive`] carries entries and what was
//! learned from one machine to another in one file.
//!
//! [`key`] builds keys, [`entry`] is the file format, [`config`] says where and how, `store` is
//! [`Cache`] itself, `file` reads and writes one file, [`claim`] lets one of several processes make what all miss, `upkeep` lists, verifies and evicts,
//! [`learned`] keeps small merged documents, and `os` holds every call that differs between operating systems.

pub mod archive;
pub mod claim;
pub mod config;
pub mod entry;
pub mod explain;
mod file;
pub mod inspect;
pub mod key;
pub mod learned;
mod os;
pub mod stats;
mod store;
mod upkeep;

pub use archive::{ArchiveError, ExportReport, ImportReport, MemberRefusal};
pub use claim::Claim;
pub use config::{CacheConfig, CacheError, LayerRefusal, Mode, OffReason};
pub use entry::{
    DecodeError, Decoded, KernelInfo, MAX_HEADER, MAX_PAYLOAD, MAX_SOURCE, Metadata, decode_entry,
};
pub use explain::{Explanation, explain};
pub use inspect::{Inspection, LayerUse};
pub use key::{Field, Key, KeyBuilder, Part, Preimage};
pub use learned::{Learned, LearnedError, merged_keeping};
pub use os::Distrust;
pub use stats::{MissReason, PutSkip, Stats};
pub use store::{Cache, Entry, Lookup, PutOutcome};
pub use upkeep::{ClearReport, EntryInfo, GcReport, Usage, VerifyReport};

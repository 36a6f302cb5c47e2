//! Mapping a file into memory: the one place of this crate with `unsafe`.
//!
//! A mapped model costs no anonymous memory and no time to read: pages come from the page cache when something
//! touches them. The price is a contract with the outside world that no code can enforce: nobody may change or
//! truncate the file while it is mapped. A truncated mapping raises `SIGBUS` on access. Tools that replace a file by
//! renaming another over it are harmless, as the mapping keeps the old file alive.

#![allow(unsafe_code)]

use bytes::Bytes;
use std::fs::File;
use std::io;

/// Maps the whole file read-only and hands it out as shared bytes; the last clone unmaps it.
///
/// An empty file gives empty bytes. Errors are those of the operating system.
pub(crate) fn map(file: &File) -> io::Result<Bytes> {
    if file.metadata()?.len() == 0 {
        return Ok(Bytes::new());
    }
    // SAFETY: The mapping is private and read-only and is never handed out mutably. That no other process changes
    // the file while it is mapped is the documented contract of opening a model; weights of many gigabytes cannot
    // be copied to escape it. All bytes read from the map are treated as untrusted data, checked before use.
    let map = unsafe { memmap2::MmapOptions::new().map(file)? };
    Ok(Bytes::from_owner(map))
}

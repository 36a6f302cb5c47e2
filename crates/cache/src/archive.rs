//! One file that carries kernels and what was learned from one machine to another.
//!
//! The file is a plain tar archive whose members are named as in a cache's folder, so that any tool lists it:
//!
//! ```text
//! kernels-v2/ab/ab34…        an entry, as it lies in the cache
//! learned-v1/<digest>.json   a learned document, as it lies in the cache
//! ```
//!
//! Members come in the order of their keys and without times or owners: equal contents give equal files.
//!
//! Reading believes nothing. No member is unpacked: its name is only compared with the two forms above and never used as
//! a path, its length is compared with the limits before anything is read, and its contents pass the same checks as a
//! lookup's (digest, key, preimage). What does not pass is refused on its own, with a reason, and the rest goes on. Kernels
//! that are there already stay; documents are joined key by key and lose nothing.
//!
//! An archive has digests and no signature. A kernel is code: import only what you would also run.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::PathBuf;

use tar::{Archive, Builder, EntryType, Header};

use crate::config::CacheError;
use crate::entry::{DecodeError, MAX_FILE, Metadata, decode_entry};
use crate::inspect::read_whole;
use crate::key::Key;
use crate::learned::{self, LearnedError, MAX_DOCUMENT, merged_keeping};
use crate::stats::{MissReason, PutSkip};
use crate::store::{Cache, KERNELS, Layer, PutOutcome};
use crate::upkeep::{Found, scan};

/// Why an archive could not be written or read at all.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The cache cannot be used for this.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The archive cannot be written.
    #[error("the archive cannot be written: {0}")]
    Write(std::io::Error),
}

/// The result of [`Cache::export`].
#[derive(Debug, Default)]
pub struct ExportReport {
    /// Entries written.
    pub entries: u64,
    /// Their sizes, bytes.
    pub bytes: u64,
    /// Learned documents written.
    pub documents: u64,
    /// Entries left out because they are damaged or not believed.
    pub skipped: Vec<(PathBuf, MissReason)>,
}

/// Why a member of an archive was not taken over.
#[derive(Debug, thiserror::Error)]
pub enum MemberRefusal {
    /// The name is not that of an entry or a document.
    #[error("not a name that an export writes")]
    Name,
    /// A link, a folder, a device or an extension.
    #[error("not a plain file")]
    Kind,
    /// Over the size limits.
    #[error("too large: {0} bytes")]
    TooLarge(u64),
    /// The contents are no entry.
    #[error("{0}")]
    Entry(#[from] DecodeError),
    /// The entry belongs to another key than its name says.
    #[error("the entry belongs to another key than its name says")]
    Key,
    /// The contents are no learned document.
    #[error("a damaged document")]
    Document,
    /// The cache did not take the entry.
    #[error("not stored: {0}")]
    NotStored(PutSkip),
    /// The cache did not take the document.
    #[error("not stored: {0}")]
    NotLearned(#[from] LearnedError),
}

impl MemberRefusal {
    /// A short stable name for documents.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            MemberRefusal::Name => "name",
            MemberRefusal::Kind => "kind",
            MemberRefusal::TooLarge(_) => "too-large",
            MemberRefusal::Entry(_) => "entry",
            MemberRefusal::Key => "key",
            MemberRefusal::Document => "document",
            MemberRefusal::NotStored(_) | MemberRefusal::NotLearned(_) => "not-stored",
        }
    }
}

/// The result of [`Cache::import`].
#[derive(Debug, Default)]
pub struct ImportReport {
    /// Entries stored.
    pub entries: u64,
    /// Their sizes, bytes.
    pub bytes: u64,
    /// Entries that were there already.
    pub present: u64,
    /// Learned documents joined with what was known.
    pub documents: u64,
    /// Members that were not taken over: name, made printable, and reason.
    pub refused: Vec<(String, MemberRefusal)>,
    /// Why reading ended before the archive's end, if it did.
    pub broken: Option<String>,
}

impl Cache {
    /// Writes whole entries of the main folder and of the layers, and all learned documents. `arches` are the
    /// architectures wanted, such as `sm_89`; none wants all.
    ///
    /// # Errors
    ///
    /// [`ArchiveError::Cache`] if a folder cannot be listed, [`ArchiveError::Write`].
    pub fn export(&self, out: impl Write, arches: &[String]) -> Result<ExportReport, ArchiveError> {
        let mut report = ExportReport::default();
        let mut builder = Builder::new(out);
        let mut found: BTreeMap<Key, Vec<(&Layer, Found)>> = BTreeMap::new();
        for (_, layer) in self.layers() {
            for file in scan(layer)? {
                found.entry(file.key).or_default().push((layer, file));
            }
        }
        for (key, files) in found {
            for (layer, file) in files {
                let bytes = match read_whole(&file.path, layer, &key) {
                    Ok(bytes) => bytes,
                    Err(MissReason::Absent) => continue,
                    Err(reason) => {
                        report.skipped.push((file.path, reason));
                        continue;
                    }
                };
                if wanted(&bytes, arches) {
                    let name = format!("{KERNELS}/{}/{}", key.shard(), key.hex());
                    append(&mut builder, &name, &bytes)?;
                    report.entries += 1;
                    report.bytes += bytes.len() as u64;
                }
                // one good file of a key is enough
                break;
            }
        }
        for model in self.learned().list() {
            if let Some(document) = self.learned().read(&model) {
                let name = format!("{}/{}", learned::FOLDER, learned::file_name(&model));
                append(&mut builder, &name, learned::text_of(&document).as_bytes())?;
                report.documents += 1;
            }
        }
        let mut out = builder.into_inner().map_err(ArchiveError::Write)?;
        out.flush().map_err(ArchiveError::Write)?;
        Ok(report)
    }

    /// Takes over what an archive holds.
    ///
    /// # Errors
    ///
    /// [`ArchiveError::Cache`] if the cache may not be changed. Whatever is wrong with the archive is in the report.
    pub fn import(&self, from: impl Read) -> Result<ImportReport, ArchiveError> {
        self.writable()?;
        let mut report = ImportReport::default();
        let mut archive = Archive::new(from);
        // `raw`: long names and other extensions are members like any other, so that none is read into memory unseen
        let members = match archive.entries() {
            Ok(members) => members.raw(true),
            Err(error) => {
                report.broken = Some(error.to_string());
                return Ok(report);
            }
        };
        for member in members {
            let mut member = match member {
                Ok(member) => member,
                Err(error) => {
                    report.broken = Some(error.to_string());
                    break;
                }
            };
            let name = String::from_utf8_lossy(&member.path_bytes()).into_owned();
            let plain = member.header().entry_type() == EntryType::Regular;
            let size = member.size();
            if let Err(refusal) = self.take(&name, plain, size, &mut member, &mut report) {
                let shown = name.escape_debug().take(120).collect();
                report.refused.push((shown, refusal));
            }
        }
        Ok(report)
    }

    fn take(
        &self,
        name: &str,
        plain: bool,
        size: u64,
        contents: &mut impl Read,
        report: &mut ImportReport,
    ) -> Result<(), MemberRefusal> {
        if !plain {
            return Err(MemberRefusal::Kind);
        }
        match meaning(name) {
            Some(Member::Entry(key)) => {
                let bytes = read(contents, size, MAX_FILE).ok_or(MemberRefusal::TooLarge(size))?;
                let decoded = decode_entry(&bytes)?;
                if decoded.key != key {
                    return Err(MemberRefusal::Key);
                }
                if self
                    .main
                    .as_ref()
                    .is_some_and(|main| read_whole(&main.path_of(&key), main, &key).is_ok())
                {
                    report.present += 1;
                    return Ok(());
                }
                let metadata = Metadata {
                    source: decoded.source.unwrap_or_default().to_owned(),
                    ..decoded.metadata
                };
                match self.put(&decoded.preimage, &metadata, decoded.payload) {
                    PutOutcome::Stored(_) => {
                        report.entries += 1;
                        report.bytes += bytes.len() as u64;
                        Ok(())
                    }
                    PutOutcome::Skipped(skip) => Err(MemberRefusal::NotStored(skip)),
                }
            }
            Some(Member::Document(model)) => {
                let bytes = read(contents, size, MAX_DOCUMENT + 128)
                    .ok_or(MemberRefusal::TooLarge(size))?;
                let document = std::str::from_utf8(&bytes)
                    .ok()
                    .and_then(learned::parse)
                    .ok_or(MemberRefusal::Document)?;
                self.learned().update(&model, |present| match present {
                    Some(present) => merged_keeping(present, document),
                    None => document,
                })?;
                report.documents += 1;
                Ok(())
            }
            None => Err(MemberRefusal::Name),
        }
    }
}

/// What a member's name means.
enum Member {
    Entry(Key),
    Document([u8; 32]),
}

fn meaning(name: &str) -> Option<Member> {
    let (folder, rest) = name.split_once('/')?;
    if folder == learned::FOLDER {
        return learned::model_of(rest).map(Member::Document);
    }
    let (shard, key) = rest.split_once('/')?;
    let key: Key = key.parse().ok()?;
    (folder == KERNELS && shard == key.shard()).then_some(Member::Entry(key))
}

/// The contents of a member, if they are within the limit. A shorter archive gives fewer bytes, which the digest tells.
fn read(contents: &mut impl Read, size: u64, limit: u64) -> Option<Vec<u8>> {
    if size > limit {
        return None;
    }
    let mut bytes = Vec::new();
    // what cannot be read is missing, and the digest tells
    let _ = contents.take(size).read_to_end(&mut bytes);
    Some(bytes)
}

fn wanted(bytes: &[u8], arches: &[String]) -> bool {
    arches.is_empty()
        || decode_entry(bytes).is_ok_and(|entry| {
            let arch = entry.preimage.field("arch").and_then(|f| f.text.as_ref());
            arch.is_some_and(|arch| arches.contains(arch))
        })
}

fn append(builder: &mut Builder<impl Write>, name: &str, bytes: &[u8]) -> Result<(), ArchiveError> {
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::Regular);
    header.set_size(bytes.len() as u64);
    header.set_mode(0o600);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    builder
        .append_data(&mut header, name, bytes)
        .map_err(ArchiveError::Write)
}

#[cfg(test)]
#[path = "archive_tests.rs"]
mod tests;

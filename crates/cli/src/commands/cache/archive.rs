//! `bespoke cache export` and `import`: a cache's contents in one file.
//!
//! The file appears under its name only when it is whole. What is refused on import is named, counted and gives the exit
//! code of a comparison that failed; the rest is in the cache all the same.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::path::{Path, PathBuf};

use bespoke::cache::{ArchiveError, Cache, ExportReport};
use bespoke::device::Arch;
use clap::Args;
use serde::Serialize;

use crate::console::{Console, bytes, status};
use crate::exit::Kind;
use crate::failure::Failure;

/// Arguments of `export`.
#[derive(Clone, Debug, Args)]
pub(super) struct ExportArguments {
    /// The file to write
    file: PathBuf,
    /// Only kernels for this architecture; may be given several times
    #[arg(long, value_name = "sm_XX")]
    arch: Vec<Arch>,
}

/// Arguments of `import`.
#[derive(Clone, Debug, Args)]
pub(super) struct ImportArguments {
    /// A file that `export` wrote
    file: PathBuf,
}

impl From<ArchiveError> for Failure {
    fn from(error: ArchiveError) -> Failure {
        match error {
            ArchiveError::Cache(error) => error.into(),
            ArchiveError::Write(_) => Failure::usage(
                error.to_string(),
                "check the path, its permissions and the room on the disk",
            ),
        }
    }
}

#[derive(Serialize)]
struct Left {
    member: String,
    code: &'static str,
    reason: String,
}

#[derive(Serialize)]
struct ExportDocument<'a> {
    schema_version: u32,
    file: &'a Path,
    entries: u64,
    bytes: u64,
    documents: u64,
    skipped: Vec<Left>,
}

/// Writes the archive beside its name and gives it the name when it is whole.
fn write(file: &Path, arches: &[String], cache: Option<&Cache>) -> Result<ExportReport, Failure> {
    let folder = match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let io = |error: std::io::Error| Failure::file(file, "write", &error);
    let name = file
        .file_name()
        .ok_or_else(|| Failure::usage("the archive has no file name", "name a file"))?;
    let draft = folder.join(format!(
        ".{}.{}.part",
        name.to_string_lossy(),
        std::process::id()
    ));
    let written = (|| {
        let out = File::create_new(&draft).map_err(io)?;
        let report = match cache {
            Some(cache) => cache.export(BufWriter::new(&out), arches)?,
            None => ExportReport::default(),
        };
        out.sync_all().map_err(io)?;
        std::fs::rename(&draft, file).map_err(io)?;
        Ok(report)
    })();
    if written.is_err() {
        // the draft is of no use, and its name says what it is if it stays
        let _ = std::fs::remove_file(&draft);
    }
    written
}

/// Runs `export`.
pub(super) fn export(
    arguments: &ExportArguments,
    cache: Option<&Cache>,
    console: &mut Console,
) -> Result<u8, Failure> {
    let arches: Vec<String> = arguments.arch.iter().map(ToString::to_string).collect();
    let report = write(&arguments.file, &arches, cache)?;
    for (path, reason) in &report.skipped {
        console.warn(format_args!("{} is left out: {reason}", path.display()));
    }
    console.line(format_args!(
        "{}: {} kernels, {}, and {} documents of what was learned",
        arguments.file.display(),
        report.entries,
        bytes(report.bytes),
        report.documents
    ))?;
    if console.json {
        let skipped = report.skipped.iter().map(|(path, reason)| Left {
            member: path.display().to_string(),
            code: reason.code(),
            reason: reason.to_string(),
        });
        console.document(&ExportDocument {
            schema_version: 1,
            file: &arguments.file,
            entries: report.entries,
            bytes: report.bytes,
            documents: report.documents,
            skipped: skipped.collect(),
        })?;
    }
    Ok(0)
}

#[derive(Serialize)]
struct ImportDocument<'a> {
    schema_version: u32,
    file: &'a Path,
    entries: u64,
    bytes: u64,
    present: u64,
    documents: u64,
    refused_by_reason: BTreeMap<&'static str, u64>,
    refused: Vec<Left>,
    broken: &'a Option<String>,
}

/// Runs `import`.
pub(super) fn import(
    arguments: &ImportArguments,
    cache: Option<&Cache>,
    console: &mut Console,
) -> Result<u8, Failure> {
    let file = &arguments.file;
    let open = File::open(file).map_err(|error| Failure::file(file, "read", &error))?;
    let report = match cache {
        Some(cache) => cache.import(BufReader::new(open))?,
        None => Default::default(),
    };
    for (name, refusal) in &report.refused {
        console.line(format_args!("{} {name}: {refusal}", status("refused")))?;
    }
    if let Some(error) = &report.broken {
        console.line(format_args!(
            "{} {} ends before its end: {error}",
            status("broken"),
            file.display()
        ))?;
    }
    console.line(format_args!(
        "{} kernels stored, {}; {} were there already; {} documents joined; {} members refused",
        report.entries,
        bytes(report.bytes),
        report.present,
        report.documents,
        report.refused.len()
    ))?;
    if console.json {
        let mut refused_by_reason = BTreeMap::new();
        for (_, refusal) in &report.refused {
            *refused_by_reason.entry(refusal.code()).or_default() += 1;
        }
        let refused = report.refused.iter().map(|(name, refusal)| Left {
            member: name.clone(),
            code: refusal.code(),
            reason: refusal.to_string(),
        });
        console.document(&ImportDocument {
            schema_version: 1,
            file,
            entries: report.entries,
            bytes: report.bytes,
            present: report.present,
            documents: report.documents,
            refused_by_reason,
            refused: refused.collect(),
            broken: &report.broken,
        })?;
    }
    let whole = report.refused.is_empty() && report.broken.is_none();
    Ok(if whole { 0 } else { Kind::Mismatch.code() })
}

//! `bespoke cache`: what is in the kernel cache, whether it is whole, and room in it.
//!
//! Runs never need this command: they skip what is damaged and evict what is too much by themselves.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::SystemTime;

use bespoke::cache::{Cache, EntryInfo, Mode};
use clap::{Args, Subcommand};
use serde::Serialize;

use crate::console::{Console, age, bytes, micros, status};
use crate::exit::Kind;
use crate::failure::Failure;
use crate::options::CacheOptions;

/// Look after the kernel cache
///
/// Every kernel that was compiled is kept in one file, named by the hash of all that decides its code. Nothing depends on
/// these files: without them kernels are compiled again.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    cache: CacheFlags,
}

/// The flags, accepted before and after the action.
#[derive(Debug, Args)]
struct CacheFlags {
    /// Folder of the kernel cache [default: $BESPOKE_CACHE_DIR, $XDG_CACHE_HOME/bespoke or ~/.cache/bespoke]
    #[arg(long, alias = "cacheDir", value_name = "DIR", global = true)]
    cache_dir: Option<PathBuf>,
    /// Limit on the size of the kernel cache, such as 512M or 2G [default: 10G]
    #[arg(
        long,
        value_name = "SIZE",
        global = true,
        env = "BESPOKE_CACHE_MAX_SIZE",
        hide_env_values = true
    )]
    cache_max_size: Option<crate::options::Size>,
}

#[derive(Clone, Copy, Debug, Subcommand)]
enum Action {
    /// Number and size of the entries, by architecture
    Stats,
    /// One line an entry, most recently used first
    Ls,
    /// Read every entry and check its digest; damaged ones are set aside
    Verify,
    /// Bring the cache under its limits, and remove what dead processes left
    Gc,
    /// Remove everything
    Clear,
    /// Print the folder
    Path,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, console: &mut Console) -> Result<u8, Failure> {
    let flags = CacheOptions {
        cache: crate::options::CacheMode::Rw,
        cache_dir: arguments.cache.cache_dir.clone(),
        cache_max_size: arguments.cache.cache_max_size,
    };
    let mut config = flags.config();
    if !matches!(
        arguments.action,
        Action::Verify | Action::Gc | Action::Clear
    ) {
        // Looking changes nothing, not even by making the folder.
        config.mode = Mode::Ro;
    }
    let folder = config.resolve_dir(|name| std::env::var_os(name))?;
    if let Action::Path = arguments.action {
        return path(folder, console);
    }
    let limits = (config.max_bytes, config.max_entries);
    let absent = !folder.exists();
    if absent && config.mode == Mode::Rw {
        // An action on a cache that does not exist has nothing to do and makes none.
        console.note(format_args!(
            "{} does not exist: there is nothing to do",
            folder.display()
        ));
    }
    let cache = match absent {
        true => None,
        false => Some(Cache::open(config)),
    };
    match arguments.action {
        Action::Stats => stats(&folder, cache.as_ref(), limits, console),
        Action::Ls => list(cache.as_ref(), console),
        Action::Verify => verify(cache.as_ref(), console),
        Action::Gc => collect(cache.as_ref(), console),
        Action::Clear => clear(cache.as_ref(), console),
        Action::Path => Ok(0),
    }
}

#[derive(Serialize)]
struct PathDocument {
    schema_version: u32,
    folder: PathBuf,
}

fn path(folder: PathBuf, console: &mut Console) -> Result<u8, Failure> {
    console.line(folder.display())?;
    if console.json {
        console.document(&PathDocument {
            schema_version: 1,
            folder,
        })?;
    }
    Ok(0)
}

/// Entries of one architecture.
#[derive(Default, Serialize)]
struct Share {
    entries: u64,
    bytes: u64,
    compile_us: u64,
}

#[derive(Serialize)]
struct StatsDocument {
    schema_version: u32,
    folder: PathBuf,
    mode: &'static str,
    reason: Option<String>,
    entries: u64,
    bytes: u64,
    max_entries: u64,
    max_bytes: u64,
    compile_us: u64,
    unreadable: u64,
    by_arch: BTreeMap<String, Share>,
}

/// The architecture that an entry was compiled for.
fn arch(entry: &EntryInfo) -> Option<&str> {
    let fields = &entry.preimage.as_ref()?.fields;
    fields
        .iter()
        .find(|field| field.name == "arch")?
        .text
        .as_deref()
}

fn entries(cache: Option<&Cache>) -> Result<Vec<EntryInfo>, Failure> {
    Ok(cache.map(Cache::list).transpose()?.unwrap_or_default())
}

fn stats(
    folder: &std::path::Path,
    cache: Option<&Cache>,
    (max_bytes, max_entries): (u64, u64),
    console: &mut Console,
) -> Result<u8, Failure> {
    let all = entries(cache)?;
    let mut by_arch: BTreeMap<String, Share> = BTreeMap::new();
    for entry in &all {
        let share = by_arch
            .entry(arch(entry).unwrap_or("unreadable").to_owned())
            .or_default();
        share.entries += 1;
        share.bytes += entry.bytes;
        share.compile_us += entry.metadata.as_ref().map_or(0, |m| m.compile_micros);
    }
    let document = StatsDocument {
        schema_version: 1,
        folder: folder.to_owned(),
        mode: cache.map_or("absent", |c| c.mode().name()),
        reason: cache.and_then(Cache::reason).map(|r| r.to_string()),
        entries: all.len() as u64,
        bytes: all.iter().map(|e| e.bytes).sum(),
        max_entries,
        max_bytes,
        compile_us: by_arch.values().map(|s| s.compile_us).sum(),
        unreadable: all.iter().filter(|e| e.metadata.is_none()).count() as u64,
        by_arch,
    };
    console.line(format_args!("folder        {}", folder.display()))?;
    console.line(format_args!(
        "entries       {} of at most {max_entries}",
        document.entries
    ))?;
    console.line(format_args!(
        "size          {} of at most {}",
        bytes(document.bytes),
        bytes(max_bytes)
    ))?;
    console.line(format_args!(
        "compile time  {} that a full cache saves",
        micros(document.compile_us)
    ))?;
    for (arch, share) in &document.by_arch {
        console.line(format_args!(
            "{arch:<13} {} entries, {}",
            share.entries,
            bytes(share.bytes)
        ))?;
    }
    if console.json {
        console.document(&document)?;
    }
    Ok(0)
}

#[derive(Serialize)]
struct EntryDocument {
    key: String,
    bytes: u64,
    used_unix: u64,
    arch: Option<String>,
    spec: Option<String>,
    compile_us: Option<u64>,
    provenance: Option<String>,
    registers: Option<u32>,
    spill_bytes: Option<u32>,
}

#[derive(Serialize)]
struct ListDocument {
    schema_version: u32,
    entries: Vec<EntryDocument>,
}

fn list(cache: Option<&Cache>, console: &mut Console) -> Result<u8, Failure> {
    let all = entries(cache)?;
    let now = SystemTime::now();
    for entry in &all {
        let used = now.duration_since(entry.used).unwrap_or_default();
        let about = match (&entry.preimage, &entry.metadata) {
            (Some(preimage), Some(metadata)) => {
                let spec = if preimage.spec.is_empty() {
                    "(no description)"
                } else {
                    &preimage.spec
                };
                format!(
                    "{:<8} {:>9}  {spec}",
                    arch(entry).unwrap_or("?"),
                    micros(metadata.compile_micros)
                )
            }
            _ => "unreadable; `bespoke cache verify` sets it aside".to_owned(),
        };
        let key: String = entry.key.to_string().chars().take(12).collect();
        console.line(format_args!(
            "{key}  {:>6} ago  {:>10}  {about}",
            age(used),
            bytes(entry.bytes)
        ))?;
    }
    if console.json {
        let entries = all
            .iter()
            .map(|entry| EntryDocument {
                key: entry.key.to_string(),
                bytes: entry.bytes,
                used_unix: entry
                    .used
                    .duration_since(SystemTime::UNIX_EPOCH)
                    .map_or(0, |d| d.as_secs()),
                arch: arch(entry).map(str::to_owned),
                spec: entry.preimage.as_ref().map(|p| p.spec.clone()),
                compile_us: entry.metadata.as_ref().map(|m| m.compile_micros),
                provenance: entry.metadata.as_ref().map(|m| m.provenance.clone()),
                registers: entry.kernels().iter().map(|k| k.registers).max(),
                spill_bytes: entry.metadata.as_ref().map(|_| {
                    entry
                        .kernels()
                        .iter()
                        .map(|k| k.spill_store_bytes + k.spill_load_bytes)
                        .sum()
                }),
            })
            .collect();
        console.document(&ListDocument {
            schema_version: 1,
            entries,
        })?;
    }
    Ok(0)
}

#[derive(Serialize)]
struct Bad {
    path: PathBuf,
    code: &'static str,
    reason: String,
}

#[derive(Serialize)]
struct VerifyDocument {
    schema_version: u32,
    ok: u64,
    bad: Vec<Bad>,
}

/// Damage is a result of this command, so it has the exit code of a comparison that failed.
fn verify(cache: Option<&Cache>, console: &mut Console) -> Result<u8, Failure> {
    let report = cache.map(Cache::verify).transpose()?.unwrap_or_default();
    for (path, reason) in &report.bad {
        console.line(format_args!(
            "{} {}: {reason}",
            status("bad"),
            path.display()
        ))?;
    }
    console.line(format_args!(
        "{} entries are whole, {} are not",
        report.ok,
        report.bad.len()
    ))?;
    let bad = !report.bad.is_empty();
    if bad && cache.is_some_and(|c| c.mode() == Mode::Rw) {
        console.note(
            "damaged entries were set aside; their kernels are compiled again when they are needed",
        );
    }
    if console.json {
        let bad = report
            .bad
            .into_iter()
            .map(|(path, reason)| Bad {
                path,
                code: reason.code(),
                reason: reason.to_string(),
            })
            .collect();
        console.document(&VerifyDocument {
            schema_version: 1,
            ok: report.ok,
            bad,
        })?;
    }
    Ok(if bad { Kind::Mismatch.code() } else { 0 })
}

#[derive(Serialize)]
struct GcDocument {
    schema_version: u32,
    entries_before: u64,
    bytes_before: u64,
    entries_after: u64,
    bytes_after: u64,
    stale_files: u64,
}

fn collect(cache: Option<&Cache>, console: &mut Console) -> Result<u8, Failure> {
    let report = cache.map(Cache::gc).transpose()?.unwrap_or_default();
    let (before, after) = (report.before, report.after);
    console.line(format_args!(
        "removed {} entries and {} left-over files; {} entries, {} stay",
        before.entries - after.entries.min(before.entries),
        report.stale,
        after.entries,
        bytes(after.bytes)
    ))?;
    if console.json {
        console.document(&GcDocument {
            schema_version: 1,
            entries_before: before.entries,
            bytes_before: before.bytes,
            entries_after: after.entries,
            bytes_after: after.bytes,
            stale_files: report.stale,
        })?;
    }
    Ok(0)
}

#[derive(Serialize)]
struct ClearDocument {
    schema_version: u32,
    files: u64,
    bytes: u64,
}

fn clear(cache: Option<&Cache>, console: &mut Console) -> Result<u8, Failure> {
    let report = cache.map(Cache::clear).transpose()?.unwrap_or_default();
    console.line(format_args!(
        "removed {} files, {}",
        report.files,
        bytes(report.bytes)
    ))?;
    if console.json {
        console.document(&ClearDocument {
            schema_version: 1,
            files: report.files,
            bytes: report.bytes,
        })?;
    }
    Ok(0)
}

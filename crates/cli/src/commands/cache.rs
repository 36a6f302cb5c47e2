//! `bespoke cache`: what is in the kernel cache, whether it is whole, and room in it.
//!
//! Runs never need this command: they skip what is damaged and evict what is too much by themselves. Looking changes
//! nothing, not even by making the folder. `entry` shows one entry and compares two, `learned` what
//! sessions wrote down, `archive` carries them elsewhere.

mod archive;
mod entry;
mod learned;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bespoke::cache::{Cache, CacheConfig, EntryInfo, Mode};
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
    /// Folder to read besides the cache, never written; may be given several times [default: $BESPOKE_CACHE_LAYERS, separated as in $PATH]
    #[arg(long, value_name = "DIR", global = true)]
    cache_layer: Vec<PathBuf>,
}

#[derive(Clone, Debug, Subcommand)]
enum Action {
    /// Number and size of the entries, by architecture
    Stats,
    /// One line an entry, most recently used first
    Ls,
    /// Everything in one entry
    Inspect(entry::InspectArguments),
    /// Shapes and timed tiles that sessions wrote down for the next one
    Learned,
    /// Why two entries are different kernels
    Explain(entry::ExplainArguments),
    /// Read every entry and check its digest; damaged ones are set aside
    Verify,
    /// Bring the cache under its limits, and remove what dead processes left
    Gc,
    /// Remove everything
    Clear,
    /// Write entries and what was learned into one file
    Export(archive::ExportArguments),
    /// Take over entries and what was learned from such a file
    Import(archive::ImportArguments),
    /// Print the folder, and then its read-only layers
    Path,
}

impl Action {
    /// What it may do to the folder.
    fn mode(&self) -> Mode {
        match self {
            Action::Verify | Action::Gc | Action::Clear | Action::Import(_) => Mode::Rw,
            _ => Mode::Ro,
        }
    }
}

/// The cache that the flags name.
struct Place {
    folder: PathBuf,
    config: CacheConfig,
    /// Whether the folder is not there.
    absent: bool,
    /// With its layers; `None` if neither the folder nor a layer is there.
    cache: Option<Cache>,
}

impl Place {
    /// The cache, if its own folder is there.
    fn own(&self) -> Option<&Cache> {
        self.cache.as_ref().filter(|_| !self.absent)
    }
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, console: &mut Console) -> Result<u8, Failure> {
    let flags = CacheOptions {
        cache: crate::options::CacheMode::Rw,
        cache_dir: arguments.cache.cache_dir.clone(),
        cache_max_size: arguments.cache.cache_max_size,
        cache_layer: arguments.cache.cache_layer.clone(),
    };
    let action = &arguments.action;
    let mut config = flags.config();
    let folder = config.resolve_dir(|name| std::env::var_os(name))?;
    let absent = !folder.exists();
    let makes = matches!(action, Action::Import(_));
    // An action on a cache that does not exist has nothing to do and makes none.
    config.mode = match absent && !makes {
        true => Mode::Ro,
        false => action.mode(),
    };
    if absent && !makes && action.mode() == Mode::Rw {
        console.note(format_args!(
            "{} does not exist: there is nothing to do",
            folder.display()
        ));
    }
    let layered = !config
        .resolve_layers(|name| std::env::var_os(name))
        .is_empty();
    // An export of nothing is an archive without members.
    let needed = makes || layered || matches!(action, Action::Export(_));
    let cache = (!absent || needed).then(|| Cache::open(config.clone()));
    for refusal in cache.iter().flat_map(Cache::refused_layers) {
        console.warn(refusal);
    }
    let place = Place {
        folder,
        config,
        absent: absent && !makes,
        cache,
    };
    match action {
        Action::Stats => stats(&place, console),
        Action::Ls => list(place.own(), console),
        Action::Inspect(arguments) => entry::inspect(arguments, place.cache.as_ref(), console),
        Action::Learned => learned::learned(place.cache.as_ref(), console),
        Action::Explain(arguments) => entry::explain(arguments, place.cache.as_ref(), console),
        Action::Verify => verify(&place, console),
        Action::Gc => collect(place.own(), console),
        Action::Clear => clear(place.own(), console),
        Action::Export(arguments) => archive::export(arguments, place.cache.as_ref(), console),
        Action::Import(arguments) => archive::import(arguments, place.cache.as_ref(), console),
        Action::Path => path(&place, console),
    }
}

/// A read-only layer that was named.
#[derive(Serialize)]
struct LayerDocument {
    folder: PathBuf,
    used: bool,
    reason: Option<String>,
    entries: Option<u64>,
    bytes: Option<u64>,
}

/// The layers that are used, then those that are not.
fn layers(cache: Option<&Cache>) -> Vec<LayerDocument> {
    let used = cache.map(Cache::layer_uses).unwrap_or_default();
    let refused = cache.map(Cache::refused_layers).unwrap_or_default();
    let used = used.into_iter().map(|layer| LayerDocument {
        folder: layer.folder,
        used: true,
        reason: layer.usage.as_ref().err().map(ToString::to_string),
        entries: layer.usage.as_ref().ok().map(|usage| usage.entries),
        bytes: layer.usage.as_ref().ok().map(|usage| usage.bytes),
    });
    let refused = refused.iter().map(|refusal| LayerDocument {
        folder: refusal.path().to_owned(),
        used: false,
        reason: Some(refusal.to_string()),
        entries: None,
        bytes: None,
    });
    used.chain(refused).collect()
}

#[derive(Serialize)]
struct PathDocument<'a> {
    schema_version: u32,
    folder: &'a Path,
    layers: Vec<LayerDocument>,
}

/// Scripts read the first line; a layer that is not used has been warned about and is no place of kernels.
fn path(place: &Place, console: &mut Console) -> Result<u8, Failure> {
    let layers = layers(place.cache.as_ref());
    console.line(place.folder.display())?;
    for layer in layers.iter().filter(|layer| layer.used) {
        console.line(layer.folder.display())?;
    }
    if console.json {
        console.document(&PathDocument {
            schema_version: 1,
            folder: &place.folder,
            layers,
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
    layers: Vec<LayerDocument>,
}

/// The architecture that an entry was compiled for.
fn arch(entry: &EntryInfo) -> Option<&str> {
    let field = entry.preimage.as_ref()?.field("arch")?;
    field.text.as_deref()
}

fn entries(cache: Option<&Cache>) -> Result<Vec<EntryInfo>, Failure> {
    Ok(cache.map(Cache::list).transpose()?.unwrap_or_default())
}

fn stats(place: &Place, console: &mut Console) -> Result<u8, Failure> {
    let cache = place.own();
    let (max_bytes, max_entries) = (place.config.max_bytes, place.config.max_entries);
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
        folder: place.folder.clone(),
        mode: cache.map_or("absent", |c| c.mode().name()),
        reason: cache.and_then(Cache::reason).map(|r| r.to_string()),
        entries: all.len() as u64,
        bytes: all.iter().map(|e| e.bytes).sum(),
        max_entries,
        max_bytes,
        compile_us: by_arch.values().map(|s| s.compile_us).sum(),
        unreadable: all.iter().filter(|e| e.metadata.is_none()).count() as u64,
        by_arch,
        layers: layers(place.cache.as_ref()),
    };
    let folder = place.folder.display();
    console.line(format_args!("folder        {folder}"))?;
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
    for layer in &document.layers {
        let folder = layer.folder.display();
        match (layer.entries, layer.bytes) {
            (Some(entries), Some(size)) => console.line(format_args!(
                "layer         {folder}: {entries} entries, {}",
                bytes(size)
            ))?,
            _ => console.line(format_args!("layer         {folder}: not used"))?,
        }
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
fn verify(place: &Place, console: &mut Console) -> Result<u8, Failure> {
    let cache = place.cache.as_ref();
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

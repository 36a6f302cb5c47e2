//! `bespoke cache inspect` and `explain`: one entry from inside, and two side by side.
//!
//! An entry holds what its key was computed from, so it can say by itself which kernel it is and why it is not another.

use std::path::PathBuf;
use std::time::SystemTime;

use bespoke::cache::{Cache, CacheError, Inspection, KernelInfo};
use clap::Args;
use serde::Serialize;

use crate::console::{Console, age, bytes, micros};
use crate::failure::Failure;

/// Arguments of `inspect`.
#[derive(Clone, Debug, Args)]
pub(super) struct InspectArguments {
    /// Key of the entry, or its first digits as `ls` prints them
    key: String,
    /// Print the CUDA source too
    #[arg(long)]
    source: bool,
}

/// Arguments of `explain`.
#[derive(Clone, Debug, Args)]
pub(super) struct ExplainArguments {
    /// Key of one entry, or its first digits
    a: String,
    /// Key of another entry, or its first digits
    b: String,
}

/// The entry that the first digits name.
fn find(cache: Option<&Cache>, prefix: &str) -> Result<Inspection, Failure> {
    let Some(cache) = cache else {
        return Err(CacheError::NoEntry(prefix.to_owned()).into());
    };
    Ok(cache.inspect(&cache.find_key(prefix)?)?)
}

/// The parts of the specification by name and text; entries without parts have the text as a whole.
fn specification(entry: &Inspection) -> Vec<(&str, &str)> {
    let parts = &entry.preimage.parts;
    match parts.as_slice() {
        [] => vec![("spec", entry.preimage.spec.as_str())],
        parts => parts
            .iter()
            .map(|part| (part.name.as_str(), part.text.as_str()))
            .collect(),
    }
}

#[derive(Serialize)]
struct FieldDocument<'a> {
    name: &'a str,
    bytes: u64,
    blake3: &'a str,
    text: Option<&'a str>,
}

#[derive(Serialize)]
struct InspectDocument<'a> {
    schema_version: u32,
    key: String,
    path: &'a PathBuf,
    in_layer: bool,
    bytes: u64,
    cubin_bytes: u64,
    used_unix: u64,
    spec: &'a str,
    parts: std::collections::BTreeMap<&'a str, &'a str>,
    fields: Vec<FieldDocument<'a>>,
    kernels: &'a [KernelInfo],
    compile_us: u64,
    provenance: &'a str,
    source_bytes: usize,
    source: Option<&'a str>,
}

/// Runs `inspect`.
pub(super) fn inspect(
    arguments: &InspectArguments,
    cache: Option<&Cache>,
    console: &mut Console,
) -> Result<u8, Failure> {
    let entry = find(cache, &arguments.key)?;
    let metadata = &entry.metadata;
    let ago = SystemTime::now().duration_since(entry.used);
    let field = |name: &str| entry.preimage.field(name);
    let text = |name: &str| field(name).and_then(|f| f.text.as_deref()).unwrap_or("?");
    let mut rows: Vec<(&str, String)> = vec![("key", entry.key.to_string())];
    for (name, words) in specification(&entry) {
        let words = if words.is_empty() { "none" } else { words };
        rows.push((name, words.to_owned()));
    }
    rows.push(("architecture", text("arch").to_owned()));
    rows.push(("options", text("options").to_owned()));
    rows.push(("abi", text("abi").to_owned()));
    if let Some(source) = field("source") {
        let kept = if metadata.source.is_empty() {
            "not kept"
        } else {
            "kept; --source prints it"
        };
        let digest = source.blake3.get(..12).unwrap_or_default();
        rows.push((
            "source",
            format!("{}, BLAKE3 {digest}…, {kept}", bytes(source.len)),
        ));
    }
    for kernel in &metadata.kernels {
        rows.push(("function", kernel.name.clone()));
        rows.push((
            "resources",
            format!(
                "{} registers, {} shared, {} stack, {} barriers",
                kernel.registers,
                bytes(kernel.shared_bytes.into()),
                bytes(kernel.stack_bytes.into()),
                kernel.barriers
            ),
        ));
        rows.push((
            "spills",
            match (kernel.spill_store_bytes, kernel.spill_load_bytes) {
                (0, 0) => "none".into(),
                (stored, loaded) => {
                    format!("{stored} bytes stored, {loaded} bytes loaded by a thread")
                }
            },
        ));
    }
    rows.push((
        "compiled",
        format!(
            "in {} by {}",
            micros(metadata.compile_micros),
            metadata.provenance
        ),
    ));
    rows.push((
        "size",
        format!(
            "{}, of which {} are the cubin",
            bytes(entry.bytes),
            bytes(entry.payload_bytes)
        ),
    ));
    rows.push(("used", format!("{} ago", age(ago.unwrap_or_default()))));
    let place = if entry.in_layer {
        " (read-only layer)"
    } else {
        ""
    };
    rows.push(("file", format!("{}{place}", entry.path.display())));
    for (name, value) in rows {
        console.line(format_args!("{name:<13} {value}"))?;
    }
    if arguments.source && !metadata.source.is_empty() {
        console.line("")?;
        console.line(metadata.source.trim_end())?;
    }
    if console.json {
        let fields = entry.preimage.fields.iter().map(|field| FieldDocument {
            name: &field.name,
            bytes: field.len,
            blake3: &field.blake3,
            text: field.text.as_deref(),
        });
        let used = entry.used.duration_since(SystemTime::UNIX_EPOCH);
        console.document(&InspectDocument {
            schema_version: 1,
            key: entry.key.to_string(),
            path: &entry.path,
            in_layer: entry.in_layer,
            bytes: entry.bytes,
            cubin_bytes: entry.payload_bytes,
            used_unix: used.map_or(0, |d| d.as_secs()),
            spec: &entry.preimage.spec,
            parts: specification(&entry).into_iter().collect(),
            fields: fields.collect(),
            kernels: &metadata.kernels,
            compile_us: metadata.compile_micros,
            provenance: &metadata.provenance,
            source_bytes: metadata.source.len(),
            source: arguments.source.then_some(metadata.source.as_str()),
        })?;
    }
    Ok(0)
}

#[derive(Serialize)]
struct ExplainDocument<'a> {
    schema_version: u32,
    a: String,
    b: String,
    same: bool,
    only_source: bool,
    #[serde(flatten)]
    explanation: &'a bespoke::cache::Explanation,
}

/// Runs `explain`.
pub(super) fn explain(
    arguments: &ExplainArguments,
    cache: Option<&Cache>,
    console: &mut Console,
) -> Result<u8, Failure> {
    let (a, b) = (find(cache, &arguments.a)?, find(cache, &arguments.b)?);
    let found = bespoke::cache::explain((&a.preimage, &a.metadata), (&b.preimage, &b.metadata));
    for (letter, entry) in [("a", &a), ("b", &b)] {
        console.line(format_args!(
            "{letter}  {}  {}",
            entry.key.short(),
            entry.preimage.spec
        ))?;
    }
    if found.is_same() {
        console.line("both have one key: they are one kernel")?;
    }
    for part in &found.parts {
        console.line(format_args!("{} differs:", part.name))?;
        if !part.only_a.is_empty() {
            console.line(format_args!("  only a: {}", part.only_a.join(" ")))?;
        }
        if !part.only_b.is_empty() {
            console.line(format_args!("  only b: {}", part.only_b.join(" ")))?;
        }
    }
    for field in found.fields.iter().filter(|f| f.name != "source") {
        let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".into());
        console.line(format_args!("{} differs:", field.name))?;
        console.line(format_args!("  a: {}", shown(&field.a)))?;
        console.line(format_args!("  b: {}", shown(&field.b)))?;
    }
    if found.only_source() {
        console
            .line("only the source differs: it was generated in two ways from one specification")?;
        if found.source.is_empty() {
            console.line("  the lines are not known: an entry does not keep its source")?;
        }
        for line in &found.source {
            let shown = |text: &Option<String>| text.clone().unwrap_or_else(|| "(ends)".into());
            console.line(format_args!(
                "  line {} of a: {}",
                line.line,
                shown(&line.a)
            ))?;
            console.line(format_args!(
                "  line {} of b: {}",
                line.line,
                shown(&line.b)
            ))?;
        }
    }
    if let Some((a, b)) = &found.provenance {
        console.line(format_args!(
            "compiled by {a} and {b}, which is no part of the key"
        ))?;
    }
    if console.json {
        console.document(&ExplainDocument {
            schema_version: 1,
            a: a.key.to_string(),
            b: b.key.to_string(),
            same: found.is_same(),
            only_source: found.only_source(),
            explanation: &found,
        })?;
    }
    Ok(0)
}

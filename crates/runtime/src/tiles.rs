//! Tiles that were timed, remembered for a device.
//!
//! What refinement found out belongs to a kind of step on a kind of device and to no model: the same product in another
//! model, or in the next process, gets the tile that was fastest at once, and is not timed again. So one document in the
//! cache holds what is known of a device (its name and architecture), by the digest of what a step is: the template with
//! its options and its text, what is baked in, and every integer argument. Another text of the kernel is another step, so
//! that what was found out about an older one is forgotten by itself.
//!
//! Nothing here is load-bearing. A tile is used if the template still has it among its legal ones; an entry that makes no
//! sense is none; a document of another version is neither understood nor overwritten.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use bespoke_cache::{Cache, CacheError, LearnedError};
use bespoke_device::{Arch, DeviceProps};
use bespoke_plan::{Binding, Plan};
use bespoke_templates::{Args, KernelSpec, Tile};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::program::{Blueprint, config, integers};

/// Version of the document.
const VERSION: u64 = 1;
/// Kinds of steps remembered of a device, the latest first.
const KEPT: usize = 2048;
/// Characters of a step's text that are kept for people.
const TEXT: usize = 400;

/// What was found out about a kind of step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KnownTile {
    /// The step, for people.
    pub step: String,
    /// The tile that was fastest.
    pub tile: String,
    /// Its device time in microseconds, a median.
    pub us: f64,
    /// The tile that the cost model had chosen.
    pub model: String,
    /// Its device time in microseconds, measured beside the other.
    pub model_us: f64,
    /// How many tiles were timed.
    pub timed: u64,
    /// When, in seconds since 1970.
    pub at: u64,
}

/// What is known of a device, as its document has it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DeviceTiles {
    /// Name of the device.
    pub device: String,
    /// Its architecture; `host` if it has none.
    pub arch: String,
    /// By the digest of the step.
    pub tiles: BTreeMap<String, KnownTile>,
}

/// Names a kind of step.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct StepKind {
    pub(crate) key: String,
    pub(crate) text: String,
}

impl StepKind {
    /// What a step is at these arguments, whatever its tile.
    pub(crate) fn of(spec: &KernelSpec, args: &Args<'_>) -> StepKind {
        let template = &spec.template;
        let whole = KernelSpec {
            tile: Tile::default(),
            ..spec.clone()
        };
        let ints: Vec<String> = args.iter_ints().map(|(n, v)| format!("{n}={v}")).collect();
        let mut text = format!("{whole} | {}", ints.join(" "));
        let mut hasher = blake3::Hasher::new_derive_key("bespoke 1 a kind of step");
        hasher.update(text.as_bytes());
        hasher.update(b"\n");
        hasher.update(&digest_of(template.body()));
        let key = hasher.finalize().to_hex()[..32].to_owned();
        if let Some((at, _)) = text.char_indices().nth(TEXT) {
            text.truncate(at);
            text.push('…');
        }
        StepKind { key, text }
    }
}

/// The digest of a template's text, computed once: a model has hundreds of steps of a few texts.
fn digest_of(text: &'static str) -> [u8; 32] {
    static KNOWN: Mutex<BTreeMap<(usize, usize), [u8; 32]>> = Mutex::new(BTreeMap::new());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let at = (text.as_ptr() as usize, text.len());
    *known
        .entry(at)
        .or_insert_with(|| *blake3::hash(text.as_bytes()).as_bytes())
}

#[derive(Debug, Default)]
struct Inner {
    known: BTreeMap<String, KnownTile>,
    /// Keys of what the document does not have yet.
    fresh: BTreeSet<String>,
    /// Kernels that did not compile or that the device did not take, by their specification; in this process only.
    failed: BTreeSet<String>,
}

/// What a session knows of its device's tiles.
#[derive(Debug)]
pub(crate) struct KnownTiles {
    device: String,
    arch: Option<Arch>,
    inner: Mutex<Inner>,
}

impl KnownTiles {
    /// Nothing known yet.
    pub(crate) fn new(props: &DeviceProps, arch: Option<Arch>) -> KnownTiles {
        KnownTiles {
            device: props.name.clone(),
            arch,
            inner: Mutex::default(),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn arch_text(&self) -> String {
        self.arch.map_or("host".into(), |a| a.to_string())
    }

    /// The name of the device's document.
    fn document(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("bespoke 1 tiles of a device");
        hasher.update(self.arch_text().as_bytes());
        hasher.update(b"\n");
        hasher.update(self.device.as_bytes());
        *hasher.finalize().as_bytes()
    }

    /// Reads what earlier sessions found out.
    pub(crate) fn recall(&self, cache: &Cache) {
        let document = cache.learned().read(&self.document());
        if let Some(known) = document.as_ref().and_then(read) {
            self.inner().known = known.tiles;
        }
    }

    /// Whether anything is known.
    pub(crate) fn is_empty(&self) -> bool {
        self.inner().known.is_empty()
    }

    /// The fastest tile of a kind of step, as text.
    pub(crate) fn find(&self, kind: &StepKind) -> Option<String> {
        self.inner().known.get(&kind.key).map(|k| k.tile.clone())
    }

    /// Remembers what was found out about a kind of step.
    pub(crate) fn learn(&self, kind: &StepKind, mut found: KnownTile) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        found.at = now.map_or(0, |d| d.as_secs());
        let mut inner = self.inner();
        inner.known.insert(kind.key.clone(), found);
        inner.fresh.insert(kind.key.clone());
    }

    /// A kernel did not compile, or the device does not take it: it is not tried again.
    pub(crate) fn failed(&self, spec: &KernelSpec) {
        self.inner().failed.insert(spec.to_string());
    }

    /// Whether a kernel may be tried.
    pub(crate) fn may_try(&self, spec: &KernelSpec) -> bool {
        !self.inner().failed.contains(&spec.to_string())
    }

    /// Adds what was found out since the last time to the document.
    ///
    /// # Errors
    ///
    /// Why it could not be written; it is kept for the next time. A cache that may not be written is no error.
    pub(crate) fn tell(&self, cache: &Cache) -> Result<(), LearnedError> {
        let fresh: BTreeMap<String, KnownTile> = {
            let inner = self.inner();
            let all = inner.fresh.iter();
            all.filter_map(|key| Some((key.clone(), inner.known.get(key)?.clone())))
                .collect()
        };
        if fresh.is_empty() {
            return Ok(());
        }
        let own = DeviceTiles {
            device: self.device.clone(),
            arch: self.arch_text(),
            tiles: fresh,
        };
        let told = cache
            .learned()
            .update(&self.document(), |old| merge(old, &own));
        match told {
            Ok(_) | Err(LearnedError::Cache(CacheError::ReadOnly(_) | CacheError::Off(_))) => {
                let mut inner = self.inner();
                inner.fresh.retain(|key| !own.tiles.contains_key(key));
                Ok(())
            }
            Err(e) => Err(e),
        }
    }
}

/// A document of this version about a device's tiles; `None` if it is none.
fn read(document: &Value) -> Option<DeviceTiles> {
    if document.get("v")?.as_u64()? != VERSION {
        return None;
    }
    let text = |name| document.get(name)?.as_str().map(str::to_owned);
    let entries = document.get("tiles")?.as_object()?.iter();
    let entry = |(key, value): (&String, &Value)| {
        let known = serde_json::from_value(value.clone()).ok()?;
        Some((key.clone(), known))
    };
    Some(DeviceTiles {
        device: text("device")?,
        arch: text("arch")?,
        tiles: entries.filter_map(entry).collect(),
    })
}

/// Adds to a document; what it does not know in it, it keeps.
fn merge(old: Option<Value>, own: &DeviceTiles) -> Value {
    let newer = |v: &Value| v.get("v").and_then(Value::as_u64) > Some(VERSION);
    let mut document = match old {
        Some(document) if newer(&document) => return document,
        Some(Value::Object(fields)) => fields,
        _ => serde_json::Map::new(),
    };
    let mut tiles = match read(&Value::Object(document.clone())) {
        Some(known) => known.tiles,
        None => BTreeMap::new(),
    };
    tiles.extend(own.tiles.clone());
    let mut list: Vec<(String, KnownTile)> = tiles.into_iter().collect();
    list.sort_by(|a, b| (b.1.at, &a.0).cmp(&(a.1.at, &b.0)));
    list.truncate(KEPT);
    let tiles: serde_json::Map<String, Value> = list
        .into_iter()
        .map(|(key, known)| (key, serde_json::json!(known)))
        .collect();
    document.insert("v".into(), VERSION.into());
    document.insert("device".into(), own.device.clone().into());
    document.insert("arch".into(), own.arch.clone().into());
    document.insert("tiles".into(), tiles.into());
    Value::Object(document)
}

/// What a cache knows of tiles, by device.
pub fn learned_tiles(cache: &Cache) -> Vec<DeviceTiles> {
    let learned = cache.learned();
    let documents = learned.list();
    let read = |name: &[u8; 32]| read(&learned.read(name)?);
    documents.iter().filter_map(read).collect()
}

/// Gives every step of a blueprint the tile that `find` has for its kind, where the template still has it and it keeps the
/// order of sums if that is asked for; whether that changed any.
pub(crate) fn apply(
    blueprint: &mut Blueprint,
    (plan, binding): (&Plan, &Binding),
    props: &DeviceProps,
    bit_stable: bool,
    find: impl Fn(&StepKind) -> Option<String>,
) -> bool {
    let mut changed = false;
    let steps = blueprint.specs.iter_mut().zip(&mut blueprint.configs);
    let steps = steps.zip(&blueprint.fixed).zip(&plan.steps);
    for (((spec, at), fixed), step) in steps {
        let params = step.template.params();
        let slots = integers(&params, step, binding);
        let args = Args::new(&params, &slots);
        let template = &step.template;
        if template
            .expected_seconds(&spec.tile, &args, props)
            .is_none()
        {
            continue;
        }
        let Some(wanted) = find(&StepKind::of(spec, &args)) else {
            continue;
        };
        if wanted == spec.tile.to_string() {
            continue;
        }
        let legal = spec.tiles(&args, props).find(|t| t.to_string() == wanted);
        let Some(tile) = legal else { continue };
        if bit_stable && !template.same_sums(&tile, &spec.tile) {
            continue;
        }
        spec.tile = tile;
        *at = config(spec, fixed.then_some(&args), props);
        changed = true;
    }
    changed
}

#[cfg(test)]
#[path = "tiles_tests.rs"]
mod tests;

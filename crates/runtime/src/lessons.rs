//! What a session learns, and what the next one knows.
//!
//! A session counts the shapes of its runs. When it ends, and whenever it has come to rest with something new, the counts
//! are added to a document in the cache, which belongs to the model (its plan, not its weights' bytes) and the
//! architecture. A session that begins reads it: shapes whose kernels are all in the cache are specialised while the
//! model loads, most frequent first, so that the first run is at its best, with no compiler installed. Shapes that would
//! have to be compiled are left to the strategy.
//!
//! Like all of the cache, the document is never load-bearing: without it, or if it is damaged, nothing is known.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use bespoke_cache::{Cache, CacheError, LearnedError};
use bespoke_device::Arch;
use bespoke_plan::Plan;
use bespoke_policy::Signature;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::service::CompileService;

/// Version of the document; another one is not understood, and not overwritten.
const VERSION: u64 = 1;
/// Shapes remembered, most runs first.
const KEPT: usize = 256;
/// Shapes counted between two writes; a session of more forgets the rarest.
const COUNTED: usize = 1024;

/// What is known of a shape.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShapeCount {
    /// The values of the model's symbols.
    pub dims: Vec<i64>,
    /// Runs of all sessions so far.
    pub runs: u64,
    /// Seconds since 1970 of the last session that ran it.
    pub seen: u64,
}

/// What is known of a model, as its document has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ModelShapes {
    /// The digest of the model's plan and architecture, in hexadecimal digits.
    pub model: String,
    /// Most runs first.
    pub shapes: Vec<ShapeCount>,
}

/// What a cache knows of the shapes of models.
pub fn learned_shapes(cache: &Cache) -> Vec<ModelShapes> {
    let learned = cache.learned();
    let read = |model: &[u8; 32]| {
        Some(ModelShapes {
            shapes: shapes(&learned.read(model)?)?,
            model: blake3::Hash::from_bytes(*model).to_hex().to_string(),
        })
    };
    learned.list().iter().filter_map(read).collect()
}

/// The counts of one session and where they go.
#[derive(Debug)]
pub(crate) struct Lessons {
    model: [u8; 32],
    counts: BTreeMap<Signature, u64>,
}

impl Lessons {
    /// Nothing learned yet. Models are told apart by their plans, which name everything but the weights' bytes.
    pub(crate) fn new(plan: &Plan, arch: Option<Arch>) -> Lessons {
        let mut hasher = blake3::Hasher::new_derive_key("bespoke 1 learned about a model");
        hasher.update(arch.map_or("host".into(), |a| a.to_string()).as_bytes());
        hasher.update(b"\n");
        hasher.update(plan.to_string().as_bytes());
        Lessons {
            model: *hasher.finalize().as_bytes(),
            counts: BTreeMap::new(),
        }
    }

    /// Counts a run.
    pub(crate) fn saw(&mut self, signature: &Signature) {
        if let Some(count) = self.counts.get_mut(signature) {
            *count += 1;
            return;
        }
        if self.counts.len() >= COUNTED
            && let Some((rarest, _)) = self.counts.iter().min_by_key(|(_, n)| **n)
        {
            let rarest = rarest.clone();
            self.counts.remove(&rarest);
        }
        self.counts.insert(signature.clone(), 1);
    }

    /// The shapes that earlier sessions ran, most runs first.
    pub(crate) fn known(&self, service: &CompileService) -> Vec<Signature> {
        let document = service.cache().learned().read(&self.model);
        let shapes = document.as_ref().and_then(shapes).unwrap_or_default();
        shapes.iter().map(|s| Signature::new(&s.dims)).collect()
    }

    /// Adds what was learned since the last time to the document; how many shapes that were.
    ///
    /// # Errors
    ///
    /// Why it could not be written. What was learned is kept for the next time. A cache that may not be written is no
    /// error: it was asked not to learn.
    pub(crate) fn tell(&mut self, service: &CompileService) -> Result<usize, LearnedError> {
        if self.counts.is_empty() {
            return Ok(0);
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |d| d.as_secs());
        let counts = &self.counts;
        let merged = service
            .cache()
            .learned()
            .update(&self.model, |old| merge(old, counts, now));
        match merged {
            Ok(_) => Ok(std::mem::take(&mut self.counts).len()),
            Err(LearnedError::Cache(CacheError::ReadOnly(_) | CacheError::Off(_))) => {
                self.counts.clear();
                Ok(0)
            }
            Err(e) => Err(e),
        }
    }
}

/// The shapes of a document of this version, most runs first.
fn shapes(document: &Value) -> Option<Vec<ShapeCount>> {
    if document.get("v")?.as_u64()? != VERSION {
        return None;
    }
    let entries = document.get("shapes")?.as_object()?.values();
    let mut list: Vec<ShapeCount> = entries
        .filter_map(|v| serde_json::from_value(v.clone()).ok())
        .collect();
    list.sort_by(|a, b| (b.runs, b.seen, &a.dims).cmp(&(a.runs, a.seen, &b.dims)));
    Some(list)
}

/// Adds counts to a document. What it does not know in it, it keeps; shapes have names, so that documents can be joined.
fn merge(old: Option<Value>, counts: &BTreeMap<Signature, u64>, now: u64) -> Value {
    let newer = |v: &Value| v.get("v").and_then(Value::as_u64) > Some(VERSION);
    let mut document = match old {
        Some(document) if newer(&document) => return document,
        Some(Value::Object(fields)) => fields,
        _ => serde_json::Map::new(),
    };
    let known = shapes(&Value::Object(document.clone())).unwrap_or_default();
    let mut all: BTreeMap<Vec<i64>, ShapeCount> =
        known.into_iter().map(|s| (s.dims.clone(), s)).collect();
    for (signature, runs) in counts {
        let dims = signature.dims().to_vec();
        let shape = all.entry(dims.clone()).or_insert(ShapeCount {
            dims,
            runs: 0,
            seen: now,
        });
        shape.runs = shape.runs.saturating_add(*runs);
        shape.seen = now;
    }
    let mut list: Vec<ShapeCount> = all.into_values().collect();
    list.sort_by(|a, b| (b.runs, b.seen, &a.dims).cmp(&(a.runs, a.seen, &b.dims)));
    list.truncate(KEPT);
    let mut entries = serde_json::Map::new();
    for s in list {
        let entry = serde_json::json!({ "dims": s.dims, "runs": s.runs, "seen": s.seen });
        entries.insert(Signature::new(&s.dims).to_string(), entry);
    }
    document.insert("v".into(), VERSION.into());
    document.insert("shapes".into(), entries.into());
    Value::Object(document)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn counts(list: &[(i64, u64)]) -> BTreeMap<Signature, u64> {
        let of = |&(dim, runs): &(i64, u64)| (Signature::new(&[dim, 3]), runs);
        list.iter().map(of).collect()
    }

    fn runs(document: &Value) -> Vec<(i64, u64)> {
        let list = shapes(document).unwrap();
        list.iter().map(|s| (s.dims[0], s.runs)).collect()
    }

    #[test]
    fn counts_add_up_and_the_most_frequent_comes_first() {
        let one = merge(None, &counts(&[(5, 2), (7, 3)]), 10);
        assert_eq!(runs(&one), [(7, 3), (5, 2)]);
        let two = merge(Some(one), &counts(&[(5, 4), (9, 1)]), 20);
        assert_eq!(runs(&two), [(5, 6), (7, 3), (9, 1)]);
    }

    #[test]
    fn what_others_wrote_is_kept() {
        let foreign = serde_json::json!({ "v": 1, "shapes": {}, "times": { "a": 1 } });
        let merged = merge(Some(foreign), &counts(&[(5, 2)]), 10);
        assert_eq!(merged["times"]["a"], 1);
        let newer = serde_json::json!({ "v": 2, "shapes": "otherwise" });
        assert_eq!(merge(Some(newer.clone()), &counts(&[(5, 2)]), 10), newer);
        assert!(shapes(&newer).is_none());
        let nonsense = merge(Some(Value::from(3)), &counts(&[(5, 2)]), 10);
        assert_eq!(runs(&nonsense), [(5, 2)]);
    }

    proptest! {
        #[test]
        fn the_order_of_two_sessions_does_not_matter(
            a in prop::collection::vec((0_i64..40, 1_u64..9), 0..20),
            b in prop::collection::vec((0_i64..40, 1_u64..9), 0..20),
        ) {
            let (a, b) = (counts(&a), counts(&b));
            let ab = merge(Some(merge(None, &a, 1)), &b, 1);
            let ba = merge(Some(merge(None, &b, 1)), &a, 1);
            prop_assert_eq!(ab, ba);
        }
    }
}

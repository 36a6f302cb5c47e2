//! What a session learns, and what the next one knows.
//!
//! A session counts the shapes of its runs. When it ends, and whenever it has come to rest with something new, the counts
//! are added to a document in the cache, which belongs to the model (its plan, not its weights' bytes) and the
//! architecture. A session that begins reads it: shapes whose kernels are all in the cache are specialised while the
//! model loads, most frequent first, so that the first run is at its best, with no compiler installed. Shapes that would
//! have to be compiled are left to the strategy. What came of a shape's second tier is remembered with it: one that served
//! comes at once the next time, and one that was of no use is not planned again by the same version of the program.
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

/// The version of this program, as documents have it.
pub(crate) const PROGRAM: &str = env!("CARGO_PKG_VERSION");

/// What came of planning a model anew for a shape.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Second {
    /// A program of the second tier served it.
    Serves,
    /// This version of the program found that it would have the kernels of the first tier.
    SameKernels(String),
}

/// What is known of a shape.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShapeCount {
    /// The values of the model's symbols.
    pub dims: Vec<i64>,
    /// Runs of all sessions so far.
    pub runs: u64,
    /// Seconds since 1970 of the last session that ran it.
    pub seen: u64,
    /// What came of its second tier, if there was to be one. What cannot be read is not known.
    #[serde(
        default,
        deserialize_with = "readable",
        skip_serializing_if = "Option::is_none"
    )]
    pub second: Option<Second>,
}

impl ShapeCount {
    /// A shape that nobody ran.
    fn new(dims: Vec<i64>, seen: u64) -> ShapeCount {
        ShapeCount {
            dims,
            runs: 0,
            seen,
            second: None,
        }
    }

    pub(crate) fn signature(&self) -> Signature {
        Signature::new(&self.dims)
    }
}

/// A field that later versions may fill otherwise: what is not understood counts as not there.
fn readable<'de, D: serde::Deserializer<'de>>(field: D) -> Result<Option<Second>, D::Error> {
    Ok(serde_json::from_value(Value::deserialize(field)?).ok())
}

/// What a session found out about a shape.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct News {
    runs: u64,
    second: Option<Second>,
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
    news: BTreeMap<Signature, News>,
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
            news: BTreeMap::new(),
        }
    }

    /// Counts a run.
    pub(crate) fn saw(&mut self, signature: &Signature) {
        self.news_of(signature).runs += 1;
    }

    /// Remembers what came of a shape's second tier. If nobody ever runs the shape, nothing is remembered.
    pub(crate) fn second(&mut self, signature: &Signature, second: Second) {
        self.news_of(signature).second = Some(second);
    }

    fn news_of(&mut self, signature: &Signature) -> &mut News {
        if self.news.len() >= COUNTED
            && !self.news.contains_key(signature)
            && let Some((rarest, _)) = self.news.iter().min_by_key(|(_, n)| n.runs)
        {
            let rarest = rarest.clone();
            self.news.remove(&rarest);
        }
        self.news.entry(signature.clone()).or_default()
    }

    /// The shapes that earlier sessions ran, most runs first.
    pub(crate) fn known(&self, service: &CompileService) -> Vec<ShapeCount> {
        let document = service.cache().learned().read(&self.model);
        document.as_ref().and_then(shapes).unwrap_or_default()
    }

    /// Adds what was learned since the last time to the document; how many shapes that were.
    ///
    /// # Errors
    ///
    /// Why it could not be written. What was learned is kept for the next time. A cache that may not be written is no
    /// error: it was asked not to learn.
    pub(crate) fn tell(&mut self, service: &CompileService) -> Result<usize, LearnedError> {
        if self.news.is_empty() {
            return Ok(0);
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |d| d.as_secs());
        let news = &self.news;
        let merged = service
            .cache()
            .learned()
            .update(&self.model, |old| merge(old, news, now));
        match merged {
            Ok(_) => Ok(std::mem::take(&mut self.news).len()),
            Err(LearnedError::Cache(CacheError::ReadOnly(_) | CacheError::Off(_))) => {
                self.news.clear();
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

/// Adds news to a document. What it does not know in it, it keeps; shapes have names, so that documents can be joined.
fn merge(old: Option<Value>, news: &BTreeMap<Signature, News>, now: u64) -> Value {
    let newer = |v: &Value| v.get("v").and_then(Value::as_u64) > Some(VERSION);
    let mut document = match old {
        Some(document) if newer(&document) => return document,
        Some(Value::Object(fields)) => fields,
        _ => serde_json::Map::new(),
    };
    let known = shapes(&Value::Object(document.clone())).unwrap_or_default();
    let mut all: BTreeMap<Vec<i64>, ShapeCount> =
        known.into_iter().map(|s| (s.dims.clone(), s)).collect();
    for (signature, News { runs, second }) in news {
        let dims = signature.dims().to_vec();
        if *runs > 0 {
            let new = || ShapeCount::new(dims.clone(), now);
            let shape = all.entry(dims.clone()).or_insert_with(new);
            shape.runs = shape.runs.saturating_add(*runs);
            shape.seen = now;
        }
        if let (Some(shape), Some(second)) = (all.get_mut(&dims), second) {
            shape.second = Some(second.clone());
        }
    }
    let mut list: Vec<ShapeCount> = all.into_values().collect();
    list.sort_by(|a, b| (b.runs, b.seen, &a.dims).cmp(&(a.runs, a.seen, &b.dims)));
    list.truncate(KEPT);
    let mut entries = serde_json::Map::new();
    for s in list {
        let name = s.signature().to_string();
        // plain numbers and texts always are values
        entries.insert(name, serde_json::to_value(s).unwrap_or_default());
    }
    document.insert("v".into(), VERSION.into());
    document.insert("shapes".into(), entries.into());
    Value::Object(document)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn counts(list: &[(i64, u64)]) -> BTreeMap<Signature, News> {
        let of = |&(dim, runs): &(i64, u64)| {
            let news = News { runs, second: None };
            (Signature::new(&[dim, 3]), news)
        };
        list.iter().map(of).collect()
    }

    /// News of a second tier, with so many runs.
    fn second(dim: i64, runs: u64, second: Second) -> BTreeMap<Signature, News> {
        let second = Some(second);
        [(Signature::new(&[dim, 3]), News { runs, second })].into()
    }

    fn seconds(document: &Value) -> Vec<Option<Second>> {
        let list = shapes(document).unwrap();
        list.into_iter().map(|s| s.second).collect()
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

    #[test]
    fn what_came_of_a_second_tier_is_kept_and_the_last_word_counts() {
        let one = merge(None, &counts(&[(5, 2), (7, 1)]), 10);
        assert!(one["shapes"]["5x3"].get("second").is_none());
        let two = merge(Some(one), &second(5, 1, Second::Serves), 20);
        assert_eq!(two["shapes"]["5x3"]["second"], "serves");
        let two = merge(Some(two), &counts(&[(5, 1)]), 30);
        assert_eq!(seconds(&two), [Some(Second::Serves), None]);
        let same = Second::SameKernels("0.1.0".into());
        // nobody ran it in that session, and nobody ever ran 9
        let three = merge(Some(two), &second(5, 0, same.clone()), 40);
        let three = merge(Some(three), &second(9, 0, Second::Serves), 40);
        assert_eq!(seconds(&three), [Some(same), None]);
        assert_eq!(three["shapes"]["5x3"]["second"]["same_kernels"], "0.1.0");
        assert_eq!(three["shapes"]["5x3"]["seen"], 30);
    }

    #[test]
    fn documents_without_it_or_with_nonsense_in_it_read() {
        let entry = |second: Option<Value>| {
            let mut entry = serde_json::json!({ "dims": [5, 3], "runs": 4, "seen": 1 });
            if let (Some(second), Value::Object(fields)) = (second, &mut entry) {
                fields.insert("second".into(), second);
            }
            serde_json::json!({ "v": 1, "shapes": { "5x3": entry } })
        };
        let good = entry(Some("serves".into()));
        assert_eq!(seconds(&good), [Some(Second::Serves)]);
        let damaged = [
            Value::Null,
            true.into(),
            "maybe".into(),
            serde_json::json!({ "same_kernels": 3 }),
            serde_json::json!(["serves"]),
        ];
        for second in std::iter::once(None).chain(damaged.map(Some)) {
            let document = entry(second);
            assert_eq!(runs(&document), [(5, 4)], "{document}");
            assert_eq!(seconds(&document), [None], "{document}");
        }
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

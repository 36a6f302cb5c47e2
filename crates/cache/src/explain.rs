//! Why two kernels are two: what differs between what their keys were computed from.
//!
//! The specification is compared word by word, part by part, because it is what people think in. Fields are compared by
//! their digests, which decide. Where two kernels have the same specification and options and yet another source, the
//! generator of the source changed between them, and the first lines that differ show how.

use serde::Serialize;

use crate::entry::Metadata;
use crate::key::{Field, Preimage};

/// Most cells of the table that compares words; longer texts are compared as a whole between what they share at both
/// ends.
const CELLS: usize = 1 << 20;
/// Lines shown from each source.
const LINES: usize = 3;

/// A part of the specification in which two kernels differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PartDifference {
    /// Which part; `spec` if the entries do not keep parts.
    pub name: String,
    /// Words that only the first has, in order.
    pub only_a: Vec<String>,
    /// Words that only the second has, in order.
    pub only_b: Vec<String>,
}

/// A field of the preimage in which two kernels differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FieldDifference {
    /// Which field.
    pub name: String,
    /// The first one's value, or its length and digest where the value was not kept; `None` if it has no such field.
    pub a: Option<String>,
    /// The second one's.
    pub b: Option<String>,
}

/// A line that differs, with its number from 1; `None` where the source has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LineDifference {
    /// Its number.
    pub line: usize,
    /// The first one's.
    pub a: Option<String>,
    /// The second one's.
    pub b: Option<String>,
}

/// What differs between two entries.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// Parts of the specification that differ.
    pub parts: Vec<PartDifference>,
    /// Fields that differ.
    pub fields: Vec<FieldDifference>,
    /// The first lines of the source that differ; empty if the sources are equal or one of them was not kept.
    pub source: Vec<LineDifference>,
    /// The two compiler builds, if they differ. They are no part of the key.
    pub provenance: Option<(String, String)>,
}

impl Explanation {
    /// Whether the two have one key.
    #[must_use]
    pub fn is_same(&self) -> bool {
        self.fields.is_empty()
    }

    /// Whether nothing but the source differs: neither the specification nor any other field.
    #[must_use]
    pub fn only_source(&self) -> bool {
        self.parts.is_empty()
            && !self.fields.is_empty()
            && self.fields.iter().all(|field| field.name == "source")
    }
}

/// Compares two entries.
#[must_use]
pub fn explain(a: (&Preimage, &Metadata), b: (&Preimage, &Metadata)) -> Explanation {
    let ((pa, ma), (pb, mb)) = (a, b);
    let shown = |field: Option<&Field>| {
        field.map(|field| match &field.text {
            Some(text) => text.clone(),
            None => format!(
                "{} bytes, BLAKE3 {}…",
                field.len,
                field.blake3.get(..12).unwrap_or_default()
            ),
        })
    };
    let fields = pa.differing_fields(pb).into_iter().map(|name| {
        let (a, b) = (shown(pa.field(&name)), shown(pb.field(&name)));
        FieldDifference { name, a, b }
    });
    let source = match (ma.source.as_str(), mb.source.as_str()) {
        ("", _) | (_, "") => Vec::new(),
        (a, b) => lines(a, b),
    };
    Explanation {
        parts: parts(pa, pb),
        fields: fields.collect(),
        source,
        provenance: (ma.provenance != mb.provenance)
            .then(|| (ma.provenance.clone(), mb.provenance.clone())),
    }
}

fn parts(a: &Preimage, b: &Preimage) -> Vec<PartDifference> {
    let mut names: Vec<&str> = Vec::new();
    for part in a.parts.iter().chain(&b.parts) {
        if !names.contains(&part.name.as_str()) {
            names.push(&part.name);
        }
    }
    let mut found: Vec<PartDifference> = names
        .into_iter()
        .filter_map(|name| words(name, a.part(name), b.part(name)))
        .collect();
    if found.is_empty() {
        found.extend(words("spec", &a.spec, &b.spec));
    }
    found
}

/// The words that only one of two texts has, by a longest common subsequence.
fn words(name: &str, a: &str, b: &str) -> Option<PartDifference> {
    if a == b {
        return None;
    }
    let (a, b): (Vec<&str>, Vec<&str>) = (a.split(' ').collect(), b.split(' ').collect());
    let start = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
    let (a, b) = (&a[start..], &b[start..]);
    let end = a
        .iter()
        .rev()
        .zip(b.iter().rev())
        .take_while(|(a, b)| a == b)
        .count();
    let (a, b) = (&a[..a.len() - end], &b[..b.len() - end]);
    let own = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect();
    let mut difference = PartDifference {
        name: name.to_owned(),
        only_a: Vec::new(),
        only_b: Vec::new(),
    };
    if a.len().saturating_mul(b.len()) > CELLS {
        (difference.only_a, difference.only_b) = (own(a), own(b));
        return Some(difference);
    }
    // longest[i][j]: words that the rests a[i..] and b[j..] have in common
    let width = b.len() + 1;
    let mut longest = vec![0_u32; (a.len() + 1) * width];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            longest[i * width + j] = if a[i] == b[j] {
                longest[(i + 1) * width + j + 1] + 1
            } else {
                longest[(i + 1) * width + j].max(longest[i * width + j + 1])
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    while i < a.len() && j < b.len() {
        if a[i] == b[j] {
            (i, j) = (i + 1, j + 1);
        } else if longest[(i + 1) * width + j] >= longest[i * width + j + 1] {
            difference.only_a.push(a[i].to_owned());
            i += 1;
        } else {
            difference.only_b.push(b[j].to_owned());
            j += 1;
        }
    }
    difference.only_a.extend::<Vec<String>>(own(&a[i..]));
    difference.only_b.extend::<Vec<String>>(own(&b[j..]));
    Some(difference)
}

/// The first lines that differ, one beside the other.
fn lines(a: &str, b: &str) -> Vec<LineDifference> {
    let (a, b): (Vec<&str>, Vec<&str>) = (a.lines().collect(), b.lines().collect());
    let at = |list: &[&str], index: usize| list.get(index).map(|line| (*line).to_owned());
    (0..a.len().max(b.len()))
        .filter(|&index| a.get(index) != b.get(index))
        .take(LINES)
        .map(|index| LineDifference {
            line: index + 1,
            a: at(&a, index),
            b: at(&b, index),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::KeyBuilder;
    use proptest::prelude::*;

    fn entry(source: &str, arch: &str, tile: &str) -> (Preimage, Metadata) {
        let preimage = KeyBuilder::kernel(source, &["--std=c++17"], arch, "1")
            .spec(&format!("gemm | {tile}"))
            .part("template", "gemm")
            .part("tile", tile)
            .finish();
        let metadata = Metadata {
            source: source.to_owned(),
            provenance: "nvrtc 13.0".into(),
            ..Metadata::default()
        };
        (preimage, metadata)
    }

    fn between(a: &(Preimage, Metadata), b: &(Preimage, Metadata)) -> Explanation {
        explain((&a.0, &a.1), (&b.0, &b.1))
    }

    #[test]
    fn words_and_fields_that_differ_are_named() {
        let a = entry("x\ny\n", "sm_89", "BM=128 BN=64 STAGES=3");
        let b = entry("x\nz\nw\n", "sm_90a", "BM=64 BN=64 STAGES=3");
        let found = between(&a, &b);
        assert_eq!(
            found.parts,
            [PartDifference {
                name: "tile".into(),
                only_a: vec!["BM=128".into()],
                only_b: vec!["BM=64".into()],
            }]
        );
        let names: Vec<&str> = found.fields.iter().map(|f| f.name.as_str()).collect();
        assert_eq!(names, ["source", "arch"]);
        assert_eq!(found.fields[1].b.as_deref(), Some("sm_90a"));
        assert!(found.fields[0].a.as_ref().unwrap().starts_with("4 bytes"));
        assert_eq!(found.source.len(), 2);
        assert_eq!((found.source[1].line, &found.source[1].a), (3, &None));
        assert!(!found.is_same() && !found.only_source());
        assert!(between(&a, &a).is_same());
    }

    #[test]
    fn a_source_that_changed_under_one_specification_is_told() {
        let a = entry("x\ny\n", "sm_89", "BM=128");
        let mut b = entry("x\nz\n", "sm_89", "BM=128");
        b.1.provenance = "nvrtc 13.1".into();
        let found = between(&a, &b);
        assert!(found.only_source());
        assert_eq!(found.source[0].a.as_deref(), Some("y"));
        assert_eq!(
            found.provenance,
            Some(("nvrtc 13.0".into(), "nvrtc 13.1".into()))
        );
    }

    #[test]
    fn entries_without_parts_are_compared_by_their_text() {
        let plain = |spec: &str| {
            let preimage = KeyBuilder::new().text("x", spec).spec(spec).finish();
            (preimage, Metadata::default())
        };
        let found = between(&plain("add m=1 n=2"), &plain("add m=3 n=2"));
        assert_eq!(found.parts[0].name, "spec");
        assert_eq!(found.parts[0].only_b, ["m=3"]);
    }

    proptest! {
        #[test]
        fn leaving_out_what_differs_leaves_the_same(a in "[ab]( [ab]){0,6}", b in "[ab]( [ab]){0,6}") {
            let Some(found) = words("x", &a, &b) else {
                prop_assert_eq!(a, b);
                return Ok(());
            };
            let count = |text: &str, word: &str| text.split(' ').filter(|w| *w == word).count();
            for word in ["a", "b"] {
                let left = |text: &str, only: &[String]| count(text, word) - only.iter().filter(|w| *w == word).count();
                prop_assert_eq!(left(&a, &found.only_a), left(&b, &found.only_b));
            }
        }

        #[test]
        fn long_texts_are_compared_too(n in 2000usize..3000) {
            let (a, b) = ("a ".repeat(n), "b ".repeat(n));
            prop_assert!(words("x", &a, &b).is_some_and(|found| found.only_a.len() == n));
        }
    }
}

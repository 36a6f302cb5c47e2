//! The schema: one event of each kind, and the guide's page of them.

use super::*;
use crate::request::{GraphReason, GraphUse};
use crate::service::Origin;
use bespoke_ir::flow::CutKind;
use std::collections::{BTreeMap, BTreeSet};

/// The kind that comes after this one in [`one_of_each`]. One more kind does not compile here before it has its place.
fn next(kind: Option<&EventKind>) -> Option<EventKind> {
    let class = || "N=2".to_owned();
    Some(match kind {
        None => EventKind::Started {
            arithmetic: "exact".into(),
            model: "small".into(),
            device: "host".into(),
            strategy: "lazy".into(),
            inputs: vec!["x".into()],
        },
        Some(EventKind::Started { .. }) => EventKind::Loaded {
            import_us: 100,
            passes_us: 20,
            plan_us: 30,
            compile_us: 400,
            setup_us: 50,
            weights_us: 40,
            total_us: 600,
            steps: 2,
            generic_kernels: 1,
            weight_bytes: 16,
        },
        Some(EventKind::Loaded { .. }) => EventKind::Run {
            run: 0,
            shape: "N=2".into(),
            generic: 2,
            specialized: 0,
            graph: GraphUse::Replayed,
            latency_us: 90,
            bind_us: 7,
            record_us: 0,
            block_written: true,
            new_shape: true,
            graph_reason: GraphReason::MadeAtLoad,
            dims: vec![vec![2, 4]],
            lane: 0,
            begin_us: 2905,
            wait_us: 3,
            tier: 0,
        },
        Some(EventKind::Run { .. }) => EventKind::Decision {
            shape: "N=3".into(),
            action: "nothing",
            reason: "too-few",
        },
        Some(EventKind::Decision { .. }) => EventKind::Enqueue {
            class: class(),
            kernels: 2,
            priority: 5,
            cause: Cause::Run,
            run: Some(0),
            tier: 1,
            expected: Some(Expected {
                runs_per_hour: 830,
                saves_us: 40,
                cost_us: 900,
            }),
        },
        Some(EventKind::Enqueue { .. }) => EventKind::Replan {
            class: class(),
            steps_before: 2,
            steps: 1,
            setup_steps: 0,
            micros: 45,
        },
        Some(EventKind::Replan { .. }) => EventKind::Keep {
            class: class(),
            reason: "same-kernels",
            detail: "1 step".into(),
        },
        Some(EventKind::Keep { .. }) => EventKind::Borrow {
            class: class(),
            specialized: 2,
            generic: 1,
            micros: 300,
        },
        Some(EventKind::Borrow { .. }) => EventKind::Cancel {
            class: class(),
            kernels: 1,
            reason: "stale",
            tier: 1,
        },
        Some(EventKind::Cancel { .. }) => EventKind::Compile {
            kernel: "0123456789ab".into(),
            origin: Origin::Compiled,
            miss: Some("absent"),
            micros: 40,
            spec: "map<f32>".into(),
            class: Some(class()),
            thread: "bespoke-jit-0".into(),
            begin_us: 1500,
            wall_us: 60,
            stretched: crate::stretch::CompileCost::new(2.0).ok(),
        },
        Some(EventKind::Compile { .. }) => EventKind::CompileFailed {
            kernel: "map<f16>".into(),
            reason: "no compiler".into(),
            class: None,
        },
        Some(EventKind::CompileFailed { .. }) => EventKind::Install {
            class: class(),
            kernels: 2,
            compile_us: 300,
            install_us: 25,
            tier: 1,
            replaces: false,
            refined: false,
        },
        Some(EventKind::Install { .. }) => EventKind::Refine {
            class: class(),
            tier: 1,
            places: 1,
            steps: 2,
            candidates: 1,
            kernels: 1,
            priority: -2,
            survey_us: 35,
        },
        Some(EventKind::Refine { .. }) => EventKind::Timed {
            class: class(),
            step: "product".into(),
            steps: 2,
            kernel: "gemm batch 0 f32xf32 | m=2".into(),
            tiles: vec![
                Timing {
                    tile: "BM=64".into(),
                    us: 12.5,
                },
                Timing {
                    tile: "BM=32".into(),
                    us: 8.0,
                },
            ],
            won: 1,
            device_us: 310,
            micros: 350,
        },
        Some(EventKind::Timed { .. }) => EventKind::Untimed {
            class: class(),
            kernel: "gemm batch 0 f32xf32 | BM=16".into(),
            reason: "too many registers".into(),
            compiled: false,
        },
        Some(EventKind::Untimed { .. }) => EventKind::Refined {
            class: class(),
            shape: "2".into(),
            reason: "won",
            detail: String::new(),
            timed: 1,
            won: 1,
            saves_us: 9.0,
            device_us: 345,
            micros: 900,
        },
        Some(EventKind::Refined { .. }) => EventKind::Trial {
            class: class(),
            passed: true,
            max_abs: 0.5,
            served_us: 12.5,
            candidate_us: 8.0,
            tier: 1,
        },
        Some(EventKind::Trial { .. }) => EventKind::Reject {
            class: class(),
            reason: "too many registers".into(),
            tier: 1,
        },
        Some(EventKind::Reject { .. }) => EventKind::Evict {
            class: class(),
            reason: "policy",
        },
        Some(EventKind::Evict { .. }) => EventKind::Relieve {
            reason: "out of memory".into(),
            programs: 1,
            bytes: 4096,
        },
        Some(EventKind::Relieve { .. }) => EventKind::Record {
            class: class(),
            nodes: 2,
            edges: 1,
            programmatic: 1,
            plain: None,
            updated: true,
            micros: 12,
            on_path: false,
            lane: 0,
        },
        Some(EventKind::Record { .. }) => EventKind::Lane { lanes: 2 },
        Some(EventKind::Lane { .. }) => EventKind::Grow {
            bytes: 8192,
            micros: 9,
            lane: 1,
        },
        Some(EventKind::Grow { .. }) => EventKind::Recall {
            known: 3,
            wished: 2,
            second_tiers: 1,
        },
        Some(EventKind::Recall { .. }) => EventKind::LearnFailed {
            reason: "no room".into(),
        },
        Some(EventKind::LearnFailed { .. }) => EventKind::Segmented {
            segments: 2,
            cuts: vec![CutReason {
                kind: "if",
                node: "choice".into(),
            }],
        },
        Some(EventKind::Segmented { .. }) => EventKind::SegmentRun {
            run: 0,
            shape: "N=2".into(),
            generic: 1,
            specialized: 0,
            graph: GraphUse::Replayed,
            graph_reason: GraphReason::MadeAtLoad,
            latency_us: 30,
            record_us: 0,
            block_written: true,
            new_shape: true,
            lane: 0,
            begin_us: 2920,
            tier: 0,
        },
        Some(EventKind::SegmentRun { .. }) => return None,
    })
}

/// One event of each kind, a millisecond apart.
pub(crate) fn one_of_each() -> Vec<Event> {
    let kinds = std::iter::successors(next(None), |kind| next(Some(kind)));
    (0..)
        .zip(kinds)
        .map(|(seq, kind)| Event {
            v: VERSION,
            seq,
            at_us: 1000 * (seq + 1),
            segment: None,
            kind,
        })
        .collect()
}

/// What a page says: the fields of each event, from a heading with the event's name and a table of fields below it.
fn described(page: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut events: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut event = None;
    for line in page.lines() {
        let quoted = |prefix: &str| {
            let rest = line.strip_prefix(prefix)?;
            Some(rest.split_once('`')?.0.to_owned())
        };
        if line.starts_with('#') {
            event = quoted("### `");
            events.extend(event.clone().map(|name| (name, BTreeSet::new())));
        } else if let (Some(event), Some(field)) = (&event, quoted("| `")) {
            events.entry(event.clone()).or_default().insert(field);
        }
    }
    events
}

#[test]
fn the_guide_has_every_event_with_every_field() {
    let page = include_str!("../../../docs/guide/events.md");
    let mut schema = BTreeMap::new();
    for event in one_of_each() {
        let value = serde_json::to_value(&event).unwrap();
        let mut keys: BTreeSet<String> = value.as_object().unwrap().keys().cloned().collect();
        for common in ["v", "seq", "at_us", "event"] {
            assert!(keys.remove(common), "{value}");
            assert!(page.contains(&format!("| `{common}` |")), "{common}");
        }
        schema.insert(value["event"].as_str().unwrap().to_owned(), keys);
    }
    assert_eq!(described(page), schema);
    assert!(
        page.contains(&format!("is {VERSION}")),
        "the schema's version"
    );
}

#[test]
fn the_guide_has_every_code() {
    let page = include_str!("../../../docs/guide/events.md");
    for kind in [CutKind::If, CutKind::Loop, CutKind::Scan, CutKind::Extent] {
        assert!(page.contains(&format!("| `{}` |", kind.code())), "{kind:?}");
    }
    assert!(page.contains("| `segment` |"));
    for reason in [
        GraphReason::Asked,
        GraphReason::FirstOnLane,
        GraphReason::MadeAtLoad,
        GraphReason::MadeAtInstall,
        GraphReason::MadeByRun,
    ] {
        assert_eq!(serde_json::to_value(reason).unwrap(), reason.code());
        assert!(page.contains(&quoted(&reason)), "{reason:?}");
    }
    for cause in [Cause::Load, Cause::Run, Cause::Wish, Cause::Turn] {
        assert!(page.contains(&quoted(&cause)), "{cause:?}");
    }
    for origin in [Origin::Memory, Origin::Cache, Origin::Compiled] {
        assert!(page.contains(&quoted(&origin)), "{origin:?}");
    }
}

/// A code as the page shows it.
fn quoted(code: &impl Serialize) -> String {
    let value = serde_json::to_value(code).unwrap();
    format!("`{}`", value.as_str().unwrap())
}

#[test]
fn feeds_hear_what_the_log_keeps() {
    let (to, from) = crate::feed::feed(8);
    let log = Log::new(Instant::now(), vec![to]);
    log.push(EventKind::Lane { lanes: 1 });
    let (later, from_later) = crate::feed::feed(8);
    log.subscribe(later);
    log.push(EventKind::Lane { lanes: 2 });
    let heard = |from: &crate::feed::Subscription| {
        let mut seqs = Vec::new();
        while let crate::feed::Heard::Event(e) = from.next(std::time::Duration::ZERO) {
            seqs.push(e.seq);
        }
        seqs
    };
    assert_eq!(heard(&from), [0, 1]);
    assert_eq!(heard(&from_later), [1]);
    assert_eq!(log.events().len(), 2);
}

#[test]
fn lanes_told_in_the_wrong_order_are_counted_right() {
    let log = Log::new(Instant::now(), Vec::new());
    for lanes in [1, 2, 4, 3] {
        log.push(EventKind::Lane { lanes });
    }
    assert_eq!(log.stats().lanes, 4);
}

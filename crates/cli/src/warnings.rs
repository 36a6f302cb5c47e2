//! What went less well than was asked for, in lines for people.
//!
//! A run goes on when a program is refused, a kernel does not compile or the kernel cache cannot be used: every one of
//! these leaves an event or a counter, and this module turns them into lines. It promises that each cause is told once,
//! however many kernels or shapes it concerns, and that it is told with its reason. What is no fault, an evicted program
//! or a grown arena say, is left to the statistics.

use std::collections::BTreeMap;

use bespoke::cache::{OffReason, Stats};
use bespoke::runtime::{Event, EventKind};
use serde::Serialize;

/// How many shapes a line names before it counts the others.
const NAMED: usize = 4;

/// A class of shapes that has no program of its own, so that its runs keep generic kernels, or none of the second tier, so
/// that they keep those of the first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Refusal {
    /// The class: a shape, or `any`.
    class: String,
    /// Why.
    reason: String,
    /// What it does not have: 1 is kernels of its own, 2 is a plan of its own.
    tier: u8,
}

/// Every class that was refused, in the order in which it happened.
pub(crate) fn refusals(events: &[Event]) -> Vec<Refusal> {
    let refusal = |event: &Event| match &event.kind {
        EventKind::Reject {
            class,
            reason,
            tier,
        } => Some(Refusal {
            class: class.clone(),
            reason: reason.clone(),
            tier: *tier,
        }),
        _ => None,
    };
    events.iter().filter_map(refusal).collect()
}

/// `3 kernels could not be compiled; …` with the first one's reason, if there are any.
pub(crate) fn uncompiled(events: &[Event]) -> Option<String> {
    let failed: Vec<(&str, &str)> = compile_failures(events).collect();
    let (kernel, reason) = failed.first()?;
    // Most reasons name their kernel themselves.
    let name = match reason.contains(kernel) {
        true => String::new(),
        false => format!("{kernel}: "),
    };
    Some(match failed.len() {
        1 => format!("a kernel could not be compiled; the runs went on without it: {name}{reason}"),
        count => format!(
            "{count} kernels could not be compiled; the runs went on without them. The first: {name}{reason}"
        ),
    })
}

fn compile_failures(events: &[Event]) -> impl Iterator<Item = (&str, &str)> {
    events.iter().filter_map(|event| match &event.kind {
        EventKind::CompileFailed { kernel, reason, .. } => Some((kernel.as_str(), reason.as_str())),
        _ => None,
    })
}

/// A line for each reason for which shapes were refused a program, and one if events are missing.
pub(crate) fn of_session(events: &[Event], dropped: u64) -> Vec<String> {
    let mut causes: Vec<((u8, String), Vec<String>)> = Vec::new();
    for refusal in refusals(events) {
        let Refusal {
            class,
            reason,
            tier,
        } = refusal;
        // Kernels that do not compile have a message of their own, with the reason.
        let reason = match compile_failures(events).any(|(_, failed)| failed == reason) {
            true => "a kernel could not be compiled".to_owned(),
            false => reason,
        };
        let cause = (tier, reason);
        match causes.iter_mut().find(|(known, _)| *known == cause) {
            Some((_, classes)) if classes.contains(&class) => {}
            Some((_, classes)) => classes.push(class),
            None => causes.push((cause, vec![class])),
        }
    }
    let mut lines: Vec<String> = causes
        .iter()
        .map(|((tier, reason), classes)| {
            let kept = match tier {
                2 => "the kernels of the first tier",
                _ => "generic kernels",
            };
            format!("{} {kept}: {reason}", who(classes))
        })
        .collect();
    if dropped > 0 {
        lines.push(format!(
            "the {dropped} oldest events were dropped; what they told is only in the counters"
        ));
    }
    lines
}

fn who(classes: &[String]) -> String {
    match classes {
        [any] if any == "any" => "all shapes keep".to_owned(),
        [class] => format!("shape {class} keeps"),
        _ => {
            let named: Vec<&str> = classes.iter().take(NAMED).map(String::as_str).collect();
            let more = match classes.len().saturating_sub(NAMED) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            format!("shapes {}{more} keep", named.join(", "))
        }
    }
}

/// Codes that mean no fault: nothing was there, or what was not done was not asked for, or has a reason that is told.
const NO_FAULT: [&str; 3] = ["absent", "off", "read-only"];

/// Words for the codes of misses where an entry was there and was not used. A code without words is told as it is.
const UNUSED: &[(&str, &str)] = &[
    ("truncated", "cut off"),
    ("extended", "longer than they say"),
    ("digest", "damaged"),
    ("key", "under another entry's name"),
    ("version", "of another format"),
    ("too-large", "over the limits"),
    ("owner", "another user's"),
    ("mode", "writable for other users"),
    ("kind", "no plain files"),
    ("provenance", "made by another compiler"),
    ("rejected", "refused by the device"),
    ("io", "unreadable"),
];

/// Words for the codes of kernels that were not stored.
const UNSTORED: &[(&str, &str)] = &[
    ("unfit", "over the limits"),
    ("io", "that could not be written"),
];

/// How many faults there are among the counts, and the words for each.
fn faults(counts: &BTreeMap<&'static str, u64>, words: &[(&str, &str)]) -> (u64, String) {
    let mut total = 0;
    let mut parts = Vec::new();
    for (code, count) in counts.iter().filter(|(code, _)| !NO_FAULT.contains(code)) {
        let known = words.iter().find(|(known, _)| known == code);
        total += count;
        parts.push(format!("{count} {}", known.map_or(*code, |row| row.1)));
    }
    (total, parts.join(", "))
}

/// A line on entries that were not used, one on kernels that were not stored, and one if the cache stopped writing since
/// it was opened.
pub(crate) fn of_cache(
    stats: &Stats,
    opened: Option<&OffReason>,
    now: Option<&OffReason>,
) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(reason) = now.filter(|_| now != opened) {
        lines.push(format!("kernel cache: {reason}"));
    }
    let (unused, why) = faults(&stats.misses, UNUSED);
    if unused > 0 {
        lines.push(format!(
            "kernel cache: {unused} entries were there and could not be used: {why}; no run depends on them"
        ));
    }
    let (unstored, why) = faults(&stats.put_skips, UNSTORED);
    // Where the cache stopped writing, its reason says it all.
    if unstored > 0 && now == opened {
        lines.push(format!(
            "kernel cache: {unstored} kernels were not stored: {why}; the next process compiles them again"
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn events(kinds: Vec<EventKind>) -> Vec<Event> {
        let event = |(seq, kind)| Event {
            v: bespoke::runtime::event::VERSION,
            seq,
            at_us: 10 * seq,
            segment: None,
            kind,
        };
        (0..).zip(kinds).map(event).collect()
    }

    fn reject(class: &str, reason: &str) -> EventKind {
        EventKind::Reject {
            class: class.into(),
            reason: reason.into(),
            tier: 1,
        }
    }

    fn failed(kernel: &str, reason: &str) -> EventKind {
        EventKind::CompileFailed {
            kernel: kernel.into(),
            reason: reason.into(),
            class: None,
        }
    }

    #[test]
    fn a_session_in_which_nothing_went_wrong_has_nothing_to_tell() {
        let quiet = events(vec![
            EventKind::Lane { lanes: 2 },
            EventKind::Evict {
                class: "x:1".into(),
                reason: "policy",
            },
        ]);
        assert!(of_session(&quiet, 0).is_empty());
        assert!(refusals(&quiet).is_empty());
        assert_eq!(uncompiled(&quiet), None);
    }

    #[test]
    fn a_refused_program_is_told_with_shape_and_reason() {
        let one = events(vec![reject("x:1x8", "too many resources for a launch")]);
        assert_eq!(
            of_session(&one, 0),
            ["shape x:1x8 keeps generic kernels: too many resources for a launch"]
        );
        assert_eq!(
            refusals(&one),
            [Refusal {
                class: "x:1x8".into(),
                reason: "too many resources for a launch".into(),
                tier: 1,
            }]
        );
        let any = events(vec![reject("any", "no")]);
        assert_eq!(of_session(&any, 0), ["all shapes keep generic kernels: no"]);
    }

    #[test]
    fn each_reason_is_told_once_with_its_shapes() {
        let kinds = (1..=6).map(|n| reject(&format!("x:{n}"), "no room"));
        let many: Vec<EventKind> = kinds
            .chain([reject("x:1", "no room"), reject("x:9", "bad image")])
            .collect();
        assert_eq!(
            of_session(&events(many), 3),
            [
                "shapes x:1, x:2, x:3, x:4 and 2 more keep generic kernels: no room",
                "shape x:9 keeps generic kernels: bad image",
                "the 3 oldest events were dropped; what they told is only in the counters",
            ]
        );
    }

    #[test]
    fn kernels_that_do_not_compile_are_told_once_and_with_the_first_reason() {
        let log = events(vec![
            failed("gemm", "kernel `gemm` does not compile for sm_89: line 3"),
            failed("conv", "kernel `conv` does not compile for sm_89: line 9"),
            reject("x:4", "kernel `gemm` does not compile for sm_89: line 3"),
        ]);
        assert_eq!(
            uncompiled(&log).unwrap(),
            "2 kernels could not be compiled; the runs went on without them. \
             The first: kernel `gemm` does not compile for sm_89: line 3"
        );
        assert_eq!(
            of_session(&log, 0),
            ["shape x:4 keeps generic kernels: a kernel could not be compiled"]
        );
        let one = events(vec![failed("conv", "killed")]);
        assert_eq!(
            uncompiled(&one).unwrap(),
            "a kernel could not be compiled; the runs went on without it: conv: killed"
        );
    }

    #[test]
    fn what_the_cache_could_not_do_is_told_and_what_it_was_told_not_to_do_is_not() {
        let mut stats = Stats {
            misses: [("absent", 7), ("off", 2)].into(),
            put_skips: [("read-only", 3), ("off", 1)].into(),
            ..Stats::default()
        };
        let asked = OffReason::Asked;
        assert!(of_cache(&stats, Some(&asked), Some(&asked)).is_empty());
        stats.misses.extend([("digest", 2), ("truncated", 1)]);
        stats.put_skips.insert("io", 4);
        assert_eq!(
            of_cache(&stats, None, None),
            [
                "kernel cache: 3 entries were there and could not be used: 2 damaged, 1 cut off; no run depends on them",
                "kernel cache: 4 kernels were not stored: 4 that could not be written; the next process compiles them again",
            ]
        );
        let full = OffReason::WriteFailed {
            path: PathBuf::from("kernels"),
            error: "no space left on device".into(),
        };
        let lines = of_cache(&stats, None, Some(&full));
        assert!(
            lines.len() == 2 && lines[0].contains("no space left on device"),
            "{lines:?}"
        );
    }

    #[test]
    fn a_code_without_words_is_told_all_the_same() {
        let stats = Stats {
            misses: [("moon", 1)].into(),
            ..Stats::default()
        };
        let lines = of_cache(&stats, None, None);
        assert!(lines[0].contains("could not be used: 1 moon"), "{lines:?}");
    }
}

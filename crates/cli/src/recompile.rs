//! `--fail-on-recompile`: compiles after the first iteration of a shape.
//!
//! What counts is when a compile was asked for, not when it ended. Kernels that are asked for while a model is loaded or
//! by the first run of a shape may be compiled, however long that takes in the background. A kernel that NVRTC compiles
//! because of a later run of a shape is a recompile: whoever serves that shape again and again pays for it late. Kernels
//! that are found in memory or in the cache are no compiles. A shape's second tier is none either, nor are the tiles that
//! are timed for it: they come once, late by design, to what runs well already.

use std::collections::{BTreeMap, BTreeSet};

use bespoke::ErrorKind;
use bespoke::runtime::EventKind;
use bespoke::runtime::event::Cause;
use bespoke::runtime::service::Origin;

use crate::failure::Failure;

/// What is known of runs and compiles so far.
#[derive(Debug, Default)]
pub(crate) struct Recompiles {
    /// Runs that were the first of their shape.
    first: BTreeSet<u64>,
    /// The run that asked for a class last.
    asked: BTreeMap<String, u64>,
    /// What was compiled for runs: kernel, class, run.
    compiled: Vec<(String, String, u64)>,
}

impl Recompiles {
    /// Takes an event into account.
    pub(crate) fn hear(&mut self, event: &EventKind) {
        match event {
            EventKind::Run {
                run,
                new_shape: true,
                ..
            } => {
                self.first.insert(*run);
            }
            EventKind::Enqueue {
                class,
                cause,
                run,
                tier,
                ..
            } => match (cause, run) {
                (Cause::Run, Some(run)) if *tier != 2 => {
                    self.asked.insert(class.clone(), *run);
                }
                _ => {
                    self.asked.remove(class);
                }
            },
            EventKind::Refine { class, .. } => {
                self.asked.remove(class);
            }
            EventKind::Compile {
                origin: Origin::Compiled | Origin::Replayed,
                class: Some(class),
                spec,
                ..
            } => {
                if let Some(run) = self.asked.get(class) {
                    self.compiled.push((spec.clone(), class.clone(), *run));
                }
            }
            _ => {}
        }
    }

    /// Why the command fails, if it does. Every run must have been heard of.
    pub(crate) fn failure(&self) -> Option<Failure> {
        let mut late = self.compiled.iter().filter(|c| !self.first.contains(&c.2));
        let (kernel, class, run) = late.next()?;
        let more = match late.count() {
            0 => String::new(),
            more => format!(", and {more} more"),
        };
        let message = format!(
            "kernel `{kernel}` was compiled for shape {class} because of run {}, which was not the first of its shape{more}",
            run + 1
        );
        let help = "use --specialize lazy or eager, which compile for a shape when it comes first, or a warm cache";
        Some(Failure::new(ErrorKind::Compile, message, help))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(run: u64, new_shape: bool) -> EventKind {
        EventKind::Run {
            run,
            shape: "N=1".into(),
            generic: 1,
            specialized: 0,
            graph: bespoke::runtime::GraphUse::Replayed,
            latency_us: 1,
            bind_us: 0,
            record_us: 0,
            block_written: false,
            new_shape,
            graph_reason: bespoke::runtime::GraphReason::MadeAtLoad,
            dims: vec![],
            lane: 0,
            begin_us: 0,
            wait_us: 0,
            tier: 0,
        }
    }

    fn enqueue(cause: Cause, run: Option<u64>) -> EventKind {
        EventKind::Enqueue {
            class: "N=1".into(),
            kernels: 1,
            priority: 0,
            cause,
            run,
            tier: 1,
            expected: None,
        }
    }

    fn compile(origin: Origin) -> EventKind {
        EventKind::Compile {
            kernel: "00".into(),
            origin,
            miss: None,
            micros: 1,
            spec: "map".into(),
            class: Some("N=1".into()),
            thread: String::new(),
            begin_us: 0,
            wall_us: 1,
            stretched: None,
        }
    }

    fn verdict(events: &[EventKind]) -> Option<String> {
        let mut recompiles = Recompiles::default();
        for event in events {
            recompiles.hear(event);
        }
        recompiles.failure().map(|f| f.to_string())
    }

    #[test]
    fn a_compile_that_the_first_run_asked_for_may_end_late() {
        let events = [
            enqueue(Cause::Run, Some(0)),
            run(0, true),
            run(1, false),
            compile(Origin::Compiled),
        ];
        assert_eq!(verdict(&events), None);
        let loading = [enqueue(Cause::Load, None), compile(Origin::Compiled)];
        assert_eq!(verdict(&loading), None);
        let mut second = enqueue(Cause::Run, Some(40));
        if let EventKind::Enqueue { tier, .. } = &mut second {
            *tier = 2;
        }
        let second = [run(0, true), second, compile(Origin::Compiled)];
        assert_eq!(verdict(&second), None);
    }

    #[test]
    fn a_compile_that_a_later_run_asked_for_fails() {
        let events = |origin| {
            [
                run(0, true),
                enqueue(Cause::Run, Some(1)),
                compile(origin),
                compile(origin),
                run(1, false),
            ]
        };
        let words = verdict(&events(Origin::Compiled)).unwrap();
        assert!(
            words.contains("`map`") && words.contains("run 2") && words.contains("1 more"),
            "{words}"
        );
        assert_eq!(verdict(&events(Origin::Cache)), None);
    }
}

//! What happened, and the counters made of it.
//!
//! Run threads, compile threads and the director append to one [`Log`]; each event gets a number and a time. The schema
//! carries a version; fields are only ever added within one. Statistics, command output and traces read this stream, and
//! [`feed`](mod@crate::feed)s carry it to listeners as it happens.
//!
//! Times are microseconds since the session began to load. An event is written when what it tells of is over; where that
//! took time, the event says since when or how long.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bespoke_policy::Gain;
use serde::Serialize;

use crate::feed::Feed;

/// Version of the schema.
pub const VERSION: u32 = 1;

/// So many events are kept; older ones are dropped and counted.
const KEPT: usize = 1 << 16;

/// Something that happened.
#[derive(Clone, Debug, Serialize)]
pub struct Event {
    /// Version of the schema.
    pub v: u32,
    /// Number of the event in its session.
    pub seq: u64,
    /// Microseconds since the session began to load.
    pub at_us: u64,
    /// Number of the segment that it is about, if the model is no single graph.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub segment: Option<usize>,
    /// What it was.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// Why kernels were asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The session loads.
    Load,
    /// A run came in.
    Run,
    /// Somebody asked for a shape's program before it occurred.
    Wish,
    /// Another program came or went, and the strategy had this one waiting.
    Turn,
}

/// What the strategy expected of specialising a class when it was its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Expected {
    /// Runs of the class in an hour, at the rate of late.
    pub runs_per_hour: u64,
    /// Microseconds that a run saves.
    pub saves_us: u64,
    /// Microseconds of compiler time.
    pub cost_us: u64,
}

impl From<Gain> for Expected {
    fn from(gain: Gain) -> Expected {
        Expected {
            runs_per_hour: gain.runs_per_hour,
            saves_us: gain.saves_us,
            cost_us: gain.cost_us,
        }
    }
}

/// A tile of a step and what it takes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Timing {
    /// The tile.
    pub tile: String,
    /// Device time in microseconds, a median.
    pub us: f64,
}

/// What happened.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[allow(
    missing_docs,
    reason = "fields are named in the schema's own words; times are microseconds"
)]
pub enum EventKind {
    /// A session begins: the first event of each. `inputs` are in the model's order.
    Started {
        model: String,
        device: String,
        strategy: String,
        arithmetic: String,
        inputs: Vec<String>,
    },
    /// The model is ready to run.
    Loaded {
        import_us: u64,
        passes_us: u64,
        plan_us: u64,
        compile_us: u64,
        setup_us: u64,
        weights_us: u64,
        total_us: u64,
        steps: usize,
        generic_kernels: usize,
        weight_bytes: u64,
    },
    /// A run ended. `dims` are the extents of every input in the model's order. It was called at `begin_us`; the first
    /// `wait_us` of its `latency_us` passed before it had a lane. `tier` is that of the program: 0 is the generic one.
    Run {
        run: u64,
        shape: String,
        generic: usize,
        specialized: usize,
        graph: crate::request::GraphUse,
        latency_us: u64,
        bind_us: u64,
        record_us: u64,
        block_written: bool,
        new_shape: bool,
        graph_reason: crate::request::GraphReason,
        dims: Vec<Vec<i64>>,
        lane: u64,
        begin_us: u64,
        wait_us: u64,
        tier: u8,
    },
    /// The model is no single graph: it was cut into so many segments, for these reasons.
    Segmented {
        segments: usize,
        cuts: Vec<CutReason>,
    },
    /// A segment ran, once, as a part of a run. Fields as there; `run` counts the runs of this segment.
    SegmentRun {
        run: u64,
        shape: String,
        generic: usize,
        specialized: usize,
        graph: crate::request::GraphUse,
        graph_reason: crate::request::GraphReason,
        latency_us: u64,
        record_us: u64,
        block_written: bool,
        new_shape: bool,
        lane: u64,
        begin_us: u64,
        tier: u8,
    },
    /// The policy answered an observation.
    Decision {
        shape: String,
        action: &'static str,
        reason: &'static str,
    },
    /// The session began with what earlier ones saw: so many shapes are known, and so many programs were asked for since
    /// all of their kernels were there; then so many second tiers, which come beside the path if they take no compiling.
    Recall {
        known: usize,
        wished: usize,
        second_tiers: usize,
    },
    /// The shapes that occurred could not be written down for the next session.
    LearnFailed { reason: String },
    /// The model was planned anew for a class of one shape, which takes `steps` steps instead of `steps_before`.
    Replan {
        class: String,
        steps_before: usize,
        steps: usize,
        setup_steps: usize,
        micros: u64,
    },
    /// A class keeps the program of its first tier, for a reason with a stable code.
    Keep {
        class: String,
        reason: &'static str,
        detail: String,
    },
    /// A class between shapes in service got a program without a compile, of specialised kernels that are there and of
    /// generic ones for the other steps; or none, because there was no specialised kernel for any step.
    Borrow {
        class: String,
        specialized: usize,
        generic: usize,
        micros: u64,
    },
    /// A class's kernels were asked for; `run` is the run that caused it, if one did.
    Enqueue {
        class: String,
        kernels: usize,
        priority: i64,
        cause: Cause,
        run: Option<u64>,
        tier: u8,
        /// What is expected of them, where that decides the order.
        #[serde(skip_serializing_if = "Option::is_none")]
        expected: Option<Expected>,
    },
    /// The compiles of a class were called off; so many kernels had no answer yet.
    Cancel {
        class: String,
        kernels: usize,
        reason: &'static str,
        tier: u8,
    },
    /// A kernel is there: `kernel` is its key in the cache, `spec` what it is. The thread `thread` looked for it and
    /// compiled it from `begin_us` for `wall_us`, `micros` of which were the compiler's.
    Compile {
        kernel: String,
        origin: crate::service::Origin,
        miss: Option<&'static str>,
        micros: u64,
        spec: String,
        class: Option<String>,
        thread: String,
        begin_us: u64,
        wall_us: u64,
        /// The factor in `micros`, where compile times are stretched; see [`crate::stretch`].
        #[serde(skip_serializing_if = "Option::is_none")]
        stretched: Option<crate::stretch::CompileCost>,
    },
    /// A kernel is not.
    CompileFailed {
        kernel: String,
        reason: String,
        class: Option<String>,
    },
    /// A class's program serves runs from now on; one of the second tier takes the place of the first.
    Install {
        class: String,
        kernels: usize,
        compile_us: u64,
        install_us: u64,
        tier: u8,
        /// Whether it takes the place of another program of its class.
        replaces: bool,
        /// Whether it has the steps of the one whose place it takes, with tiles that were timed.
        refined: bool,
    },
    /// A class that stays hot is refined: `places` kinds of its steps, `steps` in all, cost most of those whose tiles may be
    /// improved, as a survey found that took `survey_us` of device time. So many other kernels are candidates for them, and
    /// so many have to be found or compiled for that.
    Refine {
        class: String,
        tier: u8,
        places: usize,
        steps: usize,
        candidates: usize,
        kernels: usize,
        priority: i64,
        survey_us: u64,
    },
    /// Kernels of a kind of step were timed beside each other: `step` is the first of `steps` of them, `kernel` what they
    /// are. The first of the tiles is the present one, and `won` says which is the fastest, 0 if none is clearly faster.
    Timed {
        class: String,
        step: String,
        steps: usize,
        kernel: String,
        tiles: Vec<Timing>,
        won: usize,
        device_us: u64,
        micros: u64,
    },
    /// A candidate is dropped and not tried again: its kernel did not compile or, if it is `compiled`, the device does not
    /// take it.
    Untimed {
        class: String,
        kernel: String,
        reason: String,
        compiled: bool,
    },
    /// A refinement is over, for a reason with a stable code: so many kinds of steps were timed and have other tiles now,
    /// which is expected to save so much of a run.
    Refined {
        class: String,
        shape: String,
        reason: &'static str,
        detail: String,
        timed: u64,
        won: u64,
        saves_us: f64,
        device_us: u64,
        micros: u64,
    },
    /// A class's program was tried on a live run beside the one in service.
    Trial {
        class: String,
        passed: bool,
        max_abs: f64,
        served_us: f64,
        candidate_us: f64,
        tier: u8,
    },
    /// A class will have no program of this tier.
    Reject {
        class: String,
        reason: String,
        tier: u8,
    },
    /// A class's program is gone.
    Evict { class: String, reason: &'static str },
    /// Memory ran out: idle lanes and specialised programs were dropped, and the run was tried once more.
    Relieve {
        reason: String,
        programs: usize,
        bytes: u64,
    },
    /// A graph was made or changed to hold a program. Of its `edges` so many are `programmatic`; `plain` says why those
    /// that might be are not.
    Record {
        class: String,
        nodes: usize,
        edges: usize,
        programmatic: usize,
        plain: Option<&'static str>,
        updated: bool,
        micros: u64,
        on_path: bool,
        lane: u64,
    },
    /// A lane was added.
    Lane { lanes: usize },
    /// A lane's arena grew.
    Grow { bytes: u64, micros: u64, lane: u64 },
}

/// Why a model is no single graph: what the host has to know, and for which node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CutReason {
    /// A stable code: `if`, `loop`, `scan`, `extent`.
    pub kind: &'static str,
    /// Name of the node.
    pub node: String,
}

/// Counters of a session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Stats {
    pub runs: u64,
    pub shapes: u64,
    pub graph_replayed: u64,
    pub graph_recorded: u64,
    pub graph_off: u64,
    pub generic_runs: u64,
    pub specialized_runs: u64,
    pub programs: u64,
    pub installs: u64,
    /// Those of them that were of the second tier, and the classes that keep their first.
    pub second_tiers: u64,
    pub second_tiers_kept: u64,
    /// Runs that programs of the second tier served, of `specialized_runs`.
    pub second_tier_runs: u64,
    /// Programs for shapes between others, made of kernels that were there.
    pub borrowed: u64,
    /// Installs of programs with tiles that were timed. Classes that were refined, kinds of steps whose
    /// tiles were timed and those that have another tile since, and the device time that it took.
    pub refined_installs: u64,
    pub refinements: u64,
    pub tiles_timed: u64,
    pub tiles_won: u64,
    pub refine_device_us: u64,
    pub rejects: u64,
    pub evictions: u64,
    pub cancels: u64,
    pub reliefs: u64,
    pub trials: u64,
    pub kernels_compiled: u64,
    pub kernels_from_cache: u64,
    pub kernels_from_memory: u64,
    pub kernels_failed: u64,
    pub kernels_replayed: u64,
    /// Kernels whose part in `compile_us` was stretched; see [`crate::stretch`].
    pub kernels_stretched: u64,
    pub compile_us: u64,
    pub lanes: u64,
    pub arena_bytes: u64,
    pub weight_bytes: u64,
    /// Device memory that the session holds, as its limit counts it: kernels and graphs are the driver's.
    pub memory_bytes: u64,
    /// The most that it held at a time.
    pub peak_memory_bytes: u64,
    pub block_writes: u64,
    pub events_dropped: u64,
    /// Segments of the model; 1 if it is a single graph.
    pub segments: u64,
    /// Segments that ran, over all runs, where the model has several.
    pub segment_runs: u64,
    /// Why it has several: how often each reason holds, by its code.
    pub cuts: BTreeMap<&'static str, u64>,
}

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    events: VecDeque<Event>,
    stats: Stats,
    feeds: Vec<Feed>,
}

/// The stream of a session. A clone writes to the same stream.
#[derive(Clone, Debug)]
pub struct Log {
    start: Instant,
    inner: Arc<Mutex<Inner>>,
    segment: Option<usize>,
}

impl Log {
    pub(crate) fn new(start: Instant, feeds: Vec<Feed>) -> Log {
        Log {
            start,
            inner: Arc::new(Mutex::new(Inner {
                feeds,
                stats: Stats {
                    segments: 1,
                    ..Stats::default()
                },
                ..Inner::default()
            })),
            segment: None,
        }
    }

    /// The same stream for what a segment does.
    pub(crate) fn of_segment(&self, number: usize) -> Log {
        Log {
            segment: Some(number),
            ..self.clone()
        }
    }

    /// Hands every event from now on to a feed as well.
    pub(crate) fn subscribe(&self, feed: Feed) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.feeds.push(feed);
    }

    /// A moment on the log's clock; 0 if it was before the session.
    pub(crate) fn micros_at(&self, moment: Instant) -> u64 {
        moment.saturating_duration_since(self.start).as_micros() as u64
    }

    /// Microseconds since the session began to load.
    pub fn now_us(&self) -> u64 {
        self.start.elapsed().as_micros() as u64
    }

    pub(crate) fn push(&self, kind: EventKind) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        // under the lock, so that times rise with the numbers
        let at_us = self.now_us();
        inner.stats.count(&kind);
        let seq = inner.next;
        inner.next += 1;
        if inner.events.len() == KEPT {
            inner.events.pop_front();
            inner.stats.events_dropped += 1;
        }
        let event = Event {
            v: VERSION,
            seq,
            at_us,
            segment: self.segment,
            kind,
        };
        inner.feeds.retain(|feed| feed.send(&event));
        inner.events.push_back(event);
    }

    /// Every event that is still kept.
    pub fn events(&self) -> Vec<Event> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.events.iter().cloned().collect()
    }

    /// The counters.
    pub fn stats(&self) -> Stats {
        self.inner
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .stats
            .clone()
    }
}

impl Stats {
    fn count(&mut self, kind: &EventKind) {
        use crate::request::GraphUse;
        use crate::service::Origin;
        match kind {
            EventKind::Loaded { weight_bytes, .. } => self.weight_bytes = *weight_bytes,
            EventKind::Segmented { segments, cuts } => {
                self.segments = *segments as u64;
                for cut in cuts {
                    *self.cuts.entry(cut.kind).or_default() += 1;
                }
            }
            EventKind::SegmentRun { block_written, .. } => {
                self.segment_runs += 1;
                self.block_writes += u64::from(*block_written);
            }
            EventKind::Run {
                graph,
                generic,
                block_written,
                new_shape,
                tier,
                ..
            } => {
                self.runs += 1;
                self.second_tier_runs += u64::from(*tier == 2);
                self.shapes += u64::from(*new_shape);
                match graph {
                    GraphUse::Replayed => self.graph_replayed += 1,
                    GraphUse::Recorded => self.graph_recorded += 1,
                    GraphUse::Off => self.graph_off += 1,
                }
                if *generic > 0 {
                    self.generic_runs += 1;
                } else {
                    self.specialized_runs += 1;
                }
                self.block_writes += u64::from(*block_written);
            }
            EventKind::Compile {
                origin,
                micros,
                stretched,
                ..
            } => {
                match origin {
                    Origin::Memory => self.kernels_from_memory += 1,
                    Origin::Cache => self.kernels_from_cache += 1,
                    Origin::Compiled => self.kernels_compiled += 1,
                    Origin::Replayed => self.kernels_replayed += 1,
                }
                self.kernels_stretched += u64::from(stretched.is_some());
                self.compile_us += micros;
            }
            EventKind::CompileFailed { .. } => self.kernels_failed += 1,
            EventKind::Install {
                tier,
                replaces,
                refined,
                ..
            } => {
                self.installs += 1;
                self.programs += u64::from(!replaces);
                self.refined_installs += u64::from(*refined);
                self.second_tiers += u64::from(*tier == 2 && !refined);
            }
            EventKind::Borrow { specialized, .. } => {
                let made = u64::from(*specialized > 0);
                self.borrowed += made;
                self.programs += made;
            }
            EventKind::Timed { won, .. } => {
                self.tiles_timed += 1;
                self.tiles_won += u64::from(*won > 0);
            }
            EventKind::Refined { device_us, .. } => {
                self.refinements += 1;
                self.refine_device_us += device_us;
            }
            EventKind::Keep { .. } => self.second_tiers_kept += 1,
            EventKind::Reject { .. } => self.rejects += 1,
            EventKind::Evict { .. } => {
                self.evictions += 1;
                self.programs = self.programs.saturating_sub(1);
            }
            // two threads may tell of their lanes in the other order; the most there were is what counts
            EventKind::Lane { lanes } => self.lanes = self.lanes.max(*lanes as u64),
            EventKind::Grow { bytes, .. } => self.arena_bytes += bytes,
            EventKind::Cancel { .. } => self.cancels += 1,
            EventKind::Relieve { .. } => self.reliefs += 1,
            EventKind::Trial { .. } => self.trials += 1,
            EventKind::Started { .. }
            | EventKind::Recall { .. }
            | EventKind::LearnFailed { .. }
            | EventKind::Decision { .. }
            | EventKind::Replan { .. }
            | EventKind::Refine { .. }
            | EventKind::Untimed { .. }
            | EventKind::Enqueue { .. }
            | EventKind::Record { .. } => {}
        }
    }
}

#[cfg(test)]
#[path = "event_tests.rs"]
pub(crate) mod tests;

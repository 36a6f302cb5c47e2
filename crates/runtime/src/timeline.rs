//! A session's events as a timeline that ui.perfetto.dev and `chrome://tracing` open.
//!
//! The format is the JSON array of the Trace Event Format (Google, "Trace Event Format", 2016). [`chrome`] is a pure
//! function of the events: what it draws is only what they say.
//!
//! One process a session ([`EventKind::Started`] begins the next one), and in it a track for
//!
//! - loading: import, passes, plan, kernels, setup;
//! - each lane: runs, with the graph that a run had to record and growth of the arena inside of them;
//! - each compile thread: kernels, compiled or found;
//! - the director: installs, tiles that are timed, graphs made beside the path, and as moments what was asked for, called off, refused,
//!   evicted.
//!
//! Time that a run waits before it has a lane is a slice of its own above the tracks. Two counters: programs in service,
//! kernels that are wanted and not there yet.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::event::{Event, EventKind};
use crate::feed::Progress;

/// Tracks of a process, by number.
const LOAD: u64 = 1;
const DIRECTOR: u64 = 2;
const FIRST_LANE: u64 = 100;
const FIRST_THREAD: u64 = 10_000;

/// One session's tracks under way.
#[derive(Default)]
struct Process {
    id: u64,
    out: Vec<Value>,
    threads: Vec<String>,
    /// Compiles that were drawn: several may hear of the same one.
    compiles: BTreeSet<(String, u64, String)>,
    tracks: BTreeMap<u64, String>,
    progress: Progress,
    programs: i64,
}

impl Process {
    fn new(id: u64, name: &str) -> Process {
        let mut process = Process {
            id,
            ..Process::default()
        };
        let meta = json!({"ph": "M", "pid": id, "name": "process_name", "args": {"name": name}});
        process.out.push(meta);
        process
    }

    fn slice(&mut self, track: u64, name: &str, begin: u64, micros: u64, args: &Value) {
        let pid = self.id;
        self.out.push(json!({
            "ph": "X", "pid": pid, "tid": track, "ts": begin, "dur": micros, "name": name, "args": args,
        }));
    }

    fn moment(&mut self, at: u64, name: &str, args: &Value) {
        self.track(DIRECTOR, "director");
        let pid = self.id;
        self.out.push(json!({
            "ph": "i", "s": "t", "pid": pid, "tid": DIRECTOR, "ts": at, "name": name, "args": args,
        }));
    }

    fn counter(&mut self, at: u64, name: &str, value: i64) {
        let pid = self.id;
        self.out
            .push(json!({"ph": "C", "pid": pid, "ts": at, "name": name, "args": {"count": value}}));
    }

    fn track(&mut self, id: u64, name: &str) -> u64 {
        self.tracks.entry(id).or_insert_with(|| name.to_owned());
        id
    }

    fn lane(&mut self, number: u64) -> u64 {
        self.track(FIRST_LANE + number, &format!("lane {number}"))
    }

    fn thread(&mut self, name: &str) -> u64 {
        let at = self.threads.iter().position(|t| t == name);
        let at = at.unwrap_or_else(|| {
            self.threads.push(name.to_owned());
            self.threads.len() - 1
        });
        self.track(FIRST_THREAD + at as u64, name)
    }

    fn add(&mut self, event: &Event) {
        let at = event.at_us;
        if self.progress.add(&event.kind) {
            let open = self.progress.wanted.saturating_sub(self.progress.done) as i64;
            self.counter(at, "kernels wanted", open);
        }
        match &event.kind {
            EventKind::Started { .. } | EventKind::Decision { .. } => {}
            EventKind::Loaded {
                import_us,
                passes_us,
                plan_us,
                compile_us,
                setup_us,
                total_us,
                steps,
                generic_kernels,
                weight_bytes,
                ..
            } => {
                let args = json!({"steps": steps, "kernels": generic_kernels, "weight_bytes": weight_bytes});
                let track = self.track(LOAD, "load");
                self.slice(
                    track,
                    "load",
                    at.saturating_sub(*total_us),
                    *total_us,
                    &args,
                );
                let mut begin = at.saturating_sub(*total_us);
                for (name, micros) in [
                    ("import", import_us),
                    ("passes", passes_us),
                    ("plan", plan_us),
                    ("kernels", compile_us),
                    ("setup", setup_us),
                ] {
                    let micros = (*micros).min(at.saturating_sub(begin));
                    self.slice(track, name, begin, micros, &json!({}));
                    begin += micros;
                }
            }
            EventKind::Run {
                run,
                shape,
                generic,
                specialized,
                graph,
                latency_us,
                bind_us,
                record_us,
                block_written,
                new_shape,
                graph_reason,
                dims: _,
                lane,
                begin_us,
                wait_us,
                tier,
            } => {
                let begin = begin_us + wait_us;
                let args = json!({
                    "run": run, "shape": shape, "generic": generic, "specialized": specialized,
                    "graph": graph, "graph_reason": graph_reason, "latency_us": latency_us,
                    "wait_us": wait_us, "bind_us": bind_us, "record_us": record_us,
                    "block_written": block_written, "new_shape": new_shape, "tier": tier,
                });
                let track = self.lane(*lane);
                let micros = latency_us.saturating_sub(*wait_us);
                self.slice(track, &format!("run {shape}"), begin, micros, &args);
                if *wait_us > 0 {
                    let pid = self.id;
                    for (ph, ts) in [("b", *begin_us), ("e", begin)] {
                        self.out.push(json!({
                            "ph": ph, "cat": "wait", "id": run, "pid": pid, "tid": DIRECTOR, "ts": ts,
                            "name": "wait for a lane", "args": {"run": run},
                        }));
                    }
                }
            }
            EventKind::Segmented { segments, cuts } => {
                let args = json!({"segments": segments, "cuts": cuts});
                self.moment(at, "several segments", &args);
            }
            // inside the slice of its run
            EventKind::SegmentRun {
                run,
                shape,
                generic,
                specialized,
                graph,
                graph_reason,
                latency_us,
                record_us,
                block_written,
                new_shape,
                lane,
                begin_us,
                tier,
            } => {
                let args = json!({
                    "run": run, "shape": shape, "generic": generic, "specialized": specialized,
                    "graph": graph, "graph_reason": graph_reason, "record_us": record_us,
                    "block_written": block_written, "new_shape": new_shape, "tier": tier,
                });
                let number = event.segment.unwrap_or_default();
                let track = self.lane(*lane);
                self.slice(
                    track,
                    &format!("segment {number}"),
                    *begin_us,
                    *latency_us,
                    &args,
                );
            }
            EventKind::Enqueue {
                class,
                kernels,
                priority,
                cause,
                run,
                tier,
                expected,
            } => {
                let mut args = json!({
                    "kernels": kernels, "priority": priority, "cause": cause, "run": run, "tier": tier,
                });
                if let Some(expected) = expected {
                    args["expected"] = json!(expected);
                }
                self.moment(at, &format!("want {class}"), &args);
            }
            EventKind::Replan {
                class,
                steps_before,
                steps,
                setup_steps,
                micros,
            } => {
                let track = self.track(DIRECTOR, "director");
                let args = json!({
                    "steps_before": steps_before, "steps": steps, "setup_steps": setup_steps,
                });
                let begin = at.saturating_sub(*micros);
                self.slice(track, &format!("plan {class} anew"), begin, *micros, &args);
            }
            EventKind::Keep {
                class,
                reason,
                detail,
            } => {
                let args = json!({"reason": reason, "detail": detail});
                self.moment(at, &format!("keep {class}"), &args);
            }
            EventKind::Borrow {
                class,
                specialized,
                generic,
                micros,
            } => {
                let args = json!({"specialized": specialized, "generic": generic});
                let track = self.track(DIRECTOR, "director");
                let begin = at.saturating_sub(*micros);
                self.slice(track, &format!("borrow {class}"), begin, *micros, &args);
                if *specialized > 0 {
                    self.programs += 1;
                    self.counter(at, "programs", self.programs);
                }
            }
            EventKind::Cancel {
                class,
                kernels,
                reason,
                tier,
            } => {
                let args = json!({"kernels": kernels, "reason": reason, "tier": tier});
                self.moment(at, &format!("call off {class}"), &args);
            }
            EventKind::Compile {
                kernel,
                origin,
                miss,
                micros,
                spec,
                class,
                thread,
                begin_us,
                wall_us,
                stretched,
            } => {
                let known = (thread.clone(), *begin_us, kernel.clone());
                if self.compiles.insert(known) {
                    let track = self.thread(thread);
                    let mut args = json!({
                        "key": kernel, "origin": origin, "miss": miss, "compiler_us": micros, "class": class,
                    });
                    if let Some(factor) = stretched {
                        args["stretched"] = json!(factor);
                    }
                    self.slice(track, spec, *begin_us, *wall_us, &args);
                }
            }
            EventKind::CompileFailed {
                kernel,
                reason,
                class,
            } => {
                let args = json!({"reason": reason, "class": class});
                self.moment(at, &format!("no kernel {kernel}"), &args);
            }
            EventKind::Install {
                class,
                kernels,
                compile_us,
                install_us,
                tier,
                replaces,
                refined,
            } => {
                let track = self.track(DIRECTOR, "director");
                let args = json!({
                    "kernels": kernels, "compile_us": compile_us, "tier": tier, "replaces": replaces,
                    "refined": refined,
                });
                let begin = at.saturating_sub(*install_us);
                self.slice(
                    track,
                    &format!("install {class}"),
                    begin,
                    *install_us,
                    &args,
                );
                if !replaces {
                    self.programs += 1;
                    self.counter(at, "programs", self.programs);
                }
            }
            EventKind::Refine {
                class,
                tier,
                places,
                steps,
                candidates,
                kernels,
                priority,
                survey_us,
            } => {
                let args = json!({
                    "tier": tier, "places": places, "steps": steps, "candidates": candidates, "kernels": kernels,
                    "priority": priority, "survey_us": survey_us,
                });
                self.moment(at, &format!("refine {class}"), &args);
            }
            EventKind::Timed {
                class,
                step,
                steps,
                kernel,
                tiles,
                won,
                device_us,
                micros,
            } => {
                let track = self.track(DIRECTOR, "director");
                let args = json!({
                    "class": class, "steps": steps, "kernel": kernel, "tiles": tiles, "won": won, "device_us": device_us,
                });
                let begin = at.saturating_sub(*micros);
                self.slice(
                    track,
                    &format!("time tiles of {step}"),
                    begin,
                    *micros,
                    &args,
                );
            }
            EventKind::Untimed {
                class,
                kernel,
                reason,
                compiled,
            } => {
                let args = json!({"class": class, "reason": reason, "compiled": compiled});
                self.moment(at, &format!("not timed: {kernel}"), &args);
            }
            EventKind::Refined {
                class,
                shape,
                reason,
                detail,
                timed,
                won,
                saves_us,
                device_us,
                micros,
            } => {
                let args = json!({
                    "shape": shape, "reason": reason, "detail": detail, "timed": timed, "won": won, "saves_us": saves_us,
                    "device_us": device_us, "micros": micros,
                });
                self.moment(at, &format!("refined {class}"), &args);
            }
            EventKind::Trial {
                class,
                passed,
                max_abs,
                served_us,
                candidate_us,
                tier,
            } => {
                let args = json!({
                    "passed": passed, "max_abs": max_abs, "served_us": served_us, "candidate_us": candidate_us,
                    "tier": tier,
                });
                self.moment(at, &format!("try {class}"), &args);
            }
            EventKind::Reject {
                class,
                reason,
                tier,
            } => {
                let args = json!({"reason": reason, "tier": tier});
                self.moment(at, &format!("refuse {class}"), &args);
            }
            EventKind::Evict { class, reason } => {
                self.moment(at, &format!("evict {class}"), &json!({"reason": reason}));
                self.programs = (self.programs - 1).max(0);
                self.counter(at, "programs", self.programs);
            }
            EventKind::Relieve {
                reason,
                programs,
                bytes,
            } => {
                let args = json!({"reason": reason, "programs": programs, "bytes": bytes});
                self.moment(at, "make room", &args);
            }
            EventKind::Record {
                class,
                nodes,
                updated,
                micros,
                on_path,
                lane,
                ..
            } => {
                let track = match on_path {
                    true => self.lane(*lane),
                    false => self.track(DIRECTOR, "director"),
                };
                let args = json!({"nodes": nodes, "updated": updated, "lane": lane});
                let begin = at.saturating_sub(*micros);
                self.slice(track, &format!("graph {class}"), begin, *micros, &args);
            }
            EventKind::Recall {
                known,
                wished,
                second_tiers,
            } => {
                let args = json!({"known": known, "wished": wished, "second_tiers": second_tiers});
                self.moment(at, "recall", &args);
            }
            EventKind::LearnFailed { reason } => {
                self.moment(at, "not learned", &json!({"reason": reason}));
            }
            EventKind::Lane { lanes } => self.moment(at, "new lane", &json!({"lanes": lanes})),
            EventKind::Grow {
                bytes,
                micros,
                lane,
            } => {
                let track = self.lane(*lane);
                let begin = at.saturating_sub(*micros);
                self.slice(
                    track,
                    "grow the arena",
                    begin,
                    *micros,
                    &json!({"bytes": bytes}),
                );
            }
        }
    }

    fn finish(mut self) -> Vec<Value> {
        let pid = self.id;
        for (track, name) in &self.tracks {
            for (meta, args) in [
                ("thread_name", json!({"name": name})),
                ("thread_sort_index", json!({"sort_index": track})),
            ] {
                self.out
                    .push(json!({"ph": "M", "pid": pid, "tid": track, "name": meta, "args": args}));
            }
        }
        self.out
    }
}

/// The timeline of these events, in the order in which they were numbered, as a JSON document.
pub fn chrome(events: &[Event]) -> String {
    let mut done: Vec<Value> = Vec::new();
    let mut process: Option<Process> = None;
    let mut sessions = 0;
    for event in events {
        let begun = match &event.kind {
            EventKind::Started { model, device, .. } => Some(format!("{model} on {device}")),
            // the oldest events may be missing
            _ if process.is_none() => Some("session".to_owned()),
            _ => None,
        };
        if let Some(name) = begun {
            done.extend(process.take().into_iter().flat_map(Process::finish));
            sessions += 1;
            process = Some(Process::new(sessions, &name));
        }
        if let Some(process) = &mut process {
            process.add(event);
        }
    }
    done.extend(process.into_iter().flat_map(Process::finish));
    // one event a line: long, and still readable and diffable
    let lines: Vec<String> = done.iter().map(Value::to_string).collect();
    format!(
        "{{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n{}\n]}}\n",
        lines.join(",\n")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::tests::one_of_each;

    #[test]
    fn a_timeline_of_one_event_of_each_kind() {
        let text = chrome(&one_of_each());
        let golden = include_str!("timeline.golden.json");
        if text != golden && std::env::var_os("BESPOKE_REGENERATE").is_some() {
            std::fs::write(
                concat!(env!("CARGO_MANIFEST_DIR"), "/src/timeline.golden.json"),
                &text,
            )
            .unwrap();
            return;
        }
        assert_eq!(text, golden);
    }

    #[test]
    fn each_session_is_a_process() {
        let mut events = one_of_each();
        events.extend(one_of_each());
        let value: Value = serde_json::from_str(&chrome(&events)).unwrap();
        let pids: BTreeSet<u64> = value["traceEvents"]
            .as_array()
            .unwrap()
            .iter()
            .map(|e| e["pid"].as_u64().unwrap())
            .collect();
        assert_eq!(pids, [1, 2].into());
        assert_eq!(
            chrome(&[]),
            "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n\n]}\n"
        );
    }
}

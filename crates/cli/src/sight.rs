//! What is written down of sessions while they run: the event stream, the timeline, the shapes that came.
//!
//! One thread hears all sessions of a command and writes. A file that cannot be made is a wrong command line; a file that
//! cannot be written any more is told once, at the end, and the command goes on without it.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use bespoke::ErrorKind;
use bespoke::runtime::trace::Recorder;
use bespoke::runtime::{Event, Feed, Heard, Subscription, feed, timeline};
use clap::Args;

use crate::failure::Failure;
use crate::recompile::Recompiles;

/// Flags about what is written down.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "What happens")]
pub(crate) struct SightOptions {
    /// Write every event there as it happens, as JSON lines
    #[arg(long, value_name = "FILE.jsonl")]
    pub(crate) events: Option<PathBuf>,
    /// Write a timeline there, in the format that ui.perfetto.dev opens
    #[arg(long, value_name = "FILE.json")]
    pub(crate) timeline: Option<PathBuf>,
}

/// How long the thread waits for events before it looks whether the command is over.
const GLANCE: Duration = Duration::from_millis(100);

type Out = BufWriter<File>;

/// A file under way, until it cannot be written.
struct Page<W> {
    path: PathBuf,
    out: Option<W>,
}

impl<W> Page<W> {
    /// Writes; after a failure nothing more is written, and why is told.
    fn write(&mut self, told: &mut Vec<String>, write: impl FnOnce(&mut W) -> std::io::Result<()>) {
        let Some(out) = &mut self.out else { return };
        if let Err(error) = write(out) {
            self.out = None;
            let path = self.path.display();
            told.push(format!("{path} cannot be written and ends here: {error}"));
        }
    }
}

/// What the thread keeps.
struct Scribe {
    events: Option<Page<Out>>,
    trace: Option<Page<Recorder<Out>>>,
    timeline: Option<(PathBuf, Vec<Event>)>,
    recompiles: Recompiles,
    told: Vec<String>,
}

impl Scribe {
    fn hear(&mut self, event: Event) {
        if let Some(page) = &mut self.events {
            page.write(&mut self.told, |out| {
                serde_json::to_writer(&mut *out, &event)?;
                out.write_all(b"\n")
            });
        }
        if let Some(page) = &mut self.trace {
            page.write(&mut self.told, |recorder| recorder.hear(&event));
        }
        self.recompiles.hear(&event.kind);
        if let Some((_, events)) = &mut self.timeline {
            events.push(event);
        }
    }

    fn flush(&mut self) {
        if let Some(page) = &mut self.events {
            page.write(&mut self.told, Out::flush);
        }
        if let Some(page) = &mut self.trace {
            page.write(&mut self.told, Recorder::flush);
        }
    }

    fn run(mut self, from: &Subscription, over: &AtomicBool) -> Scribe {
        loop {
            // whatever is there already is written before anything is flushed
            let heard = match from.next(Duration::ZERO) {
                Heard::Nothing => {
                    self.flush();
                    from.next(GLANCE)
                }
                heard => heard,
            };
            match heard {
                Heard::Event(event) => self.hear(*event),
                Heard::Nothing if !over.load(Ordering::Relaxed) => {}
                Heard::Nothing | Heard::End => break,
            }
        }
        self.flush();
        if let Some((path, events)) = &self.timeline {
            let written = std::fs::write(path, timeline::chrome(events));
            if let Err(error) = written {
                let path = path.display();
                self.told.push(format!("{path} cannot be written: {error}"));
            }
        }
        if from.missed() > 0 {
            self.told.push(format!(
                "{} events were not written: they came faster than they could be written down",
                from.missed()
            ));
        }
        self
    }
}

/// What came of it.
pub(crate) struct Sighted {
    /// Warnings.
    pub(crate) told: Vec<String>,
    /// Compiles that came late.
    pub(crate) recompiles: Recompiles,
}

/// The thread that writes. Dropped early, it writes what there is; sessions must be dropped before it.
pub(crate) struct Sight {
    feed: Option<Feed>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<Scribe>>,
}

fn create(path: &Path) -> Result<Out, Failure> {
    let file = File::create(path).map_err(|error| Failure::file(path, "write", &error))?;
    Ok(BufWriter::new(file))
}

impl Sight {
    /// Makes the files. There is no thread where nothing is asked for.
    ///
    /// # Errors
    ///
    /// A file that cannot be made.
    pub(crate) fn open(
        flags: &SightOptions,
        record: Option<&Path>,
        recompiles: bool,
    ) -> Result<Sight, Failure> {
        let over = Arc::new(AtomicBool::new(false));
        let mut sight = Sight {
            feed: None,
            over: over.clone(),
            thread: None,
        };
        let page = |path: &PathBuf| {
            let out = Some(create(path)?);
            let path = path.clone();
            Ok::<_, Failure>(Page { path, out })
        };
        let events = flags.events.as_ref().map(page).transpose()?;
        let trace = match record {
            None => None,
            Some(path) => {
                let recorder = Recorder::new(create(path)?);
                let recorder = recorder.map_err(|error| Failure::file(path, "write", &error))?;
                Some(Page {
                    path: path.to_owned(),
                    out: Some(recorder),
                })
            }
        };
        if let Some(path) = &flags.timeline {
            // told now, not after the runs
            create(path)?;
        }
        let timeline = flags.timeline.clone().map(|path| (path, Vec::new()));
        if events.is_none() && trace.is_none() && timeline.is_none() && !recompiles {
            return Ok(sight);
        }
        let scribe = Scribe {
            events,
            trace,
            timeline,
            recompiles: Recompiles::default(),
            told: Vec::new(),
        };
        let (to, from) = feed(bespoke::runtime::feed::CAPACITY);
        let thread = std::thread::Builder::new()
            .name("bespoke-scribe".into())
            .spawn(move || scribe.run(&from, &over))
            .map_err(|error| {
                let message = format!("the thread that writes events cannot be started: {error}");
                Failure::new(
                    ErrorKind::OutOfMemory,
                    message,
                    "raise the limit of processes",
                )
            })?;
        (sight.feed, sight.thread) = (Some(to), Some(thread));
        Ok(sight)
    }

    /// What a session hands its events to.
    pub(crate) fn feeds(&self) -> Vec<Feed> {
        self.feed.iter().cloned().collect()
    }

    /// Writes the rest. Call it when the sessions are gone.
    pub(crate) fn finish(mut self) -> Sighted {
        let scribe = self.end();
        let (told, recompiles) = scribe.map_or_else(Default::default, |s| (s.told, s.recompiles));
        Sighted { told, recompiles }
    }

    fn end(&mut self) -> Option<Scribe> {
        self.feed = None;
        self.over.store(true, Ordering::Relaxed);
        self.thread.take()?.join().ok()
    }
}

impl Drop for Sight {
    fn drop(&mut self) {
        self.end();
    }
}

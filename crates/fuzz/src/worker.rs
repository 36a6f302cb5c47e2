//! The worker: feeds inputs to a target, in a process that may die of it.
//!
//! Before an input is tried it is written to the file `current`, so that the supervisor knows what killed the worker.
//! The target runs on a thread with the stack that Rust gives to threads by default (2 MiB), as in a user's program; the
//! main thread watches the clock. Panics are caught and told with their place.

use std::backtrace::Backtrace;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::finding::{FOUND, Finding};
use crate::memory::Mark;
use crate::random::Rng;
use crate::say;
use crate::target::{Seen, Target, find, outline};

/// Longest time for one input.
const LONGEST: Duration = Duration::from_secs(10);
/// Inputs kept at most; then a new one takes the place of any other.
const CORPUS: usize = 4096;
/// Stack of the thread that runs the target, in bytes.
const STACK: usize = 2 << 20;
/// Name of the file with the input under trial.
pub(crate) const CURRENT: &str = "current";

/// What a worker does.
#[derive(Clone, Debug)]
pub(crate) enum Task {
    /// Makes inputs until the time is over.
    Search {
        /// How long.
        time: Duration,
        /// Seed of the random numbers.
        seed: u64,
        /// Inputs to try before all others.
        first: Vec<PathBuf>,
        /// Kinds of findings that were told before.
        known: Vec<String>,
    },
    /// Tries one input, and says what came of it.
    Replay {
        /// The input.
        file: PathBuf,
        /// Whether nothing is printed.
        quiet: bool,
    },
}

/// Runs a worker; returns its exit code.
pub(crate) fn run(name: &str, folder: &Path, task: Task) -> Result<u8, String> {
    let make = find(name)?;
    let panicked = watch_panics();
    let started = Instant::now();
    // Milliseconds since `started` at which the present input began, plus 1; 0 between inputs.
    let since = Arc::new(AtomicU64::new(0));
    let (name, home, clock) = (name.to_owned(), folder.to_owned(), since.clone());
    let runner = thread::Builder::new()
        .stack_size(STACK)
        .spawn(move || -> Result<u8, String> {
            let scratch = tempfile::tempdir().map_err(|e| format!("no temporary folder: {e}"))?;
            let target = make(scratch.path())?;
            let trial = Trial {
                target,
                folder: home,
                panicked,
                started,
                since: clock,
            };
            match task {
                Task::Search {
                    time,
                    seed,
                    first,
                    known,
                } => trial.search(&name, time, seed, &first, &known),
                Task::Replay { file, quiet } => trial.replay(&file, quiet),
            }
        })
        .map_err(|e| format!("no thread: {e}"))?;
    while !runner.is_finished() {
        thread::sleep(Duration::from_millis(20));
        let began = since.load(Ordering::Relaxed);
        let now = started.elapsed().as_millis() as u64;
        if began > 0 && now.saturating_sub(began - 1) > LONGEST.as_millis() as u64 {
            let what = format!("no result after {} s", LONGEST.as_secs());
            Finding::new("hang", what)
                .write(folder)
                .map_err(|e| e.to_string())?;
            process::exit(i32::from(FOUND));
        }
    }
    runner
        .join()
        .map_err(|_| "the worker itself panicked; this is a fault of the fuzzer".to_owned())?
}

/// Place and message of the last panic.
type Panicked = Arc<Mutex<Option<(String, String)>>>;

/// Keeps panics to tell them later, instead of printing them.
fn watch_panics() -> Panicked {
    let last = Panicked::default();
    let kept = last.clone();
    std::panic::set_hook(Box::new(move |info| {
        let place = ours(&Backtrace::force_capture().to_string())
            .or_else(|| info.location().map(ToString::to_string))
            .unwrap_or_else(|| "an unknown place".into());
        let payload = info.payload();
        let message = payload
            .downcast_ref::<&str>()
            .map(ToString::to_string)
            .or_else(|| payload.downcast_ref::<String>().cloned())
            .unwrap_or_default();
        *kept.lock().unwrap_or_else(PoisonError::into_inner) = Some((place, message));
    }));
    last
}

/// The innermost place of a backtrace that lies in a crate of this project, this one only if there is no other: where
/// a standard function panics says little.
fn ours(backtrace: &str) -> Option<String> {
    let places: Vec<&str> = backtrace
        .lines()
        .filter_map(|line| line.trim().strip_prefix("at "))
        .filter_map(|place| place.rfind("crates/").map(|at| &place[at..]))
        .collect();
    let other = places
        .iter()
        .find(|place| !place.starts_with("crates/fuzz/"));
    // The first places here are this hook's own.
    let here = places
        .iter()
        .find(|place| !place.starts_with("crates/fuzz/src/worker.rs"));
    other.or(here).map(ToString::to_string)
}

/// A target at work.
struct Trial {
    target: Box<dyn Target>,
    folder: PathBuf,
    panicked: Panicked,
    started: Instant,
    since: Arc<AtomicU64>,
}

impl Trial {
    /// Tries one input.
    fn judge(&mut self, input: &[u8]) -> Result<Seen, Finding> {
        let mark = Mark::set();
        let now = self.started.elapsed().as_millis() as u64;
        self.since.store(now + 1, Ordering::Relaxed);
        let result = catch_unwind(AssertUnwindSafe(|| self.target.run(input)));
        self.since.store(0, Ordering::Relaxed);
        if let Ok(Ok(_)) = &result
            && let Some(what) = mark.and_then(|mark| mark.exceeded(input.len()))
        {
            return Err(Finding::new("memory", what));
        }
        match result {
            Ok(Ok(seen)) => Ok(seen),
            Ok(Err(promise)) => Err(Finding::new(outline("broken promise", &promise), promise)),
            Err(_) => {
                let last = self
                    .panicked
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .take();
                let (place, message) = last.unwrap_or_default();
                Err(Finding::new(format!("panic at {place}"), message))
            }
        }
    }

    /// Tells the supervisor; returns the exit code.
    fn tell(&self, finding: &Finding) -> Result<u8, String> {
        finding
            .write(&self.folder)
            .map_err(|e| format!("the finding cannot be written: {e}"))?;
        Ok(FOUND)
    }

    fn replay(mut self, file: &Path, quiet: bool) -> Result<u8, String> {
        let input = fs::read(file).map_err(|e| format!("cannot read {}: {e}", file.display()))?;
        if !quiet && let Some(text) = self.target.describe(&input) {
            say(&text);
        }
        match self.judge(&input) {
            Ok(seen) => {
                if !quiet {
                    say(&format!("no finding; it led to:\n  {}", seen.join("\n  ")));
                }
                Ok(0)
            }
            Err(finding) => self.tell(&finding),
        }
    }

    fn search(
        mut self,
        name: &str,
        time: Duration,
        seed: u64,
        first: &[PathBuf],
        told: &[String],
    ) -> Result<u8, String> {
        let current = self.folder.join(CURRENT);
        let mut rng = Rng::new(seed);
        let mut waiting: Vec<Vec<u8>> = Vec::new();
        for path in first {
            waiting
                .push(fs::read(path).map_err(|e| format!("cannot read {}: {e}", path.display()))?);
        }
        waiting.extend(self.target.seeds(&mut rng));
        waiting.reverse();
        let mut corpus: Vec<Vec<u8>> = Vec::new();
        let mut known = std::collections::HashSet::new();
        let mut count = 0u64;
        let begun = Instant::now();
        while begun.elapsed() < time {
            let (input, is_seed) = match waiting.pop() {
                Some(input) => (input, true),
                None => (self.target.mutate(&mut rng, &corpus), false),
            };
            fs::write(&current, &input)
                .map_err(|e| format!("cannot write {}: {e}", current.display()))?;
            count += 1;
            match self.judge(&input) {
                Ok(seen) => {
                    let mut fresh = false;
                    for word in seen {
                        fresh |= known.insert(word);
                    }
                    if fresh || is_seed || corpus.is_empty() {
                        if corpus.len() < CORPUS {
                            corpus.push(input);
                        } else {
                            let at = rng.below(corpus.len());
                            corpus[at] = input;
                        }
                    }
                }
                Err(finding) if told.contains(&finding.kind) => {}
                Err(finding) => return self.tell(&finding),
            }
        }
        let seconds = begun.elapsed().as_secs_f64();
        let memory = if Mark::set().is_some() {
            ""
        } else {
            "; peak memory could not be watched here"
        };
        say(&format!(
            "{name}: {count} inputs in {seconds:.0} s ({:.0} a second), {} kinds of outcome, {} inputs kept{memory}",
            count as f64 / seconds,
            known.len(),
            corpus.len()
        ));
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Panics on `!`, breaks its promise on `?`.
    struct Touchy;

    impl Target for Touchy {
        fn seeds(&mut self, _: &mut Rng) -> Vec<Vec<u8>> {
            vec![b"a".to_vec()]
        }

        fn run(&mut self, input: &[u8]) -> Result<Seen, String> {
            assert!(!input.contains(&b'!'), "loud");
            if input.contains(&b'?') {
                return Err("doubt 1".into());
            }
            Ok(vec![format!("{}", input.len())])
        }
    }

    fn trial(folder: &Path, panicked: Panicked) -> Trial {
        Trial {
            target: Box::new(Touchy),
            folder: folder.to_owned(),
            panicked,
            started: Instant::now(),
            since: Arc::default(),
        }
    }

    #[test]
    fn panics_and_broken_promises_are_findings() {
        let folder = tempfile::tempdir().unwrap();
        let mut trial = trial(folder.path(), Panicked::default());
        assert!(trial.judge(b"a").is_ok());
        assert_eq!(
            trial.judge(b"?"),
            Err(Finding::new("broken promise: doubt #", "doubt 1"))
        );
        assert!(
            trial
                .judge(b"!")
                .is_err_and(|f| f.kind.starts_with("panic at"))
        );
    }

    #[test]
    fn the_place_of_a_panic_is_in_the_projects_own_code() {
        let text = "\
   0: hook\n             at /src/crates/fuzz/src/worker.rs:9:1\n   1: core::mul\n             at \
                    /rustc/1/library/core/src/ops.rs:3:4\n   2: elements\n             at ./crates/ir/src/types.rs:5:6\n   \
                    3: run\n             at ./crates/fuzz/src/targets/model.rs:7:8\n";
        assert_eq!(ours(text).as_deref(), Some("crates/ir/src/types.rs:5:6"));
        assert_eq!(ours("nothing"), None);
    }

    #[test]
    fn a_search_ends_with_the_input_that_broke_the_target() {
        let folder = tempfile::tempdir().unwrap();
        let code = trial(folder.path(), Panicked::default())
            .search("touchy", Duration::from_secs(60), 1, &[], &[])
            .unwrap();
        assert_eq!(code, FOUND);
        let input = fs::read(folder.path().join(CURRENT)).unwrap();
        assert!(input.contains(&b'!') || input.contains(&b'?'), "{input:?}");
        assert!(Finding::take(folder.path()).is_some());
    }
}

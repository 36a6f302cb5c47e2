//! The N-th driver call of a short session fails, for every N that matters.
//!
//! A session of some thousand calls makes some functions thousands of times. Of each function the first, the second
//! and the last call fail, and of all calls every one at a stride: so each place in the code that calls is
//! reached, while the sweep stays short.

use std::path::Path;
use std::time::Duration;

use bespoke::cache::CacheConfig;
use bespoke::{Error, ErrorKind, GraphMode, SessionOptions};

use crate::rig::{card, load, run, service, strategy, within};
use crate::standin::{Report, report, script};

/// Calls of the global count that fail, at most.
const POINTS: u64 = 16;
/// The longest that a session takes on a busy machine, and much more.
const LIMIT: Duration = Duration::from_secs(20);
/// A kernel touched memory that is not its own: nothing works any more.
const STICKY: u32 = 700;
/// Calls that threads may have begun before they could know that another thread lost the device.
const IN_FLIGHT: u64 = 2;

/// How a session ended.
#[derive(Debug)]
enum End {
    /// Every step succeeded, at the second attempt at the latest.
    Well,
    /// The device was lost, and every step from then on said so.
    Lost,
    /// The driver broke before there was a device that could remember it.
    NeverOpened,
}

/// Does a step; once more if it failed and the device is there. A lost device stays lost.
fn step<T>(what: &str, end: &mut End, mut work: impl FnMut() -> Result<T, Error>) -> Option<T> {
    let first = work();
    if matches!(end, End::Lost) {
        let kind = first.err().map(|e| e.kind());
        let told = matches!(kind, Some(ErrorKind::DeviceLost | ErrorKind::NoDevice));
        assert!(told, "{what} on a lost device: {kind:?}");
        return None;
    }
    match first {
        Ok(value) => Some(value),
        Err(e) => {
            assert!(e.to_string().len() > 10, "{what}: an error without words");
            assert_ne!(e.kind(), ErrorKind::Usage, "{what}: {e}");
            if report().number("lost") > 0 {
                *end = End::Lost;
                return None;
            }
            match work() {
                Ok(value) => Some(value),
                Err(again) => panic!("{what}: one failed call, two failed attempts: {e}; {again}"),
            }
        }
    }
}

/// Opens the card; loads a model and runs it at two shapes: lazily, eagerly with what was learned, and launch by launch with
/// swaps on trial;
/// drops everything.
fn short_session(cache: &Path) -> End {
    let mut end = End::Well;
    let service = service(CacheConfig::at(cache));
    let Some(device) = step("opening", &mut end, || card(0)) else {
        return End::NeverOpened;
    };
    let launched = SessionOptions {
        cuda_graph: GraphMode::Off,
        verify_swap: true,
        ..strategy("lazy")
    };
    let learning = SessionOptions {
        learn: true,
        ..strategy("eager")
    };
    for options in [strategy("lazy"), learning, launched] {
        let Some(session) = step("loading", &mut end, || {
            load(&device, &service, options.clone())
        }) else {
            continue;
        };
        for n in [8, 12] {
            step("running", &mut end, || run(&session, n));
        }
        assert!(session.wait_specialized(LIMIT), "never specialised");
        for n in [8, 12] {
            step("running", &mut end, || run(&session, n));
        }
        if matches!(end, End::Lost) {
            assert!(!session.is_healthy());
        }
    }
    end
}

/// A short session with a script; all that must hold afterwards.
fn check(cache: &Path, words: &str) -> Report {
    script(words);
    let path = cache.to_owned();
    let end = within(LIMIT * 3, words, move || short_session(&path));
    let report = report();
    assert!(report.misuse.is_empty(), "`{words}`: {:?}", report.misuse);
    let late = report.number("after-lost");
    match end {
        End::Well if report.number("lost") == 0 => assert!(
            report.alive.is_empty(),
            "`{words}`: not given back: {:?}",
            report.alive
        ),
        // lost in the last calls of all, those that give back
        End::Well | End::Lost => assert!(
            late <= IN_FLIGHT,
            "`{words}`: {late} calls on a lost device"
        ),
        End::NeverOpened => assert_eq!(report.number("lost"), u64::from(STICKY), "`{words}`"),
    }
    assert_eq!(crate::rig::panics(), 0, "`{words}`: a thread panicked");
    report
}

/// Lets calls fail with a code, each in a session of its own.
fn sweep(code: u32) {
    let cache = crate::rig::folder();
    check(cache.path(), "");
    // the cache is filled now, so that all sessions are the same
    let whole = check(cache.path(), "");
    assert_eq!(whole.number("failed"), 0);
    let mut scripts = Vec::new();
    for (function, &count) in &whole.calls {
        let mut at = vec![1, 2.min(count), count];
        at.dedup();
        scripts.extend(at.iter().map(|at| format!("fail={function}@{at}:{code}")));
    }
    let total = whole.number("calls");
    let stride = (total / POINTS).max(1) as usize;
    scripts.extend(
        (1..=total)
            .step_by(stride)
            .map(|at| format!("fail={at}:{code}")),
    );
    let mut came_true = 0;
    for words in &scripts {
        came_true += check(cache.path(), words).number("failed");
        if code == STICKY {
            // what a lost device keeps is lost with its process; forget it
            forget();
        }
    }
    println!(
        "{} sessions of {total} calls of {} functions; {came_true} failures came true",
        scripts.len(),
        whole.calls.len()
    );
    // which thread comes first varies a little from session to session, and with it the last call of a function
    assert!(came_true * 10 >= scripts.len() as u64 * 9, "{came_true}");
}

/// Takes what is alive off the books.
fn forget() {
    script("forget");
}

pub(crate) fn an_ordinary_failure_of_any_call(_: &[String]) {
    sweep(1);
}

pub(crate) fn out_of_memory_at_any_call(_: &[String]) {
    sweep(2);
}

pub(crate) fn a_lost_device_at_any_call(_: &[String]) {
    sweep(STICKY);
}

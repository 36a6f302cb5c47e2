//! The time of every step, for `--dump-profile` and `--export-profile`.
//!
//! A profile is taken after the timed runs, kernel by kernel, with the device's clock read around each. Of some such runs
//! each step shows its median. Short steps read some microseconds longer than they are within a graph, so the sum is not
//! the time of a run; the shares say where time goes.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use bespoke::runtime::{Bindings, Session, StepTime};
use serde::Serialize;

use super::report::time;
use super::statistics::{ascending, percentile};
use crate::failure::Failure;

/// Runs of a profile at most.
const RUNS: usize = 20;
/// Runs at least.
const FEWEST: usize = 3;
/// After this time no run begins that need not.
const TIME: Duration = Duration::from_secs(2);

/// A step in all runs of a profile.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Step {
    /// Name of the anchor's node.
    pub(crate) name: String,
    /// Name of the kernel.
    pub(crate) kernel: String,
    /// Whether it only copies.
    pub(crate) copy: bool,
    pub(crate) median_ms: f64,
    pub(crate) min_ms: f64,
    /// The median by the sum of all steps' medians.
    pub(crate) share: f64,
}

/// Every step of a plan, in the order in which they run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Profile {
    pub(crate) runs: usize,
    /// The sum of the medians.
    pub(crate) sum_ms: f64,
    pub(crate) steps: Vec<Step>,
}

/// Profiles a session at a shape. The first run, which warms up, does not count.
///
/// # Errors
///
/// Those of a run.
pub(crate) fn take(session: &Session, bindings: &Bindings) -> Result<Profile, Failure> {
    session.profile(bindings)?;
    let start = Instant::now();
    let mut runs = Vec::new();
    while runs.len() < FEWEST || runs.len() < RUNS && start.elapsed() < TIME {
        runs.push(session.profile(bindings)?);
    }
    Ok(merge(&runs))
}

/// Runs of the same steps as one profile.
fn merge(runs: &[Vec<StepTime>]) -> Profile {
    let first = runs.first().map_or(&[][..], Vec::as_slice);
    let mut steps: Vec<Step> = first
        .iter()
        .enumerate()
        .map(|(i, step)| {
            let times: Vec<f64> = runs.iter().filter_map(|run| Some(run.get(i)?.ms)).collect();
            let sorted = ascending(&times);
            Step {
                name: step.name.clone(),
                kernel: step.kernel.clone(),
                copy: step.copy,
                median_ms: percentile(&sorted, 50.0).unwrap_or(step.ms),
                min_ms: sorted.first().copied().unwrap_or(step.ms),
                share: 0.0,
            }
        })
        .collect();
    let sum_ms: f64 = steps.iter().map(|s| s.median_ms).sum();
    for step in &mut steps {
        if sum_ms > 0.0 {
            step.share = step.median_ms / sum_ms;
        }
    }
    Profile {
        runs: runs.len(),
        sum_ms,
        steps,
    }
}

/// A profile for people: a line a step, the longest first.
pub(crate) fn text(profile: &Profile) -> String {
    let mut order: Vec<&Step> = profile.steps.iter().collect();
    order.sort_by(|a, b| b.median_ms.total_cmp(&a.median_ms));
    let mut out = format!(
        "  profile     {} steps, {} in sum; medians of {} runs, kernel by kernel",
        profile.steps.len(),
        time(profile.sum_ms),
        profile.runs
    );
    for step in order {
        // writing to a String cannot fail
        let _ = write!(
            out,
            "\n    {:>5.1} %  {:>9}  {}  ({})",
            step.share * 100.0,
            time(step.median_ms),
            step.name,
            step.kernel
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_become_medians_and_shares() {
        let run = |a, b| {
            let step = |name: &str, ms| StepTime {
                name: name.into(),
                kernel: format!("k_{name}"),
                copy: false,
                ms,
            };
            vec![step("a", a), step("b", b)]
        };
        let profile = merge(&[run(1.0, 9.0), run(5.0, 3.0), run(1.5, 4.5)]);
        assert_eq!((profile.runs, profile.sum_ms), (3, 6.0));
        let numbers: Vec<_> = profile
            .steps
            .iter()
            .map(|s| (s.median_ms, s.min_ms, s.share))
            .collect();
        assert_eq!(numbers, [(1.5, 1.0, 0.25), (4.5, 3.0, 0.75)]);
        let text = text(&profile);
        let (a, b) = (
            text.find("a  (k_a)").unwrap(),
            text.find("75.0 %    4.50 ms  b  (k_b)").unwrap(),
        );
        assert!(b < a, "the longest first: {text}");
        assert_eq!(merge(&[]).steps, []);
    }
}

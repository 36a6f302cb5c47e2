//! Why a number cannot be trusted.
//!
//! Every warning has a code, which scripts may rely on, and a text with the numbers. A warning changes neither results nor
//! exit code. Clock rates are not part of what the device interface tells, so throttling itself cannot be seen; times that
//! rise during a measurement can, and are what it would look like (`slowing`).

use bespoke::runtime::Stats;
use serde::Serialize;

use super::statistics::{Statistics, ascending, percentile};

/// Standard deviation by mean, above which a measurement is unstable.
pub(crate) const VARIATION: f64 = 0.10;
/// Percentile 99 by median, above which a measurement is unstable.
pub(crate) const TAIL: f64 = 1.5;
/// Timed runs, below which a median means little.
pub(crate) const RUNS: usize = 10;
/// What the last quarter of the runs took by what the first took, above which times rise.
pub(crate) const RISE: f64 = 1.10;
/// Timed runs, below which a quarter says nothing.
const RUNS_FOR_RISE: usize = 20;

/// A reason to distrust a measurement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Warning {
    /// Which; the same in every version.
    pub(crate) code: &'static str,
    /// The same with numbers.
    pub(crate) text: String,
}

/// What happened in a session during the timed runs that should not have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Disturbance {
    /// Programs installed, rejected or evicted, and times that memory ran out.
    pub(crate) swaps: u64,
    /// Kernels compiled, found or failed.
    pub(crate) kernels: u64,
    /// Graphs made in a run.
    pub(crate) records: u64,
}

impl Disturbance {
    /// What the counters of a session's event stream say happened between two looks.
    pub(crate) fn between(before: &Stats, after: &Stats) -> Disturbance {
        let swaps = |s: &Stats| s.installs + s.rejects + s.evictions + s.reliefs;
        let kernels = |s: &Stats| {
            s.kernels_compiled
                + s.kernels_from_cache
                + s.kernels_from_memory
                + s.kernels_replayed
                + s.kernels_failed
        };
        Disturbance {
            swaps: swaps(after) - swaps(before),
            kernels: kernels(after) - kernels(before),
            records: after.graph_recorded - before.graph_recorded,
        }
    }
}

/// What is known about a measurement.
#[derive(Debug)]
pub(crate) struct Evidence<'a> {
    /// The timed runs in the order in which they ran, in milliseconds.
    pub(crate) samples: &'a [f64],
    /// Their statistics.
    pub(crate) steady: &'a Statistics,
    /// What happened meanwhile.
    pub(crate) disturbance: Disturbance,
    /// Generic kernels of a strategy that specialises.
    pub(crate) still_generic: usize,
    /// Kernels compiled although the cache is said to hold all.
    pub(crate) warm_compiled: u64,
    /// Kernels that did not compile.
    pub(crate) failed: u64,
}

/// All that is to be said against a measurement.
pub(crate) fn find(evidence: &Evidence<'_>) -> Vec<Warning> {
    let mut found = Vec::new();
    let mut say = |code, text| found.push(Warning { code, text });
    let Evidence {
        samples, steady, ..
    } = *evidence;
    let sorted = ascending(samples);
    let tail =
        percentile(&sorted, 99.0).map_or(1.0, |p| p / steady.median_ms.max(f64::MIN_POSITIVE));
    if steady.variation > VARIATION || tail > TAIL {
        say(
            "unstable",
            format!(
                "times vary: standard deviation {:.1} % of the mean (bound {:.0} %), percentile 99 is {tail:.2} × the \
                 median (bound {TAIL}); run it on an idle machine",
                steady.variation * 100.0,
                VARIATION * 100.0
            ),
        );
    }
    if samples.len() >= RUNS_FOR_RISE {
        let quarter = samples.len() / 4;
        // Low percentiles stay where they are when only some runs are slow, which is `unstable`.
        let level = |part: &[f64]| percentile(&ascending(part), 25.0).unwrap_or(0.0);
        let (first, last) = (
            level(&samples[..quarter]),
            level(&samples[samples.len() - quarter..]),
        );
        if first > 0.0 && last / first > RISE {
            say(
                "slowing",
                format!(
                    "times rose: the last quarter of the runs took {:.2} × the first (bound {RISE}); clocks may have been \
                     lowered, which the device does not tell",
                    last / first
                ),
            );
        }
    }
    if samples.len() < RUNS {
        say(
            "few-iterations",
            format!(
                "{} timed runs are fewer than {RUNS}; raise --iterations or --max-duration",
                samples.len()
            ),
        );
    }
    let unreached: Vec<String> = (steady.percentiles.iter())
        .filter(|p| {
            p.percent < 100.0 && (100.0 - p.percent) / 100.0 * (samples.len() as f64) < 1.0 - 1e-9
        })
        .map(|p| {
            format!(
                "{} needs {:.0}",
                p.percent,
                (100.0 / (100.0 - p.percent)).ceil()
            )
        })
        .collect();
    if !unreached.is_empty() {
        say(
            "few-for-percentile",
            format!(
                "{} timed runs are too few for percentiles, which are no more than the slowest run: {}",
                samples.len(),
                unreached.join(", ")
            ),
        );
    }
    let Disturbance {
        swaps,
        kernels,
        records,
    } = evidence.disturbance;
    for (code, count, what) in [
        (
            "swap",
            swaps,
            "programs were installed, rejected or dropped",
        ),
        ("compile", kernels, "kernels were compiled or loaded"),
        ("record", records, "runs recorded a graph"),
    ] {
        if count > 0 {
            say(
                code,
                format!("{count} {what} during the timed runs; these mix two states"),
            );
        }
    }
    if evidence.still_generic > 0 {
        say(
            "not-specialized",
            format!(
                "{} kernels are still generic, although the strategy specialises",
                evidence.still_generic
            ),
        );
    }
    if evidence.warm_compiled > 0 {
        say(
            "warm-compiled",
            format!(
                "{} kernels were compiled although the cache was filled before; it may be too small",
                evidence.warm_compiled
            ),
        );
    }
    if evidence.failed > 0 {
        say(
            "compile-failed",
            format!(
                "{} kernels did not compile; the runs went on without them",
                evidence.failed
            ),
        );
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(samples: &[f64], change: impl FnOnce(&mut Evidence<'_>)) -> Vec<&'static str> {
        let steady = Statistics::of(samples, &[90.0, 99.0, 100.0]).unwrap();
        let mut evidence = Evidence {
            samples,
            steady: &steady,
            disturbance: Disturbance::default(),
            still_generic: 0,
            warm_compiled: 0,
            failed: 0,
        };
        change(&mut evidence);
        find(&evidence).into_iter().map(|w| w.code).collect()
    }

    #[test]
    fn a_calm_measurement_has_no_warning() {
        let calm: Vec<f64> = (0..100).map(|i| 1.0 + f64::from(i % 3) * 0.01).collect();
        assert!(codes(&calm, |_| ()).is_empty());
    }

    #[test]
    fn times_that_vary_or_rise_are_said() {
        let wide: Vec<f64> = (0..100).map(|i| 1.0 + f64::from(i % 2) * 0.4).collect();
        assert_eq!(codes(&wide, |_| ()), ["unstable"]);
        // two of a hundred are slow: hardly any deviation, but a tail
        let mut tail = vec![1.0; 100];
        (tail[30], tail[60]) = (1.55, 1.55);
        assert!(Statistics::of(&tail, &[]).unwrap().variation < VARIATION);
        assert_eq!(codes(&tail, |_| ()), ["unstable"]);
        let rising: Vec<f64> = (0..100).map(|i| 1.0 + f64::from(i) * 0.0015).collect();
        assert_eq!(codes(&rising, |_| ()), ["slowing"]);
        let falling: Vec<f64> = rising.iter().rev().copied().collect();
        assert!(codes(&falling, |_| ()).is_empty());
    }

    #[test]
    fn too_few_runs_are_said() {
        assert_eq!(
            codes(&[1.0; 9], |_| ()),
            ["few-iterations", "few-for-percentile"]
        );
        assert_eq!(codes(&[1.0; 10], |_| ()), ["few-for-percentile"]);
        assert_eq!(codes(&[1.0; 99], |_| ()), ["few-for-percentile"]);
        assert!(codes(&[1.0; 100], |_| ()).is_empty());
    }

    #[test]
    fn what_happens_meanwhile_is_said() {
        let before = Stats {
            installs: 1,
            kernels_compiled: 4,
            graph_recorded: 1,
            runs: 7,
            ..Stats::default()
        };
        assert_eq!(
            Disturbance::between(
                &before,
                &Stats {
                    runs: 90,
                    graph_replayed: 83,
                    ..before.clone()
                }
            ),
            Disturbance::default(),
            "runs are what a measurement is made of"
        );
        let after = Stats {
            installs: 2,
            evictions: 1,
            kernels_from_cache: 3,
            graph_recorded: 2,
            ..before.clone()
        };
        let disturbance = Disturbance::between(&before, &after);
        assert_eq!(
            (disturbance.swaps, disturbance.kernels, disturbance.records),
            (2, 3, 1)
        );
        assert_eq!(
            codes(&[1.0; 100], |e| e.disturbance = disturbance),
            ["swap", "compile", "record"]
        );
        assert_eq!(
            codes(&[1.0; 100], |e| {
                (e.still_generic, e.warm_compiled, e.failed) = (1, 2, 3);
            }),
            ["not-specialized", "warm-compiled", "compile-failed"]
        );
    }
}

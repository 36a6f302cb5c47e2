//! What a run takes of the host, for `--host-time`.
//!
//! Runs are queued and awaited later, as a program does that keeps the device busy. The call of a single one on an idle
//! device is the host's part of it; the host has slept before, and its caches and clock are cold. The call of a run behind
//! another one is the same without that. Of many that are queued before any is awaited, a run takes the longer of the host's
//! part and the device's: where the call is the shorter one, that is the device's time, with neither the call nor the wait
//! in it.

use std::time::Instant;

use bespoke::runtime::{Bindings, RunOptions, Session};
use serde::Serialize;

use super::report::time;
use super::statistics::{ascending, percentile};
use crate::failure::Failure;

/// Calls whose times are taken.
const CALLS: usize = 21;
/// Rounds of three runs, of which the second and the third are behind another.
const BEHIND: usize = 11;
/// Rounds of queued runs.
const ROUNDS: usize = 3;
/// Runs queued at a time at most: the driver's own queue must not fill up.
const QUEUED: usize = 64;
/// Milliseconds that a round should not exceed.
const ROUND_MS: f64 = 250.0;

/// See the module.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct HostTime {
    /// From the call until the run is queued.
    pub(crate) call_us: f64,
    /// The same with every pointer changed since the run before.
    pub(crate) moved_call_us: f64,
    /// As `call_us`, behind a run that the device is still at.
    pub(crate) behind_us: f64,
    /// As `moved_call_us`, behind such a run.
    pub(crate) moved_behind_us: f64,
    /// Pointers of a run: its inputs and outputs.
    pub(crate) pointers: usize,
    /// A run's part of the time of many that are queued before any is awaited.
    pub(crate) queued_ms: f64,
    /// So many.
    pub(crate) queued: usize,
}

/// Measures at one shape; both bindings are of it and share no address. `steady_ms` is about what a run takes.
///
/// # Errors
///
/// Those of a run.
pub(crate) fn take(
    session: &Session,
    bindings: &Bindings,
    others: &Bindings,
    steady_ms: f64,
) -> Result<HostTime, Failure> {
    let queue = |bindings: &Bindings| -> Result<f64, Failure> {
        let options = RunOptions {
            asynchronous: true,
            ..RunOptions::default()
        };
        let start = Instant::now();
        session.run_into(bindings, &options)?;
        Ok(start.elapsed().as_secs_f64() * 1e3)
    };
    let call = |bindings: &Bindings| -> Result<f64, Failure> {
        let ms = queue(bindings)?;
        session.synchronize()?;
        Ok(ms)
    };
    // the first of each may find something to set up
    call(others)?;
    call(bindings)?;
    let (mut same, mut moved) = (Vec::new(), Vec::new());
    for _ in 0..CALLS {
        same.push(call(bindings)?);
        moved.push(call(others)?);
        moved.push(call(bindings)?);
    }
    let (mut behind, mut moved_behind) = (Vec::new(), Vec::new());
    for _ in 0..BEHIND {
        queue(bindings)?;
        behind.push(queue(bindings)?);
        behind.push(queue(bindings)?);
        session.synchronize()?;
        queue(bindings)?;
        moved_behind.push(queue(others)?);
        moved_behind.push(queue(bindings)?);
        session.synchronize()?;
    }
    let queued = ((ROUND_MS / steady_ms.max(1e-3)) as usize).clamp(2, QUEUED);
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let start = Instant::now();
        for _ in 0..queued {
            queue(bindings)?;
        }
        session.synchronize()?;
        rounds.push(start.elapsed().as_secs_f64() * 1e3 / queued as f64);
    }
    let median = |times: &[f64]| percentile(&ascending(times), 50.0).unwrap_or(0.0);
    Ok(HostTime {
        call_us: median(&same) * 1e3,
        moved_call_us: median(&moved) * 1e3,
        behind_us: median(&behind) * 1e3,
        moved_behind_us: median(&moved_behind) * 1e3,
        pointers: bindings.inputs.len() + bindings.outputs.len(),
        queued_ms: median(&rounds),
        queued,
    })
}

/// A line for people.
pub(crate) fn text(host: &HostTime) -> String {
    format!(
        "  host        {} a call, {} with {} pointers changed; behind another run {} and {}; {} a run where {} are queued",
        time(host.call_us / 1e3),
        time(host.moved_call_us / 1e3),
        host.pointers,
        time(host.behind_us / 1e3),
        time(host.moved_behind_us / 1e3),
        time(host.queued_ms),
        host.queued
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_all_of_it() {
        let host = HostTime {
            call_us: 8.25,
            moved_call_us: 12.0,
            behind_us: 4.0,
            moved_behind_us: 6.0,
            pointers: 3,
            queued_ms: 1.5,
            queued: 64,
        };
        assert_eq!(
            text(&host),
            "  host        8.25 µs a call, 12.0 µs with 3 pointers changed; behind another run 4.00 µs and 6.00 µs; 1.50 ms a run where 64 are queued"
        );
    }
}

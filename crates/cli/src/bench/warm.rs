//! Warm-up: runs until nothing more is to come, with what that took told apart.
//!
//! A strategy may want to see a shape more than once before it compiles, which the warm-up runs bring about. What many more
//! runs would bring about is asked for: first the second tier, if there is to be one, and then the tiles of the best that
//! there is. Timing begins when that changes nothing more. What it takes to wait is counted for what was waited for: kernels
//! of the shape, its second tier, tiles that were timed.

use std::time::{Duration, Instant};

use bespoke::runtime::Stats;

use crate::failure::Failure;

/// Untimed runs before timing, at least.
const RUNS: u32 = 4;
/// Times to warm up, at most.
const TIMES: u32 = 9;

/// What happens in a warm-up, by what a session does.
pub(super) trait Warming {
    /// The session's counters.
    fn stats(&self) -> Stats;
    /// One run.
    fn run(&mut self) -> Result<(), Failure>;
    /// Waits until nothing is left to install; milliseconds.
    fn settle(&mut self) -> Result<f64, Failure>;
    /// Asks for the next best thing that the strategy has for the shape, and waits for it; milliseconds.
    fn ask(&mut self) -> Result<f64, Failure>;
}

/// What was waited for in a warm-up, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Waited {
    pub(super) specialize_ms: f64,
    pub(super) second_tier_ms: f64,
    pub(super) refine_ms: f64,
}

/// Warms up, for at least so long before each look at whether something is still to come.
///
/// # Errors
///
/// Those of the runs and of the waits.
pub(super) fn warm_up(work: &mut dyn Warming, least: Duration) -> Result<Waited, Failure> {
    let mut waited = Waited::default();
    let (mut asked, begun) = (0, work.stats().refinements);
    for _ in 0..TIMES {
        let before = work.stats();
        let warming = Instant::now();
        let mut warm = 0;
        while warm < RUNS || warming.elapsed() < least {
            work.run()?;
            warm += 1;
        }
        let took = work.settle()?;
        match work.stats().refinements > before.refinements {
            true => waited.refine_ms += took,
            false => waited.specialize_ms += took,
        }
        if work.stats().installs > before.installs {
            continue;
        }
        while asked < 2 && work.stats().installs == before.installs {
            asked += 1;
            let took = work.ask()?;
            if work.stats().refinements > begun {
                // it comes last
                asked = 2;
                waited.refine_ms += took;
            } else {
                waited.second_tier_ms += took;
            }
        }
        if work.stats().installs == before.installs {
            break;
        }
    }
    Ok(waited)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A session that has so much to come: a second tier, tiles, either of which may change nothing.
    struct Pretended {
        second: Option<bool>,
        tiles: Option<bool>,
        stats: Stats,
        asks: u32,
    }

    impl Warming for Pretended {
        fn stats(&self) -> Stats {
            self.stats.clone()
        }
        fn run(&mut self) -> Result<(), Failure> {
            self.stats.runs += 1;
            Ok(())
        }
        fn settle(&mut self) -> Result<f64, Failure> {
            Ok(1.0)
        }
        fn ask(&mut self) -> Result<f64, Failure> {
            self.asks += 1;
            if let Some(better) = self.second.take() {
                self.stats.installs += u64::from(better);
                return Ok(10.0);
            }
            if let Some(better) = self.tiles.take() {
                self.stats.refinements += 1;
                self.stats.installs += u64::from(better);
                return Ok(100.0);
            }
            Ok(0.0)
        }
    }

    fn warm(second: Option<bool>, tiles: Option<bool>) -> (Waited, u64, u32) {
        let mut work = Pretended {
            second,
            tiles,
            stats: Stats::default(),
            asks: 0,
        };
        let waited = warm_up(&mut work, Duration::ZERO).expect("nothing fails");
        (waited, work.stats.runs / u64::from(RUNS), work.asks)
    }

    #[test]
    fn what_was_waited_for_is_told_apart_and_runs_follow_what_is_new() {
        let waited = |specialize_ms, second_tier_ms, refine_ms| Waited {
            specialize_ms,
            second_tier_ms,
            refine_ms,
        };
        assert_eq!(warm(None, None), (waited(1.0, 0.0, 0.0), 1, 2));
        assert_eq!(warm(Some(true), None), (waited(2.0, 10.0, 0.0), 2, 2));
        assert_eq!(
            warm(Some(false), Some(true)),
            (waited(2.0, 10.0, 100.0), 2, 2)
        );
        assert_eq!(
            warm(Some(true), Some(true)),
            (waited(3.0, 10.0, 100.0), 3, 2)
        );
        assert_eq!(warm(None, Some(false)), (waited(1.0, 0.0, 100.0), 1, 1));
    }
}

//! Compile cost: compiles that take longer, or less long, than they do.
//!
//! Whether a strategy is a good one depends on what a compile costs. To find out how much, an experiment multiplies the
//! time of every compile by a factor and leaves the rest of the process as it is:
//!
//! - A factor above 1 stretches a compile. NVRTC works as ever; then the compile thread sleeps until the factor times
//!   what NVRTC took is over. The kernel is there, for the session, the memory and the cache, only after that. What comes
//!   from the cache comes at once, as nothing is compiled.
//! - A factor below 1 replays a compile, since nothing makes NVRTC faster. The kernel is taken from the cache, where an
//!   earlier process left it together with the time of its compile, and handed out after the factor times that time. What
//!   the cache does not hold cannot be had: that is an error, and nothing is compiled instead.
//! - Each kernel is stretched or replayed once in a service. Later requests find it in memory, as they would otherwise.
//!
//! A sleeping compile keeps its thread and takes no processor, so a stretched compile disturbs runs less than one that is
//! really that slow. Order and single flight are the pool's, which sees one long job; a request that is called off, and a
//! pool that is dropped, end the sleep within [`SLICE`], and the kernel is then not kept, as if its compile had been
//! interrupted. What the cache remembers as the time of a compile is what NVRTC took, whatever the factor.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::{Serialize, Serializer};

/// A sleep is looked after so often.
pub const SLICE: Duration = Duration::from_millis(1);

/// By how much compile times are multiplied: 0.1 to 100.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct CompileCost(f64);

/// A factor that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no compile cost: write a factor from 0.1 to 100, such as 10 or x0.5")]
pub struct CompileCostError(String);

impl CompileCost {
    /// The least factor.
    pub const LEAST: f64 = 0.1;
    /// The largest factor.
    pub const LARGEST: f64 = 100.0;

    /// A factor.
    ///
    /// # Errors
    ///
    /// One outside [`CompileCost::LEAST`] to [`CompileCost::LARGEST`].
    pub fn new(factor: f64) -> Result<CompileCost, CompileCostError> {
        if (Self::LEAST..=Self::LARGEST).contains(&factor) {
            Ok(CompileCost(factor))
        } else {
            Err(CompileCostError(factor.to_string()))
        }
    }

    /// The factor.
    pub fn factor(self) -> f64 {
        self.0
    }

    /// Whether compiles take as long as they do.
    pub fn is_real(self) -> bool {
        self.0 == 1.0
    }

    /// Whether compiles are replayed from the cache, because they are to take less time than they do.
    pub fn replays(self) -> bool {
        self.0 < 1.0
    }

    /// The factor, unless it is 1.
    pub(crate) fn told(self) -> Option<CompileCost> {
        (!self.is_real()).then_some(self)
    }

    /// What a compile takes that really took so many microseconds.
    pub(crate) fn of(self, micros: u64) -> u64 {
        (micros as f64 * self.0).round() as u64
    }

    /// Sleeps for what is missing of a compile that began at `start` and really took so many microseconds. False if it
    /// was called off meanwhile. Compiles that take as long as they do have nothing missing.
    pub(crate) fn sleep(self, start: Instant, micros: u64, cancel: &AtomicBool) -> bool {
        if self.is_real() {
            return true;
        }
        let whole = Duration::from_micros(self.of(micros));
        loop {
            if cancel.load(Ordering::Relaxed) {
                return false;
            }
            let left = whole.saturating_sub(start.elapsed());
            if left.is_zero() {
                return true;
            }
            std::thread::sleep(left.min(SLICE));
        }
    }
}

impl Default for CompileCost {
    fn default() -> Self {
        CompileCost(1.0)
    }
}

impl FromStr for CompileCost {
    type Err = CompileCostError;

    fn from_str(text: &str) -> Result<Self, CompileCostError> {
        let number = text.strip_prefix(['x', '×']).unwrap_or(text);
        let factor = number.parse().ok().and_then(|f| Self::new(f).ok());
        factor.ok_or_else(|| CompileCostError(text.to_owned()))
    }
}

impl fmt::Display for CompileCost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "×{}", self.0)
    }
}

impl Serialize for CompileCost {
    /// The factor as a number.
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_f64(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_are_read() {
        for (text, factor) in [("1", 1.0), ("x10", 10.0), ("×0.1", 0.1), ("100", 100.0)] {
            assert_eq!(text.parse(), CompileCost::new(factor), "{text}");
        }
        for text in ["", "x", "0", "0.09", "101", "-1", "nan", "inf", "ten"] {
            let error = text.parse::<CompileCost>().unwrap_err().to_string();
            assert!(error.contains("0.1 to 100"), "{error}");
        }
        assert!(CompileCost::default().is_real() && CompileCost::default().told().is_none());
        assert_eq!(CompileCost(2.5).of(1001), 2503);
    }

    #[test]
    fn a_sleep_lasts_as_long_as_it_should_unless_it_is_called_off() {
        let start = Instant::now();
        let cost = CompileCost(4.0);
        assert!(cost.sleep(start, 5_000, &AtomicBool::new(false)));
        assert!(start.elapsed() >= Duration::from_millis(20));
        // the hour would not be over
        assert!(!cost.sleep(start, 900_000_000, &AtomicBool::new(true)));
    }
}

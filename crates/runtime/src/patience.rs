//! How long a run is willing to wait: a deadline, and a token by which another thread calls it off.
//!
//! A run waits in two places: for the kernels of its shape, if the strategy blocks, and for a free lane. Both give up as
//! soon as the token is cancelled or the deadline passes. Work that a device has begun cannot be taken back, so a run that
//! was queued is carried to its end; the promise is that a run which fails this way has touched no output.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::error::Error;

/// A waiting run looks this often whether it was cancelled.
const LOOK: Duration = Duration::from_millis(2);

/// Calls off the runs that were given it. Clones are one token.
#[derive(Clone, Debug, Default)]
pub struct CancelToken(Arc<AtomicBool>);

impl CancelToken {
    /// A token that is not cancelled.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Calls the runs off. There is no way back: later runs with this token fail at once.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether [`CancelToken::cancel`] was called.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// What bounds one run's waiting.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Patience<'a> {
    pub(crate) cancel: Option<&'a CancelToken>,
    pub(crate) deadline: Option<Instant>,
}

impl Patience<'_> {
    /// Fails if the run is not to go on. `at` names what it was about to do or wait for.
    pub(crate) fn check(&self, at: &'static str) -> Result<(), Error> {
        if self.cancel.is_some_and(CancelToken::is_cancelled) {
            return Err(Error::Cancelled { at });
        }
        match self.deadline {
            Some(deadline) if Instant::now() >= deadline => Err(Error::Deadline { at }),
            _ => Ok(()),
        }
    }

    /// How long a wait may last before [`Patience::check`] is due again; `None` is for ever.
    pub(crate) fn slice(&self) -> Option<Duration> {
        let left = self
            .deadline
            .map(|d| d.saturating_duration_since(Instant::now()));
        match (left, self.cancel) {
            (Some(left), Some(_)) => Some(left.min(LOOK)),
            (Some(left), None) => Some(left),
            (None, Some(_)) => Some(LOOK),
            (None, None) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_bounds_a_wait_is_endless() {
        let patience = Patience::default();
        assert!(patience.check("here").is_ok());
        assert_eq!(patience.slice(), None);
    }

    #[test]
    fn a_cancelled_token_stops_every_clone() {
        let token = CancelToken::new();
        let other = token.clone();
        let patience = Patience {
            cancel: Some(&other),
            deadline: None,
        };
        assert!(patience.check("here").is_ok());
        token.cancel();
        let error = patience.check("waiting for a lane").unwrap_err();
        assert!(
            error.to_string().contains("waiting for a lane"),
            "it says where: {error}"
        );
    }

    #[test]
    fn a_deadline_bounds_the_slice_and_then_fails() {
        let deadline = Instant::now() + Duration::from_secs(3600);
        let patience = Patience {
            cancel: None,
            deadline: Some(deadline),
        };
        assert!(patience.check("here").is_ok());
        assert!(
            patience
                .slice()
                .is_some_and(|s| s <= Duration::from_secs(3600))
        );
        let passed = Patience {
            cancel: None,
            deadline: Some(Instant::now()),
        };
        assert!(matches!(passed.check("here"), Err(Error::Deadline { .. })));
        assert_eq!(passed.slice(), Some(Duration::ZERO));
    }
}

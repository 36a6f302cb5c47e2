//! Feeds: a session's events as they happen, for whoever listens.
//!
//! [`feed`] makes the two ends. The [`Feed`] goes to a session, in [`SessionOptions::feeds`](crate::SessionOptions::feeds)(crate::SessionOptions) to
//! hear it load or by [`Session::subscribe`](crate::Session::subscribe) later; the [`Subscription`] stays with the
//! listener and is read on a thread of its own.
//!
//! A listener cannot hold up a run: an event is handed over without waiting for anybody, the queue between the ends is
//! bounded, and what finds it full is counted as missed and forgotten. No code of the listener runs on a thread of the
//! session, so it may call the session as it likes. Events come in the order of their numbers; a gap in the numbers is as
//! long as what was missed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::event::{Event, EventKind};

/// Events that wait at most in a feed of this module's own.
pub const CAPACITY: usize = 1 << 16;

#[derive(Debug, Default)]
struct Counts {
    waiting: AtomicUsize,
    missed: AtomicU64,
}

/// The session's end.
#[derive(Clone, Debug)]
pub struct Feed {
    sender: Sender<Event>,
    counts: Arc<Counts>,
    capacity: usize,
}

/// The listener's end.
#[derive(Debug)]
pub struct Subscription {
    receiver: Receiver<Event>,
    counts: Arc<Counts>,
}

/// What a listener hears.
#[derive(Clone, Debug)]
pub enum Heard {
    /// Something happened.
    Event(Box<Event>),
    /// Nothing happened for as long as the listener wanted to wait.
    Nothing,
    /// Every session that had the other end is gone.
    End,
}

/// A feed in which at most `capacity` events wait for their listener.
pub fn feed(capacity: usize) -> (Feed, Subscription) {
    let (sender, receiver) = channel();
    let counts = Arc::new(Counts::default());
    let feed = Feed {
        sender,
        counts: counts.clone(),
        capacity,
    };
    (feed, Subscription { receiver, counts })
}

impl Feed {
    /// Hands an event over; returns whether there is a listener.
    pub(crate) fn send(&self, event: &Event) -> bool {
        if self.counts.waiting.load(Ordering::Relaxed) >= self.capacity {
            self.counts.missed.fetch_add(1, Ordering::Relaxed);
            return true;
        }
        self.counts.waiting.fetch_add(1, Ordering::Relaxed);
        self.sender.send(event.clone()).is_ok()
    }
}

impl Subscription {
    /// The next event, for which it waits no longer than `patience`.
    pub fn next(&self, patience: Duration) -> Heard {
        match self.receiver.recv_timeout(patience) {
            Ok(event) => {
                self.counts.waiting.fetch_sub(1, Ordering::Relaxed);
                Heard::Event(Box::new(event))
            }
            Err(RecvTimeoutError::Timeout) => Heard::Nothing,
            Err(RecvTimeoutError::Disconnected) => Heard::End,
        }
    }

    /// Events that found the queue full.
    pub fn missed(&self) -> u64 {
        self.counts.missed.load(Ordering::Relaxed)
    }
}

/// How far a session is with the kernels that it wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Kernels asked for so far, at load and for shapes.
    pub wanted: usize,
    /// Those that are there, failed or were called off.
    pub done: usize,
}

impl Progress {
    /// Takes an event into account; returns whether that changed anything.
    pub fn add(&mut self, kind: &EventKind) -> bool {
        let before = *self;
        match kind {
            EventKind::Enqueue { kernels, .. } | EventKind::Refine { kernels, .. } => {
                self.wanted += kernels;
            }
            EventKind::Compile { .. }
            | EventKind::CompileFailed { .. }
            | EventKind::Untimed {
                compiled: false, ..
            } => self.done += 1,
            EventKind::Cancel { kernels, .. } => self.done += kernels,
            _ => {}
        }
        *self != before
    }
}

/// Calls `tell` on a thread of its own whenever a session's progress changes, until all sessions with the feed are gone.
/// A call that takes long holds up nothing but later calls.
///
/// # Errors
///
/// The system's error if no thread can be started.
pub fn on_progress(
    mut tell: impl FnMut(Progress) + Send + 'static,
) -> std::io::Result<(Feed, JoinHandle<()>)> {
    let (feed, subscription) = feed(CAPACITY);
    let thread = std::thread::Builder::new()
        .name("bespoke-progress".into())
        .spawn(move || {
            let mut progress = Progress::default();
            loop {
                match subscription.next(Duration::from_secs(3600)) {
                    Heard::Event(event) if progress.add(&event.kind) => tell(progress),
                    Heard::Event(_) | Heard::Nothing => {}
                    Heard::End => return,
                }
            }
        })?;
    Ok((feed, thread))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::VERSION;

    fn event(seq: u64, kind: EventKind) -> Event {
        Event {
            v: VERSION,
            seq,
            at_us: seq,
            segment: None,
            kind,
        }
    }

    #[test]
    fn what_a_slow_listener_has_no_room_for_is_counted() {
        let (feed, subscription) = feed(2);
        for seq in 0..5 {
            assert!(feed.send(&event(seq, EventKind::Lane { lanes: 1 })));
        }
        assert_eq!(subscription.missed(), 3);
        for seq in 0..2 {
            let heard = subscription.next(Duration::ZERO);
            assert!(matches!(heard, Heard::Event(e) if e.seq == seq));
        }
        assert!(matches!(subscription.next(Duration::ZERO), Heard::Nothing));
        drop(feed);
        assert!(matches!(subscription.next(Duration::ZERO), Heard::End));
    }

    #[test]
    fn a_feed_without_listener_is_told_apart() {
        let (feed, subscription) = feed(2);
        drop(subscription);
        assert!(!feed.send(&event(0, EventKind::Lane { lanes: 1 })));
    }

    #[test]
    fn kernels_asked_for_end_in_one_of_three_ways() {
        let mut progress = Progress::default();
        let enqueue = |kernels| EventKind::Enqueue {
            class: "N=1".into(),
            kernels,
            priority: 0,
            cause: crate::event::Cause::Run,
            run: Some(1),
            tier: 1,
            expected: None,
        };
        assert!(progress.add(&enqueue(3)));
        assert!(!progress.add(&EventKind::Lane { lanes: 1 }));
        let failed = EventKind::CompileFailed {
            kernel: "k".into(),
            reason: "no".into(),
            class: None,
        };
        assert!(progress.add(&failed));
        let cancel = EventKind::Cancel {
            class: "N=1".into(),
            kernels: 2,
            reason: "stale",
            tier: 1,
        };
        assert!(progress.add(&cancel));
        assert_eq!(progress, Progress { wanted: 3, done: 3 });
    }
}

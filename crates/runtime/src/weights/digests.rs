//! Digests of constants, computed while those that are known are put to use.
//!
//! The threads that compute them are the work's own and end with it. Digests come in the order of the constants, so that
//! what is done with them is done in one order, however many threads there were.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::thread::{Builder, Scope};

use bespoke_plan::BufferId;

use super::Name;
use crate::crew;

/// A constant of a plan.
pub(super) struct Constant<'a> {
    pub(super) id: BufferId,
    /// Tells constants apart: several buffers may be one.
    pub(super) at: usize,
    pub(super) data: &'a [u8],
}

/// The digests of constants, in order, each as soon as it and those before it are known. They are computed by threads of
/// their own, one for each processor.
pub(super) struct Digests<'a> {
    constants: &'a [Constant<'a>],
    next: Arc<AtomicUsize>,
    sent: Receiver<(usize, Name)>,
    /// Those that came before their turn.
    early: BTreeMap<usize, Name>,
    /// Whose turn it is.
    turn: usize,
}

/// A thread is worth so many constants.
const WORTH: usize = 4;

impl<'a> Digests<'a> {
    pub(super) fn begin<'s>(
        scope: &'s Scope<'s, 'a>,
        constants: &'a [Constant<'a>],
    ) -> Digests<'a> {
        let next = Arc::new(AtomicUsize::new(0));
        let (send, sent) = mpsc::channel();
        for n in 0..crew::hands(constants.len(), WORTH) {
            let (next, send) = (next.clone(), send.clone());
            let work = move || {
                while let Some((i, name)) = digest(constants, &next) {
                    // who does not listen any more failed, and needs no more digests
                    if send.send((i, name)).is_err() {
                        return;
                    }
                }
            };
            // where no thread can be had, the receiver does the work
            let name = format!("bespoke-digest-{n}");
            if Builder::new().name(name).spawn_scoped(scope, work).is_err() {
                break;
            }
        }
        Digests {
            constants,
            next,
            sent,
            early: BTreeMap::new(),
            turn: 0,
        }
    }
}

impl<'a> Iterator for Digests<'a> {
    type Item = (&'a Constant<'a>, Name);

    fn next(&mut self) -> Option<(&'a Constant<'a>, Name)> {
        let constant = self.constants.get(self.turn)?;
        loop {
            if let Some(name) = self.early.remove(&self.turn) {
                self.turn += 1;
                return Some((constant, name));
            }
            let (i, name) = match self.sent.recv() {
                Ok(known) => known,
                // every thread has ended, or there never was one
                Err(mpsc::RecvError) => digest(self.constants, &self.next)?,
            };
            self.early.insert(i, name);
        }
    }
}

/// The digest of the next constant that nobody has taken.
fn digest(constants: &[Constant<'_>], next: &AtomicUsize) -> Option<(usize, Name)> {
    let i = next.fetch_add(1, Ordering::Relaxed);
    let constant = constants.get(i)?;
    Some((i, *blake3::hash(constant.data).as_bytes()))
}

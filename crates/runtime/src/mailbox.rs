//! What runs tell the director, and when.
//!
//! Telling wakes a thread. Where the device works for milliseconds between two runs, processors have gone to sleep, and
//! waking one takes the caller tens of microseconds: more than all else that a replay costs the host. So what the director
//! need not know at once is held back and goes with the next message that it does need, in order. What is held never grows
//! old or many: a run that comes later hands it over.

use std::sync::mpsc::Sender;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::director::Message;
use crate::error::Error;

/// So many messages are held at most.
const MOST: usize = 32;
/// What was held for so long goes with the next message.
const LONGEST: Duration = Duration::from_millis(250);

/// See the module.
#[derive(Debug)]
pub(crate) struct Mailbox(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    sender: Sender<Message>,
    held: Vec<Message>,
    /// Since when there is something held.
    since: Instant,
}

impl Inner {
    fn flush(&mut self) -> Result<(), Error> {
        let mut all = self.held.drain(..);
        all.try_for_each(|message| self.sender.send(message).map_err(|_| Error::Stopped))
    }
}

impl Mailbox {
    pub(crate) fn new(sender: Sender<Message>) -> Mailbox {
        Mailbox(Mutex::new(Inner {
            sender,
            held: Vec::with_capacity(MOST),
            since: Instant::now(),
        }))
    }

    /// Tells the director now, after all that was held.
    ///
    /// # Errors
    ///
    /// [`Error::Stopped`] if there is no director any more.
    pub(crate) fn send(&self, message: Message) -> Result<(), Error> {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.flush()?;
        inner.sender.send(message).map_err(|_| Error::Stopped)
    }

    /// Tells the director with the next message that is sent, or when much is held or for long.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send), as soon as it is noticed.
    pub(crate) fn hold(&self, message: Message) -> Result<(), Error> {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.held.is_empty() {
            inner.since = Instant::now();
        }
        inner.held.push(message);
        match inner.held.len() >= MOST || inner.since.elapsed() > LONGEST {
            true => inner.flush(),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// A message that is told from others by the number of classes in it.
    fn note(number: usize) -> Message {
        Message::Dropped(vec![bespoke_policy::ClassId::Any; number])
    }

    fn numbers(receiver: &mpsc::Receiver<Message>) -> Vec<usize> {
        let number = |message| match message {
            Message::Dropped(classes) => classes.len(),
            _ => usize::MAX,
        };
        receiver.try_iter().map(number).collect()
    }

    #[test]
    fn what_is_held_goes_first_and_in_order() {
        let (sender, receiver) = mpsc::channel();
        let mailbox = Mailbox::new(sender);
        mailbox.hold(note(1)).unwrap();
        mailbox.hold(note(2)).unwrap();
        assert!(numbers(&receiver).is_empty());
        mailbox.send(note(3)).unwrap();
        assert_eq!(numbers(&receiver), [1, 2, 3]);
    }

    #[test]
    fn much_is_not_held() {
        let (sender, receiver) = mpsc::channel();
        let mailbox = Mailbox::new(sender);
        for number in 0..MOST {
            mailbox.hold(note(number)).unwrap();
        }
        assert_eq!(numbers(&receiver).len(), MOST);
    }

    #[test]
    fn nothing_is_held_for_long() {
        let (sender, receiver) = mpsc::channel();
        let mailbox = Mailbox::new(sender);
        mailbox.hold(note(1)).unwrap();
        std::thread::sleep(LONGEST);
        mailbox.hold(note(2)).unwrap();
        assert_eq!(numbers(&receiver), [1, 2]);
    }

    #[test]
    fn nobody_to_tell_is_an_error() {
        let (sender, receiver) = mpsc::channel();
        let mailbox = Mailbox::new(sender);
        drop(receiver);
        assert!(matches!(mailbox.send(note(1)), Err(Error::Stopped)));
    }
}

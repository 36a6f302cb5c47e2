//! From a session's events to a trace of its shapes.

use std::io::Write;

use crate::event::{Event, EventKind};
use crate::trace::{Entry, Header};

/// Writes the requests of a session as they end; a request's time is when it came, since the session began to load.
#[derive(Debug)]
pub struct Recorder<W> {
    out: W,
    inputs: Vec<String>,
}

impl<W: Write> Recorder<W> {
    /// A recorder; the header is written at once.
    ///
    /// # Errors
    ///
    /// That of the writer.
    pub fn new(mut out: W) -> std::io::Result<Recorder<W>> {
        let header = serde_json::to_string(&Header::recorded())?;
        writeln!(out, "{header}")?;
        Ok(Recorder {
            out,
            inputs: Vec::new(),
        })
    }

    /// Takes an event into account. It needs to hear a session from its first event on.
    ///
    /// # Errors
    ///
    /// That of the writer.
    pub fn hear(&mut self, event: &Event) -> std::io::Result<()> {
        match &event.kind {
            EventKind::Started { inputs, .. } => self.inputs.clone_from(inputs),
            EventKind::Run {
                run,
                dims,
                begin_us,
                ..
            } => {
                let entry = Entry {
                    seq: *run,
                    at_us: *begin_us,
                    dims: self
                        .inputs
                        .iter()
                        .cloned()
                        .zip(dims.iter().cloned())
                        .collect(),
                };
                self.out.write_all(entry.line()?.as_bytes())?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Hands everything on to the file.
    ///
    /// # Errors
    ///
    /// That of the writer.
    pub fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::tests::one_of_each;
    use crate::trace::Trace;

    #[test]
    fn runs_become_requests() {
        let mut text = Vec::new();
        let mut recorder = Recorder::new(&mut text).unwrap();
        for event in one_of_each() {
            recorder.hear(&event).unwrap();
        }
        recorder.flush().unwrap();
        let trace = Trace::parse(std::str::from_utf8(&text).unwrap()).unwrap();
        let dims = [("x".to_owned(), vec![2, 4])].into();
        // the event is told at 3000 µs; the run came at 2905 µs
        assert_eq!(
            trace.entries,
            [Entry {
                seq: 0,
                at_us: 2905,
                dims
            }]
        );
    }
}

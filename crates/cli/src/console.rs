//! What a command says, and where.
//!
//! Results go to standard output; notes, warnings, progress and errors go to standard error. With `--json` standard output
//! holds exactly one document and nothing else. Colour is a matter of each stream on its own: `anstream` strips it where
//! the stream is no terminal, `NO_COLOR` is set, `TERM` is `dumb` or `--color never` is given.
//!
//! A reader that goes away (`bespoke inspect … | head`) is not an error.

use bespoke::ErrorKind;
use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::failure::Failure;

/// Colours of the few words that have one.
const RED: &str = "\x1b[1;31m";
const GREEN: &str = "\x1b[32m";
const YELLOW: &str = "\x1b[33m";
const CYAN: &str = "\x1b[36m";
const PLAIN: &str = "\x1b[0m";

/// The two streams of a command.
pub(crate) struct Console {
    out: Box<dyn Write>,
    err: Box<dyn Write>,
    /// Whether results are one JSON document.
    pub(crate) json: bool,
    quiet: bool,
    /// Nobody reads standard output any more.
    closed: bool,
    /// The document of `--json` was written.
    documented: bool,
}

impl Console {
    /// The process's own streams.
    pub(crate) fn new(json: bool, quiet: bool) -> Console {
        Console {
            out: Box::new(anstream::stdout()),
            err: Box::new(anstream::stderr()),
            json,
            quiet,
            closed: false,
            documented: false,
        }
    }

    fn write(&mut self, text: &str) -> Result<(), Failure> {
        if self.closed {
            return Ok(());
        }
        match self
            .out
            .write_all(text.as_bytes())
            .and_then(|()| self.out.flush())
        {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {
                self.closed = true;
                Ok(())
            }
            Err(error) => {
                let message = format!("standard output cannot be written: {error}");
                Err(Failure::new(
                    ErrorKind::Usage,
                    message,
                    "check where it is redirected to",
                ))
            }
        }
    }

    /// A line of results for people; silent with `--json`.
    pub(crate) fn line(&mut self, text: impl Display) -> Result<(), Failure> {
        if self.json {
            Ok(())
        } else {
            self.write(&format!("{text}\n"))
        }
    }

    /// The document of `--json`; call it once.
    pub(crate) fn document(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(value).map_err(|error| {
            Failure::new(
                ErrorKind::Internal,
                format!("the JSON document cannot be made: {error}"),
                "please report it",
            )
        })?;
        self.documented = true;
        self.write(&format!("{text}\n"))
    }

    /// Something worth knowing that is no result; silent with `--quiet`.
    pub(crate) fn note(&mut self, text: impl Display) {
        if !self.quiet {
            self.say(CYAN, "note", &text);
        }
    }

    /// Something that the user may want to change; silent with `--quiet`.
    pub(crate) fn warn(&mut self, text: impl Display) {
        if !self.quiet {
            self.say(YELLOW, "warning", &text);
        }
    }

    /// Why the command failed, and what to do: `error: …`, then `help: …`. With `--json` the document says it too,
    /// unless the command has written one already.
    pub(crate) fn fail(&mut self, failure: &Failure) {
        self.say(RED, "error", failure);
        if !failure.help.is_empty() {
            self.say(CYAN, "help", &failure.help);
        }
        if self.json && !self.documented {
            // The failure itself has been said; a second one about the stream would say nothing new.
            let _ = self.document(&failure.document());
        }
    }

    fn say(&mut self, colour: &str, word: &str, text: &dyn Display) {
        // Where standard error cannot be written there is nobody to tell.
        let _ = writeln!(self.err, "{colour}{word}:{PLAIN} {text}");
    }

    /// Whether a bar would be seen.
    pub(crate) fn shows_progress(&self) -> bool {
        let unwanted = self.quiet || self.json || std::env::var_os("CI").is_some();
        !unwanted && std::io::stderr().is_terminal()
    }

    /// A bar for `length` pieces of work: on a terminal, unless it would disturb (`--quiet`, `--json`, continuous
    /// integration).
    pub(crate) fn progress(&self, length: u64, what: &'static str) -> ProgressBar {
        let target = if self.shows_progress() && length >= 2 {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(Some(length), target);
        if let Ok(style) = ProgressStyle::with_template("{msg} {bar:30} {pos}/{len} {elapsed}") {
            bar.set_style(style);
        }
        bar.set_message(what);
        bar
    }
}

/// `PASS` in green, anything else in red or yellow.
pub(crate) fn status(word: &str) -> String {
    let colour = match word {
        "PASS" | "ok" => GREEN,
        "UNSUPPORTED" | "note" => YELLOW,
        _ => RED,
    };
    format!("{colour}{word}{PLAIN}")
}

/// A number of bytes in IEC units: `1.5 MiB`.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let unit = (count.max(1).ilog2() / 10).min(4);
    if unit == 0 {
        return format!("{count} B");
    }
    format!(
        "{:.1} {}",
        count as f64 / (1_u64 << (10 * unit)) as f64,
        UNITS[unit as usize]
    )
}

/// A time in the unit that suits it: `312 µs`, `4.71 ms`, `2.30 s`.
pub(crate) fn micros(count: u64) -> String {
    match count {
        0..1000 => format!("{count} µs"),
        1000..1_000_000 => format!("{:.2} ms", count as f64 / 1e3),
        _ => format!("{:.2} s", count as f64 / 1e6),
    }
}

/// A span of time in the largest unit that it fills: `3 s`, `5 min`, `2 h`, `9 d`.
pub(crate) fn age(span: Duration) -> String {
    let seconds = span.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86_400 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    /// A stream that can be read, or that nobody reads.
    #[derive(Clone, Default)]
    struct Stream(Arc<Mutex<Vec<u8>>>, bool);

    impl Write for Stream {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            if self.1 {
                return Err(std::io::ErrorKind::BrokenPipe.into());
            }
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn console(json: bool, quiet: bool, broken: bool) -> (Console, Stream, Stream) {
        let (out, err) = (Stream(Arc::default(), broken), Stream::default());
        let streams = (Box::new(out.clone()), Box::new(err.clone()));
        (
            Console {
                out: streams.0,
                err: streams.1,
                json,
                quiet,
                closed: false,
                documented: false,
            },
            out,
            err,
        )
    }

    fn text(stream: &Stream) -> String {
        String::from_utf8(stream.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn json_leaves_one_document_on_standard_output() {
        let (mut console, out, err) = console(true, false, false);
        console.line("for people").unwrap();
        console.note("by the way");
        console.document(&[1]).unwrap();
        let failure = Failure::usage("wrong", "do it right");
        console.fail(&failure);
        assert_eq!(serde_json::from_str::<Vec<u32>>(&text(&out)).unwrap(), [1]);
        let err = text(&err);
        assert!(
            err.contains("by the way") && err.contains("do it right"),
            "{err}"
        );
    }

    #[test]
    fn a_failure_is_the_document_if_there_is_no_other() {
        let (mut console, out, _) = console(true, true, false);
        console.fail(&Failure::usage("wrong", "do it right"));
        let value: serde_json::Value = serde_json::from_str(&text(&out)).unwrap();
        assert_eq!(
            (&value["exit_code"], &value["error"]),
            (&2.into(), &"wrong".into())
        );
    }

    #[test]
    fn a_reader_that_goes_away_is_no_failure() {
        let (mut console, _, err) = console(false, true, true);
        console.line("a").unwrap();
        console.line("b").unwrap();
        console.warn("silent");
        assert!(console.closed && text(&err).is_empty());
    }

    #[test]
    fn numbers_have_units() {
        assert_eq!(
            [0, 1023, 1536, 3 << 30].map(bytes),
            ["0 B", "1023 B", "1.5 KiB", "3.0 GiB"]
        );
        assert_eq!(
            [7, 4712, 2_300_000].map(micros),
            ["7 µs", "4.71 ms", "2.30 s"]
        );
        assert_eq!(
            [5, 300, 7200, 900_000].map(|s| age(Duration::from_secs(s))),
            ["5 s", "5 min", "2 h", "10 d"]
        );
    }
}

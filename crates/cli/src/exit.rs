//! Exit codes, and what kind of end gives which.
//!
//! The numbers are part of the command's contract: scripts and continuous integration decide by them. Errors have the
//! kinds of the library ([`ErrorKind`]), which fixes number, name and words of each. This module adds only what is no
//! error of the library: success, a comparison that failed, and an interrupt.

use bespoke::ErrorKind;

/// How a command ended that did not end well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A comparison failed.
    Mismatch,
    /// Something went wrong.
    Error(ErrorKind),
}

impl From<ErrorKind> for Kind {
    fn from(kind: ErrorKind) -> Kind {
        Kind::Error(kind)
    }
}

/// The ends that are no error of the library: exit code, name in JSON documents if they are named there, words.
const SUCCESS: (u8, &str, &str) = (0, "", "everything went well");
const MISMATCH: (u8, &str, &str) = (1, "mismatch", "a comparison failed");
/// The shell's convention for a process that SIGINT ended; no document is written then.
const INTERRUPTED: (u8, &str, &str) = (130, "", "interrupted");

impl Kind {
    /// The exit code.
    pub(crate) fn code(self) -> u8 {
        match self {
            Kind::Mismatch => MISMATCH.0,
            Kind::Error(kind) => kind.exit_code(),
        }
    }

    /// The name in JSON documents.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Mismatch => MISMATCH.1,
            Kind::Error(kind) => kind.name(),
        }
    }
}

/// Every exit code with its name and its meaning, in order.
pub(crate) fn table() -> Vec<(u8, &'static str, &'static str)> {
    let errors = ErrorKind::all().map(|kind| (kind.exit_code(), kind.name(), kind.meaning()));
    [SUCCESS, MISMATCH]
        .into_iter()
        .chain(errors)
        .chain([INTERRUPTED])
        .collect()
}

/// What `bespoke --help` ends with.
pub(crate) fn help() -> String {
    let rows = table()
        .into_iter()
        .map(|(code, _, meaning)| format!("\n  {code:<3} {meaning}"));
    format!("Exit codes:{}", rows.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guide_has_this_table() {
        let page = include_str!("../../../docs/guide/exit-codes.md");
        let rows: Vec<String> = page
            .lines()
            .filter(|line| line.starts_with("| ") && !line.starts_with("| code "))
            .map(String::from)
            .collect();
        let expected: Vec<String> = table()
            .iter()
            .map(|(code, name, meaning)| match name.is_empty() {
                true => format!("| {code} | – | {meaning} |"),
                false => format!("| {code} | `{name}` | {meaning} |"),
            })
            .collect();
        assert_eq!(rows, expected);
    }

    #[test]
    fn the_help_has_every_code_in_order() {
        let help = help();
        let codes: Vec<u8> = help
            .lines()
            .skip(1)
            .map(|line| line.split_whitespace().next().unwrap().parse().unwrap())
            .collect();
        assert_eq!(codes, [0, 1, 2, 3, 4, 5, 6, 7, 8, 70, 130], "{help}");
    }
}

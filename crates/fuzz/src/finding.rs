//! What the worker tells the supervisor about an input that broke a target, as a small text file.
//!
//! The first line is the *kind*: what two inputs have in common that break the same thing in the same place. Shrinking
//! keeps it. The rest is for people.

use std::fs;
use std::io;
use std::path::Path;

/// Exit code of a worker that wrote a finding.
pub(crate) const FOUND: u8 = 10;

/// Name of the file in the worker's folder.
const FILE: &str = "finding.txt";

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    /// One line that is equal for equal faults: `panic at crates/ir/src/graph.rs:12:5`, `hang`, `abort`, …
    pub(crate) kind: String,
    /// What happened, in words.
    pub(crate) what: String,
}

impl Finding {
    /// A finding.
    pub(crate) fn new(kind: impl Into<String>, what: impl Into<String>) -> Finding {
        Finding {
            kind: kind.into(),
            what: what.into(),
        }
    }

    /// Writes it for the supervisor.
    pub(crate) fn write(&self, folder: &Path) -> io::Result<()> {
        fs::write(folder.join(FILE), format!("{}\n{}", self.kind, self.what))
    }

    /// Takes what a worker wrote, if it wrote something.
    pub(crate) fn take(folder: &Path) -> Option<Finding> {
        let path = folder.join(FILE);
        let text = fs::read_to_string(&path).ok()?;
        // A file that stays is overwritten by the next finding.
        let _ = fs::remove_file(path);
        let (kind, what) = text.split_once('\n')?;
        Some(Finding::new(kind, what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_read_once() {
        let folder = tempfile::tempdir().unwrap();
        let finding = Finding::new("panic at a.rs:1:2", "index 3\nout of range");
        finding.write(folder.path()).unwrap();
        assert_eq!(Finding::take(folder.path()), Some(finding));
        assert_eq!(Finding::take(folder.path()), None);
    }
}

//! Exit codes, and what kind of failure gives which.
//!
//! The numbers are part of the command's contract: scripts and continuous integration decide by them. Every kind has one
//! row in [`TABLE`]; nothing else in the program names a number.

/// What kind of failure ended a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A comparison failed.
    Mismatch,
    /// The command line is wrong: a flag, a name, a type, a rank, a dim, a file that is not there.
    Usage,
    /// The model is malformed, unsupported or over a limit.
    ModelRejected,
    /// No device can be used, or its driver is too old.
    NoDevice,
    /// The host or the device is out of memory.
    OutOfMemory,
    /// A kernel cannot be compiled, or there is no compiler.
    Compile,
    /// A limit on time or iterations was reached.
    Timeout,
    /// The device is lost for this process.
    DeviceLost,
    /// A bug of bespoke.
    Internal,
}

/// Kind, exit code, name in JSON documents.
const TABLE: &[(Kind, u8, &str)] = &[
    (Kind::Mismatch, 1, "mismatch"),
    (Kind::Usage, 2, "usage"),
    (Kind::ModelRejected, 3, "model-rejected"),
    (Kind::NoDevice, 4, "no-device"),
    (Kind::OutOfMemory, 5, "out-of-memory"),
    (Kind::Compile, 6, "compile"),
    (Kind::Timeout, 7, "timeout"),
    (Kind::DeviceLost, 8, "device-lost"),
    (Kind::Internal, 70, "internal"),
];

/// What `bespoke --help` ends with.
pub(crate) const HELP: &str = "\
Exit codes:
  0   everything went well
  1   a comparison failed
  2   the command line is wrong: an unknown flag, a wrong input name, type, rank or dim
  3   a model was rejected: it is malformed, unsupported or over a limit
  4   there is no usable device, or its driver is too old
  5   the host or the device is out of memory
  6   a kernel could not be compiled
  7   a time or iteration limit was reached
  8   the device was lost; start the process again
  70  an error inside bespoke; please report it
  130 interrupted";

impl Kind {
    fn row(self) -> (u8, &'static str) {
        TABLE
            .iter()
            .find(|(kind, ..)| *kind == self)
            .map_or((70, "internal"), |&(_, code, name)| (code, name))
    }

    /// The exit code.
    pub(crate) fn code(self) -> u8 {
        self.row().0
    }

    /// The name in JSON documents.
    pub(crate) fn name(self) -> &'static str {
        self.row().1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_the_code_that_the_help_gives() {
        let expected = [
            (Kind::Mismatch, 1),
            (Kind::Usage, 2),
            (Kind::ModelRejected, 3),
            (Kind::NoDevice, 4),
            (Kind::OutOfMemory, 5),
            (Kind::Compile, 6),
            (Kind::Timeout, 7),
            (Kind::DeviceLost, 8),
            (Kind::Internal, 70),
        ];
        for (kind, code) in expected {
            assert_eq!(kind.code(), code, "{kind:?}");
            assert!(
                HELP.contains(&format!("\n  {code} ")),
                "{code} is not in the help"
            );
        }
        assert_eq!(TABLE.len(), expected.len());
        let mut names: Vec<_> = TABLE.iter().map(|row| row.2).collect();
        names.dedup();
        assert_eq!(names.len(), TABLE.len());
    }
}

//! Errors of the runtime and the kind of each, which fixes the exit status of a command.

use bespoke_device::DeviceError;
use bespoke_ir::flow::FlowError;
use bespoke_onnx::OnnxError;
use bespoke_plan::{BindError, PlanError};

use crate::service::CompileError;
use crate::tensor::TensorError;

/// What sort of thing went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The caller asked for something that cannot be: a name, a type, a shape.
    Usage,
    /// The model is malformed, unsupported or over a limit.
    ModelRejected,
    /// There is no usable device.
    NoDevice,
    /// Memory ran out.
    OutOfMemory,
    /// A kernel did not compile, or there is no compiler.
    Compile,
    /// A deadline passed, or the caller called a run off.
    Timeout,
    /// The device is lost; the process must be restarted.
    DeviceLost,
    /// A bug of bespoke.
    Internal,
}

/// What fixes how a kind is told: the kind, the exit status, the name in documents, the words for people. No other place
/// of the project names these numbers; commands, their help and the guide's page are made from this table or tested
/// against it.
const KINDS: [(ErrorKind, u8, &str, &str); 8] = [
    (
        ErrorKind::Usage,
        2,
        "usage",
        "the command line is wrong: an unknown flag, a wrong input name, type, rank or dim",
    ),
    (
        ErrorKind::ModelRejected,
        3,
        "model-rejected",
        "a model was rejected: it is malformed, unsupported or over a limit",
    ),
    (
        ErrorKind::NoDevice,
        4,
        "no-device",
        "there is no usable device, or its driver is too old",
    ),
    (
        ErrorKind::OutOfMemory,
        5,
        "out-of-memory",
        "the host or the device is out of memory",
    ),
    (
        ErrorKind::Compile,
        6,
        "compile",
        "a kernel could not be compiled",
    ),
    (
        ErrorKind::Timeout,
        7,
        "timeout",
        "a time or iteration limit was reached",
    ),
    (
        ErrorKind::DeviceLost,
        8,
        "device-lost",
        "the device was lost; start the process again",
    ),
    (
        ErrorKind::Internal,
        70,
        "internal",
        "an error inside bespoke; please report it",
    ),
];

impl ErrorKind {
    /// Every kind, by exit status.
    pub fn all() -> impl Iterator<Item = ErrorKind> {
        KINDS.iter().map(|row| row.0)
    }

    fn row(self) -> &'static (ErrorKind, u8, &'static str, &'static str) {
        // The table is in the order of the declaration, as its test says.
        &KINDS[self as usize]
    }

    /// The exit status of a command that fails with it.
    pub fn exit_code(self) -> u8 {
        self.row().1
    }

    /// Its stable name in documents for programs.
    pub fn name(self) -> &'static str {
        self.row().2
    }

    /// What it means, for people.
    pub fn meaning(self) -> &'static str {
        self.row().3
    }
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The model could not be imported.
    #[error(transparent)]
    Import(#[from] OnnxError),
    /// A pass failed.
    #[error(transparent)]
    Pass(#[from] bespoke_passes::PassError),
    /// The model could not be planned.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The extents of the inputs do not fit the model.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A kernel could not be compiled.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// A tensor is malformed.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// The strategy does not exist or lacks what it needs.
    #[error(transparent)]
    Policy(#[from] bespoke_policy::PolicyError),
    /// A name is not one of the model's.
    #[error("the model has no {what} `{name}`{hint}; it has {known}")]
    UnknownName {
        /// "input" or "output".
        what: &'static str,
        /// The name given.
        name: String,
        /// ` (did you mean …?)` or nothing.
        hint: String,
        /// The names there are.
        known: String,
    },
    /// An input was not given.
    #[error("input `{0}` was not given")]
    MissingInput(String),
    /// An input has another element type.
    #[error("input `{input}` is {actual}, the model takes {expected}")]
    InputType {
        /// Name of the input.
        input: String,
        /// Type given.
        actual: bespoke_ir::DType,
        /// Type wanted.
        expected: bespoke_ir::DType,
    },
    /// A caller's buffer is too small or not dense.
    #[error("the buffer for `{name}` {reason}")]
    Buffer {
        /// Name of the input or output.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// What was asked for needs a model that is a single graph.
    #[error(
        "{what} needs a model that is one graph; this one runs as {segments} segments because {why}"
    )]
    Segmented {
        /// What was asked for.
        what: &'static str,
        /// Segments of the model.
        segments: usize,
        /// The first reasons, in words.
        why: String,
    },
    /// A decision between two segments could not be made.
    #[error(transparent)]
    Flow(#[from] FlowError),
    /// The caller called the run off before the device began it.
    #[error("the run was cancelled before {at}; no output was touched")]
    Cancelled {
        /// What it was about to do or wait for.
        at: &'static str,
    },
    /// The deadline passed before the device began the run.
    #[error("the deadline passed before {at}; no output was touched")]
    Deadline {
        /// What it was about to do or wait for.
        at: &'static str,
    },
    /// Memory ran out, also after everything that could be dropped was dropped.
    #[error(
        "{source}; the session holds{table}\nuse a smaller shape, fewer lanes or a larger limit"
    )]
    OutOfMemory {
        /// The device's words.
        source: DeviceError,
        /// What the session's memory is for, a line each.
        table: String,
    },
    /// Only runs that are graphs are wanted, and this one is none.
    #[error(
        "the run is no recorded graph: {} ({}); set the session up with graphs, or do not require them", .0.meaning(), .0.code()
    )]
    NoGraph(crate::request::GraphReason),
    /// The session's own thread is gone.
    #[error("the session has stopped")]
    Stopped,
}

impl Error {
    /// Adds what a session's memory is held for, if memory is what ran out.
    pub(crate) fn with_memory(self, ledger: &crate::ledger::Ledger) -> Error {
        match self {
            Error::Device(source @ DeviceError::OutOfMemory { .. }) => Error::OutOfMemory {
                source,
                table: ledger.table(),
            },
            other => other,
        }
    }

    /// What sort of error it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Import(_) | Error::Pass(_) | Error::Plan(PlanError::Unsupported { .. }) => {
                ErrorKind::ModelRejected
            }
            Error::Plan(PlanError::Internal { .. })
            | Error::Flow(FlowError::Missing(_))
            | Error::Stopped => ErrorKind::Internal,
            Error::Bind(_)
            | Error::Tensor(_)
            | Error::Policy(_)
            | Error::UnknownName { .. }
            | Error::MissingInput(_)
            | Error::InputType { .. }
            | Error::Buffer { .. }
            | Error::Flow(_)
            | Error::Segmented { .. }
            | Error::NoGraph(_) => ErrorKind::Usage,
            Error::Device(e) => match e {
                DeviceError::Unavailable(_) => ErrorKind::NoDevice,
                DeviceError::OutOfMemory { .. } => ErrorKind::OutOfMemory,
                DeviceError::Lost { .. } => ErrorKind::DeviceLost,
                DeviceError::BadImage { .. } => ErrorKind::Compile,
                DeviceError::Call { .. } | DeviceError::Twin { .. } => ErrorKind::Internal,
            },
            Error::Compile(_) => ErrorKind::Compile,
            Error::OutOfMemory { .. } => ErrorKind::OutOfMemory,
            Error::Cancelled { .. } | Error::Deadline { .. } => ErrorKind::Timeout,
        }
    }
}

/// ` (did you mean `…`?)` for the known name nearest to `name`, if one is near.
pub fn did_you_mean<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    let limit = name.chars().count().div_ceil(3).max(1);
    known
        .map(|k| (distance(name, k), k))
        .filter(|&(d, _)| d <= limit)
        .min()
        .map_or(String::new(), |(_, k)| format!(" (did you mean `{k}`?)"))
}

/// Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, &y) in b.iter().enumerate() {
            let replace = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replace.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_row_and_every_row_a_code_and_a_name_of_its_own() {
        for (index, kind) in ErrorKind::all().enumerate() {
            assert_eq!(kind as usize, index, "{kind:?}");
            assert_eq!(kind.row().0, kind);
        }
        // The last kind of the declaration is in the table, so all before it are.
        assert_eq!(ErrorKind::Internal as usize + 1, KINDS.len());
        for pair in KINDS.windows(2) {
            // 0 is success and 1 a comparison that failed, which is no error.
            assert!(1 < pair[0].1 && pair[0].1 < pair[1].1, "{pair:?}");
        }
        let names: std::collections::BTreeSet<_> = KINDS.iter().map(|row| row.2).collect();
        assert_eq!(names.len(), KINDS.len());
    }

    #[test]
    fn a_near_name_is_suggested() {
        let known = ["input_ids", "attention_mask"];
        let hint = did_you_mean("input_id", known.into_iter());
        assert_eq!(hint, " (did you mean `input_ids`?)");
        assert_eq!(did_you_mean("zebra", known.into_iter()), "");
    }
}

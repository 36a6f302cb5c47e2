//! Why a command stopped, and how that is shown.
//!
//! A [`Failure`] has a [`Kind`], which fixes the exit code, a message that names the culprit, and what to do about it.
//! Errors of the libraries become failures here, in one place, so that the same error has the same exit code and the
//! same remedy in every command.

use std::fmt;
use std::path::Path;

use bespoke::ErrorKind;
use bespoke::cache::CacheError;
use bespoke::onnx::OnnxError;
use serde::Serialize;

use crate::exit::Kind;

/// Why a command stopped.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    /// Fixes the exit code.
    pub(crate) kind: Kind,
    /// What is wrong, naming the culprit.
    pub(crate) message: String,
    /// What to do about it; empty where the message says it.
    pub(crate) help: String,
}

/// A failure as a JSON document.
#[derive(Debug, Serialize)]
pub(crate) struct Document<'a> {
    schema_version: u32,
    exit_code: u8,
    exit_reason: &'static str,
    error: &'a str,
    help: &'a str,
}

impl Failure {
    /// A failure of any kind.
    pub(crate) fn new(
        kind: impl Into<Kind>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Failure {
        Failure {
            kind: kind.into(),
            message: message.into(),
            help: help.into(),
        }
    }

    /// The command line is wrong.
    pub(crate) fn usage(message: impl Into<String>, help: impl Into<String>) -> Failure {
        Failure::new(ErrorKind::Usage, message, help)
    }

    /// A file that the command line names cannot be read or written.
    pub(crate) fn file(path: &Path, doing: &str, error: &std::io::Error) -> Failure {
        let kind = match error.kind() {
            std::io::ErrorKind::OutOfMemory => ErrorKind::OutOfMemory,
            _ => ErrorKind::Usage,
        };
        let message = format!("cannot {doing} {}: {error}", path.display());
        Failure::new(kind, message, "check the path and its permissions")
    }

    /// The failure as `--json` shows it.
    pub(crate) fn document(&self) -> Document<'_> {
        Document {
            schema_version: 1,
            exit_code: self.kind.code(),
            exit_reason: self.kind.name(),
            error: &self.message,
            help: &self.help,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<OnnxError> for Failure {
    fn from(error: OnnxError) -> Failure {
        let (kind, help) = match &error {
            OnnxError::Io { .. } => (ErrorKind::Usage, "check the path and its permissions"),
            OnnxError::NotAModel { .. } => (
                ErrorKind::ModelRejected,
                "export or download the model again; `bespoke run` takes ONNX files",
            ),
            OnnxError::Version { .. } => (ErrorKind::ModelRejected, ""),
            OnnxError::ExternalData { .. } => (
                ErrorKind::ModelRejected,
                "keep external data files beside the model, whole and as plain files",
            ),
            OnnxError::Unsupported(_) => (
                ErrorKind::ModelRejected,
                "`bespoke inspect` shows what the model needs; export it without these nodes",
            ),
            OnnxError::Node { .. } | OnnxError::Tensor { .. } => (
                ErrorKind::ModelRejected,
                "change it where the model is exported; `bespoke inspect` and `onnx.checker` show more",
            ),
            _ => (
                ErrorKind::ModelRejected,
                "export the model again; `onnx.checker` shows what breaks the standard",
            ),
        };
        Failure::new(kind, error.to_string(), help)
    }
}

impl From<CacheError> for Failure {
    fn from(error: CacheError) -> Failure {
        let help = match &error {
            CacheError::NoFolder | CacheError::Mode(_) | CacheError::NotAKey(_) => "",
            CacheError::NoEntry(_) => "`bespoke cache ls` lists the keys",
            CacheError::Ambiguous { .. } => "write more digits of the key",
            CacheError::Entry { .. } => "`bespoke cache verify` sets damaged entries aside",
            CacheError::Off(_) => "`bespoke doctor` shows the folder and what is wrong with it",
            CacheError::ReadOnly(_) => "use --cache rw and a folder that you may write",
            CacheError::Io { .. } => {
                "check the folder and its permissions, or name another one with --cache-dir"
            }
        };
        Failure::usage(error.to_string(), help)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_file_is_a_wrong_command_line_and_a_bad_file_a_rejected_model() {
        let missing = OnnxError::Io {
            path: "x.onnx".into(),
            source: std::io::Error::from(std::io::ErrorKind::NotFound),
        };
        assert_eq!(Failure::from(missing).kind, ErrorKind::Usage.into());
        let bad = OnnxError::NotAModel {
            path: "x.onnx".into(),
            reason: "the file is empty".into(),
        };
        let failure = Failure::from(bad);
        assert_eq!(failure.kind, ErrorKind::ModelRejected.into());
        let text = serde_json::to_string(&failure.document()).unwrap();
        assert!(
            text.contains("\"exit_code\":3") && text.contains("the file is empty"),
            "{text}"
        );
    }
}

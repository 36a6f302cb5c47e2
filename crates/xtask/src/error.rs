//! What can go wrong in a chore, each with what to do about it.

use std::path::{Path, PathBuf};

use thiserror::Error as ThisError;

/// Why a command stopped.
#[derive(Debug, ThisError)]
pub(crate) enum Error {
    /// A file or folder could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A program is not installed or could not be started.
    #[error("`{program}` could not be started ({source}): {remedy}")]
    NoProgram {
        /// The program's name.
        program: String,
        /// What the system said.
        source: std::io::Error,
        /// How to get it.
        remedy: &'static str,
    },
    /// A program ran and failed; its own output has said why.
    #[error("`{command}` failed ({status})")]
    Failed {
        /// The command line.
        command: String,
        /// Its exit status, in words.
        status: String,
    },
    /// A program printed something that is not what it promises.
    #[error("the output of `{command}` is not understood: {reason}")]
    Output {
        /// The command line.
        command: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A committed file of the project is malformed.
    #[error("{}: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The Python at hand can neither run pip nor make a virtual environment that can.
    #[error(
        "`{python}` has no pip, and `{python} -m venv` cannot make an environment that has one ({reason}). \
         Install pip (Debian, Ubuntu: `apt install python3-pip python3-venv`) or name another Python in \
         BESPOKE_PYTHON"
    )]
    NoPip {
        /// The Python that was tried.
        python: String,
        /// What making the environment said.
        reason: String,
    },
    /// A package could not be fetched.
    #[error(
        "{package}=={version} could not be fetched: {reason}. A network connection or a configured pip mirror is \
         needed once; later runs work offline"
    )]
    Fetch {
        /// Package name.
        package: String,
        /// Package version.
        version: String,
        /// The end of what pip said.
        reason: String,
    },
    /// A fetched file is not the one that the manifest names.
    #[error(
        "{}: {what} is {found}, the manifest says {expected}. Delete the file and run `cargo xtask models` again; \
         if it stays so, the package was changed under the same version",
        path.display()
    )]
    Digest {
        /// The file.
        path: PathBuf,
        /// "blake3" or "size in bytes".
        what: &'static str,
        /// What the file has.
        found: String,
        /// What the manifest says.
        expected: String,
    },
    /// An argument names something that does not exist.
    #[error("there is no {kind} `{name}`; there are: {known}")]
    Unknown {
        /// What kind of thing was looked for.
        kind: &'static str,
        /// The name that was given.
        name: String,
        /// The names that exist.
        known: String,
    },
    /// A package or build target of the workspace that a chore needs is missing.
    #[error("the workspace has no {what}; `cargo xtask {command}` needs it")]
    NoTarget {
        /// The package or target, in words.
        what: String,
        /// The command that needs it.
        command: &'static str,
    },
    /// The checks ran and did not all pass; the report has said which.
    #[error("{0}")]
    Checks(String),
}

impl Error {
    /// Names the file to which an I/O error belongs.
    pub(crate) fn io(path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        move |source| Self::Io { path, source }
    }
}

//! Finds a Python that can run pip; makes a virtual environment under `target/` only where the system's has none.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::Error;
use crate::workspace::Workspace;

/// A Python interpreter with pip.
#[derive(Debug)]
pub(crate) struct Python(PathBuf);

const REMEDY: &str = "install Python 3 or name one in BESPOKE_PYTHON";

impl Python {
    /// The interpreter of `BESPOKE_PYTHON`, else `python3`; where that has no pip, an environment made with it.
    pub(crate) fn with_pip(workspace: &Workspace) -> Result<Self, Error> {
        let system =
            std::env::var_os("BESPOKE_PYTHON").unwrap_or_else(|| OsString::from("python3"));
        if has_pip(Path::new(&system))? {
            return Ok(Self(system.into()));
        }
        let folder = workspace.target("venv-pip");
        let python = folder.join("bin/python3");
        if python.exists() && has_pip(&python)? {
            return Ok(Self(python));
        }
        eprintln!(
            "{} has no pip; making a virtual environment in {}",
            system.display(),
            folder.display()
        );
        let output = Command::new(&system)
            .args(["-m", "venv", "--clear"])
            .arg(&folder)
            .output()
            .map_err(|source| no_python(&system, source))?;
        if !output.status.success() || !has_pip(&python)? {
            let said = [output.stdout, output.stderr].concat();
            return Err(Error::NoPip {
                python: system.display().to_string(),
                reason: last_lines(&said),
            });
        }
        Ok(Self(python))
    }

    /// Starts a command line with this interpreter.
    pub(crate) fn command(&self) -> Command {
        Command::new(&self.0)
    }
}

fn no_python(python: &OsString, source: std::io::Error) -> Error {
    Error::NoProgram {
        program: python.display().to_string(),
        source,
        remedy: REMEDY,
    }
}

fn has_pip(python: &Path) -> Result<bool, Error> {
    let status = Command::new(python)
        .args(["-m", "pip", "--version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .map_err(|source| no_python(&python.into(), source))?;
    Ok(status.success())
}

/// The last lines that say something, three at most: a tool's reason stands at the end of what it prints.
pub(crate) fn last_lines(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty())
        .collect();
    match &lines[lines.len().saturating_sub(3)..] {
        [] => "it said nothing".into(),
        last => last.join(" / "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_with_text_are_the_reason() {
        assert_eq!(
            last_lines(b"one\n\n  two \nthree\nfour\n \n"),
            "two / three / four"
        );
        assert_eq!(last_lines(b"one"), "one");
        assert_eq!(last_lines(b""), "it said nothing");
    }

    #[test]
    fn a_missing_interpreter_names_the_variable() {
        let error = has_pip(Path::new("no-such-python")).unwrap_err();
        assert!(error.to_string().contains("BESPOKE_PYTHON"), "{error}");
    }

    #[test]
    fn a_program_that_fails_has_no_pip() {
        assert!(!has_pip(Path::new("false")).unwrap());
    }
}

//! Where the repository lies, and how chores run programs in it.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use serde::Deserialize;

use crate::error::Error;

/// The repository that this program was built from.
#[derive(Debug, Clone)]
pub(crate) struct Workspace {
    root: PathBuf,
    target: PathBuf,
}

/// The parts of `cargo metadata` that chores use.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Metadata {
    /// The packages of the workspace.
    pub(crate) packages: Vec<Package>,
    target_directory: PathBuf,
}

/// One package of the workspace.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Package {
    /// Its name, e.g. `bespoke-ir`.
    pub(crate) name: String,
    /// Its Cargo.toml, absolute.
    pub(crate) manifest_path: PathBuf,
    /// What it depends on.
    pub(crate) dependencies: Vec<Dependency>,
    /// What it builds.
    pub(crate) targets: Vec<Target>,
}

/// One entry of a dependency table.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Dependency {
    /// The package's name.
    pub(crate) name: String,
    /// `None` for a normal dependency, else `dev` or `build`.
    pub(crate) kind: Option<String>,
}

/// One thing that a package builds.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Target {
    /// Its name.
    pub(crate) name: String,
    /// `lib`, `bin`, `example`, `test`, `bench`.
    pub(crate) kind: Vec<String>,
}

/// What a program printed, line by line in the order it came, and how it ended.
pub(crate) struct Ran {
    /// How it ended.
    pub(crate) status: ExitStatus,
    /// Lines of both streams.
    pub(crate) lines: Vec<String>,
}

impl Workspace {
    /// The repository of the running program; its folder was fixed when it was compiled, and cargo compiles anew
    /// when the folder moves.
    pub(crate) fn find() -> Result<Self, Error> {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = here
            .ancestors()
            .nth(2)
            .filter(|root| root.join("Cargo.lock").exists() || root.join("Cargo.toml").exists())
            .ok_or_else(|| Error::Malformed {
                path: here.to_path_buf(),
                reason: "the repository is no longer here; run `cargo xtask` inside it".into(),
            })?
            .to_path_buf();
        let mut workspace = Self {
            target: root.join("target"),
            root,
        };
        // CARGO_TARGET_DIR and cargo's configuration may move it.
        workspace.target = workspace.metadata()?.target_directory;
        Ok(workspace)
    }

    /// The repository's root.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// A path below the ignored build folder.
    pub(crate) fn target(&self, path: impl AsRef<Path>) -> PathBuf {
        self.target.join(path)
    }

    /// What cargo knows of the workspace's packages.
    pub(crate) fn metadata(&self) -> Result<Metadata, Error> {
        let mut command = self.cargo();
        command.args(["metadata", "--format-version=1", "--no-deps"]);
        let text = stdout(&mut command, CARGO)?;
        serde_json::from_str(&text).map_err(|e| Error::Output {
            command: words(&command),
            reason: e.to_string(),
        })
    }

    /// Cargo itself, in the repository's root.
    pub(crate) fn cargo(&self) -> Command {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command.current_dir(&self.root);
        command
    }
}

impl Metadata {
    /// The package of this name.
    pub(crate) fn package(&self, name: &str) -> Option<&Package> {
        self.packages.iter().find(|p| p.name == name)
    }
}

impl Package {
    /// Whether it builds a target of this kind and name.
    pub(crate) fn builds(&self, kind: &str, name: &str) -> bool {
        self.targets
            .iter()
            .any(|t| t.name == name && t.kind.iter().any(|k| k == kind))
    }
}

/// What to do where cargo is missing.
pub(crate) const CARGO: &str = "install Rust with rustup";

/// A command as one would type it, for messages.
pub(crate) fn words(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let name = program
        .file_name()
        .unwrap_or(program.as_os_str())
        .to_string_lossy();
    let arguments = command.get_args().map(|a| a.to_string_lossy());
    std::iter::once(name)
        .chain(arguments)
        .collect::<Vec<_>>()
        .join(" ")
}

fn failed(command: &Command, status: ExitStatus) -> Error {
    Error::Failed {
        command: words(command),
        status: status.to_string(),
    }
}

fn no_program(command: &Command, remedy: &'static str) -> impl FnOnce(std::io::Error) -> Error {
    let program = command.get_program().to_string_lossy().into_owned();
    move |source| Error::NoProgram {
        program,
        source,
        remedy,
    }
}

/// Runs a command with this program's own streams; an unsuccessful end is an error.
pub(crate) fn run(command: &mut Command, remedy: &'static str) -> Result<(), Error> {
    let status = command.status().map_err(no_program(command, remedy))?;
    if status.success() {
        Ok(())
    } else {
        Err(failed(command, status))
    }
}

/// Runs a command and returns its standard output; its standard error passes through.
pub(crate) fn stdout(command: &mut Command, remedy: &'static str) -> Result<String, Error> {
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .map_err(no_program(command, remedy))?;
    if !output.status.success() {
        return Err(failed(command, output.status));
    }
    String::from_utf8(output.stdout).map_err(|_| Error::Output {
        command: words(command),
        reason: "it is not UTF-8".into(),
    })
}

/// Runs a command, passes every line of both its streams on through `print` as it comes, and keeps them.
pub(crate) fn tee(
    command: &mut Command,
    remedy: &'static str,
    print: impl Fn(&str) + Sync,
) -> Result<Ran, Error> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(no_program(command, remedy))?;
    let (send, receive) = std::sync::mpsc::channel();
    let streams: [Option<Box<dyn Read + Send>>; 2] = [
        child.stdout.take().map(|s| Box::new(s) as _),
        child.stderr.take().map(|s| Box::new(s) as _),
    ];
    let lines = std::thread::scope(|scope| {
        for stream in streams.into_iter().flatten() {
            let send = send.clone();
            scope.spawn(move || {
                for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
                    // The receiver outlives the scope's threads; a failed send could only lose a line of output.
                    let _ = send.send(String::from_utf8_lossy(&line).into_owned());
                }
            });
        }
        drop(send);
        let mut lines = Vec::new();
        for line in receive {
            print(&line);
            lines.push(line);
        }
        lines
    });
    let status = child.wait().map_err(no_program(command, remedy))?;
    Ok(Ran { status, lines })
}

/// Builds targets and returns the executables that cargo made, by target name.
pub(crate) fn build(command: &mut Command) -> Result<BTreeMap<String, PathBuf>, Error> {
    #[derive(Deserialize)]
    struct Message {
        executable: Option<PathBuf>,
        target: Option<Target>,
    }
    command.arg("--message-format=json-render-diagnostics");
    let text = stdout(command, CARGO)?;
    let mut made = BTreeMap::new();
    for line in text.lines().filter(|l| l.starts_with('{')) {
        let message: Message = serde_json::from_str(line).map_err(|e| Error::Output {
            command: words(command),
            reason: e.to_string(),
        })?;
        if let (Some(executable), Some(target)) = (message.executable, message.target) {
            made.insert(target.name, executable);
        }
    }
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_streams_and_the_status_are_kept() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo out; echo err >&2; exit 3"]);
        let ran = tee(&mut command, "", |_| {}).unwrap();
        assert_eq!(ran.status.code(), Some(3));
        let mut lines = ran.lines;
        lines.sort();
        assert_eq!(lines, ["err", "out"]);
    }

    #[test]
    fn a_missing_program_names_its_remedy() {
        let error = run(&mut Command::new("no-such-program-here"), "fetch it").unwrap_err();
        assert!(
            error.to_string().contains("no-such-program-here")
                && error.to_string().contains("fetch it")
        );
    }

    #[test]
    fn a_failing_program_is_an_error() {
        let error = run(Command::new("sh").args(["-c", "exit 9"]), "").unwrap_err();
        assert!(
            matches!(error, Error::Failed { ref status, .. } if status.contains('9')),
            "{error}"
        );
    }
}

//! A scenario in a process of its own.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The shared library of this package, which cargo puts beside the tests.
pub(crate) fn standin() -> PathBuf {
    let test = std::env::current_exe().expect("the test's own path");
    let folder = test.parent().expect("a folder");
    let name = format!(
        "{}bespoke_standin{}",
        std::env::consts::DLL_PREFIX,
        std::env::consts::DLL_SUFFIX
    );
    let path = folder.join(name);
    assert!(path.exists(), "cargo built no {}", path.display());
    path
}

/// The real compiler: what `BESPOKE_NVRTC` names, or what `cargo xtask models` fetched. Where there is none, says that the
/// test of this name is skipped.
#[allow(dead_code, reason = "not every test of the package needs it")]
pub(crate) fn nvrtc(test: &str) -> Option<PathBuf> {
    let fetched = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target/nvrtc");
    let named = std::env::var_os("BESPOKE_NVRTC").map(PathBuf::from);
    let found = named.unwrap_or(fetched);
    if found.exists() {
        return Some(found);
    }
    // past the harness, which swallows what tests print
    let words = format!("skipped: {test}: no NVRTC; `cargo xtask models nvrtc` fetches it\n");
    let _ = std::io::stderr().write_all(words.as_bytes());
    None
}

/// A new folder, in memory where the system has a place for that: what is tested is which calls fail, and a disk that has
/// to flush tens of thousands of small files takes minutes.
pub(crate) fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .expect("a folder")
}

/// What to run and how.
pub(crate) struct Scenario {
    name: &'static str,
    command: Command,
    limit: Duration,
}

impl Scenario {
    /// A scenario with the stand-in as driver and compiler.
    pub(crate) fn new(name: &'static str) -> Scenario {
        let mut command = Command::new(env!("CARGO_BIN_EXE_faults"));
        command
            .arg(name)
            .env("BESPOKE_STANDIN", standin())
            .env("BESPOKE_LIBCUDA", standin())
            .env("BESPOKE_NVRTC", standin())
            .env_remove("BESPOKE_CACHE")
            .env_remove("BESPOKE_CACHE_DIR")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Scenario {
            name,
            command,
            limit: Duration::from_secs(240),
        }
    }

    /// An argument.
    #[allow(dead_code, reason = "not every test of the package needs it")]
    pub(crate) fn arg(mut self, argument: impl AsRef<std::ffi::OsStr>) -> Scenario {
        self.command.arg(argument);
        self
    }

    /// A variable of its environment.
    #[allow(dead_code, reason = "not every test of the package needs it")]
    pub(crate) fn env(mut self, name: &str, value: impl AsRef<std::ffi::OsStr>) -> Scenario {
        self.command.env(name, value);
        self
    }

    /// Starts it.
    pub(crate) fn start(&mut self) -> Child {
        self.command.spawn().expect("a process")
    }

    /// Runs it to its end.
    pub(crate) fn output(mut self) -> Output {
        let mut child = self.start();
        let start = Instant::now();
        // what scenarios print fits into the pipes
        while child.try_wait().expect("a child").is_none() {
            if start.elapsed() > self.limit {
                child.kill().expect("a child");
                let output = child.wait_with_output().expect("a child");
                panic!("{} hangs\n{}", self.name, text(&output));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        child.wait_with_output().expect("a child")
    }

    /// Runs it; it must succeed. What it printed.
    pub(crate) fn passes(self) -> String {
        let name = self.name;
        let output = self.output();
        assert!(
            output.status.success(),
            "{name}: {}\n{}",
            output.status,
            text(&output)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

//! The supervisor: starts workers, judges how they ended, and makes findings small.
//!
//! A worker is this program again, in a process with limited address space. Whatever kills it (a stack overflow, an
//! abort on a failed allocation) is a finding; the input is in the file `current`. A hang must happen a second time,
//! alone, to count: on a busy machine an input can be slow through no fault of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use crate::finding::{FOUND, Finding};
use crate::memory::ADDRESS_SPACE_KIB;
use crate::say;
use crate::shrink::shrink;
use crate::target::find;
use crate::worker::CURRENT;

/// How long a finding is made smaller.
const SHRINK: Duration = Duration::from_secs(20);
/// Findings after which a search ends early.
const ENOUGH: usize = 10;

/// A fuzz run.
pub(crate) struct Run<'a> {
    /// The target.
    pub(crate) target: &'a str,
    /// Where inputs and findings are written.
    pub(crate) folder: PathBuf,
}

impl Run<'_> {
    /// Searches until the time is over, telling each kind of finding once; true if nothing was found.
    pub(crate) fn search(&self, time: Duration, seed: u64) -> Result<bool, String> {
        let begun = Instant::now();
        let mut known: Vec<String> = Vec::new();
        let mut round = 0;
        loop {
            let left = time.saturating_sub(begun.elapsed());
            if left.is_zero() || known.len() >= ENOUGH {
                break;
            }
            // Every worker has other random numbers, or it would do what the one before did.
            let mut arguments = vec![
                format!("--seconds={}", left.as_secs().max(1)),
                format!("--seed={}", seed.wrapping_add(round)),
            ];
            arguments.extend(known.iter().map(|kind| format!("--known={kind}")));
            round += 1;
            let Some(finding) = self.work(&arguments)? else {
                break;
            };
            let input = fs::read(self.folder.join(CURRENT))
                .map_err(|e| format!("the input that broke the worker cannot be read: {e}"))?;
            if finding.kind == "hang" && self.try_input(&input)?.is_none() {
                say(&format!(
                    "{}: an input took more than 10 s, and less when tried alone; going on",
                    self.target
                ));
            } else if !known.contains(&finding.kind) {
                self.report(input, &finding)?;
                known.push(finding.kind);
            }
        }
        say(&format!("{}: {} findings", self.target, known.len()));
        Ok(known.is_empty())
    }

    /// Tries one file; true if nothing was found.
    pub(crate) fn replay(&self, file: &Path) -> Result<bool, String> {
        match self.work(&[file.display().to_string()])? {
            None => Ok(true),
            Some(finding) => {
                say(&format!(
                    "{}: {}\n{}",
                    self.target, finding.kind, finding.what
                ));
                Ok(false)
            }
        }
    }

    /// Saves the input, makes it smaller, and says what was found.
    fn report(&self, input: Vec<u8>, finding: &Finding) -> Result<(), String> {
        say(&format!(
            "{}: {}\n{}",
            self.target, finding.kind, finding.what
        ));
        let whole = self.save(&input, "")?;
        let scratch = tempfile::tempdir().map_err(|e| e.to_string())?;
        let target = find(self.target)?(scratch.path())?;
        let small = shrink(
            input,
            SHRINK,
            &|b| target.parts(b),
            &|b, range| target.without(b, range),
            &mut |b| {
                let found = self.try_input(b);
                found.is_ok_and(|found| found.is_some_and(|found| found.kind == finding.kind))
            },
        );
        let path = self.save(&small, "-small")?;
        say(&format!(
            "{}: the input is {}\nmade smaller ({} bytes): {}\nto try it again: bespoke-fuzz {} {}",
            self.target,
            whole.display(),
            small.len(),
            path.display(),
            self.target,
            path.display()
        ));
        Ok(())
    }

    /// Saves an input under a name made of its contents.
    fn save(&self, input: &[u8], suffix: &str) -> Result<PathBuf, String> {
        let name = &blake3::hash(input).to_hex()[..12];
        let path = self.folder.join(format!("{name}{suffix}.bin"));
        fs::write(&path, input).map_err(|e| format!("cannot write {}: {e}", path.display()))?;
        Ok(path)
    }

    /// Tries one input in a worker of its own, without a word.
    fn try_input(&self, input: &[u8]) -> Result<Option<Finding>, String> {
        let path = self.folder.join("attempt");
        fs::write(&path, input).map_err(|e| format!("cannot write {}: {e}", path.display()))?;
        self.work(&["--quiet".to_owned(), path.display().to_string()])
    }

    /// Runs a worker to its end.
    fn work(&self, arguments: &[String]) -> Result<Option<Finding>, String> {
        // Whatever an earlier worker left is not of this one.
        let _ = Finding::take(&self.folder);
        let program = std::env::current_exe().map_err(|e| format!("who am I: {e}"))?;
        let mut command = limited(&program);
        command
            .arg(self.target)
            .arg("--worker")
            .arg(&self.folder)
            .args(arguments);
        if arguments.iter().any(|a| a == "--quiet") {
            // The message of an abort would be repeated with every attempt.
            command.stderr(std::process::Stdio::null());
        }
        let status = command
            .status()
            .map_err(|e| format!("a worker cannot be started: {e}"))?;
        judge(status, Finding::take(&self.folder))
    }
}

/// What the end of a worker means.
fn judge(status: ExitStatus, written: Option<Finding>) -> Result<Option<Finding>, String> {
    match (status.code(), written) {
        (Some(0), _) => Ok(None),
        (Some(code), Some(finding)) if code == i32::from(FOUND) => Ok(Some(finding)),
        // The worker says by 2 that something around it is wrong: no folder, no such file.
        (Some(2), _) => Err("the worker could not work; see its message above".into()),
        _ => {
            let what = format!(
                "the process died ({status}): out of memory (address space is limited to {} MiB), a stack overflow or \
                 an abort",
                ADDRESS_SPACE_KIB >> 10
            );
            Ok(Some(Finding::new("abort", what)))
        }
    }
}

/// A command with limited address space.
#[cfg(unix)]
fn limited(program: &Path) -> Command {
    let mut command = Command::new("sh");
    command
        .arg("-c")
        .arg(concat!(
            "ulimit -c 0; ulimit -v \"$0\" || echo \"no limit on memory: this shell has no ulimit -v\" >&2; ",
            "exec \"$@\""
        ))
        .arg(ADDRESS_SPACE_KIB.to_string())
        .arg(program);
    command
}

/// Elsewhere there is no such limit that needs no unsafe code.
#[cfg(not(unix))]
fn limited(program: &Path) -> Command {
    Command::new(program)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    #[test]
    fn the_end_of_a_worker_is_understood() {
        let exited = |code: i32| ExitStatus::from_raw(code << 8);
        let finding = Finding::new("hang", "");
        assert_eq!(judge(exited(0), None), Ok(None));
        assert_eq!(
            judge(exited(i32::from(FOUND)), Some(finding.clone())),
            Ok(Some(finding))
        );
        assert!(judge(exited(2), None).is_err());
        let killed = judge(ExitStatus::from_raw(6), None).unwrap();
        assert!(killed.is_some_and(|f| f.kind == "abort"));
    }
}

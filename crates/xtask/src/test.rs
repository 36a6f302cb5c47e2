//! `cargo xtask test`: every check of the project, with its set-up; what continuous integration runs.
//!
//! The stages run one after another and all of them run, whatever failed before, so that one look shows everything.
//! Each lint counts as one check, each test, fuzz target and real model as one. The last line is the sum,
//! `N passed, M failed, K skipped`, and the exit code is 0 only if nothing failed.
//!
//! A check that cannot run where it is (no GPU) is counted as skipped and says why on a line of its own.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::models::{self, Manifest};
use crate::report::{self, Counts, Stage};
use crate::tidy;
use crate::workspace::{self, CARGO, Metadata, Workspace};

/// Arguments of `cargo xtask test`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Run only these stages (default: all)
    #[arg(value_name = "STAGE")]
    stages: Vec<String>,
    /// How long each fuzz target runs
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    fuzz_seconds: u64,
}

impl Arguments {
    /// The stages that are asked for; none for all.
    pub(crate) fn stages(&self) -> &[String] {
        &self.stages
    }
}

/// Whether a stage has this name.
pub(crate) fn is_stage(name: &str) -> bool {
    STAGES.iter().any(|(stage, _)| *stage == name)
}

/// What a stage works with.
struct Context<'a> {
    workspace: &'a Workspace,
    metadata: Metadata,
    fuzz_seconds: u64,
}

type Run = fn(&Context<'_>) -> Result<Counts, Error>;

/// The stages in the order in which they run: what is quick and often broken comes first.
const STAGES: &[(&str, Run)] = &[
    ("set-up", set_up),
    ("format", format),
    ("tidy", house_rules),
    ("clippy", clippy),
    ("docs", docs),
    ("tests", tests),
    ("fuzz", fuzz),
    ("models", real_models),
];

/// The package that holds the fuzz targets. Its binary takes a target's name and `--seconds`, prints what it ran, and
/// ends unsuccessfully with the input that broke the target.
const FUZZ_PACKAGE: &str = "bespoke-fuzz";
/// The targets, each an input from outside that must never bring the process down.
const FUZZ_TARGETS: [&str; 4] = ["model", "external-data", "shape-inference", "cache-entry"];

/// The package and binary of the command line tool, which compares models with their reference data.
const CLI: (&str, &str) = ("bespoke-cli", "bespoke");

/// Runs the command.
pub(crate) fn run(workspace: &Workspace, arguments: &Arguments) -> Result<(), Error> {
    for name in &arguments.stages {
        if !is_stage(name) {
            let known = STAGES
                .iter()
                .map(|(stage, _)| *stage)
                .collect::<Vec<_>>()
                .join(", ");
            return Err(Error::Unknown {
                kind: "stage",
                name: name.clone(),
                known,
            });
        }
    }
    let context = Context {
        workspace,
        metadata: workspace.metadata()?,
        fuzz_seconds: arguments.fuzz_seconds,
    };
    let mut stages = Vec::new();
    for (name, run) in STAGES {
        if !arguments.stages.is_empty() && !arguments.stages.iter().any(|s| s == name) {
            continue;
        }
        eprintln!("== {name}");
        let start = Instant::now();
        let counts = run(&context).unwrap_or_else(|error| {
            eprintln!("failed: {name}: {error}");
            Counts::of(false)
        });
        stages.push(Stage {
            name,
            counts,
            time: start.elapsed(),
        });
    }
    let time: Duration = stages.iter().map(|s| s.time).sum();
    let (text, total) = report::summary(&stages);
    eprintln!("== {:.0} s in all", time.as_secs_f64());
    println!("{text}");
    match total.failed {
        0 => Ok(()),
        n => Err(Error::Checks(format!(
            "{n} checks failed; search the output above for `failed` and `error`"
        ))),
    }
}

/// Fetches models and NVRTC. It checks nothing of the project, so it counts only when it fails.
fn set_up(context: &Context<'_>) -> Result<Counts, Error> {
    models::fetch(context.workspace, &[])?;
    Ok(Counts::default())
}

/// Runs a tool that says pass or fail by its exit status.
fn lint(command: &mut Command) -> Result<Counts, Error> {
    workspace::run(command, CARGO)?;
    Ok(Counts::of(true))
}

fn format(context: &Context<'_>) -> Result<Counts, Error> {
    lint(context.workspace.cargo().args(["fmt", "--all", "--check"]))
}

fn house_rules(context: &Context<'_>) -> Result<Counts, Error> {
    tidy::check(context.workspace)
}

/// Warnings are errors here and nowhere else, so that a half-done edit still compiles. `missing_docs` is among them.
fn clippy(context: &Context<'_>) -> Result<Counts, Error> {
    let arguments = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--locked",
        "--",
        "-Dwarnings",
    ];
    lint(context.workspace.cargo().args(arguments))
}

/// Broken links and malformed examples in the documentation are errors.
fn docs(context: &Context<'_>) -> Result<Counts, Error> {
    let arguments = [
        "doc",
        "--workspace",
        "--no-deps",
        "--document-private-items",
        "--locked",
    ];
    lint(
        context
            .workspace
            .cargo()
            .args(arguments)
            .env("RUSTDOCFLAGS", "-Dwarnings"),
    )
}

fn tests(context: &Context<'_>) -> Result<Counts, Error> {
    let mut command = context.workspace.cargo();
    command
        .args(["test", "--workspace", "--no-fail-fast", "--locked"])
        .env("BESPOKE_MODELS", models::folder(context.workspace))
        .env("BESPOKE_NVRTC", models::nvrtc(context.workspace));
    let ran = workspace::tee(&mut command, CARGO, |line| eprintln!("{line}"))?;
    let mut counts = report::parse_tests(ran.lines.iter().map(String::as_str));
    for name in ran.lines.iter().filter_map(|line| report::skip(line)) {
        eprintln!("skipped: {name}");
    }
    if !ran.status.success() && counts.failed == 0 {
        // Something did not compile, or a test binary died before it could count.
        counts.failed = 1;
    }
    Ok(counts)
}

/// Builds one binary of a package and returns its path; `None`, with a line that says so, if the package is not there.
fn binary(
    context: &Context<'_>,
    package: &str,
    name: &str,
    for_what: &str,
) -> Result<Option<std::path::PathBuf>, Error> {
    if context.metadata.package(package).is_none() {
        eprintln!("skipped: {for_what}: the workspace has no package {package}");
        return Ok(None);
    }
    let mut command = context.workspace.cargo();
    // as the tests were built, so that nothing is built again
    command.args(["build", "--locked", "--workspace", "--bin", name]);
    let made = workspace::build(&mut command)?;
    made.get(name)
        .cloned()
        .map(Some)
        .ok_or_else(|| Error::NoTarget {
            what: format!("binary {name} in package {package}"),
            command: "test",
        })
}

fn fuzz(context: &Context<'_>) -> Result<Counts, Error> {
    let Some(binary) = binary(context, FUZZ_PACKAGE, FUZZ_PACKAGE, "fuzz")? else {
        return Ok(Counts {
            skipped: FUZZ_TARGETS.len(),
            ..Counts::default()
        });
    };
    let seconds = context.fuzz_seconds.to_string();
    // all at once: a target runs for a time, not for a number of inputs
    let ended: Vec<_> = std::thread::scope(|scope| {
        let start = |target: &'static str| {
            let mut command = Command::new(&binary);
            command
                .args([target, "--seconds", &seconds])
                .current_dir(context.workspace.root());
            scope.spawn(move || {
                workspace::tee(&mut command, CARGO, |line| eprintln!("{target}: {line}"))
            })
        };
        let started: Vec<_> = FUZZ_TARGETS.iter().map(|target| start(target)).collect();
        started
            .into_iter()
            .map(std::thread::ScopedJoinHandle::join)
            .collect()
    });
    let mut counts = Counts::default();
    for (target, ended) in FUZZ_TARGETS.iter().zip(ended) {
        let passed = matches!(&ended, Ok(Ok(ran)) if ran.status.success());
        eprintln!(
            "{}: fuzz {target}, {seconds} s",
            if passed { "passed" } else { "failed" }
        );
        counts += Counts::of(passed);
    }
    Ok(counts)
}

/// Compares every model of the manifest and every small model with its reference data, on the default device.
fn real_models(context: &Context<'_>) -> Result<Counts, Error> {
    let manifest = Manifest::read(context.workspace)?;
    let root = context.workspace.root();
    let mut work: Vec<(String, _, _)> = manifest
        .models
        .iter()
        .map(|m| {
            let data = root.join("models/data").join(&m.name);
            (
                m.name.clone(),
                models::model_file(context.workspace, &m.name),
                data,
            )
        })
        .collect();
    let small = root.join("models/small");
    let entries = std::fs::read_dir(&small).map_err(Error::io(&small))?;
    for entry in entries {
        let folder = entry.map_err(Error::io(&small))?.path();
        let model = folder.join("model.onnx");
        if model.exists() {
            work.push((
                folder.file_name().unwrap_or_default().display().to_string(),
                model,
                folder,
            ));
        }
    }
    let Some(binary) = binary(context, CLI.0, CLI.1, "models")? else {
        return Ok(Counts {
            skipped: work.len(),
            ..Counts::default()
        });
    };
    work.sort();
    let mut counts = Counts::default();
    for (name, model, data) in &work {
        let mut command = Command::new(&binary);
        command
            .arg("check")
            .arg(model)
            .arg("--data")
            .arg(data)
            .current_dir(root);
        command.env("BESPOKE_NVRTC", models::nvrtc(context.workspace));
        let ran = workspace::tee(&mut command, CARGO, |line| eprintln!("{line}"))?;
        let passed = ran.status.success();
        eprintln!("{}: check {name}", if passed { "passed" } else { "failed" });
        counts += Counts::of(passed);
    }
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lint_that_fails_is_an_error_and_one_that_holds_counts() {
        assert!(lint(&mut Command::new("false")).is_err());
        assert_eq!(lint(&mut Command::new("true")).unwrap(), Counts::of(true));
    }

    #[test]
    fn an_unknown_stage_is_refused_with_the_known_ones() {
        let workspace = Workspace::find().unwrap();
        let arguments = Arguments {
            stages: vec!["tset".into()],
            fuzz_seconds: 1,
        };
        let error = run(&workspace, &arguments).unwrap_err().to_string();
        assert!(
            error.contains("tset") && error.contains("clippy, docs, tests"),
            "{error}"
        );
    }
}

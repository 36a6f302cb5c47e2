//! `cargo xtask demo`: what bespoke does, on one page of text.
//!
//! Fetches the two models and NVRTC, builds the program `demo` in release mode and starts it on the committed page.
//! All that is shown is the program's own; this command only brings it its inputs.

use std::process::Command;

use crate::error::Error;
use crate::models;
use crate::workspace::{self, CARGO, Workspace};

/// Arguments of `cargo xtask demo`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Passed on to the program, e.g. `--device host`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

/// What the program needs of the manifest.
const NEEDED: [&str; 3] = ["ppocrv4_det", "ppocrv4_rec", "nvrtc"];
/// The kinds of target that the program may be, with cargo's flag for each.
const KINDS: [(&str, &str); 2] = [("example", "--example"), ("bin", "--bin")];
const NAME: &str = "demo";

/// Runs the command.
pub(crate) fn run(workspace: &Workspace, arguments: &Arguments) -> Result<(), Error> {
    let metadata = workspace.metadata()?;
    let (package, flag) = metadata
        .packages
        .iter()
        .find_map(|p| {
            KINDS
                .iter()
                .find(|(kind, _)| p.builds(kind, NAME))
                .map(|(_, flag)| (&p.name, *flag))
        })
        .ok_or_else(|| Error::NoTarget {
            what: format!("example or binary `{NAME}`"),
            command: "demo",
        })?;

    models::fetch(workspace, &NEEDED)?;
    eprintln!("building {NAME} in release mode …");
    let mut build = workspace.cargo();
    build.args([
        "build",
        "--release",
        "--locked",
        "--package",
        package,
        flag,
        NAME,
    ]);
    let made = workspace::build(&mut build)?;
    let program = made.get(NAME).ok_or_else(|| Error::NoTarget {
        what: format!("executable `{NAME}`"),
        command: "demo",
    })?;

    let page = workspace.root().join("models/demo");
    let mut command = Command::new(program);
    command
        .arg("--models")
        .arg(models::folder(workspace))
        .arg("--page")
        .arg(page.join("page.png"))
        .arg("--expected")
        .arg(page.join("expected.txt"))
        .arg("--cache")
        .arg(workspace.root().join("target/demo-cache"))
        .args(&arguments.rest)
        .env("BESPOKE_NVRTC", models::nvrtc(workspace));
    workspace::run(&mut command, CARGO)
}

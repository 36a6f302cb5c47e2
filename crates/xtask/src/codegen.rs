//! `cargo xtask codegen`: regenerates the protobuf code of the importer.
//!
//! The importer's test knows how the code is made and fails while the committed file differs from it; this command
//! runs that test with leave to write. So there is one place that can be wrong, and it is tested.

use crate::error::Error;
use crate::workspace::{self, Workspace};

/// Runs the command.
pub(crate) fn run(workspace: &Workspace) -> Result<(), Error> {
    let mut command = workspace.cargo();
    command
        .args(["test", "--package=bespoke-onnx", "--test=generated"])
        .env("BESPOKE_REGENERATE", "1");
    workspace::run(&mut command, workspace::CARGO)
}

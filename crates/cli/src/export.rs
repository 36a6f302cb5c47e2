//! Files that a command writes beside what it prints.

use std::path::PathBuf;

use bespoke::ErrorKind;
use serde::Serialize;

use crate::failure::Failure;

/// Writes a file anew, if one is asked for.
///
/// # Errors
///
/// A file that cannot be written, named.
pub(crate) fn save(
    path: Option<&PathBuf>,
    text: impl FnOnce() -> Result<String, Failure>,
) -> Result<(), Failure> {
    match path {
        None => Ok(()),
        Some(path) => {
            std::fs::write(path, text()?).map_err(|error| Failure::file(path, "write", &error))
        }
    }
}

/// A document as people and programs read it.
///
/// # Errors
///
/// None but a bug.
pub(crate) fn json(value: &impl Serialize) -> Result<String, Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|error| {
        Failure::new(
            ErrorKind::Internal,
            format!("the JSON document cannot be made: {error}"),
            "please report it",
        )
    })?;
    Ok(text + "\n")
}

//! Stored inputs and outputs: the layout of the ONNX backend tests.
//!
//! A *set* is a folder with `input_0.pb, input_1.pb, …` and `output_0.pb, …`, each one serialized tensor, counted in the
//! order of the graph's inputs (those that are initializers left out) and outputs. The folder of a model holds sets named
//! `test_data_set_0, test_data_set_1, …`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bespoke::ir::Constant;
use bespoke::onnx::read_tensor_file;

use crate::failure::Failure;

const SET: &str = "test_data_set_";

/// One set, read.
#[derive(Debug)]
pub(crate) struct Set {
    /// Inputs in graph order.
    pub(crate) inputs: Vec<Arc<Constant>>,
    /// Outputs in graph order.
    pub(crate) outputs: Vec<Arc<Constant>>,
}

/// The sets of a folder in the order of their numbers: those in it, or the folder itself if it is one.
///
/// # Errors
///
/// A folder that cannot be read or has no set.
pub(crate) fn find(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let io = |error: std::io::Error| Failure::file(folder, "read", &error);
    let mut sets: Vec<(u64, PathBuf)> = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if let Some(number) = number(&path, SET, "").filter(|_| path.is_dir()) {
            sets.push((number, path));
        }
    }
    sets.sort();
    if !sets.is_empty() {
        return Ok(sets.into_iter().map(|(_, path)| path).collect());
    }
    if folder.join("output_0.pb").is_file() {
        return Ok(vec![folder.to_owned()]);
    }
    Err(Failure::usage(
        format!(
            "{} has neither a folder {SET}0 nor a file output_0.pb",
            folder.display()
        ),
        "name the folder that holds test_data_set_0, or one such set",
    ))
}

/// The number in `prefix7suffix`.
fn number(path: &Path, prefix: &str, suffix: &str) -> Option<u64> {
    let digits = path
        .file_name()?
        .to_str()?
        .strip_prefix(prefix)?
        .strip_suffix(suffix)?;
    if digits.starts_with('+') {
        None
    } else {
        digits.parse().ok()
    }
}

/// Reads `prefix0.pb, prefix1.pb, …` and makes sure that no number is left out.
fn series(folder: &Path, prefix: &str) -> Result<Vec<Arc<Constant>>, Failure> {
    let io = |error: std::io::Error| Failure::file(folder, "read", &error);
    let mut numbers: Vec<u64> = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        numbers.extend(number(&entry.map_err(io)?.path(), prefix, ".pb"));
    }
    // A number that is missing is then a file that cannot be read, and is named as such.
    (0..numbers.len())
        .map(|i| read_tensor(&folder.join(format!("{prefix}{i}.pb"))))
        .collect()
}

/// Reads one serialized tensor.
///
/// # Errors
///
/// A file that is missing or is no tensor. What is wrong with data is never the model's fault.
pub(crate) fn read_tensor(path: &Path) -> Result<Arc<Constant>, Failure> {
    read_tensor_file(path).map_err(|error| {
        let (path, error) = (path.display().to_string(), error.to_string());
        // Some of the reader's messages have the file already.
        let message = if error.contains(&path) {
            error
        } else {
            format!("{path}: {error}")
        };
        Failure::usage(
            message,
            "a .pb file holds one serialized TensorProto, as the ONNX test data has them",
        )
    })
}

/// Reads a set.
///
/// # Errors
///
/// A file that is missing from a series, cannot be read or is no tensor.
pub(crate) fn read(folder: &Path) -> Result<Set, Failure> {
    Ok(Set {
        inputs: series(folder, "input_")?,
        outputs: series(folder, "output_")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bespoke::ir::DType;
    use bespoke::onnx::write_tensor_file;

    fn write(folder: &Path, name: &str, value: u8) {
        std::fs::create_dir_all(folder).unwrap();
        let tensor = Constant::new(DType::U8, vec![1], vec![value].into()).unwrap();
        write_tensor_file(&folder.join(name), name, &tensor).unwrap();
    }

    #[test]
    fn sets_and_files_are_sorted_by_number() {
        let dir = tempfile::tempdir().unwrap();
        for set in [10, 9, 0] {
            let folder = dir.path().join(format!("test_data_set_{set}"));
            for i in 0..11 {
                write(&folder, &format!("input_{i}.pb"), i);
            }
            write(&folder, "output_0.pb", set);
        }
        std::fs::create_dir(dir.path().join("test_data_set_x")).unwrap();
        let sets = find(dir.path()).unwrap();
        let order: Vec<u8> = sets
            .iter()
            .map(|s| read(s).unwrap().outputs[0].data()[0])
            .collect();
        assert_eq!(order, [0, 9, 10]);
        let inputs = read(&sets[0]).unwrap().inputs;
        assert_eq!(
            inputs.iter().map(|t| t.data()[0]).collect::<Vec<_>>(),
            (0..11).collect::<Vec<_>>()
        );
        assert_eq!(
            find(&sets[1]).unwrap(),
            [sets[1].clone()],
            "a set may be named itself"
        );
    }

    #[test]
    fn a_hole_in_the_series_is_named() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "input_1.pb", 1);
        write(dir.path(), "output_0.pb", 0);
        assert!(
            read(dir.path())
                .unwrap_err()
                .to_string()
                .contains("input_0.pb")
        );
        let empty = tempfile::tempdir().unwrap();
        assert!(find(empty.path()).unwrap_err().message.contains("neither"));
    }
}

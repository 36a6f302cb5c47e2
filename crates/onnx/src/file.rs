//! Opening a model file.
//!
//! [`ModelFile::open`] maps the file and decodes the protobuf message in place. Weights stored as raw data are not
//! copied: they point into the map, so a model of several gigabytes opens in milliseconds. What can go wrong here is
//! all [`OnnxError::Io`] or [`OnnxError::NotAModel`]; what the message *means* is checked later.

use crate::error::OnnxError;
use crate::{mapping, proto};
use bytes::Bytes;
use prost::Message;
use std::fs::File;
use std::path::{Path, PathBuf};

/// A model file, mapped and decoded.
#[derive(Debug)]
pub struct ModelFile {
    /// The file that was opened; `model.onnx` inside it where a folder was named.
    pub path: PathBuf,
    /// Size of the file in bytes.
    pub size: u64,
    /// The decoded message. Raw tensor data points into the mapped file, which lives as long as the last clone.
    pub proto: proto::ModelProto,
}

impl ModelFile {
    /// Opens `path`, or `path/model.onnx` if it is a folder.
    ///
    /// The file must not be changed or truncated while it is in use (replacing it by a rename is fine).
    pub fn open(path: &Path) -> Result<Self, OnnxError> {
        let path = if path.is_dir() {
            path.join("model.onnx")
        } else {
            path.to_owned()
        };
        let bytes = map_regular(&path)?;
        let size = bytes.len() as u64;
        let proto = decode(&path, bytes)?;
        Ok(ModelFile { path, size, proto })
    }

    /// The folder that external data is relative to.
    pub fn directory(&self) -> &Path {
        match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        }
    }
}

/// Maps a regular file whose path the user gave, following links as any program does.
pub(crate) fn map_regular(path: &Path) -> Result<Bytes, OnnxError> {
    let io = |source| OnnxError::Io {
        path: path.to_owned(),
        source,
    };
    // Asked before opening: opening a pipe would wait for its other end.
    if !std::fs::metadata(path).map_err(io)?.is_file() {
        return Err(OnnxError::NotAModel {
            path: path.to_owned(),
            reason: "it is not a regular file".into(),
        });
    }
    mapping::map(&File::open(path).map_err(io)?).map_err(io)
}

/// Decodes a model, saying what the bytes look like where they are no model. `path` serves messages only.
pub(crate) fn decode(path: &Path, bytes: Bytes) -> Result<proto::ModelProto, OnnxError> {
    let refuse = |reason: String| OnnxError::NotAModel {
        path: path.to_owned(),
        reason,
    };
    if bytes.is_empty() {
        return Err(refuse("the file is empty".into()));
    }
    if let Some(kind) = recognise(&bytes) {
        return Err(refuse(format!("it looks like {kind}")));
    }
    let model = proto::ModelProto::decode(bytes).map_err(|error| {
        refuse(format!(
            "decoding the protobuf message failed: {error}; the file may be truncated or damaged"
        ))
    })?;
    if model.graph.is_none() {
        return Err(refuse(
            "the message has no graph; the file may be truncated or hold something else".into(),
        ));
    }
    Ok(model)
}

/// Formats that are mistaken for ONNX: offset, magic bytes, what it is and what to do.
const LOOKALIKES: &[(usize, &[u8], &str)] = &[
    (0, b"\x1f\x8b", "a gzip archive; unpack it first"),
    (
        0,
        b"PK\x03\x04",
        "a zip archive; unpack it first (PyTorch checkpoints are zip archives too: export them)",
    ),
    (0, b"\x80\x02", "a Python pickle; export the model to ONNX"),
    (0, b"\x80\x03", "a Python pickle; export the model to ONNX"),
    (0, b"\x80\x04", "a Python pickle; export the model to ONNX"),
    (
        0,
        b"version https://git-lfs",
        "a Git LFS pointer; run `git lfs pull`",
    ),
    (0, b"<!DOCTYPE", "an HTML page; the download went wrong"),
    (0, b"<!doctype", "an HTML page; the download went wrong"),
    (0, b"<html", "an HTML page; the download went wrong"),
    (0, b"GGUF", "a GGUF file; convert the model to ONNX"),
    (
        4,
        b"ORTM",
        "a model in ONNX Runtime's own format; use the ONNX file it was made from",
    ),
    (4, b"TFL3", "a TensorFlow Lite model; convert it to ONNX"),
    (0, b"\x89HDF", "an HDF5 file; convert the model to ONNX"),
    (0, b"\x93NUMPY", "a NumPy array"),
];

fn recognise(bytes: &[u8]) -> Option<&'static str> {
    LOOKALIKES
        .iter()
        .find(|(offset, magic, _)| bytes.get(*offset..).is_some_and(|b| b.starts_with(magic)))
        .map(|row| row.2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{GraphProto, ModelProto, TensorProto};

    fn model(raw: Vec<u8>) -> ModelProto {
        ModelProto {
            ir_version: Some(8),
            graph: Some(GraphProto {
                name: Some("g".into()),
                initializer: vec![TensorProto {
                    name: Some("w".into()),
                    dims: vec![raw.len() as i64],
                    data_type: Some(2),
                    raw_data: Some(raw.into()),
                    ..Default::default()
                }],
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    #[test]
    fn raw_data_points_into_the_map_and_a_folder_opens_its_model() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.onnx");
        let payload: Vec<u8> = (0..=255u8).cycle().take(1 << 20).collect();
        let bytes = model(payload.clone()).encode_to_vec();
        std::fs::write(&path, &bytes).unwrap();

        let mapped = map_regular(&path).unwrap();
        let range = mapped.as_ptr_range();
        let proto = decode(&path, mapped.clone()).unwrap();
        let raw = proto.graph.unwrap().initializer[0]
            .raw_data
            .clone()
            .unwrap();
        assert_eq!(raw, payload);
        assert!(range.contains(&raw.as_ptr()), "the weights were copied");

        let opened = ModelFile::open(dir.path()).unwrap();
        assert_eq!((opened.size, &opened.path), (bytes.len() as u64, &path));
        assert_eq!(opened.directory(), dir.path());
    }

    #[test]
    fn what_is_no_model_is_refused_with_a_reason() {
        let dir = tempfile::tempdir().unwrap();
        let check = |name: &str, bytes: &[u8], expected: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            let error = ModelFile::open(&path).unwrap_err();
            assert!(matches!(error, OnnxError::NotAModel { .. }), "{error}");
            let text = error.to_string();
            assert!(text.contains(expected) && text.contains(name), "{text}");
        };
        check("empty.onnx", b"", "the file is empty");
        check("page.onnx", b"<!DOCTYPE html><html>", "an HTML page");
        check(
            "lfs.onnx",
            b"version https://git-lfs.github.com/spec/v1",
            "git lfs pull",
        );
        check("zip.onnx", b"PK\x03\x04abc", "zip archive");
        check("no_graph.onnx", &[0x08, 0x08], "no graph");
        check(
            "noise.onnx",
            &[0xff; 64],
            "decoding the protobuf message failed",
        );
        let bomb = [0x3a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
        check("length.onnx", &bomb, "truncated or damaged");
        let error = ModelFile::open(&dir.path().join("absent.onnx")).unwrap_err();
        assert!(matches!(error, OnnxError::Io { .. }));
    }

    #[test]
    fn every_truncation_is_an_error_or_a_model_and_never_a_panic() {
        let bytes = Bytes::from(model((0..200).collect()).encode_to_vec());
        for end in 0..bytes.len() {
            // A cut between two fields of the outer message leaves a shorter, legal message.
            let _ = decode(Path::new("cut.onnx"), bytes.slice(..end));
        }
        assert!(decode(Path::new("cut.onnx"), bytes.slice(..bytes.len() / 2)).is_err());
    }
}

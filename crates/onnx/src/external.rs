//! Tensors whose data lies in files beside the model (`TensorProto.external_data`).
//!
//! A large model keeps its weights in one or more side files; every tensor names a file, an offset and a length. Each
//! file is opened once, by `contained`, mapped once and shared by all tensors in it. All numbers are checked
//! without overflow against the size of the file that was really opened.
//!
//! The optional `checksum` key (SHA-1 of the whole side file) is accepted and not verified: it would mean reading
//! every byte of files that are otherwise only mapped.

use crate::error::OnnxError;
use crate::proto::TensorProto;
use crate::{contained, mapping};
use bytes::Bytes;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// The side files of one model.
#[derive(Debug)]
pub struct ExternalData {
    root: Option<PathBuf>,
    files: HashMap<String, Bytes>,
}

/// The keys that the standard defines for an `external_data` entry, parsed.
#[derive(Debug, PartialEq, Eq)]
struct Entry<'a> {
    location: &'a str,
    offset: u64,
    length: Option<u64>,
}

impl ExternalData {
    /// Side files are looked for in `root`, the folder of the model file.
    pub fn in_folder(root: &Path) -> Self {
        ExternalData {
            root: Some(root.to_owned()),
            files: HashMap::new(),
        }
    }

    /// For a model that came as bytes and has no folder: every external tensor is an error.
    pub fn none() -> Self {
        ExternalData {
            root: None,
            files: HashMap::new(),
        }
    }

    /// The side files opened so far: location as the model spells it, and size in bytes; sorted by location.
    pub fn files(&self) -> Vec<(String, u64)> {
        let mut files: Vec<_> = self
            .files
            .iter()
            .map(|(name, bytes)| (name.clone(), bytes.len() as u64))
            .collect();
        files.sort();
        files
    }

    /// The bytes of an external tensor, as a slice of the mapped side file.
    ///
    /// `expected` is the length that the tensor's type and dims demand; it is used where the entry gives no length
    /// and must agree where it does.
    pub fn bytes(&mut self, tensor: &TensorProto, expected: u64) -> Result<Bytes, OnnxError> {
        let name = tensor.name();
        let entry = parse(tensor)?;
        let location = entry.location.to_owned();
        let refuse = |reason: String| OnnxError::ExternalData {
            tensor: name.to_owned(),
            location: location.clone(),
            reason,
        };
        let length = entry.length.unwrap_or(expected);
        if length != expected {
            return Err(refuse(format!(
                "its length is {length} bytes, but type and dims of the tensor need {expected}"
            )));
        }
        let file = match self.files.get(&location) {
            Some(bytes) => bytes.clone(),
            None => {
                let Some(root) = &self.root else {
                    return Err(refuse(
                        "the model was given as bytes and has no folder; import it from its file"
                            .into(),
                    ));
                };
                let file = contained::open(root, &location).map_err(refuse)?;
                let bytes = mapping::map(&file)
                    .map_err(|error| refuse(format!("cannot map the file: {error}")))?;
                self.files.insert(location.clone(), bytes.clone());
                bytes
            }
        };
        let size = file.len() as u64;
        if length > size || entry.offset > size - length {
            return Err(refuse(format!(
                "bytes {}+{length} lie beyond the end of the file ({size} bytes); it may be truncated",
                entry.offset
            )));
        }
        // Both fit usize, as they are at most the length of a mapping.
        let start = entry.offset as usize;
        Ok(file.slice(start..start + length as usize))
    }
}

fn parse(tensor: &TensorProto) -> Result<Entry<'_>, OnnxError> {
    let find = |wanted: &str| {
        let mut found = tensor
            .external_data
            .iter()
            .filter(|entry| entry.key() == wanted);
        let first = found.next().map(|entry| entry.value());
        match found.next() {
            Some(_) => Err(OnnxError::tensor(
                tensor.name(),
                format!("external data has the key '{wanted}' more than once"),
            )),
            None => Ok(first),
        }
    };
    let location = find("location")?.ok_or_else(|| {
        OnnxError::tensor(
            tensor.name(),
            "its data is external, but no 'location' is given",
        )
    })?;
    let refuse = |reason: String| OnnxError::ExternalData {
        tensor: tensor.name().to_owned(),
        location: location.to_owned(),
        reason,
    };
    // ONNX Runtime marks tensors that live in its own memory by such a location, with an address as the offset.
    if location.contains("_ORT_MEM_ADDR_") {
        return Err(refuse(
            "this marks an address in another program's memory, not a file; save the model again with its weights"
                .into(),
        ));
    }
    let number = |key: &str| match find(key)? {
        None => Ok(None),
        Some(text) => {
            let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            match text.parse::<u64>() {
                Ok(value) if digits => Ok(Some(value)),
                _ => Err(refuse(format!(
                    "'{key}' must be a non-negative integer, but is '{text}'"
                ))),
            }
        }
    };
    Ok(Entry {
        location,
        offset: number("offset")?.unwrap_or(0),
        length: number("length")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::StringStringEntryProto;

    fn tensor(entries: &[(&str, &str)]) -> TensorProto {
        TensorProto {
            name: Some("w".into()),
            external_data: entries
                .iter()
                .map(|(key, value)| StringStringEntryProto {
                    key: Some((*key).into()),
                    value: Some((*value).into()),
                })
                .collect(),
            ..Default::default()
        }
    }

    #[test]
    fn slices_share_one_mapping() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("w.bin"), (0..100u8).collect::<Vec<_>>()).unwrap();
        let mut data = ExternalData::in_folder(dir.path());
        let a = data
            .bytes(&tensor(&[("location", "w.bin"), ("length", "8")]), 8)
            .unwrap();
        let b = data
            .bytes(&tensor(&[("location", "w.bin"), ("offset", "4")]), 96)
            .unwrap();
        assert_eq!(a[..], [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(b.as_ptr(), a[4..].as_ptr());
        assert_eq!(data.files(), [("w.bin".to_owned(), 100)]);
    }

    #[test]
    fn bad_entries_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("w.bin"), [0u8; 16]).unwrap();
        let huge = u64::MAX.to_string();
        let beyond = format!("1{huge}");
        let cases: &[(&[(&str, &str)], &str)] = &[
            (&[], "no 'location'"),
            (
                &[("location", "w.bin"), ("location", "w.bin")],
                "more than once",
            ),
            (&[("location", "../w.bin")], "'..' is refused"),
            (
                &[("location", "*/_ORT_MEM_ADDR_/*"), ("offset", "140000")],
                "another program's memory",
            ),
            (
                &[("location", "w.bin"), ("offset", "-1")],
                "non-negative integer",
            ),
            (
                &[("location", "w.bin"), ("offset", "+1")],
                "non-negative integer",
            ),
            (
                &[("location", "w.bin"), ("offset", "")],
                "non-negative integer",
            ),
            (
                &[("location", "w.bin"), ("offset", &beyond)],
                "non-negative integer",
            ),
            (
                &[("location", "w.bin"), ("offset", &huge)],
                "beyond the end",
            ),
            (&[("location", "w.bin"), ("offset", "9")], "beyond the end"),
            (&[("location", "w.bin"), ("length", "7")], "need 8"),
            (&[("location", "absent.bin")], "cannot open"),
        ];
        for (entries, reason) in cases {
            let error = ExternalData::in_folder(dir.path())
                .bytes(&tensor(entries), 8)
                .unwrap_err();
            assert!(error.to_string().contains(reason), "{entries:?}: {error}");
        }
        let error = ExternalData::none()
            .bytes(&tensor(&[("location", "w.bin")]), 8)
            .unwrap_err();
        assert!(error.to_string().contains("has no folder"), "{error}");
    }
}

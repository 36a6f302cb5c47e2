//! Target `external-data`: a model whose weights lie in other files, which it names as it likes.
//!
//! The folder is the same for all inputs and has everything that a stranger could wish for: links out of it, hard links
//! to a secret, a pipe, a loop, a file of a terabyte. The input decides what the model asks for.
//!
//! Promises: no byte from outside the folder comes in; what comes in is what a plain read of the named file gives; and
//! nothing waits for a pipe.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use bespoke_onnx::proto::{GraphProto, StringStringEntryProto, TensorProto, ValueInfoProto};
use bespoke_onnx::{ImportOptions, import};
use prost::Message;

use super::protos;
use crate::choices::Choices;
use crate::random::{BORDERS, Rng};
use crate::target::{Seen, Target, outline};

/// What must never be read.
const SECRET: &[u8; 16] = b"-- the secret --";

/// Places that models name. The first is good.
const LOCATIONS: [&str; 32] = [
    "a.bin",
    "sub/b.bin",
    "./a.bin",
    "sub/deep/c.bin",
    "empty.bin",
    "white space.bin",
    "umläut.bin",
    "sub//b.bin",
    "sub/./b.bin",
    "huge.bin",
    "model.onnx",
    "link.bin",
    "out.bin",
    "linkdir/secret.bin",
    "inside/b.bin",
    "twin.bin",
    "stolen.bin",
    "pipe",
    "loop",
    "loop/a.bin",
    "sub",
    "sub/",
    ".",
    "..",
    "",
    "../outside/secret.bin",
    "sub/../../outside/secret.bin",
    "sub/../a.bin",
    "/etc/passwd",
    "a.bin/",
    "missing.bin",
    "a.bin\0",
];

/// The target.
struct External {
    root: PathBuf,
}

/// Makes the target and its folder.
pub(crate) fn make(scratch: &Path) -> Result<Box<dyn Target>, String> {
    let root = scratch.join("model");
    furnish(scratch, &root)
        .map_err(|e| format!("the folder for external data cannot be made: {e}"))?;
    Ok(Box::new(External { root }))
}

/// Fills the folder.
fn furnish(scratch: &Path, root: &Path) -> io::Result<()> {
    let outside = scratch.join("outside");
    fs::create_dir_all(&outside)?;
    fs::create_dir_all(root.join("sub/deep"))?;
    fs::write(outside.join("secret.bin"), SECRET.repeat(64))?;
    let pattern = |n: usize| -> Vec<u8> { (0..n).map(|i| (i * 7 + i / 256) as u8).collect() };
    fs::write(root.join("a.bin"), pattern(4096))?;
    fs::write(root.join("sub/b.bin"), pattern(100))?;
    fs::write(root.join("sub/deep/c.bin"), pattern(8))?;
    fs::write(root.join("empty.bin"), b"")?;
    fs::write(root.join("white space.bin"), pattern(16))?;
    fs::write(root.join("umläut.bin"), pattern(16))?;
    fs::write(root.join("first.bin"), pattern(16))?;
    fs::hard_link(root.join("first.bin"), root.join("twin.bin"))?;
    fs::hard_link(outside.join("secret.bin"), root.join("stolen.bin"))?;
    // A hole: it takes no space on disk. A file system that refuses such a file leaves one case untested.
    let _ = fs::File::create(root.join("huge.bin"))?.set_len(1 << 40);
    #[cfg(unix)]
    {
        use std::os::unix::fs::symlink;
        symlink("a.bin", root.join("link.bin"))?;
        symlink("../outside/secret.bin", root.join("out.bin"))?;
        symlink("../outside", root.join("linkdir"))?;
        symlink("sub", root.join("inside"))?;
        symlink("loop", root.join("loop"))?;
        rustix::fs::mkfifoat(
            rustix::fs::CWD,
            root.join("pipe"),
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        )?;
    }
    Ok(())
}

/// What the input asks for.
struct Wish {
    /// The model's bytes.
    model: Vec<u8>,
    /// The tensors that it was built from.
    tensors: Vec<TensorProto>,
    /// Whether the bytes were damaged afterwards.
    damaged: bool,
}

/// A number as a model may spell it.
fn spelling(choices: &mut Choices<'_>) -> String {
    match choices.below(12) {
        0..=3 => choices.int().to_string(),
        4 | 5 => (choices.below(64) * 4).to_string(),
        6 => u64::MAX.to_string(),
        7 => "99999999999999999999999".into(),
        8 => format!("+{}", choices.below(64)),
        9 => format!(" {}", choices.below(64)),
        10 => format!("0x{:x}", choices.byte()),
        _ => {
            let bytes: Vec<u8> = (0..choices.below(6)).map(|_| choices.byte()).collect();
            String::from_utf8_lossy(&bytes).into_owned()
        }
    }
}

fn entry(key: &str, value: String) -> StringStringEntryProto {
    StringStringEntryProto {
        key: Some(key.into()),
        value: Some(value),
    }
}

fn external_tensor(choices: &mut Choices<'_>, name: &str) -> TensorProto {
    let location = if choices.once_in(16) {
        let length = choices.below(40);
        let letters = b"ab./\\:*\0 -~suboutside.bin";
        (0..length)
            .map(|_| char::from(choices.pick(letters)))
            .collect()
    } else {
        choices.pick(&LOCATIONS).to_owned()
    };
    let mut data = vec![entry("location", location)];
    if choices.yes() {
        data.push(entry("offset", spelling(choices)));
    }
    if choices.yes() {
        data.push(entry("length", spelling(choices)));
    }
    if choices.once_in(12) {
        let key = choices.pick(&["checksum", "basepath", "location", "offset", "length", ""]);
        data.push(entry(key, spelling(choices)));
    }
    if choices.once_in(16) {
        data.rotate_left(1);
    }
    if choices.once_in(24) {
        data.remove(0);
    }
    let code = choices.pick(&[1, 10, 7, 2, 22, 11, 8, 99]);
    let rank = choices.below(4);
    let dims = (0..rank)
        .map(|_| {
            if choices.once_in(8) {
                choices.pick(&BORDERS)
            } else {
                choices.below(9) as i64
            }
        })
        .collect();
    TensorProto {
        name: Some(name.into()),
        data_type: Some(code),
        dims,
        external_data: data,
        data_location: Some(choices.pick(&[1, 1, 1, 1, 1, 1, 0, 7])),
        raw_data: choices
            .once_in(16)
            .then(|| vec![choices.byte(); choices.below(9)].into()),
        ..Default::default()
    }
}

/// Builds the model.
fn wish(input: &[u8]) -> Wish {
    let mut choices = Choices::new(input);
    let count = 1 + choices.below(3);
    let tensors: Vec<TensorProto> = (0..count)
        .map(|i| external_tensor(&mut choices, &format!("w{i}")))
        .collect();
    let output = |tensor: &TensorProto| ValueInfoProto {
        name: tensor.name.clone(),
        ..Default::default()
    };
    let graph = GraphProto {
        initializer: tensors.clone(),
        output: tensors.iter().map(output).collect(),
        ..Default::default()
    };
    let mut model = protos::model(graph, 17).encode_to_vec();
    let damaged = choices.once_in(12);
    if damaged {
        let at = usize::from(choices.byte()) % model.len();
        model[at] ^= choices.byte();
    }
    Wish {
        model,
        tensors,
        damaged,
    }
}

/// The bytes that a tensor means, by the plainest reading of the standard; `None` where it must be refused.
fn expected(root: &Path, tensor: &TensorProto) -> Option<Vec<u8>> {
    let get = |key: &str| {
        tensor
            .external_data
            .iter()
            .find(|e| e.key() == key)
            .map(StringStringEntryProto::value)
    };
    let location = get("location")?;
    if location.starts_with('/') || location.split('/').any(|part| part == "..") {
        return None;
    }
    let mut path = root.to_owned();
    for part in location
        .split('/')
        .filter(|part| !matches!(*part, "" | "."))
    {
        path.push(part);
        if fs::symlink_metadata(&path).ok()?.is_symlink() {
            return None;
        }
    }
    let data = fs::metadata(&path).ok()?;
    #[cfg(unix)]
    if std::os::unix::fs::MetadataExt::nlink(&data) > 1 {
        return None;
    }
    // The terabyte is not read; whoever gets something of it has been checked by its size alone.
    if !data.is_file() || data.len() > 1 << 20 {
        return None;
    }
    let offset: usize = get("offset").unwrap_or("0").trim().parse().ok()?;
    let count: i64 = tensor.dims.iter().product();
    let length = usize::try_from(count).ok()? * protos::width(tensor.data_type());
    let end = offset.checked_add(length)?;
    fs::read(&path).ok()?.get(offset..end).map(<[u8]>::to_vec)
}

impl Target for External {
    fn seeds(&mut self, rng: &mut Rng) -> Vec<Vec<u8>> {
        let mut seeds = vec![Vec::new()];
        // One for each place, otherwise good.
        seeds.extend((0..LOCATIONS.len() as u8).map(|place| vec![0, 0, place]));
        seeds.extend((0..100).map(|_| rng.bytes(64)));
        seeds
    }

    fn run(&mut self, input: &[u8]) -> Result<Seen, String> {
        let wish = wish(input);
        let path = self.root.join("model.onnx");
        fs::write(&path, &wish.model).map_err(|e| format!("the model cannot be written: {e}"))?;
        let model = match import(&path, &ImportOptions::default()) {
            Ok(model) => model,
            Err(error) => return Ok(vec![outline("import", &error.to_string())]),
        };
        for index in 0..model.graph.value_bound() {
            let Some(value) = model.graph.value_at(index).map(|v| model.graph.value(v)) else {
                continue;
            };
            let Some(constant) = &value.constant else {
                continue;
            };
            let data = constant.data();
            let half = &SECRET[..SECRET.len() / 2];
            if data.windows(half.len()).any(|w| w == half) {
                return Err(format!(
                    "`{}` holds bytes from outside the folder",
                    value.name
                ));
            }
            let asked = wish.tensors.iter().find(|t| t.name() == value.name);
            let from_file = asked.filter(|t| t.data_location == Some(1));
            if let Some(want) = from_file.and_then(|t| expected(&self.root, t))
                && !wish.damaged
                && want != data[..]
            {
                return Err(format!("`{}` is not what its file holds", value.name));
            }
        }
        Ok(vec![format!(
            "imported: {} files",
            model.external_files.len()
        )])
    }

    fn describe(&mut self, input: &[u8]) -> Option<String> {
        let tensors = wish(input).tensors;
        let line = |t: &TensorProto| {
            let data: Vec<String> = t
                .external_data
                .iter()
                .map(|e| format!("{}={:?}", e.key(), e.value()))
                .collect();
            format!(
                "{}: type {} dims {:?} location {:?}: {}",
                t.name(),
                t.data_type(),
                t.dims,
                t.data_location,
                data.join(" ")
            )
        };
        Some(tensors.iter().map(line).collect::<Vec<_>>().join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_simplest_input_is_imported_and_bad_places_are_refused() {
        let scratch = tempfile::tempdir().unwrap();
        let mut target = make(scratch.path()).unwrap();
        assert_eq!(target.run(&[]), Ok(vec!["imported: 1 files".into()]));
        for (place, name) in LOCATIONS.iter().enumerate() {
            let seen = target.run(&[0, 0, place as u8]).unwrap();
            let good = seen[0].starts_with("imported");
            let bad = [
                "link", "out", "twin", "stolen", "pipe", "loop", "..", "/etc",
            ];
            assert!(
                !(good && bad.iter().any(|b| name.contains(b))),
                "{name}: {seen:?}"
            );
        }
    }
}

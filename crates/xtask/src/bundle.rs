//! `cargo xtask bundle`: what a GPU machine without Rust needs to run the GPU tests.
//!
//! `target/bundle/` gets the executables of [`PARTS`], built in the profile [`PROFILE`], and `run-gpu-tests.sh`; it stays
//! under [`LIMIT`], and every executable must start on a system with glibc [`OLDEST_GLIBC`]. `target/bundle-models/` gets
//! the small models, the real ones and NVRTC in pieces of at most [`PIECE`] bytes, each model with its reference data, one
//! folder each, so that they can travel apart and only where they are needed; `join.sh` puts together whatever pieces
//! have arrived and checks each file.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::elf;
use crate::error::Error;
use crate::models::{self, Manifest};
use crate::workspace::{self, Workspace};

/// Arguments of `cargo xtask bundle`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Do not stage the real models
    #[arg(long)]
    no_models: bool,
}

/// One executable of the bundle.
struct Part {
    package: &'static str,
    /// Cargo's flag that selects the target.
    flag: &'static str,
    target: &'static str,
    /// The file's name in the bundle.
    file: &'static str,
}

/// The profile of the executables: small rather than soon built. Cargo builds it in a folder of its name, which must not
/// be the bundle's.
const PROFILE: &str = "compact";

/// What is built: the tool itself and the GPU tests.
const PARTS: [Part; 2] = [
    Part {
        package: "bespoke-cli",
        flag: "--bin",
        target: "bespoke",
        file: "bespoke",
    },
    Part {
        package: "bespoke-gpu-tests",
        flag: "--test",
        target: "gpu",
        file: "gpu-tests",
    },
];

/// The bundle's size at most, in bytes.
const LIMIT: u64 = 24 << 20;
/// A piece of a model at most, in bytes.
const PIECE: usize = 15 << 20;
/// The oldest glibc on which the executables start (Debian 12).
const OLDEST_GLIBC: elf::Version = (2, 36);

const RUN: &str = r#"#!/bin/sh
# Runs the GPU tests and checks the models that are here. Real models and NVRTC are used if join.sh has put them
# together in MODELS (default: ../bundle-models). Ends unsuccessfully if anything failed.
set -u
here=$(cd "$(dirname "$0")" && pwd)
models=${MODELS:-$here/../bundle-models}
export BESPOKE_MODELS="$models"
[ -e "$models/nvrtc" ] && export BESPOKE_NVRTC="$models/nvrtc"
failed=0
"$here/bespoke" doctor || failed=1
"$here/gpu-tests" --require-gpu "$@" || failed=1
for data in "$models"/*/ "$models"/small/*/; do
    [ -e "$data/model.onnx" ] || continue
    "$here/bespoke" check "$data/model.onnx" --data "$data" --device cuda || failed=1
done
exit $failed
"#;

const JOIN: &str = r#"#!/bin/sh
# Puts the pieces that are here together: NAME/FILE.00, NAME/FILE.01, … become NAME/FILE, checked by `cksum`.
set -eu
cd "$(dirname "$0")"
for sum in */*.cksum; do
    file=${sum%.cksum}
    [ -e "$file.00" ] || continue
    cat "$file".[0-9][0-9] > "$file.part"
    if [ "$(cksum < "$file.part")" != "$(cat "$sum")" ]; then
        echo "error: $file is not whole: a piece is missing or damaged" >&2
        exit 1
    fi
    mv "$file.part" "$file"
    rm "$file".[0-9][0-9]
    echo "$file"
done
"#;

/// Runs the command.
pub(crate) fn run(workspace: &Workspace, arguments: &Arguments) -> Result<(), Error> {
    let metadata = workspace.metadata()?;
    for part in &PARTS {
        let kind = part.flag.trim_start_matches('-');
        if !metadata
            .package(part.package)
            .is_some_and(|p| p.builds(kind, part.target))
        {
            let what = format!("{kind} `{}` in a package `{}`", part.target, part.package);
            return Err(Error::NoTarget {
                what,
                command: "bundle",
            });
        }
    }
    let bundle = fresh(workspace, "bundle")?;
    for part in &PARTS {
        eprintln!("building {} in the profile {PROFILE} …", part.file);
        let mut command = workspace.cargo();
        if part.flag == "--test" {
            command.args(["test", "--no-run"]);
        } else {
            command.arg("build");
        }
        command.args([
            "--profile",
            PROFILE,
            "--locked",
            "--package",
            part.package,
            part.flag,
            part.target,
        ]);
        let made = workspace::build(&mut command)?;
        let what = || {
            format!(
                "executable of {} `{}`",
                part.flag.trim_start_matches('-'),
                part.target
            )
        };
        let executable = made.get(part.target).ok_or_else(|| Error::NoTarget {
            what: what(),
            command: "bundle",
        })?;
        let place = bundle.join(part.file);
        fs::copy(executable, &place).map_err(Error::io(&place))?;
        check_glibc(&place)?;
    }
    script(&bundle.join("run-gpu-tests.sh"), RUN)?;
    let size = tree_size(&bundle)?;
    if size > LIMIT {
        return Err(Error::Checks(format!(
            "{} holds {size} bytes, more than {LIMIT}",
            bundle.display()
        )));
    }
    println!(
        "{}: {:.1} MiB",
        bundle.display(),
        size as f64 / f64::from(1 << 20)
    );
    if !arguments.no_models {
        stage_models(workspace)?;
    }
    Ok(())
}

fn check_glibc(file: &Path) -> Result<(), Error> {
    let bytes = fs::read(file).map_err(Error::io(file))?;
    let newest = elf::newest_glibc(&bytes).map_err(|reason| Error::Malformed {
        path: file.to_path_buf(),
        reason,
    })?;
    match newest {
        Some((major, minor)) if (major, minor) > OLDEST_GLIBC => Err(Error::Checks(format!(
            "{} needs glibc {major}.{minor}; at most {}.{} is allowed: build the bundle on an older system",
            file.display(),
            OLDEST_GLIBC.0,
            OLDEST_GLIBC.1
        ))),
        _ => Ok(()),
    }
}

fn stage_models(workspace: &Workspace) -> Result<(), Error> {
    models::fetch(workspace, &[])?;
    let folder = fresh(workspace, "bundle-models")?;
    copy_tree(
        &workspace.root().join("models/small"),
        &folder.join("small"),
    )?;
    for model in Manifest::read(workspace)?.models {
        let place = folder.join(&model.name);
        split(&models::model_file(workspace, &model.name), &place, PIECE)?;
        copy_tree(
            &workspace.root().join("models/data").join(&model.name),
            &place,
        )?;
    }
    let nvrtc = models::nvrtc(workspace);
    for entry in fs::read_dir(&nvrtc).map_err(Error::io(&nvrtc))? {
        split(
            &entry.map_err(Error::io(&nvrtc))?.path(),
            &folder.join("nvrtc"),
            PIECE,
        )?;
    }
    script(&folder.join("join.sh"), JOIN)?;
    println!(
        "{}: {:.1} MiB in pieces",
        folder.display(),
        tree_size(&folder)? as f64 / f64::from(1 << 20)
    );
    Ok(())
}

/// An empty folder below the build folder.
fn fresh(workspace: &Workspace, name: &str) -> Result<std::path::PathBuf, Error> {
    let folder = workspace.target(name);
    if folder.exists() {
        fs::remove_dir_all(&folder).map_err(Error::io(&folder))?;
    }
    fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
    Ok(folder)
}

fn script(path: &Path, text: &str) -> Result<(), Error> {
    fs::write(path, text).map_err(Error::io(path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).map_err(Error::io(path))
}

fn copy_tree(from: &Path, to: &Path) -> Result<(), Error> {
    fs::create_dir_all(to).map_err(Error::io(to))?;
    for entry in fs::read_dir(from).map_err(Error::io(from))? {
        let from = entry.map_err(Error::io(from))?.path();
        let to = to.join(from.file_name().unwrap_or_default());
        if from.is_dir() {
            copy_tree(&from, &to)?;
        } else {
            fs::copy(&from, &to).map_err(Error::io(&from))?;
        }
    }
    Ok(())
}

fn tree_size(folder: &Path) -> Result<u64, Error> {
    let mut size = 0;
    for entry in fs::read_dir(folder).map_err(Error::io(folder))? {
        let path = entry.map_err(Error::io(folder))?.path();
        size += if path.is_dir() {
            tree_size(&path)?
        } else {
            path.metadata().map_err(Error::io(&path))?.len()
        };
    }
    Ok(size)
}

/// Writes `folder/FILE.00`, `.01`, … and `FILE.cksum`.
fn split(file: &Path, folder: &Path, piece: usize) -> Result<(), Error> {
    fs::create_dir_all(folder).map_err(Error::io(folder))?;
    let bytes = fs::read(file).map_err(Error::io(file))?;
    let name = file.file_name().unwrap_or_default().display().to_string();
    for (i, part) in bytes.chunks(piece).enumerate() {
        let path = folder.join(format!("{name}.{i:02}"));
        fs::write(&path, part).map_err(Error::io(&path))?;
    }
    let path = folder.join(format!("{name}.cksum"));
    fs::write(&path, format!("{} {}\n", cksum(&bytes), bytes.len())).map_err(Error::io(&path))
}

/// The checksum of POSIX `cksum`: CRC-32 with the polynomial 04C11DB7, most significant bit first, over the bytes and
/// then their count. Every system can check it; it guards against a lost piece, not against malice.
fn cksum(bytes: &[u8]) -> u32 {
    let table: [u32; 256] = std::array::from_fn(|i| {
        (0..8).fold((i as u32) << 24, |crc, _| {
            crc << 1 ^ if crc >> 31 == 1 { 0x04c1_1db7 } else { 0 }
        })
    });
    let step = |crc: u32, byte: u8| crc << 8 ^ table[usize::from((crc >> 24) as u8 ^ byte)];
    let crc = bytes.iter().fold(0, |crc, byte| step(crc, *byte));
    let count = bytes.len().to_le_bytes();
    let used = count.len() - count.iter().rev().take_while(|b| **b == 0).count();
    !count[..used].iter().fold(crc, |crc, byte| step(crc, *byte))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn the_checksum_is_that_of_posix() {
        // `printf 123456789 | cksum` and `cksum < /dev/null`
        assert_eq!(cksum(b"123456789"), 930_766_865);
        assert_eq!(cksum(b""), 4_294_967_295);
    }

    /// A folder with one staged file of three pieces, and its content.
    fn staged() -> (tempfile::TempDir, Vec<u8>) {
        let folder = tempfile::tempdir().unwrap();
        let content: Vec<u8> = (0..2500u32).map(|i| (i * 7 % 251) as u8).collect();
        let file = folder.path().join("model.onnx");
        fs::write(&file, &content).unwrap();
        split(&file, &folder.path().join("tiny"), 1000).unwrap();
        script(&folder.path().join("join.sh"), JOIN).unwrap();
        (folder, content)
    }

    #[test]
    fn pieces_join_to_the_file() {
        let (folder, content) = staged();
        assert!(folder.path().join("tiny/model.onnx.02").exists());
        let status = Command::new("sh")
            .arg(folder.path().join("join.sh"))
            .status()
            .unwrap();
        assert!(status.success());
        assert_eq!(
            fs::read(folder.path().join("tiny/model.onnx")).unwrap(),
            content
        );
    }

    #[test]
    fn a_lost_piece_is_an_error() {
        let (folder, _) = staged();
        fs::remove_file(folder.path().join("tiny/model.onnx.01")).unwrap();
        // by its interpreter: a file that was just written may be busy while another thread starts a process
        let output = Command::new("sh")
            .arg(folder.path().join("join.sh"))
            .output()
            .unwrap();
        assert!(!output.status.success());
        assert!(String::from_utf8_lossy(&output.stderr).contains("tiny/model.onnx"));
        assert!(!folder.path().join("tiny/model.onnx").exists());
    }
}

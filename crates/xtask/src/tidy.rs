//! `cargo xtask tidy`: the house rules that no compiler knows.
//!
//! A rule is a function from the [`Tree`] to what breaks it; [`RULES`] lists them all. Rules see only the tree, never
//! the disk, so that each has a test with a small tree that breaks it. A finding names a place and says what to do.
//!
//! The tree holds what git tracks or would track; ignored files are free.

mod blocks;
mod crates;
mod guide;
mod links;
mod rust;
mod source;
mod text;

use std::path::Path;
use std::process::Command;

use crate::error::Error;
use crate::report::Counts;
use crate::workspace::{self, Metadata, Workspace};

/// Everything that a rule may look at.
pub(crate) struct Tree {
    /// Files of the repository that are text.
    files: Vec<File>,
    /// Paths of all files, text or not, relative to the root, with `/`.
    paths: Vec<String>,
    /// The packages of the workspace.
    crates: Vec<Crate>,
}

/// One text file.
pub(crate) struct File {
    /// Relative to the root, with `/`.
    path: String,
    text: String,
}

/// One package of the workspace.
pub(crate) struct Crate {
    name: String,
    /// Its folder relative to the root, with `/`.
    folder: String,
    /// Names of the workspace packages that it depends on, for its code or its build script.
    depends: Vec<String>,
    manifest: String,
}

/// Something that breaks a rule.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    path: String,
    /// From 1; 0 for the file as a whole.
    line: usize,
    what: String,
}

impl Finding {
    fn new(path: &str, line: usize, what: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            line,
            what: what.into(),
        }
    }
}

type Rule = fn(&Tree) -> Vec<Finding>;

/// The rules by name.
const RULES: &[(&str, Rule)] = &[
    (
        "crates depend only as the design says",
        crates::dependencies,
    ),
    ("every crate inherits the workspace's lints", crates::lints),
    (
        "every crate has a section in docs/architecture.md",
        crates::described,
    ),
    ("every module begins with an essay", rust::essays),
    ("unsafe code stays in its crates", rust::unsafe_places),
    (
        "every unsafe block says why it is sound",
        rust::safety_comments,
    ),
    ("no test is switched off", rust::ignored_tests),
    ("files stay short", text::length),
    ("nothing is left open", text::open_ends),
    (
        "nothing names this machine or a registry's host",
        text::leaks,
    ),
    ("links between documents resolve", links::resolve),
    ("every command of the guide exists", guide::commands),
    ("every page is a chapter of the book", guide::chapters),
];

/// Generated files: free of the rules on style.
const GENERATED: [&str; 1] = ["crates/onnx/src/proto/onnx.rs"];

/// Runs the command.
pub(crate) fn run(workspace: &Workspace) -> Result<(), Error> {
    let counts = check(workspace)?;
    println!("{counts}");
    match counts.failed {
        0 => Ok(()),
        n => Err(Error::Checks(format!("{n} house rules are broken"))),
    }
}

/// Checks every rule and prints what breaks it; each rule counts as one check.
pub(crate) fn check(workspace: &Workspace) -> Result<Counts, Error> {
    let tree = Tree::read(workspace)?;
    let mut counts = Counts::default();
    for (name, rule) in RULES {
        let findings = rule(&tree);
        for Finding { path, line, what } in &findings {
            eprintln!("error: {path}:{line}: {what} (rule: {name})");
        }
        counts += Counts::of(findings.is_empty());
    }
    Ok(counts)
}

impl Tree {
    fn read(workspace: &Workspace) -> Result<Self, Error> {
        let mut git = Command::new("git");
        git.args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ])
        .current_dir(workspace.root());
        let listed = workspace::stdout(
            &mut git,
            "install git; tidy looks at the files that git tracks",
        )?;
        let mut paths: Vec<String> = listed.split_terminator('\0').map(String::from).collect();
        // A file that is deleted but not yet committed so is still listed.
        paths.retain(|p| workspace.root().join(p).is_file());
        paths.sort();
        paths.dedup();
        let mut files = Vec::new();
        for path in &paths {
            let place = workspace.root().join(path);
            let bytes = std::fs::read(&place).map_err(Error::io(&place))?;
            if let Ok(text) = String::from_utf8(bytes) {
                files.push(File {
                    path: path.clone(),
                    text,
                });
            }
        }
        let crates = crates_of(&workspace.metadata()?, workspace.root())?;
        Ok(Self {
            files,
            paths,
            crates,
        })
    }

    /// The Rust files that people write.
    fn rust(&self) -> impl Iterator<Item = &File> {
        self.written().filter(|f| f.path.ends_with(".rs"))
    }

    /// All text files that people write.
    fn written(&self) -> impl Iterator<Item = &File> {
        self.files
            .iter()
            .filter(|f| !GENERATED.contains(&f.path.as_str()) && f.path != "Cargo.lock")
    }

    fn file(&self, path: &str) -> Option<&File> {
        self.files.iter().find(|f| f.path == path)
    }
}

fn crates_of(metadata: &Metadata, root: &Path) -> Result<Vec<Crate>, Error> {
    let known = |name: &str| metadata.package(name).is_some();
    metadata
        .packages
        .iter()
        .map(|package| {
            let path = &package.manifest_path;
            let folder = path
                .parent()
                .and_then(|p| p.strip_prefix(root).ok())
                .unwrap_or(Path::new(""));
            let mut depends: Vec<String> = package
                .dependencies
                .iter()
                .filter(|d| d.kind.as_deref() != Some("dev") && known(&d.name))
                .map(|d| d.name.clone())
                .collect();
            depends.sort();
            depends.dedup();
            Ok(Crate {
                name: package.name.clone(),
                folder: folder.to_string_lossy().replace('\\', "/"),
                depends,
                manifest: std::fs::read_to_string(path).map_err(Error::io(path))?,
            })
        })
        .collect()
}

/// Small trees for the tests of rules.
#[cfg(test)]
mod fixture {
    use super::*;

    /// A tree of these text files.
    pub(super) fn files(files: &[(&str, &str)]) -> Tree {
        Tree {
            files: files
                .iter()
                .map(|(path, text)| File {
                    path: (*path).into(),
                    text: (*text).into(),
                })
                .collect(),
            paths: files.iter().map(|(path, _)| (*path).into()).collect(),
            crates: Vec::new(),
        }
    }

    /// A tree of one package.
    pub(super) fn package(name: &str, depends: &[&str], manifest: &str) -> Tree {
        let crates = vec![Crate {
            name: name.into(),
            folder: format!("crates/{}", name.trim_start_matches("bespoke-")),
            depends: depends.iter().map(|d| (*d).into()).collect(),
            manifest: manifest.into(),
        }];
        Tree {
            files: Vec::new(),
            paths: Vec::new(),
            crates,
        }
    }

    /// The places of what a rule finds, as `path:line`.
    pub(super) fn places(findings: &[Finding]) -> Vec<String> {
        findings
            .iter()
            .map(|f| format!("{}:{}", f.path, f.line))
            .collect()
    }
}

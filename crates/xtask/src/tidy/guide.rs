//! The rules that keep the guide and the book true: every command in it exists, and every page is a chapter.
//!
//! Lines that begin with `bespoke` are run by that command's own test. Of all others somebody must know that they work;
//! [`KNOWN`] says who. A chore is checked by the parser of `cargo xtask` itself, the others against the files that they
//! name. A command that nobody knows is a finding, and so is a block whose language has no check.

use clap::Parser;

use super::blocks::blocks;
use super::{Finding, Tree};

/// What is checked of a command, given its words after the beginning that it is known by: what is wrong with it.
type Check = fn(&Tree, &[&str]) -> Option<String>;

/// Commands by how they begin, and what is checked of them.
const KNOWN: &[(&[&str], Check)] = &[
    // Run by the command's own test, which compares exit code and output.
    (&["bespoke"], |_, _| None),
    // Not run, for they fetch, build and test for minutes; continuous integration runs `test` and `demo` themselves.
    (&["cargo", "xtask"], chore),
    // Not run, for a test does not start cargo; the stage `fuzz` of `cargo xtask test` runs what is built so.
    (&["cargo", "build"], package),
    (&["cargo", "run"], package),
    (&["cargo", "test"], package),
    // Not run, for a test does not fetch packages; the lists that the project commits must be there.
    (&["python3", "-m", "pip", "install"], requirements),
    // Not run, for they need PyTorch and ONNX Runtime, and take minutes; the data that they made is committed.
    (&["python3"], script),
    // Run by hand on a machine with a GPU; the bundle's own test builds one.
    (&["bundle-models/join.sh"], |_, _| None),
    (&["bundle/run-gpu-tests.sh"], |_, _| None),
    // A variable is set for what follows.
    (&["export"], variable),
];

/// Languages of blocks in the guide. `text` is for what is no command; `toml` is a strategy file, read by a test of the
/// crate that defines it.
const LANGUAGES: [&str; 4] = ["sh", "console", "text", "toml"];

fn chore(tree: &Tree, words: &[&str]) -> Option<String> {
    let line = ["cargo xtask"].iter().chain(words);
    match crate::Arguments::try_parse_from(line) {
        Ok(arguments) => named(tree, &arguments.command),
        Err(error) if error.use_stderr() => {
            Some(error.to_string().lines().next().unwrap_or("").to_owned())
        }
        // `--help` and the like.
        Err(_) => None,
    }
}

/// Names that a chore looks up only when it runs.
fn named(tree: &Tree, command: &crate::Command) -> Option<String> {
    let unknown = |what: &str, name: &String| Some(format!("there is no {what} `{name}`"));
    match command {
        crate::Command::Test(test) => {
            let name = test.stages().iter().find(|s| !crate::test::is_stage(s))?;
            unknown("stage", name)
        }
        crate::Command::Models(models) => {
            let manifest = tree.file("models/manifest.toml").map_or("", |f| &f.text);
            let known = |name: &str| {
                name == "nvrtc" || manifest.contains(&format!("\nname = \"{name}\"\n"))
            };
            unknown("model", models.names().iter().find(|n| !known(n))?)
        }
        _ => None,
    }
}

fn package(tree: &Tree, words: &[&str]) -> Option<String> {
    let flag = words
        .iter()
        .position(|w| ["-p", "--package"].contains(w))
        .map(|at| words.get(at + 1).copied().unwrap_or_default());
    let name = match (flag, words.contains(&"--workspace")) {
        (Some(name), _) => name,
        (None, true) => return None,
        (None, false) => return Some("name the package with --package".into()),
    };
    let known = tree.crates.iter().any(|c| c.name == name);
    (!known).then(|| format!("there is no package `{name}`"))
}

fn requirements(tree: &Tree, words: &[&str]) -> Option<String> {
    let list = words.iter().position(|w| *w == "-r")?;
    let path = words.get(list + 1).copied().unwrap_or_default();
    (!tree.paths.iter().any(|p| p == path)).then(|| format!("there is no file `{path}`"))
}

fn script(tree: &Tree, words: &[&str]) -> Option<String> {
    let path = words.first().copied().unwrap_or_default();
    let Some(file) = tree.file(path) else {
        return Some(format!("there is no script `{path}`"));
    };
    let flag = words
        .iter()
        .filter(|word| word.starts_with("--"))
        .find(|flag| !file.text.contains(&format!("\"{flag}\"")))?;
    Some(format!("`{path}` has no flag `{flag}`"))
}

fn variable(tree: &Tree, words: &[&str]) -> Option<String> {
    let name = words.first()?.split('=').next()?;
    let known = tree.file("crates/cli/src/environment.rs")?;
    (!known.text.contains(&format!("\"{name}\""))).then(|| format!("nothing reads `{name}`"))
}

/// Every block of the guide has a language that is checked, and every command in it exists.
pub(super) fn commands(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    let pages = tree
        .written()
        .filter(|f| f.path == "README.md" || f.path.starts_with("docs/guide/"))
        .filter(|f| f.path.ends_with(".md"));
    for page in pages {
        for block in blocks(&page.text) {
            let mut find = |line, what: String| findings.push(Finding::new(&page.path, line, what));
            let language = block.language.as_deref().unwrap_or_default();
            if !LANGUAGES.contains(&language) {
                find(
                    block.line,
                    format!(
                        "no check covers a block of `{language}`: write ```sh, ```console, ```toml or ```text"
                    ),
                );
            }
            let prompt = |line: &String| {
                let first = line.split(' ').next().unwrap_or_default();
                first == "$" || KNOWN.iter().any(|(words, _)| words[0] == first)
            };
            if language == "text" && block.lines.iter().any(prompt) {
                find(block.line, "a command: write ```sh or ```console".into());
            }
            for step in block.steps() {
                let words: Vec<&str> = step.command.split_whitespace().collect();
                let known = KNOWN.iter().find(|(start, _)| words.starts_with(start));
                let wrong = match known {
                    Some((start, check)) => check(tree, &words[start.len()..]),
                    None => Some("no check knows this command".into()),
                };
                if let Some(wrong) = wrong {
                    find(step.line, format!("`{}`: {wrong}", step.command));
                }
            }
        }
    }
    findings
}

/// `docs/SUMMARY.md` is what mdBook reads, and has every page of the book once.
pub(super) fn chapters(tree: &Tree) -> Vec<Finding> {
    const SUMMARY: &str = "docs/SUMMARY.md";
    let Some(summary) = tree.file(SUMMARY) else {
        return vec![Finding::new(SUMMARY, 0, "the book has no summary")];
    };
    let mut findings = Vec::new();
    let mut linked: Vec<String> = Vec::new();
    for (line, text) in (1..).zip(summary.text.lines()) {
        let item = text.trim_start();
        let item = item.strip_prefix("- ").unwrap_or(item);
        let target = item
            .strip_prefix('[')
            .and_then(|rest| rest.split_once("]("))
            .and_then(|(_, rest)| rest.strip_suffix(')'));
        match target {
            Some(target) => linked.push(format!("docs/{target}")),
            None if item.is_empty() || item.starts_with("# ") => {}
            None => findings.push(Finding::new(
                SUMMARY,
                line,
                "mdBook reads headings and links here, nothing else",
            )),
        }
    }
    let pages = tree
        .paths
        .iter()
        .filter(|p| p.starts_with("docs/") && p.ends_with(".md") && *p != SUMMARY);
    for page in pages {
        let times = linked.iter().filter(|l| *l == page).count();
        if times != 1 {
            findings.push(Finding::new(
                SUMMARY,
                0,
                format!("`{page}` is a chapter {times} times; link it once"),
            ));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{files, places};
    use super::*;

    #[test]
    fn commands_that_do_not_exist_are_found() {
        let page = "\
```sh
cargo xtask test format tidy --fuzz-seconds 3
cargo xtask tset
cargo xtask test formatt
cargo xtask demo -- --device host
cargo xtask models nvrtc real
cargo xtask models unreal
python3 make.py --out x
python3 make.py --in x
python3 gone.py
python3 -m pip install -r list.txt
python3 -m pip install -r gone.txt
export BESPOKE_NVRTC=/x
export BESPOKE_OTHER=/x
rm -rf everything
bespoke run
cargo build --package gone
```
```rust
```
```text
cargo build
```

    indented
";
        let tree = files(&[
            ("docs/guide/a.md", page),
            ("docs/elsewhere.md", "```sh\nrm x\n```\n"),
            ("models/manifest.toml", "[[model]]\nname = \"real\"\n"),
            ("make.py", "add_argument(\"--out\")"),
            ("list.txt", ""),
            ("crates/cli/src/environment.rs", "\"BESPOKE_NVRTC\""),
        ]);
        let lines = [3, 4, 7, 9, 10, 12, 14, 15, 17, 19, 21, 25];
        assert_eq!(
            places(&commands(&tree)),
            lines.map(|line| format!("docs/guide/a.md:{line}"))
        );
    }

    #[test]
    fn a_page_that_is_no_chapter_and_a_line_that_is_no_link_are_found() {
        let summary = "# Summary\n\n[a](a.md)\n\n- [b](sub/b.md)\n  - [a](a.md)\nmore\n";
        let tree = files(&[
            ("docs/SUMMARY.md", summary),
            ("docs/a.md", ""),
            ("docs/sub/b.md", ""),
            ("docs/sub/c.md", ""),
        ]);
        let found = chapters(&tree);
        let words: Vec<&str> = found.iter().map(|f| f.what.as_str()).collect();
        assert_eq!(
            words,
            [
                "mdBook reads headings and links here, nothing else",
                "`docs/a.md` is a chapter 2 times; link it once",
                "`docs/sub/c.md` is a chapter 0 times; link it once",
            ]
        );
    }
}

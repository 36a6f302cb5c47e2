//! Rules on every text file, whatever its language.
//!
//! The words that must not stand in a file are put together from parts here, so that this file may itself be checked.

use super::source::has_word;
use super::{Finding, Tree};

/// Lines of source at most; one idea a file.
const LINES: usize = 700;
/// The languages to which [`LINES`] applies.
const SOURCES: [&str; 4] = [".rs", ".cu", ".cuh", ".py"];

/// Marks of unfinished work.
const OPEN: [&str; 5] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
    concat!("todo", "!"),
    concat!("unimple", "mented!"),
];

/// What only holds on one machine, or names a place that packages come from; those are for the users' configuration.
const LEAKS: [&str; 8] = [
    concat!("/wo", "rk/"),
    concat!("/ro", "ot/"),
    concat!("/ho", "me/"),
    concat!("/tm", "p/bash_jobs"),
    concat!("crates", ".io"),
    concat!("pypi", ".org"),
    concat!("python", "hosted"),
    concat!("npm", "js"),
];

/// Source files have at most [`LINES`] lines.
pub(super) fn length(tree: &Tree) -> Vec<Finding> {
    tree.written()
        .filter(|f| SOURCES.iter().any(|s| f.path.ends_with(s)))
        .map(|f| (f, f.text.lines().count()))
        .filter(|(_, lines)| *lines > LINES)
        .map(|(f, n)| {
            Finding::new(
                &f.path,
                n,
                format!("{n} lines, at most {LINES}: split it by its ideas"),
            )
        })
        .collect()
}

/// No mark of unfinished work stands anywhere.
pub(super) fn open_ends(tree: &Tree) -> Vec<Finding> {
    let found = |line: &str| {
        OPEN.iter().find(|mark| match mark.strip_suffix('!') {
            Some(name) => line
                .match_indices(*mark)
                .any(|(at, _)| has_word(&line[at..at + name.len()], name)),
            None => has_word(line, mark),
        })
    };
    find_lines(tree, |line| {
        found(line).map(|mark| format!("finish what `{mark}` marks, or leave it out"))
    })
}

/// No path of one machine and no registry's host stands anywhere.
pub(super) fn leaks(tree: &Tree) -> Vec<Finding> {
    let found = |line: &str| LEAKS.iter().find(|leak| line.contains(*leak));
    find_lines(tree, |line| {
        found(line).map(|leak| format!("`{leak}` does not belong in the repository"))
    })
}

fn find_lines(tree: &Tree, what: impl Fn(&str) -> Option<String>) -> Vec<Finding> {
    let lines = tree.written().flat_map(|f| {
        f.text
            .lines()
            .enumerate()
            .map(move |(i, line)| (f, i, line))
    });
    lines
        .filter_map(|(f, i, line)| Some(Finding::new(&f.path, i + 1, what(line)?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{files, places};
    use super::*;

    #[test]
    fn a_long_source_is_found() {
        let long = "x\n".repeat(LINES + 1);
        let right = "x\n".repeat(LINES);
        let tree = files(&[
            ("a.rs", &long),
            ("b.rs", &right),
            ("c.md", &long),
            ("d.cu", &long),
        ]);
        assert_eq!(places(&length(&tree)), ["a.rs:701", "d.cu:701"]);
    }

    #[test]
    fn marks_of_unfinished_work_are_found() {
        for mark in OPEN {
            let text = format!("fine\nfn f() {{ {mark}() }}\n");
            assert_eq!(
                places(&open_ends(&files(&[("a.rs", &text)]))),
                ["a.rs:2"],
                "{mark}"
            );
        }
        let fine = format!("a{}b and the verb to do\n", OPEN[0]);
        assert_eq!(open_ends(&files(&[("a.md", &fine)])), []);
    }

    #[test]
    fn paths_and_hosts_are_found() {
        for leak in LEAKS {
            let text = format!("\nsee {leak}x\n");
            assert_eq!(
                places(&leaks(&files(&[("a.md", &text)]))),
                ["a.md:2"],
                "{leak}"
            );
            assert_eq!(leaks(&files(&[("Cargo.lock", &text)])), []);
        }
    }
}

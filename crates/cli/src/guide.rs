//! The guide against the command line: what `--help` lists, the guide describes.
//!
//! The commands come from the parser, so that one more command or flag without its words in the guide fails a test. What
//! the examples of the guide do is tested by running them, from outside.

use std::path::{Path, PathBuf};

use clap::{Command, CommandFactory};

fn guide() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/guide")
}

/// A page of the guide; empty if there is none.
fn page(name: &str) -> String {
    std::fs::read_to_string(guide().join(format!("{name}.md"))).unwrap_or_default()
}

/// A page without its blocks of code: a flag that only an example uses is not described.
fn prose(page: &str) -> String {
    let parts = page.split("\n```").enumerate();
    parts
        .filter(|(index, _)| index % 2 == 0)
        .map(|(_, part)| part)
        .collect()
}

/// Whether a page has this word in code: followed by nothing that would make it another.
fn has(page: &str, word: &str) -> bool {
    page.match_indices(word).any(|(at, _)| {
        let next = page[at + word.len()..].chars().next();
        let before = page[..at].chars().next_back();
        let part = |c: char| c.is_alphanumeric() || c == '-' || c == '_';
        !next.is_some_and(part) && !before.is_some_and(part)
    })
}

/// What a command has and its page lacks.
fn missing(command: &Command, page: &str, path: &str) -> Vec<String> {
    let mut missing = Vec::new();
    for flag in command.get_arguments().filter(|a| !a.is_hide_set()) {
        let Some(long) = flag.get_long().filter(|l| !["help", "version"].contains(l)) else {
            continue;
        };
        if !has(page, &format!("--{long}")) {
            missing.push(format!("{path} --{long}"));
        }
        if let Some(short) = flag.get_short().filter(|s| !has(page, &format!("-{s}"))) {
            missing.push(format!("{path} -{short}"));
        }
    }
    for action in command.get_subcommands().filter(|c| c.get_name() != "help") {
        let path = format!("{path} {}", action.get_name());
        if !has(page, &path) {
            missing.push(path.clone());
        }
        missing.extend(self::missing(action, page, &path));
    }
    missing
}

#[test]
fn every_command_has_a_page_with_every_flag() {
    let mut cli = crate::Cli::command();
    cli.build();
    let mut lacking = Vec::new();
    for command in cli.get_subcommands().filter(|c| c.get_name() != "help") {
        let name = command.get_name();
        let page = page(name);
        assert!(!page.is_empty(), "docs/guide/{name}.md is missing");
        lacking.extend(missing(command, &prose(&page), &format!("bespoke {name}")));
    }
    assert!(
        lacking.is_empty(),
        "not in the pages of docs/guide named like the command: {lacking:#?}"
    );
}

#[test]
fn every_value_of_a_flag_is_explained_in_the_guide() {
    let mut cli = crate::Cli::command();
    cli.build();
    let everything = std::fs::read_dir(guide())
        .unwrap()
        .map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap())
        .collect::<String>();
    for command in cli.get_subcommands() {
        for flag in command.get_arguments().filter(|a| !a.is_hide_set()) {
            let takes = flag.get_action().takes_values();
            for value in flag.get_possible_values().iter().filter(|_| takes) {
                let name = format!("`{}`", value.get_name());
                assert!(everything.contains(&name), "{}: {name}", flag.get_id());
            }
        }
    }
}

#[test]
fn every_variable_of_the_help_is_in_the_guide() {
    let page = page("install");
    let names = crate::environment::HELP
        .lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().next());
    let lacking: Vec<&str> = names.filter(|name| !has(&page, name)).collect();
    assert!(lacking.is_empty(), "docs/guide/install.md: {lacking:?}");
}

#[test]
fn what_a_page_lacks_is_found() {
    let command = Command::new("run")
        .arg(clap::Arg::new("cache").long("cache"))
        .arg(clap::Arg::new("dir").long("cache-dir"))
        .arg(clap::Arg::new("old").long("old").hide(true))
        .subcommand(Command::new("ls"));
    assert_eq!(
        missing(&command, "`--cache-dir`, `bespoke run lsx`", "bespoke run"),
        ["bespoke run --cache", "bespoke run ls"]
    );
    assert_eq!(
        prose("a\n```sh\n--b\n```\nc\n```text\n--d\n```\n"),
        "a\nc\n"
    );
}

//! The guide, run: every line of its pages that begins with `bespoke` does what the page says.
//!
//! A page is run from its first block to its last in one folder, which looks like the root of a clone: it holds
//! `models/small/`. Beside it lie `model.onnx` and `data/`, the small image classifier and its reference data, for
//! examples in which any model would do, and `loop.onnx`, which doubles its input. Every run is on the CPU; an example that compiles for a GPU needs NVRTC, and
//! the page is skipped, with a word about it, where there is none.
//!
//! What is compared is the exit code and, where the page shows it, the output: all lines of both streams, each stream in
//! its order. A line of the page fits a printed one if they are equal up to times, sizes in bytes and the width of gaps;
//! `…` stands for anything in a line and, alone on it, for any lines.

use std::path::Path;

use crate::support::nvrtc;
use crate::support::{Ended, World, powers};

#[path = "../../../xtask/src/tidy/blocks.rs"]
mod blocks;
use blocks::{Block, Step};

/// The root of the repository.
fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

fn copy(from: &Path, to: &Path) {
    if from.is_dir() {
        std::fs::create_dir_all(to).unwrap();
        for entry in std::fs::read_dir(from).unwrap().flatten() {
            copy(&entry.path(), &to.join(entry.file_name()));
        }
    } else {
        std::fs::copy(from, to).unwrap();
    }
}

/// The folder that a page's commands run in.
fn clone() -> World {
    let world = World::without_gpu();
    let small = root().join("models/small");
    copy(&small, &world.path("models/small"));
    copy(&small.join("resnet/model.onnx"), &world.path("model.onnx"));
    copy(&small.join("resnet"), &world.path("data"));
    std::fs::remove_file(world.path("data/model.onnx")).unwrap();
    world.model("loop.onnx", &powers());
    world
}

/// The pages, by name.
fn pages() -> Vec<(String, String)> {
    let mut paths: Vec<_> = std::fs::read_dir(root().join("docs/guide"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "md"))
        .collect();
    paths.push(root().join("README.md"));
    paths.sort();
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    paths
        .iter()
        .map(|path| (name(path), std::fs::read_to_string(path).unwrap()))
        .collect()
}

/// The commands of a page that are ours.
fn ours(page: &str) -> Vec<Step> {
    let steps = blocks::blocks(page).into_iter();
    steps
        .flat_map(|block: Block| block.steps())
        .filter(|step| step.command.split(' ').next() == Some("bespoke"))
        .collect()
}

/// The words of a command as a shell would split them: at blanks outside single quotes.
fn words(command: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for c in command.chars() {
        match c {
            '\'' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            _ => words.last_mut().unwrap().push(c),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// A line with one blank for each gap, and `#` for each time and each size.
fn normal(line: &str) -> String {
    const UNITS: [&str; 9] = ["B", "KiB", "MiB", "GiB", "TiB", "ns", "µs", "ms", "s"];
    let mut out: Vec<String> = Vec::new();
    for word in line.split_whitespace() {
        let unit = word.trim_end_matches([',', ';', ')', ':']);
        let number = |text: &str| text.trim_start_matches('(').parse::<f64>().is_ok();
        match out.last_mut() {
            Some(last) if UNITS.contains(&unit) && number(last) => {
                let open = if last.starts_with('(') { "(" } else { "" };
                *last = format!("{open}#{}", &word[unit.len()..]);
            }
            _ => out.push(word.to_owned()),
        }
    }
    out.join(" ")
}

/// Whether a printed line is what the page shows.
fn line_fits(shown: &str, printed: &str) -> bool {
    let (shown, printed) = (normal(shown), normal(printed));
    let parts: Vec<&str> = shown.split('…').collect();
    let [first, middle @ .., last] = parts.as_slice() else {
        return shown == printed;
    };
    let Some(mut rest) = printed.strip_prefix(first) else {
        return false;
    };
    for part in middle {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// Whether both streams, each in its order, are what the page shows.
fn fits(shown: &[String], out: &[&str], err: &[&str]) -> bool {
    let Some((first, rest)) = shown.split_first() else {
        return out.is_empty() && err.is_empty();
    };
    let step = |whole: &[String]| {
        let from = |stream: &[&str]| !stream.is_empty();
        (from(out) && fits(whole, &out[1..], err)) || (from(err) && fits(whole, out, &err[1..]))
    };
    if first.trim() == "…" {
        return fits(rest, out, err) || step(shown);
    }
    let heads = |stream: &[&str]| stream.first().is_some_and(|line| line_fits(first, line));
    (heads(out) && fits(rest, &out[1..], err)) || (heads(err) && fits(rest, out, &err[1..]))
}

/// What is wrong with a command's end, if anything.
fn wrong(step: &Step, ended: &Ended) -> Option<String> {
    if ended.code != step.code {
        return Some(format!("exit code {}, not {}", ended.code, step.code));
    }
    let out: Vec<&str> = ended.out.lines().filter(|l| !l.is_empty()).collect();
    let err: Vec<&str> = ended.err.lines().filter(|l| !l.is_empty()).collect();
    let shown: Vec<String> = step
        .output
        .iter()
        .filter(|l| !l.is_empty())
        .cloned()
        .collect();
    (!shown.is_empty() && !fits(&shown, &out, &err)).then(|| "it prints something else".into())
}

#[test]
fn every_command_of_the_guide_does_what_the_page_says() {
    let mut failures = Vec::new();
    let mut ran = 0;
    for (name, page) in pages() {
        let steps = ours(&page);
        let compiles = steps.iter().any(|step| step.command.contains("--target"));
        if compiles && !nvrtc(&format!("the guide's page {name}")) {
            continue;
        }
        let world = clone();
        for step in steps {
            let ended = world.bespoke(&words(&step.command)[1..]);
            ran += 1;
            if let Some(wrong) = wrong(&step, &ended) {
                failures.push(format!(
                    "{name}:{}: `{}`: {wrong}\n--- shown\n{}\n--- standard output\n{}--- standard error\n{}",
                    step.line,
                    step.command,
                    step.output.join("\n"),
                    ended.out,
                    ended.err
                ));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
    assert!(ran > 10, "only {ran} commands were found in the guide");
}

#[test]
fn shown_output_is_compared_as_the_convention_says() {
    let shown = |lines: &[&str]| lines.iter().map(|l| (*l).to_owned()).collect::<Vec<_>>();
    for (page, printed, same) in [
        (
            "run 1  x:1x3   4.2 ms  done",
            "run 1  x:1x3  317 µs  done",
            true,
        ),
        (
            "run 1  x:1x3   4.2 ms  done",
            "run 1  x:1x4  317 µs  done",
            false,
        ),
        ("size (1.5 MiB)", "size (12 B)", true),
        ("3 entries, 2 s", "4 entries, 2 s", false),
        ("a … c", "a b c", true),
        ("a … c", "a b d", false),
        ("a … c … e", "a c e", false),
        ("… end", "the end", true),
        ("begin …", "begins", false),
        ("begin…", "begins", true),
    ] {
        assert_eq!(line_fits(page, printed), same, "{page} / {printed}");
    }
    let (out, err) = (["one", "two"], ["note: x"]);
    assert!(fits(&shown(&["note: x", "one", "two"]), &out, &err));
    assert!(fits(&shown(&["one", "note: x", "two"]), &out, &err));
    assert!(fits(&shown(&["…", "two"]), &out, &err));
    assert!(!fits(&shown(&["note: x", "two", "one"]), &out, &err));
    assert!(!fits(&shown(&["note: x", "one"]), &out, &err));
    assert!(!fits(&shown(&["…", "three"]), &out, &err));
    assert_eq!(
        words("bespoke run '*=1 2'  x"),
        ["bespoke", "run", "*=1 2", "x"]
    );
}

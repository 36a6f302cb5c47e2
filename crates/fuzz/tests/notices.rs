//! The fuzzer notices every way in which a target can break, makes the input small, and says where it is.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output};

fn fuzz(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bespoke-fuzz"))
        .args(arguments)
        .arg("--output")
        .arg(folder)
        .output()
        .unwrap()
}

/// Tries one input; the exit code and what was said.
fn replay(input: &str) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("input");
    fs::write(&file, input).unwrap();
    let ended = fuzz(folder.path(), &["broken", file.to_str().unwrap()]);
    let text = String::from_utf8_lossy(&ended.stderr).into_owned();
    (ended.status.code(), text)
}

#[test]
fn a_good_input_is_no_finding() {
    let (code, text) = replay("good");
    assert_eq!(code, Some(0), "{text}");
}

#[test]
fn panics_and_broken_promises_are_told_with_their_place_and_words() {
    let (code, text) = replay("P Q");
    assert_eq!(code, Some(1), "{text}");
    assert!(
        text.contains("panic at crates/fuzz/src/targets/broken.rs:"),
        "{text}"
    );
    let (code, text) = replay("promise");
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("the target says so"), "{text}");
}

#[test]
#[cfg(target_os = "linux")]
fn what_kills_the_process_is_a_finding() {
    for input in ["abort", "stack", "absurd"] {
        let (code, text) = replay(input);
        assert_eq!(code, Some(1), "{input}: {text}");
        assert!(text.contains("the process died"), "{input}: {text}");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn memory_out_of_proportion_is_a_finding() {
    if fs::write("/proc/self/clear_refs", "5").is_err() {
        // past the harness, which swallows what tests print
        let _ = writeln!(
            std::io::stderr(),
            "skipped: memory_out_of_proportion_is_a_finding: /proc/self/clear_refs may not be written here"
        );
        return;
    }
    let (code, text) = replay("memory");
    assert_eq!(code, Some(1), "{text}");
    assert!(
        text.contains("MiB of memory for an input of 6 bytes"),
        "{text}"
    );
}

#[test]
fn a_hang_is_a_finding() {
    let (code, text) = replay("hang");
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("no result after 10 s"), "{text}");
}

#[test]
fn a_search_saves_what_it_found_and_makes_it_small() {
    let folder = tempfile::tempdir().unwrap();
    let ended = fuzz(folder.path(), &["broken", "--seconds", "2"]);
    let text = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(1), "{text}");
    let small = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.to_string_lossy().ends_with("-small.bin"))
        .unwrap();
    assert_eq!(fs::read(&small).unwrap(), b"PQ", "{text}");
    assert!(
        text.contains(small.file_name().unwrap().to_str().unwrap()),
        "{text}"
    );
}

#[test]
fn an_unknown_target_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let ended = fuzz(folder.path(), &["modle"]);
    let text = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(2));
    assert!(
        text.contains("the targets are model, external-data"),
        "{text}"
    );
}

//! Several processes on one folder, and processes that are killed.
//!
//! And the file system's stand-in, which stands before the C library of a process from its start.

mod process;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Child;
use std::time::Duration;

use bespoke::cache::{Cache, CacheConfig};
use process::Scenario;

/// Whether every entry of a folder is whole; how many there are.
fn is_clean(folder: &Path) -> usize {
    let cache = Cache::open(CacheConfig::at(folder));
    let report = cache.verify().expect("a folder");
    assert!(report.bad.is_empty(), "{:?}", report.bad);
    report.ok as usize
}

fn succeeded(children: Vec<Child>) -> Vec<String> {
    let ends = children.into_iter().map(|child| {
        let output = child.wait_with_output().expect("a child");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {errors}", output.status);
        String::from_utf8_lossy(&output.stdout).into_owned()
    });
    ends.collect()
}

#[cfg(target_os = "linux")]
#[test]
fn any_file_call_may_fail() {
    Scenario::new("any_file_call_may_fail")
        .env("LD_PRELOAD", process::standin())
        .passes();
}

#[cfg(target_os = "linux")]
#[test]
fn a_short_write_is_completed() {
    Scenario::new("a_short_write_is_completed")
        .env("LD_PRELOAD", process::standin())
        .passes();
}

/// Eight processes start on one empty folder: all right, and next to nothing compiled twice.
#[test]
fn eight_processes_share_a_cold_start() {
    let temp = process::folder();
    let folder = temp.path().join("cache");
    let start = |_| Scenario::new("a_cold_start").arg(&folder).start();
    let said = succeeded((0..8).map(start).collect());
    let compiled: usize = said
        .iter()
        .map(|text| {
            let number = text.trim().strip_prefix("compiled ").expect("a count");
            number.parse::<usize>().expect("a number")
        })
        .sum();
    let kernels = is_clean(&folder);
    assert!(kernels > 10, "{kernels}");
    assert!(
        compiled * 2 <= kernels * 3,
        "{compiled} compiles of {kernels} kernels"
    );
}

/// Two hundred times a process that writes is killed at a moment of chance; what it left is whole or absent.
#[test]
fn a_killed_writer_leaves_whole_entries() {
    let temp = process::folder();
    let folder = temp.path().join("cache");
    // a sequence that looks like chance and is the same in every run
    let mut state = 1_u64;
    for round in 0..200 {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let mut child = Scenario::new("a_writer").arg(&folder).start();
        let mut line = String::new();
        let output = child.stdout.as_mut().expect("a pipe");
        BufReader::new(output).read_line(&mut line).expect("a line");
        assert_eq!(line, "ready\n", "round {round}");
        std::thread::sleep(Duration::from_micros(state >> 51));
        child.kill().expect("a child");
        let output = child.wait_with_output().expect("a child");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(errors.is_empty(), "round {round}: {errors}");
        if round % 10 == 9 {
            is_clean(&folder);
        }
    }
    assert!(is_clean(&folder) > 0);
}

/// Eight processes on a folder that may hold two entries: nobody sees an error.
#[test]
fn a_tiny_limit_disturbs_nobody() {
    let temp = process::folder();
    let folder = temp.path().join("cache");
    let start = |_| Scenario::new("a_tiny_limit").arg(&folder).start();
    succeeded((0..8).map(start).collect());
    is_clean(&folder);
}

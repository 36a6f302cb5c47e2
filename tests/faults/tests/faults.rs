//! Every scenario in a process of its own, with a time limit. See `docs/faults.md` for what each is about.

mod process;

use std::path::Path;
use std::time::{Duration, Instant};

use process::Scenario;

macro_rules! scenarios {
    ($($name:ident),* $(,)?) => {$(
        #[test]
        fn $name() {
            Scenario::new(stringify!($name)).passes();
        }
    )*};
}

scenarios! {
    an_ordinary_failure_of_any_call,
    out_of_memory_at_any_call,
    a_lost_device_at_any_call,
    a_driver_that_does_not_start_says_why,
    a_lost_device_says_why_and_stays_lost,
    a_card_that_nobody_knows_is_named,
    a_card_is_asked_for_kernels_of_another,
    two_cards_have_kernels_of_their_own,
    too_little_memory_for_a_large_shape_leaves_the_small_ones,
    many_sessions_leave_nothing_behind,
    a_refused_kernel_is_told_once_and_the_generic_one_serves,
    a_compile_without_end_stops_nobody,
    a_dropped_session_calls_off_what_nobody_else_waits_for,
    a_variant_that_cannot_be_installed_is_dropped,
    an_image_that_the_driver_refuses_is_compiled_again,
    an_image_newer_than_the_driver_is_told,
    many_shapes_keep_few_variants,
    two_shapes_in_turn_compile_once,
    threads_share_a_session,
    few_files_are_a_typed_error,
    a_forked_child_is_refused_the_driver,
    the_folder_may_vanish,
}

/// A folder without a library, a library of no bytes, a library that is something else.
#[test]
fn without_a_compiler_the_search_is_told() {
    let temp = process::folder();
    let empty = temp.path().join("libnvrtc.so.13");
    std::fs::write(&empty, b"").expect("an empty file");
    let missing = temp.path().join("missing");
    for (value, says) in [
        (missing.as_path(), "does not exist"),
        (empty.as_path(), "cannot be loaded"),
        (Path::new("/proc/self/exe"), "BESPOKE_NVRTC"),
    ] {
        Scenario::new("without_a_compiler_the_search_is_told")
            .env("BESPOKE_NVRTC", value)
            .arg(value)
            .arg(says)
            .passes();
    }
}

/// Its own exit status, soon, whoever compiles.
#[test]
fn the_process_ends_in_the_middle_of_a_compile() {
    let end = |scenario: Scenario| {
        let start = Instant::now();
        let output = scenario.output();
        let took = start.elapsed();
        assert_eq!(
            output.status.code(),
            Some(7),
            "{}: {output:?}",
            output.status
        );
        assert!(took < Duration::from_secs(10), "{took:?}");
    };
    let name = "the_process_ends_in_the_middle_of_a_compile";
    end(Scenario::new(name));
    let Some(nvrtc) = process::nvrtc(name) else {
        return;
    };
    for millis in ["20", "60", "100", "150", "250"] {
        end(Scenario::new(name).env("BESPOKE_NVRTC", &nvrtc).arg(millis));
    }
}

/// All Rust files below a folder, as one text.
fn sources(folder: &Path, text: &mut String) {
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, text);
        } else if path.extension().is_some_and(|e| e == "rs") {
            text.push_str(&std::fs::read_to_string(&path).expect("a source"));
        }
    }
}

/// The page of faults names tests; each exists.
#[test]
fn every_test_that_the_page_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut text = String::new();
    sources(&root.join("crates"), &mut text);
    sources(&root.join("tests"), &mut text);
    let page = std::fs::read_to_string(root.join("docs/faults.md")).expect("the page");
    let rows = page.lines().filter(|l| l.starts_with("| "));
    let quoted = rows.flat_map(|row| row.split('`').skip(1).step_by(2));
    let names = quoted
        .filter_map(|words| words.rsplit([' ', ':']).next())
        .filter(|name| {
            name.contains('_') && name.chars().all(|c| c.is_ascii_lowercase() || c == '_')
        });
    let mut count = 0;
    for name in names {
        // a test of the fault suite is an item of a list, all others are functions
        let known = text.contains(&format!("fn {name}(")) || text.contains(&format!(" {name},\n"));
        assert!(known, "no test `{name}`");
        count += 1;
    }
    assert!(count > 80, "{count}");
}

//! What a chore that runs many checks keeps: how each stage ended, how long it took, and the sums.

use std::fmt::Write;
use std::time::Duration;

/// How many checks ended which way.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Ran and held.
    pub(crate) passed: usize,
    /// Ran and did not hold, or could not run although everything it needs is there.
    pub(crate) failed: usize,
    /// Did not run; the reason was printed.
    pub(crate) skipped: usize,
}

impl Counts {
    /// One check.
    pub(crate) fn of(passed: bool) -> Self {
        Self {
            passed: passed.into(),
            failed: (!passed).into(),
            skipped: 0,
        }
    }
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        )
    }
}

/// One stage that has ended.
#[derive(Debug)]
pub(crate) struct Stage {
    /// Its name.
    pub(crate) name: &'static str,
    /// Its checks.
    pub(crate) counts: Counts,
    /// Wall time.
    pub(crate) time: Duration,
}

/// A table of stages, and their sum as the last line.
pub(crate) fn summary(stages: &[Stage]) -> (String, Counts) {
    let mut text = String::new();
    let mut total = Counts::default();
    for Stage { name, counts, time } in stages {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name:10} {:7.1} s  {counts}", time.as_secs_f64());
        total += *counts;
    }
    let _ = write!(text, "{total}");
    (text, total)
}

/// Adds up what `cargo test` printed.
///
/// The harness prints one `test result:` line for each binary. A test that cannot run where it is (no GPU, no NVRTC)
/// returns early, after it has printed `skipped: NAME: REASON` past the harness's capture, straight to standard error;
/// the harness counts such a test as passed, so it is moved to the skipped ones here. A binary with a harness of its own
/// may count as `N skipped` on its result line the skipped tests that it left out of its passed ones.
pub(crate) fn parse_tests<'a>(lines: impl Iterator<Item = &'a str>) -> Counts {
    let mut counts = Counts::default();
    let (mut silent, mut left_out) = (0usize, 0);
    for line in lines {
        if let Some(result) = line.trim().strip_prefix("test result:") {
            for part in result.split([';', '.']) {
                let mut words = part.split_whitespace();
                let (Some(number), Some(what)) = (words.next(), words.next()) else {
                    continue;
                };
                let Ok(number) = number.parse::<usize>() else {
                    continue;
                };
                match what {
                    "passed" => counts.passed += number,
                    "failed" => counts.failed += number,
                    "ignored" => counts.skipped += number,
                    "skipped" => left_out += number,
                    _ => {}
                }
            }
        } else if skip(line).is_some() {
            silent += 1;
        }
    }
    counts.passed = counts
        .passed
        .saturating_sub(silent.saturating_sub(left_out));
    counts.skipped += silent;
    counts
}

/// The name and reason of a line by which a test says that it did not run. It may follow the harness's own
/// `test NAME ... ` on the same line.
pub(crate) fn skip(line: &str) -> Option<&str> {
    let at = line.find("skipped: ")?;
    let before = line[..at].trim();
    (before.is_empty() || (before.starts_with("test ") && before.ends_with("...")))
        .then(|| &line[at + 9..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_all_binaries_are_added() {
        let lines = [
            "running 3 tests",
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.02s",
            "test result: FAILED. 5 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.10s",
        ];
        assert_eq!(
            parse_tests(lines.into_iter()),
            Counts {
                passed: 8,
                failed: 2,
                skipped: 1
            }
        );
    }

    #[test]
    fn a_test_that_says_so_is_skipped_and_not_passed() {
        let lines = [
            "skipped: replays_ten_shapes: no CUDA device",
            "test other ... skipped: other: no NVRTC",
            "the word skipped: here is no test",
            "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.02s",
        ];
        assert_eq!(
            parse_tests(lines.into_iter()),
            Counts {
                passed: 1,
                failed: 0,
                skipped: 2
            }
        );
    }

    #[test]
    fn a_harness_that_counts_what_it_skips_is_believed() {
        let lines = [
            "skipped: libtest_says_passed: no NVRTC",
            "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.02s",
            "skipped: cuda::a: no CUDA device",
            "skipped: cuda::b: no CUDA device",
            "test result: ok. 5 passed; 0 failed; 2 skipped",
        ];
        assert_eq!(
            parse_tests(lines.into_iter()),
            Counts {
                passed: 7,
                failed: 0,
                skipped: 3
            }
        );
    }

    #[test]
    fn the_last_line_is_the_sum() {
        let stage = |name, counts| Stage {
            name,
            counts,
            time: Duration::from_millis(1500),
        };
        let (text, total) = summary(&[
            stage("tidy", Counts::of(false)),
            stage(
                "tests",
                Counts {
                    passed: 4,
                    failed: 0,
                    skipped: 2,
                },
            ),
        ]);
        assert_eq!(
            total,
            Counts {
                passed: 4,
                failed: 1,
                skipped: 2
            }
        );
        assert!(text.ends_with("\n4 passed, 1 failed, 2 skipped"), "{text}");
        assert!(
            text.starts_with("tidy           1.5 s  0 passed, 1 failed"),
            "{text}"
        );
    }
}

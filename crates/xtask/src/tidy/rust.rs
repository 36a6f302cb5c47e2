//! Rules on Rust source.

use super::source::{code, has_word};
use super::{Finding, Tree};

/// Where `unsafe` may stand: folders end in `/`. The driver and the compiler are C libraries; a mapped model is memory
/// that another process may change; the host device's arena is reserved pages and raw addresses, as a GPU's is; the
/// matrix product of the host twins takes raw pointers; the stand-ins of the fault tests are C libraries themselves.
const UNSAFE: [&str; 7] = [
    "crates/cuda/",
    "crates/jit/",
    "crates/onnx/src/mapping.rs",
    "crates/host/src/pages.rs",
    "crates/host/src/space.rs",
    "crates/templates/src/product.rs",
    "tests/faults/",
];

/// Every Rust file begins with `//!`: what it is, what it promises, how it fits. A `#![…]` line may come first.
pub(super) fn essays(tree: &Tree) -> Vec<Finding> {
    let first = |text: &str| {
        let mut lines = text
            .lines()
            .filter(|l| !l.trim().is_empty() && !l.starts_with("#!["));
        lines.next().is_some_and(|l| l.starts_with("//!"))
    };
    tree.rust()
        .filter(|f| !first(&f.text))
        .map(|f| Finding::new(&f.path, 1, "begin the file with a `//!` essay"))
        .collect()
}

/// `unsafe` stands only in the places of [`UNSAFE`].
pub(super) fn unsafe_places(tree: &Tree) -> Vec<Finding> {
    let allowed = |path: &str| {
        UNSAFE
            .iter()
            .any(|a| path == *a || (a.ends_with('/') && path.starts_with(a)))
    };
    let mut findings = Vec::new();
    for file in tree.rust().filter(|f| !allowed(&f.path)) {
        for (i, line) in code(&file.text).lines().enumerate() {
            if has_word(line, "unsafe") {
                let what = format!("unsafe code belongs in {}", UNSAFE.join(", "));
                findings.push(Finding::new(&file.path, i + 1, what));
            }
        }
    }
    findings
}

/// An `unsafe` block or implementation has a `// SAFETY:` comment on its line or above its statement.
pub(super) fn safety_comments(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.rust() {
        let code = code(&file.text);
        let bare: Vec<&str> = code.lines().collect();
        let full: Vec<&str> = file.text.lines().collect();
        for (i, line) in bare.iter().enumerate() {
            let opens = |from: &str| {
                line.split(from).nth(1).is_some_and(|rest| {
                    let rest = rest.trim_start();
                    rest.starts_with('{') || rest.starts_with("impl")
                })
            };
            if !has_word(line, "unsafe") || !opens("unsafe") {
                continue;
            }
            // Upwards to the end of the statement before.
            let above = (0..i).rev().take_while(|j| {
                let end = bare[*j].trim_end().chars().next_back();
                !matches!(end, Some(';' | '}' | '{'))
            });
            if !std::iter::once(i)
                .chain(above)
                .any(|j| full[j].contains("SAFETY:"))
            {
                findings.push(Finding::new(
                    &file.path,
                    i + 1,
                    "say why this is sound in a `// SAFETY:` comment",
                ));
            }
        }
    }
    findings
}

/// No test is switched off by an attribute: one that cannot run says so when it runs.
pub(super) fn ignored_tests(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.rust() {
        for (i, line) in code(&file.text).lines().enumerate() {
            if line.trim_start().starts_with("#[ignore") {
                let what =
                    "let the test find out whether it can run and print `skipped: NAME: REASON`";
                findings.push(Finding::new(&file.path, i + 1, what));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{files, places};
    use super::*;

    #[test]
    fn a_module_without_an_essay_is_found() {
        let tree = files(&[
            ("crates/a/src/lib.rs", "//! Essay.\n"),
            ("crates/a/src/main.rs", "\n#![allow(x)]\n//! Essay.\n"),
            ("crates/a/src/bare.rs", "use std::fs;\n//! Too late.\n"),
            ("crates/a/src/comment.rs", "// No essay.\n"),
            ("crates/onnx/src/proto/onnx.rs", "pub struct Generated;\n"),
        ]);
        assert_eq!(
            places(&essays(&tree)),
            ["crates/a/src/bare.rs:1", "crates/a/src/comment.rs:1"]
        );
    }

    #[test]
    fn unsafe_code_elsewhere_is_found() {
        let block = "//! unsafe in prose\n#![allow(unsafe_code)]\nfn f() { unsafe { g() } }\n";
        let tree = files(&[
            ("crates/cuda/src/lib.rs", block),
            ("crates/onnx/src/mapping.rs", block),
            ("crates/onnx/src/mapping_more.rs", block),
            (
                "crates/ir/src/lib.rs",
                "//! unsafe\nconst A: &str = \"unsafe\";\n",
            ),
        ]);
        assert_eq!(
            places(&unsafe_places(&tree)),
            ["crates/onnx/src/mapping_more.rs:3"]
        );
    }

    #[test]
    fn unsafe_without_a_reason_is_found() {
        let source = "\
fn a() {
    // SAFETY: above.
    unsafe { x() }
    let y =
        unsafe { x() };
    // SAFETY: above the statement,
    // on two lines.
    let z = f(
        unsafe { x() },
    );
    unsafe { x() } // SAFETY: beside.
    // a comment
    unsafe { x() }
}
unsafe impl Send for A {}
unsafe fn b() {}
";
        let tree = files(&[("crates/cuda/src/lib.rs", source)]);
        let places = places(&safety_comments(&tree));
        assert_eq!(
            places,
            [
                "crates/cuda/src/lib.rs:5",
                "crates/cuda/src/lib.rs:13",
                "crates/cuda/src/lib.rs:15"
            ]
        );
    }

    #[test]
    fn a_test_that_is_switched_off_is_found() {
        let off = concat!("#[test]\n#[ign", "ore]\nfn f() {}\n");
        let tree = files(&[
            ("crates/a/src/lib.rs", off),
            ("crates/a/src/b.rs", "// #[ignore] in prose\n"),
        ]);
        assert_eq!(places(&ignored_tests(&tree)), ["crates/a/src/lib.rs:2"]);
    }
}

//! Rules on packages: who may depend on whom, and what every package has.

use super::{Finding, Tree};

/// Which packages of the workspace a package may depend on, for its code; tests are free. This is the table of
/// `docs/architecture.md`: data flows one way, and a stage knows only the types of the stage before.
const MAY_DEPEND: &[(&str, &[&str])] = &[
    ("bespoke-ir", &[]),
    ("bespoke-onnx", &["bespoke-ir"]),
    ("bespoke-reference", &["bespoke-ir"]),
    ("bespoke-passes", &["bespoke-ir", "bespoke-reference"]),
    ("bespoke-device", &["bespoke-ir"]),
    ("bespoke-templates", &["bespoke-device", "bespoke-ir"]),
    (
        "bespoke-plan",
        &[
            "bespoke-device",
            "bespoke-ir",
            "bespoke-passes",
            "bespoke-templates",
        ],
    ),
    ("bespoke-jit", &[]),
    ("bespoke-cache", &[]),
    ("bespoke-policy", &[]),
    (
        "bespoke-host",
        &[
            "bespoke-device",
            "bespoke-ir",
            "bespoke-reference",
            "bespoke-templates",
        ],
    ),
    (
        "bespoke-cuda",
        &["bespoke-device", "bespoke-ir", "bespoke-templates"],
    ),
    (
        "bespoke-runtime",
        &[
            "bespoke-cache",
            "bespoke-device",
            "bespoke-ir",
            "bespoke-jit",
            "bespoke-onnx",
            "bespoke-passes",
            "bespoke-plan",
            "bespoke-policy",
            "bespoke-reference",
            "bespoke-templates",
        ],
    ),
    ("bespoke", ANY),
    ("bespoke-cli", &["bespoke"]),
    ("bespoke-demo", &["bespoke"]),
    ("xtask", &[]),
    // Suites look at every part.
    ("bespoke-gpu-tests", ANY),
    ("bespoke-tests", ANY),
    ("bespoke-faults", ANY),
    ("bespoke-fuzz", ANY),
];

/// No limit.
const ANY: &[&str] = &["*"];

/// Crates depend only as [`MAY_DEPEND`] says; one that is not listed has to be added there first.
pub(super) fn dependencies(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in &tree.crates {
        let path = format!("{}/Cargo.toml", package.folder);
        let Some((_, allowed)) = MAY_DEPEND.iter().find(|(name, _)| *name == package.name) else {
            let what = format!(
                "`{}` is not in the table of crates (crates/xtask/src/tidy/crates.rs)",
                package.name
            );
            findings.push(Finding::new(&path, 0, what));
            continue;
        };
        for depends in package
            .depends
            .iter()
            .filter(|d| *allowed != ANY && !allowed.contains(&d.as_str()))
        {
            let what = format!("`{}` must not depend on `{depends}`", package.name);
            findings.push(Finding::new(&path, 0, what));
        }
    }
    findings
}

/// Cargo.toml says `[lints] workspace = true`; without it a crate would be silently free of all lints.
pub(super) fn lints(tree: &Tree) -> Vec<Finding> {
    let inherits = |manifest: &str| {
        let table: Option<toml::Table> = manifest.parse().ok();
        table.and_then(|t| t.get("lints")?.get("workspace")?.as_bool()) == Some(true)
    };
    tree.crates
        .iter()
        .filter(|package| !inherits(&package.manifest))
        .map(|p| {
            Finding::new(
                &format!("{}/Cargo.toml", p.folder),
                0,
                "add `[lints]` with `workspace = true`",
            )
        })
        .collect()
}

/// docs/architecture.md has a heading with the crate's folder in backquotes.
pub(super) fn described(tree: &Tree) -> Vec<Finding> {
    const DOCUMENT: &str = "docs/architecture.md";
    let text = tree.file(DOCUMENT).map_or("", |f| f.text.as_str());
    let headings: Vec<&str> = text.lines().filter(|l| l.starts_with('#')).collect();
    tree.crates
        .iter()
        .filter(|package| {
            !headings
                .iter()
                .any(|h| h.contains(&format!("`{}`", package.folder)))
        })
        .map(|p| {
            Finding::new(
                DOCUMENT,
                0,
                format!(
                    "add a section whose heading holds `{}` in backquotes",
                    p.folder
                ),
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{files, package};
    use super::*;

    #[test]
    fn a_dependency_against_the_flow_is_found() {
        assert_eq!(
            dependencies(&package("bespoke-plan", &["bespoke-ir"], "")),
            []
        );
        let found = dependencies(&package("bespoke-ir", &["bespoke-plan"], ""));
        assert!(
            found[0].what.contains("must not depend on `bespoke-plan`"),
            "{found:?}"
        );
    }

    #[test]
    fn an_unknown_crate_is_found() {
        let found = dependencies(&package("bespoke-extra", &[], ""));
        assert!(found[0].what.contains("not in the table"), "{found:?}");
    }

    #[test]
    fn the_table_has_no_cycle() {
        // Following the table from any crate ends; a crate that reaches itself would never be left.
        for (name, allowed) in MAY_DEPEND.iter().filter(|(_, allowed)| *allowed != ANY) {
            let mut reached = allowed.to_vec();
            for i in 0.. {
                let Some(next) = reached.get(i).copied() else {
                    break;
                };
                assert_ne!(next, *name, "`{name}` may depend on itself");
                let more = MAY_DEPEND
                    .iter()
                    .find(|(n, _)| *n == next)
                    .map_or(&[][..], |(_, a)| a);
                let fresh: Vec<_> = more
                    .iter()
                    .filter(|m| !reached.contains(m))
                    .copied()
                    .collect();
                reached.extend(fresh);
            }
        }
    }

    #[test]
    fn a_crate_without_lints_is_found() {
        assert_eq!(
            lints(&package("bespoke-ir", &[], "[lints]\nworkspace = true")),
            []
        );
        assert_eq!(lints(&package("bespoke-ir", &[], "[package]")).len(), 1);
        assert_eq!(
            lints(&package("bespoke-ir", &[], "[lints]\nworkspace = false")).len(),
            1
        );
    }

    #[test]
    fn a_crate_without_a_section_is_found() {
        let mut tree = package("bespoke-ir", &[], "");
        assert_eq!(described(&tree).len(), 1);
        tree.files = files(&[("docs/architecture.md", "# Crates\n\n## `crates/ir`\n")]).files;
        assert_eq!(described(&tree), []);
        tree.files = files(&[("docs/architecture.md", "# Crates\n\nthere is `crates/ir`\n")]).files;
        assert_eq!(described(&tree).len(), 1);
    }
}

//! The rule that links between documents lead somewhere.
//!
//! A link is `[text](target)` outside code. Targets on the network are left alone: whether they answer is not the
//! repository's business. A target may name a heading (`page.md#heading`), by the anchor that GitHub and mdBook give
//! it.

use super::{Finding, Tree};

/// Every relative link in a Markdown file names a file or folder of the repository and, after `#`, a heading in it.
pub(super) fn resolve(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.written().filter(|f| f.path.ends_with(".md")) {
        for (line, target) in links(&file.text) {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let (path, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let found = if path.is_empty() {
                Some(file.path.clone())
            } else {
                join(&file.path, path)
            };
            let found = found.filter(|p| exists(tree, p));
            let Some(found) = found else {
                findings.push(Finding::new(
                    &file.path,
                    line,
                    format!("`{target}` leads nowhere"),
                ));
                continue;
            };
            let page = tree.file(&found).map_or("", |f| f.text.as_str());
            if !anchor.is_empty() && !headings(page).iter().any(|h| h == anchor) {
                findings.push(Finding::new(
                    &file.path,
                    line,
                    format!("`{found}` has no heading `#{anchor}`"),
                ));
            }
        }
    }
    findings
}

fn exists(tree: &Tree, path: &str) -> bool {
    let folder = format!("{path}/");
    path.is_empty()
        || tree
            .paths
            .iter()
            .any(|p| p == path || p.starts_with(&folder))
}

/// `target` as seen from the document `from`; `None` if it leaves the repository.
fn join(from: &str, target: &str) -> Option<String> {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            name => parts.push(name),
        }
    }
    Some(parts.join("/"))
}

/// The text outside fenced and indented code, with inline code blanked, and its line numbers from 1.
fn prose(text: &str) -> impl Iterator<Item = (usize, String)> {
    let mut fenced = false;
    text.lines().enumerate().filter_map(move |(i, line)| {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
            return None;
        }
        if fenced || line.starts_with("    ") {
            return None;
        }
        let outside = |(k, part): (usize, &str)| {
            if k % 2 == 0 {
                part.to_string()
            } else {
                "`".into()
            }
        };
        Some((i + 1, line.split('`').enumerate().map(outside).collect()))
    })
}

fn links(text: &str) -> Vec<(usize, String)> {
    let mut links = Vec::new();
    for (number, line) in prose(text) {
        for (at, _) in line.match_indices("](") {
            if let Some(target) = line[at + 2..].split([')', ' ']).next() {
                links.push((number, target.to_string()));
            }
        }
    }
    links
}

/// Anchors of a page: the heading's words in lower case, without marks, joined by hyphens.
fn headings(text: &str) -> Vec<String> {
    let mut fenced = false;
    let mut anchors = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if !fenced && line.starts_with('#') {
            let title = line.trim_start_matches('#').trim().to_lowercase();
            let kept = title
                .chars()
                .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
            anchors.push(kept.map(|c| if c == ' ' { '-' } else { c }).collect());
        }
    }
    anchors
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{files, places};
    use super::*;

    #[test]
    fn a_link_that_leads_nowhere_is_found() {
        let page = "\
[here](b.md) [up](../README.md) [folder](../docs) [net](https://example.com/x) [self](#two-words)

`[code](gone.md)`

```text
[fence](gone.md)
```
[gone](gone.md)
[out](../../x.md)
[heading](b.md#one) [no heading](b.md#two)

## Two `words`
";
        let tree = files(&[
            ("docs/a.md", page),
            ("docs/b.md", "# One\n"),
            ("README.md", ""),
        ]);
        assert_eq!(
            places(&resolve(&tree)),
            ["docs/a.md:8", "docs/a.md:9", "docs/a.md:10"]
        );
    }
}

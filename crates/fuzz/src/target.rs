//! What a fuzz target is, and the list of them.
//!
//! A target knows where its inputs come from, how to change them with their meaning in mind, how to take them apart when
//! a finding is made smaller, and how to feed one to the code under test. All inputs are byte strings.

use std::path::Path;

use crate::mutate::mutate;
use crate::random::Rng;
use crate::targets;

/// What an input led to, in words without the input's own numbers and names: `import: node '…' (Add): takes # inputs`.
/// An input that leads to something new is kept and mutated further.
pub(crate) type Seen = Vec<String>;

/// A target.
pub(crate) trait Target {
    /// Inputs to begin with.
    fn seeds(&mut self, rng: &mut Rng) -> Vec<Vec<u8>>;

    /// A new input made from those of the corpus, which is not empty.
    fn mutate(&mut self, rng: &mut Rng, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut any = || rng.pick(corpus).map_or(&[][..], Vec::as_slice);
        let (input, other) = (any(), any());
        mutate(rng, input, other)
    }

    /// Feeds one input to the code under test.
    ///
    /// # Errors
    ///
    /// The promise that did not hold, in words. A panic, an abort, a hang and too much memory are noticed outside.
    fn run(&mut self, input: &[u8]) -> Result<Seen, String>;

    /// The input in readable form, for somebody who looks into a finding.
    fn describe(&mut self, _input: &[u8]) -> Option<String> {
        None
    }

    /// Number of parts with a meaning of their own that [`Target::without`] can leave away.
    fn parts(&self, _input: &[u8]) -> usize {
        0
    }

    /// The input without some of its parts.
    fn without(&self, _input: &[u8], _parts: std::ops::Range<usize>) -> Option<Vec<u8>> {
        None
    }
}

/// Makes a target; the folder is empty and its own.
type Make = fn(&Path) -> Result<Box<dyn Target>, String>;

/// Every target: its name, how it is made, and what it must withstand.
pub(crate) const TARGETS: &[(&str, Make, &str)] = &[
    (
        "model",
        targets::model::make,
        "a model's bytes: import, passes, plan, shapes",
    ),
    (
        "external-data",
        targets::external::make,
        "a model whose weights lie in other files",
    ),
    (
        "shape-inference",
        targets::shapes::make,
        "graphs of any operators, typed symbolically and with numbers",
    ),
    (
        "cache-entry",
        targets::cache::make,
        "a file of the kernel cache",
    ),
    (
        "broken",
        targets::broken::make,
        "breaks on purpose, to test the fuzzer",
    ),
];

/// The target of this name.
pub(crate) fn find(name: &str) -> Result<Make, String> {
    TARGETS
        .iter()
        .find(|row| row.0 == name)
        .map(|row| row.1)
        .ok_or_else(|| {
            let known: Vec<&str> = TARGETS.iter().map(|row| row.0).collect();
            format!(
                "there is no fuzz target `{name}`; the targets are {}",
                known.join(", ")
            )
        })
}

/// A message without what belongs to one input: quoted text becomes `…`, numbers become `#`, and only the first line and
/// 120 characters stay.
pub(crate) fn outline(stage: &str, message: &str) -> String {
    let mut out = format!("{stage}: ");
    let mut quote = None;
    for c in message.lines().next().unwrap_or_default().chars() {
        match quote {
            Some(end) if c == end => quote = None,
            Some(_) => continue,
            None if matches!(c, '\'' | '`' | '"') => {
                quote = Some(c);
                out.push('…');
            }
            None if c.is_ascii_digit() => {
                if !out.ends_with('#') {
                    out.push('#');
                }
            }
            None => out.push(c),
        }
        if out.len() > 120 {
            break;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outlines_forget_names_and_numbers() {
        assert_eq!(
            outline("import", "node 'a1' takes 12 inputs, has -3\nmore"),
            "import: node … takes # inputs, has -#"
        );
    }

    #[test]
    fn an_unknown_target_is_refused_with_the_known_ones() {
        assert!(find("model").is_ok());
        assert!(
            find("modle")
                .err()
                .is_some_and(|e| e.contains("model, external-data"))
        );
    }
}

//! Strategies of the user's own, written as TOML: every axis by name, with `lazy`'s value where nothing is said.
//! The guide's page on `bespoke run` has an example with every key.

use std::num::NonZeroUsize;

use serde::Deserialize;

use crate::preset::{Axes, Limits, PolicyError, Queue, Trigger, first_sight};
use crate::{ClassMap, Policy, Signature, from_axes};

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Classes {
    #[default]
    Exact,
    Single,
    Ranges,
    Divisible,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Start {
    Never,
    Load,
    #[default]
    Sightings,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Order {
    #[default]
    FirstCome,
    MostSeen,
    MostGain,
}

/// The file as it is written; see the module.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Document {
    name: Option<String>,
    classes: Classes,
    ratio: Option<i64>,
    divisors: Option<Vec<i64>>,
    trigger: Start,
    sightings: Option<u32>,
    between: Option<bool>,
    second_tier: Option<u32>,
    refine: Option<u32>,
    blocking: bool,
    queue: Order,
    stale_seconds: Option<f64>,
    max_programs: Option<NonZeroUsize>,
    max_compiling: Option<NonZeroUsize>,
    max_waiting: Option<usize>,
    max_compile_seconds: Option<f64>,
}

/// Reads a strategy. `name` is its name if the text gives none; `opt` is the shape to tune for, needed by the class map
/// `single`; `limits` holds where the text says nothing.
///
/// # Errors
///
/// [`PolicyError::File`] with the place and what is wrong, [`PolicyError::NoShape`] for `single` without `opt`.
pub fn parse(
    text: &str,
    name: &str,
    opt: Option<Signature>,
    limits: Limits,
) -> Result<Box<dyn Policy>, PolicyError> {
    let wrong = |reason: String| PolicyError::File {
        name: name.to_owned(),
        reason,
    };
    let document: Document = toml::from_str(text).map_err(|e| wrong(e.to_string()))?;
    let refuse = |what: &str| Err(wrong(what.to_owned()));
    let map = match document.classes {
        Classes::Exact => ClassMap::Exact,
        Classes::Single => ClassMap::Single {
            opt: opt.ok_or(PolicyError::NoShape)?,
        },
        Classes::Ranges => match document.ratio.unwrap_or(2) {
            ratio @ 2.. => ClassMap::Ranges { ratio },
            _ => return refuse("`ratio` must be at least 2"),
        },
        Classes::Divisible => {
            let mut by = document.divisors.clone().unwrap_or(vec![16, 8, 4, 2]);
            if by.is_empty() || by.iter().any(|&d| d < 2) {
                return refuse("`divisors` must be numbers of at least 2, one or more");
            }
            by.sort_unstable_by(|a, b| b.cmp(a));
            by.dedup();
            ClassMap::Divisible { by }
        }
    };
    if document.ratio.is_some() && !matches!(map, ClassMap::Ranges { .. }) {
        return refuse("`ratio` belongs to `classes = \"ranges\"`");
    }
    if document.divisors.is_some() && !matches!(map, ClassMap::Divisible { .. }) {
        return refuse("`divisors` belongs to `classes = \"divisible\"`");
    }
    let trigger = match (document.trigger, document.sightings) {
        (Start::Sightings, Some(0)) => return refuse("`sightings` must be at least 1"),
        (Start::Sightings, count) => Trigger::Sightings(count.unwrap_or(1)),
        (_, Some(_)) => return refuse("`sightings` belongs to `trigger = \"sightings\"`"),
        (Start::Never, None) => Trigger::Never,
        (Start::Load, None) if matches!(map, ClassMap::Single { .. }) => Trigger::Load,
        (Start::Load, None) => {
            return refuse(
                "`trigger = \"load\"` needs `classes = \"single\"`: there is no shape yet",
            );
        }
    };
    let one_shape = matches!(map, ClassMap::Exact) && trigger != Trigger::Never;
    let second_tier = match document.second_tier {
        Some(0) => None,
        Some(_) if !one_shape => {
            return refuse(
                "`second_tier` needs `classes = \"exact\"` and a trigger: it is planned for one shape",
            );
        }
        Some(runs) => Some(runs),
        None => first_sight(document.blocking)
            .second_tier
            .filter(|_| one_shape),
    };
    let between = match document.between {
        Some(true) if !one_shape || document.blocking => {
            return refuse(
                "`between` needs `classes = \"exact\"`, a trigger and no `blocking`: it serves runs whose shape has no program yet",
            );
        }
        Some(between) => between,
        None => first_sight(document.blocking).between && one_shape,
    };
    let refine = match document.refine {
        Some(0) => None,
        Some(_) if trigger == Trigger::Never => {
            return refuse("`refine` needs a trigger: without programs there are no tiles to time");
        }
        Some(runs) => Some(runs),
        None => first_sight(document.blocking)
            .refine
            .filter(|_| trigger != Trigger::Never),
    };
    let micros = |what: &str, seconds: Option<f64>| match seconds {
        Some(s) if !s.is_finite() || s < 0.0 => Err(wrong(format!(
            "`{what}` must be a time in seconds, 0 or more"
        ))),
        Some(s) => Ok(Some((s * 1e6) as u64)),
        None => Ok(None),
    };
    let axes = Axes {
        map,
        trigger,
        between,
        second_tier,
        refine,
        queue: match document.queue {
            Order::FirstCome => Queue::FirstCome,
            Order::MostSeen => Queue::MostSeen,
            Order::MostGain => Queue::MostGain,
        },
        stale_us: micros("stale_seconds", document.stale_seconds)?,
        limits: Limits {
            max_variants: document.max_programs.unwrap_or(limits.max_variants),
            max_compiling: document.max_compiling.unwrap_or(limits.max_compiling),
            max_waiting: document.max_waiting.unwrap_or(limits.max_waiting),
            max_compile_us: micros("max_compile_seconds", document.max_compile_seconds)?
                .or(limits.max_compile_us),
        },
        ..first_sight(document.blocking)
    };
    Ok(from_axes(document.name.as_deref().unwrap_or(name), axes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Box<dyn Policy>, PolicyError> {
        parse(text, "mine.toml", None, Limits::default())
    }

    #[test]
    fn the_example_of_the_guide_is_a_strategy() {
        let page = include_str!("../../../docs/guide/run.md");
        let text: String = page
            .lines()
            .skip_while(|l| *l != "```toml")
            .skip(1)
            .take_while(|l| *l != "```")
            .map(|l| format!("{l}\n"))
            .collect();
        // it names every key, and these exclude each other
        let cases = [
            (
                "ranges",
                &["divisors", "second_tier", "between"][..],
                "4..15",
            ),
            ("divisible", &["ratio", "second_tier", "between"], "*"),
            ("exact", &["ratio", "divisors"], "5"),
        ];
        for (classes, out, class) in cases {
            let own = text.replace("classes = \"ranges\"", &format!("classes = \"{classes}\""));
            let text = out.iter().fold(own, |text, key| {
                text.replace(&format!("{key} ="), &format!("# {key} ="))
            });
            let policy = read(&text).unwrap();
            assert_eq!(policy.name(), "wide");
            assert_eq!(policy.class_of(&Signature::new(&[5])).to_string(), class);
            assert_eq!(policy.has_second_tier(), classes == "exact");
        }
    }

    #[test]
    fn nothing_said_is_lazy() {
        let policy = read("").unwrap();
        assert_eq!(policy.name(), "mine.toml");
        assert!(!policy.may_block() && policy.has_second_tier());
        for text in ["blocking = true", "second_tier = 0", "classes = \"ranges\""] {
            assert!(!read(text).unwrap().has_second_tier(), "{text}");
        }
        assert!(
            read("blocking = true\nsecond_tier = 8")
                .unwrap()
                .has_second_tier()
        );
        assert_eq!(policy.class_of(&Signature::new(&[5])).to_string(), "5");
    }

    #[test]
    fn mistakes_name_the_file_and_the_word() {
        let cases = [
            ("clases = \"exact\"", "clases"),
            ("classes = \"some\"", "some"),
            ("ratio = 4", "ratio"),
            ("classes = \"ranges\"\nratio = 1", "at least 2"),
            ("classes = \"divisible\"\ndivisors = [0]", "divisors"),
            ("divisors = [4]", "divisors"),
            ("sightings = 0", "sightings"),
            ("trigger = \"never\"\nsightings = 2", "sightings"),
            ("trigger = \"load\"", "single"),
            ("stale_seconds = -1.0", "stale_seconds"),
            ("max_programs = 0", "max_programs"),
            ("classes = \"ranges\"\nsecond_tier = 8", "second_tier"),
            ("trigger = \"never\"\nsecond_tier = 8", "second_tier"),
            ("classes = \"ranges\"\nbetween = true", "between"),
            ("blocking = true\nbetween = true", "between"),
            ("trigger = \"never\"\nrefine = 8", "refine"),
        ];
        for (text, word) in cases {
            let message = read(text).err().unwrap().to_string();
            assert!(
                message.contains("mine.toml") && message.contains(word),
                "{text}: {message}"
            );
        }
        let message = read("classes = \"single\"").err().unwrap().to_string();
        assert!(message.contains("shape"), "{message}");
    }
}

//! The axes of a strategy and the presets that users call by name.

use std::num::NonZeroUsize;

use crate::machine::Machine;
use crate::{ClassMap, Policy, Signature};

/// What starts a specialisation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// Nothing.
    Never,
    /// Loading the model.
    Load,
    /// So many runs of a class; 1 is the first sight. At least 1.
    Sightings(u32),
}

/// Which of the classes that wait for a compile is next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queue {
    /// The one that waits longest.
    FirstCome,
    /// The one seen most; of equals the one seen last.
    MostSeen,
    /// The one whose compile is expected to save most for what it takes, by the times of runs and compiles so far; see
    /// [`gain`](mod@crate::gain). Of equals the one seen most.
    MostGain,
}

/// What a strategy may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Programs installed at once; the least recently seen class leaves for a new one.
    pub max_variants: NonZeroUsize,
    /// Classes compiling at once, for strategies that do not block.
    pub max_compiling: NonZeroUsize,
    /// Classes waiting for that; one more is asked for again when it is seen again.
    pub max_waiting: usize,
    /// Compile time, microseconds of the compiler's threads; `None` is no limit. Nothing new is begun once it is used up.
    pub max_compile_us: Option<u64>,
}

impl Default for Limits {
    fn default() -> Self {
        let number = |number| NonZeroUsize::new(number).unwrap_or(NonZeroUsize::MIN);
        Limits {
            max_variants: number(32),
            // enough to keep the compiler's threads busy; what is begun is not overtaken any more
            max_compiling: number(4),
            max_waiting: 256,
            max_compile_us: None,
        }
    }
}

/// A strategy as a point on its axes; see the crate's table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Axes {
    /// Which shapes share a program.
    pub map: ClassMap,
    /// What starts a specialisation.
    pub trigger: Trigger,
    /// Whether shapes without a program of their own are served by classes between shapes in service, which also delays the
    /// compile of shapes that nobody saw twice. For classes of one shape.
    pub between: bool,
    /// Runs of a class after its program is in service that make it worth a second tier, planned anew with every extent
    /// a constant; `None` is never. For classes of one shape.
    pub second_tier: Option<u32>,
    /// Runs of a class after its best tier is in service that make it worth device time: tiles that may be better than those
    /// of its program are timed; `None` is never.
    pub refine: Option<u32>,
    /// Whether the run (or the loading) that started it waits; for a second tier none does.
    pub blocking: bool,
    /// Which class compiles next when there is room.
    pub queue: Queue,
    /// A class that waits or compiles and was not seen for so long gives up its place to others that wait; `None` never.
    pub stale_us: Option<u64>,
    /// Priority of its compiles.
    pub priority: i64,
    /// What it may take.
    pub limits: Limits,
}

/// One named strategy.
#[derive(Debug, Clone, Copy)]
pub struct PresetInfo {
    /// The name on the command line.
    pub name: &'static str,
    /// What it does, in a line.
    pub summary: &'static str,
    build: fn(Option<Signature>) -> Result<Axes, PolicyError>,
}

/// A strategy that cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// No such name.
    #[error("`{name}` is not a specialisation strategy: use {known}")]
    Unknown {
        /// The name.
        name: String,
        /// The names there are.
        known: String,
    },
    /// A strategy file that makes no sense.
    #[error("the strategy `{name}`: {reason}")]
    File {
        /// The strategy or its file.
        name: String,
        /// What is wrong, and where.
        reason: String,
    },
    /// `static` without a shape.
    #[error(
        "one set of kernels for every shape (`static`) needs a shape to tune for: give the input shapes or dimensions"
    )]
    NoShape,
}

/// Priority of compiles that nobody waits for, and of those that somebody does.
const BACKGROUND: i64 = 0;
const AWAITED: i64 = 100;

/// Runs after which the presets plan a shape anew: enough that it is no passer-by, few enough to pay within seconds.
const HOT: u32 = 32;
/// Runs of its best tier after which the presets have the tiles of a class timed.
const STEADY: u32 = 64;

/// The strategies by name.
pub const PRESETS: &[PresetInfo] = &[
    PresetInfo {
        name: "none",
        summary: "never specialise: every run is generic",
        build: |_| Ok(exact(Trigger::Never, false)),
    },
    PresetInfo {
        name: "eager",
        summary: "the first run of a shape waits for its own kernels",
        build: |_| Ok(first_sight(true)),
    },
    PresetInfo {
        name: "lazy",
        summary: "a new shape runs generic while its own kernels are compiled in the background; one that stays is planned anew",
        build: |_| Ok(first_sight(false)),
    },
    PresetInfo {
        name: "hot",
        summary: "as lazy, but a shape must be seen three times, and what gains most by it is compiled first",
        build: |_| {
            Ok(Axes {
                queue: Queue::MostGain,
                stale_us: Some(60_000_000),
                second_tier: Some(HOT),
                between: true,
                ..exact(Trigger::Sightings(3), false)
            })
        },
    },
    PresetInfo {
        name: "ranges",
        summary: "as lazy, with one program for all shapes whose extents lie between the same powers of two",
        build: |_| {
            Ok(Axes {
                map: ClassMap::Ranges { ratio: 2 },
                ..exact(Trigger::Sightings(1), false)
            })
        },
    },
    PresetInfo {
        name: "divisible",
        summary: "as lazy, with one program for all shapes whose extents have the same divisor of 16, 8, 4 and 2",
        build: |_| {
            Ok(Axes {
                map: ClassMap::Divisible {
                    by: vec![16, 8, 4, 2],
                },
                ..exact(Trigger::Sightings(1), false)
            })
        },
    },
    PresetInfo {
        name: "static",
        summary: "one set of kernels tuned at load for a given shape serves every shape",
        build: |opt| {
            let opt = opt.ok_or(PolicyError::NoShape)?;
            Ok(Axes {
                map: ClassMap::Single { opt },
                ..exact(Trigger::Load, true)
            })
        },
    },
];

/// The axes of `lazy` or, if runs wait, of `eager`, which compiles nothing once a shape is served.
pub(crate) fn first_sight(blocking: bool) -> Axes {
    Axes {
        second_tier: (!blocking).then_some(HOT),
        between: !blocking,
        ..exact(Trigger::Sightings(1), blocking)
    }
}

fn exact(trigger: Trigger, blocking: bool) -> Axes {
    let priority = if blocking { AWAITED } else { BACKGROUND };
    Axes {
        map: ClassMap::Exact,
        trigger,
        second_tier: None,
        between: false,
        refine: (!blocking && trigger != Trigger::Never).then_some(STEADY),
        blocking,
        queue: Queue::FirstCome,
        stale_us: None,
        priority,
        limits: Limits::default(),
    }
}

/// The strategy of this name. `opt` is the shape to tune for, used by `static`.
///
/// # Errors
///
/// [`PolicyError::Unknown`] with the known names, [`PolicyError::NoShape`] for `static` without `opt`.
pub fn preset(
    name: &str,
    opt: Option<Signature>,
    limits: Limits,
) -> Result<Box<dyn Policy>, PolicyError> {
    let info = PRESETS
        .iter()
        .find(|info| info.name == name)
        .ok_or_else(|| PolicyError::Unknown {
            name: name.to_owned(),
            known: PRESETS
                .iter()
                .map(|info| info.name)
                .collect::<Vec<_>>()
                .join(", "),
        })?;
    let axes = Axes {
        limits,
        ..(info.build)(opt)?
    };
    Ok(Box::new(Machine::new(info.name, axes)))
}

/// A strategy of the caller's own axes; `name` is what [`Policy::name`] answers.
#[must_use]
pub fn from_axes(name: impl Into<String>, axes: Axes) -> Box<dyn Policy> {
    Box::new(Machine::new(name, axes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_is_made_by_its_name() {
        for info in PRESETS {
            let policy = preset(info.name, Some(Signature::new(&[1])), Limits::default()).unwrap();
            assert_eq!(policy.name(), info.name);
        }
    }

    #[test]
    fn mistakes_name_the_remedy() {
        let message = |name| {
            preset(name, None, Limits::default())
                .err()
                .unwrap()
                .to_string()
        };
        assert!(message("lazzy").contains("none, eager, lazy, hot, ranges, divisible, static"));
        assert!(message("static").contains("shape"));
    }
}

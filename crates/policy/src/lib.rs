//! When to specialise: a pure state machine from events to actions.
//!
//! The runtime starts every model on generic kernels and asks a [`Policy`] what to do about the shapes that really
//! occur. A policy has no clock, no threads and no input or output: time comes with each [`Event`], every decision
//! is an [`Action`] with its reason, and equal events give equal actions. So one object serves live, in replay and in
//! a simulator.
//!
//! # Nine questions
//!
//! A strategy is a choice on nine independent axes; [`Axes`] holds them, and the names users know are presets
//! ([`PRESETS`]).
//!
//! | axis | question | here |
//! |---|---|---|
//! | class map | which shapes share a program? | [`ClassMap`]: each its own, ranges, divisibility, or all one |
//! | validity | which shapes is a program right for? | [`ClassId::fits`]; nothing more is baked into it |
//! | trigger | what starts a specialisation? | [`Trigger`]: nothing, loading, or so many sights of a class |
//! | passers-by | what serves a shape that has no program, and may never come back? | [`Axes::between`]: generic kernels, or a class between shapes in service; see [`between`](mod@between) |
//! | second tier | when is a class worth a plan of its own? | [`Axes::second_tier`]: never, or so many sights more |
//! | refinement | when are a class's tiles worth timing? | [`Axes::refine`]: never, or so many runs of its best tier |
//! | queue | in what order, and who waits? | [`Queue`], staleness, [`Axes::priority`]; [`Axes::blocking`] |
//! | resources | how much may it take? | [`Limits`]: programs (least recently seen leaves), compiles, compile time |
//! | install | when is the program exchanged? | when every kernel of the class is ready, between runs |
//!
//! Users choose a preset by name, write the axes into a TOML file ([`file`](mod@file)), or implement [`Policy`].
//!
//! # The life of a class
//!
//! ```text
//!             k-th sight         room                CompileFinished ok        Installed
//!  Counting ─────────────▶ Waiting ──▶ Compiling ────────────────────▶ Installing ─────▶ Installed
//!      ▲ ▲                    │          │    │ not ok                      │               │ Evict
//!      │ └── stale: dropped ──┘──────────┘    ▼                             ▼               ▼
//!      │             (Cancel)               Failed (not asked again) ◀─ InstallFailed   Evicting
//!      └────────────────────────────────────────────────────────── Evicted ─────────────────┘
//! ```
//!
//! An installed class that stays hot goes through the middle of this once more, for its second tier, while the program
//! of its first tier serves:
//!
//! ```text
//!              n-th sight              room                   CompileFinished ok
//!  Installed ─────────────▶ SecondWaiting ──▶ SecondCompiling ─────────────────▶ SecondInstalling ──▶ SecondInstalled
//!      ▲                          │              │ not ok, Kept, Postponed, stale       │ InstallFailed
//!      └──────────────────────────┴──────────────┴──────────────────────────────────────┘
//! ```
//!
//! Its way there is shorter where earlier processes had the second tier: it is asked for as soon as they are recalled
//! ([`What::Recalled`]), as long as it takes no compiling.
//!
//! A class that stays hot on the last of these may be *refined*, once: [`Action::Refine`], and at some time
//! [`What::Refined`]. It is in service all the while, and its state stays what it is.

pub mod between;
pub mod class;
pub mod file;
pub mod gain;
mod machine;
mod preset;
mod state;

pub use class::{ClassId, ClassMap, Fit, Signature};
pub use gain::Gain;
pub use machine::{Growing, Machine};
pub use preset::{
    Axes, Limits, PRESETS, PolicyError, PresetInfo, Queue, Trigger, from_axes, preset,
};
pub use state::ClassState;

/// Which of the programs that a class may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// The steps that every shape has, with kernels made for the class.
    First,
    /// The model planned anew for the one shape of the class, with steps and kernels of its own.
    Second,
}

impl Tier {
    /// 1 or 2, for events and reports.
    #[must_use]
    pub fn number(self) -> u8 {
        self as u8 + 1
    }
}

/// Something that happened, with the time at which it did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Microseconds since any fixed moment. Events come in the director's order; a clock that steps back does no
    /// harm.
    pub now_us: u64,
    /// What happened.
    pub what: What,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// The session is loaded; its generic program is ready.
    Loaded,
    /// A run came in. Of runs that no generic kernel serves the policy may hear later, several at a time and in order.
    Observed {
        /// Its class, from [`Policy::class_of`].
        class: ClassId,
        /// Its shape.
        signature: Signature,
        /// Number of the run in the session.
        run: u64,
        /// Whether it is served by the generic program.
        generic: bool,
    },
    /// Somebody wants a shape's program before any run shows the shape: a caller who warms up, or what an earlier process
    /// learned. It counts as often enough seen; for a class in service, as often enough for its second tier or, if it has its
    /// best tier, for being refined.
    Wished {
        /// Its class, from [`Policy::class_of`].
        class: ClassId,
        /// Its shape.
        signature: Signature,
    },
    /// What earlier processes knew of a class, said after all wishes for what they ran. If it takes no compiling, it begins
    /// with its second tier where it had one, or ran often enough for one.
    Recalled {
        /// Its class, from [`Policy::class_of`].
        class: ClassId,
        /// Runs of all earlier processes.
        runs: u64,
        /// Whether a second tier served it; `Some(false)`: it would be no better than the first; `None`: nobody knows.
        second: Option<bool>,
    },
    /// A run ended.
    Ran {
        /// Its class, from [`Policy::class_of`].
        class: ClassId,
        /// The program that served it; `None` is the generic one.
        tier: Option<Tier>,
        /// What it took, microseconds, without what it waited for.
        micros: u64,
    },
    /// Every kernel of a class is compiled, or one of them failed.
    CompileFinished {
        /// The class.
        class: ClassId,
        /// Of which tier.
        tier: Tier,
        /// Whether all succeeded.
        ok: bool,
        /// Compile time, microseconds; 0 when all came from the cache.
        micros: u64,
    },
    /// The tiles of a class were timed, or it turned out that there is nothing to time.
    Refined {
        /// The class.
        class: ClassId,
        /// Compile time, microseconds; 0 when all came from the cache.
        micros: u64,
    },
    /// The second tier that was asked for would be no better than the first: there will be none.
    Kept {
        /// The class.
        class: ClassId,
    },
    /// The second tier that was asked for without compiling takes some: it is called off, and may be asked for again.
    Postponed {
        /// The class.
        class: ClassId,
    },
    /// The class's program serves runs from now on.
    Installed {
        /// The class.
        class: ClassId,
        /// Its tier; a second takes the place of the first.
        tier: Tier,
    },
    /// The class's program was compiled, but the device does not take it.
    InstallFailed {
        /// The class.
        class: ClassId,
        /// Its tier; the first stays in service where the second fails.
        tier: Tier,
    },
    /// The class's program is gone, by an [`Action::Evict`] or because the runtime needed its memory.
    Evicted {
        /// The class.
        class: ClassId,
    },
    /// Time passed.
    Tick,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Compile a program for a class.
    Specialise {
        /// The class.
        class: ClassId,
        /// Which program.
        tier: Tier,
        /// The shape to tune for.
        shape: Signature,
        /// Higher compiles earlier; equal ones in the order of the actions.
        priority: i64,
        /// Whether the run (or the loading) that caused it waits for the program.
        blocking: bool,
        /// Whether it is wanted only if all of its kernels are at hand; if not, [`What::Postponed`] says so. Second tiers alone.
        at_hand: bool,
        /// What is expected of it, where that decides the order.
        gain: Option<Gain>,
    },
    /// Put a program of a wide class in service that takes no compiling: of kernels that are there and, where there is none,
    /// of generic ones. Nothing is reported of it.
    Borrow {
        /// The class.
        class: ClassId,
        /// The shape to tune for.
        shape: Signature,
    },
    /// Time tiles on the device that may be better than those of the class's program, and exchange it for one with the best
    /// of them. No run waits for it; [`What::Refined`] ends it.
    Refine {
        /// The class.
        class: ClassId,
        /// The shape to time at.
        shape: Signature,
        /// Priority of what has to be compiled for it.
        priority: i64,
    },
    /// The run that was observed waits for the class's compile, which another one started.
    Wait {
        /// The class.
        class: ClassId,
    },
    /// Stop compiling a class: nobody has seen it for a while and others wait. Answers that still come are not
    /// reported.
    Cancel {
        /// The class.
        class: ClassId,
    },
    /// Put the class's compiled program in service between two runs.
    Install {
        /// The class.
        class: ClassId,
        /// Which program; a second tier takes the place of the first.
        tier: Tier,
    },
    /// Drop the class's program, and with it what is being made for its second tier; runs of the class are generic again.
    Evict {
        /// The class.
        class: ClassId,
    },
    /// Do nothing, for this reason.
    Nothing(Reason),
}

/// Why nothing is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// The strategy never specialises.
    Never,
    /// This event triggers nothing under this strategy.
    NotATrigger,
    /// The class was not seen often enough yet.
    Counting,
    /// The shape is new, and a class between others serves it with kernels of its own: it is not compiled until it is seen
    /// again.
    PasserBy,
    /// The class waits for its turn to compile.
    Waiting,
    /// The class is being compiled.
    Compiling,
    /// The class's program is about to be put in service.
    Installing,
    /// The class's program is in service.
    Installed,
    /// The program of the class's first tier is in service; its second tier waits for its turn to compile.
    SecondWaiting,
    /// The program of the class's first tier is in service, and its second tier is being made.
    SecondCompiling,
    /// The program of the class's second tier is about to be put in service.
    SecondInstalling,
    /// The program of the class's second tier is in service.
    SecondInstalled,
    /// The class has no second tier, since it would be like the first.
    Kept,
    /// The class's second tier would have to be compiled, and only earlier processes made it worth that.
    Postponed,
    /// The class's program is being dropped.
    Evicting,
    /// The class failed to compile before; it is not tried again.
    FailedBefore,
    /// The class failed to compile now.
    CompileFailed,
    /// The class's program could not be put in service now.
    InstallFailed,
    /// Too many compiles are waiting; the class is asked for again when it is seen again.
    Backlog,
    /// The compile time that the strategy may take is used up.
    Budget,
    /// The event names a class that this policy did not ask for.
    UnknownClass,
    /// The event was expected and asks for nothing more.
    Noted,
}

impl Reason {
    /// A short stable name for events and counters.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Reason::Never => "never",
            Reason::NotATrigger => "not-a-trigger",
            Reason::Counting => "counting",
            Reason::PasserBy => "passer-by",
            Reason::Waiting => "waiting",
            Reason::Compiling => "compiling",
            Reason::Installing => "installing",
            Reason::Installed => "installed",
            Reason::SecondWaiting => "second-waiting",
            Reason::SecondCompiling => "second-compiling",
            Reason::SecondInstalling => "second-installing",
            Reason::SecondInstalled => "second-installed",
            Reason::Kept => "kept",
            Reason::Postponed => "postponed",
            Reason::Evicting => "evicting",
            Reason::FailedBefore => "failed-before",
            Reason::CompileFailed => "compile-failed",
            Reason::InstallFailed => "install-failed",
            Reason::Backlog => "backlog",
            Reason::Budget => "budget",
            Reason::UnknownClass => "unknown-class",
            Reason::Noted => "noted",
        }
    }
}

/// A specialisation strategy.
pub trait Policy: Send {
    /// The name by which users ask for it.
    fn name(&self) -> &str;

    /// Whether it specialises at all: one that never does need not be told what earlier sessions saw.
    fn specialises(&self) -> bool {
        true
    }

    /// Whether it may ask for second tiers: one that never does needs no model to plan anew.
    fn has_second_tier(&self) -> bool {
        false
    }

    /// Has classes refined after so many runs of their best tier, or never, whatever the strategy said so far. One that
    /// never asks for it may ignore this.
    fn set_refine(&mut self, runs: Option<u32>) {
        let _ = runs;
    }

    /// Says which extents of a shape grow from one run to the next: what comes next is known then. A strategy that has no use
    /// for that may ignore it.
    fn set_growing(&mut self, extents: &[Growing]) {
        let _ = extents;
    }

    /// Whether it wants to hear what runs took ([`What::Ran`]).
    fn wants_times(&self) -> bool {
        false
    }

    /// Whether it may ask runs to wait. A strategy that may is told of a run before the run begins.
    fn may_block(&self) -> bool;

    /// The class of a shape. Pure: the same for equal shapes at all times, and one that the shape fits.
    fn class_of(&self, signature: &Signature) -> ClassId;

    /// What to do about an event: at least one action, to be carried out in order.
    fn on_event(&mut self, event: &Event) -> Vec<Action>;

    /// The classes that the policy knows and their states, in a fixed order: why it does what it does.
    fn classes(&self) -> Vec<(ClassId, ClassState)>;
}

//! When to specialise: a pure state machine from events to actions.
//!
//! The runtime starts every model on generic kernels and asks a [`Policy`] what to do about the shapes that really
//! occur. A policy has no clock, no threads and no input or output: time comes with each [`Event`], every decision
//! is an [`Action`] with its reason, and equal events give equal actions. So one object serves live, in replay and in
//! a simulator.
//!
//! # Six questions
//!
//! A strategy is a choice on six independent axes; [`Axes`] holds them, and the names users know are presets
//! ([`PRESETS`]).
//!
//! | axis | question | here |
//! |---|---|---|
//! | class map | which shapes share a program? | [`ClassMap`]: each its own, ranges, divisibility, or all one |
//! | validity | which shapes is a program right for? | [`ClassId::fits`]; nothing more is baked into it |
//! | trigger | what starts a specialisation? | [`Trigger`]: nothing, loading, or so many sights of a class |
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

pub mod class;
pub mod file;
mod machine;
mod preset;

pub use class::{ClassId, ClassMap, Fit, Signature};
pub use machine::{ClassState, Machine};
pub use preset::{
    Axes, Limits, PRESETS, PolicyError, PresetInfo, Queue, Trigger, from_axes, preset,
};

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
    /// A run came in.
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
    /// learned. It counts as often enough seen.
    Wished {
        /// Its class, from [`Policy::class_of`].
        class: ClassId,
        /// Its shape.
        signature: Signature,
    },
    /// Every kernel of a class is compiled, or one of them failed.
    CompileFinished {
        /// The class.
        class: ClassId,
        /// Whether all succeeded.
        ok: bool,
        /// Compile time, microseconds; 0 when all came from the cache.
        micros: u64,
    },
    /// The class's program serves runs from now on.
    Installed {
        /// The class.
        class: ClassId,
    },
    /// The class's program was compiled, but the device does not take it.
    InstallFailed {
        /// The class.
        class: ClassId,
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
        /// The shape to tune for.
        shape: Signature,
        /// Higher compiles earlier; equal ones in the order of the actions.
        priority: i64,
        /// Whether the run (or the loading) that caused it waits for the program.
        blocking: bool,
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
    },
    /// Drop the class's program; runs of the class are generic again.
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
    /// The class waits for its turn to compile.
    Waiting,
    /// The class is being compiled.
    Compiling,
    /// The class's program is about to be put in service.
    Installing,
    /// The class's program is in service.
    Installed,
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
            Reason::Waiting => "waiting",
            Reason::Compiling => "compiling",
            Reason::Installing => "installing",
            Reason::Installed => "installed",
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

    /// Whether it may ask runs to wait. A strategy that may is told of a run before the run begins.
    fn may_block(&self) -> bool;

    /// The class of a shape. Pure: the same for equal shapes at all times, and one that the shape fits.
    fn class_of(&self, signature: &Signature) -> ClassId;

    /// What to do about an event: at least one action, to be carried out in order.
    fn on_event(&mut self, event: &Event) -> Vec<Action>;

    /// The classes that the policy knows and their states, in a fixed order: why it does what it does.
    fn classes(&self) -> Vec<(ClassId, ClassState)>;
}

//! The runtime: models at work.
//!
//! A [`Session`] is one model on one device. It sees only `dyn Device`, so everything here (specialisation, swaps,
//! graphs, memory) is the same code with a GPU and without.
//!
//! ```text
//!  run threads ──observe──▶ director ──policy──▶ actions ──▶ compile service ──▶ cache
//!      │                       ▲                                  │
//!      │ pick program          └───────────── class compiled ─────┘
//!      ▼                       install: graph made beside the path, program exchanged between runs
//!  lane: stream, arena, extent block, executable graphs
//! ```
//!
//! - [`session`]: running and binding shapes. `load`: how a session comes to be.
//! - `border`: what is checked of the caller's tensors.
//! - `arithmetic`: which arithmetic products have, and why.
//! - [`request`]: what callers say and hear: options, bindings, reports.
//! - [`profile`]: the time of every step. [`costs`]: what specialising every step costs and brings. [`tile_costs`]: what tiles
//!   take beside what their models expect.
//! - [`program`]: one kernel a step, immutable; the *generic* program serves every shape and exists from the start.
//! - `second`: the model planned anew for one shape, for the second tier of a class that stays hot.
//! - `refine`: tiles timed on the device, for a class that stays hot. `tiles`: what is known of them, for the next session.
//! - [`lane`]: what one run at a time needs. The extent block holds every number and address of a run, so one recorded
//!   graph serves all shapes of a program and any pointers. `block`: what of it has to be written.
//! - `segments`: models that are no single graph: several sessions behind one border.
//! - `order`: in which order a graph's kernels run.
//! - `ledger`: what device memory is held for, and its limit. `weights`: what is there before the first run, shared by
//!   content between sessions.
//! - `crew`: work that a load does hundreds of times, on all processors.
//! - `lessons`: the shapes that occurred, for the next session of the model.
//! - [`patience`]: how long a run waits, and how it is called off.
//! - [`strategy`]: which policy a session gets.
//! - [`director`]: the only place where decisions are carried out; it owns the policy.
//! - `mailbox`: what runs tell it, and when.
//! - [`service`]: NVRTC, the cache and the compile pool, shared by all sessions of a process; its jobs hold no session.
//! - [`stretch`]: compiles that take longer, or less long, than they do, for experiments.
//! - `trial`: how a program proves itself on live data before it serves, if that is asked for.
//! - [`prebuild`]: which kernels a session on some card would ask for, without either.
//! - [`event`]: what happened, in the director's order, with reasons and numbers. [`mod@feed`]: the same as it happens.
//! - [`timeline`]: events as a picture. [`trace`]: the shapes that came, kept, read again and made up.

mod arithmetic;
mod block;
mod border;
pub mod costs;
mod crew;
pub mod director;
pub mod error;
pub mod event;
mod executables;
pub mod feed;
mod growth;
mod kernels;
pub mod lane;
mod ledger;
mod lessons;
mod load;
mod mailbox;
mod order;
pub mod patience;
pub mod prebuild;
pub mod profile;
pub mod program;
mod refine;
pub mod request;
mod second;
mod segments;
pub mod service;
pub mod session;
mod shared;
pub mod strategy;
pub mod stretch;
pub mod tensor;
pub mod tile_costs;
mod tiles;
pub mod timeline;
pub mod trace;
mod trial;
mod weights;

pub use arithmetic::{ArithmeticUse, Outcome};
pub use bespoke_templates::{Arithmetic, Products};
pub use costs::{Costs, KernelCost, Made, StepCost};
pub use error::{Error, ErrorKind};
pub use event::{CutReason, Event, EventKind, Expected, Stats, Timing};
pub use feed::{Feed, Heard, Progress, Subscription, feed};
pub use lessons::{ModelShapes, Second, ShapeCount, learned_shapes};
pub use load::Model;
pub use patience::CancelToken;
pub use prebuild::{Prebuild, Serves, Wanted};
pub use profile::StepTime;
pub use request::{
    Bindings, GraphMode, GraphReason, GraphUse, PortInfo, ProgrammaticLaunch, Refinement,
    RunOptions, RunReport, RunResult, SessionOptions,
};
pub use service::{Backlog, CompileService, CompileStats, ServiceOptions};
pub use session::Session;
pub use strategy::Strategy;
pub use stretch::CompileCost;
pub use tensor::{Tensor, TensorError, TensorView};
pub use tile_costs::TileCost;
pub use tiles::{DeviceTiles, KnownTile, learned_tiles};

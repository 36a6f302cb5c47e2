//! Timing a model: everything of `bespoke bench` but its flags.
//!
//! A *point* is one shape of every input. A *round* is one strategy, one way of launching and one state of the kernel
//! cache: it opens the device, the compiler and the cache and loads the model afresh, then measures every point in one
//! session, in order. A *measurement* is a point in a round; what happens once (load, first run, compile, record, the
//! wait for specialised kernels) stands apart from the steady state.
//!
//! - `points`: from the command line to points, checked before a device is opened;
//! - `measure`: a round; `work`: one run of it;
//! - `profile`: the time of every step;
//! - `host`: what a run takes of the host;
//! - `statistics`: from samples to numbers;
//! - `warnings`: why a number cannot be trusted;
//! - `report`: measurements for people and for scripts.
//!
//! Numbers mean something only next to others of the same machine. What could not be measured is absent, never zero.

pub(crate) mod host;
pub(crate) mod measure;
pub(crate) mod points;
pub(crate) mod profile;
pub(crate) mod report;
pub(crate) mod statistics;
pub(crate) mod warm;
pub(crate) mod warnings;
mod work;

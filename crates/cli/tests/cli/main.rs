//! The command `bespoke`, seen from outside: every test starts the real program in a folder and a kernel cache of its own
//! and looks at its exit code and its streams.

mod bad_input;
mod bad_model;
mod bench;
mod benches;
mod cache;
mod cache_entries;
mod check;
mod costs;
mod events;
mod flow;
mod guide;
mod layers;
mod prebuild;
mod run;
mod support;
mod traces;

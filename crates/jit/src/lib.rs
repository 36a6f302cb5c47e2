//! CUDA source to cubin and resource report, at run time, with NVRTC alone.
//!
//! NVRTC is NVIDIA's compiler as a library. It needs neither a GPU nor a driver, so everything here works
//! (and is tested) on any machine that has the library; where it is missing, [`Nvrtc::load`] says so with the
//! list of places looked in, and the rest of the program goes on with what the kernel cache holds.
//!
//! # What it promises
//!
//! - A missing library, a missing symbol or a compiler message is a [`JitError`], never a panic. The library is
//!   bound here directly, symbol by symbol: generated bindings that resolve symbols on first use have no way
//!   to report a missing one but to panic, and result codes received as a Rust `enum` are undefined behaviour
//!   as soon as a newer library returns a new one.
//! - The result is a cubin for exactly one architecture ([`CompileRequest::arch`]): nothing is left for the driver
//!   to compile when the kernel is loaded.
//! - Options are explicit and few ([`CompileRequest::canonical_options`]); they belong in the cache key. No
//!   environment variable and no file adds to them, and sources include nothing.
//! - The assembler's report of registers, shared memory and spills ([`Resources`]) comes with every kernel.
//! - A compile can be cancelled while it runs ([`CompileRequest::cancel`]). A process may end while one runs.
//!
//! # Map of the crate
//!
//! [`search`] decides where the library may be, [`identity`] says which build is there without loading it, `ffi` binds it (the only `unsafe` code beside one call each in
//! [`pool`] and `ending`), `ending` holds up the end of the process until compiles have stopped, [`compiler`] is
//! [`Nvrtc`], [`resources`] reads the assembler's report, and [`pool`] runs compiles
//! (or any other job) on low-priority threads, each distinct one once.

pub mod compiler;
mod ending;
pub mod error;
mod ffi;
pub mod identity;
pub mod pool;
pub mod resources;
pub mod search;

pub use compiler::{CompileRequest, Compiled, Nvrtc};
pub use error::JitError;
pub use identity::Known;
pub use pool::{CompilePool, Outcome, PoolConfig, PoolStats, Ticket};
pub use resources::Resources;
pub use search::{Attempt, Place, SearchPlan, Tried};

//! The Rust side of a kernel.
//!
//! A [`Twin`] computes what the CUDA kernel of the same template computes, from the same slots, without its tiling. The
//! host device resolves the addresses among the slots to slices (checking that each lies inside live memory and that
//! nothing written overlaps anything else) and hands both over as a [`TwinCall`].

use std::fmt::Debug;

/// One tensor of a call, in the order of the signature's `Read` and `Write` entries.
#[derive(Debug)]
pub enum Operand<'a> {
    /// Bytes that are read.
    Read(&'a [u8]),
    /// Bytes that are written.
    Write(&'a mut [u8]),
}

/// The arguments of one execution.
#[derive(Debug)]
pub struct TwinCall<'a> {
    /// Every slot of the signature: address and length for tensors (already resolved below), the value for integers.
    pub slots: &'a [i64],
    /// The tensors.
    pub operands: Vec<Operand<'a>>,
}

/// Why a twin refused its arguments: always a bug of the planner, never of the model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the host twin cannot run: {0}")]
pub struct TwinError(pub String);

/// A kernel in Rust.
pub trait Twin: Debug + Send + Sync {
    /// Runs the whole grid.
    fn run(&self, call: &mut TwinCall<'_>) -> Result<(), TwinError>;
}

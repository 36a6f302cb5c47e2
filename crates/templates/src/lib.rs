//! Kernel templates.
//!
//! A template is a family of kernels that differ only in constants: one `.cu` file in `/kernels`, one Rust file here.
//! The Rust file says which options there are, which arguments every kernel of the family takes, which tiles are legal,
//! how large a grid is, what a run costs, and computes the same thing on the host (the *twin*). To add a template, write
//! both files; the planner names it where it lowers an operator.
//!
//! The rules that hold for all of them:
//!
//! - **One source, any subset of constants baked in.** Every variant takes the full row of slots; a baked argument
//!   shadows its slot as `constexpr` under the same name ([`spec::Baked`]). Nothing baked is the *generic* kernel, right
//!   for every shape; everything baked is exact.
//! - **Any grid is right.** Kernels walk over their work in strides of the grid, so the geometry is a matter of speed
//!   alone, and a graph recorded with a fixed grid serves every shape.
//! - **Tensors are views.** An operand is an address, an offset and one stride an axis of the kernel's iteration space
//!   ([`view`]); transposes, slices and broadcasts cost nothing.
//! - **Prologues and epilogues are expressions** ([`expr`]): printed to CUDA, interpreted block by block on the host.
//! - **No string of a model ever reaches a source**, and no hash order.

pub mod arg_reduce;
mod arguments;
pub mod arithmetic;
pub mod attention;
pub mod candidates;
pub mod conv;
pub mod conv_transpose;
mod convolution;
mod convolution_host;
pub mod cumsum;
pub mod expr;
mod finish;
mod framed;
pub mod gather;
pub mod gemm;
mod grid;
pub mod group;
pub mod ints;
pub mod normalize;
#[cfg(test)]
mod oracle;
pub mod pad;
pub mod pointwise;
pub mod pool;
mod product;
mod random;
pub mod reduce;
pub mod resize;
mod rows;
mod rows_host;
mod rowwise;
pub mod sample;
pub mod scatter;
pub mod softmax;
pub mod source;
pub mod spec;
mod tile;
pub mod topk;
pub mod view;
mod walk;

pub use arithmetic::{Arithmetic, Products};
pub use candidates::{Candidate, candidates};
pub use spec::{Args, Baked, Cost, KernelSpec, Param, Template, Tile, Want};

//! The meaning of every operator, plain and obviously right.
//!
//! This crate answers one question: what *should* the result be? Constant folding asks it at import, and every test
//! of a faster implementation asks it afterwards. So each operator is written as its definition reads, one file an
//! operator in [`op`], without a thought for speed.
//!
//! What it promises:
//!
//! - **Floats are computed in `f64`**, and a result is rounded to its element type once, at the end of its operator
//!   ([`round`]). Inside a [`bespoke_ir::op::Map`] every instruction is rounded to the precision in which kernels
//!   compute ([`expr`]), so that an expression means the same before and after fusion. Resampling positions are
//!   computed in `f32`, as runtimes do, because a nearest neighbour hangs on their last bit.
//! - **Integers are exact** and wrap at the width of their type.
//! - **Nothing is trusted.** Operands are checked against the operator's own type rule and its guards before a loop
//!   runs; extents are bounded by [`MAX_ELEMENTS`], so a hostile constant yields an error, not an exhausted machine.
//!   Every failure is a [`ReferenceError`].
//!
//! | module | what |
//! |---|---|
//! | [`tensor`] | values and their packed bytes |
//! | [`round`] | rounding and wrapping to an element type |
//! | [`expr`] | the pointwise language, element by element |
//! | [`index`] | walking over positions |
//! | [`op`] | the operators |
//! | [`eval`] | one node: checks, then the operator |
//! | [`graph`] | a whole graph |
//! | [`flow`] | a whole flow |
//! | [`mod@bind`] | extents of the inputs → values of the symbols |
//! | [`mod@compare`] | how far two tensors are apart, and where |

pub mod bind;
pub mod compare;
pub mod error;
pub mod eval;
pub mod expr;
pub mod flow;
pub mod graph;
pub mod index;
pub mod op;
pub mod round;
pub mod tensor;

pub use bind::{BindError, bind, bind_tensors};
pub use compare::{Comparison, Tolerance, compare};
pub use error::ReferenceError;
pub use eval::eval_node;
pub use flow::run_flow;
pub use graph::run;
pub use tensor::{Data, Number, Tensor};

/// A tensor may have at most this many elements (1 GiB as `f64`); more is [`ReferenceError::TooLarge`].
pub const MAX_ELEMENTS: u64 = 1 << 27;

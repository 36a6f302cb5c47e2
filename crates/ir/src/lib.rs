//! The language that every stage of bespoke speaks.
//!
//! A model is a [`Graph`]: [`Value`]s (tensors with symbolic shapes) joined by [`Node`]s, each holding one operator of
//! [`op`]. The crate knows nothing of ONNX, of kernels or of devices. It promises:
//!
//! - **Symbolic shapes.** Every extent is a [`sym::SymInt`], an exact expression over named symbols. Nothing is
//!   "unknown": a graph either has an expression for a dimension or does not exist.
//! - **Typed handles.** [`ValueId`] and [`NodeId`] are different types; petgraph, which does the graph algorithms, never
//!   shows in the public API.
//! - **Types are inferred once, here.** [`Graph::add`] asks the operator for its output types, so importers and passes
//!   cannot disagree about a shape. What depends on run-time extents (two dims that must be equal) becomes a [`Guard`],
//!   checked when a shape is bound.
//! - **A verifier and a text form.** [`verify`] lists every rule of a well-formed graph; [`Graph`]'s `Display` is stable
//!   and is what golden tests compare.
//!
//! - **Control flow is not in the graph.** A model in which the host must know something that the device computes is a
//!   [`flow::Flow`]: straight graphs, its *segments*, and the decisions between them.
//!
//! Elementwise arithmetic is one language, [`expr::Expr`], from import through fusion to the generated CUDA source and
//! the host interpreter.

pub mod dtype;
pub mod expr;
mod fixed;
pub mod flow;
pub mod graph;
pub mod guard;
pub mod op;
pub mod sym;
mod text;
pub mod types;
pub mod verify;

pub use dtype::DType;
pub use expr::{BinaryOp, Expr, ExprBuilder, Scalar, UnaryOp};
pub use fixed::FixError;
pub use flow::{Flow, TensorId};
pub use graph::{Graph, Node, NodeId, Value, ValueId};
pub use guard::{Guard, GuardKind};
pub use op::{Infer, InferError, Op, Operator};
pub use sym::{SymInt, SymbolId, SymbolOrigin, SymbolTable};
pub use types::{Constant, ConstantError, TensorType, ValueType};

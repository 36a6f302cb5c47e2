//! ONNX models as [`bespoke_ir::Graph`]s: the only place of bespoke that knows the ONNX standard.
//!
//! [`import()`] reads a model file, [`import_bytes`] a model in memory; both give an [`ImportedModel`] or an
//! [`OnnxError`] that names the culprit. What the crate promises:
//!
//! - **Weights are not copied.** Files are memory-mapped and constants are slices of the map, whether the data is in
//!   the model or in external files, so models of many gigabytes import in well under a second.
//! - **Files are not trusted.** Versions, names, types, lengths and axes are checked; sizes are multiplied with
//!   checks; nothing is allocated on the file's word alone; external data cannot reach outside the model's folder.
//! - **Real files are read.** Nodes may come in any order, unused foreign operator sets are fine, wrong declared
//!   shapes do not matter, model-local functions are expanded.
//! - **Shapes are symbolic.** Named and unnamed dims become symbols; integer arithmetic on shapes is folded into
//!   expressions over them and leaves no nodes behind.
//! - **Control flow is cut out.** A branch whose condition is known, and a short loop of known length, become straight code.
//!   For all others, and for extents that are computed from data, the model is cut into segments
//!   ([`bespoke_ir::flow`]), if the caller can run them.
//! - **Nothing is half supported.** A node either means exactly what the standard says for its opset, or the model is
//!   refused with a list of all such nodes and the reason for each.
//!
//! [`mod@file`] and [`tensor`] are also of use alone: the ONNX test data is read and written with them.

mod attributes;
mod body;
mod contained;
mod context;
mod cut;
pub mod error;
pub mod external;
pub mod file;
mod functions;
mod import;
mod importer;
mod known;
mod mapping;
mod node;
mod op;
mod order;
pub mod proto;
mod signature;
pub mod tensor;
pub mod version;

pub use error::{OnnxError, UnsupportedNode};
pub use file::ModelFile;
pub use import::{ImportOptions, ImportedModel, import, import_bytes};
pub use tensor::{read_tensor_file, write_tensor_file};

/// Name and introducing opset of every operator that can be imported, with its domain (empty for `ai.onnx`).
pub fn operators() -> impl Iterator<Item = (&'static str, &'static str, i64)> {
    op::OPERATORS.iter().map(|row| (row.0, row.1, row.2))
}

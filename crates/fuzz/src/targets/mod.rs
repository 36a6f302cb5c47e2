//! The targets: one file each, and the builders of ONNX messages that two of them share.

pub(crate) mod broken;
pub(crate) mod cache;
pub(crate) mod external;
pub(crate) mod model;
mod operators;
mod protos;
mod recipes;
mod rewrite;
pub(crate) mod shapes;

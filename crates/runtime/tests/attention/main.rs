//! The attention operators of ONNX and of ONNX Runtime, from ONNX to results.
//!
//! Each operator is compared with plain loops in `f64` ([`plain`]) over random shapes, before and after the passes; whole
//! models run by a session on the host device are compared with the reference; and plans tell whether attention is one step.

mod decoder;
mod encoder;
mod model;
mod plain;
mod plans;
mod standard;

//! The messages of `onnx.proto`, as Rust types.
//!
//! `proto/onnx.proto` is the file that the ONNX project publishes (IR version 14, Apache-2.0); `src/proto/onnx.rs`
//! is what prost makes of it. The generated file is committed, so that a build needs neither `protoc` nor the code
//! generator; a test generates it again and compares the two byte for byte. To renew it after the vendored file was
//! updated, run that test with `BESPOKE_REGENERATE=1`.
//!
//! Two settings differ from prost's defaults. `TensorProto.raw_data` is a [`bytes::Bytes`], so decoding a mapped
//! file leaves the weights where they are. The large messages inside an `AttributeProto` are boxed, because almost
//! every attribute is a number and would otherwise take two kilobytes.

#![allow(clippy::all, missing_docs, rustdoc::all, unreachable_pub)]

include!("proto/onnx.rs");

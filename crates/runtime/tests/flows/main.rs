//! Control flow and extents that depend on data, from ONNX to results: every model is run by a session on the host device
//! and by the reference, both must agree to the last bit, and what they give is compared with what the standard says.

mod branches;
mod extents;
mod loops;
mod model;
mod sessions;

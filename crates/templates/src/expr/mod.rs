//! Pointwise expressions in kernels: printed to CUDA ([`cuda`]), interpreted on the host ([`host`]).

pub mod cuda;
pub mod host;

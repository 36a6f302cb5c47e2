//! Pointwise expressions in kernels: printed to CUDA ([`cuda`]), interpreted block by block on the host ([`host`]).
//!
//! The host side has its parts in files of their own: typed memory and views ([`lanes`]), results split for parallel
//! writing ([`regions`]), elementary functions ([`maths`]) and one loop for every instruction and type.

pub mod cuda;
pub mod host;
mod kernels;
pub mod lanes;
pub mod maths;
pub mod regions;

pub use kernels::simd;

//! Tensors at the session's border.
//!
//! [`Tensor`] owns bytes on the host; [`TensorView`] names bytes on a device that the caller keeps alive.

use bespoke_device::DevicePtr;
use bespoke_ir::DType;

/// Why bytes are no tensor.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TensorError {
    /// The element type cannot be computed with.
    #[error("tensors of type {0} are not supported")]
    Type(DType),
    /// Extents are negative or overflow.
    #[error("the extents {0:?} are negative or their product overflows")]
    Dims(Vec<i64>),
    /// The length does not fit the type.
    #[error("{dtype}{dims:?} needs {expected} bytes, {actual} were given")]
    Length {
        /// Element type.
        dtype: DType,
        /// Extents.
        dims: Vec<i64>,
        /// Bytes that it needs.
        expected: u64,
        /// Bytes that there are.
        actual: u64,
    },
}

/// A dense row-major tensor in host memory, little-endian.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    dtype: DType,
    dims: Vec<i64>,
    data: Vec<u8>,
}

/// Bytes of a dense tensor.
pub fn byte_length(dtype: DType, dims: &[i64]) -> Result<u64, TensorError> {
    let fail = || TensorError::Dims(dims.to_vec());
    let mut count: u64 = 1;
    for &d in dims {
        count = u64::try_from(d)
            .ok()
            .and_then(|d| count.checked_mul(d))
            .ok_or_else(fail)?;
    }
    if !dtype.is_computable() {
        return Err(TensorError::Type(dtype));
    }
    dtype.bytes_for(count).ok_or_else(fail)
}

impl Tensor {
    /// A tensor over `data`.
    pub fn new(dtype: DType, dims: Vec<i64>, data: Vec<u8>) -> Result<Tensor, TensorError> {
        let expected = byte_length(dtype, &dims)?;
        if expected != data.len() as u64 {
            let actual = data.len() as u64;
            return Err(TensorError::Length {
                dtype,
                dims,
                expected,
                actual,
            });
        }
        Ok(Tensor { dtype, dims, data })
    }

    /// An `f32` tensor.
    pub fn from_f32(dims: &[i64], values: &[f32]) -> Result<Tensor, TensorError> {
        let data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Tensor::new(DType::F32, dims.to_vec(), data)
    }

    /// An `i64` tensor.
    pub fn from_i64(dims: &[i64], values: &[i64]) -> Result<Tensor, TensorError> {
        let data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Tensor::new(DType::I64, dims.to_vec(), data)
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Extents.
    pub fn dims(&self) -> &[i64] {
        &self.dims
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.data
    }

    /// The elements as `f64`, rounded if they are large 64-bit integers.
    pub fn to_f64(&self) -> Vec<f64> {
        let size = self.dtype.size().unwrap_or(1);
        self.data
            .chunks_exact(size)
            .map(|b| element(self.dtype, b))
            .collect()
    }
}

fn element(dtype: DType, b: &[u8]) -> f64 {
    let mut wide = [0u8; 8];
    wide[..b.len()].copy_from_slice(b);
    let raw = u64::from_le_bytes(wide);
    match dtype {
        DType::F64 => f64::from_bits(raw),
        DType::F32 => f64::from(f32::from_bits(raw as u32)),
        DType::F16 => half::f16::from_bits(raw as u16).to_f64(),
        DType::BF16 => half::bf16::from_bits(raw as u16).to_f64(),
        ty if ty.is_signed_int() => {
            let shift = 64 - ty.bits();
            (((raw << shift) as i64) >> shift) as f64
        }
        _ => raw as f64,
    }
}

/// A tensor in device memory that belongs to the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorView {
    /// First byte.
    pub pointer: DevicePtr,
    /// Element type.
    pub dtype: DType,
    /// Extents; for an output, ignored (the model decides).
    pub dims: Vec<i64>,
    /// Strides in elements; `None` is row-major without gaps, the only layout that is accepted now.
    pub strides: Option<Vec<i64>>,
    /// Bytes from `pointer` on that may be touched.
    pub capacity: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_checked_without_overflow() {
        assert!(Tensor::new(DType::F16, vec![2, 0], vec![]).is_ok());
        assert!(matches!(
            Tensor::new(DType::F32, vec![2], vec![0; 7]),
            Err(TensorError::Length { expected: 8, .. })
        ));
        assert!(byte_length(DType::F32, &[i64::MAX, 2]).is_err());
        assert!(byte_length(DType::String, &[1]).is_err());
        assert_eq!(
            Tensor::new(DType::I8, vec![1], vec![255]).unwrap().to_f64(),
            [-1.0]
        );
    }
}

//! Tensors as the reference holds them, and their packed form.

use std::sync::Arc;

use bespoke_ir::{Constant, DType};
use bytes::Bytes;

use crate::MAX_ELEMENTS;
use crate::error::ReferenceError;
use crate::round::{round_float, saturate, wrap_int};

/// One element.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Number {
    /// Of a float type.
    F(f64),
    /// Of an integer type or `bool`.
    I(i128),
}

impl Number {
    /// The value as `f64`, rounded if it is a large integer.
    pub fn to_f64(self) -> f64 {
        match self {
            Number::F(x) => x,
            Number::I(x) => x as f64,
        }
    }

    /// The value as an integer; floats truncate and saturate, NaN becomes 0.
    pub fn to_int(self) -> i128 {
        match self {
            Number::F(x) => x as i128,
            Number::I(x) => x,
        }
    }

    /// Conversion as [`bespoke_ir::expr::Instr::Cast`] defines it: integers wrap, floats round to nearest, float →
    /// integer saturates, anything → `bool` is `!= 0`.
    pub fn cast(self, dtype: DType) -> Number {
        match self {
            Number::F(x) if dtype.is_float() => Number::F(round_float(dtype, x)),
            Number::F(x) => Number::I(saturate(dtype, x)),
            // one rounding, not two: a 64-bit integer may not fit f64
            Number::I(x) if dtype == DType::F32 => Number::F(f64::from(x as f32)),
            Number::I(x) if dtype.is_float() => Number::F(round_float(dtype, x as f64)),
            Number::I(x) => Number::I(wrap_int(dtype, x)),
        }
    }
}

/// The elements of a tensor, row-major.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// Float types; each element is a value of the element type.
    F(Vec<f64>),
    /// `bool` (0 or 1) and every integer type but `u64`.
    I(Vec<i64>),
    /// `u64`.
    U(Vec<u64>),
}

impl Data {
    fn len(&self) -> usize {
        match self {
            Data::F(v) => v.len(),
            Data::I(v) => v.len(),
            Data::U(v) => v.len(),
        }
    }
}

/// A tensor: element type, extents and elements that agree with both.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    dtype: DType,
    dims: Vec<i64>,
    data: Data,
}

/// Number of elements; an error if an extent is negative or there are more than [`MAX_ELEMENTS`].
pub fn element_count(dtype: DType, dims: &[i64]) -> Result<usize, ReferenceError> {
    if dims.iter().any(|&d| d < 0) {
        return Err(ReferenceError::Malformed {
            dtype,
            dims: dims.to_vec(),
            elements: 0,
        });
    }
    // a zero extent makes any other harmless
    let mut count = u64::from(!dims.contains(&0));
    for &d in dims {
        count = count.saturating_mul(d.unsigned_abs());
    }
    if count > MAX_ELEMENTS {
        return Err(ReferenceError::TooLarge {
            dtype,
            dims: dims.to_vec(),
            limit: MAX_ELEMENTS,
        });
    }
    Ok(count as usize)
}

fn computable(dtype: DType) -> Result<(), ReferenceError> {
    if dtype.is_computable() {
        Ok(())
    } else {
        Err(ReferenceError::Unsupported(dtype))
    }
}

impl Tensor {
    /// A tensor of any computable type; elements are converted to it ([`Number::cast`]).
    pub fn new(
        dtype: DType,
        dims: &[i64],
        elements: impl IntoIterator<Item = Number>,
    ) -> Result<Tensor, ReferenceError> {
        computable(dtype)?;
        let count = element_count(dtype, dims)?;
        let cast = elements.into_iter().map(|n| n.cast(dtype));
        let data = if dtype.is_float() {
            Data::F(cast.map(Number::to_f64).collect())
        } else if dtype == DType::U64 {
            Data::U(cast.map(|n| n.to_int() as u64).collect())
        } else {
            Data::I(cast.map(|n| n.to_int() as i64).collect())
        };
        if data.len() != count {
            let elements = data.len() as u64;
            return Err(ReferenceError::Malformed {
                dtype,
                dims: dims.to_vec(),
                elements,
            });
        }
        Ok(Tensor {
            dtype,
            dims: dims.to_vec(),
            data,
        })
    }

    /// A tensor from floats, converted to `dtype`.
    pub fn from_f64(
        dtype: DType,
        dims: &[i64],
        elements: &[f64],
    ) -> Result<Tensor, ReferenceError> {
        Tensor::new(dtype, dims, elements.iter().map(|&x| Number::F(x)))
    }

    /// A tensor from integers, converted to `dtype`.
    pub fn from_i64(
        dtype: DType,
        dims: &[i64],
        elements: &[i64],
    ) -> Result<Tensor, ReferenceError> {
        Tensor::new(dtype, dims, elements.iter().map(|&x| Number::I(x.into())))
    }

    /// A tensor of zeros.
    pub fn zeros(dtype: DType, dims: &[i64]) -> Result<Tensor, ReferenceError> {
        let count = element_count(dtype, dims)?;
        Tensor::new(dtype, dims, std::iter::repeat_n(Number::I(0), count))
    }

    /// A tensor from packed little-endian bytes: a computable type, or an integer type of 2 or 4 bits, whose elements
    /// become `i8` or `u8`.
    pub fn from_bytes(dtype: DType, dims: &[i64], bytes: &[u8]) -> Result<Tensor, ReferenceError> {
        let count = element_count(dtype, dims)?;
        if dtype.bytes_for(count as u64) != Some(bytes.len() as u64) {
            let elements = (bytes.len() * 8) as u64 / u64::from(dtype.bits().max(1));
            return Err(ReferenceError::Malformed {
                dtype,
                dims: dims.to_vec(),
                elements,
            });
        }
        if dtype.is_int() && dtype.bits() < 8 {
            // the first element lies in the low bits
            let bits = dtype.bits() as usize;
            let mask = (1u8 << bits) - 1;
            let elements = (0..count).map(|i| {
                let raw = (bytes[i * bits / 8] >> (i * bits % 8)) & mask;
                Number::I(wrap_int(dtype, raw.into()))
            });
            let wide = if dtype.is_signed_int() {
                DType::I8
            } else {
                DType::U8
            };
            return Tensor::new(wide, dims, elements);
        }
        computable(dtype)?;
        let size = dtype.size().unwrap_or(1);
        let elements = bytes.chunks_exact(size).map(|chunk| {
            let mut wide = [0u8; 8];
            wide[..size].copy_from_slice(chunk);
            let raw = u64::from_le_bytes(wide);
            match dtype {
                DType::F32 => Number::F(f32::from_bits(raw as u32).into()),
                DType::F64 => Number::F(f64::from_bits(raw)),
                DType::F16 => Number::F(half::f16::from_bits(raw as u16).to_f64()),
                DType::BF16 => Number::F(half::bf16::from_bits(raw as u16).to_f64()),
                _ => Number::I(wrap_int(dtype, raw.into())),
            }
        });
        Tensor::new(dtype, dims, elements)
    }

    /// The packed little-endian bytes, as [`Constant`] and devices hold them.
    pub fn to_bytes(&self) -> Vec<u8> {
        let size = self.dtype.size().unwrap_or(1);
        let mut bytes = Vec::with_capacity(self.len() * size);
        for i in 0..self.len() {
            match (self.get(i), self.dtype) {
                (Number::F(x), DType::F64) => bytes.extend(x.to_le_bytes()),
                // exact: elements are values of their type already
                (Number::F(x), DType::F16) => bytes.extend(half::f16::from_f64(x).to_le_bytes()),
                (Number::F(x), DType::BF16) => bytes.extend(half::bf16::from_f64(x).to_le_bytes()),
                (Number::F(x), _) => bytes.extend((x as f32).to_le_bytes()),
                (Number::I(x), _) => bytes.extend(&x.to_le_bytes()[..size]),
            }
        }
        bytes
    }

    /// The tensor behind a constant; see [`Tensor::from_bytes`].
    pub fn from_constant(constant: &Constant) -> Result<Tensor, ReferenceError> {
        Tensor::from_bytes(constant.dtype(), constant.dims(), constant.data())
    }

    /// The tensor as a constant.
    pub fn to_constant(&self) -> Result<Arc<Constant>, ReferenceError> {
        Constant::new(self.dtype, self.dims.clone(), Bytes::from(self.to_bytes())).map_err(|_| {
            ReferenceError::Malformed {
                dtype: self.dtype,
                dims: self.dims.clone(),
                elements: self.len() as u64,
            }
        })
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Extents, outermost first.
    pub fn dims(&self) -> &[i64] {
        &self.dims
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.dims.len()
    }

    /// The elements, row-major.
    pub fn data(&self) -> &Data {
        &self.data
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.data.len()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Element `i` in row-major order.
    pub fn get(&self, i: usize) -> Number {
        match &self.data {
            Data::F(v) => Number::F(v[i]),
            Data::I(v) => Number::I(v[i].into()),
            Data::U(v) => Number::I(v[i].into()),
        }
    }

    /// Every element in row-major order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Number> + '_ {
        (0..self.len()).map(|i| self.get(i))
    }

    /// Every element as `f64`.
    pub fn to_f64s(&self) -> Vec<f64> {
        self.iter().map(Number::to_f64).collect()
    }

    /// Every element as `i64`: floats truncate and saturate, `u64` wraps.
    pub fn to_i64s(&self) -> Vec<i64> {
        self.iter()
            .map(|n| match n {
                Number::F(x) => x as i64,
                Number::I(x) => x as i64,
            })
            .collect()
    }

    /// The same elements under other extents of the same element count.
    pub fn reshaped(&self, dims: &[i64]) -> Result<Tensor, ReferenceError> {
        if element_count(self.dtype, dims)? != self.len() {
            let elements = self.len() as u64;
            return Err(ReferenceError::Malformed {
                dtype: self.dtype,
                dims: dims.to_vec(),
                elements,
            });
        }
        Ok(Tensor {
            dtype: self.dtype,
            dims: dims.to_vec(),
            data: self.data.clone(),
        })
    }

    /// `f32[2,3]`
    pub fn describe(&self) -> String {
        describe(self.dtype, &self.dims)
    }
}

pub(crate) fn describe(dtype: DType, dims: &[i64]) -> String {
    let dims: Vec<String> = dims.iter().map(i64::to_string).collect();
    format!("{dtype}[{}]", dims.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_round_trip_for_every_computable_type() {
        for dtype in DType::all().filter(|d| d.is_computable()) {
            let (low, high) = if dtype.is_float() {
                (-3, 7)
            } else {
                crate::round::int_range(dtype)
            };
            let elements = [low, 0, 1, high].map(Number::I);
            let x = Tensor::new(dtype, &[2, 2], elements).unwrap();
            let constant = x.to_constant().unwrap();
            assert_eq!(constant.data().len(), 4 * dtype.size().unwrap());
            assert_eq!(Tensor::from_constant(&constant).unwrap(), x, "{dtype}");
            if !dtype.is_float() {
                assert_eq!(x.iter().collect::<Vec<_>>(), elements, "{dtype}");
            }
        }
    }

    #[test]
    fn known_bytes_have_known_values() {
        let h = Tensor::from_bytes(DType::F16, &[2], &[0x00, 0x3c, 0x00, 0xc0]).unwrap();
        assert_eq!(h.to_f64s(), [1.0, -2.0]);
        let b = Tensor::from_bytes(DType::BF16, &[1], &[0x80, 0x3f]).unwrap();
        assert_eq!(b.to_f64s(), [1.0]);
        // 4-bit elements 1, -1, 7 with the first in the low half
        let n = Tensor::from_bytes(DType::I4, &[3], &[0xf1, 0x07]).unwrap();
        assert_eq!((n.dtype(), n.to_i64s()), (DType::I8, vec![1, -1, 7]));
        let u = Tensor::from_bytes(DType::U2, &[5], &[0b1110_0100, 0b10]).unwrap();
        assert_eq!((u.dtype(), u.to_i64s()), (DType::U8, vec![0, 1, 2, 3, 2]));
        assert_eq!(
            Tensor::from_bytes(DType::Bool, &[2], &[0, 255])
                .unwrap()
                .to_i64s(),
            [0, 1]
        );
    }

    #[test]
    fn casts_follow_the_expression_language() {
        assert_eq!(Number::F(300.7).cast(DType::U8), Number::I(255));
        assert_eq!(Number::F(f64::NAN).cast(DType::I32), Number::I(0));
        assert_eq!(Number::I(300).cast(DType::U8), Number::I(44));
        assert_eq!(Number::F(0.5).cast(DType::Bool), Number::I(1));
        // 2^24 + 1 is a tie in f32
        assert_eq!(
            Number::I(16_777_217).cast(DType::F32),
            Number::F(16_777_216.0)
        );
        // above the tie by less than f64 can tell
        let x = (1i128 << 60) + (1 << 36) + 1;
        assert_eq!(
            Number::I(x).cast(DType::F32),
            Number::F(((1u64 << 60) + (1 << 37)) as f64)
        );
    }

    #[test]
    fn hostile_extents_are_errors() {
        assert!(matches!(
            Tensor::zeros(DType::F32, &[1 << 40, 1 << 40]),
            Err(ReferenceError::TooLarge { .. })
        ));
        assert!(matches!(
            Tensor::zeros(DType::F32, &[-1]),
            Err(ReferenceError::Malformed { .. })
        ));
        assert!(
            Tensor::zeros(DType::F32, &[0, i64::MAX, i64::MAX])
                .unwrap()
                .is_empty()
        );
        assert!(matches!(
            Tensor::from_bytes(DType::F32, &[2], &[0; 7]),
            Err(ReferenceError::Malformed { .. })
        ));
        assert!(matches!(
            Tensor::zeros(DType::F8E5M2, &[1]),
            Err(ReferenceError::Unsupported(_))
        ));
        assert!(matches!(
            Tensor::from_bytes(DType::String, &[1], &[0]),
            Err(ReferenceError::Malformed { .. })
        ));
    }
}

//! Types of values, and constants.
//!
//! [`TensorType`] is what every operator consumes and yields. [`ValueType`] exists so that sequences and optionals have
//! a name when a model's signature mentions them; the planner refuses them.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::dtype::DType;
use crate::sym::{SymInt, SymbolTable};

/// Element type and symbolic extents of a tensor, in logical (row-major, ONNX) order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TensorType {
    /// Element type.
    pub dtype: DType,
    /// Extents, outermost first; empty for a scalar.
    pub dims: Vec<SymInt>,
}

impl TensorType {
    /// A tensor type.
    pub fn new(dtype: DType, dims: Vec<SymInt>) -> Self {
        TensorType { dtype, dims }
    }

    /// A tensor type whose extents are all known.
    pub fn fixed(dtype: DType, dims: &[i64]) -> Self {
        TensorType {
            dtype,
            dims: dims.iter().map(|&d| SymInt::constant(d)).collect(),
        }
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.dims.len()
    }

    /// Number of elements.
    pub fn elements(&self) -> SymInt {
        SymInt::product(&self.dims)
    }

    /// The extents, if all are known constants.
    pub fn static_dims(&self) -> Option<Vec<i64>> {
        self.dims.iter().map(SymInt::as_const).collect()
    }

    /// `f32[N,3,48,W]`, with the symbols' names.
    pub fn display<'a>(&'a self, symbols: &'a SymbolTable) -> impl fmt::Display + 'a {
        fmt::from_fn(move |f| {
            write!(f, "{}[", self.dtype)?;
            for (i, dim) in self.dims.iter().enumerate() {
                if i > 0 {
                    f.write_str(",")?;
                }
                write!(f, "{}", dim.display(symbols))?;
            }
            f.write_str("]")
        })
    }
}

/// The type of a value in a model's signature.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ValueType {
    /// A dense tensor.
    Tensor(TensorType),
    /// A sequence of values of one type.
    Sequence(Box<ValueType>),
    /// A value that may be absent.
    Optional(Box<ValueType>),
}

/// Why bytes do not form a constant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConstantError {
    /// An extent is negative or the element count overflows.
    #[error("the extents {dims:?} are negative or their product overflows")]
    BadDims {
        /// The extents.
        dims: Vec<i64>,
    },
    /// Length of the data and the extents disagree.
    #[error("{dtype}{dims:?} needs {expected} bytes, the data has {actual}")]
    WrongLength {
        /// Element type.
        dtype: DType,
        /// Extents.
        dims: Vec<i64>,
        /// Bytes that the type needs.
        expected: u64,
        /// Bytes that are there.
        actual: u64,
    },
    /// The element type has no fixed size.
    #[error("constants of type {0} are not supported")]
    Unsized(DType),
}

/// A tensor known before the first run: little-endian, row-major, packed.
///
/// The bytes are shared and usually a slice of the mapped model file; cloning is cheap.
#[derive(Clone, PartialEq, Eq)]
pub struct Constant {
    dtype: DType,
    dims: Vec<i64>,
    data: Bytes,
}

impl Constant {
    /// A constant over `data`, which must hold exactly the packed elements.
    pub fn new(dtype: DType, dims: Vec<i64>, data: Bytes) -> Result<Arc<Self>, ConstantError> {
        // In i64, which is what extents are multiplied in everywhere else.
        let step = |count: i64, &d: &i64| if d < 0 { None } else { count.checked_mul(d) };
        let count = dims.iter().try_fold(1i64, step);
        let Some(count) = count.and_then(|count| u64::try_from(count).ok()) else {
            return Err(ConstantError::BadDims { dims });
        };
        if dtype.bits() == 0 {
            return Err(ConstantError::Unsized(dtype));
        }
        let Some(expected) = dtype.bytes_for(count) else {
            return Err(ConstantError::BadDims { dims });
        };
        if expected != data.len() as u64 {
            let actual = data.len() as u64;
            return Err(ConstantError::WrongLength {
                dtype,
                dims,
                expected,
                actual,
            });
        }
        Ok(Arc::new(Constant { dtype, dims, data }))
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Extents.
    pub fn dims(&self) -> &[i64] {
        &self.dims
    }

    /// Packed little-endian bytes.
    pub fn data(&self) -> &Bytes {
        &self.data
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.dims.iter().product::<i64>() as usize
    }

    /// The type of the constant.
    pub fn ty(&self) -> TensorType {
        TensorType::fixed(self.dtype, &self.dims)
    }
}

impl fmt::Debug for Constant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Constant({}{:?}, {} bytes)",
            self.dtype,
            self.dims,
            self.data.len()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_constant_checks_its_length_and_its_dims() {
        assert!(Constant::new(DType::F32, vec![2, 3], Bytes::from(vec![0; 24])).is_ok());
        assert!(Constant::new(DType::U4, vec![3], Bytes::from(vec![0; 2])).is_ok());
        assert!(matches!(
            Constant::new(DType::F32, vec![2, 3], Bytes::from(vec![0; 23])),
            Err(ConstantError::WrongLength {
                expected: 24,
                actual: 23,
                ..
            })
        ));
        // The last one fits u64 before it is multiplied by 0.
        for dims in [vec![-1], vec![i64::MAX, i64::MAX], vec![2, i64::MAX - 1, 0]] {
            assert!(matches!(
                Constant::new(DType::F32, dims, Bytes::new()),
                Err(ConstantError::BadDims { .. })
            ));
        }
        let empty = Constant::new(DType::F32, vec![0, i64::MAX, 2], Bytes::new());
        assert_eq!(empty.map(|c| c.elements()), Ok(0));
    }
}

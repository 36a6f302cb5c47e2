//! Element types.
//!
//! [`DType`] lists every element type that ONNX knows (`TensorProto.DataType`, IR version 14), each with its size
//! in *bits*, so that sub-byte types need no special case later. Types that no kernel computes with yet are still
//! listed: a model that contains one is refused by name, not by "unknown code 23".

use std::fmt;

/// The element type of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum DType {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary64.
    F64,
    /// IEEE 754 binary16.
    F16,
    /// The upper half of binary32.
    BF16,
    /// 8-bit float, 4 exponent bits, finite only with NaN.
    F8E4M3FN,
    /// 8-bit float, 4 exponent bits, finite only, unsigned zero.
    F8E4M3FNUZ,
    /// 8-bit float, 5 exponent bits.
    F8E5M2,
    /// 8-bit float, 5 exponent bits, finite only, unsigned zero.
    F8E5M2FNUZ,
    /// 8-bit power-of-two scale.
    F8E8M0,
    /// 4-bit float.
    F4E2M1,
    /// Two's complement, 2 bits.
    I2,
    /// Two's complement, 4 bits.
    I4,
    /// Two's complement, 8 bits.
    I8,
    /// Two's complement, 16 bits.
    I16,
    /// Two's complement, 32 bits.
    I32,
    /// Two's complement, 64 bits.
    I64,
    /// Unsigned, 2 bits.
    U2,
    /// Unsigned, 4 bits.
    U4,
    /// Unsigned, 8 bits.
    U8,
    /// Unsigned, 16 bits.
    U16,
    /// Unsigned, 32 bits.
    U32,
    /// Unsigned, 64 bits.
    U64,
    /// One byte, 0 or 1.
    Bool,
    /// Two binary32.
    Complex64,
    /// Two binary64.
    Complex128,
    /// UTF-8 strings; no fixed size.
    String,
}

/// Name, ONNX `TensorProto.DataType` code and size in bits (0 = no fixed size) of every type.
const TABLE: &[(DType, &str, i32, u32)] = &[
    (DType::F32, "f32", 1, 32),
    (DType::U8, "u8", 2, 8),
    (DType::I8, "i8", 3, 8),
    (DType::U16, "u16", 4, 16),
    (DType::I16, "i16", 5, 16),
    (DType::I32, "i32", 6, 32),
    (DType::I64, "i64", 7, 64),
    (DType::String, "string", 8, 0),
    (DType::Bool, "bool", 9, 8),
    (DType::F16, "f16", 10, 16),
    (DType::F64, "f64", 11, 64),
    (DType::U32, "u32", 12, 32),
    (DType::U64, "u64", 13, 64),
    (DType::Complex64, "c64", 14, 64),
    (DType::Complex128, "c128", 15, 128),
    (DType::BF16, "bf16", 16, 16),
    (DType::F8E4M3FN, "f8e4m3fn", 17, 8),
    (DType::F8E4M3FNUZ, "f8e4m3fnuz", 18, 8),
    (DType::F8E5M2, "f8e5m2", 19, 8),
    (DType::F8E5M2FNUZ, "f8e5m2fnuz", 20, 8),
    (DType::U4, "u4", 21, 4),
    (DType::I4, "i4", 22, 4),
    (DType::F4E2M1, "f4e2m1", 23, 4),
    (DType::F8E8M0, "f8e8m0", 24, 8),
    (DType::U2, "u2", 25, 2),
    (DType::I2, "i2", 26, 2),
];

impl DType {
    /// Every type, in the order of the ONNX codes.
    pub fn all() -> impl Iterator<Item = DType> {
        TABLE.iter().map(|row| row.0)
    }

    fn row(self) -> &'static (DType, &'static str, i32, u32) {
        TABLE
            .iter()
            .find(|row| row.0 == self)
            .unwrap_or_else(|| unreachable!("every type has a row, see the test"))
    }

    /// The short name used in the textual IR: `f32`, `i64`, `bool`, …
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// The type with this short name.
    pub fn from_name(name: &str) -> Option<DType> {
        TABLE.iter().find(|row| row.1 == name).map(|row| row.0)
    }

    /// The `TensorProto.DataType` code.
    pub fn onnx_code(self) -> i32 {
        self.row().2
    }

    /// The type with this `TensorProto.DataType` code.
    pub fn from_onnx_code(code: i32) -> Option<DType> {
        TABLE.iter().find(|row| row.2 == code).map(|row| row.0)
    }

    /// Size of an element in bits; 0 for strings.
    pub fn bits(self) -> u32 {
        self.row().3
    }

    /// Size of an element in bytes, if it fills whole bytes.
    pub fn size(self) -> Option<usize> {
        let bits = self.bits();
        (bits != 0 && bits.is_multiple_of(8)).then_some(bits as usize / 8)
    }

    /// Bytes that `count` packed elements take; `None` on overflow or for strings.
    pub fn bytes_for(self, count: u64) -> Option<u64> {
        if self.bits() == 0 {
            return None;
        }
        Some(count.checked_mul(u64::from(self.bits()))?.div_ceil(8))
    }

    /// Floating point of any width.
    pub fn is_float(self) -> bool {
        use DType::*;
        matches!(
            self,
            F32 | F64 | F16 | BF16 | F8E4M3FN | F8E4M3FNUZ | F8E5M2 | F8E5M2FNUZ | F8E8M0 | F4E2M1
        )
    }

    /// Signed or unsigned integer; `bool` is not an integer.
    pub fn is_int(self) -> bool {
        self.is_signed_int() || self.is_unsigned_int()
    }

    /// Two's complement integer.
    pub fn is_signed_int(self) -> bool {
        use DType::*;
        matches!(self, I2 | I4 | I8 | I16 | I32 | I64)
    }

    /// Unsigned integer.
    pub fn is_unsigned_int(self) -> bool {
        use DType::*;
        matches!(self, U2 | U4 | U8 | U16 | U32 | U64)
    }

    /// The types that kernels load, store and compute with. Everything else is refused by name at import.
    pub fn is_computable(self) -> bool {
        use DType::*;
        matches!(
            self,
            F32 | F64 | F16 | BF16 | I8 | I16 | I32 | I64 | U8 | U16 | U32 | U64 | Bool
        )
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_codes_are_unique_and_round_trip() {
        for ty in DType::all() {
            assert_eq!(DType::from_name(ty.name()), Some(ty));
            assert_eq!(DType::from_onnx_code(ty.onnx_code()), Some(ty));
        }
        assert_eq!(DType::all().count(), 26);
        assert_eq!(DType::from_onnx_code(0), None);
    }

    #[test]
    fn sub_byte_types_round_up_to_whole_bytes() {
        assert_eq!(DType::U4.bytes_for(3), Some(2));
        assert_eq!(DType::U4.size(), None);
        assert_eq!(DType::F32.bytes_for(u64::MAX), None);
        assert_eq!(DType::String.bytes_for(1), None);
    }
}

//! Elements of tensors as numbers.

use bespoke::ir::{Constant, DType};

/// The elements as `f64`; 64-bit integers beyond 2^53 are rounded. Empty for types without whole bytes.
pub(crate) fn floats(tensor: &Constant) -> Vec<f64> {
    let dtype = tensor.dtype();
    let Some(size) = dtype.size() else {
        return Vec::new();
    };
    tensor
        .data()
        .chunks_exact(size)
        .map(|b| float(dtype, b))
        .collect()
}

fn float(dtype: DType, bytes: &[u8]) -> f64 {
    let raw = raw(bytes);
    match dtype {
        DType::F64 => f64::from_bits(raw),
        DType::F32 => f64::from(f32::from_bits(raw as u32)),
        DType::F16 => half::f16::from_bits(raw as u16).to_f64(),
        DType::BF16 => half::bf16::from_bits(raw as u16).to_f64(),
        _ => integer(dtype, bytes) as f64,
    }
}

/// An element of an integer or boolean type.
pub(crate) fn integer(dtype: DType, bytes: &[u8]) -> i128 {
    let raw = raw(bytes);
    if dtype.is_signed_int() {
        let shift = 64 - dtype.bits();
        i128::from(((raw << shift) as i64) >> shift)
    } else {
        i128::from(raw)
    }
}

fn raw(bytes: &[u8]) -> u64 {
    let mut wide = [0; 8];
    wide[..bytes.len().min(8)].copy_from_slice(&bytes[..bytes.len().min(8)]);
    u64::from_le_bytes(wide)
}

/// A number as the shortest text that gives it back, in the narrower of `f32` and `f64` that holds it.
pub(crate) fn number(value: f64) -> String {
    let narrow = value as f32;
    if f64::from(narrow) == value {
        narrow.to_string()
    } else {
        value.to_string()
    }
}

/// The index of element `at` of a row-major tensor: `[0,3,17]`.
pub(crate) fn index(dims: &[i64], mut at: usize) -> String {
    let mut index = vec![0; dims.len()];
    for (i, &d) in index.iter_mut().zip(dims).rev() {
        let d = usize::try_from(d).unwrap_or(1).max(1);
        (*i, at) = (at % d, at / d);
    }
    let text: Vec<String> = index.iter().map(usize::to_string).collect();
    format!("[{}]", text.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_read_by_their_type() {
        let read = |dtype, data: &[u8]| {
            let count = (data.len() * 8) as i64 / i64::from(bespoke::ir::DType::bits(dtype));
            floats(&Constant::new(dtype, vec![count], data.to_vec().into()).unwrap())
        };
        assert_eq!(read(DType::F16, &[0, 0x3c, 0, 0xc0]), [1.0, -2.0]);
        assert_eq!(read(DType::BF16, &[0x80, 0xbf]), [-1.0]);
        assert_eq!(read(DType::I8, &[0xff, 1]), [-1.0, 1.0]);
        assert_eq!(read(DType::U8, &[0xff]), [255.0]);
        assert_eq!(read(DType::I64, &(-3_i64).to_le_bytes()), [-3.0]);
        assert_eq!(
            integer(DType::U64, &u64::MAX.to_le_bytes()),
            i128::from(u64::MAX)
        );
    }

    #[test]
    fn numbers_are_as_short_as_their_type_allows() {
        assert_eq!(number(f64::from(0.1_f32)), "0.1");
        assert_eq!(number(0.1), "0.1");
        assert_eq!(number(f64::NAN), "NaN");
        assert_eq!(number(f64::NEG_INFINITY), "-inf");
    }

    #[test]
    fn an_index_has_one_number_an_axis() {
        assert_eq!(index(&[2, 3, 4], 23), "[1,2,3]");
        assert_eq!(index(&[], 0), "[]");
    }
}

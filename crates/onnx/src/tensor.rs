//! Tensors as ONNX stores them, and back.
//!
//! `TensorProto` has three places for its elements: `raw_data` (packed little-endian bytes), one of the typed fields
//! (`float_data`, `int32_data`, …, with rules of their own for narrow types), and external files. [`constant`] brings
//! all of them to the one form of [`Constant`]: packed little-endian bytes. Raw and external data are not copied and
//! keep whatever alignment they have in the file; only typed fields are converted.
//!
//! Nothing is allocated on the file's word alone: the dims are multiplied with checks, and the count they promise is
//! compared with the data that is there before anything is built from it.

use crate::error::OnnxError;
use crate::external::ExternalData;
use crate::file::map_regular;
use crate::proto::TensorProto;
use crate::proto::tensor_proto::{DataLocation, DataType};
use bespoke_ir::{Constant, DType};
use bytes::Bytes;
use prost::Message;
use std::path::Path;
use std::sync::Arc;

/// Most dims a tensor may have.
pub const MAX_RANK: usize = 32;

/// The element type of a `data_type` code; the error is the reason why there is none.
pub fn element_type(code: i32) -> Result<DType, String> {
    match DType::from_onnx_code(code) {
        Some(dtype) => Ok(dtype),
        None => Err(match DataType::try_from(code) {
            Ok(DataType::Undefined) => "its element type is not set".into(),
            Ok(known) => format!("element type {} is not supported", known.as_str_name()),
            Err(_) => format!("element type code {code} is unknown"),
        }),
    }
}

/// Converts a tensor of the model to a constant; external data is looked up in `external`.
///
/// Strings, sparse tensors, chunked tensors (`segment`) and unknown element types are refused by name.
pub fn constant(
    tensor: &TensorProto,
    external: &mut ExternalData,
) -> Result<Arc<Constant>, OnnxError> {
    let refuse = |reason: String| OnnxError::tensor(tensor.name(), reason);
    let dtype = element_type(tensor.data_type()).map_err(refuse)?;
    if dtype == DType::String {
        return Err(refuse("string tensors are not supported".into()));
    }
    if tensor.segment.is_some() {
        return Err(refuse(
            "tensors stored in chunks ('segment') are not supported; save it whole".into(),
        ));
    }
    let count = element_count(&tensor.dims).map_err(refuse)?;
    let expected = dtype
        .bytes_for(count)
        .filter(|&bytes| isize::try_from(bytes).is_ok())
        .ok_or_else(|| refuse(format!("its dims {:?} are too large", tensor.dims)))?;

    let data = if tensor.data_location() == DataLocation::External {
        if tensor.raw_data.is_some() || typed_fields(tensor).iter().any(|field| field.1 > 0) {
            return Err(refuse("it has external data and data of its own".into()));
        }
        external.bytes(tensor, expected)?
    } else {
        inline(tensor, dtype, count, expected).map_err(refuse)?
    };
    Constant::new(dtype, tensor.dims.clone(), data).map_err(|error| refuse(error.to_string()))
}

/// The product of the dims, checked for sign, rank and overflow.
pub(crate) fn element_count(dims: &[i64]) -> Result<u64, String> {
    if dims.len() > MAX_RANK {
        return Err(format!(
            "it has {} dims; at most {MAX_RANK} are supported",
            dims.len()
        ));
    }
    // Not the plain product: [2^40, 2^40, 0] must not pass or fail by the order of its dims.
    let mut count: u64 = 1;
    let mut empty = false;
    for &dim in dims {
        let dim = u64::try_from(dim).map_err(|_| format!("its dims {dims:?} are negative"))?;
        empty |= dim == 0;
        count = count
            .checked_mul(dim.max(1))
            .ok_or_else(|| format!("its dims {dims:?} are too large"))?;
    }
    Ok(if empty { 0 } else { count })
}

/// Name and number of entries of each typed field.
fn typed_fields(tensor: &TensorProto) -> [(&'static str, usize); 6] {
    [
        ("float_data", tensor.float_data.len()),
        ("int32_data", tensor.int32_data.len()),
        ("int64_data", tensor.int64_data.len()),
        ("double_data", tensor.double_data.len()),
        ("uint64_data", tensor.uint64_data.len()),
        ("string_data", tensor.string_data.len()),
    ]
}

/// The typed field that holds elements of this type when `raw_data` is not used.
fn typed_field(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 | DType::Complex64 => "float_data",
        DType::F64 | DType::Complex128 => "double_data",
        DType::I64 => "int64_data",
        DType::U32 | DType::U64 => "uint64_data",
        DType::String => "string_data",
        _ => "int32_data",
    }
}

fn inline(tensor: &TensorProto, dtype: DType, count: u64, expected: u64) -> Result<Bytes, String> {
    let field = typed_field(dtype);
    let mut entries = 0;
    for (name, len) in typed_fields(tensor) {
        if name == field {
            entries = len;
        } else if len > 0 {
            return Err(format!(
                "elements of type {dtype} belong into '{field}', but '{name}' is filled"
            ));
        }
    }
    if let Some(raw) = &tensor.raw_data
        && !(raw.is_empty() && entries > 0)
    {
        if entries > 0 {
            return Err(format!("both 'raw_data' and '{field}' are filled"));
        }
        if raw.len() as u64 != expected {
            return Err(format!(
                "{dtype}{:?} needs {expected} bytes, but 'raw_data' has {}",
                tensor.dims,
                raw.len()
            ));
        }
        return Ok(raw.clone());
    }
    let bits = u64::from(dtype.bits());
    let wanted = match dtype {
        DType::Complex64 | DType::Complex128 => count.checked_mul(2),
        // One entry a byte: two or four elements each.
        _ if bits < 8 => Some(expected),
        _ => Some(count),
    };
    if wanted != Some(entries as u64) {
        return Err(format!(
            "{dtype}{:?} needs {} entries in '{field}', but there are {entries}",
            tensor.dims,
            wanted.map_or_else(|| "too many".into(), |n| n.to_string())
        ));
    }
    // From here on the allocation is bounded by the size of the file.
    let mut out = Vec::with_capacity(expected as usize);
    match field {
        "float_data" => tensor
            .float_data
            .iter()
            .for_each(|v| out.extend_from_slice(&v.to_le_bytes())),
        "double_data" => tensor
            .double_data
            .iter()
            .for_each(|v| out.extend_from_slice(&v.to_le_bytes())),
        "int64_data" => tensor
            .int64_data
            .iter()
            .for_each(|v| out.extend_from_slice(&v.to_le_bytes())),
        "uint64_data" if dtype == DType::U64 => {
            tensor
                .uint64_data
                .iter()
                .for_each(|v| out.extend_from_slice(&v.to_le_bytes()));
        }
        "uint64_data" => {
            for &value in &tensor.uint64_data {
                let value = u32::try_from(value).map_err(|_| out_of_range(value, dtype))?;
                out.extend_from_slice(&value.to_le_bytes());
            }
        }
        _ => {
            for &value in &tensor.int32_data {
                narrow(value, dtype, &mut out)?;
            }
        }
    }
    Ok(Bytes::from(out))
}

/// Appends the element that `int32_data` stores as `value`: the number itself for integers, the bit pattern for
/// narrow floats, a packed byte for types below eight bits.
fn narrow(value: i32, dtype: DType, out: &mut Vec<u8>) -> Result<(), String> {
    let fits = |low: i32, high: i32| {
        (low..=high)
            .contains(&value)
            .then_some(())
            .ok_or_else(|| out_of_range(value, dtype))
    };
    match dtype {
        DType::I32 => out.extend_from_slice(&value.to_le_bytes()),
        DType::I16 => {
            fits(-0x8000, 0x7fff)?;
            out.extend_from_slice(&(value as i16).to_le_bytes());
        }
        DType::U16 | DType::F16 | DType::BF16 => {
            fits(0, 0xffff)?;
            out.extend_from_slice(&(value as u16).to_le_bytes());
        }
        DType::I8 => {
            fits(-0x80, 0x7f)?;
            out.push(value as i8 as u8);
        }
        DType::Bool => {
            fits(0, 1)?;
            out.push(value as u8);
        }
        // Packed bytes of signed types are written as either sign.
        DType::I4 | DType::I2 => {
            fits(-0x80, 0xff)?;
            out.push(value as u8);
        }
        _ => {
            fits(0, 0xff)?;
            out.push(value as u8);
        }
    }
    Ok(())
}

fn out_of_range(value: impl std::fmt::Display, dtype: DType) -> String {
    format!("the value {value} does not fit the element type {dtype}")
}

/// Reads a file that holds one serialized `TensorProto`, as the ONNX test data has them (`input_0.pb`).
pub fn read_tensor_file(path: &Path) -> Result<Arc<Constant>, OnnxError> {
    let bytes = map_regular(path)?;
    let not = |reason: String| OnnxError::NotAModel {
        path: path.to_owned(),
        reason,
    };
    let tensor = TensorProto::decode(bytes)
        .map_err(|error| not(format!("it is no serialized tensor: {error}")))?;
    if tensor.data_type() == 0 {
        return Err(not(
            "it is no serialized tensor (it may hold a sequence or an optional)".into(),
        ));
    }
    constant(&tensor, &mut ExternalData::none())
}

/// The tensor as a message, with its elements in `raw_data`.
pub fn to_proto(name: &str, tensor: &Constant) -> TensorProto {
    TensorProto {
        name: Some(name.to_owned()),
        dims: tensor.dims().to_vec(),
        data_type: Some(tensor.dtype().onnx_code()),
        raw_data: Some(tensor.data().clone()),
        ..Default::default()
    }
}

/// Writes `tensor` as one serialized `TensorProto`, the layout of the ONNX test data.
pub fn write_tensor_file(path: &Path, name: &str, tensor: &Constant) -> Result<(), OnnxError> {
    std::fs::write(path, to_proto(name, tensor).encode_to_vec()).map_err(|source| OnnxError::Io {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tensor(dtype: DType, dims: &[i64]) -> TensorProto {
        TensorProto {
            name: Some("t".into()),
            data_type: Some(dtype.onnx_code()),
            dims: dims.to_vec(),
            ..Default::default()
        }
    }

    fn decode(tensor: &TensorProto) -> Result<Arc<Constant>, String> {
        constant(tensor, &mut ExternalData::none()).map_err(|error| error.to_string())
    }

    #[test]
    fn typed_fields_become_packed_little_endian_bytes() {
        let check = |tensor: TensorProto, expected: &[u8]| {
            assert_eq!(decode(&tensor).unwrap().data()[..], *expected, "{tensor:?}");
        };
        let ints = |dtype, dims: &[i64], values: &[i32]| TensorProto {
            int32_data: values.to_vec(),
            ..tensor(dtype, dims)
        };
        check(
            TensorProto {
                float_data: vec![1.0],
                ..tensor(DType::F32, &[])
            },
            &[0, 0, 0x80, 0x3f],
        );
        check(
            TensorProto {
                double_data: vec![1.0],
                ..tensor(DType::F64, &[1])
            },
            &1f64.to_le_bytes(),
        );
        check(
            TensorProto {
                int64_data: vec![-2],
                ..tensor(DType::I64, &[1])
            },
            &(-2i64).to_le_bytes(),
        );
        check(
            TensorProto {
                uint64_data: vec![7],
                ..tensor(DType::U32, &[1])
            },
            &[7, 0, 0, 0],
        );
        check(
            TensorProto {
                uint64_data: vec![7],
                ..tensor(DType::U64, &[1])
            },
            &[7, 0, 0, 0, 0, 0, 0, 0],
        );
        check(
            TensorProto {
                float_data: vec![1.0, 0.0],
                ..tensor(DType::Complex64, &[1])
            },
            &[0, 0, 0x80, 0x3f, 0, 0, 0, 0],
        );
        check(ints(DType::I32, &[1], &[-1]), &[255; 4]);
        check(
            ints(DType::F16, &[2], &[0x3c00, 0x8000]),
            &[0, 0x3c, 0, 0x80],
        );
        check(ints(DType::BF16, &[1], &[0x3f80]), &[0x80, 0x3f]);
        check(ints(DType::I16, &[1], &[-2]), &[0xfe, 0xff]);
        check(ints(DType::I8, &[2], &[-1, 127]), &[0xff, 0x7f]);
        check(ints(DType::U8, &[1], &[200]), &[200]);
        check(ints(DType::F8E4M3FN, &[1], &[0x7e]), &[0x7e]);
        check(ints(DType::Bool, &[2], &[0, 1]), &[0, 1]);
        check(ints(DType::U4, &[3], &[0x21, 0x03]), &[0x21, 0x03]);
        check(ints(DType::I2, &[4], &[-1]), &[0xff]);
        check(tensor(DType::F32, &[0, 5]), &[]);
    }

    #[test]
    fn malformed_tensors_are_refused_before_anything_is_allocated() {
        let raw = |dtype, dims: &[i64], bytes: usize| TensorProto {
            raw_data: Some(vec![0; bytes].into()),
            ..tensor(dtype, dims)
        };
        let cases = [
            (
                tensor(DType::F32, &[1 << 40]),
                "needs 1099511627776 entries in 'float_data', but there are 0",
            ),
            (tensor(DType::F32, &[-1]), "negative"),
            (tensor(DType::F32, &[i64::MAX, 3]), "too large"),
            (tensor(DType::F32, &[0, i64::MAX, i64::MAX]), "too large"),
            (tensor(DType::F32, &[i64::MAX]), "too large"),
            (tensor(DType::F32, &[1; 33]), "33 dims"),
            (
                raw(DType::F32, &[2], 7),
                "needs 8 bytes, but 'raw_data' has 7",
            ),
            (raw(DType::U4, &[3], 1), "needs 2 bytes"),
            (
                TensorProto {
                    float_data: vec![0.0],
                    ..raw(DType::F32, &[1], 4)
                },
                "both 'raw_data' and 'float_data'",
            ),
            (
                TensorProto {
                    int64_data: vec![0],
                    ..tensor(DType::I32, &[1])
                },
                "belong into 'int32_data'",
            ),
            (
                TensorProto {
                    int32_data: vec![300],
                    ..tensor(DType::U8, &[1])
                },
                "the value 300 does not fit",
            ),
            (
                TensorProto {
                    int32_data: vec![2],
                    ..tensor(DType::Bool, &[1])
                },
                "does not fit",
            ),
            (
                TensorProto {
                    uint64_data: vec![1 << 32],
                    ..tensor(DType::U32, &[1])
                },
                "does not fit",
            ),
            (
                TensorProto {
                    data_type: Some(99),
                    ..tensor(DType::F32, &[1])
                },
                "code 99 is unknown",
            ),
            (
                TensorProto {
                    data_type: None,
                    ..tensor(DType::F32, &[1])
                },
                "not set",
            ),
            (
                tensor(DType::String, &[1]),
                "string tensors are not supported",
            ),
            (
                TensorProto {
                    segment: Some(Default::default()),
                    ..raw(DType::F32, &[1], 4)
                },
                "chunks",
            ),
            (
                TensorProto {
                    data_location: Some(1),
                    ..raw(DType::F32, &[1], 4)
                },
                "external data and data of its own",
            ),
        ];
        for (tensor, reason) in cases {
            let error = decode(&tensor).unwrap_err();
            assert!(error.contains(reason), "{error} (wanted: {reason})");
            assert!(error.contains("'t'"), "{error}");
        }
    }

    #[test]
    fn raw_data_is_not_copied() {
        let bytes = Bytes::from(vec![7u8; 64]);
        let proto = TensorProto {
            raw_data: Some(bytes.slice(1..33)),
            ..tensor(DType::F32, &[8])
        };
        assert_eq!(decode(&proto).unwrap().data().as_ptr(), bytes[1..].as_ptr());
    }

    proptest! {
        #[test]
        fn files_round_trip(dims in proptest::collection::vec(0i64..4, 0..4), index in 0usize..26, seed: u8) {
            let dtype = DType::all().nth(index).unwrap();
            prop_assume!(dtype != DType::String);
            let bytes = dtype.bytes_for(dims.iter().product::<i64>() as u64).unwrap();
            let data: Vec<u8> = (0..bytes).map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed)).collect();
            let constant = Constant::new(dtype, dims, data.into()).unwrap();
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("t.pb");
            write_tensor_file(&path, "t", &constant).unwrap();
            prop_assert_eq!(read_tensor_file(&path).unwrap(), constant);
        }
    }
}

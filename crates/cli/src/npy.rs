//! NumPy's `.npy` files.
//!
//! The format is that of `numpy.lib.format`: a magic string, a version, a Python dictionary with element type, order and
//! shape, then the elements. Versions 1 to 3 are read, version 1 is written. Both byte orders and both element orders are
//! read; the result is always little-endian and row-major.
//!
//! Files come from outside: the header is read strictly, the shape is multiplied with checks, and the elements are only
//! read after their size was found equal to what the file has left.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bespoke::ir::{Constant, DType};

use crate::failure::Failure;

const MAGIC: &[u8; 6] = b"\x93NUMPY";
/// Longest header that is read; NumPy itself stops at 10,000 characters.
const MAX_HEADER: usize = 64 * 1024;
/// Most axes; NumPy's own limit.
const MAX_RANK: usize = 64;

/// Kind and size in bytes, as `descr` writes them after the byte order.
const TYPES: &[(&str, DType)] = &[
    ("f2", DType::F16),
    ("f4", DType::F32),
    ("f8", DType::F64),
    ("i1", DType::I8),
    ("i2", DType::I16),
    ("i4", DType::I32),
    ("i8", DType::I64),
    ("u1", DType::U8),
    ("u2", DType::U16),
    ("u4", DType::U32),
    ("u8", DType::U64),
    ("b1", DType::Bool),
];

/// What the header says.
#[derive(Debug, PartialEq, Eq)]
struct Header {
    dtype: DType,
    big_endian: bool,
    fortran: bool,
    dims: Vec<i64>,
}

/// Reads an array.
///
/// # Errors
///
/// A file that cannot be read, is no `.npy` file, or has a type that no model takes.
pub(crate) fn read(path: &Path) -> Result<Arc<Constant>, Failure> {
    let io = |error: std::io::Error| Failure::file(path, "read", &error);
    let wrong = |reason: String| {
        Failure::usage(
            format!("{} is not a usable .npy file: {reason}", path.display()),
            "write it with `numpy.save`, as a plain array of numbers",
        )
    };
    let about = std::fs::metadata(path).map_err(io)?;
    if !about.is_file() {
        return Err(wrong("it is not a regular file".into()));
    }
    let mut file = File::open(path).map_err(io)?;
    let length = file.metadata().map_err(io)?.len();
    parse(&mut file, length).map_err(|error| match error {
        Error::Io(error) => io(error),
        Error::Format(reason) => wrong(reason),
    })
}

/// Why bytes are no array.
#[derive(Debug)]
enum Error {
    Io(std::io::Error),
    Format(String),
}

impl From<String> for Error {
    fn from(reason: String) -> Error {
        Error::Format(reason)
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Error {
        match error.kind() {
            std::io::ErrorKind::UnexpectedEof => Error::Format("it is truncated".into()),
            _ => Error::Io(error),
        }
    }
}

/// Reads an array from a source of `length` bytes.
fn parse(source: &mut impl Read, length: u64) -> Result<Arc<Constant>, Error> {
    let mut start = [0; 8];
    source.read_exact(&mut start)?;
    if start[..6] != *MAGIC {
        return Err(Error::Format(
            "it does not begin with NumPy's magic bytes".into(),
        ));
    }
    let (prefix, header) = match start[6] {
        1 => {
            let mut size = [0; 2];
            source.read_exact(&mut size)?;
            (10, usize::from(u16::from_le_bytes(size)))
        }
        2 | 3 => {
            let mut size = [0; 4];
            source.read_exact(&mut size)?;
            (12, u32::from_le_bytes(size) as usize)
        }
        version => {
            return Err(Error::Format(format!(
                "format version {version} is unknown"
            )));
        }
    };
    if header > MAX_HEADER {
        return Err(Error::Format(format!(
            "its header of {header} bytes is too long"
        )));
    }
    let mut text = vec![0; header];
    source.read_exact(&mut text)?;
    let text = std::str::from_utf8(&text).map_err(|_| "its header is not text".to_owned())?;
    let about = Header::parse(text)?;

    let size = about.dtype.size().unwrap_or(1);
    let elements = about
        .dims
        .iter()
        .try_fold(1_u64, |n, &d| n.checked_mul(u64::try_from(d).ok()?))
        .ok_or_else(|| format!("its shape {:?} is too large", about.dims))?;
    let bytes = elements
        .checked_mul(size as u64)
        .ok_or("its shape is too large".to_owned())?;
    let left = length.saturating_sub(prefix + header as u64);
    if bytes != left {
        return Err(Error::Format(format!(
            "its shape {:?} needs {bytes} bytes of elements, it has {left}",
            about.dims
        )));
    }
    // The file really has this many bytes, so the allocation is no larger than the file.
    let mut data = Vec::new();
    source.take(bytes).read_to_end(&mut data)?;
    if data.len() as u64 != bytes {
        return Err(Error::Format("it became shorter while it was read".into()));
    }
    if about.big_endian {
        data.chunks_exact_mut(size).for_each(<[u8]>::reverse);
    }
    if about.dtype == DType::Bool && data.iter().any(|&b| b > 1) {
        return Err(Error::Format("a boolean is neither 0 nor 1".into()));
    }
    if about.fortran && about.dims.len() > 1 {
        data = row_major(&data, &about.dims, size);
    }
    Constant::new(about.dtype, about.dims, data.into())
        .map_err(|error| Error::Format(error.to_string()))
}

/// From column-major to row-major order.
fn row_major(data: &[u8], dims: &[i64], size: usize) -> Vec<u8> {
    let mut strides = Vec::with_capacity(dims.len());
    let mut step = size;
    for &d in dims {
        strides.push(step);
        step *= d as usize;
    }
    let mut out = Vec::with_capacity(data.len());
    let mut index = vec![0_i64; dims.len()];
    while out.len() < data.len() {
        let at: usize = index
            .iter()
            .zip(&strides)
            .map(|(&i, s)| i as usize * s)
            .sum();
        out.extend_from_slice(&data[at..at + size]);
        for axis in (0..dims.len()).rev() {
            index[axis] += 1;
            if index[axis] < dims[axis] {
                break;
            }
            index[axis] = 0;
        }
    }
    out
}

impl Header {
    /// Reads `{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }`.
    fn parse(text: &str) -> Result<Header, String> {
        let mut at = Cursor(text.trim());
        let (mut descr, mut fortran, mut dims) = (None, None, None);
        at.expect("{")?;
        while !at.take("}") {
            let key = at.string()?;
            at.expect(":")?;
            let again = match key {
                "descr" if at.0.starts_with('[') => return Err("it has a structured type".into()),
                "descr" => descr.replace(at.string()?).is_some(),
                "fortran_order" => fortran.replace(at.boolean()?).is_some(),
                "shape" => dims.replace(at.tuple()?).is_some(),
                other => return Err(format!("its header has the unknown key '{other}'")),
            };
            if again {
                return Err(format!("its header has '{key}' twice"));
            }
            if !at.take(",") {
                at.expect("}")?;
                break;
            }
        }
        if !at.0.is_empty() {
            return Err("something follows its header".into());
        }
        let missing = |key: &str| format!("its header lacks '{key}'");
        let descr = descr.ok_or_else(|| missing("descr"))?;
        let (order, kind) = descr.split_at_checked(1).unwrap_or(("", descr));
        let dtype = TYPES
            .iter()
            .find(|(name, _)| *name == kind)
            .map(|row| row.1);
        let (Some(dtype), true) = (dtype, matches!(order, "<" | ">" | "|" | "=")) else {
            let known: Vec<&str> = TYPES.iter().map(|row| row.0).collect();
            return Err(format!(
                "its type '{descr}' is not one of {}",
                known.join(", ")
            ));
        };
        let sized = dtype.size() != Some(1);
        if sized && (order == "|" || (order == "=" && cfg!(target_endian = "big"))) {
            return Err(format!("its type '{descr}' has no byte order"));
        }
        Ok(Header {
            dtype,
            big_endian: sized && order == ">",
            fortran: fortran.ok_or_else(|| missing("fortran_order"))?,
            dims: dims.ok_or_else(|| missing("shape"))?,
        })
    }
}

/// What of the header is not read yet, without leading blanks.
struct Cursor<'a>(&'a str);

impl<'a> Cursor<'a> {
    fn take(&mut self, token: &str) -> bool {
        match self.0.strip_prefix(token) {
            Some(rest) => {
                self.0 = rest.trim_start();
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, token: &str) -> Result<(), String> {
        if self.take(token) {
            Ok(())
        } else {
            Err(format!("its header lacks a '{token}'"))
        }
    }

    fn string(&mut self) -> Result<&'a str, String> {
        let quote = self.0.chars().next().filter(|c| matches!(c, '\'' | '"'));
        let wrong = || "its header lacks a quoted word".to_owned();
        let rest = self
            .0
            .strip_prefix(quote.ok_or_else(wrong)?)
            .ok_or_else(wrong)?;
        let (word, rest) = rest.split_once(['\'', '"']).ok_or_else(wrong)?;
        self.0 = rest.trim_start();
        Ok(word)
    }

    fn boolean(&mut self) -> Result<bool, String> {
        if self.take("True") {
            return Ok(true);
        }
        if self.take("False") {
            return Ok(false);
        }
        Err("its header has neither True nor False for 'fortran_order'".into())
    }

    fn tuple(&mut self) -> Result<Vec<i64>, String> {
        self.expect("(")?;
        let mut dims = Vec::new();
        while !self.take(")") {
            let digits = self.0.len()
                - self
                    .0
                    .trim_start_matches(|c: char| c.is_ascii_digit())
                    .len();
            let value = self.0[..digits]
                .parse()
                .map_err(|_| "its shape is not a tuple of extents")?;
            if dims.len() == MAX_RANK {
                return Err(format!("its shape has more than {MAX_RANK} axes"));
            }
            dims.push(value);
            self.0 = self.0[digits..].trim_start();
            // Python 2 wrote long integers as 3L.
            self.take("L");
            if !self.take(",") {
                self.expect(")")?;
                break;
            }
        }
        Ok(dims)
    }
}

/// Writes an array. NumPy has no `bfloat16`; such tensors are written as the `float32` of the same value.
///
/// # Errors
///
/// A type that NumPy has not, or a file that cannot be written.
pub(crate) fn write(path: &Path, tensor: &Constant) -> Result<PathBuf, Failure> {
    let io = |error: std::io::Error| Failure::file(path, "write", &error);
    let mut file = std::io::BufWriter::new(File::create(path).map_err(io)?);
    let bytes = encode(tensor).ok_or_else(|| {
        Failure::usage(
            format!(
                "{}: NumPy has no type for {}",
                path.display(),
                tensor.dtype()
            ),
            "read the .pb file of the same name instead",
        )
    })?;
    file.write_all(&bytes)
        .and_then(|()| file.flush())
        .map_err(io)?;
    Ok(path.to_owned())
}

fn encode(tensor: &Constant) -> Option<Vec<u8>> {
    if tensor.dtype() == DType::BF16 {
        let wide = |b: &[u8]| [0, 0, b[0], b[1]];
        let data: Vec<u8> = tensor.data().chunks_exact(2).flat_map(wide).collect();
        let wide = Constant::new(DType::F32, tensor.dims().to_vec(), data.into()).ok()?;
        return encode(&wide);
    }
    let kind = TYPES.iter().find(|row| row.1 == tensor.dtype())?.0;
    let order = if tensor.dtype().size() == Some(1) {
        "|"
    } else {
        "<"
    };
    let dims: String = tensor.dims().iter().map(|d| format!("{d}, ")).collect();
    let dims = if tensor.dims().len() == 1 {
        dims.trim_end()
    } else {
        dims.trim_end_matches(", ")
    };
    let mut text =
        format!("{{'descr': '{order}{kind}', 'fortran_order': False, 'shape': ({dims}), }}");
    // The elements begin at a multiple of 64; the header ends in a line feed.
    let blanks = (64 - (10 + text.len() + 1) % 64) % 64;
    text.extend(std::iter::repeat_n(' ', blanks));
    text.push('\n');
    let mut out = MAGIC.to_vec();
    out.extend([1, 0]);
    out.extend(u16::try_from(text.len()).ok()?.to_le_bytes());
    out.extend(text.as_bytes());
    out.extend(tensor.data());
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read_bytes(bytes: &[u8]) -> Result<Arc<Constant>, String> {
        parse(&mut &*bytes, bytes.len() as u64).map_err(|error| match error {
            Error::Io(error) => error.to_string(),
            Error::Format(reason) => reason,
        })
    }

    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend([1, 0]);
        out.extend((header.len() as u16).to_le_bytes());
        out.extend(header.as_bytes());
        out.extend(data);
        out
    }

    #[test]
    fn column_major_and_big_endian_arrays_become_ordinary_ones() {
        let data: Vec<u8> = (0..6_u16).flat_map(u16::to_be_bytes).collect();
        let bytes = file(
            "{'descr': '>u2', 'fortran_order': True, 'shape': (2, 3), }\n",
            &data,
        );
        let tensor = read_bytes(&bytes).unwrap();
        let expected: Vec<u8> = [0_u16, 2, 4, 1, 3, 5]
            .into_iter()
            .flat_map(u16::to_le_bytes)
            .collect();
        assert_eq!(
            (tensor.dtype(), tensor.dims(), &tensor.data()[..]),
            (DType::U16, &[2, 3][..], &expected[..])
        );
    }

    #[test]
    fn later_versions_have_a_longer_length() {
        let header = "{\"descr\": \"|u1\", \"fortran_order\": False, \"shape\": (2L,)}";
        let mut bytes = MAGIC.to_vec();
        bytes.extend([2, 0]);
        bytes.extend((header.len() as u32).to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend([7, 8]);
        assert_eq!(read_bytes(&bytes).unwrap().data()[..], [7, 8]);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let good = "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }";
        let cases: &[(Vec<u8>, &str)] = &[
            (b"PK\x03\x04----".to_vec(), "magic"),
            (b"\x93NUM".to_vec(), "truncated"),
            (b"\x93NUMPY\x09\x00".to_vec(), "version 9"),
            (file(good, &[0; 7]), "needs 8 bytes of elements, it has 7"),
            (file(good, &[0; 9]), "needs 8 bytes"),
            (file("{'descr': '<f4'}", &[]), "lacks 'fortran_order'"),
            (
                file(
                    "{'descr': '<c8', 'fortran_order': False, 'shape': ()}",
                    &[0; 8],
                ),
                "type '<c8'",
            ),
            (
                file(
                    "{'descr': '|O', 'fortran_order': False, 'shape': ()}",
                    &[0; 8],
                ),
                "type '|O'",
            ),
            (
                file(
                    "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': ()}",
                    &[],
                ),
                "structured",
            ),
            (
                file("{'descr': '<f4', 'fortran_order': 1, 'shape': ()}", &[]),
                "neither True nor False",
            ),
            (
                file(
                    "{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}",
                    &[],
                ),
                "not a tuple",
            ),
            (
                file(
                    "{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296, 1)}",
                    &[],
                ),
                "too large",
            ),
            (
                file(
                    "{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,)}",
                    &[],
                ),
                "needs 4398046511104",
            ),
            (
                file("{'descr': '<f4', 'shape': (), 'descr': '<f4'}", &[]),
                "twice",
            ),
            (
                file(
                    "{'descr': '<f4', 'fortran_order': False, 'shape': ()} x",
                    &[0; 4],
                ),
                "follows",
            ),
            (
                file(
                    "{'descr': '|b1', 'fortran_order': False, 'shape': (1,)}",
                    &[2],
                ),
                "boolean",
            ),
            (
                file(
                    "{'descr': '|f4', 'fortran_order': False, 'shape': ()}",
                    &[0; 4],
                ),
                "byte order",
            ),
            (file("{'size': 3}", &[]), "unknown key 'size'"),
        ];
        for (bytes, reason) in cases {
            let error = read_bytes(bytes).unwrap_err();
            assert!(error.contains(reason), "{error} (wanted: {reason})");
        }
        let mut long = MAGIC.to_vec();
        long.extend([2, 0, 0xff, 0xff, 0xff, 0xff]);
        assert!(read_bytes(&long).unwrap_err().contains("too long"));
    }

    #[test]
    fn bfloat16_is_written_as_float32() {
        let tensor = Constant::new(DType::BF16, vec![1], vec![0x80, 0x3f].into()).unwrap();
        let read = read_bytes(&encode(&tensor).unwrap()).unwrap();
        assert_eq!(
            (read.dtype(), &read.data()[..]),
            (DType::F32, &1_f32.to_le_bytes()[..])
        );
    }

    proptest! {
        #[test]
        fn files_round_trip(dims in prop::collection::vec(0_i64..4, 0..4), index in 0..TYPES.len(), seed: u8) {
            let dtype = TYPES[index].1;
            let bytes = dtype.bytes_for(dims.iter().product::<i64>() as u64).unwrap();
            let value = |i: u64| (i as u8).wrapping_mul(31).wrapping_add(seed);
            let data: Vec<u8> = (0..bytes).map(|i| if dtype == DType::Bool { value(i) & 1 } else { value(i) }).collect();
            let tensor = Constant::new(dtype, dims, data.into()).unwrap();
            let file = encode(&tensor).unwrap();
            prop_assert_eq!((file.len() - tensor.data().len()) % 64, 0);
            prop_assert_eq!(read_bytes(&file).unwrap(), tensor);
        }

        #[test]
        fn no_bytes_break_the_reader(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 0_usize..200) {
            let _ = read_bytes(&bytes);
            let header: String = bytes.iter().map(|b| char::from(b % 128)).collect();
            let mut dressed = file(&header, &bytes);
            let _ = read_bytes(&dressed);
            dressed.truncate(cut);
            let _ = read_bytes(&dressed);
        }
    }
}

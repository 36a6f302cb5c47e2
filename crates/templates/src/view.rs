//! Views: how a kernel finds an element of a tensor.
//!
//! A kernel walks over an iteration space of `rank` axes. An operand named `x` has the arguments `x` (address), `x_o`
//! (offset in elements) and `x_s0 … x_s{rank-1}` (stride in elements of each axis; 0 where it is broadcast), so that the
//! element for position `(i0, i1, …)` is `x[x_o + i0·x_s0 + i1·x_s1 + …]`.

use bespoke_ir::DType;

use crate::spec::{Args, Param};

/// The arguments of an operand that is read.
pub fn read(name: &str, dtype: DType, rank: usize) -> Vec<Param> {
    with_strides(Param::read(name, dtype), name, rank)
}

/// The arguments of a result.
pub fn write(name: &str, dtype: DType, rank: usize) -> Vec<Param> {
    with_strides(Param::write(name, dtype), name, rank)
}

fn with_strides(tensor: Param, name: &str, rank: usize) -> Vec<Param> {
    let mut params = vec![tensor, Param::wide(format!("{name}_o"))];
    params.extend((0..rank).map(|i| Param::wide(format!("{name}_s{i}"))));
    params
}

/// The arguments of an iteration space: `d0 … d{rank-1}`.
pub fn extents(rank: usize) -> Vec<Param> {
    (0..rank).map(|i| Param::int(format!("d{i}"))).collect()
}

/// Offset and strides of an operand on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Strided {
    /// Offset in elements.
    pub offset: i64,
    /// Stride of each axis in elements.
    pub strides: Vec<i64>,
}

impl Strided {
    /// The view of the operand `name`.
    pub fn of(args: &Args<'_>, name: &str, rank: usize) -> Strided {
        Strided {
            offset: args.int(&format!("{name}_o")),
            strides: args.ints(&format!("{name}_s"), rank),
        }
    }

    /// Index of the element at a position.
    pub fn at(&self, position: &[i64]) -> i64 {
        self.offset
            + self
                .strides
                .iter()
                .zip(position)
                .map(|(s, i)| s * i)
                .sum::<i64>()
    }
}

/// CUDA text of an element's index, for axis variables `vars`: `x_o + i0 * x_s0 + i1 * x_s1`.
pub fn cuda_index(name: &str, vars: &[&str]) -> String {
    let mut text = format!("{name}_o");
    for (i, var) in vars.iter().enumerate() {
        text.push_str(&format!(" + {var} * {name}_s{i}"));
    }
    text
}

//! Running sums along the last axis.
//!
//! Narrow floats are summed in `f32` (on the host in `f64`) and rounded once an element; integers wrap.

use std::fmt::Write as _;
use std::sync::Arc;

use bespoke_device::{DeviceProps, LaunchConfig, Operand, TwinError};
use bespoke_ir::{DType, Expr};

use crate::arguments::{self, Arguments};
use crate::expr::host::Function;
use crate::expr::lanes::{self, Elements, ElementsMut, View};
use crate::pointwise::view_bytes;
use crate::random;
use crate::rows::Rows;
use crate::rows_host::{self, Lanes};
use crate::sample::{self, Rng, Sample};
use crate::source::kernel_text;
use crate::spec::{Args, Cost, Param, Template, Tile};
use crate::view::{self, Strided};

/// See the module.
///
/// Space `d0 … d{outer}`, summed along the last; operand `x` and result `y` are viewed over it.
#[derive(Clone, Debug, PartialEq)]
pub struct CumSum {
    /// Number of axes before the summed one.
    pub outer: usize,
    /// Element type of operand and result.
    pub dtype: DType,
    /// Whether an element is left out of its own sum.
    pub exclusive: bool,
    /// Whether sums run from the end.
    pub reverse: bool,
}

impl CumSum {
    fn space(&self) -> Rows {
        Rows {
            outer: self.outer,
            inner: 1,
        }
    }

    fn run_in<T: Lanes + std::ops::Add<Output = T>>(
        &self,
        add: impl Fn(T, T) -> T + Sync,
        wide: DType,
        args: &Args<'_>,
        operands: &mut [Operand<'_>],
    ) -> Result<(), TwinError> {
        let extents = args.ints("d", self.outer + 1);
        let (mut writes, reads) = lanes::split_operands(operands);
        let (Some(y), Some(&x)) = (writes.pop(), reads.first()) else {
            return Err(TwinError("an operand is missing".to_owned()));
        };
        let y = ElementsMut::of(self.dtype, y)?;
        let out = Strided::of(args, "y", extents.len());
        lanes::check("y", &out, &extents, y.len())?;
        let x = View::new(
            "x",
            Elements::of(self.dtype, x)?,
            Strided::of(args, "x", extents.len()),
            &extents,
        )?;
        let before = Function::new(&Expr::cast(self.dtype, wide), vec![x]);
        let after = Function::new(&Expr::cast(wide, self.dtype), Vec::new());
        rows_host::map_rows::<T>(&before, &after, self.outer, &extents, y, &out, |x, y| {
            let mut sum: T = bytemuck::Zeroable::zeroed();
            let mut step = |i: usize| {
                let before = sum;
                sum = add(sum, x[i]);
                y[i] = if self.exclusive { before } else { sum };
            };
            if self.reverse {
                (0..x.len()).rev().for_each(&mut step)
            } else {
                (0..x.len()).for_each(&mut step)
            }
        });
        Ok(())
    }
}

impl Template for CumSum {
    fn name(&self) -> &'static str {
        "cumsum"
    }

    fn describe(&self) -> String {
        format!(
            "{} outer={}{}{}",
            self.dtype,
            self.outer,
            if self.exclusive { " exclusive" } else { "" },
            if self.reverse { " reverse" } else { "" }
        )
    }

    fn params(&self) -> Vec<Param> {
        let rank = self.outer + 1;
        let mut params = view::extents(rank);
        params.extend(view::write("y", self.dtype, rank));
        params.extend(view::read("x", self.dtype, rank));
        params
    }

    fn body(&self) -> &'static str {
        kernel_text!("\n"; "rows.cuh", "cumsum.cu")
    }

    fn definitions(&self, _: &DeviceProps) -> String {
        let (a, wraps) = match self.dtype {
            DType::F64 => ("double", false),
            ty if ty.is_float() => ("float", false),
            DType::I64 => ("long long", true),
            DType::U64 => ("unsigned long long", true),
            ty if ty.is_unsigned_int() => ("unsigned int", true),
            _ => ("int", true),
        };
        let mut out = self
            .space()
            .row_operand("x", self.dtype, &[("y", self.dtype)]);
        // writing to a String cannot fail
        let _ = writeln!(
            out,
            "typedef {a} A;\nconstexpr bool EXCLUSIVE = {}, REVERSE = {};\n#define STRIDE y_s{}\n\
             __device__ __forceinline__ A add(A a, A b) {{ return {}; }}",
            self.exclusive,
            self.reverse,
            self.outer,
            if wraps { "wrap_add(a, b)" } else { "a + b" }
        );
        out
    }

    fn tiles(&self, _: Option<&Args<'_>>, _: &DeviceProps) -> Vec<Tile> {
        vec![Tile::new(&[("THREADS", 128), ("GROUP", 32), ("APART", 0)])]
    }

    fn geometry(&self, tile: &Tile, args: Option<&Args<'_>>, props: &DeviceProps) -> LaunchConfig {
        self.space().geometry(tile, args, props)
    }

    fn cost(&self, args: &Args<'_>) -> Cost {
        let extents = args.ints("d", self.outer + 1);
        let points: f64 = extents.iter().map(|&d| d.max(0) as f64).product();
        let bytes = view_bytes(args, "x", &extents, self.dtype)
            + points * f64::from(self.dtype.bits()) / 8.0;
        Cost {
            operations: points,
            bytes,
            tensor_cores: None,
        }
    }

    fn run(&self, args: &Args<'_>, operands: &mut [Operand<'_>]) -> Result<(), TwinError> {
        if self.dtype.is_float() {
            self.run_in::<f64>(|a, b| a + b, DType::F64, args, operands)
        } else {
            self.run_in::<i64>(i64::wrapping_add, DType::I64, args, operands)
        }
    }
}

/// Random runs.
pub fn samples(rng: &mut Rng) -> Vec<Sample> {
    typed_samples(rng).into_iter().map(|s| s.1).collect()
}

fn typed_samples(rng: &mut Rng) -> Vec<(CumSum, Sample)> {
    use DType::*;
    (0..4)
        .map(|_| {
            let t = CumSum {
                outer: rng.int(0, 2) as usize,
                dtype: *rng.pick(&[F32, F16, BF16, F64, I32, I64, U8]),
                exclusive: rng.chance(2),
                reverse: rng.chance(2),
            };
            let extents = sample::extents(rng, t.outer + 1, 3000);
            let all: Vec<usize> = (0..extents.len()).collect();
            let mut b = Arguments::new(&t);
            random::ints(&mut b, "d", &extents);
            for name in ["y", "x"] {
                b.tensor(rng, name, &extents, &all);
            }
            let tolerance = arguments::tolerance(t.dtype);
            (t.clone(), b.finish(Arc::new(t), tolerance))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use bespoke_device::Arch;
    use bespoke_reference::Number;

    use super::*;
    use crate::oracle::Oracle;

    #[test]
    fn twin_and_definition_agree() {
        for seed in 0..40 {
            for (t, s) in typed_samples(&mut Rng::new(seed)) {
                let oracle = Oracle::new(&s);
                let extents = oracle.args().ints("d", t.outer + 1);
                let (x, view) = oracle.read("x", t.outer + 1);
                oracle.check(&extents, |p| {
                    let i = p[t.outer];
                    let range = match (t.reverse, t.exclusive) {
                        (false, false) => 0..i + 1,
                        (false, true) => 0..i,
                        (true, false) => i..extents[t.outer],
                        (true, true) => i + 1..extents[t.outer],
                    };
                    let at = |j: i64| {
                        let mut q = p.to_vec();
                        q[t.outer] = j;
                        x.get(view.at(&q) as usize)
                    };
                    if t.dtype.is_float() {
                        Number::F(range.map(|j| at(j).to_f64()).sum()).cast(t.dtype)
                    } else {
                        Number::I(range.map(|j| at(j).to_int()).sum()).cast(t.dtype)
                    }
                });
            }
        }
    }

    #[test]
    fn definitions_of_bytes() {
        let t = CumSum {
            outer: 1,
            dtype: DType::U8,
            exclusive: true,
            reverse: false,
        };
        insta::assert_snapshot!(t.definitions(&DeviceProps::preset(Arch::sm(89))));
    }
}

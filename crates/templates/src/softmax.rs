//! Softmax along the last axis, with whatever comes before and after it: `exp(x − max) / Σ exp(x − max)`, or its logarithm.
//!
//! A row is read once where it fits in the registers of its threads. A row of nothing but −∞ yields NaN, as the definition
//! does.

use bespoke_device::{DeviceProps, LaunchConfig, Operand, TwinError};
use bespoke_ir::{DType, Expr};

use crate::pointwise::view_bytes;
use crate::rows::{self, Rows};
use crate::rows_host::{self, Real};
use crate::rowwise;
use crate::sample::{Rng, Sample};
use crate::spec::{Args, Cost, Param, Template, Tile};
use crate::view;

/// See the module.
///
/// Space `d0 … d{outer}`, the last axis being the row; `x0 …` feed the prologue; operand 0 of the epilogue is the softmax
/// (of the prologue's type), its others are `e0 …`; the result is `y`. All are viewed over the whole space.
#[derive(Clone, Debug, PartialEq)]
pub struct Softmax {
    /// Number of outer axes.
    pub outer: usize,
    /// Whether the logarithm is taken.
    pub log: bool,
    /// What softmax is applied to; of a float type.
    pub prologue: Expr,
    /// What is done with it.
    pub epilogue: Expr,
}

impl Softmax {
    fn space(&self) -> Rows {
        Rows {
            outer: self.outer,
            inner: 1,
        }
    }

    fn extras(&self) -> &[DType] {
        self.epilogue.inputs().get(1..).unwrap_or(&[])
    }

    fn run_real<T: Real>(
        &self,
        args: &Args<'_>,
        operands: &mut [Operand<'_>],
    ) -> Result<(), TwinError> {
        rows_host::rowwise::<T>(
            self.space(),
            &self.prologue,
            &self.epilogue,
            args,
            operands,
            |x, y| {
                let top = rows_host::largest(x);
                if self.log {
                    let sum = T::of_f64(rows_host::sum_exponentials(x, top).ln());
                    rows_host::map(x, y, |v| v.sub(top).sub(sum));
                } else {
                    let sum = rows_host::exponentials(x, top, y);
                    rows_host::scaled(y, T::of_f64(1.0 / sum));
                }
            },
        )
    }
}

impl Template for Softmax {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn describe(&self) -> String {
        let types = |list: &[DType]| list.iter().map(|t| t.name()).collect::<Vec<_>>().join(", ");
        format!(
            "outer={}{} prologue=({}) {} epilogue=({}) {}",
            self.outer,
            if self.log { " log" } else { "" },
            types(self.prologue.inputs()),
            self.prologue,
            types(self.epilogue.inputs()),
            self.epilogue
        )
    }

    fn params(&self) -> Vec<Param> {
        let rank = self.space().rank();
        let mut params = view::extents(rank);
        params.extend(view::write("y", self.epilogue.dtype(), rank));
        for (name, ty) in rows::names("x", self.prologue.inputs()) {
            params.extend(view::read(&name, ty, rank));
        }
        for (name, ty) in rows::names("e", self.extras()) {
            params.extend(view::read(&name, ty, rank));
        }
        params
    }

    fn body(&self) -> &'static str {
        concat!(
            include_str!(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/../../kernels/rows.cuh"
            )),
            "\n",
            include_str!(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/../../kernels/rowwise.cuh"
            )),
            "\n",
            include_str!(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/../../kernels/softmax.cu"
            ))
        )
    }

    fn definitions(&self, _: &DeviceProps) -> String {
        let mut out = self.space().rowwise(&self.prologue, &self.epilogue);
        out.push_str(&format!("constexpr bool LOGARITHM = {};\n", self.log));
        out
    }

    fn tiles(&self, args: Option<&Args<'_>>, props: &DeviceProps) -> Vec<Tile> {
        let lead = (!self.prologue.inputs().is_empty()).then_some("x0");
        let widest = self
            .prologue
            .inputs()
            .iter()
            .filter_map(|t| t.size())
            .max()
            .unwrap_or(4);
        self.space()
            .tiles(args, lead, (16 / widest as i64).clamp(1, 8), 4, props)
    }

    fn geometry(&self, tile: &Tile, args: Option<&Args<'_>>, props: &DeviceProps) -> LaunchConfig {
        self.space().geometry(tile, args, props)
    }

    fn cost(&self, args: &Args<'_>) -> Cost {
        let extents = args.ints("d", self.space().rank());
        let points: f64 = extents.iter().map(|&d| d.max(0) as f64).product();
        let reads = rows::names("x", self.prologue.inputs())
            .into_iter()
            .chain(rows::names("e", self.extras()));
        let read: f64 = reads
            .map(|(name, ty)| view_bytes(args, &name, &extents, ty))
            .sum();
        let written = points * f64::from(self.epilogue.dtype().bits()) / 8.0;
        let operations =
            (self.prologue.operations() + self.epilogue.operations() + 4) as f64 * points;
        Cost {
            operations,
            bytes: read + written,
            tensor_cores: false,
        }
    }

    fn run(&self, args: &Args<'_>, operands: &mut [Operand<'_>]) -> Result<(), TwinError> {
        if self.prologue.dtype() == DType::F64 {
            self.run_real::<f64>(args, operands)
        } else {
            self.run_real::<f32>(args, operands)
        }
    }
}

/// Random runs.
pub fn samples(rng: &mut Rng) -> Vec<Sample> {
    typed_samples(rng).into_iter().map(|s| s.1).collect()
}

fn typed_samples(rng: &mut Rng) -> Vec<(Softmax, Sample)> {
    (0..4)
        .map(|_| {
            let outer = rng.int(0, 3) as usize;
            let log = rng.chance(3);
            let space = Rows { outer, inner: 1 };
            rowwise::sample(rng, space, |prologue, epilogue| Softmax {
                outer,
                log,
                prologue,
                epilogue,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use bespoke_device::Arch;

    use std::sync::Arc;

    use super::*;
    use crate::arguments::Arguments;
    use crate::sample::SampleSlot;

    #[test]
    fn twin_and_definition_agree() {
        for seed in 0..16 {
            for (t, s) in typed_samples(&mut Rng::new(seed)) {
                check(&t, &s);
            }
        }
    }

    /// The definition in `f64`.
    fn check(t: &Softmax, s: &Sample) {
        rowwise::check(s, t.space(), &t.prologue, &t.epilogue, |values| {
            let top = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = values.iter().map(|v| (v - top).exp()).sum();
            for v in values {
                *v = if t.log {
                    *v - top - sum.ln()
                } else {
                    (*v - top).exp() / sum
                };
            }
        });
    }

    #[test]
    fn a_row_that_is_masked_out_is_undefined() {
        let x = Expr::identity(DType::F32);
        let t = Softmax {
            outer: 1,
            log: false,
            prologue: x.clone(),
            epilogue: x,
        };
        let data: Vec<u8> = [f32::NEG_INFINITY, f32::NEG_INFINITY, 0.0, f32::NEG_INFINITY]
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect();
        let mut b = Arguments::new(&t);
        for (name, v) in [
            ("d0", 2),
            ("d1", 2),
            ("y_o", 0),
            ("y_s0", 2),
            ("y_s1", 1),
            ("x0_o", 0),
            ("x0_s0", 2),
            ("x0_s1", 1),
        ] {
            b.int(name, v);
        }
        b.set("x0", SampleSlot::Read(data));
        b.set("y", SampleSlot::Write(vec![0; 16]));
        let y = b.finish(Arc::new(t), 0.0).run_twin().unwrap();
        let y: Vec<f32> = y[0]
            .chunks(4)
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
            .collect();
        assert!(y[0].is_nan() && y[1].is_nan());
        assert_eq!(y[2..], [1.0, 0.0]);
    }

    #[test]
    fn definitions_of_a_plain_row() {
        let x = Expr::identity(DType::F16);
        let t = Softmax {
            outer: 1,
            log: false,
            prologue: x.clone(),
            epilogue: x,
        };
        insta::assert_snapshot!(t.definitions(&DeviceProps::preset(Arch::sm(89))));
    }
}

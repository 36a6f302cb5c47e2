//! Softmax along the last axis, with whatever comes before and after it: `exp(x − max) / Σ exp(x − max)`, or its logarithm.
//!
//! A row is read once where it fits in the registers of its threads. A row of nothing but −∞ yields NaN, as the definition
//! does.

use std::sync::Arc;

use bespoke_device::{DeviceProps, LaunchConfig, Operand, TwinError};
use bespoke_ir::{DType, Expr};

use crate::framed::Framed;
use crate::rows::{Kept, Rows};
use crate::rows_host::{self, Real};
use crate::rowwise;
use crate::sample::{Rng, Sample};
use crate::source::kernel_text;
use crate::spec::{Args, Cost, Param, Template, Tile};

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
    fn frame(&self) -> Framed<'_> {
        let space = Rows {
            outer: self.outer,
            inner: 1,
        };
        Framed {
            space,
            kept: space.rank(),
            residual: None,
            prologue: &self.prologue,
            epilogue: &self.epilogue,
        }
    }

    fn run_real<T: Real>(
        &self,
        args: &Args<'_>,
        operands: &mut [Operand<'_>],
    ) -> Result<(), TwinError> {
        rows_host::rowwise::<T>(self.frame(), args, operands, |x, y| {
            let top = rows_host::largest(x);
            if self.log {
                let sum = T::of_f64(rows_host::sum_exponentials(x, top).ln());
                rows_host::map(x, y, |v| v.sub(top).sub(sum));
            } else {
                let sum = rows_host::exponentials(x, top, y);
                rows_host::scaled(y, T::of_f64(1.0 / sum));
            }
        })
    }
}

impl Template for Softmax {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn describe(&self) -> String {
        format!(
            "outer={}{} {}",
            self.outer,
            if self.log { " log" } else { "" },
            self.frame().describe()
        )
    }

    fn params(&self) -> Vec<Param> {
        self.frame().params()
    }

    fn body(&self) -> &'static str {
        kernel_text!("\n"; "rows.cuh", "rowwise.cuh", "softmax.cu")
    }

    fn definitions(&self, _: &DeviceProps) -> String {
        let mut out = self.frame().rowwise();
        out.push_str(&format!("constexpr bool LOGARITHM = {};\n", self.log));
        out
    }

    fn tiles(&self, args: Option<&Args<'_>>, props: &DeviceProps) -> Vec<Tile> {
        // exponentials are not computed twice, so that there is no use in keeping what they are of
        self.frame().tiles(args, Kept::WIDE, props)
    }

    fn geometry(&self, tile: &Tile, args: Option<&Args<'_>>, props: &DeviceProps) -> LaunchConfig {
        self.frame().space.geometry(tile, args, props)
    }

    fn cost(&self, args: &Args<'_>) -> Cost {
        self.frame().cost(args, 4)
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
            let (prologue, epilogue) = rowwise::expressions(rng);
            let template = Softmax {
                outer,
                log,
                prologue,
                epilogue,
            };
            let sample = template.frame().sample(rng, Arc::new(template.clone()));
            (template, sample)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use bespoke_device::Arch;

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
        rowwise::check(s, t.frame(), |values| {
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

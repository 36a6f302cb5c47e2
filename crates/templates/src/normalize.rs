//! Normalisation over the inner axes, with whatever comes before and after it: `(x − mean) / √(variance + ε)`, or
//! `x / √(mean square + ε)`.
//!
//! The variance is taken of the differences from the mean, in `f32` at least. For rows of `f32` and `f64` these are added up too,
//! which says what the rounded mean is off by: large means cost no accuracy. A row is read once where it fits in the
//! registers of its threads.
//!
//! What is normalised may be a result as well: a sum that the next layers read, `z = x + r` mostly. One kernel then does
//! what would be two, and `z` is not read. Statistics are those of `z` as it is stored, so that the results are the same
//! as those of two kernels.

use std::sync::Arc;

use bespoke_device::{DeviceProps, LaunchConfig, Operand, TwinError};
use bespoke_ir::expr::Scalar;
use bespoke_ir::{DType, Expr};

use crate::expr::cuda;
use crate::framed::Framed;
use crate::rows::{Kept, Rows};
use crate::rows_host::{self, Real};
use crate::rowwise;
use crate::sample::{Rng, Sample};
use crate::source::kernel_text;
use crate::spec::{Args, Cost, Param, Template, Tile};

/// See the module.
///
/// Space `d0 … d{outer+inner-1}`, outer axes first; `x0 …` feed the residual, whose value is the result `z`, or the prologue
/// if there is none; operand 0 of the epilogue is the normalised value (of the prologue's type), its others are `e0 …`; the
/// result is `y`. All are viewed over the whole space.
#[derive(Clone, Debug, PartialEq)]
pub struct Normalize {
    /// Number of outer axes.
    pub outer: usize,
    /// Number of axes over which statistics are taken.
    pub inner: usize,
    /// Whether the mean is subtracted; without, this is RMS normalisation.
    pub center: bool,
    /// Added to the variance.
    pub epsilon: f64,
    /// What is stored before it is normalised, if anything is; reads no coordinates.
    pub residual: Option<Expr>,
    /// What is normalised; of a float type. With a residual its only operand is `z`.
    pub prologue: Expr,
    /// What is done with it.
    pub epilogue: Expr,
}

impl Normalize {
    fn frame(&self) -> Framed<'_> {
        let space = Rows {
            outer: self.outer,
            inner: self.inner,
        };
        Framed {
            space,
            kept: space.rank(),
            residual: self.residual.as_ref(),
            prologue: &self.prologue,
            epilogue: &self.epilogue,
        }
    }

    /// Whether rows are of a type of 16 bits.
    fn is_narrow(&self) -> bool {
        matches!(self.prologue.dtype(), DType::F16 | DType::BF16)
    }

    fn run_real<T: Real>(
        &self,
        args: &Args<'_>,
        operands: &mut [Operand<'_>],
    ) -> Result<(), TwinError> {
        rows_host::rowwise::<T>(self.frame(), args, operands, |x, y| {
            let count = x.len() as f64;
            let mean = if self.center {
                T::of_f64(rows_host::sum_of(x, |v| v) / count)
            } else {
                T::ZERO
            };
            let square = rows_host::sum_of(x, |v| v.sub(mean).mul(v.sub(mean))) / count;
            let scale = T::of_f64(1.0 / (square + self.epsilon).sqrt());
            rows_host::map(x, y, |v| v.sub(mean).mul(scale));
        })
    }
}

impl Template for Normalize {
    fn name(&self) -> &'static str {
        "normalize"
    }

    fn describe(&self) -> String {
        format!(
            "outer={} inner={}{} epsilon={:?} {}",
            self.outer,
            self.inner,
            if self.center { " center" } else { "" },
            self.epsilon,
            self.frame().describe()
        )
    }

    fn params(&self) -> Vec<Param> {
        self.frame().params()
    }

    fn body(&self) -> &'static str {
        kernel_text!("\n"; "rows.cuh", "rowwise.cuh", "normalize.cu")
    }

    fn definitions(&self, _: &DeviceProps) -> String {
        let mut out = self.frame().rowwise();
        // printed as a double, whatever the value
        out.push_str(&format!(
            "constexpr bool CENTER = {}, REFINED = {};\n#define EPSILON {}\n",
            self.center,
            // results of 16 bits do not show what a mean is off by
            self.center && !self.is_narrow(),
            cuda::literal(Scalar::float(DType::F64, self.epsilon))
        ));
        out
    }

    fn tiles(&self, args: Option<&Args<'_>>, props: &DeviceProps) -> Vec<Tile> {
        let frame = self.frame();
        let kept = match frame.is_plain_and_narrow() {
            true => Kept::NARROW,
            false => Kept::WIDE,
        };
        frame.tiles(args, kept, props)
    }

    fn geometry(&self, tile: &Tile, args: Option<&Args<'_>>, props: &DeviceProps) -> LaunchConfig {
        self.frame().space.geometry(tile, args, props)
    }

    fn cost(&self, args: &Args<'_>) -> Cost {
        self.frame().cost(args, 6)
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

fn typed_samples(rng: &mut Rng) -> Vec<(Normalize, Sample)> {
    (0..4)
        .map(|i| {
            let (outer, inner) = (rng.int(0, 2) as usize, rng.int(1, 3) as usize);
            let (center, epsilon) = (rng.chance(2), *rng.pick(&[1e-3, 0.1, 2.0]));
            let (mut prologue, epilogue) = rowwise::expressions(rng);
            let residual = (i % 2 == 1).then(|| rowwise::residual(rng, &mut prologue));
            let template = Normalize {
                outer,
                inner,
                center,
                epsilon,
                residual,
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
    fn check(t: &Normalize, s: &Sample) {
        rowwise::check(s, t.frame(), |values| {
            let count = values.len() as f64;
            let mean = if t.center {
                values.iter().sum::<f64>() / count
            } else {
                0.0
            };
            let square = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / count;
            for v in values {
                *v = (*v - mean) / (square + t.epsilon).sqrt();
            }
        });
    }

    #[test]
    fn what_is_stored_is_normalised_as_if_it_were_read_back() {
        for seed in 0..16 {
            for (t, s) in typed_samples(&mut Rng::new(seed)) {
                if t.residual.is_none() {
                    continue;
                }
                let both = s.run_twin().unwrap();
                let alone = Normalize {
                    residual: None,
                    ..t
                };
                let mut b = Arguments::new(&alone);
                for (p, slot) in s.template.params().iter().zip(&s.slots) {
                    let name = match p.name.strip_prefix('z') {
                        Some(rest) => format!("x0{rest}"),
                        None if p.name.starts_with('x') => continue,
                        None => p.name.clone(),
                    };
                    let slot = match p.name.as_str() {
                        "z" => SampleSlot::Read(both[1].clone()),
                        _ => slot.clone(),
                    };
                    b.set(&name, slot);
                }
                let alone = b.finish(Arc::new(alone), 0.0).run_twin().unwrap();
                assert!(alone[0] == both[0], "{}", s.template.describe());
            }
        }
    }

    /// Two axes of halves.
    fn plain(residual: Option<Expr>) -> Normalize {
        let x = Expr::identity(DType::F16);
        Normalize {
            outer: 1,
            inner: 2,
            center: true,
            epsilon: 1e-5,
            residual,
            prologue: x.clone(),
            epilogue: x,
        }
    }

    fn definitions(t: &Normalize) -> String {
        t.definitions(&DeviceProps::preset(Arch::sm(89)))
    }

    #[test]
    fn definitions_of_a_plain_row() {
        insta::assert_snapshot!(definitions(&plain(None)));
    }

    #[test]
    fn definitions_of_a_row_that_is_stored() {
        insta::assert_snapshot!(definitions(&plain(Some(sum()))));
    }

    fn sum() -> Expr {
        Expr::binary(bespoke_ir::BinaryOp::Add, DType::F16)
    }
}

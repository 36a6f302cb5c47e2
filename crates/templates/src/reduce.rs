//! Reduction over the inner axes, with whatever comes before and after it.
//!
//! Narrow floats accumulate in `f32`, `f64` in itself, integers in a type at least as wide as theirs (which wraps to the
//! same result). One group of threads reduces a row; the order of operations is fixed, so results are reproducible.

use std::fmt::Write as _;
use std::sync::Arc;

use bespoke_device::{DeviceProps, LaunchConfig, Operand, TwinError};
use bespoke_ir::expr::Scalar;
use bespoke_ir::op::reduce::ReduceKind;
use bespoke_ir::{DType, Expr};

use crate::expr::cuda;
use crate::framed::Framed;
use crate::rows::{self, Kept, Rows};
use crate::sample::{self, Rng, Sample};
use crate::source::{cuda_compute_type, cuda_type, kernel_text};
use crate::spec::{Args, Cost, Param, Template, Tile};

mod host;

/// See the module.
///
/// Space `d0 … d{outer+inner-1}`, outer axes first; `x0 …` over the whole space feed the prologue, whose result is reduced
/// over the inner axes. Operand 0 of the epilogue is the reduced value (of the prologue's type), its others are `e0 …` over
/// the outer axes, as is the result `y`.
#[derive(Clone, Debug, PartialEq)]
pub struct Reduce {
    /// What is computed.
    pub kind: ReduceKind,
    /// Number of axes that stay.
    pub outer: usize,
    /// Number of axes that are reduced.
    pub inner: usize,
    /// What is reduced.
    pub prologue: Expr,
    /// What is done with the reduced value.
    pub epilogue: Expr,
}

impl Reduce {
    fn space(&self) -> Rows {
        Rows {
            outer: self.outer,
            inner: self.inner,
        }
    }

    fn frame(&self) -> Framed<'_> {
        Framed {
            space: self.space(),
            kept: self.outer,
            residual: None,
            prologue: &self.prologue,
            epilogue: &self.epilogue,
        }
    }

    /// Type of the reduced elements.
    fn value(&self) -> DType {
        self.prologue.dtype()
    }

    /// Whether terms are exponentials relative to the largest element.
    fn shifted(&self) -> bool {
        self.kind == ReduceKind::LogSumExp
    }

    /// The CUDA type of an accumulator.
    fn accumulator(&self) -> &'static str {
        match self.value() {
            DType::F64 => "double",
            ty if ty.is_float() => "float",
            _ if self.shifted() => "double",
            DType::I64 => "long long",
            DType::U64 => "unsigned long long",
            ty if ty.is_unsigned_int() => "unsigned int",
            _ => "int",
        }
    }

    /// `initial`, `term`, `Join` and `finish`.
    fn accumulation(&self) -> String {
        use ReduceKind::*;
        let ty = self.value();
        let a = self.accumulator();
        let real = ty.is_float() || self.shifted();
        let extreme = |largest: bool| {
            if real {
                return if largest { "-INFINITE" } else { "INFINITE" }.to_owned();
            }
            cuda::literal(Scalar::int(ty, limit(ty, !largest)))
        };
        let initial = match self.kind {
            Max => extreme(true),
            Min => extreme(false),
            Prod => "1".to_owned(),
            _ => "0".to_owned(),
        };
        let term = match self.kind {
            SumSquare | L2 if real => "(A)x * (A)x",
            SumSquare | L2 => "wrap_mul((A)x, (A)x)",
            L1 if real => "x < 0 ? -(A)x : (A)x",
            L1 => "x < 0 ? wrap_sub((A)0, (A)x) : (A)x",
            LogSumExp => "exponential((A)x - shift)",
            _ => "(A)x",
        };
        let join = match self.kind {
            Max if real => "nan_max(a, b)",
            Min if real => "nan_min(a, b)",
            Max => "maximum(a, b)",
            Min => "minimum(a, b)",
            Prod if real => "a * b",
            Prod => "wrap_mul(a, b)",
            _ if real => "a + b",
            _ => "wrap_add(a, b)",
        };
        // the sum of integers wraps to their type before anything is done with it
        let of_reals = |f: &str| {
            if ty.is_float() {
                f.replace('#', "sum")
            } else {
                format!("saturate<P>({})", f.replace('#', "(double)(P)sum"))
            }
        };
        let finish = match self.kind {
            Mean if ty.is_float() => "sum / (A)count".to_owned(),
            Mean if ty == DType::U64 => {
                "count > 0 ? sum / (unsigned long long)count : 0".to_owned()
            }
            Mean => "count > 0 ? (P)((long long)(P)sum / count) : (P)0".to_owned(),
            L2 => of_reals(if a == "float" { "sqrtf(#)" } else { "sqrt(#)" }),
            LogSum => of_reals(if a == "float" { "logf(#)" } else { "log(#)" }),
            LogSumExp if ty.is_float() => "logarithm(sum) + shift".to_owned(),
            LogSumExp => "saturate<P>(logarithm(sum) + shift)".to_owned(),
            _ => "(P)sum".to_owned(),
        };
        let f = "__device__ __forceinline__";
        format!(
            "{f} A initial() {{ return {initial}; }}\n\
             {f} A term(P x, A shift) {{ return {term}; }}\n\
             struct Join {{ {f} static A join(A a, A b) {{ return {join}; }} }};\n\
             {f} P finish(A sum, A shift, long long count) {{ return {finish}; }}\n"
        )
    }
}

/// The largest or smallest value of an integer type, as the bits that a literal holds.
fn limit(ty: DType, largest: bool) -> i64 {
    let bits = ty.bits();
    match (ty, largest) {
        (DType::Bool, largest) => i64::from(largest),
        (DType::U64, true) => -1,
        (ty, true) if ty.is_unsigned_int() => (1i64 << bits) - 1,
        (ty, false) if ty.is_unsigned_int() => 0,
        (_, true) => i64::MAX >> (64 - bits),
        (_, false) => i64::MIN >> (64 - bits),
    }
}

impl Template for Reduce {
    fn name(&self) -> &'static str {
        "reduce"
    }

    fn describe(&self) -> String {
        format!(
            "{} outer={} inner={} {}",
            self.kind.name(),
            self.outer,
            self.inner,
            self.frame().describe()
        )
    }

    fn params(&self) -> Vec<Param> {
        self.frame().params()
    }

    fn body(&self) -> &'static str {
        kernel_text!("\n"; "rows.cuh", "reduce.cu")
    }

    fn definitions(&self, _: &DeviceProps) -> String {
        let space = self.space();
        let (inputs, extras) = (self.frame().inputs(), self.frame().extras());
        let mut out = cuda::function("prologue", &self.prologue);
        out.push_str(&cuda::function("epilogue", &self.epilogue));
        // writing to a String cannot fail
        let _ = writeln!(
            out,
            "typedef {} A;\ntypedef {} P;",
            self.accumulator(),
            cuda_compute_type(self.value())
        );
        out.push_str(&rows::reals(if self.accumulator() == "double" {
            DType::F64
        } else {
            self.value()
        }));
        out.push_str(&self.accumulation());
        let _ = writeln!(out, "#define SHIFTED {}", i32::from(self.shifted()));
        out.push_str(&space.vectors(&rows::names("x", inputs), &[]));
        let mut bases: Vec<(String, String)> = rows::names("x", inputs)
            .into_iter()
            .chain(rows::names("e", extras))
            .map(|(name, ty)| (name, format!("const {}", cuda_type(ty))))
            .collect();
        bases.push(("y".to_owned(), cuda_type(self.epilogue.dtype()).to_owned()));
        out.push_str(&space.space(&bases));
        out.push_str(&space.fetches("FETCH_X", "x", inputs));
        let value = cuda::call(
            "prologue",
            &self.prologue,
            &Rows::packed_values("x", inputs),
            |a| space.coordinate(a),
        );
        let mut values = vec!["reduced".to_owned()];
        values.extend(
            extras
                .iter()
                .enumerate()
                .map(|(i, &ty)| cuda::load(ty, &format!("e{i}_p"), "0")),
        );
        let result = cuda::call("epilogue", &self.epilogue, &values, |a| format!("i{a}"));
        let _ = writeln!(
            out,
            "#define VALUE(v) {value}\n#define STORE store(y_p, {result});"
        );
        out
    }

    fn tiles(&self, args: Option<&Args<'_>>, props: &DeviceProps) -> Vec<Tile> {
        self.frame().tiles(args, Kept::NONE, props)
    }

    fn geometry(&self, tile: &Tile, args: Option<&Args<'_>>, props: &DeviceProps) -> LaunchConfig {
        self.space().geometry(tile, args, props)
    }

    fn cost(&self, args: &Args<'_>) -> Cost {
        self.frame().cost(args, 1)
    }

    fn run(&self, args: &Args<'_>, operands: &mut [Operand<'_>]) -> Result<(), TwinError> {
        host::run(self, args, operands)
    }
}

/// Random runs.
pub fn samples(rng: &mut Rng) -> Vec<Sample> {
    typed_samples(rng).into_iter().map(|s| s.1).collect()
}

fn typed_samples(rng: &mut Rng) -> Vec<(Reduce, Sample)> {
    use DType::*;
    (0..4)
        .map(|_| {
            let (outer, inner) = (rng.int(0, 3) as usize, rng.int(0, 2) as usize);
            let ty = *rng.pick(&[F32, F32, F16, BF16, F64, I32, I64, U8, I8, Bool]);
            let kinds: Vec<ReduceKind> = ReduceKind::ALL
                .iter()
                .map(|k| k.0)
                .filter(|k| {
                    ty.is_float()
                        || !matches!(
                            k,
                            ReduceKind::L2 | ReduceKind::LogSum | ReduceKind::LogSumExp
                        )
                })
                .filter(|k| ty != Bool || matches!(k, ReduceKind::Max | ReduceKind::Min))
                .collect();
            let kind = *rng.pick(&kinds);
            let operands: Vec<DType> = (0..rng.int(1, 2))
                .map(|_| *rng.pick(&[ty, ty, F32]))
                .collect();
            let prologue = if operands == [ty] {
                Expr::identity(ty)
            } else {
                sample::expression(rng, &operands, ty)
            };
            let extras: Vec<DType> = (0..rng.int(0, 1))
                .map(|_| *rng.pick(&[ty, F32, I32]))
                .collect();
            let types: Vec<DType> = std::iter::once(ty).chain(extras.iter().copied()).collect();
            let result = *rng.pick(&[ty, ty, F32]);
            // a logarithm of what may be negative is undefined, and that must come through unchanged
            let epilogue = if extras.is_empty() && result == ty {
                Expr::identity(ty)
            } else {
                sample::expression(rng, &types, result)
            };
            let template = Reduce {
                kind,
                outer,
                inner,
                prologue,
                epilogue,
            };
            let sample = template.frame().sample(rng, Arc::new(template.clone()));
            (template, sample)
        })
        .collect()
}

#[cfg(test)]
mod tests;

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

use crate::arguments::{self, Arguments};
use crate::expr::cuda;
use crate::pointwise::view_bytes;
use crate::rows::{self, Rows};
use crate::sample::{self, Rng, Sample};
use crate::source::{cuda_compute_type, cuda_type};
use crate::spec::{Args, Cost, Param, Template, Tile};
use crate::view;

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

    fn extras(&self) -> &[DType] {
        self.epilogue.inputs().get(1..).unwrap_or(&[])
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
        let types = |list: &[DType]| list.iter().map(|t| t.name()).collect::<Vec<_>>().join(", ");
        format!(
            "{} outer={} inner={} prologue=({}) {} epilogue=({}) {}",
            self.kind.name(),
            self.outer,
            self.inner,
            types(self.prologue.inputs()),
            self.prologue,
            types(self.epilogue.inputs()),
            self.epilogue
        )
    }

    fn params(&self) -> Vec<Param> {
        let rank = self.space().rank();
        let mut params = view::extents(rank);
        params.extend(view::write("y", self.epilogue.dtype(), self.outer));
        for (name, ty) in rows::names("x", self.prologue.inputs()) {
            params.extend(view::read(&name, ty, rank));
        }
        for (name, ty) in rows::names("e", self.extras()) {
            params.extend(view::read(&name, ty, self.outer));
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
                "/../../kernels/reduce.cu"
            ))
        )
    }

    fn definitions(&self, _: &DeviceProps) -> String {
        let space = self.space();
        let (inputs, extras) = (self.prologue.inputs(), self.extras());
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
        let lead = (!self.prologue.inputs().is_empty()).then_some("x0");
        let widest = self
            .prologue
            .inputs()
            .iter()
            .filter_map(|t| t.size())
            .max()
            .unwrap_or(4);
        self.space()
            .tiles(args, lead, (16 / widest as i64).clamp(1, 8), 0, props)
    }

    fn geometry(&self, tile: &Tile, args: Option<&Args<'_>>, props: &DeviceProps) -> LaunchConfig {
        self.space().geometry(tile, args, props)
    }

    fn cost(&self, args: &Args<'_>) -> Cost {
        let extents = args.ints("d", self.space().rank());
        let points: f64 = extents.iter().map(|&d| d.max(0) as f64).product();
        let rows = self.space().rows(args) as f64;
        let read: f64 = rows::names("x", self.prologue.inputs())
            .iter()
            .map(|(name, ty)| view_bytes(args, name, &extents, *ty))
            .sum::<f64>()
            + rows::names("e", self.extras())
                .iter()
                .map(|(name, ty)| view_bytes(args, name, &extents[..self.outer], *ty))
                .sum::<f64>();
        let written = rows * f64::from(self.epilogue.dtype().bits()) / 8.0;
        let operations = (self.prologue.operations() + 1) as f64 * points
            + self.epilogue.operations() as f64 * rows;
        Cost {
            operations,
            bytes: read + written,
            tensor_cores: false,
        }
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
            let rank = template.space().rank();
            let mut extents = sample::extents(rng, rank, 20_000);
            if rng.chance(3) && inner > 0 {
                extents[rank - 1] = *rng.pick(&[513, 2048, 5000, 20_000]);
                extents[..rank - 1]
                    .iter_mut()
                    .for_each(|d| *d = (*d).min(2));
            }
            let mut b = Arguments::new(&template);
            for (a, &d) in extents.iter().enumerate() {
                b.int(&format!("d{a}"), d);
            }
            let all: Vec<usize> = (0..rank).collect();
            let plain = rng.chance(2);
            let mut tensor = |name: &str, rank: usize| {
                if plain {
                    b.tensor_in_order(rng, name, &extents[..rank], &[], &all[..rank]);
                } else {
                    b.tensor(rng, name, &extents[..rank], &all[..rank]);
                }
            };
            tensor("y", outer);
            for (name, _) in rows::names("x", &operands) {
                tensor(&name, rank);
            }
            for (name, _) in rows::names("e", &extras) {
                tensor(&name, outer);
            }
            let tolerance = arguments::tolerance(result).max(arguments::tolerance(ty));
            (template.clone(), b.finish(Arc::new(template), tolerance))
        })
        .collect()
}

#[cfg(test)]
mod tests;

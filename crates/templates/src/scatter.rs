//! Elements that indices choose are replaced or combined: ScatterElements and ScatterND.
//!
//! The result already holds the data, which an earlier step copied. For each position of the updates a tuple of indices
//! says which element changes. Several updates may meet one element: sums, products and extrema are atomic, so that none
//! is lost (float sums may differ in the last bits from run to run); of several replacements any may win. A negative index
//! counts from the end; an update outside is dropped.

use std::fmt::Write as _;
use std::sync::Arc;

use bespoke_device::{DeviceProps, LaunchConfig, Operand, TwinError};
use bespoke_ir::op::scatter_elements::ScatterReduction;
use bespoke_ir::{BinaryOp, DType, Expr};
use half::{bf16, f16};

use crate::arguments::{self, Arguments};
use crate::expr::cuda;
use crate::expr::lanes::{self, Elements, ElementsMut};
use crate::gather::{Indexing, index_definitions};
use crate::pointwise::view_bytes;
use crate::random;
use crate::sample::{Rng, Sample};
use crate::source::{cuda_compute_type, kernel_text};
use crate::spec::{Args, Cost, Param, Template, Tile};
use crate::view::{self, Strided};
use crate::walk;

/// See the module.
///
/// Space `d0 … d{rank-1}`, that of the updates `u`. `y` is viewed over it with stride 0 along indexed axes; `i`, `i_t`,
/// `n{j}` and `y_t{j}` are as in [`crate::gather::Gather`].
#[derive(Clone, Debug, PartialEq)]
pub struct Scatter {
    /// Axes of the updates.
    pub rank: usize,
    /// Indices of a tuple; 0 addresses the whole result.
    pub tuple: usize,
    /// Type of the data and the updates.
    pub data: DType,
    /// Type of the indices, `i32` or `i64`.
    pub index: DType,
    /// How an update meets the element that is there.
    pub reduction: ScatterReduction,
}

impl Scatter {
    fn extents(&self, args: &Args<'_>) -> Vec<i64> {
        args.ints("d", self.rank)
    }

    /// The instruction that combines; none replaces.
    fn op(&self) -> Option<BinaryOp> {
        match self.reduction {
            ScatterReduction::Replace => None,
            ScatterReduction::Add => Some(BinaryOp::Add),
            ScatterReduction::Mul => Some(BinaryOp::Mul),
            ScatterReduction::Min => Some(BinaryOp::Min),
            ScatterReduction::Max => Some(BinaryOp::Max),
        }
    }
}

impl Template for Scatter {
    fn name(&self) -> &'static str {
        "scatter"
    }

    fn describe(&self) -> String {
        format!(
            "rank={} tuple={} {}[{}] {}",
            self.rank,
            self.tuple,
            self.data,
            self.index,
            self.reduction.name()
        )
    }

    fn params(&self) -> Vec<Param> {
        let mut params = view::extents(self.rank);
        params.extend(view::write("y", self.data, self.rank));
        params.extend(view::read("u", self.data, self.rank));
        params.extend(Indexing::params(self.index, self.rank, self.tuple, "y"));
        params
    }

    fn body(&self) -> &'static str {
        kernel_text!(""; "walk.cuh", "scatter.cu")
    }

    fn definitions(&self, _: &DeviceProps) -> String {
        let mut out = String::new();
        index_definitions(&mut out, self.rank, self.tuple, "y");
        walk::at_macro(&mut out, "u", self.rank);
        walk::at_macro(&mut out, "y", self.rank);
        walk::load_macro(&mut out, "u", self.data);
        // writing to a String cannot fail
        let _ = writeln!(out, "typedef {} VALUE;", cuda_compute_type(self.data));
        let _ = writeln!(
            out,
            "#define LOAD_y(p) {}",
            cuda::load(self.data, "(p)", "0")
        );
        let _ = writeln!(out, "constexpr bool REPLACE = {};", self.op().is_none());
        let native = matches!(self.data, DType::F32 | DType::F64 | DType::I32 | DType::U32);
        if self.op() == Some(BinaryOp::Add) && native {
            out.push_str("#define NATIVE_ADD\n");
        }
        match self.op() {
            Some(op) => out.push_str(&cuda::function("combine", &Expr::binary(op, self.data))),
            // never called, but named in the source
            None => out.push_str(
                "__device__ __forceinline__ VALUE combine(VALUE, VALUE v) { return v; }\n",
            ),
        }
        out
    }

    fn tiles(&self, args: Option<&Args<'_>>, props: &DeviceProps) -> Vec<Tile> {
        walk::tiles(walk::work(args, self.rank), 2, props)
    }

    fn geometry(&self, tile: &Tile, args: Option<&Args<'_>>, props: &DeviceProps) -> LaunchConfig {
        walk::geometry(tile, walk::work(args, self.rank), props)
    }

    fn cost(&self, args: &Args<'_>) -> Cost {
        let extents = self.extents(args);
        let count = walk::points(&extents) as f64;
        let size = f64::from(self.data.bits()) / 8.0;
        // an update is read, and its element read and written
        let bytes =
            count * size * 3.0 + view_bytes(args, "i", &extents, self.index) * self.tuple as f64;
        Cost {
            operations: count,
            bytes,
            tensor_cores: None,
        }
    }

    fn run(&self, args: &Args<'_>, operands: &mut [Operand<'_>]) -> Result<(), TwinError> {
        let (mut writes, reads) = lanes::split_operands(operands);
        let ([y], [u, i]) = (&mut writes[..], &reads[..]) else {
            return Err(TwinError(
                "scatter needs a result, updates and indices".into(),
            ));
        };
        let extents = self.extents(args);
        let mut y = ElementsMut::of(self.data, y)?;
        let y_view = Strided::of(args, "y", self.rank);
        let indices = Elements::of(self.index, i)?;
        let indexing = Indexing::new(args, indices, &extents, self.tuple, "y", (&y_view, y.len()))?;
        let u = lanes::View::new(
            "u",
            Elements::of(self.data, u)?,
            Strided::of(args, "u", self.rank),
            &extents,
        )?;
        // one thread: updates may meet, and a definite order makes the result definite
        let moves = Moves {
            extents,
            y: y_view,
            u: u.strided.clone(),
            indexing,
        };
        let boolean = self.data == DType::Bool;
        walk::same_type!(u.elements, &mut y, |s, d| moves.apply(
            s,
            d,
            self.reduction,
            boolean
        ));
        Ok(())
    }
}

/// Which update goes where.
struct Moves<'a> {
    extents: Vec<i64>,
    y: Strided,
    u: Strided,
    indexing: Indexing<'a>,
}

impl Moves<'_> {
    fn apply<T: Combine>(&self, u: &[T], y: &mut [T], reduction: ScatterReduction, boolean: bool) {
        let region: Vec<_> = self.extents.iter().map(|&d| 0..d).collect();
        let axis = self.extents.len().saturating_sub(1);
        let step = |v: &Strided| v.strides.get(axis).copied().unwrap_or(0);
        crate::expr::regions::for_each_row(&region, axis, |position, count| {
            let (mut from, mut at, mut to) = (
                self.indexing.at(position),
                self.u.at(position),
                self.y.at(position),
            );
            for _ in 0..count {
                if let Some(offset) = self.indexing.resolve(from) {
                    let slot = &mut y[(to + offset) as usize];
                    *slot = T::combine(reduction, boolean, *slot, u[at as usize]);
                }
                from += self.indexing.stride(axis);
                at += step(&self.u);
                to += step(&self.y);
            }
        });
    }
}

/// Elements that updates meet.
trait Combine: Copy {
    fn combine(reduction: ScatterReduction, boolean: bool, old: Self, new: Self) -> Self;
}

macro_rules! combine {
    (int: $($int:ty)*; float: $($float:ty)*; narrow: $($narrow:ty)*) => {
        $(impl Combine for $int {
            fn combine(reduction: ScatterReduction, boolean: bool, old: $int, new: $int) -> $int {
                match reduction {
                    ScatterReduction::Replace => new,
                    ScatterReduction::Add if boolean => old.max(new),
                    ScatterReduction::Add => old.wrapping_add(new),
                    ScatterReduction::Mul if boolean => old.min(new),
                    ScatterReduction::Mul => old.wrapping_mul(new),
                    ScatterReduction::Min => old.min(new),
                    ScatterReduction::Max => old.max(new),
                }
            }
        })*
        $(impl Combine for $float {
            fn combine(reduction: ScatterReduction, _: bool, old: $float, new: $float) -> $float {
                match reduction {
                    ScatterReduction::Replace => new,
                    ScatterReduction::Add => old + new,
                    ScatterReduction::Mul => old * new,
                    // NaN wins
                    ScatterReduction::Min => if old < new || old.is_nan() { old } else { new },
                    ScatterReduction::Max => if old > new || old.is_nan() { old } else { new },
                }
            }
        })*
        $(impl Combine for $narrow {
            fn combine(reduction: ScatterReduction, _: bool, old: $narrow, new: $narrow) -> $narrow {
                <$narrow>::from_f32(f32::combine(reduction, false, old.to_f32(), new.to_f32()))
            }
        })*
    };
}
combine!(int: i8 i16 i32 i64 u8 u16 u32 u64; float: f32 f64; narrow: f16 bf16);

/// Random runs of every reduction. Replacements never meet, since then any result would do.
pub fn samples(rng: &mut Rng) -> Vec<Sample> {
    cases(rng).into_iter().map(|(_, sample)| sample).collect()
}

fn cases(rng: &mut Rng) -> Vec<(Scatter, Sample)> {
    use ScatterReduction::{Add, Max, Min, Mul};
    const TYPES: &[DType] = &[
        DType::F32,
        DType::F16,
        DType::BF16,
        DType::F64,
        DType::I64,
        DType::I32,
        DType::U32,
        DType::I8,
        DType::U16,
        DType::Bool,
    ];
    let mut all = Vec::new();
    for &data in TYPES {
        for reduction in [Add, Mul, Min, Max] {
            let rank = rng.int(0, 3) as usize;
            let tuple = rng.int(1, 2) as usize;
            let index = if rng.chance(2) {
                DType::I32
            } else {
                DType::I64
            };
            let extents = random::extents(rng, rank, 300);
            let template = Scatter {
                rank,
                tuple,
                data,
                index,
                reduction,
            };
            let mut args = Arguments::new(&template);
            random::ints(&mut args, "d", &extents);
            args.tensor(rng, "u", &extents, &[]);
            random::indexed(rng, &mut args, "y", &extents, tuple, data, index);
            // sums of many narrow numbers are rounded after each, in any order
            let tolerance = arguments::tolerance(data) * 8.0;
            all.push((template.clone(), args.finish(Arc::new(template), tolerance)));
        }
    }
    all.push(replacement(rng));
    all
}

/// A permutation of rows, each replaced once.
fn replacement(rng: &mut Rng) -> (Scatter, Sample) {
    use crate::sample::SampleSlot;
    let (rows, columns) = (rng.int(1, 50), rng.int(1, 50));
    let template = Scatter {
        rank: 2,
        tuple: 1,
        data: DType::F32,
        index: DType::I64,
        reduction: ScatterReduction::Replace,
    };
    let mut order: Vec<i64> = (0..rows).collect();
    for i in (1..order.len()).rev() {
        order.swap(i, rng.int(0, i as i64) as usize);
    }
    let indices: Vec<u8> = order
        .iter()
        .flat_map(|&r| (if r % 3 == 0 { r - rows } else { r }).to_le_bytes())
        .collect();
    let mut args = Arguments::new(&template);
    random::ints(&mut args, "d", &[rows, columns]);
    args.tensor(rng, "u", &[rows, columns], &[]);
    random::view(&mut args, "i", 0, &[1, 0], SampleSlot::Read(indices));
    let y = arguments::elements(rng, DType::F32, (rows * columns) as usize);
    random::view(&mut args, "y", 0, &[0, 1], SampleSlot::Write(y));
    args.int("n0", rows);
    args.int("y_t0", columns);
    (template.clone(), args.finish(Arc::new(template), 0.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::{self, Oracle};
    use crate::sample::SampleSlot;
    use bespoke_reference::{Tensor, Tolerance, compare, expr::eval_expr};

    #[test]
    fn twin_and_definition_agree() {
        for seed in 0..12 {
            for (t, sample) in cases(&mut Rng::new(seed)) {
                let oracle = Oracle::new(&sample);
                let args = oracle.args();
                let extents = t.extents(&args);
                let (u, u_view) = oracle.read("u", t.rank);
                let i = oracle.read("i", t.rank);
                let y_view = Strided::of(&args, "y", t.rank);
                let at = t.params().iter().position(|p| p.name == "y").unwrap();
                let SampleSlot::Write(before) = &sample.slots[at] else {
                    panic!()
                };
                let count = (before.len() / t.data.size().unwrap()) as i64;
                let mut y: Vec<_> = Tensor::from_bytes(t.data, &[count], before)
                    .unwrap()
                    .iter()
                    .collect();
                bespoke_reference::index::for_positions(&extents, |p| {
                    let Some(offset) = oracle::tuple(&args, "y", &i, p, t.tuple) else {
                        return;
                    };
                    let new = u.get(u_view.at(p) as usize);
                    let slot = &mut y[(y_view.at(p) + offset) as usize];
                    *slot = match t.op() {
                        Some(op) => eval_expr(
                            &Expr::binary(op, t.data),
                            &[*slot, new],
                            &[],
                            &mut Vec::new(),
                        ),
                        None => new,
                    };
                });
                let got = sample.run_twin().unwrap();
                let got = Tensor::from_bytes(t.data, &[count], &got[0]).unwrap();
                let want = Tensor::new(t.data, &[count], y).unwrap();
                let tolerance = Tolerance {
                    of_largest: sample.tolerance,
                    ..Tolerance::EXACT
                };
                let c = compare(&got, &want, tolerance);
                assert!(c.passed(), "{}: {c}", t.describe());
            }
        }
    }

    #[test]
    fn an_empty_tuple_addresses_everything() {
        let t = Scatter {
            rank: 1,
            tuple: 0,
            data: DType::I32,
            index: DType::I64,
            reduction: ScatterReduction::Add,
        };
        let mut args = Arguments::new(&t);
        random::ints(&mut args, "d", &[2]);
        let bytes = |v: &[i32]| v.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        random::view(&mut args, "u", 0, &[1], SampleSlot::Read(bytes(&[1, 2])));
        random::view(&mut args, "i", 0, &[0], SampleSlot::Read(Vec::new()));
        random::view(&mut args, "y", 0, &[1], SampleSlot::Write(bytes(&[10, 20])));
        assert_eq!(
            args.finish(Arc::new(t), 0.0).run_twin().unwrap()[0],
            bytes(&[11, 22])
        );
    }
}

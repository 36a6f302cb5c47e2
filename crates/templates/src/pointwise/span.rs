//! Vectors that reach over several axes, or along one in another order.
//!
//! Where extents and strides of the innermost axes are known when a kernel is compiled, the elements of an operand that
//! `width` results in a row need lie at known places from the first of them. If those lie within one aligned run of
//! elements, the run is loaded whole and the elements are picked from registers: pairs that are swapped, a row that is
//! walked backward, a number for every two results. A [`Span`] says how far a vector reaches; it is legal where every operand
//! has such a run, at every position of the other axes.

use std::sync::Arc;

use bespoke_ir::DType;
use bespoke_ir::expr::{BinaryOp, ExprBuilder, UnaryOp};

use super::Pointwise;
use crate::arguments::{self, Arguments};
use crate::sample::{Rng, Sample, SampleSlot};
use crate::spec::Baked;

/// How far a vector reaches: the constants `SPAN` and `WIDTH` of a tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    /// Innermost axes that it reaches over: all positions of each but the first of them, of which it takes as many as are
    /// left.
    pub(super) axes: usize,
    /// Results of a vector.
    pub(super) width: i64,
}

/// Bytes of the run that a vector picks from at most: two loads.
const RUN: i64 = 32;

/// What is known of an integer argument.
pub(super) type Known<'k> = &'k dyn Fn(&str) -> Option<Baked>;

/// The value of an argument, if it is known.
pub(super) fn exact(known: Known<'_>, name: &str) -> Option<i64> {
    match known(name)? {
        Baked::Exact(value) => Some(value),
        Baked::Multiple(_) => None,
    }
}

/// Whether an argument is known to be a multiple of `by`, a power of two, once `more` is added.
pub(super) fn divides(known: Known<'_>, name: &str, more: i64, by: i64) -> bool {
    match known(name) {
        Some(Baked::Exact(value)) => (value + more) % by == 0,
        Some(Baked::Multiple(m)) => m % by == 0 && more % by == 0,
        None => by == 1,
    }
}

impl Span {
    /// The widest legal span of at least two results, if there is one.
    pub(super) fn widest(of: &Pointwise, known: Known<'_>) -> Option<Span> {
        let mut width = of.vector();
        while width > 1 {
            let span = Span::of(of.rank, width, known).filter(|s| s.is_legal(of, known));
            if span.is_some() {
                return span;
            }
            width /= 2;
        }
        None
    }

    /// The span of so many results, if whole axes and a part of one make it up.
    fn of(rank: usize, width: i64, known: Known<'_>) -> Option<Span> {
        let (mut axes, mut left) = (0, width);
        loop {
            let axis = rank.checked_sub(axes + 1)?;
            axes += 1;
            let name = format!("d{axis}");
            let extent = exact(known, &name);
            if extent.is_some_and(|d| d < 1) {
                return None;
            }
            if divides(known, &name, 0, left) {
                return Some(Span { axes, width });
            }
            // the whole axis, and what is left of the vector along the ones before
            let extent = extent.filter(|d| left % d == 0)?;
            left /= extent;
        }
    }

    /// Positions of a vector along each axis of the space; `None` where it does not fit.
    fn steps(self, rank: usize, known: Known<'_>) -> Option<Vec<i64>> {
        let first = rank.checked_sub(self.axes)?;
        let mut steps = vec![1; rank];
        let mut left = self.width;
        for axis in (first + 1..rank).rev() {
            let extent = exact(known, &format!("d{axis}")).filter(|d| *d > 0)?;
            if left % extent != 0 {
                return None;
            }
            steps[axis] = extent;
            left /= extent;
        }
        *steps.get_mut(first)? = left;
        divides(known, &format!("d{first}"), 0, left).then_some(steps)
    }

    /// Whether every operand has a run, and every result is one.
    pub(super) fn is_legal(self, of: &Pointwise, known: Known<'_>) -> bool {
        let Some(steps) = self.steps(of.rank, known) else {
            return false;
        };
        let run = |name: &str, dtype: DType| self.run(&steps, name, dtype, known);
        let mut inputs = of.inputs().iter().enumerate();
        let reads = inputs.all(|(i, &ty)| run(&format!("x{i}"), ty).is_some());
        let mut outputs = of.outputs.iter().enumerate();
        reads
            && outputs.all(|(k, e)| {
                let name = format!("y{k}");
                run(&name, e.dtype()) == Some(self.width)
                    && self.apart(&steps, &name, known)
                    && e.dtype().size().is_some()
            })
    }

    /// Elements of the aligned run that a vector of this operand lies in.
    fn run(self, steps: &[i64], name: &str, dtype: DType, known: Known<'_>) -> Option<i64> {
        let (mut low, mut high) = (0_i64, 0_i64);
        let mut strides = Vec::with_capacity(steps.len());
        for (axis, &count) in steps.iter().enumerate() {
            let stride = format!("{name}_s{axis}");
            if count > 1 {
                let reach = exact(known, &stride)?.checked_mul(count - 1)?;
                low = low.checked_add(reach.min(0))?;
                high = high.checked_add(reach.max(0))?;
            }
            strides.push(stride);
        }
        let size = i64::try_from(dtype.size()?).ok()?;
        let reach = high.checked_sub(low)?;
        if reach >= RUN / size {
            return None;
        }
        let run = (reach + 1).unsigned_abs().next_power_of_two() as i64;
        let aligned = divides(known, &format!("{name}_o"), low, run)
            && strides.iter().enumerate().all(|(axis, stride)| {
                match exact(known, &format!("d{axis}")) {
                    // there is only one position
                    Some(extent) if extent == steps[axis] => true,
                    // the step to the next vector; a power of two times the stride, or the stride
                    _ => self.step_divides(known, stride, steps[axis], run),
                }
            });
        aligned.then_some(run)
    }

    fn step_divides(self, known: Known<'_>, stride: &str, count: i64, run: i64) -> bool {
        match known(stride) {
            Some(Baked::Exact(s) | Baked::Multiple(s)) => {
                s.checked_mul(count).is_some_and(|step| step % run == 0)
            }
            None => count % run == 0,
        }
    }

    /// Whether the places of a vector are all different.
    fn apart(self, steps: &[i64], name: &str, known: Known<'_>) -> bool {
        let mut places = vec![0_i64];
        for (axis, &count) in steps.iter().enumerate().filter(|s| *s.1 > 1) {
            let Some(stride) = exact(known, &format!("{name}_s{axis}")) else {
                return false;
            };
            places = (0..count)
                .flat_map(|i| places.iter().map(move |p| p + i * stride))
                .collect();
        }
        places.sort_unstable();
        places.windows(2).all(|w| w[0] != w[1])
    }
}

/// A random run that a span may be for: the innermost axes are short or walked backward, operands repeat along some.
pub(super) fn sample(rng: &mut Rng) -> (Pointwise, Sample) {
    use DType::*;
    let types = [F32, F16, BF16, I8];
    let ty = *rng.pick(&types);
    let operands: Vec<DType> = (0..rng.int(1, 3))
        .map(|_| if rng.chance(4) { *rng.pick(&types) } else { ty })
        .collect();
    let mut b = ExprBuilder::new(&operands);
    let i = b.coord(3);
    let zero = b.number(I64, 0.0);
    let first = b.binary(BinaryOp::Eq, i, zero);
    let mut value = b.number(ty, 1.0);
    for k in 0..operands.len() {
        let x = b.input(k);
        let x = b.cast(ty, x);
        let negative = b.unary(UnaryOp::Neg, x);
        let x = b.select(first, negative, x);
        value = b.binary(BinaryOp::Add, value, x);
    }
    let template = Pointwise {
        rank: 4,
        outputs: vec![b.finish(value)],
    };
    let last = *rng.pick(&[1, 2, 4, 8, 6, 16]);
    let before = *rng.pick(&[1, 2, 4, 8, 12]);
    let extents = [rng.int(1, 9), rng.int(1, 5), before, last];
    let mut args = Arguments::new(&template);
    for (a, &d) in extents.iter().enumerate() {
        args.int(&format!("d{a}"), d);
    }
    let names = (0..operands.len()).map(|i| format!("x{i}"));
    for name in names.chain(["y0".to_owned()]) {
        let written = name == "y0";
        // elements lie in order, but for the axes along which there is only one, or which are walked backward
        let repeated: Vec<bool> = extents.iter().map(|_| !written && rng.chance(4)).collect();
        let backward: Vec<bool> = extents.iter().map(|_| rng.chance(4)).collect();
        let mut offset = 8 * rng.int(0, 2) + i64::from(rng.chance(8));
        let (mut step, mut strides) = (1, [0; 4]);
        for a in (0..4).rev().filter(|&a| !repeated[a]) {
            strides[a] = if backward[a] { -step } else { step };
            offset += if backward[a] {
                step * (extents[a] - 1)
            } else {
                0
            };
            step *= extents[a];
        }
        args.int(&format!("{name}_o"), offset);
        for (a, &s) in strides.iter().enumerate() {
            args.int(&format!("{name}_s{a}"), s);
        }
        let data = arguments::elements(rng, args.dtype(&name), (step + 17) as usize);
        let slot = if written {
            SampleSlot::Write
        } else {
            SampleSlot::Read
        };
        args.set(&name, slot(data));
    }
    let tolerance = arguments::tolerance(ty);
    (template.clone(), args.finish(Arc::new(template), tolerance))
}

#[cfg(test)]
mod tests;

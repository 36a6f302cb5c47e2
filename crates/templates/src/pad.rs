//! Elements added around a tensor, or removed from it: Pad.
//!
//! The result continues the data by a constant, by its edge, mirrored, or wrapped; negative amounts remove elements first.
//! The twin moves a row in runs.

use std::fmt::Write as _;
use std::sync::Arc;

use bespoke_device::{DeviceProps, LaunchConfig, Operand, TwinError};
use bespoke_ir::op::map::scalar_bytes;
use bespoke_ir::op::pad::PadMode;
use bespoke_ir::{DType, Expr, Scalar};

use crate::arguments::Arguments;
use crate::expr::cuda;
use crate::expr::host;
use crate::expr::lanes::{self, Elements, Lane, LaneMut};
use crate::random;
use crate::sample::{Rng, Sample};
use crate::source::{cuda_compute_type, kernel_text};
use crate::spec::{Args, Cost, Param, Template, Tile};
use crate::view::{self, Strided};
use crate::walk::{self, One, Target};

/// See the module.
///
/// Space `d0 … d{rank-1}`, that of the result; `x` is viewed over its own axes, of extents `in0 …`, and begins at `begin0 …`
/// (negative where its first elements are dropped).
#[derive(Clone, Debug, PartialEq)]
pub struct Pad {
    /// Number of axes.
    pub rank: usize,
    /// Element type.
    pub dtype: DType,
    /// What the new elements are.
    pub mode: PadMode,
}

/// How an axis is continued.
#[derive(Clone, Copy, Debug)]
struct Axis {
    /// The first element that is kept, and how many are.
    first: i64,
    kept: i64,
    /// Elements added in front.
    before: i64,
}

impl Axis {
    fn new(extent: i64, input: i64, begin: i64) -> Axis {
        let first = (-begin).max(0);
        let end = extent - input - begin;
        Axis {
            first,
            kept: (input - first + end.min(0)).max(0),
            before: begin.max(0),
        }
    }

    /// Where position `o` of the result reads; `None` for the constant.
    fn source(&self, mode: PadMode, o: i64) -> Option<i64> {
        let o = o - self.before;
        let at = match mode {
            PadMode::Constant(_) if !(0..self.kept).contains(&o) => return None,
            PadMode::Constant(_) => o,
            PadMode::Edge => o.clamp(0, self.kept - 1),
            PadMode::Wrap => o.rem_euclid(self.kept),
            PadMode::Reflect => {
                let period = (2 * (self.kept - 1)).max(1);
                let at = o.rem_euclid(period);
                if at < self.kept { at } else { period - at }
            }
        };
        Some(self.first + at)
    }
}

impl Pad {
    fn extents(&self, args: &Args<'_>) -> Vec<i64> {
        args.ints("d", self.rank)
    }

    fn outside(&self) -> Scalar {
        match self.mode {
            PadMode::Constant(value) => value,
            _ => Scalar::new(self.dtype, 0.0),
        }
    }

    fn mode_name(&self) -> &'static str {
        match self.mode {
            PadMode::Constant(_) => "CONSTANT",
            PadMode::Edge => "EDGE",
            PadMode::Reflect => "REFLECT",
            PadMode::Wrap => "WRAP",
        }
    }
}

impl Template for Pad {
    fn name(&self) -> &'static str {
        "pad"
    }

    fn describe(&self) -> String {
        let mode = match self.mode {
            PadMode::Constant(value) => value.to_string(),
            _ => self.mode_name().to_lowercase(),
        };
        format!("rank={} {} {mode}", self.rank, self.dtype)
    }

    fn params(&self) -> Vec<Param> {
        let mut params = view::extents(self.rank);
        params.extend((0..self.rank).map(|a| Param::int(format!("in{a}"))));
        params.extend((0..self.rank).map(|a| Param::int(format!("begin{a}"))));
        params.extend(view::write("y", self.dtype, self.rank));
        params.extend(view::read("x", self.dtype, self.rank));
        params
    }

    fn body(&self) -> &'static str {
        kernel_text!(""; "walk.cuh", "pad.cu")
    }

    fn definitions(&self, _: &DeviceProps) -> String {
        let mut out = String::new();
        let extents: Vec<String> = (0..self.rank).map(|a| format!("d{a}")).collect();
        walk::space(&mut out, &extents);
        // writing to a String cannot fail
        let _ = writeln!(
            out,
            "#define INPUT_EXTENTS {}",
            walk::list("in", self.rank, "1")
        );
        let _ = writeln!(
            out,
            "#define BEGINS {}",
            walk::list("begin", self.rank, "0")
        );
        let _ = writeln!(
            out,
            "enum {{ CONSTANT, EDGE, REFLECT, WRAP, MODE = {} }};",
            self.mode_name()
        );
        walk::at_macro(&mut out, "x", self.rank);
        walk::at_macro(&mut out, "y", self.rank);
        walk::load_macro(&mut out, "x", self.dtype);
        let _ = writeln!(out, "typedef {} VALUE;", cuda_compute_type(self.dtype));
        let _ = writeln!(out, "#define OUTSIDE {}", cuda::literal(self.outside()));
        out
    }

    fn tiles(&self, args: Option<&Args<'_>>, props: &DeviceProps) -> Vec<Tile> {
        walk::tiles(walk::work(args, self.rank), 4, props)
    }

    fn geometry(&self, tile: &Tile, args: Option<&Args<'_>>, props: &DeviceProps) -> LaunchConfig {
        walk::geometry(tile, walk::work(args, self.rank), props)
    }

    fn cost(&self, args: &Args<'_>) -> Cost {
        let elements =
            walk::points(&self.extents(args)) + walk::points(&args.ints("in", self.rank));
        let bytes = elements as f64 * f64::from(self.dtype.bits()) / 8.0;
        Cost {
            operations: 0.0,
            bytes,
            tensor_cores: None,
        }
    }

    fn run(&self, args: &Args<'_>, operands: &mut [Operand<'_>]) -> Result<(), TwinError> {
        let (mut writes, reads) = lanes::split_operands(operands);
        let ([y], [x]) = (&mut writes[..], &reads[..]) else {
            return Err(TwinError("pad needs a result and an operand".into()));
        };
        let (extents, input) = (self.extents(args), args.ints("in", self.rank));
        let x = Elements::of(self.dtype, x)?;
        let x_view = Strided::of(args, "x", self.rank);
        lanes::check("x", &x_view, &input, x.len())?;
        let begins = args.ints("begin", self.rank);
        let axes: Vec<Axis> = (0..self.rank)
            .map(|a| Axis::new(extents[a], input[a], begins[a]))
            .collect();
        let constant = matches!(self.mode, PadMode::Constant(_));
        // with an empty axis nothing is read, but for a repeating mode there would be nothing to repeat
        if !constant && walk::points(&extents) > 0 && axes.iter().any(|a| a.kept == 0) {
            return Err(TwinError(
                "an axis without elements has none to repeat".into(),
            ));
        }
        let outside = One::new(self.dtype, &scalar_bytes(self.outside()));
        let outside = outside.elements()?;
        let target = Target {
            bytes: y,
            strided: Strided::of(args, "y", self.rank),
            extents,
        };
        let identity = Expr::identity(self.dtype);
        walk::rows(
            target,
            args,
            &identity,
            &[],
            self.dtype,
            &|position, axis, count, out| {
                let mut base = x_view.offset;
                for (a, &o) in position.iter().enumerate() {
                    if a != axis {
                        match axes[a].source(self.mode, o) {
                            Some(at) => base += at * x_view.strides[a],
                            None => return walk::fill_with(outside, count, out),
                        }
                    }
                }
                let Some(row) = axes.get(axis) else {
                    return host::copy(
                        Lane {
                            elements: x,
                            start: base,
                            stride: 0,
                        },
                        count,
                        out,
                    );
                };
                let (o, stride) = (position[axis], x_view.strides[axis]);
                // the run that lies in the data as it is, and what is before and behind it
                let from = (row.before - o).clamp(0, count as i64);
                let to = (row.before + row.kept - o).clamp(from, count as i64);
                let inside = Lane {
                    elements: x,
                    start: base + (row.first + o + from - row.before) * stride,
                    stride,
                };
                host::copy(inside, (to - from) as usize, &mut part(out, from));
                for (k, n) in [(0, from), (to, count as i64 - to)] {
                    if constant {
                        walk::fill_with(outside, n as usize, &mut part(out, k));
                    } else {
                        walk::pick(x, n as usize, &mut part(out, k), |i| {
                            row.source(self.mode, o + k + i as i64)
                                .map(|at| base + at * stride)
                        });
                    }
                }
            },
        )
    }
}

/// A lane from its element `k` on.
fn part<'a, 'b>(out: &'a mut LaneMut<'_, 'b>, k: i64) -> LaneMut<'a, 'b> {
    LaneMut {
        start: out.start + k * out.stride,
        stride: out.stride,
        elements: &mut *out.elements,
    }
}

/// Random runs of every mode, with negative amounts.
pub fn samples(rng: &mut Rng) -> Vec<Sample> {
    cases(rng).into_iter().map(|(_, sample)| sample).collect()
}

fn cases(rng: &mut Rng) -> Vec<(Pad, Sample)> {
    const TYPES: &[DType] = &[
        DType::F32,
        DType::F16,
        DType::BF16,
        DType::F64,
        DType::I64,
        DType::I32,
        DType::U8,
        DType::Bool,
    ];
    let mut all = Vec::new();
    for &dtype in TYPES {
        let one = Scalar::new(dtype, 1.0);
        for mode in [
            PadMode::Constant(one),
            PadMode::Edge,
            PadMode::Reflect,
            PadMode::Wrap,
        ] {
            let rank = rng.int(0, 4) as usize;
            let input: Vec<i64> = (0..rank).map(|_| rng.int(1, 12)).collect();
            let (mut begins, mut extents) = (Vec::new(), Vec::new());
            for &n in &input {
                // reflection may reach everything but the edge itself; removal must leave something
                let most = if matches!(mode, PadMode::Reflect) {
                    n - 1
                } else {
                    5
                };
                let begin = rng.int(-(n - 1) / 2, most);
                let end = rng.int(-(n - 1) / 2, most);
                begins.push(begin);
                extents.push(n + begin + end);
            }
            let template = Pad { rank, dtype, mode };
            let mut args = Arguments::new(&template);
            random::ints(&mut args, "d", &extents);
            random::ints(&mut args, "in", &input);
            random::ints(&mut args, "begin", &begins);
            args.tensor(rng, "x", &input, &[]);
            args.tensor(rng, "y", &extents, &[]);
            all.push((template.clone(), args.finish(Arc::new(template), 0.0)));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::Oracle;
    use bespoke_ir::{Op, op};
    use bespoke_reference::{Tensor, eval_node, index};

    #[test]
    fn twin_and_reference_agree() {
        for seed in 0..15 {
            for (t, sample) in cases(&mut Rng::new(seed)) {
                let oracle = Oracle::new(&sample);
                let args = oracle.args();
                let (extents, input) = (t.extents(&args), args.ints("in", t.rank));
                let (x, view) = oracle.read("x", t.rank);
                let dense =
                    index::map_positions(&input, |p| Ok::<_, ()>(x.get(view.at(p) as usize)))
                        .unwrap();
                let dense = Tensor::new(t.dtype, &input, dense).unwrap();
                let begins = args.ints("begin", t.rank);
                let pads = (0..t.rank)
                    .map(|a| (begins[a].into(), (extents[a] - input[a] - begins[a]).into()))
                    .collect();
                let op = Op::from(op::Pad { pads, mode: t.mode });
                let want = eval_node(&op, &[&dense], &[]).unwrap().remove(0);
                let strides = index::strides(&extents);
                oracle.check(&extents, |p| want.get(index::flat(&strides, p)));
            }
        }
    }
}

//! Position of the largest or smallest element along the last axis, as `i64`.
//!
//! NaN beats every number; of equal elements the first wins, or the last.

use std::fmt::Write as _;
use std::sync::Arc;

use bespoke_device::{DeviceProps, LaunchConfig, Operand, TwinError};
use bespoke_ir::DType;

use crate::arguments::Arguments;
use crate::expr::lanes::{self, Elements, ElementsMut, View};
use crate::expr::regions;
use crate::pointwise::view_bytes;
use crate::random;
use crate::rows::{Kept, Rows};
use crate::rows_host::Keys;
use crate::sample::{self, Rng, Sample};
use crate::source::{cuda_compute_type, kernel_text};
use crate::spec::{Args, Cost, Param, Template, Tile};
use crate::view::{self, Strided};

/// See the module.
///
/// Space `d0 … d{outer}`, searched along the last; operand `x` is viewed over it, result `y` over the first `outer` axes.
#[derive(Clone, Debug, PartialEq)]
pub struct ArgReduce {
    /// Number of axes before the searched one.
    pub outer: usize,
    /// Element type of the operand.
    pub dtype: DType,
    /// Whether the largest element is sought.
    pub largest: bool,
    /// Whether the last of equal elements wins, not the first.
    pub select_last: bool,
}

impl ArgReduce {
    fn space(&self) -> Rows {
        Rows {
            outer: self.outer,
            inner: 1,
        }
    }
}

impl Template for ArgReduce {
    fn name(&self) -> &'static str {
        "arg_reduce"
    }

    fn describe(&self) -> String {
        format!(
            "{} outer={} {}{}",
            self.dtype,
            self.outer,
            if self.largest { "max" } else { "min" },
            if self.select_last { " last" } else { "" }
        )
    }

    fn params(&self) -> Vec<Param> {
        let mut params = view::extents(self.outer + 1);
        params.extend(view::write("y", DType::I64, self.outer));
        params.extend(view::read("x", self.dtype, self.outer + 1));
        params
    }

    fn body(&self) -> &'static str {
        kernel_text!("\n"; "rows.cuh", "arg_reduce.cu")
    }

    fn definitions(&self, _: &DeviceProps) -> String {
        let mut out = self
            .space()
            .row_operand("x", self.dtype, &[("y", DType::I64)]);
        // writing to a String cannot fail
        let _ = writeln!(
            out,
            "typedef {} A;\nconstexpr bool LARGEST = {}, SELECT_LAST = {};",
            cuda_compute_type(self.dtype),
            self.largest,
            self.select_last
        );
        out
    }

    fn tiles(&self, args: Option<&Args<'_>>, props: &DeviceProps) -> Vec<Tile> {
        self.space()
            .tiles(args, &["x".to_owned()], 1, Kept::NONE, props)
    }

    fn geometry(&self, tile: &Tile, args: Option<&Args<'_>>, props: &DeviceProps) -> LaunchConfig {
        self.space().geometry(tile, args, props)
    }

    fn cost(&self, args: &Args<'_>) -> Cost {
        let extents = args.ints("d", self.outer + 1);
        let points: f64 = extents.iter().map(|&d| d.max(0) as f64).product();
        let bytes =
            view_bytes(args, "x", &extents, self.dtype) + 8.0 * self.space().rows(args) as f64;
        Cost {
            operations: points,
            bytes,
            tensor_cores: None,
        }
    }

    fn run(&self, args: &Args<'_>, operands: &mut [Operand<'_>]) -> Result<(), TwinError> {
        let extents = args.ints("d", self.outer + 1);
        let (mut writes, reads) = lanes::split_operands(operands);
        let (Some(y), Some(&x)) = (writes.pop(), reads.first()) else {
            return Err(TwinError("an operand is missing".to_owned()));
        };
        let y = ElementsMut::of(DType::I64, y)?;
        let out = Strided::of(args, "y", self.outer);
        lanes::check("y", &out, &extents[..self.outer], y.len())?;
        let x = View::new(
            "x",
            Elements::of(self.dtype, x)?,
            Strided::of(args, "x", extents.len()),
            &extents,
        )?;
        let columns = extents[self.outer].max(0) as usize;
        let keys = Keys::new(x, self.largest);
        let axes: Vec<usize> = (0..self.outer).collect();
        let grain = (8192 / columns.max(1) as i64).max(1);
        regions::for_each_region(
            y,
            &out,
            &extents[..self.outer],
            &axes,
            grain,
            &|region, part| {
                regions::for_each_row(region, self.outer, |position, _| {
                    let mut start = position.to_vec();
                    start.push(0);
                    let row = keys.row(&start, self.outer, columns);
                    let mut best = 0;
                    for (i, key) in row.iter().enumerate() {
                        if *key < row[best] || (self.select_last && *key == row[best]) {
                            best = i;
                        }
                    }
                    let lane = part.lane(position, 0);
                    if let ElementsMut::I64(y) = lane.elements {
                        // a row without elements has no position
                        y[lane.start as usize] = if columns == 0 { -1 } else { best as i64 };
                    }
                });
            },
        );
        Ok(())
    }
}

/// Random runs.
pub fn samples(rng: &mut Rng) -> Vec<Sample> {
    typed_samples(rng).into_iter().map(|s| s.1).collect()
}

fn typed_samples(rng: &mut Rng) -> Vec<(ArgReduce, Sample)> {
    use DType::*;
    (0..4)
        .map(|_| {
            let t = ArgReduce {
                outer: rng.int(0, 3) as usize,
                dtype: *rng.pick(&[F32, F16, BF16, F64, I32, I64, U8, I8]),
                largest: rng.chance(2),
                select_last: rng.chance(2),
            };
            let mut extents = sample::extents(rng, t.outer + 1, 20_000);
            if rng.chance(4) {
                extents = vec![2; t.outer];
                extents.push(5000);
            }
            let all: Vec<usize> = (0..extents.len()).collect();
            let mut b = Arguments::new(&t);
            random::ints(&mut b, "d", &extents);
            b.tensor(rng, "y", &extents[..t.outer], &[]);
            // broadcast rows are full of equal elements
            b.tensor(rng, "x", &extents, &all);
            (t.clone(), b.finish(Arc::new(t), 0.0))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use bespoke_device::Arch;
    use bespoke_reference::Number;

    use super::*;
    use crate::oracle::Oracle;
    use crate::sample::SampleSlot;

    #[test]
    fn twin_and_definition_agree() {
        for seed in 0..40 {
            for (t, s) in typed_samples(&mut Rng::new(seed)) {
                let oracle = Oracle::new(&s);
                let extents = oracle.args().ints("d", t.outer + 1);
                if extents[t.outer] == 0 {
                    continue;
                }
                let (x, view) = oracle.read("x", t.outer + 1);
                oracle.check(&extents[..t.outer], |p| {
                    let at = |j: i64| x.get(view.at(&[p, &[j]].concat()) as usize).to_f64();
                    let mut best = 0;
                    for j in 1..extents[t.outer] {
                        let better = if t.largest {
                            at(j) > at(best)
                        } else {
                            at(j) < at(best)
                        };
                        if better || (t.select_last && at(j) == at(best)) {
                            best = j;
                        }
                    }
                    Number::I(best.into())
                });
            }
        }
    }

    #[test]
    fn nan_beats_and_zeros_are_equal() {
        let position = |data: &[f32], largest, select_last| {
            let t = ArgReduce {
                outer: 0,
                dtype: DType::F32,
                largest,
                select_last,
            };
            let mut b = Arguments::new(&t);
            b.int("d0", data.len() as i64);
            b.int("x_s0", 1);
            b.set(
                "x",
                SampleSlot::Read(data.iter().flat_map(|v| v.to_le_bytes()).collect()),
            );
            b.set("y", SampleSlot::Write(vec![0; 8]));
            let y = b.finish(Arc::new(t), 0.0).run_twin().unwrap();
            i64::from_le_bytes(y[0][..].try_into().unwrap())
        };
        assert_eq!(position(&[1.0, f32::NAN, 9.0, f32::NAN], true, false), 1);
        assert_eq!(position(&[1.0, f32::NAN, 9.0, f32::NAN], false, true), 3);
        assert_eq!(position(&[-0.0, 0.0], true, false), 0);
        assert_eq!(position(&[0.0, -0.0], false, false), 0);
        assert_eq!(position(&[0.0, -0.0], true, true), 1);
        assert_eq!(position(&[f32::NEG_INFINITY, -1.0], false, false), 0);
    }

    #[test]
    fn definitions_of_logits() {
        let t = ArgReduce {
            outer: 2,
            dtype: DType::F16,
            largest: true,
            select_last: false,
        };
        insta::assert_snapshot!(t.definitions(&DeviceProps::preset(Arch::sm(89))));
    }
}

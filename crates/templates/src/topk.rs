//! The `k` largest or smallest elements along the last axis, best first, and their positions (`i64`).
//!
//! Equal elements keep their order; NaN comes before every number. Right for every `k`.

use std::fmt::Write as _;
use std::sync::Arc;

use bespoke_device::{DeviceProps, LaunchConfig, Operand, TwinError};
use bespoke_ir::DType;
use rayon::prelude::*;

use crate::arguments::Arguments;
use crate::expr::host;
use crate::expr::lanes::{self, Elements, ElementsMut, Lane, LaneMut, View};
use crate::expr::regions;
use crate::grid;
use crate::pointwise::view_bytes;
use crate::random;
use crate::rows::Rows;
use crate::rows_host::Keys;
use crate::sample::{self, Rng, Sample};
use crate::source::{cuda_compute_type, kernel_text};
use crate::spec::{Args, Cost, Param, Template, Tile};
use crate::view::{self, Strided};

/// See the module.
///
/// Space `d0 … d{outer}`, searched along the last, of which `k` (at most its extent) elements stay; operand `x` and results
/// `y` (elements) and `idx` (positions) are viewed over it.
#[derive(Clone, Debug, PartialEq)]
pub struct TopK {
    /// Number of axes before the searched one.
    pub outer: usize,
    /// Element type of the operand.
    pub dtype: DType,
    /// Whether the largest are sought.
    pub largest: bool,
}

impl TopK {
    fn space(&self) -> Rows {
        Rows {
            outer: self.outer,
            inner: 1,
        }
    }
}

impl Template for TopK {
    fn name(&self) -> &'static str {
        "topk"
    }

    fn describe(&self) -> String {
        format!(
            "{} outer={} {}",
            self.dtype,
            self.outer,
            if self.largest { "largest" } else { "smallest" }
        )
    }

    fn params(&self) -> Vec<Param> {
        let rank = self.outer + 1;
        let mut params = view::extents(rank);
        params.push(Param::int("k"));
        params.extend(view::write("y", self.dtype, rank));
        params.extend(view::write("idx", DType::I64, rank));
        params.extend(view::read("x", self.dtype, rank));
        params
    }

    fn body(&self) -> &'static str {
        // the groups of `rows.cuh` are not used, only its way of finding a row
        kernel_text!("\n"; "rows.cuh", "topk.cu")
    }

    fn definitions(&self, _: &DeviceProps) -> String {
        let mut out =
            self.space()
                .row_operand("x", self.dtype, &[("y", self.dtype), ("idx", DType::I64)]);
        // writing to a String cannot fail
        let _ = writeln!(
            out,
            "typedef {} A;\nconstexpr bool LARGEST = {};\n#define STRIDE y_s{2}\n#define INDEX_STRIDE idx_s{2}",
            cuda_compute_type(self.dtype),
            self.largest,
            self.outer
        );
        out
    }

    fn tiles(&self, _: Option<&Args<'_>>, _: &DeviceProps) -> Vec<Tile> {
        vec![Tile::new(&[("THREADS", 256), ("GROUP", 256), ("APART", 0)])]
    }

    fn geometry(&self, tile: &Tile, args: Option<&Args<'_>>, props: &DeviceProps) -> LaunchConfig {
        let threads = tile.get("THREADS").max(1);
        let work = args
            .map(|a| self.space().rows(a) * ((self.space().columns(a) + threads - 1) / threads));
        grid::launch(work, 1, threads, grid::MANY, props)
    }

    fn cost(&self, args: &Args<'_>) -> Cost {
        let extents = args.ints("d", self.outer + 1);
        let rows = self.space().rows(args) as f64;
        let columns = self.space().columns(args) as f64;
        let element = f64::from(self.dtype.bits()) / 8.0;
        let bytes = view_bytes(args, "x", &extents, self.dtype)
            + rows * args.int("k") as f64 * (element + 8.0);
        Cost {
            operations: rows * columns * columns,
            bytes,
            tensor_cores: None,
        }
    }

    fn run(&self, args: &Args<'_>, operands: &mut [Operand<'_>]) -> Result<(), TwinError> {
        let extents = args.ints("d", self.outer + 1);
        let rank = extents.len();
        let columns = extents[self.outer].max(0) as usize;
        let k = args.int("k");
        if k < 0 || k as usize > columns {
            return Err(TwinError(format!("k = {k} of {columns} elements")));
        }
        let k = k as usize;
        let (writes, reads) = lanes::split_operands(operands);
        let mut writes = writes.into_iter();
        let (Some(y), Some(idx), Some(&x)) = (writes.next(), writes.next(), reads.first()) else {
            return Err(TwinError("an operand is missing".to_owned()));
        };
        let (mut y, mut idx) = (
            ElementsMut::of(self.dtype, y)?,
            ElementsMut::of(DType::I64, idx)?,
        );
        let mut kept = extents.clone();
        kept[self.outer] = k as i64;
        let (y_view, idx_view) = (Strided::of(args, "y", rank), Strided::of(args, "idx", rank));
        lanes::check("y", &y_view, &kept, y.len())?;
        lanes::check("idx", &idx_view, &kept, idx.len())?;
        let x = View::new(
            "x",
            Elements::of(self.dtype, x)?,
            Strided::of(args, "x", rank),
            &extents,
        )?;
        let keys = Keys::new(x.clone(), self.largest);

        let region: regions::Region = extents[..self.outer].iter().map(|&d| 0..d).collect();
        let mut starts = Vec::new();
        regions::for_each_row(&region, self.outer, |position, _| {
            let mut start = position.to_vec();
            start.push(0);
            starts.push(start);
        });
        if k == 0 {
            return Ok(());
        }
        let best: Vec<Vec<(u64, usize)>> = starts
            .par_iter()
            .map(|start| {
                let mut row: Vec<(u64, usize)> = keys
                    .row(start, self.outer, columns)
                    .into_iter()
                    .enumerate()
                    .map(|(i, key)| (key, i))
                    .collect();
                // positions break ties, so that any sort is stable
                if k < columns {
                    row.select_nth_unstable(k - 1);
                    row.truncate(k);
                }
                row.sort_unstable();
                row
            })
            .collect();
        for (start, row) in starts.iter().zip(best) {
            let mut to = start.clone();
            for (rank, (_, i)) in row.into_iter().enumerate() {
                to[self.outer] = rank as i64;
                let from = x.strided.at(start) + x.strided.strides[self.outer] * i as i64;
                let lane = Lane {
                    elements: x.elements,
                    start: from,
                    stride: 0,
                };
                host::copy(
                    lane,
                    1,
                    &mut LaneMut {
                        elements: &mut y,
                        start: y_view.at(&to),
                        stride: 1,
                    },
                );
                if let ElementsMut::I64(s) = &mut idx {
                    s[idx_view.at(&to) as usize] = i as i64;
                }
            }
        }
        Ok(())
    }
}

/// Random runs.
pub fn samples(rng: &mut Rng) -> Vec<Sample> {
    typed_samples(rng).into_iter().map(|s| s.1).collect()
}

fn typed_samples(rng: &mut Rng) -> Vec<(TopK, Sample)> {
    use DType::*;
    (0..4)
        .map(|_| {
            let t = TopK {
                outer: rng.int(0, 2) as usize,
                dtype: *rng.pick(&[F32, F16, BF16, F64, I32, I64, U8]),
                largest: rng.chance(2),
            };
            let extents = sample::extents(rng, t.outer + 1, 1500);
            let all: Vec<usize> = (0..extents.len()).collect();
            let mut b = Arguments::new(&t);
            random::ints(&mut b, "d", &extents);
            let k = rng.int(0, extents[t.outer]);
            b.int("k", k);
            let mut kept = extents.clone();
            kept[t.outer] = k;
            b.tensor(rng, "y", &kept, &[]);
            b.tensor(rng, "idx", &kept, &[]);
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

    #[test]
    fn twin_and_definition_agree() {
        for seed in 0..40 {
            for (t, s) in typed_samples(&mut Rng::new(seed)) {
                let oracle = Oracle::new(&s);
                let extents = oracle.args().ints("d", t.outer + 1);
                let mut kept = extents.clone();
                kept[t.outer] = oracle.args().int("k");
                let (x, view) = oracle.read("x", t.outer + 1);
                let place = |p: &[i64]| {
                    let at = |j: i64| x.get(view.at(&[&p[..t.outer], &[j]].concat()) as usize);
                    let mut order: Vec<i64> = (0..extents[t.outer]).collect();
                    // a stable sort
                    order.sort_by(|&i, &j| {
                        let (a, b) = (at(i).to_f64(), at(j).to_f64());
                        if t.largest {
                            b.total_cmp(&a)
                        } else {
                            a.total_cmp(&b)
                        }
                    });
                    (order[p[t.outer] as usize], at(order[p[t.outer] as usize]))
                };
                oracle.check_result("y", &kept, |p| place(p).1);
                oracle.check_result("idx", &kept, |p| Number::I(place(p).0.into()));
            }
        }
    }

    #[test]
    fn definitions_of_scores() {
        let t = TopK {
            outer: 1,
            dtype: DType::F16,
            largest: true,
        };
        insta::assert_snapshot!(t.definitions(&DeviceProps::preset(Arch::sm(89))));
    }
}

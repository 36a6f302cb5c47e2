//! From measurements to rows: one for each distinct specialised kernel at each shape.
//!
//! Steps with the same specialised kernel do the same work, and share a row. A time of a row is that of a launch: of each
//! of its steps the median of the launches that were timed, and of those the mean. Kernels are listed once for all shapes,
//! since a kernel is compiled once however many shapes it serves; whether a shape is the first to want it is what
//! distinguishes a sum's `specialized_compile_ms` from its `new_compile_ms`.

use std::collections::{BTreeMap, BTreeSet};

use bespoke::runtime::service::CompileError;
use bespoke::runtime::{Costs, Made, StepCost};
use serde::Serialize;

use super::tiles::TileRow;
use crate::bench::statistics::{ascending, percentile};

/// A kernel and its compile.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Kernel {
    /// Name of the template.
    pub(crate) template: &'static str,
    /// The specification as text.
    pub(crate) spec: String,
    /// Whether some shape uses it as the kernel that serves every shape.
    pub(crate) generic: bool,
    /// What the compiler took, in milliseconds; unknown if nothing was compiled.
    pub(crate) compile_ms: Option<f64>,
    /// Length of the machine code.
    pub(crate) cubin_bytes: Option<u64>,
    /// Whether `compile_ms` was measured now; otherwise the kernel cache remembers it.
    pub(crate) measured_now: Option<bool>,
    /// Why it did not compile.
    pub(crate) failure: Option<String>,
}

/// The steps of a shape that have one specialised kernel.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Row {
    /// Names of the steps.
    pub(crate) steps: Vec<String>,
    /// Name of the template.
    pub(crate) template: &'static str,
    /// The generic kernel, by its place in the document's list.
    pub(crate) generic_kernel: usize,
    /// The specialised kernel; the same one if nothing could be baked in.
    pub(crate) specialized_kernel: usize,
    /// A launch with the generic kernel.
    pub(crate) generic_ms: f64,
    /// A launch with the specialised kernel.
    pub(crate) specialized_ms: f64,
    /// The least time that the device needs for a launch's work.
    pub(crate) floor_ms: f64,
    /// Part of these steps in the sum of all generic times.
    pub(crate) share: f64,
    /// What the specialised kernel saves in a run, over all these steps; negative if it is slower.
    pub(crate) gain_ms: f64,
    /// After so many runs the compile of the specialised kernel is paid; none if it is never, and where what was compiled
    /// is not what was timed.
    pub(crate) break_even_runs: Option<f64>,
}

/// A shape's rows in sum, or those of all shapes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Sums {
    pub(crate) steps: usize,
    pub(crate) generic_kernels: usize,
    /// Specialised kernels that are no generic ones.
    pub(crate) specialized_kernels: usize,
    /// All steps once, with generic kernels.
    pub(crate) generic_ms: f64,
    /// All steps once, with specialised kernels.
    pub(crate) specialized_ms: f64,
    pub(crate) floor_ms: f64,
    pub(crate) gain_ms: f64,
    pub(crate) generic_compile_ms: Option<f64>,
    /// To compile all specialised kernels of the shape.
    pub(crate) specialized_compile_ms: Option<f64>,
    /// To compile those that no earlier shape had.
    pub(crate) new_compile_ms: Option<f64>,
    pub(crate) generic_bytes: Option<u64>,
    pub(crate) specialized_bytes: Option<u64>,
    /// After so many runs at this shape all its compiles are paid.
    pub(crate) break_even_runs: Option<f64>,
}

/// One shape.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Point {
    /// Extents of every input.
    pub(crate) shape: String,
    /// Timed launches of every step with each kernel.
    pub(crate) launches: usize,
    /// What a mark around a launch itself takes; part of every time here but the floor.
    pub(crate) mark_ms: f64,
    /// The largest share first.
    pub(crate) rows: Vec<Row>,
    /// Tiles of each kind of step, if they were asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) tiles: Vec<TileRow>,
    pub(crate) sums: Sums,
}

/// All shapes of a model.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Table {
    /// Every kernel once.
    pub(crate) kernels: Vec<Kernel>,
    /// The shapes in the order in which they were asked for.
    pub(crate) points: Vec<Point>,
    /// One run at each shape, every kernel paid once.
    pub(crate) totals: Sums,
    /// Whether what was compiled is what was timed: a GPU runs its kernels, the host its own code.
    pub(crate) timed_compiled: bool,
    /// Specialised kernels of earlier points.
    #[serde(skip)]
    seen: BTreeSet<usize>,
}

fn median(times: &[f64]) -> f64 {
    percentile(&ascending(times), 50.0).unwrap_or(0.0)
}

/// What a step takes with either kernel. One kernel cannot be faster than itself, whatever the clock says: if both are the
/// same, all launches are its own.
fn times(step: &StepCost) -> (f64, f64) {
    if step.generic == step.specialized {
        let all = median(&[&step.generic_ms[..], &step.specialized_ms[..]].concat());
        return (all, all);
    }
    (median(&step.generic_ms), median(&step.specialized_ms))
}

/// The sum of what is known of some kernels; `None` if something is not.
fn sum<T: std::iter::Sum>(
    kernels: &[Kernel],
    ids: &BTreeSet<usize>,
    of: impl Fn(&Kernel) -> Option<T>,
) -> Option<T> {
    ids.iter().map(|&id| of(&kernels[id])).sum()
}

impl Table {
    /// A table without shapes.
    pub(crate) fn new(timed_compiled: bool) -> Table {
        Table {
            timed_compiled,
            ..Table::default()
        }
    }

    /// Adds a shape; returns its place.
    pub(crate) fn add(&mut self, shape: String, costs: &Costs) -> usize {
        let ids = self.kernels(costs);
        let mut groups: BTreeMap<(usize, usize), Vec<&StepCost>> = BTreeMap::new();
        for step in &costs.steps {
            let key = (ids[step.generic], ids[step.specialized]);
            groups.entry(key).or_default().push(step);
        }
        let whole: f64 = costs.steps.iter().map(|s| times(s).0).sum();
        let mut rows: Vec<Row> = groups
            .into_iter()
            .map(|(kernels, steps)| self.row(kernels, &steps, whole))
            .collect();
        rows.sort_by(|a, b| b.share.total_cmp(&a.share));
        let seen = self.seen.clone();
        let sums = self.sums(&rows, &seen);
        let specialized = rows.iter().map(|r| r.specialized_kernel);
        self.seen.extend(specialized);
        self.points.push(Point {
            shape,
            launches: costs.steps.first().map_or(0, |s| s.generic_ms.len()),
            mark_ms: costs.mark_ms,
            rows,
            tiles: Vec::new(),
            sums,
        });
        let all: Vec<Row> = self.points.iter().flat_map(|p| p.rows.clone()).collect();
        self.totals = self.sums(&all, &BTreeSet::new());
        self.points.len() - 1
    }

    /// The place of each kernel of some costs in this table.
    fn kernels(&mut self, costs: &Costs) -> Vec<usize> {
        let generic: BTreeSet<usize> = costs.steps.iter().map(|s| s.generic).collect();
        let kernels = costs.kernels.iter().enumerate();
        kernels
            .map(|(index, kernel)| {
                let known = self.kernels.iter().position(|k| k.spec == kernel.spec);
                let at = known.unwrap_or_else(|| {
                    let made = kernel.compile.as_ref().and_then(|c| c.as_ref().ok());
                    let failed = kernel.compile.as_ref().and_then(|c| c.as_ref().err());
                    self.kernels.push(Kernel {
                        template: kernel.template,
                        spec: kernel.spec.clone(),
                        generic: false,
                        compile_ms: made.map(|m: &Made| m.micros as f64 / 1e3),
                        cubin_bytes: made.map(|m| m.cubin_bytes),
                        measured_now: made.map(|m| m.here),
                        failure: failed.map(CompileError::to_string),
                    });
                    self.kernels.len() - 1
                });
                self.kernels[at].generic |= generic.contains(&index);
                at
            })
            .collect()
    }

    fn row(&self, (generic, specialized): (usize, usize), steps: &[&StepCost], whole: f64) -> Row {
        let count = steps.len() as f64;
        let sum = |of: &dyn Fn(&StepCost) -> f64| steps.iter().map(|s| of(s)).sum::<f64>();
        let (slow, fast) = (sum(&|s| times(s).0), sum(&|s| times(s).1));
        let gain_ms = slow - fast;
        Row {
            steps: steps.iter().map(|s| s.name.clone()).collect(),
            template: self.kernels[generic].template,
            generic_kernel: generic,
            specialized_kernel: specialized,
            generic_ms: slow / count,
            specialized_ms: fast / count,
            floor_ms: sum(&|s| s.floor_ms) / count,
            share: if whole > 0.0 { slow / whole } else { 0.0 },
            gain_ms,
            break_even_runs: self.break_even(self.kernels[specialized].compile_ms, gain_ms),
        }
    }

    /// After so many runs a cost is paid.
    fn break_even(&self, cost: Option<f64>, gain: f64) -> Option<f64> {
        let cost = cost.filter(|_| self.timed_compiled && gain > 0.0)?;
        Some(cost / gain)
    }

    fn sums(&self, rows: &[Row], seen: &BTreeSet<usize>) -> Sums {
        let generic: BTreeSet<usize> = rows.iter().map(|r| r.generic_kernel).collect();
        let all = rows.iter().map(|r| r.specialized_kernel);
        let specialized: BTreeSet<usize> = all.filter(|id| !generic.contains(id)).collect();
        let new: BTreeSet<usize> = specialized.difference(seen).copied().collect();
        let over = |of: &dyn Fn(&Row) -> f64| {
            let each = rows.iter().map(|r| of(r) * r.steps.len() as f64);
            each.sum::<f64>()
        };
        let kernels = &self.kernels;
        let specialized_compile_ms = sum(kernels, &specialized, |k| k.compile_ms);
        let gain_ms = rows.iter().map(|r| r.gain_ms).sum();
        Sums {
            steps: rows.iter().map(|r| r.steps.len()).sum(),
            generic_kernels: generic.len(),
            specialized_kernels: specialized.len(),
            generic_ms: over(&|r| r.generic_ms),
            specialized_ms: over(&|r| r.specialized_ms),
            floor_ms: over(&|r| r.floor_ms),
            gain_ms,
            generic_compile_ms: sum(kernels, &generic, |k| k.compile_ms),
            specialized_compile_ms,
            new_compile_ms: sum(kernels, &new, |k| k.compile_ms),
            generic_bytes: sum(kernels, &generic, |k| k.cubin_bytes),
            specialized_bytes: sum(kernels, &specialized, |k| k.cubin_bytes),
            break_even_runs: self.break_even(specialized_compile_ms, gain_ms),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use bespoke::runtime::KernelCost;

    /// Two steps with one generic kernel and, at size `n`, one specialised one; and a step that has but one kernel.
    pub(crate) fn costs(n: i64, compiled: bool) -> Costs {
        let kernel = |template, spec: String, micros| KernelCost {
            spec,
            template,
            compile: compiled.then_some(Ok(Made {
                micros,
                here: true,
                cubin_bytes: micros / 10,
            })),
        };
        let step = |name: &str, generic, specialized, slow: &[f64], fast: &[f64]| StepCost {
            name: name.into(),
            generic,
            specialized,
            generic_ms: slow.to_vec(),
            specialized_ms: fast.to_vec(),
            floor_ms: 0.25,
        };
        Costs {
            kernels: vec![
                kernel("ints", "ints | T=1".into(), 10_000),
                kernel("gemm", "gemm f32 | T=1".into(), 30_000),
                kernel("gemm", format!("gemm f32 | T=2 | n={n}"), 40_000),
            ],
            steps: vec![
                step("a", 1, 2, &[9.0, 3.0, 3.5], &[1.0, 1.0, 1.5]),
                step("i", 0, 0, &[1.0, 1.0, 1.0], &[0.5, 0.5, 0.5]),
                step("b", 1, 2, &[4.5, 4.5, 4.5], &[2.0, 2.0, 2.0]),
            ],
            mark_ms: 0.001,
        }
    }

    #[test]
    fn steps_with_one_kernel_are_a_row_and_kernels_are_paid_once() {
        let mut table = Table::new(true);
        for (at, n) in [4, 5, 4].into_iter().enumerate() {
            assert_eq!(table.add(format!("x:{n}"), &costs(n, true)), at);
        }
        assert_eq!(table.kernels.len(), 4);
        let generic: Vec<bool> = table.kernels.iter().map(|k| k.generic).collect();
        assert_eq!(generic, [true, true, false, false]);

        let point = &table.points[0];
        let (row, sums) = (&point.rows[0], &point.sums);
        assert_eq!(
            (row.steps.as_slice(), row.template),
            (&["a".to_owned(), "b".into()][..], "gemm")
        );
        // medians 3.5 and 4.5 against 1 and 2
        assert_eq!(
            (row.generic_ms, row.specialized_ms, row.gain_ms),
            (4.0, 1.5, 5.0)
        );
        assert_eq!((row.break_even_runs, row.share), (Some(8.0), 8.0 / 8.5));
        let ints = &point.rows[1];
        assert_eq!((ints.gain_ms, ints.break_even_runs), (0.0, None));
        assert_eq!(
            (sums.steps, sums.generic_kernels, sums.specialized_kernels),
            (3, 2, 1)
        );
        assert_eq!(
            (sums.generic_ms, sums.specialized_ms, sums.floor_ms),
            (8.5, 3.5, 0.75)
        );
        assert_eq!((sums.gain_ms, sums.break_even_runs), (5.0, Some(8.0)));
        assert_eq!(
            (sums.generic_compile_ms, sums.generic_bytes),
            (Some(40.0), Some(4000))
        );

        let compiles = table
            .points
            .iter()
            .map(|p| (p.sums.specialized_compile_ms, p.sums.new_compile_ms));
        let (paid, nothing) = ((Some(40.0), Some(40.0)), (Some(40.0), Some(0.0)));
        assert_eq!(compiles.collect::<Vec<_>>(), [paid, paid, nothing]);
        let all = &table.totals;
        assert_eq!((all.generic_kernels, all.specialized_kernels), (2, 2));
        assert_eq!(
            (all.specialized_compile_ms, all.gain_ms),
            (Some(80.0), 15.0)
        );
        assert_eq!(all.break_even_runs, Some(80.0 / 15.0));
    }

    #[test]
    fn only_what_brings_something_is_ever_paid() {
        let mut table = Table::new(true);
        assert_eq!(table.break_even(Some(40.0), 2.0), Some(20.0));
        assert_eq!(table.break_even(Some(40.0), 0.0), None);
        assert_eq!(table.break_even(Some(40.0), -1.0), None);
        assert_eq!(table.break_even(None, 2.0), None);
        table.timed_compiled = false;
        assert_eq!(table.break_even(Some(40.0), 2.0), None);
    }

    #[test]
    fn what_was_not_compiled_is_unknown_and_not_free() {
        let mut table = Table::new(true);
        table.add("x:4".into(), &costs(4, false));
        let sums = &table.points[0].sums;
        assert_eq!(
            (sums.generic_compile_ms, sums.specialized_bytes),
            (None, None)
        );
        assert_eq!(
            (
                sums.break_even_runs,
                table.points[0].rows[0].break_even_runs
            ),
            (None, None)
        );
        assert_eq!(sums.gain_ms, 5.0);
    }
}

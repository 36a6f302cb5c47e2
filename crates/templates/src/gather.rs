//! Elements that indices choose: Gather, GatherElements and GatherND.
//!
//! For a position of the result a tuple of indices is read, and each index moves along one axis of the data. A negative
//! index counts from the end; an index outside yields 0. The twin moves whole rows where the indices do not vary along
//! them (embedding tables).

use std::fmt::Write as _;
use std::sync::Arc;

use bespoke_device::{DeviceProps, LaunchConfig, Operand, TwinError};
use bespoke_ir::{DType, Expr};

use crate::arguments::{self, Arguments};
use crate::expr::host;
use crate::expr::lanes::{self, Elements, Lane, View};
use crate::pointwise::view_bytes;
use crate::random;
use crate::sample::{Rng, Sample};
use crate::source::kernel_text;
use crate::spec::{Args, Cost, Param, Template, Tile};
use crate::view::{self, Strided};
use crate::walk::{self, One, Target};

/// See the module.
///
/// Space `d0 … d{rank-1}`. `x` is viewed over it with stride 0 along indexed axes, `i` with stride 0 where it does not
/// vary; `i_t` is the distance of the indices of a tuple, `n{j}` and `x_t{j}` extent and stride of the axis that index
/// `j` moves along.
#[derive(Clone, Debug, PartialEq)]
pub struct Gather {
    /// Axes of the result.
    pub rank: usize,
    /// Indices of a tuple.
    pub tuple: usize,
    /// Type of the data.
    pub data: DType,
    /// Type of the indices, `i32` or `i64`.
    pub index: DType,
    /// What happens to each element; operand 0 is the element, the others are `e0, e1, …`.
    pub epilogue: Expr,
}

/// The axes that a tuple of indices moves along.
#[derive(Clone, Debug)]
pub(crate) struct Indexing<'a> {
    view: View<'a>,
    apart: i64,
    reach: Vec<i64>,
    along: Vec<i64>,
}

impl<'a> Indexing<'a> {
    /// The arguments `i`, `i_t`, `n{j}` and `{prefix}_t{j}`.
    pub(crate) fn params(index: DType, rank: usize, tuple: usize, prefix: &str) -> Vec<Param> {
        let mut params = view::read("i", index, rank);
        params.push(Param::wide("i_t"));
        params.extend((0..tuple).map(|j| Param::int(format!("n{j}"))));
        params.extend((0..tuple).map(|j| Param::wide(format!("{prefix}_t{j}"))));
        params
    }

    /// Reads them; `data` is the view of what is indexed, checked here with all that the indices can reach.
    pub(crate) fn new(
        args: &Args<'_>,
        indices: Elements<'a>,
        extents: &[i64],
        tuple: usize,
        prefix: &str,
        data: (&Strided, usize),
    ) -> Result<Indexing<'a>, TwinError> {
        let strided = Strided::of(args, "i", extents.len());
        let apart = args.int("i_t");
        let mut with_tuple = strided.clone();
        with_tuple.strides.push(apart);
        let mut space = extents.to_vec();
        space.push(tuple as i64);
        lanes::check("i", &with_tuple, &space, indices.len())?;
        let (reach, along) = (
            args.ints("n", tuple),
            args.ints(&format!("{prefix}_t"), tuple),
        );
        let mut reached = data.0.clone();
        reached.strides.extend_from_slice(&along);
        let mut space = extents.to_vec();
        space.extend_from_slice(&reach);
        lanes::check(prefix, &reached, &space, data.1)?;
        Ok(Indexing {
            view: View {
                elements: indices,
                strided,
            },
            apart,
            reach,
            along,
        })
    }

    /// Stride of the indices along an axis.
    pub(crate) fn stride(&self, axis: usize) -> i64 {
        self.view.strided.strides.get(axis).copied().unwrap_or(0)
    }

    /// Index of the first element of the tuple at a position.
    pub(crate) fn at(&self, position: &[i64]) -> i64 {
        self.view.strided.at(position)
    }

    /// How far the tuple at `from` leads from the data's view; `None` outside.
    pub(crate) fn resolve(&self, from: i64) -> Option<i64> {
        let mut offset = 0;
        for (j, (&n, &along)) in self.reach.iter().zip(&self.along).enumerate() {
            let at = (from + j as i64 * self.apart) as usize;
            let index = match self.view.elements {
                Elements::I32(s) => i64::from(s[at]),
                Elements::I64(s) => s[at],
                _ => return None,
            };
            let index = if index < 0 {
                index.checked_add(n)?
            } else {
                index
            };
            if !(0..n).contains(&index) {
                return None;
            }
            offset += index * along;
        }
        Some(offset)
    }
}

/// The definitions that gather and scatter share.
pub(crate) fn index_definitions(out: &mut String, rank: usize, tuple: usize, prefix: &str) {
    let extents: Vec<String> = (0..rank).map(|a| format!("d{a}")).collect();
    walk::space(out, &extents);
    let _ = writeln!(out, "constexpr int TUPLE = {tuple};");
    let _ = writeln!(
        out,
        "#define INDEXED_EXTENTS {}",
        walk::list("n", tuple, "0")
    );
    let _ = writeln!(
        out,
        "#define INDEXED_STRIDES {}",
        walk::list(&format!("{prefix}_t"), tuple, "0")
    );
    walk::at_macro(out, "i", rank);
}

impl Gather {
    fn extents(&self, args: &Args<'_>) -> Vec<i64> {
        args.ints("d", self.rank)
    }
}

impl Template for Gather {
    fn name(&self) -> &'static str {
        "gather"
    }

    fn describe(&self) -> String {
        format!(
            "rank={} tuple={} {}[{}] -> {} = {}",
            self.rank,
            self.tuple,
            self.data,
            self.index,
            self.epilogue.dtype(),
            self.epilogue
        )
    }

    fn params(&self) -> Vec<Param> {
        let mut params = view::extents(self.rank);
        params.extend(view::write("y", self.epilogue.dtype(), self.rank));
        params.extend(view::read("x", self.data, self.rank));
        params.extend(Indexing::params(self.index, self.rank, self.tuple, "x"));
        params.extend(walk::extras(&self.epilogue, self.rank));
        params
    }

    fn body(&self) -> &'static str {
        kernel_text!(""; "walk.cuh", "gather.cu")
    }

    fn definitions(&self, _: &DeviceProps) -> String {
        let mut out = String::new();
        index_definitions(&mut out, self.rank, self.tuple, "x");
        walk::at_macro(&mut out, "x", self.rank);
        walk::load_macro(&mut out, "x", self.data);
        walk::finish(&mut out, self.data, &self.epilogue, self.rank);
        out
    }

    fn tiles(&self, args: Option<&Args<'_>>, props: &DeviceProps) -> Vec<Tile> {
        walk::tiles(walk::work(args, self.rank), 4, props)
    }

    fn geometry(&self, tile: &Tile, args: Option<&Args<'_>>, props: &DeviceProps) -> LaunchConfig {
        walk::geometry(tile, walk::work(args, self.rank), props)
    }

    fn cost(&self, args: &Args<'_>) -> Cost {
        let extents = self.extents(args);
        let count = walk::points(&extents) as f64;
        let size = |ty: DType| f64::from(ty.bits()) / 8.0;
        let mut bytes = count * (size(self.data) + size(self.epilogue.dtype()));
        bytes += view_bytes(args, "i", &extents, self.index) * self.tuple as f64;
        for (i, ty) in self.epilogue.inputs().iter().skip(1).enumerate() {
            bytes += view_bytes(args, &format!("e{i}"), &extents, *ty);
        }
        Cost {
            operations: count * self.epilogue.operations() as f64,
            bytes,
            tensor_cores: false,
        }
    }

    fn run(&self, args: &Args<'_>, operands: &mut [Operand<'_>]) -> Result<(), TwinError> {
        let (mut writes, reads) = lanes::split_operands(operands);
        let ([y], [x, i, extras @ ..]) = (&mut writes[..], &reads[..]) else {
            return Err(TwinError("gather needs a result, data and indices".into()));
        };
        let extents = self.extents(args);
        let x = Elements::of(self.data, x)?;
        let x_view = Strided::of(args, "x", self.rank);
        let indices = Elements::of(self.index, i)?;
        let indexing = Indexing::new(args, indices, &extents, self.tuple, "x", (&x_view, x.len()))?;
        let zero = One::new(self.data, &[]);
        let zero = zero.elements()?;
        let target = Target {
            bytes: y,
            strided: Strided::of(args, "y", self.rank),
            extents,
        };
        walk::rows(
            target,
            args,
            &self.epilogue,
            extras,
            self.data,
            &|position, axis, count, out| {
                let base = x_view.at(position);
                let step = x_view.strides.get(axis).copied().unwrap_or(0);
                let (from, apart) = (indexing.at(position), indexing.stride(axis));
                if apart == 0 {
                    match indexing.resolve(from) {
                        Some(offset) => {
                            host::copy(
                                Lane {
                                    elements: x,
                                    start: base + offset,
                                    stride: step,
                                },
                                count,
                                out,
                            );
                        }
                        None => walk::fill_with(zero, count, out),
                    }
                    return;
                }
                walk::pick(x, count, out, |k| {
                    let k = k as i64;
                    indexing
                        .resolve(from + k * apart)
                        .map(|offset| base + k * step + offset)
                });
            },
        )
    }
}

/// Random runs: gathers along an axis, of elements and of tuples.
pub fn samples(rng: &mut Rng) -> Vec<Sample> {
    cases(rng).into_iter().map(|(_, sample)| sample).collect()
}

fn cases(rng: &mut Rng) -> Vec<(Gather, Sample)> {
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
    for &data in TYPES {
        let rank = rng.int(0, 4) as usize;
        let tuple = rng.int(1, 3) as usize;
        let index = if rng.chance(2) {
            DType::I32
        } else {
            DType::I64
        };
        let extents = random::extents(rng, rank, 6000);
        let epilogue = random::epilogue(rng, data, rank);
        let extras = epilogue.inputs().len() - 1;
        let tolerance = arguments::tolerance(epilogue.dtype());
        let template = Gather {
            rank,
            tuple,
            data,
            index,
            epilogue,
        };
        let mut args = Arguments::new(&template);
        random::ints(&mut args, "d", &extents);
        let every: Vec<usize> = (0..rank).collect();
        args.tensor(rng, "y", &extents, &[]);
        for i in 0..extras {
            args.tensor(rng, &format!("e{i}"), &extents, &every);
        }
        random::indexed(rng, &mut args, "x", &extents, tuple, data, index);
        all.push((template.clone(), args.finish(Arc::new(template), tolerance)));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::{self, Oracle};
    use crate::sample::SampleSlot;
    use bespoke_device::Arch;
    use bespoke_reference::Number;

    #[test]
    fn twin_and_definition_agree() {
        for seed in 0..20 {
            for (t, sample) in cases(&mut Rng::new(seed)) {
                let oracle = Oracle::new(&sample);
                let args = oracle.args();
                let extents = t.extents(&args);
                let (x, x_view) = oracle.read("x", t.rank);
                let i = oracle.read("i", t.rank);
                let extras: Vec<_> = (1..t.epilogue.inputs().len())
                    .map(|k| oracle.read(&format!("e{}", k - 1), t.rank))
                    .collect();
                oracle.check(&extents, |p| {
                    let zero = if t.data.is_float() {
                        Number::F(0.0)
                    } else {
                        Number::I(0)
                    };
                    let offset = oracle::tuple(&args, "x", &i, p, t.tuple);
                    let value = offset.map_or(zero, |o| x.get((x_view.at(p) + o) as usize));
                    oracle::epilogue(&t.epilogue, &extras, value, p)
                });
            }
        }
    }

    #[test]
    fn the_operators_are_this_template() {
        use bespoke_ir::{Op, op};
        use bespoke_reference::{Tensor, eval_node};
        // Gather along axis 1 of [2, 3]: positions (before, index, index), data strides (3, 0, 0)
        let x = Tensor::from_i64(DType::F32, &[2, 3], &[0, 1, 2, 3, 4, 5]).unwrap();
        let i = Tensor::from_i64(DType::I64, &[2, 2], &[0, -1, 1, 7]).unwrap();
        let epilogue = Expr::identity(DType::F32);
        let t = Gather {
            rank: 3,
            tuple: 1,
            data: DType::F32,
            index: DType::I64,
            epilogue,
        };
        let mut args = Arguments::new(&t);
        random::ints(&mut args, "d", &[2, 2, 2]);
        random::view(
            &mut args,
            "y",
            0,
            &[4, 2, 1],
            SampleSlot::Write(vec![0; 32]),
        );
        random::view(
            &mut args,
            "x",
            0,
            &[3, 0, 0],
            SampleSlot::Read(x.to_bytes()),
        );
        random::view(
            &mut args,
            "i",
            0,
            &[0, 2, 1],
            SampleSlot::Read(i.to_bytes()),
        );
        args.int("n0", 3);
        args.int("x_t0", 1);
        let got = args.finish(Arc::new(t), 0.0).run_twin().unwrap();
        let want = eval_node(&Op::from(op::Gather { axis: 1 }), &[&x, &i], &[]).unwrap();
        assert_eq!(got[0], want[0].to_bytes());
    }

    #[test]
    fn a_view_that_leaves_its_memory_is_refused() {
        let epilogue = Expr::identity(DType::F32);
        let t = Gather {
            rank: 1,
            tuple: 1,
            data: DType::F32,
            index: DType::I64,
            epilogue,
        };
        let mut args = Arguments::new(&t);
        random::ints(&mut args, "d", &[2]);
        random::view(&mut args, "y", 0, &[1], SampleSlot::Write(vec![0; 8]));
        random::view(&mut args, "x", 0, &[0], SampleSlot::Read(vec![0; 8]));
        random::view(&mut args, "i", 0, &[1], SampleSlot::Read(vec![0; 16]));
        args.int("n0", 3);
        args.int("x_t0", 1);
        let error = args.finish(Arc::new(t), 0.0).run_twin().unwrap_err();
        insta::assert_snapshot!(error, @"the host twin cannot run: view `x` reaches elements 0 to 2 of a tensor of 2");
    }

    #[test]
    fn definitions_read_like_written_by_hand() {
        let epilogue = Expr::cast(DType::F16, DType::F32);
        let t = Gather {
            rank: 3,
            tuple: 1,
            data: DType::F16,
            index: DType::I64,
            epilogue,
        };
        let props = DeviceProps::preset(Arch::sm(89));
        insta::assert_snapshot!(t.definitions(&props), @r"
        constexpr int RANK = 3;
        #define EXTENTS {d0, d1, d2}
        #define CHANNELS_LAST (y_s1 == 1 && d1 > 1)
        constexpr int TUPLE = 1;
        #define INDEXED_EXTENTS {n0}
        #define INDEXED_STRIDES {x_t0}
        #define AT_i(p) (i_o + p[0] * i_s0 + p[1] * i_s1 + p[2] * i_s2)
        #define AT_x(p) (x_o + p[0] * x_s0 + p[1] * x_s1 + p[2] * x_s2)
        #define LOAD_x(at) load(x + (at))
        typedef float VALUE;
        #define AT_y(p) (y_o + p[0] * y_s0 + p[1] * y_s1 + p[2] * y_s2)
        __device__ __forceinline__ float epilogue(float x0) {
            const float t1 = (float)x0;
            return t1;
        }
        #define FINISH(v, p) epilogue(v)
        ");
    }
}

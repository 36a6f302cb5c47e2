//! Elements that indices choose: Gather, GatherElements and GatherND.
//!
//! For a position of the result a tuple of indices is read, and each index moves along one axis of the data. A negative
//! index counts from the end; an index outside yields 0. Where the indices do not vary along the last axis (embedding
//! tables) rows are chosen, and move in vectors of up to 16 bytes along it as far as extents, strides and offsets allow: one
//! index is read and looked at for a whole vector. Both ways are in every kernel that knows no better, so that the generic one
//! is right for every view. The twin moves whole rows.

use std::fmt::Write as _;
use std::sync::Arc;

use bespoke_device::{DeviceProps, LaunchConfig, Operand, TwinError};
use bespoke_ir::{DType, Expr};

use crate::arguments::{self, Arguments};
use crate::expr::lanes::{self, Elements, Lane, View};
use crate::expr::{cuda, host};
use crate::pointwise::view_bytes;
use crate::random;
use crate::rows;
use crate::sample::{Rng, Sample, SampleSlot};
use crate::source::{cuda_type, kernel_text};
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

    /// Types of the epilogue's operands `e0, e1, …`.
    fn extras(&self) -> &[DType] {
        self.epilogue.inputs().get(1..).unwrap_or(&[])
    }

    /// Elements that move in one instruction at most: 16 bytes of the widest type, at most 8.
    fn vector(&self) -> i64 {
        let types = [self.data, self.epilogue.dtype()];
        let all = types.iter().chain(self.extras());
        let widest = all.filter_map(|ty| ty.size()).max().unwrap_or(4);
        (16 / widest as i64).clamp(1, 8)
    }

    /// Elements that move in one instruction at these arguments, if tensors begin at whole vectors.
    fn width(&self, args: &Args<'_>) -> i64 {
        let Some(last) = self.rank.checked_sub(1) else {
            return 1;
        };
        let along = |name: &str| args.int(&format!("{name}_s{last}"));
        let whole = |name: &str, width: i64| {
            let outer = args.ints(&format!("{name}_s"), last);
            along(name) == 1
                && args.int(&format!("{name}_o")) % width == 0
                && outer.iter().all(|s| s % width == 0)
        };
        let fits = |width: &i64| {
            let extras = (0..self.extras().len()).map(|k| format!("e{k}"));
            let indexed = args.ints("x_t", self.tuple);
            args.int(&format!("d{last}")) % width == 0
                && along("i") == 0
                && indexed.iter().all(|s| s % width == 0)
                && whole("x", *width)
                && whole("y", *width)
                && extras
                    .into_iter()
                    .all(|e| along(&e) == 0 || whole(&e, *width))
        };
        let widths = [8, 4, 2].into_iter().filter(|w| *w <= self.vector());
        widths.into_iter().find(fits).unwrap_or(1)
    }

    /// CUDA text of the condition under which VEC elements along the last axis move at once, which [`Gather::width`] tells in
    /// advance.
    fn vectors(&self) -> String {
        let Some(last) = self.rank.checked_sub(1) else {
            return "#define VECTORS false\n".to_owned();
        };
        let mut out = format!("#define VECTORS (VEC > 1 && d{last} % VEC == 0 && i_s{last} == 0");
        for j in 0..self.tuple {
            let _ = write!(out, " && x_t{j} % VEC == 0");
        }
        for name in ["x", "y"] {
            let _ = write!(
                out,
                " \\\n    && {name}_s{last} == 1{}",
                rows::aligned(name, last)
            );
        }
        for k in 0..self.extras().len() {
            let aligned = rows::aligned(&format!("e{k}"), last);
            let _ = write!(
                out,
                " \\\n    && (e{k}_s{last} == 0 || (e{k}_s{last} == 1{aligned}))"
            );
        }
        out.push_str(")\n");
        out
    }

    /// CUDA text of what V positions read, and of what becomes of it: `Lanes`, FETCH_EXTRAS, UNPACK, FINISH.
    fn lanes(&self) -> String {
        let last = self.rank.checked_sub(1);
        let along = |name: &str| last.map_or("0".to_owned(), |a| format!("{name}_s{a}"));
        let held = |name: &str, ty: DType| format!(" Words<sizeof({}) * V> {name};", cuda_type(ty));
        let unpacked = |name: &str, ty: DType| {
            let ty = cuda_type(ty);
            format!(" const Pack<{ty}, V> {name}_v = from_words<{ty}, V>(lanes.{name});")
        };
        let mut words = held("x", self.data);
        let mut unpack = format!("#define UNPACK(lanes){}", unpacked("x", self.data));
        let mut fetch = String::from("#define FETCH_EXTRAS(lanes, p)");
        let mut values = vec![cuda::load(self.data, "x_v.at", "v")];
        let mut out = String::new();
        for (k, &ty) in self.extras().iter().enumerate() {
            let name = format!("e{k}");
            walk::at_macro(&mut out, &name, self.rank);
            words.push_str(&held(&name, ty));
            unpack.push_str(&unpacked(&name, ty));
            // writing to a String cannot fail
            let _ = write!(
                fetch,
                " lanes.{name} = fetch_words<V>({name} + AT_{name}(p), {});",
                along(&name)
            );
            values.push(cuda::load(ty, &format!("{name}_v.at"), "v"));
        }
        out.push_str(&cuda::function("epilogue", &self.epilogue));
        let call = cuda::call("epilogue", &self.epilogue, &values, |axis| {
            match last == Some(axis as usize) {
                true => format!("p[{axis}] + v"),
                false => format!("p[{axis}]"),
            }
        });
        let _ = write!(
            out,
            "template <int V> struct Lanes {{{words} }};\n#define ALONG_x {}\n{fetch}\n{unpack}\n#define FINISH(v, p) {call}\n",
            along("x")
        );
        out
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
        // writing to a String cannot fail
        let _ = writeln!(
            out,
            "typedef {} INDEX;\ntypedef {} RESULT;",
            cuda_type(self.index),
            cuda_type(self.epilogue.dtype())
        );
        walk::at_macro(&mut out, "x", self.rank);
        walk::at_macro(&mut out, "y", self.rank);
        out.push_str(&self.lanes());
        out.push_str(&self.vectors());
        out
    }

    fn tiles(&self, args: Option<&Args<'_>>, props: &DeviceProps) -> Vec<Tile> {
        let width = args.map_or(self.vector(), |a| self.width(a));
        // about as many loads in flight a thread, whatever the epilogue reads
        let most = match self.extras().len() {
            0 => 4,
            1..=2 => 2,
            _ => 1,
        };
        let mut tiles = walk::tiles(walk::work(args, self.rank).map(|w| w / width), most, props);
        for tile in &mut tiles {
            tile.0.insert("VEC", width);
        }
        tiles
    }

    fn geometry(&self, tile: &Tile, args: Option<&Args<'_>>, props: &DeviceProps) -> LaunchConfig {
        // single elements, where addresses forbid vectors, need more blocks than this and do with fewer
        let width = args.map_or(1, |a| self.width(a).min(tile.get("VEC").max(1)));
        walk::geometry(tile, walk::work(args, self.rank).map(|w| w / width), props)
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
            tensor_cores: None,
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
        let index = if rng.chance(2) {
            DType::I32
        } else {
            DType::I64
        };
        all.push(elements(rng, data, index));
        all.push(table(rng, data, index));
    }
    all
}

/// Elements of tensors in any order of axes.
fn elements(rng: &mut Rng, data: DType, index: DType) -> (Gather, Sample) {
    let rank = rng.int(0, 4) as usize;
    let tuple = rng.int(1, 3) as usize;
    let extents = random::extents(rng, rank, 6000);
    let epilogue = random::epilogue(rng, data, rank);
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
    for i in 0..template.extras().len() {
        args.tensor(rng, &format!("e{i}"), &extents, &every);
    }
    random::indexed(rng, &mut args, "x", &extents, tuple, data, index);
    (template.clone(), args.finish(Arc::new(template), tolerance))
}

/// Rows of a table, most of them of whole vectors: `y[b, r, c] = x[i[b, r], c]`.
fn table(rng: &mut Rng, data: DType, index: DType) -> (Gather, Sample) {
    let epilogue = random::epilogue(rng, data, 3);
    let tolerance = arguments::tolerance(epilogue.dtype());
    let template = Gather {
        rank: 3,
        tuple: 1,
        data,
        index,
        epilogue,
    };
    // whole vectors of every width, and none
    let columns = *rng.pick(&[8, 16, 64, 136, 20, 6, 33]);
    let extents = [rng.int(1, 4), rng.int(1, 40), columns];
    let rows = rng.int(1, 9);
    let mut args = Arguments::new(&template);
    random::ints(&mut args, "d", &extents);
    let view = |rng: &mut Rng, args: &mut Arguments, name: &str, order: [i64; 3]| {
        // rows lie apart from each other, by whole vectors or not
        let pitch = columns + *rng.pick(&[0, 0, 8, 3]);
        let offset = *rng.pick(&[0, 0, 8, 4, 1]);
        let strides = [order[0] * pitch, order[1] * pitch, order[2]];
        let reach: i64 = strides.iter().zip(&extents).map(|(s, d)| s * (d - 1)).sum();
        let dtype = args.dtype(name);
        let bytes = arguments::elements(rng, dtype, (offset + reach + 1) as usize);
        (offset, strides, bytes)
    };
    let (offset, strides, bytes) = view(rng, &mut args, "y", [extents[1], 1, 1]);
    random::view(&mut args, "y", offset, &strides, SampleSlot::Write(bytes));
    for k in 0..template.extras().len() {
        let name = format!("e{k}");
        let order = *rng.pick(&[[extents[1], 1, 1], [0, 1, 1], [0, 0, 1], [extents[1], 1, 0]]);
        let (offset, strides, bytes) = view(rng, &mut args, &name, order);
        random::view(&mut args, &name, offset, &strides, SampleSlot::Read(bytes));
    }
    let pitch = columns + *rng.pick(&[0, 0, 8, 3]);
    let offset = *rng.pick(&[0, 0, 8, 4, 1]);
    let bytes = arguments::elements(rng, data, (offset + rows * pitch) as usize);
    random::view(&mut args, "x", offset, &[0, 0, 1], SampleSlot::Read(bytes));
    args.int("n0", rows);
    args.int("x_t0", pitch);
    let count = extents[0] * extents[1];
    let indices = (0..count).map(|_| rng.int(-rows - 1, rows));
    let bytes: Vec<u8> = indices
        .flat_map(|v| match index {
            DType::I32 => (v as i32).to_le_bytes().to_vec(),
            _ => v.to_le_bytes().to_vec(),
        })
        .collect();
    random::view(
        &mut args,
        "i",
        0,
        &[extents[1], 1, 0],
        SampleSlot::Read(bytes),
    );
    (template.clone(), args.finish(Arc::new(template), tolerance))
}

#[cfg(test)]
mod tests;

//! Tiles for operands that lie across the result: transposes, and whatever else reads columns and writes rows.
//!
//! Such an operand has its neighbours side by side along another axis than the result. A warp that reads it along the
//! result's rows touches a sector of memory an element, and uses an element of each. A block that takes a tile of both axes
//! instead reads the operand along its own lines, keeps the tile in shared memory, and writes along the result's; both sides
//! move vectors as far as they are whole. All other axes are walked tile by tile. [`Across`] says which axis and which
//! operands; it is legal where strides of 1 are known to be, and pays where it moves fewer bytes between the multiprocessors
//! and memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use bespoke_device::{DeviceProps, LaunchConfig};
use bespoke_ir::DType;
use bespoke_ir::expr::{BinaryOp, Expr, ExprBuilder, UnaryOp};

use super::Pointwise;
use super::span::{Known, divides, exact};
use crate::arguments::{self, Arguments};
use crate::grid;
use crate::sample::{Rng, Sample, SampleSlot};
use crate::spec::{Args, Baked, Tile};

/// Threads of a block.
const THREADS: i64 = 256;
/// Bytes of a tile's line, along either axis: those that a line of the cache has.
const LINE: i64 = 128;
/// Bytes that memory moves at least.
const SECTOR: i64 = 32;
/// Shared memory that a kernel has on every card without asking for more.
const SHARED: i64 = 48 * 1024;
/// Elements a multiprocessor that are worth a barrier and the way through shared memory: read across, each costs it a cycle.
const WORTH: i64 = 512;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Across {
    /// The axis along which the operands lie: ACROSS.
    pub(super) axis: usize,
    /// Which operands, one bit each: CROSSING.
    pub(super) crossing: i64,
    /// Positions of a tile along that axis: ROWS.
    pub(super) rows: i64,
    /// Positions of a tile along the last axis: COLUMNS.
    pub(super) columns: i64,
    /// Elements that are loaded in one instruction: READ.
    pub(super) read: i64,
    /// Results that are stored in one instruction: WIDTH.
    pub(super) width: i64,
}

impl Across {
    /// The ways to walk in tiles at these arguments, the one with the widest vectors first.
    pub(super) fn all(of: &Pointwise, args: &Args<'_>, props: &DeviceProps) -> Vec<Across> {
        let Some(best) = Across::widest(of, args, props) else {
            return Vec::new();
        };
        let halves = |widest: i64| (0..4).map(move |k| widest >> k).filter(|w| *w > 0);
        let mut all: Vec<Across> = halves(best.read)
            .flat_map(|read| halves(best.width).map(move |width| (read, width)))
            .map(|(read, width)| Across {
                read,
                width,
                ..best
            })
            .collect();
        // the narrower of two sides is what counts
        all.sort_by_key(|t| std::cmp::Reverse((t.read.min(t.width), t.read + t.width)));
        all
    }

    fn widest(of: &Pointwise, args: &Args<'_>, props: &DeviceProps) -> Option<Across> {
        let last = of.rank.checked_sub(1)?;
        let stride = |name: &str, axis: usize| args.int(&format!("{name}_s{axis}"));
        if (0..of.outputs.len()).any(|k| stride(&format!("y{k}"), last) != 1) {
            return None;
        }
        let lies_across = |axis: usize, i: usize| {
            let name = format!("x{i}");
            stride(&name, axis) == 1 && stride(&name, last).abs() > 1
        };
        let crossing = |axis: &usize| {
            let operands = 0..of.inputs().len().min(62);
            operands
                .filter(|&i| lies_across(*axis, i))
                .map(|i| 1 << i)
                .sum::<i64>()
        };
        let axis = (0..last).max_by_key(|axis| crossing(axis).count_ones())?;
        let crossing = crossing(&axis);
        let mut tiles = Across {
            axis,
            crossing,
            rows: 0,
            columns: 0,
            read: 1,
            width: 1,
        };
        if crossing == 0 {
            return None;
        }
        // squares of whole lines on both sides, next to each other along the last axis
        let element = of.outputs.iter().filter_map(|e| e.dtype().size());
        let element = tiles
            .operands(of)
            .map(|o| o.1)
            .chain(element.map(|s| s as i64))
            .max()?;
        tiles.rows = LINE / element;
        tiles.columns = tiles.rows;
        let loads = match of.inputs().len() {
            0..=1 => 4,
            2..=3 => 2,
            _ => 1,
        };
        let fewest = THREADS * of.vector();
        while tiles.rows * tiles.columns < fewest * loads && tiles.shared(of) * 2 <= SHARED {
            tiles.columns *= 2;
        }
        // little work is spread over all multiprocessors
        let few = i64::from(props.multiprocessors) * 2;
        while tiles.columns > tiles.rows
            && tiles.rows * tiles.columns >= fewest * 2
            && tiles.count(of, args) < few
        {
            tiles.columns /= 2;
        }
        let values: BTreeMap<&str, i64> = args.iter_ints().collect();
        let known = |name: &str| values.get(name).copied().map(Baked::Exact);
        let legal = |t: &Across| t.is_legal(of, &known);
        let widths = || [8, 4, 2, 1].into_iter().filter(|w| *w <= of.vector());
        let one = tiles;
        tiles.read = widths().find(|&read| legal(&Across { read, ..one }))?;
        tiles.width = widths().find(|&width| legal(&Across { width, ..one }))?;
        Some(tiles)
    }

    /// Whether operand `i` goes through shared memory.
    fn crosses(&self, i: usize) -> bool {
        i < 62 && self.crossing >> i & 1 == 1
    }

    /// Operands that do, with the size of their elements.
    fn operands(self, of: &Pointwise) -> impl Iterator<Item = (usize, i64)> + '_ {
        let sizes = of.inputs().iter().enumerate();
        sizes
            .filter(move |(i, _)| self.crosses(*i))
            .filter_map(|(i, ty)| Some((i, i64::try_from(ty.size()?).ok()?)))
    }

    /// Bytes of shared memory.
    fn shared(self, of: &Pointwise) -> i64 {
        self.operands(of).map(|o| o.1).sum::<i64>() * self.rows * self.columns
    }

    /// Tiles of a run.
    fn count(&self, of: &Pointwise, args: &Args<'_>) -> i64 {
        let extents = args.ints("d", of.rank).into_iter().enumerate();
        let along = |(axis, d): (usize, i64)| match axis {
            _ if d <= 0 => 0,
            a if a == self.axis => (d - 1) / self.rows + 1,
            a if a + 1 == of.rank => (d - 1) / self.columns + 1,
            _ => d,
        };
        extents.map(along).product()
    }

    /// Whether every operand and result can be moved so.
    pub(super) fn is_legal(&self, of: &Pointwise, known: Known<'_>) -> bool {
        let Some(last) = of.rank.checked_sub(1).filter(|last| self.axis < *last) else {
            return false;
        };
        let powers = [self.rows, self.columns, self.read, self.width];
        let fits = self.crossing > 0
            && powers.iter().all(|p| *p > 0 && p.count_ones() == 1)
            && self.read.max(self.width) <= of.vector()
            && self.columns >= self.rows
            && self.rows * self.columns >= THREADS * self.read.max(self.width)
            && self.shared(of) <= SHARED;
        let along = |name: &str, axis: usize| exact(known, &format!("{name}_s{axis}"));
        // vectors along an axis start whole, wherever they start
        let whole = |name: &str, axis: usize, width: i64| {
            let others = (0..of.rank).filter(|a| *a != axis);
            width == 1
                || divides(known, &format!("d{axis}"), 0, width)
                    && divides(known, &format!("{name}_o"), 0, width)
                    && others
                        .into_iter()
                        .all(|a| divides(known, &format!("{name}_s{a}"), 0, width))
        };
        let read = |(i, ty): (usize, &DType)| {
            let name = format!("x{i}");
            ty.size().is_some()
                && match self.crosses(i) {
                    true => {
                        along(&name, self.axis) == Some(1) && whole(&name, self.axis, self.read)
                    }
                    // one element at a time may lie anywhere
                    false => {
                        self.width == 1
                            || along(&name, last) == Some(0)
                            || along(&name, last) == Some(1) && whole(&name, last, self.width)
                    }
                }
        };
        let written = |k: usize| {
            let name = format!("y{k}");
            along(&name, last) == Some(1) && whole(&name, last, self.width)
        };
        fits && of.inputs().iter().enumerate().all(read) && (0..of.outputs.len()).all(written)
    }

    /// Whether this moves less than half of the bytes between memory and multiprocessors, of enough elements. Element by
    /// element, a warp moves a sector for each position along the last axis, if the operand's step is that wide; in tiles, it
    /// moves what the tiles hold, beyond the edges too.
    pub(super) fn pays(&self, of: &Pointwise, args: &Args<'_>, props: &DeviceProps) -> bool {
        let extents = args.ints("d", of.rank);
        let points: i64 = extents.iter().map(|d| d.max(&0)).product();
        let last = of.rank.saturating_sub(1);
        let row = extents.last().map_or(1, |d| (*d).clamp(1, 32));
        let held = (self.count(of, args) * self.rows * self.columns) as f64;
        let (mut single, mut tiled) = (0.0, 0.0);
        for (i, size) in self.operands(of) {
            let step = args.int(&format!("x{i}_s{last}")).saturating_abs();
            // positions of a warp that share a sector, as its rows are short
            let shared = SECTOR.min(size * (32 / row));
            let bytes = SECTOR.min(step.saturating_mul(size)).max(shared) as f64;
            single += bytes * points as f64 * size as f64 / shared as f64;
            tiled += size as f64 * held;
        }
        single > 2.0 * tiled && points >= WORTH * i64::from(props.multiprocessors)
    }

    /// The constants of this.
    pub(super) fn tile(self) -> Tile {
        Tile::new(&[
            ("THREADS", THREADS),
            ("ACROSS", self.axis as i64),
            ("CROSSING", self.crossing),
            ("ROWS", self.rows),
            ("COLUMNS", self.columns),
            ("READ", self.read),
            ("WIDTH", self.width),
        ])
    }

    /// What a tile of [`Across::tile`] was made of; `None` for others.
    pub(super) fn of(tile: &Tile) -> Option<Across> {
        let axis = tile.0.get("ACROSS")?;
        Some(Across {
            axis: usize::try_from(*axis).ok()?,
            crossing: tile.get("CROSSING"),
            rows: tile.get("ROWS"),
            columns: tile.get("COLUMNS"),
            read: tile.get("READ"),
            width: tile.get("WIDTH"),
        })
    }

    /// A block a tile, until there are many.
    pub(super) fn geometry(
        &self,
        of: &Pointwise,
        args: Option<&Args<'_>>,
        props: &DeviceProps,
    ) -> LaunchConfig {
        grid::launch(
            args.map(|a| self.count(of, a)),
            1,
            THREADS,
            grid::MANY,
            props,
        )
    }
}

/// A random run with operands that lie across: aligned and ragged, some of them large enough for tiles to pay.
pub(super) fn sample(rng: &mut Rng) -> (Pointwise, Sample) {
    use DType::*;
    let types = [F32, F16, BF16, F64, I64, I32, I8, U8, Bool];
    let ty = *rng.pick(&types);
    let operands: Vec<DType> = match ty {
        Bool => vec![Bool],
        ty => (0..rng.int(1, 3))
            .map(|_| if rng.chance(4) { I32 } else { ty })
            .collect(),
    };
    // the batch may stand before both axes or between them
    let [batch, across, last] = if rng.chance(2) { [0, 1, 2] } else { [1, 0, 2] };
    let outputs = match ty {
        Bool => vec![Expr::identity(Bool)],
        ty => vec![function(rng, &operands, ty, across)],
    };
    let template = Pointwise { rank: 3, outputs };
    // every other sample is made of whole vectors
    let whole = rng.chance(2);
    let lengths: &[i64] = match whole {
        true => &[16, 64, 128, 200, 264],
        false => &[8, 33, 77, 100, 128, 201, 264],
    };
    let mut extents = [0; 3];
    extents[batch] = rng.int(1, 3);
    extents[across] = *rng.pick(lengths);
    extents[last] = *rng.pick(lengths);
    let mut args = Arguments::new(&template);
    for (a, &d) in extents.iter().enumerate() {
        args.int(&format!("d{a}"), d);
    }
    let names = (0..operands.len()).map(|i| format!("x{i}"));
    for (number, name) in names.chain(["y0".to_owned()]).enumerate() {
        let written = name == "y0";
        // the first operand lies across, others do or repeat along an axis
        let crosses = !written && (number == 0 || rng.chance(3));
        let order = match crosses {
            true => [batch, last, across],
            false => [batch, across, last],
        };
        let repeated = (!written && number > 0 && rng.chance(3)).then(|| rng.int(0, 2) as usize);
        let offset = if whole {
            8
        } else {
            *rng.pick(&[0, 0, 8, 4, 1])
        };
        let (mut step, mut strides) = (1, [0; 3]);
        for (inner, &axis) in order.iter().rev().enumerate() {
            if repeated == Some(axis) {
                continue;
            }
            strides[axis] = step;
            step *= extents[axis];
            // lines lie apart from each other, by whole vectors or not
            if inner == 0 {
                step += if whole { 8 } else { *rng.pick(&[0, 0, 8, 3]) };
            }
        }
        args.int(&format!("{name}_o"), offset);
        for (a, &s) in strides.iter().enumerate() {
            args.int(&format!("{name}_s{a}"), s);
        }
        let dtype = args.dtype(&name);
        let data = arguments::elements(rng, dtype, (offset + step) as usize);
        let slot = match written {
            true => SampleSlot::Write,
            false => SampleSlot::Read,
        };
        args.set(&name, slot(data));
    }
    let tolerance = arguments::tolerance(ty);
    (template.clone(), args.finish(Arc::new(template), tolerance))
}

/// The sum of the operands, or now and then one that is negative at the first position of an axis.
fn function(rng: &mut Rng, operands: &[DType], ty: DType, axis: usize) -> Expr {
    if operands.len() == 1 && rng.chance(2) {
        return Expr::cast(operands[0], ty);
    }
    let mut b = ExprBuilder::new(operands);
    let mut value = b.number(ty, 0.0);
    for k in 0..operands.len() {
        let x = b.input(k);
        let x = b.cast(ty, x);
        value = b.binary(BinaryOp::Add, value, x);
    }
    if rng.chance(2) {
        let i = b.coord(axis);
        let zero = b.number(DType::I64, 0.0);
        let first = b.binary(BinaryOp::Eq, i, zero);
        let negative = b.unary(UnaryOp::Neg, value);
        value = b.select(first, negative, value);
    }
    b.finish(value)
}

#[cfg(test)]
mod tests;

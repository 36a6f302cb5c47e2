//! Tensor maps: what a card's copy engine has to know of an operand.
//!
//! Cards from Hopper on copy boxes of a matrix into shared memory on their own, if a *tensor map* tells them where the
//! matrix lies. The map is 128 bytes whose meaning is the driver's; [`crate::Device::tensor_map`] makes them. A kernel
//! that wants one has a [`SlotKind::Map`] among its slots, which is filled in from the other slots of the same row: a
//! [`MapOf`] says from which.
//!
//! Every map is made alike, so that it depends on the operand alone and serves every variant of a kernel:
//!
//! - two axes, the inner one, along which elements lie side by side, and the outer one, from line to line, and up to
//!   [`BATCHES`] more, from matrix to matrix;
//! - a box is some lines of [`BOX`] elements of 16 bits, 128 bytes: 64 lines in their order, 32 in one of their own, or 32 of
//!   one matrix among several ([`Lines`]);
//! - lines are swizzled over 128 bytes and not interleaved;
//! - elements outside the extents are read as zero;
//! - element strides are 1, and the level-2 cache fetches 256 bytes.
//!
//! A map must lie at a multiple of 64 bytes. Maps are the first slots of a row, and a row with maps begins at a multiple
//! of [`MAP_ALIGNMENT`] slots. Where there can be no map, its slots hold zeros; a kernel that uses maps is run only where
//! that is known not to be so.

use bespoke_ir::DType;

use crate::{DevicePtr, Signature, SlotKind};

/// Slots of a map: 128 bytes.
pub const MAP_SLOTS: usize = 16;
/// A row with maps begins at a multiple of so many slots: 64 bytes.
pub const MAP_ALIGNMENT: usize = 8;
/// Elements of a line of a box, and lines of a box that has them in their order.
pub const BOX: u32 = 64;
/// The most axes that a map has.
pub const RANK: usize = 5;
/// The most axes from matrix to matrix.
pub const BATCHES: usize = RANK - 2;
/// Lines of a box that has them [spread](Lines::Spread).
pub const SPREAD: i64 = 32;
/// Lines of a box of [one of several matrices](Lines::Batched).
pub const FEW: u32 = 32;

/// Addresses and outer strides are multiples of so many bytes.
const GRAIN: i64 = 16;
/// Strides of all axes are less than this, in bytes.
const STRIDE_LIMIT: i64 = 1 << 40;
/// The largest extent.
const MOST: i64 = 1 << 32;

/// A tensor map as the driver encodes it.
pub type EncodedMap = [i64; MAP_SLOTS];

/// In which order the lines of a box come to shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lines {
    /// As they are, [`BOX`] at a time.
    Plain,
    /// [`SPREAD`] at a time: line 8j + 2q + e of a box is line 8q + 2j + e of these, with j and q below 4 and e below 2. Where
    /// lines are columns of a matrix product, the tensor cores leave lane q of four with eight sums side by side (PTX ISA,
    /// "Register fragments for wgmma", accumulator of m64nNk16).
    Spread,
    /// As they are, [`FEW`] at a time. Only these maps have axes from matrix to matrix, and always all of them, so that a
    /// kernel names [`RANK`] coordinates.
    Batched,
}

/// A matrix, or several, that a map can be made of; see the module. The fields are within the driver's limits if [`MapOf::map`] made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TensorMap {
    /// First element, at a multiple of 16 bytes.
    pub address: DevicePtr,
    /// Type of the elements: `f16` or `bf16`.
    pub element: DType,
    /// Extents of the inner and the outer axis in elements, each from 1 to 2³².
    pub extents: [i64; 2],
    /// From one line to the next in bytes: a multiple of 16, more than 0 and less than 2³⁵.
    pub stride: i64,
    /// The order of lines; spread ones are a multiple of [`SPREAD`].
    pub lines: Lines,
    /// Axes from matrix to matrix: extent, and stride in bytes as `stride`. An axis that there is not has extent 1.
    pub batches: [(i64, i64); BATCHES],
}

/// An axis from matrix to matrix that there is not.
pub const NO_BATCH: (i64, i64) = (1, GRAIN);

impl TensorMap {
    /// The axes as the copy engine walks over them, the inner one first: extent, stride in bytes (of the first the size of an
    /// element), and what a box has of it.
    pub fn axes(&self) -> impl Iterator<Item = (i64, i64, u32)> {
        let [inner, outer] = self.extents;
        let s = self.stride;
        // a run makes maps, and allocates nothing
        let axes: [Option<_>; RANK] = match self.lines {
            Lines::Plain => [
                Some((inner, 2, BOX)),
                Some((outer, s, BOX)),
                None,
                None,
                None,
            ],
            // e, q, j and the box, by how far they lead in the operand
            Lines::Spread => [
                (inner, 2, BOX),
                (2, s, 2),
                (4, 8 * s, 4),
                (4, 2 * s, 4),
                (outer / SPREAD, 32 * s, 1),
            ]
            .map(Some),
            Lines::Batched => {
                let [a, b, c] = self.batches.map(|(n, stride)| Some((n, stride, 1)));
                [Some((inner, 2, BOX)), Some((outer, s, FEW)), a, b, c]
            }
        };
        axes.into_iter().flatten()
    }
}

/// An extent of an operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Extent {
    /// What the slot at this position of the row says.
    At(usize),
    /// Always this.
    Is(i64),
}

/// Which operand a map is of: an operand of a matrix product, with *rows* and *steps* along the reduction. All but the
/// type and an [`Extent::Is`] are positions of slots in the row that the map stands in. Offset and strides are in elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MapOf {
    /// The operand's address.
    pub tensor: usize,
    /// Type of its elements.
    pub element: DType,
    /// How far its first element is from there.
    pub offset: usize,
    /// Number of rows.
    pub rows: usize,
    /// From one row to the next.
    pub row_stride: usize,
    /// Number of steps.
    pub steps: Extent,
    /// From one step to the next.
    pub step_stride: usize,
    /// Number of matrices along an axis of theirs, and from one to the next; only with [`Lines::Batched`].
    pub batches: [Option<(usize, usize)>; BATCHES],
    /// The order of rows. Spread ones must be the lines, and a multiple of [`SPREAD`].
    pub lines: Lines,
}

impl MapOf {
    /// The positions of slots that are integers: all but the tensor.
    pub fn integers(&self) -> impl Iterator<Item = usize> {
        let steps = match self.steps {
            Extent::At(at) => Some(at),
            Extent::Is(_) => None,
        };
        let always = [self.offset, self.rows, self.row_stride, self.step_stride];
        let batches = self.batches.into_iter().flatten();
        let batches = batches.flat_map(|(extent, stride)| [extent, stride]);
        always.into_iter().chain(steps).chain(batches)
    }

    /// The matrix that a row of slots names, if there can be a map of it.
    ///
    /// The inner axis is that of the steps unless rows alone lie side by side; kernels decide by the same rule. Its stride
    /// must be 1, and all else within the limits of [`TensorMap`]. Of a single line the stride does not matter.
    pub fn map(&self, row: &[i64]) -> Option<TensorMap> {
        let slot = |at: usize| row.get(at).copied();
        let (row_stride, step_stride) = (slot(self.row_stride)?, slot(self.step_stride)?);
        let steps = match self.steps {
            Extent::At(at) => slot(at)?,
            Extent::Is(steps) => steps,
        };
        let rows = slot(self.rows)?;
        let by_row = step_stride == 1 || row_stride != 1;
        let (extents, inner, outer) = match by_row {
            true => ([steps, rows], step_stride, row_stride),
            false => ([rows, steps], row_stride, step_stride),
        };
        let size = match self.element {
            DType::F16 | DType::BF16 => 2_i64,
            _ => return None,
        };
        let address = slot(self.tensor).filter(|at| *at != 0)?;
        let address = address.checked_add(slot(self.offset)?.checked_mul(size)?)?;
        let legal = |bytes: &i64| bytes % GRAIN == 0 && (1..STRIDE_LIMIT / SPREAD).contains(bytes);
        let in_range = extents.iter().all(|e| (1..=MOST).contains(e));
        if inner != 1 || address % GRAIN != 0 || !in_range {
            return None;
        }
        if self.lines == Lines::Spread && (!by_row || rows % SPREAD != 0) {
            return None;
        }
        if self.lines == Lines::Batched && !by_row {
            return None;
        }
        let mut batches = [NO_BATCH; BATCHES];
        for (batch, of) in batches.iter_mut().zip(self.batches) {
            let Some((extent, stride)) = of else { continue };
            let (extent, stride) = (slot(extent)?, slot(stride)?);
            // of a single matrix the stride does not matter
            if extent != 1 {
                let stride = stride.checked_mul(size).filter(legal)?;
                *batch = Some((extent, stride)).filter(|_| (1..=MOST).contains(&extent))?;
            }
        }
        let stride = match outer.checked_mul(size).filter(legal) {
            Some(stride) => stride,
            None if extents[1] == 1 => (extents[0] * size + GRAIN - 1) / GRAIN * GRAIN,
            None => return None,
        };
        Some(TensorMap {
            address: DevicePtr(address as u64),
            element: self.element,
            extents,
            stride,
            lines: self.lines,
            batches,
        })
    }

    /// What the slots of the map hold, given the others of its row: zeros where there is no map.
    pub fn encoded(
        &self,
        row: &[i64],
        encode: impl FnOnce(&TensorMap) -> Option<EncodedMap>,
    ) -> EncodedMap {
        let map = self.map(row);
        map.as_ref().and_then(encode).unwrap_or_default()
    }
}

impl Signature {
    /// Fills in the maps of a row whose other slots are there.
    pub fn write_maps(&self, row: &mut [i64], encode: impl Fn(&TensorMap) -> Option<EncodedMap>) {
        let mut at = 0;
        for kind in &self.0 {
            let end = at + kind.slots();
            if let SlotKind::Map(of) = kind {
                let encoded = of.encoded(row, &encode);
                if let Some(slots) = row.get_mut(at..end) {
                    slots.copy_from_slice(&encoded);
                }
            }
            at = end;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OF: MapOf = MapOf {
        tensor: 0,
        element: DType::F16,
        offset: 1,
        rows: 2,
        row_stride: 3,
        steps: Extent::At(4),
        step_stride: 5,
        lines: Lines::Plain,
        batches: [None; BATCHES],
    };

    fn map(row: [i64; 6]) -> Option<([i64; 2], i64)> {
        OF.map(&row).map(|m| (m.extents, m.stride))
    }

    #[test]
    fn the_inner_axis_is_the_one_that_kernels_take() {
        // rows of steps, and steps of rows
        assert_eq!(map([256, 0, 3, 80, 72, 1]), Some(([72, 3], 160)));
        assert_eq!(map([256, 0, 72, 1, 3, 80]), Some(([72, 3], 160)));
        // both strides are 1: by row, of which there is one
        assert_eq!(map([256, 0, 1, 1, 13, 1]), Some(([13, 1], 32)));
        assert_eq!(map([256, 0, 2, 1, 13, 1]), None, "lines overlap");
        assert_eq!(map([256, 0, 3, 160, 40, 2]), None, "neither is 1");
    }

    #[test]
    fn what_the_driver_refuses_has_no_map() {
        let good = [256, 8, 3, 80, 72, 1];
        assert_eq!(OF.map(&good).unwrap().address, DevicePtr(272));
        let with = |at: usize, value: i64| {
            let mut row = good;
            row[at] = value;
            map(row)
        };
        for (at, value, why) in [
            (0, 0, "no address"),
            (0, 264, "an odd address"),
            (1, 4, "an odd offset"),
            (1, i64::MAX, "an offset that overflows"),
            (2, 0, "no rows"),
            (4, 0, "no steps"),
            (2, MOST + 1, "too many rows"),
            (3, 0, "a broadcast"),
            (3, -80, "a stride that leads back"),
            (3, 84, "an odd stride"),
            (3, STRIDE_LIMIT / SPREAD, "a large stride"),
            (3, i64::MAX, "a stride that overflows"),
            (5, 0, "a broadcast along the steps"),
        ] {
            assert_eq!(with(at, value), None, "{why}");
        }
        assert_eq!(with(2, MOST), Some(([72, MOST], 160)));
        let floats = MapOf {
            element: DType::F32,
            ..OF
        };
        assert_eq!(floats.map(&good), None);
        assert_eq!(OF.map(&good[..5]), None, "a short row");
    }

    #[test]
    fn the_stride_of_a_single_line_does_not_matter() {
        assert_eq!(map([256, 0, 1, 0, 13, 1]), Some(([13, 1], 32)));
        assert_eq!(map([256, 0, 1, 80, 13, 1]), Some(([13, 1], 160)));
        assert_eq!(map([256, 0, 13, 1, 1, 7]), Some(([13, 1], 32)));
    }

    #[test]
    fn spread_lines_are_those_of_the_box_in_another_order() {
        let spread = MapOf {
            lines: Lines::Spread,
            ..OF
        };
        let map = spread.map(&[256, 0, 64, 80, 72, 1]).unwrap();
        let axes: Vec<_> = map.axes().collect();
        // walks over a box as the copy engine does, and says which line it finds
        let mut found = Vec::new();
        for j in 0..axes[3].2 {
            for q in 0..axes[2].2 {
                for e in 0..axes[1].2 {
                    let at = |n: u32, axis: usize| i64::from(n) * axes[axis].1;
                    found.push((at(e, 1) + at(q, 2) + at(j, 3)) / map.stride);
                }
            }
        }
        let lines = |l: i64| 8 * (l / 2 % 4) + 2 * (l / 8) + l % 2;
        assert_eq!(found, (0..32).map(lines).collect::<Vec<_>>());
        assert_eq!(axes.iter().map(|a| a.0).skip(1).product::<i64>(), 64);
        assert_eq!((axes[4].1, axes[4].2), (32 * map.stride, 1));
        assert_eq!(spread.map(&[256, 0, 40, 80, 72, 1]), None, "40 lines");
        assert_eq!(spread.map(&[256, 0, 64, 1, 72, 80]), None, "lines of rows");
    }

    #[test]
    fn several_matrices_have_axes_of_their_own() {
        let several = MapOf {
            steps: Extent::Is(40),
            lines: Lines::Batched,
            batches: [Some((6, 7)), None, Some((4, 8))],
            ..OF
        };
        // 3 rows of 40, 5 and 2 times
        let row = [256, 0, 3, 80, 2, 1, 5, 240, 1200];
        let with = |at: usize, value: i64| {
            let mut row = row;
            row[at] = value;
            several.map(&row)
        };
        let map = several.map(&row).unwrap();
        let axes: Vec<_> = map.axes().collect();
        assert_eq!(axes[..2], [(40, 2, 64), (3, 160, 32)]);
        assert_eq!(axes[2..], [(5, 480, 1), (1, 16, 1), (2, 2400, 1)]);
        assert_eq!(with(6, 1).unwrap().batches[0], NO_BATCH, "a single one");
        for (at, value, why) in [
            (6, 0, "no matrix"),
            (7, 0, "a broadcast"),
            (7, 244, "an odd stride"),
            (5, 2, "lines with gaps"),
        ] {
            assert_eq!(with(at, value), None, "{why}");
        }
        let mut turned = row;
        (turned[3], turned[5]) = (1, 80);
        assert_eq!(several.map(&turned), None, "lines of rows");
    }

    #[test]
    fn maps_are_written_where_they_stand() {
        let of = |tensor| MapOf {
            tensor,
            offset: 36,
            rows: 36,
            row_stride: 36,
            steps: Extent::At(36),
            step_stride: 37,
            ..OF
        };
        use SlotKind::{Int, Map, Read};
        let signature = Signature(vec![Map(of(32)), Map(of(34)), Read, Read, Int, Int]);
        let mut row = vec![7; signature.slots()];
        row[32..].copy_from_slice(&[256, 0, 264, 0, 8, 1]);
        signature.write_maps(&mut row, |m| Some([m.address.0 as i64; MAP_SLOTS]));
        assert_eq!(row[..16], [272; 16]);
        assert_eq!(row[16..32], [0; 16], "none of an odd address");
        assert_eq!(row[32..], [256, 0, 264, 0, 8, 1]);
    }
}

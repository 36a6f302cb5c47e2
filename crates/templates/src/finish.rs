//! Epilogues on the host: from blocks of sums to the result.
//!
//! A twin computes its sums block by block, and a block goes through the epilogue while it is in the cache. A block has
//! rows and columns; columns are what lies closest together in the result. Where rows follow each other without a gap in
//! the result and in every operand (or an operand is the same for every row, like a bias), many rows are evaluated at
//! once, since a call a row would cost more than the arithmetic of a few columns.

use std::cell::RefCell;

use bespoke_device::TwinError;
use bespoke_ir::expr::Expr;

use crate::expr::host::{self, Function, LANES};
use crate::expr::lanes::{self, Elements, ElementsMut, Lane, LaneMut, View};
use crate::expr::regions::Part;
use crate::spec::Args;
use crate::view::Strided;

thread_local! {
    /// Memory that calls on one thread use again.
    static SCRATCH: RefCell<Vec<Vec<u64>>> = const { RefCell::new(Vec::new()) };
}

/// Calls `f` with `len` elements of scratch memory of undefined content.
pub(crate) fn with_scratch<T: bytemuck::Pod, R>(len: usize, f: impl FnOnce(&mut [T]) -> R) -> R {
    let mut memory = SCRATCH.with(|s| s.borrow_mut().pop()).unwrap_or_default();
    let words = (len * size_of::<T>()).div_ceil(8);
    if memory.len() < words {
        memory.resize(words, 0);
    }
    let result = f(&mut bytemuck::cast_slice_mut(&mut memory[..words])[..len]);
    SCRATCH.with(|s| s.borrow_mut().push(memory));
    result
}

/// An epilogue bound to its operands.
#[derive(Debug)]
pub(crate) struct Finish<'a> {
    /// With every operand left to the caller.
    function: Function<'a>,
    /// How many of those are sums.
    sums: usize,
    views: Vec<View<'a>>,
    coords: bool,
}

/// Which axes of the result are rows and columns of a block.
#[derive(Clone, Debug)]
pub(crate) struct Block<'p> {
    /// Position of the block's first element.
    pub(crate) position: &'p [i64],
    /// Axis of the columns.
    pub(crate) column_axis: usize,
    /// Axes of the rows, the last fastest; together they must be walked in order from `position` on.
    pub(crate) row_axes: std::ops::Range<usize>,
    /// Extents of the whole space.
    pub(crate) extents: &'p [i64],
    /// Number of rows.
    pub(crate) rows: usize,
    /// Number of columns.
    pub(crate) columns: usize,
    /// Distance of the rows of the sums; columns lie next to each other.
    pub(crate) pitch: usize,
}

impl<'a> Finish<'a> {
    /// Binds `e0…` of a call, which are the operands of the epilogue behind `sums` others.
    pub(crate) fn new(
        epilogue: &Expr,
        sums: usize,
        args: &Args<'_>,
        extras: &[&'a [u8]],
        extents: &[i64],
    ) -> Result<Finish<'a>, TwinError> {
        let views = lanes::views(
            args,
            "e",
            epilogue.inputs().get(sums..).unwrap_or(&[]),
            extras,
            extents,
        )?;
        let coords = epilogue.reads_coords();
        Ok(Finish {
            function: Function::new(epilogue, Vec::new()),
            sums,
            views,
            coords,
        })
    }

    /// Whether the sums are the result.
    pub(crate) fn is_identity(&self) -> bool {
        self.function.expr().is_identity()
    }

    /// Writes a block of sums. Where a result is made of several, `sums` is as many equal blocks, one after the other.
    pub(crate) fn block(&self, sums: Elements<'_>, block: &Block<'_>, y: &mut Part<'_>) {
        if block.rows == 0 || block.columns == 0 {
            return;
        }
        let mut worker = self.function.worker();
        let apart = sums.len() / self.sums.max(1);
        let sums_from = |start: usize| {
            (0..self.sums).map(move |i| Lane {
                elements: sums,
                start: (i * apart + start) as i64,
                stride: 1,
            })
        };
        let columns = block.columns as i64;
        // how far a row is from the one before it, where that is the same for all
        let row_stride = |v: &Strided| {
            let mut axes = block
                .row_axes
                .clone()
                .rev()
                .filter(|&a| block.extents[a] > 1);
            let Some(last) = axes.next() else {
                return Some(0);
            };
            let mut extent = block.extents[last];
            for a in axes {
                if v.strides[a] != v.strides[last] * extent {
                    return None;
                }
                extent *= block.extents[a];
            }
            Some(v.strides[last])
        };
        let at = |v: &Strided| v.at(block.position);
        let step = |v: &Strided| v.strides[block.column_axis];

        let many = block.columns < LANES / 2
            && block.rows > 1
            && block.pitch == block.columns
            && !self.coords
            && step(&y.strided) == 1
            && row_stride(&y.strided) == Some(columns)
            && self.views.iter().all(|v| match row_stride(&v.strided) {
                Some(0) => true,
                Some(s) => s == step(&v.strided) * columns,
                None => false,
            });
        if many {
            // repeats that fill a few blocks of the interpreter
            let together = (4 * LANES / block.columns).clamp(1, block.rows);
            let mut repeated: Vec<Option<Vec<u64>>> = Vec::with_capacity(self.views.len());
            for v in &self.views {
                let varies = step(&v.strided) != 0;
                repeated.push(if row_stride(&v.strided) == Some(0) && varies {
                    let Some(size) = v.elements.dtype().size() else {
                        return;
                    };
                    let mut memory = vec![0u64; (together * block.columns * size).div_ceil(8)];
                    let bytes = &mut bytemuck::cast_slice_mut(&mut memory)
                        [..together * block.columns * size];
                    // the memory is aligned and whole
                    let Ok(mut elements) = ElementsMut::of(v.elements.dtype(), bytes) else {
                        return;
                    };
                    let from = Lane {
                        elements: v.elements,
                        start: at(&v.strided),
                        stride: step(&v.strided),
                    };
                    for r in 0..together {
                        let start = (r * block.columns) as i64;
                        let mut to = LaneMut {
                            elements: &mut elements,
                            start,
                            stride: 1,
                        };
                        host::copy(from, block.columns, &mut to);
                    }
                    Some(memory)
                } else {
                    None
                });
            }
            let mut lanes = Vec::with_capacity(self.sums + self.views.len());
            for first in (0..block.rows).step_by(together) {
                let count = together.min(block.rows - first) * block.columns;
                let done = (first * block.columns) as i64;
                lanes.clear();
                lanes.extend(sums_from(first * block.columns));
                for (v, repeated) in self.views.iter().zip(&repeated) {
                    lanes.push(match repeated {
                        Some(memory) => {
                            let Some(size) = v.elements.dtype().size() else {
                                return;
                            };
                            let bytes =
                                &bytemuck::cast_slice(memory)[..together * block.columns * size];
                            let Ok(elements) = Elements::of(v.elements.dtype(), bytes) else {
                                return;
                            };
                            Lane::new(elements)
                        }
                        None => {
                            let stride = step(&v.strided);
                            Lane {
                                elements: v.elements,
                                start: at(&v.strided) + done * stride,
                                stride,
                            }
                        }
                    });
                }
                let start = at(&y.strided) + done;
                let mut out = LaneMut {
                    elements: &mut y.elements,
                    start,
                    stride: 1,
                };
                worker.run(&lanes, block.position, block.column_axis, count, &mut out);
            }
            return;
        }

        let mut position = block.position.to_vec();
        let mut lanes = Vec::with_capacity(self.sums + self.views.len());
        for r in 0..block.rows {
            lanes.clear();
            lanes.extend(sums_from(r * block.pitch));
            lanes.extend(
                self.views
                    .iter()
                    .map(|v| v.lane(&position, block.column_axis)),
            );
            let mut out = y.lane(&position, block.column_axis);
            worker.run(
                &lanes,
                &position,
                block.column_axis,
                block.columns,
                &mut out,
            );
            for a in block.row_axes.clone().rev() {
                position[a] += 1;
                if position[a] < block.extents[a] {
                    break;
                }
                position[a] = 0;
            }
        }
    }
}

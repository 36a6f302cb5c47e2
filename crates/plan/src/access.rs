//! How the elements of a value are found in a buffer.
//!
//! An [`Access`] is an offset and one stride an axis, in elements. Transpose, slice and broadcast map an access to an
//! access; a reshape does so where the axes it joins lie one after the other in memory.

use bespoke_ir::{SymInt, SymbolTable};

use crate::BufferId;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// The buffer.
    pub buffer: BufferId,
    /// Position of element (0, 0, …).
    pub offset: SymInt,
    /// Logical extents.
    pub dims: Vec<SymInt>,
    /// Stride of each axis.
    pub strides: Vec<SymInt>,
}

fn one() -> SymInt {
    SymInt::constant(1)
}

fn zero() -> SymInt {
    SymInt::constant(0)
}

/// Dense strides for extents stored in a physical order (`order[0]` is the slowest axis).
pub fn dense_strides(dims: &[SymInt], order: &[usize]) -> Vec<SymInt> {
    let mut strides = vec![one(); dims.len()];
    let mut step = one();
    for &axis in order.iter().rev() {
        strides[axis] = step.clone();
        step = step * &dims[axis];
    }
    strides
}

/// The row-major order of `rank` axes.
pub fn row_major(rank: usize) -> Vec<usize> {
    (0..rank).collect()
}

/// Batch, spatial axes, channels: the order of convolutions' results.
pub fn channels_last(rank: usize) -> Vec<usize> {
    let mut order = row_major(rank);
    if rank > 2 {
        order.remove(1);
        order.push(1);
    }
    order
}

impl Access {
    /// All of a buffer, dense in a physical order.
    pub fn dense(buffer: BufferId, dims: &[SymInt], order: &[usize]) -> Access {
        Access {
            buffer,
            offset: zero(),
            dims: dims.to_vec(),
            strides: dense_strides(dims, order),
        }
    }

    /// Number of axes.
    pub fn rank(&self) -> usize {
        self.dims.len()
    }

    /// Whether elements lie in row-major order without gaps from position 0 of the buffer.
    pub fn is_row_major(&self) -> bool {
        self.offset.as_const() == Some(0) && self.is_dense(&row_major(self.rank()))
    }

    /// Whether elements lie without gaps in this physical order; strides of axes of extent 1 do not matter.
    pub fn is_dense(&self, order: &[usize]) -> bool {
        let want = dense_strides(&self.dims, order);
        (0..self.rank()).all(|i| self.dims[i].as_const() == Some(1) || self.strides[i] == want[i])
    }

    /// Whether both name the same elements of the same buffer; strides of axes of extent 1 do not matter.
    pub fn is_same(&self, other: &Access) -> bool {
        self.buffer == other.buffer
            && self.offset == other.offset
            && self.dims == other.dims
            && (0..self.rank())
                .all(|i| self.dims[i].as_const() == Some(1) || self.strides[i] == other.strides[i])
    }

    /// Axes permuted as by the operator Transpose.
    pub fn transpose(&self, perm: &[usize]) -> Access {
        Access {
            buffer: self.buffer,
            offset: self.offset.clone(),
            dims: perm.iter().map(|&i| self.dims[i].clone()).collect(),
            strides: perm.iter().map(|&i| self.strides[i].clone()).collect(),
        }
    }

    /// A regular part of each axis.
    pub fn slice(&self, starts: &[SymInt], steps: &[i64], dims: &[SymInt]) -> Access {
        let mut offset = self.offset.clone();
        let mut strides = self.strides.clone();
        for i in 0..self.rank() {
            offset = offset + starts[i].clone() * &self.strides[i];
            strides[i] = strides[i].clone() * SymInt::constant(steps[i]);
        }
        Access {
            buffer: self.buffer,
            offset,
            dims: dims.to_vec(),
            strides,
        }
    }

    /// Broadcast to larger extents; leading axes are added.
    pub fn broadcast(&self, dims: &[SymInt], symbols: &SymbolTable) -> Access {
        let lead = dims.len() - self.rank();
        let strides = (0..dims.len())
            .map(|i| {
                if i < lead {
                    return zero();
                }
                let (own, stride) = (&self.dims[i - lead], &self.strides[i - lead]);
                match own.known_eq(&dims[i], symbols) {
                    Some(true) => stride.clone(),
                    _ if own.as_const() == Some(1) => zero(),
                    // decided when the shape is bound: 0 for an extent of 1, the stride otherwise
                    _ if own.as_const().is_some() => stride.clone(),
                    _ => stride.clone() * (SymInt::min(own, &SymInt::constant(2)) - 1),
                }
            })
            .collect();
        Access {
            buffer: self.buffer,
            offset: self.offset.clone(),
            dims: dims.to_vec(),
            strides,
        }
    }

    /// The same elements in row-major order under other extents, if strides can say it.
    ///
    /// Both lists of extents are cut into runs of equal products; each run of old axes must be dense in itself.
    pub fn reshape(&self, dims: &[SymInt], symbols: &SymbolTable) -> Option<Access> {
        let is_one = |d: &SymInt| d.as_const() == Some(1);
        let old: Vec<(SymInt, SymInt)> = self
            .dims
            .iter()
            .zip(&self.strides)
            .filter(|(d, _)| !is_one(d))
            .map(|(d, s)| (d.clone(), s.clone()))
            .collect();
        let mut strides: Vec<SymInt> = vec![zero(); dims.len()];
        let wanted: Vec<usize> = (0..dims.len()).filter(|&i| !is_one(&dims[i])).collect();
        let (mut i, mut j) = (0, 0);
        while i < old.len() || j < wanted.len() {
            // grow both runs until their products are equal
            let (start_i, start_j) = (i, j);
            let (mut left, mut right) = (one(), one());
            loop {
                if i > start_i && j > start_j && equal(&left, &right, symbols) {
                    break;
                }
                let grow_left = match (i < old.len(), j < wanted.len()) {
                    (false, false) => return None,
                    (true, false) => true,
                    (false, true) => false,
                    // one of both divides the other's run: grow the run that is known to be smaller
                    (true, true) if i == start_i => true,
                    (true, true) if j == start_j => false,
                    (true, true) => right.exact_div(&left).is_some(),
                };
                if grow_left {
                    left = left * &old[i].0;
                    i += 1;
                } else {
                    right = right * &dims[wanted[j]];
                    j += 1;
                }
            }
            // the old run must be dense: each stride is the next one times its extent
            for k in start_i..i - 1 {
                let next = old[k + 1].1.clone() * &old[k + 1].0;
                if !equal(&old[k].1, &next, symbols) {
                    return None;
                }
            }
            let mut step = old[i - 1].1.clone();
            for k in (start_j..j).rev() {
                strides[wanted[k]] = step.clone();
                step = step * &dims[wanted[k]];
            }
        }
        Some(Access {
            buffer: self.buffer,
            offset: self.offset.clone(),
            dims: dims.to_vec(),
            strides,
        })
    }
}

fn equal(a: &SymInt, b: &SymInt, symbols: &SymbolTable) -> bool {
    a.known_eq(b, symbols) == Some(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bespoke_ir::sym::{Symbol, SymbolOrigin};

    fn access(dims: &[SymInt], order: &[usize]) -> Access {
        Access::dense(BufferId(0), dims, order)
    }

    fn symbol(table: &mut SymbolTable, name: &str) -> SymInt {
        SymInt::symbol(table.add(Symbol {
            name: name.into(),
            origin: SymbolOrigin::Free,
            min: 1,
            max: i64::MAX,
            divisor: 1,
        }))
    }

    fn consts(dims: &[i64]) -> Vec<SymInt> {
        dims.iter().map(|&d| d.into()).collect()
    }

    #[test]
    fn splitting_heads_is_a_view_and_joining_them_after_a_transpose_is_not() {
        let mut table = SymbolTable::new();
        let (b, s) = (symbol(&mut table, "B"), symbol(&mut table, "S"));
        let x = access(&[b.clone(), s.clone(), 384.into()], &[0, 1, 2]);
        let heads = x
            .reshape(&[b.clone(), s.clone(), 12.into(), 32.into()], &table)
            .unwrap();
        assert_eq!(heads.strides[1..], [384.into(), 32.into(), 1.into()]);
        let swapped = heads.transpose(&[0, 2, 1, 3]);
        assert!(
            swapped
                .reshape(&[b.clone(), 12.into(), s.clone() * 32], &table)
                .is_none()
        );
        let back = swapped
            .transpose(&[0, 2, 1, 3])
            .reshape(&[b, s, 384.into()], &table)
            .unwrap();
        assert!(back.is_row_major());
    }

    #[test]
    fn extents_of_one_come_and_go() {
        let table = SymbolTable::new();
        let x = access(&consts(&[2, 1, 3]), &[0, 1, 2]);
        let y = x.reshape(&consts(&[1, 6, 1]), &table).unwrap();
        assert_eq!(y.strides[1], 1.into());
        let t = access(&consts(&[4, 5]), &[1, 0]);
        assert!(t.reshape(&consts(&[20]), &table).is_none());
        assert!(t.reshape(&consts(&[4, 1, 5]), &table).is_some());
    }

    #[test]
    fn channels_last_pixels_join_into_rows() {
        let mut table = SymbolTable::new();
        let (h, w) = (symbol(&mut table, "H"), symbol(&mut table, "W"));
        let x = access(
            &[1.into(), 64.into(), h.clone(), w.clone()],
            &channels_last(4),
        );
        let tokens = x
            .transpose(&[0, 2, 3, 1])
            .reshape(&[1.into(), h * w, 64.into()], &table);
        assert!(tokens.unwrap().is_row_major());
    }

    #[test]
    fn an_unproven_broadcast_is_decided_by_the_extent() {
        let mut table = SymbolTable::new();
        let (n, m) = (symbol(&mut table, "N"), symbol(&mut table, "M"));
        let x = access(&[n], &[0]);
        let y = x.broadcast(&[m], &table);
        assert_eq!(y.strides[0].eval(&[1, 7]).unwrap(), 0);
        assert_eq!(y.strides[0].eval(&[7, 7]).unwrap(), 1);
    }
}

//! Iteration spaces: which axes a kernel walks over, in which order, with which strides.
//!
//! Fewer axes mean cheaper index arithmetic and longer contiguous runs, so axes of extent 1 are dropped and neighbours
//! that every operand walks through without a gap are joined. Both are decided on expressions, once, for all shapes.

use bespoke_ir::{SymInt, SymbolTable};

use crate::access::Access;

/// Extents of an iteration space and, for each operand, one stride an axis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Space {
    pub(crate) dims: Vec<SymInt>,
    pub(crate) strides: Vec<Vec<SymInt>>,
}

impl Space {
    /// The space of accesses of equal extents.
    pub(crate) fn of(accesses: &[&Access]) -> Space {
        Space {
            dims: accesses.first().map(|a| a.dims.clone()).unwrap_or_default(),
            strides: accesses.iter().map(|a| a.strides.clone()).collect(),
        }
    }

    /// The axes `axes`, in that order.
    pub(crate) fn select(&self, axes: &[usize]) -> Space {
        Space {
            dims: axes.iter().map(|&i| self.dims[i].clone()).collect(),
            strides: self
                .strides
                .iter()
                .map(|s| axes.iter().map(|&i| s[i].clone()).collect())
                .collect(),
        }
    }

    /// Axes of `self`, then those of `inner`.
    pub(crate) fn join(mut self, inner: Space) -> Space {
        self.dims.extend(inner.dims);
        for (s, t) in self.strides.iter_mut().zip(inner.strides) {
            s.extend(t);
        }
        self
    }

    /// Without axes of extent 1, neighbours joined where every operand allows it. At least `min_rank` axes remain.
    pub(crate) fn collapse(&self, symbols: &SymbolTable, min_rank: usize) -> Space {
        let mut out = Space {
            dims: Vec::new(),
            strides: vec![Vec::new(); self.strides.len()],
        };
        for i in 0..self.dims.len() {
            if self.dims[i].as_const() == Some(1) {
                continue;
            }
            let joins = out.dims.last().is_some()
                && self.strides.iter().zip(&out.strides).all(|(s, o)| {
                    let outer = &o[o.len() - 1];
                    let run = s[i].clone() * &self.dims[i];
                    outer.known_eq(&run, symbols) == Some(true)
                });
            if joins {
                let last = out.dims.len() - 1;
                out.dims[last] = out.dims[last].clone() * &self.dims[i];
                for (s, o) in self.strides.iter().zip(&mut out.strides) {
                    let last = o.len() - 1;
                    o[last] = s[i].clone();
                }
            } else {
                out.dims.push(self.dims[i].clone());
                for (s, o) in self.strides.iter().zip(&mut out.strides) {
                    o.push(s[i].clone());
                }
            }
        }
        while out.dims.len() < min_rank {
            out.dims.insert(0, SymInt::constant(1));
            for o in &mut out.strides {
                o.insert(0, SymInt::constant(0));
            }
        }
        out
    }
}

/// Axes sorted so that the access walks through memory in order: larger strides first. Strides that cannot be compared
/// keep their logical order.
pub(crate) fn memory_order(access: &Access, symbols: &SymbolTable) -> Vec<usize> {
    let mut axes: Vec<usize> = (0..access.rank()).collect();
    // insertion sort by a partial order: move an axis out while it is known to step further than the one before it
    for i in 1..axes.len() {
        let mut j = i;
        while j > 0 && steps_further(access, axes[j], axes[j - 1], symbols) {
            axes.swap(j, j - 1);
            j -= 1;
        }
    }
    axes
}

fn steps_further(access: &Access, a: usize, b: usize, symbols: &SymbolTable) -> bool {
    let trivial = |i: usize| access.dims[i].as_const() == Some(1);
    if trivial(a) || trivial(b) {
        return false;
    }
    let (a, b) = (&access.strides[a], &access.strides[b]);
    if b.as_const() == Some(1) && a.as_const() != Some(0) && a != b {
        return true;
    }
    // a stride that is a multiple of another steps further
    a.exact_div(b)
        .is_some_and(|q| q.as_const() != Some(1) && q.range(symbols).0 >= 0)
        && b.exact_div(a).is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BufferId;
    use crate::access::{channels_last, row_major};
    use bespoke_ir::sym::{Symbol, SymbolOrigin};

    #[test]
    fn a_channels_last_result_is_walked_as_one_axis() {
        let mut table = SymbolTable::new();
        let h = SymInt::symbol(table.add(Symbol {
            name: "H".into(),
            origin: SymbolOrigin::Free,
            min: 1,
            max: i64::MAX,
            divisor: 1,
        }));
        let dims = vec![2.into(), 16.into(), h.clone(), 8.into()];
        let y = Access::dense(BufferId(0), &dims, &channels_last(4));
        let order = memory_order(&y, &table);
        assert_eq!(order, [0, 2, 3, 1]);
        let space = Space::of(&[&y]).select(&order).collapse(&table, 1);
        assert_eq!(space.dims, [SymInt::from(256) * &h]);
        let bias = Access::dense(BufferId(1), &[16.into(), 1.into(), 1.into()], &row_major(3))
            .broadcast(&dims, &table);
        let space = Space::of(&[&y, &bias]).select(&order).collapse(&table, 1);
        assert_eq!(space.dims, [SymInt::from(16) * &h, 16.into()]);
        assert_eq!(space.strides[1], [0.into(), 1.into()]);
    }
}

//! How the axes of two shapes of equally many elements correspond.
//!
//! A reshape joins and splits axes. Which, is asked by whoever moves work from one side of it to the other: an operand
//! that is broadcast along some axes behind it needs extents of its own before it.

use std::ops::Range;

use bespoke_ir::SymInt;

/// The extents that an operand broadcast to `behind` has before a reshape from `before`: along each run of axes that the
/// reshape joins or splits, the operand must have all elements or one.
pub(crate) fn through_reshape(
    dims: &[SymInt],
    behind: &[SymInt],
    before: &[SymInt],
) -> Option<Vec<SymInt>> {
    let one = SymInt::constant(1);
    let mut padded = vec![one.clone(); behind.len().checked_sub(dims.len())?];
    padded.extend_from_slice(dims);
    let mut wanted = Vec::with_capacity(before.len());
    for (left, right) in runs(before, behind)? {
        let own = &padded[right.clone()];
        if *own == behind[right] {
            wanted.extend_from_slice(&before[left]);
        } else if own.iter().all(|d| *d == one) {
            wanted.resize(left.end, one.clone());
        } else {
            return None;
        }
    }
    Some(wanted)
}

/// Runs of axes of both shapes that have equal products.
pub(crate) fn runs(
    before: &[SymInt],
    behind: &[SymInt],
) -> Option<Vec<(Range<usize>, Range<usize>)>> {
    let mut runs = Vec::new();
    let (mut i, mut j) = (0, 0);
    while i < before.len() && j < behind.len() {
        let (start_i, start_j) = (i, j);
        let (mut left, mut right) = (before[i].clone(), behind[j].clone());
        (i, j) = (i + 1, j + 1);
        while left != right {
            if left.exact_div(&right).is_some() {
                right = right * behind.get(j)?;
                j += 1;
            } else {
                left = left * before.get(i)?;
                i += 1;
            }
        }
        runs.push((start_i..i, start_j..j));
    }
    (i == before.len() && j == behind.len()).then_some(runs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::ints;

    #[test]
    fn an_operand_along_axes_that_are_split_or_joined_is_split_or_joined() {
        let mut table = bespoke_ir::SymbolTable::new();
        let n = SymInt::symbol(table.add(bespoke_ir::sym::Symbol::new(
            "N",
            bespoke_ir::SymbolOrigin::Free,
        )));
        let wide = [n.clone(), 6.into(), 4.into()];
        let split = [n, 2.into(), 3.into(), 4.into()];
        let through = |dims: &[i64], behind: &[SymInt], before: &[SymInt]| {
            through_reshape(&ints(dims), behind, before)
        };
        assert_eq!(through(&[6, 1], &wide, &split), Some(ints(&[1, 2, 3, 1])));
        assert_eq!(through(&[2, 3, 4], &split, &wide), Some(ints(&[1, 6, 4])));
        assert_eq!(through(&[4], &split, &wide), Some(ints(&[1, 1, 4])));
        // a part of an axis
        assert_eq!(through(&[3, 1], &split, &wide), None);
    }
}

//! Walking over positions.

/// Row-major strides, in elements, of a tensor with these extents.
pub fn strides(dims: &[i64]) -> Vec<i64> {
    let mut strides = vec![1i64; dims.len()];
    for i in (1..dims.len()).rev() {
        // wraps only when another extent is 0, and then nothing is read
        strides[i - 1] = strides[i].wrapping_mul(dims[i]);
    }
    strides
}

/// Strides with which a tensor of extents `from` is read as if it were broadcast to `to`: 0 where it repeats.
pub fn broadcast_strides(from: &[i64], to: &[i64]) -> Vec<i64> {
    let own = strides(from);
    let lead = to.len() - from.len();
    (0..to.len())
        .map(|i| {
            if i < lead || (from[i - lead] == 1 && to[i] != 1) {
                0
            } else {
                own[i - lead]
            }
        })
        .collect()
}

/// The flat index of a position.
pub fn flat(strides: &[i64], position: &[i64]) -> usize {
    strides
        .iter()
        .zip(position)
        .map(|(s, p)| s * p)
        .sum::<i64>() as usize
}

/// Every position of a space in row-major order: one for rank 0, none if an extent is 0.
#[derive(Clone, Debug)]
pub struct Positions {
    dims: Vec<i64>,
    next: Option<Vec<i64>>,
}

/// Every position of a space with these extents.
pub fn positions(dims: &[i64]) -> Positions {
    let next = dims.iter().all(|&d| d > 0).then(|| vec![0; dims.len()]);
    Positions {
        dims: dims.to_vec(),
        next,
    }
}

impl Positions {
    /// The next position. Not an [`Iterator`]: the position is lent, so that walking allocates nothing.
    pub fn advance<'a>(&mut self, position: &'a mut Vec<i64>) -> Option<&'a [i64]> {
        let next = self.next.as_mut()?;
        position.clone_from(next);
        for axis in (0..self.dims.len()).rev() {
            next[axis] += 1;
            if next[axis] < self.dims[axis] {
                return Some(position);
            }
            next[axis] = 0;
        }
        self.next = None;
        Some(position)
    }
}

/// Calls `f` with every position in row-major order and collects what it returns.
pub fn map_positions<T, E>(
    dims: &[i64],
    mut f: impl FnMut(&[i64]) -> Result<T, E>,
) -> Result<Vec<T>, E> {
    let mut walk = positions(dims);
    let (mut position, mut out) = (Vec::new(), Vec::new());
    while let Some(p) = walk.advance(&mut position) {
        out.push(f(p)?);
    }
    Ok(out)
}

/// Calls `f` with every position in row-major order.
pub fn for_positions(dims: &[i64], mut f: impl FnMut(&[i64])) {
    let mut walk = positions(dims);
    let mut position = Vec::new();
    while let Some(p) = walk.advance(&mut position) {
        f(p);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(dims: &[i64]) -> Vec<Vec<i64>> {
        map_positions(dims, |p| Ok::<_, ()>(p.to_vec())).unwrap()
    }

    #[test]
    fn positions_come_in_row_major_order() {
        assert_eq!(all(&[2, 2]), [[0, 0], [0, 1], [1, 0], [1, 1]]);
        assert_eq!(all(&[]), [Vec::<i64>::new()]);
        assert!(all(&[3, 0]).is_empty());
    }

    #[test]
    fn broadcast_axes_have_stride_zero() {
        assert_eq!(strides(&[2, 3, 4]), [12, 4, 1]);
        assert_eq!(broadcast_strides(&[3, 1], &[2, 3, 4]), [0, 1, 0]);
        assert_eq!(flat(&[12, 4, 1], &[1, 2, 3]), 23);
    }
}

//! Attention in plain loops, as its definition reads.

use bespoke_ir::DType;
use bespoke_reference::{Tensor, Tolerance, compare};

/// A tensor of floats.
#[derive(Clone, Debug)]
pub(crate) struct Array {
    pub(crate) dims: Vec<usize>,
    pub(crate) data: Vec<f64>,
}

/// Numbers that look random.
pub(crate) struct Noise(pub(crate) u64);

impl Noise {
    pub(crate) fn below(&mut self, n: usize) -> usize {
        // Knuth's multiplier for congruential generators modulo 2⁶⁴
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        ((self.0 >> 33) % n.max(1) as u64) as usize
    }

    /// Multiples of 1/16 in −1..=1, which every type of floats holds.
    pub(crate) fn array(&mut self, dims: &[usize]) -> Array {
        let count = dims.iter().product();
        let data = (0..count)
            .map(|_| self.below(33) as f64 / 16.0 - 1.0)
            .collect();
        Array {
            dims: dims.to_vec(),
            data,
        }
    }

    pub(crate) fn bits(&mut self, count: usize) -> Vec<i64> {
        (0..count).map(|_| self.below(3).min(1) as i64).collect()
    }
}

impl Array {
    pub(crate) fn zeros(dims: &[usize]) -> Array {
        Array {
            dims: dims.to_vec(),
            data: vec![0.0; dims.iter().product()],
        }
    }

    fn flat(&self, at: &[usize]) -> usize {
        assert_eq!(at.len(), self.dims.len());
        at.iter().zip(&self.dims).fold(0, |flat, (&i, &d)| {
            assert!(i < d, "{at:?} of {:?}", self.dims);
            flat * d + i
        })
    }

    pub(crate) fn at(&self, at: &[usize]) -> f64 {
        self.data[self.flat(at)]
    }

    pub(crate) fn set(&mut self, at: &[usize], value: f64) {
        let flat = self.flat(at);
        self.data[flat] = value;
    }

    pub(crate) fn tensor(&self, dtype: DType) -> Tensor {
        let dims: Vec<i64> = self.dims.iter().map(|&d| d as i64).collect();
        Tensor::from_f64(dtype, &dims, &self.data).expect("a tensor")
    }

    pub(crate) fn of(tensor: &Tensor) -> Array {
        let dims: Vec<usize> = tensor.dims().iter().map(|&d| d as usize).collect();
        Array {
            data: tensor.to_f64s(),
            dims,
        }
    }

    /// `[B, M, H·D]` as `[B, H, M, D]`.
    pub(crate) fn split(&self, heads: usize) -> Array {
        let &[b, m, hidden] = &self.dims[..] else {
            panic!("{:?}", self.dims)
        };
        let size = hidden / heads;
        let mut all = Array::zeros(&[b, heads, m, size]);
        each(&[b, heads, m, size], |at| {
            let value = self.at(&[at[0], at[2], at[1] * size + at[3]]);
            all.set(at, value);
        });
        all
    }

    /// `[B, H, M, D]` as `[B, M, H·D]`.
    pub(crate) fn join(&self) -> Array {
        let &[b, h, m, size] = &self.dims[..] else {
            panic!("{:?}", self.dims)
        };
        let mut all = Array::zeros(&[b, m, h * size]);
        each(&[b, h, m, size], |at| {
            all.set(&[at[0], at[2], at[1] * size + at[3]], self.at(at));
        });
        all
    }

    /// Both along the positions of `[B, G, N, D]`.
    pub(crate) fn then(&self, more: &Array) -> Array {
        let mut dims = self.dims.clone();
        dims[2] += more.dims[2];
        let mut all = Array::zeros(&dims);
        each(&dims, |at| {
            let mut from = at.to_vec();
            let value = match at[2].checked_sub(self.dims[2]) {
                None => self.at(at),
                Some(rest) => {
                    from[2] = rest;
                    more.at(&from)
                }
            };
            all.set(at, value);
        });
        all
    }
}

/// Calls `f` for each position.
pub(crate) fn each(dims: &[usize], mut f: impl FnMut(&[usize])) {
    let mut at = vec![0; dims.len()];
    if dims.contains(&0) {
        return;
    }
    loop {
        f(&at);
        let Some(axis) = (0..dims.len()).rev().find(|&i| at[i] + 1 < dims[i]) else {
            return;
        };
        at[axis] += 1;
        at[axis + 1..].fill(0);
    }
}

/// Attention of `[B, H, M, D]` to keys and values of fewer heads. `see` says what is added to the score of
/// `(row of the batch, head, query, key)`, or that the key is not seen.
pub(crate) fn attend(
    q: &Array,
    k: &Array,
    v: &Array,
    scale: f64,
    cap: f64,
    see: impl Fn([usize; 4]) -> Option<f64>,
) -> Array {
    let (shared, keys, size) = (q.dims[1] / k.dims[1], k.dims[2], q.dims[3]);
    let mut all = Array::zeros(&[q.dims[0], q.dims[1], q.dims[2], v.dims[3]]);
    each(&q.dims[..3], |at| {
        let &[b, h, m] = at else { return };
        let scores: Vec<f64> = (0..keys)
            .map(|n| {
                let dot: f64 = (0..size)
                    .map(|d| q.at(&[b, h, m, d]) * k.at(&[b, h / shared, n, d]))
                    .sum();
                let score = if cap > 0.0 {
                    (dot * scale / cap).tanh() * cap
                } else {
                    dot * scale
                };
                see([b, h, m, n]).map_or(f64::NEG_INFINITY, |bias| score + bias)
            })
            .collect();
        let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        if most == f64::NEG_INFINITY {
            return;
        }
        let sum: f64 = scores.iter().map(|s| (s - most).exp()).sum();
        for e in 0..v.dims[3] {
            let value: f64 = (0..keys)
                .map(|n| (scores[n] - most).exp() / sum * v.at(&[b, h / shared, n, e]))
                .sum();
            all.set(&[b, h, m, e], value);
        }
    });
    all
}

/// `[B, H, M, D]` with pairs of its first elements turned; `position(b, m)` is a row of the tables.
pub(crate) fn rotate(
    x: &Array,
    cos: &Array,
    sin: &Array,
    interleaved: bool,
    position: impl Fn(usize, usize) -> usize,
) -> Array {
    let half = cos.dims[1];
    let mut all = x.clone();
    let mut dims = x.dims.clone();
    dims[3] = half;
    each(&dims, |at| {
        let &[b, h, m, i] = at else { return };
        let (i0, i1) = if interleaved {
            (2 * i, 2 * i + 1)
        } else {
            (i, i + half)
        };
        let row = position(b, m);
        let (c, s) = (cos.at(&[row, i]), sin.at(&[row, i]));
        let (x0, x1) = (x.at(&[b, h, m, i0]), x.at(&[b, h, m, i1]));
        all.set(&[b, h, m, i0], x0 * c - x1 * s);
        all.set(&[b, h, m, i1], x0 * s + x1 * c);
    });
    all
}

/// Requires that a result is what the loops say.
pub(crate) fn expect(actual: &Tensor, expected: &Array) {
    let report = compare(
        actual,
        &expected.tensor(actual.dtype()),
        Tolerance::usual(actual.dtype()),
    );
    assert!(report.passed(), "{report}");
}

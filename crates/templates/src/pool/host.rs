//! The twin of pooling: one tap after the other for a whole row of windows.

use bespoke_ir::op::pool::PoolKind;
use half::{bf16, f16};

use crate::expr::lanes::{Elements, ElementsMut, LaneMut};
use crate::expr::{regions, simd};
use crate::view::Strided;

/// Extents, window and strides of one run.
#[derive(Clone, Debug)]
pub(super) struct Geometry {
    pub(super) extents: Vec<i64>,
    pub(super) ins: Vec<i64>,
    pub(super) kers: Vec<i64>,
    pub(super) strs: Vec<i64>,
    pub(super) dils: Vec<i64>,
    pub(super) pads: Vec<i64>,
    pub(super) ends: Vec<i64>,
}

impl Geometry {
    /// The first tap of the window of position `o` that lies at `bound` or beyond.
    fn tap_from(&self, a: usize, o: i64, bound: i64) -> i64 {
        let distance = bound - (o * self.strs[a] - self.pads[a]);
        ((distance + self.dils[a] - 1).div_euclid(self.dils[a])).clamp(0, self.kers[a])
    }

    /// Taps that lie in the input.
    fn inside(&self, a: usize, o: i64) -> std::ops::Range<i64> {
        self.tap_from(a, o, 0)..self.tap_from(a, o, self.ins[a])
    }

    /// Number of taps that lie in the input, or in input and pads.
    fn count(&self, a: usize, o: i64, pads: bool) -> i64 {
        if !pads {
            let taps = self.inside(a, o);
            return (taps.end - taps.start).max(0);
        }
        self.tap_from(a, o, self.ins[a] + self.ends[a]) - self.tap_from(a, o, -self.pads[a])
    }

    /// Input position of a tap.
    fn at(&self, a: usize, o: i64, tap: i64) -> i64 {
        o * self.strs[a] - self.pads[a] + tap * self.dils[a]
    }

    /// The outputs of `from..to` whose tap lies in the input.
    fn reached(&self, a: usize, tap: i64, from: i64, to: i64) -> std::ops::Range<i64> {
        // 0 ≤ o·str + shift < in
        let shift = tap * self.dils[a] - self.pads[a];
        let first = (-shift + self.strs[a] - 1)
            .div_euclid(self.strs[a])
            .clamp(from, to);
        let last = (self.ins[a] - shift + self.strs[a] - 1)
            .div_euclid(self.strs[a])
            .clamp(first, to);
        first..last
    }
}

/// One run of the twin.
pub(super) struct Run<'r> {
    pub(super) kind: PoolKind,
    pub(super) g: &'r Geometry,
    pub(super) x: &'r Strided,
}

impl Run<'_> {
    /// Calls `tap(first, n, from, step)` for every tap of a row of windows: windows `first..first + n` of the row meet
    /// elements `from, from + step, …`.
    fn taps(
        &self,
        position: &[i64],
        axis: usize,
        count: usize,
        mut tap: impl FnMut(usize, usize, i64, i64),
    ) {
        let g = self.g;
        let spatial = g.ins.len();
        // taps of each axis; along the row's own axis which windows they meet differs
        let ranges: Vec<std::ops::Range<i64>> = (0..spatial)
            .map(|a| {
                let o = position[a + 2];
                if a + 2 == axis {
                    // what any window of the row reaches
                    g.tap_from(a, o + count as i64 - 1, 0)..g.tap_from(a, o, g.ins[a])
                } else {
                    g.inside(a, o)
                }
            })
            .collect();
        if ranges.iter().any(|r| r.is_empty()) {
            return;
        }
        let base =
            self.x.offset + position[0] * self.x.strides[0] + position[1] * self.x.strides[1];
        let mut t: Vec<i64> = ranges.iter().map(|r| r.start).collect();
        loop {
            let mut from = base;
            let (mut first, mut n, mut step) = (0, count, self.x.strides[axis]);
            for a in 0..spatial {
                let stride = self.x.strides[a + 2];
                if a + 2 == axis {
                    let o = position[axis];
                    let reached = g.reached(a, t[a], o, o + count as i64);
                    first = (reached.start - o) as usize;
                    n = (reached.end - reached.start) as usize;
                    from += g.at(a, reached.start, t[a]) * stride;
                    step = g.strs[a] * stride;
                } else {
                    from += g.at(a, position[a + 2], t[a]) * stride;
                }
            }
            if n > 0 {
                tap(first, n, from, step);
            }
            let mut a = spatial;
            loop {
                if a == 0 {
                    return;
                }
                a -= 1;
                t[a] += 1;
                if t[a] < ranges[a].end {
                    break;
                }
                t[a] = ranges[a].start;
            }
        }
    }

    /// One fold over the taps: `acc[k] = f(acc[k], element)`.
    #[allow(
        clippy::too_many_arguments,
        reason = "a row and what is folded over it"
    )]
    fn fold<S: Copy, A: Copy>(
        &self,
        x: &[S],
        widen: impl Fn(S) -> A + Copy,
        f: impl Fn(A, A) -> A + Copy,
        position: &[i64],
        axis: usize,
        acc: &mut [A],
    ) {
        self.taps(position, axis, acc.len(), |first, n, from, step| {
            let acc = &mut acc[first..first + n];
            if step == 1 {
                let x = &x[from as usize..][..n];
                simd(
                    #[inline(always)]
                    || {
                        acc.iter_mut()
                            .zip(x)
                            .for_each(|(a, &v)| *a = f(*a, widen(v)))
                    },
                );
            } else {
                let mut at = from;
                for a in acc {
                    *a = f(*a, widen(x[at as usize]));
                    at += step;
                }
            }
        });
    }

    /// Number of elements that each window of a row divides by.
    fn counts(&self, position: &[i64], axis: usize, pads: bool, k: usize) -> f64 {
        (0..self.g.ins.len())
            .map(|a| {
                let o = position[a + 2] + if a + 2 == axis { k as i64 } else { 0 };
                self.g.count(a, o, pads) as f64
            })
            .product()
    }

    /// Divides sums, or takes their roots.
    fn settle(&self, sum: f64, position: &[i64], axis: usize, k: usize) -> f64 {
        match self.kind {
            PoolKind::Average { count_include_pad } => {
                sum / self.counts(position, axis, count_include_pad, k)
            }
            PoolKind::Lp(1) => sum,
            PoolKind::Lp(2) => sum.sqrt(),
            PoolKind::Lp(p) => sum.powf(1.0 / p as f64),
            PoolKind::Max { .. } => sum,
        }
    }

    pub(super) fn values(
        &self,
        x: Elements<'_>,
        position: &[i64],
        axis: usize,
        count: usize,
        out: &mut LaneMut<'_, '_>,
    ) {
        macro_rules! float {
            ($s:expr, $d:expr, $A:ty, $widen:expr) => {{
                let fold = |acc: &mut [$A]| match self.kind {
                    PoolKind::Max { .. } => {
                        acc.fill(<$A>::NEG_INFINITY);
                        // NaN wins
                        let f = |a: $A, v: $A| if v > a || v.is_nan() { v } else { a };
                        self.fold($s, $widen, f, position, axis, acc);
                    }
                    PoolKind::Average { count_include_pad } => {
                        acc.fill(0.0);
                        self.fold($s, $widen, |a: $A, v: $A| a + v, position, axis, acc);
                        if axis < 2 {
                            // channels share their windows
                            let n = self.counts(position, axis, count_include_pad, 0) as $A;
                            acc.iter_mut().for_each(|a| *a /= n);
                        } else {
                            for (k, a) in acc.iter_mut().enumerate() {
                                *a /= self.counts(position, axis, count_include_pad, k) as $A;
                            }
                        }
                    }
                    PoolKind::Lp(p) => {
                        acc.fill(0.0);
                        match p {
                            1 => self.fold(
                                $s,
                                $widen,
                                |a: $A, v: $A| a + v.abs(),
                                position,
                                axis,
                                acc,
                            ),
                            2 => {
                                self.fold($s, $widen, |a: $A, v: $A| a + v * v, position, axis, acc)
                            }
                            _ => {
                                let f = |a: $A, v: $A| a + v.abs().powf(p as $A);
                                self.fold($s, $widen, f, position, axis, acc);
                            }
                        }
                        for (k, a) in acc.iter_mut().enumerate() {
                            *a = self.settle(f64::from(*a), position, axis, k) as $A;
                        }
                    }
                };
                // a result without gaps is folded in place
                if out.stride == 1 {
                    fold(&mut $d[out.start as usize..][..count]);
                } else {
                    let mut acc = vec![0 as $A; count];
                    fold(&mut acc);
                    let mut to = out.start;
                    for a in acc {
                        $d[to as usize] = a;
                        to += out.stride;
                    }
                }
            }};
        }
        macro_rules! int {
            ($s:expr, $d:expr, $T:ty) => {{
                let values: Vec<$T> = if let PoolKind::Max { .. } = self.kind {
                    let mut acc = vec![<$T>::MIN; count];
                    self.fold($s, |v| v, |a: $T, v: $T| a.max(v), position, axis, &mut acc);
                    acc
                } else {
                    let mut acc = vec![0f64; count];
                    let p = if let PoolKind::Lp(p) = self.kind {
                        p as f64
                    } else {
                        1.0
                    };
                    let mean = matches!(self.kind, PoolKind::Average { .. });
                    let f = |a: f64, v: f64| a + if mean { v } else { v.abs().powf(p) };
                    self.fold($s, |v| v as f64, f, position, axis, &mut acc);
                    acc.iter()
                        .enumerate()
                        .map(|(k, &a)| self.settle(a, position, axis, k) as $T)
                        .collect()
                };
                let mut to = out.start;
                for v in values {
                    $d[to as usize] = v;
                    to += out.stride;
                }
            }};
        }
        match (x, &mut *out.elements) {
            (Elements::F32(s), ElementsMut::F32(d)) => float!(s, d, f32, |v| v),
            (Elements::F16(s), ElementsMut::F32(d)) => float!(s, d, f32, f16::to_f32),
            (Elements::BF16(s), ElementsMut::F32(d)) => float!(s, d, f32, bf16::to_f32),
            (Elements::F64(s), ElementsMut::F64(d)) => float!(s, d, f64, |v| v),
            (Elements::I8(s), ElementsMut::I8(d)) => int!(s, d, i8),
            (Elements::I16(s), ElementsMut::I16(d)) => int!(s, d, i16),
            (Elements::I32(s), ElementsMut::I32(d)) => int!(s, d, i32),
            (Elements::I64(s), ElementsMut::I64(d)) => int!(s, d, i64),
            (Elements::U8(s) | Elements::Bool(s), ElementsMut::U8(d) | ElementsMut::Bool(d)) => {
                int!(s, d, u8)
            }
            (Elements::U16(s), ElementsMut::U16(d)) => int!(s, d, u16),
            (Elements::U32(s), ElementsMut::U32(d)) => int!(s, d, u32),
            (Elements::U64(s), ElementsMut::U64(d)) => int!(s, d, u64),
            (from, to) => debug_assert!(false, "{} is not pooled to {}", from.dtype(), to.dtype()),
        }
    }

    /// Flat positions of the maxima, the first of equal ones.
    pub(super) fn indices(
        &self,
        x: Elements<'_>,
        position: &[i64],
        axis: usize,
        count: usize,
        out: &mut LaneMut<'_, '_>,
    ) {
        let ElementsMut::I64(d) = &mut *out.elements else {
            return;
        };
        macro_rules! search {
            ($s:expr, $key:expr) => {{
                let mut p = position.to_vec();
                for k in 0..count as i64 {
                    p[axis] = position[axis] + k;
                    let mut best = None;
                    self.window(&p, |address, flat| {
                        let v = $key($s[address as usize]);
                        if best.is_none_or(|(old, _)| beats(v, old)) {
                            best = Some((v, flat));
                        }
                    });
                    d[(out.start + k * out.stride) as usize] = best.map_or(0, |b| b.1);
                }
            }};
        }
        match x {
            Elements::F32(s) => search!(s, f64::from),
            Elements::F64(s) => search!(s, |v: f64| v),
            Elements::F16(s) => search!(s, f16::to_f64),
            Elements::BF16(s) => search!(s, bf16::to_f64),
            Elements::I8(s) => search!(s, f64::from),
            Elements::I16(s) => search!(s, f64::from),
            Elements::I32(s) => search!(s, f64::from),
            Elements::U8(s) | Elements::Bool(s) => search!(s, f64::from),
            Elements::U16(s) => search!(s, f64::from),
            Elements::U32(s) => search!(s, f64::from),
            Elements::I64(s) => search!(s, |v: i64| v),
            Elements::U64(s) => search!(s, |v: u64| v),
        }
    }

    /// Every element of a window, row-major: where it is in memory, and its flat index in the input.
    fn window(&self, p: &[i64], mut f: impl FnMut(i64, i64)) {
        let g = self.g;
        let spatial = g.ins.len();
        let column_major = matches!(
            self.kind,
            PoolKind::Max {
                column_major: true,
                ..
            }
        );
        let mut along = vec![1; spatial];
        let mut plane = 1;
        for i in 0..spatial {
            let a = if column_major { i } else { spatial - 1 - i };
            along[a] = plane;
            plane *= g.ins[a];
        }
        let region: Vec<_> = (0..spatial).map(|a| g.inside(a, p[a + 2])).collect();
        let base = self.x.offset + p[0] * self.x.strides[0] + p[1] * self.x.strides[1];
        let last = spatial.saturating_sub(1);
        regions::for_each_row(&region, last, |t, n| {
            for k in 0..n as i64 {
                let (mut address, mut flat) = (base, (p[0] * g.extents[1] + p[1]) * plane);
                for a in 0..spatial {
                    let at = g.at(a, p[a + 2], t[a] + if a == last { k } else { 0 });
                    address += at * self.x.strides[a + 2];
                    flat += at * along[a];
                }
                f(address, flat);
            }
        });
    }
}

/// Whether `a` is a larger element than `b`; NaN beats every number.
fn beats<T: PartialOrd>(a: T, b: T) -> bool {
    let nan = |v: &T| v.partial_cmp(v).is_none();
    a > b || (nan(&a) && !nan(&b))
}

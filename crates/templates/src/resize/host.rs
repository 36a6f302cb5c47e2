//! The twin of resampling: weights of each axis once, then row by row.

use bespoke_device::TwinError;
use bespoke_ir::op::resize::{CoordinateMode, Interpolation, NearestMode};
use half::{bf16, f16};

use super::{LEAST_SCALE, Resize};
use crate::expr::lanes::{self, Elements, ElementsMut, LaneMut};
use crate::expr::simd;
use crate::view::Strided;
use crate::walk;

/// One axis with its extents on the host.
#[derive(Clone, Copy, Debug)]
pub(super) struct Axis<'t> {
    pub(super) t: &'t Resize,
    pub(super) axis: usize,
    pub(super) input: i64,
    pub(super) output: i64,
}

/// The taps of each output position of an axis.
#[derive(Clone, Debug, Default)]
pub(super) struct Taps {
    /// Position in the input and weight of every tap, one output position after the other.
    list: Vec<(i64, f64)>,
    /// Where the taps of each output position end.
    ends: Vec<usize>,
    /// Output positions outside a cropped region.
    outside: Vec<bool>,
    /// Whether every position reads itself.
    kept: bool,
}

impl Taps {
    fn of(&self, o: i64) -> &[(i64, f64)] {
        let o = o as usize;
        let from = if o == 0 { 0 } else { self.ends[o - 1] };
        &self.list[from..self.ends[o]]
    }
}

impl Axis<'_> {
    fn scale(&self) -> f32 {
        self.t.scales[self.axis].unwrap_or(self.output as f32 / self.input as f32)
    }

    /// The input position that output position `o` reads. The CUDA text of the same is `position_text` in the module above.
    fn position(&self, o: i64) -> f32 {
        let (o, n, m, scale) = (
            o as f32,
            self.input as f32,
            self.output as f32,
            self.scale(),
        );
        let width = self.t.scales[self.axis].map_or(m, |s| s * n);
        if let Some((start, end)) = self.t.region(self.axis) {
            return if width == 1.0 {
                0.5 * (start + end) * (n - 1.0)
            } else {
                start * (n - 1.0) + o * (end - start) * (n - 1.0) / (width - 1.0)
            };
        }
        match self.t.coordinates {
            CoordinateMode::PytorchHalfPixel if self.output == 1 => 0.0,
            CoordinateMode::HalfPixel | CoordinateMode::PytorchHalfPixel => (o + 0.5) / scale - 0.5,
            CoordinateMode::HalfPixelSymmetric => {
                n / 2.0 * (1.0 - m / width) + ((o + 0.5) / scale - 0.5)
            }
            CoordinateMode::AlignCorners if width == 1.0 => 0.0,
            CoordinateMode::AlignCorners => o * (n - 1.0) / (width - 1.0),
            CoordinateMode::Asymmetric => o / scale,
            CoordinateMode::TfHalfPixelForNn => (o + 0.5) / scale,
        }
    }

    pub(super) fn taps(&self) -> Result<Taps, TwinError> {
        let last = self.input - 1;
        if !self.t.axes.contains(&self.axis)
            || (self.input == self.output && self.t.may_keep(self.axis))
        {
            return Ok(Taps {
                list: (0..self.output).map(|o| (o.min(last), 1.0)).collect(),
                ends: (1..=self.output as usize).collect(),
                outside: vec![false; self.output as usize],
                kept: self.input == self.output,
            });
        }
        let scale = self.scale();
        if self.output > 0 && !(self.input > 0 && scale.is_finite() && scale >= LEAST_SCALE) {
            let (axis, input) = (self.axis, self.input);
            return Err(TwinError(format!(
                "cannot resample {input} elements of axis {axis} by a factor of {scale}"
            )));
        }
        let mut taps = Taps::default();
        for o in 0..self.output {
            let x = self.position(o);
            let outside = self.t.region(self.axis).is_some() && !(0.0..=last as f32).contains(&x);
            taps.outside.push(outside);
            self.push(x, last, &mut taps.list);
            taps.ends.push(taps.list.len());
        }
        Ok(taps)
    }

    /// Appends the taps at `x`.
    fn push(&self, x: f32, last: i64, list: &mut Vec<(i64, f64)>) {
        let (radius, a, exclude) = match self.t.interpolation {
            Interpolation::Nearest(mode) => {
                let r = match mode {
                    NearestMode::Floor => x.floor(),
                    NearestMode::Ceil => x.ceil(),
                    NearestMode::RoundPreferFloor => (x - 0.5).ceil(),
                    NearestMode::RoundPreferCeil => (x + 0.5).floor(),
                };
                return list.push(((r as i64).clamp(0, last), 1.0));
            }
            Interpolation::Linear => (1.0, 0.0, false),
            Interpolation::Cubic {
                coefficient,
                exclude_outside,
            } => (2.0, coefficient, exclude_outside),
        };
        let linear = radius == 1.0;
        let shrink = if self.t.antialias {
            f64::from(self.scale()).min(1.0)
        } else {
            1.0
        };
        let x = f64::from(x);
        let start = list.len();
        let mut sum = 0.0;
        for i in (x - radius / shrink).ceil() as i64..=(x + radius / shrink).floor() as i64 {
            let at = (i as f64 - x).abs() * shrink;
            let weight = if linear {
                (1.0 - at).max(0.0)
            } else if at <= 1.0 {
                ((a + 2.0) * at - (a + 3.0)) * at * at + 1.0
            } else if at < 2.0 {
                ((a * at - 5.0 * a) * at + 8.0 * a) * at - 4.0 * a
            } else {
                0.0
            };
            if weight != 0.0 && (!exclude || (0..=last).contains(&i)) {
                sum += weight;
                list.push((i.clamp(0, last), weight));
            }
        }
        if self.t.antialias || exclude {
            list[start..].iter_mut().for_each(|t| t.1 /= sum);
        }
    }
}

/// One run of the twin.
pub(super) struct Run<'r> {
    pub(super) x: Elements<'r>,
    pub(super) view: &'r Strided,
    pub(super) input: &'r [i64],
    pub(super) taps: Vec<Taps>,
}

impl Run<'_> {
    /// Whether a row lies outside the cropped region whatever its own axis says.
    fn is_outside(&self, position: &[i64], axis: usize) -> bool {
        position
            .iter()
            .enumerate()
            .any(|(a, &o)| a != axis && self.taps[a].outside[o as usize])
    }

    pub(super) fn nearest(
        &self,
        position: &[i64],
        axis: usize,
        count: usize,
        outside: Elements<'_>,
        out: &mut LaneMut<'_, '_>,
    ) {
        if self.is_outside(position, axis) {
            return walk::fill_with(outside, count, out);
        }
        let mut base = self.view.offset;
        for (a, &o) in position.iter().enumerate() {
            if a != axis {
                base += self.taps[a].of(o)[0].0 * self.view.strides[a];
            }
        }
        let Some(taps) = self.taps.get(axis) else {
            return walk::pick(self.x, count, out, |_| Some(base));
        };
        let (first, stride) = (position[axis], self.view.strides[axis]);
        if taps.kept {
            let lane = lanes::Lane {
                elements: self.x,
                start: base + first * stride,
                stride,
            };
            return crate::expr::host::copy(lane, count, out);
        }
        // one tap a position
        let list = &taps.list[first as usize..][..count];
        walk::pick(self.x, count, out, |k| Some(base + list[k].0 * stride));
        if taps.outside[first as usize..][..count].contains(&true) {
            let (start, step) = (out.start, out.stride);
            for k in 0..count {
                if taps.outside[first as usize + k] {
                    let at = start + k as i64 * step;
                    let mut one = LaneMut {
                        elements: &mut *out.elements,
                        start: at,
                        stride: 1,
                    };
                    walk::fill_with(outside, 1, &mut one);
                }
            }
        }
    }

    /// Calls `f` with weight and base of every combination of taps of the axes but `axis`.
    fn combinations(&self, position: &[i64], axis: usize, f: &mut dyn FnMut(f64, i64)) {
        fn descend(
            run: &Run<'_>,
            position: &[i64],
            axis: usize,
            a: usize,
            weight: f64,
            base: i64,
            f: &mut dyn FnMut(f64, i64),
        ) {
            if a == position.len() {
                return f(weight, base);
            }
            if a == axis {
                return descend(run, position, axis, a + 1, weight, base, f);
            }
            for &(at, w) in run.taps[a].of(position[a]) {
                descend(
                    run,
                    position,
                    axis,
                    a + 1,
                    weight * w,
                    base + at * run.view.strides[a],
                    f,
                );
            }
        }
        descend(self, position, axis, 0, 1.0, self.view.offset, f);
    }

    pub(super) fn blend(
        &self,
        position: &[i64],
        axis: usize,
        count: usize,
        outside: f64,
        out: &mut LaneMut<'_, '_>,
    ) {
        macro_rules! rows {
            ($s:expr, $d:expr, $A:ty, $widen:expr, $narrow:expr) => {{
                let mut acc = vec![0 as $A; count];
                if self.is_outside(position, axis) {
                    acc.fill(outside as $A);
                } else {
                    self.row($s, position, axis, outside as $A, &mut acc, $widen);
                }
                let mut to = out.start;
                for a in acc {
                    $d[to as usize] = $narrow(a);
                    to += out.stride;
                }
            }};
        }
        macro_rules! ints {
            ($(($from:ident, $to:ident, $T:ty)),*) => {
                match (self.x, &mut *out.elements) {
                    (Elements::F32(s), ElementsMut::F32(d)) => rows!(s, d, f32, |v: f32| v, |v| v),
                    (Elements::F16(s), ElementsMut::F32(d)) => rows!(s, d, f32, f16::to_f32, |v| v),
                    (Elements::BF16(s), ElementsMut::F32(d)) => rows!(s, d, f32, bf16::to_f32, |v| v),
                    (Elements::F64(s), ElementsMut::F64(d)) => rows!(s, d, f64, |v: f64| v, |v| v),
                    (Elements::Bool(s), ElementsMut::Bool(d)) => {
                        rows!(s, d, f64, |v: u8| f64::from(v != 0), |v: f64| u8::from(settle(v) != 0.0));
                    }
                    $((Elements::$from(s), ElementsMut::$to(d)) => {
                        // a conversion truncates and saturates
                        rows!(s, d, f64, |v: $T| v as f64, |v: f64| settle(v) as $T);
                    })*
                    (from, to) => debug_assert!(false, "{} is not resampled to {}", from.dtype(), to.dtype()),
                }
            };
        }
        ints!(
            (I8, I8, i8),
            (I16, I16, i16),
            (I32, I32, i32),
            (I64, I64, i64),
            (U8, U8, u8),
            (U16, U16, u16),
            (U32, U32, u32),
            (U64, U64, u64)
        );
    }

    /// A row of sums; `acc` starts at zeros.
    fn row<S: Copy, A: Real>(
        &self,
        x: &[S],
        position: &[i64],
        axis: usize,
        outside: A,
        acc: &mut [A],
        widen: impl Fn(S) -> A + Copy,
    ) {
        let add = |acc: &mut [A], weight: f64, from: i64, stride: i64| {
            let weight = A::of(weight);
            if stride == 1 {
                let x = &x[from as usize..][..acc.len()];
                simd(
                    #[inline(always)]
                    || {
                        acc.iter_mut()
                            .zip(x)
                            .for_each(|(a, &v)| *a = *a + weight * widen(v))
                    },
                );
            } else {
                let mut at = from;
                for a in acc {
                    *a = *a + weight * widen(x[at as usize]);
                    at += stride;
                }
            }
        };
        let Some(taps) = self.taps.get(axis) else {
            return self.combinations(position, axis, &mut |w, base| add(acc, w, base, 0));
        };
        let (first, stride) = (position[axis], self.view.strides[axis]);
        if taps.kept {
            return self.combinations(position, axis, &mut |w, base| {
                add(acc, w, base + first * stride, stride)
            });
        }
        // the other axes first, over all of the input that the row meets
        let used = (first..first + acc.len() as i64).flat_map(|o| taps.of(o).iter().map(|t| t.0));
        let (low, high) = used.fold((self.input[axis], -1), |(low, high), i| {
            (low.min(i), high.max(i))
        });
        if high < low {
            return;
        }
        let mut line = vec![A::of(0.0); (high - low + 1) as usize];
        self.combinations(position, axis, &mut |w, base| {
            add(&mut line, w, base + low * stride, stride)
        });
        for (k, a) in acc.iter_mut().enumerate() {
            let o = first + k as i64;
            if taps.outside[o as usize] {
                *a = outside;
                continue;
            }
            for &(at, w) in taps.of(o) {
                *a = *a + A::of(w) * line[(at - low) as usize];
            }
        }
    }
}

/// A sum that becomes an integer, rounded to a multiple of 2⁻²⁰: one that is an integer but for the order of its terms
/// counts as one on every device.
fn settle(sum: f64) -> f64 {
    const GRID: f64 = (1 << 20) as f64;
    (sum * GRID).round_ties_even() / GRID
}

/// What sums are formed in.
trait Real: Copy + std::ops::Add<Output = Self> + std::ops::Mul<Output = Self> {
    fn of(v: f64) -> Self;
}

impl Real for f32 {
    fn of(v: f64) -> f32 {
        v as f32
    }
}

impl Real for f64 {
    fn of(v: f64) -> f64 {
        v
    }
}

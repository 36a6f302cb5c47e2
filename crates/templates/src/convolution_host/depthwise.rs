//! Depthwise convolutions on the host.
//!
//! Each channel has one filter of its own, so a matrix product would have one row. The sums are taken directly instead,
//! along whatever lies contiguous in the input: the channels of a pixel, or the pixels of a channel's row.

use std::ops::Range;

use bespoke_device::TwinError;

use super::sum::Sum;
use super::{Twin, valid};
use crate::expr::regions::Part;
use crate::expr::simd;
use crate::finish::{Block, with_scratch};

/// Which outputs of a phase, at most `count`, lie in a range of a row.
fn outputs_of(phase: i64, spacing: i64, across: &Range<i64>, count: i64) -> Range<i64> {
    let first = |at: i64| (at - phase + spacing - 1).div_euclid(spacing);
    first(across.start).max(0)..first(across.end).min(count)
}

impl<T: Sum> Twin<'_, T> {
    /// The part of a depthwise result in `region`.
    pub(super) fn depthwise(
        &self,
        region: &[Range<i64>],
        y: &mut Part<'_>,
    ) -> Result<(), TwinError> {
        let last = self.last();
        let across = region[last].clone();
        let width = (across.end - across.start) as usize;
        let channels = region[1].clone();
        let count = (channels.end - channels.start) as usize;
        // sums lie as the input does; the epilogue takes them by pixel or by channel
        let by_pixel =
            self.x_view.strides[1] == 1 || self.x_view.strides[last] != 1 && self.channels_last;
        let mut position: Vec<i64> = region.iter().map(|r| r.start).collect();
        loop {
            with_scratch(count * width, |sums: &mut [T]| {
                sums.fill(T::ZERO);
                if by_pixel {
                    self.sum_pixels(&position, &across, &channels, sums);
                } else {
                    self.sum_channels(&position, &across, &channels, sums);
                }
                T::as_elements(sums, self.integers, |sums| {
                    let block = Block {
                        position: &position,
                        column_axis: if by_pixel { 1 } else { last },
                        row_axes: if by_pixel { last..last + 1 } else { 1..2 },
                        extents: &self.extents,
                        rows: if by_pixel { width } else { count },
                        columns: if by_pixel { count } else { width },
                        pitch: if by_pixel { count } else { width },
                    };
                    self.finish.block(sums, &block, y);
                });
            });
            let mut a = last;
            loop {
                a -= 1;
                if a == 1 {
                    a = 0;
                }
                position[a] += 1;
                if position[a] < region[a].end {
                    break;
                }
                position[a] = region[a].start;
                if a == 0 {
                    return Ok(());
                }
            }
        }
    }

    /// Depthwise sums of a row, a pixel's channels side by side.
    fn sum_pixels(
        &self,
        position: &[i64],
        across: &Range<i64>,
        channels: &Range<i64>,
        sums: &mut [T],
    ) {
        let count = (channels.end - channels.start) as usize;
        let (channel, stride) = (self.x_view.strides[1], self.x_view.strides[self.last()]);
        let all = (self.s.g) as usize;
        let spacing = self.phases[0].axes[self.spatial - 1].spacing;
        let direct = T::direct(self.x).filter(|_| channel == 1);
        let mut converted = vec![T::ZERO; if direct.is_none() { count } else { 0 }];
        let mut found: Vec<(usize, usize)> = Vec::new();
        let mut tap = vec![0i64; self.spatial];
        let mut outer: Vec<Option<i64>> = Vec::new();
        for phase in 0..spacing {
            let p = self.phase(position, phase);
            let axis = &p.axes[self.spatial - 1];
            let taps = p.taps();
            // inputs of each tap but for the last axis
            outer.clear();
            for t in 0..taps {
                let mut rest = t / axis.taps;
                for a in (0..self.spatial - 1).rev() {
                    tap[a] = rest % p.axes[a].taps;
                    rest /= p.axes[a].taps;
                }
                outer.push(
                    self.outer(p, position, 0, &tap)
                        .map(|at| at + channels.start * channel),
                );
            }
            let q = outputs_of(phase, spacing, across, axis.outputs);
            for q in q {
                let o = phase + q * spacing - across.start;
                let sums = &mut sums[o as usize * count..][..count];
                found.clear();
                for (t, outer) in outer.iter().enumerate() {
                    let i = q * axis.mul + axis.base + t as i64 % axis.taps * axis.step;
                    let Some(outer) = outer else { continue };
                    if (0..axis.input).contains(&i) {
                        found.push((
                            (outer + i * stride) as usize,
                            t * all + channels.start as usize,
                        ));
                    }
                }
                match direct {
                    Some(x) => sum_taps(x, &p.weights.data, &found, sums),
                    None => {
                        for &(at, w) in &found {
                            T::widen(self.x, at as i64, channel, &mut converted);
                            sum_taps(&converted, &p.weights.data, &[(0, w)], sums);
                        }
                    }
                }
            }
        }
    }

    /// Depthwise sums of a row, a channel's pixels side by side.
    fn sum_channels(
        &self,
        position: &[i64],
        across: &Range<i64>,
        channels: &Range<i64>,
        sums: &mut [T],
    ) {
        let width = (across.end - across.start) as usize;
        let (channel, stride) = (self.x_view.strides[1], self.x_view.strides[self.last()]);
        let all = self.s.g as usize;
        let spacing = self.phases[0].axes[self.spatial - 1].spacing;
        let mut converted = vec![T::ZERO; width];
        let mut tap = vec![0i64; self.spatial];
        for phase in 0..spacing {
            let p = self.phase(position, phase);
            let axis = &p.axes[self.spatial - 1];
            let q = outputs_of(phase, spacing, across, axis.outputs);
            if q.is_empty() {
                continue;
            }
            for t in 0..p.taps() {
                let mut rest = t;
                for a in (0..self.spatial).rev() {
                    tap[a] = rest % p.axes[a].taps;
                    rest /= p.axes[a].taps;
                }
                let Some(outer) = self.outer(p, position, 0, &tap) else {
                    continue;
                };
                let inside = valid(axis, tap[self.spatial - 1], &q);
                let len = (inside.end - inside.start) as usize;
                if len == 0 {
                    continue;
                }
                let i = inside.start * axis.mul + axis.base + tap[self.spatial - 1] * axis.step;
                let first = (phase + inside.start * spacing - across.start) as usize;
                for ch in channels.clone() {
                    let at = outer + ch * channel + i * stride;
                    let weight = p.weights.data[t as usize * all + ch as usize];
                    let row = &mut sums[(ch - channels.start) as usize * width..][..width];
                    let direct = T::direct(self.x).filter(|_| stride * axis.mul == 1);
                    let x = match direct {
                        Some(x) => &x[at as usize..][..len],
                        None => {
                            T::widen(self.x, at, stride * axis.mul, &mut converted[..len]);
                            &converted[..len]
                        }
                    };
                    if spacing == 1 {
                        simd(
                            #[inline(always)]
                            || {
                                row[first..first + len]
                                    .iter_mut()
                                    .zip(x)
                                    .for_each(|(y, &x)| *y += x * weight)
                            },
                        );
                    } else {
                        let row = row[first..].iter_mut().step_by(spacing as usize);
                        row.zip(x).for_each(|(y, &x)| *y += x * weight);
                    }
                }
            }
        }
    }
}

/// `sums += Σ x[at…] · w[at…]` over taps, channel by channel in registers.
fn sum_taps<T: Sum>(x: &[T], w: &[T], taps: &[(usize, usize)], sums: &mut [T]) {
    const LANES: usize = 32;
    let count = sums.len();
    simd(
        #[inline(always)]
        || {
            let mut done = 0;
            while done + LANES <= count {
                let mut acc = [T::ZERO; LANES];
                acc.copy_from_slice(&sums[done..done + LANES]);
                for &(i, j) in taps {
                    let (x, w) = (
                        &x[i + done..i + done + LANES],
                        &w[j + done..j + done + LANES],
                    );
                    for l in 0..LANES {
                        acc[l] += x[l] * w[l];
                    }
                }
                sums[done..done + LANES].copy_from_slice(&acc);
                done += LANES;
            }
            for &(i, j) in taps {
                let rest = sums[done..]
                    .iter_mut()
                    .zip(&x[i + done..i + count])
                    .zip(&w[j + done..j + count]);
                rest.for_each(|((y, &x), &w)| *y += x * w);
            }
        },
    );
}

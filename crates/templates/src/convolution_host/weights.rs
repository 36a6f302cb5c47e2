//! Weights of convolutions on the host: as they are, or packed once a run.
//!
//! The product needs each filter's weights in the order of the reduction, at one distance. Weights that lie so already
//! are used in place; all others (other types, groups of transposed convolutions, permuted axes) are copied.

use super::sum::Sum;
use crate::convolution::{Axis, Geometry};
use crate::expr::lanes::Elements;
use crate::view::Strided;

/// Weights of one phase as a matrix of filters × reduction.
pub(super) struct Weights<'a, T: Sum> {
    pub(super) data: std::borrow::Cow<'a, [T]>,
    pub(super) start: i64,
    /// Distance of filters, of all groups.
    pub(super) filter: i64,
}

/// The weights of a phase, in place if they lie in the order of the reduction. Depthwise: taps × channels.
pub(super) fn pack<'a, T: Sum>(
    s: &Geometry,
    transposed: bool,
    channels_last: bool,
    depthwise: bool,
    axes: &[Axis],
    w: Elements<'a>,
    view: &Strided,
) -> Weights<'a, T> {
    let spatial = axes.len();
    let taps: i64 = axes.iter().map(|a| a.taps).product();
    let (filter, channel) = if transposed {
        (view.strides[1], view.strides[0])
    } else {
        (view.strides[0], view.strides[1])
    };
    let start = view.offset
        + axes
            .iter()
            .zip(&view.strides[2..])
            .map(|(a, s)| a.tap * s)
            .sum::<i64>();
    // whether position r of the reduction is at r elements from the first
    let mut linear = true;
    let mut expected = if channels_last { s.c } else { 1 };
    for a in (0..spatial).rev() {
        linear &= axes[a].taps <= 1 || view.strides[a + 2] * axes[a].tap_step == expected;
        expected *= axes[a].taps;
    }
    linear &= s.c <= 1 || channel == if channels_last { 1 } else { expected };
    if linear
        && !depthwise
        && (!transposed || s.g == 1)
        && let Some(data) = T::direct(w)
    {
        return Weights {
            data: data.into(),
            start,
            filter,
        };
    }
    let reduction = (taps * s.c) as usize;
    let filters = (s.g * s.k) as usize;
    let mut data = vec![T::ZERO; filters * reduction];
    let mut lane = vec![T::ZERO; if depthwise { filters } else { s.c as usize }];
    for tap in 0..taps {
        let (mut rest, mut at) = (tap, start);
        for a in (0..spatial).rev() {
            at += rest % axes[a].taps * axes[a].tap_step * view.strides[a + 2];
            rest /= axes[a].taps;
        }
        if depthwise {
            // channel and filter are the same; the axis with all of them comes first in both kinds
            T::widen(w, at, view.strides[0], &mut lane);
            data[tap as usize * filters..][..filters].copy_from_slice(&lane);
            continue;
        }
        for f in 0..s.g * s.k {
            let (group, k) = (f / s.k, f % s.k);
            let at = at
                + if transposed {
                    k * filter + group * s.c * channel
                } else {
                    f * filter
                };
            T::widen(w, at, channel, &mut lane);
            let to = &mut data[f as usize * reduction..][..reduction];
            if channels_last {
                to[(tap * s.c) as usize..][..lane.len()].copy_from_slice(&lane);
            } else {
                to.iter_mut()
                    .skip(tap as usize)
                    .step_by(taps as usize)
                    .zip(&lane)
                    .for_each(|(y, &x)| *y = x);
            }
        }
    }
    Weights {
        data: data.into(),
        start: 0,
        filter: reduction as i64,
    }
}

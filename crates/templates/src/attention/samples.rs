//! Random runs of attention, for tests on every device.

use std::sync::Arc;

use bespoke_ir::DType;

use super::{Attention, STEP};
use crate::arguments::{Arguments, elements, tolerance};
use crate::sample::{Rng, Sample, SampleSlot, push_element};
use crate::spec::Template;

/// Random runs: every type, mask, layout and remainder.
pub fn samples(rng: &mut Rng) -> Vec<Sample> {
    cases(rng).into_iter().map(|(_, sample)| sample).collect()
}

/// The samples with their options.
pub(super) fn cases(rng: &mut Rng) -> Vec<(Arc<Attention>, Sample)> {
    let mut all: Vec<_> = (0..6)
        .map(|i| {
            let dtype = if i % 3 == 1 { DType::BF16 } else { DType::F16 };
            let size = *rng.pick(&[16, 32, 40, 64, 64, 72, 80, 96, 128, 160, 192, 256]);
            let t = Attention {
                batch: rng.int(0, 2) as usize,
                dtype,
                size,
                value_size: if rng.chance(4) {
                    STEP * rng.int(1, 16)
                } else {
                    size
                },
                scale: if rng.chance(8) {
                    -0.1
                } else {
                    (size as f64).powf(-0.5)
                },
                mask: *rng.pick(&[
                    None,
                    None,
                    None,
                    Some(dtype),
                    Some(DType::F32),
                    Some(DType::Bool),
                ]),
                fill: if rng.chance(2) {
                    f64::NEG_INFINITY
                } else {
                    -1e4
                },
                undefined_as_zero: rng.chance(3),
            };
            let t = Arc::new(t);
            (t.clone(), sample(rng, t))
        })
        .collect();
    all.extend([DType::F16, DType::BF16].map(|dtype| streamed(rng, dtype)));
    all.extend([true, false].map(|all| below_zero(rng, all)));
    all
}

/// Few rows, of heads whose lines are shared by whole lanes.
fn streamed(rng: &mut Rng, dtype: DType) -> (Arc<Attention>, Sample) {
    let t = Arc::new(Attention {
        batch: rng.int(0, 2) as usize,
        dtype,
        size: *rng.pick(&[32, 64, 96, 128, 128, 256]),
        value_size: *rng.pick(&[64, 128, 128, 192]),
        scale: 0.1,
        mask: *rng.pick(&[None, Some(dtype), Some(DType::F32), Some(DType::Bool)]),
        fill: f64::NEG_INFINITY,
        undefined_as_zero: rng.chance(3),
    });
    let m = rng.int(1, 3);
    let extents = (rng.int(1, 8 / m), m, rng.int(1, 700));
    (t.clone(), sample_of(rng, t, extents, true))
}

fn sample(rng: &mut Rng, t: Arc<Attention>) -> Sample {
    let (g, m) = match rng.int(0, 3) {
        0 => (rng.int(1, 8), 1),
        1 => (rng.int(2, 4), rng.int(1, 40)),
        _ => (1, rng.int(1, 150)),
    };
    let n = match rng.int(0, 7) {
        0 => rng.int(0, 1),
        1 | 2 => 77,
        3 | 4 => 16 * rng.int(1, 20),
        _ => rng.int(1, 300),
    };
    // half of them as models have them
    let plain = rng.chance(2);
    sample_of(rng, t, (g, m, n), plain)
}

/// A run of so many heads, rows and keys; `plain`: rows of all heads, without gaps.
fn sample_of(rng: &mut Rng, t: Arc<Attention>, (g, m, n): (i64, i64, i64), plain: bool) -> Sample {
    let space: Vec<i64> = (0..t.batch).map(|_| rng.int(1, 3)).collect();
    let mut s = Arguments::new(&*t);
    for (name, value) in [("m", m), ("n", n), ("g", g)] {
        s.int(name, value);
    }
    for (i, d) in space.iter().enumerate() {
        s.int(&format!("d{i}"), *d);
    }
    let over = |last: &[i64]| [&space[..], last].concat();
    let batches: Vec<usize> = (0..t.batch).collect();
    for (name, extents) in [
        ("q", over(&[g, m, t.size])),
        ("k", over(&[n, t.size])),
        ("v", over(&[n, t.value_size])),
        ("y", over(&[g, m, t.value_size])),
    ] {
        if plain {
            let mut order: Vec<usize> = (0..extents.len()).collect();
            if rng.chance(2) && order.len() > 2 {
                // heads between rows and elements
                let rows = order.remove(order.len() - 2);
                order.insert(0, rows);
            }
            dense(&mut s, rng, name, &extents, &order);
        } else {
            s.tensor(rng, name, &extents, &batches);
        }
    }
    if let Some(mask) = t.mask {
        let extents = over(&[g, m, n]);
        let all: Vec<usize> = (0..extents.len()).collect();
        s.tensor(rng, "e0", &extents, &all);
        if mask != DType::Bool {
            // some keys are out of sight
            s.edit("e0", |bytes| {
                let lowest = [0.0, f64::NEG_INFINITY][rng.int(0, 1) as usize];
                for element in bytes.chunks_exact_mut(mask.size().unwrap_or(1)) {
                    if rng.chance(4) {
                        let mut new = Vec::new();
                        push_element(&mut new, mask, lowest, 0);
                        element.copy_from_slice(&new);
                    }
                }
            });
        }
    }
    let tolerance = tolerance(t.dtype);
    s.finish(t, tolerance)
}

/// Scores that are negative, of all keys or of those in the first half of memory: what rows are relative to is then far below zero,
/// and in the second case jumps.
fn below_zero(rng: &mut Rng, all: bool) -> (Arc<Attention>, Sample) {
    const SIGN: u8 = 0x80;
    let t = Arc::new(Attention {
        batch: 1,
        dtype: DType::F16,
        size: 64,
        value_size: 64,
        scale: 0.125,
        mask: None,
        fill: f64::NEG_INFINITY,
        undefined_as_zero: false,
    });
    let extents = (1, rng.int(100, 150), rng.int(400, 600));
    let mut sample = sample_of(rng, t.clone(), extents, true);
    let params = t.params();
    for (param, slot) in params.iter().zip(&mut sample.slots) {
        let SampleSlot::Read(bytes) = slot else {
            continue;
        };
        let negative = match (param.name.as_str(), all) {
            ("k", true) => bytes.len(),
            ("k", false) => bytes.len() / 4 * 2,
            ("q", _) => 0,
            _ => continue,
        };
        for (i, element) in bytes.chunks_exact_mut(2).enumerate() {
            match i * 2 < negative {
                true => element[1] |= SIGN,
                false => element[1] &= !SIGN,
            }
        }
    }
    (t, sample)
}

/// A tensor without gaps, its axes in this order of memory.
pub(super) fn dense(
    s: &mut Arguments,
    rng: &mut Rng,
    name: &str,
    extents: &[i64],
    order: &[usize],
) {
    let mut step = 1;
    for &axis in order.iter().rev() {
        s.int(&format!("{name}_s{axis}"), step);
        step *= extents[axis].max(1);
    }
    s.int(&format!("{name}_o"), 0);
    let dtype = s.dtype(name);
    let bytes = elements(rng, dtype, step as usize);
    s.set(
        name,
        if name == "y" {
            SampleSlot::Write(bytes)
        } else {
            SampleSlot::Read(bytes)
        },
    );
}

//! What fills the inputs that nobody gives.
//!
//! Content comes from a seed and an input's name, the same on every machine. There are two kinds of it, [`Content`].

use std::sync::Arc;

use bespoke::ErrorKind;
use bespoke::ir::{Constant, DType};

use crate::failure::Failure;
use crate::inputs::Port;
use crate::shapes::show;

/// What fills an input that is not given.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Content {
    /// Floats from a bell curve with deviation 0.5; integers 0 or 1, small enough for any table that they may index.
    Random,
    /// For timing: floats even within ±0.175, integers 1, which select, index and mask the same everywhere.
    Even,
}

/// SplitMix64 (Steele, Lea, Flood 2014): small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Even within ± `bound`.
    fn even(&mut self, bound: f64) -> f64 {
        // 53 bits are what an f64 holds exactly.
        ((self.next() >> 11) as f64 / (1_u64 << 52) as f64 - 1.0) * bound
    }

    /// The sum of twelve uniform numbers less six has mean 0 and deviation 1 and needs no transcendental function, which
    /// would round differently from one C library to the next.
    fn bell(&mut self) -> f32 {
        let mut sum = 0_u32;
        for _ in 0..3 {
            let bits = self.next();
            sum += (0..4)
                .map(|i| (bits >> (16 * i)) as u32 & 0xffff)
                .sum::<u32>();
        }
        (sum as f32 / 65536.0) - 6.0
    }
}

/// A tensor from a seed. `feed` are elements with a value of their own.
pub(crate) fn fill(
    port: &Port<'_>,
    dims: &[i64],
    seed: u64,
    content: Content,
    feed: &[(usize, i64)],
) -> Result<Arc<Constant>, Failure> {
    let dtype = port.ty.dtype;
    let huge = || {
        Failure::new(
            ErrorKind::OutOfMemory,
            format!(
                "input `{}`: there is no memory for {dtype}[{}]",
                port.name,
                show(dims)
            ),
            "give it a smaller shape",
        )
    };
    let elements = dims
        .iter()
        .try_fold(1_u64, |n, &d| n.checked_mul(u64::try_from(d).ok()?));
    let elements = elements.ok_or_else(huge)?;
    let bytes = dtype
        .bytes_for(elements)
        .and_then(|b| usize::try_from(b).ok())
        .ok_or_else(huge)?;
    let mut data: Vec<u8> = Vec::new();
    data.try_reserve_exact(bytes).map_err(|_| huge())?;
    // The name joins the seed, so that two inputs of one shape differ.
    let start = port.name.bytes().fold(seed, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
    });
    let mut random = Random(start);
    for i in 0..elements as usize {
        let value = match (feed.iter().find(|(at, _)| *at == i), content) {
            (Some((_, value)), _) => *value as f64,
            (None, Content::Random) if dtype.is_float() => f64::from(random.bell()) * 0.5,
            (None, Content::Random) => (random.next() >> 63) as f64,
            (None, Content::Even) if dtype.is_float() => random.even(0.175),
            (None, Content::Even) => 1.0,
        };
        push(&mut data, dtype, value).ok_or_else(|| {
            Failure::usage(
                format!(
                    "input `{}` has type {dtype}, for which there is no random content",
                    port.name
                ),
                "give it with --input",
            )
        })?;
    }
    Constant::new(dtype, dims.to_vec(), data.into()).map_err(|error| {
        Failure::new(
            ErrorKind::Internal,
            format!("input `{}`: {error}", port.name),
            "please report it",
        )
    })
}

/// Appends a number as an element; `None` for types that no kernel computes with.
fn push(data: &mut Vec<u8>, dtype: DType, value: f64) -> Option<()> {
    match dtype {
        DType::F64 => data.extend(value.to_le_bytes()),
        DType::F32 => data.extend((value as f32).to_le_bytes()),
        DType::F16 => data.extend(half::f16::from_f64(value).to_le_bytes()),
        DType::BF16 => data.extend(half::bf16::from_f64(value).to_le_bytes()),
        ty if ty.is_computable() => {
            data.extend_from_slice(&(value as i64).to_le_bytes()[..ty.size()?])
        }
        _ => return None,
    }
    Some(())
}

//! What fills the inputs that nobody gives.
//!
//! Content comes from a seed and an input's name, the same on every machine. There are two kinds of it, [`Content`].

use std::sync::Arc;

use bespoke::ErrorKind;
use bespoke::ir::{Constant, DType};
use rayon::prelude::*;

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

/// Elements that one thread fills at a time.
const CHUNK: usize = 1 << 16;
/// Numbers drawn for an element at most; each element has so many of its own, whichever thread fills it.
const DRAWS: usize = 3;
/// What SplitMix64 adds for each number.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// SplitMix64 (Steele, Lea, Flood 2014): small, the same everywhere, and as soon at its n-th number as at its first.
struct Random(u64);

impl Random {
    /// After so many numbers.
    fn at(seed: u64, drawn: usize) -> Random {
        Random(seed.wrapping_add(STEP.wrapping_mul(drawn as u64)))
    }

    /// Takes so many numbers out of the sequence, which are drawn from what is returned.
    fn fork(&mut self, numbers: usize) -> Random {
        let own = Random(self.0);
        *self = Random::at(self.0, numbers);
        own
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
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
    let unknown = || {
        Failure::usage(
            format!(
                "input `{}` has type {dtype}, for which there is no random content",
                port.name
            ),
            "give it with --input",
        )
    };
    let size = dtype.size().filter(|_| dtype.is_computable());
    let size = size.ok_or_else(unknown)?;
    let bytes = dtype
        .bytes_for(elements)
        .and_then(|b| usize::try_from(b).ok())
        .ok_or_else(huge)?;
    let mut data: Vec<u8> = Vec::new();
    data.try_reserve_exact(bytes).map_err(|_| huge())?;
    data.resize(bytes, 0);
    // The name joins the seed, so that two inputs of one shape differ.
    let start = port.name.bytes().fold(seed, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
    });
    let chunks = data.par_chunks_mut(CHUNK * size).enumerate();
    chunks.for_each(|(number, chunk)| {
        let mut random = Random::at(start, number * CHUNK * DRAWS);
        for place in chunk.chunks_exact_mut(size) {
            let mut own = random.fork(DRAWS);
            let value = match content {
                Content::Random if dtype.is_float() => f64::from(own.bell()) * 0.5,
                Content::Random => (own.next() >> 63) as f64,
                Content::Even if dtype.is_float() => own.even(0.175),
                Content::Even => 1.0,
            };
            put(place, dtype, value);
        }
    });
    for &(at, value) in feed {
        if let Some(place) = data.get_mut(at * size..(at + 1) * size) {
            put(place, dtype, value as f64);
        }
    }
    Constant::new(dtype, dims.to_vec(), data.into()).map_err(|error| {
        Failure::new(
            ErrorKind::Internal,
            format!("input `{}`: {error}", port.name),
            "please report it",
        )
    })
}

/// Writes a number as an element of a type that kernels compute with, into as many bytes as one has.
fn put(place: &mut [u8], dtype: DType, value: f64) {
    match dtype {
        DType::F64 => place.copy_from_slice(&value.to_le_bytes()),
        DType::F32 => place.copy_from_slice(&(value as f32).to_le_bytes()),
        DType::F16 => place.copy_from_slice(&half::f16::from_f64(value).to_le_bytes()),
        DType::BF16 => place.copy_from_slice(&half::bf16::from_f64(value).to_le_bytes()),
        _ => place.copy_from_slice(&(value as i64).to_le_bytes()[..place.len()]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_element_does_not_depend_on_where_its_chunk_begins() {
        let mut one = Random::at(7, 0);
        for i in 0..10 {
            let (mut own, mut direct) = (one.fork(DRAWS), Random::at(7, i * DRAWS));
            assert_eq!(own.next(), direct.next());
        }
    }

    #[test]
    fn numbers_are_written_as_their_type_has_them() {
        let bytes = |dtype: DType, value| {
            let mut place = vec![0; dtype.size().unwrap()];
            put(&mut place, dtype, value);
            place
        };
        assert_eq!(bytes(DType::F32, 0.5), 0.5_f32.to_le_bytes());
        assert_eq!(bytes(DType::F16, 1.0), [0x00, 0x3c]);
        assert_eq!(bytes(DType::I64, -1.0), [0xff; 8]);
        assert_eq!(bytes(DType::Bool, 1.0), [1]);
    }
}

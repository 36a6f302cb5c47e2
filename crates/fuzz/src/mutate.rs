//! Mutations of byte strings, whatever they mean.
//!
//! What has found most bugs elsewhere: flipped bits, bytes and integers of border values, lost, repeated and moved
//! pieces, truncation, and pieces of other inputs. Lengths in protobuf messages are varints, so border values are also
//! written as those.

use crate::random::{BORDERS, Rng};

/// Longest input: one megabyte.
pub(crate) const LONGEST: usize = 1 << 20;

/// One to eight random edits of a copy of `input`; `other` is a second input to take pieces from.
pub(crate) fn mutate(rng: &mut Rng, input: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..1 << rng.below(4) {
        edit(rng, &mut bytes, other);
    }
    bytes.truncate(LONGEST);
    bytes
}

fn edit(rng: &mut Rng, bytes: &mut Vec<u8>, other: &[u8]) {
    if bytes.is_empty() {
        *bytes = rng.bytes(16);
        return;
    }
    let at = rng.below(bytes.len());
    match rng.below(10) {
        0 | 1 => bytes[at] ^= 1 << rng.below(8),
        2 => bytes[at] = rng.bits() as u8,
        3 => overwrite(rng, bytes, at),
        4 => {
            let value = BORDERS[rng.below(BORDERS.len())] as u64;
            let end = at + varint_length(&bytes[at..]);
            bytes.splice(at..end, varint(value));
        }
        5 => {
            bytes.drain(piece(rng, at, bytes.len()));
        }
        6 => {
            let copy = bytes[piece(rng, at, bytes.len())].to_vec();
            let to = rng.below(bytes.len());
            bytes.splice(to..to, copy);
        }
        7 => {
            let fresh = rng.below(16);
            let fresh = rng.bytes(fresh);
            bytes.splice(at..at, fresh);
        }
        8 if !other.is_empty() => {
            let from = rng.below(other.len());
            let taken = &other[piece(rng, from, other.len())];
            let end = (at + rng.below(taken.len() + 1)).min(bytes.len());
            bytes.splice(at..end, taken.iter().copied());
        }
        8 => bytes[at] = bytes[at].wrapping_add(1),
        _ if rng.once_in(4) => bytes.truncate(at),
        _ => bytes[at] = bytes[at].wrapping_sub(1),
    }
}

/// A range that begins at `at`, mostly short.
fn piece(rng: &mut Rng, at: usize, length: usize) -> std::ops::Range<usize> {
    let longest = if rng.once_in(8) { length } else { 32 };
    at..(at + 1 + rng.below(longest)).min(length)
}

/// A border value as a little-endian integer of 1, 2, 4 or 8 bytes.
fn overwrite(rng: &mut Rng, bytes: &mut [u8], at: usize) {
    let value = BORDERS[rng.below(BORDERS.len())].to_le_bytes();
    let width = (1 << rng.below(4)).min(bytes.len() - at);
    bytes[at..at + width].copy_from_slice(&value[..width]);
}

/// Bytes that belong to the varint at the beginning, if it were one.
fn varint_length(bytes: &[u8]) -> usize {
    let more = bytes.iter().take(9).take_while(|b| **b >= 0x80).count();
    (more + 1).min(bytes.len())
}

/// The protobuf encoding of an integer.
fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_are_protobufs() {
        assert_eq!(varint(300), [0xac, 2]);
        assert_eq!(varint(u64::MAX).len(), 10);
        assert_eq!(varint_length(&[0xac, 2, 9]), 2);
        assert_eq!(varint_length(&[0xff, 0xff]), 2);
    }

    #[test]
    fn every_input_can_be_mutated_and_most_results_differ() {
        let mut rng = Rng::new(1);
        for input in [&[][..], &[0], &[1, 2, 3], &[9; 100]] {
            let changed = (0..200)
                .filter(|_| mutate(&mut rng, input, &[7; 5]) != input)
                .count();
            assert!(changed > 150, "{changed} of 200 for {input:?}");
        }
    }
}

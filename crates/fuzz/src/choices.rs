//! Bytes as a list of decisions.
//!
//! A graph or a folder of files is no byte string, but the decisions that lead to one are: what is the rank, which
//! operand, which link. A target that builds structured inputs reads its decisions from the bytes of the input, so that
//! one mutator, one corpus and one shrinker serve all targets. When the bytes end, every further decision is 0; builders
//! take 0 for the simplest case, which is what makes shortened inputs simpler.

use crate::random::BORDERS;

/// Decisions, read one after another.
#[derive(Clone, Debug)]
pub(crate) struct Choices<'a> {
    bytes: &'a [u8],
}

impl<'a> Choices<'a> {
    /// The decisions in `bytes`.
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Choices { bytes }
    }

    /// Whether all that follows is 0.
    pub(crate) fn ended(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The next byte.
    pub(crate) fn byte(&mut self) -> u8 {
        match self.bytes.split_first() {
            Some((first, rest)) => {
                self.bytes = rest;
                *first
            }
            None => 0,
        }
    }

    /// A number below `bound` (at most 256 of them are told apart); 0 if `bound` is 0.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        let byte = usize::from(self.byte());
        if bound == 0 { 0 } else { byte % bound }
    }

    /// True for odd bytes.
    pub(crate) fn yes(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// True once in `n` times, and never at the end of the bytes.
    pub(crate) fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == n - 1
    }

    /// One of the items, of which there must be some.
    pub(crate) fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())]
    }

    /// An integer: small for half of the bytes, else one of [`BORDERS`], for one byte any eight bytes.
    pub(crate) fn int(&mut self) -> i64 {
        match self.byte() {
            small @ 0..128 => i64::from(small % 8),
            border @ 128..255 => BORDERS[usize::from(border - 128) % BORDERS.len()],
            255 => i64::from_le_bytes(std::array::from_fn(|_| self.byte())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decisions_end_in_zeros() {
        let mut choices = Choices::new(&[3, 255, 1, 0, 0, 0, 0, 0, 0, 0x80, 128 + 30]);
        assert_eq!(choices.below(2), 1);
        assert_eq!(choices.int(), i64::MIN + 1);
        assert_eq!(choices.int(), i64::MAX);
        assert!(choices.ended());
        assert_eq!(
            (choices.int(), choices.below(9), choices.once_in(4)),
            (0, 0, false)
        );
    }
}

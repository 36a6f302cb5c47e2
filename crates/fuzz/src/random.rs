//! A small deterministic generator of random numbers, and the integers that break programs.
//!
//! The generator is SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014): one
//! addition and three mixing steps a number, any seed is good, and a run can be repeated on any machine.

/// Integers at which sizes overflow, conversions lose bits and comparisons turn: the borders of the machine's types and
/// their neighbours, and the small numbers that extents and axes really have.
pub(crate) const BORDERS: [i64; 32] = [
    0,
    1,
    -1,
    2,
    -2,
    3,
    4,
    5,
    7,
    8,
    16,
    31,
    32,
    64,
    127,
    128,
    255,
    256,
    1000,
    32_767,
    65_535,
    65_536,
    1 << 20,
    i32::MAX as i64,
    i32::MIN as i64,
    u32::MAX as i64,
    1 << 32,
    1 << 40,
    1 << 62,
    i64::MAX - 1,
    i64::MAX,
    i64::MIN,
];

/// The generator.
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    /// A generator; equal seeds give equal numbers.
    pub(crate) fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    /// 64 random bits.
    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 if `bound` is 0. (The slight bias of the remainder does not matter here.)
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        if bound == 0 {
            return 0;
        }
        (self.bits() % bound as u64) as usize
    }

    /// True once in `n` times.
    pub(crate) fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// One of the items; `None` only if there are none.
    pub(crate) fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        items.get(self.below(items.len()))
    }

    /// An integer: mostly small, often one of [`BORDERS`], now and then anything.
    pub(crate) fn int(&mut self) -> i64 {
        match self.below(8) {
            0..=3 => self.below(6) as i64 - 1,
            4..=6 => BORDERS[self.below(BORDERS.len())],
            _ => self.bits() as i64,
        }
    }

    /// `count` random bytes.
    pub(crate) fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.bits() as u8).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_seeds_give_equal_numbers_and_bounds_are_kept() {
        let (mut a, mut b, mut c) = (Rng::new(7), Rng::new(7), Rng::new(8));
        let first: Vec<u64> = (0..10).map(|_| a.bits()).collect();
        assert_eq!(first, (0..10).map(|_| b.bits()).collect::<Vec<_>>());
        assert_ne!(first, (0..10).map(|_| c.bits()).collect::<Vec<_>>());
        assert!((0..1000).all(|_| a.below(3) < 3));
        assert_eq!(a.below(0), 0);
        assert_eq!(a.pick::<u8>(&[]), None);
    }

    #[test]
    fn the_first_number_is_the_published_one() {
        // SplitMix64 with seed 0, as in the reference implementation's test vector.
        assert_eq!(Rng::new(0).bits(), 0xe220_a839_7b1d_cdaf);
    }
}

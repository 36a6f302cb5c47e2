//! Numbers made of many times.

/// The time that `percent` per cent of the times do not exceed: one that occurred (nearest rank).
pub(crate) fn percentile(times: impl Iterator<Item = u64>, percent: usize) -> Option<u64> {
    let mut times: Vec<u64> = times.collect();
    times.sort_unstable();
    let rank = (times.len() * percent).div_ceil(100).max(1);
    times.get(rank - 1).copied()
}

/// The middle of the times, the lower one of two.
pub(crate) fn median(times: impl Iterator<Item = u64>) -> Option<u64> {
    percentile(times, 50)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_a_time_that_occurred() {
        assert_eq!(median([].into_iter()), None);
        assert_eq!(median([3].into_iter()), Some(3));
        assert_eq!(median([9, 1].into_iter()), Some(1));
        assert_eq!(median([9, 1, 5].into_iter()), Some(5));
    }

    #[test]
    fn percentiles_are_by_nearest_rank() {
        assert_eq!(percentile(1..=100, 99), Some(99));
        assert_eq!(percentile(1..=101, 99), Some(100));
        assert_eq!(percentile(1..=10, 99), Some(10));
        assert_eq!(percentile(5..=9, 0), Some(5));
    }
}

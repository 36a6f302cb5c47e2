//! From samples to numbers.
//!
//! Percentiles are nearest-rank: the smallest sample that at least so many percent of the samples do not exceed. So every
//! percentile is a time that occurred, percentiles are ordered, and the median is the percentile 50.

use serde::Serialize;

/// A percentile of the samples.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Percentile {
    /// In (0, 100].
    pub(crate) percent: f64,
    /// The time in milliseconds.
    pub(crate) ms: f64,
}

/// The distribution of some times, in milliseconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Statistics {
    /// Number of samples.
    pub(crate) runs: usize,
    /// The percentile 50.
    pub(crate) median_ms: f64,
    /// Sum by number.
    pub(crate) mean_ms: f64,
    /// The least.
    pub(crate) min_ms: f64,
    /// The largest.
    pub(crate) max_ms: f64,
    /// Standard deviation of the population that the samples come from; 0 for a single sample.
    pub(crate) stddev_ms: f64,
    /// Standard deviation by mean.
    pub(crate) variation: f64,
    /// Those that were asked for, in ascending order.
    pub(crate) percentiles: Vec<Percentile>,
}

/// The nearest-rank percentile of ascending samples; `None` if there are none.
pub(crate) fn percentile(ascending: &[f64], percent: f64) -> Option<f64> {
    // Rounding must not push a rank such as 0.99 × 100 over the next whole number.
    let exact = percent / 100.0 * ascending.len() as f64;
    let rank = (exact - 1e-9).ceil().max(1.0) as usize;
    ascending
        .get(rank.min(ascending.len()).checked_sub(1)?)
        .copied()
}

/// The samples in ascending order.
pub(crate) fn ascending(samples: &[f64]) -> Vec<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

impl Statistics {
    /// The statistics of samples in any order; `None` if there are none.
    pub(crate) fn of(samples: &[f64], percents: &[f64]) -> Option<Statistics> {
        let sorted = ascending(samples);
        let (min_ms, max_ms) = (*sorted.first()?, *sorted.last()?);
        let count = sorted.len() as f64;
        let mean_ms = sorted.iter().sum::<f64>() / count;
        let squares: f64 = sorted.iter().map(|x| (x - mean_ms).powi(2)).sum();
        let stddev_ms = (squares / (count - 1.0).max(1.0)).sqrt();
        Some(Statistics {
            runs: sorted.len(),
            median_ms: percentile(&sorted, 50.0)?,
            mean_ms,
            min_ms,
            max_ms,
            stddev_ms,
            variation: if mean_ms > 0.0 {
                stddev_ms / mean_ms
            } else {
                0.0
            },
            percentiles: ascending(percents)
                .into_iter()
                .filter_map(|percent| {
                    let ms = percentile(&sorted, percent)?;
                    Some(Percentile { percent, ms })
                })
                .collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_are_those_of_the_definitions() {
        let s = Statistics::of(&[4.0, 2.0, 9.0, 5.0], &[99.0, 25.0]).unwrap();
        assert_eq!((s.runs, s.median_ms, s.mean_ms), (4, 4.0, 5.0));
        assert_eq!((s.min_ms, s.max_ms), (2.0, 9.0));
        // squares 1 + 9 + 16 + 0, by 3
        assert!((s.stddev_ms - (26.0_f64 / 3.0).sqrt()).abs() < 1e-12);
        assert!((s.variation - s.stddev_ms / 5.0).abs() < 1e-12);
        let list: Vec<_> = s.percentiles.iter().map(|p| (p.percent, p.ms)).collect();
        assert_eq!(list, [(25.0, 2.0), (99.0, 9.0)]);
        assert_eq!(Statistics::of(&[], &[50.0]), None);
        let one = Statistics::of(&[3.0], &[50.0, 99.0]).unwrap();
        assert_eq!(
            (one.median_ms, one.stddev_ms, one.variation),
            (3.0, 0.0, 0.0)
        );
    }

    #[test]
    fn ranks_are_not_pushed_by_rounding() {
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        for percent in 1..=100 {
            let p = f64::from(percent);
            assert_eq!(percentile(&hundred, p), Some(p));
        }
        assert_eq!(percentile(&hundred, 99.5), Some(100.0));
        assert_eq!(percentile(&hundred, 0.1), Some(1.0));
    }

    proptest! {
        #[test]
        fn percentiles_are_ordered_and_occurred(
            samples in prop::collection::vec(0.0f64..1e3, 1..40),
            percents in prop::collection::vec(0.01f64..=100.0, 1..6),
        ) {
            let s = Statistics::of(&samples, &percents).unwrap();
            prop_assert!(s.percentiles.windows(2).all(|w| w[0].percent <= w[1].percent && w[0].ms <= w[1].ms));
            for p in &s.percentiles {
                prop_assert!(samples.contains(&p.ms));
                let within = samples.iter().filter(|x| **x <= p.ms).count() as f64;
                prop_assert!(within / samples.len() as f64 >= p.percent / 100.0 - 1e-9);
            }
            prop_assert!(s.min_ms <= s.median_ms && s.median_ms <= s.max_ms);
            prop_assert!(s.min_ms <= s.mean_ms + 1e-9 && s.mean_ms <= s.max_ms + 1e-9);
        }
    }
}

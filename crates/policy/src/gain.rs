//! What a compile is expected to bring: the order of [`Queue::MostGain`](crate::Queue::MostGain).
//!
//! A class that waits is worth (how often it runs) × (what a run would save) / (what its compile takes). How often is a
//! count of sightings that halves every [`HALF_LIFE_US`]; what a run saves is the time that runs of the class take now,
//! less that time at the ratio which specialised runs had to it so far; what a compile takes is what the last ones of its
//! tier took. A time or a ratio that nobody has measured yet is taken from the other classes, and before there are any,
//! from a guess, which is the same for all classes and so decides nothing between them.
//!
//! Everything is whole numbers, so that equal events give equal orders on every machine. Averages move by an eighth of
//! what is new: the slow first run of a shape is soon forgotten, and a machine that became slower is soon believed.

use crate::Tier;

/// After so long a sighting counts half.
pub const HALF_LIFE_US: u64 = 30_000_000;

/// One sighting, in the fixed point of [`Heat`].
const SIGHTING: u64 = 1 << 16;
/// One, in the fixed point of ratios.
const ONE: u64 = 1_000_000;
/// Guesses before anything is measured: a run, a compile, and what either tier leaves of the time before it.
const RUN_US: u64 = 1_000;
const COMPILE_US: u64 = 1_000_000;
const LEAVES: [u64; 2] = [ONE * 3 / 4, ONE * 19 / 20];

/// What is expected of specialising a class now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gain {
    /// Runs of the class in an hour, at the rate of late.
    pub runs_per_hour: u64,
    /// Time that a run is expected to save, microseconds.
    pub saves_us: u64,
    /// Time that the compile is expected to take, microseconds of the compiler's threads.
    pub cost_us: u64,
    /// What is compared: the larger one is next.
    pub score: u64,
}

/// How often something was seen of late: sightings that halve every [`HALF_LIFE_US`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Heat {
    value: u64,
    at_us: u64,
}

impl Heat {
    /// Counts a sighting.
    pub(crate) fn see(&mut self, now_us: u64) {
        self.value = self.at(now_us).saturating_add(SIGHTING);
        self.at_us = self.at_us.max(now_us);
    }

    /// What is left of it now: exact at whole half-lives, on a straight line between them.
    fn at(&self, now_us: u64) -> u64 {
        let passed = now_us.saturating_sub(self.at_us);
        let halves = passed / HALF_LIFE_US;
        if halves >= 64 {
            return 0;
        }
        let value = self.value >> halves;
        let part = u128::from(value / 2) * u128::from(passed % HALF_LIFE_US);
        value - (part / u128::from(HALF_LIFE_US)) as u64
    }
}

/// An average that moves by an eighth of what is new.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Average(Option<u64>);

impl Average {
    fn add(&mut self, value: u64) {
        let moved = |old: u64| ((u128::from(old) * 7 + u128::from(value)) / 8) as u64;
        self.0 = Some(self.0.map_or(value, moved));
    }
}

/// What runs of one class took: generic, then by tier.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Times([Average; 3]);

impl Times {
    /// Forgets what specialised programs took; another one may come.
    pub(crate) fn forget_specialised(&mut self) {
        self.0[1..].fill(Average::default());
    }
}

/// Runs of the generic program and of each tier's, as places in [`Times`].
fn place(tier: Option<Tier>) -> usize {
    tier.map_or(0, |tier| tier as usize + 1)
}

/// What was learned from all classes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Learned {
    run_us: Average,
    /// What is left of the time of the program before, by tier.
    leaves: [Average; 2],
    compile_us: [Average; 2],
}

impl Learned {
    /// A run of a class ended.
    pub(crate) fn ran(&mut self, times: &mut Times, tier: Option<Tier>, micros: u64) {
        let at = place(tier);
        times.0[at].add(micros);
        let Some(before) = at.checked_sub(1) else {
            return self.run_us.add(micros);
        };
        if let (Some(old), Some(new)) = (times.0[before].0, times.0[at].0) {
            let ratio = u128::from(new) * u128::from(ONE) / u128::from(old.max(1));
            // a run that was disturbed says nothing of the kernels
            self.leaves[before].add(u64::try_from(ratio).unwrap_or(u64::MAX).min(2 * ONE));
        }
    }

    /// A class of a tier was compiled.
    pub(crate) fn compiled(&mut self, tier: Tier, micros: u64) {
        self.compile_us[tier as usize].add(micros);
    }

    /// What a tier's program of a class is expected to bring.
    pub(crate) fn gain(&self, heat: &Heat, times: &Times, tier: Tier, now_us: u64) -> Gain {
        let index = tier as usize;
        let generic_us = times.0[0].0.or(self.run_us.0).unwrap_or(RUN_US);
        let leaves = |tier: usize| self.leaves[tier].0.unwrap_or(LEAVES[tier]);
        let after = |us: u64, tier| {
            let left = u128::from(us) * u128::from(leaves(tier)) / u128::from(ONE);
            u64::try_from(left).unwrap_or(u64::MAX)
        };
        let now = match tier {
            Tier::First => generic_us,
            Tier::Second => times.0[1].0.unwrap_or_else(|| after(generic_us, 0)),
        };
        let saves_us = now.saturating_sub(after(now, index));
        let cost_us = self.compile_us[index].0.or(self.compile_us[0].0);
        let cost_us = cost_us.unwrap_or(COMPILE_US).max(1);
        let heat = heat.at(now_us);
        let score = u128::from(heat) * u128::from(saves_us) * 1000 / u128::from(cost_us);
        // a steady rate is the heat × ln 2 / the half-life: 83 an hour for a heat of one sighting
        let runs_per_hour = (u128::from(heat) * 83 / u128::from(SIGHTING)) as u64;
        Gain {
            runs_per_hour,
            saves_us,
            cost_us,
            score: u64::try_from(score).unwrap_or(u64::MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heat_halves_and_never_rises_by_itself() {
        let mut heat = Heat::default();
        heat.see(5);
        heat.see(5);
        assert_eq!(heat.at(5), 2 * SIGHTING);
        assert_eq!(heat.at(5 + HALF_LIFE_US), SIGHTING);
        assert_eq!(heat.at(5 + 3 * HALF_LIFE_US), SIGHTING / 4);
        let mut last = u64::MAX;
        for step in 0..300 {
            let now = heat.at(step * HALF_LIFE_US / 7);
            assert!(now <= last);
            last = now;
        }
        assert_eq!(heat.at(u64::MAX), 0);
        assert_eq!(heat.at(0), 2 * SIGHTING, "a clock that steps back");
    }

    #[test]
    fn what_runs_often_and_long_and_compiles_fast_comes_first() {
        let (mut learned, mut times, mut heat) =
            (Learned::default(), Times::default(), Heat::default());
        heat.see(0);
        let gain = |l: &Learned, t: &Times, h: &Heat| l.gain(h, t, Tier::First, 0);
        let guess = gain(&learned, &times, &heat);
        assert_eq!((guess.saves_us, guess.cost_us), (250, 1_000_000));
        learned.ran(&mut times, None, 8_000);
        let long = gain(&learned, &times, &heat);
        assert_eq!(long.saves_us, 2_000);
        assert!(long.score > guess.score);
        // another class of which nothing is known takes after it
        assert_eq!(gain(&learned, &Times::default(), &heat).saves_us, 2_000);
        heat.see(0);
        assert_eq!(gain(&learned, &times, &heat).score, 2 * long.score);
        learned.compiled(Tier::First, 4_000_000);
        assert_eq!(gain(&learned, &times, &heat).score, long.score / 2);
        // half of the time is left by specialised runs: half is saved
        learned.ran(&mut times, Some(Tier::First), 4_000);
        assert_eq!(gain(&learned, &times, &heat).saves_us, 4_000);
        // a specialised program that is slower promises nothing
        for _ in 0..100 {
            learned.ran(&mut times, Some(Tier::First), 9_000);
        }
        assert_eq!(gain(&learned, &times, &heat).score, 0);
    }
}

//! Making an input that breaks a target small.
//!
//! Delta debugging (Zeller, Hildebrandt: "Simplifying and isolating failure-inducing input", 2002): leave away halves,
//! quarters, … of the parts, down to single ones, as long as the fault stays the same. First the parts that have a
//! meaning (nodes, attributes, tensors), then bytes; then the bytes that are left are set to 0 where that keeps the
//! fault. Each attempt is a process of its own, because each may die.

use std::ops::Range;
use std::time::{Duration, Instant};

/// An input without a range of its parts; `None` where that is no input.
pub(crate) type Without<'a> = dyn Fn(&[u8], Range<usize>) -> Option<Vec<u8>> + 'a;

/// The smallest input found within `time` for which `fails` holds. `parts` counts what `without` can leave away.
pub(crate) fn shrink(
    input: Vec<u8>,
    time: Duration,
    parts: &dyn Fn(&[u8]) -> usize,
    without: &Without<'_>,
    fails: &mut dyn FnMut(&[u8]) -> bool,
) -> Vec<u8> {
    let end = Instant::now() + time;
    let mut best = input;
    loop {
        let before = best.clone();
        reduce(&mut best, parts, without, fails, end);
        reduce(
            &mut best,
            &|b| b.len(),
            &|b, range| Some([&b[..range.start], &b[range.end..]].concat()),
            fails,
            end,
        );
        if best == before || Instant::now() >= end {
            break;
        }
    }
    if best.len() <= 4096 {
        zero(&mut best, fails, end);
    }
    best
}

fn reduce(
    best: &mut Vec<u8>,
    parts: &dyn Fn(&[u8]) -> usize,
    without: &Without<'_>,
    fails: &mut dyn FnMut(&[u8]) -> bool,
    end: Instant,
) {
    let mut piece = parts(best).div_ceil(2);
    while piece > 0 {
        let mut at = 0;
        while at < parts(best) {
            if Instant::now() >= end {
                return;
            }
            let range = at..(at + piece).min(parts(best));
            match without(best, range) {
                Some(smaller) if smaller.len() < best.len() && fails(&smaller) => *best = smaller,
                _ => at += piece,
            }
        }
        piece /= 2;
    }
}

fn zero(best: &mut [u8], fails: &mut dyn FnMut(&[u8]) -> bool, end: Instant) {
    for at in 0..best.len() {
        if Instant::now() >= end {
            return;
        }
        let kept = std::mem::replace(&mut best[at], 0);
        if kept != 0 && !fails(best) {
            best[at] = kept;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_matter_is_left_away_or_zeroed() {
        let input: Vec<u8> = (1..=200).collect();
        let mut tried = 0;
        let small = shrink(
            input,
            Duration::from_secs(60),
            &|_| 0,
            &|_, _| None,
            &mut |b| {
                tried += 1;
                // A fault that needs two bytes in their order, with one between them.
                b.iter()
                    .position(|x| *x == 70)
                    .is_some_and(|i| b[i..].len() > 2 && b[i..].contains(&150))
            },
        );
        assert_eq!(small, [70, 0, 150]);
        assert!(tried < 500, "{tried}");
    }

    #[test]
    fn parts_go_before_bytes() {
        // A part is a line; only bytes within a line could be left away otherwise.
        let lines = |b: &[u8]| b.split(|c| *c == b'\n').count();
        let without = |b: &[u8], range: Range<usize>| {
            let kept: Vec<&[u8]> = b
                .split(|c| *c == b'\n')
                .enumerate()
                .filter(|(i, _)| !range.contains(i))
                .map(|(_, l)| l)
                .collect();
            Some(kept.join(&b'\n'))
        };
        let small = shrink(
            b"one\ntwo\nthree\nfour".to_vec(),
            Duration::from_secs(60),
            &lines,
            &without,
            &mut |b| b.windows(5).any(|w| w == b"three"),
        );
        assert_eq!(small, b"three");
    }
}

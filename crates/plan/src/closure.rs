//! Who comes before whom: the transitive closure of a list's edges.
//!
//! Every edge leads from an earlier step of the list to a later one, so one walk over the list finds all steps that are
//! over before a step begins. A set is a row of bits; a plan of 2,000 steps takes half a megabyte.

use bespoke_device::Edge;

/// For each step the set of steps that are ordered before it.
#[derive(Clone, Debug)]
pub(crate) struct Closure {
    words: usize,
    bits: Vec<u64>,
}

impl Closure {
    /// Nothing is ordered yet.
    pub(crate) fn new(steps: usize) -> Closure {
        let words = steps.div_ceil(64);
        Closure {
            words,
            bits: vec![0; words * steps],
        }
    }

    /// The closure of edges that all lead forward.
    pub(crate) fn of(steps: usize, edges: &[Edge]) -> Closure {
        let mut sorted: Vec<(usize, usize)> = edges.iter().map(|e| (e.to, e.from)).collect();
        sorted.sort_unstable();
        let mut closure = Closure::new(steps);
        for (to, from) in sorted {
            closure.add(from, to);
        }
        closure
    }

    /// `from` and all that comes before it come before `to`. Edges to `from` must have been added already.
    pub(crate) fn add(&mut self, from: usize, to: usize) {
        debug_assert!(from < to);
        let (before, after) = self.bits.split_at_mut(to * self.words);
        let source = &before[from * self.words..(from + 1) * self.words];
        for (to, from) in after[..self.words].iter_mut().zip(source) {
            *to |= from;
        }
        after[from / 64] |= 1 << (from % 64);
    }

    /// Whether `a` is over before `b` begins.
    pub(crate) fn before(&self, a: usize, b: usize) -> bool {
        self.bits[b * self.words + a / 64] >> (a % 64) & 1 == 1
    }

    /// The steps before `step` in the list that may run beside it.
    pub(crate) fn beside(&self, step: usize) -> impl Iterator<Item = usize> + '_ {
        let row = &self.bits[step * self.words..(step + 1) * self.words];
        row.iter().enumerate().flat_map(move |(word, bits)| {
            let first = word * 64;
            let inside = match step.saturating_sub(first) {
                0 => 0,
                n if n >= 64 => u64::MAX,
                n => (1 << n) - 1,
            };
            let mut rest = !bits & inside;
            std::iter::from_fn(move || {
                let at = rest.trailing_zeros() as usize;
                rest &= rest.wrapping_sub(1);
                (at < 64).then_some(first + at)
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn paths_are_orders(
            steps in 1_usize..150,
            pairs in prop::collection::vec((0_usize..150, 0_usize..150), 0..200),
        ) {
            let edges: Vec<Edge> = pairs
                .into_iter()
                .filter(|(a, b)| a < b && *b < steps)
                .map(|(a, b)| Edge::plain(a, b))
                .collect();
            let closure = Closure::of(steps, &edges);
            // the same by walking along the edges
            for from in 0..steps {
                let mut reached = vec![false; steps];
                let mut open = vec![from];
                while let Some(at) = open.pop() {
                    for e in edges.iter().filter(|e| e.from == at) {
                        if !std::mem::replace(&mut reached[e.to], true) {
                            open.push(e.to);
                        }
                    }
                }
                for (to, reached) in reached.iter().enumerate() {
                    prop_assert_eq!(closure.before(from, to), *reached);
                }
            }
            for step in 0..steps {
                let beside: Vec<usize> = closure.beside(step).collect();
                let expected: Vec<usize> = (0..step).filter(|s| !closure.before(*s, step)).collect();
                prop_assert_eq!(beside, expected);
            }
        }
    }
}

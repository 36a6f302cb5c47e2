//! Work without order, done by as many threads as there are processors.
//!
//! What a load does a few hundred times and each time alike (choose a tile, assemble a source, read a kernel) is spread
//! over a crew that lives as long as the work. Results come in the order of the items, whoever made them.
//!
//! The threads belong to nobody else on purpose. The director waits for this work, and runs may wait for the director: on
//! a pool that is shared with the caller, whose threads might all be such runs, nobody would be left to do it.

use std::num::NonZeroUsize;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::Builder;

/// Threads of a crew, at most.
const MOST: usize = 16;
/// So many items are worth a thread.
const WORTH: usize = 8;

/// How many threads take part in work on so many items, the caller included.
pub(crate) fn hands(items: usize, worth: usize) -> usize {
    let processors = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    processors.min(MOST).min(items.div_ceil(worth.max(1)))
}

/// What `work` makes of each item, given its position, in the order of the items.
pub(crate) fn map<T: Sync, R: Send>(items: &[T], work: impl Fn(usize, &T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let share = || {
        let mut made = Vec::new();
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(i) else {
                return made;
            };
            made.push((i, work(i, item)));
        }
    };
    let mut all = std::thread::scope(|scope| {
        let helpers: Vec<_> = (1..hands(items.len(), WORTH))
            .map_while(|n| {
                let name = format!("bespoke-crew-{n}");
                // a thread that cannot be had is one that does no harm: the others do its share
                Builder::new().name(name).spawn_scoped(scope, share).ok()
            })
            .collect();
        let mut all = share();
        for helper in helpers {
            match helper.join() {
                Ok(made) => all.extend(made),
                Err(panic) => resume_unwind(panic),
            }
        }
        all
    });
    all.sort_unstable_by_key(|(i, _)| *i);
    all.into_iter().map(|(_, made)| made).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_the_order_of_the_items() {
        for count in [0, 1, 7, 8, 9, 500] {
            let items: Vec<usize> = (0..count).collect();
            let made = map(&items, |i, item| {
                if item % 3 == 0 {
                    std::thread::yield_now();
                }
                (i, item * 2)
            });
            let want: Vec<(usize, usize)> = (0..count).map(|i| (i, i * 2)).collect();
            assert_eq!(made, want);
        }
    }

    #[test]
    fn few_items_are_not_worth_a_crew() {
        assert_eq!(hands(0, 8), 0);
        assert_eq!(hands(3, 8), 1);
        assert!(hands(1000, 8) >= 1);
    }
}

//! Which steps may run at the same time.
//!
//! Two steps must be ordered if one writes what the other touches, or if they share bytes of the arena. Which buffers
//! share bytes differs from shape to shape, while a recorded graph, and so its edges, serves them all. So branches come
//! first: [`arrange`] decides the edges from what is known at plan time, and [`crate::memory`] then shares bytes only
//! between buffers that these edges order.
//!
//! Most of a plan is one chain, the *main track*, in list order. Beside it run at most [`SIDE_TRACKS`] chains of small
//! steps, where that is worth a fork and a join:
//!
//! - the main track has the longest path of the plan and every step that fills half a device or more at the least extents
//!   that its symbols allow: kernels that fill a device gain nothing from one another's company;
//! - a *segment* is a row of small steps, each the only consumer of the one before it and its only producer. It leaves the
//!   main track if there is a product or the like in it, or three steps, and the same beside it;
//! - a segment may run beside the [`WINDOW`] steps of the main track before and after its place in the list, no more, so
//!   that few buffers must be kept apart which could share bytes in a chain.
//!
//! A caller may hand in one piece of memory as an input and as an output of the same size. What reads an input and what
//! writes an output therefore stay in list order.
//!
//! An edge from a step whose tensors of the run are small to its only successor, which has no other predecessor, is
//! programmatic: the successor may start while the step ends.

use bespoke_device::Edge;

use crate::closure::Closure;
use crate::{Arg, BufferId, Place, Placement, Plan, Step};

/// Chains beside the main one, at most: four chains of tiny kernels take a third of the time of one.
const SIDE_TRACKS: usize = 3;
/// So many steps of the main track before and after a segment's place may run beside it.
const WINDOW: usize = 8;
/// Elements of the largest tensor of a run that a small step reads or writes: half of what the tiles of a large card
/// cover at once.
const SMALL_ELEMENTS: i64 = 1 << 18;
/// Elements of weights that a small step reads: some microseconds of the memory of a large card would be shared, not won.
const SMALL_WEIGHTS: i64 = 1 << 21;
/// Work of a step that moves or maps elements, and of any other, in microseconds that it takes at the least, roughly.
const LIGHT: u32 = 1;
const HEAVY: u32 = 3;
/// What a segment, and what runs beside it, must have in work: a fork and a join cost the device about as much as two small
/// steps, and the host, which launches every branch for itself, some microseconds.
const WORTH: u32 = 3;

/// The order of the steps of a run, and which temporaries must be kept apart.
pub(crate) fn arrange(plan: &mut Plan) {
    let needs = reduce(&needs(plan));
    let sizes: Vec<Size> = plan.steps.iter().map(|s| size(plan, s)).collect();
    let ordered = reduce(&with_tracks(needs, &sizes));
    let mut outgoing = vec![0_usize; plan.steps.len()];
    for from in ordered.iter().flatten() {
        outgoing[*from] += 1;
    }
    plan.edges = Vec::with_capacity(plan.steps.len());
    for (to, before) in ordered.iter().enumerate() {
        for &from in before.iter().rev() {
            plan.edges.push(Edge {
                from,
                to,
                programmatic: before.len() == 1 && outgoing[from] == 1 && sizes[from].brief,
            });
        }
    }
    plan.arena = placements(plan);
}

/// What matters of a step's size.
#[derive(Clone, Copy, Debug)]
struct Size {
    /// Whether its tensors of the run are small.
    brief: bool,
    /// Whether its weights are, too.
    small: bool,
    work: u32,
}

fn size(plan: &Plan, step: &Step) -> Size {
    let (mut largest, mut weights) = (0, 0_i64);
    for arg in &step.args {
        let (Arg::Read(b) | Arg::Write(b)) = arg else {
            continue;
        };
        let buffer = &plan.buffers[b.0 as usize];
        let bytes = plan.exprs[buffer.bytes.0 as usize].range(&plan.symbols).0;
        let elements = bytes.max(0) / buffer.dtype.size().unwrap_or(1).max(1) as i64;
        match buffer.place {
            Place::Constant(_) | Place::Persistent => weights = weights.saturating_add(elements),
            Place::Input(_) | Place::Output(_) | Place::Arena { .. } => {
                largest = largest.max(elements);
            }
        }
    }
    let light = matches!(
        step.template.name(),
        "pointwise" | "group" | "ints" | "gather" | "scatter" | "pad" | "resize"
    );
    let brief = largest <= SMALL_ELEMENTS;
    Size {
        brief,
        small: brief && weights <= SMALL_WEIGHTS,
        work: if light { LIGHT } else { HEAVY },
    }
}

/// For each step the earlier steps that must be over because of what both touch.
fn needs(plan: &Plan) -> Vec<Vec<usize>> {
    #[derive(Clone, Default)]
    struct Seen {
        writer: Option<usize>,
        readers: Vec<usize>,
    }
    let mut seen = vec![Seen::default(); plan.buffers.len()];
    // what touched the caller's memory so far
    let (mut inputs_read, mut outputs_written) = (Vec::new(), Vec::new());
    let mut needs = Vec::with_capacity(plan.steps.len());
    for (i, step) in plan.steps.iter().enumerate() {
        let mut before: Vec<usize> = Vec::new();
        let (mut reads_input, mut writes_output) = (false, false);
        for arg in &step.args {
            match arg {
                Arg::Int(_) | Arg::Map(_) => {}
                Arg::Read(b) => {
                    before.extend(seen[b.0 as usize].writer);
                    reads_input |= is_input(plan, *b);
                }
                Arg::Write(b) => {
                    let seen = &seen[b.0 as usize];
                    before.extend(seen.writer);
                    before.extend(&seen.readers);
                    writes_output |= is_output(plan, *b);
                }
            }
        }
        if reads_input {
            before.extend(&outputs_written);
            inputs_read.push(i);
        }
        if writes_output {
            before.extend(inputs_read.iter().filter(|s| **s != i));
            outputs_written.push(i);
        }
        for arg in &step.args {
            match arg {
                Arg::Int(_) | Arg::Map(_) => {}
                Arg::Read(b) => seen[b.0 as usize].readers.push(i),
                Arg::Write(b) => {
                    seen[b.0 as usize] = Seen {
                        writer: Some(i),
                        readers: Vec::new(),
                    };
                }
            }
        }
        needs.push(before);
    }
    needs
}

pub(crate) fn is_input(plan: &Plan, b: BufferId) -> bool {
    matches!(plan.buffers[b.0 as usize].place, Place::Input(_))
}

pub(crate) fn is_output(plan: &Plan, b: BufferId) -> bool {
    matches!(plan.buffers[b.0 as usize].place, Place::Output(_))
}

/// The fewest predecessors that order the same, latest first.
fn reduce(needs: &[Vec<usize>]) -> Vec<Vec<usize>> {
    let mut closure = Closure::new(needs.len());
    let mut reduced = Vec::with_capacity(needs.len());
    for (to, before) in needs.iter().enumerate() {
        let mut candidates = before.clone();
        candidates.sort_unstable_by(|a, b| b.cmp(a));
        let mut kept = Vec::new();
        for from in candidates {
            // what a later one waits for is already known to be over
            if !closure.before(from, to) {
                closure.add(from, to);
                kept.push(from);
            }
        }
        reduced.push(kept);
    }
    reduced
}

/// Who comes after each step.
fn followers(needs: &[Vec<usize>]) -> Vec<Vec<usize>> {
    let mut after = vec![Vec::new(); needs.len()];
    for (to, before) in needs.iter().enumerate() {
        for &from in before {
            after[from].push(to);
        }
    }
    after
}

/// The largest steps and the longest path by work: what the main track has in any case.
fn spine(after: &[Vec<usize>], sizes: &[Size]) -> Vec<bool> {
    let mut height = vec![0_u32; sizes.len()];
    for i in (0..sizes.len()).rev() {
        let rest = after[i].iter().map(|s| height[*s]).max().unwrap_or(0);
        height[i] = rest.saturating_add(sizes[i].work);
    }
    // of equals the first in the list
    let tallest = |steps: &mut dyn Iterator<Item = usize>| -> Option<usize> {
        steps.reduce(|a, b| if height[b] > height[a] { b } else { a })
    };
    let mut main: Vec<bool> = sizes.iter().map(|s| !s.small).collect();
    let mut at = tallest(&mut (0..sizes.len()));
    while let Some(step) = at {
        main[step] = true;
        at = tallest(&mut after[step].iter().copied());
    }
    main
}

/// A chain beside the main track.
#[derive(Clone, Copy, Debug, Default)]
struct Track {
    tail: Option<usize>,
    /// The last step of the main track that the tail comes after.
    since: Option<usize>,
}

/// Adds to what steps need what keeps the tracks in order and segments near their place.
fn with_tracks(mut needs: Vec<Vec<usize>>, sizes: &[Size]) -> Vec<Vec<usize>> {
    let after = followers(&needs);
    let mut main = spine(&after, sizes);
    let until = joins(&after, &main);
    // the last step of the main track before each step on the side
    let mut since: Vec<Option<usize>> = vec![None; needs.len()];
    let mut tracks = [Track::default(); SIDE_TRACKS];
    let mut segments: Vec<(Vec<usize>, Option<usize>)> = Vec::new();
    let mut decided = main.clone();
    for first in 0..needs.len() {
        if decided[first] {
            continue;
        }
        let segment = segment(first, &needs, &after, &main);
        for &step in &segment {
            decided[step] = true;
        }
        let fork = needs[first].iter().map(|&p| match main[p] {
            true => Some(p),
            false => since[p],
        });
        let fork = fork.max().flatten();
        let last = segment[segment.len() - 1];
        let join = after[last].iter().map(|&s| match main[s] {
            true => s,
            false => until[s],
        });
        let join = join.min().unwrap_or(usize::MAX);
        // the track that lets it begin earliest, and of those one that is not in use yet
        let free = tracks
            .iter_mut()
            .filter(|t| t.tail.is_none_or(|t| t < first));
        let track = free.min_by_key(|t| (fork.max(t.since), t.tail.is_some()));
        let work: u32 = segment.iter().map(|s| sizes[*s].work).sum();
        match track {
            Some(track)
                if work >= WORTH
                    && work_beside(first, fork.max(track.since), join, &main, sizes) >= WORTH =>
            {
                let begins = fork.max(track.since);
                for &step in &segment {
                    since[step] = begins;
                }
                segments.push((segment, track.tail));
                *track = Track {
                    tail: Some(last),
                    since: begins,
                };
            }
            _ => {
                for &step in &segment {
                    main[step] = true;
                }
            }
        }
    }
    let chain: Vec<usize> = (0..needs.len()).filter(|s| main[*s]).collect();
    for pair in chain.windows(2) {
        needs[pair[1]].push(pair[0]);
    }
    for (segment, tail) in segments {
        let (first, last) = (segment[0], segment[segment.len() - 1]);
        needs[first].extend(tail);
        let before = chain.partition_point(|s| *s < first);
        if let Some(at) = before.checked_sub(WINDOW + 1) {
            needs[first].push(chain[at]);
        }
        let behind = chain.partition_point(|s| *s < last);
        if let Some(&step) = chain.get(behind + WINDOW) {
            needs[step].push(last);
        }
    }
    needs
}

/// The first step of the main track that waits for each step; beyond the list if none does.
fn joins(after: &[Vec<usize>], main: &[bool]) -> Vec<usize> {
    let mut until = vec![usize::MAX; after.len()];
    for i in (0..after.len()).rev() {
        let next = after[i].iter().map(|&s| if main[s] { s } else { until[s] });
        until[i] = next.min().unwrap_or(usize::MAX);
    }
    until
}

/// The row of steps from `first` on in which each is the only consumer of the one before and has no other producer.
fn segment(first: usize, needs: &[Vec<usize>], after: &[Vec<usize>], main: &[bool]) -> Vec<usize> {
    let mut segment = vec![first];
    let mut at = first;
    while let [next] = after[at][..]
        && needs[next].len() == 1
        && !main[next]
    {
        segment.push(next);
        at = next;
    }
    segment
}

/// Work of the main track beside a segment: between its fork and its join, and near its place.
fn work_beside(
    place: usize,
    fork: Option<usize>,
    join: usize,
    main: &[bool],
    sizes: &[Size],
) -> u32 {
    let after_fork = fork.map_or(0, |f| f + 1);
    let before = (after_fork..place).rev().filter(|s| main[*s]).take(WINDOW);
    let behind = (place.max(after_fork)..join.min(main.len()))
        .filter(|s| main[*s])
        .take(WINDOW);
    before.chain(behind).map(|s| sizes[s].work).sum()
}

/// The temporaries in the order in which they are placed, each with those placed before it that may be alive with it.
fn placements(plan: &Plan) -> Vec<Placement> {
    let closure = Closure::of(plan.steps.len(), &plan.edges);
    let touched = temporaries_of(plan);
    let mut touching: Vec<Vec<usize>> = vec![Vec::new(); plan.buffers.len()];
    for (step, buffers) in touched.iter().enumerate() {
        for b in buffers {
            touching[b.0 as usize].push(step);
        }
    }
    let mut order: Vec<(usize, usize, usize)> = plan
        .buffers
        .iter()
        .enumerate()
        .filter_map(|(i, b)| match b.place {
            Place::Arena { first, last } => Some((first, last, i)),
            _ => None,
        })
        .collect();
    order.sort_unstable();
    let mut placed = vec![false; plan.buffers.len()];
    // temporaries that the list has not left behind
    let mut live: Vec<(usize, usize)> = Vec::new();
    let mut placements = Vec::with_capacity(order.len());
    for (first, last, i) in order {
        live.retain(|&(end, _)| end >= first);
        let mut apart: Vec<BufferId> = live.iter().map(|l| BufferId(l.1 as u32)).collect();
        // and those whose steps may run beside this one's
        for &step in &touching[i] {
            let beside = closure.beside(step).flat_map(|s| &touched[s]);
            apart.extend(beside.filter(|b| placed[b.0 as usize]));
        }
        apart.sort_unstable();
        apart.dedup();
        placements.push(Placement {
            buffer: BufferId(i as u32),
            apart,
        });
        placed[i] = true;
        live.push((last, i));
    }
    placements
}

/// The temporaries that each step touches.
fn temporaries_of(plan: &Plan) -> Vec<Vec<BufferId>> {
    let of = |step: &Step| {
        let mut touched: Vec<BufferId> = step
            .args
            .iter()
            .filter_map(|arg| match arg {
                Arg::Read(b) | Arg::Write(b) => Some(*b),
                Arg::Int(_) | Arg::Map(_) => None,
            })
            .filter(|b| matches!(plan.buffers[b.0 as usize].place, Place::Arena { .. }))
            .collect();
        touched.sort_unstable();
        touched.dedup();
        touched
    };
    plan.steps.iter().map(of).collect()
}

#[cfg(test)]
#[path = "order_tests.rs"]
mod tests;

//! Graph to graph: what a model says in many ways is brought into one form, and elementwise work is fused.
//!
//! [`canonicalize`] runs the passes of [`PASSES`] in order, again and again until none changes anything, then those of
//! [`LAST`], and so on until these change nothing either. A pass is a
//! function that rewrites the graph in place and says how many changes it made. What all of them promise:
//!
//! - **The function stays the same.** Every result keeps its exact type, and its value up to the freedom that
//!   [`bespoke_ir::expr`] gives to narrow floats and the rewrites that `simplify` lists. Names of graph inputs and
//!   outputs stay.
//! - **Nothing depends on a pass.** A pattern that is not recognised stays as it was, and runs, only slower.
//! - **No new conditions.** A rewrite never adds a guard: what it relies on was guarded by the nodes that it replaces.
//! - **Order is deterministic.** Nodes are visited in topological order; equal graphs give equal results.
//! - **Work is bounded.** Rounds, fusion and folding have limits, so that a hostile model costs no more than its size.
//!
//! | pass | what |
//! |---|---|
//! | `fold` | nodes of constants become constants |
//! | `dedup` | equal nodes and equal constants become one |
//! | `inline_scalars` | constants with one value become literals of the expressions that read them |
//! | `simplify` | views that do nothing, views of views, trivial reductions, arithmetic |
//! | `normalize` | layer and RMS normalisation in pieces become one operator |
//! | `group_norm` | normalisation of groups of channels keeps the axes of its operand, so that no layout needs a copy |
//! | `rotate` | a concat of swapped halves (rotary positions) becomes a view, so that its reader is one map |
//! | `push` | elementwise work moves above views, next to the product or convolution that it can join |
//! | `scale` | a factor of a matrix becomes a factor of the product, which computes it for nothing |
//! | `attention` | two products with a softmax in between become one operator |
//! | `fuse_maps` | elementwise nodes join their elementwise readers |
//! | `pair_products` | columns of products that one map takes together become neighbours (last) |
//! | `merge_products` | products of one tensor with several weights become one (last) |
//! | `split_products` | a product of which slices are used becomes several, if work behind a slice joins its product (last) |
//! | `shared_heads` | a product reads heads that queries share through one more batch axis, without copies (last) |
//!
//! A transpose before a matrix product is no pass: the planner reads operands of a product under any strides, so that
//! nothing would be gained.

mod attention;
mod dedup;
mod extents;
mod fold;
mod fuse_maps;
mod group_norm;
mod inline_scalars;
mod merge_products;
mod normalize;
mod pair_products;
mod push;
mod rewrite;
mod rotate;
mod scale;
mod shared_heads;
mod simplify;
mod split_products;

#[cfg(test)]
mod patterns;
#[cfg(test)]
mod testing;

use std::fmt;
use std::time::{Duration, Instant};

use bespoke_ir::verify::{VerifyError, verify};
use bespoke_ir::{Graph, InferError};

/// A pass: rewrites the graph and returns the number of changes.
pub type Pass = fn(&mut Graph) -> Result<usize, PassError>;

/// The passes of every round with their names, in the order in which it runs them.
pub const PASSES: &[(&str, Pass)] = &[
    ("fold", fold::run),
    ("dedup", dedup::run),
    ("inline_scalars", inline_scalars::run),
    ("simplify", simplify::run),
    ("normalize", normalize::run),
    ("group_norm", group_norm::run),
    ("rotate", rotate::run),
    ("push", push::run),
    ("scale", scale::run),
    ("attention", attention::run),
    ("fuse_maps", fuse_maps::run),
];

/// Passes that wait until those of [`PASSES`] have nothing left to change, and whose changes begin another round: what they
/// make hides patterns that others look for.
pub const LAST: &[(&str, Pass)] = &[
    ("pair_products", pair_products::run),
    ("merge_products", merge_products::run),
    ("split_products", split_products::run),
    ("shared_heads", shared_heads::run),
];

/// Every pass with its name, in the order of a round.
pub fn all() -> impl Iterator<Item = (&'static str, Pass)> {
    PASSES.iter().chain(LAST).copied()
}

/// Most rounds of all passes. Real models settle after three to five.
const MAX_ROUNDS: usize = 16;

/// Why a graph could not be brought into canonical form. Both kinds are mistakes of a pass, not of the model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PassError {
    /// A pass made a node that has no type.
    #[error("internal error of a graph pass: {0}; please report it with the model")]
    Infer(#[from] InferError),
    /// A pass left a graph that the verifier refuses (checked in debug builds).
    #[error("internal error of pass `{pass}`: {source}; please report it with the model")]
    Malformed {
        /// Name of the pass.
        pass: &'static str,
        /// What the verifier says.
        source: VerifyError,
    },
}

/// What one pass did over all rounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassReport {
    /// Name of the pass.
    pub name: &'static str,
    /// Number of changes.
    pub changes: usize,
    /// Time spent.
    pub time: Duration,
}

/// What [`canonicalize`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// One entry a pass, in the order of [`all`].
    pub passes: Vec<PassReport>,
    /// Rounds, the last of which changed nothing if [`Report::settled`].
    pub rounds: usize,
    /// Whether the last round changed nothing. If not, the limit of rounds was reached; the graph is still right.
    pub settled: bool,
}

impl Report {
    /// Changes of all passes.
    pub fn changes(&self) -> usize {
        self.passes.iter().map(|p| p.changes).sum()
    }
}

impl fmt::Display for Report {
    /// One line a pass, `fold: 12 changes, 85 µs`, then the rounds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for p in &self.passes {
            writeln!(
                f,
                "{}: {} changes, {} µs",
                p.name,
                p.changes,
                p.time.as_micros()
            )?;
        }
        let end = if self.settled {
            "settled"
        } else {
            "stopped by the limit"
        };
        write!(f, "{} rounds, {end}", self.rounds)
    }
}

/// Brings a graph into canonical form; see the crate. Debug builds verify the graph after every pass.
///
/// # Errors
///
/// [`PassError`] if a pass makes a mistake; no graph that the verifier accepts should lead there.
pub fn canonicalize(graph: &mut Graph) -> Result<Report, PassError> {
    let mut passes: Vec<PassReport> = all()
        .map(|(name, _)| PassReport {
            name,
            changes: 0,
            time: Duration::ZERO,
        })
        .collect();
    let (mut rounds, mut settled) = (0, false);
    // how often the graph changed, and for each pass when it found nothing to change
    let (mut version, mut idle) = (0, vec![None; passes.len()]);
    graph.remove_dead();
    while rounds < MAX_ROUNDS && !settled {
        rounds += 1;
        settled = true;
        for (((name, pass), report), idle) in all().zip(&mut passes).zip(&mut idle) {
            let late = LAST.iter().any(|l| l.0 == name);
            if (late && !settled) || *idle == Some(version) {
                continue;
            }
            let start = Instant::now();
            let changes = pass(graph)?;
            report.time += start.elapsed();
            report.changes += changes;
            if changes == 0 {
                *idle = Some(version);
            } else {
                version += 1;
                settled = false;
            }
            if cfg!(debug_assertions) {
                verify(graph).map_err(|source| PassError::Malformed { pass: name, source })?;
            }
        }
    }
    Ok(Report {
        passes,
        rounds,
        settled,
    })
}

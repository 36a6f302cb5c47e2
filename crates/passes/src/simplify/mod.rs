//! Rules that make one node simpler, or needless.
//!
//! | file | what |
//! |---|---|
//! | [`views`] | Reshape, Transpose, Expand, Slice, Pad and Concat that do nothing, or follow their like |
//! | [`reductions`] | reductions over no axes, or over axes of extent 1 |
//! | [`maps`] | identities, operands that are not read, needless shapes |
//! | [`arithmetic`] | the expressions inside maps |

mod arithmetic;
mod maps;
mod reductions;
mod views;

use bespoke_ir::{Graph, NodeId};

use crate::PassError;
use crate::rewrite::{live_nodes, skip};

/// A rule: whether it changed the node, which then is no longer live.
type Rule = fn(&mut Graph, NodeId) -> Result<bool, PassError>;

/// Every rule; the first that changes a node ends its visit.
const RULES: &[Rule] = &[
    views::reshape,
    views::transpose,
    views::expand,
    views::slice,
    views::pad,
    views::concat,
    reductions::reduce,
    maps::simplify,
];

/// See the module.
pub(crate) fn run(graph: &mut Graph) -> Result<usize, PassError> {
    let mut changes = 0;
    for id in live_nodes(graph) {
        if skip(graph, id) {
            continue;
        }
        for rule in RULES {
            if rule(graph, id)? {
                changes += 1;
                break;
            }
        }
    }
    graph.remove_dead();
    Ok(changes)
}

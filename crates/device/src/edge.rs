//! The order of a graph's launches.
//!
//! An [`Edge`] says that one launch comes after another. A *plain* edge holds the later kernel back until the earlier one
//! is over. A *programmatic* edge (compute capability 9.0 and newer) lets it start as soon as every block of the earlier
//! one has said so or is gone; the later kernel then waits itself, with `griddepcontrol.wait`, before it reads what others
//! write and before it writes. The order of what both do to memory is the same, so an edge that is made plain costs time
//! and nothing else.
//!
//! A kernel that does not wait must have no programmatic edge to it: neither its own reads nor those of the kernels behind
//! it would be safe. Every kernel of the templates waits.

use crate::{DeviceError, Result};

/// Launch `to` comes after launch `from`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Edge {
    /// The earlier launch.
    pub from: usize,
    /// The later launch.
    pub to: usize,
    /// Whether `to` may start while `from` still runs.
    pub programmatic: bool,
}

impl Edge {
    /// An edge that holds `to` back until `from` is over.
    pub const fn plain(from: usize, to: usize) -> Edge {
        Edge {
            from,
            to,
            programmatic: false,
        }
    }

    /// An edge over which `to` waits itself.
    pub const fn programmatic(from: usize, to: usize) -> Edge {
        Edge {
            from,
            to,
            programmatic: true,
        }
    }
}

/// Why every edge is plain: a stable code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NoDependentLaunch {
    /// The device runs one kernel after the other.
    Serial,
    /// The card's architecture has no such launches.
    Architecture,
    /// The driver is older than 12.3 and cannot record such edges.
    Driver,
}

impl NoDependentLaunch {
    /// The code, as documents and events have it.
    pub fn code(self) -> &'static str {
        match self {
            NoDependentLaunch::Serial => "serial",
            NoDependentLaunch::Architecture => "architecture",
            NoDependentLaunch::Driver => "driver",
        }
    }
}

/// The edges of `length` launches, each of which comes after the one before it.
pub fn chain(length: usize) -> Vec<Edge> {
    (1..length).map(|to| Edge::plain(to - 1, to)).collect()
}

/// Refuses edges that do not lead from an earlier launch to a later one of `length`, and pairs that occur twice.
pub fn check_edges(length: usize, edges: &[Edge]) -> Result<()> {
    let refuse = |reason: String| {
        Err(DeviceError::Call {
            call: "graph",
            reason,
        })
    };
    for edge in edges {
        let Edge { from, to, .. } = edge;
        if from >= to || *to >= length {
            return refuse(format!(
                "an edge from launch {from} to launch {to} of {length}"
            ));
        }
    }
    let mut pairs: Vec<_> = edges.iter().map(|e| (e.from, e.to)).collect();
    pairs.sort_unstable();
    match pairs.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => refuse(format!(
            "two edges from launch {} to launch {}",
            pair[0].0, pair[0].1
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_has_an_edge_between_neighbours() {
        assert_eq!(chain(0), []);
        assert_eq!(chain(1), []);
        assert_eq!(chain(3), [Edge::plain(0, 1), Edge::plain(1, 2)]);
    }

    #[test]
    fn edges_lead_forward_and_once() {
        assert_eq!(check_edges(3, &chain(3)), Ok(()));
        for wrong in [
            &[Edge::plain(1, 1)][..],
            &[Edge::plain(2, 1)],
            &[Edge::plain(0, 3)],
            &[Edge::plain(0, 1), Edge::programmatic(0, 1)],
        ] {
            let error = check_edges(3, wrong).unwrap_err();
            assert!(
                matches!(error, DeviceError::Call { call: "graph", .. }),
                "{wrong:?}: {error:?}"
            );
        }
    }
}

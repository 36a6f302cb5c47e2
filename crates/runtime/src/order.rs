//! The order of a graph's kernels: what of the plan's edges a session asks the device for.
//!
//! The plan says which steps may run side by side and between which a kernel may start early. A session may want less of
//! both, for comparison; a device may be able to do less. Whatever is given up has a reason, which the event of every
//! recorded graph carries.

use bespoke_device::{Device, Edge, chain};
use bespoke_plan::Plan;

use crate::request::{GraphMode, ProgrammaticLaunch, SessionOptions};

/// What a session wants of its graphs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GraphOrder {
    graph: GraphMode,
    programmatic: ProgrammaticLaunch,
}

/// The edges of a graph.
#[derive(Debug)]
pub(crate) struct Edges {
    pub(crate) edges: Vec<Edge>,
    /// Why edges that the plan lets be programmatic are plain, if they are: a stable code.
    pub(crate) plain: Option<&'static str>,
}

impl GraphOrder {
    pub(crate) fn of(options: &SessionOptions) -> GraphOrder {
        GraphOrder {
            graph: options.cuda_graph,
            programmatic: options.programmatic_launch,
        }
    }

    /// Whether runs are graphs.
    pub(crate) fn is_graph(self) -> bool {
        self.graph != GraphMode::Off
    }

    /// The edges between a plan's steps on a device.
    pub(crate) fn edges(self, plan: &Plan, device: &dyn Device) -> Edges {
        // list order is stricter than the plan's, so whatever relies on the latter holds
        let mut edges = match self.graph {
            GraphMode::Chain => chain(plan.steps.len()),
            GraphMode::Whole | GraphMode::Off => plan.edges.clone(),
        };
        if !edges.iter().any(|e| e.programmatic) {
            return Edges { edges, plain: None };
        }
        let plain = match self.programmatic {
            ProgrammaticLaunch::Off => Some("asked"),
            ProgrammaticLaunch::Auto => device.dependent_launch().err().map(|why| why.code()),
        };
        if plain.is_some() {
            for edge in &mut edges {
                edge.programmatic = false;
            }
        }
        Edges { edges, plain }
    }
}

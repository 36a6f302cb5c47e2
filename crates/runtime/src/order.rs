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

#[cfg(test)]
mod tests {
    use bespoke_host::{HostDevice, HostOptions};
    use bespoke_ir::op::MatMul;
    use bespoke_ir::{Constant, DType, Graph, TensorType};

    use super::*;

    /// `((x·w)·w)·((x·w)·w')ᵀ`: two steps in a row, then two side by side that meet.
    fn plan() -> Plan {
        let mut g = Graph::new("two branches");
        let f = DType::F32;
        let x = g.add_input("x", TensorType::new(f, vec![4.into(), 8.into()]));
        let times = |g: &mut Graph, name: &str, x| {
            let w = Constant::new(f, vec![8, 8], vec![0; 256].into()).unwrap();
            let w = g.add_constant("w", w);
            g.add1(name, MatMul::default(), &[x, w]).unwrap()
        };
        let a = times(&mut g, "a", x);
        let b = times(&mut g, "b", a);
        let (c, d) = (times(&mut g, "c", b), times(&mut g, "d", b));
        let last = MatMul {
            transpose_b: true,
            ..MatMul::default()
        };
        let y = g.add1("y", last, &[c, d]).unwrap();
        g.add_output(y);
        bespoke_plan::plan(&g).unwrap()
    }

    #[test]
    fn what_is_given_up_has_a_reason() {
        let plan = plan();
        let host = HostDevice::new(HostOptions::default());
        let edges = |graph, programmatic| {
            let options = SessionOptions {
                cuda_graph: graph,
                programmatic_launch: programmatic,
                ..SessionOptions::default()
            };
            GraphOrder::of(&options).edges(&plan, &*host)
        };
        assert!(plan.edges.contains(&Edge::programmatic(0, 1)), "{plan}");
        for (programmatic, reason) in [
            (ProgrammaticLaunch::Auto, "serial"),
            (ProgrammaticLaunch::Off, "asked"),
        ] {
            let whole = edges(GraphMode::Whole, programmatic);
            assert_eq!(whole.plain, Some(reason));
            assert_eq!(whole.edges.len(), plan.edges.len());
            assert!(whole.edges.iter().all(|e| !e.programmatic));
        }
        let in_a_row = edges(GraphMode::Chain, ProgrammaticLaunch::Auto);
        assert_eq!((in_a_row.edges, in_a_row.plain), (chain(5), None));
        assert!(plan.edges.len() > 4, "{plan}");
    }
}

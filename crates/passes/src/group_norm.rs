//! Normalisation of groups of channels keeps the axes of its operand.
//!
//! Exporters write group normalisation as one of rows: channels `C` and pixels `H·W` are brought to `[N, G, C/G·H·W]`,
//! whose last axis is normalised and brought back. Where channels lie next to each other in memory, no strides can say
//! that axis, so the planner would copy the tensor twice. Split as `[N, G, C/G, H, W]` it is a view, and normalised over
//! its last three axes it is the same function:
//!
//! ```text
//! reshape [N,C,H,W] → [N,G,L]          reshape → [N,G,C/G,H,W]
//! normalize axes=[2]              →    normalize axes=[2,3,4]
//! reshape → [N,C,H,W]                  reshape → [N,C,H,W]
//! ```
//!
//! It is done where the operand's axes, cut at the borders of both shapes, say both, and only the reshape back reads the
//! result. Scale, bias and activation, which stand behind that reshape, follow by the pass `push`.

use bespoke_ir::op::{Normalize, Reshape};
use bespoke_ir::{Graph, NodeId, Op, SymInt};

use crate::PassError;
use crate::rewrite::{add, live_nodes, maker, only_reader, skip, swap};

/// See the module.
pub(crate) fn run(graph: &mut Graph) -> Result<usize, PassError> {
    let mut changes = 0;
    for id in live_nodes(graph) {
        if !skip(graph, id) && split(graph, id)? {
            changes += 1;
        }
    }
    graph.remove_dead();
    Ok(changes)
}

fn split(graph: &mut Graph, id: NodeId) -> Result<bool, PassError> {
    let node = graph.node(id);
    let Op::Normalize(op) = &node.op else {
        return Ok(false);
    };
    let (rows, y) = (node.inputs()[0], node.outputs()[0]);
    let Some(before) = maker(graph, rows).filter(|n| matches!(n.op, Op::Reshape(_))) else {
        return Ok(false);
    };
    let x = before.inputs()[0];
    let back = only_reader(graph, y).filter(|&r| match &graph.node(r).op {
        Op::Reshape(r) => r.dims == graph.dims(x),
        _ => false,
    });
    let (Some(back), Some(cuts)) = (back, cut(graph.dims(x), graph.dims(rows))) else {
        return Ok(false);
    };
    // axes that only split need no copy before the reshape either
    let joins = cuts
        .windows(2)
        .any(|w| op.axes.contains(&w[0].row) && w[0].row == w[1].row && w[0].own != w[1].own);
    if !joins {
        return Ok(false);
    }
    let wanted = Normalize {
        axes: (0..cuts.len())
            .filter(|&i| op.axes.contains(&cuts[i].row))
            .collect(),
        epsilon: op.epsilon,
        center: op.center,
    };
    let (name, before_name) = (node.name.clone(), before.name.clone());
    let dims = cuts.into_iter().map(|c| c.extent).collect();
    let v = add(graph, &before_name, Reshape { dims }, &[x])?;
    let v = add(graph, &name, wanted, &[v])?;
    let op = graph.node(back).op.clone();
    Ok(swap(graph, back, op, &[v])?.is_some())
}

/// An axis of the operand, or a part of one, that lies within one axis of the rows.
struct Cut {
    extent: SymInt,
    own: usize,
    row: usize,
}

/// The coarsest axes that both shapes are made of.
fn cut(own: &[SymInt], rows: &[SymInt]) -> Option<Vec<Cut>> {
    let mut cuts = Vec::new();
    let (mut i, mut j) = (0, 0);
    let (mut left, mut right) = (own.first()?.clone(), rows.first()?.clone());
    loop {
        if j + 1 == rows.len() {
            // the rest is the last axis, whether or not the algebra can multiply it out
            cuts.push(Cut {
                extent: left,
                own: i,
                row: j,
            });
            let rest = (i + 1..own.len()).map(|i| Cut {
                extent: own[i].clone(),
                own: i,
                row: j,
            });
            cuts.extend(rest);
            return Some(cuts);
        }
        let (extent, more_left, more_right) = match (left.exact_div(&right), right.exact_div(&left))
        {
            (Some(q), _) if q.as_const() == Some(1) => (left.clone(), None, None),
            (Some(q), _) => (right.clone(), Some(q), None),
            (None, Some(q)) => (left.clone(), None, Some(q)),
            (None, None) => return None,
        };
        cuts.push(Cut {
            extent,
            own: i,
            row: j,
        });
        // whatever was used up makes place for its next axis
        let next = |list: &[SymInt], at: &mut usize, rest: Option<SymInt>| {
            rest.or_else(|| {
                *at += 1;
                list.get(*at).cloned()
            })
        };
        match (next(own, &mut i, more_left), next(rows, &mut j, more_right)) {
            (Some(l), Some(r)) => (left, right) = (l, r),
            (None, None) => return Some(cuts),
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{agree, symbol};
    use bespoke_ir::{DType, TensorType};

    /// The spelling over `[N, 6, H, W]` in groups of 3, brought back to `dims`.
    fn grouped(g: &mut Graph, back: Option<Vec<SymInt>>) {
        let (n, h, w) = (symbol(g, "N"), symbol(g, "H"), symbol(g, "W"));
        let dims = vec![n.clone(), 6.into(), h.clone() * 4, w.clone()];
        let x = g.add_input("x", TensorType::new(DType::F32, dims.clone()));
        let rows = vec![n, 2.into(), h * w * 12];
        let v = g.add1("rows", Reshape { dims: rows }, &[x]).unwrap();
        let op = Normalize {
            axes: vec![2],
            epsilon: 0.1,
            center: true,
        };
        let v = g.add1("norm", op, &[v]).unwrap();
        let dims = back.unwrap_or(dims);
        let y = g.add1("back", Reshape { dims }, &[v]).unwrap();
        g.add_output(y);
    }

    #[test]
    fn groups_of_channels_are_normalised_in_place() {
        let mut g = Graph::new("t");
        grouped(&mut g, None);
        let before = g.clone();
        assert_eq!(run(&mut g), Ok(1));
        insta::assert_snapshot!(g, @r"
        graph t(x: f32[N,6,4*H,W]) {
          %0 = reshape(x) dims=[N,2,3,4*H,W] : f32[N,2,3,4*H,W]  ; rows
          %1 = normalize(%0) axes=[2,3,4] epsilon=0.1 center : f32[N,2,3,4*H,W]  ; norm
          %2 = reshape(%1) dims=[N,6,4*H,W] : f32[N,6,4*H,W]  ; back
          return %2
        }
        ");
        assert_eq!(run(&mut g), Ok(0));
        agree(&before, &g, 1, 1e-6);
    }

    #[test]
    fn other_shapes_stay() {
        let mut g = Graph::new("t");
        let n = symbol(&mut g, "N");
        // rows of tokens: nothing is joined within a row
        let x = g.add_input(
            "x",
            TensorType::new(DType::F32, vec![n.clone(), 5.into(), 4.into()]),
        );
        let rows = vec![n.clone() * 5, 4.into()];
        let v = g.add1("rows", Reshape { dims: rows }, &[x]).unwrap();
        let op = Normalize {
            axes: vec![1],
            epsilon: 0.1,
            center: true,
        };
        let v = g.add1("norm", op, &[v]).unwrap();
        let dims = vec![n, 5.into(), 4.into()];
        let y = g.add1("back", Reshape { dims }, &[v]).unwrap();
        g.add_output(y);
        assert_eq!(run(&mut g), Ok(0));
    }

    #[test]
    fn axes_that_do_not_meet_stay() {
        let same = |dims: &[i64], rows: &[i64]| {
            let ints = |v: &[i64]| v.iter().map(|&d| SymInt::constant(d)).collect::<Vec<_>>();
            cut(&ints(dims), &ints(rows))
                .map(|c| c.into_iter().map(|c| c.extent).collect::<Vec<_>>())
        };
        assert_eq!(same(&[4, 6, 5], &[6, 4, 5]), None);
        assert_eq!(
            same(&[2, 6, 5], &[2, 3, 10]).unwrap(),
            [2.into(), 3.into(), 2.into(), 5.into()]
        );
    }
}

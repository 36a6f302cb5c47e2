//! A small flow by hand: what is kept of it, how long its tensors live, and what walking it gives.

use super::*;
use crate::dtype::DType;
use crate::expr::{BinaryOp, Expr};
use crate::op::Map;
use crate::sym::Symbol;

/// A segment that adds tensors of type `i64`, if it reads any, and is `[n]` long.
fn sum(flow: &mut Flow, n: &SymInt, inputs: &[TensorId], name: &str) -> (usize, TensorId) {
    let ty = TensorType::new(DType::I64, vec![n.clone()]);
    let mut graph = Graph::new("sum");
    let values: Vec<_> = inputs
        .iter()
        .map(|&t| graph.add_input(flow.tensor(t).name.clone(), ty.clone()))
        .collect();
    let add = Map::new(Expr::binary(BinaryOp::Add, DType::I64));
    let both = [values[0], *values.last().unwrap()];
    let y = graph.add1(name, add, &both).unwrap();
    graph.add_output(y);
    let output = flow.add_tensor(name, ty);
    flow.segments.push(Segment {
        graph,
        inputs: inputs.to_vec(),
        outputs: vec![output],
    });
    (flow.segments.len() - 1, output)
}

/// Doubles `x[n]` `k` times and gives it beside `x`; a segment on the way is for nobody.
fn doubling() -> Flow {
    let mut flow = Flow {
        name: "doubling".into(),
        ..Flow::default()
    };
    let origin = SymbolOrigin::InputDim { input: 0, axis: 0 };
    let n = SymInt::symbol(flow.symbols.add(Symbol::new("n", origin)));
    let k = flow.symbols.add(Symbol::new("k", SymbolOrigin::Cut));
    let ty = TensorType::new(DType::I64, vec![n.clone()]);
    let scalar = TensorType::new(DType::I64, vec![]);
    let x = flow.add_tensor("x", ty.clone());
    let times = flow.add_tensor("times", scalar.clone());
    let number = flow.add_tensor("number", scalar);
    let inner = flow.add_tensor("inner", ty.clone());
    let (idle, _) = sum(&mut flow, &n, &[x], "idle");
    let (twice, next) = sum(&mut flow, &n, &[inner], "next");
    let result = flow.add_tensor("result", ty);
    flow.inputs = vec![x, times];
    flow.outputs = vec![("y".into(), result), ("x".into(), x)];
    let body = Loop {
        node: "again".into(),
        kind: CutKind::Loop,
        trip: Trip::Extent(SymInt::symbol(k)),
        condition: None,
        iteration: Some(number),
        carried: vec![Carried {
            initial: x,
            inner,
            next,
            result,
        }],
        block: Block {
            items: vec![Item::Segment(twice)],
            ..Block::default()
        },
        next_condition: None,
        stacked: Vec::new(),
    };
    let read = Read {
        node: "again".into(),
        tensor: times,
        symbols: vec![k],
        shape_of: None,
    };
    flow.block.items = vec![
        Item::Segment(idle),
        Item::Read(read),
        Item::Loop(Box::new(body)),
    ];
    flow.finish();
    flow
}

/// Lists of integers; a segment adds its first input to its last.
#[derive(Default)]
struct Lists {
    segments: usize,
}

impl Machine for Lists {
    type Value = Vec<i64>;
    type Error = FlowError;

    fn dims(&self, value: &Vec<i64>) -> Vec<i64> {
        // a list of one stands for a scalar here
        if value.len() == 1 {
            vec![]
        } else {
            vec![value.len() as i64]
        }
    }

    fn segment(
        &mut self,
        _: usize,
        _: &[i64],
        inputs: &[Vec<i64>],
    ) -> Result<Vec<Vec<i64>>, FlowError> {
        self.segments += 1;
        let pairs = inputs[0].iter().zip(&inputs[inputs.len() - 1]);
        Ok(vec![pairs.map(|(a, b)| a + b).collect()])
    }

    fn read(&mut self, value: &Vec<i64>) -> Result<Vec<i64>, FlowError> {
        Ok(value.clone())
    }

    fn scalar(&mut self, value: i64) -> Result<Vec<i64>, FlowError> {
        Ok(vec![value])
    }

    fn stack(&mut self, _: DType, _: &[i64], parts: Vec<Vec<i64>>) -> Result<Vec<i64>, FlowError> {
        Ok(parts.concat())
    }
}

#[test]
fn what_nobody_needs_is_dropped() {
    let flow = doubling();
    insta::assert_snapshot!(flow.outline(), @r"
    flow doubling(x: i64[n], times: i64[]) {
      read times -> k  ; again
      loop k times  ; again
        carry inner: i64[n] = x, then next
        segment 0 (inner) -> next: i64[n]
      end -> result: i64[n]
      return result, x
    }
    ");
    assert_eq!(flow.segments.len(), 1);
    let Item::Loop(body) = &flow.block.items[1] else {
        panic!("{flow}");
    };
    assert_eq!(body.iteration, None, "nothing reads it");
    let why: Vec<&str> = flow.cuts().iter().map(|cut| cut.kind.code()).collect();
    assert_eq!(why, ["extent", "loop"]);
    let graph = &flow.segments[0].graph;
    assert_eq!(
        (graph.name.as_str(), graph.symbols.len()),
        ("doubling.0", 2)
    );
    crate::verify::verify(graph).unwrap();
}

#[test]
fn a_tensor_lives_as_long_as_something_reads_it() {
    let flow = doubling();
    let x = flow.inputs[0];
    let times = flow.inputs[1];
    assert_eq!(
        flow.block.last_uses,
        [vec![times], vec![]],
        "{x:?} is an output"
    );
    let mut kept = flow.clone();
    kept.outputs.pop();
    kept.finish();
    assert_eq!(kept.block.last_uses, [vec![times], vec![x]]);
}

#[test]
fn a_flow_is_walked() {
    let flow = doubling();
    for (k, expected) in [(3, [8, 16]), (0, [1, 2])] {
        let mut machine = Lists::default();
        let outputs = walk(&flow, &mut machine, vec![2], vec![vec![1, 2], vec![k]]).unwrap();
        assert_eq!(outputs, [expected.to_vec(), vec![1, 2]]);
        assert_eq!(machine.segments as i64, k);
    }
    let wrong = walk(
        &flow,
        &mut Lists::default(),
        vec![3],
        vec![vec![1, 2], vec![1]],
    );
    assert!(matches!(wrong, Err(FlowError::Extents { .. })), "{wrong:?}");
    // an extent is not negative
    let given = vec![vec![1, 2], vec![-5]];
    let wrong = walk(&flow, &mut Lists::default(), vec![2], given);
    assert!(
        matches!(wrong, Err(FlowError::Value { value: -5, .. })),
        "{wrong:?}"
    );
}

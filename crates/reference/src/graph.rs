//! A whole graph: its nodes in order, each value dropped after its last reader.

use bespoke_ir::{Graph, ValueId};

use crate::error::ReferenceError;
use crate::eval::{eval_in, known_symbols};
use crate::tensor::{Tensor, describe};

/// The outputs of `graph` for these inputs. `symbols` are the values of its symbols, indexed by `SymbolId`; see
/// [`crate::bind()`].
///
/// # Errors
///
/// Besides what a node may refuse: a wrong number of inputs, and any value whose type is not the one that the graph
/// declares for it.
pub fn run(
    graph: &Graph,
    inputs: &[Tensor],
    symbols: &[i64],
) -> Result<Vec<Tensor>, ReferenceError> {
    if inputs.len() != graph.inputs().len() {
        return Err(ReferenceError::InputCount {
            graph: graph.name.clone(),
            expected: graph.inputs().len(),
            actual: inputs.len(),
        });
    }
    let mut values: Vec<Option<Tensor>> = vec![None; graph.value_bound()];
    let mut uses = graph.use_counts();
    let table = known_symbols(symbols);
    for (&id, x) in graph.inputs().iter().zip(inputs) {
        check(graph, id, x, symbols)?;
        values[id.index()] = Some(x.clone());
    }
    for id in graph.topological_order() {
        let node = graph.node(id);
        for &v in node.inputs() {
            fetch(graph, &mut values, v)?;
        }
        let operands: Vec<&Tensor> = node
            .inputs()
            .iter()
            .filter_map(|v| values[v.index()].as_ref())
            .collect();
        let results =
            eval_in(&node.op, &operands, symbols, &table).map_err(|e| ReferenceError::Node {
                node: node.name.clone(),
                source: Box::new(e),
            })?;
        for (&v, x) in node.outputs().iter().zip(results) {
            check(graph, v, &x, symbols)?;
            if uses[v.index()] > 0 {
                values[v.index()] = Some(x);
            }
        }
        for &v in node.inputs() {
            uses[v.index()] = uses[v.index()].saturating_sub(1);
            if uses[v.index()] == 0 {
                values[v.index()] = None;
            }
        }
    }
    graph
        .outputs()
        .iter()
        .map(|&v| {
            fetch(graph, &mut values, v)?;
            values[v.index()]
                .clone()
                .ok_or_else(|| ReferenceError::Undefined(graph.value(v).name.clone()))
        })
        .collect()
}

/// Makes sure that a value is there: constants are unpacked when they are first read.
fn fetch(graph: &Graph, values: &mut [Option<Tensor>], id: ValueId) -> Result<(), ReferenceError> {
    if values[id.index()].is_none() {
        let Some(constant) = graph.constant(id) else {
            return Err(ReferenceError::Undefined(graph.value(id).name.clone()));
        };
        values[id.index()] = Some(Tensor::from_constant(constant)?);
    }
    Ok(())
}

fn check(graph: &Graph, id: ValueId, x: &Tensor, symbols: &[i64]) -> Result<(), ReferenceError> {
    let value = graph.value(id);
    let dims: Result<Vec<i64>, _> = value.ty.dims.iter().map(|d| d.eval(symbols)).collect();
    let dims = dims.map_err(|source| ReferenceError::Symbol {
        op: "extents",
        source,
    })?;
    if value.ty.dtype == x.dtype() && dims == x.dims() {
        return Ok(());
    }
    Err(ReferenceError::Mismatch {
        value: value.name.clone(),
        expected: describe(value.ty.dtype, &dims),
        actual: x.describe(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bespoke_ir::op::{Map, MatMul, Reduce, TopK, reduce::ReduceKind};
    use bespoke_ir::sym::Symbol;
    use bespoke_ir::{BinaryOp, DType, Expr, SymInt, SymbolOrigin, TensorType};

    #[test]
    fn nodes_run_in_order_on_symbolic_extents() {
        let mut g = Graph::new("t");
        let n = g.symbols.add(Symbol::new(
            "N",
            SymbolOrigin::InputDim { input: 0, axis: 0 },
        ));
        let x = g.add_input(
            "x",
            TensorType::new(DType::F32, vec![SymInt::symbol(n), 2.into()]),
        );
        let w = Tensor::from_i64(DType::F32, &[2, 1], &[1, 10])
            .unwrap()
            .to_constant()
            .unwrap();
        let w = g.add_constant("w", w);
        let y = g.add1("y", MatMul::default(), &[x, w]).unwrap();
        let s = g
            .add1(
                "s",
                Reduce {
                    kind: ReduceKind::Sum,
                    axes: vec![0],
                    keep_dims: true,
                },
                &[y],
            )
            .unwrap();
        let z = g
            .add1(
                "z",
                Map::new(Expr::binary(BinaryOp::Sub, DType::F32)),
                &[y, s],
            )
            .unwrap();
        g.add_output(z);
        g.add_output(w);
        let input = |dims: &[i64], v: &[i64]| Tensor::from_i64(DType::F32, dims, v).unwrap();
        let x = input(&[3, 2], &[1, 0, 0, 1, 1, 1]);
        let symbols = crate::bind(&g, &[vec![3, 2]]).unwrap();
        let out = run(&g, &[x], &symbols).unwrap();
        assert_eq!(out[0], input(&[3, 1], &[-21, -12, -11]));
        assert_eq!(out[1], input(&[2, 1], &[1, 10]));
        let wrong = run(&g, &[input(&[1, 2], &[1, 1])], &symbols).unwrap_err();
        assert_eq!(
            wrong.to_string(),
            "value `x` should be f32[3,2], it is f32[1,2]; bind the symbols to these inputs' extents"
        );
        assert!(matches!(
            run(&g, &[], &symbols),
            Err(ReferenceError::InputCount { .. })
        ));
    }

    #[test]
    fn an_unread_second_result_is_no_trouble() {
        let mut g = Graph::new("t");
        let x = g.add_input("x", TensorType::fixed(DType::I64, &[3]));
        let y = g
            .add(
                "y",
                TopK {
                    axis: 0,
                    k: 2.into(),
                    largest: true,
                },
                &[x],
            )
            .unwrap();
        g.add_output(y[1]);
        let x = Tensor::from_i64(DType::I64, &[3], &[5, 1, 7]).unwrap();
        assert_eq!(run(&g, &[x], &[]).unwrap()[0].to_i64s(), [2, 0]);
    }
}

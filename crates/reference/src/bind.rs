//! From the extents of the inputs to the values of the symbols.
//!
//! Every input extent that is one symbol gives that symbol its value; every other extent must then evaluate to what
//! the input has. Values must keep to what the symbol states (range, divisor), and all guards of the graph must hold.

use bespoke_ir::{DType, Graph, SymbolId, SymbolOrigin};

use crate::tensor::Tensor;

/// Why inputs do not fit a graph.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BindError {
    /// The number of inputs is wrong.
    #[error("the model takes {expected} inputs, {actual} were given; pass one tensor an input")]
    Count {
        /// Inputs of the graph.
        expected: usize,
        /// Inputs given.
        actual: usize,
    },
    /// An element type is wrong.
    #[error("input `{input}` holds {actual}, the model needs {expected}; convert it")]
    DType {
        /// Name of the input.
        input: String,
        /// Type that the graph declares.
        expected: DType,
        /// Type that was given.
        actual: DType,
    },
    /// A rank is wrong.
    #[error("input `{input}` has {actual} dimensions, the model needs {expected}; reshape it")]
    Rank {
        /// Name of the input.
        input: String,
        /// Rank that the graph declares.
        expected: usize,
        /// Rank that was given.
        actual: usize,
    },
    /// An extent contradicts the graph or another extent.
    #[error(
        "dimension {axis} of input `{input}` is {actual}, the model needs {expected}; change the input"
    )]
    Dim {
        /// Name of the input.
        input: String,
        /// Axis.
        axis: usize,
        /// What the graph needs, as text.
        expected: String,
        /// Extent that was given.
        actual: i64,
    },
    /// A value is outside what its symbol allows.
    #[error("`{symbol}` is {value}, the model needs {expected}; change the inputs")]
    Range {
        /// Name of the symbol.
        symbol: String,
        /// Its value.
        value: i64,
        /// What it may be, as text.
        expected: String,
    },
    /// Nothing gives a symbol its value.
    #[error("`{0}` follows from no extent of an input; bind the values of the inputs too")]
    Unbound(String),
    /// A condition between extents does not hold.
    #[error("the inputs' extents break the condition {0}; change the inputs")]
    Guard(String),
}

/// The values of the symbols, indexed by `SymbolId`, for inputs of these extents.
///
/// A model whose shapes depend on the *elements* of an input needs [`bind_tensors`].
pub fn bind<D: AsRef<[i64]>>(graph: &Graph, shapes: &[D]) -> Result<Vec<i64>, BindError> {
    let shapes: Vec<&[i64]> = shapes.iter().map(AsRef::as_ref).collect();
    bind_with(graph, &shapes, |_, _| None)
}

/// The values of the symbols, indexed by `SymbolId`, for these inputs.
pub fn bind_tensors(graph: &Graph, inputs: &[Tensor]) -> Result<Vec<i64>, BindError> {
    for (&id, x) in graph.inputs().iter().zip(inputs) {
        let (expected, actual) = (graph.dtype(id), x.dtype());
        if expected != actual {
            return Err(BindError::DType {
                input: graph.value(id).name.clone(),
                expected,
                actual,
            });
        }
    }
    let shapes: Vec<&[i64]> = inputs.iter().map(Tensor::dims).collect();
    bind_with(graph, &shapes, |input, element| {
        let x = inputs.get(input)?;
        (element < x.len()).then(|| x.get(element).to_int() as i64)
    })
}

fn bind_with(
    graph: &Graph,
    shapes: &[&[i64]],
    element: impl Fn(usize, usize) -> Option<i64>,
) -> Result<Vec<i64>, BindError> {
    let table = &graph.symbols;
    if shapes.len() != graph.inputs().len() {
        return Err(BindError::Count {
            expected: graph.inputs().len(),
            actual: shapes.len(),
        });
    }
    let mut values: Vec<Option<i64>> = vec![None; table.len()];
    for (&id, shape) in graph.inputs().iter().zip(shapes) {
        let dims = graph.dims(id);
        if dims.len() != shape.len() {
            let input = graph.value(id).name.clone();
            return Err(BindError::Rank {
                input,
                expected: dims.len(),
                actual: shape.len(),
            });
        }
        for (dim, &extent) in dims.iter().zip(*shape) {
            if let Some(slot) = dim.as_symbol().and_then(|s| values.get_mut(s.index())) {
                slot.get_or_insert(extent);
            }
        }
    }
    let mut symbols = Vec::with_capacity(values.len());
    for (id, symbol) in table.iter() {
        let from_origin = || match symbol.origin {
            SymbolOrigin::InputDim { input, axis } => shapes
                .get(input as usize)
                .and_then(|s| s.get(axis as usize))
                .copied(),
            SymbolOrigin::InputValue { input, element: at } => element(input as usize, at as usize),
            SymbolOrigin::DeviceValue { .. } | SymbolOrigin::Cut | SymbolOrigin::Free => None,
        };
        let value = values[id.index()]
            .or_else(from_origin)
            .ok_or_else(|| BindError::Unbound(symbol.name.clone()))?;
        symbols.push(value);
    }
    // after every symbol has its value, so that the first contradiction is reported where it shows
    for (&id, shape) in graph.inputs().iter().zip(shapes) {
        for (axis, (dim, &actual)) in graph.dims(id).iter().zip(*shape).enumerate() {
            if dim.eval(&symbols) != Ok(actual) || actual < 0 {
                let expected = match dim.eval(&symbols) {
                    Ok(v) if dim.is_const() => v.to_string(),
                    Ok(v) => format!("{} = {v}", dim.display(table)),
                    Err(e) => e.to_string(),
                };
                let input = graph.value(id).name.clone();
                return Err(BindError::Dim {
                    input,
                    axis,
                    expected,
                    actual,
                });
            }
        }
    }
    for (SymbolId(i), s) in table.iter() {
        let value = symbols[i as usize];
        if value < s.min || value > s.max || value % s.divisor != 0 {
            let mut expected = match s.max {
                i64::MAX => format!("at least {}", s.min),
                max => format!("{} to {max}", s.min),
            };
            if s.divisor > 1 {
                expected.push_str(&format!(", a multiple of {}", s.divisor));
            }
            return Err(BindError::Range {
                symbol: s.name.clone(),
                value,
                expected,
            });
        }
    }
    match graph.guards.iter().find(|g| !g.holds(&symbols)) {
        Some(guard) => Err(BindError::Guard(guard.display(table).to_string())),
        None => Ok(symbols),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bespoke_ir::op::Map;
    use bespoke_ir::sym::Symbol;
    use bespoke_ir::{BinaryOp, Expr, SymInt, TensorType};

    fn graph() -> Graph {
        let mut g = Graph::new("t");
        let dim = |g: &mut Graph, name: &str, input, axis| {
            let origin = SymbolOrigin::InputDim { input, axis };
            SymInt::symbol(g.symbols.add(Symbol {
                min: 1,
                ..Symbol::new(name, origin)
            }))
        };
        let (n, m) = (dim(&mut g, "N", 0, 0), dim(&mut g, "M", 1, 0));
        let x = g.add_input("x", TensorType::new(DType::F32, vec![n.clone(), 3.into()]));
        let y = g.add_input("y", TensorType::new(DType::F32, vec![m, 1.into()]));
        g.add_input("k", TensorType::new(DType::I64, vec![n]));
        let z = g
            .add1(
                "z",
                Map::new(Expr::binary(BinaryOp::Add, DType::F32)),
                &[x, y],
            )
            .unwrap();
        g.add_output(z);
        g
    }

    #[test]
    fn extents_give_symbols_their_values() {
        let g = graph();
        let shapes = |x: &[i64], y: &[i64], k: &[i64]| bind(&g, &[x, y, k].map(<[i64]>::to_vec));
        assert_eq!(shapes(&[5, 3], &[1, 1], &[5]), Ok(vec![5, 1]));
        let text = |r: Result<Vec<i64>, BindError>| r.unwrap_err().to_string();
        assert_eq!(
            text(shapes(&[5, 4], &[1, 1], &[5])),
            "dimension 1 of input `x` is 4, the model needs 3; change the input"
        );
        assert_eq!(
            text(shapes(&[5, 3], &[1, 1], &[6])),
            "dimension 0 of input `k` is 6, the model needs N = 5; change the input"
        );
        assert_eq!(
            text(shapes(&[5, 3], &[4, 1], &[5])),
            "the inputs' extents break the condition N ~ M (node `z`); change the inputs"
        );
        assert_eq!(
            text(shapes(&[0, 3], &[1, 1], &[0])),
            "`N` is 0, the model needs at least 1; change the inputs"
        );
        assert_eq!(
            text(shapes(&[5, 3], &[1], &[5])),
            "input `y` has 1 dimensions, the model needs 2; reshape it"
        );
        assert!(matches!(
            bind(&g, &[vec![1]]),
            Err(BindError::Count {
                expected: 3,
                actual: 1
            })
        ));
    }

    #[test]
    fn elements_of_an_input_may_be_symbols() {
        let mut g = Graph::new("t");
        g.add_input("n", TensorType::fixed(DType::I64, &[2]));
        g.symbols.add(Symbol::new(
            "K",
            SymbolOrigin::InputValue {
                input: 0,
                element: 1,
            },
        ));
        assert_eq!(bind(&g, &[[2]]), Err(BindError::Unbound("K".into())));
        let n = Tensor::from_i64(DType::I64, &[2], &[4, 9]).unwrap();
        assert_eq!(bind_tensors(&g, &[n]), Ok(vec![9]));
        let f = Tensor::from_i64(DType::F32, &[2], &[4, 9]).unwrap();
        assert!(matches!(
            bind_tensors(&g, &[f]),
            Err(BindError::DType { .. })
        ));
    }
}

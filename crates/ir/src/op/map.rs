//! Elementwise function of broadcast operands.
//!
//! Every pointwise ONNX operator is this one with another [`Expr`]. Operands broadcast against each other ("ONNX
//! multidirectional broadcasting") and against `shape`, if given; with `shape` there may be no operands at all
//! (`Range` is `map() i0 shape=[n]`).

use std::sync::Arc;

use bytes::Bytes;

use super::{Attributes, Infer, InferError, Operator, expect_inputs};
use crate::dtype::DType;
use crate::expr::{Expr, Scalar};
use crate::sym::{SymInt, SymbolTable};
use crate::types::{Constant, TensorType};

/// See the module.
#[derive(Clone, Debug, PartialEq)]
pub struct Map {
    /// The function; operand `i` of the node is operand `i` of the expression.
    pub expr: Expr,
    /// Extents that take part in broadcasting.
    pub shape: Option<Vec<SymInt>>,
}

impl Map {
    /// A function of the operands alone.
    pub fn new(expr: Expr) -> Self {
        Map { expr, shape: None }
    }

    /// A function over the given extents.
    pub fn over(expr: Expr, shape: Vec<SymInt>) -> Self {
        Map { expr, shape: Some(shape) }
    }
}

impl Operator for Map {
    fn infer(&self, inputs: &[&TensorType], cx: &mut Infer<'_>) -> Result<Vec<TensorType>, InferError> {
        expect_inputs(inputs, self.expr.inputs().len())?;
        let mut dims: Vec<SymInt> = self.shape.clone().unwrap_or_default();
        cx.require_extents(&dims)?;
        for (i, (ty, &want)) in inputs.iter().zip(self.expr.inputs()).enumerate() {
            if ty.dtype != want {
                return Err(InferError::new(format!("operand {i} is {}, not {want}", ty.dtype)));
            }
            dims = cx.broadcast_dims(&dims, &ty.dims)?;
        }
        Ok(vec![TensorType::new(self.expr.dtype(), dims)])
    }

    fn attributes(&self, symbols: &SymbolTable) -> String {
        let a = Attributes::default().show("expr", format!("({})", self.expr));
        match &self.shape {
            Some(shape) => a.syms("shape", shape, symbols).done(),
            None => a.done(),
        }
    }

    fn extents_mut(&mut self) -> Vec<&mut SymInt> {
        self.shape.iter_mut().flatten().collect()
    }
}

/// A literal as a constant of rank 0.
pub fn scalar_constant(value: Scalar) -> Arc<Constant> {
    let data = scalar_bytes(value);
    Constant::new(value.dtype, Vec::new(), Bytes::from(data))
        .unwrap_or_else(|e| unreachable!("one element of a computable type: {e}"))
}

/// The little-endian bytes of a literal of a computable type.
pub fn scalar_bytes(value: Scalar) -> Vec<u8> {
    let (f, i) = (value.as_f64(), value.as_i64());
    match value.dtype {
        DType::F32 => (f as f32).to_le_bytes().to_vec(),
        DType::F64 => f.to_le_bytes().to_vec(),
        DType::F16 => half::f16::from_f64(f).to_le_bytes().to_vec(),
        DType::BF16 => half::bf16::from_f64(f).to_le_bytes().to_vec(),
        DType::Bool => vec![u8::from(i != 0)],
        ty => i.to_le_bytes()[..ty.size().unwrap_or(1)].to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use crate::expr::{BinaryOp, Expr};
    use crate::sym::{Symbol, SymbolOrigin};
    use crate::{DType, Graph, SymInt, TensorType, op::Map};

    fn symbol(g: &mut Graph, name: &str) -> SymInt {
        SymInt::symbol(g.symbols.add(Symbol {
            name: name.into(),
            origin: SymbolOrigin::Free,
            min: 1,
            max: i64::MAX,
            divisor: 1,
        }))
    }

    #[test]
    fn broadcasting_two_symbols_leaves_a_guard() {
        let mut g = Graph::new("t");
        let (n, m) = (symbol(&mut g, "N"), symbol(&mut g, "M"));
        let x = g.add_input("x", TensorType::new(DType::F32, vec![n, 4.into()]));
        let y = g.add_input("y", TensorType::new(DType::F32, vec![m, 1.into()]));
        let add = Map::new(Expr::binary(BinaryOp::Add, DType::F32));
        let z = g.add1("z", add, &[x, y]).unwrap();
        g.add_output(z);
        insta::assert_snapshot!(g, @r"
        graph t(x: f32[N,4], y: f32[M,1]) {
          require N ~ M (node `z`)
          %0 = map(x, y) expr=(add(x0, x1)) : f32[max(N, M),4]  ; z
          return %0
        }
        ");
        crate::verify::verify(&g).unwrap();
    }

    #[test]
    fn extents_that_never_broadcast_are_an_error() {
        let mut g = Graph::new("t");
        let x = g.add_input("x", TensorType::fixed(DType::F32, &[3]));
        let y = g.add_input("y", TensorType::fixed(DType::F32, &[4]));
        let add = Map::new(Expr::binary(BinaryOp::Add, DType::F32));
        let e = g.add1("z", add, &[x, y]).unwrap_err();
        insta::assert_snapshot!(e, @"node `z` (map): extents 3 and 4 do not broadcast");
    }
}

//! Scaled dot product attention: `softmax(scale · q·kᵀ + mask) · v`.
//!
//! `q: […, H, M, D]`, `k: […, G, N, D]`, `v: […, G, N, E]`, result `[…, H, M, E]`. `G` divides `H`: heads of keys and
//! values serve `H / G` heads of queries that follow each other. Softmax is taken over `N`, in `f32` at least. A fourth
//! operand is the mask and broadcasts to the scores `[…, H, M, N]`: numbers are added to the scaled scores, and where a
//! `bool` is false, the scaled score is replaced by `fill`. A row whose softmax is undefined (nothing but −∞, say) is
//! NaN, or 0 with `undefined_as_zero`. ONNX: what exporters spell as two products with a softmax in between.

use super::{Attributes, Infer, InferError, Operator};
use crate::dtype::DType;
use crate::sym::{SymInt, SymbolTable};
use crate::types::TensorType;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention {
    /// Factor of the scores.
    pub scale: f64,
    /// What a score becomes where a mask of type `bool` is false.
    pub fill: f64,
    /// Whether a row without a defined softmax is 0 and not NaN.
    pub undefined_as_zero: bool,
}

/// Requires that heads of keys serve the heads of queries evenly.
fn require_heads(q: &SymInt, k: &SymInt, cx: &mut Infer<'_>) -> Result<(), InferError> {
    if q.known_eq(k, cx.symbols) == Some(true) {
        return Ok(());
    }
    match (q.as_const(), k.as_const()) {
        (Some(h), Some(g)) if g > 0 && h % g == 0 => Ok(()),
        (Some(h), Some(g)) => Err(InferError::new(format!("{g} heads of keys cannot serve {h} heads of queries"))),
        _ if q.exact_div(k).is_some() => Ok(()),
        _ => cx.require_equal("numbers of heads", q, k),
    }
}

impl Operator for Attention {
    fn infer(&self, inputs: &[&TensorType], cx: &mut Infer<'_>) -> Result<Vec<TensorType>, InferError> {
        let (q, k, v, mask) = match inputs {
            [q, k, v] => (q, k, v, None),
            [q, k, v, mask] => (q, k, v, Some(mask)),
            _ => return Err(InferError::new(format!("takes 3 or 4 operands, has {}", inputs.len()))),
        };
        if !q.dtype.is_float() || k.dtype != q.dtype || v.dtype != q.dtype {
            return Err(InferError::new(format!("cannot attend with {} to {} and {}", q.dtype, k.dtype, v.dtype)));
        }
        let rank = q.rank();
        if rank < 3 || k.rank() != rank || v.rank() != rank {
            return Err(InferError::new("operands must have the same rank, at least 3"));
        }
        let (heads, rows, last) = (rank - 3, rank - 2, rank - 1);
        for i in 0..heads {
            cx.require_equal("batch extents", &q.dims[i], &k.dims[i])?;
            cx.require_equal("batch extents", &q.dims[i], &v.dims[i])?;
        }
        require_heads(&q.dims[heads], &k.dims[heads], cx)?;
        cx.require_equal("heads of keys and values", &k.dims[heads], &v.dims[heads])?;
        cx.require_equal("sizes of a head", &q.dims[last], &k.dims[last])?;
        cx.require_equal("numbers of keys and values", &k.dims[rows], &v.dims[rows])?;
        if let Some(mask) = mask {
            if !mask.dtype.is_float() && mask.dtype != DType::Bool {
                return Err(InferError::new(format!("a mask cannot be {}", mask.dtype)));
            }
            let mut scores = q.dims.clone();
            scores[last] = k.dims[rows].clone();
            if mask.rank() > rank {
                return Err(InferError::new("the mask has more extents than the scores"));
            }
            for (a, b) in cx.broadcast_dims(&mask.dims, &scores)?.iter().zip(&scores) {
                cx.require_equal("extents of mask and scores", a, b)?;
            }
        }
        let mut dims = q.dims.clone();
        dims[last] = v.dims[last].clone();
        Ok(vec![TensorType::new(q.dtype, dims)])
    }

    fn attributes(&self, _: &SymbolTable) -> String {
        let all = Attributes::default().show("scale", self.scale);
        let all = if self.fill == f64::NEG_INFINITY { all } else { all.show("fill", self.fill) };
        all.flag("undefined_as_zero", self.undefined_as_zero).done()
    }
}

#[cfg(test)]
mod tests {
    use crate::op::Attention;
    use crate::{DType, Graph, TensorType};

    fn dims(operands: &[&[i64]]) -> Result<Vec<i64>, String> {
        let mut g = Graph::new("t");
        let inputs: Vec<_> = operands
            .iter()
            .map(|dims| g.add_input("x", TensorType::fixed(DType::F16, dims)))
            .collect();
        let op = Attention { scale: 0.5, fill: f64::NEG_INFINITY, undefined_as_zero: false };
        let y = g.add1("y", op, &inputs).map_err(|e| e.reason)?;
        Ok(g.ty(y).static_dims().unwrap())
    }

    #[test]
    fn heads_are_shared_evenly() {
        let (q, v) = ([2, 8, 5, 4], [2, 2, 7, 6]);
        assert_eq!(dims(&[&q, &[2, 2, 7, 4], &v]), Ok(vec![2, 8, 5, 6]));
        assert_eq!(dims(&[&q, &[2, 2, 7, 4], &v, &[5, 7]]), Ok(vec![2, 8, 5, 6]));
        assert_eq!(dims(&[&q, &[2, 2, 7, 4], &v, &[2, 1, 1, 7]]), Ok(vec![2, 8, 5, 6]));
        assert!(dims(&[&q, &[2, 2, 7, 4], &v, &[2, 3, 1, 7]]).is_err());
        assert!(dims(&[&q, &[2, 2, 7, 4]]).is_err());
        let uneven = dims(&[&q, &[2, 3, 7, 4], &[2, 3, 7, 4]]);
        assert_eq!(uneven, Err("3 heads of keys cannot serve 8 heads of queries".into()));
        assert_eq!(dims(&[&q, &[2, 2, 7, 3], &v]), Err("sizes of a head differ: 4 and 3".into()));
        assert_eq!(dims(&[&[3, 4], &[3, 4], &[3, 4]]), Err("operands must have the same rank, at least 3".into()));
    }
}

//! Normalisation spelled in pieces becomes [`Normalize`].
//!
//! | exporter's habit | spelling, with `μ = mean(x)` and `v = mean((x − μ)²)` |
//! |---|---|
//! | most | `(x − μ) / sqrt(v + ε)`, `(x − μ) · rsqrt(v + ε)`, `(x − μ) · (1 / sqrt(v + ε))` |
//! | batch normalisation put to the purpose | `x · m + (β − μ · m)` with `m = γ · rsqrt(v + ε)` |
//! | RMS | `x · rsqrt(mean(x²) + ε)`, `x / sqrt(mean(x²) + ε)` |
//!
//! Powers, roots and products may be written in any way that `simplify` knows. Scale, bias and casts around stay as
//! maps. The search looks *through* maps: it follows an instruction's operands into the expressions of the maps that
//! make them, so it finds the pattern whether or not some of its nodes are fused already.

use bespoke_ir::expr::{BinaryOp, ExprBuilder, Instr, Reg, UnaryOp};
use bespoke_ir::op::reduce::ReduceKind;
use bespoke_ir::op::{Normalize, Reduce};
use bespoke_ir::{Graph, NodeId, Op, SymInt, ValueId};

use crate::PassError;
use crate::rewrite::{add, copy, live_nodes, maker, map_of, skip, splat, swap_map};

/// See the module.
pub(crate) fn run(graph: &mut Graph) -> Result<usize, PassError> {
    let mut changes = 0;
    for id in live_nodes(graph) {
        let mut at = id;
        while !skip(graph, at) {
            match rewrite(graph, at)? {
                Some(next) => at = next,
                None => break,
            }
            changes += 1;
        }
    }
    graph.remove_dead();
    Ok(changes)
}

/// An element-wise quantity: a tensor, or an instruction inside a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Term {
    Value(ValueId),
    Inner(NodeId, Reg),
}

/// A normalisation that an instruction computes, apart from a factor and a summand.
struct Found {
    x: ValueId,
    op: Normalize,
    scale: Option<Term>,
    bias: Option<Term>,
}

/// Replaces one normalisation inside a map; returns the map that took its place.
fn rewrite(graph: &mut Graph, id: NodeId) -> Result<Option<NodeId>, PassError> {
    let Op::Map(map) = &graph.node(id).op else {
        return Ok(None);
    };
    let search = Search { graph };
    // the outermost form first: the parts of one may look like another
    let found = (0..map.expr.code().len() as u32)
        .rev()
        .find_map(|r| Some((Reg(r), search.normalization(Term::Inner(id, Reg(r)))?)));
    let Some((root, found)) = found else {
        return Ok(None);
    };
    let expr = map.expr.clone();
    let name = graph.node(id).name.clone();
    let mut inputs = graph.node(id).inputs().to_vec();
    let mut types = expr.inputs().to_vec();
    let normal = inputs.len();
    types.push(graph.dtype(found.x));
    // a factor or summand from another map is an operand of its own
    let mut outside = Vec::new();
    for term in [found.scale, found.bias] {
        outside.push(match term {
            Some(Term::Value(v)) => {
                types.push(graph.dtype(v));
                Some(v)
            }
            _ => None,
        });
    }
    inputs.push(add(graph, &name, found.op, &[found.x])?);
    let mut position = Vec::new();
    for v in outside {
        position.push(inputs.len());
        inputs.extend(v);
    }
    let mut b = ExprBuilder::new(&types);
    let mut made: Vec<Reg> = Vec::new();
    for (i, &(instr, _)) in expr.code().iter().enumerate() {
        let mut r = if i == root.0 as usize {
            b.input(normal)
        } else {
            copy(&mut b, instr, |r| made[r.0 as usize])
        };
        if i == root.0 as usize {
            let parts = [(found.scale, BinaryOp::Mul), (found.bias, BinaryOp::Add)];
            for ((term, op), at) in parts.into_iter().zip(&position) {
                let operand = match term {
                    None => continue,
                    Some(Term::Value(_)) => b.input(*at),
                    Some(Term::Inner(_, inner)) => made[inner.0 as usize],
                };
                r = b.binary(op, r, operand);
            }
        }
        made.push(r);
    }
    let expr = b.finish(made[made.len() - 1]);
    swap_map(graph, id, &expr, &inputs)
}

struct Search<'a> {
    graph: &'a Graph,
}

impl Search<'_> {
    /// The tensor or the instruction behind a term, past operands that are passed on unchanged.
    fn settle(&self, mut term: Term) -> Term {
        loop {
            term = match (term, self.instr(term)) {
                (Term::Value(v), _) => match map_of(self.graph, v) {
                    Some((id, map)) => Term::Inner(id, Reg(map.expr.code().len() as u32 - 1)),
                    None => return term,
                },
                (Term::Inner(id, _), Some(Instr::Input(i))) => {
                    Term::Value(self.graph.node(id).inputs()[i as usize])
                }
                _ => return term,
            };
        }
    }

    fn instr(&self, term: Term) -> Option<Instr> {
        let Term::Inner(id, reg) = term else {
            return None;
        };
        match &self.graph.node(id).op {
            Op::Map(map) => map.expr.code().get(reg.0 as usize).map(|c| c.0),
            _ => None,
        }
    }

    /// The instruction that makes a term, with its operands as terms.
    fn unary(&self, term: Term) -> Option<(UnaryOp, Term)> {
        let term = self.settle(term);
        match (self.instr(term), term) {
            (Some(Instr::Unary(op, a)), Term::Inner(id, _)) => Some((op, Term::Inner(id, a))),
            _ => None,
        }
    }

    fn binary(&self, term: Term) -> Option<(BinaryOp, Term, Term)> {
        let term = self.settle(term);
        match (self.instr(term), term) {
            (Some(Instr::Binary(op, a, b)), Term::Inner(id, _)) => {
                Some((op, Term::Inner(id, a), Term::Inner(id, b)))
            }
            _ => None,
        }
    }

    /// Both orders of a commutative instruction's operands.
    fn orders(&self, term: Term, want: BinaryOp) -> [Option<(Term, Term)>; 2] {
        match self.binary(term) {
            Some((op, a, b)) if op == want => [Some((a, b)), Some((b, a))],
            _ => [None, None],
        }
    }

    fn number(&self, term: Term) -> Option<f64> {
        let term = self.settle(term);
        match (self.instr(term), term) {
            (Some(Instr::Const(c)), _) => Some(c.as_f64()),
            (_, Term::Value(v)) => {
                let constant = self.graph.constant(v)?;
                (constant.elements() == 1)
                    .then(|| splat(constant))?
                    .map(|s| s.as_f64())
            }
            _ => None,
        }
    }

    /// Whether a term is a tensor: follows operands that are passed on, and stops at the tensor.
    fn is_value(&self, term: Term, v: ValueId) -> bool {
        let mut at = self.value(term);
        while let Some(x) = at.filter(|&x| x != v) {
            at = match map_of(self.graph, x) {
                Some((id, map)) if map.expr.is_identity() => Some(self.graph.node(id).inputs()[0]),
                _ => return false,
            };
        }
        at.is_some()
    }

    /// The tensor that a term passes on.
    fn value(&self, term: Term) -> Option<ValueId> {
        match term {
            Term::Value(v) => Some(v),
            Term::Inner(id, _) => match self.instr(term) {
                Some(Instr::Input(i)) => Some(self.graph.node(id).inputs()[i as usize]),
                _ => None,
            },
        }
    }

    /// `mean(x)` over axes that stay with extent 1: `x` and the axes.
    fn mean(&self, term: Term) -> Option<(ValueId, &[usize])> {
        let Term::Value(v) = self.settle(term) else {
            return None;
        };
        let mut node = maker(self.graph, v)?;
        if matches!(node.op, Op::Reshape(_)) {
            node = maker(self.graph, node.inputs()[0])?;
        }
        let Op::Reduce(Reduce {
            kind: ReduceKind::Mean,
            axes,
            ..
        }) = &node.op
        else {
            return None;
        };
        let x = node.inputs()[0];
        let one = SymInt::constant(1);
        let kept = self.graph.dims(x).iter().enumerate();
        let kept = kept.map(|(i, d)| if axes.contains(&i) { &one } else { d });
        let fits = !axes.is_empty() && kept.eq(self.graph.dims(v).iter());
        fits.then_some((x, axes))
    }

    /// `x − mean(x)`
    fn centered(&self, term: Term) -> Option<(ValueId, &[usize])> {
        let (op, a, b) = self.binary(term)?;
        let (x, axes) = self.mean(b)?;
        (op == BinaryOp::Sub && self.is_value(a, x)).then_some((x, axes))
    }

    /// `p` of `p²`
    fn square(&self, term: Term) -> Option<Term> {
        let (op, a, b) = self.binary(term)?;
        let same = || match (self.centered(a), self.centered(b)) {
            (Some(a), Some(b)) => a == b,
            _ => self.settle(a) == self.settle(b),
        };
        let square = match op {
            BinaryOp::Mul => same(),
            BinaryOp::Pow => self.number(b) == Some(2.0),
            _ => false,
        };
        square.then_some(a)
    }

    /// `s` and `ε` of `s + ε`
    fn guarded(&self, term: Term) -> Option<(Term, f64)> {
        let orders = self.orders(term, BinaryOp::Add);
        orders
            .into_iter()
            .flatten()
            .find_map(|(a, b)| Some((a, self.number(b)?)))
    }

    /// `s` and `ε` of `sqrt(s + ε)`
    fn root(&self, term: Term) -> Option<(Term, f64)> {
        if let Some((UnaryOp::Sqrt, a)) = self.unary(term) {
            return self.guarded(a);
        }
        let (op, a, b) = self.binary(term)?;
        (op == BinaryOp::Pow && self.number(b) == Some(0.5)).then(|| self.guarded(a))?
    }

    /// `s` and `ε` of `1 / sqrt(s + ε)`
    fn inverse(&self, term: Term) -> Option<(Term, f64)> {
        match self.unary(term) {
            Some((UnaryOp::Rsqrt, a)) => return self.guarded(a),
            Some((UnaryOp::Recip, a)) => return self.root(a),
            _ => {}
        }
        match self.binary(term)? {
            (BinaryOp::Pow, a, b) if self.number(b) == Some(-0.5) => self.guarded(a),
            (BinaryOp::Div, a, b) if self.number(a) == Some(1.0) => self.root(b),
            _ => None,
        }
    }

    /// `s` and `ε` of `γ / sqrt(s + ε)`, with or without `γ`.
    fn scaled_inverse(&self, term: Term) -> Option<(Term, f64, Option<Term>)> {
        if let Some((s, epsilon)) = self.inverse(term) {
            return Some((s, epsilon, None));
        }
        let orders = self.orders(term, BinaryOp::Mul);
        orders.into_iter().flatten().find_map(|(a, b)| {
            let (s, epsilon) = self.inverse(a)?;
            Some((s, epsilon, Some(b)))
        })
    }

    /// Whether `numerator / sqrt(s + ε)` is a normalisation, and which.
    fn normalized(&self, numerator: Term, s: Term, epsilon: f64) -> Option<(ValueId, Normalize)> {
        let (squares, axes) = self.mean(s)?;
        let p = self.square(Term::Value(squares))?;
        let (x, center) = match self.centered(p) {
            Some((x, mean_axes)) => {
                let same = mean_axes == axes && self.centered(numerator) == Some((x, mean_axes));
                same.then_some((x, true))?
            }
            None => {
                let x = self.value(p)?;
                self.is_value(numerator, x).then_some((x, false))?
            }
        };
        self.finish(x, squares, axes, epsilon, center)
    }

    fn finish(
        &self,
        x: ValueId,
        squares: ValueId,
        axes: &[usize],
        epsilon: f64,
        center: bool,
    ) -> Option<(ValueId, Normalize)> {
        let fits = self.graph.ty(x) == self.graph.ty(squares) && self.graph.dtype(x).is_float();
        let op = Normalize {
            axes: axes.to_vec(),
            epsilon,
            center,
        };
        fits.then_some((x, op))
    }

    /// The normalisation that a term computes.
    fn normalization(&self, term: Term) -> Option<Found> {
        let (op, a, b) = match (self.instr(term)?, term) {
            (Instr::Binary(op, a, b), Term::Inner(id, _)) => {
                (op, Term::Inner(id, a), Term::Inner(id, b))
            }
            _ => return None,
        };
        match op {
            BinaryOp::Div => {
                let (s, epsilon) = self.root(b)?;
                let (x, op) = self.normalized(a, s, epsilon)?;
                Some(Found {
                    x,
                    op,
                    scale: None,
                    bias: None,
                })
            }
            BinaryOp::Mul => [(a, b), (b, a)]
                .into_iter()
                .find_map(|(numerator, factor)| {
                    let (s, epsilon, scale) = self.scaled_inverse(factor)?;
                    let scale = self.usable(term, scale)?;
                    let (x, op) = self.normalized(numerator, s, epsilon)?;
                    Some(Found {
                        x,
                        op,
                        scale,
                        bias: None,
                    })
                }),
            BinaryOp::Add => [(a, b), (b, a)]
                .into_iter()
                .find_map(|(product, rest)| self.affine(term, product, rest)),
            _ => None,
        }
    }

    /// `x · m + (β − μ · m)`
    fn affine(&self, at: Term, product: Term, rest: Term) -> Option<Found> {
        let (bias, shift) = match self.binary(rest)? {
            (BinaryOp::Sub, bias, shift) => (bias, shift),
            _ => return None,
        };
        let products = self.orders(product, BinaryOp::Mul).into_iter().flatten();
        for (numerator, m) in products {
            let Some((s, epsilon, scale)) = self.scaled_inverse(m) else {
                continue;
            };
            let (squares, axes) = self.mean(s)?;
            let (x, mean_axes) = self.centered(self.square(Term::Value(squares))?)?;
            let shifts = self.orders(shift, BinaryOp::Mul).into_iter().flatten();
            let fits = mean_axes == axes
                && self.is_value(numerator, x)
                && shifts.into_iter().any(|(mean, other)| {
                    self.settle(other) == self.settle(m) && self.mean(mean) == Some((x, axes))
                });
            if !fits {
                continue;
            }
            let (x, op) = self.finish(x, squares, axes, epsilon, true)?;
            let (scale, bias) = (self.usable(at, scale)?, self.usable(at, Some(bias))?);
            return Some(Found { x, op, scale, bias });
        }
        None
    }

    /// A factor or summand as the map of `at` can read it: an instruction of its own, or a tensor. `None` if it is an
    /// instruction of another map.
    fn usable(&self, at: Term, term: Option<Term>) -> Option<Option<Term>> {
        let Some(term) = term else {
            return Some(None);
        };
        match (term, at) {
            (Term::Inner(id, _), Term::Inner(here, _)) if id == here => Some(Some(term)),
            _ => self.value(term).map(|v| Some(Term::Value(v))),
        }
    }
}

#[cfg(test)]
mod tests;

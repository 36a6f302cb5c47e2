//! Masks of an attention: from instructions inside maps to one operand.
//!
//! Terms apply to the scores one after the other: numbers are added, or scores are replaced by a literal where a condition
//! fails. One choice alone is a mask of type `bool`. Several terms become one sum; a choice joins it if its literal is −∞,
//! because only then does adding say the same as replacing.

use bespoke_ir::expr::{BinaryOp, ExprBuilder, Instr, Reg, UnaryOp};
use bespoke_ir::op::Map;
use bespoke_ir::{DType, Expr, Graph, NodeId, Op, SymInt, ValueId};

use crate::PassError;
use crate::rewrite::{add, copy, infer, tidy_operands};

/// What is done to the scores: an instruction of a map that does not depend on them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Term {
    map: NodeId,
    at: Reg,
    kind: Kind,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    /// Added, times the factor.
    Added(f64),
    /// Where the condition (or its contrary) is false, the score is this.
    Chosen { negated: bool, fill: f64 },
}

impl Term {
    pub(super) fn added(map: NodeId, at: Reg, factor: f64) -> Term {
        Term {
            map,
            at,
            kind: Kind::Added(factor),
        }
    }

    pub(super) fn chosen(map: NodeId, at: Reg, negated: bool, fill: f64) -> Term {
        Term {
            map,
            at,
            kind: Kind::Chosen { negated, fill },
        }
    }

    /// What the term is if the scores behind it are multiplied.
    pub(super) fn scale(&mut self, c: f64) {
        match &mut self.kind {
            Kind::Added(factor) => *factor *= c,
            Kind::Chosen { fill, .. } => *fill *= c,
        }
    }
}

/// How terms become one operand.
pub(super) enum Masks {
    None,
    /// One condition.
    Choice(Term, f64),
    /// A sum.
    Sum(Vec<Term>),
}

/// How these terms become one operand; `None` if they cannot.
pub(super) fn plan(graph: &Graph, terms: &[Term]) -> Option<Masks> {
    let narrow = |t: &Term| {
        let Op::Map(map) = &graph.node(t.map).op else {
            return false;
        };
        let ty = map.expr.code()[t.at.0 as usize].1;
        match t.kind {
            Kind::Added(_) => matches!(ty, DType::F16 | DType::BF16 | DType::F32),
            Kind::Chosen { .. } => ty == DType::Bool,
        }
    };
    if !terms.iter().all(narrow) {
        return None;
    }
    if let [t] = terms
        && let Kind::Chosen { fill, .. } = t.kind
    {
        return (!fill.is_nan()).then_some(Masks::Choice(*t, fill));
    }
    let sums = terms.iter().all(|t| match t.kind {
        Kind::Added(factor) => factor.is_finite(),
        Kind::Chosen { fill, .. } => fill == f64::NEG_INFINITY,
    });
    match terms {
        [] => Some(Masks::None),
        _ => sums.then(|| Masks::Sum(terms.to_vec())),
    }
}

impl Masks {
    /// What a score becomes where a condition fails.
    pub(super) fn fill(&self) -> f64 {
        match self {
            Masks::Choice(_, fill) => *fill,
            _ => f64::NEG_INFINITY,
        }
    }

    /// The operand.
    pub(super) fn build(&self, graph: &mut Graph) -> Result<Option<ValueId>, PassError> {
        match self {
            Masks::None => Ok(None),
            Masks::Choice(t, _) => term(graph, t, false).map(Some),
            Masks::Sum(terms) => {
                let mut sum = None;
                for t in terms {
                    let v = term(graph, t, true)?;
                    sum = Some(match sum {
                        None => v,
                        Some(other) => join(graph, other, v)?,
                    });
                }
                Ok(sum)
            }
        }
    }
}

/// A term as a value: a number to be added, or a condition.
fn term(graph: &mut Graph, t: &Term, number: bool) -> Result<ValueId, PassError> {
    let node = graph.node(t.map);
    let (name, inputs) = (node.name.clone(), node.inputs().to_vec());
    let result = node.outputs()[0];
    let Op::Map(map) = &node.op else {
        // terms are only made of maps
        return Ok(result);
    };
    let mut b = ExprBuilder::new(map.expr.inputs());
    let mut made: Vec<Reg> = Vec::new();
    for &(instr, _) in &map.expr.code()[..=t.at.0 as usize] {
        let r = copy(&mut b, instr, |r| made[r.0 as usize]);
        made.push(r);
    }
    let mut r = made[t.at.0 as usize];
    match t.kind {
        Kind::Added(factor) => {
            if factor != 1.0 {
                let c = b.number(b.dtype(r), factor);
                r = b.binary(BinaryOp::Mul, r, c);
            }
        }
        Kind::Chosen { negated, fill } => {
            if negated {
                r = b.unary(UnaryOp::Not, r);
            }
            if number {
                let ty = graph.dtype(result);
                let (zero, fill) = (b.number(ty, 0.0), b.number(ty, fill));
                r = b.select(r, zero, fill);
            }
        }
    }
    let (expr, inputs) = tidy_operands(&b.finish(r), &inputs);
    if expr.is_identity() && inputs.len() == 1 {
        return Ok(inputs[0]);
    }
    let dims = extents(graph, &expr, &inputs, result);
    let plain = Op::from(Map::new(expr.clone()));
    let whole = infer(graph, &plain, &inputs).is_some_and(|t| t[0].dims == dims);
    if whole && !expr.reads_coords() {
        add(graph, &name, plain, &inputs)
    } else {
        add(graph, &name, Map::over(expr, dims), &inputs)
    }
}

/// Extents of a part of the map that makes `result`: along axes that it neither counts nor reads, it is the same.
fn extents(graph: &Graph, expr: &Expr, inputs: &[ValueId], result: ValueId) -> Vec<SymInt> {
    let all = graph.dims(result);
    let one = SymInt::constant(1);
    let counted = |axis: usize| {
        let mut code = expr.code().iter();
        code.any(|(i, _)| matches!(i, Instr::Coord(a) if *a as usize == axis))
    };
    let varies = |axis: usize| {
        counted(axis)
            || inputs.iter().any(|&v| {
                let dims = graph.dims(v);
                (axis + dims.len())
                    .checked_sub(all.len())
                    .is_some_and(|i| dims[i] != one)
            })
    };
    let mut dims: Vec<SymInt> = (0..all.len())
        .map(|i| {
            if varies(i) {
                all[i].clone()
            } else {
                one.clone()
            }
        })
        .collect();
    // positions count from the first axis, so that none may be left out; otherwise as short as operands are
    if !expr.reads_coords() {
        let most = inputs.iter().map(|&v| graph.dims(v).len()).max();
        let cut = dims.len() - most.unwrap_or(0).min(dims.len());
        dims.drain(..cut);
    }
    dims
}

/// The sum of two masks.
fn join(graph: &mut Graph, a: ValueId, b: ValueId) -> Result<ValueId, PassError> {
    let (x, y) = (graph.dtype(a), graph.dtype(b));
    let wide = if x == y { x } else { DType::F32 };
    let mut e = ExprBuilder::new(&[x, y]);
    let (l, r) = (e.input(0), e.input(1));
    let (l, r) = (e.cast(wide, l), e.cast(wide, r));
    let sum = e.binary(BinaryOp::Add, l, r);
    let name = graph.value(b).name.clone();
    add(graph, &name, Map::new(e.finish(sum)), &[a, b])
}

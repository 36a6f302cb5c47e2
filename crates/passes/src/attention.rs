//! Two products with a softmax in between become [`Attention`].
//!
//! | part | what is recognised |
//! |---|---|
//! | scores | a product of 16-bit floats, its operands transposed in any way |
//! | scale | literals that multiply or divide the scores, the queries or the keys |
//! | mask | anything that is added to the scores, or a choice between them and a literal; any number of either |
//! | softmax | along the keys, between casts |
//! | guard | a row that is NaN becomes 0 |
//! | shared heads | keys and values that were repeated for heads of queries that follow each other |
//!
//! Scores, their softmax and everything in between must have no other reader. The search looks *through* maps, so it does
//! not matter how many of the steps are fused already; what of a map does not depend on the scores becomes a map of its
//! own, over the extents of what it reads. Sizes of a head that the kernel does not take leave the graph as it is.

mod mask;
#[cfg(test)]
mod tests;

use bespoke_ir::expr::{BinaryOp, Instr, Reg, UnaryOp};
use bespoke_ir::op::{Attention, Reshape, Transpose};
use bespoke_ir::{DType, Expr, Graph, NodeId, Op, SymInt, ValueId};

use self::mask::Term;
use crate::PassError;
use crate::push::{MAX_CLIMB, from_anchor};
use crate::rewrite::{add, drop_dead, infer, live_nodes, maker, only_reader, skip, swap};
use crate::scale::literal_factor;

/// Most nodes that are followed from one softmax.
const MAX_DEPTH: usize = 16;
/// Largest size of a head that the kernel takes, and what it must be a multiple of.
const LARGEST: i64 = 256;
const STEP: i64 = 8;

/// See the module.
pub(crate) fn run(graph: &mut Graph) -> Result<usize, PassError> {
    let mut changes = 0;
    for id in live_nodes(graph) {
        if !skip(graph, id) && fuse(graph, id)? {
            changes += 1;
        }
    }
    graph.remove_dead();
    Ok(changes)
}

/// What the scores of an attention are: `scale · product + masks`.
struct Scores {
    /// The product of queries and keys.
    product: NodeId,
    scale: f64,
    /// In the order in which they apply.
    terms: Vec<Term>,
    /// The value as which the scores come to the map that was looked at last; all its readers are that map.
    through: ValueId,
}

/// Softmax and what lies around it: the scores that it takes, whether NaN becomes 0.
fn shares(graph: &Graph, mut v: ValueId, mut reader: NodeId) -> Option<(Scores, bool)> {
    let mut guarded = false;
    for _ in 0..MAX_DEPTH {
        if only_reader(graph, v) != Some(reader) {
            return None;
        }
        let id = graph.producer(v)?;
        let node = graph.node(id);
        let &[x, ..] = node.inputs() else { return None };
        match &node.op {
            Op::Map(map) if node.inputs().len() == 1 && map.shape.is_none() => {
                guarded |= guard(&map.expr, last(&map.expr))?;
                (v, reader) = (x, id);
            }
            Op::Softmax(s) if !s.log && s.axis + 1 == graph.dims(x).len() => {
                return Some((scores(graph, x, id, MAX_DEPTH)?, guarded));
            }
            _ => return None,
        }
    }
    None
}

fn last(expr: &Expr) -> Reg {
    Reg(expr.code().len() as u32 - 1)
}

/// Whether an instruction passes its operand on with NaN made 0; `None` if it does anything else.
fn guard(expr: &Expr, at: Reg) -> Option<bool> {
    let instr = |r: Reg| expr.code()[r.0 as usize].0;
    match instr(at) {
        Instr::Input(_) => Some(false),
        Instr::Cast(ty, x) if ty.is_float() => guard(expr, x),
        Instr::Select(c, zero, x) => {
            let (Instr::Unary(UnaryOp::IsNan, tested), Instr::Const(zero)) =
                (instr(c), instr(zero))
            else {
                return None;
            };
            guard(expr, tested)?;
            (zero.as_f64() == 0.0).then_some(())?;
            guard(expr, x).map(|_| true)
        }
        _ => None,
    }
}

/// The scores that a value holds.
fn scores(graph: &Graph, v: ValueId, reader: NodeId, depth: usize) -> Option<Scores> {
    if only_reader(graph, v) != Some(reader) || depth == 0 {
        return None;
    }
    let id = graph.producer(v)?;
    match &graph.node(id).op {
        Op::MatMul(_) => Some(Scores {
            product: id,
            scale: 1.0,
            terms: Vec::new(),
            through: v,
        }),
        Op::Map(map) if graph.dims(v).len() >= 3 => inner(graph, id, last(&map.expr), depth),
        _ => None,
    }
}

/// The scores that an instruction of a map computes.
fn inner(graph: &Graph, id: NodeId, at: Reg, depth: usize) -> Option<Scores> {
    let node = graph.node(id);
    let Op::Map(map) = &node.op else { return None };
    let instr = |r: Reg| map.expr.code()[r.0 as usize].0;
    let number = |r: Reg| match instr(r) {
        Instr::Const(c) => Some(c.as_f64()),
        _ => None,
    };
    // scores in one operand, nothing of them in the other
    let apart = |x: Reg, other: Reg| -> Option<Scores> {
        let found = inner(graph, id, x, depth)?;
        (!reads(graph, id, other, found.through)).then_some(found)
    };
    match instr(at) {
        Instr::Input(i) => {
            let v = node.inputs()[i as usize];
            // scores are not broadcast
            if graph.dims(v) != graph.dims(node.outputs()[0]) {
                return None;
            }
            let found = scores(graph, v, id, depth - 1)?;
            Some(Scores {
                through: v,
                ..found
            })
        }
        Instr::Cast(ty, x) if ty.is_float() => inner(graph, id, x, depth),
        Instr::Binary(BinaryOp::Mul, a, b) => match (number(a), number(b)) {
            (None, Some(c)) => inner(graph, id, a, depth)?.times(c),
            (Some(c), None) => inner(graph, id, b, depth)?.times(c),
            _ => None,
        },
        Instr::Binary(BinaryOp::Div, a, b) => inner(graph, id, a, depth)?.times(1.0 / number(b)?),
        Instr::Binary(BinaryOp::Add, a, b) => {
            let (mut found, other) = match apart(a, b) {
                Some(found) => (found, b),
                None => (apart(b, a)?, a),
            };
            found.terms.push(Term::added(id, other, 1.0));
            Some(found)
        }
        Instr::Binary(BinaryOp::Sub, a, b) => {
            let mut found = apart(a, b)?;
            found.terms.push(Term::added(id, b, -1.0));
            Some(found)
        }
        Instr::Select(c, a, b) => {
            let (x, fill, negated) = match (number(a), number(b)) {
                (None, Some(fill)) => (a, fill, false),
                (Some(fill), None) => (b, fill, true),
                _ => return None,
            };
            let mut found = apart(x, c)?;
            found.terms.push(Term::chosen(id, c, negated, fill));
            Some(found)
        }
        _ => None,
    }
}

/// Whether an instruction of a map depends on a value.
fn reads(graph: &Graph, id: NodeId, at: Reg, v: ValueId) -> bool {
    let node = graph.node(id);
    let Op::Map(map) = &node.op else { return true };
    let mut stack = vec![at];
    while let Some(r) = stack.pop() {
        let instr = map.expr.code()[r.0 as usize].0;
        if matches!(instr, Instr::Input(i) if node.inputs()[i as usize] == v) {
            return true;
        }
        stack.extend(instr.operands());
    }
    false
}

impl Scores {
    fn times(mut self, c: f64) -> Option<Scores> {
        let turns = c <= 0.0 || !c.is_finite();
        if turns && !self.terms.is_empty() {
            return None;
        }
        self.scale *= c;
        self.terms.iter_mut().for_each(|t| t.scale(c));
        self.scale.is_finite().then_some(self)
    }
}

/// An operand behind what the kernel does for nothing.
struct Operand {
    source: ValueId,
    perm: Vec<usize>,
    factor: f64,
}

/// Looks behind transposes, and behind factors and widening casts if `maps`. `swapped`: whether the last two axes are read
/// the other way round.
fn operand(graph: &Graph, v: ValueId, swapped: bool, maps: bool) -> Operand {
    let rank = graph.dims(v).len();
    let mut perm: Vec<usize> = (0..rank).collect();
    if swapped {
        perm.swap(rank - 2, rank - 1);
    }
    let mut found = Operand {
        source: v,
        perm,
        factor: 1.0,
    };
    for _ in 0..MAX_DEPTH {
        let Some(node) = maker(graph, found.source) else {
            break;
        };
        let Some(&x) = node.inputs().first() else {
            break;
        };
        match &node.op {
            Op::Transpose(t) => {
                for axis in &mut found.perm {
                    *axis = t.perm[*axis];
                }
            }
            Op::Map(map) if maps && graph.dims(x) == graph.dims(found.source) => {
                let from = graph.dtype(x);
                let widens = matches!(from, DType::F16 | DType::BF16)
                    && map.expr == Expr::cast(from, DType::F32);
                match literal_factor(&map.expr) {
                    _ if widens => {}
                    // behind a product the factor costs nothing where it is
                    Some(c)
                        if c != 0.0
                            && c.is_finite()
                            && from == graph.dtype(found.source)
                            && !from_anchor(graph, x, MAX_CLIMB) =>
                    {
                        found.factor *= c;
                    }
                    _ => break,
                }
            }
            _ => break,
        }
        found.source = x;
    }
    found
}

impl Operand {
    fn dims(&self, graph: &Graph) -> Vec<SymInt> {
        let dims = graph.dims(self.source);
        self.perm.iter().map(|&i| dims[i].clone()).collect()
    }

    fn is_plain(&self) -> bool {
        self.perm.iter().enumerate().all(|(i, &p)| i == p)
    }

    /// Keys or values before they were repeated for the heads of queries, if they were.
    fn shared(&self, graph: &Graph) -> Option<(ValueId, Vec<SymInt>)> {
        let one = SymInt::constant(1);
        let dims = &self.dims(graph)[..];
        let rank = dims.len();
        let heads = rank.checked_sub(3)?;
        let node = maker(graph, self.source)?;
        let x = *node.inputs().first()?;
        if !self.is_plain() {
            // turned while the heads were apart
            let turned = |perm: &[usize]| {
                let n = perm.len();
                n >= 2 && perm[n - 2..] == [n - 1, n - 2] && (0..n - 2).all(|i| perm[i] == i)
            };
            let (Op::Reshape(_), Op::Transpose(t)) = (&node.op, &maker(graph, x)?.op) else {
                return None;
            };
            let apart = *maker(graph, x)?.inputs().first()?;
            let both = turned(&self.perm) && turned(&t.perm);
            return before_repeat(graph, apart, dims).filter(|_| both);
        }
        if let Op::Expand(_) = &node.op {
            let from = graph.dims(x);
            let few = from.len() == dims.len()
                && from[heads] == one
                && (0..dims.len()).all(|i| i == heads || from[i] == dims[i]);
            return few.then(|| (x, from.to_vec()));
        }
        match &node.op {
            Op::Reshape(_) => before_repeat(graph, x, dims),
            _ => None,
        }
    }

    /// The operand as a value.
    fn build(&self, graph: &mut Graph) -> Result<ValueId, PassError> {
        if self.is_plain() {
            return Ok(self.source);
        }
        let name = graph.value(self.source).name.clone();
        let perm = self.perm.clone();
        add(graph, &name, Transpose { perm }, &[self.source])
    }

    /// The same with one head for all heads of queries that share it.
    fn build_shared(&self, graph: &mut Graph) -> Result<ValueId, PassError> {
        let Some((x, dims)) = self.shared(graph) else {
            return self.build(graph);
        };
        if graph.dims(x) == dims {
            return Ok(x);
        }
        let name = graph.value(x).name.clone();
        add(graph, &name, Reshape { dims }, &[x])
    }
}

/// What was expanded to `x`, whose heads were joined to those of `dims` afterwards, and its extents with one axis of heads.
fn before_repeat(graph: &Graph, x: ValueId, dims: &[SymInt]) -> Option<(ValueId, Vec<SymInt>)> {
    let one = SymInt::constant(1);
    let heads = dims.len().checked_sub(3)?;
    let expands = maker(graph, x).filter(|n| matches!(n.op, Op::Expand(_)))?;
    let before = *expands.inputs().first()?;
    let (from, to) = (graph.dims(before), graph.dims(x));
    // [.., G, 1, N, D] to [.., G, R, N, D], and one head may be written as either of the two axes
    let fits = to.len() == dims.len() + 1
        && from.len() == to.len()
        && (0..to.len()).all(|i| i == heads || i == heads + 1 || from[i] == to[i])
        && to[..heads] == dims[..heads]
        && to[heads + 2..] == dims[heads + 1..]
        && from[heads + 1] == one
        && (from[heads] == to[heads] || (from[heads] == one && to[heads + 1] == one));
    fits.then(|| {
        let mut dims = dims.to_vec();
        dims[heads] = from[heads].clone();
        (before, dims)
    })
}

fn fuse(graph: &mut Graph, id: NodeId) -> Result<bool, PassError> {
    let node = graph.node(id);
    let (Op::MatMul(op), &[p, v]) = (&node.op, node.inputs()) else {
        return Ok(false);
    };
    let y = node.outputs()[0];
    let rank = graph.dims(y).len();
    let narrow = matches!(graph.dtype(y), DType::F16 | DType::BF16);
    let whole = |v: ValueId| graph.dims(v).len() == rank;
    if op.transpose_a || !narrow || rank < 3 || !whole(v) || !whole(p) || p == v {
        return Ok(false);
    }
    // a factor of the values is one of the result, where there is no place for it
    let value = operand(graph, v, op.transpose_b, false);
    let Some((scores, guarded)) = shares(graph, p, id) else {
        return Ok(false);
    };
    let product = graph.node(scores.product);
    let (Op::MatMul(op), &[q, k]) = (&product.op, product.inputs()) else {
        return Ok(false);
    };
    if !whole(q) || !whole(k) {
        return Ok(false);
    }
    let query = operand(graph, q, op.transpose_a, true);
    // the product reads keys as columns
    let key = operand(graph, k, !op.transpose_b, true);
    let (dq, dk, dv) = (query.dims(graph), key.dims(graph), value.dims(graph));
    let known = |a: &SymInt, b: &SymInt| a.known_eq(b, &graph.symbols) == Some(true);
    let fits = |size: &SymInt| {
        size.as_const()
            .is_some_and(|d| (STEP..=LARGEST).contains(&d) && d % STEP == 0)
    };
    let alike = (0..rank - 2).all(|i| known(&dq[i], &dk[i]) && known(&dq[i], &dv[i]))
        && known(&dk[rank - 2], &dv[rank - 2])
        && fits(&dq[rank - 1])
        && fits(&dv[rank - 1])
        && [query.source, key.source, value.source]
            .iter()
            .all(|&x| graph.dtype(x) == graph.dtype(y));
    let scale = scores.scale * query.factor * key.factor;
    let Some(masks) = mask::plan(graph, &scores.terms).filter(|_| alike && scale.is_finite())
    else {
        return Ok(false);
    };
    let op = Attention {
        scale,
        fill: masks.fill(),
        undefined_as_zero: guarded,
    };
    // keys and values must be shared in the same way
    let shared = match (key.shared(graph), value.shared(graph)) {
        (Some((_, a)), Some((_, b))) => known(&a[rank - 3], &b[rank - 3]),
        _ => false,
    };
    let mut inputs = vec![query.build(graph)?];
    for x in [&key, &value] {
        inputs.push(if shared {
            x.build_shared(graph)?
        } else {
            x.build(graph)?
        });
    }
    inputs.extend(masks.build(graph)?);
    let fits = infer(graph, &Op::from(op), &inputs).is_some_and(|t| t[0] == *graph.ty(y));
    if fits && swap(graph, id, op, &inputs)?.is_some() {
        return Ok(true);
    }
    for v in inputs {
        if let Some(id) = graph.producer(v) {
            drop_dead(graph, id);
        }
    }
    Ok(false)
}

//! What the attention operators share: heads, caches, masks, and two products with a softmax in between.
//!
//! All of them become the same few nodes, `softmax(scale · q·kᵀ + masks) · v` on `q: [B, H, M, D]`, `k: [B, G, N, D]` and
//! `v: [B, G, N, E]`. That is the form in which the attention pass finds one fused operator, whoever wrote the model:
//!
//! | step | how it is written |
//! |---|---|
//! | heads | `[B, M, H·D]` is reshaped and transposed, which are views |
//! | shared heads | keys and values of `G` heads are reshaped, expanded and reshaped; what reads them undoes it without a copy |
//! | scale | a literal times the scores |
//! | softcap | `c · tanh(scores / c)` |
//! | masks | what is added; then one choice of −∞, with all conditions joined, some of which are arithmetic on positions |
//! | softmax | over the keys, then, where a query may see no key at all, 0 instead of NaN |
//!
//! Scores that are wanted as an output, or capped, are not fused: the two products and the softmax are kernels of their own
//! then.

use crate::context::Cx;
use crate::importer::{Done, invalid, unsupported};
use bespoke_ir::expr::Reg;
use bespoke_ir::op::{Concat, Expand, HostInts, MatMul, Slice, Softmax, Transpose};
use bespoke_ir::{BinaryOp, DType, ExprBuilder, Scalar, SymInt, UnaryOp, ValueId};

/// A condition under which a query sees a key.
pub(super) enum Seen {
    /// A `bool` that broadcasts to the scores.
    Where(ValueId),
    /// An integer that broadcasts to the scores and is not 0.
    Nonzero(ValueId),
    /// The key's position is below this one's, an integer that broadcasts to the scores.
    Before(ValueId),
    /// The key's position is not below this one's.
    From(ValueId),
    /// By the distance of the two positions.
    Near(Window),
}

/// How far from its own position a query sees. The position of query `m` is the offset plus `m`.
pub(super) struct Window {
    /// Position of the first query among the keys.
    pub(super) offset: Offset,
    /// Most positions that a key may lie before the query; any, if it is absent.
    pub(super) left: Option<i64>,
    /// Most positions that a key may lie behind the query; 0 is causal.
    pub(super) right: Option<i64>,
}

/// A number of positions.
#[derive(Clone)]
pub(super) enum Offset {
    /// The same for all rows of the batch, known when the shapes are.
    Known(SymInt),
    /// An `i64` that broadcasts to the scores.
    Value(ValueId),
}

/// What happens to the scores.
pub(super) enum Term {
    /// This is added; it broadcasts to the scores.
    Added(ValueId),
    /// Where the condition fails, this number is added.
    Faint(Seen, f64),
    /// Where the condition fails, the key is not seen.
    Hidden(Seen),
}

/// Attention on operands of four axes.
#[derive(Default)]
pub(super) struct Sdpa {
    /// Factor of the scores.
    pub(super) scale: f64,
    /// Bound of the scores; 0 for none.
    pub(super) softcap: f64,
    /// Masks, in any order.
    pub(super) terms: Vec<Term>,
    /// Whether a query may see no key, and is 0 then.
    pub(super) may_be_blind: bool,
    /// Whether the softmax is computed in `f64`.
    pub(super) wide: bool,
    /// One more key for each head, of value 0, with this score: `[H]`.
    pub(super) sink: Option<ValueId>,
}

/// The result, and what the scores were on the way.
pub(super) struct Attended {
    /// `[B, H, M, E]`.
    pub(super) result: ValueId,
    /// Scores `[B, H, M, N]`: scaled; capped; masked; their softmax.
    pub(super) scores: [ValueId; 4],
}

/// `[B, M, H·D]` as `[B, H, M, D]`.
pub(super) fn split_heads(cx: &mut Cx<'_>, what: &str, x: ValueId, heads: i64) -> Done<ValueId> {
    let apart = apart(cx, what, x, heads)?;
    let perm = vec![0, 2, 1, 3];
    cx.emit(&format!("{what}_heads"), Transpose { perm }, &[apart])
}

/// `[B, M, H·D]` as `[B, M, H, D]`.
pub(super) fn apart(cx: &mut Cx<'_>, what: &str, x: ValueId, heads: i64) -> Done<ValueId> {
    let dims = cx.value_ty(x).dims.clone();
    let [batch, rows, hidden] = &dims[..] else {
        return invalid(format!("its {what} has rank {}, not 3", dims.len()));
    };
    if heads < 1 {
        return invalid(format!("it cannot have {heads} heads"));
    }
    let heads = SymInt::constant(heads);
    let size = cx.simplify(&hidden.floor_div(&heads));
    cx.require_equal(
        &format!("the last extent of the {what} and that of all heads"),
        hidden,
        &(&size * &heads),
    )?;
    cx.reshape(
        &format!("{what}_apart"),
        x,
        vec![batch.clone(), rows.clone(), heads, size],
    )
}

/// `[B, H, M, E]` as `[B, M, H·E]`: the node's result.
pub(super) fn join_heads(cx: &mut Cx<'_>, x: ValueId) -> Done<ValueId> {
    let perm = vec![0, 2, 1, 3];
    let turned = cx.emit("turned", Transpose { perm }, &[x])?;
    let mut dims = cx.value_ty(turned).dims.clone();
    let size = dims.pop().unwrap_or(SymInt::constant(1));
    if let Some(heads) = dims.last_mut() {
        *heads = cx.simplify(&(&*heads * &size));
    }
    cx.reshape("", turned, dims)
}

/// Some of the heads of `[B, H, N, D]`, or of another axis: `count` positions from `start` on.
pub(super) fn part(
    cx: &mut Cx<'_>,
    suffix: &str,
    x: ValueId,
    axis: usize,
    start: SymInt,
    count: SymInt,
) -> Done<ValueId> {
    let mut dims = cx.value_ty(x).dims.clone();
    if dims[axis] == count {
        return Ok(x);
    }
    let mut starts = vec![SymInt::constant(0); dims.len()];
    starts[axis] = start;
    dims[axis] = count;
    let steps = vec![1; dims.len()];
    let op = Slice {
        starts,
        steps,
        dims,
    };
    cx.emit(suffix, op, &[x])
}

/// Checks the rank of a value.
pub(super) fn expect_rank(cx: &Cx<'_>, what: &str, x: ValueId, rank: usize) -> Done {
    match cx.value_ty(x).rank() {
        found if found == rank => Ok(()),
        found => invalid(format!("its {what} has rank {found}, not {rank}")),
    }
}

/// Checks that a cache holds what is new.
pub(super) fn expect_cache(cx: &Cx<'_>, what: &str, past: ValueId, new: ValueId) -> Done {
    expect_rank(cx, &format!("past {what}"), past, 4)?;
    let (a, b) = (cx.value_ty(past).dtype, cx.value_ty(new).dtype);
    if a == b {
        return Ok(());
    }
    unsupported(format!(
        "its past {what} are {a} and its {what} {b}; caches of another type, quantised ones say, are not supported: \
         export the model with a cache of type {b}"
    ))
}

/// What was cached, then what is new, along the positions of `[B, G, N, D]`.
pub(super) fn append(
    cx: &mut Cx<'_>,
    what: &str,
    past: Option<ValueId>,
    new: ValueId,
) -> Done<ValueId> {
    let Some(past) = past else { return Ok(new) };
    expect_cache(cx, what, past, new)?;
    cx.emit(&format!("present_{what}"), Concat { axis: 2 }, &[past, new])
}

/// Two inputs that are given together or not at all.
pub(super) fn both(cx: &mut Cx<'_>, i: usize, j: usize, what: &str) -> Done<[Option<ValueId>; 2]> {
    if cx.has(i) != cx.has(j) {
        return invalid(format!(
            "it has only one of its inputs {i} and {j} ({what}); it needs both or neither"
        ));
    }
    Ok([cx.optional(i)?, cx.optional(j)?])
}

/// The factor of the scores: the attribute's, or one over the root of the size of a head.
pub(super) fn scale(cx: &Cx<'_>, q: ValueId) -> Done<f64> {
    // 0 is how some exporters leave it out
    if let Some(scale) = cx.attrs.float("scale")?.filter(|&s| s != 0.0) {
        return Ok(f64::from(scale));
    }
    match cx.value_ty(q).dims.last().and_then(SymInt::as_const) {
        Some(size) if size > 0 => Ok(1.0 / (size as f64).sqrt()),
        _ => unsupported(
            "the size of its heads depends on the shapes of the inputs, and so does the scale; set the attribute \
             'scale', or export the model with a fixed last extent",
        ),
    }
}

/// A mask under extents that broadcast to those of the scores. Extents that are not known to be 1 must be the scores'.
pub(super) fn fit(cx: &mut Cx<'_>, what: &str, mask: ValueId, scores: &[SymInt]) -> Done<ValueId> {
    let mut dims = cx.value_ty(mask).dims.clone();
    let Some(lead) = scores.len().checked_sub(dims.len()) else {
        return invalid(format!(
            "its {what} has rank {}, more than the scores' {}",
            dims.len(),
            scores.len()
        ));
    };
    for (have, want) in dims.iter_mut().zip(&scores[lead..]) {
        if have.as_const() != Some(1) {
            cx.require_equal(
                &format!("extents of the {what} and of the scores"),
                have,
                want,
            )?;
            *have = want.clone();
        }
    }
    cx.reshape(what, mask, dims)
}

/// Keys or values once for each head of queries.
fn repeat(cx: &mut Cx<'_>, what: &str, x: ValueId, heads: &SymInt) -> Done<ValueId> {
    let dims = cx.value_ty(x).dims.clone();
    let own = &dims[1];
    if own.known_eq(heads, cx.symbols()) == Some(true) {
        return Ok(x);
    }
    let times = match (heads.as_const(), own.as_const()) {
        (Some(h), Some(g)) if g > 0 && h % g == 0 => SymInt::constant(h / g),
        (Some(h), Some(g)) => {
            return invalid(format!(
                "{g} heads of {what} cannot serve {h} heads of queries"
            ));
        }
        _ => match heads.exact_div(own) {
            Some(times) => times,
            None => {
                cx.require_equal(&format!("the heads of {what} and of queries"), own, heads)?;
                return Ok(x);
            }
        },
    };
    let mut wide = dims.clone();
    wide.insert(2, SymInt::constant(1));
    let x = cx.reshape(&format!("{what}_shared"), x, wide.clone())?;
    wide[2] = times;
    let x = cx.emit(&format!("{what}_wide"), Expand { dims: wide }, &[x])?;
    let mut joined = dims;
    joined[1] = heads.clone();
    cx.reshape(&format!("{what}_repeated"), x, joined)
}

/// An integer that is known when the shapes are, as an `i64` of rank 0.
pub(super) fn number(cx: &mut Cx<'_>, suffix: &str, value: SymInt) -> Done<ValueId> {
    let op = HostInts {
        dtype: DType::I64,
        dims: vec![],
        elements: vec![value],
    };
    cx.emit(suffix, op, &[])
}

impl Window {
    /// Whether the one query is known to stand at the last key and to see all before it.
    fn sees_all(&self, cx: &Cx<'_>, scores: &[SymInt]) -> bool {
        let (Offset::Known(offset), None) = (&self.offset, self.left) else {
            return false;
        };
        let last = cx.simplify(&(&scores[3] - &SymInt::constant(1)));
        scores[2].as_const() == Some(1) && offset.known_eq(&last, cx.symbols()) == Some(true)
    }
}

impl Seen {
    /// The operands of the condition, in the order in which [`Seen::test`] takes them.
    fn operands(&mut self, cx: &mut Cx<'_>) -> Done<Vec<ValueId>> {
        Ok(match self {
            Seen::Where(v) | Seen::Nonzero(v) | Seen::Before(v) | Seen::From(v) => vec![*v],
            Seen::Near(window) => {
                if let Offset::Known(offset) = &window.offset
                    && offset.as_const().is_none()
                {
                    let value = number(cx, "offset", offset.clone())?;
                    window.offset = Offset::Value(value);
                }
                match window.offset {
                    Offset::Value(v) => vec![v],
                    Offset::Known(_) => vec![],
                }
            }
        })
    }

    /// The condition, computed over the extents of the scores.
    fn test(&self, b: &mut ExprBuilder, regs: &[Reg]) -> Reg {
        let key = b.coord(3);
        let int = |b: &mut ExprBuilder, v: i64| b.constant(Scalar::int(DType::I64, v));
        match self {
            Seen::Where(_) => regs[0],
            Seen::Nonzero(_) => {
                let zero = b.number(b.dtype(regs[0]), 0.0);
                b.binary(BinaryOp::Ne, regs[0], zero)
            }
            Seen::Before(_) | Seen::From(_) => {
                let at = b.cast(DType::I64, regs[0]);
                let before = matches!(self, Seen::Before(_));
                b.binary(if before { BinaryOp::Lt } else { BinaryOp::Ge }, key, at)
            }
            Seen::Near(window) => {
                let query = b.coord(2);
                let known = match &window.offset {
                    Offset::Known(offset) => offset.as_const().unwrap_or(0),
                    Offset::Value(_) => 0,
                };
                let query = match regs.first() {
                    Some(&offset) => b.binary(BinaryOp::Add, query, offset),
                    None => query,
                };
                // a bound on the key: the query's position plus this
                let bound = |b: &mut ExprBuilder, by: i64| match by {
                    0 => query,
                    _ => {
                        let by = int(b, by);
                        b.binary(BinaryOp::Add, query, by)
                    }
                };
                let right = window.right.map(|r| {
                    let most = bound(b, known.saturating_add(r));
                    b.binary(BinaryOp::Le, key, most)
                });
                let left = window.left.map(|l| {
                    let least = bound(b, known.saturating_sub(l));
                    b.binary(BinaryOp::Ge, key, least)
                });
                match (right, left) {
                    (Some(x), Some(y)) => b.binary(BinaryOp::And, x, y),
                    (Some(x), None) | (None, Some(x)) => x,
                    (None, None) => b.constant(Scalar::int(DType::Bool, 1)),
                }
            }
        }
    }
}

impl Sdpa {
    /// The result for queries, keys and values of one element type.
    pub(super) fn emit(
        self,
        cx: &mut Cx<'_>,
        [q, k, v]: [ValueId; 3],
        named: bool,
    ) -> Done<Attended> {
        let dtype = cx.value_ty(q).dtype;
        if !dtype.is_float() {
            return invalid(format!("it does not take operands of type {dtype}"));
        }
        for (what, x) in [("keys", k), ("values", v)] {
            let found = cx.value_ty(x).dtype;
            if found != dtype {
                return invalid(format!("its queries are {dtype} and its {what} {found}"));
            }
            let batches = [
                cx.value_ty(q).dims[0].clone(),
                cx.value_ty(x).dims[0].clone(),
            ];
            cx.require_equal("the batches of queries and keys", &batches[0], &batches[1])?;
        }
        let heads = cx.value_ty(q).dims[1].clone();
        let k = repeat(cx, "keys", k, &heads)?;
        let v = repeat(cx, "values", v, &heads)?;
        let product = MatMul {
            transpose_b: true,
            ..MatMul::default()
        };
        // A bound is for scores that may grow large, so that those of narrow types must not be stored unscaled.
        let early = self.softcap != 0.0 && self.scale != 1.0;
        let factor = self.scale;
        let q = match early {
            true => times(cx, "scaled_queries", q, factor)?,
            false => q,
        };
        let scores = cx.emit("scores", product, &[q, k])?;
        let scaled = match early || factor == 1.0 {
            true => scores,
            false => times(cx, "scaled", scores, factor)?,
        };
        let capped = match self.softcap {
            0.0 => scaled,
            cap => cx.map("capped", &[scaled], |b, r| {
                let cap = b.number(dtype, cap);
                let x = b.binary(BinaryOp::Div, r[0], cap);
                let x = b.unary(UnaryOp::Tanh, x);
                b.binary(BinaryOp::Mul, x, cap)
            })?,
        };
        let (blind, wide, sink) = (self.may_be_blind, self.wide, self.sink);
        let masked = self.mask(cx, capped)?;
        let logits = match wide {
            true => cx.cast("wide", masked, DType::F64)?,
            false => masked,
        };
        let softmax = Softmax {
            axis: 3,
            log: false,
        };
        let shares = match sink {
            None => cx.emit("softmax", softmax, &[logits])?,
            Some(sink) => with_sink(cx, logits, sink, softmax)?,
        };
        let mut shares = cx.cast("shares", shares, dtype)?;
        if blind {
            shares = cx.map("guarded", &[shares], |b, r| {
                let zero = b.number(dtype, 0.0);
                let undefined = b.unary(UnaryOp::IsNan, r[0]);
                b.select(undefined, zero, r[0])
            })?;
        }
        let suffix = if named { "" } else { "attended" };
        let result = cx.emit(suffix, MatMul::default(), &[shares, v])?;
        Ok(Attended {
            result,
            scores: [scaled, capped, masked, shares],
        })
    }

    /// The scores with all masks applied.
    fn mask(mut self, cx: &mut Cx<'_>, scores: ValueId) -> Done<ValueId> {
        let dims = cx.value_ty(scores).dims.clone();
        self.terms.retain(|term| match term {
            Term::Hidden(Seen::Near(window)) => !window.sees_all(cx, &dims),
            _ => true,
        });
        if self.terms.is_empty() {
            return Ok(scores);
        }
        let dtype = cx.value_ty(scores).dtype;
        let mut operands = vec![scores];
        let mut terms = Vec::new();
        for mut term in self.terms {
            let own = match &mut term {
                Term::Added(v) => {
                    *v = cx.cast("bias", *v, dtype)?;
                    vec![*v]
                }
                Term::Faint(seen, _) | Term::Hidden(seen) => seen.operands(cx)?,
            };
            let at = operands.len();
            operands.extend(own);
            terms.push((term, at..operands.len()));
        }
        cx.map("masked", &operands, |b, r| {
            let mut x = r[0];
            for (term, at) in &terms {
                let regs = &r[at.clone()];
                let add = match term {
                    Term::Added(_) => regs[0],
                    Term::Faint(seen, by) => {
                        let seen = seen.test(b, regs);
                        let (zero, by) = (b.number(dtype, 0.0), b.number(dtype, *by));
                        b.select(seen, zero, by)
                    }
                    Term::Hidden(_) => continue,
                };
                x = b.binary(BinaryOp::Add, x, add);
            }
            let mut all = None;
            for (term, at) in &terms {
                if let Term::Hidden(seen) = term {
                    let seen = seen.test(b, &r[at.clone()]);
                    all = Some(match all {
                        None => seen,
                        Some(other) => b.binary(BinaryOp::And, other, seen),
                    });
                }
            }
            match all {
                None => x,
                Some(seen) => {
                    let never = b.number(dtype, f64::NEG_INFINITY);
                    b.select(seen, x, never)
                }
            }
        })
    }
}

fn times(cx: &mut Cx<'_>, suffix: &str, x: ValueId, factor: f64) -> Done<ValueId> {
    let dtype = cx.value_ty(x).dtype;
    cx.map(suffix, &[x], |b, r| {
        let factor = b.number(dtype, factor);
        b.binary(BinaryOp::Mul, r[0], factor)
    })
}

/// The softmax of scores and one more for each head, without the share of the latter.
fn with_sink(cx: &mut Cx<'_>, logits: ValueId, sink: ValueId, op: Softmax) -> Done<ValueId> {
    let ty = cx.value_ty(logits).clone();
    let one = || SymInt::constant(1);
    let column = vec![one(), ty.dims[1].clone(), one(), one()];
    let sink = cx.cast("sink_type", sink, ty.dtype)?;
    let sink = cx.reshape("sink", sink, column)?;
    let mut dims = ty.dims.clone();
    dims[3] = one();
    let sink = cx.emit("sinks", Expand { dims }, &[sink])?;
    let all = cx.emit("with_sinks", Concat { axis: 3 }, &[logits, sink])?;
    let shares = cx.emit("softmax", op, &[all])?;
    part(
        cx,
        "without_sinks",
        shares,
        3,
        SymInt::constant(0),
        ty.dims[3].clone(),
    )
}

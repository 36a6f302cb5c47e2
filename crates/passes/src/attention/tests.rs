//! What exporters write, before and after.

use bespoke_ir::expr::ExprBuilder;
use bespoke_ir::op::{Expand, Map, MatMul, Softmax};
use bespoke_ir::{Scalar, TensorType};

use super::*;
use crate::canonicalize;
use crate::testing::{agree, symbol};

const TYPE: DType = DType::F16;

fn input(g: &mut Graph, name: &str, dims: Vec<SymInt>) -> ValueId {
    g.add_input(name, TensorType::new(TYPE, dims))
}

fn map(g: &mut Graph, name: &str, expr: Expr, inputs: &[ValueId]) -> ValueId {
    g.add1(name, Map::new(expr), inputs).unwrap()
}

fn binary(g: &mut Graph, name: &str, op: BinaryOp, a: ValueId, b: ValueId) -> ValueId {
    let ty = g.dtype(a);
    map(g, name, Expr::binary(op, ty), &[a, b])
}

fn number(g: &mut Graph, x: f64) -> ValueId {
    g.add_scalar("c", Scalar::float(TYPE, x))
}

fn swapped(g: &mut Graph, x: ValueId) -> ValueId {
    let rank = g.dims(x).len();
    let mut perm: Vec<usize> = (0..rank).collect();
    perm.swap(rank - 2, rank - 1);
    g.add1("swapped", Transpose { perm }, &[x]).unwrap()
}

fn product(g: &mut Graph, name: &str, a: ValueId, b: ValueId) -> ValueId {
    g.add1(name, MatMul::default(), &[a, b]).unwrap()
}

fn softmax(g: &mut Graph, x: ValueId) -> ValueId {
    let axis = g.dims(x).len() - 1;
    g.add1("softmax", Softmax { axis, log: false }, &[x])
        .unwrap()
}

/// q, k and v of two heads of eight elements.
fn operands(g: &mut Graph) -> (SymInt, [ValueId; 3]) {
    let (m, n) = (symbol(g, "M"), symbol(g, "N"));
    let q = input(g, "q", vec![2.into(), 2.into(), m, 8.into()]);
    let keys = vec![2.into(), 2.into(), n.clone(), 8.into()];
    let (k, v) = (input(g, "k", keys.clone()), input(g, "v", keys));
    (n, [q, k, v])
}

/// Runs the pass alone, then all of them, and compares each time.
fn fused(g: &mut Graph, y: ValueId) {
    g.add_output(y);
    let before = g.clone();
    let mut all = g.clone();
    // literals of expressions, as another pass makes them
    crate::inline_scalars::run(g).unwrap();
    run(g).unwrap();
    bespoke_ir::verify::verify(g).unwrap();
    agree(&before, g, 5, 4e-3);
    canonicalize(&mut all).unwrap();
    let count = |g: &Graph| {
        let nodes = g.topological_order();
        let is = |id: &&NodeId| matches!(g.node(**id).op, Op::Attention(_));
        nodes.iter().filter(is).count()
    };
    assert_eq!(count(&all), 1, "{all}");
    agree(&before, &all, 6, 4e-3);
}

#[test]
fn a_scaled_product_with_a_mask() {
    let mut g = Graph::new("t");
    let (n, [q, k, v]) = operands(&mut g);
    let mask = input(&mut g, "mask", vec![2.into(), 1.into(), 1.into(), n]);
    let k = swapped(&mut g, k);
    let s = product(&mut g, "scores", q, k);
    let root = number(&mut g, 2.0);
    let s = binary(&mut g, "scaled", BinaryOp::Div, s, root);
    let s = binary(&mut g, "masked", BinaryOp::Add, s, mask);
    let p = softmax(&mut g, s);
    let y = product(&mut g, "y", p, v);
    fused(&mut g, y);
    insta::assert_snapshot!(g, @r"
    graph t(q: f16[2,2,M,8], k: f16[2,2,N,8], v: f16[2,2,N,8], mask: f16[2,1,1,N]) {
      %0 = attention(q, k, v, mask) scale=0.5 : f16[2,2,M,8]  ; y
      return %0
    }
    ");
}

#[test]
fn roots_of_the_scale_and_a_guard() {
    let mut g = Graph::new("t");
    let (_, [q, k, v]) = operands(&mut g);
    let k = swapped(&mut g, k);
    let root = number(&mut g, 0.5);
    let (q, k) = (
        binary(&mut g, "q_scaled", BinaryOp::Mul, q, root),
        binary(&mut g, "k_scaled", BinaryOp::Mul, k, root),
    );
    let s = product(&mut g, "scores", q, k);
    let s = map(&mut g, "wide", Expr::cast(TYPE, DType::F32), &[s]);
    let p = softmax(&mut g, s);
    let p = map(&mut g, "narrow", Expr::cast(DType::F32, TYPE), &[p]);
    let mut b = ExprBuilder::new(&[TYPE]);
    let (x, zero) = (b.input(0), b.number(TYPE, 0.0));
    let bad = b.unary(UnaryOp::IsNan, x);
    let r = b.select(bad, zero, x);
    let p = map(&mut g, "guarded", b.finish(r), &[p]);
    let y = product(&mut g, "y", p, v);
    fused(&mut g, y);
    insta::assert_snapshot!(g, @r"
    graph t(q: f16[2,2,M,8], k: f16[2,2,N,8], v: f16[2,2,N,8]) {
      %0 = attention(q, k, v) scale=0.25 undefined_as_zero : f16[2,2,M,8]  ; y
      return %0
    }
    ");
}

#[test]
fn a_choice_is_a_mask_of_conditions() {
    let mut g = Graph::new("t");
    let (n, [q, k, v]) = operands(&mut g);
    let limits = input(&mut g, "limits", vec![n]);
    let k = swapped(&mut g, k);
    let s = product(&mut g, "scores", q, k);
    // select(limit > 0, −1e4, score · 0.25), in one map
    let mut b = ExprBuilder::new(&[TYPE, TYPE]);
    let (x, limit, zero) = (b.input(0), b.input(1), b.number(TYPE, 0.0));
    let (c, fill) = (b.number(TYPE, 0.25), b.number(TYPE, -1e4));
    let hidden = b.binary(BinaryOp::Gt, limit, zero);
    let x = b.binary(BinaryOp::Mul, x, c);
    let r = b.select(hidden, fill, x);
    let s = map(&mut g, "masked", b.finish(r), &[s, limits]);
    let p = softmax(&mut g, s);
    let y = product(&mut g, "y", p, v);
    fused(&mut g, y);
    insta::assert_snapshot!(g, @r"
    graph t(q: f16[2,2,M,8], k: f16[2,2,N,8], v: f16[2,2,N,8], limits: f16[N]) {
      %0 = map(limits) expr=(not(gt(x0, 0.0:f16))) : bool[N]  ; masked
      %1 = attention(q, k, v, %0) scale=0.25 fill=-10000 : f16[2,2,M,8]  ; y
      return %1
    }
    ");
}

#[test]
fn several_masks_become_one_sum() {
    let mut g = Graph::new("t");
    let (n, [q, k, v]) = operands(&mut g);
    let (a, b) = (
        input(&mut g, "a", vec![n.clone()]),
        input(&mut g, "b", vec![2.into(), 1.into(), n]),
    );
    let k = swapped(&mut g, k);
    let s = product(&mut g, "scores", q, k);
    let s = binary(&mut g, "first", BinaryOp::Add, a, s);
    // (s + a) · 0.5, then − b, then only what is not after the row
    let mut e = ExprBuilder::new(&[TYPE, TYPE]);
    let (x, b_in, c) = (e.input(0), e.input(1), e.number(TYPE, 0.5));
    let x = e.binary(BinaryOp::Mul, x, c);
    let x = e.binary(BinaryOp::Sub, x, b_in);
    let (row, column) = (e.coord(2), e.coord(3));
    let seen = e.binary(BinaryOp::Le, column, row);
    let none = e.number(TYPE, f64::NEG_INFINITY);
    let r = e.select(seen, x, none);
    let s = map(&mut g, "rest", e.finish(r), &[s, b]);
    let p = softmax(&mut g, s);
    let y = product(&mut g, "y", p, v);
    fused(&mut g, y);
    insta::assert_snapshot!(g, @r"
    graph t(q: f16[2,2,M,8], k: f16[2,2,N,8], v: f16[2,2,N,8], a: f16[N], b: f16[2,1,N]) {
      %0 = map(a) expr=(mul(x0, 0.5:f16)) : f16[N]  ; first
      %1 = map(b) expr=(mul(x0, -1.0:f16)) : f16[2,1,N]  ; rest
      %2 = map(%0, %1) expr=(add(x0, x1)) : f16[2,1,N]  ; rest
      %3 = map() expr=(select(le(i3, i2), 0.0:f16, -inf:f16)) shape=[1,1,M,N] : f16[1,1,M,N]  ; rest
      %4 = map(%2, %3) expr=(add(x0, x1)) : f16[1,2,M,N]  ; rest
      %5 = attention(q, k, v, %4) scale=0.5 : f16[2,2,M,8]  ; y
      return %5
    }
    ");
}

/// Two heads of keys or values, each three times: f16[batch,2,n,8] as f16[batch,6,n,8], turned in its last axes if asked.
fn repeated(g: &mut Graph, batch: i64, n: &SymInt, x: ValueId, turn: bool) -> ValueId {
    let tail = || [n.clone(), 8.into()];
    let dims = |lead: &[i64]| -> Vec<SymInt> {
        let lead = lead.iter().map(|&d| d.into());
        lead.chain(tail()).collect()
    };
    let (apart, wide) = (dims(&[batch, 2, 1]), dims(&[batch, 2, 3]));
    let mut joined = dims(&[batch, 6]);
    let x = g.add1("apart", Reshape { dims: apart }, &[x]).unwrap();
    let mut x = g.add1("wide", Expand { dims: wide }, &[x]).unwrap();
    if turn {
        let perm = vec![0, 1, 2, 4, 3];
        x = g.add1("turned", Transpose { perm }, &[x]).unwrap();
        joined.swap(2, 3);
    }
    g.add1("joined", Reshape { dims: joined }, &[x]).unwrap()
}

#[test]
fn repeated_heads_are_not_copied() {
    let mut g = Graph::new("t");
    let n = symbol(&mut g, "N");
    let q = input(&mut g, "q", vec![1.into(), 6.into(), 1.into(), 8.into()]);
    let dims: Vec<SymInt> = vec![1.into(), 2.into(), n.clone(), 8.into()];
    let (k, v) = (input(&mut g, "k", dims.clone()), input(&mut g, "v", dims));
    let (k, v) = (
        repeated(&mut g, 1, &n, k, false),
        repeated(&mut g, 1, &n, v, false),
    );
    let k = swapped(&mut g, k);
    let s = product(&mut g, "scores", q, k);
    let p = softmax(&mut g, s);
    let y = product(&mut g, "y", p, v);
    fused(&mut g, y);
    let mut all = g.clone();
    canonicalize(&mut all).unwrap();
    insta::assert_snapshot!(all, @r"
    graph t(q: f16[1,6,1,8], k: f16[1,2,N,8], v: f16[1,2,N,8]) {
      %0 = attention(q, k, v) scale=1 : f16[1,6,1,8]  ; y
      return %0
    }
    ");
}

/// As exporters write keys that they turn with all leading axes joined.
#[test]
fn repeated_keys_may_be_turned_before_their_heads_are_joined() {
    let mut g = Graph::new("t");
    let n = symbol(&mut g, "N");
    let q = input(&mut g, "q", vec![2.into(), 6.into(), 1.into(), 8.into()]);
    let dims: Vec<SymInt> = vec![2.into(), 2.into(), n.clone(), 8.into()];
    let (k, v) = (input(&mut g, "k", dims.clone()), input(&mut g, "v", dims));
    let (k, v) = (
        repeated(&mut g, 2, &n, k, true),
        repeated(&mut g, 2, &n, v, false),
    );
    let s = product(&mut g, "scores", q, k);
    let p = softmax(&mut g, s);
    let y = product(&mut g, "y", p, v);
    fused(&mut g, y);
    let mut all = g.clone();
    canonicalize(&mut all).unwrap();
    insta::assert_snapshot!(all, @r"
    graph t(q: f16[2,6,1,8], k: f16[2,2,N,8], v: f16[2,2,N,8]) {
      %0 = attention(q, k, v) scale=1 : f16[2,6,1,8]  ; y
      return %0
    }
    ");
}

#[test]
fn what_does_not_fit_stays() {
    let unfused = |build: &dyn Fn(&mut Graph) -> ValueId| {
        let mut g = Graph::new("t");
        let y = build(&mut g);
        g.add_output(y);
        assert_eq!(run(&mut g), Ok(0), "{g}");
    };
    // a head of ten elements
    unfused(&|g| {
        let x = input(g, "x", vec![2.into(), 3.into(), 10.into()]);
        let k = swapped(g, x);
        let s = product(g, "scores", x, k);
        let p = softmax(g, s);
        product(g, "y", p, x)
    });
    // shares that somebody else reads too
    unfused(&|g| {
        let (_, [q, k, v]) = operands(g);
        let k = swapped(g, k);
        let s = product(g, "scores", q, k);
        let p = softmax(g, s);
        g.add_output(p);
        product(g, "y", p, v)
    });
    // a mask made of the scores
    unfused(&|g| {
        let (_, [q, k, v]) = operands(g);
        let k = swapped(g, k);
        let s = product(g, "scores", q, k);
        let mut b = ExprBuilder::new(&[TYPE]);
        let x = b.input(0);
        let t = b.unary(UnaryOp::Tanh, x);
        let r = b.binary(BinaryOp::Add, x, t);
        let s = map(g, "masked", b.finish(r), &[s]);
        let p = softmax(g, s);
        product(g, "y", p, v)
    });
    // a choice of a finite number after a sum
    unfused(&|g| {
        let (n, [q, k, v]) = operands(g);
        let bias = input(g, "bias", vec![n]);
        let k = swapped(g, k);
        let s = product(g, "scores", q, k);
        let mut b = ExprBuilder::new(&[TYPE, TYPE]);
        let (x, by, zero, fill) = (
            b.input(0),
            b.input(1),
            b.number(TYPE, 0.0),
            b.number(TYPE, -9.0),
        );
        let seen = b.binary(BinaryOp::Gt, by, zero);
        let x = b.binary(BinaryOp::Add, x, by);
        let r = b.select(seen, x, fill);
        let s = map(g, "masked", b.finish(r), &[s, bias]);
        let p = softmax(g, s);
        product(g, "y", p, v)
    });
    // numbers of 32 bits
    unfused(&|g| {
        let ty = TensorType::fixed(DType::F32, &[2, 3, 8]);
        let x = g.add_input("x", ty);
        let k = swapped(g, x);
        let s = product(g, "scores", x, k);
        let p = softmax(g, s);
        product(g, "y", p, x)
    });
}

//! Graphs before and after, what stays whole, and graphs at random against the reference.

use bespoke_ir::expr::{BinaryOp, Expr, UnaryOp};
use bespoke_ir::op::{Concat, Map, Reshape};
use bespoke_ir::verify::verify;
use bespoke_ir::{Constant, DType, TensorType};
use proptest::prelude::*;

use super::*;
use crate::canonicalize;
use crate::testing::{agree, f32s, symbol};

/// Everything that is correct is split.
const ALL: Limits = Limits {
    rows: 1024,
    wave: 0,
    gain: 0,
    multiple: 1,
    narrow: false,
};

fn input(g: &mut Graph) -> ValueId {
    let n = symbol(g, "N");
    g.add_input("x", TensorType::new(DType::F32, vec![n, 3.into()]))
}

/// A product of `x` with `3×width` weights.
fn wide(g: &mut Graph, x: ValueId, width: i64) -> ValueId {
    let values: Vec<f32> = (0..3 * width).map(|i| (i as f32 * 0.7).sin()).collect();
    let w = f32s(g, "w", &[3, width], &values);
    g.add1("wide", MatMul::default(), &[x, w]).unwrap()
}

fn cut(g: &mut Graph, name: &str, v: ValueId, columns: Range<i64>) -> ValueId {
    let axis = g.dims(v).len() - 1;
    part(g, name, v, axis, &columns).unwrap()
}

fn map1(g: &mut Graph, name: &str, op: UnaryOp, v: ValueId) -> ValueId {
    let map = Map::new(Expr::unary(op, g.dtype(v)));
    g.add1(name, map, &[v]).unwrap()
}

fn map2(g: &mut Graph, name: &str, op: BinaryOp, a: ValueId, b: ValueId) -> ValueId {
    let map = Map::new(Expr::binary(op, g.dtype(a)));
    g.add1(name, map, &[a, b]).unwrap()
}

fn concat(g: &mut Graph, name: &str, parts: &[ValueId]) -> ValueId {
    g.add1(name, Concat { axis: 1 }, parts).unwrap()
}

/// Splits, and checks that the function stays.
fn splits(g: &mut Graph) -> usize {
    let before = g.clone();
    let changes = run_with(g, &ALL).unwrap();
    verify(g).unwrap();
    agree(&before, g, 7, 1e-6);
    assert_eq!(run_with(g, &ALL), Ok(0));
    changes
}

#[test]
fn a_block_of_attention_beside_a_feed_forward_layer() {
    let mut g = Graph::new("t");
    let x = input(&mut g);
    let v = wide(&mut g, x, 10);
    let bias = f32s(&mut g, "bias", &[10], &[0.5; 10]);
    let v = map2(&mut g, "biased", BinaryOp::Add, v, bias);
    let (q, k) = (cut(&mut g, "q", v, 0..2), cut(&mut g, "k", v, 2..4));
    let hidden = cut(&mut g, "hidden", v, 4..10);
    let softmax = bespoke_ir::op::Softmax {
        axis: 1,
        log: false,
    };
    let q = g.add1("soft", softmax, &[q]).unwrap();
    let both = map2(&mut g, "both", BinaryOp::Mul, q, k);
    let act = map1(&mut g, "act", UnaryOp::Tanh, hidden);
    let y = concat(&mut g, "y", &[both, act]);
    g.add_output(y);
    insta::assert_snapshot!(g, @r"
    graph t(x: f32[N,3]) {
      %0 = matmul(x, w: f32[3,10]) : f32[N,10]  ; wide
      %1 = map(%0, bias: f32[10]) expr=(add(x0, x1)) : f32[N,10]  ; biased
      %2 = slice(%1) starts=[0,0] steps=[1,1] dims=[N,2] : f32[N,2]  ; q
      %3 = slice(%1) starts=[0,2] steps=[1,1] dims=[N,2] : f32[N,2]  ; k
      %4 = slice(%1) starts=[0,4] steps=[1,1] dims=[N,6] : f32[N,6]  ; hidden
      %5 = softmax(%2) axis=1 : f32[N,2]  ; soft
      %6 = map(%5, %3) expr=(mul(x0, x1)) : f32[N,2]  ; both
      %7 = map(%4) expr=(tanh(x0)) : f32[N,6]  ; act
      %8 = concat(%6, %7) axis=1 : f32[N,8]  ; y
      return %8
    }
    ");
    assert_eq!(splits(&mut g), 1);
    insta::assert_snapshot!(g, @r"
    graph t(x: f32[N,3]) {
      %0 = slice(w: f32[3,10]) starts=[0,0] steps=[1,1] dims=[3,4] : f32[3,4]  ; w
      %1 = matmul(x, %0) : f32[N,4]  ; wide/0..4
      %2 = slice(bias: f32[10]) starts=[0] steps=[1] dims=[4] : f32[4]  ; bias
      %3 = map(%1, %2) expr=(add(x0, x1)) : f32[N,4]  ; biased
      %4 = slice(%3) starts=[0,0] steps=[1,1] dims=[N,2] : f32[N,2]  ; q
      %5 = softmax(%4) axis=1 : f32[N,2]  ; soft
      %6 = slice(%3) starts=[0,2] steps=[1,1] dims=[N,2] : f32[N,2]  ; k
      %7 = map(%5, %6) expr=(mul(x0, x1)) : f32[N,2]  ; both
      %8 = slice(w: f32[3,10]) starts=[0,4] steps=[1,1] dims=[3,6] : f32[3,6]  ; w
      %9 = matmul(x, %8) : f32[N,6]  ; wide/4..10
      %10 = slice(bias: f32[10]) starts=[4] steps=[1] dims=[6] : f32[6]  ; bias
      %11 = map(%9, %10) expr=(add(x0, x1)) : f32[N,6]  ; biased
      %12 = map(%11) expr=(tanh(x0)) : f32[N,6]  ; act
      %13 = concat(%7, %12) axis=1 : f32[N,8]  ; y
      return %13
    }
    ");
}

#[test]
fn views_and_several_activations() {
    let mut g = Graph::new("t");
    let x = input(&mut g);
    let v = wide(&mut g, x, 12);
    let mut dims = g.dims(v).to_vec();
    dims.insert(0, 1.into());
    let v = g.add1("batch", Reshape { dims }, &[v]).unwrap();
    let a = cut(&mut g, "a", v, 0..4);
    // nobody reads columns 4 and 5
    let b = cut(&mut g, "b", v, 6..8);
    let c = cut(&mut g, "c", v, 8..12);
    let dims = vec![g.dims(a)[1].clone(), 4.into()];
    let a = g.add1("rows", Reshape { dims }, &[a]).unwrap();
    let a = map1(&mut g, "a_act", UnaryOp::Tanh, a);
    let c = map1(&mut g, "c_act", UnaryOp::Sigmoid, c);
    for v in [a, b, c] {
        g.add_output(v);
    }
    assert_eq!(splits(&mut g), 1);
    insta::assert_snapshot!(g, @r"
    graph t(x: f32[N,3]) {
      %0 = slice(w: f32[3,12]) starts=[0,0] steps=[1,1] dims=[3,4] : f32[3,4]  ; w
      %1 = matmul(x, %0) : f32[N,4]  ; wide/0..4
      %2 = reshape(%1) dims=[1,N,4] : f32[1,N,4]  ; batch
      %3 = reshape(%2) dims=[N,4] : f32[N,4]  ; rows
      %4 = map(%3) expr=(tanh(x0)) : f32[N,4]  ; a_act
      %5 = slice(w: f32[3,12]) starts=[0,6] steps=[1,1] dims=[3,2] : f32[3,2]  ; w
      %6 = matmul(x, %5) : f32[N,2]  ; wide/6..8
      %7 = reshape(%6) dims=[1,N,2] : f32[1,N,2]  ; batch
      %8 = slice(w: f32[3,12]) starts=[0,8] steps=[1,1] dims=[3,4] : f32[3,4]  ; w
      %9 = matmul(x, %8) : f32[N,4]  ; wide/8..12
      %10 = reshape(%9) dims=[1,N,4] : f32[1,N,4]  ; batch
      %11 = map(%10) expr=(sigmoid(x0)) : f32[1,N,4]  ; c_act
      return %4, %7, %11
    }
    ");
}

#[test]
fn gates_and_what_others_read_stay_whole() {
    // both halves are needed at once, one of them behind work of its own
    let gate = |deep: bool| {
        let mut g = Graph::new("t");
        let x = input(&mut g);
        let v = wide(&mut g, x, 8);
        let (a, b) = (cut(&mut g, "a", v, 0..4), cut(&mut g, "b", v, 4..8));
        let b = if deep {
            let dims = g.dims(b).to_vec();
            let b = map1(&mut g, "act", UnaryOp::Sigmoid, b);
            let other = map1(&mut g, "other", UnaryOp::Abs, b);
            g.add_output(other);
            g.add1("view", Reshape { dims }, &[b]).unwrap()
        } else {
            b
        };
        let y = map2(&mut g, "y", BinaryOp::Mul, a, b);
        g.add_output(y);
        g
    };
    assert_eq!(splits(&mut gate(false)), 0);
    // the activation joins, the gate alone does not
    let mut deep = gate(true);
    let before = deep.clone();
    assert_eq!(run_with(&mut deep, &ALL), Ok(1));
    agree(&before, &deep, 3, 1e-6);

    // the whole is read too, by an operator, or as an output of the model
    for output in [false, true] {
        let mut g = Graph::new("t");
        let x = input(&mut g);
        let v = wide(&mut g, x, 8);
        let a = cut(&mut g, "a", v, 0..4);
        let a = map1(&mut g, "act", UnaryOp::Tanh, a);
        g.add_output(a);
        let all = if output {
            v
        } else {
            map1(&mut g, "all", UnaryOp::Abs, v)
        };
        g.add_output(all);
        assert_eq!(splits(&mut g), 0);
    }

    // columns that two slices take
    let mut g = Graph::new("t");
    let x = input(&mut g);
    let v = wide(&mut g, x, 8);
    for (name, columns) in [("a", 0..5), ("b", 4..8)] {
        let a = cut(&mut g, name, v, columns);
        let a = map1(&mut g, "act", UnaryOp::Tanh, a);
        g.add_output(a);
    }
    assert_eq!(splits(&mut g), 0);
}

/// A layer of 16-bit weights, of which the last columns have an activation.
fn layer(rows: SymInt, depth: i64, widths: [i64; 2], dtype: DType, g: &mut Graph) {
    let x = g.add_input("x", TensorType::new(dtype, vec![rows, depth.into()]));
    let n = widths[0] + widths[1];
    let bytes = vec![0; (depth * n) as usize * dtype.size().unwrap()];
    let w = Constant::new(dtype, vec![n, depth], bytes.into()).unwrap();
    let w = g.add_constant("w", w);
    let op = MatMul {
        transpose_a: false,
        transpose_b: true,
    };
    let v = g.add1("wide", op, &[x, w]).unwrap();
    let (a, b) = (cut(g, "a", v, 0..widths[0]), cut(g, "b", v, widths[0]..n));
    let b = map1(g, "act", UnaryOp::Tanh, b);
    g.add_output(a);
    g.add_output(b);
}

#[test]
fn small_products_stay_whole() {
    let changes = |rows: Option<i64>, depth, widths, dtype| {
        let mut g = Graph::new("t");
        let rows = match rows {
            Some(rows) => rows.into(),
            None => symbol(&mut g, "N"),
        };
        layer(rows, depth, widths, dtype, &mut g);
        run(&mut g).unwrap()
    };
    let f16 = DType::F16;
    // the sizes of transformers, at rows that are unknown, many and few
    assert_eq!(changes(None, 768, [2304, 3072], f16), 1);
    assert_eq!(changes(Some(1536), 768, [2304, 3072], f16), 1);
    assert_eq!(changes(Some(64), 768, [2304, 3072], f16), 0);
    // narrow parts, little that is saved, parts that are no whole boxes
    assert_eq!(changes(None, 768, [1024, 3072], f16), 0);
    assert_eq!(changes(None, 2048, [2048, 2048], f16), 0);
    assert_eq!(changes(None, 768, [2305, 3071], f16), 0);
    assert_eq!(changes(None, 768, [2304, 3072], DType::F32), 0);
}

#[test]
fn what_is_split_stays_so() {
    let mut g = Graph::new("t");
    let rows = symbol(&mut g, "N");
    layer(rows, 16, [2048, 2048], DType::F16, &mut g);
    let report = canonicalize(&mut g).unwrap();
    assert!(report.settled, "{report}");
    let products = g.topological_order();
    let is_product = |id: &&NodeId| matches!(g.node(**id).op, Op::MatMul(_));
    assert_eq!(products.iter().filter(is_product).count(), 2);
}

proptest! {
    /// Slices of a product, each with one of several kinds of readers.
    #[test]
    fn what_is_computed_stays(
        cuts in prop::collection::vec((0_i64..4, 1_i64..5, 0_u8..7), 1..6),
        biased in any::<bool>(),
        viewed in any::<bool>(),
        gaps in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let mut g = Graph::new("t");
        let x = input(&mut g);
        let width = cuts.iter().map(|c| if gaps { c.0 } else { 0 } + c.1).sum();
        let mut v = wide(&mut g, x, width);
        if biased {
            let values: Vec<f32> = (0..width).map(|i| i as f32 * 0.1).collect();
            let bias = f32s(&mut g, "bias", &[width], &values);
            v = map2(&mut g, "biased", BinaryOp::Add, v, bias);
        }
        if viewed {
            let dims = vec![1.into(), g.dims(v)[0].clone(), width.into()];
            v = g.add1("view", Reshape { dims }, &[v]).unwrap();
        }
        let mut at = 0;
        let mut last: Option<ValueId> = None;
        for &(gap, extent, kind) in &cuts {
            at += if gaps { gap } else { 0 };
            let s = cut(&mut g, "s", v, at..at + extent);
            at += extent;
            let y = match (kind, last.filter(|&l| g.dims(l) == g.dims(s))) {
                (0, _) => s,
                (1, Some(l)) => map2(&mut g, "gate", BinaryOp::Mul, s, l),
                (2, _) => {
                    let y = map1(&mut g, "abs", UnaryOp::Abs, s);
                    g.add_output(y);
                    s
                }
                (3, _) => {
                    let dims = vec![g.dims(s).iter().fold(SymInt::constant(1), |n, d| n * d)];
                    let flat = g.add1("flat", Reshape { dims }, &[s]).unwrap();
                    map1(&mut g, "tanh", UnaryOp::Tanh, flat)
                }
                _ => map1(&mut g, "sigmoid", UnaryOp::Sigmoid, s),
            };
            last = Some(s);
            if !g.outputs().contains(&y) {
                g.add_output(y);
            }
        }
        g.remove_dead();
        let before = g.clone();
        run_with(&mut g, &ALL).unwrap();
        verify(&g).unwrap();
        agree(&before, &g, seed, 1e-5);
        prop_assert_eq!(run_with(&mut g.clone(), &ALL), Ok(0));
        // and with all other passes before and behind
        canonicalize(&mut g).unwrap();
        run_with(&mut g, &ALL).unwrap();
        let report = canonicalize(&mut g).unwrap();
        prop_assert!(report.settled, "{}", report);
        agree(&before, &g, seed, 1e-5);
    }
}

//! Whole patterns through all passes, as exporters write them, and graphs at random.

use bespoke_ir::expr::{BinaryOp, Expr, UnaryOp};
use bespoke_ir::op::{Map, MatMul, Reshape, Softmax, Transpose};
use bespoke_ir::{DType, Graph, Scalar, TensorType, ValueId};
use proptest::prelude::*;

use crate::testing::{agree, f32s, ints, random_graph, steps, symbol};
use crate::{Report, canonicalize};

fn unary(g: &mut Graph, name: &str, op: UnaryOp, x: ValueId) -> ValueId {
    g.add1(name, Map::new(Expr::unary(op, DType::F32)), &[x])
        .unwrap()
}

fn binary(g: &mut Graph, name: &str, op: BinaryOp, a: ValueId, b: ValueId) -> ValueId {
    g.add1(name, Map::new(Expr::binary(op, DType::F32)), &[a, b])
        .unwrap()
}

fn number(g: &mut Graph, x: f64) -> ValueId {
    g.add_scalar("c", Scalar::float(DType::F32, x))
}

fn check(g: &mut Graph, tolerance: f64) -> Report {
    let before = g.clone();
    let report = canonicalize(g).unwrap();
    assert!(report.settled, "{report}");
    agree(&before, g, 17, tolerance);
    report
}

#[test]
fn a_product_with_bias_and_gelu() {
    let mut g = Graph::new("gelu");
    let n = symbol(&mut g, "N");
    let x = g.add_input(
        "x",
        TensorType::new(DType::F32, vec![n, 5.into(), 4.into()]),
    );
    let w = f32s(
        &mut g,
        "w",
        &[4, 3],
        &[
            0.1, 0.2, -0.3, 0.4, 0.5, -0.6, 0.7, 0.8, -0.9, 1.0, 1.1, -1.2,
        ],
    );
    let bias = f32s(&mut g, "bias", &[3], &[1.0, 2.0, 3.0]);
    let p = g.add1("product", MatMul::default(), &[x, w]).unwrap();
    let s = binary(&mut g, "bias_add", BinaryOp::Add, bias, p);
    let root = number(&mut g, 2f64.sqrt());
    let t = binary(&mut g, "scaled", BinaryOp::Div, s, root);
    let t = unary(&mut g, "erf", UnaryOp::Erf, t);
    let one = number(&mut g, 1.0);
    let t = binary(&mut g, "plus_one", BinaryOp::Add, t, one);
    let t = binary(&mut g, "times", BinaryOp::Mul, s, t);
    let half = number(&mut g, 0.5);
    let y = binary(&mut g, "gelu", BinaryOp::Mul, t, half);
    g.add_output(y);
    check(&mut g, 1e-6);
    insta::assert_snapshot!(g, @r"
    graph gelu(x: f32[N,5,4]) {
      %0 = matmul(x, w: f32[4,3]) : f32[N,5,3]  ; product
      %1 = map([1.0,2.0,3.0]:f32, %0) expr=(t2 = add(x0, x1); mul(mul(t2, add(erf(div(t2, 1.4142135381698608:f32)), 1.0:f32)), 0.5:f32)) : f32[N,5,3]  ; gelu
      return %1
    }
    ");
}

#[test]
fn hard_swish_in_pieces() {
    let mut g = Graph::new("hard_swish");
    let n = symbol(&mut g, "N");
    let x = g.add_input("x", TensorType::new(DType::F32, vec![n, 8.into()]));
    let three = number(&mut g, 3.0);
    let (zero, six) = (number(&mut g, 0.0), f32s(&mut g, "six", &[1], &[6.0]));
    let t = binary(&mut g, "add", BinaryOp::Add, x, three);
    let t = binary(&mut g, "low", BinaryOp::Max, t, zero);
    let t = binary(&mut g, "high", BinaryOp::Min, t, six);
    let t = binary(&mut g, "times", BinaryOp::Mul, x, t);
    let y = binary(&mut g, "div", BinaryOp::Div, t, six);
    g.add_output(y);
    check(&mut g, 0.0);
    insta::assert_snapshot!(g, @r"
    graph hard_swish(x: f32[N,8]) {
      %0 = map(x) expr=(div(mul(x0, min(max(add(x0, 3.0:f32), 0.0:f32), 6.0:f32)), 6.0:f32)) : f32[N,8]  ; div
      return %0
    }
    ");
}

#[test]
fn attention_with_a_mask() {
    let mut g = Graph::new("attention");
    let (n, s) = (symbol(&mut g, "N"), symbol(&mut g, "S"));
    let ty = TensorType::new(DType::F32, vec![n.clone(), s.clone(), 8.into()]);
    let (q, k) = (g.add_input("q", ty.clone()), g.add_input("k", ty));
    let mask = g.add_input(
        "mask",
        TensorType::new(DType::F32, vec![n.clone(), s.clone()]),
    );
    let heads = |g: &mut Graph, name: &str, x: ValueId, perm: &[usize]| {
        let dims = vec![n.clone(), s.clone(), 2.into(), 4.into()];
        let v = g
            .add1(format!("{name}_split"), Reshape { dims }, &[x])
            .unwrap();
        g.add1(
            format!("{name}_heads"),
            Transpose {
                perm: perm.to_vec(),
            },
            &[v],
        )
        .unwrap()
    };
    let q = heads(&mut g, "q", q, &[0, 2, 1, 3]);
    let k = heads(&mut g, "k", k, &[0, 2, 3, 1]);
    let scores = g.add1("scores", MatMul::default(), &[q, k]).unwrap();
    let eight = number(&mut g, 2.0);
    let scores = binary(&mut g, "scaled", BinaryOp::Div, scores, eight);
    let mask = g
        .add1(
            "mask4",
            Reshape {
                dims: vec![n.clone(), 1.into(), 1.into(), s.clone()],
            },
            &[mask],
        )
        .unwrap();
    let one = number(&mut g, 1.0);
    let mask = binary(&mut g, "inverse", BinaryOp::Sub, one, mask);
    let large = number(&mut g, -1e4);
    let mask = binary(&mut g, "penalty", BinaryOp::Mul, mask, large);
    let scores = binary(&mut g, "masked", BinaryOp::Add, scores, mask);
    let y = g
        .add1(
            "weights",
            Softmax {
                axis: 3,
                log: false,
            },
            &[scores],
        )
        .unwrap();
    g.add_output(y);
    check(&mut g, 1e-5);
    insta::assert_snapshot!(g, @r"
    graph attention(q: f32[N,S,8], k: f32[N,S,8], mask: f32[N,S]) {
      %0 = reshape(q) dims=[N,S,2,4] : f32[N,S,2,4]  ; q_split
      %1 = transpose(%0) perm=[0,2,1,3] : f32[N,2,S,4]  ; q_heads
      %2 = reshape(k) dims=[N,S,2,4] : f32[N,S,2,4]  ; k_split
      %3 = transpose(%2) perm=[0,2,3,1] : f32[N,2,4,S]  ; k_heads
      %4 = matmul(%1, %3) : f32[N,2,S,S]  ; scores
      %5 = reshape(mask) dims=[N,1,1,S] : f32[N,1,1,S]  ; mask4
      %6 = map(%4, %5) expr=(add(mul(x0, 0.5:f32), mul(sub(1.0:f32, x1), -10000.0:f32))) : f32[N,2,S,S]  ; masked
      %7 = softmax(%6) axis=3 : f32[N,2,S,S]  ; weights
      return %7
    }
    ");
}

#[test]
fn a_dense_layer_between_reshapes() {
    let mut g = Graph::new("dense");
    let n = symbol(&mut g, "N");
    let x = g.add_input(
        "x",
        TensorType::new(DType::F32, vec![n.clone(), 5.into(), 4.into()]),
    );
    let w = f32s(
        &mut g,
        "w",
        &[4, 3],
        &[
            0.1, 0.2, -0.3, 0.4, 0.5, -0.6, 0.7, 0.8, -0.9, 1.0, 1.1, -1.2,
        ],
    );
    let bias = f32s(&mut g, "bias", &[3], &[1.0, 2.0, 3.0]);
    let v = g
        .add1(
            "rows",
            Reshape {
                dims: vec![n.clone() * 5, 4.into()],
            },
            &[x],
        )
        .unwrap();
    let v = g.add1("product", MatMul::default(), &[v, w]).unwrap();
    let v = g
        .add1(
            "back",
            Reshape {
                dims: vec![n, 5.into(), 3.into()],
            },
            &[v],
        )
        .unwrap();
    let v = binary(&mut g, "bias_add", BinaryOp::Add, v, bias);
    let y = unary(&mut g, "tanh", UnaryOp::Tanh, v);
    g.add_output(y);
    check(&mut g, 0.0);
    insta::assert_snapshot!(g, @r"
    graph dense(x: f32[N,5,4]) {
      %0 = reshape(x) dims=[5*N,4] : f32[5*N,4]  ; rows
      %1 = matmul(%0, w: f32[4,3]) : f32[5*N,3]  ; product
      %2 = map(%1, [1.0,2.0,3.0]:f32) expr=(tanh(add(x0, x1))) : f32[5*N,3]  ; tanh
      %3 = reshape(%2) dims=[N,5,3] : f32[N,5,3]  ; back
      return %3
    }
    ");
}

#[test]
fn the_report_names_every_pass() {
    let mut g = Graph::new("t");
    let x = g.add_input("x", TensorType::fixed(DType::F32, &[2]));
    let v = g.add1("same", Reshape { dims: ints(&[2]) }, &[x]).unwrap();
    let y = unary(&mut g, "y", UnaryOp::Exp, v);
    g.add_output(y);
    let report = check(&mut g, 0.0);
    let names: Vec<&str> = report.passes.iter().map(|p| p.name).collect();
    assert_eq!(names, crate::all().map(|p| p.0).collect::<Vec<_>>());
    assert_eq!((report.changes(), report.rounds), (1, 2));
    let text = report.to_string();
    assert_eq!(text.lines().count(), names.len() + 1);
    assert!(text.contains("simplify: 1 changes"), "{text}");
    assert!(text.ends_with("2 rounds, settled"), "{text}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn passes_keep_what_a_graph_computes(steps in steps(), seed in any::<u64>()) {
        let mut g = random_graph(&steps);
        let before = g.clone();
        let names = |g: &Graph| -> Vec<String> {
            g.outputs().iter().map(|&v| g.value(v).name.clone()).collect()
        };
        let report = canonicalize(&mut g).unwrap();
        prop_assert!(report.settled, "{}", report);
        prop_assert_eq!(names(&before), names(&g));
        agree(&before, &g, seed, 1e-4);
        let again = canonicalize(&mut g.clone()).unwrap();
        prop_assert_eq!(again.changes(), 0);
    }

    #[test]
    fn each_pass_alone_keeps_what_a_graph_computes(steps in steps(), seed in any::<u64>()) {
        let before = random_graph(&steps);
        for (name, pass) in crate::all() {
            let mut g = before.clone();
            pass(&mut g).unwrap();
            bespoke_ir::verify::verify(&g).unwrap_or_else(|e| panic!("{name}: {e}\n{before}"));
            agree(&before, &g, seed, 1e-4);
        }
    }
}

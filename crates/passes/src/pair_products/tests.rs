//! Graphs before and after, what leaves a graph as it is, and halves of all kinds against the reference.

use bespoke_ir::expr::{BinaryOp, UnaryOp};
use bespoke_ir::op::Map;
use bespoke_ir::{DType, TensorType};
use proptest::prelude::*;

use super::*;
use crate::testing::{agree, f32s, symbol};

fn input(g: &mut Graph, name: &str) -> ValueId {
    let n = symbol(g, "N");
    g.add_input(
        name,
        TensorType::new(DType::F32, vec![n, 3.into(), 2.into()]),
    )
}

/// A weight of so many columns that differ.
fn weight(g: &mut Graph, name: &str, columns: i64, along: bool) -> ValueId {
    let at = g.value_bound() as f32;
    let values: Vec<f32> = (0..2 * columns).map(|i| (i as f32 * at).sin()).collect();
    let dims = if along { [columns, 2] } else { [2, columns] };
    f32s(g, name, &dims, &values)
}

fn product(g: &mut Graph, name: &str, x: ValueId, w: ValueId, along: bool) -> ValueId {
    let op = MatMul {
        transpose_a: false,
        transpose_b: along,
    };
    g.add1(name, op, &[x, w]).unwrap()
}

fn cut(g: &mut Graph, name: &str, v: ValueId, start: i64, width: i64) -> ValueId {
    let axis = g.dims(v).len() - 1;
    columns(g, name, v, axis, start, 1, width).unwrap()
}

/// `x0·sigmoid(x0)·x1`
fn silu(g: &mut Graph, gate: ValueId, up: ValueId) -> ValueId {
    let mut e = ExprBuilder::new(&[DType::F32, DType::F32]);
    let (a, b) = (e.input(0), e.input(1));
    let r = e.unary(UnaryOp::Sigmoid, a);
    let r = e.binary(BinaryOp::Mul, a, r);
    let r = e.binary(BinaryOp::Mul, r, b);
    g.add1("gated", Map::new(e.finish(r)), &[gate, up]).unwrap()
}

fn binary(g: &mut Graph, op: BinaryOp, a: ValueId, b: ValueId) -> ValueId {
    let map = Map::new(Expr::binary(op, DType::F32));
    g.add1("map", map, &[a, b]).unwrap()
}

/// Runs the pass, which changes so much, and nothing the second time.
fn check(g: &mut Graph, changes: usize) {
    let before = g.clone();
    assert_eq!(run(g), Ok(changes));
    bespoke_ir::verify::verify(g).unwrap();
    assert_eq!(run(g), Ok(0));
    agree(&before, g, 1, 1e-6);
}

#[test]
fn a_gate_and_what_it_gates_of_two_weights() {
    let mut g = Graph::new("t");
    let x = input(&mut g, "x");
    let w = weight(&mut g, "w_gate", 4, false);
    let gate = product(&mut g, "gate", x, w, false);
    let w = weight(&mut g, "w_up", 4, true);
    let up = product(&mut g, "up", x, w, true);
    let y = silu(&mut g, gate, up);
    g.add_output(y);
    check(&mut g, 1);
    insta::assert_snapshot!(g, @r"
    graph t(x: f32[N,3,2]) {
      %0 = transpose(w_gate: f32[2,4]) perm=[1,0] : f32[4,2]  ; w_gate
      %1 = reshape(%0) dims=[4,1,2] : f32[4,1,2]  ; w_gate
      %2 = reshape(w_up: f32[4,2]) dims=[4,1,2] : f32[4,1,2]  ; w_up
      %3 = concat(%1, %2) axis=1 : f32[4,2,2]  ; w_gate
      %4 = reshape(%3) dims=[8,2] : f32[8,2]  ; w_gate
      %5 = matmul(x, %4) transpose_b : f32[N,3,8]  ; gate
      %6 = slice(%5) starts=[0,0,0] steps=[1,1,2] dims=[N,3,4] : f32[N,3,4]  ; gate
      %7 = slice(%5) starts=[0,0,1] steps=[1,1,2] dims=[N,3,4] : f32[N,3,4]  ; up
      %8 = map(%6, %7) expr=(mul(mul(x0, sigmoid(x0)), x1)) : f32[N,3,4]  ; gated
      return %8
    }
    ");
}

#[test]
fn two_halves_of_one_weight_with_a_bias() {
    let mut g = Graph::new("t");
    let x = input(&mut g, "x");
    let w = weight(&mut g, "w", 8, false);
    let y = product(&mut g, "both", x, w, false);
    let bias = weight(&mut g, "bias", 4, false);
    let dims = vec![8.into()];
    let bias = g.add1("bias", Reshape { dims }, &[bias]).unwrap();
    let y = binary(&mut g, BinaryOp::Add, bias, y);
    let (up, gate) = (cut(&mut g, "up", y, 0, 4), cut(&mut g, "gate", y, 4, 4));
    let y = silu(&mut g, gate, up);
    g.add_output(y);
    check(&mut g, 1);
    insta::assert_snapshot!(g, @r"
    graph t(x: f32[N,3,2]) {
      %0 = reshape(bias: f32[2,4]) dims=[8] : f32[8]  ; bias
      %1 = slice(w: f32[2,8]) starts=[0,4] steps=[1,1] dims=[2,4] : f32[2,4]  ; w
      %2 = transpose(%1) perm=[1,0] : f32[4,2]  ; w
      %3 = reshape(%2) dims=[4,1,2] : f32[4,1,2]  ; w
      %4 = slice(w: f32[2,8]) starts=[0,0] steps=[1,1] dims=[2,4] : f32[2,4]  ; w
      %5 = transpose(%4) perm=[1,0] : f32[4,2]  ; w
      %6 = reshape(%5) dims=[4,1,2] : f32[4,1,2]  ; w
      %7 = concat(%3, %6) axis=1 : f32[4,2,2]  ; w
      %8 = reshape(%7) dims=[8,2] : f32[8,2]  ; w
      %9 = matmul(x, %8) transpose_b : f32[N,3,8]  ; both
      %10 = slice(%9) starts=[0,0,0] steps=[1,1,2] dims=[N,3,4] : f32[N,3,4]  ; gate
      %11 = slice(%9) starts=[0,0,1] steps=[1,1,2] dims=[N,3,4] : f32[N,3,4]  ; up
      %12 = slice(%0) starts=[4] steps=[1] dims=[4] : f32[4]  ; bias
      %13 = slice(%0) starts=[0] steps=[1] dims=[4] : f32[4]  ; bias
      %14 = map(%10, %11, %12, %13) expr=(t2 = add(x2, x0); mul(mul(t2, sigmoid(t2)), add(x3, x1))) : f32[N,3,4]  ; gated
      return %14
    }
    ");
}

#[test]
fn what_else_reads_a_half_keeps_it() {
    // a weight of two products, a half that leaves the model, three slices, products of two tensors, overlapping halves
    for case in 0..5 {
        let mut g = Graph::new("t");
        let (x, other) = (input(&mut g, "x"), input(&mut g, "other"));
        let w = weight(&mut g, "w", 8, false);
        let y = product(&mut g, "both", x, w, false);
        let (a, b) = match case {
            3 => {
                let a = weight(&mut g, "w_a", 4, false);
                let a = product(&mut g, "a", x, a, false);
                let b = weight(&mut g, "w_b", 4, false);
                (a, product(&mut g, "b", other, b, false))
            }
            4 => (cut(&mut g, "a", y, 0, 4), cut(&mut g, "b", y, 3, 4)),
            _ => (cut(&mut g, "a", y, 0, 4), cut(&mut g, "b", y, 4, 4)),
        };
        let z = silu(&mut g, a, b);
        g.add_output(z);
        match case {
            0 => {
                let again = product(&mut g, "again", other, w, false);
                g.add_output(again);
            }
            1 => g.add_output(a),
            2 => {
                let c = cut(&mut g, "c", y, 2, 4);
                g.add_output(c);
            }
            _ => {}
        }
        let before = g.to_string();
        assert_eq!(run(&mut g), Ok(0), "case {case}");
        assert_eq!(g.to_string().contains("concat"), before.contains("concat"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]
    /// Whatever the widths, orders and work around the halves.
    #[test]
    fn the_function_stays(
        width in 1i64..6,
        one in any::<bool>(),
        along in any::<[bool; 2]>(),
        swapped in any::<bool>(),
        work in 0u8..3,
        gap in 0i64..2,
        last in any::<bool>(),
    ) {
        let mut g = Graph::new("t");
        let x = input(&mut g, "x");
        let [mut a, mut b] = if one {
            let w = weight(&mut g, "w", 2 * width + gap, along[0]);
            let mut y = product(&mut g, "both", x, w, along[0]);
            if work > 0 {
                let v = weight(&mut g, "v", 2 * width + gap, true);
                let dims = vec![2.into(), (2 * width + gap).into()];
                let v = g.add1("v", Reshape { dims }, &[v]).unwrap();
                let v = columns(&mut g, "row", v, 0, 1, 1, 1).unwrap();
                y = binary(&mut g, if work == 1 { BinaryOp::Add } else { BinaryOp::Sub }, v, y);
            }
            [cut(&mut g, "a", y, 0, width), cut(&mut g, "b", y, width + gap, width)]
        } else {
            [0, 1].map(|i| {
                let w = weight(&mut g, "w", width, along[i]);
                product(&mut g, "p", x, w, along[i])
            })
        };
        if swapped {
            std::mem::swap(&mut a, &mut b);
        }
        let mut y = silu(&mut g, a, b);
        if last {
            y = binary(&mut g, BinaryOp::Add, y, y);
        }
        g.add_output(y);
        let before = g.clone();
        prop_assert_eq!(run(&mut g), Ok(1));
        bespoke_ir::verify::verify(&g).unwrap();
        agree(&before, &g, 3, 1e-6);
    }
}

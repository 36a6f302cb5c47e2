//! Every spelling, and what only looks like one.

use super::*;
use crate::testing::{agree, f32s};
use bespoke_ir::expr::Expr;
use bespoke_ir::op::{Map, Reshape};
use bespoke_ir::{DType, TensorType};

struct Writer {
    g: Graph,
    ty: DType,
}

impl Writer {
    fn new(ty: DType) -> (Writer, ValueId) {
        let mut g = Graph::new("t");
        let x = g.add_input("x", TensorType::fixed(ty, &[2, 3, 8]));
        (Writer { g, ty }, x)
    }

    fn unary(&mut self, name: &str, op: UnaryOp, x: ValueId) -> ValueId {
        self.g
            .add1(name, Map::new(Expr::unary(op, self.ty)), &[x])
            .unwrap()
    }

    fn binary(&mut self, name: &str, op: BinaryOp, a: ValueId, b: ValueId) -> ValueId {
        self.g
            .add1(name, Map::new(Expr::binary(op, self.ty)), &[a, b])
            .unwrap()
    }

    fn mean(&mut self, name: &str, x: ValueId) -> ValueId {
        let axes = vec![2];
        let op = Reduce {
            kind: ReduceKind::Mean,
            axes,
            keep_dims: true,
        };
        self.g.add1(name, op, &[x]).unwrap()
    }

    fn number(&mut self, x: f64) -> ValueId {
        self.g
            .add_scalar("c", bespoke_ir::Scalar::float(self.ty, x))
    }

    /// The variance by squares or powers, plus ε.
    fn variance(&mut self, d: ValueId, power: bool) -> ValueId {
        let square = if power {
            let two = self.number(2.0);
            self.binary("square", BinaryOp::Pow, d, two)
        } else {
            self.binary("square", BinaryOp::Mul, d, d)
        };
        let v = self.mean("variance", square);
        let epsilon = self.number(1e-5);
        self.binary("guarded", BinaryOp::Add, v, epsilon)
    }

    fn check(mut self, y: ValueId) -> Graph {
        self.g.add_output(y);
        let before = self.g.clone();
        assert_eq!(run(&mut self.g), Ok(1));
        assert_eq!(run(&mut self.g), Ok(0));
        bespoke_ir::verify::verify(&self.g).unwrap();
        agree(&before, &self.g, 7, 1e-4);
        self.g
    }
}

#[test]
fn layer_normalization_in_pieces() {
    for (power, inverse) in [(true, false), (false, false), (false, true)] {
        let (mut w, x) = Writer::new(DType::F32);
        let mean = w.mean("mean", x);
        let d = w.binary("centered", BinaryOp::Sub, x, mean);
        let v = w.variance(d, power);
        let y = if inverse {
            let r = w.unary("r", UnaryOp::Rsqrt, v);
            w.binary("normal", BinaryOp::Mul, r, d)
        } else {
            let r = w.unary("r", UnaryOp::Sqrt, v);
            w.binary("normal", BinaryOp::Div, d, r)
        };
        let scale = f32s(
            &mut w.g,
            "scale",
            &[8],
            &[0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0],
        );
        let y = w.binary("scaled", BinaryOp::Mul, y, scale);
        let g = w.check(y);
        if power {
            insta::assert_snapshot!(g, @r"
            graph t(x: f32[2,3,8]) {
              %0 = normalize(x) axes=[2] epsilon=0.000009999999747378752 center : f32[2,3,8]  ; normal
              %1 = map(%0) expr=(x0) : f32[2,3,8]  ; normal
              %2 = map(%1, scale: f32[8]) expr=(mul(x0, x1)) : f32[2,3,8]  ; scaled
              return %2
            }
            ");
        }
        assert_eq!(g.node_count(), 3);
    }
}

#[test]
fn layer_normalization_as_batch_normalization() {
    let (mut w, x) = Writer::new(DType::F32);
    let mean = w.mean("mean", x);
    let d = w.binary("difference", BinaryOp::Sub, x, mean);
    let v = w.variance(d, false);
    let r = w.unary("r", UnaryOp::Rsqrt, v);
    let gamma = f32s(
        &mut w.g,
        "gamma",
        &[8],
        &[0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0],
    );
    let beta = f32s(
        &mut w.g,
        "beta",
        &[8],
        &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0],
    );
    let m = w.binary("m", BinaryOp::Mul, r, gamma);
    let xm = w.binary("xm", BinaryOp::Mul, x, m);
    let shift = w.binary("shift", BinaryOp::Mul, mean, m);
    let rest = w.binary("rest", BinaryOp::Sub, beta, shift);
    let y = w.binary("y", BinaryOp::Add, xm, rest);
    insta::assert_snapshot!(w.check(y), @r"
    graph t(x: f32[2,3,8]) {
      %0 = normalize(x) axes=[2] epsilon=0.000009999999747378752 center : f32[2,3,8]  ; y
      %1 = map(%0, gamma: f32[8], beta: f32[8]) expr=(add(mul(x0, x1), x2)) : f32[2,3,8]  ; y
      return %1
    }
    ");
}

#[test]
fn root_mean_square_in_pieces_keeps_its_casts() {
    let (mut w, x) = Writer::new(DType::F16);
    let cast = |from, to| Map::new(Expr::cast(from, to));
    w.ty = DType::F32;
    let wide =
        w.g.add1("wide", cast(DType::F16, DType::F32), &[x])
            .unwrap();
    let v = w.variance(wide, true);
    let r = w.unary("r", UnaryOp::Sqrt, v);
    let r = w.unary("inverse", UnaryOp::Recip, r);
    let y = w.binary("normal", BinaryOp::Mul, wide, r);
    let y =
        w.g.add1("narrow", cast(DType::F32, DType::F16), &[y])
            .unwrap();
    insta::assert_snapshot!(w.check(y), @r"
    graph t(x: f16[2,3,8]) {
      %0 = map(x) expr=(f32(x0)) : f32[2,3,8]  ; wide
      %1 = normalize(%0) axes=[2] epsilon=0.000009999999747378752 : f32[2,3,8]  ; normal
      %2 = map(%1) expr=(x0) : f32[2,3,8]  ; normal
      %3 = map(%2) expr=(f16(x0)) : f16[2,3,8]  ; narrow
      return %3
    }
    ");
}

#[test]
fn statistics_without_kept_axes_are_followed_through_their_reshape() {
    let (mut w, x) = Writer::new(DType::F32);
    let square = w.binary("square", BinaryOp::Mul, x, x);
    let op = Reduce {
        kind: ReduceKind::Mean,
        axes: vec![2],
        keep_dims: false,
    };
    let v = w.g.add1("v", op, &[square]).unwrap();
    let v =
        w.g.add1(
            "kept",
            Reshape {
                dims: crate::testing::ints(&[2, 3, 1]),
            },
            &[v],
        )
        .unwrap();
    let epsilon = w.number(1e-6);
    let v = w.binary("guarded", BinaryOp::Add, epsilon, v);
    let r = w.unary("r", UnaryOp::Rsqrt, v);
    let y = w.binary("y", BinaryOp::Mul, x, r);
    let g = w.check(y);
    assert_eq!(g.node_count(), 2);
}

#[test]
fn what_only_looks_alike_stays() {
    // the variance of one tensor, the deviation of another; and another mean
    for other in [true, false] {
        let (mut w, x) = Writer::new(DType::F32);
        let z =
            w.g.add_input("z", TensorType::fixed(DType::F32, &[2, 3, 8]));
        let mean = w.mean("mean", x);
        let d = w.binary("centered", BinaryOp::Sub, x, mean);
        let v = w.variance(d, false);
        let r = w.unary("r", UnaryOp::Sqrt, v);
        let e = if other {
            let mean = w.mean("other", z);
            w.binary("e", BinaryOp::Sub, z, mean)
        } else {
            x
        };
        let y = w.binary("y", BinaryOp::Div, e, r);
        w.g.add_output(y);
        assert_eq!(run(&mut w.g), Ok(0));
    }
}

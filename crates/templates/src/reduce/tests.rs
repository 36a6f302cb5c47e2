//! The twin against the reference, and the text of a source.

use bespoke_device::Arch;
use bespoke_ir::TensorType;
use bespoke_reference::expr::eval_expr;
use bespoke_reference::{Number, Tensor};

use super::*;
use crate::expr::regions;
use crate::oracle::Oracle;
use crate::view::Strided;

/// The prologue point by point, then the reference's reduction, then the epilogue.
fn check(t: &Reduce, s: &Sample) {
    let oracle = Oracle::new(s);
    let rank = t.space().rank();
    let extents = oracle.args().ints("d", rank);
    let read = |prefix: &str, n: usize, rank: usize| -> Vec<(Tensor, Strided)> {
        (0..n)
            .map(|i| oracle.read(&format!("{prefix}{i}"), rank))
            .collect()
    };
    let (x, e) = (
        read("x", t.prologue.inputs().len(), rank),
        read("e", t.frame().extras().len(), t.outer),
    );
    let whole: regions::Region = extents.iter().map(|&d| 0..d).collect();
    let mut values = Vec::new();
    regions::for_each_row(&whole, rank, |position, _| {
        let inputs: Vec<Number> = x
            .iter()
            .map(|(t, v)| t.get(v.at(position) as usize))
            .collect();
        values.push(eval_expr(&t.prologue, &inputs, position, &mut Vec::new()));
    });
    let values = Tensor::new(t.value(), &extents, values).unwrap();
    let reduced = reference(t, &values);
    let kept: Vec<i64> = extents[..t.outer].to_vec();
    oracle.check(&kept, |p| {
        let flat = p.iter().zip(&kept).fold(0, |at, (i, d)| at * d + i);
        let mut inputs = vec![reduced.get(flat as usize)];
        inputs.extend(e.iter().map(|(t, v)| t.get(v.at(p) as usize)));
        eval_expr(&t.epilogue, &inputs, p, &mut Vec::new())
    });
}

fn reference(t: &Reduce, values: &Tensor) -> Tensor {
    let axes = (t.outer..t.space().rank()).collect();
    let op = bespoke_ir::op::Reduce {
        kind: t.kind,
        axes,
        keep_dims: false,
    };
    let mut g = bespoke_ir::Graph::new("t");
    let x = g.add_input("x", TensorType::fixed(t.value(), values.dims()));
    let y = g.add1("y", op, &[x]).unwrap();
    g.add_output(y);
    bespoke_reference::run(&g, std::slice::from_ref(values), &[])
        .unwrap()
        .remove(0)
}

#[test]
fn twin_and_reference_agree() {
    for seed in 0..40 {
        for (t, s) in typed_samples(&mut Rng::new(seed)) {
            check(&t, &s);
        }
    }
}

#[test]
fn limits_are_those_of_the_types() {
    assert_eq!(limit(DType::I8, true), 127);
    assert_eq!(limit(DType::I8, false), -128);
    assert_eq!(limit(DType::I64, false), i64::MIN);
    assert_eq!(limit(DType::U16, true), 65535);
    assert_eq!(limit(DType::U64, true) as u64, u64::MAX);
    assert_eq!(limit(DType::Bool, true), 1);
}

#[test]
fn definitions_of_a_mean() {
    let x = Expr::identity(DType::F16);
    let t = Reduce {
        kind: ReduceKind::Mean,
        outer: 1,
        inner: 1,
        prologue: x.clone(),
        epilogue: x,
    };
    insta::assert_snapshot!(t.definitions(&DeviceProps::preset(Arch::sm(89))));
}

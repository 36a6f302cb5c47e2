//! The twin against the reference, and the text of a source.

use bespoke_device::{Arch, DeviceProps};
use bespoke_ir::expr::{BinaryOp, ExprBuilder};
use bespoke_reference::Tensor;
use bespoke_reference::expr::eval_expr;

use super::*;
use crate::oracle::Oracle;
use crate::sample::{Rng, SampleSlot};

fn check(t: &Pointwise, s: &Sample) {
    let oracle = Oracle::new(s);
    let extents = oracle.args().ints("d", t.rank);
    let inputs: Vec<(Tensor, Strided)> = (0..t.inputs().len())
        .map(|i| oracle.read(&format!("x{i}"), t.rank))
        .collect();
    for (k, e) in t.outputs.iter().enumerate() {
        oracle.check_result(&format!("y{k}"), &extents, |position| {
            let values: Vec<_> = inputs
                .iter()
                .map(|(x, v)| x.get(v.at(position) as usize))
                .collect();
            eval_expr(e, &values, position, &mut Vec::new())
        });
    }
}

#[test]
fn twin_and_reference_agree() {
    for seed in 0..60 {
        for (t, s) in typed_samples(&mut Rng::new(seed)) {
            check(&t, &s);
        }
    }
}

/// A sample over plain results and the given operand.
fn one_operand(
    t: &Pointwise,
    extents: &[i64],
    x: &Strided,
    data: Vec<u8>,
    y: &Strided,
    written: usize,
) -> Sample {
    let mut slots: Vec<SampleSlot> = extents.iter().map(|&d| SampleSlot::Int(d)).collect();
    for (view, tensor) in [
        (y, SampleSlot::Write(vec![0; written])),
        (x, SampleSlot::Read(data)),
    ] {
        slots.push(tensor);
        slots.push(SampleSlot::Int(view.offset));
        slots.extend(view.strides.iter().map(|&s| SampleSlot::Int(s)));
    }
    Sample {
        template: Arc::new(t.clone()),
        slots,
        tolerance: 0.0,
    }
}

#[test]
fn large_transposes_and_coordinates() {
    // y[j][i] = x[i][j] + 1000 i, large enough for several threads
    let mut b = ExprBuilder::new(&[DType::F32]);
    let x = b.input(0);
    let i = b.coord(1);
    let i = b.cast(DType::F32, i);
    let k = b.number(DType::F32, 1000.0);
    let i = b.binary(BinaryOp::Mul, i, k);
    let e = b.binary(BinaryOp::Add, x, i);
    let (rows, columns) = (300i64, 333i64);
    let data: Vec<u8> = (0..rows * columns)
        .flat_map(|v| (v as f32).to_le_bytes())
        .collect();
    for e in [b.finish(e), Expr::identity(DType::F32)] {
        let t = Pointwise {
            rank: 2,
            outputs: vec![e],
        };
        let x = Strided {
            offset: 0,
            strides: vec![1, columns],
        };
        let y = Strided {
            offset: 0,
            strides: vec![rows, 1],
        };
        check(
            &t,
            &one_operand(&t, &[columns, rows], &x, data.clone(), &y, data.len()),
        );
    }
}

#[test]
fn a_result_outside_its_memory_is_refused() {
    let t = Pointwise {
        rank: 1,
        outputs: vec![Expr::identity(DType::F32)],
    };
    let view = |offset| Strided {
        offset,
        strides: vec![1],
    };
    let s = one_operand(&t, &[5], &view(0), vec![0; 20], &view(1), 20);
    assert_eq!(
        s.run_twin().unwrap_err().0,
        "view `y` reaches elements 1 to 5 of a tensor of 5"
    );
}

#[test]
fn source_of_a_broadcast_sum() {
    let t = Pointwise {
        rank: 2,
        outputs: vec![Expr::binary(BinaryOp::Add, DType::F16)],
    };
    insta::assert_snapshot!(t.definitions(&DeviceProps::preset(Arch::sm(89))));
}

//! The interpreter against the reference, on random expressions.

use bespoke_ir::expr::{BinaryOp, ExprBuilder, Scalar, UnaryOp};
use bespoke_reference::Number;
use proptest::prelude::*;

use super::*;
use crate::expr::lanes::View;
use crate::view::Strided;

/// A random expression over two operands of a type: each choice picks an instruction and its registers.
fn random_expr(dtype: DType, choices: &[(u8, u8, u8)]) -> Expr {
    let mut b = ExprBuilder::new(&[dtype, dtype]);
    let mut regs = vec![b.input(0), b.input(1), b.number(dtype, 3.0)];
    let i = b.coord(1);
    regs.push(b.cast(dtype, i));
    for &(op, x, y) in choices {
        let (x, y) = (regs[x as usize % regs.len()], regs[y as usize % regs.len()]);
        // exact instructions only: the functions of the reals have tests of their own
        let next = match op % 10 {
            0 => b.binary(BinaryOp::Add, x, y),
            1 => b.binary(BinaryOp::Sub, x, y),
            2 => b.binary(BinaryOp::Mul, x, y),
            3 => b.binary(BinaryOp::Max, x, y),
            4 => b.binary(BinaryOp::Min, x, y),
            5 => b.unary(UnaryOp::Neg, x),
            6 => b.binary(BinaryOp::Div, x, y),
            7 => {
                let c = b.binary(BinaryOp::Lt, x, y);
                b.select(c, y, x)
            }
            8 => {
                let wide = b.cast(DType::F64, x);
                let wide = b.unary(UnaryOp::Floor, wide);
                b.cast(dtype, wide)
            }
            _ => b.unary(UnaryOp::Abs, x),
        };
        regs.push(next);
    }
    let last = regs[regs.len() - 1];
    b.finish(last)
}

fn f32_of(bytes: &[u8]) -> f64 {
    f64::from(f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

proptest! {
    #[test]
    fn floats_agree_bit_for_bit(
        choices in proptest::collection::vec(any::<(u8, u8, u8)>(), 1..12),
        values in proptest::collection::vec(-8i8..8, 8..40),
        count in 1usize..1200,
        strides in (0i64..3, 0i64..3, 1i64..3),
    ) {
        let expr = random_expr(DType::F32, &choices);
        let data: Vec<f32> = (0..count * 2 + 1).map(|i| f32::from(values[i % values.len()]) * 0.75).collect();
        let mut memory = vec![0f32; count * 2];
        let program = Program::new(&expr);
        let lanes = [
            Lane { elements: Elements::F32(&data), start: 0, stride: strides.0 },
            Lane { elements: Elements::F32(&data), start: 1, stride: strides.1 },
        ];
        let mut elements = ElementsMut::F32(&mut memory);
        let mut out = LaneMut { elements: &mut elements, start: 0, stride: strides.2 };
        Evaluator::new(&program).run(&lanes, &[4, 7], 1, count, &mut out);
        let mut registers = Vec::new();
        for k in 0..count {
            let inputs = [strides.0, strides.1].map(|s| s as usize * k);
            let inputs = [data[inputs[0]], data[inputs[1] + 1]].map(|x| Number::F(f64::from(x)));
            let want = bespoke_reference::expr::eval_expr(&expr, &inputs, &[4, 7 + k as i64], &mut registers);
            let got = f64::from(memory[k * strides.2 as usize]);
            prop_assert!(got == want.to_f64() || (got.is_nan() && want.to_f64().is_nan()), "{expr}: {got} {want:?}");
        }
    }

    #[test]
    fn integers_agree(
        choices in proptest::collection::vec(any::<(u8, u8, u8)>(), 1..12),
        values in proptest::collection::vec(any::<i16>(), 8..40),
        count in 1usize..600,
    ) {
        let expr = random_expr(DType::I16, &choices);
        let data: Vec<i16> = (0..=count).map(|i| values[i % values.len()]).collect();
        let mut memory = vec![0i16; count];
        let program = Program::new(&expr);
        let lanes = [Lane::new(Elements::I16(&data)), Lane::new(Elements::I16(&data)).skip(1)];
        let mut elements = ElementsMut::I16(&mut memory);
        Evaluator::new(&program).run(&lanes, &[0, 0], 1, count, &mut LaneMut { elements: &mut elements, start: 0, stride: 1 });
        let mut registers = Vec::new();
        for k in 0..count {
            let inputs = [data[k], data[k + 1]].map(|x| Number::I(i128::from(x)));
            let want = bespoke_reference::expr::eval_expr(&expr, &inputs, &[0, k as i64], &mut registers);
            prop_assert_eq!(i128::from(memory[k]), want.to_int(), "{}", &expr);
        }
    }
}

/// Every instruction that a type has, on values that meet the corner cases, for one type after the other.
#[test]
fn every_instruction_agrees_with_the_reference() {
    let corner = [
        0.0,
        1.0,
        -1.0,
        2.0,
        -3.0,
        7.5,
        -0.5,
        0.3,
        100.0,
        -128.0,
        1e9,
        f64::NAN,
        f64::INFINITY,
        f64::NEG_INFINITY,
    ];
    for dtype in [
        DType::F32,
        DType::F64,
        DType::I8,
        DType::I32,
        DType::I64,
        DType::U8,
        DType::U64,
        DType::Bool,
    ] {
        let values: Vec<Scalar> = corner
            .iter()
            .filter(|v| {
                dtype.is_float() || (v.is_finite() && (!dtype.is_unsigned_int() || **v >= 0.0))
            })
            .map(|&v| {
                Scalar::new(
                    dtype,
                    if dtype == DType::Bool {
                        f64::from(u8::from(v > 0.0))
                    } else {
                        v
                    },
                )
            })
            .collect();
        let number = |s: Scalar| {
            if dtype.is_float() {
                Number::F(s.as_f64())
            } else {
                Number::I(i128::from(s.as_i64()))
            }
            .cast(dtype)
        };
        let bytes: Vec<u8> = values
            .iter()
            .flat_map(|&v| bespoke_ir::op::map::scalar_bytes(v))
            .collect();
        let mut aligned = vec![0u64; bytes.len().div_ceil(8)];
        let memory = &mut bytemuck::cast_slice_mut(&mut aligned)[..bytes.len()];
        memory.copy_from_slice(&bytes);
        let elements = Elements::of(dtype, memory).unwrap();
        let mut exprs: Vec<Expr> = Vec::new();
        for &op in UnaryOp::ALL {
            if dtype != DType::Bool || matches!(op, UnaryOp::Not) {
                let mut b = ExprBuilder::new(&[dtype, dtype]);
                let x = b.input(0);
                let y = b.unary(op, x);
                exprs.push(b.finish(y));
            }
        }
        for &op in BinaryOp::ALL {
            let logic = matches!(op, BinaryOp::And | BinaryOp::Or | BinaryOp::Xor);
            let shift = matches!(op, BinaryOp::Shl | BinaryOp::Shr);
            if (dtype.is_float() && (logic || shift))
                || (dtype == DType::Bool && !logic && !op.is_comparison())
            {
                continue;
            }
            exprs.push(Expr::binary(op, dtype));
        }
        for expr in exprs {
            let ty = expr.dtype();
            let program = Program::new(&expr);
            let mut evaluator = Evaluator::new(&program);
            for (k, &second) in values.iter().enumerate() {
                let lanes = [
                    Lane::new(elements),
                    Lane {
                        elements,
                        start: k as i64,
                        stride: 0,
                    },
                ];
                let mut out = vec![0u64; values.len()];
                let size = ty.size().unwrap();
                let mut target = ElementsMut::of(
                    ty,
                    &mut bytemuck::cast_slice_mut(&mut out)[..values.len() * size],
                )
                .unwrap();
                evaluator.run(
                    &lanes,
                    &[],
                    0,
                    values.len(),
                    &mut LaneMut {
                        elements: &mut target,
                        start: 0,
                        stride: 1,
                    },
                );
                let out: &[u8] = bytemuck::cast_slice(&out);
                for (i, &first) in values.iter().enumerate() {
                    let want = bespoke_reference::expr::eval_expr(
                        &expr,
                        &[number(first), number(second)],
                        &[],
                        &mut Vec::new(),
                    );
                    let got = &out[i * size..][..size];
                    let agree = match ty {
                        DType::F32 => close(f32_of(got), want.to_f64(), 1e-6),
                        DType::F64 => close(
                            f64::from_le_bytes(got.try_into().unwrap()),
                            want.to_f64(),
                            1e-13,
                        ),
                        _ => {
                            let mut wide = [0u8; 16];
                            wide[..size].copy_from_slice(got);
                            let mask = (1i128 << (8 * size)) - 1;
                            i128::from_le_bytes(wide) == want.to_int() & mask
                        }
                    };
                    assert!(
                        agree,
                        "{dtype} {expr} at {first}, {second}: {got:?}, not {want:?}"
                    );
                }
            }
        }
    }
}

fn close(a: f64, b: f64, relative: f64) -> bool {
    a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= relative * b.abs().max(1e-30)
}

#[test]
fn narrow_floats_round_once_and_bools_select() {
    let mut b = ExprBuilder::new(&[DType::F16, DType::Bool, DType::F32]);
    let (x, c, w) = (b.input(0), b.input(1), b.input(2));
    let w = b.cast(DType::F16, w);
    let sum = b.binary(BinaryOp::Add, x, w);
    let y = b.select(c, sum, x);
    let expr = b.finish(y);
    let x: Vec<half::f16> = (0..700).map(|i| half::f16::from_f32(i as f32)).collect();
    let c: Vec<u8> = (0..700).map(|i| u8::from(i % 3 == 0)).collect();
    let w: Vec<f32> = (0..700).map(|i| i as f32 * 1e-3).collect();
    let view = |elements| {
        View::new(
            "x",
            elements,
            Strided {
                offset: 0,
                strides: vec![1],
            },
            &[700],
        )
        .unwrap()
    };
    let f = Function::new(
        &expr,
        vec![
            view(Elements::F16(&x)),
            view(Elements::Bool(&c)),
            view(Elements::F32(&w)),
        ],
    );
    let mut y = vec![half::f16::ZERO; 700];
    let mut out = ElementsMut::F16(&mut y);
    f.worker().run(
        &[],
        &[0],
        0,
        700,
        &mut LaneMut {
            elements: &mut out,
            start: 0,
            stride: 1,
        },
    );
    for i in 0..700 {
        let sum = half::f16::from_f32(x[i].to_f32() + half::f16::from_f32(w[i]).to_f32());
        assert_eq!(y[i], if i % 3 == 0 { sum } else { x[i] });
    }
}

#[test]
fn a_view_that_leaves_its_memory_is_refused() {
    let data = [0f32; 10];
    let e = View::new(
        "x0",
        Elements::F32(&data),
        Strided {
            offset: 1,
            strides: vec![4, 1],
        },
        &[3, 2],
    )
    .unwrap_err();
    assert_eq!(e.0, "view `x0` reaches elements 1 to 10 of a tensor of 10");
    assert!(
        View::new(
            "x0",
            Elements::F32(&data),
            Strided {
                offset: 1,
                strides: vec![4, 1]
            },
            &[0, 99]
        )
        .is_ok()
    );
    assert!(
        View::new(
            "x0",
            Elements::F32(&data),
            Strided {
                offset: 4,
                strides: vec![-4, 1]
            },
            &[2, 2]
        )
        .is_ok()
    );
    assert!(
        View::new(
            "x0",
            Elements::F32(&data),
            Strided {
                offset: 3,
                strides: vec![-4, 1]
            },
            &[2, 2]
        )
        .is_err()
    );
}

//! Attention and RotaryEmbedding of the standard.

use bespoke_ir::DType;
use bespoke_reference::Tensor;
use proptest::prelude::*;

use crate::model::{Attr, Net};
use crate::plain::{Array, Noise, attend, each, expect, rotate};

const SIZE: usize = 4;

#[derive(Clone, Copy, Debug)]
enum Mask {
    None,
    Choice,
    /// With fewer keys than there are.
    Short,
    Sum,
}

#[derive(Clone, Debug)]
struct Case {
    seed: u64,
    batch: usize,
    shared: [usize; 2],
    rows: usize,
    new: usize,
    past: Option<usize>,
    split: bool,
    causal: bool,
    mask: Mask,
    cap: f64,
    counted: bool,
    left: Option<usize>,
}

fn case() -> impl Strategy<Value = Case> {
    let shape = (1..3usize, [1..3usize, 1..3usize], 1..4usize, 1..5usize);
    let past = proptest::option::of(0..4usize);
    let mask = prop_oneof![
        Just(Mask::None),
        Just(Mask::Choice),
        Just(Mask::Short),
        Just(Mask::Sum)
    ];
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    let left = proptest::option::of(0..3usize);
    (any::<u64>(), shape, past, mask, flags, left).prop_map(
        |(seed, shape, past, mask, flags, left)| {
            let (split, causal, capped, counted) = flags;
            let (batch, shared, rows, new) = shape;
            Case {
                seed,
                batch,
                shared,
                rows,
                new,
                past,
                split,
                causal,
                mask,
                cap: if capped { 1.5 } else { 0.0 },
                counted: counted && past.is_none(),
                left,
            }
        },
    )
}

/// The operands, as the loops take them, and the result of both.
fn check(case: &Case) {
    let noise = &mut Noise(case.seed);
    let Case {
        batch, rows, new, ..
    } = *case;
    let [groups, times] = case.shared;
    let heads = groups * times;
    let past = case.past.unwrap_or(0);
    let total = past + new;
    let mut net = Net::new(25, DType::F32);
    let mut tensors = Vec::new();
    let mut operand = |net: Net, name: &str, heads: usize, rows: usize| {
        let x = noise.array(&[batch, heads, rows, SIZE]);
        let (given, dims) = match case.split {
            true => (x.join(), format!("B {name}_n {}", heads * SIZE)),
            false => (x.clone(), format!("B {heads} {name}_n {SIZE}")),
        };
        tensors.push(given.tensor(DType::F32));
        (net.floats(name, &dims), x)
    };
    let (q, k, v);
    (net, q) = operand(net, "q", heads, rows);
    (net, k) = operand(net, "k", groups, new);
    (net, v) = operand(net, "v", groups, new);
    let mut inputs = ["q", "k", "v", "_", "_", "_", "_"];
    let columns = if matches!(case.mask, Mask::Short) {
        total.min(2)
    } else {
        total
    };
    let mut added = Array::zeros(&[batch, 1, rows, total]);
    match case.mask {
        Mask::None => {}
        Mask::Choice | Mask::Short => {
            let bits = noise.bits(rows * columns);
            net = net.input("mask", DType::Bool, &format!("M {columns}"));
            let dims = [rows as i64, columns as i64];
            tensors.push(Tensor::from_i64(DType::Bool, &dims, &bits).unwrap());
            each(&[batch, 1, rows, total], |at| {
                if at[3] >= columns || bits[at[2] * columns + at[3]] == 0 {
                    added.set(at, f64::NEG_INFINITY);
                }
            });
        }
        Mask::Sum => {
            net = net.floats("mask", &format!("B 1 M {total}"));
            added = noise.array(&added.dims);
            tensors.push(added.tensor(DType::F32));
        }
    }
    if !matches!(case.mask, Mask::None) {
        inputs[3] = "mask";
    }
    let (mut keys, mut values) = (k, v);
    if case.past.is_some() {
        let mut cache = |net: Net, name: &str| {
            let x = noise.array(&[batch, groups, past, SIZE]);
            tensors.push(x.tensor(DType::F32));
            (net.floats(name, &format!("B {groups} P {SIZE}")), x)
        };
        let (pk, pv);
        (net, pk) = cache(net, "pk");
        (net, pv) = cache(net, "pv");
        (keys, values) = (pk.then(&keys), pv.then(&values));
        (inputs[4], inputs[5]) = ("pk", "pv");
    }
    let counts: Vec<i64> = (0..batch).map(|_| noise.below(total + 1) as i64).collect();
    if case.counted {
        net = net.input("count", DType::I64, "B");
        tensors.push(Tensor::from_i64(DType::I64, &[batch as i64], &counts).unwrap());
        inputs[6] = "count";
    }
    let mut attrs = vec![
        Attr::Int("is_causal", case.causal.into()),
        Attr::Float("softcap", case.cap as f32),
        Attr::Float("scale", 0.75),
        Attr::Int("left_window_size", case.left.map_or(-1, |l| l as i64)),
    ];
    if case.split {
        attrs.push(Attr::Int("q_num_heads", heads as i64));
        attrs.push(Attr::Int("kv_num_heads", groups as i64));
    }
    let net = net
        .node(
            "y present_k present_v",
            "Attention",
            &inputs.join(" "),
            &attrs,
        )
        .gives("y present_k present_v");
    let y = attend(&q, &keys, &values, 0.75, case.cap, |[b, _, m, n]| {
        let first = if case.counted {
            counts[b] - rows as i64
        } else {
            past as i64
        };
        let (at, n) = (first + m as i64, n as i64);
        let hidden = (case.causal && n > at)
            || case.left.is_some_and(|l| at - n > l as i64)
            || (case.counted && n >= counts[b]);
        let bias = added.at(&[b, 0, m, n as usize]);
        (!hidden && bias.is_finite()).then_some(bias)
    });
    let outputs = net.evaluate(&tensors);
    expect(&outputs[0], &if case.split { y.join() } else { y });
    expect(&outputs[1], &keys);
    expect(&outputs[2], &values);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn attention_is_what_the_loops_say(case in case()) {
        check(&case);
    }

    #[test]
    fn rotations_turn_pairs(
        seed in any::<u64>(),
        (batch, heads, rows) in (1..3usize, 1..3usize, 1..4usize),
        (half, rest) in (1..4usize, 0..3usize),
        (interleaved, split) in (any::<bool>(), any::<bool>()),
        own in any::<bool>(),
    ) {
        let noise = &mut Noise(seed);
        let size = 2 * half + 2 * rest;
        let x = noise.array(&[batch, heads, rows, size]);
        let (cos, sin) = (noise.array(&[6, half]), noise.array(&[6, half]));
        let at: Vec<i64> = (0..batch * rows).map(|_| noise.below(6) as i64).collect();
        let y = rotate(&x, &cos, &sin, interleaved, |b, m| at[b * rows + m] as usize);
        let dims = match split {
            true => format!("B M {}", heads * size),
            false => format!("B {heads} M {size}"),
        };
        let inputs = if own { "x at cos sin" } else { "x cos sin at" };
        let mut attrs = vec![
            Attr::Int("interleaved", interleaved.into()),
            Attr::Int("num_heads", heads as i64),
        ];
        if rest > 0 {
            attrs.push(Attr::Int("rotary_embedding_dim", 2 * half as i64));
        }
        let net = Net::new(23, DType::F32)
            .floats("x", &dims)
            .input("at", DType::I64, "B M")
            .weight("cos", &cos)
            .weight("sin", &sin)
            .node("y", if own { ".RotaryEmbedding" } else { "RotaryEmbedding" }, inputs, &attrs)
            .gives("y");
        let given = if split { x.join() } else { x };
        let at = Tensor::from_i64(DType::I64, &[batch as i64, rows as i64], &at).unwrap();
        let outputs = net.evaluate(&[given.tensor(DType::F32), at]);
        expect(&outputs[0], &if split { y.join() } else { y });
    }
}

/// A query that sees no key is 0, and so are its shares.
#[test]
fn a_query_that_sees_nothing_is_zero() {
    let x = Noise(3).array(&[1, 1, 2, SIZE]);
    let net = Net::new(23, DType::F32)
        .floats("x", "1 1 2 4")
        .input("mask", DType::Bool, "2 2")
        .node(
            "y _ _ shares",
            "Attention",
            "x x x mask",
            &[Attr::Int("qk_matmul_output_mode", 3)],
        )
        .gives("y shares");
    let mask = Tensor::from_i64(DType::Bool, &[2, 2], &[0, 0, 1, 0]).unwrap();
    let outputs = net.evaluate(&[x.tensor(DType::F32), mask]);
    assert_eq!(outputs[0].to_f64s()[..SIZE], [0.0; SIZE]);
    assert_eq!(outputs[0].to_f64s()[SIZE..], x.data[..SIZE]);
    assert_eq!(outputs[1].to_f64s(), [0.0, 0.0, 1.0, 0.0]);
}

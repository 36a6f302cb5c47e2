//! MultiHeadAttention and Attention of ONNX Runtime, and an encoder as its optimiser writes it.

use bespoke_ir::DType;
use bespoke_reference::Tensor;
use proptest::prelude::*;

use crate::model::{Attr, Net, run_both};
use crate::plain::{Array, Noise, attend, expect};

const SIZE: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Form {
    Plain,
    /// Queries, keys and values in one tensor of five axes.
    Packed,
    /// Keys and values in one tensor of five axes.
    PackedKeys,
    /// Keys and values as heads already.
    Heads,
    /// The projections too.
    Projected,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Mask {
    None,
    Keys,
    Pairs,
    Lengths,
}

#[derive(Clone, Debug)]
struct Case {
    seed: u64,
    batch: usize,
    heads: usize,
    rows: usize,
    keys: usize,
    past: Option<usize>,
    form: Form,
    mask: Mask,
    causal: bool,
    biased: bool,
    added: bool,
}

fn case() -> impl Strategy<Value = Case> {
    let form = prop_oneof![
        Just(Form::Plain),
        Just(Form::Packed),
        Just(Form::PackedKeys),
        Just(Form::Heads),
        Just(Form::Projected)
    ];
    let mask = prop_oneof![
        Just(Mask::None),
        Just(Mask::Keys),
        Just(Mask::Pairs),
        Just(Mask::Lengths)
    ];
    let shape = (1..3usize, 1..3usize, 1..4usize, 1..5usize);
    let past = proptest::option::of(1..4usize);
    (any::<u64>(), shape, past, form, mask, any::<[bool; 3]>()).prop_map(
        |(seed, (batch, heads, rows, keys), past, form, mask, [causal, biased, added])| {
            let own = matches!(form, Form::Packed | Form::Projected) || causal || past.is_some();
            Case {
                seed,
                batch,
                heads,
                rows,
                keys: if own { rows } else { keys },
                past: past.filter(|_| form != Form::Heads),
                form,
                mask,
                causal,
                biased,
                added,
            }
        },
    )
}

/// `[B, N, H·D]` of each, as `[B, N, H, parts, D]`.
fn pack(parts: &[&Array], heads: usize) -> Array {
    let (b, n) = (parts[0].dims[0], parts[0].dims[1]);
    let mut all = Array::zeros(&[b, n, heads, parts.len(), SIZE]);
    crate::plain::each(&all.dims.clone(), |at| {
        let &[b, n, h, p, d] = at else { return };
        all.set(at, parts[p].at(&[b, n, h * SIZE + d]));
    });
    all
}

fn plus(x: &Array, bias: &[f64]) -> Array {
    let width = bias.len();
    let sums = x.data.iter().enumerate().map(|(i, v)| v + bias[i % width]);
    Array {
        dims: x.dims.clone(),
        data: sums.collect(),
    }
}

fn check(case: &Case) {
    let noise = &mut Noise(case.seed);
    let &Case {
        batch,
        heads,
        rows,
        keys,
        form,
        ..
    } = case;
    let hidden = heads * SIZE;
    let past = case.past.unwrap_or(0);
    let total = past + keys;
    let mut q = noise.array(&[batch, rows, hidden]);
    let mut k = noise.array(&[batch, keys, hidden]);
    let mut v = noise.array(&[batch, keys, hidden]);
    let bias = noise.array(&[3 * hidden]);
    let mut net = Net::new(17, DType::F32);
    let mut given: Vec<(&str, Array)> = Vec::new();
    let mut inputs = ["_"; 8];
    match form {
        Form::Plain => {
            given.extend([("q", q.clone()), ("k", k.clone()), ("v", v.clone())]);
            inputs[..3].copy_from_slice(&["q", "k", "v"]);
        }
        Form::Packed => {
            given.push(("q", pack(&[&q, &k, &v], heads)));
            inputs[0] = "q";
        }
        Form::PackedKeys => {
            given.extend([("q", q.clone()), ("k", pack(&[&k, &v], heads))]);
            inputs[..2].copy_from_slice(&["q", "k"]);
        }
        Form::Heads => {
            given.extend([
                ("q", q.clone()),
                ("k", k.split(heads)),
                ("v", v.split(heads)),
            ]);
            inputs[..3].copy_from_slice(&["q", "k", "v"]);
        }
        Form::Projected => {
            let x = noise.array(&[batch, rows, 3]);
            let w = noise.array(&[3, 3 * hidden]);
            given.extend([("x", x.clone()), ("w", w.clone())]);
            inputs[..2].copy_from_slice(&["x", "w"]);
            for (part, own) in [&mut q, &mut k, &mut v].into_iter().enumerate() {
                crate::plain::each(&[batch, rows, hidden], |at| {
                    let column = part * hidden + at[2];
                    let dot = (0..3)
                        .map(|i| x.at(&[at[0], at[1], i]) * w.at(&[i, column]))
                        .sum();
                    own.set(at, dot);
                });
            }
        }
    }
    // where each input stands in the two operators
    let own = form == Form::Projected;
    let [bias_at, mask_at, past_at, added_at] = if own { [2, 3, 4, 5] } else { [3, 4, 6, 5] };
    if case.biased {
        given.push(("bias", bias.clone()));
        inputs[bias_at] = "bias";
        q = plus(&q, &bias.data[..hidden]);
        if form != Form::Heads {
            k = plus(&k, &bias.data[hidden..2 * hidden]);
            v = plus(&v, &bias.data[2 * hidden..]);
        }
    }
    let (mut k, mut v) = (k.split(heads), v.split(heads));
    let added = noise.array(&[1, heads, rows, total]);
    if case.added {
        given.push(("added", added.clone()));
        inputs[added_at] = "added";
    }
    if case.past.is_some() {
        let (pk, pv) = (
            noise.array(&[batch, heads, past, SIZE]),
            noise.array(&[batch, heads, past, SIZE]),
        );
        if own {
            let mut both = Array::zeros(&[2, batch, heads, past, SIZE]);
            both.data = [&pk.data[..], &pv.data[..]].concat();
            given.push(("past", both));
            inputs[past_at] = "past";
        } else {
            given.extend([("pk", pk.clone()), ("pv", pv.clone())]);
            inputs[6..].copy_from_slice(&["pk", "pv"]);
        }
        (k, v) = (pk.then(&k), pv.then(&v));
    }
    let mut tensors = Vec::new();
    for (name, x) in &given {
        let dims: Vec<String> = x.dims.iter().map(usize::to_string).collect();
        net = net.floats(name, &dims.join(" "));
        tensors.push(x.tensor(DType::F32));
    }
    let dims: &[usize] = match case.mask {
        Mask::Lengths => &[batch],
        Mask::Pairs => &[batch, rows, total],
        _ => &[batch, total],
    };
    let bits = match case.mask {
        Mask::Lengths => (0..batch).map(|_| noise.below(total + 1) as i64).collect(),
        _ => noise.bits(dims.iter().product()),
    };
    if case.mask != Mask::None {
        let text: Vec<String> = dims.iter().map(usize::to_string).collect();
        net = net.input("mask", DType::I32, &text.join(" "));
        let dims: Vec<i64> = dims.iter().map(|&d| d as i64).collect();
        tensors.push(Tensor::from_i64(DType::I32, &dims, &bits).unwrap());
        inputs[mask_at] = "mask";
    }
    let attrs = [
        Attr::Int("num_heads", heads as i64),
        Attr::Int("unidirectional", case.causal.into()),
        Attr::Float("mask_filter_value", -7.0),
    ];
    let (op, outputs) = match own {
        true => (".Attention", "y present"),
        false => (".MultiHeadAttention", "y pk2 pv2"),
    };
    let last = inputs.iter().rposition(|i| *i != "_").unwrap_or(0);
    let inputs = inputs[..=last].join(" ");
    let net = net.node(outputs, op, &inputs, &attrs).gives(outputs);
    let scale = 1.0 / (SIZE as f64).sqrt();
    let y = attend(&q.split(heads), &k, &v, scale, 0.0, |[b, h, m, n]| {
        let seen = match case.mask {
            Mask::None => true,
            Mask::Keys => bits[b * total + n] != 0,
            Mask::Pairs => bits[(b * rows + m) * total + n] != 0,
            Mask::Lengths => (n as i64) < bits[b],
        };
        let bias = if case.added {
            added.at(&[0, h, m, n])
        } else {
            0.0
        };
        (!case.causal || n <= past + m).then_some(bias + if seen { 0.0 } else { -7.0 })
    });
    let outputs = net.evaluate(&tensors);
    expect(&outputs[0], &y.join());
    if own {
        let mut both = Array::zeros(&[&[2], &k.dims[..]].concat());
        both.data = [&k.data[..], &v.data[..]].concat();
        expect(&outputs[1], &both);
    } else {
        expect(&outputs[1], &k);
        expect(&outputs[2], &v);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn attention_of_encoders_is_what_the_loops_say(case in case()) {
        check(&case);
    }
}

/// One layer of an encoder, with what the optimiser joins: `[B, M, 16]` and a mask of keys.
pub(crate) fn encoder(dtype: DType) -> Net {
    let noise = &mut Noise(11);
    let mut net = Net::new(17, dtype)
        .floats("x", "B M 16")
        .input("mask", DType::I32, "B M");
    for (name, dims) in [
        ("wq", &[16, 16][..]),
        ("wk", &[16, 16]),
        ("wv", &[16, 16]),
        ("wo", &[16, 16]),
        ("w1", &[16, 32]),
        ("w2", &[32, 16]),
        ("bias", &[48]),
        ("b1", &[32]),
        ("gamma", &[16]),
        ("beta", &[16]),
    ] {
        net = net.weight(name, &noise.array(dims));
    }
    let norm = [Attr::Float("epsilon", 1e-5)];
    net.node("q", "MatMul", "x wq", &[])
        .node("k", "MatMul", "x wk", &[])
        .node("v", "MatMul", "x wv", &[])
        .node(
            "a",
            ".MultiHeadAttention",
            "q k v bias mask",
            &[Attr::Int("num_heads", 2)],
        )
        .node("o", "MatMul", "a wo", &[])
        .node(
            "n _ _ sum",
            ".SkipLayerNormalization",
            "o x gamma beta beta",
            &norm,
        )
        .node("h", ".FusedMatMul", "n w1", &[Attr::Float("alpha", 0.25)])
        .node("g", ".BiasGelu", "h b1", &[])
        .node("f", "MatMul", "g w2", &[])
        .node(
            "y",
            ".SkipSimplifiedLayerNormalization",
            "f sum gamma",
            &norm,
        )
        .gives("y")
}

#[test]
fn an_encoder_runs_on_the_host() {
    for dtype in [DType::F32, DType::F16] {
        let net = encoder(dtype);
        let session = net.session();
        for (batch, rows) in [(1, 3), (2, 5)] {
            let x = Noise(5).array(&[batch, rows, 16]).tensor(dtype);
            // the last row of the batch is one shorter
            let mut mask = vec![1; batch * rows];
            mask[batch * rows - 1] = 0;
            let mask = Tensor::from_i64(DType::I32, &[batch as i64, rows as i64], &mask).unwrap();
            run_both(&net, &session, &[x, mask]);
        }
    }
}

//! GroupQueryAttention, and a decoder that feeds its caches back.

use bespoke_ir::DType;
use bespoke_reference::{Tensor, compare};
use proptest::prelude::*;

use crate::model::{Attr, Net, run_both};
use crate::plain::{Array, Noise, attend, each, expect, rotate};

const SIZE: usize = 8;

#[derive(Clone, Debug)]
struct Case {
    seed: u64,
    batch: usize,
    shared: [usize; 2],
    rows: usize,
    /// Old positions of each row of the batch.
    old: Vec<usize>,
    /// Positions of the past, if it has room for more than the old ones.
    room: Option<usize>,
    rotary: Option<bool>,
    window: Option<usize>,
    packed: bool,
    sink: bool,
}

fn case() -> impl Strategy<Value = Case> {
    let shape = (1..4usize, [1..3usize, 1..3usize], 1..4usize);
    let old = (
        proptest::collection::vec(0..5usize, 3),
        proptest::option::of(0..4usize),
    );
    let rotary = proptest::option::of(any::<bool>());
    let window = proptest::option::of(1..5usize);
    let flags = any::<[bool; 2]>();
    (any::<u64>(), shape, old, rotary, window, flags).prop_map(
        |(seed, (batch, shared, rows), (old, room), rotary, window, [packed, sink])| {
            let old = old[..batch].to_vec();
            let most = old.iter().copied().max().unwrap_or(0);
            Case {
                seed,
                batch,
                shared,
                rows,
                room: room.map(|more| most + rows + more),
                old,
                rotary,
                window,
                packed,
                sink,
            }
        },
    )
}

/// Whether extents are names or numbers.
fn check(case: &Case, named: bool) {
    let noise = &mut Noise(case.seed);
    let &Case {
        batch,
        rows,
        packed,
        ..
    } = case;
    let [groups, times] = case.shared;
    let heads = groups * times;
    let most = case.old.iter().copied().max().unwrap_or(0);
    let past = case.room.unwrap_or(most);
    let total = most + rows;
    let q = noise.array(&[batch, heads, rows, SIZE]);
    let k = noise.array(&[batch, groups, rows, SIZE]);
    let v = noise.array(&[batch, groups, rows, SIZE]);
    let pk = noise.array(&[batch, groups, past, SIZE]);
    let pv = noise.array(&[batch, groups, past, SIZE]);
    let (cos, sin) = (noise.array(&[16, SIZE / 2]), noise.array(&[16, SIZE / 2]));
    let sink = noise.array(&[heads]);

    let dim = |name: &str, value: usize| match named {
        true => name.to_owned(),
        false => value.to_string(),
    };
    let (b, m, p) = (dim("B", batch), dim("M", rows), dim("P", past));
    let mut net = Net::new(17, DType::F32);
    let mut tensors = Vec::new();
    if packed {
        let joined = [q.join(), k.join(), v.join()];
        let width = (heads + 2 * groups) * SIZE;
        let mut all = Array::zeros(&[batch, rows, width]);
        each(&[batch, rows], |at| {
            let mut column = 0;
            for part in &joined {
                for i in 0..part.dims[2] {
                    all.set(&[at[0], at[1], column], part.at(&[at[0], at[1], i]));
                    column += 1;
                }
            }
        });
        net = net.floats("q", &format!("{b} {m} {width}"));
        tensors.push(all.tensor(DType::F32));
    } else {
        for (name, x) in [("q", &q), ("k", &k), ("v", &v)] {
            net = net.floats(name, &format!("{b} {m} {}", x.dims[1] * SIZE));
            tensors.push(x.join().tensor(DType::F32));
        }
    }
    for (name, x) in [("pk", &pk), ("pv", &pv)] {
        net = net.floats(name, &format!("{b} {groups} {p} {SIZE}"));
        tensors.push(x.tensor(DType::F32));
    }
    let last: Vec<i64> = case
        .old
        .iter()
        .map(|&old| (old + rows) as i64 - 1)
        .collect();
    net = net.input("last", DType::I32, &b).input(
        "mask",
        DType::Bool,
        &format!("{b} {}", dim("T", total)),
    );
    tensors.push(Tensor::from_i64(DType::I32, &[batch as i64], &last).unwrap());
    tensors.push(Tensor::zeros(DType::Bool, &[batch as i64, total as i64]).unwrap());
    let mut inputs = match packed {
        true => "q _ _ pk pv last total".to_owned(),
        false => "q k v pk pv last total".to_owned(),
    };
    inputs += if case.rotary.is_some() {
        " cos sin _ _"
    } else {
        " _ _ _ _"
    };
    let mut attrs = vec![
        Attr::Int("num_heads", heads as i64),
        Attr::Int("kv_num_heads", groups as i64),
        Attr::Int("local_window_size", case.window.map_or(-1, |w| w as i64)),
    ];
    if let Some(interleaved) = case.rotary {
        attrs.push(Attr::Int("do_rotary", 1));
        attrs.push(Attr::Int("rotary_interleaved", interleaved.into()));
        net = net.weight("cos", &cos).weight("sin", &sin);
    }
    if case.sink {
        net = net.weight("sink", &sink);
        inputs += " sink";
    }
    let net = net
        .ints("one", &[1], &[1])
        .node("shape", "Shape", "mask", &[])
        .node("total", "Gather", "shape one", &[])
        .node(
            "y k2 v2",
            ".GroupQueryAttention",
            inputs.trim_end_matches(" _"),
            &attrs,
        )
        .gives("y k2 v2");

    let turned = |x: &Array| match case.rotary {
        None => x.clone(),
        Some(pairs) => rotate(x, &cos, &sin, pairs, |b, m| case.old[b] + m),
    };
    let (q, k) = (turned(&q), turned(&k));
    // new positions behind the old ones of each row; zeros stand for what may be anything
    let length = past.max(total);
    let fill = |past: &Array, new: &Array| {
        let dims = [batch, groups, length, SIZE];
        let mut all = Array::zeros(&dims);
        each(&dims, |at| {
            let old = case.old[at[0]];
            let from = [at[0], at[1], at[2].saturating_sub(old), at[3]];
            if at[2] < old {
                all.set(at, past.at(at));
            } else if at[2] < old + rows {
                all.set(at, new.at(&from));
            }
        });
        all
    };
    let (keys, values) = (fill(&pk, &k), fill(&pv, &v));
    let scale = 1.0 / (SIZE as f64).sqrt();
    // a sink is one more key, of value 0, which has the same score for every query of a head
    let extra = usize::from(case.sink);
    let one = Array::zeros(&[batch, groups, extra, SIZE]);
    let y = attend(
        &q,
        &keys.then(&one),
        &values.then(&one),
        scale,
        0.0,
        |[b, h, m, n]| {
            if n == length {
                return Some(sink.data[h]);
            }
            let at = case.old[b] + m;
            (n <= at && case.window.is_none_or(|w| at - n < w)).then_some(0.0)
        },
    );
    let outputs = net.evaluate(&tensors);
    expect(&outputs[0], &y.join());
    for (present, expected) in outputs[1..].iter().zip([&keys, &values]) {
        let mut present = Array::of(present);
        assert_eq!(present.dims, expected.dims);
        each(&present.dims.clone(), |at| {
            if at[2] >= case.old[at[0]] + rows {
                present.set(at, 0.0);
            }
        });
        expect(&present.tensor(DType::F32), expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn attention_of_decoders_is_what_the_loops_say(case in case(), named in any::<bool>()) {
        check(&case, named);
    }
}

/// Heads of queries, heads of keys, size of the model.
const DECODER: [usize; 3] = [4, 2, 16];

/// One layer of a decoder as its exporters write it, with rotary positions, a mask from which lengths come, and caches.
/// `past` and `total` are the extents of the cache and of the mask.
pub(crate) fn decoder(dtype: DType, batch: &str, past: &str, total: &str) -> Net {
    let [heads, groups, width] = DECODER;
    let noise = &mut Noise(23);
    let mut net = Net::new(17, dtype)
        .floats("x", &format!("{batch} M {width}"))
        .input("mask", DType::I64, &format!("{batch} {total}"))
        .floats("pk", &format!("{batch} {groups} {past} {SIZE}"))
        .floats("pv", &format!("{batch} {groups} {past} {SIZE}"));
    for (name, dims) in [
        ("wq", [width, heads * SIZE]),
        ("wk", [width, groups * SIZE]),
        ("wv", [width, groups * SIZE]),
        ("wo", [heads * SIZE, width]),
        ("cos", [32, SIZE / 2]),
        ("sin", [32, SIZE / 2]),
    ] {
        net = net.weight(name, &noise.array(&dims));
    }
    let heads = [
        Attr::Int("num_heads", heads as i64),
        Attr::Int("kv_num_heads", groups as i64),
        Attr::Int("do_rotary", 1),
    ];
    let int = [Attr::Int("to", DType::I32.onnx_code().into())];
    net.weight("gamma", &noise.array(&[width]))
        .ints("one", &[1], &[1])
        .node(
            "count",
            "ReduceSum",
            "mask one",
            &[Attr::Int("keepdims", 0)],
        )
        .node("last64", "Sub", "count one", &[])
        .node("last", "Cast", "last64", &int)
        .node("shape", "Shape", "mask", &[])
        .node("total64", "Gather", "shape one", &[])
        .node("total", "Cast", "total64", &int)
        .node("n", "SimplifiedLayerNormalization", "x gamma", &[])
        .node("q", "MatMul", "n wq", &[])
        .node("k", "MatMul", "n wk", &[])
        .node("v", "MatMul", "n wv", &[])
        .node(
            "a k2 v2",
            ".GroupQueryAttention",
            "q k v pk pv last total cos sin",
            &heads,
        )
        .node("o", "MatMul", "a wo", &[])
        .node("y", ".SkipSimplifiedLayerNormalization", "o x gamma", &[])
        .gives("y k2 v2")
}

fn ones(batch: usize, total: usize, lengths: &[usize]) -> Tensor {
    let mask = (0..batch * total).map(|i| i64::from(i % total < lengths[i / total]));
    let mask: Vec<i64> = mask.collect();
    Tensor::from_i64(DType::I64, &[batch as i64, total as i64], &mask).unwrap()
}

/// Rows `from..to` of `[B, M, D]`.
fn rows_of(x: &Array, from: usize, to: usize) -> Array {
    let mut part = Array::zeros(&[x.dims[0], to - from, x.dims[2]]);
    each(&part.dims.clone(), |at| {
        part.set(at, x.at(&[at[0], at[1] + from, at[2]]))
    });
    part
}

/// A prompt and then one position at a time gives what all of it at once does.
fn decode(dtype: DType, batch: usize, net: &Net, room: usize) {
    let [_, groups, width] = DECODER;
    let session = net.session();
    let (prompt, all) = (3, 6);
    let x = Noise(31).array(&[batch, all, width]);
    let empty = || Array::zeros(&[batch, groups, room, SIZE]).tensor(dtype);
    let run = |from: usize, to: usize, pk: Tensor, pv: Tensor| {
        let x = rows_of(&x, from, to).tensor(dtype);
        run_both(
            net,
            &session,
            &[x, ones(batch, to, &vec![to; batch]), pk, pv],
        )
    };
    let whole = run(0, all, empty(), empty());
    let mut outputs = run(0, prompt, empty(), empty());
    for at in prompt..all {
        let [_, k, v] = &outputs[..] else {
            panic!("three outputs")
        };
        assert_eq!(k.dims()[2] as usize, room.max(at));
        outputs = run(at, at + 1, k.clone(), v.clone());
        let expected = rows_of(&Array::of(&whole[0]), at, at + 1).tensor(dtype);
        let tolerance = bespoke_reference::Tolerance::usual(dtype);
        let report = compare(&outputs[0], &expected, tolerance);
        assert!(report.passed(), "position {at}: {report}");
    }
}

#[test]
fn a_decoder_runs_on_the_host_with_a_cache_that_grows() {
    for dtype in [DType::F32, DType::F16] {
        decode(dtype, 1, &decoder(dtype, "1", "P", "P+M"), 0);
        decode(dtype, 2, &decoder(dtype, "B", "P", "T"), 0);
    }
}

#[test]
fn a_decoder_runs_on_the_host_with_a_cache_that_has_room() {
    decode(DType::F32, 2, &decoder(DType::F32, "B", "P", "T"), 9);
    decode(DType::F16, 2, &decoder(DType::F16, "B", "9", "T"), 9);
}

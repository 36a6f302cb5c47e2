//! Attention of decoders, with few heads of keys, rotary positions and a cache. ONNX Runtime: GroupQueryAttention
//! (`com.microsoft` 1).
//!
//! `seqlens_k` says how many positions of each row of the batch count, less one: `T`. Of them the last `min(M, T)` are new,
//! so that the new keys of a row stand behind its own `P = max(0, T − M)` old ones, its query `m` is at position `P + m`, and
//! what lies behind that is not seen. The cache has as many positions as it had, or as `total_sequence_length` says, if
//! those are more. That covers both ways of calling:
//!
//! | form | past | present |
//! |---|---|---|
//! | unshared | the positions so far | one tensor more for each run, `total_sequence_length` long |
//! | shared (`past_present_share_buffer`) | as many as there may ever be | the same length, with the new positions filled in |
//!
//! Which of the two it is, extents say when the model runs. Present and past are two tensors here in either case; who calls
//! passes one as the other in the next run, as with any other model with a cache.
//!
//! Where past and new positions are known to be all there are, and the batch is 1, the cache is a concat and positions are
//! known on the host. In all other cases new positions are scattered into it, and masks and positions are computed from
//! `seqlens_k` on the device, for each row its own.
//!
//! `total_sequence_length` must be known on the host, which it is if the model takes it from the shape of a mask, as
//! exporters write it, or has it as an input. `position_ids` choose the rows of the rotary tables, and nothing else. Rows of the result behind the
//! last position of a row of the batch are anything.

use super::rotary::{self, Positions, Tables};
use super::sdpa::{self, Offset, Sdpa, Seen, Term, Window, part};
use crate::context::Cx;
use crate::importer::{Done, invalid, unsupported};
use bespoke_ir::op::pad::PadMode;
use bespoke_ir::op::scatter_elements::ScatterReduction;
use bespoke_ir::op::{Map, Normalize, Pad, ScatterNd};
use bespoke_ir::{BinaryOp, DType, ExprBuilder, Scalar, SymInt, ValueId};

/// Inputs that are not supported, what they are, and the remedy.
const REFUSED: &[(usize, &str)] = &[
    (
        12,
        "'k_scale', the scale of a quantised cache; export the model with a cache of the type of its activations",
    ),
    (
        13,
        "'v_scale', the scale of a quantised cache; export the model with a cache of the type of its activations",
    ),
    (
        16,
        "'query_seqlens', rows that are padded on the right; run the chunks of a prompt unpadded",
    ),
];

/// Attributes whose other values are not supported, their default, and the remedy.
const FIXED: &[(&str, i64, &str)] = &[
    (
        "sliding_window_cache",
        0,
        "export the model with a cache of full length",
    ),
    (
        "kv_cache_bit_width",
        0,
        "export the model without a quantised cache",
    ),
    (
        "qk_output",
        0,
        "export the model without the output of the scores",
    ),
];

/// GroupQueryAttention.
pub(super) fn import(cx: &mut Cx<'_>) -> Done {
    cx.inputs(1, 17)?;
    for i in [5, 6] {
        if !cx.has(i) {
            return invalid(format!("its input {i} is required, but left out"));
        }
    }
    for &(i, what) in REFUSED {
        if cx.has(i) {
            return unsupported(format!("it has input {i}, {what}"));
        }
    }
    for &(name, default, remedy) in FIXED {
        if let Some(value) = cx.attrs.int(name)?.filter(|&v| v != default) {
            return unsupported(format!("attribute '{name}' is {value}; {remedy}"));
        }
    }
    for name in ["k_quant_type", "v_quant_type"] {
        cx.attrs.choice(name, (), &[("NONE", ())])?;
    }
    if cx.wants(3) {
        return unsupported("its output 3, the scores, is used; export the model without it");
    }
    let (heads, kv_heads) = match (cx.attrs.int("num_heads")?, cx.attrs.int("kv_num_heads")?) {
        (Some(h), Some(g)) if g > 0 && h > 0 && h % g == 0 => (h, g),
        (Some(h), Some(g)) => {
            return invalid(format!(
                "{g} heads of keys cannot serve {h} heads of queries"
            ));
        }
        _ => return invalid("attributes 'num_heads' and 'kv_num_heads' are required"),
    };
    let softcap = f64::from(cx.attrs.float("softcap")?.unwrap_or(0.0));
    let window = match cx.attrs.int("local_window_size")?.unwrap_or(-1) {
        -1 => None,
        size if size > 0 => Some(size),
        size => {
            return invalid(format!(
                "attribute 'local_window_size' is {size}, but must be -1 or a number of positions"
            ));
        }
    };
    let causal = cx.attrs.flag("causal", true)?;
    let smooth = cx.attrs.int("smooth_softmax")?.unwrap_or(-1) == 1;

    let [q, k, v] = operands(cx, heads, kv_heads)?;
    let [q, k] = normalised(cx, q, k)?;
    let scale = sdpa::scale(cx, q)?;
    let sequence = Sequence::read(cx, q, k)?;
    let [q, k] = match cx.attrs.flag("do_rotary", false)? {
        true => rotated(cx, q, k, &sequence)?,
        false => {
            cx.attrs.ignore(&["rotary_interleaved"]);
            [q, k]
        }
    };
    let [past_key, past_value] = sdpa::both(cx, 3, 4, "past keys and values")?;
    let keys = sequence.append(cx, "keys", past_key, k)?;
    let values = sequence.append(cx, "values", past_value, v)?;

    let mut terms = Vec::new();
    if let Some(bias) = cx.optional(10)? {
        let dims = cx.value_ty(q).dims.clone();
        let total = cx.value_ty(keys).dims[2].clone();
        let scores = vec![dims[0].clone(), dims[1].clone(), dims[2].clone(), total];
        // a bias knows only positions that count, of a cache that has more
        let bias = covering(cx, bias, &scores[3])?;
        terms.push(Term::Added(sdpa::fit(cx, "attention_bias", bias, &scores)?));
    }
    if causal {
        terms.push(Term::Hidden(Seen::Near(Window {
            offset: sequence.first.clone(),
            // the window counts the query's own position
            left: window.map(|w| w - 1),
            right: Some(0),
        })));
    } else if window.is_some() {
        return invalid("attribute 'local_window_size' needs 'causal'");
    } else {
        let count = count(cx, &sequence.batch)?;
        terms.push(Term::Hidden(Seen::Before(count)));
    }
    let sink = match (cx.optional(11)?, smooth) {
        (Some(sink), _) => Some(sink),
        (None, true) => {
            let mut b = ExprBuilder::new(&[]);
            let zero = b.number(cx.value_ty(q).dtype, 0.0);
            let zeros = Map::over(b.finish(zero), vec![heads.into()]);
            Some(cx.emit("smooth", zeros, &[])?)
        }
        (None, false) => None,
    };
    let attended = Sdpa {
        scale,
        softcap,
        terms,
        sink,
        ..Sdpa::default()
    }
    .emit(cx, [q, keys, values], false)?;
    let y = sdpa::join_heads(cx, attended.result)?;
    cx.set(0, y);
    cx.set(1, keys);
    cx.set(2, values);
    Ok(())
}

/// Queries, keys and values as `[B, heads, M, D]`.
fn operands(cx: &mut Cx<'_>, heads: i64, kv_heads: i64) -> Done<[ValueId; 3]> {
    let query = cx.value(0)?;
    if cx.has(1) != cx.has(2) {
        return invalid("it has only one of keys and values");
    }
    if cx.has(1) {
        let (k, v) = (cx.value(1)?, cx.value(2)?);
        return Ok([
            sdpa::split_heads(cx, "queries", query, heads)?,
            sdpa::split_heads(cx, "keys", k, kv_heads)?,
            sdpa::split_heads(cx, "values", v, kv_heads)?,
        ]);
    }
    let every = heads.saturating_add(kv_heads.saturating_mul(2));
    let all = sdpa::split_heads(cx, "packed", query, every)?;
    let mut cut =
        |what: &str, start: i64, count: i64| part(cx, what, all, 1, start.into(), count.into());
    Ok([
        cut("queries", 0, heads)?,
        cut("keys", heads, kv_heads)?,
        cut("values", heads.saturating_add(kv_heads), kv_heads)?,
    ])
}

/// Queries and keys with each head normalised, if there are weights for it.
fn normalised(cx: &mut Cx<'_>, q: ValueId, k: ValueId) -> Done<[ValueId; 2]> {
    let both = cx.attrs.float("qk_norm_epsilon")?.unwrap_or(1e-6);
    let epsilons = [
        cx.attrs.float("q_norm_epsilon")?.unwrap_or(both),
        cx.attrs.float("k_norm_epsilon")?.unwrap_or(both),
    ];
    let [Some(q_weight), Some(k_weight)] = sdpa::both(cx, 14, 15, "weights of norms")? else {
        return Ok([q, k]);
    };
    let mut one = |what: &str, x: ValueId, weight: ValueId, epsilon: f32| -> Done<ValueId> {
        let op = Normalize {
            axes: vec![3],
            epsilon: f64::from(epsilon),
            center: false,
        };
        let x = cx.emit(&format!("{what}_normalize"), op, &[x])?;
        cx.map(&format!("{what}_normal"), &[x, weight], |b, r| {
            b.binary(BinaryOp::Mul, r[0], r[1])
        })
    };
    Ok([
        one("queries", q, q_weight, epsilons[0])?,
        one("keys", k, k_weight, epsilons[1])?,
    ])
}

/// What is known of positions.
struct Sequence {
    batch: SymInt,
    /// New positions.
    rows: SymInt,
    /// Position of the first new one: known, or `[B, 1, 1, 1]`.
    first: Offset,
    /// Positions of the present cache.
    total: SymInt,
}

impl Sequence {
    fn read(cx: &mut Cx<'_>, q: ValueId, k: ValueId) -> Done<Sequence> {
        let dims = cx.value_ty(q).dims.clone();
        let (batch, rows) = (dims[0].clone(), dims[2].clone());
        let keys = cx.value_ty(k).dims[2].clone();
        cx.require_equal("the numbers of new keys and of queries", &keys, &rows)?;
        let lengths = cx.ty(5)?;
        if !lengths.dtype.is_int() {
            return invalid(format!(
                "its input 5 (seqlens_k) is {}, not an integer",
                lengths.dtype
            ));
        }
        cx.require_equal(
            "the batch and the elements of seqlens_k",
            &lengths.elements(),
            &batch,
        )?;
        let past = match cx.has(3) {
            true => match &cx.dims(3)?[..] {
                [_, _, past, _] => past.clone(),
                dims => return invalid(format!("its past keys have rank {}, not 4", dims.len())),
            },
            false => SymInt::constant(0),
        };
        let whole = cx.simplify(&(&past + &rows));
        let fresh = past.as_const() == Some(0);
        let total = match fresh {
            true => whole.clone(),
            false => cx.host_int(6, "total_sequence_length")?,
        };
        let alike = |a: &SymInt, b: &SymInt| a.known_eq(b, cx.symbols()) == Some(true);
        if fresh || (batch.as_const() == Some(1) && alike(&total, &whole)) {
            return Ok(Sequence {
                batch,
                rows,
                first: Offset::Known(past),
                total: whole,
            });
        }
        // what is shared has room for all; what is not grows
        let total = match alike(&total, &past) {
            true => past,
            false => cx.simplify(&SymInt::max(&total, &past)),
        };
        let count = count(cx, &batch)?;
        let new = sdpa::number(cx, "rows", rows.clone())?;
        let first = cx.map("first", &[count, new], |b, r| {
            let first = b.binary(BinaryOp::Sub, r[0], r[1]);
            let zero = b.constant(Scalar::int(DType::I64, 0));
            b.binary(BinaryOp::Max, first, zero)
        })?;
        Ok(Sequence {
            batch,
            rows,
            first: Offset::Value(first),
            total,
        })
    }

    /// The present cache of keys or values.
    fn append(
        &self,
        cx: &mut Cx<'_>,
        what: &str,
        past: Option<ValueId>,
        new: ValueId,
    ) -> Done<ValueId> {
        let (Some(past), Offset::Value(first)) = (past, &self.first) else {
            return sdpa::append(cx, what, past, new);
        };
        sdpa::expect_cache(cx, what, past, new)?;
        let (old, dims) = (cx.value_ty(past).clone(), cx.value_ty(new).dims.clone());
        for axis in [0, 1, 3] {
            cx.require_equal(
                "extents of past and new positions",
                &old.dims[axis],
                &dims[axis],
            )?;
        }
        let mut pads = vec![(SymInt::constant(0), SymInt::constant(0)); 4];
        pads[2].1 = cx.simplify(&(&self.total - &old.dims[2]));
        let room = match pads[2].1.as_const() {
            Some(0) => past,
            _ => {
                let mode = PadMode::Constant(Scalar::float(old.dtype, 0.0));
                cx.emit(&format!("past_{what}_room"), Pad { pads, mode }, &[past])?
            }
        };
        // where each new vector goes: (row of the batch, head, position)
        let mut b = ExprBuilder::new(&[DType::I64]);
        let at = b.coord(2);
        let first_at = b.input(0);
        let position = b.binary(BinaryOp::Add, at, first_at);
        let (row, head, column) = (b.coord(0), b.coord(1), b.coord(3));
        let mut index = position;
        for (i, other) in [(1, head), (0, row)] {
            let i = b.constant(Scalar::int(DType::I64, i));
            let here = b.binary(BinaryOp::Eq, column, i);
            index = b.select(here, other, index);
        }
        let tuples = vec![
            self.batch.clone(),
            dims[1].clone(),
            self.rows.clone(),
            SymInt::constant(3),
        ];
        let expr = b.finish(index);
        let at = cx.emit(
            &format!("present_{what}_at"),
            Map::over(expr, tuples),
            &[*first],
        )?;
        let reduction = ScatterReduction::Replace;
        cx.emit(
            &format!("present_{what}"),
            ScatterNd { reduction },
            &[room, at, new],
        )
    }
}

/// Positions that count in each row of the batch: `[B, 1, 1, 1]`.
fn count(cx: &mut Cx<'_>, batch: &SymInt) -> Done<ValueId> {
    let last = cx.value(5)?;
    let one = || SymInt::constant(1);
    let last = cx.reshape("last", last, vec![batch.clone(), one(), one(), one()])?;
    cx.map("count", &[last], |b, r| {
        let last = b.cast(DType::I64, r[0]);
        let one = b.constant(Scalar::int(DType::I64, 1));
        b.binary(BinaryOp::Add, last, one)
    })
}

/// Queries and keys, rotated.
fn rotated(cx: &mut Cx<'_>, q: ValueId, k: ValueId, sequence: &Sequence) -> Done<[ValueId; 2]> {
    let interleaved = cx.attrs.flag("rotary_interleaved", false)?;
    if !cx.has(7) || !cx.has(8) {
        return invalid(
            "attribute 'do_rotary' needs the tables, inputs 7 and 8 (cos_cache, sin_cache)",
        );
    }
    let dtype = cx.value_ty(q).dtype;
    let (cos, sin) = (cx.value(7)?, cx.value(8)?);
    let tables = Tables {
        cos: cx.cast("cosines_type", cos, dtype)?,
        sin: cx.cast("sines_type", sin, dtype)?,
        interleaved,
    };
    let angles = match cx.optional(9)? {
        Some(at) => rotary::choose(cx, tables, Positions::Listed(at))?,
        None => {
            let (batch, rows) = (&sequence.batch, &sequence.rows);
            rotary::choose_from(cx, tables, &sequence.first, batch, rows)?
        }
    };
    Ok([
        rotary::rotate(cx, "rotated_queries", q, &angles, true)?,
        rotary::rotate(cx, "rotated_keys", k, &angles, true)?,
    ])
}

/// A bias of as many positions as the cache has.
fn covering(cx: &mut Cx<'_>, bias: ValueId, total: &SymInt) -> Done<ValueId> {
    let ty = cx.value_ty(bias).clone();
    let Some(own) = ty.dims.last() else {
        return Ok(bias);
    };
    if own.known_eq(total, cx.symbols()) == Some(true) {
        return Ok(bias);
    }
    let mut pads = vec![(SymInt::constant(0), SymInt::constant(0)); ty.rank()];
    let missing = cx.simplify(&(total - own));
    cx.require(|infer| infer.require_at_least("the positions without a bias", &missing, 0))?;
    if let Some(last) = pads.last_mut() {
        last.1 = missing;
    }
    let mode = PadMode::Constant(Scalar::float(ty.dtype, 0.0));
    cx.emit("whole_bias", Pad { pads, mode }, &[bias])
}

#[cfg(test)]
mod tests {
    use crate::op::testing::{Model, attr};
    use crate::proto::AttributeProto;
    use bespoke_ir::DType;

    fn model(batch: &str, past: &str) -> Model {
        Model::contrib(17)
            .input("q", DType::F16, &[batch, "M", "32"])
            .input("k", DType::F16, &[batch, "M", "16"])
            .input("pk", DType::F16, &[batch, "2", past, "8"])
            .input("pv", DType::F16, &[batch, "2", past, "8"])
            .input("last", DType::I32, &[batch])
            .input("mask", DType::I64, &[batch, "past + M"])
            .input("free", DType::I32, &["1"])
            .input("sink", DType::F16, &["4"])
            .input("cos", DType::F16, &["64", "4"])
            .input("sin", DType::F16, &["64", "4"])
            .node(
                "Shape",
                &["mask"],
                &["shape"],
                &[attr("start", 1i64), attr("end", 2i64)],
            )
    }

    fn attention(model: Model, inputs: &[&str], attrs: &[AttributeProto]) -> Model {
        let heads = [attr("num_heads", 4i64), attr("kv_num_heads", 2i64)];
        let outputs = ["y", "k2", "v2"];
        let attrs = [&heads, attrs].concat();
        model.contrib_node("GroupQueryAttention", inputs, &outputs, &attrs)
    }

    const ALL: [&str; 9] = ["q", "k", "k", "pk", "pv", "last", "shape", "cos", "sin"];

    #[test]
    fn one_row_has_a_cache_that_grows() {
        let one = attention(model("1", "past"), &ALL, &[attr("do_rotary", 1i64)]);
        insta::assert_snapshot!(one.graph("y k2 v2"), @r"
        graph g(q: f16[1,M,32], k: f16[1,M,16], pk: f16[1,2,past,8], pv: f16[1,2,past,8], last: i32[1], mask: i64[1,M + past], free: i32[1], sink: f16[4], cos: f16[64,4], sin: f16[64,4]) {
          require -M - past + 64 >= 0 (node `GroupQueryAttention_y`)
          %0 = reshape(q) dims=[1,M,4,8] : f16[1,M,4,8]  ; GroupQueryAttention_y/queries_apart
          %1 = transpose(%0) perm=[0,2,1,3] : f16[1,4,M,8]  ; GroupQueryAttention_y/queries_heads
          %2 = reshape(k) dims=[1,M,2,8] : f16[1,M,2,8]  ; GroupQueryAttention_y/keys_apart
          %3 = transpose(%2) perm=[0,2,1,3] : f16[1,2,M,8]  ; GroupQueryAttention_y/keys_heads
          %4 = reshape(k) dims=[1,M,2,8] : f16[1,M,2,8]  ; GroupQueryAttention_y/values_apart
          %5 = transpose(%4) perm=[0,2,1,3] : f16[1,2,M,8]  ; GroupQueryAttention_y/values_heads
          %6 = concat(cos, cos) axis=1 : f16[64,8]  ; GroupQueryAttention_y/cosines
          %7 = concat(sin, sin) axis=1 : f16[64,8]  ; GroupQueryAttention_y/sines
          %8 = slice(%6) starts=[past,0] steps=[1,1] dims=[M,8] : f16[M,8]  ; GroupQueryAttention_y/cosine_rows
          %9 = reshape(%8) dims=[1,M,8] : f16[1,M,8]  ; GroupQueryAttention_y/cosine_batch
          %10 = slice(%7) starts=[past,0] steps=[1,1] dims=[M,8] : f16[M,8]  ; GroupQueryAttention_y/sine_rows
          %11 = reshape(%10) dims=[1,M,8] : f16[1,M,8]  ; GroupQueryAttention_y/sine_batch
          %12 = slice(%1) starts=[0,0,0,4] steps=[1,1,1,1] dims=[1,4,M,4] : f16[1,4,M,4]  ; GroupQueryAttention_y/rotated_queries_swapped_second
          %13 = map(%12) expr=(neg(x0)) : f16[1,4,M,4]  ; GroupQueryAttention_y/rotated_queries_swapped_negative
          %14 = slice(%1) starts=[0,0,0,0] steps=[1,1,1,1] dims=[1,4,M,4] : f16[1,4,M,4]  ; GroupQueryAttention_y/rotated_queries_swapped_first
          %15 = concat(%13, %14) axis=3 : f16[1,4,M,8]  ; GroupQueryAttention_y/rotated_queries_swapped
          %16 = reshape(%9) dims=[1,1,M,8] : f16[1,1,M,8]  ; GroupQueryAttention_y/rotated_queries_cosine_each
          %17 = reshape(%11) dims=[1,1,M,8] : f16[1,1,M,8]  ; GroupQueryAttention_y/rotated_queries_sine_each
          %18 = map(%1, %15, %16, %17) expr=(add(mul(x0, x2), mul(x1, x3))) : f16[1,4,M,8]  ; GroupQueryAttention_y/rotated_queries
          %19 = slice(%3) starts=[0,0,0,4] steps=[1,1,1,1] dims=[1,2,M,4] : f16[1,2,M,4]  ; GroupQueryAttention_y/rotated_keys_swapped_second
          %20 = map(%19) expr=(neg(x0)) : f16[1,2,M,4]  ; GroupQueryAttention_y/rotated_keys_swapped_negative
          %21 = slice(%3) starts=[0,0,0,0] steps=[1,1,1,1] dims=[1,2,M,4] : f16[1,2,M,4]  ; GroupQueryAttention_y/rotated_keys_swapped_first
          %22 = concat(%20, %21) axis=3 : f16[1,2,M,8]  ; GroupQueryAttention_y/rotated_keys_swapped
          %23 = reshape(%9) dims=[1,1,M,8] : f16[1,1,M,8]  ; GroupQueryAttention_y/rotated_keys_cosine_each
          %24 = reshape(%11) dims=[1,1,M,8] : f16[1,1,M,8]  ; GroupQueryAttention_y/rotated_keys_sine_each
          %25 = map(%3, %22, %23, %24) expr=(add(mul(x0, x2), mul(x1, x3))) : f16[1,2,M,8]  ; GroupQueryAttention_y/rotated_keys
          %26 = concat(pk, %25) axis=2 : f16[1,2,M + past,8]  ; GroupQueryAttention_y/present_keys
          %27 = concat(pv, %5) axis=2 : f16[1,2,M + past,8]  ; GroupQueryAttention_y/present_values
          %28 = reshape(%26) dims=[1,2,1,M + past,8] : f16[1,2,1,M + past,8]  ; GroupQueryAttention_y/keys_shared
          %29 = expand(%28) dims=[1,2,2,M + past,8] : f16[1,2,2,M + past,8]  ; GroupQueryAttention_y/keys_wide
          %30 = reshape(%29) dims=[1,4,M + past,8] : f16[1,4,M + past,8]  ; GroupQueryAttention_y/keys_repeated
          %31 = reshape(%27) dims=[1,2,1,M + past,8] : f16[1,2,1,M + past,8]  ; GroupQueryAttention_y/values_shared
          %32 = expand(%31) dims=[1,2,2,M + past,8] : f16[1,2,2,M + past,8]  ; GroupQueryAttention_y/values_wide
          %33 = reshape(%32) dims=[1,4,M + past,8] : f16[1,4,M + past,8]  ; GroupQueryAttention_y/values_repeated
          %34 = matmul(%18, %30) transpose_b : f16[1,4,M,M + past]  ; GroupQueryAttention_y/scores
          %35 = map(%34) expr=(mul(x0, 0.35355339059327373:f16)) : f16[1,4,M,M + past]  ; GroupQueryAttention_y/scaled
          %36 = host_ints() elements=[past] : i64[]  ; GroupQueryAttention_y/offset
          %37 = map(%35, %36) expr=(select(le(i3, add(i2, x1)), x0, -inf:f16)) : f16[1,4,M,M + past]  ; GroupQueryAttention_y/masked
          %38 = softmax(%37) axis=3 : f16[1,4,M,M + past]  ; GroupQueryAttention_y/softmax
          %39 = matmul(%38, %33) : f16[1,4,M,8]  ; GroupQueryAttention_y/attended
          %40 = transpose(%39) perm=[0,2,1,3] : f16[1,M,4,8]  ; GroupQueryAttention_y/turned
          %41 = reshape(%40) dims=[1,M,32] : f16[1,M,32]  ; GroupQueryAttention_y
          return %41, %26, %27
        }
        ");
    }

    #[test]
    fn rows_of_different_lengths_are_scattered_into_the_cache() {
        let many = attention(
            model("B", "past"),
            &ALL[..7],
            &[attr("local_window_size", 3i64)],
        );
        insta::assert_snapshot!(many.graph("y k2 v2"), @r"
        graph g(q: f16[B,M,32], k: f16[B,M,16], pk: f16[B,2,past,8], pv: f16[B,2,past,8], last: i32[B], mask: i64[B,M + past], free: i32[1], sink: f16[4], cos: f16[64,4], sin: f16[64,4]) {
          %0 = reshape(q) dims=[B,M,4,8] : f16[B,M,4,8]  ; GroupQueryAttention_y/queries_apart
          %1 = transpose(%0) perm=[0,2,1,3] : f16[B,4,M,8]  ; GroupQueryAttention_y/queries_heads
          %2 = reshape(k) dims=[B,M,2,8] : f16[B,M,2,8]  ; GroupQueryAttention_y/keys_apart
          %3 = transpose(%2) perm=[0,2,1,3] : f16[B,2,M,8]  ; GroupQueryAttention_y/keys_heads
          %4 = reshape(k) dims=[B,M,2,8] : f16[B,M,2,8]  ; GroupQueryAttention_y/values_apart
          %5 = transpose(%4) perm=[0,2,1,3] : f16[B,2,M,8]  ; GroupQueryAttention_y/values_heads
          %6 = reshape(last) dims=[B,1,1,1] : i32[B,1,1,1]  ; GroupQueryAttention_y/last
          %7 = map(%6) expr=(add(i64(x0), 1:i64)) : i64[B,1,1,1]  ; GroupQueryAttention_y/count
          %8 = host_ints() elements=[M] : i64[]  ; GroupQueryAttention_y/rows
          %9 = map(%7, %8) expr=(max(sub(x0, x1), 0:i64)) : i64[B,1,1,1]  ; GroupQueryAttention_y/first
          %10 = pad(pk) begin=[0,0,0,0] end=[0,0,M,0] value=0.0:f16 : f16[B,2,M + past,8]  ; GroupQueryAttention_y/past_keys_room
          %11 = map(%9) expr=(select(eq(i3, 0:i64), i0, select(eq(i3, 1:i64), i1, add(i2, x0)))) shape=[B,2,M,3] : i64[B,2,M,3]  ; GroupQueryAttention_y/present_keys_at
          %12 = scatter_nd(%10, %11, %3) reduction=replace : f16[B,2,M + past,8]  ; GroupQueryAttention_y/present_keys
          %13 = pad(pv) begin=[0,0,0,0] end=[0,0,M,0] value=0.0:f16 : f16[B,2,M + past,8]  ; GroupQueryAttention_y/past_values_room
          %14 = map(%9) expr=(select(eq(i3, 0:i64), i0, select(eq(i3, 1:i64), i1, add(i2, x0)))) shape=[B,2,M,3] : i64[B,2,M,3]  ; GroupQueryAttention_y/present_values_at
          %15 = scatter_nd(%13, %14, %5) reduction=replace : f16[B,2,M + past,8]  ; GroupQueryAttention_y/present_values
          %16 = reshape(%12) dims=[B,2,1,M + past,8] : f16[B,2,1,M + past,8]  ; GroupQueryAttention_y/keys_shared
          %17 = expand(%16) dims=[B,2,2,M + past,8] : f16[B,2,2,M + past,8]  ; GroupQueryAttention_y/keys_wide
          %18 = reshape(%17) dims=[B,4,M + past,8] : f16[B,4,M + past,8]  ; GroupQueryAttention_y/keys_repeated
          %19 = reshape(%15) dims=[B,2,1,M + past,8] : f16[B,2,1,M + past,8]  ; GroupQueryAttention_y/values_shared
          %20 = expand(%19) dims=[B,2,2,M + past,8] : f16[B,2,2,M + past,8]  ; GroupQueryAttention_y/values_wide
          %21 = reshape(%20) dims=[B,4,M + past,8] : f16[B,4,M + past,8]  ; GroupQueryAttention_y/values_repeated
          %22 = matmul(%1, %18) transpose_b : f16[B,4,M,M + past]  ; GroupQueryAttention_y/scores
          %23 = map(%22) expr=(mul(x0, 0.35355339059327373:f16)) : f16[B,4,M,M + past]  ; GroupQueryAttention_y/scaled
          %24 = map(%23, %9) expr=(t4 = add(i2, x1); select(and(le(i3, t4), ge(i3, add(t4, -2:i64))), x0, -inf:f16)) : f16[B,4,M,M + past]  ; GroupQueryAttention_y/masked
          %25 = softmax(%24) axis=3 : f16[B,4,M,M + past]  ; GroupQueryAttention_y/softmax
          %26 = matmul(%25, %21) : f16[B,4,M,8]  ; GroupQueryAttention_y/attended
          %27 = transpose(%26) perm=[0,2,1,3] : f16[B,M,4,8]  ; GroupQueryAttention_y/turned
          %28 = reshape(%27) dims=[B,M,32] : f16[B,M,32]  ; GroupQueryAttention_y
          return %28, %12, %15
        }
        ");
    }

    /// The two ways of calling need not be told apart.
    #[test]
    fn a_cache_with_room_keeps_its_length() {
        let inputs = ["q", "k", "k", "pk", "pv", "last", "free"];
        let graph = attention(model("B", "64"), &inputs, &[]).graph("y k2 v2");
        assert!(graph.contains(": f16[B,2,max(64, `free[0]`),8]"), "{graph}");
        let inputs = ["q", "k", "k", "", "", "last", "free"];
        let graph = attention(model("B", "64"), &inputs, &[]).graph("y k2 v2");
        assert!(graph.contains("return %18, %3, %5"), "{graph}");
    }

    #[test]
    fn what_is_not_supported_has_a_remedy() {
        let error = |inputs: &[&str], attrs: &[AttributeProto]| {
            attention(model("B", "past"), inputs, attrs).error("y k2 v2")
        };
        let reduced = model("B", "past").node("ReduceMax", &["last"], &["most"], &[]);
        let inputs = ["q", "k", "k", "pk", "pv", "last", "most"];
        let reduced = attention(reduced, &inputs, &[]).error("y k2 v2");
        assert!(
            reduced.contains("total_sequence_length (input 6) is computed from the data"),
            "{reduced}"
        );
        let window = error(&ALL[..7], &[attr("sliding_window_cache", 1i64)]);
        assert!(window.contains("a cache of full length"), "{window}");
        let bits = error(&ALL[..7], &[attr("k_quant_type", "PER_TENSOR")]);
        assert!(bits.contains("'k_quant_type' is 'PER_TENSOR'"), "{bits}");
        let heads = attention(model("B", "past"), &ALL[..7], &[attr("do_rotary", 1i64)]);
        assert!(
            heads.error("y k2 v2").contains("needs the tables"),
            "no tables"
        );
        let scales = [&ALL[..7], &["", "", "", "", "", "sink"]].concat();
        let scales = error(&scales, &[]);
        assert!(
            scales.contains("'k_scale', the scale of a quantised cache"),
            "{scales}"
        );
    }
}

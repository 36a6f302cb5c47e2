//! Attention as ONNX Runtime's optimiser writes it for encoders: MultiHeadAttention and Attention (`com.microsoft` 1).
//!
//! Attention also has the projection to queries, keys and values, one weight for all. What both take:
//!
//! | mask | extents | what |
//! |---|---|---|
//! | of keys | `[B, T]`, `[B, M, T]`, `[B, 1, M, T]` | 0 hides |
//! | lengths | `[B]`, or the first `B` of `[3B + 2]` | keys from there on are hidden |
//! | bounds | `[2B]` (Attention) | ends, then starts |
//!
//! What they hide gets `mask_filter_value` (−10,000) added, so that a query which sees nothing else still attends to all of it.
//! `unidirectional` hides later keys for good. A bias of the scores is added.
//!
//! Caches are concatenated. Not supported: a cache that is filled in place (`past_present_share_buffer`,
//! `past_sequence_length`), `cache_indirection`, the scores as an output, rotary positions of Attention.

use super::sdpa::{self, Offset, Sdpa, Seen, Term, Window, part};
use crate::context::Cx;
use crate::importer::{Done, invalid, unsupported};
use bespoke_ir::op::{Concat, MatMul};
use bespoke_ir::{BinaryOp, SymInt, ValueId};

/// MultiHeadAttention.
pub(super) fn import(cx: &mut Cx<'_>) -> Done {
    cx.inputs(1, 10)?;
    for (i, what) in [
        (8, "'past_sequence_length', a cache that is filled in place"),
        (9, "'cache_indirection', the caches of a beam search"),
    ] {
        if cx.has(i) {
            return unsupported(format!(
                "it has input {i}, {what}; export the model without, so that present is past and new positions"
            ));
        }
    }
    if cx.wants(3) {
        return unsupported("its output 3, the scores, is used; export the model without it");
    }
    let heads = heads(cx)?;
    let [q, k, v] = operands(cx, heads)?;
    let [past_key, past_value] = sdpa::both(cx, 6, 7, "past keys and values")?;
    let keys = sdpa::append(cx, "keys", past_key, k)?;
    let values = sdpa::append(cx, "values", past_value, v)?;
    let past = past_length(cx, past_key);
    let y = attend(cx, [q, keys, values], past, 4, 5)?;
    cx.set(0, y);
    cx.set(1, keys);
    cx.set(2, values);
    Ok(())
}

/// Attention, with its projections.
pub(super) fn projected(cx: &mut Cx<'_>) -> Done {
    cx.inputs(2, 7)?;
    if cx.attrs.flag("past_present_share_buffer", false)? || cx.has(6) {
        return unsupported(
            "attribute 'past_present_share_buffer' is 1, a cache that is filled in place; export the model without, so \
             that present is past and new positions",
        );
    }
    if cx.attrs.flag("do_rotary", false)? {
        return unsupported(
            "attribute 'do_rotary' is 1; export the model with RotaryEmbedding before MultiHeadAttention",
        );
    }
    cx.attrs.ignore(&["rotary_embedding_dim"]);
    let heads = heads(cx)?;
    let (x, weights) = (cx.value(0)?, cx.value(1)?);
    sdpa::expect_rank(cx, "input", x, 3)?;
    sdpa::expect_rank(cx, "weight", weights, 2)?;
    let all = cx.emit("projected", MatMul::default(), &[x, weights])?;
    let all = match cx.optional(2)? {
        None => all,
        Some(bias) => add(cx, "biased", all, bias)?,
    };
    let hidden = cx.value_ty(all).dims[2].clone();
    let sizes: Vec<SymInt> = match cx.attrs.ints("qkv_hidden_sizes")? {
        Some(sizes) if sizes.len() == 3 && sizes[0] == sizes[1] && sizes.iter().all(|&s| s > 0) => {
            sizes.iter().map(|&s| s.into()).collect()
        }
        Some([]) | None => vec![cx.simplify(&hidden.floor_div(&SymInt::constant(3))); 3],
        Some(other) => {
            return invalid(format!(
                "attribute 'qkv_hidden_sizes' is {other:?}, but must be three sizes of which the first two are equal"
            ));
        }
    };
    cx.require_equal(
        "the columns of the weight and the hidden sizes",
        &hidden,
        &SymInt::sum(&sizes),
    )?;
    let mut start = SymInt::constant(0);
    let mut parts = Vec::new();
    for (what, size) in ["queries", "keys", "values"].iter().zip(&sizes) {
        let own = part(cx, what, all, 2, start.clone(), size.clone())?;
        parts.push(sdpa::split_heads(cx, what, own, heads)?);
        start = cx.simplify(&(&start + size));
    }
    let past = cx.optional(4)?;
    let mut caches = [parts[1], parts[2]];
    let mut old = None;
    if let Some(past) = past {
        sdpa::expect_rank(cx, "past", past, 5)?;
        let two = SymInt::constant(2);
        let dims = cx.value_ty(past).dims.clone();
        cx.require_equal("the first extent of the past and 2", &dims[0], &two)?;
        for (i, what) in ["keys", "values"].into_iter().enumerate() {
            let one = part(cx, &format!("past_{what}"), past, 0, i.into(), 1.into())?;
            let one = cx.reshape(&format!("past_{what}_heads"), one, dims[1..].to_vec())?;
            caches[i] = sdpa::append(cx, what, Some(one), caches[i])?;
            old = Some(one);
        }
    }
    let past = past_length(cx, old);
    let y = attend(cx, [parts[0], caches[0], caches[1]], past, 3, 5)?;
    cx.set(0, y);
    if cx.wants(1) {
        let mut stacked = Vec::new();
        for (what, x) in ["keys", "values"].into_iter().zip(caches) {
            let mut dims = cx.value_ty(x).dims.clone();
            dims.insert(0, SymInt::constant(1));
            stacked.push(cx.reshape(&format!("stacked_{what}"), x, dims)?);
        }
        let present = cx.emit("present", Concat { axis: 0 }, &stacked)?;
        cx.set(1, present);
    }
    Ok(())
}

fn heads(cx: &Cx<'_>) -> Done<i64> {
    match cx.attrs.int("num_heads")? {
        Some(heads) if heads > 0 => Ok(heads),
        Some(heads) => invalid(format!("it cannot have {heads} heads")),
        None => invalid("attribute 'num_heads' is required"),
    }
}

fn past_length(cx: &Cx<'_>, past: Option<ValueId>) -> SymInt {
    match past {
        Some(past) => cx.value_ty(past).dims[2].clone(),
        None => SymInt::constant(0),
    }
}

fn add(cx: &mut Cx<'_>, suffix: &str, x: ValueId, bias: ValueId) -> Done<ValueId> {
    let dims = cx.value_ty(x).dims.clone();
    let (found, want) = (cx.value_ty(bias).dtype, cx.value_ty(x).dtype);
    if found != want || cx.value_ty(bias).rank() != 1 {
        return invalid(format!("its bias must be a list of {want}, but is {found}"));
    }
    let last = dims.len() - 1;
    let own = cx.value_ty(bias).dims[0].clone();
    cx.require_equal(
        "the elements of the bias and of what it is added to",
        &own,
        &dims[last],
    )?;
    cx.map(suffix, &[x, bias], |b, r| {
        b.binary(BinaryOp::Add, r[0], r[1])
    })
}

/// The parts of a packed input `[B, N, H, parts, D]`, each as `[B, N, H·D]`.
fn unpacked(cx: &mut Cx<'_>, i: usize, heads: i64, names: &[&str]) -> Done<Vec<ValueId>> {
    let x = cx.value(i)?;
    sdpa::expect_rank(cx, "packed input", x, 5)?;
    let dims = cx.value_ty(x).dims.clone();
    for (axis, want) in [(2, heads), (3, names.len() as i64)] {
        let want = SymInt::constant(want);
        cx.require_equal("extents of the packed input", &dims[axis], &want)?;
    }
    let hidden = cx.simplify(&(&dims[2] * &dims[4]));
    let flat = vec![dims[0].clone(), dims[1].clone(), hidden];
    let mut parts = Vec::new();
    for (i, what) in names.iter().enumerate() {
        let one = part(cx, &format!("{what}_packed"), x, 3, i.into(), 1.into())?;
        parts.push(cx.reshape(&format!("{what}_flat"), one, flat.clone())?);
    }
    Ok(parts)
}

/// Queries, keys and values of MultiHeadAttention as `[B, H, positions, D]`.
fn operands(cx: &mut Cx<'_>, heads: i64) -> Done<[ValueId; 3]> {
    let names = ["queries", "keys", "values"];
    let flat = match (cx.has(1), cx.has(2)) {
        (false, false) => unpacked(cx, 0, heads, &names)?,
        (true, false) => {
            let mut parts = vec![cx.value(0)?];
            parts.extend(unpacked(cx, 1, heads, &names[1..])?);
            parts
        }
        (false, true) => return invalid("it has values (input 2), but no keys (input 1)"),
        (true, true) => vec![cx.value(0)?, cx.value(1)?, cx.value(2)?],
    };
    // keys and values of four axes are a cache of somebody else, with all that is to be added
    let apart = cx.value_ty(flat[1]).rank() == 4 && cx.value_ty(flat[2]).rank() == 4;
    let bias = cx.optional(3)?;
    let mut start = SymInt::constant(0);
    let mut split = Vec::new();
    for (i, (what, mut x)) in names.into_iter().zip(flat).enumerate() {
        if apart && i > 0 {
            split.push(x);
            continue;
        }
        if let Some(bias) = bias {
            sdpa::expect_rank(cx, what, x, 3)?;
            sdpa::expect_rank(cx, "bias", bias, 1)?;
            let size = cx.value_ty(x).dims[2].clone();
            let suffix = format!("{what}_bias");
            let own = part(cx, &suffix, bias, 0, start.clone(), size.clone())?;
            start = cx.simplify(&(&start + &size));
            x = add(cx, &format!("{what}_biased"), x, own)?;
        }
        split.push(sdpa::split_heads(cx, what, x, heads)?);
    }
    if let Some(bias) = bias.filter(|_| !apart) {
        let all = cx.value_ty(bias).dims[0].clone();
        cx.require_equal(
            "the elements of the bias and of what it is added to",
            &all,
            &start,
        )?;
    }
    Ok([split[0], split[1], split[2]])
}

/// Attention with the masks of both operators; `mask` and `bias` are the numbers of these inputs.
fn attend(
    cx: &mut Cx<'_>,
    [q, k, v]: [ValueId; 3],
    past: SymInt,
    mask: usize,
    bias: usize,
) -> Done<ValueId> {
    let scale = sdpa::scale(cx, q)?;
    let causal = cx.attrs.flag("unidirectional", false)?;
    let filter = f64::from(cx.attrs.float("mask_filter_value")?.unwrap_or(-10000.0));
    let dims = cx.value_ty(q).dims.clone();
    let mut scores = dims[..3].to_vec();
    scores.push(cx.value_ty(k).dims[2].clone());
    let mut terms = Vec::new();
    if let Some(bias) = cx.optional(bias)? {
        terms.push(Term::Added(sdpa::fit(cx, "attention_bias", bias, &scores)?));
    }
    if cx.has(mask) {
        for seen in mask_of_keys(cx, mask, &scores)? {
            terms.push(Term::Faint(seen, filter));
        }
    }
    if causal {
        terms.push(Term::Hidden(Seen::Near(Window {
            offset: Offset::Known(past),
            left: None,
            right: Some(0),
        })));
    }
    let attended = Sdpa {
        scale,
        terms,
        ..Sdpa::default()
    }
    .emit(cx, [q, k, v], false)?;
    sdpa::join_heads(cx, attended.result)
}

/// What a mask of keys says, in any of its forms.
fn mask_of_keys(cx: &mut Cx<'_>, i: usize, scores: &[SymInt]) -> Done<Vec<Seen>> {
    let ty = cx.ty(i)?;
    if !ty.dtype.is_int() {
        return invalid(format!(
            "its mask (input {i}) is {}, not an integer",
            ty.dtype
        ));
    }
    let mask = cx.value(i)?;
    let one = || SymInt::constant(1);
    let batch = &scores[0];
    let (middle, keys) = match &ty.dims[..] {
        [length] => return bounds(cx, mask, length, batch),
        [_, keys] => (vec![one(), one()], keys),
        [_, rows, keys] => (vec![one(), rows.clone()], keys),
        [_, heads, rows, keys] => {
            // as GPT-2 has it: the triangle of all positions there may be
            let same = |a: &SymInt, b: &SymInt| a.known_eq(b, cx.symbols()) == Some(true);
            if !same(keys, &scores[3]) || !same(rows, &scores[2]) {
                return unsupported(
                    "its mask has four axes and more positions than there are; export the model with 'unidirectional' or a \
                     mask of three axes",
                );
            }
            (vec![heads.clone(), rows.clone()], keys)
        }
        dims => {
            return invalid(format!(
                "its mask (input {i}) has rank {}, not 1 to 4",
                dims.len()
            ));
        }
    };
    let mut dims = vec![ty.dims[0].clone()];
    dims.extend(middle);
    dims.push(keys.clone());
    let mask = cx.reshape("mask_axes", mask, dims)?;
    Ok(vec![Seen::Nonzero(sdpa::fit(cx, "mask", mask, scores)?)])
}

/// A mask of one axis: ends, ends and starts, or ends and what only kernels of packed rows want.
fn bounds(cx: &mut Cx<'_>, mask: ValueId, length: &SymInt, batch: &SymInt) -> Done<Vec<Seen>> {
    let is = |cx: &Cx<'_>, times: i64, plus: i64| {
        let want = &(batch.clone() * times) + &SymInt::constant(plus);
        length.known_eq(&want, cx.symbols()) == Some(true)
    };
    let two = is(cx, 2, 0) && !is(cx, 1, 0);
    let many = is(cx, 3, 2);
    if !two && !many {
        cx.require_equal(
            "the batch and the elements of the mask of lengths",
            length,
            batch,
        )?;
    }
    let column = vec![batch.clone(), 1.into(), 1.into(), 1.into()];
    let mut rows = |suffix: &str, start: SymInt| -> Done<ValueId> {
        let own = part(cx, suffix, mask, 0, start, batch.clone())?;
        cx.reshape(&format!("{suffix}_each"), own, column.clone())
    };
    let mut seen = vec![Seen::Before(rows("ends", 0.into())?)];
    if two {
        seen.push(Seen::From(rows("starts", batch.clone())?));
    }
    Ok(seen)
}

#[cfg(test)]
mod tests {
    use crate::op::testing::{Model, attr};
    use crate::proto::AttributeProto;
    use bespoke_ir::DType;

    fn model() -> Model {
        Model::contrib(17)
            .input("q", DType::F16, &["B", "M", "16"])
            .input("k", DType::F16, &["B", "N", "16"])
            .input("bias", DType::F16, &["48"])
            .input("mask", DType::I32, &["B", "N"])
            .input("ends", DType::I32, &["B"])
            .input("w", DType::F16, &["16", "48"])
            .input("past", DType::F16, &["2", "B", "2", "P", "8"])
    }

    fn node(op: &str, inputs: &[&str], outputs: &[&str], attrs: &[AttributeProto]) -> Model {
        let attrs = [&[attr("num_heads", 2i64)], attrs].concat();
        model().contrib_node(op, inputs, outputs, &attrs)
    }

    #[test]
    fn masks_are_added_and_later_keys_hidden() {
        let op = "MultiHeadAttention";
        let masked = node(op, &["q", "k", "k", "bias", "mask"], &["y"], &[]);
        insta::assert_snapshot!(masked.graph("y"), @r"
        graph g(q: f16[B,M,16], k: f16[B,N,16], bias: f16[48], mask: i32[B,N], ends: i32[B], w: f16[16,48], past: f16[2,B,2,P,8]) {
          %0 = slice(bias) starts=[0] steps=[1] dims=[16] : f16[16]  ; MultiHeadAttention_y/queries_bias
          %1 = map(q, %0) expr=(add(x0, x1)) : f16[B,M,16]  ; MultiHeadAttention_y/queries_biased
          %2 = reshape(%1) dims=[B,M,2,8] : f16[B,M,2,8]  ; MultiHeadAttention_y/queries_apart
          %3 = transpose(%2) perm=[0,2,1,3] : f16[B,2,M,8]  ; MultiHeadAttention_y/queries_heads
          %4 = slice(bias) starts=[16] steps=[1] dims=[16] : f16[16]  ; MultiHeadAttention_y/keys_bias
          %5 = map(k, %4) expr=(add(x0, x1)) : f16[B,N,16]  ; MultiHeadAttention_y/keys_biased
          %6 = reshape(%5) dims=[B,N,2,8] : f16[B,N,2,8]  ; MultiHeadAttention_y/keys_apart
          %7 = transpose(%6) perm=[0,2,1,3] : f16[B,2,N,8]  ; MultiHeadAttention_y/keys_heads
          %8 = slice(bias) starts=[32] steps=[1] dims=[16] : f16[16]  ; MultiHeadAttention_y/values_bias
          %9 = map(k, %8) expr=(add(x0, x1)) : f16[B,N,16]  ; MultiHeadAttention_y/values_biased
          %10 = reshape(%9) dims=[B,N,2,8] : f16[B,N,2,8]  ; MultiHeadAttention_y/values_apart
          %11 = transpose(%10) perm=[0,2,1,3] : f16[B,2,N,8]  ; MultiHeadAttention_y/values_heads
          %12 = reshape(mask) dims=[B,1,1,N] : i32[B,1,1,N]  ; MultiHeadAttention_y/mask_axes
          %13 = matmul(%3, %7) transpose_b : f16[B,2,M,N]  ; MultiHeadAttention_y/scores
          %14 = map(%13) expr=(mul(x0, 0.35355339059327373:f16)) : f16[B,2,M,N]  ; MultiHeadAttention_y/scaled
          %15 = map(%14, %12) expr=(add(x0, select(ne(x1, 0:i32), 0.0:f16, -10000.0:f16))) : f16[B,2,M,N]  ; MultiHeadAttention_y/masked
          %16 = softmax(%15) axis=3 : f16[B,2,M,N]  ; MultiHeadAttention_y/softmax
          %17 = matmul(%16, %11) : f16[B,2,M,8]  ; MultiHeadAttention_y/attended
          %18 = transpose(%17) perm=[0,2,1,3] : f16[B,M,2,8]  ; MultiHeadAttention_y/turned
          %19 = reshape(%18) dims=[B,M,16] : f16[B,M,16]  ; MultiHeadAttention_y
          return %19
        }
        ");
        let causal = [attr("unidirectional", 1i64), attr("scale", 0.5f32)];
        let ends = node(op, &["q", "k", "k", "", "ends"], &["y"], &causal);
        let graph = ends.graph("y");
        assert!(
            graph.contains("select(lt(i3, i64(x1)), 0.0:f16, -10000.0:f16)"),
            "{graph}"
        );
        assert!(graph.contains("select(le(i3, i2), "), "{graph}");
    }

    #[test]
    fn projections_share_a_weight_and_caches_a_tensor() {
        let inputs = ["q", "w", "bias", "", "past"];
        let graph = node("Attention", &inputs, &["y", "present"], &[]).graph("y present");
        assert!(graph.contains("matmul(q, w) : f16[B,M,48]"), "{graph}");
        assert!(graph.contains("axis=0 : f16[2,B,2,M + P,8]"), "{graph}");
    }

    #[test]
    fn what_is_not_supported_has_a_remedy() {
        let op = "MultiHeadAttention";
        let inputs = ["q", "k", "k", "", "", "", "", "", "ends"];
        let shared = node(op, &inputs, &["y"], &[]).error("y");
        assert!(
            shared.contains("a cache that is filled in place"),
            "{shared}"
        );
        let scores = node(op, &["q", "k", "k"], &["y", "", "", "s"], &[]).error("y s");
        assert!(scores.contains("export the model without it"), "{scores}");
        let rotary = node("Attention", &["q", "w"], &["y"], &[attr("do_rotary", 1i64)]).error("y");
        assert!(
            rotary.contains("RotaryEmbedding before MultiHeadAttention"),
            "{rotary}"
        );
        let sizes: &[i64; 3] = &[16, 8, 24];
        let sizes = node(
            "Attention",
            &["q", "w"],
            &["y"],
            &[attr("qkv_hidden_sizes", sizes)],
        );
        let sizes = sizes.error("y");
        assert!(sizes.contains("the first two are equal"), "{sizes}");
    }
}

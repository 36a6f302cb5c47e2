//! Scaled dot product attention. ONNX: Attention (23, 24, 25).
//!
//! Opset 24 adds `nonpad_kv_seqlen`, the number of keys that count in each row of the batch, and 25 the bounds of a window
//! around each query. What all versions share follows the errata of ONNX 1.23: the last query sees up to the last key if
//! there is a cache (`is_causal`), scores are capped before masks are added, and a query that sees no key is 0.
//!
//! - Operands of three axes are split into heads; those of four are taken as they are. Heads of keys serve heads of queries
//!   that follow each other.
//! - Masks are `bool` or numbers of the queries' type, and may be shorter than the keys, which hides the rest. Where
//!   both lengths are symbols, that is only believed with `nonpad_kv_seqlen`; otherwise they must be equal when it runs.
//! - The softmax is computed in `f32` at least, so that of `softmax_precision` only DOUBLE matters.
//! - A query that sees no key is 0 because its softmax is NaN; so is one whose scores are NaN for another reason, wherever a
//!   mask might hide all keys.

use super::sdpa::{self, Offset, Sdpa, Seen, Term, Window};
use crate::context::Cx;
use crate::importer::{Done, invalid};
use bespoke_ir::op::Pad;
use bespoke_ir::op::pad::PadMode;
use bespoke_ir::{DType, Scalar, SymInt, ValueId};

/// Attention.
pub(super) fn import(cx: &mut Cx<'_>) -> Done {
    cx.inputs(3, if cx.opset >= 24 { 7 } else { 6 })?;
    let causal = cx.attrs.flag("is_causal", false)?;
    let heads = [cx.attrs.int("q_num_heads")?, cx.attrs.int("kv_num_heads")?];
    let mode = cx.attrs.int("qk_matmul_output_mode")?.unwrap_or(0);
    let softcap = f64::from(cx.attrs.float("softcap")?.unwrap_or(0.0));
    let wide = match cx.attrs.int("softmax_precision")? {
        None | Some(1 | 10 | 16) => false,
        Some(11) => true,
        Some(other) => {
            return invalid(format!(
                "attribute 'softmax_precision' is {other}, which is no type of floats (1, 10, 11 or 16)"
            ));
        }
    };
    if !(0..4).contains(&mode) {
        return invalid(format!(
            "attribute 'qk_matmul_output_mode' is {mode}, but must be 0 to 3"
        ));
    }
    let [left, right] = match cx.opset >= 25 {
        true => [
            bound(cx, "left_window_size")?,
            bound(cx, "right_window_size")?,
        ],
        false => [None, None],
    };
    let rank = cx.rank(0)?;
    for i in 1..3 {
        if cx.rank(i)? != rank {
            return invalid(format!(
                "its queries have rank {rank}, but its input {i} has rank {}",
                cx.rank(i)?
            ));
        }
    }
    let (q, k, v) = match rank {
        3 => {
            let [Some(q_heads), Some(heads)] = heads else {
                return invalid(
                    "operands of three axes need the attributes 'q_num_heads' and 'kv_num_heads'",
                );
            };
            let mut split = |i: usize, what: &str, heads: i64| {
                let x = cx.value(i)?;
                sdpa::split_heads(cx, what, x, heads)
            };
            (
                split(0, "queries", q_heads)?,
                split(1, "keys", heads)?,
                split(2, "values", heads)?,
            )
        }
        4 => (cx.value(0)?, cx.value(1)?, cx.value(2)?),
        _ => return invalid(format!("its queries have rank {rank}, not 3 or 4")),
    };
    let [past_key, past_value] = sdpa::both(cx, 4, 5, "past keys and values")?;
    let k = sdpa::append(cx, "keys", past_key, k)?;
    let v = sdpa::append(cx, "values", past_value, v)?;
    let scale = sdpa::scale(cx, q)?;

    let queries = cx.value_ty(q).dims.clone();
    let scores = vec![
        queries[0].clone(),
        queries[1].clone(),
        queries[2].clone(),
        cx.value_ty(k).dims[2].clone(),
    ];
    let counted = match cx.has(6) {
        true => Some(count(cx, &queries[0], past_key.is_some())?),
        false => None,
    };
    let mut terms = Vec::new();
    let mask = cx.optional(3)?;
    if let Some(mask) = mask {
        let mask = lengthen(cx, mask, &scores[3], counted.is_some())?;
        let mask = sdpa::fit(cx, "mask", mask, &scores)?;
        let (found, want) = (cx.value_ty(mask).dtype, cx.value_ty(q).dtype);
        terms.push(match found {
            DType::Bool => Term::Hidden(Seen::Where(mask)),
            _ if found.is_float() => Term::Added(mask),
            _ => return invalid(format!("its mask is {found}, but must be bool or {want}")),
        });
    }
    if causal || left.is_some() || right.is_some() {
        let offset = match (counted, past_key) {
            (Some(count), _) => {
                let rows = sdpa::number(cx, "rows", queries[2].clone())?;
                Offset::Value(cx.map("first", &[count, rows], |b, r| {
                    b.binary(bespoke_ir::BinaryOp::Sub, r[0], r[1])
                })?)
            }
            (None, Some(past)) => Offset::Known(cx.value_ty(past).dims[2].clone()),
            (None, None) => Offset::Known(SymInt::constant(0)),
        };
        let behind = if causal { Some(0) } else { None };
        terms.push(Term::Hidden(Seen::Near(Window {
            offset,
            left,
            right: right.map(|r| behind.unwrap_or(r).min(r)).or(behind),
        })));
    }
    if let Some(count) = counted {
        terms.push(Term::Hidden(Seen::Before(count)));
    }
    // With no mask but that of positions, each query sees the first key or, in a window, one near its own position.
    let may_be_blind = mask.is_some() || counted.is_some() || left.is_some();
    let v_type = cx.value_ty(v).dtype;
    let dtype = cx.value_ty(q).dtype;
    let values = match v_type.is_float() {
        true => cx.cast("values_type", v, dtype)?,
        false => v,
    };
    let attended = Sdpa {
        scale,
        softcap,
        terms,
        may_be_blind,
        wide,
        ..Sdpa::default()
    }
    .emit(cx, [q, k, values], rank == 4)?;
    let y = match rank {
        3 => sdpa::join_heads(cx, attended.result)?,
        _ => attended.result,
    };
    cx.set(0, y);
    cx.set(1, k);
    cx.set(2, v);
    cx.set(3, attended.scores[mode as usize]);
    Ok(())
}

/// A bound of the window; −1 for none.
fn bound(cx: &Cx<'_>, name: &'static str) -> Done<Option<i64>> {
    match cx.attrs.int(name)?.unwrap_or(-1) {
        -1 => Ok(None),
        size if size >= 0 => Ok(Some(size)),
        size => invalid(format!(
            "attribute '{name}' is {size}, but must be -1 or a number of positions"
        )),
    }
}

/// `nonpad_kv_seqlen` as `[B, 1, 1, 1]`.
fn count(cx: &mut Cx<'_>, batch: &SymInt, cached: bool) -> Done<ValueId> {
    if cached {
        return invalid(
            "it has a past and 'nonpad_kv_seqlen' (input 6), but may have only one of them",
        );
    }
    let ty = cx.ty(6)?;
    if ty.dtype != DType::I64 || ty.rank() != 1 {
        return invalid(format!(
            "its input 6 (nonpad_kv_seqlen) is {} of rank {}, but must be a list of i64",
            ty.dtype,
            ty.rank()
        ));
    }
    cx.require_equal(
        "the batch and the length of nonpad_kv_seqlen",
        &ty.dims[0],
        batch,
    )?;
    let value = cx.value(6)?;
    let one = || SymInt::constant(1);
    cx.reshape("counts", value, vec![batch.clone(), one(), one(), one()])
}

/// A mask of as many keys as there are: what it lacks at the end is hidden.
fn lengthen(cx: &mut Cx<'_>, mask: ValueId, keys: &SymInt, external: bool) -> Done<ValueId> {
    let ty = cx.value_ty(mask).clone();
    let Some(own) = ty.dims.last() else {
        return Ok(mask);
    };
    let short = match own.known_eq(keys, cx.symbols()) {
        Some(equal) => !equal,
        None => external || own.as_const().is_some(),
    };
    if !short {
        return Ok(mask);
    }
    let missing = cx.simplify(&(keys.clone() - own));
    cx.require(|infer| infer.require_at_least("the keys that the mask leaves out", &missing, 0))?;
    let hidden = match ty.dtype {
        DType::Bool => Scalar::int(DType::Bool, 0),
        dtype => Scalar::float(dtype, f64::NEG_INFINITY),
    };
    let zero = || SymInt::constant(0);
    let mut pads = vec![(zero(), zero()); ty.rank()];
    if let Some(last) = pads.last_mut() {
        last.1 = missing;
    }
    let mode = PadMode::Constant(hidden);
    cx.emit("whole_mask", Pad { pads, mode }, &[mask])
}

#[cfg(test)]
mod tests {
    use crate::op::testing::{Model, attr};
    use crate::proto::AttributeProto;
    use bespoke_ir::DType;

    fn model(opset: i64) -> Model {
        Model::new(opset)
            .input("q", DType::F16, &["B", "4", "M", "8"])
            .input("k", DType::F16, &["B", "2", "N", "8"])
            .input("v", DType::F16, &["B", "2", "N", "8"])
            .input("pk", DType::F16, &["B", "2", "P", "8"])
            .input("pv", DType::F16, &["B", "2", "P", "8"])
            .input("mask", DType::Bool, &["M", "N"])
            .input("count", DType::I64, &["B"])
    }

    fn attention(opset: i64, inputs: &[&str], attrs: &[AttributeProto]) -> Model {
        model(opset).node("Attention", inputs, &["y"], attrs)
    }

    #[test]
    fn heads_are_shared_and_positions_masked() {
        let causal = attr("is_causal", 1i64);
        let outputs = ["y", "k2", "v2"];
        let cached = model(23).node(
            "Attention",
            &["q", "k", "v", "", "pk", "pv"],
            &outputs,
            &[causal],
        );
        insta::assert_snapshot!(cached.graph("y k2 v2"), @r"
        graph g(q: f16[B,4,M,8], k: f16[B,2,N,8], v: f16[B,2,N,8], pk: f16[B,2,P,8], pv: f16[B,2,P,8], mask: bool[M,N], count: i64[B]) {
          %0 = concat(pk, k) axis=2 : f16[B,2,N + P,8]  ; Attention_y/present_keys
          %1 = concat(pv, v) axis=2 : f16[B,2,N + P,8]  ; Attention_y/present_values
          %2 = reshape(%0) dims=[B,2,1,N + P,8] : f16[B,2,1,N + P,8]  ; Attention_y/keys_shared
          %3 = expand(%2) dims=[B,2,2,N + P,8] : f16[B,2,2,N + P,8]  ; Attention_y/keys_wide
          %4 = reshape(%3) dims=[B,4,N + P,8] : f16[B,4,N + P,8]  ; Attention_y/keys_repeated
          %5 = reshape(%1) dims=[B,2,1,N + P,8] : f16[B,2,1,N + P,8]  ; Attention_y/values_shared
          %6 = expand(%5) dims=[B,2,2,N + P,8] : f16[B,2,2,N + P,8]  ; Attention_y/values_wide
          %7 = reshape(%6) dims=[B,4,N + P,8] : f16[B,4,N + P,8]  ; Attention_y/values_repeated
          %8 = matmul(q, %4) transpose_b : f16[B,4,M,N + P]  ; Attention_y/scores
          %9 = map(%8) expr=(mul(x0, 0.35355339059327373:f16)) : f16[B,4,M,N + P]  ; Attention_y/scaled
          %10 = host_ints() elements=[P] : i64[]  ; Attention_y/offset
          %11 = map(%9, %10) expr=(select(le(i3, add(i2, x1)), x0, -inf:f16)) : f16[B,4,M,N + P]  ; Attention_y/masked
          %12 = softmax(%11) axis=3 : f16[B,4,M,N + P]  ; Attention_y/softmax
          %13 = matmul(%12, %7) : f16[B,4,M,8]  ; Attention_y
          return %13, %0, %1
        }
        ");
    }

    #[test]
    fn operands_of_three_axes_are_split() {
        let model = Model::new(24)
            .input("q", DType::F16, &["B", "M", "32"])
            .input("k", DType::F16, &["B", "N", "16"])
            .input("mask", DType::Bool, &["M", "N"])
            .input("count", DType::I64, &["B"]);
        let attrs = [
            attr("q_num_heads", 4i64),
            attr("kv_num_heads", 2i64),
            attr("is_causal", 1i64),
        ];
        let all = model.clone().node(
            "Attention",
            &["q", "k", "k", "mask", "", "", "count"],
            &["y"],
            &attrs,
        );
        insta::assert_snapshot!(all.graph("y"), @r"
        graph g(q: f16[B,M,32], k: f16[B,N,16], mask: bool[M,N], count: i64[B]) {
          %0 = reshape(q) dims=[B,M,4,8] : f16[B,M,4,8]  ; Attention_y/queries_apart
          %1 = transpose(%0) perm=[0,2,1,3] : f16[B,4,M,8]  ; Attention_y/queries_heads
          %2 = reshape(k) dims=[B,N,2,8] : f16[B,N,2,8]  ; Attention_y/keys_apart
          %3 = transpose(%2) perm=[0,2,1,3] : f16[B,2,N,8]  ; Attention_y/keys_heads
          %4 = reshape(k) dims=[B,N,2,8] : f16[B,N,2,8]  ; Attention_y/values_apart
          %5 = transpose(%4) perm=[0,2,1,3] : f16[B,2,N,8]  ; Attention_y/values_heads
          %6 = reshape(count) dims=[B,1,1,1] : i64[B,1,1,1]  ; Attention_y/counts
          %7 = host_ints() elements=[M] : i64[]  ; Attention_y/rows
          %8 = map(%6, %7) expr=(sub(x0, x1)) : i64[B,1,1,1]  ; Attention_y/first
          %9 = reshape(%3) dims=[B,2,1,N,8] : f16[B,2,1,N,8]  ; Attention_y/keys_shared
          %10 = expand(%9) dims=[B,2,2,N,8] : f16[B,2,2,N,8]  ; Attention_y/keys_wide
          %11 = reshape(%10) dims=[B,4,N,8] : f16[B,4,N,8]  ; Attention_y/keys_repeated
          %12 = reshape(%5) dims=[B,2,1,N,8] : f16[B,2,1,N,8]  ; Attention_y/values_shared
          %13 = expand(%12) dims=[B,2,2,N,8] : f16[B,2,2,N,8]  ; Attention_y/values_wide
          %14 = reshape(%13) dims=[B,4,N,8] : f16[B,4,N,8]  ; Attention_y/values_repeated
          %15 = matmul(%1, %11) transpose_b : f16[B,4,M,N]  ; Attention_y/scores
          %16 = map(%15) expr=(mul(x0, 0.35355339059327373:f16)) : f16[B,4,M,N]  ; Attention_y/scaled
          %17 = map(%16, mask, %8, %6) expr=(select(and(and(x1, le(i3, add(i2, x2))), lt(i3, x3)), x0, -inf:f16)) : f16[B,4,M,N]  ; Attention_y/masked
          %18 = softmax(%17) axis=3 : f16[B,4,M,N]  ; Attention_y/softmax
          %19 = map(%18) expr=(select(is_nan(x0), 0.0:f16, x0)) : f16[B,4,M,N]  ; Attention_y/guarded
          %20 = matmul(%19, %14) : f16[B,4,M,8]  ; Attention_y/attended
          %21 = transpose(%20) perm=[0,2,1,3] : f16[B,M,4,8]  ; Attention_y/turned
          %22 = reshape(%21) dims=[B,M,32] : f16[B,M,32]  ; Attention_y
          return %22
        }
        ");
        let error = model
            .node("Attention", &["q", "k", "k"], &["y"], &attrs[..1])
            .error("y");
        assert!(
            error.contains("'q_num_heads' and 'kv_num_heads'"),
            "{error}"
        );
    }

    #[test]
    fn scores_are_an_output_at_each_stage() {
        for (mode, end) in [(0, "scaled"), (1, "capped"), (2, "masked"), (3, "guarded")] {
            let attrs = [attr("qk_matmul_output_mode", mode), attr("softcap", 3.0f32)];
            let inputs = ["q", "k", "v", "mask"];
            let graph = model(23)
                .node("Attention", &inputs, &["y", "", "", "s"], &attrs)
                .import("s")
                .unwrap();
            let node = graph.producer(graph.outputs()[0]).unwrap();
            // a cap is for large scores, so that the queries have the scale
            let end = if mode == 0 { "scores" } else { end };
            assert_eq!(graph.node(node).name, format!("Attention_y/{end}"));
        }
    }

    #[test]
    fn what_breaks_the_rules_is_named() {
        let plain = ["q", "k", "v"];
        let error = |opset, inputs: &[&str], attrs: &[AttributeProto]| {
            attention(opset, inputs, attrs).error("y")
        };
        let modes = error(23, &plain, &[attr("qk_matmul_output_mode", 4i64)]);
        assert!(modes.contains("is 4, but must be 0 to 3"), "{modes}");
        let precision = error(23, &plain, &[attr("softmax_precision", 7i64)]);
        assert!(
            precision.contains("'softmax_precision' is 7"),
            "{precision}"
        );
        let half = error(23, &["q", "k", "v", "", "pk"], &[]);
        assert!(half.contains("only one of its inputs 4 and 5"), "{half}");
        let both = error(24, &["q", "k", "v", "", "pk", "pv", "count"], &[]);
        assert!(both.contains("only one of them"), "{both}");
        let early = error(23, &plain, &[attr("left_window_size", 3i64)]);
        assert!(early.contains("left_window_size"), "{early}");
        let window = error(25, &plain, &[attr("left_window_size", -3i64)]);
        assert!(window.contains("is -3, but must be -1"), "{window}");
        let uneven = Model::new(23)
            .input("q", DType::F16, &["B", "3", "M", "8"])
            .input("k", DType::F16, &["B", "2", "N", "8"])
            .node("Attention", &["q", "k", "k"], &["y"], &[]);
        let uneven = uneven.error("y");
        assert!(
            uneven.contains("2 heads of keys cannot serve 3"),
            "{uneven}"
        );
        let loose = Model::new(23)
            .input("q", DType::F16, &["B", "2", "M", "D"])
            .node("Attention", &["q", "q", "q"], &["y"], &[])
            .error("y");
        assert!(loose.contains("set the attribute 'scale'"), "{loose}");
    }
}

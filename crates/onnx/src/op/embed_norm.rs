//! The embeddings of an encoder, as ONNX Runtime's optimiser joins them: EmbedLayerNormalization (`com.microsoft` 1).
//!
//! Rows of the tables of words, positions and segments are added, and the sum is normalised over the last axis. Positions count
//! from 0 unless they are given. The number of words that a mask leaves in each row is an output, 0 without a mask; so is the sum.

use super::sdpa::{self, part};
use crate::context::Cx;
use crate::importer::{Done, invalid};
use bespoke_ir::op::reduce::ReduceKind;
use bespoke_ir::op::{Gather, Map, Normalize, Reduce};
use bespoke_ir::{BinaryOp, DType, ExprBuilder, SymInt, ValueId};

/// Inputs: ids, tables, the norm's vectors.
const WORDS: usize = 0;
const SEGMENTS: usize = 1;
const WORD_TABLE: usize = 2;
const POSITION_TABLE: usize = 3;
const SEGMENT_TABLE: usize = 4;
const GAMMA: usize = 5;
const BETA: usize = 6;
const MASK: usize = 7;
const POSITIONS: usize = 8;

/// EmbedLayerNormalization.
pub(super) fn import(cx: &mut Cx<'_>) -> Done {
    cx.inputs(1, 9)?;
    for i in [WORD_TABLE, POSITION_TABLE, GAMMA, BETA] {
        if !cx.has(i) {
            return invalid(format!("its input {i} is required, but left out"));
        }
    }
    cx.attrs.ignore(&["mask_index_type"]);
    let epsilon = f64::from(cx.attrs.float("epsilon")?.unwrap_or(1e-12));
    let dims = cx.dims(WORDS)?;
    let [batch, words] = &dims[..] else {
        return invalid(format!("its words have rank {}, not 2", dims.len()));
    };
    let dtype = cx.dtype(WORD_TABLE)?;
    for i in [POSITION_TABLE, SEGMENT_TABLE, GAMMA, BETA] {
        if cx.has(i) && cx.dtype(i)? != dtype {
            return invalid(format!(
                "its words are {dtype}, but its input {i} is {}",
                cx.dtype(i)?
            ));
        }
    }
    let mut terms = vec![rows(cx, "words", WORD_TABLE, WORDS)?];
    terms.push(match cx.has(POSITIONS) {
        true => rows(cx, "positions", POSITION_TABLE, POSITIONS)?,
        false => {
            let table = cx.value(POSITION_TABLE)?;
            sdpa::expect_rank(cx, "table of positions", table, 2)?;
            let have = cx.value_ty(table).dims[0].clone();
            let left = cx.simplify(&(have - words));
            cx.require(|infer| {
                infer.require_at_least("the positions behind the last word", &left, 0)
            })?;
            part(
                cx,
                "positions",
                table,
                0,
                SymInt::constant(0),
                words.clone(),
            )?
        }
    });
    if cx.has(SEGMENT_TABLE) && cx.has(SEGMENTS) {
        terms.push(rows(cx, "segments", SEGMENT_TABLE, SEGMENTS)?);
    }
    let sum = cx.map("sum", &terms, |b, r| {
        let others = r[1..].iter();
        others.fold(r[0], |sum, &x| b.binary(BinaryOp::Add, sum, x))
    })?;
    let op = Normalize {
        axes: vec![2],
        epsilon,
        center: true,
    };
    let normal = cx.emit("normalize", op, &[sum])?;
    let operands = [normal, cx.value(GAMMA)?, cx.value(BETA)?];
    let y = cx.map("", &operands, |b, r| {
        let scaled = b.binary(BinaryOp::Mul, r[0], r[1]);
        b.binary(BinaryOp::Add, scaled, r[2])
    })?;
    if cx.value_ty(y).dims != cx.value_ty(sum).dims {
        return invalid("its scale or shift does not fit the last axis");
    }
    cx.set(0, y);
    if cx.wants(1) {
        let count = count(cx, batch)?;
        cx.set(1, count);
    }
    cx.set(2, sum);
    Ok(())
}

/// Rows of a table.
fn rows(cx: &mut Cx<'_>, suffix: &str, table: usize, at: usize) -> Done<ValueId> {
    let (table, at) = (cx.value(table)?, cx.value(at)?);
    sdpa::expect_rank(cx, &format!("table of {suffix}"), table, 2)?;
    sdpa::expect_rank(cx, suffix, at, 2)?;
    cx.emit(suffix, Gather { axis: 0 }, &[table, at])
}

/// Words that the mask leaves: `i32[B]`.
fn count(cx: &mut Cx<'_>, batch: &SymInt) -> Done<ValueId> {
    let Some(mask) = cx.optional(MASK)? else {
        let mut b = ExprBuilder::new(&[]);
        let zero = b.number(DType::I32, 0.0);
        let zeros = Map::over(b.finish(zero), vec![batch.clone()]);
        return cx.emit("no_words", zeros, &[]);
    };
    sdpa::expect_rank(cx, "mask", mask, 2)?;
    let mask = cx.cast("mask", mask, DType::I32)?;
    let op = Reduce {
        kind: ReduceKind::Sum,
        axes: vec![1],
        keep_dims: false,
    };
    cx.emit("words_left", op, &[mask])
}

#[cfg(test)]
mod tests {
    use crate::op::testing::Model;
    use bespoke_ir::DType;

    #[test]
    fn tables_are_added_and_normalised() {
        let model = Model::contrib(17)
            .input("ids", DType::I32, &["B", "M"])
            .input("words", DType::F16, &["9", "8"])
            .input("places", DType::F16, &["5", "8"])
            .input("g", DType::F16, &["8"])
            .input("mask", DType::I32, &["B", "M"]);
        let op = "EmbedLayerNormalization";
        let all = [
            "ids", "ids", "words", "places", "words", "g", "g", "mask", "ids",
        ];
        let all = model
            .clone()
            .contrib_node(op, &all, &["y", "n", "sum"], &[]);
        insta::assert_snapshot!(all.graph("y n sum"), @r"
        graph g(ids: i32[B,M], words: f16[9,8], places: f16[5,8], g: f16[8], mask: i32[B,M]) {
          %0 = gather(words, ids) axis=0 : f16[B,M,8]  ; EmbedLayerNormalization_y/words
          %1 = gather(places, ids) axis=0 : f16[B,M,8]  ; EmbedLayerNormalization_y/positions
          %2 = gather(words, ids) axis=0 : f16[B,M,8]  ; EmbedLayerNormalization_y/segments
          %3 = map(%0, %1, %2) expr=(add(add(x0, x1), x2)) : f16[B,M,8]  ; EmbedLayerNormalization_y/sum
          %4 = normalize(%3) axes=[2] epsilon=0.0000000000009999999960041972 center : f16[B,M,8]  ; EmbedLayerNormalization_y/normalize
          %5 = map(%4, g, g) expr=(add(mul(x0, x1), x2)) : f16[B,M,8]  ; EmbedLayerNormalization_y
          %6 = reduce(mask) kind=sum axes=[1] : i32[B]  ; EmbedLayerNormalization_y/words_left
          return %5, %6, %3
        }
        ");
        let few = ["ids", "", "words", "places", "", "g", "g"];
        let few = model.clone().contrib_node(op, &few, &["y", "n"], &[]);
        let few = few.graph("y n");
        assert!(few.contains("require -M + 5 >= 0"), "{few}");
        assert!(few.contains("slice(places) starts=[0,0]"), "{few}");
        let flat = ["ids", "", "g", "places", "", "g", "g"];
        let error = model.contrib_node(op, &flat, &["y"], &[]).error("y");
        assert!(
            error.contains("table of words has rank 1, not 2"),
            "{error}"
        );
    }
}

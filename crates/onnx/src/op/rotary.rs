//! Rotary positions: pairs of elements are turned by an angle that grows with the position. ONNX: RotaryEmbedding (23), and
//! that of `com.microsoft` (1), which has its inputs in another order.
//!
//! `x · cos + turned(x) · sin`, where `turned` swaps the elements of each pair and negates one of them. Pairs are an element
//! and the one half the rotated size later, or neighbours (`interleaved`). The tables have one column a pair; here they are
//! widened to one an element, which is done at import where they are constant. That is the form that the rotary pass knows.

use super::sdpa::{self, Offset, part};
use crate::context::Cx;
use crate::importer::{Done, invalid, unsupported};
use bespoke_ir::op::{Concat, Expand, Gather, Map};
use bespoke_ir::{BinaryOp, DType, ExprBuilder, SymInt, UnaryOp, ValueId};

/// Cosines or sines: `[positions, R/2]`, or already chosen as `[B, M, R/2]`.
#[derive(Clone, Copy)]
pub(super) struct Tables {
    pub(super) cos: ValueId,
    pub(super) sin: ValueId,
    pub(super) interleaved: bool,
}

/// Which rows of the tables a sequence takes.
pub(super) enum Positions {
    /// An integer for each element: `[B, M]`.
    Listed(ValueId),
    /// All of them.
    Whole,
    /// The tables have a row for each element already.
    Chosen,
}

/// The tables with one column an element, and one row a position of the sequence: `[B, M, R]` or `[1, M, R]`.
pub(super) struct Angles {
    cos: ValueId,
    sin: ValueId,
    interleaved: bool,
}

/// RotaryEmbedding.
pub(super) fn import(cx: &mut Cx<'_>) -> Done {
    cx.inputs(3, 4)?;
    let interleaved = cx.attrs.flag("interleaved", false)?;
    let tables = (1, 2);
    let size = cx.attrs.int("rotary_embedding_dim")?.unwrap_or(0);
    let heads = cx.attrs.int("num_heads")?.unwrap_or(0);
    let positions = if cx.has(3) {
        Positions::Listed(cx.value(3)?)
    } else {
        Positions::Chosen
    };
    rotate_input(cx, tables, interleaved, size, heads, positions)
}

/// RotaryEmbedding of `com.microsoft`.
pub(super) fn contrib(cx: &mut Cx<'_>) -> Done {
    cx.inputs(4, 4)?;
    let interleaved = cx.attrs.flag("interleaved", false)?;
    if cx.attrs.flag("is_packed_batching", false)? {
        return unsupported(
            "attribute 'is_packed_batching' is 1, rows of different lengths in one tensor; export the model with padded \
             batches",
        );
    }
    if cx.attrs.float("scale")?.is_some_and(|s| s != 1.0) {
        return unsupported(
            "attribute 'scale' is not 1, which ONNX Runtime's own kernels do not apply alike; scale the tables instead",
        );
    }
    let size = cx.attrs.int("rotary_embedding_dim")?.unwrap_or(0);
    let heads = cx.attrs.int("num_heads")?.unwrap_or(0);
    if size > 0 && heads < 1 {
        return invalid("attribute 'rotary_embedding_dim' needs 'num_heads'");
    }
    let positions = cx.value(1)?;
    let positions = match cx.rank(1)? {
        2 => positions,
        1 => {
            // the position of the first element of every row
            let one = SymInt::constant(1);
            let count = cx.dims(1)?[0].clone();
            cx.require_equal("the elements of a list of one position and 1", &count, &one)?;
            let dims = cx.dims(0)?;
            let Some(rows) = dims.get(if dims.len() == 4 { 2 } else { 1 }) else {
                return invalid(format!("its input has rank {}, not 3 or 4", dims.len()));
            };
            let first = cx.cast("first", positions, DType::I64)?;
            counted(cx, first, vec![one, rows.clone()])?
        }
        rank => return invalid(format!("its positions have rank {rank}, not 1 or 2")),
    };
    let tables = (2, 3);
    rotate_input(
        cx,
        tables,
        interleaved,
        size,
        heads,
        Positions::Listed(positions),
    )
}

/// `first + m` for each position of `[B, M]`; `first` broadcasts to `[B, 1]`.
pub(super) fn counted(cx: &mut Cx<'_>, first: ValueId, dims: Vec<SymInt>) -> Done<ValueId> {
    let mut b = ExprBuilder::new(&[DType::I64]);
    let (first_reg, at) = (b.input(0), b.coord(1));
    let sum = b.binary(BinaryOp::Add, first_reg, at);
    cx.emit("positions", Map::over(b.finish(sum), dims), &[first])
}

/// Input 0, rotated: `[B, H, M, D]` or `[B, M, H·D]`.
fn rotate_input(
    cx: &mut Cx<'_>,
    (cos, sin): (usize, usize),
    interleaved: bool,
    size: i64,
    heads: i64,
    positions: Positions,
) -> Done {
    if size < 0 || size % 2 != 0 {
        return invalid(format!(
            "attribute 'rotary_embedding_dim' is {size}, but must be an even number"
        ));
    }
    for i in [cos, sin] {
        if cx.dtype(i)? != cx.dtype(0)? {
            return invalid(format!(
                "its tables are {} and its input {}",
                cx.dtype(i)?,
                cx.dtype(0)?
            ));
        }
    }
    let tables = Tables {
        cos: cx.value(cos)?,
        sin: cx.value(sin)?,
        interleaved,
    };
    let (x, dims) = (cx.value(0)?, cx.dims(0)?);
    let angles = choose(cx, tables, positions)?;
    let columns = cx.value_ty(angles.cos).dims.last().cloned();
    if let Some(columns) = columns.filter(|_| size > 0) {
        let size = SymInt::constant(size);
        cx.require_equal(
            "'rotary_embedding_dim' and twice the columns of the tables",
            &size,
            &columns,
        )?;
    }
    if !cx.dtype(0)?.is_float() {
        return invalid(format!(
            "it does not take operands of type {}",
            cx.dtype(0)?
        ));
    }
    let y = match dims.len() {
        4 => rotate(cx, "", x, &angles, true)?,
        3 => {
            let heads = match (heads, dims[2].as_const(), angles.size(cx)) {
                (1.., ..) => heads,
                (0, Some(hidden), Some(size)) if size > 0 => hidden / size,
                _ => {
                    return invalid("an input of three axes needs the attribute 'num_heads'");
                }
            };
            let apart = sdpa::apart(cx, "input", x, heads)?;
            let y = rotate(cx, "rotated", apart, &angles, false)?;
            cx.reshape("", y, dims)?
        }
        rank => return invalid(format!("its input has rank {rank}, not 3 or 4")),
    };
    cx.set(0, y);
    Ok(())
}

impl Angles {
    /// Number of elements that are turned, if it is known.
    fn size(&self, cx: &Cx<'_>) -> Option<i64> {
        cx.value_ty(self.cos).dims.last().and_then(SymInt::as_const)
    }
}

/// The rows of the tables that a sequence of positions takes.
pub(super) fn choose(cx: &mut Cx<'_>, tables: Tables, positions: Positions) -> Done<Angles> {
    let rank = if matches!(positions, Positions::Chosen) {
        3
    } else {
        2
    };
    let mut rows = |name: &str, table: ValueId| -> Done<ValueId> {
        sdpa::expect_rank(cx, &format!("table of {name}s"), table, rank)?;
        let wide = widen(cx, name, table, tables.interleaved)?;
        match &positions {
            Positions::Chosen | Positions::Whole => Ok(wide),
            Positions::Listed(at) => {
                sdpa::expect_rank(cx, "list of positions", *at, 2)?;
                cx.emit(&format!("{name}_rows"), Gather { axis: 0 }, &[wide, *at])
            }
        }
    };
    Ok(Angles {
        cos: rows("cosine", tables.cos)?,
        sin: rows("sine", tables.sin)?,
        interleaved: tables.interleaved,
    })
}

/// Rows of the tables from a known position on, as many as the sequence is long.
pub(super) fn choose_from(
    cx: &mut Cx<'_>,
    tables: Tables,
    offset: &Offset,
    batch: &SymInt,
    rows: &SymInt,
) -> Done<Angles> {
    match offset {
        Offset::Value(first) => {
            let column = vec![batch.clone(), SymInt::constant(1)];
            let first = cx.reshape("first_positions", *first, column)?;
            let at = counted(cx, first, vec![batch.clone(), rows.clone()])?;
            choose(cx, tables, Positions::Listed(at))
        }
        Offset::Known(start) => {
            let all = choose(cx, tables, Positions::Whole)?;
            let have = cx.value_ty(all.cos).dims[0].clone();
            let left = cx.simplify(&(have - start - rows));
            cx.require(|infer| {
                infer.require_at_least("the rows of the tables behind the last position", &left, 0)
            })?;
            let mut cut = |name: &str, table: ValueId| -> Done<ValueId> {
                let suffix = format!("{name}_rows");
                let table = part(cx, &suffix, table, 0, start.clone(), rows.clone())?;
                let mut dims = cx.value_ty(table).dims.clone();
                dims.insert(0, SymInt::constant(1));
                cx.reshape(&format!("{name}_batch"), table, dims)
            };
            Ok(Angles {
                cos: cut("cosine", all.cos)?,
                sin: cut("sine", all.sin)?,
                interleaved: all.interleaved,
            })
        }
    }
}

/// A table of one column a pair as one of one column an element.
fn widen(cx: &mut Cx<'_>, name: &str, table: ValueId, interleaved: bool) -> Done<ValueId> {
    let dims = cx.value_ty(table).dims.clone();
    let axis = dims.len() - 1;
    if !interleaved {
        return cx.emit(&format!("{name}s"), Concat { axis }, &[table, table]);
    }
    let mut pairs = dims.clone();
    pairs.push(SymInt::constant(1));
    let apart = cx.reshape(&format!("{name}_apart"), table, pairs.clone())?;
    pairs[axis + 1] = SymInt::constant(2);
    let wide = Expand { dims: pairs };
    let wide = cx.emit(&format!("{name}_pairs"), wide, &[apart])?;
    let mut joined = dims;
    joined[axis] = cx.simplify(&(&joined[axis] * &SymInt::constant(2)));
    cx.reshape(&format!("{name}s"), wide, joined)
}

/// `[B, H, M, D]` (`heads_first`) or `[B, M, H, D]`, its first elements rotated.
pub(super) fn rotate(
    cx: &mut Cx<'_>,
    suffix: &str,
    x: ValueId,
    angles: &Angles,
    heads_first: bool,
) -> Done<ValueId> {
    let name = |what: &str| match suffix {
        "" => what.to_owned(),
        _ => format!("{suffix}_{what}"),
    };
    let ty = cx.value_ty(x).clone();
    let size = &ty.dims[3];
    let Some(turned) = angles.size(cx) else {
        return unsupported(
            "the columns of its tables depend on the shapes of the inputs; fix the tables' extents",
        );
    };
    let turned = SymInt::constant(turned);
    let rest = cx.simplify(&(size - &turned));
    cx.require(|infer| infer.require_at_least("the elements that are not rotated", &rest, 0))?;
    let zero = SymInt::constant(0);
    let head = part(cx, &name("part"), x, 3, zero.clone(), turned.clone())?;
    let other = swapped(cx, &name("swapped"), head, &turned, angles.interleaved)?;
    let mut operands = vec![head, other];
    for (what, table) in [("cosine", angles.cos), ("sine", angles.sin)] {
        // one row for all heads
        let mut dims = cx.value_ty(table).dims.clone();
        dims.insert(if heads_first { 1 } else { 2 }, SymInt::constant(1));
        let rows = if heads_first { 2 } else { 1 };
        for (i, axis) in [(0, 0), (rows, rows)] {
            if dims[i].as_const() != Some(1) {
                cx.require_equal(
                    "extents of the tables and of the input",
                    &dims[i],
                    &ty.dims[axis],
                )?;
                dims[i] = ty.dims[axis].clone();
            }
        }
        operands.push(cx.reshape(&name(&format!("{what}_each")), table, dims)?);
    }
    let whole = rest.as_const() == Some(0);
    let label = if whole {
        suffix.to_owned()
    } else {
        name("turned")
    };
    let y = cx.map(&label, &operands, |b, r| {
        let along = b.binary(BinaryOp::Mul, r[0], r[2]);
        let across = b.binary(BinaryOp::Mul, r[1], r[3]);
        b.binary(BinaryOp::Add, along, across)
    })?;
    if whole {
        return Ok(y);
    }
    let kept = part(cx, &name("kept"), x, 3, turned, rest)?;
    cx.emit(suffix, Concat { axis: 3 }, &[y, kept])
}

/// The elements of each pair swapped, the one that comes first then negated.
fn swapped(
    cx: &mut Cx<'_>,
    suffix: &str,
    x: ValueId,
    size: &SymInt,
    interleaved: bool,
) -> Done<ValueId> {
    let dims = cx.value_ty(x).dims.clone();
    let half = cx.simplify(&size.floor_div(&SymInt::constant(2)));
    let half_of = |cx: &mut Cx<'_>, second: bool| -> Done<ValueId> {
        let suffix = format!("{suffix}_{}", if second { "second" } else { "first" });
        if !interleaved {
            let start = if second {
                half.clone()
            } else {
                SymInt::constant(0)
            };
            return part(cx, &suffix, x, 3, start, half.clone());
        }
        let mut op = bespoke_ir::op::Slice {
            starts: vec![SymInt::constant(0); 4],
            steps: vec![1, 1, 1, 2],
            dims: dims.clone(),
        };
        op.starts[3] = i64::from(second).into();
        op.dims[3] = half.clone();
        cx.emit(&suffix, op, &[x])
    };
    let second = half_of(cx, true)?;
    let negative = cx.map(&format!("{suffix}_negative"), &[second], |b, r| {
        b.unary(UnaryOp::Neg, r[0])
    })?;
    let first = half_of(cx, false)?;
    if !interleaved {
        return cx.emit(suffix, Concat { axis: 3 }, &[negative, first]);
    }
    let mut pairs = cx.value_ty(first).dims.clone();
    pairs.push(SymInt::constant(1));
    let left = cx.reshape(&format!("{suffix}_left"), negative, pairs.clone())?;
    let right = cx.reshape(&format!("{suffix}_right"), first, pairs)?;
    let stacked = cx.emit(
        &format!("{suffix}_pairs"),
        Concat { axis: 4 },
        &[left, right],
    )?;
    cx.reshape(suffix, stacked, dims)
}

#[cfg(test)]
mod tests {
    use crate::op::testing::{Model, attr, floats};
    use crate::proto::AttributeProto;
    use bespoke_ir::DType;

    fn model(size: &str) -> Model {
        Model::contrib(23)
            .input("x", DType::F32, &["B", "M", size])
            .input("at", DType::I64, &["B", "M"])
            .input("first", DType::I64, &["1"])
            .initializer(floats("cos", &[3, 1], &[1.0, 0.5, 0.25]))
            .initializer(floats("sin", &[3, 1], &[0.0, 0.5, 0.75]))
    }

    #[test]
    fn halves_and_neighbours() {
        let node = |attrs: &[AttributeProto]| {
            let attrs = [&[attr("num_heads", 2i64)], attrs].concat();
            let inputs = ["x", "cos", "sin", "at"];
            model("4").node("RotaryEmbedding", &inputs, &["y"], &attrs)
        };
        insta::assert_snapshot!(node(&[]).graph("y"), @r"
        graph g(x: f32[B,M,4], at: i64[B,M], first: i64[1]) {
          %0 = concat([1.0,0.5,0.25]:f32, [1.0,0.5,0.25]:f32) axis=1 : f32[3,2]  ; RotaryEmbedding_y/cosines
          %1 = gather(%0, at) axis=0 : f32[B,M,2]  ; RotaryEmbedding_y/cosine_rows
          %2 = concat([0.0,0.5,0.75]:f32, [0.0,0.5,0.75]:f32) axis=1 : f32[3,2]  ; RotaryEmbedding_y/sines
          %3 = gather(%2, at) axis=0 : f32[B,M,2]  ; RotaryEmbedding_y/sine_rows
          %4 = reshape(x) dims=[B,M,2,2] : f32[B,M,2,2]  ; RotaryEmbedding_y/input_apart
          %5 = slice(%4) starts=[0,0,0,1] steps=[1,1,1,1] dims=[B,M,2,1] : f32[B,M,2,1]  ; RotaryEmbedding_y/rotated_swapped_second
          %6 = map(%5) expr=(neg(x0)) : f32[B,M,2,1]  ; RotaryEmbedding_y/rotated_swapped_negative
          %7 = slice(%4) starts=[0,0,0,0] steps=[1,1,1,1] dims=[B,M,2,1] : f32[B,M,2,1]  ; RotaryEmbedding_y/rotated_swapped_first
          %8 = concat(%6, %7) axis=3 : f32[B,M,2,2]  ; RotaryEmbedding_y/rotated_swapped
          %9 = reshape(%1) dims=[B,M,1,2] : f32[B,M,1,2]  ; RotaryEmbedding_y/rotated_cosine_each
          %10 = reshape(%3) dims=[B,M,1,2] : f32[B,M,1,2]  ; RotaryEmbedding_y/rotated_sine_each
          %11 = map(%4, %8, %9, %10) expr=(add(mul(x0, x2), mul(x1, x3))) : f32[B,M,2,2]  ; RotaryEmbedding_y/rotated
          %12 = reshape(%11) dims=[B,M,4] : f32[B,M,4]  ; RotaryEmbedding_y
          return %12
        }
        ");
        insta::assert_snapshot!(node(&[attr("interleaved", 1i64)]).graph("y"), @r"
        graph g(x: f32[B,M,4], at: i64[B,M], first: i64[1]) {
          %0 = reshape([1.0,0.5,0.25]:f32) dims=[3,1,1] : f32[3,1,1]  ; RotaryEmbedding_y/cosine_apart
          %1 = expand(%0) dims=[3,1,2] : f32[3,1,2]  ; RotaryEmbedding_y/cosine_pairs
          %2 = reshape(%1) dims=[3,2] : f32[3,2]  ; RotaryEmbedding_y/cosines
          %3 = gather(%2, at) axis=0 : f32[B,M,2]  ; RotaryEmbedding_y/cosine_rows
          %4 = reshape([0.0,0.5,0.75]:f32) dims=[3,1,1] : f32[3,1,1]  ; RotaryEmbedding_y/sine_apart
          %5 = expand(%4) dims=[3,1,2] : f32[3,1,2]  ; RotaryEmbedding_y/sine_pairs
          %6 = reshape(%5) dims=[3,2] : f32[3,2]  ; RotaryEmbedding_y/sines
          %7 = gather(%6, at) axis=0 : f32[B,M,2]  ; RotaryEmbedding_y/sine_rows
          %8 = reshape(x) dims=[B,M,2,2] : f32[B,M,2,2]  ; RotaryEmbedding_y/input_apart
          %9 = slice(%8) starts=[0,0,0,1] steps=[1,1,1,2] dims=[B,M,2,1] : f32[B,M,2,1]  ; RotaryEmbedding_y/rotated_swapped_second
          %10 = map(%9) expr=(neg(x0)) : f32[B,M,2,1]  ; RotaryEmbedding_y/rotated_swapped_negative
          %11 = slice(%8) starts=[0,0,0,0] steps=[1,1,1,2] dims=[B,M,2,1] : f32[B,M,2,1]  ; RotaryEmbedding_y/rotated_swapped_first
          %12 = reshape(%10) dims=[B,M,2,1,1] : f32[B,M,2,1,1]  ; RotaryEmbedding_y/rotated_swapped_left
          %13 = reshape(%11) dims=[B,M,2,1,1] : f32[B,M,2,1,1]  ; RotaryEmbedding_y/rotated_swapped_right
          %14 = concat(%12, %13) axis=4 : f32[B,M,2,1,2]  ; RotaryEmbedding_y/rotated_swapped_pairs
          %15 = reshape(%14) dims=[B,M,2,2] : f32[B,M,2,2]  ; RotaryEmbedding_y/rotated_swapped
          %16 = reshape(%3) dims=[B,M,1,2] : f32[B,M,1,2]  ; RotaryEmbedding_y/rotated_cosine_each
          %17 = reshape(%7) dims=[B,M,1,2] : f32[B,M,1,2]  ; RotaryEmbedding_y/rotated_sine_each
          %18 = map(%8, %15, %16, %17) expr=(add(mul(x0, x2), mul(x1, x3))) : f32[B,M,2,2]  ; RotaryEmbedding_y/rotated
          %19 = reshape(%18) dims=[B,M,4] : f32[B,M,4]  ; RotaryEmbedding_y
          return %19
        }
        ");
    }

    #[test]
    fn a_part_of_a_head_and_positions_from_one_on() {
        let graph = model("8").contrib_node(
            "RotaryEmbedding",
            &["x", "first", "cos", "sin"],
            &["y"],
            &[attr("num_heads", 2i64), attr("rotary_embedding_dim", 2i64)],
        );
        let graph = graph.graph("y");
        assert!(
            graph.contains("map(first) expr=(add(x0, i1)) shape=[1,M]"),
            "{graph}"
        );
        assert!(graph.contains("concat(%"), "{graph}");
        assert!(
            graph.contains(") axis=3 : f32[B,M,2,4]  ; RotaryEmbedding_y/rotated"),
            "{graph}"
        );
    }

    #[test]
    fn what_cannot_be_told_is_refused() {
        let error = |attrs: &[AttributeProto]| {
            let inputs = ["x", "at", "cos", "sin"];
            model("8")
                .contrib_node("RotaryEmbedding", &inputs, &["y"], attrs)
                .error("y")
        };
        let packed = error(&[attr("is_packed_batching", 1i64)]);
        assert!(packed.contains("padded batches"), "{packed}");
        let scaled = error(&[attr("scale", 2.0f32)]);
        assert!(scaled.contains("scale the tables"), "{scaled}");
        let heads = error(&[attr("rotary_embedding_dim", 2i64)]);
        assert!(heads.contains("needs 'num_heads'"), "{heads}");
    }
}

//! Blocks of pixels moved to channels and back. ONNX: DepthToSpace (1, 11, 13, 28), SpaceToDepth (1, 13, 28).
//!
//! `mode` says whether the block (`DCR`) or the channel (`CRD`) varies slowest among the channels; DepthToSpace has it
//! since opset 11, SpaceToDepth since 28.

use crate::context::Cx;
use crate::importer::{Done, invalid};
use bespoke_ir::SymInt;
use bespoke_ir::op::Transpose;

fn block(cx: &mut Cx<'_>) -> Done<(Vec<SymInt>, SymInt)> {
    cx.inputs(1, 1)?;
    let dims = cx.dims(0)?;
    if dims.len() != 4 {
        return invalid(format!("its data has rank {}, not 4", dims.len()));
    }
    match cx.attrs.int("blocksize")? {
        Some(size @ 1..=0x7fff) => Ok((dims, size.into())),
        Some(size) => invalid(format!("attribute 'blocksize' is {size}")),
        None => invalid("attribute 'blocksize' is required"),
    }
}

fn channels_first(cx: &Cx<'_>, since: i64) -> Done<bool> {
    if cx.opset < since {
        return Ok(false);
    }
    Ok(cx
        .attrs
        .choice("mode", false, &[("DCR", false), ("CRD", true)])?)
}

/// `whole / parts`, which must be exact.
fn share(cx: &mut Cx<'_>, whole: &SymInt, parts: &SymInt) -> Done<SymInt> {
    let share = cx.simplify(&whole.floor_div(parts));
    cx.require_equal(
        "an extent and a multiple of the block",
        whole,
        &(&share * parts),
    )?;
    Ok(share)
}

fn rearrange(cx: &mut Cx<'_>, apart: Vec<SymInt>, perm: [usize; 6], joined: Vec<SymInt>) -> Done {
    let x = cx.value(0)?;
    let x = cx.reshape("apart", x, apart)?;
    let x = cx.emit(
        "transpose",
        Transpose {
            perm: perm.to_vec(),
        },
        &[x],
    )?;
    let y = cx.reshape("", x, joined)?;
    cx.set(0, y);
    Ok(())
}

/// DepthToSpace.
pub(super) fn depth_to_space(cx: &mut Cx<'_>) -> Done {
    let (dims, b) = block(cx)?;
    let channels_first = channels_first(cx, 11)?;
    let [n, c, h, w] = [0, 1, 2, 3].map(|i| dims[i].clone());
    let depth = share(cx, &c, &(&b * &b))?;
    let joined = vec![n.clone(), depth.clone(), &h * &b, &w * &b];
    if channels_first {
        rearrange(
            cx,
            vec![n, depth, b.clone(), b, h, w],
            [0, 1, 4, 2, 5, 3],
            joined,
        )
    } else {
        rearrange(
            cx,
            vec![n, b.clone(), b, depth, h, w],
            [0, 3, 4, 1, 5, 2],
            joined,
        )
    }
}

/// SpaceToDepth.
pub(super) fn space_to_depth(cx: &mut Cx<'_>) -> Done {
    let (dims, b) = block(cx)?;
    let channels_first = channels_first(cx, 28)?;
    let [n, c, h, w] = [0, 1, 2, 3].map(|i| dims[i].clone());
    let (rows, columns) = (share(cx, &h, &b)?, share(cx, &w, &b)?);
    let joined = vec![n.clone(), &c * &b * &b, rows.clone(), columns.clone()];
    let perm = if channels_first {
        [0, 1, 3, 5, 2, 4]
    } else {
        [0, 3, 5, 1, 2, 4]
    };
    rearrange(cx, vec![n, c, rows, b.clone(), columns, b], perm, joined)
}

#[cfg(test)]
mod tests {
    use crate::op::testing::{Model, attr};
    use bespoke_ir::DType;

    #[test]
    fn there_and_back() {
        let block = attr("blocksize", 2i64);
        let model = Model::new(13).input("x", DType::F32, &["N", "8", "H", "6"]);
        let deep = model.clone().node(
            "DepthToSpace",
            &["x"],
            &["y"],
            &[block.clone(), attr("mode", "CRD")],
        );
        assert_eq!(deep.output_type("y"), "f32[N,2,2*H,12]");
        let wide = model.node("SpaceToDepth", &["x"], &["y"], &[block]);
        assert_eq!(wide.output_type("y"), "f32[N,32,floor(H/2),3]");
    }
}

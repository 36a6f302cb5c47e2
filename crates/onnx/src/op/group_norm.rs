//! Normalisation of groups of channels. ONNX: GroupNormalization (18, 21).
//!
//! Opset 18 has one scale and bias a group, 21 one a channel; 21 adds `stash_type`, the type of the statistics, which
//! are computed in `f32` at least anyway.

use super::conv::add_bias;
use super::instance_norm::scale_channels;
use crate::context::Cx;
use crate::importer::{Done, invalid};
use bespoke_ir::SymInt;
use bespoke_ir::op::Normalize;

/// GroupNormalization.
pub(super) fn import(cx: &mut Cx<'_>) -> Done {
    cx.inputs(3, 3)?;
    let epsilon = f64::from(cx.attrs.float("epsilon")?.unwrap_or(1e-5));
    if cx.opset >= 21 {
        cx.attrs.ignore(&["stash_type"]);
    }
    let Some(groups) = cx.attrs.int("num_groups")? else {
        return invalid("attribute 'num_groups' is required");
    };
    let dims = cx.dims(0)?;
    if dims.len() < 2 || groups < 1 {
        return invalid(format!(
            "it cannot make {groups} groups of a tensor of rank {}",
            dims.len()
        ));
    }
    let groups = SymInt::constant(groups);
    let share = cx.simplify(&dims[1].floor_div(&groups));
    cx.require_equal(
        "the channels and the channels in all groups",
        &dims[1],
        &(&share * &groups),
    )?;
    let inner = SymInt::product(std::iter::once(&share).chain(&dims[2..]));
    let x = cx.value(0)?;
    let (scale, bias) = (cx.value(1)?, cx.value(2)?);
    let grouped = cx.reshape("groups", x, vec![dims[0].clone(), groups, inner])?;
    let normal = cx.emit(
        "normalize",
        Normalize {
            axes: vec![2],
            epsilon,
            center: true,
        },
        &[grouped],
    )?;
    let y = if cx.opset >= 21 {
        let normal = cx.reshape("channels", normal, dims)?;
        let scaled = scale_channels(cx, normal, scale)?;
        add_bias(cx, scaled, bias)?
    } else {
        let scaled = scale_channels(cx, normal, scale)?;
        let shifted = add_bias(cx, scaled, bias)?;
        cx.reshape("", shifted, dims)?
    };
    cx.set(0, y);
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::op::testing::{Model, attr};
    use bespoke_ir::DType;

    fn model(opset: i64, count: &str) -> Model {
        Model::new(opset)
            .input("x", DType::F32, &["N", "6", "H"])
            .input("s", DType::F32, &[count])
            .input("b", DType::F32, &[count])
            .node(
                "GroupNormalization",
                &["x", "s", "b"],
                &["y"],
                &[attr("num_groups", 2i64)],
            )
    }

    #[test]
    fn scale_by_group_then_by_channel() {
        insta::assert_snapshot!(model(21, "6").graph("y"), @r"
        graph g(x: f32[N,6,H], s: f32[6], b: f32[6]) {
          %0 = reshape(x) dims=[N,2,3*H] : f32[N,2,3*H]  ; GroupNormalization_y/groups
          %1 = normalize(%0) axes=[2] epsilon=0.000009999999747378752 center : f32[N,2,3*H]  ; GroupNormalization_y/normalize
          %2 = reshape(%1) dims=[N,6,H] : f32[N,6,H]  ; GroupNormalization_y/channels
          %3 = reshape(s) dims=[6,1] : f32[6,1]  ; GroupNormalization_y/scales
          %4 = map(%2, %3) expr=(mul(x0, x1)) : f32[N,6,H]  ; GroupNormalization_y/scale
          %5 = reshape(b) dims=[6,1] : f32[6,1]  ; GroupNormalization_y/bias
          %6 = map(%4, %5) expr=(add(x0, x1)) : f32[N,6,H]  ; GroupNormalization_y
          return %6
        }
        ");
        assert_eq!(model(18, "2").output_type("y"), "f32[N,6,H]");
        assert!(
            model(21, "2")
                .error("y")
                .contains("the scale and the channels differ: 2 and 6")
        );
        assert!(
            model(18, "6")
                .error("y")
                .contains("the scale and the channels differ: 6 and 2")
        );
    }
}

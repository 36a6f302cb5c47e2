//! Repetition along each axis. ONNX: Tile (6, 13).
//!
//! `[d]` repeated `r` times is `[1, d]` broadcast to `[r, d]` and read as `[r·d]`.

use crate::context::Cx;
use crate::importer::{Done, invalid};
use bespoke_ir::SymInt;
use bespoke_ir::op::Expand;

/// Tile.
pub(super) fn import(cx: &mut Cx<'_>) -> Done {
    cx.inputs(2, 2)?;
    let dims = cx.dims(0)?;
    let repeats = cx.host_ints(1, "the repeats")?;
    if repeats.len() != dims.len() {
        return invalid(format!(
            "it has {} repeats for a tensor of rank {}",
            repeats.len(),
            dims.len()
        ));
    }
    for repeat in &repeats {
        cx.require(|infer| infer.require_at_least("a repeat", repeat, 0))?;
    }
    if repeats.iter().all(|repeat| repeat.as_const() == Some(1)) {
        return cx.forward(0, 0);
    }
    let counts: Option<Vec<usize>> = repeats
        .iter()
        .map(|r| r.as_const().and_then(|r| usize::try_from(r).ok()))
        .collect();
    if let (Some(known), Some(counts)) = (cx.known(0), counts) {
        let target: Option<Vec<usize>> = known
            .dims
            .iter()
            .zip(&counts)
            .map(|(&d, &r)| d.checked_mul(r))
            .collect();
        let own = known.dims.clone();
        let wrap = |index: &[usize]| {
            index
                .iter()
                .zip(&own)
                .map(|(&i, &d)| i % d.max(1))
                .collect()
        };
        if let Some(result) = target.and_then(|target| known.remap(target, wrap)) {
            cx.set_known(0, result);
            return Ok(());
        }
    }
    let one = SymInt::constant(1);
    let (mut apart, mut wide, mut joined) = (Vec::new(), Vec::new(), Vec::new());
    for (extent, repeat) in dims.iter().zip(&repeats) {
        if repeat.as_const() != Some(1) {
            apart.push(one.clone());
            wide.push(repeat.clone());
        }
        apart.push(extent.clone());
        wide.push(extent.clone());
        joined.push(extent * repeat);
    }
    let x = cx.value(0)?;
    let x = cx.reshape("apart", x, apart)?;
    let x = cx.emit("repeat", Expand { dims: wide }, &[x])?;
    let y = cx.reshape("", x, joined)?;
    cx.set(0, y);
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::op::testing::{Model, ints};
    use bespoke_ir::DType;

    #[test]
    fn reshape_broadcast_reshape() {
        let model = Model::new(13)
            .input("x", DType::F32, &["N", "3"])
            .initializer(ints("r", &[2], &[2, 1]));
        insta::assert_snapshot!(model.clone().node("Tile", &["x", "r"], &["y"], &[]).graph("y"), @r"
        graph g(x: f32[N,3]) {
          %0 = reshape(x) dims=[1,N,3] : f32[1,N,3]  ; Tile_y/apart
          %1 = expand(%0) dims=[2,N,3] : f32[2,N,3]  ; Tile_y/repeat
          %2 = reshape(%1) dims=[2*N,3] : f32[2*N,3]  ; Tile_y
          return %2
        }
        ");
        let model = model.initializer(ints("s", &[1], &[2]));
        assert!(
            model
                .node("Tile", &["x", "s"], &["y"], &[])
                .error("y")
                .contains("1 repeats for a tensor of rank 2")
        );
    }

    #[test]
    fn known_tensors_repeat_on_the_host() {
        let model = Model::new(13)
            .initializer(ints("x", &[2], &[1, 2]))
            .initializer(ints("r", &[1], &[2]));
        assert!(
            model
                .node("Tile", &["x", "r"], &["y"], &[])
                .graph("y")
                .contains("[1,2,1,2]")
        );
    }
}

//! Permuted axes. ONNX: Transpose (1, 13, …). Without `perm` the axes are reversed.

use crate::context::Cx;
use crate::importer::{Done, invalid};
use bespoke_ir::op::Transpose;

/// Transpose.
pub(super) fn import(cx: &mut Cx<'_>) -> Done {
    cx.inputs(1, 1)?;
    let rank = cx.rank(0)?;
    let perm: Vec<usize> = match cx.attrs.ints("perm")? {
        None => (0..rank).rev().collect(),
        Some(perm) => {
            // Negative axes are outside the standard, but some exporters write them.
            let perm = perm
                .iter()
                .map(|&axis| cx.axis(axis, rank))
                .collect::<Done<Vec<_>>>()?;
            let mut sorted = perm.clone();
            sorted.sort_unstable();
            if !sorted.iter().copied().eq(0..rank) {
                return invalid(format!(
                    "attribute 'perm' {perm:?} is no permutation of {rank} axes"
                ));
            }
            perm
        }
    };
    if perm.iter().copied().eq(0..rank) {
        return cx.forward(0, 0);
    }
    if let Some(known) = cx.known(0) {
        let dims = perm.iter().map(|&axis| known.dims[axis]).collect();
        let result = known.remap(dims, |index| {
            let mut from = vec![0; index.len()];
            for (i, &axis) in perm.iter().enumerate() {
                from[axis] = index[i];
            }
            from
        });
        if let Some(result) = result {
            cx.set_known(0, result);
            return Ok(());
        }
    }
    let x = cx.value(0)?;
    let y = cx.emit("", Transpose { perm }, &[x])?;
    cx.set(0, y);
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::op::testing::{Model, attr, ints};
    use bespoke_ir::DType;

    #[test]
    fn permutations() {
        let model = Model::new(13).input("x", DType::F32, &["N", "3", "H"]);
        assert_eq!(
            model
                .clone()
                .node("Transpose", &["x"], &["y"], &[])
                .output_type("y"),
            "f32[H,3,N]"
        );
        let perm = |perm: &[i64; 3]| {
            model
                .clone()
                .node("Transpose", &["x"], &["y"], &[attr("perm", perm)])
        };
        assert_eq!(perm(&[0, 2, 1]).output_type("y"), "f32[N,H,3]");
        assert!(perm(&[0, 0, 1]).error("y").contains("no permutation"));
        assert!(perm(&[0, 1, 3]).error("y").contains("axis 3 is outside"));
    }

    #[test]
    fn known_tensors_are_permuted_on_the_host() {
        let model = Model::new(13)
            .initializer(ints("x", &[2, 2], &[1, 2, 3, 4]))
            .node("Transpose", &["x"], &["y"], &[]);
        assert!(model.graph("y").contains("[1,3,2,4]"));
    }
}

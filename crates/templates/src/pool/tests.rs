//! The twin against the reference.

use super::*;
use crate::oracle::{self, Oracle};
use bespoke_ir::op::conv::Window;
use bespoke_ir::{Op, op};
use bespoke_reference::{Tensor, eval_node, index};

/// The reference's results for a sample; ceil where the extents say so.
fn reference(t: &Pool, oracle: &Oracle<'_>) -> Vec<Tensor> {
    let args = oracle.args();
    let g = t.geometry_of(&args).unwrap();
    let mut input = g.extents[..2].to_vec();
    input.extend_from_slice(&g.ins);
    let (x, view) = oracle.read("x", t.rank());
    let dense = index::map_positions(&input, |p| Ok::<_, ()>(x.get(view.at(p) as usize))).unwrap();
    // narrow types in f32: they are rounded after the epilogue
    let wide = if matches!(t.dtype, DType::F16 | DType::BF16) {
        DType::F32
    } else {
        t.dtype
    };
    let dense = Tensor::new(wide, &input, dense).unwrap();
    let pads = g
        .pads
        .iter()
        .zip(&g.ends)
        .map(|(&b, &e)| (b.into(), e.into()))
        .collect();
    let window = Window {
        strides: g.strs.clone(),
        dilations: g.dils.clone(),
        pads,
    };
    for ceil in [false, true] {
        let op = op::Pool {
            kind: t.kind,
            kernel: g.kers.clone(),
            window: window.clone(),
            ceil,
        };
        let mut results = eval_node(&Op::from(op), &[&dense], &[]).unwrap();
        // one axis may have rounded up and another down: the larger result holds the smaller
        let holds = results[0]
            .dims()
            .iter()
            .zip(&g.extents)
            .all(|(have, want)| have >= want);
        if holds {
            for r in &mut results {
                let own = index::strides(r.dims());
                let cut =
                    index::map_positions(&g.extents, |p| Ok::<_, ()>(r.get(index::flat(&own, p))));
                *r = Tensor::new(r.dtype(), &g.extents, cut.unwrap()).unwrap();
            }
            return results;
        }
    }
    panic!("{:?} are no extents of {}", g.extents, t.describe());
}

#[test]
fn twin_and_reference_agree() {
    for seed in 0..6 {
        for (t, sample) in cases(&mut Rng::new(seed)) {
            let oracle = Oracle::new(&sample);
            let extents = t.extents(&oracle.args());
            let want = reference(&t, &oracle);
            let strides = index::strides(&extents);
            let extras: Vec<_> = (1..t.epilogue.inputs().len())
                .map(|k| oracle.read(&format!("e{}", k - 1), t.rank()))
                .collect();
            oracle.check(&extents, |p| {
                oracle::epilogue(
                    &t.epilogue,
                    &extras,
                    want[0].get(index::flat(&strides, p)),
                    p,
                )
            });
            if t.with_indices() {
                let got = sample.run_twin().unwrap();
                let view = Strided::of(&oracle.args(), "idx", t.rank());
                let got =
                    Tensor::from_bytes(DType::I64, &[got[1].len() as i64 / 8], &got[1]).unwrap();
                index::for_positions(&extents, |p| {
                    let (a, b) = (
                        got.get(view.at(p) as usize),
                        want[1].get(index::flat(&strides, p)),
                    );
                    assert_eq!(a, b, "{} at {p:?}", t.describe());
                });
            }
        }
    }
}

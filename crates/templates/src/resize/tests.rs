//! The twin against the reference.

use super::*;
use crate::oracle::{self, Oracle};
use bespoke_ir::Op;
use bespoke_reference::{Tensor, eval_node, index};

#[test]
fn twin_and_reference_agree() {
    for seed in 0..12 {
        for (op, t, sample) in cases(&mut Rng::new(seed)) {
            let oracle = Oracle::new(&sample);
            let args = oracle.args();
            let (extents, input) = (t.extents(&args), args.ints("in", t.rank));
            let (x, view) = oracle.read("x", t.rank);
            let dense =
                index::map_positions(&input, |p| Ok::<_, ()>(x.get(view.at(p) as usize))).unwrap();
            // narrow types in f32: they are rounded after the epilogue
            let wide = if matches!(t.dtype, DType::F16 | DType::BF16) {
                DType::F32
            } else {
                t.dtype
            };
            let dense = Tensor::new(wide, &input, dense).unwrap();
            let want = eval_node(&Op::from(op), &[&dense], &[]).unwrap().remove(0);
            let strides = index::strides(&extents);
            let extras: Vec<_> = (1..t.epilogue.inputs().len())
                .map(|k| oracle.read(&format!("e{}", k - 1), t.rank))
                .collect();
            oracle.check(&extents, |p| {
                oracle::epilogue(&t.epilogue, &extras, want.get(index::flat(&strides, p)), p)
            });
        }
    }
}

#[test]
fn impossible_scales_are_refused() {
    for scale in [0.0, -1.0, f32::NAN, 1e-30] {
        let op = bespoke_ir::op::Resize {
            dims: vec![2.into()],
            scales: vec![Some(scale)],
            interpolation: Interpolation::Linear,
            coordinates: CoordinateMode::HalfPixel,
            antialias: true,
            crop: None,
        };
        let t = Resize::new(&op, DType::F32, Expr::identity(DType::F32));
        let mut args = Arguments::new(&t);
        random::ints(&mut args, "d", &[2]);
        random::ints(&mut args, "in", &[2]);
        let rng = &mut Rng::new(1);
        args.tensor(rng, "x", &[2], &[]);
        args.tensor(rng, "y", &[2], &[]);
        assert!(args.finish(Arc::new(t), 0.0).run_twin().is_err());
    }
}

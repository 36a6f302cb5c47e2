//! What a span promises, position by position, and the tiles of a rotation of pairs.

use std::collections::{BTreeMap, BTreeSet};

use bespoke_device::{Arch, DeviceProps};

use super::*;
use crate::spec::{Args, KernelSpec, Template};
use crate::view::Strided;

/// Checks that the vectors of a span cover the space, and that each lies in an aligned run of every operand.
fn check(t: &Pointwise, args: &Args<'_>, span: Span) {
    let values: BTreeMap<&str, i64> = args.iter_ints().collect();
    let known = |name: &str| values.get(name).copied().map(Baked::Exact);
    let steps = span.steps(t.rank, &known).unwrap();
    assert_eq!(steps.iter().product::<i64>(), span.width);
    let extents = args.ints("d", t.rank);
    let positions = |corner: &[i64]| -> Vec<Vec<i64>> {
        let mut list = vec![Vec::new()];
        for a in 0..t.rank {
            list = (list.iter())
                .flat_map(|p: &Vec<i64>| (0..steps[a]).map(move |i| (p, i)))
                .map(|(p, i)| [&p[..], &[corner[a] + i]].concat())
                .collect();
        }
        list
    };
    let mut views: Vec<(String, DType, bool)> = Vec::new();
    for (i, &ty) in t.inputs().iter().enumerate() {
        views.push((format!("x{i}"), ty, false));
    }
    for (k, e) in t.outputs.iter().enumerate() {
        views.push((format!("y{k}"), e.dtype(), true));
    }
    let mut corner = vec![0; t.rank];
    let mut seen = 0;
    loop {
        let points = positions(&corner);
        seen += points.len() as i64;
        assert!(points.iter().flatten().all(|&i| i >= 0));
        for (name, ty, written) in &views {
            let view = Strided::of(args, name, t.rank);
            let run = span.run(&steps, name, *ty, &known).unwrap();
            let places: BTreeSet<i64> = points.iter().map(|p| view.at(p)).collect();
            let runs: BTreeSet<i64> = places.iter().map(|p| p.div_euclid(run)).collect();
            assert_eq!(runs.len(), 1, "{name} {span:?} {places:?} in runs of {run}");
            if *written {
                assert_eq!((places.len() as i64, run), (span.width, span.width));
            }
        }
        // the next vector
        let Some(a) = (0..t.rank).rev().find(|&a| {
            corner[a] += steps[a];
            if corner[a] >= extents[a] {
                corner[a] = 0;
            }
            corner[a] > 0
        }) else {
            break;
        };
        assert!(corner[a] + steps[a] <= extents[a]);
    }
    assert_eq!(seen, extents.iter().product::<i64>());
}

#[test]
fn vectors_lie_in_aligned_runs() {
    let props = DeviceProps::preset(Arch::sm(90));
    let mut found = [0; 5];
    for seed in 0..3000 {
        let (t, s) = sample(&mut Rng::new(seed));
        let (params, row) = (t.params(), s.row());
        let args = Args::new(&params, &row);
        let spec = KernelSpec::exact(s.template.clone(), &args, &props);
        let span = Span {
            axes: spec.tile.get("SPAN") as usize,
            width: spec.tile.get("WIDTH"),
        };
        found[span.axes] += 1;
        if span.axes > 0 {
            check(&t, &args, span);
            // which is only so where it is known
            let open = KernelSpec::specialised(
                s.template.clone(),
                &args,
                |name, v| (!name.contains("_s3")).then_some(Baked::Exact(v)),
                &props,
            );
            assert!(open.tile.get("SPAN") == 0 || args.int("d3") == 1);
        }
    }
    assert!(found[..4].iter().all(|&n| n > 30), "{found:?}");
}

#[test]
fn a_rotation_of_pairs() {
    let mut b = ExprBuilder::new(&[DType::F16; 2]);
    let (x, other) = (b.input(0), b.input(1));
    let y = b.binary(BinaryOp::Mul, x, other);
    let t = Pointwise {
        rank: 4,
        outputs: vec![b.finish(y)],
    };
    let tile = |last: i64, forward: [i64; 4], swapped: [i64; 4], offset: i64| {
        let mut args = Arguments::new(&t);
        for (a, d) in [1536, 24, 128 / last, last].into_iter().enumerate() {
            args.int(&format!("d{a}"), d);
        }
        for (name, strides) in [("y0", forward), ("x0", forward), ("x1", swapped)] {
            args.int(&format!("{name}_o"), if name == "x1" { offset } else { 0 });
            for (a, s) in strides.into_iter().enumerate() {
                args.int(&format!("{name}_s{a}"), s);
            }
        }
        let s = args.finish(Arc::new(t.clone()), 0.0);
        let (params, row) = (t.params(), s.row());
        let args = Args::new(&params, &row);
        let props = DeviceProps::preset(Arch::sm(90));
        KernelSpec::exact(s.template.clone(), &args, &props).to_string()
    };
    let pairs = [3072, 128, 2, 1];
    insta::assert_snapshot!(tile(2, pairs, [3072, 128, 2, -1], 1));
    // not aligned
    assert!(!tile(2, pairs, [3072, 128, 2, -1], 2).contains("SPAN"));
    // a whole row backward
    assert!(
        tile(128, [3072, 128, 0, 1], [3072, 128, 0, -1], 127)
            .contains("SPAN=1 THREADS=256 WIDTH=8")
    );
    // halves that change places are vectors along the last axis as they are
    assert!(!tile(64, [3072, 128, 64, 1], [3072, 128, -64, 1], 64).contains("SPAN"));
}

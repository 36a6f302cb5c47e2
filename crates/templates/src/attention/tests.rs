//! The twin against the definition, tiles, and the text of definitions.

use bespoke_device::Arch;
use bespoke_reference::Number;
use proptest::prelude::{ProptestConfig, any, proptest};

use super::*;
use crate::oracle::Oracle;

fn plain(size: i64) -> Attention {
    Attention {
        batch: 1,
        dtype: DType::F16,
        size,
        value_size: size,
        scale: 0.125,
        mask: None,
        fill: f64::NEG_INFINITY,
        undefined_as_zero: false,
    }
}

/// The definition in `f64`.
fn check(sample: &Sample, t: &Attention) {
    let oracle = Oracle::new(sample);
    let args = oracle.args();
    let b = t.batch;
    let (m, n, g) = (args.int("m"), args.int("n"), args.int("g"));
    let (q, k, v) = (
        oracle.read("q", b + 3),
        oracle.read("k", b + 2),
        oracle.read("v", b + 2),
    );
    let mask = t.mask.map(|_| oracle.read("e0", b + 3));
    let mut extents = args.ints("d", b);
    extents.extend([g, m, t.value_size]);
    let at = |(tensor, view): &(bespoke_reference::Tensor, crate::view::Strided), p: &[i64]| {
        tensor.get(view.at(p) as usize)
    };
    let shares = |p: &[i64]| -> Vec<f64> {
        let scores: Vec<f64> = (0..n)
            .map(|j| {
                let product: f64 = (0..t.size)
                    .map(|e| {
                        let x = at(&q, &[&p[..b + 2], &[e]].concat()).to_f64();
                        x * at(&k, &[&p[..b], &[j, e]].concat()).to_f64()
                    })
                    .sum();
                let score = product * t.scale;
                match mask.as_ref().map(|e| at(e, &[&p[..b + 2], &[j]].concat())) {
                    None | Some(Number::I(1)) => score,
                    Some(Number::F(x)) => score + x,
                    Some(Number::I(_)) => t.fill,
                }
            })
            .collect();
        let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let shares: Vec<f64> = scores.iter().map(|x| (x - top).exp()).collect();
        let sum: f64 = shares.iter().sum();
        let undefined = t.undefined_as_zero && !(sum > 0.0);
        shares
            .iter()
            .map(|x| if undefined { 0.0 } else { x / sum })
            .collect()
    };
    let known = std::cell::RefCell::new(std::collections::HashMap::new());
    oracle.check(&extents, |p| {
        let mut known = known.borrow_mut();
        let shares: &Vec<f64> = known
            .entry(p[..b + 2].to_vec())
            .or_insert_with(|| shares(p));
        let sum = shares
            .iter()
            .zip(0..)
            .map(|(share, j)| share * at(&v, &[&p[..b], &[j, p[b + 2]]].concat()).to_f64());
        Number::F(sum.sum())
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn twin_and_definition_agree(seed in any::<u64>()) {
        for (t, sample) in cases(&mut Rng::new(seed)) {
            check(&sample, &t);
        }
    }
}

/// Arguments of heads that lie one after the other.
fn dense_run(t: &Attention, batches: i64, g: i64, m: i64, n: i64) -> Sample {
    let mut s = Arguments::new(t);
    for (name, value) in [("m", m), ("n", n), ("g", g), ("d0", batches)] {
        s.int(name, value);
    }
    let rng = &mut Rng::new(3);
    for (name, extents) in [
        ("q", vec![batches, g, m, t.size]),
        ("k", vec![batches, n, t.size]),
        ("v", vec![batches, n, t.value_size]),
        ("y", vec![batches, g, m, t.value_size]),
    ] {
        let order: Vec<usize> = (0..extents.len()).collect();
        dense(&mut s, rng, name, &extents, &order);
    }
    s.finish(Arc::new(t.clone()), 0.0)
}

#[test]
fn a_masked_row_is_undefined_or_zero() {
    for undefined_as_zero in [false, true] {
        let t = Attention {
            mask: Some(DType::Bool),
            undefined_as_zero,
            ..plain(8)
        };
        let mut sample = dense_run(&t, 1, 1, 2, 3);
        let params = t.params();
        let at = |name: &str| params.iter().position(|p| p.name == name).unwrap();
        sample.slots[at("e0")] = SampleSlot::Read(vec![0, 0, 0, 0, 1, 0]);
        for (name, value) in [("e0_s2", 3), ("e0_s3", 1)] {
            sample.slots[at(name)] = SampleSlot::Int(value);
        }
        check(&sample, &t);
        let y = sample.run_twin().unwrap();
        let first = half::f16::from_le_bytes([y[0][0], y[0][1]]);
        assert_eq!(
            (first.is_nan(), first.to_f32() == 0.0),
            (!undefined_as_zero, undefined_as_zero)
        );
    }
}

#[test]
fn every_tile_fits() {
    for arch in [75, 80, 86, 89, 90, 100, 120] {
        let props = DeviceProps::preset(Arch::sm(arch));
        for size in (STEP..=LARGEST).step_by(STEP as usize) {
            let t = plain(size);
            let sample = dense_run(&t, 2, 1, 77, 77);
            let params = t.params();
            let row = sample.row();
            let args = Args::new(&params, &row);
            assert_eq!(t.tiles(None, &props).len(), 1, "{size} on sm_{arch}");
            for tile in t.tiles(Some(&args), &props) {
                assert_eq!(tile.get("BM") % (16 * tile.get("WARPS_M")), 0, "{tile}");
                assert_eq!(tile.get("BN") % (16 * tile.get("WARPS_N")), 0, "{tile}");
                let geometry = t.geometry(&tile, Some(&args), &props);
                assert!(geometry.shared_bytes <= props.shared_per_block, "{tile}");
                assert!(geometry.block <= 256, "{tile}");
            }
        }
    }
}

fn best(size: i64, batches: i64, [g, m, n]: [i64; 3], arch: u32) -> String {
    let t = plain(size);
    let sample = dense_run(&t, batches, g, m, n);
    let params = t.params();
    let row = sample.row();
    let props = DeviceProps::preset(Arch::sm(arch));
    t.tiles(Some(&Args::new(&params, &row)), &props)[0].to_string()
}

#[test]
fn tiles_suit_the_shape() {
    // few rows: warps divide the keys
    let decode = best(128, 8, [4, 1, 2000], 90);
    assert!(
        decode.contains("BM=16 ") && !decode.contains("WARPS_N=1"),
        "{decode}"
    );
    // few keys: all at once
    let cross = best(64, 20, [1, 1024, 77], 90);
    assert!(
        cross.contains("BN=80 ") && cross.contains("STAGES=1 "),
        "{cross}"
    );
    // many of both: tall tiles
    let prefill = best(64, 32, [1, 1024, 1024], 80);
    assert!(
        prefill.contains("BM=128 ") && prefill.contains("WARPS_N=1"),
        "{prefill}"
    );
}

#[test]
fn definitions_are_stable() {
    let t = Attention {
        mask: Some(DType::Bool),
        fill: f64::from(f32::MIN),
        ..plain(40)
    };
    insta::assert_snapshot!(t.describe(), @"");
    insta::assert_snapshot!(t.definitions(&DeviceProps::preset(Arch::sm(80))), @"");
}

#[test]
fn what_does_not_fit_is_refused() {
    assert_eq!(plain(64).refuses(), None);
    for t in [
        plain(20),
        plain(264),
        plain(0),
        Attention {
            dtype: DType::F32,
            ..plain(64)
        },
        Attention {
            mask: Some(DType::F64),
            ..plain(64)
        },
        Attention {
            scale: f64::NAN,
            ..plain(64)
        },
    ] {
        assert!(t.refuses().is_some(), "{}", t.describe());
    }
}

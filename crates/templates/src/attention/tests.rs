//! The twin against the definition, tiles, and the text of definitions.

use std::sync::Arc;

use bespoke_device::Arch;
use bespoke_reference::{Number, Tensor};
use proptest::prelude::{ProptestConfig, any, proptest};

use super::samples::{cases, dense};
use super::tiles::{tile, wgmma_tile};
use super::*;
use crate::KernelSpec;
use crate::arguments::Arguments;
use crate::oracle::Oracle;
use crate::sample::{Rng, Sample, SampleSlot};
use crate::view::Strided;

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
    // elements along the last axis from a position on, in `f64`
    let line = |(tensor, view): &(Tensor, Strided), p: &[i64], count: i64| -> Vec<f64> {
        let (start, step) = (view.at(&[p, &[0]].concat()), view.strides[p.len()]);
        (0..count)
            .map(|i| tensor.get((start + i * step) as usize).to_f64())
            .collect()
    };
    let choice = t.mask == Some(DType::Bool);
    let shares = |p: &[i64]| -> Vec<f64> {
        let query = line(&q, &p[..b + 2], t.size);
        let by = mask.as_ref().map(|e| line(e, &p[..b + 2], n));
        let scores: Vec<f64> = (0..n)
            .map(|j| {
                let key = line(&k, &[&p[..b], &[j]].concat(), t.size);
                let score: f64 = query.iter().zip(key).map(|(x, y)| x * y).sum();
                match by.as_ref().map(|by| by[j as usize]) {
                    None => score * t.scale,
                    Some(0.0) if choice => t.fill,
                    Some(_) if choice => score * t.scale,
                    Some(x) => score * t.scale + x,
                }
            })
            .collect();
        let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let shares: Vec<f64> = scores.iter().map(|x| (x - top).exp()).collect();
        let sum: f64 = shares.iter().sum();
        let undefined = t.undefined_as_zero && (sum.is_nan() || sum == 0.0);
        shares
            .iter()
            .map(|x| if undefined { 0.0 } else { x / sum })
            .collect()
    };
    // rows come one after the other
    let known = std::cell::RefCell::new((Vec::new(), Vec::new()));
    oracle.check(&extents, |p| {
        let mut known = known.borrow_mut();
        if known.0 != p[..b + 2] {
            let mut sums = vec![0.0; t.value_size as usize];
            for (j, share) in (0..).zip(shares(p)) {
                let value = line(&v, &[&p[..b], &[j]].concat(), t.value_size);
                sums.iter_mut()
                    .zip(value)
                    .for_each(|(y, x)| *y += share * x);
            }
            *known = (p[..b + 2].to_vec(), sums);
        }
        Number::F(known.1[p[b + 2] as usize])
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5, failure_persistence: None, ..ProptestConfig::default() })]
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
    let plain_archs = [75, 80, 86, 89, 90, 100, 120].map(Arch::sm);
    for arch in plain_archs.into_iter().chain([Arch::of_card(9, 0)]) {
        let props = DeviceProps::preset(arch);
        for size in (STEP..=LARGEST).step_by(STEP as usize) {
            let t = plain(size);
            let sample = dense_run(&t, 2, 1, 77, 77);
            let params = t.params();
            let row = sample.row();
            let args = Args::new(&params, &row);
            let generic = t.tiles(None, &props);
            assert_eq!(generic.len(), 2, "{size} on {arch}");
            assert!(generic.iter().all(|tile| tile.get("WGMMA") == 0));
            assert!(generic[0].get("BM") > FEW && generic[1].get("BM") == FEW);
            for tile in t.tiles(Some(&args), &props).into_iter().chain(generic) {
                assert_eq!(tile.get("BM") % (16 * tile.get("WARPS_M")), 0, "{tile}");
                assert_eq!(tile.get("BN") % (16 * tile.get("WARPS_N")), 0, "{tile}");
                let geometry = t.geometry(&tile, Some(&args), &props);
                assert!(geometry.shared_bytes <= props.shared_per_block, "{tile}");
                let most = if tile.get("WGMMA") == 1 { 512 } else { 256 };
                assert!(geometry.block <= most, "{tile}");
            }
        }
    }
}

fn best(size: i64, batches: i64, [g, m, n]: [i64; 3], arch: Arch) -> String {
    let t = plain(size);
    // tiles depend on extents alone, so the tensors may be short
    let mut sample = dense_run(&t, 1, g, 1, 1);
    let params = t.params();
    for (name, value) in [("d0", batches), ("m", m), ("n", n)] {
        let at = params.iter().position(|p| p.name == name).unwrap();
        sample.slots[at] = SampleSlot::Int(value);
    }
    let row = sample.row();
    let props = DeviceProps::preset(arch);
    t.tiles(Some(&Args::new(&params, &row)), &props)[0].to_string()
}

#[test]
fn tiles_suit_the_shape() {
    // few rows: warps divide the keys
    let decode = best(128, 8, [4, 1, 2000], Arch::sm(90));
    assert!(
        decode.contains("STREAMED=1") && !decode.contains("WARPS_N=1 "),
        "{decode}"
    );
    assert!(!decode.contains("SPLIT=1 "), "{decode}");
    // where heads are many, each has a multiprocessor for itself
    let many = best(128, 256, [2, 1, 1000], Arch::sm(90));
    assert!(many.contains("SPLIT=1 "), "{many}");
    // few keys: all at once
    let cross = best(64, 20, [1, 1024, 77], Arch::sm(90));
    assert!(
        cross.contains("BN=80 ") && cross.contains("STAGES=1 "),
        "{cross}"
    );
    // many of both: tall tiles
    let prefill = best(64, 128, [1, 2048, 2048], Arch::sm(80));
    assert!(
        prefill.contains("BM=128 ") && prefill.contains("WARPS_N=1"),
        "{prefill}"
    );
}

#[test]
fn hopper_multiplies_large_problems_with_its_own_instructions() {
    let hopper = Arch::of_card(9, 0);
    for (size, batches, shape) in [
        (128, 24, [1, 1536, 1536]),
        (64, 10, [1, 4096, 4096]),
        (40, 16, [1, 4096, 4096]),
        (80, 16, [1, 1024, 1024]),
        (160, 32, [1, 1024, 1024]),
        (256, 16, [1, 2048, 2048]),
        (128, 8, [4, 512, 2048]),
    ] {
        let tile = best(size, batches, shape, hopper);
        assert!(tile.contains("WGMMA=1"), "{size} {shape:?}: {tile}");
    }
    // decoding and few keys are left to the other engine
    for (size, batches, shape) in [
        (128, 8, [4, 1, 2000]),
        (64, 12, [1, 16, 128]),
        (64, 20, [1, 64, 77]),
    ] {
        let tile = best(size, batches, shape, hopper);
        assert!(!tile.contains("WGMMA=1"), "{size} {shape:?}: {tile}");
    }
}

#[test]
fn the_copy_engine_is_asked_only_for_keys_that_it_can_walk_over() {
    let props = DeviceProps::preset(Arch::of_card(9, 0));
    let t = plain(64);
    let params = t.params();
    let named = params.iter().take(2).map(|p| p.name.as_str());
    assert_eq!(named.collect::<Vec<_>>(), ["k_map", "v_map"]);
    // tiles of the engine of wgmma, of which there are maps, and those that suit a kernel for these arguments
    let count = |name: &str, value: i64| {
        let mut sample = dense_run(&t, 2, 1, 200, 300);
        let at = params.iter().position(|p| p.name == name).unwrap();
        sample.slots[at] = SampleSlot::Int(value);
        let row = sample.row();
        let args = Args::new(&params, &row);
        let ours = |t: &Tile| t.get("WGMMA") == 1;
        let offered = t
            .tiles(Some(&args), &props)
            .iter()
            .filter(|t| ours(t))
            .count();
        let exact = KernelSpec::exact(Arc::new(t.clone()), &args, &props);
        (offered > 0, exact.tiles(&args, &props).any(|t| ours(&t)))
    };
    assert_eq!(count("n", 300), (true, true));
    for (name, value, why) in [
        ("k_s0", 0, "keys of all batches are the same"),
        ("v_s1", 0, "values of all keys are the same"),
        ("k_s1", 68, "rows of keys do not begin at chunks"),
        ("v_o", 4, "nor do values"),
        ("k_s2", 2, "keys have gaps"),
    ] {
        assert_eq!(count(name, value), (false, false), "{why}");
    }
    for (name, value, why) in [
        ("q_s2", 68, "queries do not begin at chunks"),
        ("y_o", 4, "nor do results"),
    ] {
        assert_eq!(count(name, value), (true, false), "{why}");
    }
    let many = Attention {
        batch: 4,
        ..plain(64)
    };
    assert!(
        !many.params().iter().any(|p| p.name == "k_map"),
        "too many axes"
    );
}

#[test]
fn engines_add_up_in_different_orders() {
    let t = plain(64);
    let old = tile([64, 128, 4, 1, 2], 1);
    let new = wgmma_tile(&[64, 128, 2, 2]);
    assert!(!t.same_sums(&old, &new) && !t.same_sums(&new, &old));
    assert!(t.same_sums(&new, &wgmma_tile(&[128, 128, 2, 1])));
    assert!(!t.same_sums(&new, &wgmma_tile(&[64, 64, 2, 2])));
}

#[test]
fn definitions_are_stable() {
    let t = Attention {
        mask: Some(DType::Bool),
        fill: f64::from(f32::MIN),
        ..plain(40)
    };
    insta::assert_snapshot!(t.describe(), @"batch 1 f16 40x40 scale 0.125 mask bool fill -3.4028234663852886e38");
    insta::assert_snapshot!(t.definitions(&DeviceProps::preset(Arch::sm(80))), @r#"
    typedef f16 T;
    #define T_NAME "f16"
    #define D_PADDED 48
    #define DV_PADDED 48
    constexpr int D = 40, DV = 40;
    constexpr float SCALE_LOG2E = 1.8033688e-1f;
    constexpr bool UNDEFINED_AS_ZERO = false;
    #define MASK 2
    #define CLUSTERS 0
    typedef unsigned char E_TYPE;
    constexpr bool WIDE_MASK = false;
    #define FILL_LOG2E __int_as_float(0xff7fffff)
    #define BATCHES (1ll * d0)
    #define DECODE_BATCH(rest) const long long i0 = rest % d0; rest /= d0;
    #define BATCH_OFFSET(v) (v##_o + i0 * v##_s0)
    #define BATCHES_DIVISIBLE(v, N) (v##_o_DIVISOR % N == 0 && v##_s0_DIVISOR % N == 0)
    #define BATCH_PLACE {(int)i0, 0, 0}
    #define GROUP_STRIDE(v) v##_s1
    #define GROUP_DIVISOR(v) v##_s1_DIVISOR
    #define ROW_STRIDE(v) v##_s2
    #define ROW_DIVISOR(v) v##_s2_DIVISOR
    #define COLUMN_STRIDE(v) v##_s3
    #define COLUMN_DIVISOR(v) v##_s3_DIVISOR
    #define KEY_ROW_STRIDE(v) v##_s1
    #define KEY_ROW_DIVISOR(v) v##_s1_DIVISOR
    #define KEY_COLUMN_STRIDE(v) v##_s2
    #define KEY_COLUMN_DIVISOR(v) v##_s2_DIVISOR
    "#);
}

#[test]
fn layers_that_read_one_tensor_at_different_offsets_share_a_kernel() {
    let props = DeviceProps::preset(Arch::sm(90));
    for sample in samples(&mut Rng::new(5)) {
        let params = sample.template.params();
        let source = |offset: i64| {
            let mut row = sample.row();
            let mut at = 0;
            for p in &params {
                if p.name == "k_o" {
                    row[at] = offset;
                }
                at += p.kind.slots();
            }
            let args = Args::new(&params, &row);
            KernelSpec::exact(sample.template.clone(), &args, &props).source(&props)
        };
        assert_eq!(source(640), source(1280));
        assert!(source(1280).contains("#define k_o_DIVISOR 8\n"));
        assert_ne!(source(1280), source(1284), "chunks begin elsewhere");
    }
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

#[test]
fn few_rows_at_every_shape_have_a_generic_tile_of_their_own() {
    let place = |g, m| {
        plain(64).generic_tile(&|name| match name {
            "g" => g,
            "m" => m,
            _ => None,
        })
    };
    assert_eq!(place(Some(2), Some(1)), 1);
    assert_eq!(place(Some(16), Some(1)), 1);
    assert_eq!(place(Some(2), Some(16)), 0);
    assert_eq!(place(Some(1), None), 0);
    assert_eq!(place(None, Some(1)), 0);
}

//! What is remembered of tiles: documents, and what becomes of a blueprint.

use bespoke_cache::CacheConfig;
use bespoke_ir::op::MatMul;
use bespoke_ir::{DType, Graph, TensorType};
use bespoke_policy::{ClassId, Signature};
use proptest::prelude::*;

use super::*;

fn known(tile: &str, at: u64) -> KnownTile {
    KnownTile {
        step: "gemm | m=4".into(),
        tile: tile.into(),
        us: 8.5,
        model: "BM=64".into(),
        model_us: 10.0,
        timed: 3,
        at,
    }
}

fn device(tiles: &[(&str, &str, u64)]) -> DeviceTiles {
    let of = |&(key, tile, at): &(&str, &str, u64)| (key.to_owned(), known(tile, at));
    DeviceTiles {
        device: "a card".into(),
        arch: "sm_89".into(),
        tiles: tiles.iter().map(of).collect(),
    }
}

#[test]
fn the_document_is_stable() {
    let document = merge(None, &device(&[("k", "BM=32", 7)]));
    let expected = r#"{"arch":"sm_89","device":"a card","tiles":{"k":{"at":7,"model":"BM=64","model_us":10.0,"step":"gemm | m=4","tile":"BM=32","timed":3,"us":8.5}},"v":1}"#;
    assert_eq!(document.to_string(), expected);
    assert_eq!(read(&document), Some(device(&[("k", "BM=32", 7)])));
}

#[test]
fn damage_costs_what_is_damaged_and_newer_documents_are_left_alone() {
    let mut document = merge(None, &device(&[("k", "BM=32", 7), ("l", "BM=16", 8)]));
    document["tiles"]["k"]["us"] = "fast".into();
    document["other"] = 5.into();
    assert_eq!(read(&document), Some(device(&[("l", "BM=16", 8)])));
    let merged = merge(Some(document), &device(&[("m", "BM=8", 9)]));
    assert_eq!(merged["other"], 5);
    let both = device(&[("l", "BM=16", 8), ("m", "BM=8", 9)]);
    assert_eq!(read(&merged), Some(both));

    let newer = serde_json::json!({ "v": 2, "tiles": [] });
    assert_eq!(merge(Some(newer.clone()), &device(&[("k", "x", 1)])), newer);
    assert_eq!(read(&newer), None);
    for nonsense in [Value::Null, 3.into(), serde_json::json!({ "v": 1 })] {
        assert_eq!(read(&nonsense), None);
        let merged = merge(Some(nonsense), &device(&[("k", "x", 1)]));
        assert_eq!(read(&merged), Some(device(&[("k", "x", 1)])));
    }
}

#[test]
fn the_latest_are_kept() {
    let all: BTreeMap<String, KnownTile> = (0..KEPT as u64 + 5)
        .map(|i| (format!("{i:05}"), known("t", i)))
        .collect();
    let own = DeviceTiles {
        tiles: all,
        ..device(&[])
    };
    let left = read(&merge(None, &own)).unwrap().tiles;
    assert_eq!(left.len(), KEPT);
    assert_eq!(left.values().map(|k| k.at).min(), Some(5));
}

#[test]
fn what_is_told_is_recalled_on_the_same_device_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(CacheConfig::at(folder.path().join("c")));
    let props = DeviceProps::preset(Arch::sm(89));
    let tiles = || KnownTiles::new(&props, Some(Arch::sm(89)));
    let (first, kind) = (
        tiles(),
        StepKind {
            key: "k".into(),
            text: "a step".into(),
        },
    );
    first.learn(&kind, known("BM=32", 0));
    first.tell(&cache).unwrap();
    let next = tiles();
    assert!(next.is_empty() && next.find(&kind).is_none());
    next.recall(&cache);
    assert_eq!(next.find(&kind).as_deref(), Some("BM=32"));
    let other = KnownTiles::new(&props, Some(Arch::sm(90)));
    other.recall(&cache);
    assert!(other.is_empty());
    let listed = learned_tiles(&cache);
    assert_eq!(listed.len(), 1);
    assert_eq!((&*listed[0].arch, listed[0].tiles.len()), ("sm_89", 1));
}

/// `x[m,k] · y[k,n]`.
fn plan(m: i64, n: i64, k: i64) -> Plan {
    let mut g = Graph::new("product");
    let f = DType::F32;
    let x = g.add_input("x", TensorType::new(f, vec![m.into(), k.into()]));
    let y = g.add_input("y", TensorType::new(f, vec![k.into(), n.into()]));
    let z = g.add1("z", MatMul::default(), &[x, y]).unwrap();
    g.add_output(z);
    bespoke_plan::plan(&g).unwrap()
}

proptest! {
    #[test]
    fn only_legal_tiles_are_applied_and_the_kind_stays_what_it_was(
        m in 1_i64..500, n in 1_i64..500, k in 1_i64..500, which in 0_usize..20, bit_stable in any::<bool>(),
    ) {
        let (plan, props) = (plan(m, n, k), DeviceProps::preset(Arch::sm(89)));
        let binding = plan.bind_symbols(vec![]).unwrap();
        let class = ClassId::Exact(Signature::new(&[]));
        let made = || Blueprint::of(&plan, &class, &binding, &props, bit_stable);
        let (before, mut after) = (made(), made());
        let at = (plan.steps.len() - 1).min(which);
        let (params, step) = (plan.steps[at].template.params(), &plan.steps[at]);
        let slots = integers(&params, step, &binding);
        let args = Args::new(&params, &slots);
        let legal = step.template.tiles(Some(&args), &props);
        let wanted = legal.get(which).map_or("BM=3 BN=5".to_owned(), ToString::to_string);
        apply(&mut after, (&plan, &binding), &props, bit_stable, |_| Some(wanted.clone()));
        let (old, new) = (&before.specs[at], &after.specs[at]);
        prop_assert!(legal.contains(&new.tile) || new.tile == old.tile);
        prop_assert!(!bit_stable || step.template.same_sums(&old.tile, &new.tile));
        prop_assert_eq!(StepKind::of(old, &args), StepKind::of(new, &args));
        if new.tile.to_string() == wanted {
            let expected = config(new, Some(&args), &props);
            prop_assert_eq!(after.configs[at], expected);
        }
        let mut nothing = made();
        apply(&mut nothing, (&plan, &binding), &props, bit_stable, |_| None);
        prop_assert!(nothing.is_like(&before));
    }
}

#[test]
fn a_launch_that_is_that_of_one_shape_stays_so() {
    // a class of many shapes that fixes all that the step knows
    let (plan, props) = (plan(64, 64, 64), DeviceProps::preset(Arch::sm(89)));
    let binding = plan.bind_symbols(vec![]).unwrap();
    let class = ClassId::Fits([].into());
    let mut blueprint = Blueprint::of(&plan, &class, &binding, &props, false);
    let at = plan.steps.len() - 1;
    let (params, step) = (plan.steps[at].template.params(), &plan.steps[at]);
    let slots = integers(&params, step, &binding);
    let args = Args::new(&params, &slots);
    let other = step.template.tiles(Some(&args), &props).pop().unwrap();
    assert_ne!(other, blueprint.specs[at].tile);
    let find = |_: &StepKind| Some(other.to_string());
    apply(&mut blueprint, (&plan, &binding), &props, false, find);
    let one = config(&blueprint.specs[at], Some(&args), &props);
    let any = config(&blueprint.specs[at], None, &props);
    assert_ne!(one, any);
    assert_eq!(blueprint.configs[at], one);
}

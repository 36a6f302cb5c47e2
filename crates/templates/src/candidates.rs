//! Tiles worth timing: what a cost model cannot tell from its best.
//!
//! A cost model is right about orders of magnitude and wrong about the last fifth. Where a template has one, the tiles that
//! it expects to take little longer than its best are *candidates*: whoever has the device may compile them and look which
//! is fastest. A template without a model has none: its rules say nothing of how near the second tile is.
//!
//! Tiles that differ in nothing but the shape of the clusters that share their operands are seldom told apart by a model, and would
//! leave no room for others: the best of them stands for all.
//!
//! The list is a pure function of the arguments and of the device's properties, in the order of the model. It never holds
//! the tile that is used now, and on request only tiles that add up every sum in the order in which that one does.

use bespoke_device::DeviceProps;

use crate::spec::{Args, KernelSpec, Tile};

/// So many candidates at most: each costs a compile, and the model is seldom so wrong that its fifth is best.
pub const MOST: usize = 3;
/// A candidate is expected to take at most so many times the time of the model's best. Against the card, the model was
/// seen to be off by about this much.
pub const WITHIN: f64 = 1.3;

/// A tile and what the model thinks of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// The tile.
    pub tile: Tile,
    /// Expected time in seconds.
    pub seconds: f64,
}

/// Tiles that may be better than the present one of `spec` at these arguments, the one with the least expected time first;
/// `same_sums` leaves out those that would change the order of a sum.
pub fn candidates(
    spec: &KernelSpec,
    args: &Args<'_>,
    same_sums: bool,
    props: &DeviceProps,
) -> Vec<Candidate> {
    let template = &spec.template;
    let expected = |tile: Tile| {
        let seconds = template.expected_seconds(&tile, args, props)?;
        Some(Candidate { tile, seconds })
    };
    let all: Option<Vec<Candidate>> = spec.tiles(args, props).map(expected).collect();
    let all = all.unwrap_or_default();
    let best = all.iter().map(|c| c.seconds).fold(f64::INFINITY, f64::min);
    let mut seen = vec![family(&spec.tile)];
    all.into_iter()
        .filter(|c| c.seconds <= best * WITHIN)
        .filter(|c| !same_sums || template.same_sums(&c.tile, &spec.tile))
        .filter(|c| {
            let family = family(&c.tile);
            let new = !seen.contains(&family);
            if new {
                seen.push(family);
            }
            new
        })
        .take(MOST)
        .collect()
}

/// A tile and whether it has clusters, whatever their shape.
fn family(tile: &Tile) -> (Tile, bool) {
    let mut alone = tile.clone();
    let clusters = ["CLUSTER_M", "CLUSTER_N"].map(|name| alone.0.remove(name).is_some());
    (alone, clusters.contains(&true))
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::sync::Arc;

    use bespoke_device::Arch;
    use bespoke_ir::DType;
    use bespoke_ir::expr::Expr;
    use proptest::prelude::*;

    use super::*;
    use crate::gemm::Gemm;
    use crate::sample::{Rng, Sample};
    use crate::spec::signature;

    fn gemm(dtype: DType) -> Arc<Gemm> {
        let sum = crate::tile::accumulator(dtype);
        Arc::new(Gemm {
            batch: 0,
            a: dtype,
            b: dtype,
            sums: 1,
            products: crate::Products::Exact,
            epilogue: Expr::identity(sum),
        })
    }

    /// The slots of a dense product.
    fn slots(gemm: &Gemm, [m, n, k]: [i64; 3]) -> Vec<i64> {
        use crate::spec::Template;
        let params = gemm.params();
        let mut slots = Vec::with_capacity(signature(&params).slots());
        for p in &params {
            match p.name.as_str() {
                "m" => slots.push(m),
                "n" => slots.push(n),
                "k" => slots.push(k),
                "a_s0" => slots.push(k),
                "b_s0" | "y_s0" => slots.push(n),
                name if name.ends_with("_s1") => slots.push(1),
                _ => slots.extend(vec![0; p.kind.slots()]),
            }
        }
        slots
    }

    fn list(dtype: DType, problem: [i64; 3], same_sums: bool, props: &DeviceProps) -> String {
        use crate::spec::Template;
        let gemm = gemm(dtype);
        let (params, slots) = (gemm.params(), slots(&gemm, problem));
        let args = Args::new(&params, &slots);
        let mut spec = KernelSpec::exact(gemm.clone(), &args, props);
        if same_sums {
            spec.tile = KernelSpec::generic(gemm.clone(), props).tile;
        }
        let mut text = format!("{problem:?}: {}\n", spec.tile);
        for c in candidates(&spec, &args, same_sums, props) {
            // writing to a String cannot fail
            let _ = writeln!(text, "  {:.1} us: {}", c.seconds * 1e6, c.tile);
        }
        text
    }

    #[test]
    fn candidates_of_products() {
        let props = DeviceProps::preset(Arch::sm(90));
        let problems = [[4096, 4096, 4096], [197, 768, 768], [1, 4096, 1024]];
        let mut text = String::new();
        for dtype in [DType::F16, DType::F32] {
            for problem in problems {
                for same_sums in [false, true] {
                    // writing to a String cannot fail
                    let _ = write!(text, "{dtype} same sums {same_sums} ");
                    text += &list(dtype, problem, same_sums, &props);
                }
            }
        }
        insta::assert_snapshot!("products", text);
    }

    #[test]
    fn clusters_of_one_tile_are_one_candidate() {
        let props = DeviceProps::preset(Arch::of_card(9, 0));
        let gemm = gemm(DType::F16);
        for [m, n, k] in [[4096, 4096, 4096], [1024, 768, 768], [128, 12288, 2048]] {
            let mut slots = slots(&gemm, [m, n, k]);
            let params = crate::spec::Template::params(&*gemm);
            // lines along the reduction, as tensor maps want them
            let mut at = 0;
            for p in &params {
                match p.name.as_str() {
                    "b_s0" => slots[at] = 1,
                    "b_s1" => slots[at] = k,
                    _ => {}
                }
                at += p.kind.slots();
            }
            let args = Args::new(&params, &slots);
            let spec = KernelSpec::exact(gemm.clone(), &args, &props);
            let found = candidates(&spec, &args, false, &props);
            let mut families: Vec<_> = found.iter().map(|c| family(&c.tile)).collect();
            families.push(family(&spec.tile));
            assert!(
                families.iter().any(|(_, clusters)| *clusters),
                "{families:?}"
            );
            for (i, family) in families.iter().enumerate() {
                assert!(!families[..i].contains(family), "{families:?}");
            }
        }
    }

    #[test]
    fn where_there_is_no_model_there_are_no_candidates() {
        let mut rng = Rng::new(7);
        let props = DeviceProps::preset(Arch::sm(89));
        for sample in crate::softmax::samples(&mut rng) {
            let Sample { template, .. } = &sample;
            let params = template.params();
            let slots: Vec<i64> = vec![1; signature(&params).slots()];
            let args = Args::new(&params, &slots);
            let spec = KernelSpec::exact(template.clone(), &args, &props);
            assert_eq!(candidates(&spec, &args, false, &props), []);
        }
    }

    proptest! {
        #[test]
        fn candidates_are_legal_near_and_others(
            m in 1_i64..3000, n in 1_i64..3000, k in 1_i64..3000,
            f16 in any::<bool>(), same_sums in any::<bool>(),
            arch in prop_oneof![Just(75), Just(80), Just(89), Just(90), Just(120)],
        ) {
            use crate::spec::Template;
            let props = DeviceProps::preset(Arch::sm(arch));
            let gemm = gemm(if f16 { DType::F16 } else { DType::F32 });
            let (params, slots) = (gemm.params(), slots(&gemm, [m, n, k]));
            let args = Args::new(&params, &slots);
            let spec = KernelSpec::exact(gemm.clone(), &args, &props);
            let legal = gemm.tiles(Some(&args), &props);
            let found = candidates(&spec, &args, same_sums, &props);
            prop_assert!(found.len() <= MOST);
            for (i, c) in found.iter().enumerate() {
                prop_assert!(legal.contains(&c.tile) && c.tile != spec.tile);
                prop_assert!(!found[..i].iter().any(|other| other.tile == c.tile));
                prop_assert!(!same_sums || gemm.same_sums(&c.tile, &spec.tile));
                prop_assert!(c.seconds > 0.0);
            }
        }
    }
}

//! What tiles there are for whom, and what the model says of them.

use super::*;
use crate::arithmetic::PROMOTED_RUN;
use bespoke_device::Arch;

/// One product of sums alone, without an epilogue.
fn problem([m, n, k]: [i64; 3]) -> Problem {
    Problem {
        matrices: 1,
        m,
        n,
        k,
        sums: 1,
        gathered: false,
        epilogue: 0,
    }
}

fn best(m: i64, n: i64, k: i64, arch: u32) -> String {
    let props = DeviceProps::preset(Arch::sm(arch));
    let engine = Engine::of(DType::F16, DType::F16, Products::Exact, &props);
    let p = problem([m, n, k]);
    let t = &tiles(engine, Some(p), Operands::Mapped, 0, &props)[0];
    format!("{}x{}", t.get("BM"), t.get("BN"))
}

#[test]
fn large_problems_get_large_tiles_and_small_ones_many_blocks() {
    for arch in [80, 89, 90, 120] {
        let large = best(8192, 8192, 4096, arch);
        assert!(
            ["128x256", "256x128", "128x128"].contains(&large.as_str()),
            "sm_{arch}: {large}"
        );
        let small = best(1, 4096, 4096, arch);
        assert!(
            ["8x", "16x", "32x"]
                .iter()
                .any(|rows| small.starts_with(rows)),
            "sm_{arch}: {small}"
        );
    }
}

#[test]
fn clusters_share_what_the_copy_engine_brings() {
    let props = DeviceProps::preset(Arch::of_card(9, 0));
    let engine = Engine::of(DType::F16, DType::F16, Products::Exact, &props);
    let all = |extents: [i64; 3], operands| {
        let p = problem(extents);
        let found = tiles(engine, Some(p), operands, 0, &props).into_iter();
        found
            .map(|t| (sharers(&t), geometry(engine, &t, Some(p), &props), t))
            .collect::<Vec<_>>()
    };
    let most = |extents, operands| {
        let sharers = all(extents, operands).into_iter().map(|(s, ..)| s);
        sharers.max().unwrap_or(0)
    };
    assert_eq!(most([1024, 768, 768], Operands::Mapped), 8);
    assert_eq!(most([1024, 768, 768], Operands::Matrices), 1);
    // one tile below another, but none beside
    assert_eq!(most([128, 32, 768], Operands::Mapped), 2);
    // pairs are for every size
    assert_eq!(most([8192, 8192, 8192], Operands::Mapped), 2);
    for extents in [[1024, 768, 768], [1000, 1120, 64], [8192, 8192, 64]] {
        for (sharers, launch, tile) in all(extents, Operands::Mapped) {
            let grid = i64::from(launch.grid[0]);
            assert!(sharers == 1 || tile.get("TMA") == 1, "{tile}");
            assert!(
                grid % sharers == 0 && grid >= sharers,
                "{tile}: {grid} blocks"
            );
            let persistent = tile.get("TMA") == 1 && tile.get("SPLIT") <= 1;
            assert!(!persistent || grid <= 132, "{tile}: {grid} blocks");
            let empty = Problem {
                matrices: 0,
                ..problem(extents)
            };
            let launch = geometry(engine, &tile, Some(empty), &props);
            assert_eq!(i64::from(launch.grid[0]) % sharers, 0, "{tile} of nothing");
        }
    }
}

#[test]
fn the_copy_engine_serves_blocks_that_share_a_reduction() {
    let props = DeviceProps::preset(Arch::of_card(9, 0));
    let engine = Engine::of(DType::F16, DType::F16, Products::Exact, &props);
    let shared = |extents: [i64; 3]| {
        let all = tiles(engine, Some(problem(extents)), Operands::Mapped, 0, &props);
        let shared = |t: &Tile| t.get("TMA") == 1 && t.get("SPLIT") > 1;
        all.into_iter().map(|t| (shared(&t), t)).collect::<Vec<_>>()
    };
    for extents in [[128, 2048, 2048], [37, 2048, 6144], [300, 512, 2048]] {
        assert!(
            shared(extents)[0].0,
            "few tiles and many steps: {extents:?}"
        );
        for (_, tile) in shared(extents).into_iter().filter(|(shared, _)| *shared) {
            let split = tile.get("SPLIT");
            let groups = tile.get("THREADS") / 128 - 1;
            let runs = tile.get("BM") * tile.get("BN") / (groups * 128 * 8);
            // what `kernels/tile_tma.cuh` asserts, and registers for it
            assert_eq!(runs % split, 0, "{tile}");
            assert!(runs / split <= MOST_RUNS && sharers(&tile) == 1, "{tile}");
            // a cluster has one tile
            let p = problem(extents);
            let grid = geometry(engine, &tile, Some(p), &props).grid[0];
            assert_eq!(i64::from(grid), blocks(&tile, p) * split, "{tile}");
        }
    }
    for extents in [[128, 2048, 64], [8192, 8192, 8192]] {
        let mut all = shared(extents).into_iter();
        assert!(
            !all.any(|(shared, _)| shared),
            "nothing to share in {extents:?}"
        );
    }
}

#[test]
fn a_large_square_takes_what_the_rate_of_its_arithmetic_says() {
    let p = problem([8192, 8192, 8192]);
    let best = |arch: u32, dtype, products| {
        let props = DeviceProps::preset(Arch::sm(arch));
        let engine = Engine::of(dtype, dtype, products, &props);
        let tiles = tiles(engine, Some(p), Operands::Matrices, 0, &props);
        seconds(engine, &tiles[0], p, &props)
    };
    let gain =
        |arch, dtype, products| best(arch, dtype, Products::Exact) / best(arch, dtype, products);
    for arch in [75, 86, 89, 120] {
        let narrow = gain(arch, DType::F16, Products::F16Sums);
        let promoted = gain(arch, DType::F16, Products::PromotedSums);
        assert!((1.4..2.1).contains(&narrow), "sm_{arch}: {narrow}");
        assert!(
            promoted > 1.3 && promoted <= narrow,
            "sm_{arch}: {promoted}"
        );
    }
    let none = gain(80, DType::F16, Products::F16Sums);
    assert!((0.9..1.1).contains(&none), "sm_80: {none}");
    let tf32 = gain(80, DType::F32, Products::Tf32);
    assert!((4.0..9.0).contains(&tf32), "sm_80: {tf32}");
    assert_eq!(gain(75, DType::F32, Products::Tf32), 1.0);
}

#[test]
fn sums_of_f32_are_kept_in_runs_and_no_others() {
    let p = problem([744, 200, 1008]);
    for arch in [75, 80, 86, 89, 90, 100, 120] {
        let props = DeviceProps::preset(Arch::sm(arch));
        let of = |dtype, problem| {
            let engine = Engine::of(dtype, dtype, Products::Exact, &props);
            tiles(engine, problem, Operands::Matrices, 0, &props)
        };
        let in_runs = |t: &Tile| t.get("RUN_STEPS") > 0;
        // few results, a long reduction, and what any product is added up with
        for problem in [Some(p), None] {
            let first = &of(DType::F32, problem)[0];
            assert!(in_runs(first), "sm_{arch}: {first}");
        }
        for t in of(DType::F32, Some(p)) {
            // a second register for each result, and as many blocks as with one
            let held = t.get("TM") * t.get("TN") <= 16;
            assert_eq!(held, t.get("BLOCKS") > 0, "{t}");
            assert!(!held || in_runs(&t), "{t}");
        }
        for dtype in [DType::F64, DType::I32, DType::F16] {
            assert!(!of(dtype, Some(p)).iter().any(in_runs), "{dtype}");
        }
    }
}

#[test]
fn every_tile_fits_and_shares_its_work_evenly() {
    for arch in [75, 80, 86, 89, 90, 100, 120] {
        let props = DeviceProps::preset(Arch::sm(arch));
        let exact = [
            DType::F16,
            DType::BF16,
            DType::F32,
            DType::F64,
            DType::I8,
            DType::I64,
        ];
        let exact = exact.map(|dtype| (dtype, Products::Exact));
        let others = Products::choices().filter_map(|p| Some((p.operands()?, p)));
        for (dtype, products) in exact.into_iter().chain(others) {
            let engine = Engine::of(dtype, dtype, products, &props);
            let all = [1, 100].map(|m| {
                let p = Problem {
                    matrices: 3,
                    epilogue: 1,
                    ..problem([m, 100, 100])
                };
                tiles(engine, Some(p), Operands::Mapped, 0, &props)
            });
            for t in all.iter().flatten() {
                let threads = t.get("THREADS");
                assert!((32..=1024).contains(&threads) && threads % 32 == 0, "{t}");
                assert!(
                    shared_bytes(engine, t) <= i64::from(props.shared_per_block),
                    "{t}"
                );
                if let Engine::TensorCores(products) = engine {
                    let rows = if t.get("STREAMED") == 1 { 8 } else { 16 };
                    assert_eq!(t.get("BM") / t.get("WARPS_M").max(1) % rows, 0, "{t}");
                    assert_eq!(t.get("BN") / t.get("WARPS_N").max(1) % 16, 0, "{t}");
                    let steps = t.get("BK") / t.get("WARPS_K");
                    let whole = match products {
                        Products::PromotedSums => PROMOTED_RUN as i64,
                        // what an instruction takes of a line
                        _ => 32 / products.element(),
                    };
                    assert_eq!(steps % whole, 0, "{t}");
                    assert!(products == Products::Exact || t.get("WGMMA") == 0, "{t}");
                }
            }
            assert!(!tiles(engine, None, Operands::Mapped, 0, &props).is_empty());
        }
    }
}

//! Tiles of matrix products: which there are, what each costs, and the definitions that `kernels/tile.cuh` wants.
//!
//! gemm, conv and conv_transpose all end in the same loop over tiles, on tensor cores for `f16` and `bf16` and on plain
//! arithmetic units for everything else. The cost model is the usual one: a multiprocessor works on some blocks at a
//! time, a block is bound by arithmetic, by what it reads through the level-2 cache, or by the latency of its own
//! pipeline, and all blocks run in waves.

use std::fmt::Write as _;

use bespoke_device::{DeviceProps, LaunchConfig};
use bespoke_ir::DType;
use bespoke_ir::expr::Expr;

use crate::expr::cuda;
use crate::source::{cuda_compute_type, cuda_type};
use crate::spec::Tile;

/// The type in which products of a type are summed.
pub(crate) fn accumulator(dtype: DType) -> DType {
    match dtype {
        DType::F16 | DType::BF16 | DType::F32 => DType::F32,
        DType::I8 | DType::U8 | DType::I16 | DType::U16 | DType::I32 | DType::Bool => DType::I32,
        other => other,
    }
}

/// Bytes of an element in memory.
pub(crate) fn bytes_of(dtype: DType) -> i64 {
    dtype.size().unwrap_or(1) as i64
}

/// What multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Engine {
    /// `mma.sync` on 16-bit floats.
    TensorCores,
    /// One multiplication an instruction; operands wait in shared memory as accumulator type.
    Simt {
        /// Type of the sums.
        accumulator: DType,
    },
}

impl Engine {
    /// The engine for operands of these types.
    pub(crate) fn of(a: DType, b: DType, props: &DeviceProps) -> Engine {
        let tensor = a == b
            && match a {
                DType::F16 => props.arch.number >= 75,
                DType::BF16 => props.arch.has_mma_k16(),
                _ => false,
            };
        if tensor {
            Engine::TensorCores
        } else {
            Engine::Simt {
                accumulator: accumulator(a),
            }
        }
    }
}

/// One or several equal matrix products.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Problem {
    pub(crate) matrices: i64,
    pub(crate) m: i64,
    pub(crate) n: i64,
    pub(crate) k: i64,
}

/// BM, BN, BK, warps along m, warps along n, stages; each verified to compile without spills.
const TENSOR_TILES: &[[i64; 6]] = &[
    [64, 64, 32, 2, 2, 4],
    [128, 256, 32, 2, 4, 3],
    [256, 128, 32, 4, 2, 3],
    [128, 128, 32, 2, 4, 4],
    [128, 64, 32, 4, 2, 4],
    [64, 128, 32, 2, 4, 4],
    [64, 64, 64, 2, 2, 3],
    [32, 128, 64, 1, 4, 3],
    [128, 32, 64, 4, 1, 3],
    [32, 64, 64, 2, 2, 4],
    [64, 32, 64, 2, 2, 4],
    [32, 32, 64, 2, 2, 4],
    [16, 128, 64, 1, 4, 4],
    [16, 64, 64, 1, 4, 4],
    [16, 32, 64, 1, 2, 4],
    [64, 16, 64, 4, 1, 4],
];

/// BM, BN, BK, rows of a thread, columns of a thread.
const SIMT_TILES: &[[i64; 5]] = &[
    [64, 64, 16, 4, 4],
    [128, 128, 16, 8, 8],
    [128, 64, 16, 8, 4],
    [64, 128, 16, 4, 8],
    [32, 64, 16, 4, 4],
    [64, 32, 16, 4, 4],
    [32, 32, 16, 2, 4],
    [16, 128, 16, 4, 4],
    [16, 64, 16, 2, 4],
    [128, 16, 16, 4, 4],
    [64, 16, 16, 4, 2],
];

/// Legal tiles, the one with the least expected time first; without a problem, the one that serves any.
pub(crate) fn tiles(
    engine: Engine,
    problem: Option<Problem>,
    extra_shared: i64,
    props: &DeviceProps,
) -> Vec<Tile> {
    let all: Vec<Tile> = match engine {
        Engine::TensorCores => TENSOR_TILES
            .iter()
            .map(|&[bm, bn, bk, wm, wn, stages]| {
                // without cp.async one stage is read while the other is filled from registers
                let stages = if props.arch.has_cp_async() { stages } else { 2 };
                Tile::new(&[
                    ("BM", bm),
                    ("BN", bn),
                    ("BK", bk),
                    ("WARPS_M", wm),
                    ("WARPS_N", wn),
                    ("STAGES", stages),
                    ("THREADS", wm * wn * 32),
                ])
            })
            .filter(|t| props.arch.has_cp_async() || t.get("BM") * t.get("BN") <= 128 * 128)
            .collect(),
        Engine::Simt { accumulator } => SIMT_TILES
            .iter()
            .map(|&[bm, bn, bk, tm, tn]| {
                Tile::new(&[
                    ("BM", bm),
                    ("BN", bn),
                    ("BK", bk),
                    ("TM", tm),
                    ("TN", tn),
                    ("THREADS", (bm / tm) * (bn / tn)),
                ])
            })
            // 64 accumulators of eight bytes would leave no registers
            .filter(|t| bytes_of(accumulator) <= 4 || t.get("TM") * t.get("TN") <= 16)
            .collect(),
    };
    let mut legal: Vec<Tile> = all
        .into_iter()
        .filter(|t| shared_bytes(engine, t) + extra_shared <= i64::from(props.shared_per_block))
        .collect();
    match problem {
        // the list begins with the tile that serves any shape
        None => legal.truncate(1),
        Some(p) => legal
            .sort_by(|a, b| seconds(engine, a, p, props).total_cmp(&seconds(engine, b, p, props))),
    }
    legal
}

/// Dynamic shared memory of a block.
pub(crate) fn shared_bytes(engine: Engine, tile: &Tile) -> i64 {
    let (bm, bn, bk) = (tile.get("BM"), tile.get("BN"), tile.get("BK"));
    match engine {
        Engine::TensorCores => {
            let (wm, wn) = (tile.get("WARPS_M").max(1), tile.get("WARPS_N").max(1));
            let pipeline = tile.get("STAGES") * (bm + bn) * bk * 2;
            // on the way out each warp lays sixteen rows of its sums into shared memory
            let strips = wm * wn * 16 * (bn / wn + 4) * 4;
            pipeline.max(strips)
        }
        Engine::Simt { accumulator } => {
            let size = bytes_of(accumulator);
            2 * bk * (bm + bn + 2 * (16 / size)) * size
        }
    }
}

/// Blocks of a tile that fit on a multiprocessor.
fn resident(engine: Engine, tile: &Tile, props: &DeviceProps) -> i64 {
    let threads = tile.get("THREADS").max(1);
    // accumulators, fragments and addresses
    let registers = (tile.get("BM") * tile.get("BN") / threads * 3 / 2 + 64).min(255);
    let by_registers = i64::from(props.registers_per_multiprocessor) / (registers * threads);
    let by_shared =
        i64::from(props.shared_per_multiprocessor) / (shared_bytes(engine, tile) + 1024);
    let by_threads = i64::from(props.threads_per_multiprocessor) / threads;
    by_registers.min(by_shared).min(by_threads).clamp(1, 16)
}

fn blocks(tile: &Tile, p: Problem) -> i64 {
    let (bm, bn) = (tile.get("BM").max(1), tile.get("BN").max(1));
    let tiles = |extent: i64, tile: i64| (extent.max(0) + tile - 1) / tile;
    p.matrices
        .max(0)
        .saturating_mul(tiles(p.m, bm))
        .saturating_mul(tiles(p.n, bn))
}

/// Expected time of a problem.
fn seconds(engine: Engine, tile: &Tile, p: Problem, props: &DeviceProps) -> f64 {
    let multiprocessors = f64::from(props.multiprocessors.max(1));
    let (bm, bn, bk) = (
        tile.get("BM") as f64,
        tile.get("BN") as f64,
        tile.get("BK") as f64,
    );
    let warps = tile.get("THREADS") as f64 / 32.0;
    let all = blocks(tile, p) as f64;
    let together = (resident(engine, tile, props) as f64)
        .min((all / multiprocessors).ceil())
        .max(1.0);
    let steps = (p.k as f64 / bk).ceil();

    // share of the peak that the inner loop reaches: results per operand read from shared memory decide
    let (rate, reuse, element) = match engine {
        Engine::TensorCores => {
            let (wm, wn) = (
                bm / tile.get("WARPS_M") as f64,
                bn / tile.get("WARPS_N") as f64,
            );
            (props.f16_rate, wm * wn / (wm + wn) / 32.0, 2.0)
        }
        Engine::Simt { accumulator } => {
            let (tm, tn) = (tile.get("TM") as f64, tile.get("TN") as f64);
            let size = bytes_of(accumulator) as f64;
            (props.f32_rate * 4.0 / size, tm * tn / (tm + tn) / 4.0, size)
        }
    };
    let efficiency = 0.9 * (reuse * 1.2).min(1.0);
    // eight warps keep the units of a multiprocessor busy
    let busy = (together * warps / 8.0).min(1.0);
    let arithmetic =
        together * 2.0 * bm * bn * bk * steps / (rate / multiprocessors * efficiency * busy);
    // the level-2 cache gives some three times what memory gives
    // and rows and columns outside the matrix are not read
    let lines = bm.min(p.m as f64) + bn.min(p.n as f64);
    let traffic =
        together * lines * bk * steps * element / (3.0 * props.bandwidth / multiprocessors);
    let ahead = if tile.get("STAGES") > 2 {
        (tile.get("STAGES") - 1) as f64
    } else {
        1.0
    };
    let latency = steps * 0.6e-6 / ahead;
    let waves = (all / (multiprocessors * together)).ceil();
    waves * (arithmetic.max(traffic).max(latency) + 1.0e-6)
}

/// Geometry for `blocks` tiles, or a grid that fills the device.
pub(crate) fn geometry(
    engine: Engine,
    tile: &Tile,
    problem: Option<Problem>,
    props: &DeviceProps,
) -> LaunchConfig {
    let count = match problem {
        Some(p) => blocks(tile, p),
        None => i64::from(props.multiprocessors) * resident(engine, tile, props),
    };
    LaunchConfig {
        grid: [count.clamp(1, i64::from(i32::MAX)) as u32, 1, 1],
        block: tile.get("THREADS").max(1) as u32,
        shared_bytes: shared_bytes(engine, tile) as u32,
    }
}

/// An expression with its types, for `describe`.
pub(crate) fn describe_epilogue(expr: &Expr) -> String {
    let inputs: Vec<String> = expr.inputs().iter().map(ToString::to_string).collect();
    format!("({}) -> {} {expr}", inputs.join(", "), expr.dtype())
}

/// Definitions of the engine, the epilogue and what it reads. `coord` names the variable of an axis of the result.
pub(crate) fn definitions(
    engine: Engine,
    operand: DType,
    epilogue: &Expr,
    coord: impl Fn(u32) -> String,
) -> String {
    let mut out = String::new();
    // writing to a String cannot fail
    let _ = writeln!(
        out,
        "#define TENSOR_CORES {}",
        i32::from(engine == Engine::TensorCores)
    );
    let _ = writeln!(
        out,
        "typedef {} ACC;",
        cuda_compute_type(accumulator(operand))
    );
    let _ = writeln!(out, "typedef {} Y_TYPE;", cuda_type(epilogue.dtype()));
    let _ = writeln!(
        out,
        "typedef {} RESULT_TYPE;",
        cuda_compute_type(epilogue.dtype())
    );
    let extras = epilogue.inputs().len().saturating_sub(1);
    for (i, ty) in epilogue.inputs().iter().skip(1).enumerate() {
        let _ = writeln!(out, "typedef {} TYPE_e{i};", cuda_compute_type(*ty));
    }
    out.push_str("#define READ_TYPE(e) TYPE_##e\n#define EXTRAS(F)");
    for i in 0..extras {
        let _ = write!(out, " F(e{i})");
    }
    out.push('\n');
    let mut args = vec![format!(
        "({})(value)",
        cuda_compute_type(epilogue.inputs()[0])
    )];
    args.extend((0..extras).map(|i| format!("v_e{i}[j]")));
    out.push_str(&cuda::function("epilogue", epilogue));
    let call = cuda::call("epilogue", epilogue, &args, coord);
    let _ = writeln!(out, "#define EPILOGUE(value, j) {call}");
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use bespoke_device::Arch;

    fn best(m: i64, n: i64, k: i64, arch: u32) -> String {
        let props = DeviceProps::preset(Arch::sm(arch));
        let engine = Engine::of(DType::F16, DType::F16, &props);
        let p = Problem {
            matrices: 1,
            m,
            n,
            k,
        };
        let t = &tiles(engine, Some(p), 0, &props)[0];
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
                small.starts_with("16x") || small.starts_with("32x"),
                "sm_{arch}: {small}"
            );
        }
    }

    #[test]
    fn every_tile_fits_and_shares_its_work_evenly() {
        for arch in [75, 80, 86, 89, 90, 100, 120] {
            let props = DeviceProps::preset(Arch::sm(arch));
            for dtype in [
                DType::F16,
                DType::BF16,
                DType::F32,
                DType::F64,
                DType::I8,
                DType::I64,
            ] {
                let engine = Engine::of(dtype, dtype, &props);
                let p = Problem {
                    matrices: 3,
                    m: 100,
                    n: 100,
                    k: 100,
                };
                let all = tiles(engine, Some(p), 0, &props);
                assert!(!all.is_empty());
                for t in &all {
                    let threads = t.get("THREADS");
                    assert!((32..=1024).contains(&threads) && threads % 32 == 0, "{t}");
                    assert!(
                        shared_bytes(engine, t) <= i64::from(props.shared_per_block),
                        "{t}"
                    );
                    if engine == Engine::TensorCores {
                        assert_eq!(t.get("BM") / t.get("WARPS_M") % 16, 0, "{t}");
                        assert_eq!(t.get("BN") / t.get("WARPS_N") % 16, 0, "{t}");
                    }
                }
                assert_eq!(tiles(engine, None, 0, &props).len(), 1);
            }
        }
    }
}

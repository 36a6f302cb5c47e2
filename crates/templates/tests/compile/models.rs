//! Kernels as models have them, whose epilogues, masks and groups take more registers than a random sample does.

use std::sync::Arc;

use bespoke_device::{Arch, DeviceProps};
use bespoke_ir::{BinaryOp, DType, Expr, ExprBuilder, UnaryOp};
use bespoke_templates::attention::Attention;
use bespoke_templates::gemm::Gemm;
use bespoke_templates::group::Group;
use bespoke_templates::pointwise::Pointwise;
use bespoke_templates::{Args, KernelSpec, Products, Template, Tile};

use super::{ARCHS, STREAMS, compile, nvrtc_for};

/// Compiles the tiles that are asked for of a kernel of a model, whose integers are `value` of their names and 0 where there
/// are none.
fn tiles_of_a_model(
    name: &str,
    template: Arc<dyn Template>,
    value: impl Fn(&str) -> Option<i64>,
    archs: &[&str],
    asked: impl Fn(&Tile) -> bool,
) {
    let Some(nvrtc) = nvrtc_for(name) else { return };
    let params = template.params();
    let mut row = Vec::new();
    for p in &params {
        match value(&p.name).filter(|_| p.kind.slots() == 1) {
            Some(value) => row.push(value),
            None => row.extend(vec![0; p.kind.slots()]),
        }
    }
    let args = Args::new(&params, &row);
    let mut bad = Vec::new();
    for arch in archs {
        let Ok(arch) = arch.parse::<Arch>() else {
            panic!("{arch} is an architecture")
        };
        let props = DeviceProps::preset(arch);
        let exact = KernelSpec::exact(template.clone(), &args, &props);
        let tiles: Vec<_> = exact.tiles(&args, &props).filter(&asked).collect();
        assert!(!tiles.is_empty(), "{exact}: no tile for {arch}");
        bad.extend(tiles.into_iter().filter_map(|tile| {
            let spec = KernelSpec {
                tile,
                ..exact.clone()
            };
            compile(&nvrtc, &spec, &props, true).err()
        }));
    }
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

/// A cache that is copied beside rotary embeddings of a query and a key: the addresses of twelve tensors.
#[test]
fn group_of_rotary_parts() {
    let half = DType::F16;
    let mut e = ExprBuilder::new(&[half; 4]);
    let [x, cos, turned, sin] = [0, 1, 2, 3].map(|i| e.input(i));
    let (at, zero) = (e.coord(2), e.number(DType::I64, 0.0));
    let first = e.binary(BinaryOp::Eq, at, zero);
    let minus = e.unary(UnaryOp::Neg, turned);
    let turned = e.select(first, minus, turned);
    let (x, turned) = (
        e.binary(BinaryOp::Mul, x, cos),
        e.binary(BinaryOp::Mul, turned, sin),
    );
    let sum = e.binary(BinaryOp::Add, x, turned);
    let rotary = Pointwise {
        rank: 4,
        outputs: vec![e.finish(sum)],
    };
    let copy = Pointwise {
        rank: 2,
        outputs: vec![Expr::identity(half)],
    };
    let group = Arc::new(Group::apart(vec![copy, rotary.clone(), rotary]));
    // few rows of the cache and many, each of which has the other tile first
    for rows in [8, 64] {
        let value = |name: &str| {
            let (part, name) = name.split_once('_')?;
            Some(match (part, name) {
                ("p0", "d0") => rows,
                ("p0", "d1" | "x0_s0") => 128_000,
                ("p0", "y0_s0") => 128_128,
                ("p0", "x0_s1" | "y0_s1") => 1,
                ("p1", "d1") => 16,
                (_, "d0" | "d1") => 8,
                (_, "d2") => 2,
                (_, "d3") => 64,
                ("p2", "y0_s0") => 1_025_024,
                ("p2", "y0_s1") => 128_128,
                (_, "y0_s0") => 2048,
                (_, "x0_s0" | "x2_s0") => 4096,
                (_, "x0_s1" | "x2_s1" | "y0_s1") => 128,
                (_, "x2_s2") => -64,
                (_, name) if name.ends_with("_s2") => 64,
                (_, name) if name.ends_with("_s3") => 1,
                _ => 0,
            })
        };
        tiles_of_a_model("group_of_rotary_parts", group.clone(), value, ARCHS, |_| {
            true
        });
    }
}

/// Epilogues of models: an error function, a residual, a residual with a gate that all rows share.
fn epilogues_of_models() -> [Expr; 3] {
    let half = DType::F16;
    let mut e = ExprBuilder::new(&[half]);
    let x = e.input(0);
    let (root, one) = (e.number(half, 0.5f64.sqrt()), e.number(half, 1.0));
    let r = e.binary(BinaryOp::Mul, x, root);
    let r = e.unary(UnaryOp::Erf, r);
    let r = e.binary(BinaryOp::Add, r, one);
    let r = e.binary(BinaryOp::Mul, x, r);
    let gelu = e.finish(r);
    let mut e = ExprBuilder::new(&[half; 3]);
    let [x, residual, gate] = [0, 1, 2].map(|i| e.input(i));
    let r = e.binary(BinaryOp::Mul, gate, x);
    let r = e.binary(BinaryOp::Add, residual, r);
    [gelu, Expr::binary(BinaryOp::Add, half), e.finish(r)]
}

/// A product of one matrix and a weight by columns, with what its epilogue reads.
fn product_of_a_model(epilogue: Expr) -> Arc<dyn Template> {
    Arc::new(Gemm {
        batch: 0,
        a: DType::F16,
        b: DType::F16,
        sums: 1,
        products: Products::Exact,
        epilogue,
    })
}

fn extents_of_a_product([m, n, k]: [i64; 3]) -> impl Fn(&str) -> Option<i64> {
    move |name| {
        Some(match name {
            "m" => m,
            "n" => n,
            "k" | "a_s0" | "b_s1" => k,
            "a_s1" | "b_s0" | "y_s1" | "e0_s1" | "e1_s1" => 1,
            "y_s0" | "e0_s0" => n,
            _ => return None,
        })
    }
}

/// Every tile that the copy engine brings operands for, with epilogues that leave few registers; of clusters, pairs of the tiles that
/// leave the fewest.
#[test]
fn epilogues_by_tensor_maps() {
    for epilogue in epilogues_of_models() {
        tiles_of_a_model(
            "epilogues_by_tensor_maps",
            product_of_a_model(epilogue),
            extents_of_a_product([12288, 3072, 768]),
            &["sm_90a"],
            |tile| {
                let large = tile.get("BM") * tile.get("BN") >= 128 * 256;
                tile.get("TMA") == 1
                    && (tile.get("CLUSTER_M") == 0 || large && tile.get("CLUSTER_M") == 2)
            },
        );
    }
}

/// Every tile of streamed lines, with the same epilogues.
#[test]
fn epilogues_of_streamed_lines() {
    for epilogue in epilogues_of_models() {
        tiles_of_a_model(
            "epilogues_of_streamed_lines",
            product_of_a_model(epilogue),
            extents_of_a_product([5, 2048, 1024]),
            STREAMS,
            |tile| tile.get("STREAMED") == 1,
        );
    }
}

/// Tiles of mma.sync with two strips of rows a warp and the mask of an encoder, which all rows share.
#[test]
fn attention_under_a_mask() {
    let attention = Arc::new(Attention {
        batch: 2,
        dtype: DType::F16,
        size: 64,
        value_size: 64,
        scale: 1.0,
        mask: Some(DType::F16),
        fill: 0.0,
        undefined_as_zero: true,
    });
    for [sequences, length] in [[32, 384], [8, 128]] {
        let value = |name: &str| {
            Some(match name {
                "d0" => sequences,
                "d1" => 12,
                "g" => 1,
                "m" | "n" | "e0_s3" => length,
                "e0_s0" => length * length,
                "q_s0" | "k_s0" | "v_s0" => length * 2304,
                "y_s0" => length * 768,
                "q_s3" | "k_s2" | "v_s2" => 2304,
                "y_s3" => 768,
                "q_s1" | "q_s2" | "k_s1" | "v_s1" | "y_s1" | "y_s2" => 64,
                "q_s4" | "k_s3" | "v_s3" | "e0_s4" | "y_s4" => 1,
                _ => return None,
            })
        };
        let asked = |t: &Tile| t.get("WGMMA") == 0 && t.get("BM") == 128;
        tiles_of_a_model(
            "attention_under_a_mask",
            attention.clone(),
            value,
            ARCHS,
            asked,
        );
    }
}

/// Few rows of a large head where copies pass through registers.
#[test]
fn decoding_without_copies_in_the_background() {
    let attention = Arc::new(Attention {
        batch: 1,
        dtype: DType::F16,
        size: 128,
        value_size: 128,
        scale: 0.088,
        mask: None,
        fill: 0.0,
        undefined_as_zero: false,
    });
    let value = |name: &str| {
        Some(match name {
            "d0" => 64,
            "g" => 2,
            "n" => 1001,
            "q_s0" | "y_s0" => 256,
            "k_s0" | "v_s0" => 1001 * 128,
            "q_s1" | "y_s1" | "k_s1" | "v_s1" => 128,
            "m" | "q_s3" | "y_s3" | "k_s2" | "v_s2" => 1,
            _ => return None,
        })
    };
    let asked = |t: &Tile| t.get("BM") == 16;
    tiles_of_a_model("decoding", attention, value, &["sm_75"], asked);
}

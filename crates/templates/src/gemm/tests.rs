//! The twin against the definition, what special tiles are taken for, and the text of a source.

use super::samples::cases;
use super::*;
use crate::oracle::{self, Oracle};
use crate::sample::{Rng, Sample};
use crate::spec::{KernelSpec, signature};
use bespoke_device::map::Extent;
use bespoke_device::{Arch, MAP_SLOTS, SlotKind};
use proptest::prelude::{ProptestConfig, any, proptest};

fn check(sample: &Sample, gemm: &Gemm) {
    let oracle = Oracle::new(sample);
    let args = oracle.args();
    let rank = gemm.batch + 2;
    let mut extents = args.ints("d", gemm.batch);
    extents.extend([args.int("m"), args.int("n") / gemm.sums as i64]);
    let (a, b) = (oracle.read("a", rank), oracle.read("b", rank));
    let extras: Vec<_> = (0..gemm.extras())
        .map(|i| oracle.read(&format!("e{i}"), rank))
        .collect();
    oracle.check(&extents, |position| {
        let (mut left, mut right) = (position.to_vec(), position.to_vec());
        let sums = (0..gemm.sums as i64).map(|i| {
            right[rank - 1] = position[rank - 1] * gemm.sums as i64 + i;
            let mut sum = oracle::Sum::default();
            for t in 0..args.int("k") {
                left[rank - 1] = t;
                right[rank - 2] = t;
                sum.add((&a, &left), (&b, &right));
            }
            sum.of(gemm.a)
        });
        oracle::epilogue_of(&gemm.epilogue, &extras, sums.collect(), position)
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_twin_computes_the_product(seed in any::<u64>()) {
        for (gemm, sample) in cases(&mut Rng::new(seed)) {
            check(&sample, &gemm);
        }
    }
}

#[test]
fn definitions_are_stable() {
    let epilogue = {
        use bespoke_ir::expr::{BinaryOp, ExprBuilder};
        let mut b = ExprBuilder::new(&[DType::F16, DType::F16]);
        let (x, e) = (b.input(0), b.input(1));
        let z = b.binary(BinaryOp::Add, x, e);
        b.finish(z)
    };
    let gemm = Gemm {
        batch: 1,
        a: DType::F16,
        b: DType::F16,
        sums: 1,
        products: Products::Exact,
        epilogue,
    };
    insta::assert_snapshot!(gemm.describe(), @"batch 1 f16xf16 (f16, f16) -> f16 add(x0, x1)");
    insta::assert_snapshot!(gemm.definitions(&DeviceProps::preset(Arch::sm(80))), @r"
    typedef f16 A_TYPE;
    typedef f16 B_TYPE;
    #define SUMS 1
    #define BATCHES (1ll * d0)
    #define DECODE_BATCH(rest) const long long i0 = rest % d0; rest /= d0;
    #define BATCH_OFFSET(v) (v##_o + i0 * v##_s0)
    #define BATCHES_ALIGNED(v, N) (v##_o % N == 0 && v##_s0 % N == 0)
    #define BATCHES_DIVISIBLE(v, N) (v##_o_DIVISOR % N == 0 && v##_s0_DIVISOR % N == 0)
    #define ROW_STRIDE(v) v##_s1
    #define ROW_DIVISOR(v) v##_s1_DIVISOR
    #define COLUMN_STRIDE(v) v##_s2
    #define COLUMN_DIVISOR(v) v##_s2_DIVISOR
    #define TENSOR_CORES 1
    typedef float ACC;
    typedef f16 Y_TYPE;
    typedef float RESULT_TYPE;
    typedef float TYPE_e0;
    #define READ_TYPE(e) TYPE_##e
    #define EXTRAS(F) F(e0)
    __device__ __forceinline__ float epilogue(float x0, float x1) {
        const float t2 = x0 + x1;
        return t2;
    }
    #define EPILOGUE(values, j) epilogue((float)(values[j]), v_e0[j])
    ");
}

#[test]
fn maps_are_of_what_the_operands_are() {
    let mut seen = 0;
    for seed in 0..20 {
        for (gemm, sample) in cases(&mut Rng::new(seed)) {
            let params = gemm.params();
            let named = params.iter().take(2).map(|p| p.name.as_str());
            if !gemm.has_maps() {
                assert!(!params.iter().any(|p| matches!(p.kind, SlotKind::Map(_))));
                continue;
            }
            assert_eq!(named.collect::<Vec<_>>(), ["a_map", "b_map"]);
            let mut row = sample.row_at(&[1 << 20, 1 << 30]);
            let oracle = Oracle::new(&sample);
            let args = oracle.args();
            let (rows, steps) = ([args.int("m"), args.int("n")], args.int("k"));
            let of = |name: &str, [row, step]: [usize; 2]| {
                let view = Strided::of(&args, name, 2);
                (view.offset, view.strides[row], view.strides[step])
            };
            let views = [of("a", [0, 1]), of("b", [1, 0])];
            for (i, at) in [1 << 20, 1 << 30].into_iter().enumerate() {
                let SlotKind::Map(map) = &params[i].kind else {
                    panic!("{} is a map", params[i].name)
                };
                assert_eq!(map.element, gemm.a);
                let (offset, row_stride, step_stride) = views[i];
                let Extent::At(at_steps) = map.steps else {
                    panic!("steps of {} are an argument", params[i].name)
                };
                let slots = [
                    (map.tensor, at),
                    (map.offset, offset),
                    (map.rows, rows[i]),
                    (map.row_stride, row_stride),
                    (at_steps, steps),
                    (map.step_stride, step_stride),
                ];
                assert_eq!(slots.map(|s| row[s.0]), slots.map(|s| s.1));
                if let Some(map) = map.map(&row) {
                    seen += 1;
                    assert_eq!(map.address.0 as i64, at + 2 * offset);
                }
            }
            signature(&params).write_maps(&mut row, |_| Some([5; MAP_SLOTS]));
            assert!(row[..2 * MAP_SLOTS].iter().all(|s| [0, 5].contains(s)));
        }
    }
    assert!(seen > 0, "some operands have a map");
}

/// Whether tiles with a constant are taken for exactly what they are fit for: the samples at these places from the end, with
/// each of the arguments known.
fn only_fit(constant: &str, fit: std::ops::Range<usize>, arguments: &[&str]) {
    let props = DeviceProps::preset(Arch::of_card(9, 0));
    let special = |spec: &KernelSpec, args: &Args<'_>| {
        let tiles = spec.tiles(args, &props);
        tiles.filter(|t| t.get(constant) == 1).count()
    };
    for seed in 0..20 {
        for (i, (gemm, sample)) in cases(&mut Rng::new(seed)).into_iter().rev().enumerate() {
            let params = gemm.params();
            let row = sample.row();
            let args = Args::new(&params, &row);
            let exact = KernelSpec::exact(gemm.clone(), &args, &props);
            assert!(!fit.contains(&i) || special(&exact, &args) > 0, "{exact}");
            let open = KernelSpec::tuned(gemm.clone(), &args, &props);
            assert_eq!(special(&open, &args), 0, "nothing is known of {open}");
            for &name in arguments {
                let mut spec = exact.clone();
                spec.baked.remove(name);
                assert_eq!(special(&spec, &args), 0, "{name} is open in {spec}");
            }
        }
    }
}

#[test]
fn the_copy_engine_is_asked_only_for_what_it_can_walk_over() {
    only_fit(
        "TMA",
        0..5,
        &["a_o", "a_s0", "a_s1", "b_o", "b_s0", "b_s1", "n"],
    );
    let sample = samples(&mut Rng::new(1)).pop();
    let sample = sample.expect("the copy engine's");
    let (params, row) = (sample.template.params(), sample.row());
    let args = Args::new(&params, &row);
    let old = DeviceProps::preset(Arch::sm(89));
    let tiles = sample.template.tiles(Some(&args), &old);
    assert!(
        tiles.iter().all(|t| t.get("TMA") == 0),
        "sm_89 has no copy engine"
    );
}

#[test]
fn a_row_that_is_read_for_all_has_a_map_only_if_it_is_known_to_be_alone() {
    let props = DeviceProps::preset(Arch::of_card(9, 0));
    let (gemm, sample) = cases(&mut Rng::new(1)).pop().expect("a single row");
    let (params, row) = (gemm.params(), sample.row());
    let args = Args::new(&params, &row);
    assert_eq!([args.int("m"), args.int("a_s0")], [1, 0]);
    let mapped = |spec: &KernelSpec| spec.tiles(&args, &props).any(|t| t.get("TMA") == 1);
    let mut spec = KernelSpec::exact(gemm.clone(), &args, &props);
    assert!(mapped(&spec), "{spec}");
    spec.baked.remove("m");
    assert!(!mapped(&spec), "there may be more rows: {spec}");
}

#[test]
fn only_lines_of_whole_chunks_are_streamed() {
    only_fit(
        "STREAMED",
        5..7,
        &["a_o", "a_s0", "a_s1", "b_o", "b_s0", "b_s1", "k"],
    );
}

#[test]
fn pairs_write_half_of_the_columns_and_evaluate_their_epilogue_once() {
    use bespoke_ir::expr::BinaryOp;
    let half = DType::F16;
    let gemm = |sums, epilogue| Gemm {
        batch: 0,
        a: half,
        b: half,
        sums,
        products: Products::Exact,
        epilogue,
    };
    let of = |gemm: &Gemm| {
        let params = gemm.params();
        let mut row = Vec::new();
        for p in &params {
            match p.name.as_str() {
                "m" | "n" | "k" => row.push(64),
                name if name.contains("_s") => row.push(1),
                _ => row.extend(vec![0; p.kind.slots()]),
            }
        }
        gemm.cost(&Args::new(&params, &row))
    };
    let plain = of(&gemm(1, Expr::identity(half)));
    let pairs = of(&gemm(2, Expr::binary(BinaryOp::Mul, half)));
    assert_eq!(plain.bytes, 3.0 * 64.0 * 64.0 * 2.0);
    assert_eq!(plain.bytes - pairs.bytes, 64.0 * 32.0 * 2.0);
    assert_eq!(pairs.operations - plain.operations, 64.0 * 32.0);
}

#[test]
fn odd_columns_are_no_pairs() {
    let mut rng = Rng::new(3);
    let mut all = cases(&mut rng).into_iter();
    let pairs = |(gemm, _): &(std::sync::Arc<Gemm>, Sample)| gemm.sums == 2;
    let (_, mut sample) = all.rfind(pairs).unwrap();
    let at = sample.template.params().iter().position(|p| p.name == "n");
    sample.slots[at.unwrap()] = crate::sample::SampleSlot::Int(7);
    let error = sample.run_twin().unwrap_err().to_string();
    assert!(
        error.contains("7 columns cannot be taken 2 at a time"),
        "{error}"
    );
}

#[test]
fn bf16_needs_newer_tensor_cores() {
    let gemm = Gemm {
        batch: 0,
        a: DType::BF16,
        b: DType::BF16,
        sums: 1,
        products: Products::Exact,
        epilogue: Expr::identity(DType::BF16),
    };
    let source = |arch| gemm.definitions(&DeviceProps::preset(Arch::sm(arch)));
    assert!(source(75).contains("TENSOR_CORES 0"));
    assert!(source(80).contains("TENSOR_CORES 1"));
}

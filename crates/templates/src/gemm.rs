//! `gemm`: batched matrix products.
//!
//! `y[…, m, n] = epilogue(Σₖ a[…, m, k] · b[…, k, n], e…[…, m, n])` over `batch` leading axes. Serves MatMul, Gemm and
//! the integer products; transposed operands, broadcast batches and slices are strides. 16-bit floats go through tensor
//! cores, everything else through plain arithmetic, unless another [arithmetic](crate::arithmetic) is asked for; sums are
//! `f32` for floats up to 32 bits, `f64`, `i32` for integers up to 32 bits, and the type itself beyond. `k = 0` is the
//! epilogue of 0. The epilogue may take the sums of two neighbouring columns, such as those of a gated layer; the result and
//! `e…` then have half of the product's `n` columns, which are even. Where there is no batch and both operands are of one
//! 16-bit type, multiplied exactly, tensor maps of them come first among the arguments.
//!
//! Tile constants: `BM`×`BN` results a block, `BK` steps at a time; on tensor cores `WARPS_M`×`WARPS_N` warps and
//! `STAGES` of operands in flight, otherwise `TM`×`TN` results a thread. `WGMMA` is Hopper's engine, `TMA` the same with
//! operands that the copy engine brings: `a` of any order, lines of `b` along the reduction, `n` a multiple of 32. `STREAMED` is for
//! few rows: lines of both operands run along the reduction, those of `b` go straight into registers.

mod host;
mod integers;
mod samples;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Mutex;

use bespoke_device::map::Lines;
use bespoke_device::{DeviceProps, LaunchConfig, Operand, TwinError};
use bespoke_ir::DType;
use bespoke_ir::expr::Expr;

pub(crate) use self::host::widen_run;
pub use self::samples::samples;

use self::host::{Product, Twin};
use crate::arithmetic::Products;
use crate::expr::lanes::{Elements, ElementsMut, check, split_operands};
use crate::expr::regions::for_each_region;
use crate::finish::Finish;
use crate::source::kernel_text;
use crate::spec::{
    Args, Baked, Cost, Mapped, Param, Steps, Template, Tile, Want, divides, has_maps, with_maps,
};
use crate::tile::{self, Engine, Operands, Problem};
use crate::view::{self, Strided};

/// The maps of a product's operands: rows of `b` are the columns of the result, spread as `kernels/tile_tma.cuh` wants them.
const MAPS: [Mapped<'_>; 2] = [
    Mapped {
        name: "a_map",
        tensor: "a",
        offset: "a_o",
        rows: ["m", "a_s0"],
        steps: (Steps::Named("k"), "a_s1"),
        batches: &[],
        lines: Lines::Plain,
    },
    Mapped {
        name: "b_map",
        tensor: "b",
        offset: "b_o",
        rows: ["n", "b_s1"],
        steps: (Steps::Named("k"), "b_s0"),
        batches: &[],
        lines: Lines::Spread,
    },
];

/// A family of matrix products; see the module.
#[derive(Clone, Debug)]
pub struct Gemm {
    /// Number of batch axes.
    pub batch: usize,
    /// Type of the first operand.
    pub a: DType,
    /// Type of the second operand.
    pub b: DType,
    /// The arithmetic, one for operands of these types.
    pub products: Products,
    /// Neighbouring columns of the product that make one of the result: 1 or 2.
    pub sums: usize,
    /// The first `sums` operands are the sums, the others are `e0…`.
    pub epilogue: Expr,
}

impl Gemm {
    fn engine(&self, props: &DeviceProps) -> Engine {
        Engine::of(self.a, self.b, self.products, props)
    }

    fn problem(&self, args: &Args<'_>) -> Problem {
        Problem {
            matrices: args.ints("d", self.batch).iter().product(),
            m: args.int("m"),
            n: args.int("n"),
            k: args.int("k"),
            sums: self.sums as i64,
            epilogue: self.epilogue.operations() as u64,
        }
    }

    /// Whether kernels may copy operands by tensor maps: of one matrix each, of floats of 16 bits.
    fn has_maps(&self) -> bool {
        let halves = self.a == self.b && matches!(self.a, DType::F16 | DType::BF16);
        self.batch == 0 && halves && self.products == Products::Exact
    }

    /// Whether there is a map of each operand of such a product, wherever they begin.
    fn maps_of(&self, args: &Args<'_>) -> bool {
        self.has_maps() && has_maps(&self.params(), args)
    }

    fn extras(&self) -> usize {
        self.epilogue.inputs().len().saturating_sub(self.sums)
    }

    /// Types of `e0…`.
    fn extra_types(&self) -> impl Iterator<Item = DType> {
        self.epilogue.inputs().iter().skip(self.sums).copied()
    }
}

impl Template for Gemm {
    fn name(&self) -> &'static str {
        "gemm"
    }

    fn describe(&self) -> String {
        let sums = match self.sums {
            1 => String::new(),
            several => format!("{several} sums "),
        };
        let epilogue = tile::describe_epilogue(&self.epilogue);
        let (batch, a, b) = (self.batch, self.a, self.b);
        let products = self.products.text();
        format!("batch {batch} {a}x{b}{products} {sums}{epilogue}")
    }

    fn params(&self) -> Vec<Param> {
        let mut params = vec![Param::int("m"), Param::int("n"), Param::int("k")];
        params.extend(view::extents(self.batch));
        let rank = self.batch + 2;
        params.extend(view::read("a", self.a, rank));
        params.extend(view::read("b", self.b, rank));
        for (i, ty) in self.extra_types().enumerate() {
            params.extend(view::read(&format!("e{i}"), ty, rank));
        }
        params.extend(view::write("y", self.epilogue.dtype(), rank));
        match self.has_maps() {
            true => with_maps(&MAPS, params),
            false => params,
        }
    }

    fn body(&self) -> &'static str {
        kernel_text!(
            "\n"; "mma.cuh", "tile.cuh", "tile_simt.cuh", "tile_pipeline.cuh", "tile_mma.cuh", "roles.cuh", "tile_wgmma.cuh", "tile_tma.cuh", "tile_strips.cuh", "tile_streamed.cuh", "gemm.cu"
        )
    }

    fn definitions(&self, props: &DeviceProps) -> String {
        let batch = self.batch;
        let mut out = String::new();
        // writing to a String cannot fail
        let _ = writeln!(out, "typedef {} A_TYPE;", crate::source::cuda_type(self.a));
        let _ = writeln!(out, "typedef {} B_TYPE;", crate::source::cuda_type(self.b));
        let _ = writeln!(out, "#define SUMS {}", self.sums);
        out.push_str("#define BATCHES (1ll");
        for i in 0..batch {
            let _ = write!(out, " * d{i}");
        }
        out.push_str(")\n#define DECODE_BATCH(rest)");
        for i in (0..batch).rev() {
            let _ = write!(out, " const long long i{i} = rest % d{i}; rest /= d{i};");
        }
        out.push_str("\n#define BATCH_OFFSET(v) (v##_o");
        for i in 0..batch {
            let _ = write!(out, " + i{i} * v##_s{i}");
        }
        for (name, fact) in [("BATCHES_ALIGNED", ""), ("BATCHES_DIVISIBLE", "_DIVISOR")] {
            let _ = write!(out, ")\n#define {name}(v, N) (v##_o{fact} % N == 0");
            for i in 0..batch {
                let _ = write!(out, " && v##_s{i}{fact} % N == 0");
            }
        }
        out.push_str(")\n");
        for (name, axis) in [("ROW", batch), ("COLUMN", batch + 1)] {
            let _ = writeln!(out, "#define {name}_STRIDE(v) v##_s{axis}");
            let _ = writeln!(out, "#define {name}_DIVISOR(v) v##_s{axis}_DIVISOR");
        }
        out.push_str(&tile::definitions(
            self.engine(props),
            self.a,
            &self.epilogue,
            self.sums,
            |axis| match (axis as usize).checked_sub(batch) {
                None => format!("i{axis}"),
                Some(0) => "(long long)r".to_owned(),
                Some(_) => "(long long)(c + j)".to_owned(),
            },
        ));
        out
    }

    fn reads_divisors(&self) -> bool {
        true
    }

    fn wants(&self, name: &str, _: &Args<'_>) -> Want {
        match name {
            "m" | "k" => Want::Divisor(8),
            // boxes of the copy engine have 32 columns
            "n" => Want::Divisor(32),
            _ if name.contains('_') => tile::wants(name, self.a),
            // extents of the batch
            _ => Want::Nothing,
        }
    }

    fn tiles(&self, args: Option<&Args<'_>>, props: &DeviceProps) -> Vec<Tile> {
        let problem = args.map(|a| self.problem(a));
        let operands = match args {
            Some(args) if self.maps_of(args) => Operands::Mapped,
            _ if self.batch == 0 => Operands::Matrices,
            _ => Operands::Any,
        };
        let mut tiles = tile::tiles(self.engine(props), problem, operands, 0, props);
        if args.is_none() {
            tiles.truncate(1);
        }
        tiles
    }

    fn suits(&self, tile: &Tile, baked: &BTreeMap<String, Baked>) -> bool {
        let (mapped, streamed) = (tile.get("TMA") == 1, tile.get("STREAMED") == 1);
        if !mapped && !streamed {
            return true;
        }
        // what `kernels/gemm.cu` asserts
        let divides = |name: &str, by: i64| divides(baked, name, by);
        let one = |name: &str| baked.get(name) == Some(&Baked::Exact(1));
        let line = |stride: &str| divides(stride, 8) && baked.get(stride) != Some(&Baked::Exact(0));
        // a single row, or the same for all, has no line behind it; the copy engine wants one
        let by_row = one("a_s1") && divides("a_s0", 8) && (streamed || line("a_s0"));
        let by_step = one("a_s0") && line("a_s1");
        let b = divides("b_o", 8) && one("b_s0") && line("b_s1");
        let rest = match streamed {
            // whole runs of results, and of what is read for them, leave registers for what is under way
            true => {
                let rank = self.batch + 2;
                let whole = |name: &str, columns: &[i64]| {
                    let column = baked.get(&format!("{name}_s{}", rank - 1));
                    let known = |c: &i64| column == Some(&Baked::Exact(*c));
                    columns.iter().any(known)
                        && divides(&format!("{name}_o"), 8)
                        && (0..rank - 1).all(|a| divides(&format!("{name}_s{a}"), 8))
                };
                let extras = (0..self.extras()).all(|i| whole(&format!("e{i}"), &[0, 1]));
                by_row && divides("k", 8) && divides("n", 8) && whole("y", &[1]) && extras
            }
            false => (by_row || by_step) && divides("n", 32),
        };
        divides("a_o", 8) && b && rest
    }

    fn expected_seconds(&self, tile: &Tile, args: &Args<'_>, props: &DeviceProps) -> Option<f64> {
        Some(tile::seconds(
            self.engine(props),
            tile,
            self.problem(args),
            props,
        ))
    }

    fn same_sums(&self, a: &Tile, b: &Tile) -> bool {
        tile::same_sums(a, b)
    }

    fn geometry(&self, tile: &Tile, args: Option<&Args<'_>>, props: &DeviceProps) -> LaunchConfig {
        tile::geometry(
            self.engine(props),
            tile,
            args.map(|a| self.problem(a)),
            props,
        )
    }

    fn products(&self) -> Option<Products> {
        let choice = self.a == self.b && Products::choices().any(|p| p.operands() == Some(self.a));
        choice.then_some(self.products)
    }

    fn cost(&self, args: &Args<'_>) -> Cost {
        let p = self.problem(args);
        let (matrices, m, n, k) = (p.matrices as f64, p.m as f64, p.n as f64, p.k as f64);
        let rank = self.batch + 2;
        let d = args.ints("d", self.batch);
        // an operand that is the same for every matrix of an axis is read once
        let read = |name: &str, last: [f64; 2], dtype: DType| {
            let strides = args.ints(&format!("{name}_s"), rank);
            let all = d.iter().map(|&x| x as f64).chain(last);
            all.zip(&strides)
                .filter(|(_, s)| **s != 0)
                .map(|(x, _)| x)
                .product::<f64>()
                * tile::bytes_of(dtype) as f64
        };
        let mut bytes = read("a", [m, k], self.a) + read("b", [k, n], self.b);
        let columns = n / self.sums as f64;
        for (i, ty) in self.extra_types().enumerate() {
            bytes += read(&format!("e{i}"), [m, columns], ty);
        }
        bytes += matrices * m * columns * tile::bytes_of(self.epilogue.dtype()) as f64;
        Cost {
            operations: matrices * m * (n * 2.0 * k + columns * self.epilogue.operations() as f64),
            bytes,
            tensor_cores: tile::on_tensor_cores(self.a, self.b, self.products),
        }
    }

    fn run(&self, args: &Args<'_>, operands: &mut [Operand<'_>]) -> Result<(), TwinError> {
        let rank = self.batch + 2;
        let mut extents = args.ints("d", self.batch);
        let (m, n, k) = (args.int("m"), args.int("n"), args.int("k"));
        let sums = self.sums.max(1) as i64;
        if n % sums != 0 {
            return Err(TwinError(format!(
                "{n} columns cannot be taken {sums} at a time"
            )));
        }
        extents.extend([m, n / sums]);
        if extents.iter().any(|&d| d <= 0) {
            return Ok(());
        }
        let (mut writes, reads) = split_operands(operands);
        if reads.len() != 2 + self.extras() || writes.len() != 1 {
            return Err(TwinError(format!(
                "gemm takes {} operands and one result",
                2 + self.extras()
            )));
        }
        let operand =
            |name: &str, bytes, ty, last: [i64; 2]| -> Result<(Elements<'_>, Strided), TwinError> {
                let elements = Elements::of(ty, bytes)?;
                let strided = Strided::of(args, name, rank);
                let mut space = extents[..self.batch].to_vec();
                space.extend(last);
                check(name, &strided, &space, elements.len())?;
                Ok((elements, strided))
            };
        let a = operand("a", reads[0], self.a, [m, k.max(0)])?;
        let b = operand("b", reads[1], self.b, [k.max(0), n])?;
        let finish = Finish::new(&self.epilogue, self.sums, args, &reads[2..], &extents)?;
        let bytes = writes
            .pop()
            .ok_or_else(|| TwinError("gemm has no result".to_owned()))?;
        let y = ElementsMut::of(self.epilogue.dtype(), bytes)?;
        let y_view = Strided::of(args, "y", rank);
        check("y", &y_view, &extents, y.len())?;

        let axes: Vec<usize> = (0..rank).collect();
        // some 2 MFLOP a piece
        let grain = (1_000_000 / (k.max(1) + 16) / sums).max(1);
        let failure = Mutex::new(None);
        // the sums of a result are products of their own, with every other column
        let product = |i: i64| {
            let (elements, mut view) = b.clone();
            view.offset += i * view.strides[rank - 1];
            view.strides[rank - 1] *= sums;
            Product {
                k: k.max(0) as usize,
                arithmetic: self.products,
                a: a.clone(),
                b: (elements, view),
            }
        };
        let twin = Twin {
            products: (0..sums).map(product).collect(),
            finish: &finish,
            extents: &extents,
        };
        for_each_region(y, &y_view, &extents, &axes, grain, &|region, part| {
            if let Err(e) = twin.region(region, part)
                && let Ok(mut failure) = failure.lock()
            {
                *failure = Some(e);
            }
        });
        match failure.into_inner() {
            Ok(None) => Ok(()),
            Ok(Some(e)) => Err(e),
            Err(_) => Err(TwinError("gemm stopped half-way".to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
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
            0..4,
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
    fn only_lines_of_whole_chunks_are_streamed() {
        only_fit(
            "STREAMED",
            4..6,
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
}

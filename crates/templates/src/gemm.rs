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
//! few rows: lines of both operands run along the reduction, those of `b` go straight into registers; results, and what is read
//! for them, lie in lines of whole chunks.

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
            gathered: false,
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
            // a single row has a map whatever its stride
            "m" => Want::Unit(8),
            "k" => Want::Divisor(8),
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
        // the copy engine wants rows that lie behind each other, not one that is read for all; of a single row the stride does not matter
        let by_row = one("a_s1") && divides("a_s0", 8) && (streamed || one("m") || line("a_s0"));
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
mod tests;

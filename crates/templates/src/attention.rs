//! `attention`: `y = softmax(scale · q·kᵀ + mask) · v` without the scores ever being in memory.
//!
//! Space `d0 … d{batch-1}, g, m`: batches, the `g` heads of queries that share a head of keys and values (those heads are
//! one more batch axis), rows. `q[…, g, m, size]` and `y[…, g, m, value_size]` are viewed over it and their elements,
//! `k[…, n, size]` and `v[…, n, value_size]` over batches, keys and elements, the mask `e0[…, g, m, n]` over the space
//! and the keys. All strides are free; the fast path wants elements next to each other and rows at multiples of 16 bytes.
//!
//! Softmax is computed in `f32`, online: a tile of keys at a time. The rows of a group are one matrix, so that with few
//! rows a head of keys is still read once. A row whose softmax is undefined is NaN, as in `softmax`, or 0 where the
//! option says so; a row without any keys is 0, as a sum over nothing is.
//!
//! Tile constants: `BM` rows a block, `BN` keys at a time, `WARPS_M`×`WARPS_N` warps, `STAGES` of keys and values in
//! flight. With `WARPS_N > 1` warps share the rows and divide the keys, and merge what they have at the end; with `SPLIT >
//! 1` so do the blocks of a cluster, through each other's shared memory, where there are clusters. With `WGMMA` it is
//! Hopper's own instructions that multiply: 64 rows a group of four warps, `BLOCKS` on a multiprocessor, and the copy engine
//! that brings keys and values, of which tensor maps come first among the arguments. There are such maps of up to three
//! batch axes, heads whose elements lie side by side, and strides of whole chunks. `STREAMED` is for up to eight rows: keys and
//! values of such heads go straight into registers.

mod host;
mod model;
mod samples;
mod tiles;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use bespoke_device::map::{BATCHES, Lines};
use bespoke_device::{DeviceProps, LaunchConfig, Operand, TwinError};
use bespoke_ir::DType;

use crate::arithmetic::Products;
use crate::source::{cuda_type, kernel_text};
use crate::spec::{
    Args, Baked, Cost, Mapped, Param, Steps, Template, Tile, Want, divides, has_maps, with_maps,
};
use crate::tile::bytes_of;
use crate::view;

pub use samples::samples;

use tiles::{FEW, has_clusters};

/// Sizes of a head are multiples of this, so that a head is whole 16-byte chunks.
pub const STEP: i64 = 8;
/// Largest size of a head; the result of a row must fit in registers.
pub const LARGEST: i64 = 256;

/// A family of attention kernels; see the module.
#[derive(Clone, Debug, PartialEq)]
pub struct Attention {
    /// Number of batch axes, that of the heads of keys included.
    pub batch: usize,
    /// Type of all operands but the mask, and of the result: `f16` or `bf16`.
    pub dtype: DType,
    /// Elements of a query and a key.
    pub size: i64,
    /// Elements of a value.
    pub value_size: i64,
    /// Factor of the scores.
    pub scale: f64,
    /// Type of the mask: numbers are added to the scaled scores; where a `bool` is false, `fill` takes their place.
    pub mask: Option<DType>,
    /// See `mask`.
    pub fill: f64,
    /// Whether a row without a defined softmax is 0 and not NaN.
    pub undefined_as_zero: bool,
}

/// Extents of a run.
#[derive(Clone, Copy, Debug)]
struct Problem {
    batches: i64,
    rows: i64,
    keys: i64,
}

impl Attention {
    /// What the template lacks for these options, if anything.
    pub fn refuses(&self) -> Option<&'static str> {
        let fits = |size: i64| (STEP..=LARGEST).contains(&size) && size % STEP == 0;
        match self.mask {
            _ if !matches!(self.dtype, DType::F16 | DType::BF16) => {
                Some("operands must be f16 or bf16")
            }
            _ if !fits(self.size) || !fits(self.value_size) => {
                Some("the size of a head must be a multiple of 8 up to 256")
            }
            _ if !self.scale.is_finite() => Some("the scale must be finite"),
            None | Some(DType::F16 | DType::BF16 | DType::F32 | DType::Bool) => None,
            Some(_) => Some("the mask must be f16, bf16, f32 or bool"),
        }
    }

    fn problem(&self, args: &Args<'_>) -> Problem {
        Problem {
            batches: args.ints("d", self.batch).iter().product(),
            rows: args.int("g").saturating_mul(args.int("m")),
            keys: args.int("n"),
        }
    }

    /// Whether there are tensor maps of keys and values, and queries and results are whole chunks.
    fn maps_of(&self, args: &Args<'_>) -> bool {
        self.batch <= BATCHES && has_maps(&self.params(), args)
    }

    /// Sizes of a head as they lie in shared memory.
    fn padded(&self) -> (i64, i64) {
        let pad = |size: i64| (size + 15) / 16 * 16;
        (pad(self.size), pad(self.value_size))
    }
}

impl Template for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn describe(&self) -> String {
        let mut out = format!(
            "batch {} {} {}x{} scale {:?}",
            self.batch, self.dtype, self.size, self.value_size, self.scale
        );
        // writing to a String cannot fail
        if let Some(mask) = self.mask {
            let _ = write!(out, " mask {mask}");
        }
        if self.mask == Some(DType::Bool) {
            let _ = write!(out, " fill {:?}", self.fill);
        }
        if self.undefined_as_zero {
            out.push_str(" undefined as zero");
        }
        out
    }

    fn params(&self) -> Vec<Param> {
        let mut params = vec![Param::int("m"), Param::int("n"), Param::int("g")];
        params.extend(view::extents(self.batch));
        params.extend(view::read("q", self.dtype, self.batch + 3));
        params.extend(view::read("k", self.dtype, self.batch + 2));
        params.extend(view::read("v", self.dtype, self.batch + 2));
        if let Some(mask) = self.mask {
            params.extend(view::read("e0", mask, self.batch + 3));
        }
        params.extend(view::write("y", self.dtype, self.batch + 3));
        if self.batch > BATCHES {
            return params;
        }
        let map = |name: &str, size| {
            let axis = |i: usize| format!("{name}_s{i}");
            let batches: Vec<_> = (0..self.batch)
                .map(|i| [format!("d{i}"), axis(i)])
                .collect();
            let texts = [format!("{name}_map"), format!("{name}_o")];
            let strides = [axis(self.batch), axis(self.batch + 1)];
            (name.to_owned(), texts, strides, size, batches)
        };
        let maps = [map("k", self.size), map("v", self.value_size)];
        let maps =
            maps.each_ref().map(
                |(tensor, [name, offset], [row, step], size, batches)| Mapped {
                    name,
                    tensor,
                    offset,
                    rows: ["n", row],
                    steps: (Steps::Is(*size), step),
                    batches,
                    lines: Lines::Batched,
                },
            );
        with_maps(&maps, params)
    }

    fn body(&self) -> &'static str {
        kernel_text!(
            "\n";
            "mma.cuh",
            "attention.cuh",
            "roles.cuh",
            "attention_mma.cuh",
            "attention_wgmma.cuh",
            "attention_streamed.cuh",
            "attention.cu"
        )
    }

    fn definitions(&self, props: &DeviceProps) -> String {
        let batch = self.batch;
        let log2e = std::f64::consts::LOG2_E;
        let mut out = String::new();
        // writing to a String cannot fail
        let _ = writeln!(out, "typedef {} T;", cuda_type(self.dtype));
        let (d, dv) = self.padded();
        let _ = writeln!(
            out,
            "#define T_NAME \"{}\"\n#define D_PADDED {d}\n#define DV_PADDED {dv}",
            self.dtype
        );
        let _ = writeln!(
            out,
            "constexpr int D = {}, DV = {};",
            self.size, self.value_size
        );
        let _ = writeln!(
            out,
            "constexpr float SCALE_LOG2E = {:e}f;",
            (self.scale * log2e) as f32
        );
        let _ = writeln!(
            out,
            "constexpr bool UNDEFINED_AS_ZERO = {};",
            self.undefined_as_zero
        );
        let kind = match self.mask {
            None => 0,
            Some(DType::Bool) => 2,
            Some(_) => 1,
        };
        let _ = writeln!(out, "#define MASK {kind}");
        let _ = writeln!(out, "#define CLUSTERS {}", i32::from(has_clusters(props)));
        if let Some(mask) = self.mask {
            let _ = writeln!(out, "typedef {} E_TYPE;", cuda_type(mask));
            let _ = writeln!(
                out,
                "constexpr bool WIDE_MASK = {};",
                matches!(mask, DType::F32 | DType::BF16)
            );
            // a finite number stays finite in the other base
            let mut fill = self.fill * log2e;
            if self.fill.is_finite() {
                fill = fill.clamp(f64::from(f32::MIN), f64::from(f32::MAX));
            }
            let _ = writeln!(
                out,
                "#define FILL_LOG2E __int_as_float(0x{:08x})",
                (fill as f32).to_bits()
            );
        }
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
        out.push_str(")\n#define BATCHES_DIVISIBLE(v, N) (v##_o_DIVISOR % N == 0");
        for i in 0..batch {
            let _ = write!(out, " && v##_s{i}_DIVISOR % N == 0");
        }
        let place = (0..BATCHES).map(|i| match i < batch {
            true => format!("(int)i{i}"),
            false => "0".to_owned(),
        });
        let place = place.collect::<Vec<_>>().join(", ");
        let _ = writeln!(out, ")\n#define BATCH_PLACE {{{place}}}");
        for (name, axis) in [
            ("GROUP", batch),
            ("ROW", batch + 1),
            ("COLUMN", batch + 2),
            ("KEY_ROW", batch),
            ("KEY_COLUMN", batch + 1),
        ] {
            let _ = writeln!(out, "#define {name}_STRIDE(v) v##_s{axis}");
            let _ = writeln!(out, "#define {name}_DIVISOR(v) v##_s{axis}_DIVISOR");
        }
        out
    }

    fn reads_divisors(&self) -> bool {
        true
    }

    fn wants(&self, name: &str, _: &Args<'_>) -> Want {
        // Layers often read their keys and values from one tensor, at an offset each, which is added once. Strides as
        // arguments would take some thirty registers.
        match name.ends_with("_o") {
            true => Want::Divisor(8),
            false => Want::Value,
        }
    }

    fn tiles(&self, args: Option<&Args<'_>>, props: &DeviceProps) -> Vec<Tile> {
        let mapped = args.is_some_and(|args| self.maps_of(args));
        self.tiles_for(args.map(|a| self.problem(a)), mapped, props)
    }

    fn suits(&self, tile: &Tile, baked: &BTreeMap<String, Baked>) -> bool {
        if tile.get("WGMMA") == 0 && tile.get("STREAMED") == 0 {
            return true;
        }
        // what `kernels/attention.cu` and `kernels/attention_wgmma.cuh` assert, and that no axis of a map is one of broadcast
        let whole = |name: &str, lines: usize| {
            let stride = |i: usize| format!("{name}_s{i}");
            divides(baked, &format!("{name}_o"), STEP)
                && baked.get(&stride(lines)) == Some(&Baked::Exact(1))
                && (0..lines).all(|i| divides(baked, &stride(i), STEP))
        };
        let moves = |name: &str| {
            (0..=self.batch).all(|i| {
                let extent = match i < self.batch {
                    true => format!("d{i}"),
                    false => "n".to_owned(),
                };
                let stride = format!("{name}_s{i}");
                baked.get(&stride) != Some(&Baked::Exact(0))
                    || baked.get(&extent) == Some(&Baked::Exact(1))
            })
        };
        ["q", "y"].iter().all(|v| whole(v, self.batch + 2))
            && ["k", "v"]
                .iter()
                .all(|v| whole(v, self.batch + 1) && moves(v))
    }

    fn generic_tile(&self, known: &dyn Fn(&str) -> Option<i64>) -> usize {
        let rows = known("g").zip(known("m")).map(|(g, m)| g.saturating_mul(m));
        usize::from(rows.is_some_and(|rows| rows <= FEW))
    }

    fn expected_seconds(&self, tile: &Tile, args: &Args<'_>, props: &DeviceProps) -> Option<f64> {
        Some(self.seconds(tile, self.problem(args), props))
    }

    fn same_sums(&self, a: &Tile, b: &Tile) -> bool {
        // after each step of keys the sums so far are corrected, parts of the keys are merged at the end, and `wgmma` adds up in
        // an order of its own
        let parts = |t: &Tile, name| t.get(name).max(1);
        ["WGMMA", "STREAMED"]
            .iter()
            .all(|name| a.get(name) == b.get(name))
            && ["BN", "WARPS_N", "SPLIT"]
                .iter()
                .all(|name| parts(a, name) == parts(b, name))
    }

    fn geometry(&self, tile: &Tile, args: Option<&Args<'_>>, props: &DeviceProps) -> LaunchConfig {
        let count = match args {
            Some(args) => {
                let all = Self::blocks(tile, self.problem(args));
                match tile.get("WGMMA") {
                    // these go on to the next tile of rows by themselves
                    1 => all.min(i64::from(props.multiprocessors) * self.resident(tile, props)),
                    _ => all,
                }
            }
            None => i64::from(props.multiprocessors) * self.resident(tile, props),
        };
        // whole clusters
        let split = tile.get("SPLIT").max(1);
        let most = i64::from(i32::MAX) / split * split;
        let count = (count / split * split).clamp(split, most);
        LaunchConfig {
            grid: [count as u32, 1, 1],
            block: tile.get("THREADS").max(1) as u32,
            shared_bytes: self.shared_bytes(tile) as u32,
        }
    }

    fn cost(&self, args: &Args<'_>) -> Cost {
        let p = self.problem(args);
        let (rows, keys) = (p.rows as f64, p.keys as f64);
        let space: Vec<i64> = args.ints("d", self.batch);
        // an operand that is the same for every position of an axis is read once
        let read = |name: &str, last: &[i64], dtype: DType| {
            let strides = args.ints(&format!("{name}_s"), self.batch + last.len());
            let all = space.iter().chain(last);
            all.zip(&strides)
                .filter(|(_, s)| **s != 0)
                .map(|(&x, _)| x as f64)
                .product::<f64>()
                * bytes_of(dtype) as f64
        };
        let (g, m, n) = (args.int("g"), args.int("m"), args.int("n"));
        let mut bytes = read("q", &[g, m, self.size], self.dtype)
            + read("k", &[n, self.size], self.dtype)
            + read("v", &[n, self.value_size], self.dtype)
            + read("y", &[g, m, self.value_size], self.dtype);
        if let Some(mask) = self.mask {
            bytes += read("e0", &[g, m, n], mask);
        }
        Cost {
            operations: p.batches as f64
                * rows
                * keys
                * (2.0 * (self.size + self.value_size) as f64 + 4.0),
            bytes,
            tensor_cores: Some(Products::Exact),
        }
    }

    fn run(&self, args: &Args<'_>, operands: &mut [Operand<'_>]) -> Result<(), TwinError> {
        host::run(self, args, operands)
    }
}

#[cfg(test)]
mod tests;

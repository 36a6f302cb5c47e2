//! What `conv` and `conv_transpose` have in common: parameters, definitions, tiles and cost.
//!
//! Both are matrix products of output pixels and filters (`kernels/convolution.cuh`). They differ in how outputs, taps
//! and inputs belong together ([`Geometry::axis`]) and in the order of a weight's first two axes.

mod samples;

use std::fmt::Write as _;

use bespoke_device::{DeviceProps, LaunchConfig, Operand, TwinError};
use bespoke_ir::DType;
use bespoke_ir::expr::Expr;

use crate::arithmetic::Products;
use crate::convolution_host;
use crate::source::cuda_type;
use crate::spec::{Args, Cost, Param, Template, Tile, Want};
use crate::tile::{self, Engine, Problem};
use crate::view;

pub(crate) use samples::cases;

/// The options of a convolution of either kind.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Convolution<'t> {
    pub(crate) spatial: usize,
    pub(crate) dtype: DType,
    pub(crate) products: Products,
    pub(crate) epilogue: &'t Expr,
    pub(crate) transposed: bool,
}

/// The integers of a call.
#[derive(Clone, Debug)]
pub(crate) struct Geometry {
    /// Images.
    pub(crate) n: i64,
    /// Groups.
    pub(crate) g: i64,
    /// Input channels of a group.
    pub(crate) c: i64,
    /// Output channels of a group.
    pub(crate) k: i64,
    pub(crate) ins: Vec<i64>,
    pub(crate) outs: Vec<i64>,
    pub(crate) kers: Vec<i64>,
    pub(crate) strs: Vec<i64>,
    pub(crate) dils: Vec<i64>,
    pub(crate) pads: Vec<i64>,
}

/// Along one axis and for one phase of outputs: output `q` is at `first + q·spacing`, and its tap `t` reads the input at
/// `q·mul + base + t·step` with the weight `tap + t·tap_step`. The same as `Axis` in the kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Axis {
    pub(crate) input: i64,
    pub(crate) first: i64,
    pub(crate) spacing: i64,
    pub(crate) outputs: i64,
    pub(crate) mul: i64,
    pub(crate) base: i64,
    pub(crate) step: i64,
    pub(crate) tap: i64,
    pub(crate) tap_step: i64,
    pub(crate) taps: i64,
}

impl Geometry {
    pub(crate) fn of(args: &Args<'_>, spatial: usize) -> Geometry {
        Geometry {
            n: args.int("n"),
            g: args.int("g"),
            c: args.int("c"),
            k: args.int("k"),
            ins: args.ints("in", spatial),
            outs: args.ints("out", spatial),
            kers: args.ints("ker", spatial),
            strs: args.ints("str", spatial),
            dils: args.ints("dil", spatial),
            pads: args.ints("pad", spatial),
        }
    }

    /// The extents of the result: images, channels, positions.
    pub(crate) fn extents(&self) -> Vec<i64> {
        let mut extents = vec![self.n, self.g * self.k];
        extents.extend(&self.outs);
        extents
    }

    /// The axis `a` for outputs that are `phase` modulo the stride (transposed), or for all.
    pub(crate) fn axis(&self, transposed: bool, a: usize, phase: i64) -> Axis {
        let (input, out, ker) = (self.ins[a], self.outs[a], self.kers[a]);
        let (stride, dil, pad) = (self.strs[a].max(1), self.dils[a].max(1), self.pads[a]);
        if !transposed {
            return Axis {
                input,
                first: 0,
                spacing: 1,
                outputs: out,
                mul: stride,
                base: -pad,
                step: dil,
                tap: 0,
                tap_step: 1,
                taps: ker,
            };
        }
        let (mut common, mut other) = (dil, stride);
        while other != 0 {
            (common, other) = (other, common % other);
        }
        let tap_step = stride / common;
        let tap = (0..tap_step)
            .find(|t| (phase + pad - t * dil) % stride == 0)
            .filter(|&t| t < ker);
        Axis {
            input,
            first: phase,
            spacing: stride,
            outputs: if phase < out {
                (out - phase + stride - 1) / stride
            } else {
                0
            },
            mul: 1,
            base: tap.map_or(0, |t| (phase + pad - t * dil) / stride),
            step: -(dil / common),
            tap: tap.unwrap_or(0),
            tap_step,
            taps: tap.map_or(0, |t| (ker - 1 - t) / tap_step + 1),
        }
    }
}

impl Convolution<'_> {
    fn extras(&self) -> usize {
        self.epilogue.inputs().len().saturating_sub(1)
    }

    pub(crate) fn describe(&self) -> String {
        format!(
            "{}d {}{} {}",
            self.spatial,
            self.dtype,
            self.products.text(),
            tile::describe_epilogue(self.epilogue)
        )
    }

    pub(crate) fn params(&self) -> Vec<Param> {
        let mut params: Vec<Param> = ["n", "g", "c", "k"].map(Param::int).into();
        for name in ["in", "out", "ker", "str", "dil", "pad"] {
            params.extend((0..self.spatial).map(|a| Param::int(format!("{name}{a}"))));
        }
        let rank = self.spatial + 2;
        params.extend(view::read("x", self.dtype, rank));
        params.extend(view::read("w", self.dtype, rank));
        for (i, ty) in self.epilogue.inputs().iter().skip(1).enumerate() {
            params.extend(view::read(&format!("e{i}"), *ty, rank));
        }
        params.extend(view::write("y", self.epilogue.dtype(), rank));
        params
    }

    fn engine(&self, props: &DeviceProps) -> Engine {
        Engine::of(self.dtype, self.dtype, self.products, props)
    }

    pub(crate) fn definitions(&self, props: &DeviceProps) -> String {
        let list = |item: &dyn Fn(usize) -> String, between: &str| {
            (0..self.spatial)
                .map(item)
                .collect::<Vec<_>>()
                .join(between)
        };
        let mut out = String::new();
        // writing to a String cannot fail
        let _ = writeln!(out, "#define SPATIAL {}", self.spatial);
        let _ = writeln!(out, "typedef {} X_TYPE;", cuda_type(self.dtype));
        let _ = writeln!(
            out,
            "#define SPATIAL_LIST(v) {{{}}}",
            list(&|a| format!("v##{a}"), ", ")
        );
        let _ = writeln!(
            out,
            "#define SPATIAL_STRIDES(v) {{{}}}",
            list(&|a| format!("v##_s{}", a + 2), ", ")
        );
        let _ = writeln!(
            out,
            "#define SPATIAL_OFFSET(v, o) ({})",
            list(&|a| format!("o[{a}] * v##_s{}", a + 2), " + ")
        );
        let _ = writeln!(
            out,
            "#define SPATIAL_ALIGNED(v, N) ({})",
            list(&|a| format!("v##_s{}_DIVISOR % (N) == 0", a + 2), " && ")
        );
        let _ = writeln!(
            out,
            "#define TAPS_ALIGNED(N) ({})",
            list(
                &|a| format!("(ker{a}_DIVISOR == 1 || w_s{}_DIVISOR % (N) == 0)", a + 2),
                " && "
            )
        );
        out.push_str(&tile::definitions(
            self.engine(props),
            self.dtype,
            self.epilogue,
            1,
            |axis| match axis {
                0 => "(long long)batch".to_owned(),
                1 => "(at_channel + j)".to_owned(),
                a => format!("(long long)o[{}]", a - 2),
            },
        ));
        out
    }

    fn problem(&self, args: &Args<'_>) -> Problem {
        let s = Geometry::of(args, self.spatial);
        let (mut matrices, mut m, mut k) = (s.g, s.n, s.c);
        for a in 0..self.spatial {
            let phases = if self.transposed { s.strs[a].max(1) } else { 1 };
            matrices *= phases;
            m *= (s.outs[a] + phases - 1) / phases;
            k *= (s.kers[a] + phases - 1) / phases;
        }
        Problem {
            matrices,
            m,
            n: s.k,
            k,
            sums: 1,
            gathered: true,
            epilogue: self.epilogue.operations() as u64,
        }
    }

    fn is_depthwise(args: &Args<'_>) -> bool {
        args.int("c") == 1 && args.int("k") == 1
    }

    pub(crate) fn wants(&self, name: &str, args: &Args<'_>) -> Want {
        // nothing to multiply as a matrix: every extent is a bound of a loop or part of an index
        if Self::is_depthwise(args) {
            return Want::Value;
        }
        match name {
            "g" => Want::Unit(1),
            // a step of the reduction that no tap shares
            "c" if args.int("c") % 8 == 0 => Want::Unit(64),
            // few of them, found one by one
            "c" => Want::Value,
            "k" => Want::Unit(8),
            _ if name.contains('_') => tile::wants(name, self.dtype),
            _ if ["ker", "str", "dil", "pad"]
                .iter()
                .any(|n| name.starts_with(n)) =>
            {
                Want::Value
            }
            // how large images are
            _ => Want::Nothing,
        }
    }

    pub(crate) fn tiles(&self, args: Option<&Args<'_>>, props: &DeviceProps) -> Vec<Tile> {
        // the table of a tile's pixels is static shared memory
        let table = 256 * 4 * (self.spatial as i64 + 1);
        // a depthwise convolution multiplies no matrices: only the number of threads matters to it
        let problem = args
            .filter(|a| !Self::is_depthwise(a))
            .map(|a| self.problem(a));
        let mut tiles = tile::tiles(
            self.engine(props),
            problem,
            tile::Operands::Any,
            table,
            props,
        );
        if problem.is_none() {
            // windows take registers
            tiles.sort_by_key(|t| t.get("BLOCKS") > 1);
        }
        if args.is_none() {
            tiles.truncate(1);
        }
        tiles
    }

    /// What a tile is expected to take; a depthwise convolution multiplies no matrices, and has no model.
    pub(crate) fn expected_seconds(
        &self,
        tile: &Tile,
        args: &Args<'_>,
        props: &DeviceProps,
    ) -> Option<f64> {
        let problem = (!Self::is_depthwise(args)).then(|| self.problem(args))?;
        Some(tile::seconds(self.engine(props), tile, problem, props))
    }

    pub(crate) fn geometry(
        &self,
        tile: &Tile,
        args: Option<&Args<'_>>,
        props: &DeviceProps,
    ) -> LaunchConfig {
        if let Some(args) = args.filter(|a| Self::is_depthwise(a)) {
            let s = Geometry::of(args, self.spatial);
            let run = 16 / tile::bytes_of(self.dtype).max(1);
            let last = args.int("x_s1") == 1 && args.int("y_s1") == 1;
            let (run, pixels) = if last {
                (run, if self.transposed { 1 } else { 4 })
            } else {
                (1, 1)
            };
            let ceil = |a: i64, b: i64| (a + b - 1) / b;
            let rows: i64 = s.outs[..self.spatial - 1].iter().product();
            let items = s.n * rows * ceil(s.outs[self.spatial - 1], pixels) * ceil(s.g, run);
            let threads = tile.get("THREADS").max(1);
            return LaunchConfig {
                grid: [
                    ceil(items, threads).clamp(1, i64::from(i32::MAX)) as u32,
                    1,
                    1,
                ],
                block: threads as u32,
                shared_bytes: 0,
            };
        }
        tile::geometry(
            self.engine(props),
            tile,
            args.map(|a| self.problem(a)),
            props,
        )
    }

    pub(crate) fn cost(&self, args: &Args<'_>) -> Cost {
        let s = Geometry::of(args, self.spatial);
        let product = |v: &[i64]| v.iter().map(|&x| x as f64).product::<f64>();
        let (inputs, outputs, taps) = (product(&s.ins), product(&s.outs), product(&s.kers));
        let (n, g, c, k) = (s.n as f64, s.g as f64, s.c as f64, s.k as f64);
        // each input (transposed) or each output meets every tap
        let pairs = if self.transposed { inputs } else { outputs } * taps;
        let results = n * g * k * outputs;
        let size = tile::bytes_of(self.dtype) as f64;
        let mut bytes = (n * g * c * inputs + g * c * k * taps) * size;
        bytes += results * tile::bytes_of(self.epilogue.dtype()) as f64;
        let extents = s.extents();
        for (i, ty) in self.epilogue.inputs().iter().skip(1).enumerate() {
            let strides = args.ints(&format!("e{i}_s"), self.spatial + 2);
            let read = extents
                .iter()
                .zip(&strides)
                .filter(|(_, s)| **s != 0)
                .map(|(d, _)| *d as f64)
                .product::<f64>();
            bytes += read * tile::bytes_of(*ty) as f64;
        }
        Cost {
            operations: 2.0 * n * g * c * k * pairs + results * self.epilogue.operations() as f64,
            bytes,
            tensor_cores: tile::on_tensor_cores(self.dtype, self.dtype, self.products)
                .filter(|_| !Self::is_depthwise(args)),
        }
    }

    pub(crate) fn run(
        &self,
        args: &Args<'_>,
        operands: &mut [Operand<'_>],
    ) -> Result<(), TwinError> {
        convolution_host::run(self, self.extras(), args, operands)
    }
}

/// A template of either kind.
pub(crate) trait Kind: Template {
    /// Its options.
    fn common(&self) -> Convolution<'_>;
}

/// Implements [`crate::Template`] for a struct of options by way of [`Convolution`].
macro_rules! convolution_template {
    ($name:ident, $text:literal, $transposed:literal) => {
        impl $crate::convolution::Kind for $name {
            fn common(&self) -> $crate::convolution::Convolution<'_> {
                $crate::convolution::Convolution {
                    spatial: self.spatial,
                    dtype: self.dtype,
                    products: self.products,
                    epilogue: &self.epilogue,
                    transposed: $transposed,
                }
            }
        }

        impl $crate::Template for $name {
            fn name(&self) -> &'static str {
                $text
            }

            fn describe(&self) -> String {
                self.common().describe()
            }

            fn params(&self) -> Vec<$crate::Param> {
                self.common().params()
            }

            fn body(&self) -> &'static str {
                $crate::source::kernel_text!(
                    "\n"; "mma.cuh", "tile.cuh", "tile_simt.cuh", "tile_pipeline.cuh", "tile_mma.cuh", "tile_wgmma.cuh", "tile_strips.cuh",
                    "im2col.cuh", concat!($text, ".cu"), "convolution.cuh"
                )
            }

            fn products(&self) -> Option<$crate::Products> {
                let of = |p: $crate::Products| p.operands() == Some(self.dtype);
                $crate::Products::choices().any(of).then_some(self.products)
            }

            fn definitions(&self, props: &bespoke_device::DeviceProps) -> String {
                self.common().definitions(props)
            }

            fn reads_divisors(&self) -> bool {
                true
            }

            fn wants(&self, name: &str, args: &$crate::Args<'_>) -> $crate::Want {
                self.common().wants(name, args)
            }

            fn tiles(
                &self,
                args: Option<&$crate::Args<'_>>,
                props: &bespoke_device::DeviceProps,
            ) -> Vec<$crate::Tile> {
                self.common().tiles(args, props)
            }

            fn expected_seconds(
                &self,
                tile: &$crate::Tile,
                args: &$crate::Args<'_>,
                props: &bespoke_device::DeviceProps,
            ) -> Option<f64> {
                self.common().expected_seconds(tile, args, props)
            }

            fn same_sums(&self, a: &$crate::Tile, b: &$crate::Tile) -> bool {
                $crate::tile::same_sums(a, b)
            }

            fn geometry(
                &self,
                tile: &$crate::Tile,
                args: Option<&$crate::Args<'_>>,
                props: &bespoke_device::DeviceProps,
            ) -> bespoke_device::LaunchConfig {
                self.common().geometry(tile, args, props)
            }

            fn cost(&self, args: &$crate::Args<'_>) -> $crate::Cost {
                self.common().cost(args)
            }

            fn run(
                &self,
                args: &$crate::Args<'_>,
                operands: &mut [bespoke_device::Operand<'_>],
            ) -> Result<(), bespoke_device::TwinError> {
                self.common().run(args, operands)
            }
        }
    };
}
pub(crate) use convolution_template;

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::oracle::{self, Oracle};
    use crate::sample::Sample;

    /// Compares the twin with the definition: every output against every tap.
    pub(crate) fn check(sample: &Sample, options: Convolution<'_>) {
        let oracle = Oracle::new(sample);
        let s = Geometry::of(&oracle.args(), options.spatial);
        let rank = options.spatial + 2;
        let (x, w) = (oracle.read("x", rank), oracle.read("w", rank));
        let extras: Vec<_> = (0..options.extras())
            .map(|i| oracle.read(&format!("e{i}"), rank))
            .collect();
        let taps: i64 = s.kers.iter().product();
        oracle.check(&s.extents(), |position| {
            let group = position[1] / s.k;
            let mut sum = oracle::Sum::default();
            for tap in 0..taps {
                let mut rest = tap;
                let mut at_x = position.to_vec();
                let mut at_w = vec![0; rank];
                let mut inside = true;
                for a in (0..options.spatial).rev() {
                    let t = rest % s.kers[a];
                    rest /= s.kers[a];
                    let i = if options.transposed {
                        let numerator = position[a + 2] + s.pads[a] - t * s.dils[a];
                        inside &= numerator % s.strs[a] == 0;
                        numerator.div_euclid(s.strs[a])
                    } else {
                        position[a + 2] * s.strs[a] - s.pads[a] + t * s.dils[a]
                    };
                    inside &= (0..s.ins[a]).contains(&i);
                    at_x[a + 2] = i;
                    at_w[a + 2] = t;
                }
                for c in 0..if inside { s.c } else { 0 } {
                    at_x[1] = group * s.c + c;
                    (at_w[0], at_w[1]) = if options.transposed {
                        (group * s.c + c, position[1] % s.k)
                    } else {
                        (position[1], c)
                    };
                    sum.add((&x, &at_x), (&w, &at_w));
                }
            }
            let sum = sum.of(options.dtype);
            oracle::epilogue(options.epilogue, &extras, sum, position)
        });
    }

    #[test]
    fn phases_of_a_transposed_convolution_cover_every_tap_once() {
        for (stride, dil, ker, pad) in [
            (1, 1, 3, 1),
            (2, 1, 2, 0),
            (2, 1, 4, 1),
            (3, 2, 3, 2),
            (2, 2, 3, 1),
            (4, 6, 5, 3),
        ] {
            let s = Geometry {
                n: 1,
                g: 1,
                c: 1,
                k: 1,
                ins: vec![7],
                outs: vec![23],
                kers: vec![ker],
                strs: vec![stride],
                dils: vec![dil],
                pads: vec![pad],
            };
            for o in 0..23 {
                let axis = s.axis(true, 0, o % stride);
                let q = o / stride;
                let pairs: Vec<(i64, i64)> = (0..axis.taps)
                    .map(|t| (axis.tap + t * axis.tap_step, q + axis.base + t * axis.step))
                    .collect();
                let expected: Vec<(i64, i64)> = (0..ker)
                    .filter(|t| (o + pad - t * dil) % stride == 0)
                    .map(|t| (t, (o + pad - t * dil).div_euclid(stride)))
                    .collect();
                assert_eq!(
                    pairs, expected,
                    "stride {stride} dilation {dil} kernel {ker} output {o}"
                );
            }
        }
    }
}

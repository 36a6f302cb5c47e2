//! Windows that slide over the spatial axes and yield their maximum, mean or norm: MaxPool, AveragePool, LpPool.
//!
//! Padding takes part in no maximum and no sum; a mean divides by the elements of the window that lie in the input, or in
//! input and pads. NaN beats every other element. The twin takes one tap after the other for a whole row of windows (of
//! channels, where these lie next to each other), so that its inner loops are vector code.

use std::fmt::Write as _;
use std::sync::Arc;

use bespoke_device::{DeviceProps, LaunchConfig, Operand, TwinError};
use bespoke_ir::op::pool::PoolKind;
use bespoke_ir::{DType, Expr};

use crate::arguments::{self, Arguments};
use crate::expr::lanes::{self, Elements};
use crate::pointwise::view_bytes;
use crate::random;
use crate::sample::{Rng, Sample};
use crate::source::{cuda_compute_type, kernel_text};
use crate::spec::{Args, Cost, Param, Template, Tile};
use crate::view::{self, Strided};
use crate::walk::{self, Target};

mod host;

use host::{Geometry, Run};

/// See the module.
///
/// Results `y` and, with indices, `idx` are viewed over `(n, c, out…)`, the operand `x` over `(n, c, in…)`. Along axis `a`
/// a window has `ker{a}` taps at distances `dil{a}`; windows are `str{a}` apart; `pad{a}` and `padend{a}` elements are
/// added before and after the input.
#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    /// What a window yields.
    pub kind: PoolKind,
    /// Number of spatial axes.
    pub spatial: usize,
    /// Element type.
    pub dtype: DType,
    /// What happens to each value; operand 0 is the value as `dtype`, in compute precision, the others are `e0, e1, …`.
    pub epilogue: Expr,
}

impl Pool {
    fn rank(&self) -> usize {
        2 + self.spatial
    }

    fn with_indices(&self) -> bool {
        matches!(self.kind, PoolKind::Max { indices: true, .. })
    }

    /// Type in which sums are formed.
    fn sum(&self) -> DType {
        match self.dtype {
            DType::F32 | DType::F16 | DType::BF16 => DType::F32,
            _ => DType::F64,
        }
    }

    fn extents(&self, args: &Args<'_>) -> Vec<i64> {
        let mut extents = vec![args.int("n"), args.int("c")];
        extents.extend(args.ints("out", self.spatial));
        extents
    }

    fn work(&self, args: Option<&Args<'_>>) -> Option<i64> {
        args.map(|a| walk::points(&self.extents(a)))
    }

    fn geometry_of(&self, args: &Args<'_>) -> Result<Geometry, TwinError> {
        let ints = |name| args.ints(name, self.spatial);
        let g = Geometry {
            extents: self.extents(args),
            ins: ints("in"),
            kers: ints("ker"),
            strs: ints("str"),
            dils: ints("dil"),
            pads: ints("pad"),
            ends: ints("padend"),
        };
        if g.strs.iter().chain(&g.dils).any(|&v| v < 1) {
            return Err(TwinError(
                "strides and dilations of a window must be positive".into(),
            ));
        }
        Ok(g)
    }
}

impl Template for Pool {
    fn name(&self) -> &'static str {
        "pool"
    }

    fn describe(&self) -> String {
        let kind = match self.kind {
            PoolKind::Max { indices: false, .. } => "max".to_owned(),
            PoolKind::Max { column_major, .. } => {
                format!("max indices column_major={column_major}")
            }
            PoolKind::Average { count_include_pad } => format!("average pads={count_include_pad}"),
            PoolKind::Lp(p) => format!("l{p}"),
        };
        format!(
            "{}d {} {kind} -> {} = {}",
            self.spatial,
            self.dtype,
            self.epilogue.dtype(),
            self.epilogue
        )
    }

    fn params(&self) -> Vec<Param> {
        let mut params = vec![Param::int("n"), Param::int("c")];
        for name in ["in", "out", "ker", "str", "dil", "pad", "padend"] {
            params.extend((0..self.spatial).map(|a| Param::int(format!("{name}{a}"))));
        }
        params.extend(view::write("y", self.epilogue.dtype(), self.rank()));
        if self.with_indices() {
            params.extend(view::write("idx", DType::I64, self.rank()));
        }
        params.extend(view::read("x", self.dtype, self.rank()));
        params.extend(walk::extras(&self.epilogue, self.rank()));
        params
    }

    fn body(&self) -> &'static str {
        kernel_text!(""; "walk.cuh", "pool.cu")
    }

    fn definitions(&self, _: &DeviceProps) -> String {
        let mut out = String::new();
        let mut extents = vec!["n".to_owned(), "c".to_owned()];
        extents.extend((0..self.spatial).map(|a| format!("out{a}")));
        walk::space(&mut out, &extents);
        let lists: Vec<String> = (0..self.spatial).map(|a| format!("name##{a}")).collect();
        let strides: Vec<String> = (0..self.spatial).map(|a| format!("x_s{}", a + 2)).collect();
        // writing to a String cannot fail
        let _ = writeln!(out, "constexpr int SPATIAL = {};", self.spatial);
        let _ = writeln!(out, "#define SPATIAL_LIST(name) {{{}}}", lists.join(", "));
        let _ = writeln!(out, "#define SPATIAL_STRIDES_x {{{}}}", strides.join(", "));
        walk::load_macro(&mut out, "x", self.dtype);
        walk::finish(&mut out, self.dtype, &self.epilogue, self.rank());
        let kind = match self.kind {
            PoolKind::Max { .. } => "MAXIMUM",
            PoolKind::Average { .. } => "MEAN",
            PoolKind::Lp(_) => "NORM",
        };
        let column_major = matches!(
            self.kind,
            PoolKind::Max {
                column_major: true,
                ..
            }
        );
        let pads = matches!(
            self.kind,
            PoolKind::Average {
                count_include_pad: true
            }
        );
        let _ = writeln!(
            out,
            "#define MAXIMUM 0\n#define MEAN 1\n#define NORM 2\n#define KIND {kind}"
        );
        let _ = writeln!(
            out,
            "#define WITH_INDICES {}",
            u8::from(self.with_indices())
        );
        let _ = writeln!(
            out,
            "constexpr bool COLUMN_MAJOR = {column_major}, COUNT_PADS = {pads};"
        );
        let _ = writeln!(out, "typedef {} SUM;", cuda_compute_type(self.sum()));
        let _ = writeln!(out, "#define LOWEST {}", lowest(self.dtype));
        let f = if self.sum() == DType::F64 { "" } else { "f" };
        let (term, root) = match self.kind {
            PoolKind::Lp(1) => (format!("fabs{f}(v)"), "(v)".to_owned()),
            PoolKind::Lp(2) => ("((v) * (v))".to_owned(), format!("sqrt{f}(v)")),
            PoolKind::Lp(p) => (
                format!("pow{f}(fabs{f}(v), (SUM){p})"),
                format!("pow{f}(v, (SUM)1 / {p})"),
            ),
            _ => ("(v)".to_owned(), "(v)".to_owned()),
        };
        let _ = writeln!(out, "#define TERM(v) {term}\n#define ROOT(v) {root}");
        let value = if self.dtype.is_float() {
            "(VALUE)(v)"
        } else {
            "saturate<VALUE>(v)"
        };
        let _ = writeln!(out, "#define AS_VALUE(v) {value}");
        if self.with_indices() {
            walk::at_macro(&mut out, "idx", self.rank());
        }
        out
    }

    fn tiles(&self, args: Option<&Args<'_>>, props: &DeviceProps) -> Vec<Tile> {
        // a window's own loads keep the memory busy
        walk::tiles(self.work(args), 1, props)
    }

    fn geometry(&self, tile: &Tile, args: Option<&Args<'_>>, props: &DeviceProps) -> LaunchConfig {
        walk::geometry(tile, self.work(args), props)
    }

    fn cost(&self, args: &Args<'_>) -> Cost {
        let extents = self.extents(args);
        let count = walk::points(&extents) as f64;
        let window = args
            .ints("ker", self.spatial)
            .iter()
            .map(|&k| k as f64)
            .product::<f64>();
        let mut input = extents[..2].to_vec();
        input.extend(args.ints("in", self.spatial));
        let size = |ty: DType| f64::from(ty.bits()) / 8.0;
        let mut bytes =
            walk::points(&input) as f64 * size(self.dtype) + count * size(self.epilogue.dtype());
        if self.with_indices() {
            bytes += count * size(DType::I64);
        }
        for (i, ty) in self.epilogue.inputs().iter().skip(1).enumerate() {
            bytes += view_bytes(args, &format!("e{i}"), &extents, *ty);
        }
        let operations = count * (window + self.epilogue.operations() as f64);
        Cost {
            operations,
            bytes,
            tensor_cores: None,
        }
    }

    fn run(&self, args: &Args<'_>, operands: &mut [Operand<'_>]) -> Result<(), TwinError> {
        let (mut writes, reads) = lanes::split_operands(operands);
        let (Some((y, rest)), Some((x, extras))) = (writes.split_first_mut(), reads.split_first())
        else {
            return Err(TwinError("pool needs a result and an operand".into()));
        };
        let g = self.geometry_of(args)?;
        let x = Elements::of(self.dtype, x)?;
        let x_view = Strided::of(args, "x", self.rank());
        let mut input = g.extents[..2].to_vec();
        input.extend_from_slice(&g.ins);
        lanes::check("x", &x_view, &input, x.len())?;
        let run = Run {
            kind: self.kind,
            g: &g,
            x: &x_view,
        };
        let target = |bytes, name: &str| Target {
            bytes,
            strided: Strided::of(args, name, self.rank()),
            extents: g.extents.clone(),
        };
        // narrow floats are pooled as f32 and rounded by the epilogue's store
        let narrow = matches!(self.dtype, DType::F16 | DType::BF16);
        let raw = if narrow { DType::F32 } else { self.dtype };
        walk::rows(
            target(y, "y"),
            args,
            &self.epilogue,
            extras,
            raw,
            &|position, axis, count, out| {
                run.values(x, position, axis, count, out);
            },
        )?;
        if let (true, Some(idx)) = (self.with_indices(), rest.first_mut()) {
            let identity = Expr::identity(DType::I64);
            walk::rows(
                target(idx, "idx"),
                args,
                &identity,
                &[],
                DType::I64,
                &|position, axis, count, out| {
                    run.indices(x, position, axis, count, out);
                },
            )?;
        }
        Ok(())
    }
}

/// What no element is smaller than, as CUDA text.
fn lowest(dtype: DType) -> String {
    match dtype {
        DType::F64 => "(-__longlong_as_double(0x7ff0000000000000ll))".into(),
        ty if ty.is_float() => "__int_as_float(0xff800000)".into(),
        DType::I8 => "(signed char)-128".into(),
        DType::I16 => "(short)-32768".into(),
        DType::I32 => "(-2147483647 - 1)".into(),
        DType::I64 => "(-9223372036854775807ll - 1)".into(),
        _ => "0".into(),
    }
}

/// Random runs of every kind.
pub fn samples(rng: &mut Rng) -> Vec<Sample> {
    cases(rng).into_iter().map(|(_, sample)| sample).collect()
}

fn cases(rng: &mut Rng) -> Vec<(Pool, Sample)> {
    let kinds = [
        PoolKind::Max {
            indices: false,
            column_major: false,
        },
        PoolKind::Max {
            indices: true,
            column_major: false,
        },
        PoolKind::Max {
            indices: true,
            column_major: true,
        },
        PoolKind::Average {
            count_include_pad: false,
        },
        PoolKind::Average {
            count_include_pad: true,
        },
        PoolKind::Lp(1),
        PoolKind::Lp(2),
        PoolKind::Lp(3),
    ];
    let types = [
        DType::F32,
        DType::F16,
        DType::BF16,
        DType::F64,
        DType::I8,
        DType::U8,
        DType::I32,
        DType::I64,
    ];
    let mut all = Vec::new();
    for kind in kinds {
        for dtype in types {
            // the standard averages floats only
            if !dtype.is_float() && !matches!(kind, PoolKind::Max { .. }) {
                continue;
            }
            all.push(case(rng, kind, dtype));
        }
    }
    all
}

fn case(rng: &mut Rng, kind: PoolKind, dtype: DType) -> (Pool, Sample) {
    let spatial = rng.int(1, 3) as usize;
    let mut extents = vec![rng.int(1, 2), rng.int(1, 20)];
    let (mut ins, mut kers, mut strs, mut dils, mut pads, mut ends) = (
        Vec::new(),
        Vec::new(),
        Vec::new(),
        Vec::new(),
        Vec::new(),
        Vec::new(),
    );
    for _ in 0..spatial {
        let (ker, stride, dil) = (rng.int(1, 4), rng.int(1, 3), rng.int(1, 2));
        let reach = (ker - 1) * dil + 1;
        let n = rng.int(reach, reach + 12);
        let (pad, end) = (rng.int(0, ker - 1), rng.int(0, ker - 1));
        let room = n + pad + end - reach;
        // as ceil_mode does: the last window may reach beyond the pads, but begins before them
        let out = match rng.chance(2) {
            true => ((room + stride - 1) / stride + 1).min((n + pad - 1) / stride + 1),
            false => room / stride + 1,
        };
        ins.push(n);
        kers.push(ker);
        strs.push(stride);
        dils.push(dil);
        pads.push(pad);
        ends.push(end);
        extents.push(out);
    }
    let rank = spatial + 2;
    let epilogue = random::epilogue(rng, dtype, rank);
    let template = Pool {
        kind,
        spatial,
        dtype,
        epilogue,
    };
    let mut args = Arguments::new(&template);
    args.int("n", extents[0]);
    args.int("c", extents[1]);
    random::ints(&mut args, "out", &extents[2..]);
    for (name, list) in [
        ("in", &ins),
        ("ker", &kers),
        ("str", &strs),
        ("dil", &dils),
        ("pad", &pads),
        ("padend", &ends),
    ] {
        random::ints(&mut args, name, list);
    }
    let mut input = extents[..2].to_vec();
    input.extend_from_slice(&ins);
    let mut channels_last: Vec<usize> = (0..rank).filter(|&a| a != 1).collect();
    channels_last.push(1);
    let every: Vec<usize> = (0..rank).collect();
    for (name, dims) in [("x", &input), ("y", &extents)] {
        if rng.chance(2) {
            args.tensor_in_order(rng, name, dims, &[], &channels_last);
        } else {
            args.tensor(rng, name, dims, &[]);
        }
    }
    if template.with_indices() {
        args.tensor(rng, "idx", &extents, &[]);
    }
    for i in 1..template.epilogue.inputs().len() {
        args.tensor(rng, &format!("e{}", i - 1), &extents, &every);
    }
    // a power of a small number loses some bits
    let tolerance = arguments::tolerance(template.epilogue.dtype());
    (template.clone(), args.finish(Arc::new(template), tolerance))
}

#[cfg(test)]
mod tests;

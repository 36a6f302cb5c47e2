//! What templates share that compute one value for each position of an iteration space: gather, scatter, pad, pool and
//! resize.
//!
//! On the device that is `kernels/walk.cuh`, for which this module prints the macros; on the host it is [`rows`], which
//! asks the template for raw values row by row, in parallel, and sends each row through the epilogue while it is in the
//! cache.

use std::fmt::Write as _;
use std::ops::Range;

use bespoke_device::{DeviceProps, LaunchConfig, TwinError};
use bespoke_ir::{DType, Expr};

use crate::expr::cuda;
use crate::expr::host::{self, Function};
use crate::expr::lanes::{self, Elements, ElementsMut, Lane, LaneMut};
use crate::expr::regions;
use crate::grid;
use crate::source::cuda_compute_type;
use crate::spec::{Args, Param, Tile};
use crate::view::{self, Strided};

/// Values of a row that go through the epilogue at once.
const ROW: usize = 4096;

const THREADS: i64 = 256;

/// The parameters of the operands of an epilogue: `e0, e1, …`.
pub(crate) fn extras(epilogue: &Expr, rank: usize) -> Vec<Param> {
    let types = epilogue.inputs().iter().skip(1).enumerate();
    types
        .flat_map(|(i, ty)| view::read(&format!("e{i}"), *ty, rank))
        .collect()
}

/// `{a0, a1}` from a name, with `other` for a list without entries: C++ has no empty arrays.
pub(crate) fn list(prefix: &str, count: usize, other: &str) -> String {
    if count == 0 {
        return format!("{{{other}}}");
    }
    let items: Vec<String> = (0..count).map(|i| format!("{prefix}{i}")).collect();
    format!("{{{}}}", items.join(", "))
}

/// `#define AT_x(p) (x_o + p[0] * x_s0 …)`
pub(crate) fn at_macro(out: &mut String, name: &str, rank: usize) {
    let vars: Vec<String> = (0..rank).map(|a| format!("p[{a}]")).collect();
    let vars: Vec<&str> = vars.iter().map(String::as_str).collect();
    // writing to a String cannot fail
    let _ = writeln!(
        out,
        "#define AT_{name}(p) ({})",
        view::cuda_index(name, &vars)
    );
}

/// `#define LOAD_x(at) …`: an element in its compute type.
pub(crate) fn load_macro(out: &mut String, name: &str, dtype: DType) {
    let _ = writeln!(
        out,
        "#define LOAD_{name}(at) {}",
        cuda::load(dtype, name, "at")
    );
}

/// The macros of `walk.cuh` for a space whose extents have these names.
pub(crate) fn space(out: &mut String, extents: &[String]) {
    let rank = extents.len();
    let names = if rank == 0 {
        "1".to_owned()
    } else {
        extents.join(", ")
    };
    let _ = writeln!(
        out,
        "constexpr int RANK = {rank};\n#define EXTENTS {{{names}}}"
    );
    // channels that lie next to each other are walked along
    let channels = if rank >= 3 {
        format!("(y_s1 == 1 && {} > 1)", extents[1])
    } else {
        "false".to_owned()
    };
    let _ = writeln!(out, "#define CHANNELS_LAST {channels}");
}

/// The epilogue as `FINISH(v, p)`, its operands and the result's type; `VALUE` is the compute type of `raw`.
pub(crate) fn finish(out: &mut String, raw: DType, epilogue: &Expr, rank: usize) {
    let _ = writeln!(out, "typedef {} VALUE;", cuda_compute_type(raw));
    at_macro(out, "y", rank);
    out.push_str(&cuda::function("epilogue", epilogue));
    let mut args = vec!["v".to_owned()];
    for (i, ty) in epilogue.inputs().iter().enumerate().skip(1) {
        let name = format!("e{}", i - 1);
        at_macro(out, &name, rank);
        args.push(cuda::load(*ty, &name, &format!("AT_{name}(p)")));
    }
    let call = cuda::call("epilogue", epilogue, &args, |axis| format!("p[{axis}]"));
    let _ = writeln!(out, "#define FINISH(v, p) {call}");
}

/// Tiles: `most` values a thread where there is enough work for that, one otherwise.
pub(crate) fn tiles(work: Option<i64>, most: i64, props: &DeviceProps) -> Vec<Tile> {
    let threads = i64::from(props.multiprocessors) * i64::from(props.threads_per_multiprocessor);
    let tile = |items| Tile::new(&[("THREADS", THREADS), ("ITEMS", items)]);
    let mut list = vec![tile(1)];
    if most > 1 {
        let at = if work.is_some_and(|w| w < threads * most) {
            1
        } else {
            0
        };
        list.insert(at, tile(most));
    }
    list
}

/// The launch of a tile for so many positions.
pub(crate) fn geometry(tile: &Tile, work: Option<i64>, props: &DeviceProps) -> LaunchConfig {
    let threads = tile.get("THREADS").max(1);
    // a gather of 16384×2048 halves took 38.7 µs in one round, and 40.1 in more; why has not been looked into
    grid::launch(
        work,
        threads * tile.get("ITEMS").max(1),
        threads,
        grid::ONE,
        props,
    )
}

/// Number of positions of the space `d0…` of a run, where one is known.
pub(crate) fn work(args: Option<&Args<'_>>, rank: usize) -> Option<i64> {
    args.map(|a| points(&a.ints("d", rank)))
}

/// Number of positions of a space.
pub(crate) fn points(extents: &[i64]) -> i64 {
    extents.iter().map(|&d| d.max(0)).product()
}

/// Raw values of a row: position of the first, axis, number, where they go. The type is `raw` of [`rows`] or, for narrow
/// floats, the one they are computed in.
pub(crate) type Fill<'f> = dyn Fn(&[i64], usize, usize, &mut LaneMut<'_, '_>) + Sync + 'f;

/// Where the results of a twin go.
pub(crate) struct Target<'t> {
    /// Memory.
    pub(crate) bytes: &'t mut [u8],
    /// View over the space.
    pub(crate) strided: Strided,
    /// Extents of the space.
    pub(crate) extents: Vec<i64>,
}

/// Writes `epilogue(raw value, e0…)` for every position. `raw` is the type of the values that `fill` yields; a function
/// that returns its operand moves them untouched.
pub(crate) fn rows(
    target: Target<'_>,
    args: &Args<'_>,
    epilogue: &Expr,
    extras: &[&[u8]],
    raw: DType,
    fill: &Fill<'_>,
) -> Result<(), TwinError> {
    let Target {
        bytes,
        strided,
        extents,
    } = target;
    let rank = extents.len();
    let y = ElementsMut::of(epilogue.dtype(), bytes)?;
    lanes::check("y", &strided, &extents, y.len())?;
    let views = lanes::views(
        args,
        "e",
        epilogue.inputs().get(1..).unwrap_or(&[]),
        extras,
        &extents,
    )?;
    let function = Function::new(epilogue, views);
    let direct = epilogue.is_identity() && raw == y.dtype();
    let size = raw.size().unwrap_or(8);
    // a type without kernels fails here rather than in a thread
    ElementsMut::of(raw, &mut bytemuck::cast_slice_mut(&mut [0u64])[..0])?;
    let axes: Vec<usize> = (0..rank).collect();
    regions::for_each_region(y, &strided, &extents, &axes, ROW as i64, &|region, part| {
        let axis = regions::innermost(&part.strided, region);
        if direct {
            regions::for_each_row(region, axis, |position, count| {
                fill(position, axis, count, &mut part.lane(position, axis));
            });
            return;
        }
        let mut worker = function.worker();
        let longest = region
            .get(axis)
            .map_or(1, |r: &Range<i64>| r.end - r.start)
            .clamp(0, ROW as i64) as usize;
        let mut memory = vec![0u64; (longest * size).div_ceil(8)];
        let mut at = Vec::with_capacity(rank);
        regions::for_each_row(region, axis, |position, count| {
            at.clear();
            at.extend_from_slice(position);
            for first in (0..count).step_by(ROW) {
                let n = ROW.min(count - first);
                if let Some(p) = at.get_mut(axis) {
                    *p = position[axis] + first as i64;
                }
                let bytes = &mut bytemuck::cast_slice_mut(&mut memory)[..n * size];
                let Ok(mut scratch) = ElementsMut::of(raw, bytes) else {
                    return;
                };
                fill(
                    &at,
                    axis,
                    n,
                    &mut LaneMut {
                        elements: &mut scratch,
                        start: 0,
                        stride: 1,
                    },
                );
                let lead = Lane::new(scratch.as_elements());
                worker.run(&[lead], &at, axis, n, &mut part.lane(&at, axis));
            }
        });
    });
    Ok(())
}

/// Writes one value to a whole lane of the same type.
pub(crate) fn fill_with(value: Elements<'_>, count: usize, out: &mut LaneMut<'_, '_>) {
    host::copy(
        Lane {
            elements: value,
            start: 0,
            stride: 0,
        },
        count,
        out,
    );
}

/// One element of a type with its bytes at hand, aligned.
#[derive(Clone, Copy, Debug)]
pub(crate) struct One {
    word: [u64; 1],
    dtype: DType,
}

impl One {
    /// The element with these bytes.
    pub(crate) fn new(dtype: DType, bytes: &[u8]) -> One {
        let mut word = [0u64; 1];
        let n = bytes.len().min(8);
        bytemuck::cast_slice_mut(&mut word)[..n].copy_from_slice(&bytes[..n]);
        One { word, dtype }
    }

    /// As a tensor of one element.
    pub(crate) fn elements(&self) -> Result<Elements<'_>, TwinError> {
        let size = self.dtype.size().unwrap_or(8);
        Elements::of(self.dtype, &bytemuck::cast_slice(&self.word)[..size])
    }
}

/// Runs `$body` with slices `$s` and `$d` of the two operands, which have the same element type; does nothing otherwise.
macro_rules! same_type {
    ($from:expr, $to:expr, |$s:ident, $d:ident| $body:expr) => {{
        use crate::expr::lanes::{Elements as E, ElementsMut as M};
        match ($from, $to) {
            (E::F32($s), M::F32($d)) => $body,
            (E::F64($s), M::F64($d)) => $body,
            (E::F16($s), M::F16($d)) => $body,
            (E::BF16($s), M::BF16($d)) => $body,
            (E::I8($s), M::I8($d)) => $body,
            (E::I16($s), M::I16($d)) => $body,
            (E::I32($s), M::I32($d)) => $body,
            (E::I64($s), M::I64($d)) => $body,
            (E::U8($s) | E::Bool($s), M::U8($d) | M::Bool($d)) => $body,
            (E::U16($s), M::U16($d)) => $body,
            (E::U32($s), M::U32($d)) => $body,
            (E::U64($s), M::U64($d)) => $body,
            (from, to) => {
                debug_assert!(false, "{} is not {}", from.dtype(), to.dtype());
            }
        }
    }};
}
pub(crate) use same_type;

/// Elements `at(k)` of `from` to a lane of the same type; zeros where there is none.
pub(crate) fn pick(
    from: Elements<'_>,
    count: usize,
    out: &mut LaneMut<'_, '_>,
    mut at: impl FnMut(usize) -> Option<i64>,
) {
    let (start, stride) = (out.start, out.stride);
    same_type!(from, &mut *out.elements, |s, d| {
        let mut to = start;
        for k in 0..count {
            d[to as usize] = at(k).map_or_else(bytemuck::Zeroable::zeroed, |i| s[i as usize]);
            to += stride;
        }
    });
}

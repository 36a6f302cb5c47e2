//! Elementwise functions of broadcast, strided operands: one kernel for a whole fused expression, and for copies,
//! transposes and conversions.
//!
//! The CUDA side moves 16 bytes a load along the last axis when every operand allows it (stride 1 and aligned, or
//! broadcast), with several independent loads a thread, and single elements otherwise; both are in every variant, so the
//! generic kernel is right for every stride. Where the innermost axes are known, a vector does the same over several of
//! them, or for operands in another order (`span`). Where an operand's neighbours lie along another axis than the result's,
//! as in a transpose, a block goes through shared memory tile by tile, if that moves much fewer bytes (`across`). The twin
//! reorders and merges axes until rows are long.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use bespoke_device::{DeviceProps, LaunchConfig, Operand, TwinError};
use bespoke_ir::{DType, Expr};

use crate::arguments::{self, Arguments};
use crate::expr::cuda;
use crate::expr::lanes::{self, Elements, ElementsMut, View};
use crate::grid;
use crate::sample::{self, Rng, Sample};
use crate::source::{cuda_type, kernel_text};
use crate::spec::{Args, Baked, Cost, Param, Template, Tile, Want};
use crate::view::{self, Strided};

mod across;
pub(crate) mod host;
mod span;

use across::Across;
use span::Span;

/// See the module.
///
/// Space `d0 … d{rank-1}`; results `y0, y1, …` (one an expression), operands `x0, x1, …`, all viewed over the whole space.
/// `Coord(a)` is the index along axis `a`.
#[derive(Clone, Debug, PartialEq)]
pub struct Pointwise {
    /// Number of axes.
    pub rank: usize,
    /// One function a result, all of the same operands.
    pub outputs: Vec<Expr>,
}

impl Pointwise {
    /// Types of the operands.
    pub(crate) fn inputs(&self) -> &[DType] {
        self.outputs.first().map_or(&[], |e| e.inputs())
    }

    /// Elements that move in one instruction: 16 bytes of the widest type, at most 8.
    fn vector(&self) -> i64 {
        let results = self.outputs.iter().map(Expr::dtype);
        let widest = self
            .inputs()
            .iter()
            .copied()
            .chain(results)
            .filter_map(DType::size)
            .max()
            .unwrap_or(4);
        (16 / widest as i64).clamp(1, 8)
    }
}

/// Number of points of the space.
fn total(args: &Args<'_>, rank: usize) -> i64 {
    args.ints("d", rank).iter().map(|&d| d.max(0)).product()
}

/// Bytes of the distinct elements that a view reaches.
pub(crate) fn view_bytes(args: &Args<'_>, name: &str, extents: &[i64], dtype: DType) -> f64 {
    let strides = args.ints(&format!("{name}_s"), extents.len());
    let points: f64 = extents
        .iter()
        .zip(strides)
        .map(|(&d, s)| if s == 0 && d > 0 { 1.0 } else { d as f64 })
        .product();
    points * f64::from(dtype.bits()) / 8.0
}

impl Template for Pointwise {
    fn name(&self) -> &'static str {
        "pointwise"
    }

    fn describe(&self) -> String {
        let inputs: Vec<&str> = self.inputs().iter().map(|t| t.name()).collect();
        let outputs: Vec<String> = self
            .outputs
            .iter()
            .map(|e| format!("{} = {e}", e.dtype()))
            .collect();
        format!(
            "rank={} ({}) -> {}",
            self.rank,
            inputs.join(", "),
            outputs.join("; ")
        )
    }

    fn params(&self) -> Vec<Param> {
        let mut params = view::extents(self.rank);
        for (k, e) in self.outputs.iter().enumerate() {
            params.extend(view::write(&format!("y{k}"), e.dtype(), self.rank));
        }
        for (i, &ty) in self.inputs().iter().enumerate() {
            params.extend(view::read(&format!("x{i}"), ty, self.rank));
        }
        params
    }

    fn body(&self) -> &'static str {
        kernel_text!(""; "across.cuh", "pointwise.cuh", "pointwise.cu")
    }

    fn definitions(&self, _: &DeviceProps) -> String {
        let mut out = String::new();
        // writing to a String cannot fail
        for (k, e) in self.outputs.iter().enumerate() {
            out.push_str(&cuda::function(&format!("f{k}"), e));
        }
        let vector = self.vector();
        let last = self.rank.checked_sub(1);
        let _ = writeln!(out, "constexpr int VEC = {vector};");
        let extents: Vec<String> = (0..self.rank).map(|a| format!(" * d{a}")).collect();
        let _ = writeln!(out, "#define TOTAL (1ll{})", extents.concat());

        out.push_str(&self.steps());
        let mut positions = String::from("#define POSITIONS");
        let mut locate = String::from("#define LOCATE Index rest = item;");
        for a in (0..self.rank).rev() {
            let _ = write!(positions, " Index i{a}[N];");
            let _ = match a {
                0 => write!(locate, " i0[j] = rest * PER(0);"),
                _ => write!(
                    locate,
                    " i{a}[j] = rest % (Index)COUNT({a}) * PER({a}); rest /= (Index)COUNT({a});"
                ),
            };
        }
        let vars: Vec<String> = (0..self.rank)
            .map(|a| format!("(long long)i{a}[j]"))
            .collect();
        let vars: Vec<&str> = vars.iter().map(String::as_str).collect();
        let stride = |name: &str| last.map_or("0".to_owned(), |a| format!("{name}_s{a}"));

        let mut reads = String::from("#define READS(DO)");
        let mut vectors = last.map_or("false".to_owned(), |a| {
            format!("d{a} % VEC == 0 && VEC > 1")
        });
        for (i, &ty) in self.inputs().iter().enumerate() {
            let name = format!("x{i}");
            out.push_str(&self.run(&name));
            let index = view::cuda_index(&name, &vars);
            let _ = write!(
                reads,
                " \\\n    DO({i}, {name}, {}, {index}, {})",
                cuda_type(ty),
                stride(&name)
            );
            let aligned = self.aligned(&name);
            let _ = write!(
                vectors,
                " \\\n    && ({0} == 0 || ({0} == 1{aligned}))",
                stride(&name)
            );
        }
        let mut store = String::from("#define STORE");
        for (k, e) in self.outputs.iter().enumerate() {
            let name = format!("y{k}");
            let values: Vec<String> = self
                .inputs()
                .iter()
                .enumerate()
                .map(|(i, ty)| cuda::load(*ty, &format!("x{i}_v[j].at"), &format!("LANE_x{i}(v)")))
                .collect();
            let value = cuda::call(&format!("f{k}"), e, &values, |axis| {
                format!("(long long)i{axis}[j] + STEP_{axis}(v)")
            });
            out.push_str(&self.run(&name));
            let ty = cuda_type(e.dtype());
            let index = view::cuda_index(&name, &vars);
            let _ = write!(
                store,
                " \\\n    {{ Pack<{ty}, V> pack; _Pragma(\"unroll\") for (int v = 0; v < V; ++v) store(pack.at + LANE_{name}(v), {value}); \
                 put({name} + ({index} + LOW_{name}), pack); }}"
            );
            let aligned = self.aligned(&name);
            let _ = write!(vectors, " \\\n    && {} == 1{aligned}", stride(&name));
        }
        let counts: Vec<String> = (0..self.rank).map(|a| format!(" * COUNT({a})")).collect();
        for text in [
            positions,
            locate,
            format!("#define LAST {}", last.unwrap_or(0)),
            format!("#define COUNTS (1ll{})", counts.concat()),
            reads,
            store,
            format!("#define VECTORS ({vectors})"),
        ] {
            out.push_str(&text);
            out.push('\n');
        }
        out
    }

    fn wants(&self, name: &str, args: &Args<'_>) -> Want {
        let Some(view) = name.strip_suffix("_o") else {
            return Want::Value;
        };
        // what is walked backward begins at the end of a run of elements
        let backward = |s: &i64| *s < 0 && s % self.vector() != 0;
        match args
            .ints(&format!("{view}_s"), self.rank)
            .iter()
            .any(backward)
        {
            true => Want::Value,
            // added once; layers that copy to one tensor do so at an offset each
            false => Want::Divisor(self.vector()),
        }
    }

    fn tiles(&self, args: Option<&Args<'_>>, props: &DeviceProps) -> Vec<Tile> {
        let most = self.loads_ahead();
        let mut tiles: Vec<Tile> = [most, 1]
            .into_iter()
            .map(|items| Tile::new(&[("THREADS", 256), ("ITEMS", items)]))
            .collect();
        tiles.push(Tile::new(&[("THREADS", 128), ("ITEMS", 1)]));
        tiles.dedup();
        let Some(args) = args else {
            return tiles;
        };
        let span = self.span(args);
        let width = span.map_or(self.vector(), |s| s.width);
        // little work is spread over all multiprocessors before a thread takes more than one item
        if total(args, self.rank) / width < i64::from(props.multiprocessors) * 2048 {
            tiles.reverse();
        }
        if let Some(span) = span {
            let mut best = tiles[0].clone();
            best.0.insert("SPAN", span.axes as i64);
            best.0.insert("WIDTH", span.width);
            tiles.insert(0, best);
            return tiles;
        }
        let across = Across::all(self, args, props);
        let pays = across.first().is_some_and(|a| a.pays(self, args, props));
        let at = if pays { 0 } else { tiles.len() };
        tiles.splice(at..at, across.into_iter().map(Across::tile));
        tiles
    }

    fn suits(&self, tile: &Tile, baked: &BTreeMap<String, Baked>) -> bool {
        if let Some(across) = Across::of(tile) {
            return across.is_legal(self, &|name| baked.get(name).copied());
        }
        let span = Span {
            axes: tile.get("SPAN").max(0) as usize,
            width: tile.get("WIDTH"),
        };
        span.axes == 0 || span.is_legal(self, &|name| baked.get(name).copied())
    }

    fn geometry(&self, tile: &Tile, args: Option<&Args<'_>>, props: &DeviceProps) -> LaunchConfig {
        if let Some(across) = Across::of(tile) {
            return across.geometry(self, args, props);
        }
        let threads = tile.get("THREADS");
        let per_block = threads * tile.get("ITEMS").max(1);
        let work = args.map(|a| match tile.get("WIDTH") {
            0 => self.items(a),
            width => total(a, self.rank) / width,
        });
        grid::launch(work, per_block, threads, grid::MANY, props)
    }

    fn cost(&self, args: &Args<'_>) -> Cost {
        let extents = args.ints("d", self.rank);
        let points = total(args, self.rank) as f64;
        let operations = self.outputs.iter().map(Expr::operations).sum::<usize>() as f64 * points;
        let read: f64 = self
            .inputs()
            .iter()
            .enumerate()
            .map(|(i, &ty)| view_bytes(args, &format!("x{i}"), &extents, ty))
            .sum();
        let written: f64 = self
            .outputs
            .iter()
            .map(|e| points * f64::from(e.dtype().bits()) / 8.0)
            .sum();
        Cost {
            operations,
            bytes: read + written,
            tensor_cores: None,
        }
    }

    fn run(&self, args: &Args<'_>, operands: &mut [Operand<'_>]) -> Result<(), TwinError> {
        let extents = args.ints("d", self.rank);
        let (writes, reads) = lanes::split_operands(operands);
        let inputs: Vec<Elements<'_>> = self
            .inputs()
            .iter()
            .zip(reads)
            .map(|(&ty, bytes)| Elements::of(ty, bytes))
            .collect::<Result<_, _>>()?;
        for (k, (expr, bytes)) in self.outputs.iter().zip(writes).enumerate() {
            let elements = ElementsMut::of(expr.dtype(), bytes)?;
            let out = Strided::of(args, &format!("y{k}"), self.rank);
            let views: Vec<View<'_>> = inputs
                .iter()
                .enumerate()
                .map(|(i, &e)| {
                    let name = format!("x{i}");
                    View::new(&name, e, Strided::of(args, &name, self.rank), &extents)
                })
                .collect::<Result<_, _>>()?;
            host::map(expr, views, elements, &out, &extents)?;
        }
        Ok(())
    }
}

impl Pointwise {
    /// Items that a thread loads before it computes: about eight loads in flight, without running out of registers.
    pub(crate) fn loads_ahead(&self) -> i64 {
        match self.inputs().len() {
            0..=1 => 4,
            2..=3 => 2,
            _ => 1,
        }
    }

    /// What moves in one instruction of a thread, along the last axis: vectors, or elements where those do not fit.
    pub(crate) fn items(&self, args: &Args<'_>) -> i64 {
        let total = total(args, self.rank);
        // whether vectors apply also hangs on addresses; single elements need more blocks, never fewer
        let last = self.rank.checked_sub(1);
        match last.is_some_and(|a| args.int(&format!("d{a}")) % self.vector() == 0) {
            true => total / self.vector(),
            false => total,
        }
    }

    /// The span of vectors at these arguments, where they do not move along the last axis anyway.
    fn span(&self, args: &Args<'_>) -> Option<Span> {
        let last = self.rank.checked_sub(1)?;
        let vector = self.vector();
        let (inputs, outputs) = (self.inputs().len(), self.outputs.len());
        let reads = (0..inputs).map(|i| (format!("x{i}"), true));
        let mut views = reads.chain((0..outputs).map(|k| (format!("y{k}"), false)));
        let plain = args.int(&format!("d{last}")) % vector == 0
            && views.all(|(name, read)| {
                let strides = args.ints(&format!("{name}_s"), self.rank);
                let whole = |s: &i64| s % vector == 0;
                (read && strides[last] == 0)
                    || strides[last] == 1
                        && strides[..last].iter().all(whole)
                        && whole(&args.int(&format!("{name}_o")))
            });
        if plain || vector == 1 {
            return None;
        }
        let values: BTreeMap<&str, i64> = args.iter_ints().collect();
        Span::widest(self, &|name| values.get(name).copied().map(Baked::Exact))
    }

    /// CUDA text of the steps that a vector takes along each axis, and of the step that lane `v` is at.
    fn steps(&self) -> String {
        let mut out = String::new();
        for a in 0..self.rank {
            let behind = self.rank - 1 - a;
            let inner: Vec<String> = (a + 1..self.rank)
                .map(|b| format!(" * STEPS_{b}"))
                .collect();
            let inner = inner.concat();
            // writing to a String cannot fail
            let _ = match behind {
                0 => writeln!(out, "#define STEPS_{a} SPANNED(SPAN > 1 ? d{a} : V, V)"),
                _ => writeln!(
                    out,
                    "#define STEPS_{a} SPANNED(SPAN > {} ? d{a} : SPAN == {} ? V / (1{inner}) : 1, 1)",
                    behind + 1,
                    behind + 1
                ),
            };
            let _ = match behind {
                0 => writeln!(out, "#define STEP_{a}(v) SPANNED((v) % STEPS_{a}, v)"),
                _ => writeln!(
                    out,
                    "#define STEP_{a}(v) SPANNED((v) / (1{inner}) % STEPS_{a}, 0)"
                ),
            };
        }
        out
    }

    /// CUDA text of the run of elements that a vector of this operand lies in: `RUN_x` elements, from `LOW_x` behind the first
    /// position's on, of which `LANE_x(v)` is that of lane `v`.
    fn run(&self, name: &str) -> String {
        let sum = |term: &dyn Fn(usize) -> String| -> String {
            let terms: Vec<String> = (0..self.rank).map(term).collect();
            match terms.is_empty() {
                true => "0".to_owned(),
                false => terms.join(" + "),
            }
        };
        let low = sum(&|a| format!("below(STEPS_{a}, {name}_s{a})"));
        // a constant, for which strides of axes with one step need not be known
        let reach = sum(&|a| format!("(STEPS_{a} > 1 ? reach(STEPS_{a}, {name}_s{a}) : 0)"));
        let lane = sum(&|a| format!("STEP_{a}(v) * (int){name}_s{a}"));
        format!(
            "#define LOW_{name} SPANNED(({low}), 0)\n#define RUN_{name} SPANNED(run_of({reach}), V)\n\
             #define LANE_{name}(v) SPANNED((int)({lane} - LOW_{name}), v)\n"
        )
    }

    /// CUDA text of the conditions under which rows of a view with stride 1 start at whole vectors.
    fn aligned(&self, name: &str) -> String {
        let mut text = format!(" && STARTS_WHOLE({name}, {name}_o)");
        for a in 0..self.rank.saturating_sub(1) {
            let _ = write!(text, " && {name}_s{a} % VEC == 0");
        }
        text
    }
}

/// Random runs.
pub fn samples(rng: &mut Rng) -> Vec<Sample> {
    typed_samples(rng).into_iter().map(|s| s.1).collect()
}

pub(crate) fn typed_samples(rng: &mut Rng) -> Vec<(Pointwise, Sample)> {
    use DType::*;
    let types = [F32, F16, BF16, F64, I32, I64, U8, I8, Bool];
    let mut samples: Vec<_> = (0..4)
        .map(|_| {
            let rank = rng.int(0, 4) as usize;
            let first = *rng.pick(&types);
            let operands: Vec<DType> = (0..rng.int(1, 3))
                .map(|_| {
                    if rng.chance(2) {
                        *rng.pick(&types)
                    } else {
                        first
                    }
                })
                .collect();
            let outputs: Vec<Expr> = (0..rng.int(1, 2))
                .map(|_| {
                    let result = *rng.pick(&[first, first, F32]);
                    sample::expression(rng, &operands, result)
                })
                .collect();
            let extents = sample::extents(rng, rank, 20_000);
            let tolerance = outputs
                .iter()
                .map(|e| arguments::tolerance(e.dtype()))
                .fold(0.0, f64::max);
            let template = Pointwise { rank, outputs };
            let mut b = Arguments::new(&template);
            for (a, &d) in extents.iter().enumerate() {
                b.int(&format!("d{a}"), d);
            }
            let all: Vec<usize> = (0..rank).collect();
            // every other sample has plain operands, as most steps do
            let plain = rng.chance(2);
            let names = (0..template.outputs.len()).map(|k| format!("y{k}"));
            for name in names.chain((0..operands.len()).map(|i| format!("x{i}"))) {
                if plain {
                    b.tensor_in_order(rng, &name, &extents, &[], &all);
                } else {
                    b.tensor(rng, &name, &extents, &all);
                }
            }
            (template.clone(), b.finish(Arc::new(template), tolerance))
        })
        .collect();
    samples.insert(1, span::sample(rng));
    samples.insert(0, across::sample(rng));
    samples
}

#[cfg(test)]
mod tests;

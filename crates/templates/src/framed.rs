//! What reductions, softmax and normalisation share: rows with elementwise work before and behind what is done to them.
//!
//! Operands `x0 …` are viewed over the whole space and feed the prologue. Operand 0 of the epilogue is what becomes of a
//! row, its others are `e0 …`; they and the result `y` are viewed over the axes that are kept: the outer ones of a
//! reduction, all of a function from rows to rows.
//!
//! A function from rows to rows may have a *residual* in front: what `x0 …` then make is a result of its own, `z`, and the
//! only operand of the prologue, which sees it as it is stored.

use std::fmt::Write as _;
use std::sync::Arc;

use bespoke_device::DeviceProps;
use bespoke_ir::{DType, Expr};

use crate::arguments::{self, Arguments};
use crate::expr::cuda;
use crate::pointwise::view_bytes;
use crate::random;
use crate::rows::{self, Kept, Rows};
use crate::sample::{self, Rng, Sample};
use crate::source::{cuda_compute_type, cuda_type};
use crate::spec::{Args, Cost, Param, Template, Tile};
use crate::view;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Framed<'a> {
    /// The whole space.
    pub(crate) space: Rows,
    /// Axes of the result.
    pub(crate) kept: usize,
    /// Makes the elements of `z`, if there is one.
    pub(crate) residual: Option<&'a Expr>,
    /// Makes a row's elements.
    pub(crate) prologue: &'a Expr,
    /// Is applied to what becomes of a row.
    pub(crate) epilogue: &'a Expr,
}

impl<'a> Framed<'a> {
    /// Types of `x0 …`.
    pub(crate) fn inputs(self) -> &'a [DType] {
        self.residual.unwrap_or(self.prologue).inputs()
    }

    /// Types of `e0 …`.
    pub(crate) fn extras(self) -> &'a [DType] {
        self.epilogue.inputs().get(1..).unwrap_or(&[])
    }

    /// The expressions, for [`Template::describe`].
    pub(crate) fn describe(self) -> String {
        let types = |list: &[DType]| list.iter().map(|t| t.name()).collect::<Vec<_>>().join(", ");
        let residual = self.residual.map_or(String::new(), |e| {
            format!("residual=({}) -> {} {e} ", types(e.inputs()), e.dtype())
        });
        format!(
            "{residual}prologue=({}) {} epilogue=({}) {}",
            types(self.prologue.inputs()),
            self.prologue,
            types(self.epilogue.inputs()),
            self.epilogue
        )
    }

    /// Extents, results and operands.
    pub(crate) fn params(self) -> Vec<Param> {
        let rank = self.space.rank();
        let mut params = view::extents(rank);
        params.extend(view::write("y", self.epilogue.dtype(), self.kept));
        if let Some(residual) = self.residual {
            params.extend(view::write("z", residual.dtype(), rank));
        }
        for (name, ty) in rows::names("x", self.inputs()) {
            params.extend(view::read(&name, ty, rank));
        }
        for (name, ty) in rows::names("e", self.extras()) {
            params.extend(view::read(&name, ty, self.kept));
        }
        params
    }

    /// Tiles for packs of 16 bytes of the widest operand, of which `kept` stay in a thread's registers.
    pub(crate) fn tiles(
        self,
        args: Option<&Args<'_>>,
        kept: Kept,
        props: &DeviceProps,
    ) -> Vec<Tile> {
        let (names, vector) = self.vectors();
        let kept = kept.of(self.prologue.dtype());
        self.space.tiles(args, &names, vector, kept, props)
    }

    /// Whether what is computed with is what lies in memory, in half a register.
    pub(crate) fn is_plain_and_narrow(self) -> bool {
        match *self.prologue.inputs() {
            [ty @ (DType::F16 | DType::BF16)] => {
                self.prologue.is_identity() || *self.prologue == Expr::cast(ty, DType::F32)
            }
            _ => false,
        }
    }

    /// The operands that are read and written in packs, and the most elements of a pack.
    fn vectors(self) -> (Vec<String>, i64) {
        let mut packed = rows::names("x", self.inputs());
        // a result of the whole space is written in the same packs; a reduction's is not
        if self.kept == self.space.rank() {
            packed.push(("y".to_owned(), self.epilogue.dtype()));
            packed.extend(rows::names("e", self.extras()));
        }
        packed.extend(self.residual.map(|e| ("z".to_owned(), e.dtype())));
        let widest = packed.iter().filter_map(|p| p.1.size()).max();
        let vector = (16 / widest.unwrap_or(4) as i64).clamp(1, 8);
        (packed.into_iter().map(|p| p.0).collect(), vector)
    }

    /// The functions `prologue`, `epilogue` and `residual` and the macros VALUE, RESULT and STORE of maps from rows to rows.
    pub(crate) fn rowwise(self) -> String {
        let Framed {
            space,
            prologue,
            epilogue,
            ..
        } = self;
        let value = prologue.dtype();
        let accumulator = if value == DType::F64 {
            "double"
        } else {
            "float"
        };
        let mut out = cuda::function("prologue", prologue);
        out.push_str(&cuda::function("epilogue", epilogue));
        // writing to a String cannot fail
        let _ = writeln!(
            out,
            "typedef {accumulator} A;\ntypedef {} P;\ntypedef {} Y;",
            cuda_compute_type(value),
            cuda_type(epilogue.dtype())
        );
        // what is in front of the prologue, as it lies in memory
        let row = if self.residual.is_some() { "z" } else { "x0" };
        if let [narrow] = *prologue.inputs() {
            let narrow = cuda_type(narrow);
            let _ = writeln!(
                out,
                "typedef {narrow} NARROW;\n#define AS_IS(v) {row}_v.at[v]"
            );
        }
        out.push_str(&rows::reals(value));
        let reads = rows::names("x", self.inputs())
            .into_iter()
            .chain(rows::names("e", self.extras()))
            .collect::<Vec<_>>();
        let mut writes = vec![("y".to_owned(), epilogue.dtype())];
        writes.extend(self.residual.map(|e| ("z".to_owned(), e.dtype())));
        let mut bases: Vec<(String, String)> = reads
            .iter()
            .map(|(n, ty)| (n.clone(), format!("const {}", cuda_type(*ty))))
            .collect();
        let results = writes.iter().cloned();
        bases.extend(results.map(|(n, ty)| (n, cuda_type(ty).to_owned())));
        out.push_str(&space.vectors(&reads, &writes));
        out.push_str(&space.space(&bases));
        out.push_str(&self.fetches());
        out.push_str(&space.fetches("FETCH_E", "e", self.extras()));
        let values = match self.residual {
            Some(residual) => vec![cuda::load(residual.dtype(), "z_v.at", "v")],
            None => Rows::packed_values("x", self.inputs()),
        };
        let value = cuda::call("prologue", prologue, &values, |a| space.coordinate(a));
        let mut values = vec!["value".to_owned()];
        values.extend(Rows::packed_values("e", self.extras()));
        let result = cuda::call("epilogue", epilogue, &values, |a| space.coordinate(a));
        let _ = writeln!(
            out,
            "#define VALUE(v) {value}\n#define RESULT(v, value) {result}"
        );
        let _ = writeln!(
            out,
            "#define STORE put(y_p + ({}), pack);",
            space.within("y")
        );
        out
    }

    /// The macros FETCH_X, which also makes the residual, and KEEP_Z, which stores it.
    fn fetches(self) -> String {
        let mut fetch = self.space.fetches("FETCH_X", "x", self.inputs());
        let Some(residual) = self.residual else {
            return fetch + "#define KEEP_Z\n";
        };
        let values = Rows::packed_values("x", self.inputs());
        let value = cuda::call("residual", residual, &values, |a| self.space.coordinate(a));
        fetch.truncate(fetch.trim_end().len());
        format!(
            "{}{fetch} \\\n    Pack<{}, V> z_v; _Pragma(\"unroll\") for (int v = 0; v < V; ++v) store(z_v.at + v, {value});\n\
             #define KEEP_Z if (live) put(z_p + ({}), z_v);\n",
            cuda::function("residual", residual),
            cuda_type(residual.dtype()),
            self.space.within("z"),
        )
    }

    /// Work, given the operations on each element between prologue and epilogue.
    pub(crate) fn cost(self, args: &Args<'_>, operations: usize) -> Cost {
        let extents = args.ints("d", self.space.rank());
        let count = |dims: &[i64]| dims.iter().map(|&d| d.max(0) as f64).product::<f64>();
        let (points, results) = (count(&extents), count(&extents[..self.kept]));
        let read = |names: Vec<(String, DType)>, dims: &[i64]| {
            let bytes = names
                .iter()
                .map(|(name, ty)| view_bytes(args, name, dims, *ty));
            bytes.sum::<f64>()
        };
        let read = read(rows::names("x", self.inputs()), &extents)
            + read(rows::names("e", self.extras()), &extents[..self.kept]);
        let bytes = |e: &Expr| f64::from(e.dtype().bits()) / 8.0;
        let written = results * bytes(self.epilogue) + points * self.residual.map_or(0.0, bytes);
        let before = self.prologue.operations() + self.residual.map_or(0, Expr::operations);
        Cost {
            operations: (before + operations) as f64 * points
                + self.epilogue.operations() as f64 * results,
            bytes: read + written,
            tensor_cores: None,
        }
    }

    /// Random arguments for the template that these are the parts of.
    pub(crate) fn sample(self, rng: &mut Rng, template: Arc<dyn Template>) -> Sample {
        let rank = self.space.rank();
        let mut extents = sample::extents(rng, rank, 20_000);
        // rows of all lengths: one warp, several, and more than registers hold
        if rng.chance(3) && self.space.inner > 0 {
            extents[rank - 1] = *rng.pick(&[513, 2048, 5000, 20_000]);
            extents[..rank - 1]
                .iter_mut()
                .for_each(|d| *d = (*d).min(2));
        }
        let mut b = Arguments::new(&*template);
        random::ints(&mut b, "d", &extents);
        let all: Vec<usize> = (0..rank).collect();
        let plain = rng.chance(2);
        let mut tensor = |name: &str, rank: usize| {
            if plain {
                b.tensor_in_order(rng, name, &extents[..rank], &[], &all[..rank]);
            } else {
                b.tensor(rng, name, &extents[..rank], &all[..rank]);
            }
        };
        tensor("y", self.kept);
        if self.residual.is_some() {
            tensor("z", rank);
        }
        for (name, _) in rows::names("x", self.inputs()) {
            tensor(&name, rank);
        }
        for (name, _) in rows::names("e", self.extras()) {
            tensor(&name, self.kept);
        }
        // where a sum just falls between two numbers, `z` may be either, and what differs is divided by a deviation
        let stored = |e: &Expr| 4.0 * arguments::tolerance(e.dtype());
        let tolerance = arguments::tolerance(self.epilogue.dtype())
            .max(arguments::tolerance(self.prologue.dtype()))
            .max(self.residual.map_or(0.0, stored));
        b.finish(template, tolerance)
    }
}

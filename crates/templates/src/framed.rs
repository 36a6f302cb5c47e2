//! What reductions, softmax and normalisation share: rows with elementwise work before and behind what is done to them.
//!
//! Operands `x0 …` are viewed over the whole space and feed the prologue. Operand 0 of the epilogue is what becomes of a
//! row, its others are `e0 …`; they and the result `y` are viewed over the axes that are kept: the outer ones of a
//! reduction, all of a function from rows to rows.

use std::sync::Arc;

use bespoke_device::DeviceProps;
use bespoke_ir::{DType, Expr};

use crate::arguments::{self, Arguments};
use crate::pointwise::view_bytes;
use crate::random;
use crate::rows::{self, Kept, Rows};
use crate::sample::{self, Rng, Sample};
use crate::spec::{Args, Cost, Param, Template, Tile};
use crate::view;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Framed<'a> {
    /// The whole space.
    pub(crate) space: Rows,
    /// Axes of the result.
    pub(crate) kept: usize,
    /// Makes a row's elements.
    pub(crate) prologue: &'a Expr,
    /// Is applied to what becomes of a row.
    pub(crate) epilogue: &'a Expr,
}

impl<'a> Framed<'a> {
    /// Types of `x0 …`.
    pub(crate) fn inputs(self) -> &'a [DType] {
        self.prologue.inputs()
    }

    /// Types of `e0 …`.
    pub(crate) fn extras(self) -> &'a [DType] {
        self.epilogue.inputs().get(1..).unwrap_or(&[])
    }

    /// The two expressions, for [`Template::describe`].
    pub(crate) fn describe(self) -> String {
        let types = |list: &[DType]| list.iter().map(|t| t.name()).collect::<Vec<_>>().join(", ");
        format!(
            "prologue=({}) {} epilogue=({}) {}",
            types(self.inputs()),
            self.prologue,
            types(self.epilogue.inputs()),
            self.epilogue
        )
    }

    /// Extents, result and operands.
    pub(crate) fn params(self) -> Vec<Param> {
        let rank = self.space.rank();
        let mut params = view::extents(rank);
        params.extend(view::write("y", self.epilogue.dtype(), self.kept));
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
        self.space.tiles(args, &names, vector, kept, props)
    }

    /// Whether what is computed with is what lies in memory, in half a register.
    pub(crate) fn is_plain_and_narrow(self) -> bool {
        match *self.inputs() {
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
        let widest = packed.iter().filter_map(|p| p.1.size()).max();
        let vector = (16 / widest.unwrap_or(4) as i64).clamp(1, 8);
        (packed.into_iter().map(|p| p.0).collect(), vector)
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
        let written = results * f64::from(self.epilogue.dtype().bits()) / 8.0;
        Cost {
            operations: (self.prologue.operations() + operations) as f64 * points
                + self.epilogue.operations() as f64 * results,
            bytes: read + written,
            tensor_cores: false,
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
        for (name, _) in rows::names("x", self.inputs()) {
            tensor(&name, rank);
        }
        for (name, _) in rows::names("e", self.extras()) {
            tensor(&name, self.kept);
        }
        let tolerance = arguments::tolerance(self.epilogue.dtype())
            .max(arguments::tolerance(self.prologue.dtype()));
        b.finish(template, tolerance)
    }
}

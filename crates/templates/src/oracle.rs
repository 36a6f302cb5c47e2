//! For tests: what a sample should compute, by plain loops over its views.

use bespoke_device::SlotKind;
use bespoke_ir::DType;
use bespoke_ir::expr::Expr;
use bespoke_reference::expr::eval_expr;
use bespoke_reference::{Number, Tensor};

use crate::sample::{Sample, SampleSlot};
use crate::spec::{Args, Param};
use crate::view::Strided;

/// The arguments of a sample, readable by name.
pub(crate) struct Oracle<'s> {
    sample: &'s Sample,
    params: Vec<Param>,
    row: Vec<i64>,
}

impl<'s> Oracle<'s> {
    pub(crate) fn new(sample: &'s Sample) -> Oracle<'s> {
        Oracle {
            sample,
            params: sample.template.params(),
            row: sample.row(),
        }
    }

    pub(crate) fn args(&self) -> Args<'_> {
        Args::new(&self.params, &self.row)
    }

    fn tensor_of(dtype: DType, bytes: &[u8]) -> Tensor {
        let count = bytes.len() / dtype.size().unwrap();
        Tensor::from_bytes(dtype, &[count as i64], bytes).unwrap()
    }

    /// A tensor that is read: its elements and its view over `rank` axes.
    pub(crate) fn read(&self, name: &str, rank: usize) -> (Tensor, Strided) {
        let at = self.params.iter().position(|p| p.name == name).unwrap();
        let SampleSlot::Read(bytes) = &self.sample.slots[at] else {
            panic!("{name} is not read")
        };
        (
            Self::tensor_of(self.params[at].dtype.unwrap(), bytes),
            Strided::of(&self.args(), name, rank),
        )
    }

    /// Runs the twin and compares the only result with `expected` at every position of `extents`.
    pub(crate) fn check(&self, extents: &[i64], expected: impl Fn(&[i64]) -> Number) {
        self.check_result("y", extents, expected);
    }

    /// Runs the twin and compares the result of this name with `expected` at every position of `extents`.
    pub(crate) fn check_result(
        &self,
        name: &str,
        extents: &[i64],
        expected: impl Fn(&[i64]) -> Number,
    ) {
        let results = self.sample.run_twin().unwrap_or_else(|e| panic!("{e}"));
        let mut written = self.params.iter().filter(|p| p.kind == SlotKind::Write);
        let index = written.clone().position(|p| p.name == name).unwrap();
        let dtype = written.nth(index).and_then(|p| p.dtype).unwrap();
        let actual = Self::tensor_of(dtype, &results[index]);
        let view = Strided::of(&self.args(), name, extents.len());
        let count: i64 = extents.iter().product();
        let mut largest: f64 = 1.0;
        let mut pairs = Vec::new();
        for flat in 0..count {
            let mut rest = flat;
            let mut position = vec![0; extents.len()];
            for a in (0..extents.len()).rev() {
                position[a] = rest % extents[a];
                rest /= extents[a];
            }
            let want = expected(&position);
            if want.to_f64().is_finite() {
                largest = largest.max(want.to_f64().abs());
            }
            pairs.push((actual.get(view.at(&position) as usize), want, position));
        }
        for (got, want, position) in pairs {
            let far = (got.to_f64() - want.to_f64()).abs() / largest;
            assert!(
                far <= self.sample.tolerance
                    || got == want
                    || (got.to_f64().is_nan() && want.to_f64().is_nan()),
                "{} at {position:?}: {got:?} instead of {want:?}",
                self.sample.template.describe()
            );
        }
    }
}

/// The epilogue of a sum at a position, with operands `e0…`.
pub(crate) fn epilogue(
    expr: &Expr,
    extras: &[(Tensor, Strided)],
    sum: Number,
    position: &[i64],
) -> Number {
    epilogue_of(expr, extras, vec![sum], position)
}

/// The same of several sums.
pub(crate) fn epilogue_of(
    expr: &Expr,
    extras: &[(Tensor, Strided)],
    mut inputs: Vec<Number>,
    position: &[i64],
) -> Number {
    inputs.extend(extras.iter().map(|(t, v)| t.get(v.at(position) as usize)));
    eval_expr(expr, &inputs, position, &mut Vec::new())
}

/// A sum of products: exact for integers, in `f64` for floats.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sum {
    exact: i128,
    rounded: f64,
}

/// A tensor with its view.
type Viewed = (Tensor, Strided);

impl Sum {
    /// Adds the product of two elements, each of a tensor at a position.
    pub(crate) fn add(&mut self, (a, at_a): (&Viewed, &[i64]), (b, at_b): (&Viewed, &[i64])) {
        let element = |(tensor, view): &Viewed, at: &[i64]| tensor.get(view.at(at) as usize);
        match (element(a, at_a), element(b, at_b)) {
            (Number::I(x), Number::I(y)) => self.exact += x * y,
            (x, y) => self.rounded += x.to_f64() * y.to_f64(),
        }
    }

    /// The sum of products of this type.
    pub(crate) fn of(self, dtype: DType) -> Number {
        if dtype.is_float() {
            Number::F(self.rounded)
        } else {
            Number::I(self.exact)
        }
    }
}

/// How far the tuple of indices at a position leads in the tensor `prefix`; `None` outside.
pub(crate) fn tuple(
    args: &Args<'_>,
    prefix: &str,
    (indices, view): &Viewed,
    position: &[i64],
    count: usize,
) -> Option<i64> {
    let indices = indices.to_i64s();
    let mut offset = 0;
    for j in 0..count as i64 {
        let index = indices[(view.at(position) + j * args.int("i_t")) as usize];
        let n = args.int(&format!("n{j}"));
        let index = if index < 0 { index + n } else { index };
        if !(0..n).contains(&index) {
            return None;
        }
        offset += index * args.int(&format!("{prefix}_t{j}"));
    }
    Some(offset)
}

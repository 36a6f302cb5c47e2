//! Random arguments of matrix products and convolutions.
//!
//! [`Arguments`] fills in the parameters of a template by name, with random layouts; what is drawn is a
//! [`Sample`].

use std::sync::Arc;

use bespoke_device::SlotKind;
use bespoke_ir::DType;

use crate::arithmetic::Products;
use crate::sample::{self, Rng, Sample, SampleSlot};
use crate::spec::{Param, Template};

/// `count` random elements: floats in −1…1, integers of at most ±100, `bool` 0 or 1.
pub(crate) fn elements(rng: &mut Rng, dtype: DType, count: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(count * dtype.size().unwrap_or(1));
    for _ in 0..count {
        let i = rng.int(-100, 100);
        let x = i as f64 / 100.0;
        sample::push_element(&mut bytes, dtype, x, i);
    }
    bytes
}

/// What operands hold where the arithmetic of their products is not exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// −1, 0 and 1: every sum of up to 2,048 products is exact in every arithmetic, so that nothing hides a wrong place.
    Whole,
    /// Numbers of all bits in 0…1: a sum is that of the amounts, of which the arithmetic's bound is a part.
    Positive,
}

impl Content {
    /// Elements of this content.
    fn elements(self, rng: &mut Rng, dtype: DType, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count * dtype.size().unwrap_or(1));
        for _ in 0..count {
            let x = match self {
                Content::Whole => rng.int(-1, 1) as f64,
                Content::Positive => rng.unit().abs(),
            };
            sample::push_element(&mut bytes, dtype, x, x as i64);
        }
        bytes
    }

    /// Largest difference of kernel and twin for results of a type, of sums of `k` products.
    pub(crate) fn tolerance(self, products: Products, k: i64, result: DType) -> f64 {
        let off = match self {
            Content::Whole => 0.0,
            // on either side
            Content::Positive => 2.0 * products.error(k.max(0) as usize),
        };
        off + tolerance(DType::F32).max(tolerance(result))
    }
}

/// Fills in the arguments of a template by name.
#[derive(Debug)]
pub(crate) struct Arguments {
    params: Vec<Param>,
    slots: Vec<Option<SampleSlot>>,
}

impl Arguments {
    /// For a template's parameters, all still open.
    pub(crate) fn new(template: &dyn Template) -> Arguments {
        let params = template.params();
        let slots = vec![None; params.len()];
        Arguments { params, slots }
    }

    /// Sets one parameter.
    pub(crate) fn set(&mut self, name: &str, slot: SampleSlot) {
        if let Some(i) = self.params.iter().position(|p| p.name == name) {
            self.slots[i] = Some(slot);
        } else {
            debug_assert!(false, "no parameter `{name}`");
        }
    }

    /// Sets an integer.
    pub(crate) fn int(&mut self, name: &str, value: i64) {
        self.set(name, SampleSlot::Int(value));
    }

    /// Element type of a tensor.
    pub(crate) fn dtype(&self, name: &str) -> DType {
        let param = self.params.iter().find(|p| p.name == name);
        debug_assert!(param.is_some(), "no parameter `{name}`");
        param.and_then(|p| p.dtype).unwrap_or(DType::F32)
    }

    /// Changes the content of a tensor that is set already.
    pub(crate) fn edit(&mut self, name: &str, change: impl FnOnce(&mut [u8])) {
        let at = self.params.iter().position(|p| p.name == name);
        match at.and_then(|i| self.slots[i].as_mut()) {
            Some(SampleSlot::Read(bytes) | SampleSlot::Write(bytes)) => change(bytes),
            _ => debug_assert!(false, "no tensor `{name}`"),
        }
    }

    /// Fills operands that are set already with other content.
    pub(crate) fn fill(&mut self, rng: &mut Rng, names: [&str; 2], content: Content) {
        for name in names {
            let dtype = self.dtype(name);
            let size = dtype.size().unwrap_or(1);
            self.edit(name, |bytes| {
                bytes.copy_from_slice(&content.elements(rng, dtype, bytes.len() / size));
            });
        }
    }

    /// Makes a tensor over `extents`, random where it is read: its axes in random order of memory (mostly the plain
    /// one), sometimes with gaps and an offset; if it is read, sometimes broadcast along the axes in `broadcast`.
    pub(crate) fn tensor(
        &mut self,
        rng: &mut Rng,
        name: &str,
        extents: &[i64],
        broadcast: &[usize],
    ) {
        let mut order: Vec<usize> = (0..extents.len()).collect();
        if rng.chance(2) {
            for i in (1..order.len()).rev() {
                order.swap(i, rng.int(0, i as i64) as usize);
            }
        }
        self.tensor_in_order(rng, name, extents, broadcast, &order);
    }

    /// Like [`Arguments::tensor`], with the axes in this order of memory, the last with the smallest stride.
    pub(crate) fn tensor_in_order(
        &mut self,
        rng: &mut Rng,
        name: &str,
        extents: &[i64],
        broadcast: &[usize],
        order: &[usize],
    ) {
        let Some(param) = self.params.iter().find(|p| p.name == name) else {
            debug_assert!(false, "no parameter `{name}`");
            return;
        };
        let (kind, dtype) = (param.kind.clone(), param.dtype.unwrap_or(DType::F32));
        let mut strides = vec![0i64; extents.len()];
        let offset = if rng.chance(3) { rng.int(0, 9) } else { 0 };
        let mut step = 1;
        for &a in order.iter().rev() {
            if kind == SlotKind::Read && broadcast.contains(&a) && rng.chance(3) {
                continue;
            }
            strides[a] = step;
            let pad = if rng.chance(4) { rng.int(1, 5) } else { 0 };
            step = step * extents[a].max(1) + pad;
        }
        let count = (offset + step) as usize;
        let bytes = elements(rng, dtype, count);
        self.int(&format!("{name}_o"), offset);
        for (i, s) in strides.iter().enumerate() {
            self.int(&format!("{name}_s{i}"), *s);
        }
        self.set(
            name,
            if kind == SlotKind::Read {
                SampleSlot::Read(bytes)
            } else {
                SampleSlot::Write(bytes)
            },
        );
    }

    /// The sample; arguments that nobody set are 0 and empty.
    pub(crate) fn finish(self, template: Arc<dyn Template>, tolerance: f64) -> Sample {
        let slots = self
            .slots
            .into_iter()
            .zip(&self.params)
            .map(|(slot, p)| {
                slot.unwrap_or(match p.kind {
                    SlotKind::Int => SampleSlot::Int(0),
                    SlotKind::Read => SampleSlot::Read(Vec::new()),
                    SlotKind::Write => SampleSlot::Write(Vec::new()),
                    SlotKind::Map(_) => SampleSlot::Map,
                })
            })
            .collect();
        Sample {
            template,
            slots,
            tolerance,
        }
    }
}

/// Random epilogues of a sum of type `sum`: nothing, a narrower result, operands of its own, positions.
pub(crate) fn epilogue(rng: &mut Rng, sum: DType, rank: usize) -> bespoke_ir::expr::Expr {
    use bespoke_ir::expr::{BinaryOp, Expr, ExprBuilder, UnaryOp};
    match rng.int(0, 4) {
        0 | 1 => Expr::identity(sum),
        // a bias or a residual, and a gate
        2 => {
            let gate = if sum.is_float() && sum != DType::F64 {
                DType::F32
            } else {
                sum
            };
            let mut b = ExprBuilder::new(&[sum, sum, gate]);
            let (x, e, f) = (b.input(0), b.input(1), b.input(2));
            let x = b.binary(BinaryOp::Add, x, e);
            let mut x = b.cast(gate, x);
            if sum.is_float() {
                x = b.unary(UnaryOp::Sigmoid, x);
            }
            let x = b.binary(BinaryOp::Mul, f, x);
            let x = b.cast(sum, x);
            b.finish(x)
        }
        3 => {
            let mut b = ExprBuilder::new(&[sum, sum]);
            let (x, e) = (b.input(0), b.input(1));
            let x = b.binary(BinaryOp::Add, x, e);
            let zero = b.number(sum, 0.0);
            let x = b.binary(BinaryOp::Max, x, zero);
            b.finish(x)
        }
        _ => {
            let mut b = ExprBuilder::new(&[sum, DType::Bool]);
            let (x, keep) = (b.input(0), b.input(1));
            let i = b.coord(rng.int(0, rank as i64 - 1) as usize);
            let i = b.cast(sum, i);
            let x = b.select(keep, x, i);
            b.finish(x)
        }
    }
}

/// Tolerance for results of a type whose sums have some hundred terms.
pub(crate) fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::F16 => 2e-3,
        DType::BF16 => 1.6e-2,
        DType::F32 => 2e-5,
        DType::F64 => 1e-12,
        _ => 0.0,
    }
}

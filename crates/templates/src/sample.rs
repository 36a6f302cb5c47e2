//! Random runs of templates, for comparing a kernel with its twin.
//!
//! Each template makes samples of its own kind: [`Sample`] holds a template and the arguments of one run. Tests on the
//! host compare the twin with the plain meaning; a test on a device runs the kernel, generic and exact, and compares it
//! with the twin.

use std::sync::Arc;

use bespoke_device::{MAP_SLOTS, Operand, TwinError};
use bespoke_ir::DType;

use crate::spec::{Args, Template};

/// A random number generator (xorshift64*, Vigna 2016): small, and the same everywhere.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// A generator; equal seeds give equal numbers.
    pub fn new(seed: u64) -> Rng {
        Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// An integer in `low..=high`.
    pub fn int(&mut self, low: i64, high: i64) -> i64 {
        let span = (high - low + 1).max(1) as u64;
        low + ((self.bits() >> 11) % span) as i64
    }

    /// A number in −1…1.
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }

    /// One of several.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        let last = from.len().saturating_sub(1) as i64;
        &from[self.int(0, last) as usize]
    }

    /// True once in `n` times.
    pub fn chance(&mut self, n: i64) -> bool {
        self.int(1, n) == 1
    }

    /// `count` random elements: floats in −1…1, integers in their range but at most ±100, `bool` 0 or 1.
    pub fn elements(&mut self, dtype: DType, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count * dtype.size().unwrap_or(1));
        for _ in 0..count {
            let x = self.unit();
            let i = (x * 100.0) as i64;
            push_element(&mut bytes, dtype, x, i);
        }
        bytes
    }
}

/// Appends an element: `x` as a float, `x > 0` as a `bool`, `i` or its amount as an integer.
pub(crate) fn push_element(bytes: &mut Vec<u8>, dtype: DType, x: f64, i: i64) {
    match dtype {
        DType::F32 => bytes.extend((x as f32).to_le_bytes()),
        DType::F64 => bytes.extend(x.to_le_bytes()),
        DType::F16 => bytes.extend(half::f16::from_f64(x).to_le_bytes()),
        DType::BF16 => bytes.extend(half::bf16::from_f64(x).to_le_bytes()),
        DType::I8 => bytes.extend((i as i8).to_le_bytes()),
        DType::I16 => bytes.extend((i as i16).to_le_bytes()),
        DType::I32 => bytes.extend((i as i32).to_le_bytes()),
        DType::I64 => bytes.extend(i.to_le_bytes()),
        DType::U16 => bytes.extend((i.unsigned_abs() as u16).to_le_bytes()),
        DType::U32 => bytes.extend((i.unsigned_abs() as u32).to_le_bytes()),
        DType::U64 => bytes.extend(i.unsigned_abs().to_le_bytes()),
        DType::Bool => bytes.push(u8::from(x > 0.0)),
        _ => bytes.push(i.unsigned_abs() as u8),
    }
}

/// One argument of a sample.
#[derive(Clone, Debug, PartialEq)]
pub enum SampleSlot {
    /// An integer.
    Int(i64),
    /// The content of a tensor that is read.
    Read(Vec<u8>),
    /// The content of a tensor before it is written; its length is what matters to most templates.
    Write(Vec<u8>),
    /// A tensor map, made of the other arguments where there is a device.
    Map,
}

/// A template and the arguments of one run, in the order of its parameters.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The template.
    pub template: Arc<dyn Template>,
    /// Its arguments.
    pub slots: Vec<SampleSlot>,
    /// Largest difference between kernel and twin, relative to the largest result, for float results; other results are
    /// equal.
    pub tolerance: f64,
}

impl Sample {
    /// The row of slots, with addresses 0 and no maps: enough for tiles, geometry and twins.
    pub fn row(&self) -> Vec<i64> {
        self.row_at(&[])
    }

    /// The row of slots given the address of each tensor, 0 where the list ends. Maps are left to the device that the row
    /// is for.
    pub fn row_at(&self, addresses: &[i64]) -> Vec<i64> {
        let mut addresses = addresses.iter().copied();
        let mut row = Vec::new();
        for slot in &self.slots {
            match slot {
                SampleSlot::Int(value) => row.push(*value),
                SampleSlot::Read(bytes) | SampleSlot::Write(bytes) => {
                    row.extend([addresses.next().unwrap_or(0), bytes.len() as i64]);
                }
                SampleSlot::Map => row.extend([0; MAP_SLOTS]),
            }
        }
        row
    }

    /// Runs the twin; returns the tensors that it wrote.
    ///
    /// # Errors
    ///
    /// What the twin says.
    pub fn run_twin(&self) -> Result<Vec<Vec<u8>>, TwinError> {
        let params = self.template.params();
        let row = self.row();
        // tensors of the device are aligned, so are these
        let mut memory: Vec<Vec<u64>> = Vec::new();
        let mut lengths = Vec::new();
        for slot in &self.slots {
            if let SampleSlot::Read(b) | SampleSlot::Write(b) = slot {
                let mut words = vec![0u64; b.len().div_ceil(8)];
                bytemuck::cast_slice_mut::<u64, u8>(&mut words)[..b.len()].copy_from_slice(b);
                memory.push(words);
                lengths.push((b.len(), matches!(slot, SampleSlot::Write(_))));
            }
        }
        let mut operands: Vec<Operand<'_>> = memory
            .iter_mut()
            .zip(&lengths)
            .map(|(words, &(len, write))| {
                let bytes = &mut bytemuck::cast_slice_mut::<u64, u8>(words)[..len];
                if write {
                    Operand::Write(bytes)
                } else {
                    Operand::Read(bytes)
                }
            })
            .collect();
        self.template
            .run(&Args::new(&params, &row), &mut operands)?;
        drop(operands);
        Ok(memory
            .iter()
            .zip(&lengths)
            .filter(|(_, (_, write))| *write)
            .map(|(words, (len, _))| bytemuck::cast_slice::<u64, u8>(words)[..*len].to_vec())
            .collect())
    }
}

/// Extents of a random space of `rank` axes with at most `limit` points; now and then one is 0 or 1.
pub(crate) fn extents(rng: &mut Rng, rank: usize, limit: i64) -> Vec<i64> {
    let mut left = limit;
    let mut dims: Vec<i64> = (0..rank)
        .map(|_| {
            let d = match rng.int(0, 9) {
                0 => 1,
                1 => 1 << rng.int(0, 8),
                _ => rng.int(1, 40),
            };
            let d = d.min(left.max(1));
            left /= d;
            d
        })
        .collect();
    if rank > 0 && rng.chance(30) {
        dims[rng.int(0, rank as i64 - 1) as usize] = 0;
    }
    dims
}

/// A random pointwise function of all the given operands that keeps values small.
pub(crate) fn expression(rng: &mut Rng, inputs: &[DType], result: DType) -> bespoke_ir::expr::Expr {
    use bespoke_ir::expr::{BinaryOp, ExprBuilder, UnaryOp};
    let mut b = ExprBuilder::new(inputs);
    let compute = if result.is_float() && result != DType::F64 {
        DType::F32
    } else {
        result
    };
    let mut value = b.number(compute, 1.0);
    for i in 0..inputs.len() {
        let x = b.input(i);
        let x = b.cast(compute, x);
        let op = if compute == DType::Bool {
            *rng.pick(&[BinaryOp::And, BinaryOp::Or, BinaryOp::Xor])
        } else {
            *rng.pick(&[BinaryOp::Add, BinaryOp::Sub, BinaryOp::Mul, BinaryOp::Max])
        };
        value = if i == 0 { x } else { b.binary(op, value, x) };
        if compute.is_float() && rng.chance(3) {
            let op = *rng.pick(&[
                UnaryOp::Tanh,
                UnaryOp::Sigmoid,
                UnaryOp::Erf,
                UnaryOp::Neg,
                UnaryOp::Abs,
            ]);
            value = b.unary(op, value);
        }
    }
    let value = b.cast(result, value);
    b.finish(value)
}

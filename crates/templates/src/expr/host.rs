//! Expressions on the host, block by block.
//!
//! An [`Evaluator`] runs one instruction over a block of [`LANES`] lanes before it turns to the next, so that decoding
//! is paid once a block and the loops are vector code. Blocks live in a few reusable buffers (registers whose live
//! ranges do not touch share one) that stay in the level-1 cache. What does not vary along the lane (literals, operands
//! with stride 0, coordinates of other axes, and everything computed from those alone) is evaluated once a call.
//! Operands that lie in memory as they are computed with are used in place, and so is the result.
//!
//! [`Function`], in a file of its own, binds an expression to checked views, and is what twins use for prologues and epilogues.

mod function;

use bespoke_ir::DType;
use bespoke_ir::expr::{Expr, Instr, Reg};
use half::slice::HalfFloatSliceExt;

use super::kernels::{self, CastTarget, Compute, Source};
use super::lanes::{Elements, ElementsMut, Lane, LaneMut, Stored};

pub use self::function::{Function, Worker};

/// Lanes of a block.
pub const LANES: usize = 512;

/// Runs `$body` with `$T` bound to the type in which elements of `$dtype` are computed with.
macro_rules! with_compute {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            DType::F64 => {
                type $T = f64;
                $body
            }
            DType::I8 => {
                type $T = i8;
                $body
            }
            DType::I16 => {
                type $T = i16;
                $body
            }
            DType::I32 => {
                type $T = i32;
                $body
            }
            DType::I64 => {
                type $T = i64;
                $body
            }
            DType::U8 | DType::Bool => {
                type $T = u8;
                $body
            }
            DType::U16 => {
                type $T = u16;
                $body
            }
            DType::U32 => {
                type $T = u32;
                $body
            }
            DType::U64 => {
                type $T = u64;
                $body
            }
            // f32 and what widens to it
            _ => {
                type $T = f32;
                $body
            }
        }
    };
}

/// The type in which elements of a type are computed with: `f32` for narrow floats, itself otherwise.
pub fn compute_dtype(dtype: DType) -> DType {
    match dtype {
        DType::F16 | DType::BF16 => DType::F32,
        other => other,
    }
}

fn compute_size(dtype: DType) -> usize {
    compute_dtype(dtype).size().unwrap_or(8)
}

/// An expression made ready to run.
#[derive(Clone, Debug)]
pub struct Program {
    expr: Expr,
    /// Block of each instruction.
    register: Vec<usize>,
    /// Number of blocks.
    blocks: usize,
}

impl Program {
    /// Assigns instructions to blocks.
    pub fn new(expr: &Expr) -> Program {
        let code = expr.code();
        let mut last_use = vec![0usize; code.len()];
        for (i, (instr, _)) in code.iter().enumerate() {
            last_use[i] = i;
            for r in instr.operands() {
                last_use[r.0 as usize] = i;
            }
        }
        let mut register = vec![0; code.len()];
        let mut free: Vec<usize> = Vec::new();
        let mut blocks = 0;
        for (i, (instr, _)) in code.iter().enumerate() {
            register[i] = free.pop().unwrap_or_else(|| {
                blocks += 1;
                blocks - 1
            });
            let mut done: Vec<usize> = instr
                .operands()
                .map(|r| r.0 as usize)
                .filter(|&r| last_use[r] == i)
                .collect();
            done.dedup();
            for (at, &r) in done.iter().enumerate() {
                if !done[..at].contains(&r) {
                    free.push(register[r]);
                }
            }
        }
        Program {
            expr: expr.clone(),
            register,
            blocks,
        }
    }

    /// The expression.
    pub fn expr(&self) -> &Expr {
        &self.expr
    }
}

/// Where a value is during a call.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// The same on every lane; the bits of the value.
    Uniform(u64),
    /// In the instruction's block.
    Block,
    /// In an operand's memory.
    Direct(usize),
}

/// Runs a [`Program`]; holds the scratch memory of one thread.
#[derive(Debug)]
pub struct Evaluator<'p> {
    program: &'p Program,
    blocks: Vec<Vec<u64>>,
    places: Vec<Place>,
}

/// What instructions read.
struct Context<'c> {
    program: &'c Program,
    blocks: &'c [Vec<u64>],
    places: &'c [Place],
    inputs: &'c [Lane<'c>],
    position: &'c [i64],
    /// First lane of the block and number of lanes.
    first: usize,
    n: usize,
}

impl<'p> Evaluator<'p> {
    /// Scratch memory for a program.
    pub fn new(program: &'p Program) -> Evaluator<'p> {
        Evaluator {
            program,
            blocks: vec![Vec::new(); program.blocks],
            places: vec![Place::Block; program.expr.code().len()],
        }
    }

    /// Computes `count` results.
    ///
    /// `inputs` has one lane an operand, of its type or of the type that it is computed with. `position` is the position of lane 0 and `axis` the axis along
    /// which lanes run, for expressions that read coordinates. `out` has the type of the result or the one it is computed
    /// with. Lanes must lie within
    /// their memory (see [`View`](super::lanes::View)).
    pub fn run(
        &mut self,
        inputs: &[Lane<'_>],
        position: &[i64],
        axis: usize,
        count: usize,
        out: &mut LaneMut<'_, '_>,
    ) {
        let code = self.program.expr.code();
        let last = code.len() - 1;
        if count == 0 {
            return;
        }
        if let Instr::Input(k) = code[last].0
            && inputs[k as usize].elements.dtype() == out.elements.dtype()
        {
            copy(inputs[k as usize], count, out);
            return;
        }
        self.place(inputs, position, axis);
        if let Place::Uniform(bits) = self.places[last] {
            with_compute!(code[last].1, T => store::<T>(Source::One(one::<T>(bits)), 0, count, out));
            return;
        }
        for first in (0..count).step_by(LANES) {
            let n = LANES.min(count - first);
            for i in 0..last {
                if matches!(self.places[i], Place::Block) {
                    self.step(i, inputs, position, first, n);
                }
            }
            let dtype = code[last].1;
            if out.stride == 1
                && out.elements.dtype() == compute_dtype(dtype)
                && matches!(self.places[last], Place::Block)
            {
                let start = out.start as usize + first;
                let context = self.context(inputs, position, first, n);
                with_compute!(dtype, T => {
                    if let Some(s) = T::slice_mut(out.elements) {
                        context.execute(last, bytemuck::cast_slice_mut(&mut s[start..start + n]));
                    }
                });
                continue;
            }
            if matches!(self.places[last], Place::Block) {
                self.step(last, inputs, position, first, n);
            }
            let context = self.context(inputs, position, first, n);
            with_compute!(dtype, T => store::<T>(context.source(Reg(last as u32)), first, n, out));
        }
    }

    fn context<'c>(
        &'c self,
        inputs: &'c [Lane<'c>],
        position: &'c [i64],
        first: usize,
        n: usize,
    ) -> Context<'c> {
        Context {
            program: self.program,
            blocks: &self.blocks,
            places: &self.places,
            inputs,
            position,
            first,
            n,
        }
    }

    /// Finds where each value is, and evaluates what is the same on every lane.
    fn place(&mut self, inputs: &[Lane<'_>], position: &[i64], axis: usize) {
        let program = self.program;
        for (i, (instr, dtype)) in program.expr.code().iter().enumerate() {
            let uniform = match *instr {
                Instr::Input(k) => inputs[k as usize].stride == 0,
                Instr::Const(_) => true,
                Instr::Coord(a) => a as usize != axis,
                other => other
                    .operands()
                    .all(|r| matches!(self.places[r.0 as usize], Place::Uniform(_))),
            };
            self.places[i] = match *instr {
                _ if uniform => {
                    let mut bits = 0u64;
                    let context = self.context(inputs, position, 0, 1);
                    let bytes = &mut bytemuck::bytes_of_mut(&mut bits)[..compute_size(*dtype)];
                    context.execute(i, bytes);
                    Place::Uniform(bits)
                }
                Instr::Input(k)
                    if inputs[k as usize].stride == 1
                        && inputs[k as usize].elements.dtype() == compute_dtype(*dtype) =>
                {
                    Place::Direct(k as usize)
                }
                _ => Place::Block,
            };
        }
    }

    /// Runs one instruction into its block.
    fn step(&mut self, i: usize, inputs: &[Lane<'_>], position: &[i64], first: usize, n: usize) {
        let mut block = std::mem::take(&mut self.blocks[self.program.register[i]]);
        if block.is_empty() {
            block = vec![0u64; LANES];
        }
        let size = compute_size(self.program.expr.code()[i].1);
        let context = self.context(inputs, position, first, n);
        context.execute(i, &mut bytemuck::cast_slice_mut(&mut block)[..n * size]);
        self.blocks[self.program.register[i]] = block;
    }
}

/// The value that `bits` hold.
fn one<T: Compute>(bits: u64) -> T {
    bytemuck::cast_slice::<u64, T>(std::slice::from_ref(&bits))[0]
}

impl Context<'_> {
    fn dtype(&self, r: Reg) -> DType {
        self.program.expr.code()[r.0 as usize].1
    }

    fn source<T: Compute + Stored>(&self, r: Reg) -> Source<'_, T> {
        match self.places[r.0 as usize] {
            Place::Uniform(bits) => Source::One(one(bits)),
            Place::Block => Source::Lanes(
                &bytemuck::cast_slice(&self.blocks[self.program.register[r.0 as usize]])[..self.n],
            ),
            Place::Direct(k) => {
                let lane = &self.inputs[k];
                let start = lane.start as usize + self.first;
                // `place` chose this only for memory of the computed type
                Source::Lanes(T::slice(lane.elements).map_or(&[], |s| &s[start..start + self.n]))
            }
        }
    }

    /// Runs instruction `i` for `out.len()` bytes of lanes.
    fn execute(&self, i: usize, out: &mut [u8]) {
        let (instr, dtype) = self.program.expr.code()[i];
        match instr {
            Instr::Input(k) => with_compute!(dtype, T => {
                load::<T>(self.inputs[k as usize].skip(self.first), bytemuck::cast_slice_mut(out));
            }),
            Instr::Const(value) => with_compute!(dtype, T => {
                let out: &mut [T] = bytemuck::cast_slice_mut(out);
                // a literal of a narrow type has that type's precision
                let v = match dtype {
                    DType::F16 => f64::from(half::f16::from_f64(value.as_f64())),
                    DType::BF16 => f64::from(half::bf16::from_f64(value.as_f64())),
                    _ => value.as_f64(),
                };
                out.fill(if dtype.is_float() { v as T } else { value.as_i64() as T });
            }),
            Instr::Coord(axis) => {
                let out: &mut [i64] = bytemuck::cast_slice_mut(out);
                let start =
                    self.position.get(axis as usize).copied().unwrap_or(0) + self.first as i64;
                for (k, y) in out.iter_mut().enumerate() {
                    *y = start + k as i64;
                }
            }
            Instr::Unary(op, a) => with_compute!(self.dtype(a), T => {
                let single;
                let lanes: &[T] = match self.source::<T>(a) {
                    Source::Lanes(s) => s,
                    Source::One(v) => {
                        single = [v];
                        &single
                    }
                };
                if op.is_test() {
                    T::test(op, lanes, out);
                } else {
                    T::unary(op, dtype == DType::Bool, lanes, bytemuck::cast_slice_mut(out));
                }
            }),
            Instr::Binary(op, a, b) => with_compute!(self.dtype(a), T => {
                let boolean = self.dtype(a) == DType::Bool;
                let (a, b) = (self.source::<T>(a), self.source::<T>(b));
                if op.is_comparison() {
                    T::compare(op, a, b, out);
                } else {
                    T::binary(op, boolean, a, b, bytemuck::cast_slice_mut(out));
                }
            }),
            Instr::Select(c, a, b) => with_compute!(dtype, T => {
                kernels::select::<T>(self.source(c), self.source(a), self.source(b), bytemuck::cast_slice_mut(out));
            }),
            Instr::Cast(to, a) => {
                let mut target = match to {
                    DType::F64 => CastTarget::F64(bytemuck::cast_slice_mut(out)),
                    DType::I8 => CastTarget::I8(bytemuck::cast_slice_mut(out)),
                    DType::I16 => CastTarget::I16(bytemuck::cast_slice_mut(out)),
                    DType::I32 => CastTarget::I32(bytemuck::cast_slice_mut(out)),
                    DType::I64 => CastTarget::I64(bytemuck::cast_slice_mut(out)),
                    DType::U8 => CastTarget::U8(out),
                    DType::U16 => CastTarget::U16(bytemuck::cast_slice_mut(out)),
                    DType::U32 => CastTarget::U32(bytemuck::cast_slice_mut(out)),
                    DType::U64 => CastTarget::U64(bytemuck::cast_slice_mut(out)),
                    DType::Bool => CastTarget::Bool(out),
                    _ => CastTarget::F32(bytemuck::cast_slice_mut(out)),
                };
                with_compute!(self.dtype(a), T => match self.source::<T>(a) {
                    Source::Lanes(s) => T::cast(s, to, &mut target),
                    Source::One(v) => T::cast(&[v], to, &mut target),
                });
            }
        }
    }
}

/// Lanes into a block, widened.
fn load<T: Compute + Stored>(lane: Lane<'_>, out: &mut [T]) {
    fn gather<S: Copy, T>(s: &[S], lane: Lane<'_>, out: &mut [T], widen: impl Fn(S) -> T) {
        let mut at = lane.start;
        for y in out {
            *y = widen(s[at as usize]);
            at += lane.stride;
        }
    }
    if let Some(s) = T::slice(lane.elements) {
        if lane.stride == 1 {
            out.copy_from_slice(&s[lane.start as usize..][..out.len()]);
        } else {
            gather(s, lane, out, |x| x);
        }
        return;
    }
    // only narrow floats widen, to f32
    let n = out.len();
    let Ok(out) = bytemuck::try_cast_slice_mut::<T, f32>(out) else {
        return;
    };
    match lane.elements {
        Elements::F16(s) if lane.stride == 1 => {
            s[lane.start as usize..][..n].convert_to_f32_slice(out);
        }
        Elements::F16(s) => gather(s, lane, out, half::f16::to_f32),
        Elements::BF16(s) if lane.stride == 1 => {
            let s = &s[lane.start as usize..][..n];
            kernels::simd(
                #[inline(always)]
                || {
                    out.iter_mut()
                        .zip(s)
                        .for_each(|(y, x)| *y = f32::from_bits(u32::from(x.to_bits()) << 16))
                },
            );
        }
        Elements::BF16(s) => gather(s, lane, out, half::bf16::to_f32),
        other => unreachable!("{} is no operand of this expression", other.dtype()),
    }
}

/// Lanes `first..first + n` of a result, narrowed.
fn store<T: Compute + Stored>(
    value: Source<'_, T>,
    first: usize,
    n: usize,
    out: &mut LaneMut<'_, '_>,
) {
    fn scatter<T: Copy, S>(
        value: Source<'_, T>,
        out: &mut [S],
        start: i64,
        stride: i64,
        n: usize,
        f: impl Fn(T) -> S,
    ) {
        let mut at = start;
        match value {
            Source::Lanes(s) => {
                for &x in &s[..n] {
                    out[at as usize] = f(x);
                    at += stride;
                }
            }
            Source::One(x) => {
                for _ in 0..n {
                    out[at as usize] = f(x);
                    at += stride;
                }
            }
        }
    }
    let (start, stride) = (out.start + out.stride * first as i64, out.stride);
    if let Some(s) = T::slice_mut(out.elements) {
        match (value, stride) {
            (Source::Lanes(v), 1) => s[start as usize..][..n].copy_from_slice(&v[..n]),
            (Source::One(v), 1) => s[start as usize..][..n].fill(v),
            _ => scatter(value, s, start, stride, n, |x| x),
        }
        return;
    }
    // only f32 narrows
    let value: Source<'_, f32> = match value {
        Source::Lanes(s) => Source::Lanes(bytemuck::try_cast_slice(s).unwrap_or(&[])),
        Source::One(v) => Source::One(bytemuck::try_cast(v).unwrap_or(f32::NAN)),
    };
    match (&mut *out.elements, value) {
        (ElementsMut::F16(s), Source::Lanes(v)) if stride == 1 => {
            s[start as usize..][..n].convert_from_f32_slice(&v[..n]);
        }
        (ElementsMut::F16(s), _) => scatter(value, s, start, stride, n, half::f16::from_f32),
        (ElementsMut::BF16(s), Source::Lanes(v)) if stride == 1 => {
            s[start as usize..][..n].convert_from_f32_slice(&v[..n]);
        }
        (ElementsMut::BF16(s), _) => scatter(value, s, start, stride, n, half::bf16::from_f32),
        (other, _) => unreachable!("{} is not the result of this expression", other.dtype()),
    }
}

/// Elements of one type from one lane to another, untouched.
pub fn copy(from: Lane<'_>, count: usize, to: &mut LaneMut<'_, '_>) {
    fn moved<T: Copy>(from: Lane<'_>, s: &[T], d: &mut [T], start: i64, stride: i64, count: usize) {
        match (from.stride, stride) {
            (1, 1) => {
                d[start as usize..][..count].copy_from_slice(&s[from.start as usize..][..count])
            }
            (0, 1) => d[start as usize..][..count].fill(s[from.start as usize]),
            (_, 1) => {
                let mut at = from.start;
                for y in &mut d[start as usize..][..count] {
                    *y = s[at as usize];
                    at += from.stride;
                }
            }
            _ => {
                let (mut at, mut to) = (from.start, start);
                for _ in 0..count {
                    d[to as usize] = s[at as usize];
                    at += from.stride;
                    to += stride;
                }
            }
        }
    }
    macro_rules! variants {
        ($($v:ident)*) => {
            match (from.elements, &mut *to.elements) {
                $((Elements::$v(s), ElementsMut::$v(d)) => moved(from, s, d, to.start, to.stride, count),)*
                (s, d) => unreachable!("a copy keeps its type, {} is not {}", s.dtype(), d.dtype()),
            }
        };
    }
    variants!(F32 F64 F16 BF16 I8 I16 I32 I64 U8 U16 U32 U64 Bool);
}

#[cfg(test)]
mod tests;

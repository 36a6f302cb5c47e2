//! Many expressions compiled into one flat instruction list.
//!
//! A plan evaluates hundreds of extents, strides and offsets whenever a new shape is bound. They share most of their
//! parts, so [`SymProgram`] numbers every distinct operation once (hash-consing) and then runs down a list of
//! register instructions without branching on structure or allocating.
//!
//! The list works in plain `i64`. If any step overflows, divides by zero or lacks a symbol, the run is repeated with
//! [`SymInt::eval`], whose 128-bit intermediates decide whether there is an error at all and which expression has it.
//! So a program agrees with `eval` in every case.

use std::collections::HashMap;

use super::expr::Atom;
use super::{SymError, SymInt};

/// The number of a register; also of the instruction that writes it.
type Register = u32;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Instruction {
    Constant(i64),
    Symbol(u32),
    Add(Register, Register),
    Sub(Register, Register),
    Mul(Register, Register),
    /// Register + constant.
    Offset(Register, i64),
    /// Register × constant.
    Scale(Register, i64),
    /// ⌊register / constant⌋ for a constant of at least 1.
    FloorDivBy(Register, i64),
    /// Register mod constant for a constant of at least 1.
    ModBy(Register, i64),
    FloorDiv(Register, Register),
    CeilDiv(Register, Register),
    Mod(Register, Register),
    Min(Register, Register),
    Max(Register, Register),
}

/// A list of expressions, ready for fast evaluation.
#[derive(Clone, Debug)]
pub struct SymProgram {
    code: Vec<Instruction>,
    outputs: Vec<Register>,
    expressions: Vec<SymInt>,
    /// How many symbols must be given for the fast path.
    symbols: usize,
    /// Whether an expression has no value whatever the symbols are.
    faulty: bool,
}

#[derive(Default)]
struct Compiler {
    code: Vec<Instruction>,
    numbers: HashMap<Instruction, Register>,
}

impl Compiler {
    fn emit(&mut self, instruction: Instruction) -> Register {
        *self.numbers.entry(instruction).or_insert_with(|| {
            self.code.push(instruction);
            (self.code.len() - 1) as Register
        })
    }

    /// `None` for an expression without a value.
    fn expression(&mut self, value: &SymInt) -> Option<Register> {
        let (constant, terms) = value.parts().ok()?;
        let mut sum: Option<Register> = None;
        for term in terms {
            let mut product: Option<Register> = None;
            for factor in &term.factors {
                let factor = self.atom(factor)?;
                product = Some(match product {
                    None => factor,
                    Some(product) => self.emit(Instruction::Mul(product, factor)),
                });
            }
            let product = product?;
            sum = Some(match (sum, term.coeff) {
                (None, 1) => product,
                (None, coeff) => self.emit(Instruction::Scale(product, coeff)),
                (Some(sum), 1) => self.emit(Instruction::Add(sum, product)),
                (Some(sum), -1) => self.emit(Instruction::Sub(sum, product)),
                (Some(sum), coeff) => {
                    let product = self.emit(Instruction::Scale(product, coeff));
                    self.emit(Instruction::Add(sum, product))
                }
            });
        }
        Some(match (sum, constant) {
            (None, constant) => self.emit(Instruction::Constant(constant)),
            (Some(sum), 0) => sum,
            (Some(sum), constant) => self.emit(Instruction::Offset(sum, constant)),
        })
    }

    fn atom(&mut self, atom: &Atom) -> Option<Register> {
        Some(match atom {
            Atom::Symbol(id) => self.emit(Instruction::Symbol(id.0)),
            Atom::FloorDiv(a, b) => {
                let a = self.expression(a)?;
                match b.as_const() {
                    Some(by @ 1..) => self.emit(Instruction::FloorDivBy(a, by)),
                    _ => {
                        let b = self.expression(b)?;
                        self.emit(Instruction::FloorDiv(a, b))
                    }
                }
            }
            Atom::Mod(a, b) => {
                let a = self.expression(a)?;
                match b.as_const() {
                    Some(by @ 1..) => self.emit(Instruction::ModBy(a, by)),
                    _ => {
                        let b = self.expression(b)?;
                        self.emit(Instruction::Mod(a, b))
                    }
                }
            }
            Atom::CeilDiv(a, b) => {
                let (a, b) = (self.expression(a)?, self.expression(b)?);
                self.emit(Instruction::CeilDiv(a, b))
            }
            Atom::Min(args) => self.fold(args, Instruction::Min)?,
            Atom::Max(args) => self.fold(args, Instruction::Max)?,
        })
    }

    fn fold(
        &mut self,
        args: &[SymInt],
        make: fn(Register, Register) -> Instruction,
    ) -> Option<Register> {
        let mut best: Option<Register> = None;
        for arg in args {
            let arg = self.expression(arg)?;
            best = Some(match best {
                None => arg,
                Some(best) => self.emit(make(best, arg)),
            });
        }
        best
    }
}

impl SymProgram {
    /// Compiles `expressions`; [`run`](Self::run) gives their values in this order.
    pub fn compile(expressions: &[SymInt]) -> SymProgram {
        let mut compiler = Compiler::default();
        let mut outputs = Vec::with_capacity(expressions.len());
        let mut faulty = false;
        for expression in expressions {
            match compiler.expression(expression) {
                Some(register) => outputs.push(register),
                None => faulty = true,
            }
        }
        let symbols = compiler.code.iter().map(|instruction| match instruction {
            Instruction::Symbol(index) => *index as usize + 1,
            _ => 0,
        });
        let symbols = symbols.max().unwrap_or(0);
        SymProgram {
            code: compiler.code,
            outputs,
            expressions: expressions.to_vec(),
            symbols,
            faulty,
        }
    }

    /// How many values a run gives.
    pub fn len(&self) -> usize {
        self.expressions.len()
    }

    /// Whether a run gives no value.
    pub fn is_empty(&self) -> bool {
        self.expressions.is_empty()
    }

    /// How many instructions a run executes.
    pub fn instructions(&self) -> usize {
        self.code.len()
    }

    /// Evaluates all expressions for `symbols`, indexed by [`SymbolId`](super::SymbolId), into `out`, whose former
    /// contents are dropped.
    ///
    /// The registers live behind the results while the run lasts: nothing is allocated if the capacity of `out` is at
    /// least [`len`](Self::len) + [`instructions`](Self::instructions), as it is after the first run with it.
    ///
    /// # Errors
    ///
    /// The index of the first expression that has no value, with the reason; `out` is then empty.
    pub fn run(&self, symbols: &[i64], out: &mut Vec<i64>) -> Result<(), (usize, SymError)> {
        let results = self.outputs.len();
        out.clear();
        if self.faulty || symbols.len() < self.symbols {
            return self.run_exactly(symbols, out);
        }
        out.resize(results + self.code.len(), 0);
        let (values, registers) = out.split_at_mut(results);
        if execute(&self.code, symbols, registers).is_none() {
            return self.run_exactly(symbols, out);
        }
        for (value, register) in values.iter_mut().zip(&self.outputs) {
            *value = registers[*register as usize];
        }
        out.truncate(results);
        Ok(())
    }

    #[cold]
    fn run_exactly(&self, symbols: &[i64], out: &mut Vec<i64>) -> Result<(), (usize, SymError)> {
        out.clear();
        for (index, expression) in self.expressions.iter().enumerate() {
            match expression.eval(symbols) {
                Ok(value) => out.push(value),
                Err(error) => {
                    out.clear();
                    return Err((index, error));
                }
            }
        }
        Ok(())
    }
}

/// Runs down the list; `None` if a step has no value in `i64`. Instructions read only registers before their own.
fn execute(code: &[Instruction], symbols: &[i64], registers: &mut [i64]) -> Option<()> {
    for (index, instruction) in code.iter().enumerate() {
        let (done, rest) = registers.split_at_mut(index);
        let at = |register: Register| done[register as usize];
        let value = match *instruction {
            Instruction::Constant(value) => value,
            Instruction::Symbol(symbol) => symbols[symbol as usize],
            Instruction::Add(a, b) => at(a).checked_add(at(b))?,
            Instruction::Sub(a, b) => at(a).checked_sub(at(b))?,
            Instruction::Mul(a, b) => at(a).checked_mul(at(b))?,
            Instruction::Offset(a, by) => at(a).checked_add(by)?,
            Instruction::Scale(a, by) => at(a).checked_mul(by)?,
            Instruction::FloorDivBy(a, by) => at(a).div_euclid(by),
            Instruction::ModBy(a, by) => at(a).rem_euclid(by),
            Instruction::FloorDiv(a, b) => floor_div(at(a), at(b))?,
            Instruction::CeilDiv(a, b) => floor_div(at(a).checked_neg()?, at(b))?.checked_neg()?,
            Instruction::Mod(a, b) => {
                let (a, b) = (at(a), at(b));
                a.checked_sub(floor_div(a, b)?.checked_mul(b)?)?
            }
            Instruction::Min(a, b) => at(a).min(at(b)),
            Instruction::Max(a, b) => at(a).max(at(b)),
        };
        rest[0] = value;
    }
    Some(())
}

fn floor_div(a: i64, b: i64) -> Option<i64> {
    let quotient = a.checked_div(b)?;
    let remainder = a.checked_rem(b)?;
    Some(if remainder != 0 && (remainder < 0) != (b < 0) {
        quotient - 1
    } else {
        quotient
    })
}

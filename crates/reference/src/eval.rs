//! One node: the checks, then the operator.

use bespoke_ir::op::Infer;
use bespoke_ir::sym::Symbol;
use bespoke_ir::{DType, Op, SymInt, SymbolOrigin, SymbolTable, TensorType};

use crate::error::ReferenceError;
use crate::op::evaluate;
use crate::tensor::{Tensor, element_count};

/// What an operator knows beside its operands.
#[derive(Debug)]
pub struct Context<'a> {
    /// Name of the operator, for errors.
    pub op: &'static str,
    /// Values of the symbols, indexed by `SymbolId`.
    pub symbols: &'a [i64],
    /// Element type and extents of each result; element counts are within the limit.
    pub results: Vec<(DType, Vec<i64>)>,
}

impl Context<'_> {
    /// The value of a symbolic integer.
    pub fn value(&self, x: &SymInt) -> Result<i64, ReferenceError> {
        x.eval(self.symbols)
            .map_err(|source| ReferenceError::Symbol {
                op: self.op,
                source,
            })
    }

    /// The values of symbolic integers.
    pub fn values<'b>(
        &self,
        xs: impl IntoIterator<Item = &'b SymInt>,
    ) -> Result<Vec<i64>, ReferenceError> {
        xs.into_iter().map(|x| self.value(x)).collect()
    }

    /// Extents of the first result.
    pub fn dims(&self) -> &[i64] {
        &self.results[0].1
    }

    /// Element type of the first result.
    pub fn dtype(&self) -> DType {
        self.results[0].0
    }

    /// An error in the operator's name.
    pub fn error(&self, reason: impl Into<String>) -> ReferenceError {
        ReferenceError::operands(self.op, reason)
    }
}

/// The results of an operator on these operands. `symbols` are the values of the symbols in its attributes, indexed
/// by `SymbolId`.
///
/// # Errors
///
/// Operands that the operator's type rule or its guards refuse, extents beyond [`crate::MAX_ELEMENTS`], symbols
/// without a value, and types without arithmetic.
pub fn eval_node(
    op: &Op,
    inputs: &[&Tensor],
    symbols: &[i64],
) -> Result<Vec<Tensor>, ReferenceError> {
    eval_in(op, inputs, symbols, &known_symbols(symbols))
}

/// A table in which each symbol has exactly its value: it decides most conditions at once.
pub(crate) fn known_symbols(symbols: &[i64]) -> SymbolTable {
    let mut table = SymbolTable::new();
    for (i, &value) in symbols.iter().enumerate() {
        table.add(Symbol {
            min: value,
            max: value,
            ..Symbol::new(format!("s{i}"), SymbolOrigin::Free)
        });
    }
    table
}

/// [`eval_node`] with the table made once.
pub(crate) fn eval_in(
    op: &Op,
    inputs: &[&Tensor],
    symbols: &[i64],
    table: &SymbolTable,
) -> Result<Vec<Tensor>, ReferenceError> {
    let results = result_types(op, inputs, symbols, table.clone())?;
    let cx = Context {
        op: op.name(),
        symbols,
        results,
    };
    evaluate(op, inputs, &cx)
}

/// Element types and extents of the results by the operator's own type rule, all conditions checked.
fn result_types(
    op: &Op,
    inputs: &[&Tensor],
    symbols: &[i64],
    mut table: SymbolTable,
) -> Result<Vec<(DType, Vec<i64>)>, ReferenceError> {
    let name = op.name();
    let types: Vec<TensorType> = inputs
        .iter()
        .map(|t| TensorType::fixed(t.dtype(), t.dims()))
        .collect();
    let types: Vec<&TensorType> = types.iter().collect();
    let mut guards = Vec::new();
    let mut infer = Infer::new(&mut table, &mut guards, &[], name);
    let types = op
        .infer(&types, &mut infer)
        .map_err(|e| ReferenceError::operands(name, e.reason))?;
    if let Some(guard) = guards.iter().find(|g| !g.holds(symbols)) {
        let condition = guard.display(&table).to_string();
        return Err(ReferenceError::Guard {
            op: name,
            condition,
        });
    }
    let mut results = Vec::with_capacity(types.len());
    for ty in &types {
        let dims: Result<Vec<i64>, _> = ty.dims.iter().map(|d| d.eval(symbols)).collect();
        let dims = dims.map_err(|source| ReferenceError::Symbol { op: name, source })?;
        if !ty.dtype.is_computable() {
            return Err(ReferenceError::Unsupported(ty.dtype));
        }
        element_count(ty.dtype, &dims)?;
        results.push((ty.dtype, dims));
    }
    Ok(results)
}

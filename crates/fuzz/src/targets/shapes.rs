//! Target `shape-inference`: graphs of random operators.
//!
//! Each graph is built twice, with symbols and with numbers in their place. Promises: typing ends in a type or an
//! error; the verifier accepts what was typed; and where all guards hold for some values of the symbols, the expressions
//! of the symbolic graph have exactly the values that typing with those numbers gives. Then values that no symbol should
//! ever have are bound, which must end in a number or an error.

use std::path::Path;

use bespoke_ir::sym::{SymProgram, Symbol};
use bespoke_ir::verify::verify;
use bespoke_ir::{DType, Graph, SymInt, SymbolOrigin, SymbolTable, TensorType, ValueId};

use super::operators;
use crate::choices::Choices;
use crate::random::{BORDERS, Rng};
use crate::target::{Seen, Target, outline};

/// Most nodes of a graph.
const NODES: usize = 12;
/// Longest expression that is built upon: expressions of expressions grow without bound.
const TEXT: usize = 2000;

/// The target.
struct Shapes;

/// Makes the target.
pub(crate) fn make(_: &Path) -> Result<Box<dyn Target>, String> {
    Ok(Box::new(Shapes))
}

/// Two symbols with their limits, and a value within the limits for each.
fn symbols(choices: &mut Choices<'_>) -> (SymbolTable, Vec<i64>) {
    let mut table = SymbolTable::new();
    let mut values = Vec::new();
    for (i, name) in ["n", "m"].into_iter().enumerate() {
        let min = choices.pick(&[0, 1, 2, 8]);
        let divisor = choices.pick(&[1, 1, 1, 2, 8]);
        let max = choices.pick(&[i64::MAX, 64, 1 << 20]);
        let origin = SymbolOrigin::InputDim {
            input: 0,
            axis: i as u32,
        };
        table.add(Symbol {
            min,
            max,
            divisor,
            ..Symbol::new(name, origin)
        });
        let wanted = match choices.below(4) {
            0..=2 => choices.below(12) as i64,
            _ => choices.int(),
        };
        let most = max / divisor;
        let times = (wanted.max(0) / divisor).clamp((min + divisor - 1) / divisor, most);
        values.push(times * divisor);
    }
    (table, values)
}

/// The graph with symbols and, as long as it could follow, the graph with numbers.
struct Pair {
    symbolic: Graph,
    fixed: Option<Graph>,
    values: Vec<i64>,
    /// What led here, for people.
    log: Vec<String>,
    seen: Seen,
}

/// Builds the graphs; the error is a broken promise.
fn build(input: &[u8]) -> (Pair, Result<(), String>) {
    let mut choices = Choices::new(input);
    let (table, values) = symbols(&mut choices);
    let mut pair = Pair {
        symbolic: Graph::new("symbolic"),
        fixed: Some(Graph::new("fixed")),
        log: vec![format!("n, m = {values:?}; {table:?}")],
        values,
        seen: Seen::new(),
    };
    pair.symbolic.symbols = table;
    let mut known: Vec<ValueId> = Vec::new();
    for i in 0..1 + choices.below(4) {
        let ty = any_type(&mut choices, &pair.symbolic.symbols);
        if let Some(fixed) = &mut pair.fixed {
            let dims = ty.dims.iter().map(|d| number(d, &pair.values)).collect();
            fixed.add_input(format!("x{i}"), TensorType::new(ty.dtype, dims));
        }
        known.push(pair.symbolic.add_input(format!("x{i}"), ty));
    }
    for i in 0..NODES {
        if choices.ended() {
            break;
        }
        if let Err(broken) = grow(&mut pair, &mut known, &mut choices, i) {
            return (pair, Err(broken));
        }
    }
    (pair, Ok(()))
}

/// The expression as a number; one without a value stays an expression that has none.
fn number(expr: &SymInt, values: &[i64]) -> SymInt {
    expr.substitute(&|id| values.get(id.index()).map(|&v| SymInt::constant(v)))
}

fn any_type(choices: &mut Choices<'_>, table: &SymbolTable) -> TensorType {
    let dtype = choices.pick(&[
        DType::F32,
        DType::F32,
        DType::F32,
        DType::I64,
        DType::F16,
        DType::I32,
        DType::Bool,
        DType::U8,
        DType::U4,
        DType::Complex64,
        DType::String,
    ]);
    let symbols: Vec<SymInt> = table.iter().map(|(id, _)| SymInt::symbol(id)).collect();
    let rank = [2, 4, 3, 1, 0, 5][choices.below(6)];
    let dims = (0..rank)
        .map(|_| match choices.below(8) {
            0..=2 => symbols[choices.below(symbols.len())].clone(),
            3 => SymInt::constant(1),
            4 => SymInt::constant(choices.pick(&BORDERS).max(0)),
            _ => SymInt::constant(2 + choices.below(6) as i64),
        })
        .collect();
    TensorType::new(dtype, dims)
}

/// Adds a node to both graphs.
fn grow(
    pair: &mut Pair,
    known: &mut Vec<ValueId>,
    choices: &mut Choices<'_>,
    index: usize,
) -> Result<(), String> {
    let (operands, build) = operators::next(choices);
    let inputs: Vec<ValueId> = (0..operands)
        .map(|_| known[known.len() - 1 - choices.below(known.len())])
        .collect();
    let types: Vec<&TensorType> = inputs.iter().map(|&v| pair.symbolic.ty(v)).collect();
    let op = build(choices, &types);
    let name = format!("{}{index}", op.name());
    let text = op.attributes(&pair.symbolic.symbols);
    let fixed_op = operators::replace(&op, &|e| number(e, &pair.values));
    let kind = op.name();
    let operands: Vec<String> = types
        .iter()
        .map(|t| t.display(&pair.symbolic.symbols).to_string())
        .collect();
    pair.log
        .push(format!("{name} [{text}] {}", operands.join(" ")));
    let results = match pair.symbolic.add(name.clone(), op, &inputs) {
        Ok(results) => results,
        Err(error) => {
            pair.seen.push(outline("refused", &error.to_string()));
            return Ok(());
        }
    };
    let ranks: Vec<usize> = results
        .iter()
        .map(|&v| pair.symbolic.dims(v).len())
        .collect();
    pair.seen.push(format!("{kind}: {ranks:?}"));
    compare(pair, &name, kind, fixed_op, &inputs, &results)?;
    for v in results {
        let dims = pair.symbolic.dims(v);
        let fits = |d: &SymInt| d.display(&pair.symbolic.symbols).to_string().len() < TEXT;
        if dims.iter().all(fits) {
            known.push(v);
        }
    }
    Ok(())
}

/// Adds the node to the graph of numbers and compares the types of its results.
fn compare(
    pair: &mut Pair,
    name: &str,
    kind: &str,
    op: bespoke_ir::Op,
    inputs: &[ValueId],
    results: &[ValueId],
) -> Result<(), String> {
    let Some(fixed) = &mut pair.fixed else {
        return Ok(());
    };
    if pair.symbolic.guards.iter().any(|g| !g.holds(&pair.values)) {
        pair.seen.push(format!("{kind}: a guard fails"));
        pair.fixed = None;
        return Ok(());
    }
    let want: Vec<(DType, Option<Vec<i64>>)> = results
        .iter()
        .map(|&v| {
            let dims = pair.symbolic.dims(v).iter();
            let dims = dims.map(|d| d.eval(&pair.values).ok()).collect();
            (pair.symbolic.dtype(v), dims)
        })
        .collect();
    if want.iter().any(|(_, dims)| dims.is_none()) {
        // Some extent has no value (an overflow, a division by 0): binding fails, so that there is nothing to compare.
        pair.seen.push(format!("{kind}: no value"));
        pair.fixed = None;
        return Ok(());
    }
    // Both graphs make values in the same order, so that their ids are equal.
    let have: Vec<(DType, Option<Vec<i64>>)> = match fixed.add(name, op, inputs) {
        Ok(made) => made
            .iter()
            .map(|&v| (fixed.dtype(v), fixed.ty(v).static_dims()))
            .collect(),
        Err(error) => {
            return Err(format!(
                "{kind} is refused with numbers, but typed with symbols, and all guards hold\n{error}"
            ));
        }
    };
    if have.iter().any(|(_, dims)| dims.is_none()) {
        // A sum on the way overflows, and with symbols what overflows cancelled out; such a shape cannot be run anyway.
        pair.seen.push(format!("{kind}: overflows"));
        pair.fixed = None;
        return Ok(());
    }
    if want != have {
        return Err(format!(
            "{kind} has other extents with numbers than with symbols\n{have:?}, not {want:?}"
        ));
    }
    if let Some((_, dims)) = have
        .iter()
        .find(|(_, dims)| dims.iter().flatten().any(|&d| d < 0))
    {
        return Err(format!("{kind} has a negative extent\n{dims:?}"));
    }
    Ok(())
}

/// Values that symbols should not have; nothing may break.
fn bind(graph: &Graph) -> Result<(), String> {
    let exprs: Vec<SymInt> = (0..graph.value_bound())
        .filter_map(|i| graph.value_at(i))
        .flat_map(|v| graph.dims(v).to_vec())
        .collect();
    let program = SymProgram::compile(&exprs);
    let count = graph.symbols.len();
    for &extent in &BORDERS {
        let values = vec![extent; count];
        let one_by_one: Result<Vec<i64>, _> = exprs.iter().map(|e| e.eval(&values)).collect();
        let mut at_once = Vec::new();
        match (program.run(&values, &mut at_once), one_by_one) {
            (Ok(()), Ok(want)) if at_once != want => {
                return Err(format!(
                    "the program of all extents differs from each alone where every symbol is {extent}"
                ));
            }
            (Ok(()), Err(error)) => {
                return Err(format!(
                    "the program of all extents has values where one alone has none ({error})"
                ));
            }
            (Err((_, error)), Ok(_)) => {
                return Err(format!(
                    "the program of all extents has no value ({error}) where each alone has"
                ));
            }
            _ => {}
        }
        for guard in &graph.guards {
            guard.holds(&values);
        }
    }
    Ok(())
}

impl Target for Shapes {
    fn seeds(&mut self, rng: &mut Rng) -> Vec<Vec<u8>> {
        let mut seeds = vec![Vec::new()];
        seeds.extend((0..300).map(|i| rng.bytes(24 + i % 120)));
        seeds
    }

    fn run(&mut self, input: &[u8]) -> Result<Seen, String> {
        let (pair, result) = build(input);
        result?;
        verify(&pair.symbolic).map_err(|e| e.to_string())?;
        if let Some(fixed) = &pair.fixed {
            verify(fixed).map_err(|e| e.to_string())?;
        }
        let mut seen = pair.seen;
        seen.push(format!("text: {}", pair.symbolic.to_string().is_empty()));
        bind(&pair.symbolic)?;
        Ok(seen)
    }

    fn describe(&mut self, input: &[u8]) -> Option<String> {
        // What breaks while the graph is built cannot be described by building it; then the message has to do.
        let built = std::panic::catch_unwind(|| build(input).0).ok()?;
        Some(format!("{}\n{}", built.log.join("\n"), built.symbolic))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn graphs_are_typed_and_refused_in_many_ways() {
        let mut target = Shapes;
        let mut rng = Rng::new(1);
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..500 {
            // What is found here is a fault of the crate under test; the fuzz stage reports it.
            seen.extend(target.run(&rng.bytes(100)).unwrap_or_default());
        }
        let typed = seen.iter().filter(|s| s.contains(": [")).count();
        let refused = seen.iter().filter(|s| s.starts_with("refused")).count();
        assert!(
            typed > 20 && refused > 20,
            "{typed} typed, {refused} refused"
        );
    }

    #[test]
    fn values_of_symbols_keep_their_limits() {
        let mut rng = Rng::new(2);
        for _ in 0..1000 {
            let bytes = rng.bytes(20);
            let (table, values) = symbols(&mut Choices::new(&bytes));
            for ((_, symbol), value) in table.iter().zip(values) {
                assert!((symbol.min..=symbol.max).contains(&value));
                assert_eq!(value % symbol.divisor, 0);
            }
        }
    }
}

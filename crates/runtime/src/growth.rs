//! Extents that grow from one run to the next, as far as the model says so.
//!
//! A language model takes a cache of keys and hands it back one entry longer; whoever runs it feeds that to the next run. So
//! where an output is like an input but for one extent, which is a symbol in the input and that symbol and some more in the
//! output, the symbol grows. That nobody has to do so costs a strategy that listens
//! ([`Policy::set_growing`](bespoke_policy::Policy::set_growing)) a few kernels that are not used.

use bespoke_ir::SymInt;
use bespoke_plan::{Plan, Port};
use bespoke_policy::Growing;

/// The symbols of a plan that grow, in order.
pub(crate) fn growing(plan: &Plan) -> Vec<Growing> {
    let mut found: Vec<usize> = Vec::new();
    for output in &plan.outputs {
        let symbols = plan.inputs.iter().filter_map(|i| grown(plan, i, output));
        found.extend(symbols);
    }
    found.sort_unstable();
    found.dedup();
    let most: Vec<i64> = plan.symbols.iter().map(|(_, symbol)| symbol.max).collect();
    let grows = |extent| Growing {
        extent,
        most: most[extent],
    };
    found.into_iter().map(grows).collect()
}

/// The place in a signature of the symbol by which an output is a longer input.
fn grown(plan: &Plan, input: &Port, output: &Port) -> Option<usize> {
    if input.ty.dtype != output.ty.dtype || input.dims.len() != output.dims.len() {
        return None;
    }
    let pairs = input.dims.iter().zip(&output.dims);
    let mut apart = pairs
        .map(|(a, b)| (&plan.exprs[a.0 as usize], &plan.exprs[b.0 as usize]))
        .filter(|(a, b)| a != b);
    let (old, new): (&SymInt, &SymInt) = apart.next()?;
    let symbol = old.as_symbol()?;
    let more = (new.clone() - old.clone()).as_const()?;
    let place = plan.symbols.iter().position(|(id, _)| id == symbol);
    place.filter(|_| more > 0 && apart.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bespoke_ir::op::Concat;
    use bespoke_ir::sym::{Symbol, SymbolOrigin};
    use bespoke_ir::{DType, Graph, TensorType};

    /// Joins tensors of these extents along their second axis; `P` stands for −1.
    fn joined(parts: &[[i64; 2]]) -> Vec<usize> {
        let mut g = Graph::new("joined");
        let origin = SymbolOrigin::InputDim { input: 0, axis: 0 };
        let batch = SymInt::symbol(g.symbols.add(Symbol::new("B", origin)));
        let origin = SymbolOrigin::InputDim { input: 0, axis: 1 };
        let past = SymInt::symbol(g.symbols.add(Symbol::new("P", origin)));
        let extent = |n: i64| match n {
            -1 => past.clone(),
            -2 => batch.clone(),
            n => n.into(),
        };
        let all: Vec<_> = (parts.iter().enumerate())
            .map(|(i, dims)| {
                let dims = dims.iter().map(|&n| extent(n)).collect();
                g.add_input(format!("x{i}"), TensorType::new(DType::F32, dims))
            })
            .collect();
        let y = g.add1("y", Concat { axis: 1 }, &all).unwrap();
        g.add_output(y);
        let found = growing(&bespoke_plan::plan(&g).unwrap());
        found.iter().map(|g| g.extent).collect()
    }

    #[test]
    fn a_cache_that_gets_an_entry_grows() {
        assert_eq!(joined(&[[-2, -1], [-2, 1]]), [1]);
    }

    #[test]
    fn what_doubles_or_stays_does_not() {
        assert_eq!(joined(&[[-2, -1], [-2, -1]]), [] as [usize; 0]);
        assert_eq!(joined(&[[-2, -1]]), [] as [usize; 0]);
    }
}

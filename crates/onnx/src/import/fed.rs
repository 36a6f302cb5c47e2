//! Integers that a model reads out of its inputs: a target shape, a count.
//!
//! The elements of a small integer input become symbols, so that what depends on them is a shape like any other.

use bespoke_ir::sym::Symbol;
use bespoke_ir::{DType, Graph, SymInt, SymbolOrigin, TensorType};

use crate::known::Known;

/// Largest integer input whose elements may become symbols.
const MAX_FED_ELEMENTS: i64 = 16;

/// Whether any input could be fed by value.
pub(super) fn feeds(graph: &Graph) -> bool {
    graph
        .inputs()
        .iter()
        .any(|&input| fed_elements(graph.ty(input)).is_some())
}

fn fed_elements(ty: &TensorType) -> Option<usize> {
    let count = ty.elements().as_const()?;
    let small =
        matches!(ty.dtype, DType::I32 | DType::I64) && ty.rank() <= 1 && count <= MAX_FED_ELEMENTS;
    small.then(|| usize::try_from(count).ok()).flatten()
}

/// The elements of a small integer input as symbols.
pub(super) fn fed(graph: &mut Graph, index: usize, name: &str, ty: &TensorType) -> Option<Known> {
    let count = fed_elements(ty)?;
    let dims = ty.static_dims()?.iter().map(|&d| d as usize).collect();
    let elements = (0..count).map(|element| {
        let origin = SymbolOrigin::InputValue {
            input: index as u32,
            element: element as u32,
        };
        let (min, max) = if ty.dtype == DType::I32 {
            (i32::MIN.into(), i32::MAX.into())
        } else {
            (i64::MIN, i64::MAX)
        };
        let symbol = Symbol {
            min,
            max,
            ..Symbol::new(format!("{name}[{element}]"), origin)
        };
        SymInt::symbol(graph.symbols.add(symbol))
    });
    Some(Known::ints(ty.dtype, dims, elements))
}

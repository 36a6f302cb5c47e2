//! The model's inputs: their types, and the symbols of their extents.
//!
//! A dim of an input is a number, a name, an expression of names, or nothing. Names become symbols, one for each
//! name, bound to the first axis that has it; axes without a name get a symbol of their own. Exporters also write
//! expressions: `8*h` says that an extent is a multiple of 8, `past + 1` relates two inputs. The former becomes one
//! symbol with a divisor, the latter an expression of other inputs' symbols where all of those are known; whoever
//! binds the shapes of a run checks it.

use crate::error::OnnxError;
use crate::proto::type_proto::Value as TypeValue;
use crate::proto::{TypeProto, ValueInfoProto, tensor_shape_proto::dimension::Value as DimValue};
use crate::tensor::{MAX_RANK, element_type};
use bespoke_ir::sym::{Symbol, parse};
use bespoke_ir::{DType, SymInt, SymbolOrigin, SymbolTable, TensorType};
use std::collections::{BTreeMap, HashMap};

/// Spellings of "unknown" that are not names.
const NAMELESS: &[&str] = &["", "?", "None", "none", "-1", "unk", "unknown", "*"];

enum Dim<'a> {
    Fixed(i64),
    Nameless,
    Named(&'a str),
}

/// The types of the inputs, with symbols added to `symbols`. `fixed` gives numbers to names.
pub(crate) fn input_types(
    graph: &str,
    inputs: &[ValueInfoProto],
    fixed: &BTreeMap<String, i64>,
    symbols: &mut SymbolTable,
) -> Result<Vec<TensorType>, OnnxError> {
    let mut specs = Vec::with_capacity(inputs.len());
    for input in inputs {
        let refuse = |reason: String| OnnxError::Graph {
            graph: graph.to_owned(),
            reason: format!("input '{}' {reason}", input.name()),
        };
        specs.push(tensor_type(input.r#type.as_ref(), fixed).map_err(refuse)?);
    }

    let mut names = Names {
        known: HashMap::new(),
        whole: HashMap::new(),
    };
    let origin = |input: usize, axis: usize| SymbolOrigin::InputDim {
        input: input as u32,
        axis: axis as u32,
    };
    let each = || {
        specs.iter().enumerate().flat_map(|(i, (_, dims))| {
            dims.iter()
                .enumerate()
                .filter_map(move |(axis, dim)| match dim {
                    Dim::Named(text) => Some((i, axis, *text)),
                    _ => None,
                })
        })
    };
    // Plain names first, so that expressions can refer to names that come later.
    for (i, axis, text) in each() {
        if plain(text) && !names.known.contains_key(text) {
            let id = symbols.add(Symbol::new(text, origin(i, axis)));
            names.known.insert(text.to_owned(), SymInt::symbol(id));
        }
    }
    // Then multiples of a name that stands nowhere alone.
    for (i, axis, text) in each() {
        if let Some((name, factor)) = multiple(text)
            && !names.known.contains_key(&name)
        {
            let symbol = Symbol {
                divisor: factor,
                ..Symbol::new(text, origin(i, axis))
            };
            let extent = SymInt::symbol(symbols.add(symbol));
            names
                .known
                .insert(name, extent.floor_div(&SymInt::constant(factor)));
            names.whole.insert(text.to_owned(), extent);
        }
    }
    let mut types = Vec::with_capacity(specs.len());
    for (i, (dtype, spec)) in specs.iter().enumerate() {
        let mut dims = Vec::with_capacity(spec.len());
        for (axis, dim) in spec.iter().enumerate() {
            dims.push(match dim {
                Dim::Fixed(value) => SymInt::constant(*value),
                Dim::Named(text) => match names.resolve(text, symbols) {
                    Some(extent) => extent,
                    None => {
                        let extent =
                            SymInt::symbol(symbols.add(Symbol::new(*text, origin(i, axis))));
                        names.whole.insert((*text).to_owned(), extent.clone());
                        extent
                    }
                },
                Dim::Nameless => {
                    let name = format!("{}_{axis}", inputs[i].name());
                    SymInt::symbol(symbols.add(Symbol::new(name, origin(i, axis))))
                }
            });
        }
        types.push(TensorType::new(*dtype, dims));
    }
    Ok(types)
}

struct Names {
    /// Names that stand for a value.
    known: HashMap<String, SymInt>,
    /// Whole dim texts that have a symbol of their own.
    whole: HashMap<String, SymInt>,
}

impl Names {
    fn resolve(&self, text: &str, symbols: &SymbolTable) -> Option<SymInt> {
        if let Some(extent) = self.whole.get(text).or_else(|| self.known.get(text)) {
            return Some(extent.clone());
        }
        let mut scratch = SymbolTable::new();
        let expression = parse(text, &mut scratch).ok()?;
        let mut values = Vec::with_capacity(scratch.len());
        for (_, symbol) in scratch.iter() {
            values.push(self.known.get(&symbol.name)?.clone());
        }
        let extent = expression
            .substitute(&|id| values.get(id.index()).cloned())
            .simplify(symbols);
        extent.error().is_none().then_some(extent)
    }
}

/// Whether the text is one name, in the sense of size expressions or because it is no expression at all.
fn plain(text: &str) -> bool {
    let mut scratch = SymbolTable::new();
    match parse(text, &mut scratch) {
        Ok(expression) => expression.as_symbol().is_some(),
        Err(_) => true,
    }
}

/// `8*h` as (`h`, 8).
fn multiple(text: &str) -> Option<(String, i64)> {
    let mut scratch = SymbolTable::new();
    let expression = parse(text, &mut scratch).ok()?;
    let (id, symbol) = scratch.iter().next().filter(|_| scratch.len() == 1)?;
    let factor = expression.exact_div(&SymInt::symbol(id))?.as_const()?;
    (factor > 1).then(|| (symbol.name.clone(), factor))
}

type Spec<'a> = (DType, Vec<Dim<'a>>);

fn tensor_type<'a>(
    ty: Option<&'a TypeProto>,
    fixed: &BTreeMap<String, i64>,
) -> Result<Spec<'a>, String> {
    let value = ty.and_then(|ty| ty.value.as_ref()).ok_or("has no type")?;
    let tensor = match value {
        TypeValue::TensorType(tensor) => tensor,
        TypeValue::SequenceType(_) => {
            return Err("is a sequence; only tensors are supported".into());
        }
        TypeValue::MapType(_) => return Err("is a map; only tensors are supported".into()),
        TypeValue::OptionalType(_) => {
            return Err("is an optional; only tensors are supported".into());
        }
        TypeValue::SparseTensorType(_) => {
            return Err("is a sparse tensor; only dense ones are supported".into());
        }
        TypeValue::OpaqueType(_) => {
            return Err("has an opaque type; only tensors are supported".into());
        }
    };
    let dtype =
        element_type(tensor.elem_type()).map_err(|reason| format!("is malformed: {reason}"))?;
    if !dtype.is_computable() {
        return Err(format!("has element type {dtype}, which is not supported"));
    }
    let shape = tensor
        .shape
        .as_ref()
        .ok_or("has no declared rank; export the model with the rank of its inputs")?;
    if shape.dim.len() > MAX_RANK {
        return Err(format!(
            "has {} dims; at most {MAX_RANK} are supported",
            shape.dim.len()
        ));
    }
    let dims = shape
        .dim
        .iter()
        .map(|dim| match &dim.value {
            Some(DimValue::DimValue(value)) if *value >= 0 => Dim::Fixed(*value),
            Some(DimValue::DimParam(text)) => {
                let text = text.trim();
                let number = fixed
                    .get(text)
                    .copied()
                    .or_else(|| text.parse().ok().filter(|value| *value >= 0));
                match number {
                    Some(value) => Dim::Fixed(value),
                    None if NAMELESS.contains(&text) => Dim::Nameless,
                    None => Dim::Named(text),
                }
            }
            // Negative numbers are how some exporters say "unknown".
            _ => Dim::Nameless,
        })
        .collect();
    Ok((dtype, dims))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::proto::{TensorShapeProto, tensor_shape_proto::Dimension, type_proto};

    /// An input of the given element type; dims are numbers or names.
    pub(crate) fn input(name: &str, dtype: DType, dims: &[&str]) -> ValueInfoProto {
        let dim = |text: &&str| Dimension {
            value: Some(match text.parse() {
                Ok(value) => DimValue::DimValue(value),
                Err(_) => DimValue::DimParam((*text).to_owned()),
            }),
            ..Default::default()
        };
        ValueInfoProto {
            name: Some(name.into()),
            r#type: Some(TypeProto {
                value: Some(TypeValue::TensorType(type_proto::Tensor {
                    elem_type: Some(dtype.onnx_code()),
                    shape: Some(TensorShapeProto {
                        dim: dims.iter().map(dim).collect(),
                    }),
                })),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn types(inputs: &[(&str, &[&str])], fixed: &[(&str, i64)]) -> (String, SymbolTable) {
        let inputs: Vec<_> = inputs
            .iter()
            .map(|(name, dims)| input(name, DType::F32, dims))
            .collect();
        let fixed = fixed
            .iter()
            .map(|(name, value)| ((*name).to_owned(), *value))
            .collect();
        let mut symbols = SymbolTable::new();
        let types = input_types("g", &inputs, &fixed, &mut symbols).unwrap();
        let text: Vec<String> = types
            .iter()
            .map(|ty| ty.display(&symbols).to_string())
            .collect();
        (text.join(" "), symbols)
    }

    #[test]
    fn equal_names_share_a_symbol_and_nameless_dims_do_not() {
        let (text, symbols) = types(
            &[("x", &["N", "3", "?", "?"]), ("y", &["N", "-1", "p.Dim.0"])],
            &[],
        );
        assert_eq!(text, "f32[N,3,x_2,x_3] f32[N,y_1,`p.Dim.0`]");
        let origin = symbols
            .get(symbols.find("N").unwrap())
            .unwrap()
            .origin
            .clone();
        assert_eq!(origin, SymbolOrigin::InputDim { input: 0, axis: 0 });
        assert_eq!(symbols.len(), 5);
    }

    #[test]
    fn expressions_relate_axes_or_give_a_divisor() {
        let (text, symbols) = types(
            &[
                ("x", &["8*h", "8*h", "4*h"]),
                ("k", &["past + s", "past"]),
                ("q", &["s"]),
            ],
            &[],
        );
        assert_eq!(
            text,
            "f32[`8*h`,`8*h`,floor(`8*h`/2)] f32[past + s,past] f32[s]"
        );
        assert_eq!(
            symbols.get(symbols.find("8*h").unwrap()).unwrap().divisor,
            8
        );
        let (text, _) = types(&[("x", &["a + b", "a + b", "floor(h / 2) + 1"])], &[]);
        assert_eq!(text, "f32[`a + b`,`a + b`,`floor(h / 2) + 1`]");
    }

    #[test]
    fn dims_can_be_fixed_by_name() {
        let (text, symbols) = types(&[("x", &["N", "S"])], &[("N", 4)]);
        assert_eq!(text, "f32[4,S]");
        assert_eq!(symbols.len(), 1);
    }

    #[test]
    fn what_is_no_dense_tensor_is_refused_by_name() {
        let refuse = |input: ValueInfoProto| {
            input_types("g", &[input], &BTreeMap::new(), &mut SymbolTable::new())
                .unwrap_err()
                .to_string()
        };
        assert!(
            refuse(input("x", DType::String, &[])).contains("input 'x' has element type string")
        );
        let mut no_rank = input("x", DType::F32, &[]);
        if let Some(TypeValue::TensorType(tensor)) =
            no_rank.r#type.as_mut().and_then(|ty| ty.value.as_mut())
        {
            tensor.shape = None;
        }
        assert!(refuse(no_rank).contains("no declared rank"));
        assert!(refuse(ValueInfoProto::default()).contains("has no type"));
    }
}

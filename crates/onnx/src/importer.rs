//! The state of an import.
//!
//! [`Importer`] holds the graph under construction and, for each name of the model, a [`Binding`]: its type, the value
//! in the graph if one was built, and its elements if the host knows them. Values come into being when something
//! needs them, so a chain of shape arithmetic that ends in a `Reshape` leaves no node behind.
//!
//! Where the model has to be cut ([`crate::cut`]), the graph under construction is that of the current segment, and a value
//! of an earlier one is brought over when something needs it.
//!
//! An operator's importer sees it through a [`crate::context::Cx`] and answers with [`Fail`] if it cannot go on: the
//! node breaks the rules of its operator, or is legal but beyond what bespoke runs.

use crate::cut::Cutter;
use crate::error::{OnnxError, UnsupportedNode};
use crate::external::ExternalData;
use crate::functions::Functions;
use crate::known::{Elem, Known};
use bespoke_ir::op::{HostInts, Map};
use bespoke_ir::{
    BinaryOp, Constant, DType, Expr, ExprBuilder, Graph, InferError, SymInt, TensorId, TensorType,
    ValueId,
};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

/// Why an importer gave up.
#[derive(Debug)]
pub(crate) enum Fail {
    /// The node is malformed.
    Invalid(String),
    /// The node is legal and cannot be run.
    Unsupported(String),
    /// The node needs an input's elements on the host, and they are not known there.
    NeedsHost {
        /// Which input.
        input: usize,
        /// What for.
        reason: String,
    },
    /// The node can only be run if the model is cut there.
    NeedsCut(String),
    /// Nodes in the node's body cannot be run; they have been reported.
    Body,
    /// Something else that has its own error, such as a malformed tensor attribute.
    Other(OnnxError),
}

/// What importing a node comes to.
pub(crate) type Done<T = ()> = Result<T, Fail>;

impl From<InferError> for Fail {
    fn from(error: InferError) -> Self {
        Fail::Invalid(error.reason)
    }
}

/// Attribute errors.
impl From<String> for Fail {
    fn from(reason: String) -> Self {
        Fail::Invalid(reason)
    }
}

impl From<OnnxError> for Fail {
    fn from(error: OnnxError) -> Self {
        Fail::Other(error)
    }
}

/// A malformed node.
pub(crate) fn invalid<T>(reason: impl Into<String>) -> Done<T> {
    Err(Fail::Invalid(reason.into()))
}

/// A legal node that cannot be run.
pub(crate) fn unsupported<T>(reason: impl Into<String>) -> Done<T> {
    Err(Fail::Unsupported(reason.into()))
}

/// Where a value is.
#[derive(Clone)]
pub(crate) enum Source {
    /// In the graph of the segment of this number; 0 where the model is not cut.
    Value(usize, ValueId),
    /// A tensor of the flow.
    Tensor(TensorId),
    /// In the file, not yet in the graph.
    Constant(Arc<Constant>),
    /// Only its elements are known.
    Known,
}

/// What a name of the model stands for.
#[derive(Clone)]
pub(crate) struct Binding {
    pub(crate) ty: TensorType,
    pub(crate) source: Source,
    pub(crate) known: Option<Rc<Known>>,
}

impl Binding {
    /// Elements that are not in the graph.
    pub(crate) fn known(known: Known) -> Self {
        let dims: Vec<SymInt> = known.dims.iter().map(|&d| d.into()).collect();
        Binding {
            ty: TensorType::new(known.dtype, dims),
            source: Source::Known,
            known: Some(Rc::new(known)),
        }
    }

    /// The only element, if it is a number that is known now.
    pub(crate) fn constant_int(&self) -> Option<i64> {
        match &self.known.as_ref()?.as_ints()?[..] {
            [one] => one.as_const(),
            _ => None,
        }
    }
}

/// A node that cannot be run.
#[derive(Clone)]
pub(crate) struct Failure {
    pub(crate) node: UnsupportedNode,
    /// Whether cutting the model, or knowing elements of inputs, may help.
    pub(crate) needs_host: bool,
}

/// See the module.
pub(crate) struct Importer {
    pub(crate) graph: Graph,
    pub(crate) bindings: HashMap<String, Binding>,
    pub(crate) external: ExternalData,
    /// The model's functions, for calls in bodies.
    pub(crate) functions: Rc<Functions>,
    pub(crate) failures: Vec<Failure>,
    /// The flow under construction, if the model may be cut.
    pub(crate) cutter: Option<Cutter>,
    /// Nodes of bodies that were imported so far, each time they were.
    pub(crate) body_nodes: usize,
}

impl Importer {
    pub(crate) fn new(graph: Graph, external: ExternalData, functions: Rc<Functions>) -> Self {
        Importer {
            graph,
            bindings: HashMap::new(),
            external,
            functions,
            failures: Vec::new(),
            cutter: None,
            body_nodes: 0,
        }
    }

    /// Number of the segment under construction.
    pub(crate) fn segment(&self) -> usize {
        self.cutter.as_ref().map_or(0, |cutter| cutter.segment)
    }

    /// Binds a name to a value of the graph, with its elements if the host knows them.
    pub(crate) fn bind_value(&mut self, name: &str, value: ValueId, known: Option<Known>) {
        let ty = self.graph.ty(value).clone();
        let binding = Binding {
            ty,
            source: Source::Value(self.segment(), value),
            known: known.map(Rc::new),
        };
        self.bindings.insert(name.to_owned(), binding);
    }

    /// Binds a name to a constant of the file.
    pub(crate) fn bind_constant(&mut self, name: &str, constant: Arc<Constant>) {
        let known = Known::from_constant(&constant).map(Rc::new);
        let ty = constant.ty();
        self.bindings.insert(
            name.to_owned(),
            Binding {
                ty,
                source: Source::Constant(constant),
                known,
            },
        );
    }

    /// Binds a name to known elements that are not in the graph.
    pub(crate) fn bind_known(&mut self, name: &str, known: Known) {
        self.bindings.insert(name.to_owned(), Binding::known(known));
    }

    /// The value behind a bound name, built or brought over if need be.
    pub(crate) fn materialise(&mut self, name: &str) -> Option<Done<ValueId>> {
        let binding = self.bindings.get(name)?.clone();
        let value = self.value_of(name, &binding);
        let segment = self.segment();
        if let Ok(value) = value
            && let Some(binding) = self.bindings.get_mut(name)
        {
            binding.source = Source::Value(segment, value);
        }
        Some(value)
    }

    /// The value that a binding stands for, in the graph of the current segment.
    pub(crate) fn value_of(&mut self, name: &str, binding: &Binding) -> Done<ValueId> {
        let segment = self.segment();
        match (&binding.source, &binding.known) {
            (Source::Value(at, value), _) if *at == segment => Ok(*value),
            (Source::Constant(constant), _) => Ok(self.graph.add_constant(name, constant.clone())),
            // what the host knows is made again rather than kept
            (_, Some(known)) if known.dtype.is_computable() => {
                known_value(&mut self.graph, name, known)
            }
            (Source::Value(at, value), _) => self.bring(*at, *value),
            (Source::Tensor(tensor), _) => self.feed(*tensor),
            (Source::Known, _) => unsupported("the value is neither computed nor known"),
        }
    }
}

/// Builds the tensor of known elements: a constant, or integers from the host with the arithmetic that is left.
pub(crate) fn known_value(graph: &mut Graph, name: &str, known: &Known) -> Done<ValueId> {
    if let Some(constant) = known.to_constant() {
        return Ok(graph.add_constant(name, constant));
    }
    let dims: Vec<i64> = known.dims.iter().map(|&d| d as i64).collect();
    let host = |graph: &mut Graph, name: &str, dtype: DType, elements: Vec<SymInt>| {
        graph.add1(
            name,
            HostInts {
                dtype,
                dims: dims.clone(),
                elements,
            },
            &[],
        )
    };
    if let Some(ints) = known.as_ints() {
        return Ok(match known.dtype {
            DType::I32 | DType::I64 => host(graph, name, known.dtype, ints)?,
            other => {
                let wide = host(graph, &format!("{name}/host"), DType::I64, ints)?;
                graph.add1(name, Map::new(Expr::cast(DType::I64, other)), &[wide])?
            }
        });
    }
    // Floats: numerators from the host over a constant denominator each.
    let mut numerators = Vec::with_capacity(known.elems.len());
    let mut denominators = Vec::with_capacity(known.elems.len());
    for elem in &known.elems {
        let (num, den) = match elem {
            Elem::Ratio(num, den) => (num.clone(), *den as f64),
            // A number beside symbolic elements: itself over one, if it is whole, else one over its inverse.
            Elem::Float(value) if value.fract() == 0.0 && value.abs() < 9.0e15 => {
                ((*value as i64).into(), 1.0)
            }
            Elem::Float(value) if *value != 0.0 => (SymInt::constant(1), 1.0 / value),
            Elem::Float(_) => (SymInt::constant(0), 1.0),
            Elem::Int(value) => (value.clone(), 1.0),
        };
        numerators.push(num);
        denominators.push(Elem::Float(den));
    }
    let numerators = host(graph, &format!("{name}/host"), DType::I64, numerators)?;
    let unit = denominators.iter().all(|den| *den == Elem::Float(1.0));
    let mut b = if unit {
        ExprBuilder::new(&[DType::I64])
    } else {
        ExprBuilder::new(&[DType::I64, DType::F64])
    };
    let num = b.input(0);
    if unit {
        let result = b.cast(known.dtype, num);
        return Ok(graph.add1(name, Map::new(b.finish(result)), &[numerators])?);
    }
    let den = Known {
        dtype: DType::F64,
        dims: known.dims.clone(),
        elems: denominators,
    };
    let Some(den) = den.to_constant() else {
        return unsupported("a denominator is symbolic");
    };
    let den = graph.add_constant(format!("{name}/denominator"), den);
    let (num, over) = (b.cast(DType::F64, num), b.input(1));
    let quotient = b.binary(BinaryOp::Div, num, over);
    let result = b.cast(known.dtype, quotient);
    Ok(graph.add1(name, Map::new(b.finish(result)), &[numerators, den])?)
}

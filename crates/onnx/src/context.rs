//! What an operator's importer sees of its node.
//!
//! A [`Cx`] gives typed access to attributes and inputs, adds nodes to the graph and binds the outputs. It also keeps the
//! rules that hold for every operator: types that nothing computes with are refused, results are checked for overflow
//! and absurd size, outputs get their names.

use crate::attributes::Attributes;
use crate::importer::{Binding, Done, Fail, Importer, Source, invalid, known_value, unsupported};
use crate::known::{Elem, Known};
use crate::node::Node;
use crate::tensor;
use bespoke_ir::expr::Reg;
use bespoke_ir::flow::ShapeOf;
use bespoke_ir::op::{Map, Op, Reshape};
use bespoke_ir::{
    Constant, DType, Expr, ExprBuilder, Infer, InferError, SymInt, SymbolTable, TensorType, ValueId,
};
use std::rc::Rc;
use std::sync::Arc;

/// Largest tensor whose size is known at import, in bytes. Nothing real comes near; bombs go beyond.
const MAX_TENSOR_BYTES: u64 = 1 << 40;

/// One node under import.
pub(crate) struct Cx<'a> {
    pub(crate) attrs: Attributes<'a>,
    /// Version of the operator set that the node was written for.
    pub(crate) opset: i64,
    imp: &'a mut Importer,
    node: &'a Node,
    name: String,
    set: Vec<bool>,
}

impl<'a> Cx<'a> {
    pub(crate) fn new(imp: &'a mut Importer, node: &'a Node) -> Self {
        let name = match node.proto.name() {
            "" => node
                .proto
                .output
                .iter()
                .find(|o| !o.is_empty())
                .cloned()
                .unwrap_or_else(|| node.op()),
            name => name.to_owned(),
        };
        Cx {
            attrs: Attributes::new(&node.proto),
            opset: node.opset(),
            imp,
            node,
            name,
            set: vec![false; node.proto.output.len()],
        }
    }

    /// The operator's name.
    pub(crate) fn op_type(&self) -> &'a str {
        self.node.proto.op_type()
    }

    /// Checks the number of inputs; trailing absent ones count if they are written.
    pub(crate) fn inputs(&self, min: usize, max: usize) -> Done<usize> {
        let count = self.node.proto.input.len();
        // Trailing empty names are another way to leave an input out.
        let given = self
            .node
            .proto
            .input
            .iter()
            .rposition(|name| !name.is_empty())
            .map_or(0, |last| last + 1);
        if given < min || given > max {
            let range = if min == max {
                min.to_string()
            } else {
                format!("{min} to {max}")
            };
            return invalid(format!("it has {count} inputs, but takes {range}"));
        }
        for i in 0..min {
            if !self.has(i) {
                return invalid(format!("its input {i} is required, but left out"));
            }
        }
        Ok(given)
    }

    /// Whether input `i` is given.
    pub(crate) fn has(&self, i: usize) -> bool {
        self.node
            .proto
            .input
            .get(i)
            .is_some_and(|name| !name.is_empty())
    }

    /// Number of outputs, wanted or not.
    pub(crate) fn output_count(&self) -> usize {
        self.node.proto.output.len()
    }

    /// Whether output `i` is wanted.
    pub(crate) fn wants(&self, i: usize) -> bool {
        self.node
            .proto
            .output
            .get(i)
            .is_some_and(|name| !name.is_empty())
    }

    fn binding(&self, i: usize) -> Done<&Binding> {
        let name = self.node.proto.input.get(i).map_or("", String::as_str);
        match self.imp.bindings.get(name) {
            Some(binding) => Ok(binding),
            None => invalid(format!("its input {i} is required, but left out")),
        }
    }

    /// Type of input `i`.
    pub(crate) fn ty(&self, i: usize) -> Done<TensorType> {
        Ok(self.binding(i)?.ty.clone())
    }

    /// Element type of input `i`.
    pub(crate) fn dtype(&self, i: usize) -> Done<DType> {
        Ok(self.binding(i)?.ty.dtype)
    }

    /// Extents of input `i`.
    pub(crate) fn dims(&self, i: usize) -> Done<Vec<SymInt>> {
        Ok(self.binding(i)?.ty.dims.clone())
    }

    /// Rank of input `i`.
    pub(crate) fn rank(&self, i: usize) -> Done<usize> {
        Ok(self.binding(i)?.ty.rank())
    }

    /// The elements of input `i`, if the host knows them.
    pub(crate) fn known(&self, i: usize) -> Option<Rc<Known>> {
        self.binding(i).ok()?.known.clone()
    }

    /// Input `i` as a value of the graph. Types that nothing computes with are refused here.
    pub(crate) fn value(&mut self, i: usize) -> Done<ValueId> {
        let dtype = self.dtype(i)?;
        if !dtype.is_computable() {
            return unsupported(format!(
                "input {i} has element type {dtype}, with which nothing computes yet"
            ));
        }
        let name = self.node.proto.input[i].clone();
        self.imp
            .materialise(&name)
            .unwrap_or_else(|| invalid(format!("its input {i} is left out")))
    }

    /// Input `i` as a value, if it is given.
    pub(crate) fn optional(&mut self, i: usize) -> Done<Option<ValueId>> {
        if self.has(i) {
            self.value(i).map(Some)
        } else {
            Ok(None)
        }
    }

    /// The elements of an integer input that the importer must know, row-major. `what` names it in the message.
    pub(crate) fn host_ints(&self, i: usize, what: &str) -> Done<Vec<SymInt>> {
        let binding = self.binding(i)?;
        if !binding.ty.dtype.is_int() {
            return invalid(format!(
                "{what} (input {i}) has element type {}, not an integer",
                binding.ty.dtype
            ));
        }
        if binding.ty.rank() > 1 {
            return invalid(format!(
                "{what} (input {i}) has rank {}, not 1",
                binding.ty.rank()
            ));
        }
        match binding.known.as_ref().and_then(|known| known.as_ints()) {
            Some(ints) => Ok(ints),
            None => Err(Fail::NeedsHost {
                input: i,
                reason: format!(
                    "{what} (input {i}) is computed from the data, but must be known from the shapes"
                ),
            }),
        }
    }

    /// As [`Cx::host_ints`], plain numbers.
    pub(crate) fn const_ints(&self, i: usize, what: &str) -> Done<Vec<i64>> {
        let ints = self.host_ints(i, what)?;
        match ints.iter().map(SymInt::as_const).collect() {
            Some(values) => Ok(values),
            None => unsupported(format!(
                "{what} (input {i}) depends on the shapes of the inputs, but must be constant"
            )),
        }
    }

    /// The only element of an integer input that the importer must know.
    pub(crate) fn host_int(&self, i: usize, what: &str) -> Done<SymInt> {
        match &self.host_ints(i, what)?[..] {
            [one] => Ok(one.clone()),
            other => invalid(format!(
                "{what} (input {i}) must have one element, but has {}",
                other.len()
            )),
        }
    }

    /// The elements of an input that must be constant numbers.
    pub(crate) fn const_numbers(&self, i: usize, what: &str) -> Done<Vec<f64>> {
        let binding = self.binding(i)?;
        let numbers = |known: &Known| {
            known
                .elems
                .iter()
                .map(Elem::number)
                .collect::<Option<Vec<f64>>>()
        };
        match (binding.known.as_deref().and_then(numbers), &binding.known) {
            (Some(numbers), _) => Ok(numbers),
            (None, Some(_)) => unsupported(format!(
                "{what} (input {i}) depends on the shapes, but must be constant"
            )),
            (None, None) => unsupported(format!(
                "{what} (input {i}) is computed from the data, but must be constant"
            )),
        }
    }

    /// Adds an IR node. `suffix` tells several nodes of one ONNX node apart; empty for the main one.
    pub(crate) fn emit(
        &mut self,
        suffix: &str,
        op: impl Into<Op>,
        inputs: &[ValueId],
    ) -> Done<ValueId> {
        Ok(self.emit_all(suffix, op, inputs)?[0])
    }

    /// [`Cx::emit`] for an operator of several results.
    pub(crate) fn emit_all(
        &mut self,
        suffix: &str,
        op: impl Into<Op>,
        inputs: &[ValueId],
    ) -> Done<Vec<ValueId>> {
        let name = if suffix.is_empty() {
            self.name.clone()
        } else {
            format!("{}/{suffix}", self.name)
        };
        let values = self.imp.graph.add(name, op, inputs)?;
        for &value in &values {
            let ty = self.imp.graph.ty(value);
            if let Some(error) = ty.dims.iter().find_map(SymInt::error) {
                return invalid(format!(
                    "an extent of its result cannot be computed: {error}"
                ));
            }
            if let Some(dims) = ty.static_dims() {
                let bytes = tensor::element_count(&dims).map(|count| ty.dtype.bytes_for(count));
                if !matches!(bytes, Ok(Some(bytes)) if bytes <= MAX_TENSOR_BYTES) {
                    return invalid(format!(
                        "its result {}{dims:?} is larger than any memory",
                        ty.dtype
                    ));
                }
            }
            if ty.rank() > tensor::MAX_RANK {
                return invalid(format!(
                    "its result has {} dims; at most {} are supported",
                    ty.rank(),
                    tensor::MAX_RANK
                ));
            }
        }
        Ok(values)
    }

    /// Adds an elementwise function of `inputs`, which broadcast.
    pub(crate) fn map(
        &mut self,
        suffix: &str,
        inputs: &[ValueId],
        body: impl FnOnce(&mut ExprBuilder, &[Reg]) -> Reg,
    ) -> Done<ValueId> {
        let types: Vec<DType> = inputs
            .iter()
            .map(|&value| self.imp.graph.dtype(value))
            .collect();
        let mut b = ExprBuilder::new(&types);
        let regs: Vec<_> = (0..types.len()).map(|i| b.input(i)).collect();
        let result = body(&mut b, &regs);
        self.emit(suffix, Map::new(b.finish(result)), inputs)
    }

    /// The value in another element type; the value itself if it has it already.
    pub(crate) fn cast(&mut self, suffix: &str, value: ValueId, dtype: DType) -> Done<ValueId> {
        let from = self.imp.graph.dtype(value);
        if from == dtype {
            return Ok(value);
        }
        self.emit(suffix, Map::new(Expr::cast(from, dtype)), &[value])
    }

    /// The value under other extents; the value itself if it has them already.
    pub(crate) fn reshape(
        &mut self,
        suffix: &str,
        value: ValueId,
        dims: Vec<SymInt>,
    ) -> Done<ValueId> {
        if self.imp.graph.dims(value) == dims {
            return Ok(value);
        }
        self.emit(suffix, Reshape { dims }, &[value])
    }

    /// A list as a tensor that broadcasts along `axis` of tensors of `rank`.
    pub(crate) fn along_axis(
        &mut self,
        suffix: &str,
        list: ValueId,
        axis: usize,
        rank: usize,
    ) -> Done<ValueId> {
        let mut dims = self.imp.graph.dims(list).to_vec();
        dims.extend(vec![SymInt::constant(1); rank - axis - 1]);
        self.reshape(suffix, list, dims)
    }

    /// Adds a constant tensor.
    pub(crate) fn constant(&mut self, suffix: &str, known: &Known) -> Done<ValueId> {
        let name = format!("{}/{suffix}", self.name);
        known_value(&mut self.imp.graph, &name, known)
    }

    /// Type of a value that was emitted.
    pub(crate) fn value_ty(&self, value: ValueId) -> &TensorType {
        self.imp.graph.ty(value)
    }

    /// Output `i` is `value`, which gets the output's name if this node made it.
    pub(crate) fn set(&mut self, i: usize, value: ValueId) {
        let Some(name) = self.output_name(i) else {
            return;
        };
        let made_here = self
            .imp
            .graph
            .value(value)
            .producer()
            .is_some_and(|(node, _)| {
                let at = &self.imp.graph.node(node).name;
                *at == self.name
                    || at
                        .strip_prefix(&self.name)
                        .is_some_and(|rest| rest.starts_with('/'))
            });
        let alias = self.node.proto.input.iter().any(|input| {
            matches!(self.imp.bindings.get(input), Some(Binding { source: Source::Value(at, v), .. })
                if *v == value && *at == self.imp.segment())
        });
        if made_here && !alias {
            self.imp.graph.rename_value(value, &name);
        }
        self.imp.bind_value(&name, value, None);
    }

    /// Output `i` has these elements.
    pub(crate) fn set_known(&mut self, i: usize, known: Known) {
        if let Some(name) = self.output_name(i) {
            self.imp.bind_known(&name, known);
        }
    }

    /// Output `i` is this constant.
    pub(crate) fn set_constant(&mut self, i: usize, constant: Arc<Constant>) {
        if let Some(name) = self.output_name(i) {
            self.imp.bind_constant(&name, constant);
        }
    }

    /// Output `i` is input `from`, unchanged.
    pub(crate) fn forward(&mut self, i: usize, from: usize) -> Done {
        let binding = self.binding(from)?.clone();
        if let Some(name) = self.output_name(i) {
            // A constant or a known tensor would otherwise be built once under each name.
            if matches!(binding.source, Source::Constant(_) | Source::Known)
                && binding.ty.dtype.is_computable()
                && binding.known.is_none()
            {
                let value = self.value(from)?;
                self.imp.bind_value(&name, value, None);
            } else {
                self.imp.bindings.insert(name, binding);
            }
        }
        Ok(())
    }

    fn output_name(&mut self, i: usize) -> Option<String> {
        if let Some(set) = self.set.get_mut(i) {
            *set = true;
        }
        self.node
            .proto
            .output
            .get(i)
            .filter(|name| !name.is_empty())
            .cloned()
    }

    /// The first output that is wanted and was not set.
    pub(crate) fn missing_output(&self) -> Option<usize> {
        (0..self.set.len()).find(|&i| !self.set[i] && self.wants(i))
    }

    /// What an input stands for, if it is given.
    pub(crate) fn input(&self, i: usize) -> Done<Option<Binding>> {
        match self.has(i) {
            true => self.binding(i).cloned().map(Some),
            false => Ok(None),
        }
    }

    /// Output `i` is what a binding stands for.
    pub(crate) fn set_binding(&mut self, i: usize, binding: Binding) {
        if let Some(name) = self.output_name(i) {
            self.imp.bindings.insert(name, binding);
        }
    }

    /// An emitted value as something that outlives a cut, when its number means nothing any more.
    pub(crate) fn hold(&self, value: ValueId) -> Binding {
        Binding {
            ty: self.imp.graph.ty(value).clone(),
            source: Source::Value(self.imp.segment(), value),
            known: None,
        }
    }

    /// What is held, as a value of the current segment.
    pub(crate) fn held(&mut self, binding: &Binding) -> Done<ValueId> {
        self.imp.value_of(&self.name, binding)
    }

    /// Symbols for the elements of an integer tensor that the device computes: the model is cut here, and every value that
    /// was emitted before must be [held](Cx::hold).
    pub(crate) fn read(&mut self, held: &Binding, what: &str) -> Done<Vec<SymInt>> {
        let name = format!("{}.{what}", self.name);
        self.imp.read(&name, held, &self.node.label(), None)
    }

    /// The extents that an integer input asks for when data of extents `dims` is reshaped, if only the device knows them:
    /// the host reads them and gives -1 and 0 their meaning.
    pub(crate) fn read_shape(
        &mut self,
        i: usize,
        dims: Vec<SymInt>,
        allow_zero: bool,
    ) -> Done<Option<Vec<SymInt>>> {
        let binding = self.binding(i)?.clone();
        if binding.known.is_some() || self.imp.cutter.is_none() || !binding.ty.dtype.is_int() {
            return Ok(None);
        }
        let name = self.node.proto.input[i].clone();
        let of = ShapeOf { dims, allow_zero };
        let label = self.node.label();
        self.imp.read(&name, &binding, &label, Some(of)).map(Some)
    }

    /// The node, for operators with bodies.
    pub(crate) fn node(&self) -> &'a Node {
        self.node
    }

    /// The node's name for people.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The importer, for operators with bodies.
    pub(crate) fn importer(&mut self) -> &mut Importer {
        self.imp
    }

    /// The symbols of the graph.
    pub(crate) fn symbols(&self) -> &SymbolTable {
        &self.imp.graph.symbols
    }

    /// The expression, rewritten with what is known of the symbols.
    pub(crate) fn simplify(&self, value: &SymInt) -> SymInt {
        value.simplify(&self.imp.graph.symbols)
    }

    /// Runs a check that may leave a guard in the graph.
    pub(crate) fn require(
        &mut self,
        check: impl FnOnce(&mut Infer<'_>) -> Result<(), InferError>,
    ) -> Done {
        let graph = &mut self.imp.graph;
        let mut infer = Infer::new(&mut graph.symbols, &mut graph.guards, &[], &self.name);
        Ok(check(&mut infer)?)
    }

    /// Requires two extents to be equal.
    pub(crate) fn require_equal(&mut self, what: &str, a: &SymInt, b: &SymInt) -> Done {
        self.require(|infer| infer.require_equal(what, a, b))
    }

    /// A tensor attribute as a constant.
    pub(crate) fn tensor_attribute(&mut self, name: &'static str) -> Done<Option<Arc<Constant>>> {
        match self.attrs.tensor(name)? {
            None => Ok(None),
            Some(tensor) => Ok(Some(tensor::constant(tensor, &mut self.imp.external)?)),
        }
    }

    /// An axis in `-rank..rank` as a position.
    pub(crate) fn axis(&self, axis: i64, rank: usize) -> Done<usize> {
        Ok(bespoke_ir::op::normalize_axis(axis, rank)?)
    }

    /// Axes in `-rank..rank` as increasing positions; a repeated axis is an error.
    pub(crate) fn axes(&self, axes: &[i64], rank: usize) -> Done<Vec<usize>> {
        let mut list = axes
            .iter()
            .map(|&axis| self.axis(axis, rank))
            .collect::<Done<Vec<usize>>>()?;
        list.sort_unstable();
        if list.windows(2).any(|pair| pair[0] == pair[1]) {
            return invalid(format!("axes {axes:?} name an axis twice"));
        }
        Ok(list)
    }
}

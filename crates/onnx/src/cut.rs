//! Cutting a model into segments while it is imported.
//!
//! Where the host must know something that the device computes, the graph under construction ends, and another one begins
//! behind the decision. [`Cutter`] holds the flow that comes of it: closed segments, open blocks, and where the values
//! that pass between segments are. Nobody plans what has to pass: a value is brought over when something in a later segment
//! needs it, and becomes an output of its own segment then. Constants, and integers that the host knows, are never passed;
//! each segment makes its own.
//!
//! All segments share one table of symbols, which only grows: it moves from each graph to the next.

use std::collections::HashMap;

use bespoke_ir::flow::{Block, Flow, Item, Read, Segment, ShapeOf};
use bespoke_ir::op::Map;
use bespoke_ir::sym::Symbol;
use bespoke_ir::{
    DType, Expr, Graph, SymInt, SymbolId, SymbolOrigin, TensorId, TensorType, ValueId,
};

use crate::error::OnnxError;
use crate::import::of_output;
use crate::importer::{Binding, Done, Importer, Source, unsupported};
use crate::known::Known;

/// Most elements of a tensor that the host reads to know extents.
const MAX_READ: i64 = 64;

/// See the module.
#[derive(Clone)]
pub(crate) struct Cutter {
    /// Number of the segment under construction. Its graph is the importer's.
    pub(crate) segment: usize,
    pub(crate) flow: Flow,
    /// Blocks that are not complete, the innermost last.
    blocks: Vec<Block>,
    /// The tensor that a value of a segment is, if it passes.
    homes: HashMap<(usize, ValueId), TensorId>,
    /// The input of a segment that a tensor is there.
    fed: HashMap<(usize, TensorId), ValueId>,
    /// How often a name was given to a tensor.
    names: HashMap<String, usize>,
}

impl Cutter {
    /// A flow with nothing in it but its inputs.
    pub(crate) fn new(graph: &Graph) -> Self {
        let mut cutter = Cutter {
            segment: 0,
            flow: Flow {
                name: graph.name.clone(),
                metadata: graph.metadata.clone(),
                ..Flow::default()
            },
            blocks: vec![Block::default()],
            homes: HashMap::new(),
            fed: HashMap::new(),
            names: HashMap::new(),
        };
        cutter.reserve();
        for &input in graph.inputs() {
            let (name, ty) = (&graph.value(input).name, graph.ty(input).clone());
            let tensor = cutter.tensor(name, ty);
            cutter.flow.inputs.push(tensor);
        }
        cutter
    }

    /// Makes room for the next segment.
    fn reserve(&mut self) {
        self.flow.segments.push(Segment {
            graph: Graph::default(),
            inputs: Vec::new(),
            outputs: Vec::new(),
        });
        self.segment = self.flow.segments.len() - 1;
    }

    /// A new tensor; its name is made unique.
    pub(crate) fn tensor(&mut self, name: &str, ty: TensorType) -> TensorId {
        let count = self.names.entry(name.to_owned()).or_default();
        *count += 1;
        let name = match *count {
            1 => name.to_owned(),
            count => format!("{name}~{count}"),
        };
        self.flow.add_tensor(name, ty)
    }
}

/// Turns an importer that has nothing but inputs into one that cuts.
pub(crate) fn begin_flow(importer: &mut Importer) {
    let cutter = Cutter::new(&importer.graph);
    for (&input, &tensor) in importer.graph.inputs().iter().zip(&cutter.flow.inputs) {
        if let Some(binding) = importer.bindings.get_mut(&importer.graph.value(input).name) {
            binding.source = Source::Tensor(tensor);
        }
    }
    let mut first = Graph::new(importer.graph.name.clone());
    first.symbols = importer.graph.symbols.clone();
    importer.graph = first;
    importer.cutter = Some(cutter);
}

/// The flow, when every node is imported; what is left as the importer's graph is the border of the model.
pub(crate) fn end_flow(
    importer: &mut Importer,
    name: &str,
    wanted: &[String],
) -> Result<Flow, OnnxError> {
    let refuse = |reason: String| OnnxError::Graph {
        graph: name.to_owned(),
        reason,
    };
    let mut outputs = Vec::with_capacity(wanted.len());
    for output in wanted {
        let Some(binding) = importer.bindings.get(output).cloned() else {
            return Err(refuse(format!("nothing defines its output '{output}'")));
        };
        let tensor = importer.tensor_of(output, &binding);
        let tensor = tensor.map_err(|fail| of_output(output, fail, &refuse))?;
        outputs.push((output.clone(), tensor));
    }
    let closed = importer.close();
    closed.map_err(|fail| of_output("", fail, &refuse))?;
    let Some(cutter) = importer.cutter.take() else {
        return Err(refuse("it was not cut".into()));
    };
    let flow = cutter.finish(&importer.graph, outputs);
    let mut border = Graph::new(name);
    border.metadata.clone_from(&flow.metadata);
    border.symbols = flow.symbols.clone();
    for &input in &flow.inputs {
        let tensor = flow.tensor(input);
        border.add_input(tensor.name.clone(), tensor.ty.clone());
    }
    importer.graph = border;
    Ok(flow)
}

impl Importer {
    fn cutter(&mut self) -> Done<&mut Cutter> {
        match self.cutter.as_mut() {
            Some(cutter) => Ok(cutter),
            None => unsupported("the model would have to be cut here"),
        }
    }

    /// Ends the graph under construction; until [`Importer::open`] there is none.
    pub(crate) fn close(&mut self) -> Done {
        let mut next = Graph::new(self.graph.name.clone());
        next.symbols = self.graph.symbols.clone();
        let graph = std::mem::replace(&mut self.graph, next);
        let cutter = self.cutter()?;
        cutter.flow.segments[cutter.segment].graph = graph;
        let segment = Item::Segment(cutter.segment);
        cutter.push(segment);
        Ok(())
    }

    /// Begins the next graph, in the innermost block.
    pub(crate) fn open(&mut self) -> Done {
        self.cutter()?.reserve();
        Ok(())
    }

    /// Adds an item to the innermost block.
    pub(crate) fn push(&mut self, item: Item) -> Done {
        self.cutter()?.push(item);
        Ok(())
    }

    /// Begins a block in the current one, with a graph of its own.
    pub(crate) fn enter(&mut self) -> Done {
        self.cutter()?.blocks.push(Block::default());
        self.open()
    }

    /// Ends the innermost block.
    pub(crate) fn leave(&mut self) -> Done<Block> {
        self.close()?;
        Ok(self.cutter()?.blocks.pop().unwrap_or_default())
    }

    /// A new tensor.
    pub(crate) fn new_tensor(&mut self, name: &str, ty: TensorType) -> Done<TensorId> {
        Ok(self.cutter()?.tensor(name, ty))
    }

    /// A new tensor with a symbol of its own for each of the marked extents, which gets its value from the tensor's
    /// content.
    pub(crate) fn binding_tensor(
        &mut self,
        name: &str,
        mut ty: TensorType,
        own: &[bool],
    ) -> Done<TensorId> {
        let mut binds = Vec::new();
        for axis in (0..ty.rank()).filter(|&axis| own[axis]) {
            let symbol = Symbol::new(format!("{name}_{axis}"), SymbolOrigin::Cut);
            let id = self.graph.symbols.add(symbol);
            ty.dims[axis] = SymInt::symbol(id);
            binds.push((axis, id));
        }
        let cutter = self.cutter()?;
        let tensor = cutter.tensor(name, ty);
        cutter.flow.tensors[tensor.index()].binds = binds;
        Ok(tensor)
    }

    /// What a tensor stands for.
    pub(crate) fn tensor_binding(&mut self, tensor: TensorId) -> Done<Binding> {
        Ok(Binding {
            ty: self.cutter()?.flow.tensor(tensor).ty.clone(),
            source: Source::Tensor(tensor),
            known: None,
        })
    }

    /// A tensor as a value of the current segment.
    pub(crate) fn feed(&mut self, tensor: TensorId) -> Done<ValueId> {
        let cutter = self.cutter()?;
        let segment = cutter.segment;
        if let Some(&value) = cutter.fed.get(&(segment, tensor)) {
            return Ok(value);
        }
        let made = cutter.flow.tensor(tensor).clone();
        let value = self.graph.add_input(made.name, made.ty);
        let cutter = self.cutter()?;
        cutter.flow.segments[segment].inputs.push(tensor);
        cutter.fed.insert((segment, tensor), value);
        cutter.homes.insert((segment, value), tensor);
        Ok(value)
    }

    /// A value of another segment as a value of the current one.
    pub(crate) fn bring(&mut self, segment: usize, value: ValueId) -> Done<ValueId> {
        let graph = &self.cutter()?.flow.segments[segment].graph;
        if let Some(constant) = graph.constant(value) {
            let (name, constant) = (graph.value(value).name.clone(), constant.clone());
            return Ok(self.graph.add_constant(name, constant));
        }
        let tensor = self.export(segment, value)?;
        self.feed(tensor)
    }

    /// A value of a segment as a tensor.
    fn export(&mut self, segment: usize, value: ValueId) -> Done<TensorId> {
        let cutter = self.cutter()?;
        if let Some(&tensor) = cutter.homes.get(&(segment, value)) {
            return Ok(tensor);
        }
        let current = segment == cutter.segment;
        let graph = match (self.cutter.as_mut(), current) {
            (Some(cutter), false) => &mut cutter.flow.segments[segment].graph,
            _ => &mut self.graph,
        };
        let made = graph.value(value);
        let (name, ty) = (made.name.clone(), made.ty.clone());
        // an output needs a buffer of its own, which a constant is not
        let output = match made.producer() {
            Some(_) => value,
            None => graph.add1(name.clone(), Map::new(Expr::identity(ty.dtype)), &[value])?,
        };
        graph.add_output(output);
        let cutter = self.cutter()?;
        let tensor = cutter.tensor(&name, ty);
        cutter.flow.segments[segment].outputs.push(tensor);
        cutter.homes.insert((segment, value), tensor);
        cutter.homes.insert((segment, output), tensor);
        Ok(tensor)
    }

    /// What a binding stands for as a tensor, which is there when the current segment has run.
    pub(crate) fn tensor_of(&mut self, name: &str, binding: &Binding) -> Done<TensorId> {
        if !binding.ty.dtype.is_computable() {
            let dtype = binding.ty.dtype;
            return unsupported(format!(
                "'{name}' has element type {dtype}, with which nothing computes yet"
            ));
        }
        match binding.source {
            Source::Tensor(tensor) => Ok(tensor),
            Source::Value(segment, value) => self.export(segment, value),
            Source::Constant(_) | Source::Known => {
                let value = self.value_of(name, binding)?;
                self.export(self.segment(), value)
            }
        }
    }

    /// Symbols for the elements of a tensor, which the host reads before the current segment goes on. If the segment makes
    /// the tensor itself, it is cut.
    pub(crate) fn read(
        &mut self,
        name: &str,
        binding: &Binding,
        node: &str,
        shape_of: Option<ShapeOf>,
    ) -> Done<Vec<SymInt>> {
        let ty = &binding.ty;
        let count = match ty.elements().as_const() {
            Some(count) if count <= MAX_READ => count,
            Some(count) => {
                return unsupported(format!(
                    "'{name}' has {count} elements; the host reads {MAX_READ} at most"
                ));
            }
            None => {
                return unsupported(format!(
                    "'{name}' has as many elements as a result has axes, and their number depends on the shapes"
                ));
            }
        };
        let made_here = match binding.source {
            Source::Value(segment, value) => {
                let cutter = self.cutter()?;
                segment == cutter.segment && !cutter.is_input(segment, value)
            }
            Source::Tensor(_) => false,
            Source::Constant(_) | Source::Known => true,
        };
        let dtype = ty.dtype;
        let tensor = self.tensor_of(name, binding)?;
        let input = self.cutter()?.flow.inputs.iter().position(|&t| t == tensor);
        let (min, max) = match (dtype, &shape_of) {
            (_, Some(_)) => (0, i64::MAX),
            (DType::I64, None) => (i64::MIN, i64::MAX),
            (dtype, None) if dtype.is_signed_int() => (i32::MIN.into(), i32::MAX.into()),
            _ => (0, u32::MAX.into()),
        };
        let symbols: Vec<SymbolId> = (0..count)
            .map(|element| {
                let origin = match (input, &shape_of) {
                    (Some(input), None) => SymbolOrigin::InputValue {
                        input: input as u32,
                        element: element as u32,
                    },
                    _ => SymbolOrigin::Cut,
                };
                let text = match ty.rank() {
                    0 => name.to_owned(),
                    _ => format!("{name}[{element}]"),
                };
                let symbol = Symbol {
                    min,
                    max,
                    ..Symbol::new(text, origin)
                };
                self.graph.symbols.add(symbol)
            })
            .collect();
        let read = Item::Read(Read {
            node: node.trim_matches('\'').to_owned(),
            tensor,
            symbols: symbols.clone(),
            shape_of,
        });
        if made_here {
            self.close()?;
            self.push(read)?;
            self.open()?;
        } else {
            // the tensor was there before the segment began, and so are the symbols
            self.push(read)?;
        }
        Ok(symbols.into_iter().map(SymInt::symbol).collect())
    }

    /// Reads an input of a node so that its elements are known from here on.
    pub(crate) fn read_named(&mut self, name: &str, node: &str) -> Done {
        let Some(binding) = self.bindings.get(name).cloned() else {
            return unsupported("its input is left out");
        };
        let dims = binding.ty.static_dims().unwrap_or_default();
        let elements = self.read(name, &binding, node, None)?;
        let known = Known::ints(
            binding.ty.dtype,
            dims.iter().map(|&d| d as usize).collect(),
            elements,
        );
        if let Some(binding) = self.bindings.get_mut(name) {
            binding.known = Some(known.into());
        }
        Ok(())
    }
}

impl Cutter {
    fn push(&mut self, item: Item) {
        if let Some(block) = self.blocks.last_mut() {
            block.items.push(item);
        }
    }

    /// Whether a value of a segment is one of its inputs.
    fn is_input(&self, segment: usize, value: ValueId) -> bool {
        let tensor = self.homes.get(&(segment, value));
        tensor.is_some_and(|&tensor| self.fed.get(&(segment, tensor)) == Some(&value))
    }

    /// The flow, complete.
    pub(crate) fn finish(mut self, graph: &Graph, outputs: Vec<(String, TensorId)>) -> Flow {
        self.flow.symbols = graph.symbols.clone();
        self.flow.outputs = outputs;
        self.flow.block = self.blocks.pop().unwrap_or_default();
        self.flow.finish();
        self.flow
    }
}

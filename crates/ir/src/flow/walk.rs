//! What a flow means: its items in order, on any machine.
//!
//! A [`Machine`] runs segments and holds tensors; [`walk`] keeps the values of the symbols, decides at branches and
//! loops, and lets tensors go after their last use. Semantics are those of the ONNX operators If and Loop: a loop runs
//! while its number of iterations is below the trip count and its condition holds; with no iteration its state is what
//! it began with and what it stacks has a first extent of 0.

use super::{Block, Flow, If, Item, Loop, Read, ShapeOf, TensorId, Trip};
use crate::DType;
use crate::sym::{SymError, SymInt, SymbolId};

/// Why a flow cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlowError {
    /// A tensor does not have the extents that its type says.
    #[error("`{tensor}` has the extents {actual:?}, the model says {expected}")]
    Extents {
        /// Name of the tensor.
        tensor: String,
        /// Its extents.
        actual: Vec<i64>,
        /// Its type.
        expected: String,
    },
    /// An element that decides an extent cannot be one.
    #[error("`{tensor}` holds {value} at place {place}, and {reason}")]
    Value {
        /// Name of the tensor.
        tensor: String,
        /// The element.
        value: i64,
        /// Its place.
        place: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// What iterations of a loop give differs in shape.
    #[error(
        "loop `{node}`: iteration {iteration} gives `{tensor}` the extents {actual:?}, the ones before {expected:?}; \
         results that are stacked must have one shape"
    )]
    Stack {
        /// The loop.
        node: String,
        /// The iteration, from 0.
        iteration: i64,
        /// Name of what is stacked.
        tensor: String,
        /// Its extents in that iteration.
        actual: Vec<i64>,
        /// Its extents before.
        expected: Vec<i64>,
    },
    /// An expression has no value.
    #[error("{what}: {source}")]
    Arithmetic {
        /// What it is for.
        what: String,
        /// Why.
        source: SymError,
    },
    /// A tensor was not made before it was read: a bug of whoever built the flow.
    #[error("`{0}` is read before it is made; this is a bug, please report it with the model")]
    Missing(String),
}

/// What runs the segments of a flow.
pub trait Machine {
    /// A tensor. A copy of the handle is the same tensor.
    type Value: Clone;
    /// Why a segment failed, or the flow.
    type Error: From<FlowError>;

    /// Extents of a tensor.
    fn dims(&self, value: &Self::Value) -> Vec<i64>;

    /// Runs a segment. `symbols` are the values of all symbols of the flow; those that are not bound yet are 0.
    fn segment(
        &mut self,
        index: usize,
        symbols: &[i64],
        inputs: &[Self::Value],
    ) -> Result<Vec<Self::Value>, Self::Error>;

    /// The elements of an integer or boolean tensor.
    fn read(&mut self, value: &Self::Value) -> Result<Vec<i64>, Self::Error>;

    /// A tensor of type `i64` and rank 0.
    fn scalar(&mut self, value: i64) -> Result<Self::Value, Self::Error>;

    /// Tensors of these extents, one behind the other along a new first axis; there may be none.
    fn stack(
        &mut self,
        dtype: DType,
        dims: &[i64],
        parts: Vec<Self::Value>,
    ) -> Result<Self::Value, Self::Error>;

    /// Called before each iteration and each branch, so that a machine can refuse to go on.
    fn check(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }
}

/// Runs a flow: `symbols` are the values of the inputs' symbols, by [`SymbolId`]; the rest may be anything.
///
/// # Errors
///
/// Whatever the machine refuses, and [`FlowError`].
pub fn walk<M: Machine>(
    flow: &Flow,
    machine: &mut M,
    mut symbols: Vec<i64>,
    inputs: Vec<M::Value>,
) -> Result<Vec<M::Value>, M::Error> {
    symbols.resize(flow.symbols.len(), 0);
    let mut walker = Walker {
        flow,
        machine,
        symbols,
        values: vec![None; flow.tensors.len()],
    };
    for (&id, value) in flow.inputs.iter().zip(inputs) {
        walker.assign(id, value)?;
    }
    walker.block(&flow.block)?;
    flow.outputs.iter().map(|&(_, t)| walker.get(t)).collect()
}

struct Walker<'a, M: Machine> {
    flow: &'a Flow,
    machine: &'a mut M,
    symbols: Vec<i64>,
    values: Vec<Option<M::Value>>,
}

impl<M: Machine> Walker<'_, M> {
    fn get(&self, id: TensorId) -> Result<M::Value, M::Error> {
        let value = self.values[id.index()].clone();
        value.ok_or_else(|| FlowError::Missing(self.flow.tensor(id).name.clone()).into())
    }

    fn all(&self, ids: &[TensorId]) -> Result<Vec<M::Value>, M::Error> {
        ids.iter().map(|&id| self.get(id)).collect()
    }

    /// Gives a tensor its content and binds the symbols that it binds.
    fn assign(&mut self, id: TensorId, value: M::Value) -> Result<(), M::Error> {
        let tensor = self.flow.tensor(id);
        let dims = self.machine.dims(&value);
        for &(axis, symbol) in &tensor.binds {
            if let (Some(slot), Some(&extent)) =
                (self.symbols.get_mut(symbol.index()), dims.get(axis))
            {
                *slot = extent;
            }
        }
        let mut wanted = tensor.ty.dims.iter().zip(&dims);
        let fits = wanted.all(|(want, &have)| want.eval(&self.symbols) == Ok(have));
        if dims.len() != tensor.ty.rank() || !fits {
            return Err(FlowError::Extents {
                tensor: tensor.name.clone(),
                actual: dims,
                expected: tensor.ty.display(&self.flow.symbols).to_string(),
            }
            .into());
        }
        self.values[id.index()] = Some(value);
        Ok(())
    }

    fn eval(&self, what: &str, e: &SymInt) -> Result<i64, FlowError> {
        e.eval(&self.symbols)
            .map_err(|source| FlowError::Arithmetic {
                what: what.to_owned(),
                source,
            })
    }

    fn block(&mut self, block: &Block) -> Result<(), M::Error> {
        for (item, last) in block.items.iter().zip(&block.last_uses) {
            match item {
                Item::Segment(at) => {
                    let segment = &self.flow.segments[*at];
                    let inputs = self.all(&segment.inputs)?;
                    let made = self.machine.segment(*at, &self.symbols, &inputs)?;
                    for (&id, value) in segment.outputs.iter().zip(made) {
                        self.assign(id, value)?;
                    }
                }
                Item::Read(read) => self.read(read)?,
                Item::If(branch) => self.branch(branch)?,
                Item::Loop(body) => self.repeat(body)?,
            }
            self.let_go(last);
        }
        Ok(())
    }

    fn let_go(&mut self, ids: &[TensorId]) {
        for id in ids {
            self.values[id.index()] = None;
        }
    }

    fn read(&mut self, read: &Read) -> Result<(), M::Error> {
        let mut values = self.machine.read(&self.get(read.tensor)?)?;
        if let Some(of) = &read.shape_of {
            values = self.target(read, of, &values)?;
        }
        for (place, (&id, &value)) in read.symbols.iter().zip(&values).enumerate() {
            self.bind(read.tensor, place, id, value)?;
        }
        Ok(())
    }

    fn bind(
        &mut self,
        tensor: TensorId,
        place: usize,
        id: SymbolId,
        value: i64,
    ) -> Result<(), FlowError> {
        if let Some(symbol) = self.flow.symbols.get(id)
            && (value < symbol.min || value > symbol.max)
        {
            return Err(FlowError::Value {
                tensor: self.flow.tensor(tensor).name.clone(),
                value,
                place,
                reason: format!("it must be at least {}", symbol.min),
            });
        }
        if let Some(slot) = self.symbols.get_mut(id.index()) {
            *slot = value;
        }
        Ok(())
    }

    /// A target shape with its 0 and -1 resolved.
    fn target(&self, read: &Read, of: &ShapeOf, wanted: &[i64]) -> Result<Vec<i64>, FlowError> {
        let refuse = |place: usize, reason: &str| FlowError::Value {
            tensor: self.flow.tensor(read.tensor).name.clone(),
            value: wanted[place],
            place,
            reason: reason.to_owned(),
        };
        let data: Vec<i64> = of
            .dims
            .iter()
            .map(|d| self.eval("an extent of the data", d))
            .collect::<Result<_, _>>()?;
        let (mut dims, mut rest) = (Vec::with_capacity(wanted.len()), None);
        for (place, &want) in wanted.iter().enumerate() {
            dims.push(match want {
                0 if !of.allow_zero => *data
                    .get(place)
                    .ok_or_else(|| refuse(place, "the data has no axis there"))?,
                -1 if rest.is_some() => return Err(refuse(place, "there is a -1 already")),
                -1 => {
                    rest = Some(place);
                    1
                }
                want if want < 0 => return Err(refuse(place, "no extent is less than -1")),
                want => want,
            });
        }
        if let Some(place) = rest {
            let product = |dims: &[i64]| dims.iter().try_fold(1_i64, |n, &d| n.checked_mul(d));
            let overflow = || refuse(place, "the number of elements overflows");
            let all = product(&data).ok_or_else(overflow)?;
            let others = product(&dims).ok_or_else(overflow)?;
            // extents of 0 stand on both sides of a reshape that changes nothing else
            dims[place] = match (others, all) {
                (0, _) => return Err(refuse(place, "what it stands for cannot be told")),
                (others, all) => all / others,
            };
        }
        Ok(dims)
    }

    fn holds(&mut self, condition: Option<TensorId>) -> Result<bool, M::Error> {
        match condition {
            None => Ok(true),
            Some(id) => self.one(id).map(|v| v != 0),
        }
    }

    /// The only element of a tensor.
    fn one(&mut self, id: TensorId) -> Result<i64, M::Error> {
        let value = self.get(id)?;
        match self.machine.read(&value)?[..] {
            [one] => Ok(one),
            _ => {
                let tensor = self.flow.tensor(id);
                Err(FlowError::Extents {
                    tensor: tensor.name.clone(),
                    actual: self.machine.dims(&value),
                    expected: "one element".into(),
                }
                .into())
            }
        }
    }

    fn branch(&mut self, node: &If) -> Result<(), M::Error> {
        self.machine.check()?;
        let taken = &node.branches[usize::from(!self.holds(Some(node.condition))?)];
        self.block(&taken.block)?;
        let results = self.all(&taken.results)?;
        self.let_go(&taken.block.handed_on);
        for (&id, value) in node.results.iter().zip(results) {
            self.assign(id, value)?;
        }
        Ok(())
    }

    fn repeat(&mut self, node: &Loop) -> Result<(), M::Error> {
        let trip = match &node.trip {
            Trip::Unbounded => i64::MAX,
            Trip::Extent(e) => self.eval("a trip count", e)?,
            Trip::Tensor(id) => self.one(*id)?,
        };
        let mut state: Vec<M::Value> = node
            .carried
            .iter()
            .map(|c| self.get(c.initial))
            .collect::<Result<_, _>>()?;
        let mut stacks: Vec<Vec<M::Value>> = vec![Vec::new(); node.stacked.len()];
        let mut shapes: Vec<Vec<i64>> = vec![Vec::new(); node.stacked.len()];
        let mut more = self.holds(node.condition)?;
        let mut iteration = 0;
        while more && iteration < trip {
            self.machine.check()?;
            if let Some(id) = node.iteration {
                let number = self.machine.scalar(iteration)?;
                self.assign(id, number)?;
            }
            for (carried, value) in node.carried.iter().zip(std::mem::take(&mut state)) {
                self.assign(carried.inner, value)?;
            }
            self.block(&node.block)?;
            for (at, stacked) in node.stacked.iter().enumerate() {
                let value = self.get(stacked.element)?;
                let dims = self.machine.dims(&value);
                if iteration == 0 {
                    shapes[at] = dims;
                } else if shapes[at] != dims {
                    return Err(FlowError::Stack {
                        node: node.node.clone(),
                        iteration,
                        tensor: self.flow.tensor(stacked.element).name.clone(),
                        actual: dims,
                        expected: shapes[at].clone(),
                    }
                    .into());
                }
                stacks[at].push(value);
            }
            for carried in &node.carried {
                state.push(self.get(carried.next)?);
            }
            more = self.holds(node.next_condition)?;
            self.let_go(&node.block.handed_on);
            iteration += 1;
        }
        for (carried, value) in node.carried.iter().zip(state) {
            self.assign(carried.result, value)?;
        }
        for ((stacked, parts), dims) in node.stacked.iter().zip(stacks).zip(shapes) {
            let ty = &self.flow.tensor(stacked.element).ty;
            // without an iteration, extents that only the body knows are 0
            let dims = match iteration {
                0 => ty
                    .dims
                    .iter()
                    .map(|d| self.eval("an extent of what a loop stacks", d))
                    .collect::<Result<Vec<_>, _>>()?,
                _ => dims,
            };
            let value = self.machine.stack(ty.dtype, &dims, parts)?;
            self.assign(stacked.result, value)?;
        }
        Ok(())
    }
}

//! Binding a shape: from the extents of a run's inputs to every number that the run needs.

use bespoke_device::{EncodedMap, MAP_SLOTS, TensorMap};
use bespoke_ir::sym::{SymError, SymbolOrigin};

use crate::{Arg, ExprId, MemoryLayout, Place, Plan, Step, memory};

/// Why extents do not fit a plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BindError {
    /// The number of inputs is wrong.
    #[error("the model takes {expected} inputs, {actual} were given")]
    InputCount {
        /// Inputs of the model.
        expected: usize,
        /// Inputs given.
        actual: usize,
    },
    /// An input has another rank.
    #[error("input `{input}` has rank {actual} ({dims:?}), the model takes {expected}")]
    Rank {
        /// Name of the input.
        input: String,
        /// Its extents.
        dims: Vec<i64>,
        /// Its rank.
        actual: usize,
        /// The type that the model takes.
        expected: String,
    },
    /// An extent is fixed by the model or by another input.
    #[error("input `{input}`: axis {axis} has extent {actual}, the model takes {expected}{reason}")]
    Extent {
        /// Name of the input.
        input: String,
        /// The axis.
        axis: usize,
        /// Its extent.
        actual: i64,
        /// What it must be.
        expected: String,
        /// Why.
        reason: String,
    },
    /// Extents that are right one by one do not fit together.
    #[error("the inputs' extents do not fit together: the model needs {0}")]
    Guard(String),
    /// An extent or an offset overflows.
    #[error("the shape is too large: {0}")]
    Arithmetic(String),
    /// A symbol has no source among the inputs.
    #[error("dimension `{0}` is not an extent of any input")]
    Unbound(String),
}

/// A shape with all its numbers.
#[derive(Clone, Debug)]
pub struct Binding {
    /// Values of the symbols: the signature.
    pub symbols: Vec<i64>,
    /// Values of the plan's expressions, indexed by [`ExprId`].
    pub values: Vec<i64>,
    /// Size of each buffer in bytes.
    pub sizes: Vec<u64>,
    /// The arena.
    pub memory: MemoryLayout,
}

impl Binding {
    /// The value of an expression.
    pub fn get(&self, id: ExprId) -> i64 {
        self.values[id.0 as usize]
    }
}

impl Plan {
    /// Binds the extents of the inputs, in order.
    pub fn bind(&self, inputs: &[&[i64]]) -> Result<Binding, BindError> {
        let symbols = self.signature(inputs)?;
        self.bind_symbols(symbols)
    }

    /// The values of the symbols for these extents of the inputs.
    pub fn signature(&self, inputs: &[&[i64]]) -> Result<Vec<i64>, BindError> {
        if inputs.len() != self.inputs.len() {
            return Err(BindError::InputCount {
                expected: self.inputs.len(),
                actual: inputs.len(),
            });
        }
        let mut symbols: Vec<Option<i64>> = vec![None; self.symbols.len()];
        for (port, dims) in self.inputs.iter().zip(inputs) {
            if dims.len() != port.ty.rank() {
                return Err(BindError::Rank {
                    input: port.name.clone(),
                    dims: dims.to_vec(),
                    actual: dims.len(),
                    expected: port.ty.display(&self.symbols).to_string(),
                });
            }
            for (axis, (&actual, want)) in dims.iter().zip(&port.ty.dims).enumerate() {
                let wrong = |expected: String, reason: &str| BindError::Extent {
                    input: port.name.clone(),
                    axis,
                    actual,
                    expected,
                    reason: reason.to_owned(),
                };
                if let Some(fixed) = want.as_const() {
                    if fixed != actual {
                        return Err(wrong(fixed.to_string(), ""));
                    }
                    continue;
                }
                let Some(id) = want.as_symbol() else { continue };
                let slot = &mut symbols[id.index()];
                match *slot {
                    Some(known) if known != actual => {
                        let name = want.display(&self.symbols);
                        let reason = format!(" (`{name}` is already {known} elsewhere)");
                        return Err(wrong(known.to_string(), &reason));
                    }
                    _ => *slot = Some(actual),
                }
                if let Some(symbol) = self.symbols.get(id) {
                    if actual < symbol.min || actual > symbol.max {
                        let max = if symbol.max == i64::MAX {
                            String::new()
                        } else {
                            format!(", at most {}", symbol.max)
                        };
                        return Err(wrong(format!("at least {}{max}", symbol.min), ""));
                    }
                    if symbol.divisor > 1 && actual % symbol.divisor != 0 {
                        return Err(wrong(format!("a multiple of {}", symbol.divisor), ""));
                    }
                }
            }
        }
        // extents given as expressions of one symbol (`2*h`) are checked once the symbols are known
        for (id, symbol) in self.symbols.iter() {
            let bound = matches!(symbol.origin, SymbolOrigin::DeviceValue { .. });
            if symbols[id.index()].is_none() && !bound && self.uses(id) {
                return Err(BindError::Unbound(symbol.name.clone()));
            }
        }
        let symbols: Vec<i64> = symbols.into_iter().map(|s| s.unwrap_or(0)).collect();
        for (port, dims) in self.inputs.iter().zip(inputs) {
            for (axis, (&actual, want)) in dims.iter().zip(&port.ty.dims).enumerate() {
                if want.eval(&symbols).ok() != Some(actual) {
                    return Err(BindError::Extent {
                        input: port.name.clone(),
                        axis,
                        actual,
                        expected: want.display(&self.symbols).to_string(),
                        reason: String::new(),
                    });
                }
            }
        }
        Ok(symbols)
    }

    fn uses(&self, id: bespoke_ir::SymbolId) -> bool {
        self.exprs.iter().any(|e| e.symbols().contains(&id))
    }

    /// Binds values of the symbols.
    pub fn bind_symbols(&self, symbols: Vec<i64>) -> Result<Binding, BindError> {
        if let Some(guard) = self.guards.iter().find(|g| !g.holds(&symbols)) {
            return Err(BindError::Guard(guard.display(&self.symbols).to_string()));
        }
        let mut values = Vec::with_capacity(self.exprs.len() * 4);
        self.program
            .run(&symbols, &mut values)
            .map_err(|(i, e)| self.arithmetic(i, &e))?;
        let mut sizes = Vec::with_capacity(self.buffers.len());
        for b in &self.buffers {
            let bytes = values[b.bytes.0 as usize];
            sizes.push(u64::try_from(bytes).map_err(|_| {
                BindError::Arithmetic(format!("`{}` would have {bytes} bytes", b.name))
            })?);
        }
        let memory = memory::layout(self, &sizes);
        Ok(Binding {
            symbols,
            values,
            sizes,
            memory,
        })
    }

    fn arithmetic(&self, index: usize, error: &SymError) -> BindError {
        let expr = self
            .exprs
            .get(index)
            .map(|e| e.display(&self.symbols).to_string());
        BindError::Arithmetic(format!("{}: {error}", expr.unwrap_or_default()))
    }

    /// The slots of a list of steps from its first on, with `address` giving the first byte of each buffer and `map` the
    /// tensor maps. Slots between the rows of two steps are 0.
    pub fn slots(
        &self,
        steps: &[Step],
        binding: &Binding,
        address: impl Fn(usize, &Place, u64) -> u64,
        map: impl Fn(&TensorMap) -> Option<EncodedMap>,
        out: &mut Vec<i64>,
    ) {
        out.clear();
        for step in steps {
            out.resize(step.first_slot, 0);
            for arg in &step.args {
                match arg {
                    Arg::Map(_) => out.extend([0; MAP_SLOTS]),
                    Arg::Int(e) => out.push(binding.get(*e)),
                    Arg::Read(b) | Arg::Write(b) => {
                        let i = b.0 as usize;
                        let at = address(i, &self.buffers[i].place, binding.memory.offsets[i]);
                        out.push(at as i64);
                        out.push(binding.sizes[i] as i64);
                    }
                }
            }
            step.write_maps(&mut out[step.first_slot..], &map);
        }
    }
}

//! The operators.
//!
//! A small, canonical set: what ONNX spells in a hundred ways is one of these, and all elementwise arithmetic is
//! [`Map`]. Optional bias, scale or activation operands do not exist; they are [`Map`]s behind the operator, which
//! fusion turns into epilogues.
//!
//! Each operator is one file with its meaning, its type rule and its test. To add one, write the file and add a line to
//! the table below.

use std::fmt;

use crate::expr::Scalar;
use crate::guard::{Guard, GuardKind};
use crate::sym::{SymInt, SymbolTable};
use crate::types::{Constant, TensorType};

/// The type rule and the text form of an operator.
pub trait Operator {
    /// Types of the results for operands of these types.
    fn infer(
        &self,
        inputs: &[&TensorType],
        cx: &mut Infer<'_>,
    ) -> Result<Vec<TensorType>, InferError>;

    /// `key=value` pairs in a fixed order; empty if there are none.
    fn attributes(&self, symbols: &SymbolTable) -> String;

    /// Every attribute that may hold symbols, for [`crate::Graph::fixed`]. One that is left out stays right, since its
    /// symbols keep their values; it is only not known to be constant.
    fn extents_mut(&mut self) -> Vec<&mut SymInt> {
        Vec::new()
    }
}

macro_rules! operators {
    ($($module:ident :: $op:ident = $name:literal,)*) => {
        $(pub mod $module;)*
        $(pub use $module::$op;)*

        /// An operator with its attributes.
        #[derive(Clone, Debug, PartialEq)]
        #[allow(missing_docs, reason = "each variant is documented by its struct")]
        pub enum Op { $($op($op),)* }

        impl Op {
            /// Name of every operator.
            pub const NAMES: &'static [&'static str] = &[$($name,)*];

            /// Name in the text form.
            pub fn name(&self) -> &'static str {
                match self { $(Op::$op(_) => $name,)* }
            }

            fn as_operator(&self) -> &dyn Operator {
                match self { $(Op::$op(op) => op,)* }
            }

            fn as_operator_mut(&mut self) -> &mut dyn Operator {
                match self { $(Op::$op(op) => op,)* }
            }
        }

        $(impl From<$op> for Op {
            fn from(op: $op) -> Op { Op::$op(op) }
        })*
    };
}

operators! {
    arg_reduce::ArgReduce = "arg_reduce",
    attention::Attention = "attention",
    concat::Concat = "concat",
    conv::Conv = "conv",
    conv_transpose::ConvTranspose = "conv_transpose",
    cumsum::CumSum = "cumsum",
    expand::Expand = "expand",
    gather::Gather = "gather",
    gather_elements::GatherElements = "gather_elements",
    gather_nd::GatherNd = "gather_nd",
    host_ints::HostInts = "host_ints",
    map::Map = "map",
    matmul::MatMul = "matmul",
    normalize::Normalize = "normalize",
    pad::Pad = "pad",
    pool::Pool = "pool",
    reduce::Reduce = "reduce",
    reshape::Reshape = "reshape",
    resize::Resize = "resize",
    scatter_elements::ScatterElements = "scatter_elements",
    scatter_nd::ScatterNd = "scatter_nd",
    slice::Slice = "slice",
    softmax::Softmax = "softmax",
    topk::TopK = "topk",
    transpose::Transpose = "transpose",
}

impl Op {
    /// Types of the results for operands of these types.
    pub fn infer(
        &self,
        inputs: &[&TensorType],
        cx: &mut Infer<'_>,
    ) -> Result<Vec<TensorType>, InferError> {
        self.as_operator().infer(inputs, cx)
    }

    /// `key=value` pairs in a fixed order; empty if there are none.
    pub fn attributes(&self, symbols: &SymbolTable) -> String {
        self.as_operator().attributes(symbols)
    }

    /// Every attribute that may hold symbols.
    pub fn extents_mut(&mut self) -> Vec<&mut SymInt> {
        self.as_operator_mut().extents_mut()
    }

    /// Whether a kernel of the operator can compute maps that follow it. Passes move maps there, the planner fuses them.
    pub fn takes_epilogue(&self) -> bool {
        match self {
            // its second result is no operand of a map
            Op::Pool(p) => !matches!(p.kind, pool::PoolKind::Max { indices: true, .. }),
            Op::MatMul(_)
            | Op::Conv(_)
            | Op::ConvTranspose(_)
            | Op::Reduce(_)
            | Op::Softmax(_)
            | Op::Normalize(_)
            | Op::Gather(_)
            | Op::GatherElements(_)
            | Op::GatherNd(_)
            | Op::Resize(_) => true,
            _ => false,
        }
    }
}

/// Why a node has no type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("node `{node}` ({op}): {reason}")]
pub struct InferError {
    /// Name of the node.
    pub node: String,
    /// Name of the operator.
    pub op: String,
    /// What is wrong.
    pub reason: String,
}

impl InferError {
    /// An error of the node under inference; [`crate::Graph::add`] fills in which.
    pub fn new(reason: impl Into<String>) -> Self {
        InferError {
            node: String::new(),
            op: String::new(),
            reason: reason.into(),
        }
    }

    pub(crate) fn at(mut self, node: &str, op: &Op) -> Self {
        self.node = node.to_owned();
        self.op = op.name().to_owned();
        self
    }
}

/// What a type rule may use beside the operands' types.
#[derive(Debug)]
pub struct Infer<'a> {
    /// Symbols; a rule may add one for an extent that the device decides.
    pub symbols: &'a mut SymbolTable,
    guards: &'a mut Vec<Guard>,
    constants: &'a [Option<&'a Constant>],
    node: &'a str,
}

impl<'a> Infer<'a> {
    /// A context for one node.
    pub fn new(
        symbols: &'a mut SymbolTable,
        guards: &'a mut Vec<Guard>,
        constants: &'a [Option<&'a Constant>],
        node: &'a str,
    ) -> Self {
        Infer {
            symbols,
            guards,
            constants,
            node,
        }
    }

    /// The constant behind operand `i`.
    pub fn constant(&self, i: usize) -> Option<&Constant> {
        self.constants.get(i).copied().flatten()
    }

    fn guard(&mut self, kind: GuardKind) {
        if !self.guards.iter().any(|g| g.kind == kind) {
            self.guards.push(Guard {
                kind,
                node: self.node.to_owned(),
            });
        }
    }

    /// Requires two extents to be equal; an error if they cannot be.
    pub fn require_equal(&mut self, what: &str, a: &SymInt, b: &SymInt) -> Result<(), InferError> {
        match a.known_eq(b, self.symbols) {
            Some(true) => Ok(()),
            Some(false) => Err(InferError::new(format!(
                "{what} differ: {} and {}",
                a.display(self.symbols),
                b.display(self.symbols)
            ))),
            None => {
                self.guard(GuardKind::Equal(a.clone(), b.clone()));
                Ok(())
            }
        }
    }

    /// Requires `a >= min`; an error if it cannot be.
    pub fn require_at_least(&mut self, what: &str, a: &SymInt, min: i64) -> Result<(), InferError> {
        let (low, high) = a.range(self.symbols);
        if high < min {
            return Err(InferError::new(format!(
                "{what} is {}, less than {min}",
                a.display(self.symbols)
            )));
        }
        if low < min {
            self.guard(GuardKind::AtLeast(a.clone(), min));
        }
        Ok(())
    }

    /// Requires that extents which an attribute gives are not negative; an error if one must be.
    pub fn require_extents(&mut self, dims: &[SymInt]) -> Result<(), InferError> {
        dims.iter()
            .try_for_each(|d| self.require_at_least("an extent", d, 0))
    }

    /// The extent of two broadcast extents (ONNX "Multidirectional Broadcasting").
    pub fn broadcast(&mut self, a: &SymInt, b: &SymInt) -> Result<SymInt, InferError> {
        let one = |d: &SymInt| d.as_const() == Some(1);
        if a == b || one(b) {
            return Ok(a.clone());
        }
        if one(a) {
            return Ok(b.clone());
        }
        if a.known_eq(b, self.symbols) == Some(true) {
            return Ok(a.clone());
        }
        let fails = |a: &SymInt, symbols: &SymbolTable| {
            let (low, high) = a.range(symbols);
            low > 1 || high < 1
        };
        if a.known_eq(b, self.symbols) == Some(false)
            && fails(a, self.symbols)
            && fails(b, self.symbols)
        {
            return Err(InferError::new(format!(
                "extents {} and {} do not broadcast",
                a.display(self.symbols),
                b.display(self.symbols)
            )));
        }
        // a constant other than 1 decides the result
        for (d, other) in [(a, b), (b, a)] {
            if d.as_const().is_some() {
                self.guard(GuardKind::Broadcast(d.clone(), other.clone()));
                return Ok(d.clone());
            }
        }
        // so does the larger one, where it is known which that is
        for (small, large) in [(a, b), (b, a)] {
            if small.known_le(large, self.symbols) == Some(true) {
                self.guard(GuardKind::Broadcast(a.clone(), b.clone()));
                return Ok(large.clone());
            }
        }
        // two expressions over one symbol are two ways to say one extent; none of them is meant to be 1
        if !a.symbols().is_disjoint(&b.symbols()) {
            self.guard(GuardKind::Equal(a.clone(), b.clone()));
            let length = |d: &SymInt| d.to_string().len();
            return Ok(if length(b) < length(a) {
                b.clone()
            } else {
                a.clone()
            });
        }
        self.guard(GuardKind::Broadcast(a.clone(), b.clone()));
        Ok(SymInt::max(a, b))
    }

    /// The extents of two broadcast shapes.
    pub fn broadcast_dims(
        &mut self,
        a: &[SymInt],
        b: &[SymInt],
    ) -> Result<Vec<SymInt>, InferError> {
        let rank = a.len().max(b.len());
        let one = SymInt::constant(1);
        let at = |dims: &[SymInt], i: usize| -> SymInt {
            let lead = rank - dims.len();
            if i < lead {
                one.clone()
            } else {
                dims[i - lead].clone()
            }
        };
        (0..rank)
            .map(|i| self.broadcast(&at(a, i), &at(b, i)))
            .collect()
    }
}

/// Checks the number of operands.
pub(crate) fn expect_inputs(inputs: &[&TensorType], count: usize) -> Result<(), InferError> {
    if inputs.len() == count {
        return Ok(());
    }
    Err(InferError::new(format!(
        "takes {count} operands, has {}",
        inputs.len()
    )))
}

/// An axis in `-rank..rank` as a position; an error names it.
pub fn normalize_axis(axis: i64, rank: usize) -> Result<usize, InferError> {
    let rank_i = rank as i64;
    let at = if axis < 0 { axis + rank_i } else { axis };
    if (0..rank_i).contains(&at) {
        Ok(at as usize)
    } else {
        Err(InferError::new(format!(
            "axis {axis} is outside a tensor of rank {rank}"
        )))
    }
}

pub(crate) fn check_axes(axes: &[usize], rank: usize) -> Result<(), InferError> {
    let sorted = axes.windows(2).all(|w| w[0] < w[1]);
    if !sorted || axes.last().is_some_and(|&a| a >= rank) {
        return Err(InferError::new(format!(
            "axes {axes:?} are not an increasing list below rank {rank}"
        )));
    }
    Ok(())
}

/// Joins `key=value` pairs.
#[derive(Debug, Default)]
pub(crate) struct Attributes(Vec<String>);

impl Attributes {
    pub(crate) fn show(mut self, key: &str, value: impl fmt::Display) -> Self {
        self.0.push(format!("{key}={value}"));
        self
    }

    pub(crate) fn flag(mut self, key: &str, on: bool) -> Self {
        if on {
            self.0.push(key.to_owned());
        }
        self
    }

    pub(crate) fn list<T: fmt::Debug>(self, key: &str, values: &[T]) -> Self {
        let parts: Vec<String> = values.iter().map(|v| format!("{v:?}")).collect();
        self.show(key, format!("[{}]", parts.join(",")))
    }

    pub(crate) fn syms(self, key: &str, values: &[SymInt], symbols: &SymbolTable) -> Self {
        let parts: Vec<String> = values
            .iter()
            .map(|v| v.display(symbols).to_string())
            .collect();
        self.show(key, format!("[{}]", parts.join(",")))
    }

    pub(crate) fn scalar(self, key: &str, value: Scalar) -> Self {
        self.show(key, value)
    }

    pub(crate) fn done(self) -> String {
        self.0.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::DType;
    use crate::expr::Expr;
    use crate::graph::Graph;
    use crate::sym::{Symbol, SymbolOrigin};

    /// Every operator whose attributes give extents, with these extents.
    fn with_extents(dims: &[SymInt]) -> Vec<Op> {
        let rank = dims.len();
        vec![
            Expand {
                dims: dims.to_vec(),
            }
            .into(),
            Reshape {
                dims: dims.to_vec(),
            }
            .into(),
            Map::over(Expr::identity(DType::F32), dims.to_vec()).into(),
            Slice {
                starts: vec![0.into(); rank],
                steps: vec![1; rank],
                dims: dims.to_vec(),
            }
            .into(),
            Resize {
                dims: dims.to_vec(),
                scales: vec![None; rank],
                interpolation: resize::Interpolation::Linear,
                coordinates: resize::CoordinateMode::HalfPixel,
                antialias: false,
                crop: None,
            }
            .into(),
        ]
    }

    #[test]
    fn negative_extents_are_refused_or_guarded() {
        for op in with_extents(&[SymInt::constant(-1), SymInt::constant(-1)]) {
            let mut g = Graph::new("t");
            let x = g.add_input("x", TensorType::fixed(DType::F32, &[1, 1]));
            let error = g.add("y", op, &[x]).unwrap_err().to_string();
            assert!(error.contains("an extent is -1, less than 0"), "{error}");
        }
        for i in 0..5 {
            let mut g = Graph::new("t");
            let origin = SymbolOrigin::InputValue {
                input: 0,
                element: 0,
            };
            let k = g.symbols.add(Symbol {
                min: i64::MIN,
                ..Symbol::new("k", origin)
            });
            let k = SymInt::symbol(k);
            let x = g.add_input("x", TensorType::new(DType::F32, vec![1.into(), 1.into()]));
            let op = with_extents(&[k.clone(), k.clone()]).swap_remove(i);
            g.add("y", op, &[x]).unwrap();
            assert!(g.guards.iter().all(|g| g.holds(&[1])), "{:?}", g.guards);
            assert!(g.guards.iter().any(|g| !g.holds(&[-1])), "{:?}", g.guards);
        }
    }
}

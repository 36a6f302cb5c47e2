//! Why something has no reference result.

use bespoke_ir::DType;
use bespoke_ir::flow::FlowError;
use bespoke_ir::sym::SymError;

/// Why something has no reference result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// A decision between two segments could not be made.
    #[error(transparent)]
    Flow(FlowError),
    /// The operator's type rule refuses the operands.
    #[error("{op}: {reason}; check the operands' types and extents")]
    Operands {
        /// Name of the operator.
        op: &'static str,
        /// The rule's words.
        reason: String,
    },
    /// A condition on the extents does not hold.
    #[error(
        "{op}: the condition {condition} does not hold for these extents; use other input dimensions"
    )]
    Guard {
        /// Name of the operator.
        op: &'static str,
        /// The condition as text.
        condition: String,
    },
    /// A tensor would have too many elements.
    #[error(
        "a {dtype} tensor with extents {dims:?} has more than {limit} elements, the limit of the reference; \
         use smaller input dimensions"
    )]
    TooLarge {
        /// Element type.
        dtype: DType,
        /// Extents.
        dims: Vec<i64>,
        /// The limit.
        limit: u64,
    },
    /// Elements and extents disagree, or an extent is negative.
    #[error(
        "{elements} elements do not fill a {dtype} tensor with extents {dims:?}; pass one element a position"
    )]
    Malformed {
        /// Element type.
        dtype: DType,
        /// Extents.
        dims: Vec<i64>,
        /// Number of elements given.
        elements: u64,
    },
    /// The element type has no arithmetic here.
    #[error(
        "tensors of type {0} have no reference arithmetic; convert them to a computable type first"
    )]
    Unsupported(DType),
    /// A symbolic integer has no value.
    #[error("{op}: {source}")]
    Symbol {
        /// Name of the operator.
        op: &'static str,
        /// Why.
        source: SymError,
    },
    /// The number of inputs is wrong.
    #[error(
        "graph `{graph}` takes {expected} inputs, {actual} were given; pass one tensor an input"
    )]
    InputCount {
        /// Name of the graph.
        graph: String,
        /// Inputs of the graph.
        expected: usize,
        /// Inputs given.
        actual: usize,
    },
    /// A value is not what the graph says of it.
    #[error(
        "value `{value}` should be {expected}, it is {actual}; bind the symbols to these inputs' extents"
    )]
    Mismatch {
        /// Name of the value.
        value: String,
        /// Type and extents that the graph declares.
        expected: String,
        /// Type and extents that are there.
        actual: String,
    },
    /// A value is read that nothing computed: the graph is malformed.
    #[error("value `{0}` has no producer; verify the graph")]
    Undefined(String),
    /// A node of a graph failed.
    #[error("node `{node}`: {source}")]
    Node {
        /// Name of the node.
        node: String,
        /// Why.
        source: Box<ReferenceError>,
    },
}

impl ReferenceError {
    pub(crate) fn operands(op: &'static str, reason: impl Into<String>) -> ReferenceError {
        ReferenceError::Operands {
            op,
            reason: reason.into(),
        }
    }
}

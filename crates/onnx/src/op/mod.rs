//! The ONNX operators, one file for each or for a tight family.
//!
//! An importer reads a node through [`Cx`] and says what it means in the IR's few operators. All versions of an
//! operator share one importer, which asks for the opset where versions differ; each file lists those differences.
//! To add an operator, write its file and add a line to [`OPERATORS`].
//!
//! Of the domain `com.microsoft` there is what ONNX Runtime's optimiser and its exporters of transformers write.

use crate::context::Cx;
use crate::importer::Done;

mod activation;
mod arg_reduce;
mod attention;
mod batch_norm;
mod binary;
mod branch;
mod cast;
mod clip;
mod compare;
mod concat;
mod constant;
mod conv;
mod conv_transpose;
mod cumsum;
mod depth_space;
mod dropout;
mod einsum;
mod embed_norm;
mod expand;
mod flatten;
mod gather;
mod gelu;
mod gemm;
mod group_norm;
mod group_query_attention;
mod identity;
mod instance_norm;
mod layer_norm;
mod matmul;
mod multi_head_attention;
mod non_zero;
mod pad;
mod pool;
mod quantize;
mod range;
mod reduce;
mod repeat;
mod reshape;
mod resize;
mod rms_norm;
mod rotary;
mod scan;
mod scatter;
mod sdpa;
mod select;
mod shape;
mod skip_norm;
mod slice;
mod softmax;
mod split;
mod squeeze;
#[cfg(test)]
pub(crate) mod testing;
mod tile;
mod topk;
mod transpose;
mod trilu;
mod unary;
mod variadic;
mod window;

/// Imports one node.
pub(crate) type Import = fn(&mut Cx<'_>) -> Done;

/// A row of the table: domain (empty for `ai.onnx`), name, the opset that introduced it, its importer.
pub(crate) type Row = (&'static str, &'static str, i64, Import);

/// Every operator that can be imported, by name.
pub(crate) const OPERATORS: &[Row] = &[
    ("", "Abs", 1, unary::import),
    ("", "Acos", 7, unary::import),
    ("", "Acosh", 9, unary::import),
    ("", "Add", 1, binary::import),
    ("", "And", 1, binary::import),
    ("", "ArgMax", 1, arg_reduce::import),
    ("", "ArgMin", 1, arg_reduce::import),
    ("", "Asin", 7, unary::import),
    ("", "Asinh", 9, unary::import),
    ("", "Atan", 7, unary::import),
    ("", "Atanh", 9, unary::import),
    ("", "Attention", 23, attention::import),
    ("", "AveragePool", 1, pool::average),
    ("", "BatchNormalization", 1, batch_norm::import),
    ("", "BitShift", 11, binary::shift),
    ("", "BitwiseAnd", 18, binary::import),
    ("", "BitwiseNot", 18, unary::import),
    ("", "BitwiseOr", 18, binary::import),
    ("", "BitwiseXor", 18, binary::import),
    ("", "Cast", 1, cast::cast),
    ("", "CastLike", 15, cast::cast_like),
    ("", "Ceil", 1, unary::import),
    ("", "Celu", 12, activation::celu),
    ("", "Clip", 1, clip::import),
    ("", "Compress", 9, non_zero::compress),
    ("", "Concat", 1, concat::import),
    ("", "Constant", 1, constant::constant),
    ("", "ConstantOfShape", 9, constant::of_shape),
    ("", "Conv", 1, conv::import),
    ("", "ConvTranspose", 1, conv_transpose::import),
    ("", "Cos", 7, unary::import),
    ("", "Cosh", 9, unary::import),
    ("", "CumSum", 11, cumsum::import),
    ("", "DepthToSpace", 1, depth_space::depth_to_space),
    ("", "DequantizeLinear", 10, quantize::dequantize),
    ("", "Div", 1, binary::import),
    ("", "Dropout", 1, dropout::import),
    ("", "DynamicQuantizeLinear", 11, quantize::dynamic),
    ("", "Einsum", 12, einsum::import),
    ("", "Elu", 1, activation::elu),
    ("", "Equal", 1, compare::import),
    ("", "Erf", 9, unary::import),
    ("", "Exp", 1, unary::import),
    ("", "Expand", 8, expand::import),
    ("", "Flatten", 1, flatten::import),
    ("", "Floor", 1, unary::import),
    ("", "Gather", 1, gather::gather),
    ("", "GatherElements", 11, gather::elements),
    ("", "GatherND", 11, gather::nd),
    ("", "Gelu", 20, gelu::import),
    ("", "Gemm", 1, gemm::import),
    ("", "GlobalAveragePool", 1, pool::global_average),
    ("", "GlobalLpPool", 1, pool::global_lp),
    ("", "GlobalMaxPool", 1, pool::global_max),
    ("", "Greater", 1, compare::import),
    ("", "GreaterOrEqual", 12, compare::import),
    ("", "GroupNormalization", 18, group_norm::import),
    ("", "HardSigmoid", 1, activation::hard_sigmoid),
    ("", "HardSwish", 14, activation::hard_swish),
    ("", "Identity", 1, identity::import),
    ("", "If", 1, branch::import),
    ("", "InstanceNormalization", 1, instance_norm::import),
    ("", "IsInf", 10, unary::is_inf),
    ("", "IsNaN", 9, unary::import),
    ("", "LayerNormalization", 1, layer_norm::import),
    ("", "LeakyRelu", 1, activation::leaky_relu),
    ("", "Less", 1, compare::import),
    ("", "LessOrEqual", 12, compare::import),
    ("", "Log", 1, unary::import),
    ("", "LogSoftmax", 1, softmax::import),
    ("", "Loop", 1, repeat::import),
    ("", "LpPool", 1, pool::lp),
    ("", "MatMul", 1, matmul::matmul),
    ("", "MatMulInteger", 10, matmul::integer),
    ("", "Max", 1, variadic::import),
    ("", "MaxPool", 1, pool::max),
    ("", "Mean", 1, variadic::import),
    ("", "Min", 1, variadic::import),
    ("", "Mish", 18, activation::mish),
    ("", "Mod", 10, binary::modulo),
    ("", "Mul", 1, binary::import),
    ("", "Neg", 1, unary::import),
    ("", "NonZero", 9, non_zero::import),
    ("", "Not", 1, unary::import),
    ("", "Or", 1, binary::import),
    ("", "PRelu", 1, activation::prelu),
    ("", "Pad", 1, pad::import),
    ("", "Pow", 1, binary::pow),
    ("", "QuantizeLinear", 10, quantize::quantize),
    ("", "RMSNormalization", 23, rms_norm::import),
    ("", "Range", 11, range::import),
    ("", "Reciprocal", 1, unary::import),
    ("", "ReduceL1", 1, reduce::import),
    ("", "ReduceL2", 1, reduce::import),
    ("", "ReduceLogSum", 1, reduce::import),
    ("", "ReduceLogSumExp", 1, reduce::import),
    ("", "ReduceMax", 1, reduce::import),
    ("", "ReduceMean", 1, reduce::import),
    ("", "ReduceMin", 1, reduce::import),
    ("", "ReduceProd", 1, reduce::import),
    ("", "ReduceSum", 1, reduce::import),
    ("", "ReduceSumSquare", 1, reduce::import),
    ("", "Relu", 1, activation::relu),
    ("", "Reshape", 1, reshape::import),
    ("", "Resize", 10, resize::resize),
    ("", "RotaryEmbedding", 23, rotary::import),
    ("", "Round", 11, unary::import),
    ("", "Scan", 9, scan::import),
    ("", "Scatter", 9, scatter::elements),
    ("", "ScatterElements", 11, scatter::elements),
    ("", "ScatterND", 11, scatter::nd),
    ("", "Selu", 1, activation::selu),
    ("", "Shape", 1, shape::shape),
    ("", "Shrink", 9, activation::shrink),
    ("", "Sigmoid", 1, unary::import),
    ("", "Sign", 9, unary::import),
    ("", "SimplifiedLayerNormalization", 1, rms_norm::import),
    ("", "Sin", 7, unary::import),
    ("", "Sinh", 9, unary::import),
    ("", "Size", 1, shape::size),
    ("", "Slice", 1, slice::import),
    ("", "Softmax", 1, softmax::import),
    ("", "Softplus", 1, activation::softplus),
    ("", "Softsign", 1, activation::softsign),
    ("", "SpaceToDepth", 1, depth_space::space_to_depth),
    ("", "Split", 1, split::import),
    ("", "Sqrt", 1, unary::import),
    ("", "Squeeze", 1, squeeze::squeeze),
    ("", "Sub", 1, binary::import),
    ("", "Sum", 1, variadic::import),
    ("", "Swish", 24, activation::swish),
    ("", "Tan", 7, unary::import),
    ("", "Tanh", 1, unary::import),
    ("", "ThresholdedRelu", 10, activation::thresholded_relu),
    ("", "Tile", 1, tile::import),
    ("", "TopK", 1, topk::import),
    ("", "Transpose", 1, transpose::import),
    ("", "Trilu", 14, trilu::import),
    ("", "Unsqueeze", 1, squeeze::unsqueeze),
    ("", "Upsample", 1, resize::upsample),
    ("", "Where", 9, select::import),
    ("", "Xor", 1, binary::import),
    (
        "com.microsoft",
        "Attention",
        1,
        multi_head_attention::projected,
    ),
    ("com.microsoft", "BiasGelu", 1, gelu::contrib),
    (
        "com.microsoft",
        "EmbedLayerNormalization",
        1,
        embed_norm::import,
    ),
    ("com.microsoft", "FastGelu", 1, gelu::contrib),
    ("com.microsoft", "FusedMatMul", 1, matmul::fused),
    ("com.microsoft", "Gelu", 1, gelu::contrib),
    (
        "com.microsoft",
        "GroupQueryAttention",
        1,
        group_query_attention::import,
    ),
    (
        "com.microsoft",
        "MultiHeadAttention",
        1,
        multi_head_attention::import,
    ),
    ("com.microsoft", "QuickGelu", 1, gelu::quick),
    ("com.microsoft", "RotaryEmbedding", 1, rotary::contrib),
    (
        "com.microsoft",
        "SkipLayerNormalization",
        1,
        skip_norm::import,
    ),
    (
        "com.microsoft",
        "SkipSimplifiedLayerNormalization",
        1,
        skip_norm::import,
    ),
];

/// The importer of an operator, or why there is none.
pub(crate) fn find(domain: &str, name: &str, opset: i64) -> Result<Import, String> {
    let row = OPERATORS.binary_search_by(|row| (row.0, row.1).cmp(&(domain, name)));
    match row.ok().and_then(|index| OPERATORS.get(index)) {
        Some(row) if opset >= row.2 => Ok(row.3),
        Some(row) => Err(format!("the operator exists since opset {}", row.2)),
        None => Err("the operator is not supported".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_versions_are_respected() {
        assert!(OPERATORS.is_sorted_by(|a, b| (a.0, a.1) < (b.0, b.1)));
        assert!(find("", "Gelu", 20).is_ok());
        assert_eq!(
            find("", "Gelu", 19).unwrap_err(),
            "the operator exists since opset 20"
        );
        assert_eq!(
            find("com.example", "Gelu", 20).unwrap_err(),
            "the operator is not supported"
        );
    }
}

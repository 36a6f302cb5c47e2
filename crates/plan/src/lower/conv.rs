//! Convolutions, transposed convolutions and pooling: windows over spatial axes.
//!
//! Results are channels-last. An input whose channels are not neighbours in memory is copied first if it has enough of
//! them for that to pay: the reduction then reads whole vectors.

use bespoke_ir::op::conv::Window;
use bespoke_ir::{DType, NodeId, Op, SymInt, ValueId};
use bespoke_templates::Products;
use bespoke_templates::conv::Conv;
use bespoke_templates::conv_transpose::ConvTranspose;
use bespoke_templates::pool::Pool;

use super::{Epilogue, Lowering, PlanError};
use crate::access::{Access, channels_last};
use crate::builder::{Args, Phase};

/// With fewer channels than this a copy to channels-last costs more than strided reads.
const MIN_CHANNELS: i64 = 8;

impl Lowering<'_> {
    pub(super) fn emit_conv(
        &mut self,
        id: NodeId,
        name: &str,
        v: ValueId,
        epilogue: Epilogue,
    ) -> Result<Access, PlanError> {
        let graph = self.graph;
        let node = graph.node(id);
        let phase = self.phase(v);
        let rank = graph.dims(v).len();
        let spatial = rank - 2;
        let order = channels_last(rank);
        let vx = node.inputs()[0];
        let mut x = self.access(vx)?;
        let channels = &x.dims[1];
        let scattered = x.strides[1].as_const() != Some(1);
        if scattered && channels.range(&graph.symbols).0 >= MIN_CHANNELS {
            x = self.copy_in_order(phase, vx, &x, &order)?;
        }
        let dtype = graph.dtype(vx);
        let y = self.result(v, phase, name, &[], Some(order.clone()))?;
        let mut args = Args::default();
        args.int("n", &x.dims[0]);
        args.ints("in", &x.dims[2..]).ints("out", &y.dims[2..]);
        args.view("x", &x).view("y", &y);
        for (i, e) in epilogue.extras.iter().enumerate() {
            args.view(&format!("e{i}"), e);
        }
        match &node.op {
            Op::Conv(op) => {
                let groups = SymInt::constant(op.groups);
                let w_dims = graph.dims(node.inputs()[1]).to_vec();
                let w = self.weight(node.inputs()[1], &weight_order(&w_dims))?;
                let filters = w_dims[0].floor_div(&groups);
                window(&mut args, &op.window, &w_dims[2..]);
                args.int("g", &groups)
                    .int("c", &w_dims[1])
                    .int("k", &filters)
                    .view("w", &w);
                let template = Conv {
                    spatial,
                    dtype,
                    products: self.products_of_filters(phase, dtype, &w_dims[1], &filters),
                    epilogue: epilogue.expr,
                };
                self.step(phase, name, template, args)?;
            }
            Op::ConvTranspose(op) => {
                let groups = SymInt::constant(op.groups);
                let w_dims = graph.dims(node.inputs()[1]).to_vec();
                let w = self.weight(node.inputs()[1], &channels_last(rank))?;
                let per_group = w_dims[0].floor_div(&groups);
                window(&mut args, &op.window, &w_dims[2..]);
                args.int("g", &groups)
                    .int("c", &per_group)
                    .int("k", &w_dims[1])
                    .view("w", &w);
                let template = ConvTranspose {
                    spatial,
                    dtype,
                    products: self.products_of_filters(phase, dtype, &per_group, &w_dims[1]),
                    epilogue: epilogue.expr,
                };
                self.step(phase, name, template, args)?;
            }
            Op::Pool(op) => {
                let kernel: Vec<SymInt> = op.kernel.iter().map(|&k| SymInt::constant(k)).collect();
                window(&mut args, &op.window, &kernel);
                let ends: Vec<SymInt> = op.window.pads.iter().map(|p| p.1.clone()).collect();
                args.ints("padend", &ends).int("c", &x.dims[1]);
                let template = Pool {
                    kind: op.kind,
                    spatial,
                    dtype,
                    epilogue: epilogue.expr,
                };
                self.step(phase, name, template, args)?;
            }
            _ => return Err(self.internal(id, "not a window operator")),
        }
        Ok(y)
    }

    /// The arithmetic of a convolution, given the channels and the filters of a group: one of each multiplies no matrices, and
    /// is exact.
    fn products_of_filters(
        &self,
        phase: Phase,
        dtype: DType,
        channels: &SymInt,
        filters: &SymInt,
    ) -> Products {
        match [channels, filters].map(SymInt::as_const) {
            [Some(1), Some(1)] => Products::Exact,
            _ => self.products(phase, dtype, dtype),
        }
    }

    /// Max pooling with positions: two results.
    pub(super) fn emit_pool_with_indices(&mut self, id: NodeId) -> Result<(), PlanError> {
        let graph = self.graph;
        let node = graph.node(id);
        let Op::Pool(op) = &node.op else {
            return Err(self.internal(id, "not a pool"));
        };
        let (vy, vi) = (node.outputs()[0], node.outputs()[1]);
        let phase = self.phase(vy);
        let x = self.access(node.inputs()[0])?;
        let order = channels_last(x.rank());
        let y = self.result(vy, phase, &node.name, &[], Some(order.clone()))?;
        let idx = self.result(vi, phase, &node.name, &[], Some(order))?;
        let mut args = Args::default();
        args.int("n", &x.dims[0]).int("c", &x.dims[1]);
        args.ints("in", &x.dims[2..]).ints("out", &y.dims[2..]);
        args.view("x", &x).view("y", &y).view("idx", &idx);
        let kernel: Vec<SymInt> = op.kernel.iter().map(|&k| SymInt::constant(k)).collect();
        window(&mut args, &op.window, &kernel);
        let ends: Vec<SymInt> = op.window.pads.iter().map(|p| p.1.clone()).collect();
        args.ints("padend", &ends);
        let dtype = graph.dtype(vy);
        let template = Pool {
            kind: op.kind,
            spatial: x.rank() - 2,
            dtype,
            epilogue: bespoke_ir::Expr::identity(dtype),
        };
        self.step(phase, &node.name, template, args)?;
        self.done(vy, y);
        self.done(vi, idx);
        Ok(())
    }
}

/// Filters outermost, channels innermost; for depthwise filters, which have one channel, the filters innermost.
fn weight_order(dims: &[SymInt]) -> Vec<usize> {
    if dims[1].as_const() == Some(1) {
        let mut order: Vec<usize> = (1..dims.len()).collect();
        order.push(0);
        return order;
    }
    channels_last(dims.len())
}

fn window(args: &mut Args, w: &Window, kernel: &[SymInt]) {
    let constants = |v: &[i64]| v.iter().map(|&i| SymInt::constant(i)).collect::<Vec<_>>();
    args.ints("ker", kernel)
        .ints("str", &constants(&w.strides))
        .ints("dil", &constants(&w.dilations));
    let begins: Vec<SymInt> = w.pads.iter().map(|p| p.0.clone()).collect();
    args.ints("pad", &begins);
}

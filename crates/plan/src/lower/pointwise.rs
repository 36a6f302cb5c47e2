//! Elementwise steps and copies.

use bespoke_ir::expr::{Expr, ExprBuilder, Instr, Reg, Scalar};
use bespoke_ir::{DType, NodeId, Op, SymInt, ValueId};
use bespoke_templates::pointwise::Pointwise;

use super::space::{Space, memory_order};
use super::{Lowering, Pending, PlanError};
use crate::access::Access;
use crate::builder::{Args, Phase};

/// A prologue or epilogue with more operands than this would need too many registers and slots.
pub(super) const MAX_OPERANDS: usize = 16;

impl Lowering<'_> {
    /// A map joins the pending anchor among its operands, if there is one of its own extents, or the product whose columns
    /// it takes in pairs.
    pub(crate) fn visit_map(&mut self, id: NodeId) -> Result<(), PlanError> {
        let node = self.graph.node(id);
        let Op::Map(map) = &node.op else {
            return Err(self.internal(id, "not a map"));
        };
        let y = node.outputs()[0];
        if self.readers[y.index()] == 0 {
            return Ok(());
        }
        if let Some(pending) = self.take_pairs(id)? {
            return self.keep_map(y, pending);
        }
        let phase = self.phase(y);
        let (operands, expr) = distinct_operands(node.inputs(), &map.expr);
        let mut anchor = None;
        for (i, &v) in operands.iter().enumerate() {
            if expr.reads_coords() || self.graph.dims(v) != self.graph.dims(y) {
                continue;
            }
            let graph = self.graph;
            let room = MAX_OPERANDS.saturating_sub(operands.len());
            let found = self.take_pending(v, phase, |p| {
                p.anchor.is_some_and(|a| graph.node(a).op.takes_epilogue())
                    && p.operands.len() <= room
            });
            if let Some(p) = found {
                anchor = Some((i, p));
                break;
            }
        }
        let pending = match anchor {
            None => Pending {
                anchor: None,
                expr,
                operands,
                name: node.name.clone(),
            },
            Some((at, p)) => {
                // operands of the joined expression: the map's others, the anchor's result, the anchor's extras
                let joined = expr.substitute(at, &p.expr);
                let others: Vec<ValueId> = operands
                    .iter()
                    .enumerate()
                    .filter(|&(i, _)| i != at)
                    .map(|(_, &v)| v)
                    .collect();
                let k = others.len();
                let sums = p.expr.inputs().len() - p.operands.len();
                let mut values = others;
                values.extend_from_slice(&p.operands);
                // the anchor's result must come first, equal values be one operand
                let mut distinct: Vec<ValueId> = Vec::new();
                let map: Vec<usize> = (0..joined.inputs().len())
                    .map(|i| {
                        let v = match i {
                            _ if i < k => values[i],
                            _ if i < k + sums => return i - k,
                            _ => values[i - sums],
                        };
                        sums + position_or_push(&mut distinct, v)
                    })
                    .collect();
                let expr = joined.remap_inputs(&map, sums + distinct.len());
                Pending {
                    anchor: p.anchor,
                    expr,
                    operands: distinct,
                    name: p.name,
                }
            }
        };
        self.keep_map(y, pending)
    }

    /// Keeps the result of a map pending, once what it reads is there.
    fn keep_map(&mut self, y: ValueId, pending: Pending) -> Result<(), PlanError> {
        for &v in &pending.operands {
            if !self.is_between(v, y) {
                self.access(v)?;
            }
        }
        self.keep(y, pending)
    }

    /// One elementwise step over the extents of `y`.
    pub(crate) fn pointwise(
        &mut self,
        phase: Phase,
        name: &str,
        expr: &Expr,
        operands: &[Access],
        y: &Access,
        is_copy: bool,
    ) -> Result<(), PlanError> {
        let mut accesses = vec![y];
        accesses.extend(operands);
        let mut space = Space::of(&accesses);
        // an axis whose positions are read is the stride of a tensor that counts them, and so joins no other
        let rank = y.rank();
        let read: Vec<usize> = (0..rank).filter(|&i| reads_coord(expr, i)).collect();
        for &axis in &read {
            let mut strides = vec![SymInt::constant(0); rank];
            strides[axis] = SymInt::constant(1);
            space.strides.push(strides);
        }
        let order = memory_order(y, &self.graph.symbols);
        let space = space.select(&order).collapse(&self.graph.symbols, 1);
        let moved: Vec<(usize, Option<usize>)> = read
            .iter()
            .zip(&space.strides[accesses.len()..])
            .map(|(&axis, s)| (axis, s.iter().position(|s| s.as_const() == Some(1))))
            .collect();
        let expr = &with_coords(expr, &moved);
        let mut args = Args::default();
        args.ints("d", &space.dims);
        args.strided("y0", y.buffer, &y.offset, &space.strides[0]);
        for (i, x) in operands.iter().enumerate() {
            args.strided(&format!("x{i}"), x.buffer, &x.offset, &space.strides[1 + i]);
        }
        let template = Pointwise {
            rank: space.dims.len(),
            outputs: vec![expr.clone()],
        };
        self.builder
            .step(phase, name, std::sync::Arc::new(template), args, is_copy)
    }

    /// Copies elements between accesses of equal extents.
    pub(crate) fn copy(
        &mut self,
        phase: Phase,
        name: &str,
        dtype: DType,
        from: &Access,
        to: &Access,
    ) -> Result<(), PlanError> {
        self.pointwise(
            phase,
            name,
            &Expr::identity(dtype),
            std::slice::from_ref(from),
            to,
            true,
        )
    }
}

/// Whether a function asks for its position along an axis.
fn reads_coord(expr: &Expr, axis: usize) -> bool {
    let reads = |i: &Instr| matches!(i, Instr::Coord(a) if *a as usize == axis);
    expr.code().iter().any(|(i, _)| reads(i))
}

/// The same function where axes have moved; one that is gone has only position 0.
fn with_coords(expr: &Expr, moved: &[(usize, Option<usize>)]) -> Expr {
    if moved.is_empty() {
        return expr.clone();
    }
    let mut b = ExprBuilder::new(expr.inputs());
    let mut made: Vec<Reg> = Vec::with_capacity(expr.code().len());
    for &(instr, _) in expr.code() {
        let at = |r: Reg| made[r.0 as usize];
        let r = match instr {
            Instr::Input(i) => b.input(i as usize),
            Instr::Const(c) => b.constant(c),
            Instr::Coord(axis) => {
                let place = moved.iter().find(|m| m.0 == axis as usize);
                match place.and_then(|m| m.1) {
                    Some(axis) => b.coord(axis),
                    None => b.constant(Scalar::int(DType::I64, 0)),
                }
            }
            Instr::Unary(op, x) => b.unary(op, at(x)),
            Instr::Binary(op, x, y) => b.binary(op, at(x), at(y)),
            Instr::Select(c, x, y) => b.select(at(c), at(x), at(y)),
            Instr::Cast(ty, x) => b.cast(ty, at(x)),
        };
        made.push(r);
    }
    let result = made[made.len() - 1];
    b.finish(result)
}

fn position_or_push(list: &mut Vec<ValueId>, v: ValueId) -> usize {
    list.iter().position(|&x| x == v).unwrap_or_else(|| {
        list.push(v);
        list.len() - 1
    })
}

/// Operands without repetition, and the expression over them.
pub(super) fn distinct_operands(inputs: &[ValueId], expr: &Expr) -> (Vec<ValueId>, Expr) {
    let mut list = Vec::new();
    let map: Vec<usize> = inputs
        .iter()
        .map(|&v| position_or_push(&mut list, v))
        .collect();
    let expr = expr.remap_inputs(&map, list.len());
    (list, expr)
}

//! Expressions bound to what they read.
//!
//! A [`Function`] is an expression with the views of its last operands, and is shared by all threads; a [`Worker`] is what one of
//! them needs to evaluate it along a lane. The first operands come with each call: the sums of an epilogue.

use bespoke_ir::expr::Expr;

use super::super::lanes::{Elements, ElementsMut, Lane, LaneMut, View};
use super::{Evaluator, Program};

/// An expression bound to the views that it reads.
///
/// The first operands may be left to the caller (the accumulators of an epilogue); the views are the others, in order.
#[derive(Clone, Debug)]
pub struct Function<'a> {
    program: Program,
    views: Vec<View<'a>>,
}

impl<'a> Function<'a> {
    /// Binds the last `views.len()` operands of an expression.
    pub fn new(expr: &Expr, views: Vec<View<'a>>) -> Function<'a> {
        Function {
            program: Program::new(expr),
            views,
        }
    }

    /// The expression.
    pub fn expr(&self) -> &Expr {
        self.program.expr()
    }

    /// The views.
    pub fn views(&self) -> &[View<'a>] {
        &self.views
    }

    /// Scratch memory for one thread.
    pub fn worker(&self) -> Worker<'_, 'a> {
        Worker {
            evaluator: Evaluator::new(&self.program),
            function: self,
            lanes: Vec::new(),
        }
    }
}

/// Evaluates a [`Function`] on one thread.
#[derive(Debug)]
pub struct Worker<'f, 'a> {
    evaluator: Evaluator<'f>,
    function: &'f Function<'a>,
    lanes: Vec<Lane<'a>>,
}

impl<'f, 'a> Worker<'f, 'a> {
    /// `count` results along `axis` from `position` on. `lead` are the lanes of the operands that are not views, lane 0
    /// at `position`.
    pub fn run(
        &mut self,
        lead: &[Lane<'_>],
        position: &[i64],
        axis: usize,
        count: usize,
        out: &mut LaneMut<'_, '_>,
    ) {
        if lead.is_empty() {
            return self.run_views(position, axis, count, out);
        }
        // few operands: a short list on the stack serves nearly all epilogues
        let mut short = [lead[0]; 8];
        let total = lead.len() + self.function.views.len();
        if total <= short.len() {
            short[..lead.len()].copy_from_slice(lead);
            for (slot, v) in short[lead.len()..].iter_mut().zip(&self.function.views) {
                *slot = v.lane(position, axis);
            }
            self.evaluator
                .run(&short[..total], position, axis, count, out);
        } else {
            let lanes: Vec<Lane<'_>> = lead
                .iter()
                .copied()
                .chain(self.function.views.iter().map(|v| v.lane(position, axis)))
                .collect();
            self.evaluator.run(&lanes, position, axis, count, out);
        }
    }

    /// [`Worker::run`] for a function of views alone.
    pub fn run_views(
        &mut self,
        position: &[i64],
        axis: usize,
        count: usize,
        out: &mut LaneMut<'_, '_>,
    ) {
        self.lanes.clear();
        self.lanes
            .extend(self.function.views.iter().map(|v| v.lane(position, axis)));
        self.evaluator.run(&self.lanes, position, axis, count, out);
    }

    /// A row of `f32` in `scratch`, or in place if the function is the identity on such a row.
    pub fn row_f32<'s>(
        &mut self,
        position: &[i64],
        axis: usize,
        count: usize,
        scratch: &'s mut Vec<f32>,
    ) -> &'s [f32]
    where
        'a: 's,
    {
        if self.function.expr().is_identity()
            && let [view] = &self.function.views[..]
            && let Elements::F32(s) = view.elements
            && view.strided.strides.get(axis) == Some(&1)
        {
            return &s[view.strided.at(position) as usize..][..count];
        }
        self.row(position, axis, count, scratch);
        scratch
    }

    /// A row in compute type `f32` into `scratch` (narrow results unrounded).
    pub fn row(&mut self, position: &[i64], axis: usize, count: usize, scratch: &mut Vec<f32>) {
        scratch.resize(count, 0.0);
        let mut elements = ElementsMut::F32(&mut scratch[..count]);
        let mut out = LaneMut {
            elements: &mut elements,
            start: 0,
            stride: 1,
        };
        self.run_views(position, axis, count, &mut out);
    }
}

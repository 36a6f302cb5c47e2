//! Elementwise steps that do not need one another become one step.
//!
//! A step that moves a few kilobytes takes as long as its start. Where elementwise steps follow one another in the list,
//! [`join`] puts those that may run at the same time into one launch, a [`Group`] of them; a step joins the first group that
//! comes behind all it must wait for. Two that write one buffer need not wait where they write [apart](crate::runs). Steps that
//! have more to gain from a kernel of their own stay as they are: those whose operands do not lie along the last axis, for which
//! there are tiles and vectors of another kind.
//!
//! A caller may hand in one piece of memory as an input and as an output of the same size. A step that reads an input so
//! is not joined with one that writes an output which may be as large.

use std::any::Any;
use std::sync::Arc;

use bespoke_templates::Template;
use bespoke_templates::group::Group;
use bespoke_templates::pointwise::Pointwise;

use crate::order::{is_input, is_output};
use crate::{Arg, BufferId, Plan, Step, first_slot};

/// Steps of a group, at most: a block asks one after the other whether there is work for it, with the arguments of all. Those of
/// a token's attention are five: the query, two copies of what is known and two new lines behind them.
const MOST: usize = 6;

/// Joins steps of the run; see the module. Slots are laid out anew.
pub(crate) fn join(plan: &mut Plan) {
    let steps = std::mem::take(&mut plan.steps);
    let mut joined: Vec<Step> = Vec::with_capacity(steps.len());
    // groups of the row of elementwise steps that is being read
    let mut row: Vec<Vec<Step>> = Vec::new();
    for step in steps {
        if !is_part(plan, &step) {
            joined.extend(row.drain(..).filter_map(one_step));
            joined.push(step);
            continue;
        }
        let waits = |group: &Vec<Step>| group.iter().any(|s| disturb(plan, s, &step));
        let first = row.iter().rposition(waits).map_or(0, |at| at + 1);
        match row[first..].iter_mut().find(|group| group.len() < MOST) {
            Some(group) => group.push(step),
            None => row.push(vec![step]),
        }
    }
    joined.extend(row.into_iter().filter_map(one_step));
    let mut end = 0;
    for step in &mut joined {
        step.first_slot = first_slot(end, &step.args);
        end = step.first_slot + step.slots;
    }
    plan.steps = joined;
}

fn as_pointwise(step: &Step) -> Option<&Pointwise> {
    let template: &dyn Any = &*step.template;
    template.downcast_ref()
}

/// Whether a step is elementwise and walks along the last axis of every operand.
fn is_part(plan: &Plan, step: &Step) -> bool {
    let Some(pointwise) = as_pointwise(step) else {
        return false;
    };
    let Some(last) = pointwise.rank.checked_sub(1) else {
        return true;
    };
    let params = pointwise.params();
    let mut strides = params.iter().zip(&step.args).filter_map(|(p, arg)| {
        let (name, axis) = p.name.rsplit_once("_s")?;
        match arg {
            Arg::Int(e) if axis == last.to_string() => Some((name, *e)),
            _ => None,
        }
    });
    strides.all(|(name, e)| match plan.exprs[e.0 as usize].as_const() {
        Some(0) => name.starts_with('x'),
        stride => stride == Some(1),
    })
}

/// Whether two steps must stay in their order.
fn disturb(plan: &Plan, a: &Step, b: &Step) -> bool {
    let touched = |step: &Step| -> Vec<(BufferId, bool)> {
        let args = step.args.iter();
        args.filter_map(|arg| match arg {
            Arg::Read(b) => Some((*b, false)),
            Arg::Write(b) => Some((*b, true)),
            Arg::Int(_) | Arg::Map(_) => None,
        })
        .collect()
    };
    let others = touched(b);
    touched(a).iter().any(|&(x, writes_x)| {
        others.iter().any(|&(y, writes_y)| {
            x == y && (writes_x != writes_y || writes_x && !write_apart(plan, x, a, b))
                || writes_x && !writes_y && may_be_one(plan, y, x)
                || writes_y && !writes_x && may_be_one(plan, x, y)
        })
    })
}

fn write_apart(plan: &Plan, buffer: BufferId, a: &Step, b: &Step) -> bool {
    let both = as_pointwise(a).zip(as_pointwise(b));
    both.is_some_and(|(pa, pb)| crate::runs::apart(plan, buffer, (pa, a), (pb, b)))
}

/// Whether a caller may hand in the same memory for what is read as for what is written: where both may have the same
/// number of bytes, and more than none.
fn may_be_one(plan: &Plan, read: BufferId, written: BufferId) -> bool {
    if !is_input(plan, read) || !is_output(plan, written) {
        return false;
    }
    let bytes = |b: BufferId| &plan.exprs[plan.buffers[b.0 as usize].bytes.0 as usize];
    let (read, written) = (bytes(read), bytes(written));
    let more = written.clone() - read;
    // a multiple of the difference is nothing where the difference is
    let differ =
        read.known_eq(written, &plan.symbols) == Some(false) || written.exact_div(&more).is_some();
    !differ
}

/// The steps of a group as one; `None` of none.
fn one_step(mut steps: Vec<Step>) -> Option<Step> {
    if steps.len() < 2 {
        return steps.pop();
    }
    let name = steps.iter().map(|s| s.name.as_str()).collect::<Vec<_>>();
    let (name, is_copy) = (name.join(" + "), steps.iter().all(|s| s.is_copy));
    let (mut parts, mut tensors) = (Vec::new(), Vec::new());
    let mut args = Vec::new();
    // the buffers that have a number, as one type of elements each
    let mut known = Vec::new();
    for step in steps {
        let Some(part) = as_pointwise(&step).cloned() else {
            continue;
        };
        let mut own = Vec::new();
        for (param, arg) in part.params().iter().zip(step.args) {
            if let Arg::Read(buffer) | Arg::Write(buffer) = arg {
                let tensor = (buffer, param.dtype);
                let number = known.iter().position(|t| *t == tensor);
                own.push(number.unwrap_or(known.len()));
                if number.is_some() {
                    continue;
                }
                known.push(tensor);
            }
            args.push(arg);
        }
        parts.push(part);
        tensors.push(own);
    }
    let template = Group { parts, tensors };
    Some(Step {
        name,
        slots: template.params().iter().map(|p| p.kind.slots()).sum(),
        template: Arc::new(template),
        first_slot: 0,
        is_copy,
        args,
    })
}

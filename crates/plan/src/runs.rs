//! Where an elementwise step writes, as runs of neighbours, and whether two steps write apart.
//!
//! A concatenation has its operands written straight into its result: past keys and a token's new ones lie in one buffer, each in a
//! part of every head's lines. A buffer is all that edges know of, so such writers are ordered. What is shown here is that they touch
//! nothing in common, whatever the extents: both write runs that repeat at multiples of one *period*, and within the period
//! the runs lie side by side.

use bespoke_ir::SymInt;
use bespoke_templates::Template;
use bespoke_templates::pointwise::Pointwise;

use crate::{Arg, BufferId, Plan, Step};

/// The elements that a step writes of a buffer: `length` neighbours from `offset` on, and the same at sums of multiples of
/// `strides`.
struct Runs {
    offset: SymInt,
    length: SymInt,
    strides: Vec<SymInt>,
}

/// Whether two elementwise steps write different elements of a buffer; `false` if that cannot be shown.
pub(crate) fn apart(
    plan: &Plan,
    buffer: BufferId,
    a: (&Pointwise, &Step),
    b: (&Pointwise, &Step),
) -> bool {
    let (Some(a), Some(b)) = (runs(plan, buffer, a), runs(plan, buffer, b)) else {
        return false;
    };
    let le = |x: &SymInt, y: &SymInt| x.known_le(y, &plan.symbols) == Some(true);
    let Some(period) = period(plan, &a, &b) else {
        return false;
    };
    // whether a run of `second` lies behind the one of `first`, and before the next
    let follows = |first: &Runs, second: &Runs| {
        let distance = second.offset.clone() - first.offset.clone();
        let end = distance.clone() + second.length.clone();
        le(&first.length, &distance) && period.as_ref().is_none_or(|period| le(&end, period))
    };
    follows(&a, &b) || follows(&b, &a)
}

/// The smallest stride, if all are multiples of it: `Some(None)` where there are none, `None` where that is not known.
#[allow(
    clippy::option_option,
    reason = "no strides and strides that do not fit are different answers"
)]
fn period(plan: &Plan, a: &Runs, b: &Runs) -> Option<Option<SymInt>> {
    let all = || a.strides.iter().chain(&b.strides);
    let divides = |period: &&SymInt| {
        let positive = SymInt::from(1).known_le(period, &plan.symbols) == Some(true);
        positive && all().all(|s| s.exact_div(period).is_some())
    };
    match all().next() {
        None => Some(None),
        Some(_) => all().find(divides).cloned().map(Some),
    }
}

/// What a step writes of a buffer, if it writes it by one of its results alone and forward.
fn runs(plan: &Plan, buffer: BufferId, (pointwise, step): (&Pointwise, &Step)) -> Option<Runs> {
    let params = pointwise.params();
    let named = || params.iter().zip(&step.args);
    let mut results = named().filter(|(_, arg)| **arg == Arg::Write(buffer));
    let (result, None) = (&results.next()?.0.name, results.next()) else {
        return None;
    };
    let value = |name: String| {
        let (_, arg) = named().find(|(p, _)| p.name == name)?;
        match arg {
            Arg::Int(e) => Some(&plan.exprs[e.0 as usize]),
            Arg::Read(_) | Arg::Write(_) | Arg::Map(_) => None,
        }
    };
    let mut length = SymInt::from(1);
    let mut strides = Vec::new();
    for axis in (0..pointwise.rank).rev() {
        let extent = value(format!("d{axis}"))?;
        if extent.as_const() == Some(1) {
            continue;
        }
        let stride = value(format!("{result}_s{axis}"))?;
        match strides.is_empty() && stride.known_eq(&length, &plan.symbols) == Some(true) {
            true => length = length * extent.clone(),
            false => strides.push(stride.clone()),
        }
    }
    let offset = value(format!("{result}_o"))?.clone();
    Some(Runs {
        offset,
        length,
        strides,
    })
}

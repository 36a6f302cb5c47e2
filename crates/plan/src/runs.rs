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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use bespoke_ir::sym::{Symbol, SymbolOrigin};
    use bespoke_ir::{DType, Expr, Graph, TensorType};
    use proptest::prelude::*;

    use super::*;
    use crate::ExprId;

    /// What one step writes: first element, extents and strides of two axes.
    type Write = (i64, [i64; 2], [i64; 2]);

    /// A plan of nothing with one symbol, N, that is 1 or more.
    fn empty() -> (Plan, SymInt) {
        let mut g = Graph::new("nothing");
        let origin = SymbolOrigin::InputDim { input: 0, axis: 0 };
        let symbol = Symbol {
            min: 1,
            ..Symbol::new("N", origin)
        };
        let n = SymInt::symbol(g.symbols.add(symbol));
        let x = g.add_input("x", TensorType::new(DType::F32, vec![n.clone()]));
        g.add_output(x);
        (crate::plan(&g).unwrap(), n)
    }

    /// A step that writes so, its numbers expressions of the plan.
    fn step(plan: &mut Plan, (at, extents, strides): (SymInt, [SymInt; 2], [SymInt; 2])) -> Step {
        let template = Pointwise {
            rank: 2,
            outputs: vec![Expr::identity(DType::F32)],
        };
        let mut args = Vec::new();
        for p in template.params() {
            let value = match p.name.as_str() {
                _ if p.dtype.is_some() => {
                    let write = p.name == "y0";
                    let (read, written) = (Arg::Read(BufferId(1)), Arg::Write(BufferId(0)));
                    args.push(if write { written } else { read });
                    continue;
                }
                "y0_o" => &at,
                "d0" => &extents[0],
                "d1" => &extents[1],
                "y0_s0" => &strides[0],
                "y0_s1" => &strides[1],
                _ => &SymInt::from(0),
            };
            args.push(Arg::Int(ExprId(plan.exprs.len() as u32)));
            plan.exprs.push(value.clone());
        }
        Step {
            name: "step".to_owned(),
            template: Arc::new(template),
            args,
            first_slot: 0,
            slots: 0,
            is_copy: false,
        }
    }

    fn are_apart(plan: &Plan, a: &Step, b: &Step) -> bool {
        let template = Pointwise {
            rank: 2,
            outputs: vec![Expr::identity(DType::F32)],
        };
        apart(plan, BufferId(0), (&template, a), (&template, b))
    }

    fn touched((at, extents, strides): Write) -> BTreeSet<i64> {
        let outer = 0..extents[0];
        let all =
            outer.flat_map(|i| (0..extents[1]).map(move |j| at + i * strides[0] + j * strides[1]));
        all.collect()
    }

    fn write() -> impl Strategy<Value = Write> {
        let strides = prop::sample::select(vec![[6, 1], [12, 1], [3, 1], [6, 2], [1, 6], [0, 1]]);
        (0_i64..14, [1_i64..4, 1_i64..7], strides)
    }

    proptest! {
        #[test]
        fn what_is_said_to_be_apart_is(a in write(), b in write()) {
            let (mut plan, _) = empty();
            let of = |(at, d, s): Write| (at.into(), d.map(SymInt::from), s.map(SymInt::from));
            let steps = [a, b].map(|w| step(&mut plan, of(w)));
            if are_apart(&plan, &steps[0], &steps[1]) {
                prop_assert!(touched(a).is_disjoint(&touched(b)), "{a:?} {b:?}");
            }
        }
    }

    #[test]
    fn parts_of_lines_are_apart_whatever_the_extents() {
        let (mut plan, n) = empty();
        let line = (n.clone() + 1) * 4;
        // heads of N known lines of 4, and a new one behind each
        let known = [8.into(), n.clone() * 4];
        let old = step(
            &mut plan,
            (0.into(), known.clone(), [line.clone(), 1.into()]),
        );
        let new = |plan: &mut Plan, at: SymInt, length: i64| {
            step(
                plan,
                (at, [8.into(), length.into()], [line.clone(), 1.into()]),
            )
        };
        let behind = new(&mut plan, n.clone() * 4, 4);
        assert!(are_apart(&plan, &old, &behind) && are_apart(&plan, &behind, &old));
        // one element earlier, one more, and with lines that are too short
        let early = new(&mut plan, n.clone() * 4 - 1, 4);
        let long = new(&mut plan, n.clone() * 4, 5);
        let short = step(
            &mut plan,
            (
                n.clone() * 4,
                [8.into(), 4.into()],
                [n.clone() * 4, 1.into()],
            ),
        );
        for other in [&early, &long, &short] {
            assert!(!are_apart(&plan, &old, other));
        }
    }
}

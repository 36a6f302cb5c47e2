//! The verifier of plans.
//!
//! It checks that
//!
//! - slots of steps follow one another without gaps, and each step has the arguments of its template;
//! - every buffer that a step reads was written by an earlier step of its list, uploaded, or is an input; setup steps
//!   touch only constants and persistent buffers;
//! - no step writes an input, a constant or (outside the setup) a persistent buffer, nor a buffer that it reads;
//! - every output is written.
//!
//! [`verify_memory`] proves for one layout that buffers which share bytes are never alive at the same step.

use crate::{Arg, BufferId, Place, Plan, Step};

/// A broken rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the plan is malformed at step `{step}`: {reason}")]
pub struct VerifyError {
    /// Name of the step.
    pub step: String,
    /// The rule that does not hold.
    pub reason: String,
}

/// Checks every rule of the module that does not depend on a layout.
pub fn verify(plan: &Plan) -> Result<(), VerifyError> {
    let mut written = vec![false; plan.buffers.len()];
    for (i, b) in plan.buffers.iter().enumerate() {
        written[i] = matches!(b.place, Place::Input(_) | Place::Constant(_));
    }
    for (list, setup) in [(&plan.setup, true), (&plan.steps, false)] {
        let mut slot = 0;
        for step in list {
            check_step(plan, step, setup, &mut slot, &mut written)?;
        }
    }
    for port in &plan.outputs {
        // an output that the graph takes from nowhere has no elements to write
        if !written[port.buffer.0 as usize] {
            return Err(VerifyError {
                step: port.name.clone(),
                reason: "no step writes this output".into(),
            });
        }
    }
    Ok(())
}

fn check_step(
    plan: &Plan,
    step: &Step,
    setup: bool,
    slot: &mut usize,
    written: &mut [bool],
) -> Result<(), VerifyError> {
    let fail = |reason: String| {
        Err(VerifyError {
            step: step.name.clone(),
            reason,
        })
    };
    if step.first_slot != *slot {
        return fail(format!("its first slot is {}, not {slot}", step.first_slot));
    }
    *slot += step.slots;
    let params = step.template.params();
    if params.len() != step.args.len() {
        return fail(format!(
            "{} arguments for {} parameters",
            step.args.len(),
            params.len()
        ));
    }
    let place = |b: &BufferId| &plan.buffers[b.0 as usize].place;
    let reads: Vec<BufferId> = buffers(step, false);
    for b in &reads {
        if !written[b.0 as usize] {
            return fail(format!(
                "it reads `{}` before anything wrote it",
                name(plan, *b)
            ));
        }
        if setup && !matches!(place(b), Place::Constant(_) | Place::Persistent) {
            return fail(format!("the setup reads `{}`", name(plan, *b)));
        }
    }
    for b in buffers(step, true) {
        let allowed = match place(&b) {
            Place::Persistent => setup,
            Place::Arena { .. } | Place::Output(_) => !setup,
            Place::Input(_) | Place::Constant(_) => false,
        };
        if !allowed {
            return fail(format!("it may not write `{}`", name(plan, b)));
        }
        if reads.contains(&b) {
            return fail(format!("it reads and writes `{}`", name(plan, b)));
        }
        written[b.0 as usize] = true;
    }
    Ok(())
}

fn buffers(step: &Step, writes: bool) -> Vec<BufferId> {
    step.args
        .iter()
        .filter_map(|a| match a {
            Arg::Read(b) if !writes => Some(*b),
            Arg::Write(b) if writes => Some(*b),
            _ => None,
        })
        .collect()
}

fn name(plan: &Plan, b: BufferId) -> &str {
    &plan.buffers[b.0 as usize].name
}

/// Proves that buffers which share bytes of the arena are never alive at the same step.
pub fn verify_memory(plan: &Plan, binding: &crate::Binding) -> Result<(), VerifyError> {
    let spans: Vec<(usize, usize, usize, u64, u64)> = plan
        .buffers
        .iter()
        .enumerate()
        .filter_map(|(i, b)| match b.place {
            Place::Arena { first, last } if binding.sizes[i] > 0 => {
                let start = binding.memory.offsets[i];
                Some((i, first, last, start, start + binding.sizes[i]))
            }
            _ => None,
        })
        .collect();
    for (n, a) in spans.iter().enumerate() {
        for b in &spans[n + 1..] {
            let bytes = a.3 < b.4 && b.3 < a.4;
            let steps = a.1 <= b.2 && b.1 <= a.2;
            if bytes && steps {
                return Err(VerifyError {
                    step: plan.buffers[a.0].name.clone(),
                    reason: format!(
                        "it shares bytes with `{}`, alive at the same step",
                        plan.buffers[b.0].name
                    ),
                });
            }
        }
    }
    Ok(())
}

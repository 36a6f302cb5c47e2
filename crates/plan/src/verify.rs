//! The verifier of plans.
//!
//! It checks that
//!
//! - slots of steps follow one another without gaps but for those before tensor maps, which are aligned, and each step has
//!   the arguments of its template, maps first and each of an operand that the step reads;
//! - every buffer that a step reads was written by an earlier step of its list, uploaded, or is an input; setup steps
//!   touch only constants and persistent buffers;
//! - no step writes an input, a constant or (outside the setup) a persistent buffer, nor a buffer that it reads, nor one
//!   twice;
//! - every output is written;
//! - edges lead from earlier steps to later ones, and a path of them orders every two steps of which one writes a buffer
//!   that the other touches, and every step that reads an input and every one that writes an output, since a caller may
//!   hand in the same memory for both.
//!
//! [`verify_memory`] proves for one layout that of two buffers which share bytes, every step that touches one is over, by
//! the edges, before any step that touches the other begins.

use bespoke_device::check_edges;

use crate::closure::Closure;
use crate::order::{is_input, is_output};
use crate::{Arg, BufferId, Place, Plan, Step, first_slot};

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
    check_order(plan)
}

/// Every two steps that would disturb one another have a path between them.
fn check_order(plan: &Plan) -> Result<(), VerifyError> {
    let fail = |step: usize, reason: String| {
        Err(VerifyError {
            step: plan
                .steps
                .get(step)
                .map_or(String::new(), |s| s.name.clone()),
            reason,
        })
    };
    if let Err(e) = check_edges(plan.steps.len(), &plan.edges) {
        return fail(0, e.to_string());
    }
    let closure = Closure::of(plan.steps.len(), &plan.edges);
    // who touches each buffer so far, and whether it writes
    let mut touched: Vec<Vec<(usize, bool)>> = vec![Vec::new(); plan.buffers.len()];
    // who touches the caller's memory: reads an input, writes an output
    let mut callers: Vec<(usize, bool)> = Vec::new();
    for (i, step) in plan.steps.iter().enumerate() {
        let ordered = |before: &(usize, bool), writes: bool| {
            before.0 == i || !(before.1 || writes) || closure.before(before.0, i)
        };
        for writes in [false, true] {
            for b in buffers(step, writes) {
                let seen = &mut touched[b.0 as usize];
                if let Some(other) = seen.iter().find(|s| !ordered(s, writes)) {
                    let other = &plan.steps[other.0].name;
                    let name = name(plan, b);
                    return fail(
                        i,
                        format!("nothing orders it and `{other}`, and both touch `{name}`"),
                    );
                }
                seen.push((i, writes));
                let outside = match writes {
                    false => is_input(plan, b),
                    true => is_output(plan, b),
                };
                if outside {
                    let disturbs = |s: &&(usize, bool)| s.1 != writes && !ordered(s, writes);
                    if let Some(other) = callers.iter().find(disturbs) {
                        let other = &plan.steps[other.0].name;
                        let reason = format!(
                            "nothing orders it and `{other}`, and both touch memory of the caller, who may have handed \
                             in the same twice"
                        );
                        return fail(i, reason);
                    }
                    callers.push((i, writes));
                }
            }
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
    let first = first_slot(*slot, &step.args);
    if step.first_slot != first {
        return fail(format!(
            "its first slot is {}, not {first}",
            step.first_slot
        ));
    }
    *slot = first + step.slots;
    check_maps(step).or_else(fail)?;
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
    let writes = buffers(step, true);
    for (i, &b) in writes.iter().enumerate() {
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
        if writes[..i].contains(&b) {
            return fail(format!("two of its results are in `{}`", name(plan, b)));
        }
        written[b.0 as usize] = true;
    }
    Ok(())
}

/// Maps come first, and their slots are those of a tensor that is read and of integers.
fn check_maps(step: &Step) -> Result<(), String> {
    let mut slots = Vec::with_capacity(step.slots);
    for arg in &step.args {
        slots.push(Some(arg));
        slots.resize(slots.len() + arg.slots() - 1, None);
    }
    let is =
        |at: usize, right: fn(&Arg) -> bool| slots.get(at).copied().flatten().is_some_and(right);
    let integer = |at: usize| is(at, |arg| matches!(arg, Arg::Int(_)));
    let all = step.args.iter().filter(|arg| matches!(arg, Arg::Map(_)));
    if all.count() != step.maps().count() {
        return Err("a tensor map does not come first".into());
    }
    for (at, of) in step.maps() {
        let tensor = is(of.tensor, |arg| matches!(arg, Arg::Read(_)));
        if !tensor || !of.integers().all(integer) {
            return Err(format!("the tensor map in its slot {at} is of no operand"));
        }
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

/// Proves that of every two buffers which share bytes of the arena, one is done with before the other is begun.
pub fn verify_memory(plan: &Plan, binding: &crate::Binding) -> Result<(), VerifyError> {
    let closure = Closure::of(plan.steps.len(), &plan.edges);
    let mut touching: Vec<Vec<usize>> = vec![Vec::new(); plan.buffers.len()];
    for (i, step) in plan.steps.iter().enumerate() {
        for b in [false, true].into_iter().flat_map(|w| buffers(step, w)) {
            touching[b.0 as usize].push(i);
        }
    }
    let spans: Vec<(usize, u64, u64)> = plan
        .buffers
        .iter()
        .enumerate()
        .filter(|(i, b)| matches!(b.place, Place::Arena { .. }) && binding.sizes[*i] > 0)
        .map(|(i, _)| {
            let start = binding.memory.offsets[i];
            (i, start, start + binding.sizes[i])
        })
        .collect();
    let done_before = |a: usize, b: usize| {
        let mut steps = touching[a].iter();
        steps.all(|a| touching[b].iter().all(|b| a < b && closure.before(*a, *b)))
    };
    for (n, a) in spans.iter().enumerate() {
        for b in &spans[n + 1..] {
            let bytes = a.1 < b.2 && b.1 < a.2;
            if bytes && !done_before(a.0, b.0) && !done_before(b.0, a.0) {
                return Err(VerifyError {
                    step: plan.buffers[a.0].name.clone(),
                    reason: format!(
                        "it shares bytes with `{}`, which may be alive at the same time",
                        plan.buffers[b.0].name
                    ),
                });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bespoke_device::MAP_SLOTS;
    use bespoke_ir::op::{Map, MatMul, Normalize};
    use bespoke_ir::{BinaryOp, DType, Expr, Graph, TensorType};

    use super::*;

    /// `x[3,8] · y[8,8] · z[8,8]` in halves.
    fn products() -> Plan {
        let mut g = Graph::new("products");
        let mut at = g.add_input("x", TensorType::new(DType::F16, vec![3.into(), 8.into()]));
        for name in ["y", "z"] {
            let ty = TensorType::new(DType::F16, vec![8.into(), 8.into()]);
            let factor = g.add_input(name, ty);
            let product = format!("·{name}");
            at = g.add1(product, MatMul::default(), &[at, factor]).unwrap();
        }
        g.add_output(at);
        crate::plan(&g).unwrap()
    }

    #[test]
    fn rows_with_tensor_maps_are_aligned() {
        let plan = products();
        let [first, second] = &plan.steps[..] else {
            panic!("{plan}")
        };
        let gap = first.slots..second.first_slot;
        assert!(!gap.is_empty() && second.first_slot % 8 == 0, "{gap:?}");
        let binding = plan.bind_symbols(vec![]).unwrap();
        let mut slots = vec![7; 3];
        let address = |buffer: usize, _: &Place, _: u64| (buffer as u64 + 1) << 8;
        plan.slots(
            &plan.steps,
            &binding,
            address,
            |map| Some([map.address.0 as i64; MAP_SLOTS]),
            &mut slots,
        );
        assert_eq!(slots.len(), plan.slot_count());
        assert!(slots[gap].iter().all(|slot| *slot == 0));
        for step in &plan.steps {
            let row = &slots[step.first_slot..][..step.slots];
            assert_eq!(row[..MAP_SLOTS], [row[35]; MAP_SLOTS]);
            // lines of the second operand do not run along the reduction
            assert_eq!(row[MAP_SLOTS..][..MAP_SLOTS], [0; MAP_SLOTS]);
        }
    }

    #[test]
    fn a_step_whose_results_share_a_buffer_is_found() {
        let mut g = Graph::new("sum");
        let mut input =
            |name| g.add_input(name, TensorType::new(DType::F16, vec![3.into(), 8.into()]));
        let operands = [input("x"), input("r")];
        let add = Map::new(Expr::binary(BinaryOp::Add, DType::F16));
        let sum = g.add1("sum", add, &operands).unwrap();
        let norm = Normalize {
            axes: vec![1],
            epsilon: 1.0,
            center: true,
        };
        let normal = g.add1("norm", norm, &[sum]).unwrap();
        g.add_output(sum);
        g.add_output(normal);
        let mut plan = crate::plan(&g).unwrap();
        verify(&plan).unwrap();
        let results = plan.steps[0].args.iter_mut();
        let results = results.filter(|a| matches!(a, Arg::Write(_)));
        let results: Vec<&mut Arg> = results.collect();
        assert_eq!(results.len(), 2);
        for result in results {
            *result = Arg::Write(plan.outputs[0].buffer);
        }
        let error = verify(&plan).unwrap_err();
        assert_eq!(error.reason, "two of its results are in `sum`");
    }

    #[test]
    fn broken_tensor_maps_are_found() {
        type Damage = fn(&mut Step);
        let damages: [(Damage, &str); 4] = [
            (|s| s.first_slot -= 1, "its first slot is 55, not 56"),
            (
                |s| s.args.rotate_left(1),
                "a tensor map does not come first",
            ),
            (
                |s| {
                    if let Some(Arg::Map(of)) = s.args.get_mut(1) {
                        of.tensor = 32;
                    }
                },
                "the tensor map in its slot 16 is of no operand",
            ),
            (
                |s| {
                    if let Some(Arg::Map(of)) = s.args.first_mut() {
                        of.step_stride = 500;
                    }
                },
                "the tensor map in its slot 0 is of no operand",
            ),
        ];
        for (damage, words) in damages {
            let mut plan = products();
            verify(&plan).unwrap();
            damage(&mut plan.steps[1]);
            let error = verify(&plan).unwrap_err();
            assert_eq!((error.step.as_str(), error.reason.as_str()), ("·z", words));
        }
    }
}

//! Trials: a better program proves itself on live data before it serves.
//!
//! With [`crate::SessionOptions::verify_swap`], a specialised program that is ready is a *candidate*. The next run of its
//! class is served by the program in service, as if nothing was; then, on the same lane and the same inputs, the candidate
//! computes into buffers of its own. Its outputs must agree with those that were served, within bounds by element type,
//! and its time must not be longer. A candidate that fails is dropped, reported and not asked for again.
//!
//! A trial lengthens the run that it follows by some runs' time; it never changes what that run returns.

use bespoke_device::{Device, DevicePtr, Memory};
use bespoke_ir::DType;
use bespoke_plan::{Binding, Plan};
use std::sync::Arc;

use crate::border::placed;
use crate::error::Error;
use crate::lane::{Lane, Pointers};
use crate::ledger::Purpose;
use crate::program::Program;
use crate::shared::Core;
use crate::tensor::Tensor;

/// Timed runs of each program; the fastest counts.
const RUNS: usize = 3;
/// A candidate may take so much of the served program's time: what differs less is noise.
const NOISE: f64 = 1.05;

/// How a trial ended.
#[derive(Clone, Debug)]
pub(crate) struct Verdict {
    /// Why the candidate must not serve; `None` if it may.
    pub(crate) reason: Option<String>,
    /// Largest difference between elements of floating-point outputs.
    pub(crate) max_abs: f64,
    /// Device time of the program in service and of the candidate, in microseconds.
    pub(crate) served_us: f64,
    pub(crate) candidate_us: f64,
}

/// Tries a candidate after a run of `served` at these pointers, whose outputs are complete.
pub(crate) fn judge(
    lane: &mut Lane,
    core: &Core,
    served: &Program,
    candidate: &Program,
    binding: &Binding,
    pointers: &Pointers,
) -> Result<Verdict, Error> {
    let (plan, device) = (&core.plan, &*core.loader.device);
    let expected = read(lane, plan, binding, &pointers.outputs)?;
    let served_us = time(lane, core, served, binding, pointers)?;
    let scratch = scratch(core, device, plan, binding)?;
    let own = Pointers {
        inputs: pointers.inputs.clone(),
        outputs: scratch.iter().map(|m| m.ptr()).collect(),
    };
    let candidate_us = time(lane, core, candidate, binding, &own)?;
    let actual = read(lane, plan, binding, &own.outputs)?;

    let (mut max_abs, mut reason) = (0.0_f64, None);
    for (port, (actual, expected)) in plan.outputs.iter().zip(actual.iter().zip(&expected)) {
        let (by, wrong) = compare(actual, expected);
        max_abs = max_abs.max(by);
        if let Some(wrong) = wrong {
            reason.get_or_insert(format!("output `{}` is wrong: {wrong}", port.name));
        }
    }
    if candidate_us > served_us * NOISE {
        reason.get_or_insert(format!(
            "it takes {candidate_us:.1} µs, the program in service {served_us:.1} µs"
        ));
    }
    Ok(Verdict {
        reason,
        max_abs,
        served_us,
        candidate_us,
    })
}

/// Whether an output lies over an input: running twice would then not be running the same.
pub(crate) fn overlap(plan: &Plan, binding: &Binding, pointers: &Pointers) -> bool {
    let [inputs, outputs] = placed(plan, binding, pointers);
    inputs
        .iter()
        .any(|input| outputs.iter().any(|output| input.overlaps(output)))
}

fn scratch(
    core: &Core,
    device: &dyn Device,
    plan: &Plan,
    binding: &Binding,
) -> Result<Vec<Arc<dyn Memory>>, Error> {
    let of = |port: &bespoke_plan::Port| {
        let bytes = binding.sizes[port.buffer.0 as usize].max(1);
        core.ledger
            .alloc(device, Purpose::Staging, "the outputs of a trial", bytes)
    };
    let all: Result<_, _> = plan.outputs.iter().map(of).collect();
    Ok(all?)
}

/// The fastest of some runs on the device's clock, in microseconds.
fn time(
    lane: &mut Lane,
    core: &Core,
    program: &Program,
    binding: &Binding,
    pointers: &Pointers,
) -> Result<f64, Error> {
    let mut best = f64::INFINITY;
    // the first run pays for what the graph or the caches still lack
    for _ in 0..=RUNS {
        let start = lane.stream.mark()?;
        lane.execute(
            program,
            program.plan(&core.plan),
            program.binding(binding),
            pointers,
            program.weights(&core.weights),
            &*core.loader.device,
            &core.log,
            core.whole_graph,
        )?;
        let end = lane.stream.mark()?;
        best = best.min(end.since(&*start)? * 1e3);
    }
    Ok(best)
}

fn read(
    lane: &Lane,
    plan: &Plan,
    binding: &Binding,
    from: &[DevicePtr],
) -> Result<Vec<Tensor>, Error> {
    let of = |(port, at): (&bespoke_plan::Port, &DevicePtr)| -> Result<Tensor, Error> {
        let mut data = vec![0; binding.sizes[port.buffer.0 as usize] as usize];
        lane.stream.read(&mut data, *at)?;
        let dims = port.dims.iter().map(|&d| binding.get(d)).collect();
        Ok(Tensor::new(port.ty.dtype, dims, data)?)
    };
    plan.outputs.iter().zip(from).map(of).collect()
}

/// The largest difference, and what is wrong if it is too much: single precision 10⁻³ of the element and 10⁻⁴ of the
/// largest one, half precision 2·10⁻² of the largest one, everything else none. A value that is not finite must be the same.
fn compare(actual: &Tensor, expected: &Tensor) -> (f64, Option<String>) {
    if actual.bytes() == expected.bytes() {
        return (0.0, None);
    }
    let (dtype, a, e) = (expected.dtype(), actual.to_f64(), expected.to_f64());
    let largest = e
        .iter()
        .filter(|v| v.is_finite())
        .fold(0.0_f64, |m, v| m.max(v.abs()));
    let mut max_abs = 0.0_f64;
    let mut wrong = None;
    for (i, (a, e)) in a.iter().zip(&e).enumerate() {
        let same = a == e || (a.is_nan() && e.is_nan());
        let by = (a - e).abs();
        let allowed = match dtype {
            DType::F32 | DType::F64 => 1e-4 * largest + 1e-3 * e.abs(),
            ty if ty.is_float() => 2e-2 * largest,
            _ => 0.0,
        };
        if by.is_finite() {
            max_abs = max_abs.max(by);
        }
        // bounds are for finite values
        let within = same || (e.is_finite() && by <= allowed);
        if !within && wrong.is_none() {
            wrong = Some(format!("element {i} is {a}, not {e} ± {allowed:.3e}"));
        }
    }
    (max_abs, wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(values: &[f32]) -> Tensor {
        Tensor::from_f32(&[values.len() as i64], values).unwrap()
    }

    #[test]
    fn small_differences_pass_and_large_ones_are_named() {
        let expected = tensor(&[1.0, -100.0, 0.0]);
        assert_eq!(compare(&expected, &expected), (0.0, None));
        let (by, wrong) = compare(&tensor(&[1.005, -100.05, 0.009]), &expected);
        assert!(by > 0.04 && wrong.is_none(), "{wrong:?}");
        let (_, wrong) = compare(&tensor(&[1.0, -100.0, 0.02]), &expected);
        assert!(wrong.unwrap().contains("element 2"));
    }

    #[test]
    fn infinities_and_nans_must_be_where_they_were() {
        let expected = tensor(&[f32::INFINITY, f32::NAN, 1.0]);
        assert_eq!(
            compare(&tensor(&[f32::INFINITY, f32::NAN, 1.0]), &expected).1,
            None
        );
        for wrong in [
            [1.0, f32::NAN, 1.0],
            [f32::INFINITY, 1.0, 1.0],
            [f32::INFINITY, f32::NAN, f32::NAN],
        ] {
            assert!(compare(&tensor(&wrong), &expected).1.is_some(), "{wrong:?}");
        }
    }

    #[test]
    fn integers_must_be_equal() {
        let of = |v: i64| Tensor::from_i64(&[1], &[v]).unwrap();
        assert!(compare(&of(3), &of(4)).1.is_some());
    }
}

//! The time of every step.
//!
//! A profile is a run of its own: steps are launched one by one with a mark on the stream before and after each, and the
//! device says how far apart the marks are. So a short step takes some microseconds more than it does in a graph, and the
//! steps do not add up to the time of a run; which steps cost the most is what a profile is for.
//!
//! A profile runs the program that a run at that shape would get, and tells the policy nothing.

use bespoke_policy::Signature;
use serde::Serialize;

use crate::error::Error;
use crate::lane::{Lane, Pointers};
use crate::patience::Patience;
use crate::request::Bindings;
use crate::session::{Session, check_capacity, check_type};

/// What a step took.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StepTime {
    /// Name of the anchor's node.
    pub name: String,
    /// Name of the kernel.
    pub kernel: String,
    /// Whether the step only moves data.
    pub copy: bool,
    /// Device time between the marks around it, in milliseconds.
    pub ms: f64,
}

impl Session {
    /// Runs the model once on the caller's device memory and returns what every step took, in the order in which they
    /// ran. The outputs are those of a run.
    pub fn profile(&self, bindings: &Bindings) -> Result<Vec<StepTime>, Error> {
        let core = &*self.core;
        if let Some(lost) = core.loader.device.lost() {
            return Err(lost.into());
        }
        let (inputs, outputs) = self.views(bindings)?;
        let mut dims = Vec::with_capacity(inputs.len());
        for (view, port) in inputs.iter().zip(&core.plan.inputs) {
            check_type(port, view.dtype)?;
            dims.push(&view.dims[..]);
        }
        let (binding, ..) = core.bind(&dims)?;
        let program = core.pick(&Signature::new(&binding.symbols));
        let mut pointers = Pointers::default();
        for (list, views, ports) in [
            (&mut pointers.inputs, inputs, &core.plan.inputs),
            (&mut pointers.outputs, outputs, &core.plan.outputs),
        ] {
            for (view, port) in views.iter().zip(ports) {
                let bytes = binding.sizes[port.buffer.0 as usize];
                list.push(check_capacity(&port.name, view, bytes)?);
            }
        }

        let mut lane = core.lane(Patience::default())?;
        let ready = lane.make_ready(&core.plan, &binding, &pointers, &core.weights, &core.log);
        let times = ready.and_then(|_| {
            let launches = lane.launches(&program, &core.plan);
            times(&lane, &launches)
        });
        if times.is_err() {
            // whatever was queued must be over before the lane serves another run; its own error was reported already
            let _ = lane.stream.synchronize();
        }
        core.give_back(lane);
        let steps = core.plan.steps.iter().zip(&program.kernels).zip(times?);
        Ok(steps
            .map(|((step, (kernel, _)), ms)| StepTime {
                name: step.name.clone(),
                kernel: kernel.name().to_owned(),
                copy: step.is_copy,
                ms,
            })
            .collect())
    }
}

/// Time of each launch on a lane's stream, in milliseconds.
fn times(lane: &Lane, launches: &[bespoke_device::Launch]) -> Result<Vec<f64>, Error> {
    let mut marks = Vec::with_capacity(launches.len() + 1);
    marks.push(lane.stream.mark()?);
    for launch in launches {
        lane.stream.launch(launch)?;
        marks.push(lane.stream.mark()?);
    }
    lane.stream.synchronize()?;
    let pairs = marks.windows(2);
    Ok(pairs
        .map(|pair| pair[1].since(&*pair[0]))
        .collect::<Result<_, _>>()?)
}

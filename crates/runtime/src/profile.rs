//! The time of every step.
//!
//! A profile is a run of its own: steps are launched one by one with a mark on the stream before and after each, and the
//! device says how far apart the marks are. So a short step takes some microseconds more than it does in a graph, and the
//! steps do not add up to the time of a run; which steps cost the most is what a profile is for.
//!
//! A profile runs the program that a run at that shape would get, and tells the policy nothing.

use std::sync::Arc;

use bespoke_plan::Binding;
use bespoke_policy::Signature;
use serde::Serialize;

use crate::border::{check_capacity, check_overlaps, check_type};
use crate::error::Error;
use crate::lane::{Lane, Pointers};
use crate::patience::Patience;
use crate::request::Bindings;
use crate::session::Session;

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
        self.single_graph("a profile")?;
        let core = &*self.core;
        let (binding, pointers) = self.place(bindings)?;
        let program = core.pick(&Signature::new(&binding.symbols));
        let mut lane = core.lane(Patience::default())?;
        let (plan, device) = (program.plan(&core.plan), &*core.loader.device);
        let ready = lane.make_ready(
            &program,
            plan,
            program.binding(&binding),
            &pointers,
            program.weights(&core.weights),
            device,
            &core.log,
        );
        let times = ready.and_then(|(block, _)| {
            let launches = program.launches(&plan.steps, block.ptr());
            times(&lane, &launches)
        });
        if times.is_err() {
            // whatever was queued must be over before the lane serves another run; its own error was reported already
            let _ = lane.stream.synchronize();
        }
        core.give_back(lane);
        let steps = plan.steps.iter().zip(&program.kernels).zip(times?);
        Ok(steps
            .map(|((step, (kernel, _)), ms)| StepTime {
                name: step.name.clone(),
                kernel: kernel.name().to_owned(),
                copy: step.is_copy,
                ms,
            })
            .collect())
    }

    /// The shape of the caller's device memory, bound, and the addresses; all checks of a run are made.
    pub(crate) fn place(&self, bindings: &Bindings) -> Result<(Arc<Binding>, Pointers), Error> {
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
        check_overlaps(&core.plan, &binding, &pointers)?;
        Ok((binding, pointers))
    }
}

/// Time of each launch on a lane's stream, in milliseconds.
pub(crate) fn times(lane: &Lane, launches: &[bespoke_device::Launch]) -> Result<Vec<f64>, Error> {
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bespoke_cache::{CacheConfig, Mode};
    use bespoke_host::{HostDevice, HostOptions};
    use bespoke_ir::op::{Map, MatMul};
    use bespoke_ir::{Constant, DType, Expr, Graph, TensorType, UnaryOp};

    use crate::service::{CompileService, ServiceOptions};
    use crate::{RunOptions, SessionOptions, TensorView};

    use super::*;

    /// `-(x · 2I)`, x: f32[2,2].
    fn session() -> Session {
        let mut g = Graph::new("two steps");
        let x = g.add_input("x", TensorType::new(DType::F32, vec![2.into(), 2.into()]));
        let two: Vec<u8> = [2.0_f32, 0.0, 0.0, 2.0]
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect();
        let two = Constant::new(DType::F32, vec![2, 2], two.into()).unwrap();
        let two = g.add_constant("two", two);
        let m = g.add1("product", MatMul::default(), &[x, two]).unwrap();
        let map = Map::new(Expr::unary(UnaryOp::Neg, DType::F32));
        let y = g.add1("y", map, &[m]).unwrap();
        g.add_output(y);
        let device = HostDevice::new(HostOptions {
            threads: 1,
            target: None,
            poison: false,
        });
        let service = CompileService::new(ServiceOptions {
            cache: CacheConfig {
                mode: Mode::Off,
                ..CacheConfig::default()
            },
            ..ServiceOptions::default()
        });
        Session::from_graph(g, device, service.unwrap(), SessionOptions::default()).unwrap()
    }

    #[test]
    fn a_profile_names_every_step_and_computes_what_a_run_does() {
        let session = session();
        let device = session.device().clone();
        let stream = device.stream().unwrap();
        let (x, y) = (
            device.alloc("x", 16).unwrap(),
            device.alloc("y", 16).unwrap(),
        );
        let bytes: Vec<u8> = [1.0_f32, -2.0, 3.0, 4.0]
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect();
        stream.write(x.ptr(), &bytes).unwrap();
        let view = |pointer| TensorView {
            pointer,
            dtype: DType::F32,
            dims: vec![2, 2],
            strides: None,
            capacity: 16,
        };
        let mut bindings = Bindings {
            inputs: vec![("x".into(), view(x.ptr()))],
            outputs: vec![("y".into(), view(y.ptr()))],
        };
        let read = || {
            let mut out = vec![0; 16];
            stream.read(&mut out, y.ptr()).unwrap();
            out
        };
        session.run_into(&bindings, &RunOptions::default()).unwrap();
        assert!(session.wait_specialized(Duration::from_secs(60)));
        let right = read();
        stream.write(y.ptr(), &[0; 16]).unwrap();

        let before = session.stats();
        let profile = session.profile(&bindings).unwrap();
        assert_eq!(read(), right);
        assert_eq!(session.stats(), before, "a profile is no run");
        let names: Vec<&str> = profile.iter().map(|step| step.name.as_str()).collect();
        let steps: Vec<&str> = session
            .plan()
            .steps
            .iter()
            .map(|s| s.name.as_str())
            .collect();
        assert_eq!(names, steps);
        assert!(!names.is_empty());
        assert!(
            profile.iter().all(|s| s.ms >= 0.0 && !s.kernel.is_empty()),
            "{profile:?}"
        );

        bindings.outputs[0].1.capacity = 15;
        assert!(matches!(
            session.profile(&bindings),
            Err(Error::Buffer { .. })
        ));
        bindings.outputs[0].1.capacity = 16;
        bindings.inputs[0].1.dtype = DType::I32;
        assert!(matches!(
            session.profile(&bindings),
            Err(Error::InputType { .. })
        ));
        bindings.inputs.clear();
        assert!(matches!(
            session.profile(&bindings),
            Err(Error::MissingInput(_))
        ));
    }
}

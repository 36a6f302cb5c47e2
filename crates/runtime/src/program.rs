//! Programs: one kernel a step.
//!
//! A program is immutable. The generic one serves every shape; a specialised one serves its class. All programs of a
//! session have the same steps in the same order with the same slots, so a graph of one becomes a graph of another by
//! node updates alone.

use std::sync::Arc;

use bespoke_device::{DeviceProps, DevicePtr, Kernel, Launch, LaunchConfig, SlotKind};
use bespoke_plan::{Arg, Binding, Plan, Step};
use bespoke_policy::ClassId;
use bespoke_templates::{Args, KernelSpec, Param};

/// See the module.
#[derive(Debug)]
pub struct Program {
    /// Number in its session; the generic program is 0.
    pub id: u64,
    /// The shapes that it serves; `None` is the generic program, which serves all.
    pub class: Option<ClassId>,
    /// The kernel of each step.
    pub kernels: Vec<(Arc<dyn Kernel>, LaunchConfig)>,
    /// How many kernels are generic.
    pub generic: usize,
}

impl Program {
    /// Number of kernels made for the class.
    pub fn specialized(&self) -> usize {
        self.kernels.len() - self.generic
    }

    /// The launches over an extent block.
    pub fn launches(&self, steps: &[Step], block: DevicePtr) -> Vec<Launch> {
        self.kernels
            .iter()
            .zip(steps)
            .map(|((kernel, config), step)| Launch {
                kernel: kernel.clone(),
                config: *config,
                slots: block.offset(step.first_slot as u64 * 8),
            })
            .collect()
    }
}

/// What each step's kernel is to be, before it is compiled.
#[derive(Debug)]
pub(crate) struct Blueprint {
    pub(crate) specs: Vec<KernelSpec>,
    pub(crate) configs: Vec<LaunchConfig>,
    pub(crate) generic: usize,
}

impl Blueprint {
    /// Kernels that serve every shape.
    pub(crate) fn generic(steps: &[Step], props: &DeviceProps) -> Blueprint {
        let specs: Vec<KernelSpec> = steps
            .iter()
            .map(|s| KernelSpec::generic(s.template.clone(), props))
            .collect();
        let configs = specs.iter().map(|s| config(s, None, props)).collect();
        Blueprint {
            generic: specs.len(),
            specs,
            configs,
        }
    }

    /// Kernels for exactly one shape.
    pub(crate) fn exact(plan: &Plan, binding: &Binding, props: &DeviceProps) -> Blueprint {
        Self::of(plan, binding, props, true)
    }

    /// Kernels that serve every shape and are best at this one.
    pub(crate) fn tuned(plan: &Plan, binding: &Binding, props: &DeviceProps) -> Blueprint {
        Self::of(plan, binding, props, false)
    }

    fn of(plan: &Plan, binding: &Binding, props: &DeviceProps, exact: bool) -> Blueprint {
        let mut specs = Vec::with_capacity(plan.steps.len());
        let mut configs = Vec::with_capacity(plan.steps.len());
        for step in &plan.steps {
            let params = step.template.params();
            let slots = integers(&params, step, binding);
            let args = Args::new(&params, &slots);
            let template = step.template.clone();
            let spec = if exact {
                KernelSpec::exact(template, &args, props)
            } else {
                KernelSpec::tuned(template, &args, props)
            };
            configs.push(config(&spec, exact.then_some(&args), props));
            specs.push(spec);
        }
        Blueprint {
            specs,
            configs,
            generic: 0,
        }
    }
}

/// The slots of a step without addresses: enough for tiles and geometry.
fn integers(params: &[Param], step: &Step, binding: &Binding) -> Vec<i64> {
    let mut slots = Vec::with_capacity(step.slots);
    for (param, arg) in params.iter().zip(&step.args) {
        match arg {
            Arg::Int(e) => slots.push(binding.get(*e)),
            Arg::Read(_) | Arg::Write(_) => slots.extend([0, 0]),
        }
        debug_assert!(matches!(
            (arg, &param.kind),
            (Arg::Int(_), SlotKind::Int)
                | (Arg::Read(_), SlotKind::Read)
                | (Arg::Write(_), SlotKind::Write)
        ));
    }
    slots
}

/// A launch needs at least one block and one thread, whatever the extents.
fn config(spec: &KernelSpec, args: Option<&Args<'_>>, props: &DeviceProps) -> LaunchConfig {
    let mut config = spec.template.geometry(&spec.tile, args, props);
    for g in &mut config.grid {
        *g = (*g).max(1);
    }
    config.block = config.block.max(1);
    config
}

//! Where a caller's pointers stand in the extent block.
//!
//! Between two runs of one shape only the addresses of inputs and outputs can change. Each stands in the slots of a few
//! steps, found once for each plan, so that another pointer costs as much as it has places and not as much as the plan
//! has slots.

use crate::{Arg, Place, Plan};

/// For each input and each output the slots that hold its address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortSlots {
    /// In the order of the inputs.
    pub inputs: Vec<Vec<usize>>,
    /// In the order of the outputs.
    pub outputs: Vec<Vec<usize>>,
}

impl PortSlots {
    /// The slots of a plan's ports.
    pub(crate) fn of(plan: &Plan) -> PortSlots {
        let mut found = PortSlots {
            inputs: vec![Vec::new(); plan.inputs.len()],
            outputs: vec![Vec::new(); plan.outputs.len()],
        };
        for step in &plan.steps {
            let mut slot = step.first_slot;
            for arg in &step.args {
                let (Arg::Read(b) | Arg::Write(b)) = arg else {
                    slot += 1;
                    continue;
                };
                match plan.buffers[b.0 as usize].place {
                    Place::Input(n) => found.inputs[n].push(slot),
                    Place::Output(n) => found.outputs[n].push(slot),
                    Place::Constant(_) | Place::Persistent | Place::Arena { .. } => {}
                }
                slot += 2;
            }
        }
        found
    }
}

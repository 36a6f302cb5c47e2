//! Where a caller's pointers stand in the extent block.
//!
//! Between two runs of one shape only the addresses of inputs and outputs can change. Each stands in the slots of a few
//! steps, and so do tensor maps of what lies there; they are found once for each plan, so that another pointer costs as
//! much as it has places and not as much as the plan has slots.

use bespoke_device::MapOf;

use crate::{Arg, Place, Plan, Step};

/// A tensor map of something in a caller's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortMap {
    /// Position of its first slot in the extent block.
    pub at: usize,
    /// Position of the first slot of its step.
    pub row: usize,
    /// What it is of, by slots of the step.
    pub of: MapOf,
}

/// The slots that hold the address of an input or output, or follow from it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortPlaces {
    /// Slots that hold the address, in ascending order.
    pub addresses: Vec<usize>,
    /// Tensor maps.
    pub maps: Vec<PortMap>,
}

/// For each input and each output the slots that change with its address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortSlots {
    /// In the order of the inputs.
    pub inputs: Vec<PortPlaces>,
    /// In the order of the outputs.
    pub outputs: Vec<PortPlaces>,
}

impl PortSlots {
    /// The slots of a plan's ports.
    pub(crate) fn of(plan: &Plan) -> PortSlots {
        let mut found = PortSlots {
            inputs: vec![PortPlaces::default(); plan.inputs.len()],
            outputs: vec![PortPlaces::default(); plan.outputs.len()],
        };
        for step in &plan.steps {
            let mut slot = step.first_slot;
            for arg in &step.args {
                if let Arg::Read(b) | Arg::Write(b) = arg {
                    let places = match plan.buffers[b.0 as usize].place {
                        Place::Input(n) => found.inputs.get_mut(n),
                        Place::Output(n) => found.outputs.get_mut(n),
                        Place::Constant(_) | Place::Persistent | Place::Arena { .. } => None,
                    };
                    if let Some(places) = places {
                        places.addresses.push(slot);
                        places.maps.extend(maps_at(step, slot));
                    }
                }
                slot += arg.slots();
            }
        }
        found
    }
}

/// The maps of a step whose operand has its address in this slot of the block.
fn maps_at(step: &Step, slot: usize) -> impl Iterator<Item = PortMap> {
    let row = step.first_slot;
    let here = move |(_, of): &(usize, &MapOf)| row + of.tensor == slot;
    let maps = step.maps().filter(here);
    maps.map(move |(at, of)| PortMap {
        at: row + at,
        row,
        of: *of,
    })
}

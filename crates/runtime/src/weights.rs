//! What is on the device before the first run: constants, and what the setup makes of them.

use std::collections::HashMap;
use std::sync::Arc;

use bespoke_device::{Device, DevicePtr, Memory, Stream};
use bespoke_plan::{Arg, BufferId, Place, Plan};

use crate::error::Error;
use crate::program::Program;

/// Device memory of constants and persistent buffers.
#[derive(Debug, Default)]
pub(crate) struct Weights {
    memory: HashMap<BufferId, Arc<dyn Memory>>,
}

impl Weights {
    /// Uploads what steps read, runs the setup, and frees what only the setup needed.
    pub(crate) fn load(
        plan: &Plan,
        device: &dyn Device,
        stream: &dyn Stream,
        setup: &Program,
    ) -> Result<Weights, Error> {
        let mut weights = Weights::default();
        let mut needed_later = std::collections::BTreeSet::new();
        for (list, later) in [(&plan.setup, false), (&plan.steps, true)] {
            for b in list.iter().flat_map(|s| &s.args) {
                let (Arg::Read(b) | Arg::Write(b)) = b else {
                    continue;
                };
                if later {
                    needed_later.insert(*b);
                }
                weights.place(plan, device, stream, *b)?;
            }
        }
        if !plan.setup.is_empty() {
            let value =
                |e: bespoke_plan::ExprId| plan.exprs[e.0 as usize].as_const().unwrap_or_default();
            let mut slots = Vec::with_capacity(plan.setup_slot_count());
            for arg in plan.setup.iter().flat_map(|s| &s.args) {
                match arg {
                    Arg::Int(e) => slots.push(value(*e)),
                    Arg::Read(b) | Arg::Write(b) => {
                        slots.push(weights.ptr(*b).0 as i64);
                        slots.push(value(plan.buffers[b.0 as usize].bytes));
                    }
                }
            }
            let block = device.alloc("the setup's arguments", slots.len() as u64 * 8)?;
            stream.write(block.ptr(), &le_bytes(&slots))?;
            for launch in setup.launches(&plan.setup, block.ptr()) {
                stream.launch(&launch)?;
            }
            stream.synchronize()?;
        }
        weights.memory.retain(|b, _| needed_later.contains(b));
        Ok(weights)
    }

    fn place(
        &mut self,
        plan: &Plan,
        device: &dyn Device,
        stream: &dyn Stream,
        id: BufferId,
    ) -> Result<(), Error> {
        if self.memory.contains_key(&id) {
            return Ok(());
        }
        let buffer = &plan.buffers[id.0 as usize];
        match &buffer.place {
            Place::Constant(constant) => {
                let memory = device.alloc(&buffer.name, constant.data().len().max(1) as u64)?;
                stream.write(memory.ptr(), constant.data())?;
                self.memory.insert(id, memory);
            }
            Place::Persistent => {
                let bytes = plan.exprs[buffer.bytes.0 as usize]
                    .as_const()
                    .unwrap_or_default();
                let memory = device.alloc(&buffer.name, bytes.max(1) as u64)?;
                self.memory.insert(id, memory);
            }
            Place::Input(_) | Place::Output(_) | Place::Arena { .. } => {}
        }
        Ok(())
    }

    /// Address of a constant or persistent buffer.
    pub(crate) fn ptr(&self, id: BufferId) -> DevicePtr {
        self.memory.get(&id).map_or(DevicePtr(0), |m| m.ptr())
    }

    /// Bytes on the device.
    pub(crate) fn bytes(&self) -> u64 {
        let mut total = 0;
        #[allow(
            clippy::iter_over_hash_type,
            reason = "a sum does not depend on the order"
        )]
        for m in self.memory.values() {
            total += m.len();
        }
        total
    }
}

/// The bytes of slots as a device reads them.
pub(crate) fn le_bytes(slots: &[i64]) -> Vec<u8> {
    slots.iter().flat_map(|s| s.to_le_bytes()).collect()
}

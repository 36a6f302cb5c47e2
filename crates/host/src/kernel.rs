//! A loaded twin, and one execution of it.
//!
//! A launch names a kernel, a geometry and the address of its slots. The slots are read at the moment of execution, as a
//! GPU reads them: rewriting them between two replays of a graph changes what the second one works on.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bespoke_device::{
    DeviceError, DeviceProps, DevicePtr, Image, Kernel, Launch, LaunchConfig, Operand, Result,
    Signature, SlotKind, Twin, TwinCall, TwinError,
};

use crate::space::{Space, Want, What};

/// Threads that a block may have on every card.
const MAX_THREADS: u32 = 1024;
/// Blocks that a grid may have in y and z on every card; in x it is `i32::MAX`.
const MAX_GRID_YZ: u32 = 65535;

/// A kernel on the host device.
#[derive(Debug)]
pub(crate) struct HostKernel {
    name: String,
    twin: Arc<dyn Twin>,
    signature: Signature,
}

impl HostKernel {
    pub(crate) fn new(image: &Image) -> HostKernel {
        HostKernel {
            name: image.name.clone(),
            twin: image.twin.clone(),
            signature: image.signature.clone(),
        }
    }

    /// Reads the slots, resolves the tensors among them and runs the twin.
    pub(crate) fn execute(&self, space: &Space, slots: DevicePtr) -> Result<()> {
        self.try_execute(space, slots)
            .map_err(|source| DeviceError::Twin {
                kernel: self.name.clone(),
                source,
            })
    }

    fn try_execute(&self, space: &Space, slots: DevicePtr) -> std::result::Result<(), TwinError> {
        let slots = self.read_slots(space, slots)?;
        let mut access = space.access(self.wants(&slots)?).map_err(TwinError)?;
        let mut call = TwinCall {
            slots: &slots,
            operands: access.operands(),
        };
        // a bug in one twin must cost one run, not the process that hosts other sessions
        match catch_unwind(AssertUnwindSafe(|| self.twin.run(&mut call))) {
            Ok(done) => done,
            Err(panic) => {
                let words = panic
                    .downcast_ref::<String>()
                    .map(String::as_str)
                    .or_else(|| panic.downcast_ref::<&str>().copied())
                    .unwrap_or("no message");
                Err(TwinError(format!("it panicked: {words}")))
            }
        }
    }

    /// A copy of the slots, so that a kernel may write the block that its own slots lie in.
    fn read_slots(&self, space: &Space, at: DevicePtr) -> std::result::Result<Vec<i64>, TwinError> {
        let bytes = self.signature.slots() as u64 * 8;
        if bytes > 0 && !at.0.is_multiple_of(8) {
            return Err(TwinError(format!(
                "its slots at {:#x} are not aligned to 8 bytes",
                at.0
            )));
        }
        let want = Want {
            address: at.0,
            bytes,
            writes: false,
            what: What::Named("the slots"),
        };
        let mut access = space.access(vec![want]).map_err(TwinError)?;
        let mut slots = Vec::with_capacity(self.signature.slots());
        for operand in access.operands() {
            if let Operand::Read(raw) = operand {
                slots.extend(
                    raw.as_chunks::<8>()
                        .0
                        .iter()
                        .map(|b| i64::from_ne_bytes(*b)),
                );
            }
        }
        Ok(slots)
    }

    /// What the tensors among the slots ask for.
    fn wants(&self, slots: &[i64]) -> std::result::Result<Vec<Want>, TwinError> {
        let mut wants = Vec::new();
        let mut rest = slots.iter().copied();
        for kind in &self.signature.0 {
            if !matches!(kind, SlotKind::Read | SlotKind::Write) {
                // twins find operands by themselves and have no use for maps
                rest.by_ref().take(kind.slots()).for_each(drop);
                continue;
            }
            let first = rest.next().unwrap_or(0);
            let what = What::Operand(wants.len());
            let length = rest.next().unwrap_or(0);
            let bytes = u64::try_from(length)
                .map_err(|_| TwinError(format!("{what} has the negative length {length}")))?;
            wants.push(Want {
                address: first as u64,
                bytes,
                writes: *kind == SlotKind::Write,
                what,
            });
        }
        Ok(wants)
    }
}

impl Kernel for HostKernel {
    fn name(&self) -> &str {
        &self.name
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Refuses what no card, or not the planned-for one, would accept.
pub(crate) fn check_geometry(
    kernel: &str,
    config: &LaunchConfig,
    props: &DeviceProps,
) -> Result<()> {
    let refuse = |what: String| {
        Err(DeviceError::Call {
            call: "launch",
            reason: format!("kernel `{kernel}`: {what}; this is a bug of the planner"),
        })
    };
    let [x, y, z] = config.grid;
    if x == 0 || y == 0 || z == 0 {
        return refuse(format!("the grid {x}x{y}x{z} has no block"));
    }
    if x > i32::MAX as u32 || y > MAX_GRID_YZ || z > MAX_GRID_YZ {
        return refuse(format!("the grid {x}x{y}x{z} is too large"));
    }
    if config.block == 0 || config.block > MAX_THREADS {
        return refuse(format!("a block of {} threads", config.block));
    }
    if config.shared_bytes > props.shared_per_block {
        return refuse(format!(
            "{} bytes of shared memory, of which a block has {}",
            config.shared_bytes, props.shared_per_block
        ));
    }
    Ok(())
}

/// The host kernel of a launch whose geometry is acceptable.
pub(crate) fn checked<'l>(launch: &'l Launch, props: &DeviceProps) -> Result<&'l HostKernel> {
    let name = launch.kernel.name();
    let Some(kernel) = launch.kernel.as_any().downcast_ref::<HostKernel>() else {
        return Err(DeviceError::Call {
            call: "launch",
            reason: format!("kernel `{name}` was loaded by another device; load it by this one"),
        });
    };
    check_geometry(name, &launch.config, props)?;
    Ok(kernel)
}

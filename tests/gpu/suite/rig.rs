//! What the tests work with: a device, its kernels, and short ways to move floats.

use std::sync::Arc;

use bespoke_device::{
    Device, DeviceError, DevicePtr, Kernel, Launch, LaunchConfig, Memory, Stream,
};
use bespoke_jit::Nvrtc;
use bytes::Bytes;

use crate::kernels;

/// The result of a test: what is wrong, in words.
pub(crate) type Outcome = Result<(), String>;

/// Ends the test with a message unless a condition holds.
#[macro_export]
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err(format!($($message)+));
        }
    };
}

/// A device under test.
pub(crate) struct Rig {
    pub(crate) device: Arc<dyn Device>,
    /// The compiler, where there is one.
    pub(crate) nvrtc: Option<Arc<Nvrtc>>,
    /// The contract's kernels for a device that needs them.
    pub(crate) cubin: Option<Bytes>,
    /// Seeds of random samples a template.
    pub(crate) seeds: u64,
}

/// The words of a device's error.
pub(crate) fn words(error: DeviceError) -> String {
    error.to_string()
}

impl Rig {
    pub(crate) fn kernel(&self, name: &str) -> Result<Arc<dyn Kernel>, String> {
        self.device
            .load(&kernels::image(name, self.cubin.clone()))
            .map_err(words)
    }

    pub(crate) fn stream(&self) -> Result<Box<dyn Stream>, String> {
        self.device.stream().map_err(words)
    }

    /// Device memory with these floats.
    pub(crate) fn floats(
        &self,
        stream: &dyn Stream,
        values: &[f32],
    ) -> Result<Arc<dyn Memory>, String> {
        let memory = self
            .device
            .alloc("floats", 4 * values.len() as u64)
            .map_err(words)?;
        stream
            .write(memory.ptr(), bytemuck::cast_slice(values))
            .map_err(words)?;
        Ok(memory)
    }

    /// A slot block with these slots.
    pub(crate) fn block(
        &self,
        stream: &dyn Stream,
        slots: &[i64],
    ) -> Result<Arc<dyn Memory>, String> {
        let memory = self
            .device
            .alloc("slots", 8 * slots.len() as u64)
            .map_err(words)?;
        write_slots(stream, memory.ptr(), slots)?;
        Ok(memory)
    }
}

/// Overwrites slots.
pub(crate) fn write_slots(stream: &dyn Stream, at: DevicePtr, slots: &[i64]) -> Outcome {
    stream.write(at, bytemuck::cast_slice(slots)).map_err(words)
}

/// Floats of device memory.
pub(crate) fn read_floats(
    stream: &dyn Stream,
    from: DevicePtr,
    count: usize,
) -> Result<Vec<f32>, String> {
    let mut out = vec![0.0_f32; count];
    stream
        .read(bytemuck::cast_slice_mut(&mut out), from)
        .map_err(words)?;
    Ok(out)
}

/// A launch of a few blocks.
pub(crate) fn launch(kernel: &Arc<dyn Kernel>, slots: DevicePtr) -> Launch {
    Launch {
        kernel: kernel.clone(),
        config: LaunchConfig {
            grid: [8, 1, 1],
            block: 128,
            shared_bytes: 0,
        },
        slots,
    }
}

/// Slots of a tensor.
pub(crate) fn tensor(at: DevicePtr, floats: usize) -> [i64; 2] {
    [at.0 as i64, 4 * floats as i64]
}

//! A run's inputs and outputs in the device's memory, for commands that time what the device does and nothing else.

use std::sync::Arc;

use bespoke::device::Memory;
use bespoke::ir::Constant;
use bespoke::plan::Port;
use bespoke::runtime::{self, Bindings, Session, TensorView};

use crate::failure::Failure;

/// The inputs, copied to the device in graph order, and room for the outputs. The bindings are good as long as the memory
/// is held.
///
/// # Errors
///
/// Shapes that the model does not take, and memory that the device has not.
pub(crate) fn on_device(
    session: &Session,
    inputs: &[Arc<Constant>],
) -> Result<(Bindings, Vec<Arc<dyn Memory>>), Failure> {
    let (device, plan) = (session.device(), session.plan());
    let dims: Vec<&[i64]> = inputs.iter().map(|c| c.dims()).collect();
    let binding = plan.bind(&dims).map_err(runtime::Error::from)?;
    let stream = device.stream().map_err(runtime::Error::from)?;
    let mut memory: Vec<Arc<dyn Memory>> = Vec::new();
    let mut view = |port: &Port| -> Result<TensorView, Failure> {
        let bytes = binding.sizes[port.buffer.0 as usize];
        let place = device
            .alloc(&port.name, bytes.max(1))
            .map_err(runtime::Error::from)?;
        let view = TensorView {
            pointer: place.ptr(),
            dtype: port.ty.dtype,
            dims: port.dims.iter().map(|&d| binding.get(d)).collect(),
            strides: None,
            capacity: bytes,
        };
        memory.push(place);
        Ok(view)
    };
    let mut bindings = Bindings::default();
    for (port, content) in plan.inputs.iter().zip(inputs) {
        let view = view(port)?;
        if !content.data().is_empty() {
            stream
                .write(view.pointer, content.data())
                .map_err(runtime::Error::from)?;
        }
        bindings.inputs.push((port.name.clone(), view));
    }
    for port in &plan.outputs {
        bindings.outputs.push((port.name.clone(), view(port)?));
    }
    stream.synchronize().map_err(runtime::Error::from)?;
    Ok((bindings, memory))
}

//! What comes in over the border of a session: the caller's tensors and the checks that they pass before a run.

use std::fmt::Write as _;

use bespoke_device::DevicePtr;
use bespoke_ir::DType;
use bespoke_plan::Port;

use crate::error::Error;
use crate::tensor::{Tensor, TensorView, byte_length};

/// Where a run's tensors are.
pub(crate) enum Source<'a> {
    Host(&'a Tensor),
    Device(&'a TensorView),
}

/// Extents of every input for people: `x:1x3x48x320`.
pub(crate) fn shape_words<D: AsRef<[i64]>>(ports: &[Port], dims: &[D]) -> String {
    let mut shape = String::new();
    for (port, dims) in ports.iter().zip(dims) {
        let dims = dims.as_ref();
        if !shape.is_empty() {
            shape.push(',');
        }
        shape.push_str(&port.name);
        for (i, d) in dims.iter().enumerate() {
            // writing to a String cannot fail
            let _ = write!(shape, "{}{d}", if i == 0 { ':' } else { 'x' });
        }
        if dims.is_empty() {
            shape.push(':');
        }
    }
    shape
}

/// What specialised kernels take for granted of every address: that sixteen bytes can be moved at once.
const ALIGNMENT: u64 = 16;

/// Whether all memory of the caller is [aligned](ALIGNMENT); the session's own is.
pub(crate) fn aligned(sources: &[Source<'_>], targets: Option<&[&TensorView]>) -> bool {
    let inputs = sources.iter().filter_map(|source| match source {
        Source::Host(_) => None,
        Source::Device(view) => Some(view.pointer),
    });
    let outputs = targets.into_iter().flatten().map(|view| view.pointer);
    inputs.chain(outputs).all(|p| p.0 % ALIGNMENT == 0)
}

pub(crate) fn check_type(port: &Port, actual: DType) -> Result<(), Error> {
    if actual == port.ty.dtype {
        return Ok(());
    }
    Err(Error::InputType {
        input: port.name.clone(),
        actual,
        expected: port.ty.dtype,
    })
}

pub(crate) fn check_capacity(
    name: &str,
    view: &TensorView,
    bytes: u64,
) -> Result<DevicePtr, Error> {
    if view.capacity < bytes {
        let reason = format!("has {} bytes, the run needs {bytes}", view.capacity);
        return Err(Error::Buffer {
            name: name.to_owned(),
            reason,
        });
    }
    Ok(view.pointer)
}

pub(crate) fn check_dense(name: &str, view: &TensorView) -> Result<(), Error> {
    let Some(strides) = &view.strides else {
        byte_length(view.dtype, &view.dims)?;
        return Ok(());
    };
    let mut want = 1;
    for (i, &d) in view.dims.iter().enumerate().rev() {
        if strides.get(i) != Some(&want) && d != 1 {
            let reason = "is not dense row-major; copy it first".to_owned();
            return Err(Error::Buffer {
                name: name.to_owned(),
                reason,
            });
        }
        want *= d;
    }
    Ok(())
}

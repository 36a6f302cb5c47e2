//! bespoke: adaptive ONNX inference.
//!
//! A model starts on kernels that fit any shape, kernels cut to the shapes that really occur are compiled in the
//! background and swapped in, every run is one CUDA graph, and what was compiled is kept for the next process.
//!
//! ```no_run
//! use std::path::Path;
//! use bespoke::{CompileService, DeviceChoice, ServiceOptions, Session, SessionOptions, Tensor};
//!
//! let (device, why) = bespoke::open_device(DeviceChoice::Auto { target: None })?;
//! println!("runs on {why}");
//! let service = CompileService::new(ServiceOptions::default())?;
//! let session = Session::load(Path::new("model.onnx"), device, service, SessionOptions::default())?;
//! let x = Tensor::from_f32(&[1, 3], &[1.0, 2.0, 3.0])?;
//! let result = session.run(&[("x", &x)])?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! This crate is the public face: it injects the devices into the runtime, which knows neither, and re-exports the other
//! crates under the names of their jobs.

use std::path::Path;
use std::sync::Arc;

pub use bespoke_cache as cache;
pub use bespoke_cuda as cuda;
pub use bespoke_device as device;
pub use bespoke_host as host;
pub use bespoke_ir as ir;
pub use bespoke_jit as jit;
pub use bespoke_onnx as onnx;
pub use bespoke_passes as passes;
pub use bespoke_plan as plan;
pub use bespoke_policy as policy;
pub use bespoke_runtime as runtime;
pub use bespoke_templates as templates;

pub use bespoke_runtime::{
    Arithmetic, ArithmeticUse, Bindings, CompileCost, CompileService, CompileStats, Error,
    ErrorKind, Event, EventKind, GraphMode, GraphUse, Model, PortInfo, ProgrammaticLaunch,
    RunOptions, RunReport, RunResult, ServiceOptions, Session, SessionOptions, Stats, StepTime,
    Tensor, TensorError, TensorView,
};

use device::{Arch, Device};

/// Which device to run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// A GPU if one works, the host otherwise.
    Auto {
        /// What the host compiles for, if it comes to that.
        target: Option<Arch>,
    },
    /// The processor.
    Host {
        /// Threads; 0 takes one for each processor.
        threads: usize,
        /// The architecture to compile kernels for besides; none if `None`.
        target: Option<Arch>,
    },
    /// A GPU.
    Cuda {
        /// Its number in the driver's order.
        ordinal: u32,
        /// The architecture to compile for: the card's own if `None`, or an older one of its generation, for a study.
        target: Option<Arch>,
    },
}

/// Opens a device; the text says which it is, `cuda:0, NVIDIA H200 (sm_90)` say, and, where the host takes the place of
/// a GPU, why.
///
/// # Errors
///
/// [`device::DeviceError::Unavailable`] if a GPU was asked for and none works, or it does not run kernels for the target.
pub fn open_device(choice: DeviceChoice) -> Result<(Arc<dyn Device>, String), Error> {
    let host = |threads, target| {
        host::HostDevice::new(host::HostOptions {
            threads,
            target,
            poison: false,
        })
    };
    match choice {
        DeviceChoice::Cuda { ordinal, target } => gpu(ordinal, target),
        DeviceChoice::Host { threads, target } => {
            Ok((host(threads, target), "the host, as asked".into()))
        }
        DeviceChoice::Auto { target } => {
            gpu(0, None).or_else(|e| Ok((host(0, target), format!("the host ({e})"))))
        }
    }
}

fn gpu(ordinal: u32, target: Option<Arch>) -> Result<(Arc<dyn Device>, String), Error> {
    let device = cuda::CudaDevice::open(ordinal, target)?;
    let words = card(ordinal, device.props());
    Ok((device, words))
}

/// `cuda:0, NVIDIA H200 (sm_90)`: how it is asked for, which card it is, what its kernels are compiled for.
fn card(ordinal: u32, props: &device::DeviceProps) -> String {
    format!("cuda:{ordinal}, {} ({})", props.name, props.arch)
}

/// Imports a model that is a single graph and brings it into canonical form, without planning or running it.
///
/// # Errors
///
/// Whatever is wrong with the model.
pub fn import(path: &Path) -> Result<onnx::ImportedModel, Error> {
    let mut model = onnx::import(path, &onnx::ImportOptions::default())?;
    passes::canonicalize(&mut model.graph)?;
    Ok(model)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_is_told_by_number_card_and_architecture() {
        let props = device::DeviceProps {
            name: "NVIDIA H200".into(),
            ..device::DeviceProps::preset(Arch::sm(90))
        };
        assert_eq!(card(1, &props), "cuda:1, NVIDIA H200 (sm_90)");
    }

    #[test]
    fn the_host_is_told_with_the_reason() {
        let choice = DeviceChoice::Host {
            threads: 1,
            target: None,
        };
        assert_eq!(open_device(choice).unwrap().1, "the host, as asked");
    }
}

//! The NVIDIA GPU as a device, through the driver library alone.
//!
//! Implements [`bespoke_device`]'s traits on the CUDA driver API: no runtime library, no toolkit, nothing linked. It knows
//! nothing of models or templates; it loads cubins, launches them one by one or as graphs, and moves bytes.
//!
//! # What it promises
//!
//! - A missing or old driver is [`DeviceError::Unavailable`] with a remedy, never a panic: every driver function is looked
//!   up when the first device is opened.
//! - Calls may come from any thread. Each makes the device's primary context current for its duration and puts back what
//!   was current before; other libraries in the process, and other cards, are not disturbed.
//! - The first error after which nothing can work is remembered ([`Device::lost`]) and returned by every later call
//!   without asking the driver again. Dropping never fails and never speaks.
//! - A graph is plain kernel nodes and edges in executables of at most 250 nodes; functions of nodes may change. Where
//!   driver and card can, edges that are to be programmatic are; [`Device::dependent_launch`] says whether they can.
//!
//! # Map of the crate
//!
//! `library` finds the driver, `api` is its function table, `error` the meaning of its codes, `context` what every call
//! goes through; `memory`, `staging`, `stream`, `kernel` and `graph` are the parts of a device, `tensor_map` tells
//! its copy engine of operands; [`probe()`] looks without touching. Tests run on a stand-in for the function table
//! (`fake`); what needs a GPU is in the GPU test suite.
#![allow(unsafe_code)]

mod api;
mod context;
mod error;
#[cfg(test)]
mod fake;
mod graph;
mod kernel;
mod library;
mod memory;
mod probe;
mod staging;
mod stream;
mod tensor_map;

use std::sync::Arc;

use bespoke_device::{
    Arch, Arena, Device, DeviceError, DeviceProps, Edge, EncodedMap, Graph, Image, Kernel, Launch,
    LaunchConfig, Memory, NoDependentLaunch, Result, Stream, TensorMap,
};
use cudarc::driver::sys::CUdevice_attribute_enum as Attribute;

use context::Context;
use graph::CudaGraph;
use kernel::CudaKernel;
use memory::{CudaArena, CudaMemory};
pub use probe::{Probe, ProbedDevice, Problem, probe};
use stream::CudaStream;

/// One NVIDIA GPU.
#[derive(Clone, Debug)]
pub struct CudaDevice {
    context: Arc<Context>,
    props: DeviceProps,
}

impl CudaDevice {
    /// Opens the device at this place of the driver's list, to run kernels that are compiled for `target`; `None` is the
    /// card's own architecture. [`DeviceError::Unavailable`] says what is missing and what to do about it.
    pub fn open(ordinal: u32, target: Option<Arch>) -> Result<Arc<dyn Device>> {
        let driver = library::initialised()?;
        let api = &driver.api;
        let unavailable = |code| {
            DeviceError::Unavailable(format!("device {ordinal}: {}", library::words(api, code)))
        };
        let found = probe::describe(api, ordinal).map_err(unavailable)?;
        let target = suited(target, &found)?;
        let context = Context::retain(api, probe::device(api, ordinal).map_err(unavailable)?)?;
        let version = library::version(api).map_or(String::new(), |(major, minor)| {
            format!("CUDA {major}.{minor}")
        });
        let driver = match library::module_release() {
            Some(release) => format!("{release} ({version})"),
            None => version,
        };
        let props = DeviceProps {
            arch: target,
            ..props(found, driver, &|which| context.attribute(which))?
        };
        Ok(Arc::new(CudaDevice {
            context: Arc::new(context),
            props,
        }))
    }
}

/// What to compile for on a card: what was asked for, if it runs there.
fn suited(target: Option<Arch>, card: &ProbedDevice) -> Result<Arch> {
    match target {
        Some(target) if !target.runs_on(card.arch) => Err(DeviceError::Unavailable(format!(
            "device {}: {} ({}) does not run kernels for {target}; ask for its own architecture, or for an older one of its \
             generation",
            card.ordinal, card.name, card.arch
        ))),
        target => Ok(target.unwrap_or(card.arch)),
    }
}

/// The figures of a card: limits as it says, rates from the preset of its architecture.
///
/// The driver does not know arithmetic rates, so the preset card's are scaled by the number of multiprocessors.
fn props(
    found: ProbedDevice,
    driver: String,
    ask: &dyn Fn(Attribute) -> Result<u32>,
) -> Result<DeviceProps> {
    let preset = DeviceProps::preset(found.arch);
    let scale = f64::from(found.multiprocessors) / f64::from(preset.multiprocessors);
    // some drivers no longer tell the memory clock, and say 0
    let kilohertz = ask(Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE).unwrap_or(0);
    let bits = ask(Attribute::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH).unwrap_or(0);
    // two transfers a cycle
    let bandwidth = f64::from(kilohertz) * 1e3 * f64::from(bits) / 8.0 * 2.0;
    Ok(DeviceProps {
        name: found.name,
        arch: found.arch,
        multiprocessors: found.multiprocessors,
        shared_per_block: ask(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
        shared_per_multiprocessor: ask(
            Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR,
        )?,
        registers_per_multiprocessor: ask(
            Attribute::CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR,
        )?,
        threads_per_multiprocessor: ask(
            Attribute::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR,
        )?,
        l2_bytes: u64::from(ask(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?),
        bandwidth: if bandwidth > 0.0 {
            bandwidth
        } else {
            preset.bandwidth
        },
        f16_rate: preset.f16_rate * scale,
        f32_rate: preset.f32_rate * scale,
        memory_bytes: found.memory_bytes,
        driver,
    })
}

impl Device for CudaDevice {
    fn props(&self) -> &DeviceProps {
        &self.props
    }

    fn target(&self) -> Option<Arch> {
        Some(self.props.arch)
    }

    fn needs_cubin(&self) -> bool {
        true
    }

    fn alloc(&self, what: &str, bytes: u64) -> Result<Arc<dyn Memory>> {
        Ok(Arc::new(CudaMemory::allocate(
            self.context.clone(),
            what,
            bytes,
        )?))
    }

    fn reserve(&self, limit: u64) -> Result<Box<dyn Arena>> {
        Ok(Box::new(CudaArena::reserve(self.context.clone(), limit)?))
    }

    fn stream(&self) -> Result<Box<dyn Stream>> {
        Ok(Box::new(CudaStream::new(self.context.clone())?))
    }

    fn load(&self, image: &Image) -> Result<Arc<dyn Kernel>> {
        Ok(Arc::new(CudaKernel::load(self.context.clone(), image)?))
    }

    fn graph(&self, launches: &[Launch], edges: &[Edge]) -> Result<Box<dyn Graph>> {
        let (context, arch) = (self.context.clone(), self.props.arch);
        Ok(Box::new(CudaGraph::record(context, arch, launches, edges)?))
    }

    fn dependent_launch(&self) -> std::result::Result<(), NoDependentLaunch> {
        graph::dependent_launch(self.context.api(), self.props.arch).map(|_| ())
    }

    fn tensor_map(&self, map: &TensorMap) -> Option<EncodedMap> {
        tensor_map::encode(self.context.api(), self.props.arch, map)
    }

    fn occupancy(&self, kernel: &Arc<dyn Kernel>, config: LaunchConfig) -> Result<u32> {
        let kernel = CudaKernel::from_dyn(kernel.as_ref(), &self.context)?;
        let on = self.context.enter()?;
        let function = kernel.prepared(&on, &config)?;
        let threads = i32::try_from(config.block).unwrap_or(i32::MAX);
        let mut blocks = 0;
        // SAFETY: writes one integer; the function lives as long as the kernel.
        let code = unsafe {
            (on.api.cuOccupancyMaxActiveBlocksPerMultiprocessor)(
                &mut blocks,
                function,
                threads,
                config.shared_bytes as usize,
            )
        };
        on.check("cuOccupancyMaxActiveBlocksPerMultiprocessor", code)?;
        Ok(u32::try_from(blocks).unwrap_or(0))
    }

    fn memory(&self) -> Result<(u64, u64)> {
        let on = self.context.enter()?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: writes two integers.
        let code = unsafe { (on.api.cuMemGetInfo_v2)(&mut free, &mut total) };
        on.check("cuMemGetInfo", code)?;
        Ok((free as u64, total as u64))
    }

    fn lost(&self) -> Option<DeviceError> {
        self.context.lost().cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opening_gives_a_device_or_a_reason_with_a_remedy() {
        match CudaDevice::open(0, None) {
            Ok(device) => assert!(device.props().multiprocessors > 0),
            Err(DeviceError::Unavailable(words)) => {
                assert!(words.contains("; "), "no remedy: {words}")
            }
            Err(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_device_that_nobody_has_is_unavailable() {
        assert!(matches!(
            CudaDevice::open(4711, None),
            Err(DeviceError::Unavailable(_))
        ));
    }

    #[test]
    fn what_does_not_run_on_a_card_is_no_target_of_it() {
        let card = ProbedDevice {
            ordinal: 1,
            name: "an H200".into(),
            arch: Arch::of_card(9, 0),
            multiprocessors: 132,
            memory_bytes: 1 << 30,
        };
        assert_eq!(suited(None, &card).unwrap(), card.arch);
        assert_eq!(suited(Some(Arch::sm(90)), &card).unwrap(), Arch::sm(90));
        let refusal = suited(Some(Arch::sm(89)), &card).unwrap_err().to_string();
        for word in ["device 1", "an H200 (sm_90a)", "sm_89", "; ask for"] {
            assert!(refusal.contains(word), "{refusal}");
        }
    }

    #[test]
    fn rates_follow_the_number_of_multiprocessors() {
        let found = ProbedDevice {
            ordinal: 0,
            name: "half an H200".into(),
            arch: Arch::of_card(9, 0),
            multiprocessors: 66,
            memory_bytes: 1 << 30,
        };
        let silent = props(found.clone(), String::new(), &|_| Ok(0)).unwrap();
        assert_eq!(
            silent.f16_rate,
            DeviceProps::preset(Arch::sm(90)).f16_rate / 2.0
        );
        assert_eq!(
            silent.bandwidth,
            DeviceProps::preset(Arch::sm(90)).bandwidth
        );
        let told = props(found, String::new(), &|which| {
            Ok(match which {
                Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE => 3_201_000,
                Attribute::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH => 6144,
                _ => 7,
            })
        })
        .unwrap();
        assert!(
            (told.bandwidth - 4.917e12).abs() < 1e10,
            "{}",
            told.bandwidth
        );
        assert_eq!(told.shared_per_block, 7);
    }
}

//! Kernels: cubins loaded as modules.
//!
//! The driver takes an image by address alone and believes the lengths inside, so an image is looked at before it is
//! handed over: it must be an ELF file that lies wholly inside its bytes. The kernel's parameters are checked as well
//! where the driver can tell: there must be one, of eight bytes, the address of the slots.

use std::any::Any;
use std::ffi::CString;
use std::sync::{Arc, Mutex, PoisonError};

use bespoke_device::{DeviceError, Image, Kernel, Launch, LaunchConfig, Result};
use cudarc::driver::sys;

use crate::context::{Context, Entered, Handle};
use crate::error::INVALID_VALUE;

/// A loaded kernel; its module is unloaded on drop.
#[derive(Debug)]
pub(crate) struct CudaKernel {
    context: Arc<Context>,
    name: String,
    module: Handle<sys::CUmodule>,
    function: Handle<sys::CUfunction>,
    /// Blocks of a cluster, as compiled; 0 where there are none.
    cluster: i32,
    /// Dynamic shared memory that was asked for. Only ever raised: recorded graphs rely on it. Nothing is taken as
    /// granted: what a function may use without asking, 48 KiB, includes its static shared memory.
    shared: Mutex<u32>,
}

impl CudaKernel {
    pub(crate) fn load(context: Arc<Context>, image: &Image) -> Result<CudaKernel> {
        let bad = |reason: &str| DeviceError::BadImage {
            kernel: image.name.clone(),
            reason: reason.to_owned(),
        };
        let Some(cubin) = &image.cubin else {
            return Err(bad(
                "it carries no machine code; compile it for this device's architecture first",
            ));
        };
        let entry = CString::new(image.entry.as_str())
            .map_err(|_| bad("its function's name holds a zero byte"))?;
        check_elf(cubin).map_err(&bad)?;
        // the driver reads the headers as structures
        let mut aligned = vec![0_u64; cubin.len().div_ceil(8)];
        for (word, bytes) in aligned.iter_mut().zip(cubin.chunks(8)) {
            let mut whole = [0; 8];
            whole[..bytes.len()].copy_from_slice(bytes);
            *word = u64::from_ne_bytes(whole);
        }
        let on = context.enter()?;
        let mut module = std::ptr::null_mut();
        // SAFETY: writes one handle; reads an ELF image whose headers stay inside it (`check_elf`). The driver copies what
        // it keeps.
        let code = unsafe { (on.api.cuModuleLoadData)(&mut module, aligned.as_ptr().cast()) };
        on.check_image("cuModuleLoadData", code, &image.name)?;
        // from here on, dropping the kernel unloads the module
        let mut kernel = CudaKernel {
            context: context.clone(),
            name: image.name.clone(),
            module: Handle(module),
            function: Handle(std::ptr::null_mut()),
            cluster: 0,
            shared: Mutex::new(0),
        };
        // SAFETY: writes one handle; the name ends in a zero byte.
        let code =
            unsafe { (on.api.cuModuleGetFunction)(&mut kernel.function.0, module, entry.as_ptr()) };
        on.check_image("cuModuleGetFunction", code, &image.name)?;
        if !takes_one_address(&on, kernel.function.0)? {
            return Err(bad("its function does not take exactly one address"));
        }
        kernel.cluster = cluster(&on, kernel.function.0)?;
        drop(on);
        Ok(kernel)
    }

    /// The kernel of a launch, if this context loaded it.
    pub(crate) fn of<'l>(launch: &'l Launch, context: &Arc<Context>) -> Result<&'l CudaKernel> {
        CudaKernel::from_dyn(launch.kernel.as_ref(), context)
    }

    /// The kernel behind a trait object, if this context loaded it.
    pub(crate) fn from_dyn<'l>(
        kernel: &'l dyn Kernel,
        context: &Arc<Context>,
    ) -> Result<&'l CudaKernel> {
        let own = kernel
            .as_any()
            .downcast_ref::<CudaKernel>()
            .filter(|k| Arc::ptr_eq(&k.context, context));
        own.ok_or_else(|| DeviceError::Call {
            call: "launch",
            reason: format!(
                "kernel `{}` was loaded by another device; load it by this one",
                kernel.name()
            ),
        })
    }

    /// Blocks of a cluster in x; 0 for a kernel without clusters.
    pub(crate) fn cluster(&self) -> i32 {
        self.cluster
    }

    /// The function, allowed to use the shared memory of `config`.
    pub(crate) fn prepared(
        &self,
        on: &Entered<'_>,
        config: &LaunchConfig,
    ) -> Result<sys::CUfunction> {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if config.shared_bytes > *shared {
            let which = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            let value = i32::try_from(config.shared_bytes).unwrap_or(i32::MAX);
            // SAFETY: sets an attribute of a function that lives as long as `self`.
            let code = unsafe { (on.api.cuFuncSetAttribute)(self.function.0, which, value) };
            if code == INVALID_VALUE {
                return Err(DeviceError::Call {
                    call: "cuFuncSetAttribute",
                    reason: format!(
                        "kernel `{}` wants {} bytes of shared memory a block, more than the device has",
                        self.name, config.shared_bytes
                    ),
                });
            }
            on.check("cuFuncSetAttribute", code)?;
            *shared = config.shared_bytes;
        }
        Ok(self.function.0)
    }
}

impl Kernel for CudaKernel {
    fn name(&self) -> &str {
        &self.name
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for CudaKernel {
    fn drop(&mut self) {
        self.context.quietly(|on| {
            // SAFETY: takes no arguments. A stream may still run the kernel: launches do not keep it alive.
            on.last("cuCtxSynchronize", |api| unsafe {
                (api.cuCtxSynchronize)()
            });
            // SAFETY: loaded in `load` and unloaded once; graphs with the kernel hold it.
            on.last("cuModuleUnload", |api| unsafe {
                (api.cuModuleUnload)(self.module.0)
            });
        });
    }
}

/// Whether the function has one parameter of eight bytes; true where the driver is too old to tell.
fn takes_one_address(on: &Entered<'_>, function: sys::CUfunction) -> Result<bool> {
    let Some(ask) = on.api.cuFuncGetParamInfo else {
        return Ok(true);
    };
    let (mut offset, mut bytes) = (0, 0);
    // SAFETY: writes two integers.
    let first = unsafe { ask(function, 0, &mut offset, &mut bytes) };
    if first == INVALID_VALUE {
        return Ok(false);
    }
    on.check("cuFuncGetParamInfo", first)?;
    let sized = bytes == 8;
    // SAFETY: as above.
    let second = unsafe { ask(function, 1, &mut offset, &mut bytes) };
    Ok(sized && second == INVALID_VALUE)
}

/// Blocks of a cluster that a function was compiled for, in x, the only direction that kernels here have clusters in; 0 for
/// none, and where the driver is older than clusters.
fn cluster(on: &Entered<'_>, function: sys::CUfunction) -> Result<i32> {
    let which = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_WIDTH;
    let mut blocks = 0;
    // SAFETY: writes one integer; the function's module is loaded.
    let code = unsafe { (on.api.cuFuncGetAttribute)(&mut blocks, which, function) };
    if code == INVALID_VALUE {
        return Ok(0);
    }
    on.check("cuFuncGetAttribute", code)?;
    Ok(blocks)
}

/// Checks that an image is a 64-bit little-endian ELF file whose tables and sections lie inside it (System V ABI, ELF-64
/// object file format).
fn check_elf(image: &[u8]) -> std::result::Result<(), &'static str> {
    const CUT: &str = "the image is cut short or damaged; compile the kernel again";
    const NOBITS: u32 = 8;
    let field = |at: usize, bytes: usize| -> Option<u64> {
        let raw = image.get(at..at.checked_add(bytes)?)?;
        let mut whole = [0; 8];
        whole[..bytes].copy_from_slice(raw);
        Some(u64::from_le_bytes(whole))
    };
    if image.get(..6) != Some(b"\x7fELF\x02\x01") {
        return Err("the image is no cubin; compile the kernel again");
    }
    let inside = |offset: u64, bytes: u64| {
        offset
            .checked_add(bytes)
            .is_some_and(|end| end <= image.len() as u64)
    };
    let table = |offset_at: usize, size_at: usize, count_at: usize| -> Option<(u64, u64, u64)> {
        let (offset, size, count) = (
            field(offset_at, 8)?,
            field(size_at, 2)?,
            field(count_at, 2)?,
        );
        inside(offset, size * count).then_some((offset, size, count))
    };
    let (segments, segment_size, segment_count) = table(0x20, 0x36, 0x38).ok_or(CUT)?;
    for i in 0..segment_count {
        let at = (segments + i * segment_size) as usize;
        let (offset, bytes) = (field(at + 8, 8).ok_or(CUT)?, field(at + 32, 8).ok_or(CUT)?);
        if !inside(offset, bytes) {
            return Err(CUT);
        }
    }
    let (sections, section_size, section_count) = table(0x28, 0x3a, 0x3c).ok_or(CUT)?;
    for i in 0..section_count {
        let at = (sections + i * section_size) as usize;
        let kind = field(at + 4, 4).ok_or(CUT)?;
        let (offset, bytes) = (field(at + 24, 8).ok_or(CUT)?, field(at + 32, 8).ok_or(CUT)?);
        if kind != u64::from(NOBITS) && !inside(offset, bytes) {
            return Err(CUT);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake;
    use proptest::prelude::*;

    #[test]
    fn an_image_must_lie_inside_its_bytes() {
        let whole = fake::cubin();
        assert_eq!(check_elf(&whole), Ok(()));
        for cut in 0..whole.len() {
            assert!(check_elf(&whole[..cut]).is_err(), "cut to {cut} bytes");
        }
        let mut far = whole.to_vec();
        far[0x28] = 0xff;
        assert!(check_elf(&far).is_err());
    }

    proptest! {
        #[test]
        fn no_image_makes_the_check_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if bytes.len() > 6 {
                bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
            }
            let _ = check_elf(&bytes);
        }
    }

    #[test]
    fn refused_images_name_the_kernel() {
        let context = Arc::new(Context::over(fake::driver()));
        let load = |image: &Image| CudaKernel::load(context.clone(), image).unwrap_err();
        let is_bad =
            |e: &DeviceError| matches!(e, DeviceError::BadImage { kernel, .. } if kernel == "k");
        assert!(is_bad(&load(&Image {
            cubin: None,
            ..fake::image("k")
        })));
        assert!(is_bad(&load(&Image {
            entry: "a\0b".into(),
            ..fake::image("k")
        })));
        fake::fail("cuModuleLoadData", 0, 209);
        assert!(is_bad(&load(&fake::image("k"))));
        fake::fail("cuModuleGetFunction", 0, 500);
        fake::notes();
        assert!(is_bad(&load(&fake::image("k"))));
        assert!(
            fake::notes().contains(&"cuModuleUnload"),
            "the module does not stay behind"
        );
    }

    #[test]
    fn shared_memory_is_asked_for_once_and_never_lowered() {
        let context = Arc::new(Context::over(fake::driver()));
        let kernel = CudaKernel::load(context.clone(), &fake::image("k")).unwrap();
        let on = context.enter().unwrap();
        fake::notes();
        for (shared_bytes, asks) in [
            // static shared memory may leave less than the 48 KiB that need no asking
            (48 << 10, 1),
            (0, 0),
            (64 << 10, 1),
            (50 << 10, 0),
            (64 << 10, 0),
            (65 << 10, 1),
        ] {
            kernel
                .prepared(
                    &on,
                    &LaunchConfig {
                        grid: [1; 3],
                        block: 32,
                        shared_bytes,
                    },
                )
                .unwrap();
            let notes = fake::notes();
            assert_eq!(
                notes.iter().filter(|n| **n == "cuFuncSetAttribute").count(),
                asks,
                "{shared_bytes}"
            );
        }
    }
}

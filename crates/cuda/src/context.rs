//! The primary context of a card: what every call goes through.
//!
//! A call needs the context to be current on its thread. [`Context::enter`] makes it so and puts the caller's own context
//! back afterwards, so that a program which uses other cards too is not disturbed. It is also where a lost device is
//! remembered: after the first error that leaves the process unable to work, no call reaches the driver any more; they
//! all return that error, and handles are dropped without a word.

use std::ffi::c_int;
use std::sync::OnceLock;

use bespoke_device::{DeviceError, Result};
use cudarc::driver::sys;

use crate::api::{Api, Code};
use crate::error::{Meaning, meaning, of_call};
use crate::library::words;

/// A handle of the driver.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Handle<P: Copy>(pub(crate) P);

// SAFETY: handles are names of objects inside the driver, which locks them itself; any thread may use them (CUDA driver
// API, "thread safety"). What must not run at the same time is kept apart by `&mut` in the types that own a handle.
unsafe impl<P: Copy> Send for Handle<P> {}
// SAFETY: as above.
unsafe impl<P: Copy> Sync for Handle<P> {}

/// A retained primary context; released on drop.
pub(crate) struct Context {
    api: &'static Api,
    raw: Handle<sys::CUcontext>,
    device: sys::CUdevice,
    lost: OnceLock<DeviceError>,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context")
            .field("device", &self.device)
            .field("lost", &self.lost)
            .finish_non_exhaustive()
    }
}

impl Context {
    /// Retains the primary context of a device.
    pub(crate) fn retain(api: &'static Api, device: sys::CUdevice) -> Result<Context> {
        let mut raw = std::ptr::null_mut();
        // SAFETY: writes one handle; the driver is initialised.
        let code = unsafe { (api.cuDevicePrimaryCtxRetain)(&mut raw, device) };
        if code != 0 {
            return Err(DeviceError::Unavailable(words(api, code)));
        }
        Ok(Context {
            api,
            raw: Handle(raw),
            device,
            lost: OnceLock::new(),
        })
    }

    /// The error after which nothing works, if one happened.
    pub(crate) fn lost(&self) -> Option<&DeviceError> {
        self.lost.get()
    }

    /// The driver's functions.
    pub(crate) fn api(&self) -> &'static Api {
        self.api
    }

    /// The device that the context is of.
    pub(crate) fn device(&self) -> sys::CUdevice {
        self.device
    }

    /// Makes the context current on this thread until the result is dropped.
    pub(crate) fn enter(&self) -> Result<Entered<'_>> {
        if let Some(lost) = self.lost.get() {
            return Err(lost.clone());
        }
        let mut before = std::ptr::null_mut();
        // SAFETY: writes one handle.
        let code = unsafe { (self.api.cuCtxGetCurrent)(&mut before) };
        self.check_with("cuCtxGetCurrent", code, || 0)?;
        if before != self.raw.0 {
            // SAFETY: the context is retained by `self`.
            let code = unsafe { (self.api.cuCtxSetCurrent)(self.raw.0) };
            self.check_with("cuCtxSetCurrent", code, || 0)?;
        }
        // a thread without a context keeps this one: the next call on it is then cheaper
        let restore = (!before.is_null() && before != self.raw.0).then_some(before);
        Ok(Entered {
            api: self.api,
            context: self,
            restore,
        })
    }

    /// For `drop`: runs calls whose failures nobody can be told of (see [`Entered::last`]), unless the device is lost.
    pub(crate) fn quietly(&self, calls: impl FnOnce(&Entered<'_>)) {
        // what is not given back now never is: a failure that may pass gets a second chance
        if let Ok(entered) = self.enter().or_else(|_| self.enter()) {
            calls(&entered);
        }
    }

    /// The error of a call, remembered if it is sticky.
    pub(crate) fn check(&self, call: &'static str, code: Code) -> Result<()> {
        self.check_with(call, code, || self.free())
    }

    /// As [`Context::check`]; how much memory is free is only known where the context is current.
    fn check_with(&self, call: &'static str, code: Code, free: impl FnOnce() -> u64) -> Result<()> {
        match meaning(code) {
            Meaning::Success => Ok(()),
            Meaning::OutOfMemory => Err(DeviceError::OutOfMemory {
                what: format!("the driver's own use in {call}"),
                wanted: 0,
                free: free(),
            }),
            _ => {
                let error = of_call(call, code, words(self.api, code));
                if error.is_sticky() {
                    // of two threads that find out at once, the first one's error stays
                    return Err(self.lost.get_or_init(|| error).clone());
                }
                Err(error)
            }
        }
    }

    /// Bytes of free memory, 0 if unknown.
    fn free(&self) -> u64 {
        let (mut free, mut total) = (0, 0);
        // SAFETY: writes two integers.
        let code = unsafe { (self.api.cuMemGetInfo_v2)(&mut free, &mut total) };
        let error = of_call("cuMemGetInfo", code, words(self.api, code));
        if error.is_sticky() {
            self.lost.get_or_init(|| error);
        }
        if code == 0 { free as u64 } else { 0 }
    }

    /// A device attribute.
    pub(crate) fn attribute(&self, which: sys::CUdevice_attribute) -> Result<u32> {
        attribute(self.api, self.device, which)
            .map_err(|code| of_call("cuDeviceGetAttribute", code, words(self.api, code)))
    }

    /// A context over a driver that only takes notes.
    #[cfg(test)]
    pub(crate) fn over(api: &'static Api) -> Context {
        Context {
            api,
            raw: Handle(std::ptr::null_mut()),
            device: 0,
            lost: OnceLock::new(),
        }
    }
}

/// An attribute of a device that may have no context.
pub(crate) fn attribute(
    api: &Api,
    device: sys::CUdevice,
    which: sys::CUdevice_attribute,
) -> std::result::Result<u32, Code> {
    let mut value: c_int = 0;
    // SAFETY: writes one integer.
    let code = unsafe { (api.cuDeviceGetAttribute)(&mut value, which, device) };
    if code == 0 {
        Ok(u32::try_from(value).unwrap_or(0))
    } else {
        Err(code)
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        if self.lost.get().is_none() {
            // SAFETY: retained once in `retain`; everything made in the context holds it and is gone.
            unsafe { (self.api.cuDevicePrimaryCtxRelease_v2)(self.device) };
        }
    }
}

/// Proof that the context is current on this thread.
pub(crate) struct Entered<'c> {
    /// The driver's functions.
    pub(crate) api: &'static Api,
    context: &'c Context,
    restore: Option<sys::CUcontext>,
}

impl Entered<'_> {
    /// The error of a call.
    pub(crate) fn check(&self, call: &'static str, code: Code) -> Result<()> {
        self.context.check(call, code)
    }

    /// For `drop`: makes a call whose failure nobody can be told of; none if the device is lost. That it was lost is
    /// remembered: work that went wrong often shows first in a call that gives something back.
    pub(crate) fn last(&self, call: &'static str, made: impl FnOnce(&Api) -> Code) {
        if self.context.lost().is_none() {
            let _ = self.check(call, made(self.api));
        }
    }

    /// The error of a call that wanted memory for the caller.
    pub(crate) fn check_memory(
        &self,
        call: &'static str,
        code: Code,
        what: &str,
        wanted: u64,
    ) -> Result<()> {
        if meaning(code) == Meaning::OutOfMemory {
            return Err(DeviceError::OutOfMemory {
                what: what.to_owned(),
                wanted,
                free: self.context.free(),
            });
        }
        self.context.check(call, code)
    }

    /// The error of a call that loads a kernel.
    pub(crate) fn check_image(&self, call: &'static str, code: Code, kernel: &str) -> Result<()> {
        // 500: the image lacks the function
        if meaning(code) == Meaning::BadImage || code == 500 {
            return Err(DeviceError::BadImage {
                kernel: kernel.to_owned(),
                reason: words(self.api, code),
            });
        }
        self.context.check(call, code)
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        if let Some(before) = self.restore {
            // SAFETY: the context that was current on this thread when we came.
            unsafe { (self.api.cuCtxSetCurrent)(before) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake;

    #[test]
    fn after_a_sticky_error_no_call_reaches_the_driver() {
        let context = Context::over(fake::driver());
        let entered = context.enter().unwrap();
        assert!(matches!(
            entered.check("cuX", 1),
            Err(DeviceError::Call { call: "cuX", .. })
        ));
        assert!(context.lost().is_none());
        let error = entered.check("cuX", 700).unwrap_err();
        assert!(error.is_sticky());
        drop(entered);
        fake::notes();
        assert_eq!(context.enter().err(), Some(error.clone()));
        context.quietly(|_| panic!("nothing is called on a lost device"));
        assert_eq!(
            context.check("cuY", 719),
            Err(error),
            "the first error stays"
        );
        drop(context);
        assert!(!fake::notes().contains(&"cuDevicePrimaryCtxRelease_v2"));
    }

    #[test]
    fn the_callers_own_context_is_put_back() {
        let context = Context::over(fake::driver());
        fake::set_current(0x1000);
        let entered = context.enter().unwrap();
        assert_eq!(fake::current(), 0);
        drop(entered);
        assert_eq!(fake::current(), 0x1000);
        fake::set_current(0);
    }

    #[test]
    fn what_is_given_back_gets_a_second_chance() {
        let context = Context::over(fake::driver());
        fake::fail("cuCtxGetCurrent", 0, 1);
        let mut reached = false;
        context.quietly(|_| reached = true);
        assert!(reached);
    }

    #[test]
    fn a_device_that_is_lost_while_things_are_given_back_is_left_alone() {
        let context = Context::over(fake::driver());
        fake::fail("cuCtxSynchronize", 0, 700);
        fake::notes();
        context.quietly(|on| {
            // SAFETY: a stand-in without arguments.
            on.last("cuCtxSynchronize", |api| unsafe {
                (api.cuCtxSynchronize)()
            });
            // SAFETY: as above.
            on.last("cuModuleUnload", |api| unsafe {
                (api.cuModuleUnload)(std::ptr::null_mut())
            });
        });
        assert!(context.lost().is_some_and(DeviceError::is_sticky));
        assert_eq!(fake::notes(), ["cuCtxSynchronize"]);
    }
}

//! Streams, and marks in them.

use std::any::Any;
use std::cell::{OnceCell, RefCell};
use std::ffi::c_void;
use std::sync::Arc;

use bespoke_device::{DeviceError, DevicePtr, Graph, Launch, Mark, Result, Stream};
use cudarc::driver::sys;

use crate::context::{Context, Entered, Handle};
use crate::graph::CudaGraph;
use crate::kernel::CudaKernel;
use crate::staging::Staging;

/// A queue of device work, independent of every other and of the default stream.
#[derive(Debug)]
pub(crate) struct CudaStream {
    context: Arc<Context>,
    raw: Handle<sys::CUstream>,
    /// Made at the first write.
    staging: RefCell<Option<Staging>>,
    /// Orders this stream and a caller's; made when the first caller brings one.
    meeting: OnceCell<CudaMark>,
}

impl CudaStream {
    pub(crate) fn new(context: Arc<Context>) -> Result<CudaStream> {
        let on = context.enter()?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: writes one handle.
        let code = unsafe {
            (on.api.cuStreamCreate)(&mut raw, sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32)
        };
        on.check("cuStreamCreate", code)?;
        drop(on);
        Ok(CudaStream {
            context,
            raw: Handle(raw),
            staging: RefCell::new(None),
            meeting: OnceCell::new(),
        })
    }

    /// `second` goes on when `first` has done what it holds now.
    fn order(&self, first: sys::CUstream, second: sys::CUstream) -> Result<()> {
        let on = self.context.enter()?;
        let event = match self.meeting.get() {
            Some(mark) => mark.event.0,
            None => {
                let mark = CudaMark::new(self.context.clone(), &on, EVENT_FOR_ORDER)?;
                self.meeting.get_or_init(|| mark).event.0
            }
        };
        // SAFETY: the event is alive; the caller promises that the other stream is.
        let code = unsafe { (on.api.cuEventRecord)(event, first) };
        on.check("cuEventRecord", code)?;
        // SAFETY: as above. The wait takes the event as it is now: recording it again later does not move it.
        let code = unsafe { (on.api.cuStreamWaitEvent)(second, event, 0) };
        on.check("cuStreamWaitEvent", code)
    }
}

/// An event that keeps no time is cheaper to record.
const EVENT_FOR_ORDER: u32 = sys::CUevent_flags::CU_EVENT_DISABLE_TIMING as u32;

impl Stream for CudaStream {
    fn write(&self, to: DevicePtr, from: &[u8]) -> Result<()> {
        if from.is_empty() {
            return Ok(());
        }
        let on = self.context.enter()?;
        let mut staging = self.staging.borrow_mut();
        let staging = match &mut *staging {
            Some(staging) => staging,
            none => none.insert(Staging::new(&on)?),
        };
        staging.write(&on, self.raw.0, to.0, from)
    }

    fn read(&self, to: &mut [u8], from: DevicePtr) -> Result<()> {
        if to.is_empty() {
            return Ok(());
        }
        let on = self.context.enter()?;
        let place: *mut c_void = to.as_mut_ptr().cast();
        // SAFETY: `to` has room for its own length, and is borrowed until the stream is idle below; the driver checks the
        // source.
        let queued = unsafe { (on.api.cuMemcpyDtoHAsync_v2)(place, from.0, to.len(), self.raw.0) };
        // SAFETY: waits for a stream that is alive. Also after a failed copy: none may still be writing to `to`.
        let done = unsafe { (on.api.cuStreamSynchronize)(self.raw.0) };
        on.check("cuMemcpyDtoHAsync", queued)?;
        on.check("cuStreamSynchronize", done)
    }

    fn copy(&self, to: DevicePtr, from: DevicePtr, bytes: u64) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        let on = self.context.enter()?;
        // SAFETY: touches device memory only, whose bounds the driver checks.
        let code =
            unsafe { (on.api.cuMemcpyDtoDAsync_v2)(to.0, from.0, bytes as usize, self.raw.0) };
        on.check("cuMemcpyDtoDAsync", code)
    }

    fn launch(&self, launch: &Launch) -> Result<()> {
        let kernel = CudaKernel::of(launch, &self.context)?;
        let on = self.context.enter()?;
        let function = kernel.prepared(&on, &launch.config)?;
        let mut slots = launch.slots.0;
        let mut parameters: [*mut c_void; 1] = [(&raw mut slots).cast()];
        let [x, y, z] = launch.config.grid;
        // SAFETY: the function takes one address (checked when it was loaded), which is copied during the call; the module
        // stays loaded until the kernel is dropped, which waits for the device.
        let code = unsafe {
            (on.api.cuLaunchKernel)(
                function,
                x,
                y,
                z,
                launch.config.block,
                1,
                1,
                launch.config.shared_bytes,
                self.raw.0,
                parameters.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        };
        on.check("cuLaunchKernel", code)
    }

    fn upload(&self, graph: &dyn Graph) -> Result<()> {
        let graph = CudaGraph::of("upload", graph, &self.context)?;
        let on = self.context.enter()?;
        for executable in graph.executables() {
            // SAFETY: both handles are alive.
            let code = unsafe { (on.api.cuGraphUpload)(executable, self.raw.0) };
            on.check("cuGraphUpload", code)?;
        }
        Ok(())
    }

    fn replay(&self, graph: &dyn Graph) -> Result<()> {
        let graph = CudaGraph::of("replay", graph, &self.context)?;
        let on = self.context.enter()?;
        for executable in graph.executables() {
            // SAFETY: both handles are alive; a running executable that is dropped is kept by the driver until done.
            let code = unsafe { (on.api.cuGraphLaunch)(executable, self.raw.0) };
            on.check("cuGraphLaunch", code)?;
        }
        Ok(())
    }

    fn synchronize(&self) -> Result<()> {
        let on = self.context.enter()?;
        // SAFETY: the stream is alive.
        let code = unsafe { (on.api.cuStreamSynchronize)(self.raw.0) };
        on.check("cuStreamSynchronize", code)
    }

    fn mark(&self) -> Result<Box<dyn Mark>> {
        let on = self.context.enter()?;
        let default = sys::CUevent_flags::CU_EVENT_DEFAULT as u32;
        // dropped, and so destroyed, if recording fails
        let mark = CudaMark::new(self.context.clone(), &on, default)?;
        // SAFETY: both handles are alive.
        let code = unsafe { (on.api.cuEventRecord)(mark.event.0, self.raw.0) };
        on.check("cuEventRecord", code)?;
        Ok(Box::new(mark))
    }

    fn native(&self) -> u64 {
        self.raw.0 as u64
    }

    fn follow(&self, other: u64) -> Result<()> {
        self.order(other as sys::CUstream, self.raw.0)
    }

    fn precede(&self, other: u64) -> Result<()> {
        self.order(self.raw.0, other as sys::CUstream)
    }
}

impl Drop for CudaStream {
    fn drop(&mut self) {
        let staging = self.staging.get_mut().take();
        self.context.quietly(|on| {
            // SAFETY: the stream is alive. The device may still read the staging memory.
            on.last("cuStreamSynchronize", |api| unsafe {
                (api.cuStreamSynchronize)(self.raw.0)
            });
            if let Some(mut staging) = staging {
                staging.release(on);
            }
            // SAFETY: made in `new` and destroyed once.
            on.last("cuStreamDestroy", |api| unsafe {
                (api.cuStreamDestroy_v2)(self.raw.0)
            });
        });
    }
}

/// A recorded event.
#[derive(Debug)]
struct CudaMark {
    context: Arc<Context>,
    event: Handle<sys::CUevent>,
}

impl CudaMark {
    /// An event that is not recorded yet.
    fn new(context: Arc<Context>, on: &Entered<'_>, flags: u32) -> Result<CudaMark> {
        let mut raw = std::ptr::null_mut();
        // SAFETY: writes one handle.
        let code = unsafe { (on.api.cuEventCreate)(&mut raw, flags) };
        on.check("cuEventCreate", code)?;
        Ok(CudaMark {
            context,
            event: Handle(raw),
        })
    }
}

impl Mark for CudaMark {
    fn since(&self, earlier: &dyn Mark) -> Result<f64> {
        let own = earlier
            .as_any()
            .downcast_ref::<CudaMark>()
            .filter(|m| Arc::ptr_eq(&m.context, &self.context));
        let Some(earlier) = own else {
            let reason = "the earlier mark was made by another device".to_owned();
            return Err(DeviceError::Call {
                call: "since",
                reason,
            });
        };
        let on = self.context.enter()?;
        for event in [earlier.event, self.event] {
            // SAFETY: both events are alive and recorded.
            let code = unsafe { (on.api.cuEventSynchronize)(event.0) };
            on.check("cuEventSynchronize", code)?;
        }
        let mut milliseconds = 0.0_f32;
        // SAFETY: writes one float; both events have happened.
        let code = unsafe {
            (on.api.cuEventElapsedTime_v2)(&mut milliseconds, earlier.event.0, self.event.0)
        };
        on.check("cuEventElapsedTime", code)?;
        Ok(f64::from(milliseconds))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for CudaMark {
    fn drop(&mut self) {
        self.context.quietly(|on| {
            // SAFETY: made in `new` and destroyed once; a pending one is kept by the driver until it happens.
            on.last("cuEventDestroy", |api| unsafe {
                (api.cuEventDestroy_v2)(self.event.0)
            });
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake;

    fn stream() -> (Arc<Context>, CudaStream) {
        let context = Arc::new(Context::over(fake::driver()));
        let stream = CudaStream::new(context.clone()).unwrap();
        (context, stream)
    }

    #[test]
    fn a_stream_gives_back_what_it_made() {
        let (_context, stream) = stream();
        let mut to = [0_u8; 3];
        stream
            .write(DevicePtr(to.as_mut_ptr() as u64), &[])
            .unwrap();
        assert_eq!(
            fake::pinned_pieces(),
            0,
            "nothing is pinned before the first write"
        );
        stream
            .write(DevicePtr(to.as_mut_ptr() as u64), &[1, 2, 3])
            .unwrap();
        assert_eq!(fake::pinned_pieces(), 1);
        let mut back = [0_u8; 3];
        stream
            .read(&mut back, DevicePtr(to.as_ptr() as u64))
            .unwrap();
        assert_eq!(back, [1, 2, 3]);
        fake::notes();
        drop(stream);
        assert_eq!(fake::pinned_pieces(), 0);
        assert_eq!(fake::notes().last(), Some(&"cuStreamDestroy_v2"));
    }

    #[test]
    fn a_kernel_that_went_wrong_loses_the_device_for_everybody() {
        let (context, stream) = stream();
        fake::fail("cuStreamSynchronize", 0, 700);
        let error = stream.synchronize().unwrap_err();
        assert!(error.is_sticky());
        assert!(
            error.to_string().contains("CUDA_ERROR_700"),
            "the driver's own words: {error}"
        );
        fake::notes();
        assert_eq!(stream.write(DevicePtr(0), &[1]), Err(error.clone()));
        assert_eq!(stream.mark().err(), Some(error.clone()));
        assert_eq!(CudaStream::new(context.clone()).err(), Some(error));
        drop(stream);
        drop(context);
        assert!(
            fake::notes().is_empty(),
            "not a single call, not even to give back"
        );
    }

    #[test]
    fn a_failed_pinning_can_be_tried_again() {
        let (_, stream) = stream();
        let mut to = [0_u8; 1];
        let at = DevicePtr(to.as_mut_ptr() as u64);
        fake::fail("cuMemHostAlloc", 0, 2);
        assert!(matches!(
            stream.write(at, &[9]),
            Err(DeviceError::OutOfMemory { .. })
        ));
        fake::fail("cuEventCreate", 1, 1);
        assert!(stream.write(at, &[9]).is_err());
        assert_eq!(fake::pinned_pieces(), 0);
        stream.write(at, &[9]).unwrap();
        assert_eq!(to, [9]);
    }

    #[test]
    fn a_mark_that_cannot_be_recorded_is_destroyed() {
        let (_, stream) = stream();
        fake::fail("cuEventRecord", 0, 1);
        fake::notes();
        assert!(stream.mark().is_err());
        assert_eq!(fake::notes().last(), Some(&"cuEventDestroy_v2"));
    }

    #[test]
    fn a_callers_stream_and_this_one_wait_for_each_other() {
        let (_, stream) = stream();
        fake::notes();
        stream.follow(0x50).unwrap();
        stream.precede(0x50).unwrap();
        let order = ["cuEventRecord", "cuStreamWaitEvent"];
        assert_eq!(
            fake::notes(),
            [&["cuEventCreate"][..], &order, &order].concat(),
            "one event serves both"
        );
        fake::fail("cuStreamWaitEvent", 0, 1);
        assert!(stream.follow(0x50).is_err());
    }
}

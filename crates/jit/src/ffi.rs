//! The binding to NVRTC: types, function pointers and the loading of the library.
//!
//! Signatures follow `nvrtc.h` of CUDA 12.9 and 13.0, which agree on all functions used. Result codes are plain
//! integers (see the crate's text). The library is never unloaded: it keeps thread-local state and exit handlers.
#![allow(
    unsafe_code,
    reason = "this module is the foreign-function boundary of the crate"
)]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::mem::ManuallyDrop;
use std::path::Path;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

use libloading::Library;

use crate::ending;
use crate::search::Found;

/// `nvrtcResult`.
pub(crate) type Code = c_int;
pub(crate) const SUCCESS: Code = 0;
pub(crate) const ERROR_COMPILATION: Code = 6;
pub(crate) const ERROR_BUILTIN_OPERATION_FAILURE: Code = 7;
pub(crate) const ERROR_CANCELLED: Code = 16;

/// `nvrtcProgram`.
type Handle = *mut c_void;
type FlowCallback = unsafe extern "C" fn(*mut c_void, *mut c_void) -> c_int;

type CreateProgram = unsafe extern "C" fn(
    *mut Handle,
    *const c_char,
    *const c_char,
    c_int,
    *const *const c_char,
    *const *const c_char,
) -> Code;
type GetSize = unsafe extern "C" fn(Handle, *mut usize) -> Code;
type GetBytes = unsafe extern "C" fn(Handle, *mut c_char) -> Code;

/// The functions in use. Pointers stay valid because the library is never unloaded.
pub(crate) struct Api {
    version: unsafe extern "C" fn(*mut c_int, *mut c_int) -> Code,
    count_archs: unsafe extern "C" fn(*mut c_int) -> Code,
    get_archs: unsafe extern "C" fn(*mut c_int) -> Code,
    error_string: unsafe extern "C" fn(Code) -> *const c_char,
    create: CreateProgram,
    destroy: unsafe extern "C" fn(*mut Handle) -> Code,
    compile: unsafe extern "C" fn(Handle, c_int, *const *const c_char) -> Code,
    cubin_size: GetSize,
    cubin: GetBytes,
    log_size: GetSize,
    log: GetBytes,
    /// Since 12.8.
    set_flow_callback: Option<unsafe extern "C" fn(Handle, FlowCallback, *mut c_void) -> Code>,
    _library: ManuallyDrop<Library>,
}

/// Loads a library and keeps it in memory for the rest of the process.
pub(crate) fn preload(path: &Path) -> Result<(), String> {
    // SAFETY: loading runs the library's initialisers. The path comes from the documented search order, that is
    // from the user's own configuration; there is no way to check a library before loading it.
    let library = unsafe { Library::new(path) }.map_err(|error| error.to_string())?;
    std::mem::forget(library);
    Ok(())
}

impl Api {
    /// Loads NVRTC by path or plain name and binds every function.
    pub(crate) fn load(path: &Path) -> Result<Api, Found> {
        // SAFETY: as in `preload`.
        let library =
            unsafe { Library::new(path) }.map_err(|error| Found::Unloadable(error.to_string()))?;
        let library = ManuallyDrop::new(library);

        /// Copies a function pointer out of the library.
        fn bind<T: Copy>(library: &Library, name: &'static str) -> Result<T, Found> {
            // SAFETY: each caller below asks for the type that `nvrtc.h` declares for this name, and the pointer
            // outlives the borrow because the library is never unloaded.
            unsafe { library.get::<T>(name.as_bytes()) }
                .map(|symbol| *symbol)
                .map_err(|_| Found::NoSymbol(name))
        }

        Ok(Api {
            version: bind(&library, "nvrtcVersion")?,
            count_archs: bind(&library, "nvrtcGetNumSupportedArchs")?,
            get_archs: bind(&library, "nvrtcGetSupportedArchs")?,
            error_string: bind(&library, "nvrtcGetErrorString")?,
            create: bind(&library, "nvrtcCreateProgram")?,
            destroy: bind(&library, "nvrtcDestroyProgram")?,
            compile: bind(&library, "nvrtcCompileProgram")?,
            cubin_size: bind(&library, "nvrtcGetCUBINSize")?,
            cubin: bind(&library, "nvrtcGetCUBIN")?,
            log_size: bind(&library, "nvrtcGetProgramLogSize")?,
            log: bind(&library, "nvrtcGetProgramLog")?,
            set_flow_callback: bind(&library, "nvrtcSetFlowCallback").ok(),
            _library: library,
        })
    }

    /// Major and minor release.
    pub(crate) fn version(&self) -> Result<(u32, u32), Code> {
        let (mut major, mut minor) = (0, 0);
        // SAFETY: both pointers are valid for writes during the call.
        check(unsafe { (self.version)(&mut major, &mut minor) })?;
        Ok((major.unsigned_abs(), minor.unsigned_abs()))
    }

    /// Compute capabilities that can be compiled for, as `major * 10 + minor`.
    pub(crate) fn supported_archs(&self) -> Result<Vec<u32>, Code> {
        let mut count = 0;
        // SAFETY: the pointer is valid for a write during the call.
        check(unsafe { (self.count_archs)(&mut count) })?;
        let mut archs = vec![0; usize::try_from(count).unwrap_or(0)];
        if !archs.is_empty() {
            // SAFETY: the array has exactly the number of elements that the library announced.
            check(unsafe { (self.get_archs)(archs.as_mut_ptr()) })?;
        }
        Ok(archs.into_iter().map(c_int::unsigned_abs).collect())
    }

    /// NVRTC's name of a result code.
    pub(crate) fn message(&self, code: Code) -> String {
        // SAFETY: the function accepts any integer and returns a static string, or null for an unknown one.
        let text = unsafe { (self.error_string)(code) };
        if text.is_null() {
            return "an unknown error".to_owned();
        }
        // SAFETY: not null, and static zero-terminated text by the function's contract.
        unsafe { CStr::from_ptr(text) }
            .to_string_lossy()
            .into_owned()
    }
}

/// A program from creation to destruction. Used by one thread; distinct programs may run in parallel.
pub(crate) struct Program<'a> {
    api: &'a Api,
    handle: Handle,
}

/// What the flow callback looks at.
struct Watch<'a> {
    cancel: Option<&'a AtomicBool>,
    /// NVRTC wants the same answer once it was "cancel", even if the caller takes the wish back.
    latched: AtomicBool,
}

/// Called by NVRTC, possibly from several threads, to ask whether to stop: 1 stops.
unsafe extern "C" fn on_flow(watch: *mut c_void, _reserved: *mut c_void) -> c_int {
    // SAFETY: NVRTC passes the pointer given to `nvrtcSetFlowCallback`, which `compile` keeps alive until the
    // compile has returned.
    let watch = unsafe { &*watch.cast::<Watch<'_>>() };
    let wished = watch.cancel.is_some_and(|c| c.load(Ordering::Relaxed));
    if wished || ending::is_ending() {
        watch.latched.store(true, Ordering::Relaxed);
    }
    c_int::from(watch.latched.load(Ordering::Relaxed))
}

impl<'a> Program<'a> {
    pub(crate) fn new(api: &'a Api, source: &CStr, name: &CStr) -> Result<Self, Code> {
        let mut handle = ptr::null_mut();
        // SAFETY: the strings are zero-terminated and copied by the call; no headers are passed, for which null
        // pointers are allowed.
        check(unsafe {
            (api.create)(
                &mut handle,
                source.as_ptr(),
                name.as_ptr(),
                0,
                ptr::null(),
                ptr::null(),
            )
        })?;
        Ok(Program { api, handle })
    }

    /// Compiles. Whatever the result, the log can be read afterwards.
    pub(crate) fn compile(
        &mut self,
        options: &[CString],
        cancel: Option<&AtomicBool>,
    ) -> Result<(), Code> {
        let pointers: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        let count = c_int::try_from(pointers.len()).unwrap_or(c_int::MAX);
        let watch = Watch {
            cancel,
            latched: AtomicBool::new(false),
        };
        if let Some(set) = self.api.set_flow_callback {
            // SAFETY: `watch` lives until the end of this function, after the only call that uses it.
            check(unsafe {
                set(
                    self.handle,
                    on_flow,
                    ptr::from_ref(&watch).cast_mut().cast(),
                )
            })?;
        }
        // SAFETY: the handle is live, and `pointers` holds `count` zero-terminated strings that outlive the call.
        check(unsafe { (self.api.compile)(self.handle, count, pointers.as_ptr()) })
    }

    /// The compiler's log without its terminating zero.
    pub(crate) fn log(&self) -> String {
        let bytes = self
            .bytes(self.api.log_size, self.api.log)
            .unwrap_or_default();
        let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
        String::from_utf8_lossy(text).trim_end().to_owned()
    }

    /// The machine code; empty if the target was not a real architecture.
    pub(crate) fn cubin(&self) -> Result<Vec<u8>, Code> {
        self.bytes(self.api.cubin_size, self.api.cubin)
    }

    fn bytes(&self, size: GetSize, get: GetBytes) -> Result<Vec<u8>, Code> {
        let mut len = 0;
        // SAFETY: the handle is live and the pointer valid for a write.
        check(unsafe { size(self.handle, &mut len) })?;
        let mut bytes = vec![0; len];
        if len > 0 {
            // SAFETY: the buffer has exactly the size that the library announced for this program.
            check(unsafe { get(self.handle, bytes.as_mut_ptr().cast()) })?;
        }
        Ok(bytes)
    }
}

impl Drop for Program<'_> {
    fn drop(&mut self) {
        // SAFETY: the handle is live and not used again. A failure would only leak the program.
        let _ = unsafe { (self.api.destroy)(&mut self.handle) };
    }
}

fn check(code: Code) -> Result<(), Code> {
    if code == SUCCESS { Ok(()) } else { Err(code) }
}

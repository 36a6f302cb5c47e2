//! The driver functions that this crate calls, as one table.
//!
//! The types come from cudarc's bindings, the functions do not: those resolve a symbol at its first use and panic when it
//! is missing, and they return a Rust `enum`, which is undefined behaviour as soon as a newer driver returns a code that
//! the enum lacks. Here every symbol is resolved once and up front, a missing one is a name in a list, and results are
//! plain numbers ([`crate::error`] gives them their meaning). Each entry is still checked against cudarc's signature when
//! this crate is compiled.
//!
//! All required entries exist since driver 525 (CUDA 12.0).

use std::ffi::{c_char, c_int, c_uint, c_ulonglong, c_void};

use cudarc::driver::sys;
use sys::{
    CUDA_KERNEL_NODE_PARAMS, CUcontext, CUdevice, CUdevice_attribute, CUdeviceptr, CUevent,
    CUfunction, CUfunction_attribute, CUgraph, CUgraphEdgeData, CUgraphExec, CUgraphNode,
    CUmemAccessDesc, CUmemAllocationGranularity_flags, CUmemAllocationProp,
    CUmemGenericAllocationHandle, CUmodule, CUresult, CUstream, CUtensorMap, CUtensorMapDataType,
    CUtensorMapFloatOOBfill, CUtensorMapInterleave, CUtensorMapL2promotion, CUtensorMapSwizzle,
};

/// What a driver function returns: 0 for success.
pub(crate) type Code = u32;

macro_rules! api {
    (
        required { $( $name:ident [$($symbol:literal),+] ( $($arg:ident : $ty:ty),* ); )* }
        optional { $( $oname:ident [$osymbol:literal] ( $($oarg:ident : $oty:ty),* ); )* }
    ) => {
        /// The resolved functions.
        #[allow(non_snake_case)]
        pub(crate) struct Api {
            $( pub(crate) $name: unsafe extern "C" fn($($ty),*) -> Code, )*
            $( pub(crate) $oname: Option<unsafe extern "C" fn($($oty),*) -> Code>, )*
        }

        // the same parameters as in cudarc's bindings, by name
        $( const _: unsafe fn($($ty),*) -> CUresult = sys::$name; )*

        impl Api {
            /// Resolves every function; the names of those that are missing otherwise.
            ///
            /// # Safety
            ///
            /// `library` must be a CUDA driver library, and must never be closed.
            #[allow(non_snake_case)]
            pub(crate) unsafe fn resolve(library: &libloading::Library) -> Result<Api, Vec<&'static str>> {
                let mut missing = Vec::new();
                $(
                    // SAFETY: the driver exports these names with exactly this signature (the caller's promise about the
                    // library, and the check against cudarc's bindings above).
                    let $name = unsafe { find(library, &[$($symbol),+]) };
                    if $name.is_none() { missing.push(stringify!($name)); }
                )*
                $(
                    // SAFETY: as above.
                    let $oname = unsafe { find(library, &[$osymbol]) };
                )*
                match ($($name,)*) {
                    ($(Some($name),)*) => Ok(Api { $($name,)* $($oname,)* }),
                    _ => Err(missing),
                }
            }

            /// A driver that does nothing but take notes; see `crate::fake`.
            #[cfg(test)]
            pub(crate) fn fake() -> Api {
                Api {
                    $( $name: {
                        unsafe extern "C" fn stand_in($($arg: $ty),*) -> Code {
                            $( let _ = $arg; )*
                            crate::fake::called(stringify!($name))
                        }
                        stand_in
                    }, )*
                    $( $oname: None, )*
                }
            }
        }
    };
}

/// The first of `symbols` that the library has.
///
/// # Safety
///
/// Every symbol must be a function of type `F`, and the library must stay open.
unsafe fn find<F: Copy>(library: &libloading::Library, symbols: &[&str]) -> Option<F> {
    // SAFETY: the caller's promise.
    symbols
        .iter()
        .find_map(|s| unsafe { library.get::<F>(s.as_bytes()) }.ok().map(|f| *f))
}

api! {
    required {
        cuInit ["cuInit"] (flags: c_uint);
        cuDriverGetVersion ["cuDriverGetVersion"] (version: *mut c_int);
        cuDeviceGetCount ["cuDeviceGetCount"] (count: *mut c_int);
        cuDeviceGet ["cuDeviceGet"] (device: *mut CUdevice, ordinal: c_int);
        cuDeviceGetName ["cuDeviceGetName"] (name: *mut c_char, length: c_int, device: CUdevice);
        cuDeviceGetAttribute ["cuDeviceGetAttribute"] (value: *mut c_int, which: CUdevice_attribute, device: CUdevice);
        cuDeviceTotalMem_v2 ["cuDeviceTotalMem_v2"] (bytes: *mut usize, device: CUdevice);
        cuDevicePrimaryCtxRetain ["cuDevicePrimaryCtxRetain"] (context: *mut CUcontext, device: CUdevice);
        cuDevicePrimaryCtxRelease_v2 ["cuDevicePrimaryCtxRelease_v2"] (device: CUdevice);
        cuCtxGetCurrent ["cuCtxGetCurrent"] (context: *mut CUcontext);
        cuCtxSetCurrent ["cuCtxSetCurrent"] (context: CUcontext);
        cuCtxSynchronize ["cuCtxSynchronize"] ();
        cuMemGetInfo_v2 ["cuMemGetInfo_v2"] (free: *mut usize, total: *mut usize);
        cuMemAlloc_v2 ["cuMemAlloc_v2"] (at: *mut CUdeviceptr, bytes: usize);
        cuMemFree_v2 ["cuMemFree_v2"] (at: CUdeviceptr);
        cuMemHostAlloc ["cuMemHostAlloc"] (at: *mut *mut c_void, bytes: usize, flags: c_uint);
        cuMemFreeHost ["cuMemFreeHost"] (at: *mut c_void);
        cuMemGetAllocationGranularity ["cuMemGetAllocationGranularity"] (
            bytes: *mut usize, properties: *const CUmemAllocationProp, which: CUmemAllocationGranularity_flags);
        cuMemAddressReserve ["cuMemAddressReserve"] (
            at: *mut CUdeviceptr, bytes: usize, alignment: usize, wish: CUdeviceptr, flags: c_ulonglong);
        cuMemAddressFree ["cuMemAddressFree"] (at: CUdeviceptr, bytes: usize);
        cuMemCreate ["cuMemCreate"] (
            handle: *mut CUmemGenericAllocationHandle, bytes: usize, properties: *const CUmemAllocationProp,
            flags: c_ulonglong);
        cuMemRelease ["cuMemRelease"] (handle: CUmemGenericAllocationHandle);
        cuMemMap ["cuMemMap"] (
            at: CUdeviceptr, bytes: usize, offset: usize, handle: CUmemGenericAllocationHandle, flags: c_ulonglong);
        cuMemUnmap ["cuMemUnmap"] (at: CUdeviceptr, bytes: usize);
        cuMemSetAccess ["cuMemSetAccess"] (
            at: CUdeviceptr, bytes: usize, access: *const CUmemAccessDesc, count: usize);
        cuMemcpyHtoDAsync_v2 ["cuMemcpyHtoDAsync_v2"] (
            to: CUdeviceptr, from: *const c_void, bytes: usize, stream: CUstream);
        cuMemcpyDtoHAsync_v2 ["cuMemcpyDtoHAsync_v2"] (
            to: *mut c_void, from: CUdeviceptr, bytes: usize, stream: CUstream);
        cuMemcpyDtoDAsync_v2 ["cuMemcpyDtoDAsync_v2"] (
            to: CUdeviceptr, from: CUdeviceptr, bytes: usize, stream: CUstream);
        cuStreamCreate ["cuStreamCreate"] (stream: *mut CUstream, flags: c_uint);
        cuStreamDestroy_v2 ["cuStreamDestroy_v2"] (stream: CUstream);
        cuStreamSynchronize ["cuStreamSynchronize"] (stream: CUstream);
        cuStreamWaitEvent ["cuStreamWaitEvent"] (stream: CUstream, event: CUevent, flags: c_uint);
        cuEventCreate ["cuEventCreate"] (event: *mut CUevent, flags: c_uint);
        cuEventDestroy_v2 ["cuEventDestroy_v2"] (event: CUevent);
        cuEventRecord ["cuEventRecord"] (event: CUevent, stream: CUstream);
        cuEventSynchronize ["cuEventSynchronize"] (event: CUevent);
        // the suffixed name is only in drivers from 570 on; both take the same arguments
        cuEventElapsedTime_v2 ["cuEventElapsedTime_v2", "cuEventElapsedTime"] (
            milliseconds: *mut f32, start: CUevent, end: CUevent);
        cuModuleLoadData ["cuModuleLoadData"] (module: *mut CUmodule, image: *const c_void);
        cuModuleUnload ["cuModuleUnload"] (module: CUmodule);
        cuModuleGetFunction ["cuModuleGetFunction"] (function: *mut CUfunction, module: CUmodule, name: *const c_char);
        cuFuncGetAttribute ["cuFuncGetAttribute"] (value: *mut c_int, which: CUfunction_attribute, function: CUfunction);
        cuFuncSetAttribute ["cuFuncSetAttribute"] (function: CUfunction, which: CUfunction_attribute, value: c_int);
        cuLaunchKernel ["cuLaunchKernel"] (
            function: CUfunction, grid_x: c_uint, grid_y: c_uint, grid_z: c_uint, block_x: c_uint, block_y: c_uint,
            block_z: c_uint, shared: c_uint, stream: CUstream, parameters: *mut *mut c_void, extra: *mut *mut c_void);
        cuOccupancyMaxActiveBlocksPerMultiprocessor ["cuOccupancyMaxActiveBlocksPerMultiprocessor"] (
            blocks: *mut c_int, function: CUfunction, threads: c_int, shared: usize);
        cuGraphCreate ["cuGraphCreate"] (graph: *mut CUgraph, flags: c_uint);
        cuGraphDestroy ["cuGraphDestroy"] (graph: CUgraph);
        cuGraphAddKernelNode_v2 ["cuGraphAddKernelNode_v2"] (
            node: *mut CUgraphNode, graph: CUgraph, after: *const CUgraphNode, count: usize,
            parameters: *const CUDA_KERNEL_NODE_PARAMS);
        cuGraphInstantiateWithFlags ["cuGraphInstantiateWithFlags"] (
            executable: *mut CUgraphExec, graph: CUgraph, flags: c_ulonglong);
        cuGraphExecDestroy ["cuGraphExecDestroy"] (executable: CUgraphExec);
        cuGraphExecKernelNodeSetParams_v2 ["cuGraphExecKernelNodeSetParams_v2"] (
            executable: CUgraphExec, node: CUgraphNode, parameters: *const CUDA_KERNEL_NODE_PARAMS);
        cuGraphUpload ["cuGraphUpload"] (executable: CUgraphExec, stream: CUstream);
        cuGraphLaunch ["cuGraphLaunch"] (executable: CUgraphExec, stream: CUstream);
    }
    optional {
        // these two take a result code, which is a number here for the same reason as above
        cuGetErrorName ["cuGetErrorName"] (error: Code, text: *mut *const c_char);
        cuGetErrorString ["cuGetErrorString"] (error: Code, text: *mut *const c_char);
        // from driver 550 on
        cuFuncGetParamInfo ["cuFuncGetParamInfo"] (
            function: CUfunction, index: usize, offset: *mut usize, bytes: *mut usize);
        // from driver 545 on
        cuGraphAddDependencies_v2 ["cuGraphAddDependencies_v2"] (
            graph: CUgraph, from: *const CUgraphNode, to: *const CUgraphNode, data: *const CUgraphEdgeData, count: usize);
        // only cards from Hopper on have tensor maps
        cuTensorMapEncodeTiled ["cuTensorMapEncodeTiled"] (
            map: *mut CUtensorMap, element: CUtensorMapDataType, rank: c_uint, address: *mut c_void,
            extents: *const u64, strides: *const u64, tile: *const c_uint, element_strides: *const c_uint,
            interleave: CUtensorMapInterleave, swizzle: CUtensorMapSwizzle, promotion: CUtensorMapL2promotion,
            outside: CUtensorMapFloatOOBfill);
    }
}

// the optional entries with a counterpart in cudarc's bindings
const _: unsafe fn(CUfunction, usize, *mut usize, *mut usize) -> CUresult = sys::cuFuncGetParamInfo;
const _: unsafe fn(
    CUgraph,
    *const CUgraphNode,
    *const CUgraphNode,
    *const CUgraphEdgeData,
    usize,
) -> CUresult = sys::cuGraphAddDependencies_v2;
#[allow(
    clippy::type_complexity,
    reason = "a name for it would be used once, here"
)]
const _: unsafe fn(
    *mut CUtensorMap,
    CUtensorMapDataType,
    c_uint,
    *mut c_void,
    *const u64,
    *const u64,
    *const c_uint,
    *const c_uint,
    CUtensorMapInterleave,
    CUtensorMapSwizzle,
    CUtensorMapL2promotion,
    CUtensorMapFloatOOBfill,
) -> CUresult = sys::cuTensorMapEncodeTiled;

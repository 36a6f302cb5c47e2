//! A stand-in driver for tests: it takes notes, keeps "device memory" in this process, and fails on demand.
//!
//! Every function of the table notes its name and returns 0, or a code that a test asked for. Those whose results matter
//! do a little more. All state belongs to the test's thread.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::{c_char, c_int, c_uint, c_ulonglong, c_void};
use std::sync::Arc;

use bespoke_device::{Image, Signature, Twin, TwinCall, TwinError};
use bytes::Bytes;
use cudarc::driver::sys;

use crate::api::{Api, Code};

#[derive(Default)]
struct State {
    notes: Vec<&'static str>,
    /// Function, calls still to let through, code.
    failures: Vec<(&'static str, usize, Code)>,
    current: u64,
    mapped: BTreeMap<u64, u64>,
    pinned: BTreeMap<u64, Box<[u64]>>,
    next_handle: u64,
    edges: Vec<(u64, u64, bool)>,
    cluster: c_int,
}

thread_local! {
    static STATE: RefCell<State> = RefCell::default();
}

/// Notes a call and decides what it returns.
pub(crate) fn called(name: &'static str) -> Code {
    STATE.with_borrow_mut(|s| {
        // entering the context is no news
        if !name.starts_with("cuCtxGet") && !name.starts_with("cuCtxSet") {
            s.notes.push(name);
        }
        // a failure due now is taken; the others of this function come one call nearer
        let due = s
            .failures
            .iter()
            .position(|(n, after, _)| *n == name && *after == 0);
        let code = due.map_or(0, |i| s.failures.swap_remove(i).2);
        for failure in s.failures.iter_mut().filter(|(n, ..)| *n == name) {
            failure.1 = failure.1.saturating_sub(1);
        }
        code
    })
}

/// Makes the call after the next `after` calls of `name` return `code`.
pub(crate) fn fail(name: &'static str, after: usize, code: Code) {
    STATE.with_borrow_mut(|s| s.failures.push((name, after, code)));
}

/// The calls since the last time.
pub(crate) fn notes() -> Vec<&'static str> {
    STATE.with_borrow_mut(|s| std::mem::take(&mut s.notes))
}

/// The thread's current context.
pub(crate) fn current() -> u64 {
    STATE.with_borrow(|s| s.current)
}

/// Sets the thread's current context.
pub(crate) fn set_current(context: u64) {
    STATE.with_borrow_mut(|s| s.current = context);
}

/// Bytes of arenas that are mapped.
pub(crate) fn bytes_mapped() -> u64 {
    STATE.with_borrow(|s| s.mapped.values().sum())
}

/// Pieces of pinned memory.
pub(crate) fn pinned_pieces() -> usize {
    STATE.with_borrow(|s| s.pinned.len())
}

/// Edges of graphs since the last time: from, to, whether programmatic.
pub(crate) fn edges() -> Vec<(u64, u64, bool)> {
    STATE.with_borrow_mut(|s| std::mem::take(&mut s.edges))
}

/// Functions have clusters of so many blocks from now on.
pub(crate) fn clusters(blocks: c_int) {
    STATE.with_borrow_mut(|s| s.cluster = blocks);
}

fn handle() -> u64 {
    STATE.with_borrow_mut(|s| {
        s.next_handle += 0x1000;
        s.next_handle
    })
}

/// Notes a call and, if it is to succeed, does what it does.
fn play(name: &'static str, work: impl FnOnce()) -> Code {
    let code = called(name);
    if code == 0 {
        work();
    }
    code
}

unsafe extern "C" fn error_name(code: Code, text: *mut *const c_char) -> Code {
    let known: &std::ffi::CStr = match code {
        700 => c"CUDA_ERROR_700",
        _ => return 1,
    };
    // SAFETY: the caller's pointer to one string.
    unsafe { *text = known.as_ptr() };
    0
}

unsafe extern "C" fn get_current(context: *mut sys::CUcontext) -> Code {
    // SAFETY: the caller's pointer to one handle.
    play("cuCtxGetCurrent", || unsafe {
        *context = current() as sys::CUcontext
    })
}

unsafe extern "C" fn make_current(context: sys::CUcontext) -> Code {
    play("cuCtxSetCurrent", || set_current(context as u64))
}

unsafe extern "C" fn granularity(
    bytes: *mut usize,
    _: *const sys::CUmemAllocationProp,
    _: sys::CUmemAllocationGranularity_flags,
) -> Code {
    // SAFETY: the caller's pointer to one integer.
    play("cuMemGetAllocationGranularity", || unsafe {
        *bytes = 2 << 20
    })
}

unsafe extern "C" fn reserve(
    at: *mut sys::CUdeviceptr,
    _: usize,
    _: usize,
    _: sys::CUdeviceptr,
    _: c_ulonglong,
) -> Code {
    // SAFETY: the caller's pointer to one address.
    play("cuMemAddressReserve", || unsafe { *at = 1 << 40 })
}

unsafe extern "C" fn map(
    at: sys::CUdeviceptr,
    bytes: usize,
    _: usize,
    _: sys::CUmemGenericAllocationHandle,
    _: c_ulonglong,
) -> Code {
    play("cuMemMap", || {
        STATE.with_borrow_mut(|s| {
            assert!(s.mapped.insert(at, bytes as u64).is_none(), "mapped twice")
        });
    })
}

unsafe extern "C" fn unmap(at: sys::CUdeviceptr, bytes: usize) -> Code {
    play("cuMemUnmap", || {
        STATE.with_borrow_mut(|s| {
            s.mapped
                .retain(|from, _| *from < at || *from >= at + bytes as u64)
        });
    })
}

unsafe extern "C" fn allocate(at: *mut sys::CUdeviceptr, _: usize) -> Code {
    // SAFETY: the caller's pointer to one address.
    play("cuMemAlloc_v2", || unsafe { *at = handle() })
}

unsafe extern "C" fn pin(at: *mut *mut c_void, bytes: usize, _: c_uint) -> Code {
    play("cuMemHostAlloc", || {
        let mut memory = vec![0_u64; bytes.div_ceil(8)].into_boxed_slice();
        let address: *mut c_void = memory.as_mut_ptr().cast();
        STATE.with_borrow_mut(|s| s.pinned.insert(address as u64, memory));
        // SAFETY: the caller's pointer to one address.
        unsafe { *at = address };
    })
}

unsafe extern "C" fn unpin(at: *mut c_void) -> Code {
    play("cuMemFreeHost", || {
        STATE.with_borrow_mut(|s| assert!(s.pinned.remove(&(at as u64)).is_some(), "freed twice"));
    })
}

unsafe extern "C" fn to_device(
    to: sys::CUdeviceptr,
    from: *const c_void,
    bytes: usize,
    _: sys::CUstream,
) -> Code {
    // SAFETY: tests name memory of their own as device memory.
    play("cuMemcpyHtoDAsync_v2", || unsafe {
        std::ptr::copy_nonoverlapping(from.cast::<u8>(), to as *mut u8, bytes);
    })
}

unsafe extern "C" fn to_host(
    to: *mut c_void,
    from: sys::CUdeviceptr,
    bytes: usize,
    _: sys::CUstream,
) -> Code {
    // SAFETY: as above.
    play("cuMemcpyDtoHAsync_v2", || unsafe {
        std::ptr::copy_nonoverlapping(from as *const u8, to.cast::<u8>(), bytes);
    })
}

unsafe extern "C" fn function_attribute(
    value: *mut c_int,
    which: sys::CUfunction_attribute,
    _: sys::CUfunction,
) -> Code {
    let width = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_WIDTH;
    play("cuFuncGetAttribute", || {
        assert_eq!(which, width, "nothing else is asked for");
        // SAFETY: the caller's pointer to one integer.
        unsafe { *value = STATE.with_borrow(|s| s.cluster) };
    })
}

unsafe extern "C" fn event(event: *mut sys::CUevent, _: c_uint) -> Code {
    // SAFETY: the caller's pointer to one handle.
    play("cuEventCreate", || unsafe {
        *event = handle() as sys::CUevent
    })
}

unsafe extern "C" fn instantiate(
    executable: *mut sys::CUgraphExec,
    _: sys::CUgraph,
    _: c_ulonglong,
) -> Code {
    // SAFETY: the caller's pointer to one handle.
    play("cuGraphInstantiateWithFlags", || unsafe {
        *executable = handle() as sys::CUgraphExec
    })
}

unsafe extern "C" fn add_node(
    node: *mut sys::CUgraphNode,
    _: sys::CUgraph,
    after: *const sys::CUgraphNode,
    count: usize,
    _: *const sys::CUDA_KERNEL_NODE_PARAMS,
) -> Code {
    play("cuGraphAddKernelNode_v2", || {
        let made = handle();
        for i in 0..count {
            // SAFETY: the caller's list of nodes.
            let from = unsafe { *after.add(i) } as u64;
            STATE.with_borrow_mut(|s| s.edges.push((from, made, false)));
        }
        // SAFETY: the caller's pointer to one handle.
        unsafe { *node = made as sys::CUgraphNode };
    })
}

unsafe extern "C" fn add_edges(
    _: sys::CUgraph,
    from: *const sys::CUgraphNode,
    to: *const sys::CUgraphNode,
    data: *const sys::CUgraphEdgeData,
    count: usize,
) -> Code {
    play("cuGraphAddDependencies_v2", || {
        for i in 0..count {
            // SAFETY: the caller's lists.
            let (from, to, data) = unsafe { (*from.add(i), *to.add(i), *data.add(i)) };
            let programmatic = data.type_ == 1 && data.from_port == 1 && data.to_port == 0;
            STATE.with_borrow_mut(|s| s.edges.push((from as u64, to as u64, programmatic)));
        }
    })
}

unsafe extern "C" fn encode_map(
    map: *mut sys::CUtensorMap,
    _: sys::CUtensorMapDataType,
    _: c_uint,
    address: *mut c_void,
    extents: *const u64,
    strides: *const u64,
    tile: *const c_uint,
    _: *const c_uint,
    _: sys::CUtensorMapInterleave,
    _: sys::CUtensorMapSwizzle,
    _: sys::CUtensorMapL2promotion,
    _: sys::CUtensorMapFloatOOBfill,
) -> Code {
    play("cuTensorMapEncodeTiled", || {
        // SAFETY: the caller's lists for two axes.
        let words = unsafe {
            let tile = [*tile, *tile.add(1)].map(u64::from);
            let [wide, high] = tile;
            [
                address as u64,
                *extents,
                *extents.add(1),
                *strides,
                wide,
                high,
            ]
        };
        // SAFETY: the caller's pointer to one map.
        let map = unsafe { &mut *map };
        map.opaque[..6].copy_from_slice(&words);
    })
}

unsafe extern "C" fn no_device(count: *mut c_int) -> Code {
    // SAFETY: the caller's pointer to one integer.
    play("cuDeviceGetCount", || unsafe { *count = 0 })
}

/// A driver whose state is this thread's.
pub(crate) fn driver() -> &'static Api {
    let mut api = table();
    api.cuGraphAddDependencies_v2 = Some(add_edges);
    api.cuTensorMapEncodeTiled = Some(encode_map);
    Box::leak(Box::new(api))
}

/// One that lacks whatever may be missing.
pub(crate) fn driver_without_edge_kinds() -> &'static Api {
    Box::leak(Box::new(table()))
}

fn table() -> Api {
    STATE.with_borrow_mut(|s| *s = State::default());
    let mut api = Api::fake();
    api.cuGetErrorName = Some(error_name);
    api.cuCtxGetCurrent = get_current;
    api.cuCtxSetCurrent = make_current;
    api.cuMemGetAllocationGranularity = granularity;
    api.cuMemAddressReserve = reserve;
    api.cuMemMap = map;
    api.cuMemUnmap = unmap;
    api.cuMemAlloc_v2 = allocate;
    api.cuMemHostAlloc = pin;
    api.cuFuncGetAttribute = function_attribute;
    api.cuMemFreeHost = unpin;
    api.cuMemcpyHtoDAsync_v2 = to_device;
    api.cuMemcpyDtoHAsync_v2 = to_host;
    api.cuEventCreate = event;
    api.cuGraphInstantiateWithFlags = instantiate;
    api.cuGraphAddKernelNode_v2 = add_node;
    api.cuDeviceGetCount = no_device;
    api
}

/// The smallest image that looks like a cubin: a header and one empty section's description.
pub(crate) fn cubin() -> Bytes {
    let mut image = vec![0_u8; 64 + 64];
    image[..6].copy_from_slice(b"\x7fELF\x02\x01");
    image[0x28] = 64;
    image[0x3a] = 64;
    image[0x3c] = 1;
    image.into()
}

/// A twin that is never run.
#[derive(Debug)]
struct Unused;

impl Twin for Unused {
    fn run(&self, _: &mut TwinCall<'_>) -> Result<(), TwinError> {
        Err(TwinError("this device runs no twins".to_owned()))
    }
}

/// An image that the stand-in accepts.
pub(crate) fn image(name: &str) -> Image {
    Image {
        name: name.to_owned(),
        entry: name.to_owned(),
        cubin: Some(cubin()),
        twin: Arc::new(Unused),
        signature: Signature::default(),
    }
}

//! Streams, events, modules, launches and graphs.
#![allow(
    non_snake_case,
    missing_docs,
    clippy::missing_safety_doc,
    clippy::too_many_arguments,
    reason = "names, signatures and safety are those of the CUDA driver API's reference"
)]

use std::ffi::{c_char, c_int, c_uint, c_ulonglong, c_void};

use super::{INVALID_VALUE, give_back, make, on, within};
use crate::books::{Books, Kind, books};

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamCreate(stream: *mut u64, _flags: c_uint) -> u32 {
    // SAFETY: the caller's pointer.
    unsafe { make("cuStreamCreate", Kind::Stream, stream) }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamDestroy_v2(stream: u64) -> u32 {
    give_back("cuStreamDestroy_v2", Kind::Stream, stream)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamSynchronize(stream: u64) -> u32 {
    on("cuStreamSynchronize", &[(Kind::Stream, stream)])
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamWaitEvent(stream: u64, event: u64, _flags: c_uint) -> u32 {
    on(
        "cuStreamWaitEvent",
        &[(Kind::Stream, stream), (Kind::Event, event)],
    )
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventCreate(event: *mut u64, _flags: c_uint) -> u32 {
    // SAFETY: the caller's pointer.
    unsafe { make("cuEventCreate", Kind::Event, event) }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventDestroy_v2(event: u64) -> u32 {
    give_back("cuEventDestroy_v2", Kind::Event, event)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventRecord(event: u64, stream: u64) -> u32 {
    on(
        "cuEventRecord",
        &[(Kind::Event, event), (Kind::Stream, stream)],
    )
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventSynchronize(event: u64) -> u32 {
    on("cuEventSynchronize", &[(Kind::Event, event)])
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventElapsedTime_v2(
    milliseconds: *mut f32,
    start: u64,
    end: u64,
) -> u32 {
    let code = on(
        "cuEventElapsedTime_v2",
        &[(Kind::Event, start), (Kind::Event, end)],
    );
    // SAFETY: the caller's pointer to one number.
    unsafe { *milliseconds = 0.01 };
    code
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoadData(module: *mut u64, image: *const u8) -> u32 {
    // SAFETY: an image has a header of 64 bytes at least.
    let begin = unsafe { std::slice::from_raw_parts(image, 4) };
    match begin {
        // SAFETY: the caller's pointer.
        b"\x7fELF" => unsafe { make("cuModuleLoadData", Kind::Module, module) },
        _ => within("cuModuleLoadData", |_| 200),
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuModuleUnload(module: u64) -> u32 {
    give_back("cuModuleUnload", Kind::Module, module)
}

/// A module has one function, whatever its name, with the module's handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleGetFunction(
    function: *mut u64,
    module: u64,
    _name: *const c_char,
) -> u32 {
    let code = on("cuModuleGetFunction", &[(Kind::Module, module)]);
    if code == 0 {
        // SAFETY: the caller's pointer to one handle.
        unsafe { *function = module };
    }
    code
}

/// One parameter of eight bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuFuncGetParamInfo(
    function: u64,
    index: usize,
    offset: *mut usize,
    bytes: *mut usize,
) -> u32 {
    let code = on("cuFuncGetParamInfo", &[(Kind::Module, function)]);
    if code != 0 || index > 0 {
        return code.max(INVALID_VALUE);
    }
    // SAFETY: the caller's pointers to two integers.
    unsafe {
        *offset = 0;
        *bytes = 8;
    }
    0
}

/// Arithmetic on the host, which has nothing to fail with: a map of the address.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuTensorMapEncodeTiled(
    map: *mut [u64; 16],
    _element: c_int,
    _rank: c_uint,
    address: u64,
    _extents: *const u64,
    _strides: *const u64,
    _tile: *const c_uint,
    _element_strides: *const c_uint,
    _interleave: c_int,
    _swizzle: c_int,
    _promotion: c_int,
    _outside: c_int,
) -> u32 {
    // SAFETY: the caller's pointer to one map.
    unsafe { *map = [address; 16] };
    0
}

/// No function has clusters, or anything else to tell.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuFuncGetAttribute(
    value: *mut c_int,
    _which: c_int,
    function: u64,
) -> u32 {
    let code = on("cuFuncGetAttribute", &[(Kind::Module, function)]);
    if code == 0 {
        // SAFETY: the caller's pointer to one integer.
        unsafe { *value = 0 };
    }
    code
}

#[unsafe(no_mangle)]
pub extern "C" fn cuFuncSetAttribute(function: u64, _which: c_int, _value: c_int) -> u32 {
    on("cuFuncSetAttribute", &[(Kind::Module, function)])
}

#[unsafe(no_mangle)]
pub extern "C" fn cuLaunchKernel(
    function: u64,
    grid_x: c_uint,
    grid_y: c_uint,
    grid_z: c_uint,
    block_x: c_uint,
    block_y: c_uint,
    block_z: c_uint,
    _shared: c_uint,
    stream: u64,
    _parameters: *const c_void,
    _extra: *const c_void,
) -> u32 {
    if [grid_x, grid_y, grid_z, block_x, block_y, block_z].contains(&0) {
        return within("cuLaunchKernel", |_| INVALID_VALUE);
    }
    on(
        "cuLaunchKernel",
        &[(Kind::Module, function), (Kind::Stream, stream)],
    )
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
    blocks: *mut c_int,
    function: u64,
    _threads: c_int,
    _shared: usize,
) -> u32 {
    // SAFETY: the caller's pointer to one integer.
    unsafe { *blocks = 2 };
    on(
        "cuOccupancyMaxActiveBlocksPerMultiprocessor",
        &[(Kind::Module, function)],
    )
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphCreate(graph: *mut u64, _flags: c_uint) -> u32 {
    // SAFETY: the caller's pointer.
    unsafe { make("cuGraphCreate", Kind::Graph, graph) }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphDestroy(graph: u64) -> u32 {
    books().get_or_insert_default().nodes.remove(&graph);
    give_back("cuGraphDestroy", Kind::Graph, graph)
}

/// The function of a node's parameters, their first member.
unsafe fn function_of(parameters: *const u64) -> u64 {
    // SAFETY: the caller's structure begins with the function.
    unsafe { *parameters }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphAddKernelNode_v2(
    node: *mut u64,
    graph: u64,
    after: *const u64,
    count: usize,
    parameters: *const u64,
) -> u32 {
    // SAFETY: the caller's structure.
    let function = unsafe { function_of(parameters) };
    let things = [(Kind::Graph, graph), (Kind::Module, function)];
    let code = on("cuGraphAddKernelNode_v2", &things);
    if code == 0 {
        let mut guard = books();
        let b = guard.get_or_insert_default();
        // SAFETY: the caller's list.
        let after = unsafe { list(after, count) };
        if !in_graph(b, graph, after) {
            return b.wrong(
                "cuGraphAddKernelNode_v2: waits for a node of no or another graph".to_owned(),
            );
        }
        let handle = b.handle();
        b.nodes.entry(graph).or_default().insert(handle, function);
        // SAFETY: the caller's pointer to one handle.
        unsafe { *node = handle };
    }
    code
}

/// A caller's list, which may be nowhere if it is empty.
unsafe fn list<'a, T>(at: *const T, count: usize) -> &'a [T] {
    match count {
        0 => &[],
        // SAFETY: the caller's list of so many.
        count => unsafe { std::slice::from_raw_parts(at, count) },
    }
}

/// Whether all of these are nodes of a graph.
fn in_graph(b: &Books, graph: u64, nodes: &[u64]) -> bool {
    let known = b.nodes.get(&graph);
    nodes
        .iter()
        .all(|n| known.is_some_and(|known| known.contains_key(n)))
}

/// What kind of edge: the ports at both ends, the type, five zeros.
type EdgeData = [u8; 8];
/// A kernel that may start when the blocks of the one before have triggered or ended.
const PROGRAMMATIC: EdgeData = [1, 0, 1, 0, 0, 0, 0, 0];

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphAddDependencies_v2(
    graph: u64,
    from: *const u64,
    to: *const u64,
    data: *const EdgeData,
    count: usize,
) -> u32 {
    const NAME: &str = "cuGraphAddDependencies_v2";
    let code = on(NAME, &[(Kind::Graph, graph)]);
    if code != 0 {
        return code;
    }
    // SAFETY: the caller's lists.
    let (from, to, data) = unsafe { (list(from, count), list(to, count), list(data, count)) };
    let mut guard = books();
    let b = guard.get_or_insert_default();
    if !in_graph(b, graph, from) || !in_graph(b, graph, to) {
        return b.wrong(format!("{NAME}: a node of no or another graph"));
    }
    // nodes are numbered as they are added
    if from.iter().zip(to).any(|(from, to)| from >= to) {
        return b.wrong(format!("{NAME}: an edge that leads back"));
    }
    if data.iter().any(|d| *d != PROGRAMMATIC && *d != [0; 8]) {
        return b.wrong(format!("{NAME}: an edge of no kind"));
    }
    0
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphInstantiateWithFlags(
    executable: *mut u64,
    graph: u64,
    _flags: c_ulonglong,
) -> u32 {
    within("cuGraphInstantiateWithFlags", |b| {
        if b.know("cuGraphInstantiateWithFlags", Kind::Graph, graph) != 0 {
            return 400;
        }
        let made = b.make(Kind::Executable);
        let nodes = b.nodes.get(&graph).cloned().unwrap_or_default();
        b.nodes.insert(made, nodes);
        // SAFETY: the caller's pointer to one handle.
        unsafe { *executable = made };
        0
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphExecDestroy(executable: u64) -> u32 {
    books().get_or_insert_default().nodes.remove(&executable);
    give_back("cuGraphExecDestroy", Kind::Executable, executable)
}

/// A call that only one thread may make on an executable at a time.
fn alone(function: &'static str, executable: u64, call: impl FnOnce() -> u32) -> u32 {
    let free = books().get_or_insert_default().busy.insert(executable);
    let code = call();
    let mut guard = books();
    let b = guard.get_or_insert_default();
    match free {
        true => {
            b.busy.remove(&executable);
        }
        false => {
            b.wrong(format!("{function}: two threads at once"));
        }
    }
    code
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphExecKernelNodeSetParams_v2(
    executable: u64,
    node: u64,
    parameters: *const u64,
) -> u32 {
    const NAME: &str = "cuGraphExecKernelNodeSetParams_v2";
    // SAFETY: the caller's structure.
    let function = unsafe { function_of(parameters) };
    let things = [(Kind::Executable, executable), (Kind::Module, function)];
    let code = alone(NAME, executable, || on(NAME, &things));
    if code == 0 {
        let mut guard = books();
        let b = guard.get_or_insert_default();
        match b.nodes.get_mut(&executable).and_then(|n| n.get_mut(&node)) {
            Some(module) => *module = function,
            None => {
                b.wrong(format!("{NAME}: no such node"));
            }
        }
    }
    code
}

/// The kernels of an executable must be loaded when it goes to the card.
fn launched(function: &'static str, executable: u64, stream: u64) -> u32 {
    let things = [(Kind::Executable, executable), (Kind::Stream, stream)];
    alone(function, executable, || {
        let code = on(function, &things);
        let mut guard = books();
        let b = guard.get_or_insert_default();
        let mut modules = b.nodes.get(&executable).into_iter().flatten();
        let gone = |(_, module): (&u64, &u64)| !b.alive.contains_key(&(Kind::Module, *module));
        if code == 0 && modules.any(gone) {
            b.wrong(format!("{function}: a kernel is unloaded"));
        }
        code
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphUpload(executable: u64, stream: u64) -> u32 {
    launched("cuGraphUpload", executable, stream)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphLaunch(executable: u64, stream: u64) -> u32 {
    launched("cuGraphLaunch", executable, stream)
}

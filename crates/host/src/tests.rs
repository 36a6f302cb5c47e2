//! The device contract on the host, with twins made for the purpose.

use super::*;
use bespoke_device::{Operand, Signature, SlotKind, Twin, TwinCall, TwinError};

/// `out[i] = in[i] + add`, bytes; slots: in, out, add.
#[derive(Debug)]
struct Add;

impl Twin for Add {
    fn run(&self, call: &mut TwinCall<'_>) -> std::result::Result<(), TwinError> {
        let add = call.slots[4] as u8;
        let [Operand::Read(from), Operand::Write(to)] = call.operands.as_mut_slice() else {
            return Err(TwinError("wants one tensor in, one out".into()));
        };
        for (t, f) in to.iter_mut().zip(from.iter()) {
            *t = f.wrapping_add(add);
        }
        Ok(())
    }
}

/// Panics.
#[derive(Debug)]
struct Broken;

impl Twin for Broken {
    fn run(&self, call: &mut TwinCall<'_>) -> std::result::Result<(), TwinError> {
        panic!("{} slots", call.slots.len())
    }
}

fn image(name: &str, twin: Arc<dyn Twin>) -> Image {
    Image {
        name: name.into(),
        entry: name.into(),
        cubin: None,
        twin,
        signature: Signature(vec![SlotKind::Read, SlotKind::Write, SlotKind::Int]),
    }
}

const CONFIG: LaunchConfig = LaunchConfig {
    grid: [1, 1, 1],
    block: 32,
    shared_bytes: 0,
};

/// A device with a stream, a slot block and two tensors of 64 bytes.
struct Bench {
    device: Arc<dyn Device>,
    stream: Box<dyn Stream>,
    block: Arc<dyn Memory>,
    a: Arc<dyn Memory>,
    b: Arc<dyn Memory>,
}

impl Bench {
    fn new() -> Bench {
        let device = HostDevice::new(HostOptions {
            threads: 2,
            ..HostOptions::default()
        });
        let stream = device.stream().unwrap();
        let [block, a, b] = ["block", "a", "b"].map(|what| device.alloc(what, 64).unwrap());
        Bench {
            device,
            stream,
            block,
            a,
            b,
        }
    }

    fn launch(&self, image: &Image) -> Launch {
        Launch {
            kernel: self.device.load(image).unwrap(),
            config: CONFIG,
            slots: self.block.ptr(),
        }
    }

    fn slots(&self, slots: &[i64]) {
        let bytes: Vec<u8> = slots.iter().flat_map(|s| s.to_ne_bytes()).collect();
        self.stream.write(self.block.ptr(), &bytes).unwrap();
    }

    fn add(&self, from: DevicePtr, to: DevicePtr, bytes: i64, add: i64) -> Result<()> {
        self.slots(&[from.0 as i64, bytes, to.0 as i64, bytes, add]);
        self.stream
            .launch(&self.launch(&image("add", Arc::new(Add))))
    }

    fn read(&self, from: DevicePtr, bytes: usize) -> Vec<u8> {
        let mut out = vec![0; bytes];
        self.stream.read(&mut out, from).unwrap();
        out
    }
}

fn refusal(result: Result<()>) -> String {
    let error = result.unwrap_err();
    assert!(
        matches!(&error, DeviceError::Twin { kernel, .. } if kernel == "add"),
        "{error:?}"
    );
    error.to_string()
}

#[test]
fn a_launch_works_on_what_its_slots_name() {
    let t = Bench::new();
    t.stream.write(t.a.ptr(), &[1, 2, 3, 4]).unwrap();
    t.add(t.a.ptr(), t.b.ptr().offset(2), 4, 10).unwrap();
    assert_eq!(t.read(t.b.ptr(), 8), [0, 0, 11, 12, 13, 14, 0, 0]);
    t.stream.copy(t.a.ptr(), t.b.ptr().offset(2), 2).unwrap();
    assert_eq!(t.read(t.a.ptr(), 4), [11, 12, 3, 4]);
    // nothing in, nothing out: null addresses are fine
    t.add(DevicePtr(0), DevicePtr(0), 0, 1).unwrap();
}

#[test]
fn a_graph_follows_its_slots_and_its_updates() {
    let t = Bench::new();
    let add = t.launch(&image("add", Arc::new(Add)));
    let mut graph = t.device.graph(std::slice::from_ref(&add), &[]).unwrap();
    assert_eq!(graph.len(), 1);
    t.stream.upload(graph.as_ref()).unwrap();
    for bytes in 1..=10_i64 {
        t.stream.write(t.b.ptr(), &[0; 16]).unwrap();
        t.slots(&[t.a.ptr().0 as i64, bytes, t.b.ptr().0 as i64, bytes, bytes]);
        t.stream.replay(graph.as_ref()).unwrap();
        let written = t
            .read(t.b.ptr(), 16)
            .iter()
            .filter(|v| **v == bytes as u8)
            .count();
        assert_eq!(written as i64, bytes);
    }
    graph
        .update(0, &t.launch(&image("broken", Arc::new(Broken))))
        .unwrap();
    let error = t.stream.replay(graph.as_ref()).unwrap_err().to_string();
    assert!(
        error.contains("`broken`") && error.contains("it panicked: 5 slots"),
        "{error}"
    );
    assert!(graph.update(1, &add).is_err());
    graph.update(0, &add).unwrap();
    t.stream.replay(graph.as_ref()).unwrap();
}

#[test]
fn edges_lead_forward() {
    let t = Bench::new();
    let launches = vec![t.launch(&image("add", Arc::new(Add))); 3];
    let diamond = [Edge::plain(0, 1), Edge::programmatic(0, 2)];
    let graph = t.device.graph(&launches, &diamond).unwrap();
    assert_eq!((graph.len(), graph.programmatic()), (3, 0));
    assert_eq!(t.device.dependent_launch(), Err(NoDependentLaunch::Serial));
    for wrong in [Edge::plain(2, 1), Edge::plain(0, 3)] {
        assert!(t.device.graph(&launches, &[wrong]).is_err(), "{wrong:?}");
    }
}

#[test]
fn overlaps_with_what_is_written_are_refused() {
    let t = Bench::new();
    let message = refusal(t.add(t.a.ptr(), t.a.ptr().offset(31), 32, 1));
    assert!(
        message.contains("operand 1 is written and overlaps operand 0"),
        "{message}"
    );
    t.add(t.a.ptr(), t.a.ptr().offset(32), 32, 1).unwrap();
    let same = t.stream.copy(t.a.ptr(), t.a.ptr(), 1).unwrap_err();
    assert!(matches!(same, DeviceError::Call { call: "copy", .. }));
}

#[test]
fn out_of_bounds_and_dropped_memory_are_refused() {
    let t = Bench::new();
    assert!(
        refusal(t.add(t.a.ptr(), t.b.ptr().offset(1), 64, 1))
            .contains("reach beyond the 64 usable bytes")
    );
    assert!(refusal(t.add(t.a.ptr(), t.b.ptr(), -1, 1)).contains("negative length"));
    assert!(refusal(t.add(DevicePtr(64), t.b.ptr(), 8, 1)).contains("no live memory at 0x40"));
    let gone = t.device.alloc("gone", 1 << 21).unwrap();
    let at = gone.ptr();
    t.add(at, t.b.ptr(), 8, 1).unwrap();
    drop(gone);
    assert!(refusal(t.add(at, t.b.ptr(), 8, 1)).contains("operand 0: no live memory"));
    assert!(t.stream.read(&mut [0], at).is_err());
    let mut misplaced = t.launch(&image("add", Arc::new(Add)));
    misplaced.slots = misplaced.slots.offset(4);
    assert!(refusal(t.stream.launch(&misplaced)).contains("not aligned"));
}

#[test]
fn an_arena_grows_in_place_and_graphs_stay_valid() {
    let t = Bench::new();
    let mut arena = t.device.reserve(1 << 30).unwrap();
    assert!(arena.is_empty());
    let at = arena.ptr();
    assert!(t.stream.write(at, &[1]).is_err(), "nothing is backed yet");
    arena.grow(100).unwrap();
    let first = arena.len();
    assert!(first >= 100);
    let graph = t
        .device
        .graph(&[t.launch(&image("add", Arc::new(Add)))], &[])
        .unwrap();
    t.stream.write(at, &[5; 8]).unwrap();
    assert!(t.stream.write(at.offset(first), &[1]).is_err());
    arena.grow(first + 1).unwrap();
    assert_eq!(arena.ptr(), at);
    t.slots(&[at.0 as i64, 8, at.offset(first).0 as i64, 8, 1]);
    t.stream.replay(graph.as_ref()).unwrap();
    assert_eq!(t.read(at.offset(first), 8), [6; 8]);
    assert_eq!(t.read(at, 8), [5; 8], "content survives growth");
    let error = arena.grow((1 << 30) + 1).unwrap_err();
    assert!(
        matches!(error, DeviceError::OutOfMemory { .. }),
        "{error:?}"
    );
    drop(arena);
    assert!(t.stream.read(&mut [0], at).is_err());
}

#[test]
fn poison_shows_what_nobody_wrote() {
    let device = HostDevice::new(HostOptions {
        threads: 1,
        poison: true,
        ..HostOptions::default()
    });
    let stream = device.stream().unwrap();
    let mut arena = device.reserve(1 << 20).unwrap();
    arena.grow(4).unwrap();
    stream.write(arena.ptr(), &[0; 4]).unwrap();
    let old = arena.len();
    arena.grow(old + 4).unwrap();
    let memory = device.alloc("out", 4).unwrap();
    for (at, poisoned) in [
        (arena.ptr(), false),
        (arena.ptr().offset(old), true),
        (memory.ptr(), true),
    ] {
        let mut raw = [1; 4];
        stream.read(&mut raw, at).unwrap();
        assert_eq!(f32::from_ne_bytes(raw).is_nan(), poisoned);
    }
}

#[test]
fn more_memory_than_there_is_cannot_be_had() {
    let t = Bench::new();
    let error = t.device.alloc("weights", 1 << 50).unwrap_err();
    assert!(
        matches!(&error, DeviceError::OutOfMemory { what, .. } if what == "weights"),
        "{error:?}"
    );
    let none = t.device.alloc("nothing", 0).unwrap();
    assert!(none.is_empty());
    let (free, total) = t.device.memory().unwrap();
    assert!(0 < free && free <= total);
}

#[test]
fn geometry_that_no_card_accepts_is_refused() {
    let t = Bench::new();
    let good = t.launch(&image("add", Arc::new(Add)));
    for config in [
        LaunchConfig {
            grid: [0, 1, 1],
            ..CONFIG
        },
        LaunchConfig {
            grid: [1, 65536, 1],
            ..CONFIG
        },
        LaunchConfig {
            block: 1025,
            ..CONFIG
        },
        LaunchConfig { block: 0, ..CONFIG },
        LaunchConfig {
            shared_bytes: 1 << 20,
            ..CONFIG
        },
    ] {
        let launch = Launch {
            config,
            ..good.clone()
        };
        assert!(t.stream.launch(&launch).is_err(), "{config:?}");
        assert!(t.device.graph(&[launch], &[]).is_err(), "{config:?}");
        assert!(
            t.device.occupancy(&good.kernel, config).is_err(),
            "{config:?}"
        );
    }
    let config = LaunchConfig {
        block: 256,
        shared_bytes: 48 << 10,
        ..CONFIG
    };
    assert_eq!(t.device.occupancy(&good.kernel, config).unwrap(), 2);
}

#[test]
fn a_graph_belongs_to_its_device() {
    let (t, other) = (Bench::new(), Bench::new());
    let graph = other.device.graph(&[], &[]).unwrap();
    assert!(t.stream.replay(graph.as_ref()).is_err());
}

#[test]
fn marks_measure_time() {
    let t = Bench::new();
    let start = t.stream.mark().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(2));
    let end = t.stream.mark().unwrap();
    assert!(end.since(start.as_ref()).unwrap() >= 2.0);
}

#[test]
fn twins_run_on_the_device_pool() {
    #[derive(Debug)]
    struct Width;
    impl Twin for Width {
        fn run(&self, _: &mut TwinCall<'_>) -> std::result::Result<(), TwinError> {
            match rayon::current_num_threads() {
                3 => Ok(()),
                n => Err(TwinError(format!("{n} threads"))),
            }
        }
    }
    let device = HostDevice::new(HostOptions {
        threads: 3,
        ..HostOptions::default()
    });
    let image = Image {
        signature: Signature::default(),
        ..image("width", Arc::new(Width))
    };
    let kernel = device.load(&image).unwrap();
    let launch = Launch {
        kernel,
        config: CONFIG,
        slots: DevicePtr(0),
    };
    device.stream().unwrap().launch(&launch).unwrap();
}

//! The device contract: what every device must do alike. Runs on the host device too.

use std::sync::Arc;

use bespoke_device::{DeviceError, DevicePtr, Launch, LaunchConfig, chain};

use crate::ensure;
use crate::rig::{Outcome, Rig, launch, read_floats, tensor, words, write_slots};

pub(crate) fn bytes_come_back(rig: &Rig) -> Outcome {
    let stream = rig.stream()?;
    // up to several times the length of any ring between host and device
    for bytes in [0_usize, 1, 255, 4096, (1 << 20) + 3, (9 << 20) + 1] {
        let memory = rig.device.alloc("bytes", bytes as u64).map_err(words)?;
        ensure!(
            memory.len() == bytes as u64,
            "{bytes} bytes wanted, {} had",
            memory.len()
        );
        ensure!(
            memory.ptr().0.is_multiple_of(256),
            "{:#x} is not aligned to 256",
            memory.ptr().0
        );
        let there: Vec<u8> = (0..bytes).map(|i| (i * 7 % 253) as u8).collect();
        stream.write(memory.ptr(), &there).map_err(words)?;
        let mut back = vec![0; bytes];
        stream.read(&mut back, memory.ptr()).map_err(words)?;
        ensure!(there == back, "{bytes} bytes come back changed");
    }
    Ok(())
}

pub(crate) fn a_write_takes_the_bytes_at_once(rig: &Rig) -> Outcome {
    const PIECES: usize = 3000;
    let stream = rig.stream()?;
    let memory = rig
        .device
        .alloc("pieces", (PIECES * 4096) as u64)
        .map_err(words)?;
    let mut piece = vec![0_u8; 4096];
    for i in 0..PIECES {
        piece.fill((i % 251) as u8);
        stream
            .write(memory.ptr().offset(i as u64 * 4096), &piece)
            .map_err(words)?;
    }
    piece.fill(255);
    let mut back = vec![0; PIECES * 4096];
    stream.read(&mut back, memory.ptr()).map_err(words)?;
    let wrong = back
        .chunks(4096)
        .enumerate()
        .find(|(i, p)| p.iter().any(|b| *b != (i % 251) as u8));
    ensure!(
        wrong.is_none(),
        "piece {} changed after it was written",
        wrong.map_or(0, |w| w.0)
    );
    Ok(())
}

pub(crate) fn copies_stay_on_the_device(rig: &Rig) -> Outcome {
    let stream = rig.stream()?;
    let from = rig.floats(stream.as_ref(), &[1.0, 2.0, 3.0, 4.0])?;
    let to = rig.floats(stream.as_ref(), &[0.0; 4])?;
    stream
        .copy(to.ptr().offset(4), from.ptr(), 8)
        .map_err(words)?;
    stream.copy(to.ptr(), from.ptr(), 0).map_err(words)?;
    let got = read_floats(stream.as_ref(), to.ptr(), 4)?;
    ensure!(got == [0.0, 1.0, 2.0, 0.0], "{got:?}");
    Ok(())
}

pub(crate) fn too_much_memory_is_a_typed_error(rig: &Rig) -> Outcome {
    match rig.device.alloc("the moon", 1 << 50) {
        Err(DeviceError::OutOfMemory { what, wanted, .. })
            if what == "the moon" && wanted == 1 << 50 => {}
        other => return Err(format!("{other:?}")),
    }
    let (free, total) = rig.device.memory().map_err(words)?;
    ensure!(0 < free && free <= total, "{free} of {total} bytes free");
    bytes_come_back(rig)
}

pub(crate) fn launches_run_in_order(rig: &Rig) -> Outcome {
    let stream = rig.stream()?;
    let (bump, fold) = (rig.kernel("bump")?, rig.kernel("fold")?);
    let x = rig.floats(stream.as_ref(), &[2.0; 1000])?;
    let [at, bytes] = tensor(x.ptr(), 1000);
    let block = rig.block(stream.as_ref(), &[at, bytes, 999])?;
    let mut expected = 2.0_f32;
    for i in 0..60 {
        let (kernel, next) = if i % 10 == 9 {
            (&fold, expected * 2.0 - 1.0)
        } else {
            (&bump, expected + 1.0)
        };
        stream.launch(&launch(kernel, block.ptr())).map_err(words)?;
        expected = next;
    }
    let got = read_floats(stream.as_ref(), x.ptr(), 1000)?;
    ensure!(
        got[..999].iter().all(|v| *v == expected),
        "{} instead of {expected}",
        got[0]
    );
    ensure!(got[999] == 2.0, "written beyond the extent");
    Ok(())
}

pub(crate) fn one_graph_serves_many_extents(rig: &Rig) -> Outcome {
    let stream = rig.stream()?;
    let kernels = [rig.kernel("plus_one")?, rig.kernel("twice")?];
    let input: Vec<f32> = (0..70_000).map(|i| (i % 1000) as f32).collect();
    let a = rig.floats(stream.as_ref(), &input)?;
    let b = rig.floats(stream.as_ref(), &input)?;
    let c = rig.floats(stream.as_ref(), &input)?;
    let block = rig.block(stream.as_ref(), &[0; 16])?;
    let launches = [
        launch(&kernels[0], block.ptr()),
        launch(&kernels[1], block.ptr().offset(64)),
    ];
    let graph = rig.device.graph(&launches, &chain(2)).map_err(words)?;
    // the graph keeps what it needs
    drop((kernels, launches));
    ensure!(graph.len() == 2, "{} launches instead of 2", graph.len());
    stream.upload(graph.as_ref()).map_err(words)?;
    for n in [0_usize, 1, 2, 127, 128, 1025, 4096, 30_000, 69_999, 70_000] {
        stream
            .write(c.ptr(), bytemuck::cast_slice(&vec![-1.0_f32; 70_000]))
            .map_err(words)?;
        let ([pa, la], [pb, lb], [pc, lc]) =
            (tensor(a.ptr(), n), tensor(b.ptr(), n), tensor(c.ptr(), n));
        let n64 = n as i64;
        write_slots(
            stream.as_ref(),
            block.ptr(),
            &[pa, la, pb, lb, n64, 0, 0, 0, pb, lb, pc, lc, n64],
        )?;
        stream.replay(graph.as_ref()).map_err(words)?;
        let got = read_floats(stream.as_ref(), c.ptr(), 70_000)?;
        let right = |(i, v): (usize, &f32)| *v == if i < n { (input[i] + 1.0) * 2.0 } else { -1.0 };
        ensure!(got.iter().enumerate().all(right), "wrong at the extent {n}");
    }
    Ok(())
}

pub(crate) fn launches_of_a_long_graph_can_be_replaced(rig: &Rig) -> Outcome {
    const LENGTH: usize = 600;
    let stream = rig.stream()?;
    let (bump, fold) = (rig.kernel("bump")?, rig.kernel("fold")?);
    let x = rig.floats(stream.as_ref(), &[0.0; 64])?;
    let [at, bytes] = tensor(x.ptr(), 64);
    let block = rig.block(stream.as_ref(), &[at, bytes, 64])?;
    let mut graph = rig
        .device
        .graph(&vec![launch(&bump, block.ptr()); LENGTH], &chain(LENGTH))
        .map_err(words)?;
    let mut folds = vec![false; LENGTH];
    let rounds: [&[usize]; 4] = [&[], &[0, 599], &[199, 200, 201, 399, 400], &[0, 200]];
    for round in rounds {
        for index in round {
            folds[*index] = !folds[*index];
            let kernel = if folds[*index] { &fold } else { &bump };
            graph
                .update(*index, &launch(kernel, block.ptr()))
                .map_err(words)?;
        }
        stream
            .write(x.ptr(), bytemuck::cast_slice(&[0.0_f32; 64]))
            .map_err(words)?;
        stream.upload(graph.as_ref()).map_err(words)?;
        stream.replay(graph.as_ref()).map_err(words)?;
        let expected = folds.iter().fold(
            0.0_f32,
            |x, fold| if *fold { x * 2.0 - 1.0 } else { x + 1.0 },
        );
        let got = read_floats(stream.as_ref(), x.ptr(), 64)?;
        ensure!(
            got.iter().all(|v| *v == expected),
            "{} instead of {expected} after {round:?}",
            got[0]
        );
    }
    let beyond = graph.update(LENGTH, &launch(&bump, block.ptr()));
    ensure!(
        matches!(beyond, Err(DeviceError::Call { .. })),
        "an update beyond the end: {beyond:?}"
    );
    Ok(())
}

pub(crate) fn a_kernel_of_other_clusters_is_right_but_not_fast(rig: &Rig) -> Outcome {
    let stream = rig.stream()?;
    let (bump, fold) = (rig.kernel("bump")?, rig.kernel("fold")?);
    let pairs = rig.kernel("bump_in_pairs")?;
    let x = rig.floats(stream.as_ref(), &[0.0; 64])?;
    let [at, bytes] = tensor(x.ptr(), 64);
    let block = rig.block(stream.as_ref(), &[at, bytes, 64])?;
    let clusters = rig.device.needs_cubin() && rig.device.props().arch.has_clusters();
    for (first, alike, other) in [(&bump, &fold, &pairs), (&pairs, &pairs, &bump)] {
        let mut graph = rig
            .device
            .graph(&[launch(first, block.ptr())], &[])
            .map_err(words)?;
        let suits = |kernel| graph.suits(0, &launch(kernel, block.ptr()));
        ensure!(
            suits(alike),
            "a kernel like that of the node does not suit it"
        );
        ensure!(
            suits(other) != clusters,
            "whether it suits: {}, whether there are clusters: {clusters}",
            suits(other)
        );
        graph
            .update(0, &launch(other, block.ptr()))
            .map_err(words)?;
        stream.upload(graph.as_ref()).map_err(words)?;
        stream.replay(graph.as_ref()).map_err(words)?;
    }
    let got = read_floats(stream.as_ref(), x.ptr(), 64)?;
    ensure!(got.iter().all(|v| *v == 2.0), "{} instead of 2", got[0]);
    Ok(())
}

pub(crate) fn a_replaced_kernel_may_go(rig: &Rig) -> Outcome {
    let stream = rig.stream()?;
    let bump = rig.kernel("bump")?;
    let x = rig.floats(stream.as_ref(), &[0.0; 64])?;
    let [at, bytes] = tensor(x.ptr(), 64);
    let block = rig.block(stream.as_ref(), &[at, bytes, 64])?;
    let mut graph = rig
        .device
        .graph(&[launch(&bump, block.ptr())], &[])
        .map_err(words)?;
    for _ in 0..50 {
        stream.replay(graph.as_ref()).map_err(words)?;
        // the old kernel's last handle goes while its work may still be queued
        let fresh = rig.kernel("bump")?;
        stream.synchronize().map_err(words)?;
        graph
            .update(0, &launch(&fresh, block.ptr()))
            .map_err(words)?;
    }
    stream.replay(graph.as_ref()).map_err(words)?;
    drop(graph);
    let got = read_floats(stream.as_ref(), x.ptr(), 64)?;
    ensure!(got.iter().all(|v| *v == 51.0), "{} instead of 51", got[0]);
    Ok(())
}

pub(crate) fn an_empty_graph_does_nothing(rig: &Rig) -> Outcome {
    let stream = rig.stream()?;
    let graph = rig.device.graph(&[], &[]).map_err(words)?;
    ensure!(graph.is_empty(), "it has {} launches", graph.len());
    stream.upload(graph.as_ref()).map_err(words)?;
    stream.replay(graph.as_ref()).map_err(words)?;
    stream.synchronize().map_err(words)
}

pub(crate) fn an_arena_grows_in_place(rig: &Rig) -> Outcome {
    let stream = rig.stream()?;
    let mut arena = rig.device.reserve(1 << 30).map_err(words)?;
    ensure!(
        arena.is_empty() && arena.ptr().0.is_multiple_of(256),
        "{arena:?}"
    );
    let at = arena.ptr();
    arena.grow(4000).map_err(words)?;
    let plus_one = rig.kernel("plus_one")?;
    let block = rig.block(stream.as_ref(), &[0; 5])?;
    let graph = rig
        .device
        .graph(&[launch(&plus_one, block.ptr())], &[])
        .map_err(words)?;
    stream
        .write(at, bytemuck::cast_slice(&[5.0_f32; 1000]))
        .map_err(words)?;
    for size in [1_u64 << 21, 5 << 20, 64 << 20, 300 << 20] {
        arena.grow(size).map_err(words)?;
        ensure!(arena.ptr() == at && arena.len() >= size, "{arena:?}");
        let end = at.offset(arena.len() - 4000);
        let ([pa, la], [pb, lb]) = (tensor(at, 1000), tensor(end, 1000));
        write_slots(stream.as_ref(), block.ptr(), &[pa, la, pb, lb, 1000])?;
        stream.replay(graph.as_ref()).map_err(words)?;
        let got = read_floats(stream.as_ref(), end, 1000)?;
        ensure!(
            got.iter().all(|v| *v == 6.0),
            "{} instead of 6 at {size} bytes",
            got[0]
        );
    }
    let length = arena.len();
    let beyond = arena.grow((1 << 30) + 1);
    ensure!(
        matches!(beyond, Err(DeviceError::OutOfMemory { .. })),
        "beyond its reservation: {beyond:?}"
    );
    ensure!(arena.len() == length, "a failed growth changed the length");
    Ok(())
}

pub(crate) fn streams_are_independent(rig: &Rig) -> Outcome {
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|t| {
                scope.spawn(move || -> Outcome {
                    let stream = rig.stream()?;
                    let bump = rig.kernel("bump")?;
                    let x = rig.floats(stream.as_ref(), &[t as f32; 500])?;
                    let [at, bytes] = tensor(x.ptr(), 500);
                    let block = rig.block(stream.as_ref(), &[at, bytes, 500])?;
                    let graph = rig
                        .device
                        .graph(&vec![launch(&bump, block.ptr()); 20], &chain(20))
                        .map_err(words)?;
                    for _ in 0..20 {
                        stream.replay(graph.as_ref()).map_err(words)?;
                    }
                    let got = read_floats(stream.as_ref(), x.ptr(), 500)?;
                    let expected = 400.0 + t as f32;
                    ensure!(
                        got.iter().all(|v| *v == expected),
                        "{} instead of {expected}",
                        got[0]
                    );
                    Ok(())
                })
            })
            .collect();
        threads
            .into_iter()
            .try_for_each(|t| t.join().map_err(|_| "a thread panicked".to_owned())?)
    })
}

pub(crate) fn marks_measure_the_work_between_them(rig: &Rig) -> Outcome {
    let stream = rig.stream()?;
    let bump = rig.kernel("bump")?;
    let x = rig.floats(stream.as_ref(), &vec![0.0; 1 << 20])?;
    let [at, bytes] = tensor(x.ptr(), 1 << 20);
    let block = rig.block(stream.as_ref(), &[at, bytes, 1 << 20])?;
    let graph = rig
        .device
        .graph(&vec![launch(&bump, block.ptr()); 50], &chain(50))
        .map_err(words)?;
    stream.replay(graph.as_ref()).map_err(words)?;
    let marks = [0, 1, 10].map(|replays| {
        for _ in 0..replays {
            stream.replay(graph.as_ref())?;
        }
        stream.mark()
    });
    let [a, b, c] = marks;
    let (a, b, c) = (a.map_err(words)?, b.map_err(words)?, c.map_err(words)?);
    let one = b.since(a.as_ref()).map_err(words)?;
    let ten = c.since(b.as_ref()).map_err(words)?;
    ensure!(
        one > 0.0 && ten > 2.0 * one,
        "one replay {one} ms, ten {ten} ms"
    );
    Ok(())
}

/// A launch that uses so many bytes of shared memory.
fn reversal(
    rig: &Rig,
    shared_bytes: u32,
) -> Result<(Launch, Vec<Arc<dyn bespoke_device::Memory>>), String> {
    let stream = rig.stream()?;
    let n = (shared_bytes / 4) as usize;
    let input: Vec<f32> = (0..n).map(|i| i as f32).collect();
    let from = rig.floats(stream.as_ref(), &input)?;
    let to = rig.floats(stream.as_ref(), &vec![0.0; n])?;
    let ([pa, la], [pb, lb]) = (tensor(from.ptr(), n), tensor(to.ptr(), n));
    let block = rig.block(stream.as_ref(), &[pa, la, pb, lb, n as i64])?;
    stream.synchronize().map_err(words)?;
    let config = LaunchConfig {
        grid: [1, 1, 1],
        block: 256,
        shared_bytes,
    };
    Ok((
        Launch {
            kernel: rig.kernel("reverse")?,
            config,
            slots: block.ptr(),
        },
        vec![from, to, block],
    ))
}

pub(crate) fn a_block_may_use_all_its_shared_memory(rig: &Rig) -> Outcome {
    let stream = rig.stream()?;
    let most = rig.device.props().shared_per_block;
    for bytes in [1024, 48 << 10, most] {
        let (launch, memory) = reversal(rig, bytes)?;
        let n = (bytes / 4) as usize;
        let right = |got: Vec<f32>| {
            got.iter()
                .enumerate()
                .all(|(i, v)| *v == (n - 1 - i) as f32)
        };
        stream.launch(&launch).map_err(words)?;
        ensure!(
            right(read_floats(stream.as_ref(), memory[1].ptr(), n)?),
            "{bytes} bytes, launched"
        );
        stream
            .write(memory[1].ptr(), bytemuck::cast_slice(&vec![0.0_f32; n]))
            .map_err(words)?;
        let graph = rig
            .device
            .graph(std::slice::from_ref(&launch), &[])
            .map_err(words)?;
        stream.replay(graph.as_ref()).map_err(words)?;
        ensure!(
            right(read_floats(stream.as_ref(), memory[1].ptr(), n)?),
            "{bytes} bytes, replayed"
        );
        let blocks = rig
            .device
            .occupancy(&launch.kernel, launch.config)
            .map_err(words)?;
        ensure!(
            (1..=64).contains(&blocks),
            "{blocks} blocks with {bytes} bytes each"
        );
    }
    Ok(())
}

pub(crate) fn impossible_geometry_is_refused_and_forgotten(rig: &Rig) -> Outcome {
    let stream = rig.stream()?;
    let bump = rig.kernel("bump")?;
    let x = rig.floats(stream.as_ref(), &[0.0; 8])?;
    let [at, bytes] = tensor(x.ptr(), 8);
    let block = rig.block(stream.as_ref(), &[at, bytes, 8])?;
    let good = launch(&bump, block.ptr());
    let configs = [
        LaunchConfig {
            grid: [0, 1, 1],
            ..good.config
        },
        LaunchConfig {
            grid: [1, 70_000, 1],
            ..good.config
        },
        LaunchConfig {
            block: 0,
            ..good.config
        },
        LaunchConfig {
            block: 2048,
            ..good.config
        },
        LaunchConfig {
            shared_bytes: 1 << 20,
            ..good.config
        },
    ];
    for config in configs {
        let bad = Launch {
            config,
            ..good.clone()
        };
        match stream.launch(&bad) {
            Err(error) if !error.is_sticky() => {}
            other => return Err(format!("{config:?}: {other:?}")),
        }
    }
    ensure!(rig.device.lost().is_none(), "the device counts as lost");
    stream.launch(&good).map_err(words)?;
    let got = read_floats(stream.as_ref(), x.ptr(), 8)?;
    ensure!(got == [1.0; 8], "{got:?}");
    Ok(())
}

pub(crate) fn null_tensors_of_no_length_are_fine(rig: &Rig) -> Outcome {
    let stream = rig.stream()?;
    let block = rig.block(stream.as_ref(), &[0; 5])?;
    stream
        .launch(&launch(&rig.kernel("plus_one")?, block.ptr()))
        .map_err(words)?;
    ensure!(
        rig.device.alloc("nothing", 0).map_err(words)?.is_empty(),
        "memory of no length has some"
    );
    stream.write(DevicePtr(0), &[]).map_err(words)?;
    stream.read(&mut [], DevicePtr(0)).map_err(words)?;
    stream.synchronize().map_err(words)
}

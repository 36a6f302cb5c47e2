//! The device contract of a graph's edges: what they order, whatever their kind. Runs on the host device too.
//!
//! Kernels work on so few blocks that each takes long enough for the next one to overtake it if nothing held it back, and
//! a graph repeats the same pattern many times, over the borders of its executables.

use std::sync::Arc;

use bespoke_device::{DeviceError, Edge, Kernel, Launch, Memory};

use crate::ensure;
use crate::rig::{Outcome, Rig, launch, read_floats, tensor, words};

/// Floats that a kernel walks over.
const LENGTH: usize = 200_000;

/// How many of these edges must be programmatic on a device: all that can be.
fn expected(rig: &Rig, edges: &[Edge]) -> usize {
    match rig.device.dependent_launch() {
        Ok(()) => edges.iter().filter(|e| e.programmatic).count(),
        Err(_) => 0,
    }
}

/// Two halves of one tensor, worked on side by side, and everything before and after.
struct Diamonds {
    launches: Vec<Launch>,
    edges: Vec<Edge>,
    /// What the slots name.
    memory: Vec<Arc<dyn Memory>>,
}

/// So many times: `b = a + 1`; `a = 2 b` in two halves; so that `a` becomes `2 a + 2`.
fn diamonds(rig: &Rig, count: usize) -> Result<Diamonds, String> {
    let stream = rig.stream()?;
    let (plus_one, twice) = (rig.kernel("plus_one")?, rig.kernel("twice")?);
    let a = rig.floats(stream.as_ref(), &vec![0.0; LENGTH])?;
    let b = rig.floats(stream.as_ref(), &vec![0.0; LENGTH])?;
    let half = LENGTH / 2;
    let row = |from: &Arc<dyn Memory>, to: &Arc<dyn Memory>, first: usize, n: usize| {
        let [from, bytes] = tensor(from.ptr().offset(4 * first as u64), n);
        let [to, _] = tensor(to.ptr().offset(4 * first as u64), n);
        rig.block(stream.as_ref(), &[from, bytes, to, bytes, n as i64])
    };
    let blocks = [
        row(&a, &b, 0, LENGTH)?,
        row(&b, &a, 0, half)?,
        row(&b, &a, half, LENGTH - half)?,
    ];
    let kernels: [&Arc<dyn Kernel>; 3] = [&plus_one, &twice, &twice];
    let (mut launches, mut edges) = (Vec::new(), Vec::new());
    for i in 0..count {
        let first = 3 * i;
        if i > 0 {
            edges.extend([Edge::plain(first - 2, first), Edge::plain(first - 1, first)]);
        }
        edges.extend([Edge::plain(first, first + 1), Edge::plain(first, first + 2)]);
        let each = kernels.iter().zip(&blocks);
        launches.extend(each.map(|(kernel, block)| launch(kernel, block.ptr())));
    }
    let mut memory = vec![a, b];
    memory.extend(blocks);
    Ok(Diamonds {
        launches,
        edges,
        memory,
    })
}

pub(crate) fn branches_meet_again(rig: &Rig) -> Outcome {
    // 100 diamonds are more kernels than one executable has
    for count in [1, 18, 100] {
        let replays = if count < 100 { 2 } else { 1 };
        let d = diamonds(rig, count)?;
        let stream = rig.stream()?;
        let graph = rig.device.graph(&d.launches, &d.edges).map_err(words)?;
        ensure!(graph.len() == 3 * count, "{} launches", graph.len());
        stream.upload(graph.as_ref()).map_err(words)?;
        let mut value = 0.0_f32;
        for _ in 0..replays {
            stream.replay(graph.as_ref()).map_err(words)?;
            for _ in 0..count {
                // rounds here as it does there, and stays below the largest float, 2¹²⁸
                value = (value + 1.0) * 2.0;
            }
            let got = read_floats(stream.as_ref(), d.memory[0].ptr(), LENGTH)?;
            let wrong = got.iter().position(|v| *v != value);
            ensure!(
                wrong.is_none(),
                "{count} diamonds: {:?} instead of {value}",
                wrong.map(|at| got[at])
            );
        }
    }
    Ok(())
}

/// The launches of a graph, their order, and the memory that they work on.
type Branches = (Vec<Launch>, Vec<Edge>, [Arc<dyn Memory>; 2]);

/// In-place kernels one after the other, by programmatic edges.
fn row(rig: &Rig, kernels: &[&Arc<dyn Kernel>]) -> Result<Branches, String> {
    let stream = rig.stream()?;
    let x = rig.floats(stream.as_ref(), &vec![0.0; LENGTH])?;
    let [at, bytes] = tensor(x.ptr(), LENGTH);
    let block = rig.block(stream.as_ref(), &[at, bytes, LENGTH as i64])?;
    let launches: Vec<Launch> = kernels.iter().map(|k| launch(k, block.ptr())).collect();
    let edges = (1..launches.len())
        .map(|i| Edge::programmatic(i - 1, i))
        .collect();
    Ok((launches, edges, [x, block]))
}

pub(crate) fn a_kernel_that_starts_early_waits(rig: &Rig) -> Outcome {
    let (bump, fold) = (rig.kernel("bump")?, rig.kernel("fold")?);
    let kernels: Vec<&Arc<dyn Kernel>> = (0..200)
        .map(|i| if i % 20 == 19 { &fold } else { &bump })
        .collect();
    let (launches, edges, memory) = row(rig, &kernels)?;
    let graph = rig.device.graph(&launches, &edges).map_err(words)?;
    let (had, wanted) = (graph.programmatic(), expected(rig, &edges));
    ensure!(
        had == wanted,
        "{had} programmatic edges instead of {wanted}"
    );
    let stream = rig.stream()?;
    let mut value = 0.0_f32;
    for _ in 0..3 {
        stream
            .write(
                memory[0].ptr(),
                bytemuck::cast_slice(&vec![0.0_f32; LENGTH]),
            )
            .map_err(words)?;
        stream.replay(graph.as_ref()).map_err(words)?;
        value = kernels
            .iter()
            .enumerate()
            .fold(0.0, |x, (i, _)| match i % 20 {
                19 => x * 2.0 - 1.0,
                _ => x + 1.0,
            });
        let got = read_floats(stream.as_ref(), memory[0].ptr(), LENGTH)?;
        let wrong = got.iter().position(|v| *v != value);
        ensure!(
            wrong.is_none(),
            "{:?} instead of {value}",
            wrong.map(|at| got[at])
        );
    }
    // the same on a stream, where nothing starts early
    stream
        .write(
            memory[0].ptr(),
            bytemuck::cast_slice(&vec![0.0_f32; LENGTH]),
        )
        .map_err(words)?;
    for launch in &launches {
        stream.launch(launch).map_err(words)?;
    }
    let got = read_floats(stream.as_ref(), memory[0].ptr(), LENGTH)?;
    ensure!(got.iter().all(|v| *v == value), "{} on a stream", got[0]);
    Ok(())
}

pub(crate) fn kernels_between_programmatic_edges_can_be_replaced(rig: &Rig) -> Outcome {
    const COUNT: usize = 300;
    let (bump, fold) = (rig.kernel("bump")?, rig.kernel("fold")?);
    let (launches, edges, memory) = row(rig, &[&bump; COUNT])?;
    let mut graph = rig.device.graph(&launches, &edges).map_err(words)?;
    let before = graph.programmatic();
    let stream = rig.stream()?;
    let mut folds = vec![false; COUNT];
    for round in [&[][..], &[0, 299], &[149, 150, 151], &[0, 7, 150]] {
        for &index in round {
            folds[index] = !folds[index];
            let kernel = if folds[index] { &fold } else { &bump };
            graph
                .update(index, &launch(kernel, memory[1].ptr()))
                .map_err(words)?;
        }
        stream
            .write(
                memory[0].ptr(),
                bytemuck::cast_slice(&vec![0.0_f32; LENGTH]),
            )
            .map_err(words)?;
        stream.upload(graph.as_ref()).map_err(words)?;
        stream.replay(graph.as_ref()).map_err(words)?;
        let value = folds.iter().fold(0.0_f32, |x, fold| match fold {
            true => x * 2.0 - 1.0,
            false => x + 1.0,
        });
        let got = read_floats(stream.as_ref(), memory[0].ptr(), LENGTH)?;
        let wrong = got.iter().position(|v| *v != value);
        ensure!(
            wrong.is_none(),
            "{:?} instead of {value} after {round:?}",
            wrong.map(|at| got[at])
        );
    }
    ensure!(
        graph.programmatic() == before,
        "an update changed the edges"
    );
    Ok(())
}

pub(crate) fn edges_that_lead_nowhere_are_refused(rig: &Rig) -> Outcome {
    let bump = rig.kernel("bump")?;
    let (launches, _, _memory) = row(rig, &[&bump; 3])?;
    for wrong in [
        &[Edge::plain(1, 0)][..],
        &[Edge::plain(1, 1)],
        &[Edge::programmatic(0, 3)],
        &[Edge::plain(0, 1), Edge::programmatic(0, 1)],
    ] {
        match rig.device.graph(&launches, wrong) {
            Err(DeviceError::Call { call: "graph", .. }) => {}
            other => return Err(format!("{wrong:?}: {other:?}")),
        }
    }
    let graph = rig.device.graph(&launches, &[Edge::plain(0, 2)]);
    ensure!(graph.is_ok(), "{graph:?}");
    Ok(())
}

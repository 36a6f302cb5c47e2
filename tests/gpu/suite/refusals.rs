//! What the GPU refuses, and what happens when it is lost. A lost device is lost for the whole process, so those tests run
//! in a process of their own: this executable, called with `--child NAME`.

use std::process::Command;

use bespoke_cuda::CudaDevice;
use bespoke_device::{DeviceError, Image};
use bespoke_host::{HostDevice, HostOptions};
use bytes::Bytes;

use crate::ensure;
use crate::kernels;
use crate::rig::{Outcome, Rig, launch, words};

pub(crate) fn bad_images_are_refused_by_name(rig: &Rig) -> Outcome {
    let whole = rig.cubin.clone().unwrap_or_default();
    let with = |name: &str, cubin: Option<Bytes>| kernels::image(name, cubin);
    let mut scrambled = whole.to_vec();
    if let Some(middle) = scrambled.get_mut(64..) {
        middle.iter_mut().step_by(3).for_each(|b| *b ^= 0x5a);
    }
    let images: Vec<(&str, Image)> = vec![
        ("without machine code", with("bump", None)),
        (
            "of random bytes",
            with("bump", Some(Bytes::from_static(&[7; 4000]))),
        ),
        ("that is empty", with("bump", Some(Bytes::new()))),
        (
            "cut in half",
            with("bump", Some(whole.slice(..whole.len() / 2))),
        ),
        ("scrambled", with("bump", Some(scrambled.into()))),
        ("without the function", with("nobody", Some(whole.clone()))),
        (
            "of a function with two parameters",
            with("greedy", Some(whole.clone())),
        ),
    ];
    for (what, image) in images {
        match rig.device.load(&image) {
            Err(DeviceError::BadImage { kernel, .. }) if kernel == image.name => {}
            // drivers before 550 do not tell a function's parameters
            Ok(_) if what.ends_with("two parameters") => {}
            other => return Err(format!("an image {what}: {other:?}")),
        }
    }
    ensure!(rig.device.lost().is_none(), "the device counts as lost");
    rig.kernel("bump").map(|_| ())
}

pub(crate) fn an_image_for_another_card_is_refused(rig: &Rig) -> Outcome {
    let Some(nvrtc) = &rig.nvrtc else {
        return Err("this test needs NVRTC".to_owned());
    };
    let own = rig.device.props().arch.number;
    // a card runs machine code of its own major version only
    let other = if own / 10 == 8 { "sm_90" } else { "sm_80" };
    let cubin = kernels::compile(nvrtc, other)?;
    match rig.device.load(&kernels::image("bump", Some(cubin))) {
        Err(DeviceError::BadImage { kernel, .. }) if kernel == "bump" => Ok(()),
        got => Err(format!("{other} on sm_{own}: {got:?}")),
    }
}

pub(crate) fn things_of_another_device_are_refused(rig: &Rig) -> Outcome {
    let other = HostDevice::new(HostOptions {
        threads: 1,
        ..HostOptions::default()
    });
    let stream = rig.stream()?;
    let block = rig.block(stream.as_ref(), &[0; 8])?;
    let foreign = other.load(&kernels::image("bump", None)).map_err(words)?;
    let result = stream.launch(&launch(&foreign, block.ptr()));
    ensure!(
        matches!(result, Err(DeviceError::Call { .. })),
        "a foreign kernel: {result:?}"
    );
    let graph = other.graph(&[], &[]).map_err(words)?;
    let result = stream.replay(graph.as_ref());
    ensure!(
        matches!(result, Err(DeviceError::Call { .. })),
        "a foreign graph: {result:?}"
    );
    Ok(())
}

/// Runs this executable as `--child name`.
fn child(name: &str, variables: &[(&str, &str)]) -> Outcome {
    let this = std::env::current_exe().map_err(|e| e.to_string())?;
    let mut command = Command::new(this);
    command
        .args(["--child", name])
        .envs(variables.iter().copied());
    let output = command.output().map_err(|e| e.to_string())?;
    ensure!(
        output.status.success(),
        "{}: {}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

pub(crate) fn a_stray_write_loses_the_device_cleanly(_: &Rig) -> Outcome {
    child("lost", &[])
}

pub(crate) fn a_missing_driver_is_a_message(_: &Rig) -> Outcome {
    child(
        "no-driver",
        &[("BESPOKE_LIBCUDA", "libcuda-that-nobody-has.so")],
    )
}

/// What a child does.
pub(crate) fn run_child(name: &str, open: impl FnOnce() -> Result<Rig, String>) -> Outcome {
    match name {
        "lost" => lose(&open()?),
        "no-driver" => match CudaDevice::open(0, None) {
            Err(DeviceError::Unavailable(text)) if text.contains("install the NVIDIA driver") => {
                Ok(())
            }
            other => Err(format!("{other:?}")),
        },
        _ => Err(format!("there is no child `{name}`")),
    }
}

fn lose(rig: &Rig) -> Outcome {
    let stream = rig.stream()?;
    let other = rig.stream()?;
    let memory = rig.floats(stream.as_ref(), &[1.0; 8])?;
    let mut arena = rig.device.reserve(1 << 30).map_err(words)?;
    arena.grow(1).map_err(words)?;
    let stray = rig.kernel("stray")?;
    let graph = rig
        .device
        .graph(&[launch(&stray, memory.ptr())], &[])
        .map_err(words)?;
    let block = rig.block(stream.as_ref(), &[1])?;
    stream.synchronize().map_err(words)?;
    ensure!(rig.device.lost().is_none(), "lost too early");
    stream.launch(&launch(&stray, block.ptr())).map_err(words)?;
    let error = stream
        .synchronize()
        .err()
        .ok_or("a stray write went unnoticed")?;
    ensure!(error.is_sticky(), "not sticky: {error}");
    let later = [
        other.synchronize().err(),
        stream.replay(graph.as_ref()).err(),
        rig.device.alloc("more", 1).err(),
        arena.grow(1 << 29).err(),
        rig.device.stream().err(),
        rig.device.memory().err(),
        rig.device.lost(),
    ];
    for (i, got) in later.into_iter().enumerate() {
        ensure!(got.as_ref() == Some(&error), "call {i} afterwards: {got:?}");
    }
    Ok(())
}

//! `bespoke doctor`: everything that bespoke needs from its surroundings, and one remedy a problem.

use bespoke::ErrorKind;
use std::path::PathBuf;

use bespoke::cache::{Cache, Mode};
use bespoke::cuda::{self, Probe};
use bespoke::device::Arch;
use bespoke::jit::{CompileRequest, JitError, Nvrtc, SearchPlan};
use bespoke::{DeviceChoice, open_device};
use clap::Args;
use serde::Serialize;

use crate::console::{Console, bytes, status};
use crate::failure::Failure;
use crate::options::{CacheOptions, Place};

/// Find out what works here and what does not
///
/// Looks at the CUDA driver, the devices, NVRTC (with every place where it was looked for) and the kernel cache, and names
/// one remedy for each problem. Without a GPU everything still runs on the host device, and the exit code is 0; with
/// --device cuda it is 4 unless that GPU can be used.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The device that must work: auto (any), host, cuda or cuda:N
    #[arg(long, default_value = "auto", value_name = "DEVICE")]
    device: Place,
    #[command(flatten)]
    cache: CacheOptions,
}

/// The first release of the driver that loads what NVRTC 13 compiles.
const DRIVER_FOR_13: u32 = 580;
/// The architecture of the trial compile where there is no GPU.
const TRIAL: Arch = Arch::sm(89);

#[derive(Serialize)]
struct Problem {
    what: String,
    remedy: String,
}

#[derive(Serialize)]
struct Gpu {
    ordinal: u32,
    name: String,
    arch: String,
    multiprocessors: u32,
    memory_bytes: u64,
    usable: bool,
}

#[derive(Serialize)]
struct Driver {
    library: Option<String>,
    release: Option<String>,
    cuda: Option<String>,
}

#[derive(Serialize)]
struct Compiler {
    library: Option<String>,
    build: Option<String>,
    tried: Vec<String>,
    trial_arch: Option<String>,
    trial_seconds: Option<f64>,
}

#[derive(Serialize)]
struct CacheFolder {
    folder: Option<PathBuf>,
    asked: &'static str,
    mode: &'static str,
    owner: Option<u32>,
    permissions: Option<String>,
    entries: Option<u64>,
    bytes: Option<u64>,
    max_bytes: u64,
}

#[derive(Serialize)]
struct Host {
    usable: bool,
    processors: usize,
    free_bytes: Option<u64>,
    total_bytes: Option<u64>,
}

#[derive(Serialize)]
struct Document {
    schema_version: u32,
    driver: Driver,
    devices: Vec<Gpu>,
    nvrtc: Compiler,
    cache: CacheFolder,
    host: Host,
    problems: Vec<Problem>,
    verdict: &'static str,
    exit_code: u8,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, console: &mut Console) -> Result<u8, Failure> {
    let mut problems = Vec::new();
    let probe = cuda::probe();
    let driver = driver(&probe, &mut problems);
    let devices = devices(&probe, &mut problems);
    let nvrtc = compiler(&probe, &mut problems);
    let cache = cache(&arguments.cache, &mut problems);
    let host = host(&mut problems);

    let gpu = match arguments.device {
        Place::Cuda(ordinal) => devices.iter().any(|d| d.usable && d.ordinal == ordinal),
        _ => devices.iter().any(|d| d.usable),
    };
    let (verdict, usable) = match (gpu, arguments.device) {
        (true, _) => ("GPU and host", true),
        (false, Place::Cuda(_)) => ("the GPU that was asked for cannot be used", false),
        (false, _) if host.usable => ("host only", true),
        (false, _) => ("no device can be used", false),
    };
    let exit_code = if usable {
        0
    } else {
        ErrorKind::NoDevice.exit_code()
    };
    let document = Document {
        schema_version: 1,
        driver,
        devices,
        nvrtc,
        cache,
        host,
        problems,
        verdict,
        exit_code,
    };
    show(&document, console)?;
    if console.json {
        console.document(&document)?;
    }
    Ok(exit_code)
}

fn driver(probe: &Probe, problems: &mut Vec<Problem>) -> Driver {
    problems.extend(probe.problems.iter().map(|p| Problem {
        what: p.what.clone(),
        remedy: p.remedy.clone(),
    }));
    Driver {
        library: probe.library_path.clone(),
        release: probe.module_release.clone(),
        cuda: probe
            .driver_version
            .map(|(major, minor)| format!("{major}.{minor}")),
    }
}

/// Opens every device, which is more than seeing it.
fn devices(probe: &Probe, problems: &mut Vec<Problem>) -> Vec<Gpu> {
    let open = |ordinal| {
        open_device(DeviceChoice::Cuda {
            ordinal,
            target: None,
        })
        .and_then(|(device, _)| Ok(device.stream()?))
    };
    probe
        .devices
        .iter()
        .map(|device| {
            let opened = open(device.ordinal);
            if let Err(error) = &opened {
                problems.push(Problem {
                    what: format!(
                        "device {} ({}) cannot be opened: {error}",
                        device.ordinal, device.name
                    ),
                    remedy:
                        "see what `nvidia-smi` says about it; other processes may fill its memory"
                            .into(),
                });
            }
            Gpu {
                ordinal: device.ordinal,
                name: device.name.clone(),
                arch: device.arch.to_string(),
                multiprocessors: device.multiprocessors,
                memory_bytes: device.memory_bytes,
                usable: opened.is_ok(),
            }
        })
        .collect()
}

/// What to install for this driver; without a driver any release does.
fn nvrtc_remedy(probe: &Probe) -> String {
    let release = probe
        .module_release
        .as_deref()
        .and_then(|r| r.split('.').next()?.parse::<u32>().ok());
    let old = release.is_some_and(|r| r < DRIVER_FOR_13)
        || probe.driver_version.is_some_and(|(major, _)| major < 13);
    let (wheel, why) = if old {
        (
            "nvidia-cuda-nvrtc-cu12==12.9.*",
            format!("; NVRTC 13 needs a driver from {DRIVER_FOR_13} on"),
        )
    } else {
        ("nvidia-cuda-nvrtc==13.0.88", String::new())
    };
    format!(
        "install it with `pip install \"{wheel}\"` in the Python environment that is active, or name the folder of \
         libnvrtc in BESPOKE_NVRTC{why}"
    )
}

/// Looks for NVRTC and compiles one empty kernel, which also shows whether its built-ins are there.
fn compiler(probe: &Probe, problems: &mut Vec<Problem>) -> Compiler {
    let mut plan = SearchPlan::from_env(&[]);
    if let Some((major, _)) = probe.driver_version {
        plan = plan.at_most(major);
    }
    let mut found = Compiler {
        library: None,
        build: None,
        tried: Vec::new(),
        trial_arch: None,
        trial_seconds: None,
    };
    let nvrtc = match Nvrtc::load(&plan) {
        Ok(nvrtc) => nvrtc,
        Err(error) => {
            let what = match &error {
                JitError::NotFound { tried } => {
                    found.tried = tried.iter().map(ToString::to_string).collect();
                    "no usable NVRTC was found: kernels that are not in the cache cannot be compiled".to_owned()
                }
                other => other.to_string(),
            };
            problems.push(Problem {
                what,
                remedy: nvrtc_remedy(probe),
            });
            return found;
        }
    };
    found.library = Some(nvrtc.library().to_owned());
    found.build = Some(nvrtc.build().to_owned());
    found.tried = nvrtc.tried().iter().map(ToString::to_string).collect();
    let arch = probe.devices.first().map_or(TRIAL, |d| d.arch).to_string();
    let request = CompileRequest {
        name: "trial.cu",
        source: "extern \"C\" __global__ void trial(float *x) { x[threadIdx.x] += 1.0f; }",
        arch: &arch,
        ..CompileRequest::default()
    };
    match nvrtc.compile(&request) {
        Ok(compiled) => found.trial_seconds = Some(compiled.seconds),
        Err(error) => problems.push(Problem {
            what: format!("NVRTC cannot compile a trial kernel for {arch}: {error}"),
            remedy: nvrtc_remedy(probe),
        }),
    }
    found.trial_arch = Some(arch);
    found
}

fn cache(flags: &CacheOptions, problems: &mut Vec<Problem>) -> CacheFolder {
    let config = flags.config();
    let asked = config.mode;
    let max_bytes = config.max_bytes;
    let cache = Cache::open(config);
    if asked != Mode::Off
        && let Some(reason) = cache.reason()
    {
        problems.push(Problem {
            what: format!("the kernel cache does less than it was asked to: {reason}"),
            remedy: "make the folder yours alone, or name another one with BESPOKE_CACHE_DIR"
                .into(),
        });
    }
    for reason in cache.refused_layers() {
        problems.push(Problem {
            what: reason.to_string(),
            remedy: "let it belong to you or to root, and let nobody else write it".into(),
        });
    }
    let usage = match cache.mode() {
        Mode::Off => None,
        // who only reads, from layers, need not have a folder
        Mode::Ro if !cache.path().is_some_and(std::path::Path::exists) => None,
        _ => match cache.usage() {
            Ok(usage) => Some(usage),
            Err(error) => {
                problems.push(Problem {
                    what: format!("the kernel cache cannot be listed: {error}"),
                    remedy: "check the folder's permissions".into(),
                });
                None
            }
        },
    };
    let (owner, permissions) = cache.path().map(about).unwrap_or_default();
    CacheFolder {
        folder: cache.path().map(PathBuf::from),
        asked: asked.name(),
        mode: cache.mode().name(),
        owner,
        permissions,
        entries: usage.map(|u| u.entries),
        bytes: usage.map(|u| u.bytes),
        max_bytes,
    }
}

/// Owner and permissions of a folder, where the system has such things.
#[cfg(unix)]
fn about(path: &std::path::Path) -> (Option<u32>, Option<String>) {
    use std::os::unix::fs::MetadataExt;
    match std::fs::metadata(path) {
        Ok(about) => (
            Some(about.uid()),
            Some(format!("{:04o}", about.mode() & 0o7777)),
        ),
        Err(_) => (None, None),
    }
}

#[cfg(not(unix))]
fn about(_: &std::path::Path) -> (Option<u32>, Option<String>) {
    (None, None)
}

fn host(problems: &mut Vec<Problem>) -> Host {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let opened = open_device(DeviceChoice::Host {
        target: None,
        threads: 0,
    })
    .and_then(|(device, _)| {
        device.stream()?;
        Ok(device.memory().ok())
    });
    let (usable, memory) = match opened {
        Ok(memory) => (true, memory),
        Err(error) => {
            problems.push(Problem {
                what: format!("the host device cannot be used: {error}"),
                remedy: "raise the limits on threads and memory of this process (`ulimit -a`)"
                    .into(),
            });
            (false, None)
        }
    };
    Host {
        usable,
        processors,
        free_bytes: memory.map(|m| m.0),
        total_bytes: memory.map(|m| m.1),
    }
}

fn show(document: &Document, console: &mut Console) -> Result<(), Failure> {
    let mark = |good: bool| status(if good { "ok" } else { "missing" });
    let or = |text: &Option<String>, other: &str| text.clone().unwrap_or_else(|| other.to_owned());
    let driver = &document.driver;
    console.line(format_args!(
        "driver  {}  library {}, release {}, CUDA {}",
        mark(driver.cuda.is_some()),
        or(&driver.library, "not found"),
        or(&driver.release, "unknown"),
        or(&driver.cuda, "unknown")
    ))?;
    if document.devices.is_empty() {
        console.line(format_args!("devices {}  none", mark(false)))?;
    }
    for gpu in &document.devices {
        console.line(format_args!(
            "device  {}  cuda:{} {}, {}, {} multiprocessors, {}",
            mark(gpu.usable),
            gpu.ordinal,
            gpu.name,
            gpu.arch,
            gpu.multiprocessors,
            bytes(gpu.memory_bytes)
        ))?;
    }
    let nvrtc = &document.nvrtc;
    let trial = match (&nvrtc.trial_arch, nvrtc.trial_seconds) {
        (Some(arch), Some(seconds)) => {
            format!(", compiled a kernel for {arch} in {:.0} ms", seconds * 1e3)
        }
        _ => String::new(),
    };
    console.line(format_args!(
        "NVRTC   {}  {}{trial}",
        mark(nvrtc.trial_seconds.is_some()),
        or(&nvrtc.build, "not found")
    ))?;
    for place in &nvrtc.tried {
        console.line(format_args!("          looked at {place}"))?;
    }
    let cache = &document.cache;
    let folder = cache
        .folder
        .as_ref()
        .map_or_else(|| "no folder".into(), |f| f.display().to_string());
    let mut about = Vec::new();
    about.extend(cache.owner.map(|owner| format!("owner {owner}")));
    about.extend(
        cache
            .permissions
            .as_ref()
            .map(|mode| format!("permissions {mode}")),
    );
    about.extend(cache.entries.map(|n| format!("{n} entries")));
    about.extend(
        cache
            .bytes
            .map(|n| format!("{} of {}", bytes(n), bytes(cache.max_bytes))),
    );
    let about = if about.is_empty() {
        String::new()
    } else {
        format!(" ({})", about.join(", "))
    };
    console.line(format_args!(
        "cache   {}  {folder}, {}{about}",
        mark(cache.mode == cache.asked),
        cache.mode
    ))?;
    let host = &document.host;
    let memory = match (host.free_bytes, host.total_bytes) {
        (Some(free), Some(total)) => format!(", {} of {} free", bytes(free), bytes(total)),
        _ => String::new(),
    };
    console.line(format_args!(
        "host    {}  {} processors{memory}",
        mark(host.usable),
        host.processors
    ))?;
    for problem in &document.problems {
        console.line(format_args!("\n{}: {}", status("problem"), problem.what))?;
        console.line(format_args!("  remedy: {}", problem.remedy))?;
    }
    console.line(format_args!("\nusable: {}", document.verdict))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wheel_suits_the_driver() {
        let with = |release: Option<&str>, cuda| {
            nvrtc_remedy(&Probe {
                module_release: release.map(String::from),
                driver_version: cuda,
                ..Probe::default()
            })
        };
        assert!(with(Some("580.159.04"), Some((13, 0))).contains("nvidia-cuda-nvrtc==13.0.88"));
        assert!(with(None, None).contains("nvidia-cuda-nvrtc==13.0.88"));
        for old in [
            with(Some("570.12"), Some((12, 8))),
            with(None, Some((12, 9))),
        ] {
            assert!(
                old.contains("nvidia-cuda-nvrtc-cu12==12.9.*") && old.contains("from 580 on"),
                "{old}"
            );
        }
    }
}

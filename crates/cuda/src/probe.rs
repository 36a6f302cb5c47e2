//! What is known of the driver and its devices without using any of them: for `doctor` and for choosing a device.

use bespoke_device::Arch;
use cudarc::driver::sys::{self, CUdevice_attribute_enum as Attribute};

use crate::api::Api;
use crate::context::attribute;
use crate::error::remedy;
use crate::library;

/// A device that the driver lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbedDevice {
    /// What to give to [`CudaDevice::open`](crate::CudaDevice::open).
    pub ordinal: u32,
    /// Name for people.
    pub name: String,
    /// The architecture that kernels are compiled for on it.
    pub arch: Arch,
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// Memory in bytes.
    pub memory_bytes: u64,
}

/// Something that keeps a device from working, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
}

/// The state of the driver.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Probe {
    /// The newest CUDA version that the driver serves, major and minor.
    pub driver_version: Option<(u32, u32)>,
    /// The release of the driver's kernel module, where the system tells it (`580.159.04`).
    pub module_release: Option<String>,
    /// The file that the driver library came from.
    pub library_path: Option<String>,
    /// The devices, in the driver's order.
    pub devices: Vec<ProbedDevice>,
    /// What does not work; empty if everything does.
    pub problems: Vec<Problem>,
}

/// Looks at the driver and its devices. Never fails: what is wrong is listed.
pub fn probe() -> Probe {
    let mut probe = Probe {
        module_release: library::module_release(),
        ..Probe::default()
    };
    match library::driver() {
        Ok(driver) => {
            probe.library_path = Some(driver.path.clone());
            probe.driver_version = library::version(&driver.api);
        }
        Err(absent) => {
            probe.problems.push(Problem {
                what: absent.problem(),
                remedy: absent.remedy(),
            });
            return probe;
        }
    }
    match library::initialised() {
        Ok(driver) => list(&driver.api, &mut probe),
        Err(error) => probe.problems.push(Problem {
            what: error.to_string(),
            remedy: "see that `nvidia-smi` works on this machine, or use the host device"
                .to_owned(),
        }),
    }
    probe
}

/// Lists the devices of an initialised driver.
fn list(api: &Api, probe: &mut Probe) {
    let mut count = 0;
    // SAFETY: writes one integer.
    let code = unsafe { (api.cuDeviceGetCount)(&mut count) };
    if code != 0 {
        probe.problems.push(problem(
            api,
            "the devices cannot be counted".to_owned(),
            code,
        ));
    } else if count == 0 {
        let remedy = remedy(100).unwrap_or_default().to_owned();
        probe.problems.push(Problem {
            what: "the driver lists no device".to_owned(),
            remedy,
        });
    }
    for ordinal in 0..u32::try_from(count).unwrap_or(0) {
        match describe(api, ordinal) {
            Ok(device) => probe.devices.push(device),
            Err(code) => probe.problems.push(problem(
                api,
                format!("device {ordinal} cannot be described"),
                code,
            )),
        }
    }
}

fn problem(api: &Api, what: String, code: u32) -> Problem {
    Problem {
        what: format!("{what}: {}", library::words(api, code)),
        remedy: remedy(code)
            .unwrap_or("see that `nvidia-smi` works on this machine")
            .to_owned(),
    }
}

/// A device by its place in the driver's list.
pub(crate) fn device(api: &Api, ordinal: u32) -> Result<sys::CUdevice, u32> {
    let mut device = 0;
    // SAFETY: writes one handle.
    let code =
        unsafe { (api.cuDeviceGet)(&mut device, i32::try_from(ordinal).unwrap_or(i32::MAX)) };
    if code == 0 { Ok(device) } else { Err(code) }
}

/// What to compile for. Kernels in Hopper's own instructions want tensor maps, which drivers before 12.0 do not make.
fn arch(api: &Api, major: u32, minor: u32) -> Arch {
    match api.cuTensorMapEncodeTiled {
        Some(_) => Arch::of_card(major, minor),
        None => Arch::sm(major * 10 + minor),
    }
}

/// The name and figures of a device.
pub(crate) fn describe(api: &Api, ordinal: u32) -> Result<ProbedDevice, u32> {
    let device = device(api, ordinal)?;
    let mut name = [0_u8; 256];
    // SAFETY: writes at most 256 bytes, the last of them zero.
    let code =
        unsafe { (api.cuDeviceGetName)(name.as_mut_ptr().cast(), name.len() as i32, device) };
    if code != 0 {
        return Err(code);
    }
    let mut memory = 0;
    // SAFETY: writes one integer.
    let code = unsafe { (api.cuDeviceTotalMem_v2)(&mut memory, device) };
    if code != 0 {
        return Err(code);
    }
    let ask = |which| attribute(api, device, which);
    let major = ask(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = ask(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    let end = name.iter().position(|b| *b == 0).unwrap_or(name.len());
    Ok(ProbedDevice {
        ordinal,
        name: String::from_utf8_lossy(&name[..end]).into_owned(),
        arch: arch(api, major, minor),
        multiprocessors: ask(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        memory_bytes: memory as u64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake;

    #[test]
    fn hopper_has_its_own_instructions_where_the_driver_makes_tensor_maps() {
        assert!(arch(fake::driver(), 9, 0).has_wgmma());
        let old = fake::driver_without_edge_kinds();
        assert_eq!(arch(old, 9, 0), Arch::sm(90));
        assert_eq!(arch(old, 8, 9), arch(fake::driver(), 8, 9));
    }

    #[test]
    fn a_probe_finds_devices_or_says_why_not() {
        let probe = probe();
        if probe.devices.is_empty() {
            assert!(!probe.problems.is_empty());
        }
        assert!(
            probe
                .problems
                .iter()
                .all(|p| !p.what.is_empty() && !p.remedy.is_empty()),
            "{probe:?}"
        );
    }

    #[test]
    fn a_driver_without_devices_is_a_problem_with_a_remedy() {
        let mut probe = Probe::default();
        list(fake::driver(), &mut probe);
        assert!(
            probe.problems[0].remedy.contains("CUDA_VISIBLE_DEVICES"),
            "{probe:?}"
        );
    }

    #[test]
    fn a_broken_device_does_not_hide_the_others() {
        let mut probe = Probe::default();
        let mut api = crate::api::Api::fake();
        unsafe extern "C" fn two(count: *mut std::ffi::c_int) -> u32 {
            // SAFETY: the caller's pointer to one integer.
            unsafe { *count = 2 };
            0
        }
        api.cuDeviceGetCount = two;
        fake::driver();
        fake::fail("cuDeviceGetName", 0, 999);
        list(&api, &mut probe);
        assert_eq!(
            probe.devices.iter().map(|d| d.ordinal).collect::<Vec<_>>(),
            [1]
        );
        assert!(
            probe.problems[0]
                .what
                .starts_with("device 0 cannot be described"),
            "{probe:?}"
        );
    }
}

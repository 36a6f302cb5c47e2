//! Finding and loading the driver library: the only module that knows how libraries are called and where they lie.
//!
//! The library comes with the driver, not with this program; nothing of it is linked. It is loaded once for the life of
//! the process and never closed.

use std::ffi::c_int;
use std::sync::OnceLock;

use bespoke_device::DeviceError;

use crate::api::Api;
use crate::error::describe;

/// The variable that names a driver library to use instead of the system's.
pub(crate) const VARIABLE: &str = "BESPOKE_LIBCUDA";

/// Names of the library, by preference.
#[cfg(windows)]
const NAMES: &[&str] = &["nvcuda.dll"];
#[cfg(not(windows))]
const NAMES: &[&str] = &["libcuda.so.1", "libcuda.so"];

/// A loaded driver library.
pub(crate) struct Driver {
    /// Its functions.
    pub(crate) api: Api,
    /// The file it came from, or its name where the system does not say.
    pub(crate) path: String,
}

/// Why there is no driver library.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Absent {
    /// None was found: what was tried, with the loader's words.
    Missing(Vec<(String, String)>),
    /// It is too old: the file, and the functions that it lacks.
    Old(String, Vec<&'static str>),
}

impl Absent {
    /// What is wrong.
    pub(crate) fn problem(&self) -> String {
        match self {
            Absent::Missing(tried) => {
                let names: Vec<&str> = tried.iter().map(|(name, _)| name.as_str()).collect();
                let words = tried.last().map_or("", |(_, words)| words.as_str());
                format!(
                    "the CUDA driver library cannot be loaded (tried {}: {words})",
                    names.join(", ")
                )
            }
            Absent::Old(path, missing) => {
                format!(
                    "the CUDA driver library {path} lacks {}",
                    missing.join(", ")
                )
            }
        }
    }

    /// What to do about it.
    pub(crate) fn remedy(&self) -> String {
        match self {
            Absent::Missing(_) => format!(
                "install the NVIDIA driver, name its library in {VARIABLE}, or use the host device"
            ),
            Absent::Old(..) => {
                "update the NVIDIA driver to release 525 or newer, or use the host device"
                    .to_owned()
            }
        }
    }

    pub(crate) fn error(&self) -> DeviceError {
        DeviceError::Unavailable(format!("{}; {}", self.problem(), self.remedy()))
    }
}

/// The names to try when `chosen` is the value of [`VARIABLE`].
fn candidates(chosen: Option<String>) -> Vec<String> {
    match chosen.filter(|c| !c.is_empty()) {
        // a named library is used or reported, never replaced by another
        Some(one) => vec![one],
        None => NAMES.iter().map(|n| (*n).to_owned()).collect(),
    }
}

/// Loads the first of `names` that is a driver library.
pub(crate) fn load(names: &[String]) -> Result<Driver, Absent> {
    let mut tried = Vec::new();
    for name in names {
        // SAFETY: loading runs the library's initialisers. The names are those of the installed driver, or one that the
        // user asked for.
        let library = match unsafe { libloading::Library::new(name) } {
            Ok(library) => library,
            Err(e) => {
                // the loader's own words are the cause of the error
                let cause = std::error::Error::source(&e)
                    .map_or_else(|| e.to_string(), ToString::to_string);
                tried.push((name.clone(), cause));
                continue;
            }
        };
        // never closed: its functions are kept for the life of the process
        let library: &'static libloading::Library = Box::leak(Box::new(library));
        let path = path_of(library).unwrap_or_else(|| name.clone());
        // SAFETY: a library by this name is a CUDA driver, and it was just leaked.
        return match unsafe { Api::resolve(library) } {
            Ok(api) => Ok(Driver { api, path }),
            Err(missing) => Err(Absent::Old(path, missing)),
        };
    }
    Err(Absent::Missing(tried))
}

/// The driver of this process.
pub(crate) fn driver() -> Result<&'static Driver, &'static Absent> {
    static DRIVER: OnceLock<Result<Driver, Absent>> = OnceLock::new();
    DRIVER
        .get_or_init(|| load(&candidates(std::env::var(VARIABLE).ok())))
        .as_ref()
}

/// The initialised driver of this process.
pub(crate) fn initialised() -> Result<&'static Driver, DeviceError> {
    static PROCESS: OnceLock<u32> = OnceLock::new();
    let driver = driver().map_err(Absent::error)?;
    // a forked child cannot use the parent's driver, and some calls would hang in it
    if *PROCESS.get_or_init(std::process::id) != std::process::id() {
        return Err(DeviceError::Unavailable(
            "the driver was initialised before this process was forked; open devices after the fork".to_owned(),
        ));
    }
    // SAFETY: takes no pointers; may be called any number of times.
    let code = unsafe { (driver.api.cuInit)(0) };
    if code == 0 {
        Ok(driver)
    } else {
        Err(DeviceError::Unavailable(words(&driver.api, code)))
    }
}

/// A result code in words.
pub(crate) fn words(api: &Api, code: u32) -> String {
    type Text = Option<unsafe extern "C" fn(u32, *mut *const std::ffi::c_char) -> u32>;
    let ask = |function: Text| -> Option<String> {
        let mut text = std::ptr::null();
        // SAFETY: the driver sets the pointer to a constant string of its own, or leaves it null.
        let done = unsafe { function?(code, &mut text) };
        if done != 0 || text.is_null() {
            return None;
        }
        // SAFETY: not null, so it is the driver's constant, NUL-terminated string.
        let text = unsafe { std::ffi::CStr::from_ptr(text) };
        Some(text.to_string_lossy().into_owned())
    };
    describe(
        code,
        ask(api.cuGetErrorName).as_deref(),
        ask(api.cuGetErrorString).as_deref(),
    )
}

/// The newest CUDA version that the driver serves, major and minor.
pub(crate) fn version(api: &Api) -> Option<(u32, u32)> {
    let mut version: c_int = 0;
    // SAFETY: writes one integer.
    let code = unsafe { (api.cuDriverGetVersion)(&mut version) };
    let version = u32::try_from(version)
        .ok()
        .filter(|v| code == 0 && *v > 0)?;
    Some((version / 1000, version % 1000 / 10))
}

/// The file that a library was loaded from.
#[cfg(unix)]
fn path_of(library: &libloading::Library) -> Option<String> {
    // SAFETY: only the address of the symbol is used.
    let symbol = unsafe { library.get::<unsafe extern "C" fn()>(b"cuInit") }.ok()?;
    let address = *symbol as *const std::ffi::c_void;
    let mut info = std::mem::MaybeUninit::<libc::Dl_info>::zeroed();
    // SAFETY: looks the address up in the loader's tables and fills the structure.
    if unsafe { libc::dladdr(address, info.as_mut_ptr()) } == 0 {
        return None;
    }
    // SAFETY: all zeros is a valid value of the structure, and dladdr filled it.
    let name = unsafe { info.assume_init() }.dli_fname;
    if name.is_null() {
        return None;
    }
    // SAFETY: the loader's string, NUL-terminated, alive as long as the library, which is never closed.
    let path = unsafe { std::ffi::CStr::from_ptr(name) }
        .to_string_lossy()
        .into_owned();
    std::fs::canonicalize(&path).map_or(Some(path), |p| Some(p.display().to_string()))
}

#[cfg(not(unix))]
fn path_of(_: &libloading::Library) -> Option<String> {
    None
}

/// The release of the driver's kernel module, where the system tells it (`580.159.04`).
pub(crate) fn module_release() -> Option<String> {
    let text = std::fs::read_to_string("/proc/driver/nvidia/version").ok()?;
    release_in(&text)
}

/// The first word of dotted numbers.
fn release_in(text: &str) -> Option<String> {
    let dotted = |w: &&str| w.contains('.') && w.chars().all(|c| c.is_ascii_digit() || c == '.');
    text.lines()
        .next()?
        .split_whitespace()
        .find(dotted)
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_library_is_a_list_of_what_was_tried() {
        let names = ["libcuda-that-nobody-has.so".to_owned()];
        let Err(absent) = load(&names) else {
            panic!("there is no such library")
        };
        let message = absent.error().to_string();
        assert!(
            message.contains(&names[0]) && message.contains("install the NVIDIA driver"),
            "{message}"
        );
    }

    /// Any library that is no driver: the C library of this very process.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_library_without_the_symbols_is_named_with_all_of_them() {
        let Err(absent) = load(&["libc.so.6".to_owned()]) else {
            panic!("libc is no driver")
        };
        let Absent::Old(_, missing) = &absent else {
            panic!("{absent:?}")
        };
        assert!(missing.contains(&"cuInit") && missing.contains(&"cuGraphLaunch"));
        assert!(
            !missing.contains(&"cuFuncGetParamInfo"),
            "that one is optional"
        );
        assert!(
            absent
                .error()
                .to_string()
                .contains("update the NVIDIA driver")
        );
    }

    #[test]
    fn a_named_library_is_the_only_candidate() {
        assert_eq!(
            candidates(Some("/opt/libcuda.so".into())),
            ["/opt/libcuda.so"]
        );
        assert_eq!(candidates(Some(String::new())), NAMES);
        assert_eq!(candidates(None), NAMES);
    }

    #[test]
    fn the_module_release_is_the_dotted_word() {
        let text = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.159.04  Tue\nGCC version: 12.2.0\n";
        assert_eq!(release_in(text).as_deref(), Some("580.159.04"));
        assert_eq!(release_in("x86_64"), None);
    }
}

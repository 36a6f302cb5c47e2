//! Where NVRTC may be.
//!
//! In order: `BESPOKE_NVRTC` (a folder or a file); folders that the caller names; the Python wheels of the active
//! environment (`VIRTUAL_ENV`, then `CONDA_PREFIX`), whose folder is `nvidia/cu13/lib` for CUDA 13 and
//! `nvidia/cuda_nvrtc/lib` for CUDA 12; `CUDA_HOME` and `CUDA_PATH`; `/usr/local/cuda`; last, the plain library names,
//! for which the system's loader looks in its own paths.
//!
//! A `BESPOKE_NVRTC` that is set is final: nothing else is tried, so a mistyped folder is an error and not another
//! library. Every place that is looked at is recorded with what was found there ([`Tried`]).

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

/// Oldest release that is used: the first that knows every option and architecture used here.
pub const OLDEST: (u32, u32) = (12, 9);

/// Where to look, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SearchPlan {
    /// The places.
    pub places: Vec<Place>,
    /// Highest major release to accept, for a driver that cannot load newer cubins. `None`: any.
    pub newest_major: Option<u32>,
}

/// One place to look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Who named the place: an environment variable, `caller`, `system`.
    pub origin: &'static str,
    /// What to try there.
    pub attempt: Attempt,
}

/// What to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attempt {
    /// Look in a folder.
    Folder(PathBuf),
    /// Load one file.
    File(PathBuf),
    /// Ask the system's loader for a library name.
    Name(&'static str),
}

/// One place that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tried {
    /// Who named the place.
    pub origin: &'static str,
    /// The folder, file or name.
    pub what: String,
    /// What was found.
    pub found: Found,
}

/// What was found at a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// There is no such folder or file.
    Missing,
    /// The folder has no NVRTC in it.
    NoLibrary,
    /// The system could not load it.
    Unloadable(String),
    /// A needed function is missing.
    NoSymbol(&'static str),
    /// Older than [`OLDEST`].
    TooOld(String),
    /// Newer than [`SearchPlan::newest_major`].
    TooNew(String),
    /// This one is used.
    Loaded(String),
}

impl fmt::Display for Tried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): ", self.what, self.origin)?;
        match &self.found {
            Found::Missing => f.write_str("does not exist"),
            Found::NoLibrary => f.write_str("no NVRTC library in this folder"),
            Found::Unloadable(error) => write!(f, "cannot be loaded: {error}"),
            Found::NoSymbol(symbol) => write!(f, "has no function {symbol}"),
            Found::TooOld(version) => write!(
                f,
                "release {version} is older than {}.{}",
                OLDEST.0, OLDEST.1
            ),
            Found::TooNew(version) => write!(f, "release {version} is too new for this driver"),
            Found::Loaded(version) => write!(f, "release {version}, used"),
        }
    }
}

impl SearchPlan {
    /// The plan for this process's environment.
    #[must_use]
    pub fn from_env(extra: &[PathBuf]) -> Self {
        Self::new(extra, |name| std::env::var_os(name))
    }

    /// The plan for an environment given by a function, so that the rule can be tested.
    #[must_use]
    pub fn new(extra: &[PathBuf], env: impl Fn(&str) -> Option<OsString>) -> Self {
        let given = |name: &str| {
            env(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        let mut places = Vec::new();
        let mut folder = |origin, path| {
            places.push(Place {
                origin,
                attempt: Attempt::Folder(path),
            })
        };
        if let Some(path) = given("BESPOKE_NVRTC") {
            let attempt = if path.is_file() {
                Attempt::File(path)
            } else {
                Attempt::Folder(path)
            };
            return SearchPlan {
                places: vec![Place {
                    origin: "BESPOKE_NVRTC",
                    attempt,
                }],
                newest_major: None,
            };
        }
        for path in extra {
            folder("caller", path.clone());
        }
        for variable in ["VIRTUAL_ENV", "CONDA_PREFIX"] {
            if let Some(prefix) = given(variable) {
                for site in site_packages(&prefix) {
                    folder(
                        variable,
                        site.join("nvidia/cu13").join(platform::WHEEL_FOLDER),
                    );
                    folder(
                        variable,
                        site.join("nvidia/cuda_nvrtc").join(platform::WHEEL_FOLDER),
                    );
                }
                if variable == "CONDA_PREFIX" {
                    folder(variable, prefix.join("lib"));
                }
            }
        }
        for variable in ["CUDA_HOME", "CUDA_PATH"] {
            if let Some(prefix) = given(variable) {
                folder(variable, prefix.join(platform::TOOLKIT_FOLDER));
            }
        }
        if let Some(toolkit) = platform::DEFAULT_TOOLKIT {
            folder("system", Path::new(toolkit).join(platform::TOOLKIT_FOLDER));
        }
        for name in platform::NAMES {
            places.push(Place {
                origin: "system",
                attempt: Attempt::Name(name),
            });
        }
        SearchPlan {
            places,
            newest_major: None,
        }
    }

    /// Why a release is not used, if it is not.
    pub(crate) fn refusal(&self, release: (u32, u32)) -> Option<Found> {
        let text = || format!("{}.{}", release.0, release.1);
        if release < OLDEST {
            return Some(Found::TooOld(text()));
        }
        let too_new = self.newest_major.is_some_and(|newest| release.0 > newest);
        too_new.then(|| Found::TooNew(text()))
    }

    /// The same plan with an upper limit on the major release.
    #[must_use]
    pub fn at_most(self, newest_major: u32) -> Self {
        SearchPlan {
            newest_major: Some(newest_major),
            ..self
        }
    }
}

/// The `site-packages` folders of a Python environment, sorted for a fixed order.
fn site_packages(prefix: &Path) -> Vec<PathBuf> {
    let mut sites = vec![prefix.join("Lib/site-packages")];
    let mut versions: Vec<PathBuf> = std::fs::read_dir(prefix.join("lib"))
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("python"))
        .map(|entry| entry.path().join("site-packages"))
        .collect();
    versions.sort();
    versions.reverse();
    sites.extend(versions);
    sites.retain(|site| site.is_dir());
    sites
}

/// The NVRTC libraries in a folder, newest release first.
pub(crate) fn libraries_in(folder: &Path) -> Vec<PathBuf> {
    matching(folder, platform::LIBRARY_PREFIX)
}

/// The built-ins libraries in a folder. NVRTC opens them by name, so they must be in memory before it compiles.
pub(crate) fn builtins_in(folder: &Path) -> Vec<PathBuf> {
    matching(folder, platform::BUILTINS_PREFIX)
}

fn matching(folder: &Path, prefix: &str) -> Vec<PathBuf> {
    let mut found: Vec<(Vec<u32>, String, PathBuf)> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let version = platform::version_of(name.strip_prefix(prefix)?)?;
            Some((version, name, entry.path()))
        })
        .collect();
    // Longer version numbers sort after shorter ones, so an unversioned link comes last.
    found.sort();
    found.into_iter().rev().map(|(_, _, path)| path).collect()
}

/// Names that differ between systems.
#[cfg(not(windows))]
mod platform {
    pub(super) const LIBRARY_PREFIX: &str = "libnvrtc.so";
    pub(super) const BUILTINS_PREFIX: &str = "libnvrtc-builtins.so";
    pub(super) const WHEEL_FOLDER: &str = "lib";
    pub(super) const TOOLKIT_FOLDER: &str = "lib64";
    pub(super) const DEFAULT_TOOLKIT: Option<&str> = Some("/usr/local/cuda");
    pub(super) const NAMES: &[&str] = &["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"];

    /// The numbers of `.13.0.88`; empty for the plain name; `None` for anything else.
    pub(super) fn version_of(rest: &str) -> Option<Vec<u32>> {
        match rest.strip_prefix('.') {
            None => rest.is_empty().then(Vec::new),
            Some(numbers) => numbers
                .split('.')
                .map(|number| number.parse().ok())
                .collect(),
        }
    }
}

#[cfg(windows)]
mod platform {
    pub(super) const LIBRARY_PREFIX: &str = "nvrtc64_";
    pub(super) const BUILTINS_PREFIX: &str = "nvrtc-builtins64_";
    pub(super) const WHEEL_FOLDER: &str = "bin";
    pub(super) const TOOLKIT_FOLDER: &str = "bin";
    pub(super) const DEFAULT_TOOLKIT: Option<&str> = None;
    pub(super) const NAMES: &[&str] = &["nvrtc64_130_0.dll", "nvrtc64_120_0.dll"];

    pub(super) fn version_of(rest: &str) -> Option<Vec<u32>> {
        rest.strip_suffix(".dll")?
            .split('_')
            .map(|number| number.parse().ok())
            .collect()
    }
}

#[cfg(all(test, not(windows)))]
mod tests {
    use super::*;

    fn plan(env: &[(&str, &Path)], extra: &[PathBuf]) -> Vec<(&'static str, String)> {
        let find = |name: &str| {
            env.iter()
                .find(|(key, _)| *key == name)
                .map(|(_, path)| path.as_os_str().to_owned())
        };
        SearchPlan::new(extra, find)
            .places
            .into_iter()
            .map(|place| match place.attempt {
                Attempt::Folder(path) | Attempt::File(path) => {
                    (place.origin, path.display().to_string())
                }
                Attempt::Name(name) => (place.origin, name.to_owned()),
            })
            .collect()
    }

    #[test]
    fn places_come_in_the_documented_order() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(temp.path().join("lib/python3.12/site-packages")).unwrap();
        let env = [
            ("VIRTUAL_ENV", temp.path()),
            ("CUDA_HOME", Path::new("/opt/cuda")),
        ];
        let places = plan(&env, &["/extra".into()]);
        let site = temp
            .path()
            .join("lib/python3.12/site-packages/nvidia")
            .display()
            .to_string();
        assert_eq!(places[0], ("caller", "/extra".into()));
        assert_eq!(places[1], ("VIRTUAL_ENV", format!("{site}/cu13/lib")));
        assert_eq!(places[2], ("VIRTUAL_ENV", format!("{site}/cuda_nvrtc/lib")));
        assert_eq!(places[3], ("CUDA_HOME", "/opt/cuda/lib64".into()));
        assert_eq!(places[4], ("system", "/usr/local/cuda/lib64".into()));
        assert_eq!(places[5].1, "libnvrtc.so.13");
    }

    #[test]
    fn an_explicit_place_is_the_only_one() {
        assert_eq!(
            plan(&[("BESPOKE_NVRTC", Path::new("/x"))], &["/extra".into()]),
            [("BESPOKE_NVRTC", "/x".into())]
        );
        assert!(
            plan(&[("BESPOKE_NVRTC", Path::new(""))], &[]).len() > 1,
            "an empty value counts as unset"
        );
    }

    #[test]
    fn libraries_are_found_newest_first() {
        let temp = tempfile::tempdir().unwrap();
        for name in [
            "libnvrtc.so",
            "libnvrtc.so.12",
            "libnvrtc.so.13",
            "libnvrtc.so.9",
            "libnvrtc.alt.so.13",
            "libnvrtc.so.13.bak",
            "libnvrtc-builtins.so.13.0",
            "libnvrtc-builtins.alt.so.13.0",
            "libnvrtc_static.a",
        ] {
            std::fs::write(temp.path().join(name), b"").unwrap();
        }
        let names = |paths: Vec<PathBuf>| -> Vec<String> {
            paths
                .iter()
                .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
                .collect()
        };
        assert_eq!(
            names(libraries_in(temp.path())),
            [
                "libnvrtc.so.13",
                "libnvrtc.so.12",
                "libnvrtc.so.9",
                "libnvrtc.so"
            ]
        );
        assert_eq!(
            names(builtins_in(temp.path())),
            ["libnvrtc-builtins.so.13.0"]
        );
        assert!(libraries_in(Path::new("/nonexistent")).is_empty());
    }
}

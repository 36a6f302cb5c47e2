//! [`Nvrtc`]: a loaded compiler, and one compile.

use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::ending::{self, Underway};
use crate::error::JitError;
use crate::ffi::{self, Api, Program};
use crate::identity::is_path;
use crate::resources::{self, Resources};
use crate::search::{Attempt, Found, SearchPlan, Tried, builtins_in, libraries_in};

/// A loaded NVRTC. Compiles may run on many threads at once.
pub struct Nvrtc {
    api: Api,
    version: (u32, u32),
    archs: Vec<u32>,
    library: String,
    build: String,
    tried: Vec<Tried>,
}

impl std::fmt::Debug for Nvrtc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Nvrtc")
            .field("library", &self.library)
            .field("build", &self.build)
            .finish_non_exhaustive()
    }
}

/// One kernel to compile.
#[derive(Debug, Clone, Default)]
pub struct CompileRequest<'a> {
    /// Names the kernel in messages and in the compiler's log. It enters the cubin, so equal kernels must have
    /// equal names if their bytes are to be equal.
    pub name: &'a str,
    /// CUDA C++ that includes nothing.
    pub source: &'a str,
    /// A real architecture: `sm_75`, `sm_90a`, `sm_100f`, …
    pub arch: &'a str,
    /// Options after the fixed ones, for example `--maxrregcount=128`.
    pub options: &'a [&'a str],
    /// Stops the compile once it becomes true: at once in the front end, and between phases after that, so large sources
    /// may go on for a quarter of their time.
    pub cancel: Option<&'a AtomicBool>,
}

impl CompileRequest<'_> {
    /// Every option that the compiler gets, in order, without the architecture: with it and the source, all
    /// that decides the code of a given compiler build. Belongs in the cache key.
    #[must_use]
    pub fn canonical_options(&self) -> Vec<String> {
        // --device-as-default-execution-space lets lambdas do without annotations.
        // --minimal drops built-in texture and surface headers, half of the fixed cost of a compile.
        // --no-cache keeps NVRTC from having a cache of its own, which would hide compile times.
        // --ptxas-options=-v makes the assembler report registers, shared memory and spills.
        [
            "--std=c++17",
            "--device-as-default-execution-space",
            "--minimal",
            "--no-cache",
            "--ptxas-options=-v",
        ]
        .iter()
        .chain(self.options)
        .map(|option| (*option).to_owned())
        .collect()
    }
}

/// A compiled kernel.
#[derive(Debug, Clone, PartialEq)]
pub struct Compiled {
    /// Machine code for the requested architecture (an ELF file), loadable by the driver.
    pub cubin: Vec<u8>,
    /// Everything the compiler said, warnings and the assembler's report included.
    pub log: String,
    /// What each entry point needs, in the order of the assembler's report.
    pub resources: Vec<Resources>,
    /// Wall time of the compile, seconds.
    pub seconds: f64,
}

impl Nvrtc {
    /// Loads the first usable NVRTC of the plan.
    ///
    /// # Errors
    ///
    /// [`JitError::NotFound`] with every place tried.
    pub fn load(plan: &SearchPlan) -> Result<Arc<Nvrtc>, JitError> {
        ending::guard();
        let mut tried = Vec::new();
        for place in &plan.places {
            let mut note = |what: String, found| {
                tried.push(Tried {
                    origin: place.origin,
                    what,
                    found,
                })
            };
            let files: Vec<PathBuf> = match &place.attempt {
                Attempt::Folder(folder) if !folder.is_dir() => {
                    note(folder.display().to_string(), Found::Missing);
                    continue;
                }
                Attempt::Folder(folder) => {
                    let files = libraries_in(folder);
                    if files.is_empty() {
                        note(folder.display().to_string(), Found::NoLibrary);
                    }
                    files
                }
                Attempt::File(file) => vec![file.clone()],
                Attempt::Name(name) => vec![PathBuf::from(name)],
            };
            for file in files {
                let what = file.display().to_string();
                match Self::load_file(&file, plan) {
                    Ok(mut nvrtc) => {
                        note(what, Found::Loaded(nvrtc.version()));
                        nvrtc.tried = tried;
                        return Ok(Arc::new(nvrtc));
                    }
                    Err(found) => note(what, found),
                }
            }
        }
        Err(JitError::NotFound { tried })
    }

    fn load_file(file: &Path, plan: &SearchPlan) -> Result<Nvrtc, Found> {
        let Some(_underway) = Underway::begin() else {
            return Err(Found::Unloadable("the process is ending".to_owned()));
        };
        let named_by_path = is_path(file);
        if named_by_path {
            // NVRTC opens its built-ins by plain name on the first compile and finds them only if they are in memory
            // or on the loader's own path. Where this fails, the compile says so with a remedy.
            for builtins in file.parent().map(builtins_in).unwrap_or_default() {
                let _ = ffi::preload(&builtins);
            }
        }
        let api = Api::load(file)?;
        ending::register();
        let broken =
            |call: &str, code| Found::Unloadable(format!("{call} failed with code {code}"));
        let version = api.version().map_err(|code| broken("nvrtcVersion", code))?;
        let release = format!("{}.{}", version.0, version.1);
        if let Some(refusal) = plan.refusal(version) {
            return Err(refusal);
        }
        let archs = api
            .supported_archs()
            .map_err(|code| broken("nvrtcGetSupportedArchs", code))?;
        let path = if named_by_path {
            Some(file.to_owned())
        } else {
            mapped_library()
        };
        // The release has no patch number; the size of the library tells patches apart without reading 100 MB.
        let size = path
            .as_deref()
            .and_then(|path| path.metadata().ok())
            .map(|about| about.len());
        let build = match size {
            Some(size) => format!("nvrtc {release} ({size} bytes)"),
            None => format!("nvrtc {release}"),
        };
        let library = path
            .unwrap_or_else(|| file.to_owned())
            .display()
            .to_string();
        Ok(Nvrtc {
            api,
            version,
            archs,
            library,
            build,
            tried: Vec::new(),
        })
    }

    /// The release, such as `13.0`.
    #[must_use]
    pub fn version(&self) -> String {
        format!("{}.{}", self.version.0, self.version.1)
    }

    /// The release as numbers.
    pub(crate) fn release(&self) -> (u32, u32) {
        self.version
    }

    /// Identifies the compiler build on any machine: release and size of the library. Meant as provenance of cached
    /// kernels.
    #[must_use]
    pub fn build(&self) -> &str {
        &self.build
    }

    /// The library's path, or its plain name where the path is unknown.
    #[must_use]
    pub fn library(&self) -> &str {
        &self.library
    }

    /// The places looked at; the last one is in use.
    #[must_use]
    pub fn tried(&self) -> &[Tried] {
        &self.tried
    }

    /// Compute capabilities that can be compiled for, as `major * 10 + minor`, ascending.
    #[must_use]
    pub fn supported_archs(&self) -> &[u32] {
        &self.archs
    }

    /// Whether this release can compile for `sm_NN`, whatever its suffix.
    ///
    /// # Errors
    ///
    /// [`JitError::BadArch`] or [`JitError::UnsupportedArch`].
    pub fn check_arch(&self, arch: &str) -> Result<(), JitError> {
        let number = arch_number(arch).ok_or_else(|| JitError::BadArch(arch.to_owned()))?;
        if self.archs.contains(&number) {
            return Ok(());
        }
        Err(JitError::UnsupportedArch {
            arch: arch.to_owned(),
            version: self.version(),
            supported: self.archs.clone(),
        })
    }

    /// Compiles one source to a cubin.
    ///
    /// # Errors
    ///
    /// A [`JitError`]; [`JitError::Compile`] carries the compiler's log.
    pub fn compile(&self, request: &CompileRequest<'_>) -> Result<Compiled, JitError> {
        let kernel = || request.name.to_owned();
        self.check_arch(request.arch)?;
        let is_cancelled = || {
            request
                .cancel
                .is_some_and(|cancel| cancel.load(Ordering::Relaxed))
        };
        if is_cancelled() {
            return Err(JitError::Cancelled { kernel: kernel() });
        }
        let text = |what, text: &str| {
            CString::new(text).map_err(|error| JitError::ZeroByte {
                what,
                kernel: kernel(),
                at: error.nul_position(),
            })
        };
        let mut options = vec![text(
            "architecture",
            &format!("--gpu-architecture={}", request.arch),
        )?];
        for option in request.canonical_options() {
            options.push(text("options", &option)?);
        }
        let (source, name) = (text("source", request.source)?, text("name", request.name)?);
        let failed = |call, code, log: String| JitError::Api {
            call,
            code,
            message: self.api.message(code),
            kernel: kernel(),
            log,
        };

        // declared before the program, so that it ends after the program is destroyed
        let Some(_underway) = Underway::begin() else {
            return Err(JitError::Cancelled { kernel: kernel() });
        };
        let start = Instant::now();
        let mut program = Program::new(&self.api, &source, &name)
            .map_err(|code| failed("nvrtcCreateProgram", code, String::new()))?;
        let compiled = program.compile(&options, request.cancel);
        // Warnings and the assembler's report are there after a success too.
        let log = program.log();
        compiled.map_err(|code| match code {
            ffi::ERROR_CANCELLED => JitError::Cancelled { kernel: kernel() },
            // A library without the flow callback, or a cancel that arrived as something else went wrong.
            _ if is_cancelled() => JitError::Cancelled { kernel: kernel() },
            ffi::ERROR_COMPILATION => JitError::Compile {
                kernel: kernel(),
                arch: request.arch.to_owned(),
                log: log.clone(),
            },
            ffi::ERROR_BUILTIN_OPERATION_FAILURE => JitError::Builtins {
                library: self.library.clone(),
                log: log.clone(),
            },
            code => failed("nvrtcCompileProgram", code, log.clone()),
        })?;
        let cubin = program
            .cubin()
            .map_err(|code| failed("nvrtcGetCUBIN", code, log.clone()))?;
        if cubin.is_empty() {
            return Err(JitError::NoCubin {
                kernel: kernel(),
                arch: request.arch.to_owned(),
            });
        }
        let resources = resources::parse(&log);
        Ok(Compiled {
            cubin,
            log,
            resources,
            seconds: start.elapsed().as_secs_f64(),
        })
    }
}

/// `90` of `sm_90a`.
fn arch_number(arch: &str) -> Option<u32> {
    let rest = arch.strip_prefix("sm_")?;
    let digits = rest.strip_suffix(['a', 'f']).unwrap_or(rest);
    let well_formed =
        (2..=3).contains(&digits.len()) && digits.bytes().all(|digit| digit.is_ascii_digit());
    if well_formed {
        digits.parse().ok()
    } else {
        None
    }
}

/// The file behind a library that the system's loader found by name, where the system can tell.
fn mapped_library() -> Option<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let path = maps
        .lines()
        .filter_map(|line| line.find('/').map(|at| &line[at..]))
        .find(|path| {
            path.rsplit('/')
                .next()
                .is_some_and(|name| name.starts_with("libnvrtc.so"))
        })?;
    Some(PathBuf::from(path))
}

#[cfg(test)]
#[path = "compiler_tests.rs"]
mod tests;

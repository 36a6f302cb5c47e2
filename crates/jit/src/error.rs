//! Errors of finding and using the compiler.

use crate::search::Tried;

/// Why there is no cubin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JitError {
    /// No usable NVRTC anywhere.
    #[error("{}", not_found(.tried))]
    NotFound {
        /// Every place that was tried, with its outcome.
        tried: Vec<Tried>,
    },
    /// The architecture is not written `sm_NN`, `sm_NNa` or `sm_NNf`.
    #[error("`{0}` is not a target architecture: write it like sm_89 or sm_90a")]
    BadArch(String),
    /// This NVRTC cannot compile for the architecture.
    #[error("NVRTC {version} cannot compile for {arch}; it supports {}: use another NVRTC release or another target", list(.supported))]
    UnsupportedArch {
        /// The architecture asked for.
        arch: String,
        /// The release that was loaded.
        version: String,
        /// Compute capabilities it supports, as `major * 10 + minor`.
        supported: Vec<u32>,
    },
    /// A text has a zero byte, which C strings cannot carry.
    #[error("the {what} of kernel `{kernel}` contains a zero byte at {at}")]
    ZeroByte {
        /// Which text.
        what: &'static str,
        /// The kernel.
        kernel: String,
        /// Byte offset.
        at: usize,
    },
    /// The source has errors.
    #[error("kernel `{kernel}` does not compile for {arch}:\n{log}")]
    Compile {
        /// The kernel.
        kernel: String,
        /// The target.
        arch: String,
        /// The compiler's log.
        log: String,
    },
    /// The compile was cancelled.
    #[error("the compile of kernel `{kernel}` was cancelled")]
    Cancelled {
        /// The kernel.
        kernel: String,
    },
    /// NVRTC reported success but gave no machine code.
    #[error(
        "NVRTC gave no machine code for kernel `{kernel}` and target {arch}: name a real architecture (sm_…)"
    )]
    NoCubin {
        /// The kernel.
        kernel: String,
        /// The target.
        arch: String,
    },
    /// The library of built-in functions, which NVRTC opens by itself, is missing or of another release.
    #[error(
        "NVRTC cannot open its built-ins library: put libnvrtc-builtins beside {library}, both from one release\n{log}"
    )]
    Builtins {
        /// The NVRTC library in use.
        library: String,
        /// The compiler's log.
        log: String,
    },
    /// An NVRTC call failed.
    #[error("{call} failed with {message} (code {code}) for kernel `{kernel}`\n{log}")]
    Api {
        /// The call.
        call: &'static str,
        /// NVRTC's result code.
        code: i32,
        /// NVRTC's name for it.
        message: String,
        /// The kernel.
        kernel: String,
        /// The compiler's log, if there is one.
        log: String,
    },
}

fn list(archs: &[u32]) -> String {
    archs
        .iter()
        .map(|arch| format!("sm_{arch}"))
        .collect::<Vec<_>>()
        .join(", ")
}

fn not_found(tried: &[Tried]) -> String {
    let mut text = String::from("no usable NVRTC was found; looked in:\n");
    for place in tried {
        text.push_str(&format!("  {place}\n"));
    }
    text.push_str(
        "remedy: install NVRTC 12.9 or newer (for example the Python package nvidia-cuda-nvrtc, or the CUDA toolkit) \
         or set BESPOKE_NVRTC to the folder that holds libnvrtc",
    );
    text
}

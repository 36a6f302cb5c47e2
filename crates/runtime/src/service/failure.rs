//! Why there is no cubin.

/// Why there is no cubin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// NVRTC is needed and was not found.
    #[error("kernel `{kernel}` is not in the cache, and {reason}")]
    NoCompiler {
        /// The kernel.
        kernel: String,
        /// What was looked for and where.
        reason: String,
    },
    /// NVRTC refused the source.
    #[error("kernel `{kernel}` does not compile for {arch}: {reason}")]
    Failed {
        /// The kernel.
        kernel: String,
        /// The architecture.
        arch: String,
        /// NVRTC's words.
        reason: String,
    },
    /// Compiling was ruled out, and the kernel is not in the cache.
    #[error(
        "kernel `{kernel}` (key {key}) would have to be compiled: the cache has no entry that fits ({reason}); \
         fill the cache first, or allow compiles"
    )]
    NotCached {
        /// The kernel.
        kernel: String,
        /// Its key in the cache.
        key: String,
        /// Why the cache did not have it: a stable code.
        reason: &'static str,
    },
    /// The job was cancelled.
    #[error("the compile of kernel `{0}` was cancelled")]
    Cancelled(String),
    /// A compile is to be replayed that the cache knows nothing of.
    #[error(
        "kernel `{kernel}` is not in the cache ({miss}), and a compile cost of {cost} can only replay compiles that are: run the same once without a compile cost"
    )]
    NotRecorded {
        /// The kernel.
        kernel: String,
        /// Why the cache does not have it: a stable code.
        miss: &'static str,
        /// The factor.
        cost: String,
    },
}

impl CompileError {
    /// The kernel that is not there.
    pub fn kernel(&self) -> &str {
        match self {
            CompileError::NoCompiler { kernel, .. }
            | CompileError::Failed { kernel, .. }
            | CompileError::Cancelled(kernel)
            | CompileError::NotCached { kernel, .. }
            | CompileError::NotRecorded { kernel, .. } => kernel,
        }
    }
}

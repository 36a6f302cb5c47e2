//! A process that ends while kernels compile ends with its status: NVRTC's exit handlers must not meet a compile that is
//! under way.
//!
//! The test runs itself as a child process, which drops its pool and leaves at different moments of a compile. Needs
//! NVRTC but no GPU; without the library it says so and passes.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use bespoke_jit::{CompilePool, CompileRequest, JitError, Nvrtc, PoolConfig, SearchPlan};

/// Set for the child: after so many milliseconds of compiling it leaves.
const LEAVE_AFTER: &str = "BESPOKE_TEST_LEAVE_AFTER_MS";

/// Takes most of a second, nearly all of it behind the front end.
fn source() -> String {
    (0..8).fold(String::new(), |mut text, i| {
        // writing to a String cannot fail
        let _ = write!(
            text,
            "extern \"C\" __global__ void k{i}(float* p, int n) {{\n\
             float a[32];\n\
             for (int j = 0; j < 32; ++j) a[j] = p[j * n + threadIdx.x];\n\
             for (int r = 0; r < n; ++r) {{\n\
             #pragma unroll\n\
             for (int j = 0; j < 32; ++j) a[j] = a[(j + {i}) & 31] * a[j] + sinf(a[(j * 7) & 31]);\n\
             }}\n\
             for (int j = 0; j < 32; ++j) p[j * n + threadIdx.x] = a[j];\n\
             }}\n"
        );
        text
    })
}

fn leave(nvrtc: &Arc<Nvrtc>, after: Duration) {
    let config = PoolConfig {
        workers: 2,
        ..PoolConfig::default()
    };
    let pool = CompilePool::new(config).unwrap();
    for key in 0..2 {
        let nvrtc = Arc::clone(nvrtc);
        let job = move |cancel: &std::sync::atomic::AtomicBool| {
            let request = CompileRequest {
                name: "k.cu",
                source: &source(),
                arch: "sm_89",
                options: &[],
                cancel: Some(cancel),
            };
            nvrtc.compile(&request).is_ok()
        };
        pool.submit(key, 0, job, |_| {});
    }
    std::thread::sleep(after);
    drop(pool);
    std::process::exit(0);
}

#[test]
fn a_process_that_leaves_during_a_compile_ends_with_its_status() {
    let nvrtc = match Nvrtc::load(&SearchPlan::from_env(&[])) {
        Ok(nvrtc) => nvrtc,
        Err(JitError::NotFound { tried }) => {
            // said past the harness, which swallows what tests print
            let places: Vec<String> = tried.iter().map(|place| place.what.clone()).collect();
            let _ = writeln!(
                std::io::stderr(),
                "skipped: leaving during a compile: NVRTC not found (looked in {})",
                places.join(", ")
            );
            return;
        }
        Err(error) => panic!("{error}"),
    };
    if let Ok(after) = std::env::var(LEAVE_AFTER) {
        leave(&nvrtc, Duration::from_millis(after.parse().unwrap()));
    }
    for after in [10, 100, 300, 500, 800] {
        let output = Command::new(std::env::current_exe().unwrap())
            .env(LEAVE_AFTER, after.to_string())
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "after {after} ms: {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

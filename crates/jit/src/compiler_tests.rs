//! Tests against a real NVRTC where there is one; each says so where there is none.

use std::io::Write as _;

use super::*;
use std::time::Duration;

const ADD: &str = r#"
extern "C" __global__ void add(float* y, const float* x, int n) {
    __shared__ float tile[32];
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    tile[threadIdx.x % 32] = i < n ? x[i] : 0.0f;
    __syncthreads();
    if (i < n) y[i] = tile[(threadIdx.x + 1) % 32] + x[i];
}
"#;

/// The machine's NVRTC, or `None` after printing why the test is skipped.
fn nvrtc(test: &str) -> Option<Arc<Nvrtc>> {
    match Nvrtc::load(&SearchPlan::from_env(&[])) {
        Ok(nvrtc) => Some(nvrtc),
        Err(JitError::NotFound { tried }) => {
            let places: Vec<String> = tried.iter().map(|place| place.what.clone()).collect();
            // past the harness, which swallows what tests print
            let places = places.join(", ");
            let _ = writeln!(
                std::io::stderr(),
                "skipped: {test}: NVRTC not found (looked in {places})"
            );
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn request<'a>(name: &'a str, source: &'a str, arch: &'a str) -> CompileRequest<'a> {
    CompileRequest {
        name,
        source,
        arch,
        ..CompileRequest::default()
    }
}

#[test]
fn one_source_compiles_for_every_architecture() {
    let Some(nvrtc) = nvrtc("one_source_compiles_for_every_architecture") else {
        return;
    };
    for arch in [
        "sm_75", "sm_80", "sm_86", "sm_89", "sm_90a", "sm_100", "sm_120",
    ] {
        let compiled = nvrtc.compile(&request("add", ADD, arch)).unwrap();
        assert_eq!(&compiled.cubin[..4], b"\x7fELF", "{arch}");
        let [add] = compiled.resources.as_slice() else {
            panic!("{arch}: {}", compiled.log)
        };
        assert_eq!(add.entry, "add");
        assert!((4..64).contains(&add.registers), "{arch}: {add:?}");
        assert!(
            add.static_smem >= 128 && add.static_smem < 4096,
            "{arch}: {add:?}"
        );
        assert_eq!(
            (add.spill_stores, add.spill_loads, add.barriers),
            (0, 0, 1),
            "{arch}"
        );
        assert!(compiled.seconds > 0.0);
    }
}

#[test]
fn equal_requests_give_equal_bytes_and_options_change_them() {
    let Some(nvrtc) = nvrtc("equal_requests_give_equal_bytes_and_options_change_them") else {
        return;
    };
    let plain = request("add", ADD, "sm_89");
    let first = nvrtc.compile(&plain).unwrap();
    assert_eq!(first.cubin, nvrtc.compile(&plain).unwrap().cubin);
    let debug = CompileRequest {
        options: &["-lineinfo"],
        ..plain
    };
    assert_ne!(first.cubin, nvrtc.compile(&debug).unwrap().cubin);
}

#[test]
fn spills_are_reported() {
    let Some(nvrtc) = nvrtc("spills_are_reported") else {
        return;
    };
    let mut source = String::from("extern \"C\" __global__ void hungry(float* p) {\n");
    (0..64).for_each(|i| source.push_str(&format!("float v{i} = p[{i}];\n")));
    source.push_str("__syncthreads();\n");
    (0..64).for_each(|i| source.push_str(&format!("p[{}] = v{i} * v{};\n", 63 - i, (i + 7) % 64)));
    source.push('}');
    let tight = CompileRequest {
        options: &["--maxrregcount=32"],
        ..request("hungry", &source, "sm_80")
    };
    let report = nvrtc.compile(&tight).unwrap().resources.remove(0);
    assert!(
        report.spill_stores > 0 && report.spill_loads > 0 && report.stack > 0,
        "{report:?}"
    );
    assert!(report.registers <= 32);
}

#[test]
fn a_compile_error_carries_the_log() {
    let Some(nvrtc) = nvrtc("a_compile_error_carries_the_log") else {
        return;
    };
    let error = nvrtc
        .compile(&request(
            "broken.cu",
            "__global__ void k() { undeclared = 1; }",
            "sm_89",
        ))
        .unwrap_err();
    let JitError::Compile { kernel, log, .. } = &error else {
        panic!("{error:?}")
    };
    assert_eq!(kernel, "broken.cu");
    assert!(
        log.contains("undeclared") && log.contains("broken.cu"),
        "{log}"
    );
    assert!(error.to_string().contains("undeclared"));
}

#[test]
fn warnings_are_kept_after_a_success() {
    let Some(nvrtc) = nvrtc("warnings_are_kept_after_a_success") else {
        return;
    };
    let source = "extern \"C\" __global__ void k(int* p) { int never_used; p[0] = 1; }";
    let compiled = nvrtc.compile(&request("k", source, "sm_89")).unwrap();
    assert!(compiled.log.contains("never_used"), "{}", compiled.log);
}

#[test]
fn bad_requests_are_typed_errors() {
    let Some(nvrtc) = nvrtc("bad_requests_are_typed_errors") else {
        return;
    };
    for arch in [
        "compute_89",
        "sm_",
        "sm_8",
        "sm_89x",
        "89",
        "",
        "sm_+89",
        "sm_ééa",
    ] {
        let error = nvrtc.compile(&request("add", ADD, arch)).unwrap_err();
        assert_eq!(error, JitError::BadArch(arch.to_owned()));
    }
    let error = nvrtc.compile(&request("add", ADD, "sm_20")).unwrap_err();
    assert!(
        matches!(&error, JitError::UnsupportedArch { supported, .. } if supported.contains(&89)),
        "{error}"
    );
    let error = nvrtc
        .compile(&request("add", "int a;\0", "sm_89"))
        .unwrap_err();
    assert!(matches!(
        error,
        JitError::ZeroByte {
            what: "source",
            at: 6,
            ..
        }
    ));
    let odd = CompileRequest {
        options: &["--no-such-option"],
        ..request("add", ADD, "sm_89")
    };
    let error = nvrtc.compile(&odd).unwrap_err();
    assert!(
        matches!(&error, JitError::Api { log, .. } if log.contains("no-such-option")),
        "{error:?}"
    );
}

#[test]
fn two_threads_compile_at_once() {
    let Some(nvrtc) = nvrtc("two_threads_compile_at_once") else {
        return;
    };
    let alone = nvrtc.compile(&request("add", ADD, "sm_89")).unwrap().cubin;
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..3 {
                    assert_eq!(
                        nvrtc.compile(&request("add", ADD, "sm_89")).unwrap().cubin,
                        alone
                    );
                }
            });
        }
    });
}

/// A source whose compile takes seconds: many long unrolled bodies. NVRTC looks at the flag between its phases; the
/// longest takes about a quarter of the whole, so the source must not be much slower than this.
fn slow_source() -> String {
    let mut source = String::new();
    for kernel in 0..50 {
        source.push_str(&format!(
            "extern \"C\" __global__ void k{kernel}(float* p) {{ float a = p[threadIdx.x];\n#pragma unroll\n\
             for (int i = 0; i < 400; ++i) a = a * a + p[i] + {kernel}.0f; p[threadIdx.x] = a; }}\n"
        ));
    }
    source
}

#[test]
fn a_running_compile_can_be_cancelled() {
    let Some(nvrtc) = nvrtc("a_running_compile_can_be_cancelled") else {
        return;
    };
    let source = slow_source();
    let cancel = AtomicBool::new(false);
    let slow = CompileRequest {
        cancel: Some(&cancel),
        ..request("slow", &source, "sm_89")
    };
    let (result, after_cancel) = std::thread::scope(|scope| {
        let worker = scope.spawn(|| nvrtc.compile(&slow));
        std::thread::sleep(Duration::from_millis(100));
        assert!(
            !worker.is_finished(),
            "the source is not slow enough to test a cancel"
        );
        cancel.store(true, Ordering::Relaxed);
        let start = Instant::now();
        (worker.join().unwrap(), start.elapsed())
    });
    assert_eq!(
        result.unwrap_err(),
        JitError::Cancelled {
            kernel: "slow".into()
        }
    );
    // as long as the longest phase, which took more than five seconds on a busy machine
    assert!(after_cancel < Duration::from_secs(15), "{after_cancel:?}");
    // The compiler is as good as before.
    assert!(nvrtc.compile(&request("add", ADD, "sm_89")).is_ok());
}

#[test]
fn a_cancelled_request_does_not_start() {
    let Some(nvrtc) = nvrtc("a_cancelled_request_does_not_start") else {
        return;
    };
    let cancel = AtomicBool::new(true);
    let error = nvrtc
        .compile(&CompileRequest {
            cancel: Some(&cancel),
            ..request("add", ADD, "sm_89")
        })
        .unwrap_err();
    assert_eq!(
        error,
        JitError::Cancelled {
            kernel: "add".into()
        }
    );
}

#[test]
fn the_loaded_library_describes_itself() {
    let Some(nvrtc) = nvrtc("the_loaded_library_describes_itself") else {
        return;
    };
    assert!(
        nvrtc
            .build()
            .starts_with(&format!("nvrtc {}", nvrtc.version())),
        "{}",
        nvrtc.build()
    );
    assert!(
        nvrtc.build().ends_with("bytes)"),
        "the size of {} is unknown",
        nvrtc.library()
    );
    assert!(nvrtc.supported_archs().contains(&75) && nvrtc.supported_archs().contains(&120));
    assert!(matches!(
        nvrtc.tried().last().unwrap().found,
        Found::Loaded(_)
    ));
}

#[test]
fn a_newest_release_is_respected() {
    let Some(nvrtc) = nvrtc("a_newest_release_is_respected") else {
        return;
    };
    let file = PathBuf::from(nvrtc.library());
    let places = vec![crate::Place {
        origin: "caller",
        attempt: Attempt::File(file),
    }];
    let limited = SearchPlan {
        places,
        newest_major: None,
    }
    .at_most(nvrtc.version.0 - 1);
    let JitError::NotFound { tried } = Nvrtc::load(&limited).unwrap_err() else {
        panic!()
    };
    assert_eq!(tried[0].found, Found::TooNew(nvrtc.version()));
}

#[test]
fn what_is_missing_is_listed() {
    let temp = tempfile::tempdir().unwrap();
    let (empty, fake) = (temp.path().join("empty"), temp.path().join("fake"));
    std::fs::create_dir_all(&empty).unwrap();
    std::fs::create_dir_all(&fake).unwrap();
    std::fs::write(fake.join("libnvrtc.so.13"), b"not a library").unwrap();
    let folders = [temp.path().join("missing"), empty, fake];
    let places = folders.iter().map(|folder| crate::Place {
        origin: "caller",
        attempt: Attempt::Folder(folder.clone()),
    });
    let plan = SearchPlan {
        places: places.collect(),
        newest_major: None,
    };
    let error = Nvrtc::load(&plan).unwrap_err();
    let JitError::NotFound { tried } = &error else {
        panic!()
    };
    assert_eq!(tried[0].found, Found::Missing);
    assert_eq!(tried[1].found, Found::NoLibrary);
    assert!(matches!(tried[2].found, Found::Unloadable(_)));
    let text = error.to_string();
    assert!(
        text.contains("missing") && text.contains("BESPOKE_NVRTC"),
        "{text}"
    );
}

#[cfg(target_os = "linux")]
#[test]
fn a_library_without_the_functions_is_named() {
    // The C library is loaded already and surely no compiler.
    let name = crate::Place {
        origin: "caller",
        attempt: Attempt::Name("libc.so.6"),
    };
    let plan = SearchPlan {
        places: vec![name],
        newest_major: None,
    };
    match Nvrtc::load(&plan).unwrap_err() {
        JitError::NotFound { tried } => assert!(
            matches!(
                tried[0].found,
                Found::NoSymbol("nvrtcVersion") | Found::Unloadable(_)
            ),
            "{tried:?}"
        ),
        other => panic!("{other}"),
    }
}

#[test]
fn options_are_fixed_and_in_order() {
    let request = CompileRequest {
        options: &["--maxrregcount=64"],
        ..CompileRequest::default()
    };
    assert_eq!(
        request.canonical_options(),
        [
            "--std=c++17",
            "--device-as-default-execution-space",
            "--minimal",
            "--no-cache",
            "--ptxas-options=-v",
            "--maxrregcount=64"
        ]
    );
}

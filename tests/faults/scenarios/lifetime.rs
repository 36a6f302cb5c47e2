//! Many threads, few files.
#![allow(unsafe_code, reason = "limits of a process are set by the C library")]

use std::time::Duration;

use bespoke::cache::CacheConfig;

use crate::rig::{card, load, run, service, strategy};
use crate::standin::{report, script};

/// Sixteen threads and one session, each with shapes of its own, while variants come and go.
pub(crate) fn threads_share_a_session(_: &[String]) {
    let cache = crate::rig::folder();
    script("");
    let device = card(0).expect("a card");
    let service = service(CacheConfig::at(cache.path()));
    let options = bespoke::SessionOptions {
        max_variants: 3,
        ..strategy("lazy")
    };
    let session = load(&device, &service, options).expect("a session");
    std::thread::scope(|scope| {
        for thread in 0..16 {
            let session = &session;
            scope.spawn(move || {
                for round in 0..20 {
                    let n = 4 + (thread + round) % 6;
                    let result = run(session, n).expect("a run");
                    assert_eq!(result.outputs[0].1.dims()[..2], [1, n]);
                }
            });
        }
    });
    assert!(session.wait_specialized(Duration::from_secs(20)));
    assert!(session.stats().lanes <= 4, "{}", session.stats().lanes);
    assert_eq!(session.stats().runs, 320);
    drop((session, service, device));
    let report = report();
    assert!(
        report.alive.is_empty() && report.misuse.is_empty(),
        "{report:?}"
    );
}

/// No file can be opened: what needs one says so; what does not goes on.
pub(crate) fn few_files_are_a_typed_error(_: &[String]) {
    let cache = crate::rig::folder();
    script("");
    let device = card(0).expect("a card");
    let service = service(CacheConfig::at(cache.path()));
    let session = load(&device, &service, strategy("lazy")).expect("a session");
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: fills the structure.
    assert_eq!(
        unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) },
        0
    );
    limit.rlim_cur = 0;
    // SAFETY: reads the structure.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
    assert!(
        std::fs::File::open("/proc/self/stat").is_err(),
        "a file was opened"
    );
    // kernels of this shape can be neither looked up nor stored, only compiled
    run(&session, 8).expect("a run");
    assert!(session.wait_specialized(Duration::from_secs(20)));
    let result = run(&session, 8).expect("a run");
    assert!(result.report.specialized_kernels > 0);
    let stats = service.cache().stats();
    assert!(stats.put_skips.contains_key("io"), "{stats:?}");
    // a model cannot be read
    let error = load(&device, &service, strategy("lazy"))
        .map(|_| ())
        .expect_err("no files");
    assert!(error.to_string().contains("model.onnx"), "{error}");
}

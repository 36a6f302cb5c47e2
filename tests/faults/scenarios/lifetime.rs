//! Many threads, few files.
#![allow(unsafe_code, reason = "limits of a process are set by the C library")]

use std::time::Duration;

use bespoke::cache::CacheConfig;

use crate::rig::{card, load, run, service, strategy};
use crate::standin::{script, settled};

/// Sixteen threads and one session, each with shapes of its own, while variants come and go.
pub(crate) fn threads_share_a_session(_: &[String]) {
    let cache = crate::rig::folder();
    script("slow=cuGraphLaunch:300 slow=cuGraphExecKernelNodeSetParams_v2:20");
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
    let report = settled();
    assert!(
        report.alive.is_empty() && report.misuse.is_empty(),
        "{report:?}"
    );
}

/// A forked child has none of its parent's threads and may not use its driver: it is told so, and the parent goes on.
pub(crate) fn a_forked_child_is_refused_the_driver(_: &[String]) {
    let cache = crate::rig::folder();
    script("");
    let device = card(0).expect("a card");
    let service = service(CacheConfig::at(cache.path()));
    let session = load(&device, &service, strategy("none")).expect("a session");
    // SAFETY: the child opens a card, which is refused before anything else, and ends without destructors.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let text = card(0).map(|_| ()).map_err(|e| e.to_string());
        let told = text.is_err_and(|text| text.contains("after the fork"));
        // SAFETY: ends this process.
        unsafe { libc::_exit(if told { 0 } else { 1 }) };
    }
    let mut status = -1;
    // SAFETY: waits for the child and writes one number.
    let ended = unsafe { libc::waitpid(child, &mut status, 0) };
    assert_eq!((ended, status), (child, 0));
    run(&session, 8).expect("a run");
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
    let asked = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
    limit.rlim_cur = 0;
    // SAFETY: reads the structure.
    let set = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
    assert_eq!((asked, set), (0, 0));
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

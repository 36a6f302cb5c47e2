//! Cards that are absent, broken, unknown, too small, or more than one.

use std::time::Duration;

use bespoke::cache::CacheConfig;
use bespoke::device::Arch;
use bespoke::{ErrorKind, SessionOptions};

use crate::rig::{card, card_for, load, run, run_many, service, strategy, within};
use crate::standin::{report, script};

/// Opening fails with words that name the cause and a remedy, and never ends on another device.
pub(crate) fn a_driver_that_does_not_start_says_why(_: &[String]) {
    for (words, says) in [
        ("devices=0", "CUDA_VISIBLE_DEVICES"),
        ("fail=cuInit@*:100", "CUDA_VISIBLE_DEVICES"),
        ("fail=cuInit@*:35", "(35)"),
        ("fail=cuInit@*:803", "restart the machine"),
        ("fail=cuInit@*:804", "compatibility library"),
        ("fail=cuInit@*:802", "fabricmanager"),
        ("fail=cuInit@*:999", "kernel log"),
        ("fail=cuDevicePrimaryCtxRetain@*:46", "compute mode"),
        ("fail=cuDevicePrimaryCtxRetain@*:805", "MPS server"),
        ("fail=cuDeviceGetAttribute@*:1", "cuDeviceGetAttribute"),
    ] {
        script(words);
        let error = card(0).map(|_| ()).expect_err(words);
        let text = error.to_string();
        assert_eq!(error.kind(), ErrorKind::NoDevice, "{words}: {text}");
        assert!(
            text.contains(says) || says.starts_with("cu"),
            "{words}: {text}"
        );
        assert!(report().alive.is_empty(), "{words}");
    }
    script("devices=2");
    let error = card(2).map(|_| ()).expect_err("there are two");
    assert!(error.to_string().contains("bespoke doctor"), "{error}");
}

/// Each fault of a kernel, of memory and of a server: the run fails with its remedy, and nothing works afterwards.
pub(crate) fn a_lost_device_says_why_and_stays_lost(_: &[String]) {
    let cache = crate::rig::folder();
    for (code, says) in [
        (214, "ECC"),
        (700, "compute-sanitizer"),
        (702, "watchdog"),
        (710, "(710)"),
        (716, "misaligned"),
        (719, "compute-sanitizer"),
        (999, "Xid"),
        (46, "withdrawn"),
    ] {
        script("");
        let device = card(0).expect("a card");
        let service = service(CacheConfig::at(cache.path()));
        let session = load(&device, &service, strategy("none")).expect("a session");
        run(&session, 8).expect("a run");
        script(&format!("fail=cuGraphLaunch@1:{code}"));
        let error = run(&session, 8).map(|_| ()).expect_err("lost");
        assert_eq!(error.kind(), ErrorKind::DeviceLost, "{error}");
        assert!(error.to_string().contains(says), "{code}: {error}");
        assert!(!session.is_healthy());
        let again = run(&session, 8).map(|_| ()).expect_err("lost for good");
        assert_eq!(again.to_string(), error.to_string());
        let other = load(&device, &service, strategy("none")).map(|_| ());
        assert_eq!(
            other.expect_err("lost for all").kind(),
            ErrorKind::DeviceLost
        );
        drop((session, service, device));
        let report = report();
        assert_eq!(report.number("after-lost"), 0, "{code}: {report:?}");
        script("forget");
    }
}

/// The compiler cannot know what it is older than: the error names the architecture.
pub(crate) fn a_card_that_nobody_knows_is_named(_: &[String]) {
    let cache = crate::rig::folder();
    script("arch=137");
    let device = card(0).expect("a card");
    let service = service(CacheConfig::at(cache.path()));
    let error = load(&device, &service, strategy("lazy"))
        .map(|_| ())
        .expect_err("nobody compiles for it");
    assert_eq!(error.kind(), ErrorKind::Compile, "{error}");
    assert!(error.to_string().contains("sm_137"), "{error}");
}

/// A card runs a session on kernels for an older card of its generation, if asked, and refuses any other with a remedy.
pub(crate) fn a_card_is_asked_for_kernels_of_another(_: &[String]) {
    let cache = crate::rig::folder();
    script("arch=89");
    let device = card_for(0, Some(Arch::sm(86))).expect("a card");
    assert_eq!(device.target(), Some(Arch::sm(86)));
    let service = service(CacheConfig::at(cache.path()));
    let session = load(&device, &service, strategy("eager")).expect("a session");
    run(&session, 8).expect("a run");
    for other in [Arch::sm(80), Arch::sm(89)] {
        card_for(0, Some(other)).expect("it runs these too");
    }
    for other in [Arch::sm(75), Arch::sm(90), Arch::of_card(9, 0)] {
        let error = card_for(0, Some(other))
            .map(|_| ())
            .expect_err("no kernel of it runs");
        assert_eq!(error.kind(), ErrorKind::NoDevice, "{error}");
        for word in ["device 0", &other.to_string(), "sm_89", "ask for its own"] {
            assert!(error.to_string().contains(word), "{error}");
        }
    }
}

/// Kernels of two architectures never meet: each card's are compiled, and found again, by themselves.
pub(crate) fn two_cards_have_kernels_of_their_own(_: &[String]) {
    let cache = crate::rig::folder();
    let service = service(CacheConfig::at(cache.path()));
    let mut compiled = Vec::new();
    for arch in [90, 80, 90] {
        script(&format!("arch={arch}"));
        let device = card(0).expect("a card");
        let session = load(&device, &service, strategy("none")).expect("a session");
        run(&session, 8).expect("a run");
        compiled.push(report().number("compiles"));
    }
    assert!(compiled[0] > 0 && compiled[1] > 0, "{compiled:?}");
    assert_eq!(compiled[2], 0, "found again");
}

/// Memory that runs out for a large shape: an error that lists what is held, and the session goes on.
pub(crate) fn too_little_memory_for_a_large_shape_leaves_the_small_ones(_: &[String]) {
    let cache = crate::rig::folder();
    script("");
    let device = card(0).expect("a card");
    let service = service(CacheConfig::at(cache.path()));
    let session = load(&device, &service, strategy("lazy")).expect("a session");
    run(&session, 8).expect("a small run");
    // weights and the temporaries of a small shape are held; half as much again is free
    script("memory=4194304");
    let error = run_many(&session, 16, 400)
        .map(|_| ())
        .expect_err("too large");
    assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error}");
    assert!(error.to_string().contains("the session holds"), "{error}");
    run(&session, 8).expect("a small run again");
    script("");
    run_many(&session, 16, 400).expect("there is room again");
    drop((session, service, device));
    let report = report();
    assert!(
        report.alive.is_empty() && report.misuse.is_empty(),
        "{report:?}"
    );
}

/// What a process holds, as the system sees it.
fn holds(what: &str) -> usize {
    std::fs::read_dir(format!("/proc/self/{what}")).map_or(0, Iterator::count)
}

/// Two hundred sessions, loaded, run and dropped: as many files, threads and handles as before, and no more memory.
pub(crate) fn many_sessions_leave_nothing_behind(_: &[String]) {
    let cache = crate::rig::folder();
    script("");
    let device = card(0).expect("a card");
    let service = service(CacheConfig::at(cache.path()));
    let once = |options: SessionOptions| {
        let session = load(&device, &service, options).expect("a session");
        run(&session, 8).expect("a run");
        assert!(session.wait_specialized(Duration::from_secs(20)));
        run(&session, 8).expect("a run");
    };
    let resident = || {
        let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
        let pages = text.split(' ').nth(1).and_then(|n| n.parse::<u64>().ok());
        pages.unwrap_or(0) * 4096
    };
    for _ in 0..20 {
        once(strategy("lazy"));
    }
    let alive = report().alive;
    let before = (holds("fd"), holds("task"));
    let bytes = resident();
    for i in 0..200 {
        once(strategy(["lazy", "eager"][i % 2]));
    }
    assert_eq!(report().alive, alive);
    assert_eq!((holds("fd"), holds("task")), before);
    let grown = resident().saturating_sub(bytes);
    assert!(grown < 8 << 20, "{grown} bytes more after 200 sessions");
    within(Duration::from_secs(20), "dropping", move || {
        drop((service, device));
    });
    assert!(report().alive.is_empty(), "{:?}", report().alive);
}

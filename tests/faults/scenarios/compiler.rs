//! A compiler that is absent, refuses, never ends, or is newer than the driver; and variants that come and go.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bespoke::cache::CacheConfig;
use bespoke::device::Device;
use bespoke::{CompileService, ErrorKind, EventKind, Session, SessionOptions};

use crate::rig::{card, load, run, service, strategy, until, within};
use crate::standin::{report, script};

const LIMIT: Duration = Duration::from_secs(20);

/// A card, and a service whose cache holds the model's generic kernels.
fn prepared(cache: &tempfile::TempDir) -> (Arc<dyn Device>, Arc<CompileService>) {
    script("");
    let device = card(0).expect("a card");
    let service = service(CacheConfig::at(cache.path()));
    drop(load(&device, &service, strategy("none")).expect("a session"));
    (device, service)
}

fn count(session: &Session, is: impl Fn(&EventKind) -> bool) -> usize {
    session.events().iter().filter(|e| is(&e.kind)).count()
}

fn rejects(session: &Session) -> usize {
    count(session, |e| matches!(e, EventKind::Reject { .. }))
}

fn installs(session: &Session) -> usize {
    count(session, |e| matches!(e, EventKind::Install { .. }))
}

/// The environment names no usable compiler: the error lists where was looked, and the text given as argument.
pub(crate) fn without_a_compiler_the_search_is_told(arguments: &[String]) {
    let cache = crate::rig::folder();
    script("");
    let device = card(0).expect("a card");
    let service = service(CacheConfig::at(cache.path()));
    let error = load(&device, &service, strategy("lazy"))
        .map(|_| ())
        .expect_err("there is no compiler");
    assert_eq!(error.kind(), ErrorKind::Compile, "{error}");
    let text = error.to_string();
    assert!(text.contains("BESPOKE_NVRTC"), "{text}");
    for words in arguments {
        assert!(text.contains(words), "no `{words}` in: {text}");
    }
}

/// A specialised kernel does not compile: one event, no second attempt, and runs go on.
pub(crate) fn a_refused_kernel_is_told_once_and_the_generic_one_serves(_: &[String]) {
    let cache = crate::rig::folder();
    let (device, service) = prepared(&cache);
    for name in ["lazy", "eager"] {
        let session = load(&device, &service, strategy(name)).expect("a session");
        script("refuse=*");
        for _ in 0..5 {
            let result = run(&session, 8).expect("a run");
            assert_eq!(result.report.specialized_kernels, 0);
            assert!(session.wait_specialized(LIMIT));
        }
        assert_eq!((rejects(&session), installs(&session)), (1, 0), "{name}");
        let failed = count(&session, |e| matches!(e, EventKind::CompileFailed { .. }));
        assert_eq!(report().number("compiles"), failed as u64, "{name}");
    }
}

/// A compile that never ends: lazy runs do not wait for it, a deadline ends an eager one, and dropping takes no second.
pub(crate) fn a_compile_without_end_stops_nobody(_: &[String]) {
    let cache = crate::rig::folder();
    let (device, service) = prepared(&cache);
    script("endless");
    let session = load(&device, &service, strategy("lazy")).expect("a session");
    run(&session, 8).expect("a run");
    until("it compiles", LIMIT, || report().number("compiles") > 0);
    run(&session, 8).expect("a run");
    assert!(!session.wait_specialized(Duration::from_millis(20)));
    let start = Instant::now();
    drop(session);
    assert!(start.elapsed() < Duration::from_secs(1));

    end(device, service);

    let (device, service) = prepared(&cache);
    let session = load(&device, &service, strategy("eager")).expect("a session");
    script("endless");
    let options = bespoke::RunOptions {
        deadline: Some(Instant::now() + Duration::from_millis(50)),
        ..bespoke::RunOptions::default()
    };
    let inputs = crate::rig::zeros(&session, 12);
    let inputs: Vec<_> = inputs.iter().map(|(n, t)| (n.as_str(), t)).collect();
    let error = session.run_with(&inputs, &options).map(|_| ());
    assert_eq!(error.expect_err("late").kind(), ErrorKind::Timeout);
    drop(session);
    end(device, service);
}

/// Drops what compiles without end: at once, and nothing stays behind.
fn end(device: Arc<dyn Device>, service: Arc<CompileService>) {
    let start = Instant::now();
    within(LIMIT, "dropping the service", move || {
        drop((service, device));
    });
    assert!(start.elapsed() < Duration::from_secs(1));
    assert!(report().alive.is_empty(), "{:?}", report().alive);
}

/// A session that is dropped takes its queued and running compiles with it, but for those that another one waits for.
pub(crate) fn a_dropped_session_calls_off_what_nobody_else_waits_for(_: &[String]) {
    let cache = crate::rig::folder();
    let (device, service) = prepared(&cache);
    script("endless");
    let alone = load(&device, &service, strategy("lazy")).expect("a session");
    for n in [8, 9, 10] {
        run(&alone, n).expect("a run");
    }
    until("it compiles", LIMIT, || report().number("compiles") > 1);
    // a run does not wait until the director has heard of it
    let asked = |event: &bespoke::Event| matches!(&event.kind, EventKind::Enqueue { class, .. } if class != "generic");
    until("every shape is asked for", LIMIT, || {
        alone.events().iter().filter(|event| asked(event)).count() == 3
    });
    let backlog = service.backlog();
    assert!(backlog.queued > 0 && backlog.running > 0, "{backlog:?}");
    let heard = alone.subscribe();
    let start = Instant::now();
    drop(alone);
    until("the threads are free", LIMIT, || {
        service.backlog() == bespoke::runtime::Backlog::default()
    });
    assert!(start.elapsed() < Duration::from_secs(1));
    let mut called_off = 0;
    while let bespoke::runtime::Heard::Event(event) = heard.next(Duration::ZERO) {
        let dropped = matches!(
            event.kind,
            EventKind::Cancel {
                reason: "dropped",
                ..
            }
        );
        called_off += usize::from(dropped);
    }
    assert_eq!(called_off, 3, "it says so for every shape");

    script("slow=compile:20000");
    let first = load(&device, &service, strategy("lazy")).expect("a session");
    let second = load(&device, &service, strategy("lazy")).expect("a session");
    for session in [&first, &second] {
        run(session, 8).expect("a run");
    }
    run(&first, 9).expect("a run");
    until("it compiles", LIMIT, || service.backlog().running > 0);
    drop(first);
    assert!(second.wait_specialized(LIMIT));
    assert_eq!((rejects(&second), installs(&second)), (0, 1));
    assert_eq!(run(&second, 8).expect("a run").report.generic_kernels, 0);
    until("the threads are free", LIMIT, || {
        service.backlog() == bespoke::runtime::Backlog::default()
    });
    drop(second);
    script("");
    end(device, service);
}

/// Kernels that compile and then do not load, do not fit into the graph, or find no memory: the generic ones serve.
pub(crate) fn a_variant_that_cannot_be_installed_is_dropped(_: &[String]) {
    let cache = crate::rig::folder();
    let (device, service) = prepared(&cache);
    for failure in [
        "fail=cuModuleLoadData@*:2",
        "fail=cuModuleGetFunction@*:500",
        "fail=cuGraphExecKernelNodeSetParams_v2@*:701",
        "fail=cuGraphUpload@*:1",
    ] {
        script("");
        let session = load(&device, &service, strategy("lazy")).expect("a session");
        script(failure);
        for _ in 0..4 {
            let result = run(&session, 8).expect("a run");
            assert_eq!(result.report.specialized_kernels, 0, "{failure}");
            assert!(session.wait_specialized(LIMIT));
        }
        assert_eq!((rejects(&session), installs(&session)), (1, 0), "{failure}");
        assert!(session.is_healthy());
        drop(session);
        assert!(report().misuse.is_empty(), "{failure}");
    }
}

/// The driver refuses a cached image: it is put aside, compiled again, and the session loads.
pub(crate) fn an_image_that_the_driver_refuses_is_compiled_again(_: &[String]) {
    let cache = crate::rig::folder();
    for code in [200, 209] {
        drop(prepared(&cache));
        script(&format!("fail=cuModuleLoadData@1:{code}"));
        let device = card(0).expect("a card");
        let service = service(CacheConfig::at(cache.path()));
        let session = load(&device, &service, strategy("none")).expect("a session");
        run(&session, 8).expect("a run");
        assert_eq!(report().number("compiles"), 1, "{code}");
        assert_eq!(service.cache().stats().quarantined, 1, "{code}");
    }
}

/// Every image is newer than the driver: no endless attempts, and the remedy is in the error.
pub(crate) fn an_image_newer_than_the_driver_is_told(_: &[String]) {
    let cache = crate::rig::folder();
    drop(prepared(&cache));
    script("fail=cuModuleLoadData@*:222");
    let device = card(0).expect("a card");
    let service = service(CacheConfig::at(cache.path()));
    let error = load(&device, &service, strategy("lazy"))
        .map(|_| ())
        .expect_err("nothing loads");
    assert_eq!(error.kind(), ErrorKind::Compile, "{error}");
    assert!(error.to_string().contains("update the driver"), "{error}");
    assert_eq!(report().number("compiles"), 1);
}

/// Hundreds of shapes: variants, modules and graphs stay as few as the session may keep.
pub(crate) fn many_shapes_keep_few_variants(_: &[String]) {
    const KEPT: usize = 4;
    let cache = crate::rig::folder();
    let (device, service) = prepared(&cache);
    let options = SessionOptions {
        max_variants: KEPT,
        ..strategy("eager")
    };
    let session = load(&device, &service, options).expect("a session");
    let mut peak = std::collections::BTreeMap::new();
    let mut early = std::collections::BTreeMap::new();
    for n in 1..=150 {
        run(&session, n).expect("a run");
        let alive = report().alive;
        for (kind, count) in alive {
            let most: &mut u64 = peak.entry(kind).or_default();
            *most = count.max(*most);
        }
        if n == 30 {
            early = peak.clone();
        }
    }
    assert!(installs(&session) > 3 * KEPT, "{}", installs(&session));
    assert!(session.stats().programs <= KEPT as u64 + 1);
    for (kind, most) in &peak {
        let then = early.get(kind).copied().unwrap_or(0);
        assert!(
            *most <= then + then / 4 + 4,
            "{kind}: {then} after 30 shapes, {most} after 150"
        );
    }
}

/// Two shapes in turn: each is compiled once, once more when it is planned anew because it stays hot, and once more when its
/// tiles are timed.
pub(crate) fn two_shapes_in_turn_compile_once(_: &[String]) {
    let cache = crate::rig::folder();
    let (device, service) = prepared(&cache);
    let session = load(&device, &service, strategy("lazy")).expect("a session");
    let round = || {
        for n in [8, 12] {
            run(&session, n).expect("a run");
            assert!(session.wait_specialized(LIMIT));
        }
    };
    // the second tier comes after 32 runs, its tiles are timed after 64 more
    for _ in 0..110 {
        round();
    }
    let (compiles, installed) = (report().number("compiles"), installs(&session));
    for _ in 0..50 {
        round();
    }
    assert_eq!(report().number("compiles"), compiles);
    assert_eq!(installs(&session), installed);
}

/// The process ends while kernels compile: with its own status, at once. With an argument the compiler is the real one,
/// which that many milliseconds are given to begin.
pub(crate) fn the_process_ends_in_the_middle_of_a_compile(arguments: &[String]) {
    let cache = crate::rig::folder();
    script("endless");
    let device = card(0).expect("a card");
    let service = service(CacheConfig::at(cache.path()));
    std::thread::spawn(move || load(&device, &service, strategy("lazy")).map(|_| ()));
    match arguments.first() {
        Some(millis) => {
            let millis = millis.parse().expect("milliseconds");
            std::thread::sleep(Duration::from_millis(millis));
        }
        None => until("it compiles", LIMIT, || report().number("compiles") > 0),
    }
    // destructors of this frame do not run, so the folder is removed here
    let _ = std::fs::remove_dir_all(cache.path());
    std::process::exit(7);
}

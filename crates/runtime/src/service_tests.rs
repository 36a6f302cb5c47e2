//! Compile times that are stretched, measured. Replays need no compiler: the cache is filled by hand.

use std::io::Write as _;
use std::path::Path;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use bespoke_cache::{Metadata, Mode};
use bespoke_device::{Arch, DeviceProps};
use bespoke_ir::op::Map;
use bespoke_ir::{DType, Expr, Graph, TensorType, UnaryOp};

use bespoke_templates::KernelSpec;

use super::*;

const ARCH: Arch = Arch::sm(89);

/// The request for the generic kernel of `op(x)`.
fn request(op: UnaryOp) -> Request {
    let mut g = Graph::new("one");
    let x = g.add_input("x", TensorType::new(DType::F32, vec![8.into()]));
    let map = Map::new(Expr::unary(op, DType::F32));
    let y = g.add1("y", map, &[x]).unwrap();
    g.add_output(y);
    let plan = bespoke_plan::plan(&g).unwrap();
    let props = DeviceProps::preset(ARCH);
    let template = plan.steps[0].template.clone();
    Request::new(&KernelSpec::generic(template, &props), &props, ARCH)
}

/// A service with one compile thread and the cache of a folder.
fn service(folder: &Path, factor: f64) -> Arc<CompileService> {
    let options = ServiceOptions {
        cache: CacheConfig::at(folder.join("cache")),
        workers: Some(1),
        compile_cost: CompileCost::new(factor).unwrap(),
        ..ServiceOptions::default()
    };
    CompileService::new(options).unwrap()
}

/// Leaves a kernel in the cache of a folder as if a process had compiled it in so many microseconds.
fn leave(folder: &Path, request: &Request, micros: u64) {
    let service = service(folder, 1.0);
    let build = service.nvrtc().map_or(String::new(), |n| n.build().into());
    let metadata = Metadata {
        compile_micros: micros,
        provenance: build,
        ..Metadata::default()
    };
    let put = service.cache().put(request.preimage(), &metadata, b"cubin");
    assert!(
        matches!(put, bespoke_cache::PutOutcome::Stored(_)),
        "{put:?}"
    );
}

/// Asks for a kernel; its answer comes with the name that it is given here.
fn ask(
    service: &CompileService,
    request: Request,
    priority: i64,
    name: &'static str,
    send: &mpsc::Sender<(&'static str, Answer)>,
) -> Ticket {
    let send = send.clone();
    service.submit(request, priority, move |answer| {
        send.send((name, answer)).unwrap();
    })
}

/// The next answer; fails rather than waits for ever.
fn next(receive: &Receiver<(&'static str, Answer)>) -> (&'static str, Answer) {
    receive.recv_timeout(Duration::from_secs(30)).unwrap()
}

/// Waits until so many jobs run.
fn wait_running(service: &CompileService, jobs: usize) {
    let start = Instant::now();
    while service.pool.stats().running < jobs || service.pool.stats().queued > 0 {
        assert!(start.elapsed() < Duration::from_secs(30));
        std::thread::yield_now();
    }
}

fn one(service: &CompileService, request: Request) -> (Answer, Duration) {
    let start = Instant::now();
    let (answers, _) = service.get_all(vec![request], 0, |_| {});
    (answers.into_iter().next().unwrap(), start.elapsed())
}

#[test]
fn a_replay_takes_its_part_of_the_recorded_time_once() {
    let folder = tempfile::tempdir().unwrap();
    leave(folder.path(), &request(UnaryOp::Neg), 800_000);
    let service = service(folder.path(), 0.25);
    let _ = service.nvrtc();
    let (answer, took) = one(&service, request(UnaryOp::Neg));
    let ready = answer.unwrap();
    assert_eq!((ready.origin, ready.micros), (Origin::Replayed, 200_000));
    assert_eq!((ready.made_in, &ready.cubin[..]), (800_000, &b"cubin"[..]));
    assert_eq!(ready.stretched, CompileCost::new(0.25).ok());
    assert!(took >= Duration::from_millis(200), "{took:?}");
    assert!(took < Duration::from_millis(700), "{took:?}");

    let again = one(&service, request(UnaryOp::Neg)).0.unwrap();
    assert_eq!((again.origin, again.micros), (Origin::Memory, 0));
    assert_eq!((again.stretched, again.made_in), (None, 800_000));
    let stats = service.stats();
    assert_eq!((stats.replayed, stats.stretched), (1, 1));
    assert_eq!((stats.compiled, stats.cache_hits), (0, 0));
    assert_eq!(stats.compile_micros, 200_000);
}

#[test]
fn what_was_never_compiled_cannot_be_replayed() {
    let folder = tempfile::tempdir().unwrap();
    let service = service(folder.path(), 0.5);
    let error = one(&service, request(UnaryOp::Neg)).0.unwrap_err();
    let words = error.to_string();
    assert!(matches!(error, CompileError::NotRecorded { .. }), "{words}");
    for part in ["pointwise", "absent", "×0.5", "without a compile cost"] {
        assert!(words.contains(part), "`{part}` is missing: {words}");
    }
    assert_eq!((service.stats().failed, service.stats().compiled), (1, 0));
}

#[test]
fn a_hit_is_not_stretched() {
    let folder = tempfile::tempdir().unwrap();
    leave(folder.path(), &request(UnaryOp::Neg), 3_600_000_000);
    let ready = one(&service(folder.path(), 100.0), request(UnaryOp::Neg)).0;
    let ready = ready.unwrap();
    assert_eq!((ready.origin, ready.micros), (Origin::Cache, 0));
    assert_eq!(ready.stretched, None);
}

#[test]
fn a_sleeping_compile_is_joined_and_called_off_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let long = request(UnaryOp::Neg);
    leave(folder.path(), &long, 10_000_000_000);
    for op in [UnaryOp::Abs, UnaryOp::Exp] {
        leave(folder.path(), &request(op), 10);
    }
    let service = service(folder.path(), 0.1);
    let _ = service.nvrtc();
    let (send, receive) = mpsc::channel();
    let first = ask(&service, long.clone(), 0, "first", &send);
    wait_running(&service, 1);
    let second = ask(&service, long.clone(), 0, "second", &send);
    assert_eq!(service.pool.stats().joined, 1);
    ask(&service, request(UnaryOp::Abs), 1, "low", &send);
    ask(&service, request(UnaryOp::Exp), 2, "high", &send);

    first.cancel();
    let (name, answer) = next(&receive);
    assert!(matches!(
        (name, answer),
        ("first", Err(CompileError::Cancelled(_)))
    ));
    // the other one still wants it
    assert_eq!(service.pool.stats().running, 1);
    let start = Instant::now();
    second.cancel();
    let names = [next(&receive), next(&receive), next(&receive)].map(|(name, _)| name);
    assert!(
        start.elapsed() < Duration::from_secs(1),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(names, ["second", "high", "low"]);
    assert_eq!(
        service.stats().replayed,
        2,
        "what was called off is not kept"
    );
}

#[test]
fn a_service_is_dropped_during_a_sleep() {
    let folder = tempfile::tempdir().unwrap();
    leave(folder.path(), &request(UnaryOp::Neg), 10_000_000_000);
    let service = service(folder.path(), 0.1);
    let (send, receive) = mpsc::channel();
    ask(&service, request(UnaryOp::Neg), 0, "long", &send);
    wait_running(&service, 1);
    let start = Instant::now();
    drop(service);
    assert!(
        start.elapsed() < Duration::from_secs(1),
        "{:?}",
        start.elapsed()
    );
    assert!(matches!(next(&receive).1, Err(CompileError::Cancelled(_))));
}

#[test]
fn a_stretched_compile_takes_the_factor_times_what_it_took() {
    let folder = tempfile::tempdir().unwrap();
    let patient = service(folder.path(), 5.0);
    if let Err(e) = patient.nvrtc() {
        // past the harness, which swallows what tests print
        let _ = writeln!(std::io::stderr(), "skipped: a stretched compile: {e}");
        return;
    }
    let (answer, took) = one(&patient, request(UnaryOp::Neg));
    let ready = answer.unwrap();
    assert_eq!(ready.origin, Origin::Compiled);
    assert!(ready.made_in > 0 && ready.micros == ready.made_in * 5);
    assert_eq!(ready.stretched, CompileCost::new(5.0).ok());
    let measured = took.as_micros() as f64 / ready.made_in as f64;
    // the sleep is exact up to the scheduler; a busy machine makes it longer, never shorter
    assert!((5.0..15.0).contains(&measured), "×{measured}");
    let stats = patient.stats();
    assert_eq!((stats.compiled, stats.stretched), (1, 1));
    assert_eq!(stats.compile_micros, ready.micros);
    // the cache holds the truth
    let build = patient.nvrtc().unwrap().build().to_owned();
    let entry = patient.cache().get(&ready.key, Some(&build)).hit().unwrap();
    assert_eq!(entry.metadata.compile_micros, ready.made_in);

    // called off while it sleeps, or before: it is nowhere
    let slow = service(folder.path(), 100.0);
    let (send, receive) = mpsc::channel();
    let ticket = ask(&slow, request(UnaryOp::Exp), 0, "slow", &send);
    wait_running(&slow, 1);
    std::thread::sleep(Duration::from_micros(ready.made_in * 3));
    ticket.cancel();
    assert!(matches!(next(&receive).1, Err(CompileError::Cancelled(_))));
    assert!(slow.pool.wait_idle(Duration::from_secs(10)));
    assert_eq!(slow.stats().compiled, 0);
    let off = CacheConfig {
        mode: Mode::Ro,
        ..CacheConfig::at(folder.path().join("cache"))
    };
    let key = request(UnaryOp::Exp).key();
    assert!(Cache::open(off).get(&key, Some(&build)).hit().is_none());
}

//! What sessions leave to the next: second tiers that are there at once, with nothing compiled.

mod hot;
mod wrapped;

use std::io::Write as _;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use bespoke_cache::{CacheConfig, Mode};
use bespoke_device::Arch;
use bespoke_ir::op::Map;
use bespoke_ir::{DType, Expr, Graph, TensorType, UnaryOp};
use bespoke_runtime::{CompileService, EventKind, ServiceOptions, Session, SessionOptions};
use hot::{SOON, close, extent, heat, host, kept, model, options, run, service, settled};

/// Of shapes, programs and second tiers: how many were known, and asked for at the beginning.
fn recalled(session: &Session) -> Option<(usize, usize, usize)> {
    session.events().into_iter().find_map(|e| match e.kind {
        EventKind::Recall {
            known,
            wished,
            second_tiers,
        } => Some((known, wished, second_tiers)),
        _ => None,
    })
}

#[test]
fn a_session_begins_with_the_second_tiers_of_earlier_ones() {
    let dir = tempfile::tempdir().expect("a folder");
    let on_cache = |options| {
        let service = service(Mode::Rw, Some(&dir));
        Session::from_graph(model(), host(None), service, options).expect("a session")
    };
    let first = on_cache(options(SOON));
    let (report, expected) = heat(&first, 1, 5);
    assert_eq!(report.tier, 2);
    run(&first, 3, 4);
    settled(&first);
    drop(first);

    // seven runs are not enough for `lazy`: what counts is that it was there; and a session without runs changes nothing
    for runs in [0, 2, 1] {
        let session = on_cache(options("lazy"));
        assert_eq!(recalled(&session), Some((2, 2, 1)));
        if runs == 2 {
            // nobody waits for it, and the first tier is there before
            let (report, actual) = run(&session, 1, 5);
            assert!((1..=2).contains(&report.tier), "{}", report.tier);
            assert!(close(&actual, &expected));
        }
        settled(&session);
        if runs > 0 {
            let (report, actual) = run(&session, 1, 5);
            assert_eq!(report.tier, 2, "after {runs} runs");
            assert!(close(&actual, &expected));
            assert_eq!(run(&session, 3, 4).0.tier, 1, "which had none");
        }
        let stats = session.stats();
        assert_eq!((stats.second_tiers, stats.kernels_compiled), (1, 0));
        let installs = session.events().into_iter().filter_map(|e| match e.kind {
            EventKind::Install { tier, .. } => Some(tier),
            _ => None,
        });
        assert_eq!(installs.collect::<Vec<_>>(), [1, 1, 2]);
    }

    for (strategy, bit_stable) in [("eager", false), ("none", false), ("lazy", true)] {
        let session = on_cache(SessionOptions {
            bit_stable,
            ..options(strategy)
        });
        settled(&session);
        assert!(recalled(&session).is_none_or(|(_, _, second)| second == 0));
        assert_eq!(session.stats().second_tiers, 0, "{strategy}");
        assert_eq!(kept(&session), [""; 0], "{strategy}");
    }
}

/// A place that so many pass; the next one waits until more may, at most for ten seconds.
#[derive(Debug)]
struct Gate(Mutex<usize>, Condvar);

impl Gate {
    fn let_pass(&self, count: usize) {
        *self.0.lock().expect("nobody panics") = count;
        self.1.notify_all();
    }

    fn left(&self) -> usize {
        *self.0.lock().expect("nobody panics")
    }

    fn pass(&self) {
        let (left, long) = (
            self.0.lock().expect("nobody panics"),
            Duration::from_secs(10),
        );
        let passed = self.1.wait_timeout_while(left, long, |left| *left == 0);
        let (mut left, _) = passed.expect("nobody panics");
        *left = left.saturating_sub(1);
    }
}

#[test]
fn neither_loading_nor_a_run_waits_for_a_second_tier_that_is_recalled() {
    let dir = tempfile::tempdir().expect("a folder");
    let gate = Arc::new(Gate(Mutex::new(usize::MAX), Condvar::new()));
    // every kernel that is loaded passes the gate
    let device = wrapped::Wrapped::new(host(None), {
        let gate = gate.clone();
        move |image| {
            gate.pass();
            image.twin.clone()
        }
    });
    let open = |strategy| {
        let service = service(Mode::Rw, Some(&dir));
        let opened = Session::from_graph(model(), device.clone(), service, options(strategy));
        opened.expect("a session")
    };
    let session = open("lazy");
    run(&session, 1, 5);
    settled(&session);
    let first_tier = usize::MAX - gate.left();
    drop(session);
    assert_eq!(heat(&open(SOON), 1, 5).0.tier, 2);

    gate.let_pass(first_tier);
    let session = open("lazy");
    let (report, expected) = run(&session, 1, 5);
    assert_eq!((report.tier, report.generic_kernels), (1, 0));
    // loading would wait two seconds for what is recalled
    let times = session.events().into_iter().filter_map(|e| match e.kind {
        EventKind::Recall { .. } => Some(e.at_us),
        EventKind::Run { begin_us, .. } => Some(begin_us),
        _ => None,
    });
    let times: Vec<u64> = times.collect();
    assert!(times[1] - times[0] < 1_900_000, "it waited: {times:?} µs");
    assert!(
        !session.wait_specialized(Duration::from_millis(20)),
        "it is pending"
    );
    gate.let_pass(usize::MAX);
    settled(&session);
    let (report, actual) = run(&session, 1, 5);
    assert_eq!(report.tier, 2);
    assert!(close(&actual, &expected));
}

#[test]
fn a_second_tier_of_no_use_is_not_planned_by_the_next_session() {
    let dir = tempfile::tempdir().expect("a folder");
    let exp = || {
        let mut g = Graph::new("exp");
        let n = extent(&mut g, "N", 0);
        let x = TensorType::new(DType::F32, vec![n, 8.into(), 4.into()]);
        let x = g.add_input("x", x);
        let exp = Map::new(Expr::unary(UnaryOp::Exp, DType::F32));
        let y = g.add1("exp", exp, &[x]).expect("exp");
        g.add_output(y);
        g
    };
    let session = || {
        let service = service(Mode::Rw, Some(&dir));
        Session::from_graph(exp(), host(None), service, options(SOON)).expect("a session")
    };
    let first = session();
    assert_eq!(heat(&first, 2, 4).0.tier, 1);
    assert_eq!(kept(&first), ["same-kernels"]);
    drop(first);

    let second = session();
    assert_eq!(recalled(&second), Some((1, 1, 0)));
    assert_eq!(heat(&second, 2, 4).0.tier, 1);
    assert_eq!(kept(&second), [""; 0], "it is known");
    assert_eq!(heat(&second, 1, 4).0.tier, 1);
    assert_eq!(
        kept(&second),
        ["same-kernels"],
        "of another shape it is not"
    );
}

#[test]
fn a_cache_that_holds_only_the_first_tier_is_no_failure() {
    let dir = tempfile::tempdir().expect("a folder");
    let device = host(Some(Arch::sm(89)));
    let service = |error_on_cache_miss| {
        CompileService::new(ServiceOptions {
            cache: CacheConfig::at(dir.path()),
            workers: Some(2),
            error_on_cache_miss,
            ..ServiceOptions::default()
        })
        .expect("a service")
    };
    let first = service(false);
    if first.nvrtc().is_err() {
        let _ = writeln!(
            std::io::stderr(),
            "skipped: a_cache_that_holds_only_the_first_tier_is_no_failure: no NVRTC"
        );
        return;
    }
    let open = |service, strategy| {
        let options = options(strategy);
        Session::from_graph(model(), device.clone(), service, options).expect("a session")
    };
    let session = open(first, "eager");
    (0..40).for_each(|_| drop(run(&session, 1, 5)));
    settled(&session);
    drop(session);

    // where nothing can be compiled the class keeps its first tier, whether its runs say so or those before
    for learn in [false, true] {
        let told = SessionOptions {
            learn,
            ..options(SOON)
        };
        let session = Session::from_graph(model(), device.clone(), service(true), told);
        let session = session.expect("a session");
        settled(&session);
        assert_eq!(kept(&session).len(), usize::from(learn));
        assert_eq!(recalled(&session), learn.then_some((1, 1, 1)));
        assert_eq!(heat(&session, 1, 5).0.tier, 1);
        assert_eq!(kept(&session), ["not-cached"]);
        let stats = session.stats();
        assert_eq!((stats.rejects, stats.kernels_failed), (0, 0));
    }

    // where it can be, earlier runs are no reason to, and those of the session are
    let session = open(service(false), SOON);
    settled(&session);
    let stats = session.stats();
    assert_eq!((stats.cancels, stats.kernels_compiled), (1, 0));
    assert_eq!(heat(&session, 1, 5).0.tier, 2);
    let stats = session.stats();
    assert!(stats.kernels_compiled > 0 && kept(&session).is_empty());
    drop(session);

    // and then it is there without a compiler
    let session = open(service(true), "lazy");
    settled(&session);
    assert_eq!(run(&session, 1, 5).0.tier, 2);
    let stats = session.stats();
    assert_eq!((stats.second_tiers, stats.kernels_compiled), (1, 0));
}

//! Waiting, cancelling, and the caller's stream.

use super::*;
use crate::patience::CancelToken;
use crate::service::ServiceOptions;
use bespoke_cache::{CacheConfig, Mode};
use bespoke_host::{HostDevice, HostOptions};
use bespoke_ir::op::Map;
use bespoke_ir::{DType, Expr, TensorType, UnaryOp};

fn session(options: SessionOptions) -> Session {
    let mut g = Graph::new("negate");
    let x = g.add_input("x", TensorType::new(DType::F32, vec![4.into()]));
    let map = Map::new(Expr::unary(UnaryOp::Neg, DType::F32));
    let y = g.add1("y", map, &[x]).unwrap();
    g.add_output(y);
    let device = HostDevice::new(HostOptions {
        threads: 1,
        target: None,
        poison: false,
    });
    let service = CompileService::new(ServiceOptions {
        cache: CacheConfig {
            mode: Mode::Off,
            ..CacheConfig::default()
        },
        ..ServiceOptions::default()
    });
    Session::from_graph(g, device, service.unwrap(), options).unwrap()
}

fn run(session: &Session, options: &RunOptions) -> Result<Vec<f64>, Error> {
    let x = Tensor::from_f32(&[4], &[1.0, -2.0, 3.0, 4.0]).unwrap();
    let result = session.run_with(&[("x", &x)], options)?;
    Ok(result.outputs[0].1.to_f64())
}

const NEGATED: [f64; 4] = [-1.0, 2.0, -3.0, -4.0];

#[test]
fn a_run_waits_for_a_lane_no_longer_than_it_may() {
    let session = session(SessionOptions {
        max_lanes: 1,
        ..SessionOptions::default()
    });
    let lane = session.core.lane(Patience::default()).unwrap();

    let soon = RunOptions {
        deadline: Some(Instant::now() + Duration::from_millis(5)),
        ..RunOptions::default()
    };
    let late = run(&session, &soon).unwrap_err();
    assert!(matches!(late, Error::Deadline { .. }), "{late}");
    assert_eq!(late.kind(), crate::ErrorKind::Timeout);

    let token = CancelToken::new();
    let patient = RunOptions {
        cancel: Some(token.clone()),
        ..RunOptions::default()
    };
    std::thread::scope(|threads| {
        let waiting = threads.spawn(|| run(&session, &patient));
        token.cancel();
        let cancelled = waiting.join().unwrap().unwrap_err();
        assert!(matches!(cancelled, Error::Cancelled { .. }), "{cancelled}");
    });

    std::thread::scope(|threads| {
        let waiting = threads.spawn(|| run(&session, &RunOptions::default()));
        session.core.give_back(lane);
        assert_eq!(waiting.join().unwrap().unwrap(), NEGATED);
    });
    let again = run(&session, &patient).unwrap_err();
    assert!(
        matches!(again, Error::Cancelled { .. }),
        "a token stays cancelled"
    );
}

#[test]
fn a_blocking_strategy_gives_up_too() {
    let session = session(SessionOptions {
        strategy: "eager".into(),
        ..SessionOptions::default()
    });
    let passed = RunOptions {
        deadline: Some(Instant::now()),
        ..RunOptions::default()
    };
    assert!(matches!(
        run(&session, &passed),
        Err(Error::Deadline { .. })
    ));
    assert_eq!(session.stats().runs, 0, "it did not count as a run");
    assert_eq!(run(&session, &RunOptions::default()).unwrap(), NEGATED);
}

#[test]
fn a_callers_stream_must_be_of_the_device() {
    let session = session(SessionOptions::default());
    let on = |stream| RunOptions {
        stream: Some(stream),
        ..RunOptions::default()
    };
    assert_eq!(run(&session, &on(0)).unwrap(), NEGATED);
    let error = run(&session, &on(0x50)).unwrap_err();
    assert!(error.to_string().contains("0x50"), "{error}");
    assert_eq!(run(&session, &on(0)).unwrap(), NEGATED, "the lane is fine");
}

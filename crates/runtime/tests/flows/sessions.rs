//! What a session of several segments tells and promises.

use std::time::{Duration, Instant};

use bespoke_ir::DType;
use bespoke_runtime::{
    Bindings, Error, EventKind, GraphUse, RunOptions, SessionOptions, TensorView,
};

use crate::model::{Net, body, f32, i64, options};

/// `x` doubled `m` times.
fn powers() -> Net {
    let inner = Net::new("body")
        .takes("i c s")
        .node("go", "Identity", "c")
        .node("t", "Add", "s s")
        .gives("go t");
    Net::new("powers")
        .input("x", DType::F32, &["N"])
        .input("m", DType::I64, &[])
        .with("y", "Loop", "m _ x", &[body("body", inner)])
        .gives("y")
}

#[test]
fn a_run_says_of_how_many_segments_it_was() {
    let session = powers().session(options()).unwrap();
    let x = f32(&[2], &[1.0, 3.0]);
    let run = |m: i64| session.run(&[("x", &x), ("m", &i64(&[], &[m]))]).unwrap();
    let result = run(3);
    assert_eq!(result.outputs[0].1, f32(&[2], &[8.0, 24.0]));
    assert_eq!(result.report.segments, 3);
    assert_eq!(result.report.graph, GraphUse::Replayed);
    assert_eq!(result.report.shape, "x:2,m:");
    assert_eq!(run(0).report.segments, 0);
    let stats = session.stats();
    assert_eq!((stats.runs, stats.segment_runs, stats.segments), (2, 3, 1));
    assert_eq!(stats.cuts.into_iter().collect::<Vec<_>>(), [("loop", 1)]);
    let events = session.events();
    let count = |f: fn(&EventKind) -> bool| events.iter().filter(|e| f(&e.kind)).count();
    assert_eq!(count(|e| matches!(e, EventKind::Started { .. })), 1);
    assert_eq!(count(|e| matches!(e, EventKind::Loaded { .. })), 1);
    assert_eq!(count(|e| matches!(e, EventKind::Run { .. })), 2);
    assert_eq!(count(|e| matches!(e, EventKind::SegmentRun { .. })), 3);
    let told = events.iter().find_map(|e| match &e.kind {
        EventKind::Segmented { segments, cuts } => Some((*segments, cuts[0].node.clone())),
        _ => None,
    });
    assert_eq!(told, Some((1, "Loop y".to_owned())));
    assert!(session.is_healthy() && session.plans().len() == 1);
}

#[test]
fn what_needs_one_graph_says_why_there_is_none() {
    let error = powers()
        .session(SessionOptions {
            require_graph: true,
            ..options()
        })
        .unwrap_err();
    assert!(
        matches!(error, Error::Segmented { segments: 1, .. }),
        "{error:?}"
    );
    assert!(error.to_string().contains("`Loop y` loops"), "{error}");
    let session = powers().session(options()).unwrap();
    let error = session.profile(&Bindings::default()).unwrap_err();
    assert!(matches!(error, Error::Segmented { .. }), "{error:?}");
}

#[test]
fn segments_are_specialised_like_models() {
    let net = powers();
    let session = net
        .session(SessionOptions {
            strategy: "lazy".into(),
            ..SessionOptions::default()
        })
        .unwrap();
    let (x, m) = (f32(&[64], &[1.0; 64]), i64(&[], &[20]));
    let run = || session.run(&[("x", &x), ("m", &m)]).unwrap();
    let first = run().report;
    assert_eq!(first.generic_kernels + first.specialized_kernels, 20);
    assert!(session.wait_specialized(Duration::from_secs(60)));
    let after = run();
    assert_eq!(
        (
            after.report.generic_kernels,
            after.report.specialized_kernels
        ),
        (0, 20)
    );
    assert_eq!(after.outputs[0].1, f32(&[64], &[1048576.0; 64]));
    let installed = session
        .events()
        .into_iter()
        .filter(|e| matches!(e.kind, EventKind::Install { .. }) && e.segment == Some(0));
    assert!(installed.count() > 0);

    let session = net.session(options()).unwrap();
    session
        .prewarm(&[vec![("x".into(), vec![64]), ("m".into(), vec![])]])
        .unwrap();
    assert!(session.wait_specialized(Duration::from_secs(60)));
}

#[test]
fn the_callers_memory_is_read_and_written_in_place() {
    let session = powers().session(options()).unwrap();
    let device = session.device().clone();
    let stream = device.stream().unwrap();
    let place = |bytes: &[u8], dtype, dims: &[i64]| {
        let memory = device.alloc("test", bytes.len().max(1) as u64).unwrap();
        stream.write(memory.ptr(), bytes).unwrap();
        let view = TensorView {
            pointer: memory.ptr(),
            dtype,
            dims: dims.to_vec(),
            strides: None,
            capacity: bytes.len() as u64,
        };
        (memory, view)
    };
    let x = f32(&[2], &[1.0, 3.0]);
    let m = i64(&[], &[2]);
    let (_x, x_view) = place(x.bytes(), DType::F32, &[2]);
    let (_m, m_view) = place(m.bytes(), DType::I64, &[]);
    let (_y, y_view) = place(&[0; 8], DType::F32, &[2]);
    let mut bindings = Bindings {
        inputs: vec![("x".into(), x_view), ("m".into(), m_view)],
        outputs: vec![("y".into(), y_view.clone())],
    };
    session.run_into(&bindings, &RunOptions::default()).unwrap();
    let mut bytes = [0; 8];
    stream.read(&mut bytes, y_view.pointer).unwrap();
    assert_eq!(bytes, f32(&[2], &[4.0, 12.0]).bytes());
    bindings.outputs[0].1.capacity = 4;
    let error = session
        .run_into(&bindings, &RunOptions::default())
        .unwrap_err();
    assert!(matches!(error, Error::Buffer { .. }), "{error:?}");
    bindings.outputs.clear();
    session.run_into(&bindings, &RunOptions::default()).unwrap();
    bindings.outputs.push(("z".into(), y_view));
    let error = session
        .run_into(&bindings, &RunOptions::default())
        .unwrap_err();
    assert!(error.to_string().contains("no output `z`"), "{error}");
}

#[test]
fn a_deadline_ends_a_loop_without_end() {
    let session = powers().session(options()).unwrap();
    let (x, m) = (f32(&[2], &[1.0, 3.0]), i64(&[], &[i64::MAX]));
    let options = RunOptions {
        deadline: Some(Instant::now() + Duration::from_millis(100)),
        ..RunOptions::default()
    };
    let error = session
        .run_with(&[("x", &x), ("m", &m)], &options)
        .unwrap_err();
    assert!(matches!(error, Error::Deadline { .. }), "{error:?}");
    // and the session goes on
    let m = i64(&[], &[1]);
    assert_eq!(
        session.run(&[("x", &x), ("m", &m)]).unwrap().outputs[0].1,
        f32(&[2], &[2.0, 6.0])
    );
}

#[test]
fn buffers_are_used_again() {
    let session = powers().session(options()).unwrap();
    let (x, m) = (f32(&[1000], &[1.0; 1000]), i64(&[], &[5]));
    let run = || session.run(&[("x", &x), ("m", &m)]).unwrap();
    run();
    let held = session.stats().memory_bytes;
    for _ in 0..5 {
        run();
    }
    assert_eq!(session.stats().memory_bytes, held);
}

#[test]
fn runs_at_the_same_time_do_not_meet() {
    let session = powers().session(options()).unwrap();
    std::thread::scope(|scope| {
        for k in 0..4 {
            let session = &session;
            scope.spawn(move || {
                let (x, m) = (f32(&[3], &[k as f32; 3]), i64(&[], &[k]));
                for _ in 0..20 {
                    let result = session.run(&[("x", &x), ("m", &m)]).unwrap();
                    let value = (k << k) as f32;
                    assert_eq!(result.outputs[0].1, f32(&[3], &[value; 3]));
                }
            });
        }
    });
}

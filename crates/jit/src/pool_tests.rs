//! Tests of the pool with plain closures.

use super::*;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

const LONG: Duration = Duration::from_secs(10);

fn pool(workers: usize) -> CompilePool<u32, u32> {
    patient(workers, LONG)
}

fn patient(workers: usize, patience: Duration) -> CompilePool<u32, u32> {
    CompilePool::new(PoolConfig {
        workers,
        low_priority: true,
        patience,
    })
    .unwrap()
}

/// Occupies a worker until the returned sender is dropped.
fn block(pool: &CompilePool<u32, u32>, key: u32) -> mpsc::Sender<()> {
    let (hold, held) = mpsc::channel::<()>();
    let (started, wait) = mpsc::channel();
    pool.submit(
        key,
        i64::MAX,
        move |_| {
            started.send(()).unwrap();
            let _ = held.recv();
            0
        },
        |_| {},
    );
    wait.recv_timeout(LONG).unwrap();
    hold
}

/// A callback that sends a word for its outcome.
fn tell(to: &mpsc::Sender<String>, name: &str) -> impl FnOnce(Outcome<u32>) + Send + 'static {
    let (to, name) = (to.clone(), name.to_owned());
    move |outcome| {
        let word = match outcome {
            Outcome::Done(value) => format!("{name}={value}"),
            Outcome::Cancelled => format!("{name} cancelled"),
            Outcome::Panicked(message) => format!("{name} panicked: {message}"),
        };
        to.send(word).unwrap();
    }
}

#[test]
fn jobs_start_by_priority_and_then_in_order() {
    let pool = pool(1);
    let hold = block(&pool, 0);
    let (send, receive) = mpsc::channel();
    for (key, priority) in [(1, 0), (2, 5), (3, 5), (4, -1), (5, 9)] {
        pool.submit(key, priority, move |_| key, tell(&send, &format!("k{key}")));
    }
    // Joining raises the job of key 4 above all others.
    pool.submit(4, 100, |_| unreachable!("joined"), tell(&send, "again"));
    assert_eq!(pool.stats().queued, 5);
    drop((hold, send));
    assert_eq!(
        receive.iter().collect::<Vec<_>>(),
        ["k4=4", "again=4", "k5=5", "k2=2", "k3=3", "k1=1"]
    );
}

#[test]
fn one_key_runs_once_however_many_ask() {
    let pool = pool(4);
    let runs = Arc::new(AtomicUsize::new(0));
    let hold = block(&pool, 9);
    let (send, receive) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let runs = Arc::clone(&runs);
                let slow = move |_: &AtomicBool| {
                    std::thread::sleep(Duration::from_millis(100));
                    runs.fetch_add(1, SeqCst) as u32
                };
                pool.submit(1, 0, slow, tell(&send, "x"));
            });
        }
    });
    drop((hold, send));
    assert_eq!(receive.iter().collect::<Vec<_>>(), vec!["x=0"; 8]);
    assert_eq!((runs.load(SeqCst), pool.stats().joined), (1, 7));
    // A finished job is not remembered: that is the cache's task.
    assert!(matches!(pool.run(1, 0, |_| 5), Outcome::Done(value) if *value == 5));
}

#[test]
fn a_queued_job_is_dropped_when_its_last_requester_leaves() {
    let pool = pool(1);
    let hold = block(&pool, 0);
    let (send, receive) = mpsc::channel();
    let first = pool.submit(1, 0, |_| 1, tell(&send, "first"));
    let second = pool.submit(1, 0, |_| 1, tell(&send, "second"));
    first.cancel();
    first.cancel();
    assert_eq!(receive.recv_timeout(LONG).unwrap(), "first cancelled");
    assert!(pool.contains(&1));
    second.cancel();
    assert_eq!(receive.recv_timeout(LONG).unwrap(), "second cancelled");
    assert!(!pool.contains(&1));
    assert_eq!((pool.stats().queued, pool.stats().cancelled), (0, 2));
    drop(hold);
    assert!(pool.wait_idle(LONG));
    assert_eq!(pool.stats().completed, 1, "only the blocking job ran");
}

#[test]
fn a_running_job_is_told_to_stop_and_a_new_request_does_not_join_it() {
    let pool = pool(2);
    let (send, receive) = mpsc::channel();
    let (started, wait) = mpsc::channel();
    let endless = move |cancel: &AtomicBool| {
        started.send(()).unwrap();
        while !cancel.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(1));
        }
        1
    };
    let ticket = pool.submit(1, 0, endless, tell(&send, "old"));
    wait.recv_timeout(LONG).unwrap();
    ticket.cancel();
    assert_eq!(receive.recv_timeout(LONG).unwrap(), "old cancelled");
    assert!(matches!(pool.run(1, 0, |_| 2), Outcome::Done(value) if *value == 2));
    assert!(pool.wait_idle(LONG));
    ticket.cancel();
    assert!(receive.try_recv().is_err(), "a request is answered once");
}

#[test]
fn panics_stay_with_their_job() {
    let pool = pool(1);
    assert!(
        matches!(pool.run(1, 0, |_| panic!("boom {}", 1)), Outcome::Panicked(message) if message == "boom 1")
    );
    pool.submit(2, 0, |_| 2, |_| panic!("in the callback"));
    assert!(matches!(pool.run(3, 0, |_| 3), Outcome::Done(value) if *value == 3));
    assert!(pool.wait_idle(LONG));
    assert_eq!(pool.stats().panicked, 2);
}

#[test]
fn callbacks_may_submit_and_cancel() {
    let pool = Arc::new(pool(1));
    let (send, receive) = mpsc::channel();
    let (inner, to) = (Arc::clone(&pool), send.clone());
    pool.submit(
        1,
        0,
        |_| 1,
        move |_| {
            let ticket = inner.submit(2, 0, |_| 2, tell(&to, "two"));
            inner.submit(3, 0, |_| 3, tell(&to, "three"));
            ticket.cancel();
        },
    );
    assert_eq!(receive.recv_timeout(LONG).unwrap(), "two cancelled");
    assert_eq!(receive.recv_timeout(LONG).unwrap(), "three=3");
}

#[test]
fn dropping_answers_everybody_and_waits_no_longer_than_its_patience() {
    let pool = patient(1, Duration::from_millis(100));
    let (send, receive) = mpsc::channel();
    let (started, wait) = mpsc::channel();
    let stubborn = move |_: &AtomicBool| {
        started.send(()).unwrap();
        std::thread::sleep(Duration::from_secs(2));
        0
    };
    pool.submit(1, 0, stubborn, tell(&send, "running"));
    wait.recv_timeout(LONG).unwrap();
    let ticket = pool.submit(2, 0, |_| 0, tell(&send, "queued"));
    let start = Instant::now();
    drop(pool);
    assert!(
        start.elapsed() < Duration::from_secs(1),
        "{:?}",
        start.elapsed()
    );
    ticket.cancel();
    drop(send);
    let answers: Vec<String> = receive.iter().collect();
    assert_eq!(answers, ["running cancelled", "queued cancelled"]);
}

#[test]
fn dropping_waits_for_a_job_that_stops() {
    let pool = pool(1);
    let (send, receive) = mpsc::channel();
    let (started, wait) = mpsc::channel();
    let stopped = Arc::new(AtomicBool::new(false));
    let says = Arc::clone(&stopped);
    let job = move |cancel: &AtomicBool| {
        started.send(()).unwrap();
        while !cancel.load(Ordering::Relaxed) {
            std::thread::yield_now();
        }
        // what a compiler does between its last look at the flag and its end
        std::thread::sleep(Duration::from_millis(400));
        says.store(true, Ordering::Relaxed);
        0
    };
    pool.submit(1, 0, job, tell(&send, "running"));
    wait.recv_timeout(LONG).unwrap();
    drop(pool);
    assert!(stopped.load(Ordering::Relaxed));
    drop(send);
    assert_eq!(receive.iter().collect::<Vec<_>>(), ["running cancelled"]);
}

#[test]
fn dropping_an_idle_pool_joins_its_threads() {
    let pool = pool(3);
    let shared = Arc::clone(&pool.shared);
    assert!(pool.wait_idle(LONG));
    drop(pool);
    assert_eq!(shared.lock().workers, 0);
}

#[test]
fn every_request_is_answered_once_under_random_load() {
    let pool = pool(3);
    let (send, receive) = mpsc::channel();
    let total: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4u32)
            .map(|thread| {
                let (pool, send) = (&pool, send.clone());
                scope.spawn(move || {
                    for round in 0..100u32 {
                        let mix = (thread * 7919 + round * 104_729) % 1000;
                        let ticket = pool.submit(
                            mix % 10,
                            i64::from(mix % 3),
                            move |_| mix,
                            tell(&send, "x"),
                        );
                        if mix % 4 == 0 {
                            ticket.cancel();
                        }
                    }
                    100
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum()
    });
    assert!(pool.wait_idle(LONG));
    drop(send);
    assert_eq!(receive.iter().count(), total);
    let state = pool.shared.lock();
    assert!(
        state.jobs.is_empty()
            && state.open.is_empty()
            && state.queue.is_empty()
            && state.running.is_empty()
    );
}

#[cfg(target_os = "linux")]
#[test]
fn workers_give_way() {
    let nice = || {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        // Fields after the parenthesised name begin with the third; nice is the nineteenth.
        stat.rsplit(") ")
            .next()
            .unwrap()
            .split(' ')
            .nth(16)
            .unwrap()
            .parse::<i64>()
            .unwrap()
    };
    let here = nice();
    let pool: CompilePool<u8, i64> = CompilePool::new(PoolConfig {
        workers: 1,
        low_priority: true,
        patience: LONG,
    })
    .unwrap();
    let Outcome::Done(there) = pool.run(0, 0, move |_| nice()) else {
        panic!()
    };
    assert_eq!(*there, here.max(10));
}

//! A file system that fails, and other processes on the same folder.

use std::path::Path;
use std::time::Duration;

use bespoke::SessionOptions;
use bespoke::cache::{
    Cache, CacheConfig, KeyBuilder, Lookup, Metadata, MissReason, PutOutcome, Stats,
};

use crate::rig::{card, load, run, service, strategy};
use crate::standin::{Report, report, script};

/// Loads and runs twice, lazily, with a cache in this folder. Nothing of the cache can make it fail.
fn session(folder: &Path) -> Stats {
    let device = card(0).expect("a card");
    let service = service(CacheConfig::at(folder));
    let options = SessionOptions {
        learn: true,
        ..strategy("lazy")
    };
    let session = load(&device, &service, options).expect("a session");
    for _ in 0..2 {
        let result = run(&session, 8).expect("a run");
        assert_eq!(result.outputs[0].1.dims(), [1, 8, 64]);
        assert!(session.wait_specialized(Duration::from_secs(20)));
    }
    let result = run(&session, 8).expect("a run");
    assert!(result.report.specialized_kernels > 0);
    service.cache().stats()
}

/// What was stored is whole: no entry of the folder is bad.
fn is_clean(folder: &Path) -> usize {
    let cache = Cache::open(CacheConfig::at(folder));
    let report = cache.verify().expect("a folder");
    assert!(report.bad.is_empty(), "{:?}", report.bad);
    report.ok as usize
}

/// A session on an empty folder and one on what it left, while calls on their files fail as the words say.
fn check(words: &str) -> (Report, Stats) {
    let temp = crate::rig::folder();
    let folder = temp.path().join("cache");
    script(&format!("folder={} {words}", folder.display()));
    let stats = session(&folder);
    session(&folder);
    let seen = report();
    assert!(
        seen.alive.is_empty() && seen.misuse.is_empty(),
        "`{words}`: {seen:?}"
    );
    // a healthy process finds whole entries or none
    script("");
    if folder.exists() {
        is_clean(&folder);
        let again = session(&folder);
        assert_eq!(again.quarantined, 0, "`{words}`: {again:?}");
        is_clean(&folder);
    }
    (seen, stats)
}

/// The N-th call on a file of the cache fails: with a full disk, a broken one, no permission.
pub(crate) fn any_file_call_may_fail(_: &[String]) {
    const POINTS: u64 = 6;
    let (whole, _) = check("");
    assert!(
        whole.number("files") > 50,
        "the file system is not watched: {whole:?}"
    );
    for needed in ["open", "read", "write", "fsync", "rename", "mkdir", "flock"] {
        assert!(whole.files.contains_key(needed), "no {needed}: {whole:?}");
    }
    let mut sessions = 0;
    for code in [
        libc::ENOSPC,
        libc::EIO,
        libc::EACCES,
        libc::EINTR,
        libc::ESTALE,
    ] {
        for (call, &count) in &whole.files {
            for at in [1, 2.min(count), count] {
                check(&format!("file={call}@{at}:{code}"));
                sessions += 1;
            }
        }
        let stride = (whole.number("files") / POINTS).max(1) as usize;
        for at in (1..=whole.number("files")).step_by(stride) {
            check(&format!("file={at}:{code}"));
            sessions += 1;
        }
        // EINTR for ever would be a loop: the C library's callers try again
        if code != libc::EINTR {
            for call in whole.files.keys() {
                let (_, stats) = check(&format!("file={call}@*:{code}"));
                let told = !stats.put_skips.is_empty() || stats.misses.contains_key("io");
                let needed = ["open", "write", "fsync", "rename"].contains(&call.as_str());
                assert!(told || !needed, "{call}: nothing was counted: {stats:?}");
                sessions += 1;
            }
        }
    }
    println!(
        "{sessions} sessions of {} file calls",
        whole.number("files")
    );
}

/// Writes that take half of what they are given.
pub(crate) fn a_short_write_is_completed(_: &[String]) {
    let temp = crate::rig::folder();
    let folder = temp.path().join("cache");
    script(&format!(
        "folder={} file=write@1:0 file=write@4:0",
        folder.display()
    ));
    let stats = session(&folder);
    assert_eq!(report().number("failed"), 2);
    assert!(stats.put_skips.is_empty(), "{stats:?}");
    assert_eq!(is_clean(&folder) as u64, stats.puts);
}

/// Somebody removes the folder between two runs.
pub(crate) fn the_folder_may_vanish(_: &[String]) {
    let temp = crate::rig::folder();
    let folder = temp.path().join("cache");
    script("");
    let device = card(0).expect("a card");
    let service = service(CacheConfig::at(&folder));
    let session = load(&device, &service, strategy("lazy")).expect("a session");
    for n in [8, 12, 16] {
        std::fs::remove_dir_all(&folder).expect("a folder to remove");
        run(&session, n).expect("a run");
        assert!(session.wait_specialized(Duration::from_secs(20)));
        run(&session, n).expect("a run");
        // it is made again with the next entry
        assert!(is_clean(&folder) > 0);
    }
}

/// One process of several that start on one folder; prints how many kernels it compiled and how many it found.
pub(crate) fn a_cold_start(arguments: &[String]) {
    let folder = Path::new(&arguments[0]);
    // as long as a real compile of a small kernel
    script("slow=compile:15000");
    session(folder);
    println!("compiled {}", report().number("compiles"));
}

fn entry(i: u64) -> (bespoke::cache::Preimage, Metadata, Vec<u8>) {
    let source = format!("source {i}");
    let preimage = KeyBuilder::kernel(&source, &["--std=c++17"], "sm_90", "1").finish();
    let byte = blake3::hash(source.as_bytes()).as_bytes()[0];
    (
        preimage,
        Metadata::default(),
        vec![byte; 40_000 + 1000 * i as usize],
    )
}

/// Stores and reads entries until it is killed.
pub(crate) fn a_writer(arguments: &[String]) {
    let cache = Cache::open(CacheConfig::at(&arguments[0]));
    println!("ready");
    for i in (0..16).cycle() {
        let (preimage, metadata, payload) = entry(i);
        let outcome = cache.put(&preimage, &metadata, &payload);
        assert!(matches!(outcome, PutOutcome::Stored(_)), "{outcome:?}");
        let key = preimage.key().expect("a key");
        match cache.get(&key, None) {
            Lookup::Hit(found) => assert_eq!(found.payload, payload),
            Lookup::Miss(reason) => panic!("{reason:?}"),
        }
    }
}

/// One process of several whose common folder may hold next to nothing.
pub(crate) fn a_tiny_limit(arguments: &[String]) {
    let cache = Cache::open(CacheConfig {
        max_entries: 2,
        max_bytes: 100_000,
        ..CacheConfig::at(&arguments[0])
    });
    for i in (0..16).cycle().take(160) {
        let (preimage, metadata, payload) = entry(i);
        let key = preimage.key().expect("a key");
        match cache.get(&key, None) {
            Lookup::Hit(found) => assert_eq!(found.payload, payload),
            Lookup::Miss(reason) => assert_eq!(reason, MissReason::Absent),
        }
        let outcome = cache.put(&preimage, &metadata, &payload);
        assert!(matches!(outcome, PutOutcome::Stored(_)), "{outcome:?}");
        cache.gc().expect("a folder");
    }
}

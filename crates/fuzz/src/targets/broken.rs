//! Target `broken`: breaks in every way there is, so that it can be tested that the fuzzer notices.
//!
//! It is no part of the project's checks; nothing is wrong if it fails.

use std::path::Path;
use std::thread;
use std::time::Duration;

use crate::random::Rng;
use crate::target::{Seen, Target};

/// The target.
struct Broken;

/// Makes the target.
pub(crate) fn make(_: &Path) -> Result<Box<dyn Target>, String> {
    Ok(Box::new(Broken))
}

/// Uses the stack until it ends.
fn dig(depth: u64) -> u64 {
    let block = std::hint::black_box([depth; 64]);
    if depth == u64::MAX {
        return 0;
    }
    dig(depth + 1) + block[7]
}

impl Target for Broken {
    fn seeds(&mut self, _: &mut Rng) -> Vec<Vec<u8>> {
        vec![
            b"good".to_vec(),
            b"much around P and Q, as in found inputs".to_vec(),
        ]
    }

    fn run(&mut self, input: &[u8]) -> Result<Seen, String> {
        let has = |letter: u8| input.contains(&letter);
        assert!(!(has(b'P') && has(b'Q')), "P and Q");
        if input.starts_with(b"abort") {
            std::process::abort();
        }
        if input.starts_with(b"stack") {
            return Err(format!("the stack has no end: {}", dig(0)));
        }
        if input.starts_with(b"absurd") {
            let block = vec![1u8; 1 << 34];
            return Ok(vec![format!("{}", std::hint::black_box(block).len())]);
        }
        if input.starts_with(b"memory") {
            let block = vec![1u8; 200 << 20];
            return Ok(vec![format!("{}", std::hint::black_box(block).len())]);
        }
        if input.starts_with(b"promise") {
            return Err("the target says so".into());
        }
        if input.starts_with(b"hang") {
            thread::sleep(Duration::from_secs(3600));
        }
        Ok(Vec::new())
    }
}

//! The stand-in's controls, looked up in the library that the environment names.
#![allow(
    unsafe_code,
    reason = "symbols of a shared library are looked up by name"
)]

use std::collections::BTreeMap;
use std::ffi::{CString, c_char};
use std::sync::OnceLock;

type SetScript = unsafe extern "C" fn(*const c_char) -> i32;
type GetReport = unsafe extern "C" fn(*mut c_char, usize) -> usize;

fn controls() -> (SetScript, GetReport) {
    static CONTROLS: OnceLock<(SetScript, GetReport)> = OnceLock::new();
    *CONTROLS.get_or_init(|| {
        let path = std::env::var_os("BESPOKE_STANDIN").expect("BESPOKE_STANDIN names the stand-in");
        // SAFETY: the project's own library, whose initialisers do nothing.
        let library = unsafe { libloading::Library::new(path) }.expect("the stand-in");
        let library: &'static libloading::Library = Box::leak(Box::new(library));
        // SAFETY: the library exports both with these signatures, and is never closed.
        unsafe {
            (
                *library
                    .get::<SetScript>(b"standin_script")
                    .expect("a control"),
                *library
                    .get::<GetReport>(b"standin_report")
                    .expect("a control"),
            )
        }
    })
}

/// Sets what is to go wrong from now on, and forgets what happened.
pub(crate) fn script(text: &str) {
    let words = CString::new(text).expect("no zero byte");
    // SAFETY: a string that ends in a zero byte.
    let code = unsafe { controls().0(words.as_ptr()) };
    assert_eq!(code, 0, "the stand-in does not know `{text}`");
}

/// What happened since the script was set.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    numbers: BTreeMap<String, u64>,
    /// Calls of the driver by function.
    pub(crate) calls: BTreeMap<String, u64>,
    /// Calls on watched files by function.
    pub(crate) files: BTreeMap<String, u64>,
    /// Things that were made and not given back.
    pub(crate) alive: BTreeMap<String, u64>,
    /// Broken rules.
    pub(crate) misuse: Vec<String>,
}

impl Report {
    /// `calls`, `failed`, `lost`, `after-lost`, `compiles` or `files`.
    pub(crate) fn number(&self, name: &str) -> u64 {
        self.numbers.get(name).copied().unwrap_or(0)
    }
}

/// The same once everything has been given back, or a second later, which is what dropping may take: a thread that works behind
/// a session may be the last to let go.
pub(crate) fn settled() -> Report {
    let start = std::time::Instant::now();
    loop {
        let report = report();
        if report.alive.is_empty() || start.elapsed().as_secs() >= 1 {
            return report;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// What happened since the script was set.
pub(crate) fn report() -> Report {
    let get = controls().1;
    let mut room = vec![0_u8; 1 << 16];
    // SAFETY: as much room as named.
    let length = unsafe { get(room.as_mut_ptr().cast(), room.len()) };
    assert!(length < room.len(), "a long report");
    let text = String::from_utf8_lossy(&room[..length]).into_owned();
    let mut report = Report::default();
    for line in text.lines() {
        let (word, rest) = line.split_once(' ').expect("a word and more");
        let pair = || {
            let (name, n) = rest.rsplit_once(' ').expect("a name and a number");
            (name.to_owned(), n.parse().expect("a number"))
        };
        match word {
            "call" => report.calls.extend([pair()]),
            "file" => report.files.extend([pair()]),
            "alive" => report.alive.extend([pair()]),
            "misuse" => report.misuse.push(rest.to_owned()),
            _ => {
                let n = rest.parse().expect("a number");
                report.numbers.insert(word.to_owned(), n);
            }
        }
    }
    report
}

//! What is to go wrong: words with blanks between them.
//!
//! | word | meaning |
//! |---|---|
//! | `fail=N:CODE` | the N-th driver call (from 1) returns CODE |
//! | `fail=FUNCTION@N:CODE` | the N-th call of that function does; N may be `*` for all |
//! | `slow=FUNCTION:MICROS` | every call of that function (`compile` for the compiler) takes that long at least |
//! | `devices=N` | so many devices; 1 otherwise |
//! | `version=N` | what the driver says its version is; 13000 otherwise |
//! | `arch=N` | compute capability, `90` otherwise |
//! | `memory=BYTES` | device memory; 8 GiB otherwise |
//! | `refuse=N` | the N-th compile (from 1) is refused by the compiler; `*` for all |
//! | `endless` | the compiler goes on until it is called off |
//! | `forget` | what is alive is taken off the books: its makers can no longer give it back |
//! | `folder=PATH` | the file system's calls below this folder are counted |
//! | `file=N:ERRNO` | the N-th of them fails with this number |
//! | `file=CALL@N:ERRNO` | the N-th call of that function does; N may be `*` for all |

/// When a call fails.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failure {
    /// Only calls of this function count; all if empty.
    pub function: String,
    /// Which, from 1; all if `None`.
    pub at: Option<u64>,
    /// With what.
    pub code: u32,
}

/// What is to go wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    /// Of the driver.
    pub failures: Vec<Failure>,
    /// Functions and microseconds.
    pub slow: Vec<(String, u64)>,
    /// Number of devices.
    pub devices: i32,
    /// The driver's version.
    pub version: i32,
    /// Compute capability.
    pub arch: i32,
    /// Bytes of device memory.
    pub memory: usize,
    /// Compiles that are refused: which, or all.
    pub refuse: Vec<Option<u64>>,
    /// Whether compiles end only when they are called off.
    pub endless: bool,
    /// Whether what is alive is forgotten.
    pub forget: bool,
    /// The folder whose files are watched.
    pub folder: String,
    /// Of the file system.
    pub files: Vec<Failure>,
}

impl Default for Script {
    fn default() -> Self {
        Script {
            failures: Vec::new(),
            slow: Vec::new(),
            devices: 1,
            version: 13000,
            arch: 90,
            memory: 8 << 30,
            refuse: Vec::new(),
            endless: false,
            forget: false,
            folder: String::new(),
            files: Vec::new(),
        }
    }
}

impl Script {
    /// Reads a script.
    ///
    /// # Errors
    ///
    /// The word that has no meaning.
    pub fn parse(text: &str) -> Result<Script, String> {
        let mut script = Script::default();
        for word in text.split_whitespace() {
            script.word(word).ok_or_else(|| word.to_owned())?;
        }
        Ok(script)
    }

    fn word(&mut self, word: &str) -> Option<()> {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        match name {
            "fail" => self.failures.push(failure(value)?),
            "file" => self.files.push(failure(value)?),
            "slow" => {
                let (function, micros) = value.split_once(':')?;
                self.slow.push((function.to_owned(), micros.parse().ok()?));
            }
            "devices" => self.devices = value.parse().ok()?,
            "version" => self.version = value.parse().ok()?,
            "arch" => self.arch = value.parse().ok()?,
            "memory" => self.memory = value.parse().ok()?,
            "refuse" => self.refuse.push(which(value)?),
            "endless" => self.endless = true,
            "forget" => self.forget = true,
            "folder" => self.folder = value.to_owned(),
            _ => return None,
        }
        Some(())
    }
}

fn which(text: &str) -> Option<Option<u64>> {
    match text {
        "*" => Some(None),
        n => n.parse().ok().map(Some),
    }
}

fn failure(value: &str) -> Option<Failure> {
    let (place, code) = value.split_once(':')?;
    let (function, at) = place.split_once('@').unwrap_or(("", place));
    Some(Failure {
        function: function.to_owned(),
        at: which(at)?,
        code: code.parse().ok()?,
    })
}

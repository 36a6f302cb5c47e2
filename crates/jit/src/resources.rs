//! Reads the report that the assembler (`ptxas -v`) writes into the compiler's log.
//!
//! ```text
//! ptxas info    : Compiling entry function 'add' for 'sm_89'
//! ptxas info    : Function properties for add
//!     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
//! ptxas info    : Used 8 registers, used 0 barriers, 1024 bytes smem, 380 bytes cmem[0]
//! ```
//!
//! Numbers are taken by the words beside them, not by position, since releases add and reorder items. Properties of
//! device functions that were not inlined do not belong to an entry point and are skipped.

/// What one entry point needs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resources {
    /// Name of the entry point.
    pub entry: String,
    /// Registers per thread.
    pub registers: u32,
    /// Static shared memory per block, bytes.
    pub static_smem: u32,
    /// Spill stores per thread, bytes.
    pub spill_stores: u32,
    /// Spill loads per thread, bytes.
    pub spill_loads: u32,
    /// Stack frame per thread, bytes.
    pub stack: u32,
    /// Hardware barriers per block.
    pub barriers: u32,
}

/// The entry points in a log, in order. Lines of other kinds are ignored.
#[must_use]
pub fn parse(log: &str) -> Vec<Resources> {
    let mut all: Vec<Resources> = Vec::new();
    // Whether the last "Function properties" line named the current entry point.
    let mut own = false;
    for line in log.lines() {
        if let Some(rest) = line
            .split_once("Compiling entry function '")
            .map(|(_, rest)| rest)
        {
            let entry = rest.split('\'').next().unwrap_or_default().to_owned();
            all.push(Resources {
                entry,
                ..Resources::default()
            });
            own = true;
            continue;
        }
        let Some(current) = all.last_mut() else {
            continue;
        };
        if let Some((_, name)) = line.split_once("Function properties for ") {
            own = name.trim() == current.entry;
        } else if line.contains("bytes stack frame") && own {
            for item in line.split(',') {
                let number = first_number(item);
                if item.contains("stack frame") {
                    current.stack = number;
                } else if item.contains("spill stores") {
                    current.spill_stores = number;
                } else if item.contains("spill loads") {
                    current.spill_loads = number;
                }
            }
        } else if let Some((_, used)) = line.split_once(": Used ") {
            for item in used.split(',') {
                let number = first_number(item);
                if item.contains("register") {
                    current.registers = number;
                } else if item.contains("barrier") {
                    current.barriers = number;
                } else if item.contains("smem") {
                    current.static_smem = number;
                }
            }
        }
    }
    all
}

/// The first run of digits, 0 without one or if it is absurdly long.
fn first_number(text: &str) -> u32 {
    let digits: String = text
        .chars()
        .skip_while(|c| !c.is_ascii_digit())
        .take_while(char::is_ascii_digit)
        .collect();
    digits.parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn two_entries_and_a_device_function() {
        let log = "\
k.cu(3): warning #177-D: variable \"x\" was declared but never referenced
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'spiller' for 'sm_89'
ptxas info    : Function properties for helper
    96 bytes stack frame, 80 bytes spill stores, 80 bytes spill loads
ptxas info    : Function properties for spiller
    16 bytes stack frame, 12 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers, 16 bytes cumulative stack size, 49152 bytes smem, 380 bytes cmem[0]
ptxas info    : Compile time = 1.0 ms
ptxas info    : Compiling entry function 'plain' for 'sm_89'
ptxas info    : Function properties for plain
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 8 registers, 360 bytes cmem[0]
";
        let spiller = Resources {
            entry: "spiller".into(),
            registers: 255,
            static_smem: 49152,
            spill_stores: 12,
            spill_loads: 8,
            stack: 16,
            barriers: 1,
        };
        let plain = Resources {
            entry: "plain".into(),
            registers: 8,
            ..Resources::default()
        };
        assert_eq!(parse(log), [spiller, plain]);
    }

    #[test]
    fn an_empty_log_has_no_entries() {
        assert!(parse("").is_empty());
        assert!(parse("ptxas info    : Used 8 registers").is_empty());
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in "(ptxas|Compiling entry function '|'|: Used |[0-9]{1,30}| |,|bytes stack frame|\n){0,40}") {
            let _ = parse(&text);
        }
    }
}

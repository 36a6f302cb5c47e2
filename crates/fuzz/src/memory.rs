//! How much memory an input took.
//!
//! Two nets. A limit on the address space, which the supervisor sets with the shell's `ulimit -v`, ends the worker if one
//! request is absurd. And after each input the peak of resident memory is compared with what was resident before it: the
//! kernel keeps the peak and forgets it when `5` is written to `/proc/self/clear_refs`. That finds what the first net
//! cannot: an allocation that is large for its input, but not absurd.
//!
//! Both exist on Linux only; elsewhere a run says so and goes on without.

use std::fs;

/// Address space of a worker, in KiB: 1 GiB.
pub(crate) const ADDRESS_SPACE_KIB: u64 = 1 << 20;
/// Bytes that any input may take.
const FREE: u64 = 64 << 20;
/// Bytes that an input may take for each of its own.
const FOR_EACH: u64 = 64;

/// Resident bytes before an input.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark(u64);

impl Mark {
    /// Forgets the peak so far. `None` where the system does not tell.
    pub(crate) fn set() -> Option<Mark> {
        fs::write("/proc/self/clear_refs", "5").ok()?;
        field(&fs::read_to_string("/proc/self/status").ok()?, "VmHWM:").map(Mark)
    }

    /// Whether an input of `length` bytes took too much since the mark; then how much, in words.
    pub(crate) fn exceeded(self, length: usize) -> Option<String> {
        let peak = field(&fs::read_to_string("/proc/self/status").ok()?, "VmHWM:")?;
        let taken = peak.saturating_sub(self.0);
        let limit = FREE + FOR_EACH * length as u64;
        (taken > limit).then(|| {
            format!(
                "took {} MiB of memory for an input of {length} bytes, where {} MiB are allowed",
                taken >> 20,
                limit >> 20
            )
        })
    }
}

/// A field of `/proc/self/status`, in bytes.
fn field(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|l| l.strip_prefix(name))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_read_in_bytes() {
        let status = "VmPeak:\t  100 kB\nVmHWM:\t   42 kB\n";
        assert_eq!(field(status, "VmHWM:"), Some(42 * 1024));
        assert_eq!(field(status, "VmRSS:"), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn touched_memory_is_noticed() {
        let Some(mark) = Mark::set() else {
            // Some containers forbid it; the address-space limit remains there.
            crate::say(
                "skipped: touched_memory_is_noticed: /proc/self/clear_refs may not be written here",
            );
            return;
        };
        let block = vec![1u8; 200 << 20];
        std::hint::black_box(&block);
        assert!(
            mark.exceeded(0)
                .is_some_and(|text| text.contains("input of 0 bytes"))
        );
        assert_eq!(mark.exceeded(100 << 20), None);
    }
}

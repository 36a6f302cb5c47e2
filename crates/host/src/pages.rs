//! Memory from the operating system: addresses are reserved first and backed later, in place.
//!
//! The only module that knows which operating system this is. On Unix reserved addresses are `PROT_NONE`, so a stray
//! access faults; elsewhere a lazily backed mapping stands in, and only the bookkeeping above it guards the rest.
#![allow(unsafe_code)]

#[cfg(unix)]
pub(crate) use unix::Pages;

#[cfg(not(unix))]
pub(crate) use other::Pages;

#[cfg(unix)]
mod unix {
    use std::ptr::NonNull;

    /// A reserved range of addresses; unmapped on drop.
    #[derive(Debug)]
    pub(crate) struct Pages {
        base: NonNull<u8>,
        bytes: usize,
    }

    // SAFETY: the range belongs to this value alone, and an address means the same on every thread.
    unsafe impl Send for Pages {}
    // SAFETY: no method reads or writes the memory itself.
    unsafe impl Sync for Pages {}

    impl Pages {
        /// Size of a page in bytes.
        pub(crate) fn granularity() -> usize {
            // SAFETY: sysconf reads a constant of the system and touches no memory of ours.
            let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
            usize::try_from(size)
                .ok()
                .filter(|s| s.is_power_of_two())
                .unwrap_or(4096)
        }

        /// Reserves `bytes` (more than 0) of addresses; `None` where the system has none.
        pub(crate) fn reserve(bytes: usize) -> Option<Pages> {
            // SAFETY: an anonymous private mapping at an address of the system's choice touches nothing that exists.
            let base = unsafe {
                libc::mmap(
                    std::ptr::null_mut(),
                    bytes,
                    libc::PROT_NONE,
                    libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                    -1,
                    0,
                )
            };
            if base == libc::MAP_FAILED {
                return None;
            }
            Some(Pages {
                base: NonNull::new(base.cast())?,
                bytes,
            })
        }

        /// First address.
        pub(crate) fn base(&self) -> NonNull<u8> {
            self.base
        }

        /// Backs the first `bytes` with zeroed memory; what was backed before keeps its content.
        pub(crate) fn commit(&self, bytes: usize) -> bool {
            if bytes > self.bytes {
                return false;
            }
            // SAFETY: the range lies inside the mapping that this value owns, and readable pages stay readable.
            unsafe {
                libc::mprotect(
                    self.base.as_ptr().cast(),
                    bytes,
                    libc::PROT_READ | libc::PROT_WRITE,
                ) == 0
            }
        }
    }

    impl Drop for Pages {
        fn drop(&mut self) {
            // SAFETY: exactly the mapping made in `reserve`; whoever could reach it held this value.
            unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
        }
    }
}

#[cfg(not(unix))]
mod other {
    use std::ptr::NonNull;

    /// A reserved range of addresses; unmapped on drop.
    #[derive(Debug)]
    pub(crate) struct Pages {
        map: memmap2::MmapRaw,
    }

    impl Pages {
        /// Size of a page in bytes.
        pub(crate) fn granularity() -> usize {
            64 << 10
        }

        /// Reserves `bytes` (more than 0) of addresses; `None` where the system has none.
        pub(crate) fn reserve(bytes: usize) -> Option<Pages> {
            let map = memmap2::MmapOptions::new()
                .len(bytes)
                .no_reserve_swap()
                .map_anon()
                .ok()?;
            Some(Pages { map: map.into() })
        }

        /// First address.
        pub(crate) fn base(&self) -> NonNull<u8> {
            NonNull::new(self.map.as_mut_ptr()).unwrap_or(NonNull::dangling())
        }

        /// Backs the first `bytes`: the system does so at the first touch.
        pub(crate) fn commit(&self, bytes: usize) -> bool {
            bytes <= self.map.len()
        }
    }
}

/// Free and total memory of the machine in bytes, where the system says.
pub(crate) fn system_memory() -> Option<(u64, u64)> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    parse_meminfo(&text)
}

/// `MemAvailable` and `MemTotal` of Linux' `/proc/meminfo`, which counts in KiB (proc_meminfo(5)).
fn parse_meminfo(text: &str) -> Option<(u64, u64)> {
    let field = |name: &str| -> Option<u64> {
        let line = text
            .lines()
            .find_map(|l| l.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace()
            .next()?
            .parse::<u64>()
            .ok()?
            .checked_mul(1024)
    };
    Some((field("MemAvailable")?, field("MemTotal")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo_is_read_in_bytes() {
        let text = "MemTotal:       24576 kB\nMemFree:  1 kB\nMemAvailable:    2048 kB\n";
        assert_eq!(parse_meminfo(text), Some((2048 << 10, 24576 << 10)));
        assert_eq!(parse_meminfo("MemTotal: many kB\n"), None);
    }

    #[test]
    fn more_addresses_than_memory_can_be_reserved() {
        let pages = Pages::reserve(1 << 40).unwrap();
        assert!(pages.commit(Pages::granularity()));
        assert!(!pages.commit((1 << 40) + 1));
    }
}

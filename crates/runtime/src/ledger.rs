//! What a session's device memory is for, and how much it may have.
//!
//! What a session holds for longer than its load passes through its [`Ledger`]: it refuses what is over the session's limit in the same words
//! in which a device refuses what it does not have, and it knows at any time what the rest is held for. Weights shared
//! with other sessions count in each.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bespoke_device::{Arena, Device, DeviceError, DevicePtr, Memory};

/// What memory is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Purpose {
    Weights,
    Arena,
    Staging,
    Blocks,
    Values,
}

impl Purpose {
    fn name(self) -> &'static str {
        match self {
            Purpose::Weights => "weights",
            Purpose::Arena => "temporaries (arenas of the lanes)",
            Purpose::Staging => "inputs and outputs on their way",
            Purpose::Blocks => "extent blocks",
            Purpose::Values => "values between segments",
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    limit: Option<u64>,
    held: Mutex<BTreeMap<Purpose, u64>>,
    /// The largest sum so far.
    peak: AtomicU64,
}

impl Ledger {
    pub(crate) fn new(limit: Option<u64>) -> Arc<Ledger> {
        Arc::new(Ledger {
            limit,
            held: Mutex::default(),
            peak: AtomicU64::new(0),
        })
    }

    /// Enters bytes, unless they are too many.
    fn enter(&self, purpose: Purpose, what: &str, bytes: u64) -> Result<(), DeviceError> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let sum: u64 = held.values().sum();
        if let Some(limit) = self.limit
            && bytes > limit.saturating_sub(sum)
        {
            return Err(DeviceError::OutOfMemory {
                what: format!("{what} under the session's limit of {limit} bytes"),
                wanted: bytes,
                free: limit.saturating_sub(sum),
            });
        }
        *held.entry(purpose).or_default() += bytes;
        self.peak.fetch_max(sum + bytes, Ordering::Relaxed);
        Ok(())
    }

    fn leave(&self, purpose: Purpose, bytes: u64) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = held.entry(purpose).or_default();
        *entry = entry.saturating_sub(bytes);
    }

    /// Allocates memory that is entered for as long as it lives.
    pub(crate) fn alloc(
        self: &Arc<Self>,
        device: &dyn Device,
        purpose: Purpose,
        what: &str,
        bytes: u64,
    ) -> Result<Arc<dyn Memory>, DeviceError> {
        let entry = self.entry(purpose, what, bytes)?;
        let memory = device.alloc(what, bytes)?;
        Ok(Arc::new(Entered {
            memory,
            _entry: entry,
        }))
    }

    /// Enters bytes until the entry is dropped.
    pub(crate) fn entry(
        self: &Arc<Self>,
        purpose: Purpose,
        what: &str,
        bytes: u64,
    ) -> Result<Entry, DeviceError> {
        self.enter(purpose, what, bytes)?;
        Ok(Entry {
            ledger: self.clone(),
            purpose,
            bytes,
        })
    }

    /// Reserves an arena whose backed bytes are entered.
    pub(crate) fn arena(
        self: &Arc<Self>,
        device: &dyn Device,
        limit: u64,
    ) -> Result<LedgerArena, DeviceError> {
        Ok(LedgerArena {
            arena: device.reserve(limit)?,
            entry: self.entry(Purpose::Arena, "an arena", 0)?,
        })
    }

    /// What the memory is held for, most first, as lines of a message.
    pub(crate) fn table(&self) -> String {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let mut rows: Vec<(u64, &str)> = held.iter().map(|(p, &b)| (b, p.name())).collect();
        rows.sort_unstable_by(|a, b| b.cmp(a));
        let rows: Vec<String> = rows
            .iter()
            .map(|(bytes, name)| format!("\n  {bytes:>15} bytes  {name}"))
            .collect();
        rows.concat()
    }

    /// All bytes that are entered.
    pub(crate) fn total(&self) -> u64 {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.values().sum()
    }

    /// The most that was entered at a time.
    pub(crate) fn peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }
}

/// Bytes of a ledger; dropping it strikes them out.
#[derive(Debug)]
pub(crate) struct Entry {
    ledger: Arc<Ledger>,
    purpose: Purpose,
    bytes: u64,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.ledger.leave(self.purpose, self.bytes);
    }
}

#[derive(Debug)]
struct Entered {
    memory: Arc<dyn Memory>,
    _entry: Entry,
}

impl Memory for Entered {
    fn ptr(&self) -> DevicePtr {
        self.memory.ptr()
    }

    fn len(&self) -> u64 {
        self.memory.len()
    }
}

/// An arena whose growth is entered.
#[derive(Debug)]
pub(crate) struct LedgerArena {
    arena: Box<dyn Arena>,
    entry: Entry,
}

impl LedgerArena {
    pub(crate) fn ptr(&self) -> DevicePtr {
        self.arena.ptr()
    }

    pub(crate) fn len(&self) -> u64 {
        self.arena.len()
    }

    pub(crate) fn grow(&mut self, bytes: u64) -> Result<(), DeviceError> {
        let ledger = self.entry.ledger.clone();
        let wanted = bytes.saturating_sub(self.arena.len());
        ledger.enter(Purpose::Arena, "temporaries", wanted)?;
        let grown = self.arena.grow(bytes);
        // a device may back more than it was asked for, and part of it when it fails
        ledger.leave(Purpose::Arena, wanted);
        let more = self.arena.len().saturating_sub(self.entry.bytes);
        *ledger
            .held
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(Purpose::Arena)
            .or_default() += more;
        self.entry.bytes += more;
        ledger.peak.fetch_max(ledger.total(), Ordering::Relaxed);
        grown
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bespoke_host::{HostDevice, HostOptions};

    fn device() -> Arc<dyn Device> {
        HostDevice::new(HostOptions {
            threads: 1,
            target: None,
            poison: false,
        })
    }

    #[test]
    fn what_lives_is_entered_and_what_died_is_not() {
        let (device, ledger) = (device(), Ledger::new(None));
        let memory = ledger.alloc(&*device, Purpose::Staging, "x", 512).unwrap();
        let mut arena = ledger.arena(&*device, 1 << 20).unwrap();
        assert_eq!(ledger.total(), 512);
        arena.grow(1000).unwrap();
        assert_eq!(ledger.total(), 512 + arena.len());
        arena.grow(100_000).unwrap();
        assert_eq!(ledger.total(), 512 + arena.len());
        let arena_bytes = arena.len();
        drop(arena);
        assert_eq!(ledger.total(), 512);
        let most = ledger.total() + arena_bytes;
        drop(memory);
        assert_eq!((ledger.total(), ledger.peak()), (0, most));
    }

    #[test]
    fn too_much_is_refused_and_the_rest_goes_on() {
        let (device, ledger) = (device(), Ledger::new(Some(1000)));
        let first = ledger.alloc(&*device, Purpose::Staging, "x", 600).unwrap();
        let refused = ledger.alloc(&*device, Purpose::Weights, "w", 600);
        let message = refused.unwrap_err().to_string();
        assert!(
            message.contains("limit of 1000") && message.contains("400 free"),
            "{message}"
        );
        assert!(ledger.table().contains("600 bytes  inputs and outputs"));
        drop(first);
        ledger.alloc(&*device, Purpose::Weights, "w", 600).unwrap();
    }
}

//! Device memory for what passes between segments.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use bespoke_device::{Device, DeviceError, DevicePtr, Memory};

use crate::ledger::{Ledger, Purpose};

/// Buffers of few sizes, each used again and again.
#[derive(Debug)]
pub(crate) struct Pool {
    device: Arc<dyn Device>,
    ledger: Arc<Ledger>,
    free: Mutex<BTreeMap<u64, Vec<Arc<dyn Memory>>>>,
}

/// A buffer of a pool, which goes back when it is dropped.
#[derive(Debug)]
pub(crate) struct Buffer {
    memory: Option<Arc<dyn Memory>>,
    size: u64,
    pool: Arc<Pool>,
}

impl Buffer {
    /// Its first byte.
    pub(crate) fn ptr(&self) -> DevicePtr {
        self.memory.as_ref().map_or(DevicePtr(0), |m| m.ptr())
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(memory) = self.memory.take() {
            let mut free = self
                .pool
                .free
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            free.entry(self.size).or_default().push(memory);
        }
    }
}

impl Pool {
    /// An empty pool.
    pub(crate) fn new(device: Arc<dyn Device>, ledger: Arc<Ledger>) -> Pool {
        Pool {
            device,
            ledger,
            free: Mutex::default(),
        }
    }

    /// A buffer of at least so many bytes. If there is no memory for a new one, all that are free are given up first.
    pub(crate) fn take(self: &Arc<Self>, bytes: u64) -> Result<Arc<Buffer>, DeviceError> {
        let size = bytes.max(256).checked_next_power_of_two().unwrap_or(bytes);
        let found = {
            let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
            free.get_mut(&size).and_then(Vec::pop)
        };
        let make = || {
            let what = "a value between two segments";
            self.ledger
                .alloc(&*self.device, Purpose::Values, what, size)
        };
        let memory = match found {
            Some(memory) => memory,
            None => match make() {
                Err(DeviceError::OutOfMemory { .. }) => {
                    self.free
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .clear();
                    make()?
                }
                made => made?,
            },
        };
        Ok(Arc::new(Buffer {
            memory: Some(memory),
            size,
            pool: self.clone(),
        }))
    }
}

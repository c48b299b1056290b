//! How much sealed WAL lies in memory: a count that every body takes its part of, and gives back when the last user drops it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lifeboat_stores::SealedBody;
use tokio::sync::Notify;

/// The count.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    used: AtomicU64,
    /// Somebody gave something back.
    pub(crate) freed: Notify,
}

impl Memory {
    /// Bytes of all bodies that are alive.
    pub(crate) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }
}

/// A sealed body in memory.
#[derive(Debug)]
pub(crate) struct Body {
    sealed: SealedBody,
    memory: Arc<Memory>,
}

impl Body {
    pub(crate) fn new(sealed: SealedBody, memory: &Arc<Memory>) -> Arc<Self> {
        memory.used.fetch_add(sealed.bytes.len() as u64, Ordering::Relaxed);
        Arc::new(Self { sealed, memory: Arc::clone(memory) })
    }

    /// The bytes, shared.
    pub(crate) fn sealed(&self) -> SealedBody {
        self.sealed.clone()
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        self.memory.used.fetch_sub(self.sealed.bytes.len() as u64, Ordering::Relaxed);
        self.memory.freed.notify_waiters();
    }
}

//! The bytes of an object on their way into a file, or out of one.
//!
//! The thread that moves them may hang in the system for as long as the process lives. The whole object would stay in memory with it, beside
//! all that the process has planned for; so it takes one piece at a time.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use lifeboat_vocabulary::Sha256Digest;
use parking_lot::Mutex;

use crate::sha256;

/// What is written or read at once, and the most that a thread which hangs in it keeps in memory.
pub(crate) const PIECE: usize = 1 << 20;

/// Who waits for a write or a read holds this. When it is dropped, the bytes are taken away from whoever still moves them.
#[derive(Debug)]
pub(crate) struct Lent<T>(Arc<Mutex<Option<T>>>);

impl<T> Drop for Lent<T> {
    fn drop(&mut self) {
        self.0.lock().take();
    }
}

/// What a thread writes.
#[derive(Clone, Debug)]
pub(crate) struct Content(Arc<Mutex<Option<Bytes>>>);

/// What a thread reads.
#[derive(Clone, Debug)]
pub(crate) struct Received(Arc<Mutex<Option<Vec<u8>>>>);

impl Content {
    /// Lends these bytes.
    pub(crate) fn lend(bytes: Bytes) -> (Self, Lent<Bytes>) {
        let shared = Arc::new(Mutex::new(Some(bytes)));
        (Self(Arc::clone(&shared)), Lent(shared))
    }

    /// Copies the piece at `offset` into `piece`, which is empty afterwards if there is none.
    ///
    /// # Errors
    /// If nobody waits for the write any more.
    pub(crate) fn piece(&self, offset: usize, piece: &mut Vec<u8>) -> io::Result<()> {
        piece.clear();
        let bytes = self.0.lock();
        let bytes = bytes.as_ref().ok_or_else(given_up)?;
        let rest = bytes.get(offset..).unwrap_or_default();
        piece.extend_from_slice(rest.get(..PIECE).unwrap_or(rest));
        Ok(())
    }

    /// The SHA-256 of all.
    ///
    /// # Errors
    /// If nobody waits for the write any more.
    pub(crate) fn sha256(&self) -> io::Result<Sha256Digest> {
        // Only for as long as the processor takes.
        let bytes = self.0.lock().clone().ok_or_else(given_up)?;
        Ok(sha256::digest(&bytes))
    }
}

impl Received {
    /// Lends room for what is read.
    pub(crate) fn lend() -> (Self, Lent<Vec<u8>>) {
        let shared = Arc::new(Mutex::new(Some(Vec::new())));
        (Self(Arc::clone(&shared)), Lent(shared))
    }

    /// Adds a piece, of `whole` bytes that are expected in all.
    ///
    /// # Errors
    /// If nobody waits for the read any more.
    pub(crate) fn push(&self, piece: &[u8], whole: usize) -> io::Result<()> {
        let mut bytes = self.0.lock();
        let bytes = bytes.as_mut().ok_or_else(given_up)?;
        bytes.reserve_exact(whole.saturating_sub(bytes.len()));
        bytes.extend_from_slice(piece);
        Ok(())
    }

    /// All that was read.
    ///
    /// # Errors
    /// If nobody waits for the read any more.
    pub(crate) fn take(&self) -> io::Result<Bytes> {
        self.0.lock().take().map(Bytes::from).ok_or_else(given_up)
    }
}

fn given_up() -> io::Error {
    io::Error::other("nobody waits for it any more")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_that_is_given_up_leaves_none_of_its_bytes_with_the_thread_that_hangs_in_it() {
        let bytes = Bytes::from(vec![7; 2 * PIECE + 5]);
        let (content, lent) = Content::lend(bytes.clone());
        assert_eq!(content.sha256().unwrap(), sha256::digest(&bytes));
        let (mut piece, mut whole) = (Vec::new(), Vec::new());
        for length in [PIECE, PIECE, 5, 0] {
            content.piece(whole.len(), &mut piece).unwrap();
            assert_eq!(piece.len(), length);
            whole.extend_from_slice(&piece);
        }
        assert!(whole == bytes && !bytes.is_unique(), "the thread shares them");
        drop(lent);
        assert!(bytes.is_unique(), "and has lost them");
        assert!(content.piece(0, &mut piece).is_err() && content.sha256().is_err());
    }

    #[test]
    fn a_read_that_is_given_up_keeps_nothing_either() {
        let (received, lent) = Received::lend();
        received.push(b"ab", 3).unwrap();
        received.push(b"c", 3).unwrap();
        assert_eq!(received.take().unwrap(), "abc");
        drop(lent);
        let (received, lent) = Received::lend();
        received.push(&[7; PIECE], 2 * PIECE).unwrap();
        drop(lent);
        assert!(received.0.lock().is_none());
        assert!(received.push(b"x", 1).is_err() && received.take().is_err());
    }
}

//! The bytes of an object on their way into a file.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use lifeboat_vocabulary::Sha256Digest;
use parking_lot::Mutex;

use crate::sha256;

/// What is written at once, and the most that a thread which hangs in a write keeps in memory.
pub(crate) const PIECE: usize = 1 << 20;

/// What a thread writes. It takes one piece at a time: the thread may hang in the system for as long as the process lives, and the whole
/// would stay in memory with it, beside all that the process has planned for.
#[derive(Clone, Debug)]
pub(crate) struct Content(Arc<Mutex<Option<Bytes>>>);

/// Who waits for a write holds this. When it is dropped, the bytes are taken away from whoever still writes them.
#[derive(Debug)]
pub(crate) struct Lent(Content);

impl Drop for Lent {
    fn drop(&mut self) {
        self.0.0.lock().take();
    }
}

impl Content {
    /// Lends these bytes.
    pub(crate) fn lend(bytes: Bytes) -> (Self, Lent) {
        let content = Self(Arc::new(Mutex::new(Some(bytes))));
        (content.clone(), Lent(content))
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

fn given_up() -> io::Error {
    io::Error::other("nobody waits for this write any more")
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
}

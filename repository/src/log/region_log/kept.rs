//! Notes of a log that are kept on the machine that has read them, so that a restart reads only what is new.

use bytes::Bytes;

use super::RegionLog;
use crate::log::bundle::unkept::Unkept;
use crate::log::error::LogError;
use crate::log::link::{Place, Signatures};

impl RegionLog {
    /// Collects the notes that are read from now on, to be kept.
    pub(crate) fn collecting(self) -> Self {
        let unkept = Some(Unkept::from(self.next));
        Self { unkept, ..self }
    }

    /// How many notes were collected and not taken.
    pub(crate) fn unkept(&self) -> u64 {
        self.unkept.as_ref().map_or(0, Unkept::notes)
    }

    /// Takes what was collected, as bundles.
    pub(crate) fn take_unkept(&mut self) -> Vec<Bytes> {
        self.unkept.as_mut().map(Unkept::take).unwrap_or_default()
    }

    /// Takes back what was taken last, because it could not be kept.
    pub(crate) fn give_back_unkept(&mut self, bundles: Vec<Bytes>) {
        self.unkept.iter_mut().for_each(|unkept| unkept.give_back(&bundles));
    }

    /// Puts a record at the end that this installation has read and verified before, and has kept since: everything is judged anew but
    /// its signatures, which bind as much as its digest in the next record does.
    pub(crate) fn link_kept(&mut self, note: &[u8]) -> Result<(), LogError> {
        let place = Place { signatures: Signatures::Kept, ..self.place(self.next) };
        let linked = place.judge(note).map_err(|unlinked| *unlinked.error)?;
        self.check_room(&linked, note.len())?;
        self.push(linked, note);
        self.next = self.places();
        Ok(())
    }
}

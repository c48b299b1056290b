//! Collects notes in the order of their places, to be kept as bundles.

use bytes::Bytes;

use crate::log::bundle::codec::{BUNDLE_NOTES_MAX, BUNDLED_USUAL, Bundle, bytes_in_bundle};

/// So many **bytes** of notes are held before they are compressed.
const BYTES_MAX: usize = 1 << 20;
const _: () = assert!(BUNDLED_USUAL <= BUNDLE_NOTES_MAX, "they have to fit into a bundle");

/// How much was collected at a moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UnkeptMark {
    next: u64,
    bundles: usize,
    bundled: u64,
    is_over: bool,
}

/// Notes without a hole between them, from one place on.
#[derive(Clone, Debug)]
pub(crate) struct Unkept {
    /// The place of the next note.
    next: u64,
    bundles: Vec<Bytes>,
    /// How many notes are in them.
    bundled: u64,
    open: Vec<Bytes>,
    open_bytes: usize,
    /// Whether something else than a record lay at the next place, so that what follows it is not kept: it is read anew, with
    /// what lies between.
    is_over: bool,
}

impl Unkept {
    /// Collects from this place on.
    pub(crate) fn from(next: u64) -> Self {
        Self { next, bundles: Vec::new(), bundled: 0, open: Vec::new(), open_bytes: 0, is_over: false }
    }

    /// Adds the note of a place.
    pub(crate) fn add(&mut self, seq: u64, note: &[u8]) {
        self.is_over |= seq != self.next;
        if self.is_over {
            return;
        }
        let bytes = bytes_in_bundle(note);
        if self.open.len() >= BUNDLED_USUAL || self.open_bytes.saturating_add(bytes) > BYTES_MAX {
            self.seal();
        }
        self.open.push(Bytes::copy_from_slice(note));
        self.open_bytes = self.open_bytes.saturating_add(bytes);
        self.next = seq.saturating_add(1);
    }

    /// How much there is now.
    pub(crate) fn mark(&mut self) -> UnkeptMark {
        self.seal();
        UnkeptMark { next: self.next, bundles: self.bundles.len(), bundled: self.bundled, is_over: self.is_over }
    }

    /// Forgets what was added since; nothing may have been taken since.
    pub(crate) fn rewind(&mut self, UnkeptMark { next, bundles, bundled, is_over }: UnkeptMark) {
        (self.next, self.bundled, self.is_over) = (next, bundled, is_over);
        self.bundles.truncate(bundles);
        self.open.clear();
        self.open_bytes = 0;
    }

    /// How many notes there are.
    pub(crate) fn notes(&self) -> u64 {
        self.bundled.saturating_add(self.open.len() as u64)
    }

    /// Everything, as bundles in order.
    pub(crate) fn take(&mut self) -> Vec<Bytes> {
        self.seal();
        self.bundled = 0;
        std::mem::take(&mut self.bundles)
    }

    /// Puts what was taken before what was added since.
    pub(crate) fn give_back(&mut self, bundles: &[Bytes]) {
        let places = bundles.iter().filter_map(|bundle| Bundle::places_of(bundle));
        let notes =
            places.map(|(first, last)| last.saturating_sub(first).saturating_add(1)).fold(0, u64::saturating_add);
        self.bundled = self.bundled.saturating_add(notes);
        self.bundles.splice(..0, bundles.iter().cloned());
    }

    /// Compresses what is open.
    fn seal(&mut self) {
        let notes = std::mem::take(&mut self.open);
        self.open_bytes = 0;
        let count = notes.len() as u64;
        if count == 0 {
            return;
        }
        match Bundle::encode(self.next.saturating_sub(count), notes.iter().map(AsRef::as_ref)) {
            Ok(bundle) => {
                self.bundles.push(bundle.into());
                self.bundled = self.bundled.saturating_add(count);
            }
            Err(error) => {
                tracing::debug!(%error, "records of a log are not kept");
                self.is_over = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(bundles: &[Bytes]) -> Vec<(u64, u64)> {
        let bundles = bundles.iter().map(|bundle| Bundle::decode(bundle).unwrap());
        bundles.map(|bundle| (bundle.first(), bundle.last())).collect()
    }

    #[test]
    fn notes_are_put_together_in_order_and_taken_once() {
        let mut unkept = Unkept::from(5);
        assert!(unkept.take().is_empty());
        for seq in 5..2505 {
            unkept.add(seq, b"note");
        }
        assert_eq!(unkept.notes(), 2500);
        assert_eq!(places(&unkept.take()), [(5, 1004), (1005, 2004), (2005, 2504)]);
        assert_eq!(unkept.notes(), 0);
        unkept.add(2505, b"note");
        let taken = unkept.take();
        assert_eq!(places(&taken), [(2505, 2505)]);
        unkept.add(2506, b"note");
        unkept.give_back(&taken);
        assert_eq!(unkept.notes(), 2);
        assert_eq!(places(&unkept.take()), [(2505, 2505), (2506, 2506)]);
    }

    #[test]
    fn large_notes_make_small_bundles() {
        let (mut unkept, large) = (Unkept::from(0), vec![b'x'; 700_000]);
        for seq in 0..3 {
            unkept.add(seq, &large);
        }
        assert_eq!(places(&unkept.take()), [(0, 0), (1, 1), (2, 2)]);
    }

    #[test]
    fn what_was_collected_since_a_mark_is_forgotten() {
        let mut unkept = Unkept::from(0);
        let mut marks = Vec::new();
        for seq in 0..2500 {
            if seq % 300 == 0 {
                marks.push((seq, unkept.mark()));
            }
            unkept.add(seq, b"note");
        }
        unkept.add(2501, b"behind a hole");
        for (seq, mark) in marks.into_iter().rev() {
            unkept.rewind(mark);
            assert_eq!(unkept.notes(), seq);
        }
        unkept.add(0, b"note");
        assert_eq!(places(&unkept.take()), [(0, 0)]);
    }

    #[test]
    fn nothing_is_kept_behind_an_object_that_is_no_record() {
        let mut unkept = Unkept::from(0);
        for seq in [0, 1, 3, 4] {
            unkept.add(seq, b"note");
        }
        assert_eq!(places(&unkept.take()), [(0, 1)]);
        unkept.add(5, b"note");
        assert!(unkept.take().is_empty());
    }
}

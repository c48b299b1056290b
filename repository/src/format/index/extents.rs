//! Where the frames of one file lie, in a few bytes per frame.
//!
//! A file's frames mostly lie one behind the other in one pack, and all but the last have the same raw length. So they
//! are written as runs: `count and form, step to the pack, step to the frame number, step to the offset`, then for each
//! frame its stored length. Steps are taken from where the previous frame ended, so in the usual case they are zeros.

use crate::format::frame::{FRAME_BYTES_MAX, FRAME_OVERHEAD, FramePlace};
use crate::format::varint::{self, VarintError};

/// Frames that one file may have: half a tebibyte at the usual frame size. Bounds a reader's memory.
pub(crate) const FRAMES_MAX: usize = 1 << 22;

/// One frame of a file: which pack, where in it, and how much of the file it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameRef {
    /// Number of the pack within the backup.
    pub pack: u32,
    /// Where in the pack.
    pub place: FramePlace,
    /// How much of the file it holds, in **bytes**.
    pub raw_len: u32,
}

/// Why frames do not make up a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ExtentError {
    /// The bytes are no list of frames.
    #[error("the list of frames cannot be read")]
    Malformed,
    /// A frame that cannot be.
    #[error("frame {frame} of pack {pack} has an impossible length")]
    Length {
        /// Number of the pack.
        pack: u32,
        /// Number of the frame.
        frame: u32,
    },
    /// The frames hold more or less than the file.
    #[error("the frames hold {found} bytes of a file of {size}")]
    Size {
        /// Size of the file.
        size: u64,
        /// What its frames hold together, as far as was counted.
        found: u64,
    },
    /// More frames than anybody has memory for.
    #[error("the file has more than {FRAMES_MAX} frames")]
    TooMany,
    /// A frame in a pack that was not named before.
    #[error("pack {pack} was not named before it is used")]
    UnknownPack {
        /// Number of the pack.
        pack: u32,
    },
}

impl From<VarintError> for ExtentError {
    fn from(_: VarintError) -> Self {
        Self::Malformed
    }
}

/// The frames of one file, encoded.
#[derive(Debug, Default)]
pub(crate) struct Extents {
    /// Raw length of every frame but the last, unless it says otherwise itself.
    pub(crate) frame_bytes: u64,
    pub(crate) encoded: Vec<u8>,
}

/// Where the next frame of a run is expected.
#[derive(Clone, Copy)]
struct Cursor {
    pack: u32,
    frame: u32,
    offset: u32,
}

/// The first frame of a pack lies behind the 144 bytes of its head.
const START: Cursor = Cursor { pack: 0, frame: 0, offset: 144 };

impl Cursor {
    /// In another pack than before, frames are expected from the beginning.
    fn in_pack(self, pack: u32) -> Self {
        if pack == self.pack { self } else { Self { pack, ..START } }
    }

    fn after(frame: &FrameRef) -> Self {
        // At the very end of the number range the next step is larger; nothing else depends on the expectation.
        Self {
            pack: frame.pack,
            frame: frame.place.frame.saturating_add(1),
            offset: frame.place.offset.saturating_add(frame.place.stored_len),
        }
    }

    fn is_at(self, frame: &FrameRef) -> bool {
        (self.pack, self.frame, self.offset) == (frame.pack, frame.place.frame, frame.place.offset)
    }
}

fn check(frame: &FrameRef) -> Result<(), ExtentError> {
    let (overhead, largest) = (FRAME_OVERHEAD as u64, FRAME_BYTES_MAX as u64);
    let stored = u64::from(frame.place.stored_len);
    let ends = u64::from(frame.place.offset) + stored;
    let fits = (overhead..=largest + overhead).contains(&stored)
        && (1..=largest).contains(&u64::from(frame.raw_len))
        && ends <= u64::from(u32::MAX);
    let refuse = ExtentError::Length { pack: frame.pack, frame: frame.place.frame };
    if fits { Ok(()) } else { Err(refuse) }
}

/// Encodes the frames of a file of `size` **bytes**, in the order of the file.
///
/// # Errors
/// [`ExtentError`] if they do not make up the file.
pub(crate) fn encode(frames: &[FrameRef], size: u64) -> Result<Extents, ExtentError> {
    if frames.len() > FRAMES_MAX {
        return Err(ExtentError::TooMany);
    }
    let frame_bytes = frames.first().map_or(0, |first| u64::from(first.raw_len));
    let mut encoded = Vec::new();
    let mut position = 0;
    let mut expected = START;
    let mut rest = frames;
    while let Some(first) = rest.first() {
        let (count, form, end) = run(rest, position, FileShape { size, frame_bytes })?;
        position = end;
        let (run, behind) = rest.split_at(count);
        rest = behind;
        varint::write((count as u64) << 1 | form.as_bit(), &mut encoded);
        varint::write_step(expected.pack, first.pack, &mut encoded);
        expected = expected.in_pack(first.pack);
        varint::write_step(expected.frame, first.place.frame, &mut encoded);
        varint::write_step(expected.offset, first.place.offset, &mut encoded);
        for frame in run {
            varint::write(u64::from(frame.place.stored_len), &mut encoded);
            if form == Form::Explicit {
                varint::write(u64::from(frame.raw_len), &mut encoded);
            }
            expected = Cursor::after(frame);
        }
    }
    if position == size {
        Ok(Extents { frame_bytes, encoded })
    } else {
        Err(ExtentError::Size { size, found: position })
    }
}

/// Reads the frames of a file of `size` **bytes**, which may lie in the first `packs` packs. They make up the file.
///
/// # Errors
/// [`ExtentError`], by meaning.
pub(crate) fn decode(encoded: &[u8], size: u64, frame_bytes: u64, packs: u32) -> Result<Vec<FrameRef>, ExtentError> {
    let mut source =
        Source { rest: encoded, size, frame_bytes, position: 0, expected: START, left: 0, form: Form::Implied };
    let mut frames = Vec::new();
    while !source.rest.is_empty() || source.left > 0 {
        let frame = source.read()?;
        if frame.pack >= packs {
            return Err(ExtentError::UnknownPack { pack: frame.pack });
        }
        if frames.len() == FRAMES_MAX {
            return Err(ExtentError::TooMany);
        }
        frames.push(frame);
    }
    let found = source.position;
    if found == size { Ok(frames) } else { Err(ExtentError::Size { size, found }) }
}

/// Whether a run spells out how much of the file each frame holds.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Implied,
    Explicit,
}

impl Form {
    fn as_bit(self) -> u64 {
        match self {
            Self::Implied => 0,
            Self::Explicit => 1,
        }
    }

    /// Implied are frames of the usual length, and the remainder of the file.
    fn of(frame: &FrameRef, position: u64, file: FileShape) -> Self {
        let implied = file.frame_bytes.min(file.size.saturating_sub(position));
        if u64::from(frame.raw_len) == implied { Self::Implied } else { Self::Explicit }
    }
}

/// A file that is encoded, in **bytes**.
#[derive(Clone, Copy)]
struct FileShape {
    size: u64,
    /// Of all frames but the last.
    frame_bytes: u64,
}

/// How many of the first frames make a run, in which form, and where in the file it ends.
fn run(frames: &[FrameRef], start: u64, file: FileShape) -> Result<(usize, Form, u64), ExtentError> {
    let (mut count, mut position) = (0, start);
    let mut form = Form::Implied;
    let mut expected = START;
    for frame in frames {
        let own = Form::of(frame, position, file);
        if count > 0 && (own != form || !expected.is_at(frame)) {
            break;
        }
        check(frame)?;
        form = own;
        count += 1;
        position += u64::from(frame.raw_len);
        expected = Cursor::after(frame);
    }
    Ok((count, form, position))
}

/// Encoded frames that are being read.
struct Source<'a> {
    rest: &'a [u8],
    size: u64,
    frame_bytes: u64,
    position: u64,
    expected: Cursor,
    /// Frames left in the run, all of this form.
    left: u64,
    form: Form,
}

impl Source<'_> {
    fn begin_run(&mut self) -> Result<(), ExtentError> {
        let head = varint::read(&mut self.rest)?;
        let form = if head & 1 == 0 { Form::Implied } else { Form::Explicit };
        if head >> 1 == 0 {
            return Err(ExtentError::Malformed);
        }
        let pack = varint::read_step(self.expected.pack, &mut self.rest)?;
        let near = self.expected.in_pack(pack);
        let frame = varint::read_step(near.frame, &mut self.rest)?;
        let offset = varint::read_step(near.offset, &mut self.rest)?;
        self.expected = Cursor { pack, frame, offset };
        self.left = head >> 1;
        self.form = form;
        Ok(())
    }

    fn read(&mut self) -> Result<FrameRef, ExtentError> {
        if self.left == 0 {
            self.begin_run()?;
        }
        let Cursor { pack, frame, offset } = self.expected;
        let stored_len = varint::read_u32(&mut self.rest)?;
        let raw_len = match self.form {
            Form::Explicit => varint::read_u32(&mut self.rest)?,
            Form::Implied => {
                let implied = self.frame_bytes.min(self.size.saturating_sub(self.position));
                u32::try_from(implied).map_err(|_| ExtentError::Length { pack, frame })?
            }
        };
        let found = FrameRef { pack, place: FramePlace { frame, offset, stored_len }, raw_len };
        check(&found)?;
        self.left -= 1;
        self.position += u64::from(raw_len);
        self.expected = Cursor::after(&found);
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(pack: u32, number: u32, offset: u32, stored_len: u32, raw_len: u32) -> FrameRef {
        FrameRef { pack, place: FramePlace { frame: number, offset, stored_len }, raw_len }
    }

    #[test]
    fn frames_that_do_not_make_up_the_file_are_refused() {
        let one = frame(0, 0, 144, 100, 50);
        for (why, frames, size) in [
            ("nothing for something", vec![], 1),
            ("something for nothing", vec![one], 0),
            ("too few", vec![one], 51),
            ("too many", vec![one, one], 99),
            ("shorter than a frame can be", vec![frame(0, 0, 144, 23, 50)], 50),
            ("longer than a frame can be", vec![frame(0, 0, 144, (16 << 20) + 25, 50)], 50),
            ("holds nothing", vec![frame(0, 0, 144, 100, 0)], 0),
            ("holds too much", vec![frame(0, 0, 144, 100, (16 << 20) + 1)], (16 << 20) + 1),
            ("past the end of the numbers", vec![frame(0, 0, u32::MAX - 50, 100, 50)], 50),
        ] {
            assert!(encode(&frames, size).is_err(), "{why}");
        }
    }

    #[test]
    fn a_contiguous_file_takes_three_bytes_a_frame() {
        let frames: Vec<_> = (0..8192).map(|n| frame(0, n, 144 + n * 40_000, 40_000, 131_072)).collect();
        let extents = encode(&frames, 1 << 30).unwrap();
        assert!(extents.encoded.len() < 8192 * 3 + 16, "{}", extents.encoded.len());
        let read = |packs| decode(&extents.encoded, 1 << 30, extents.frame_bytes, packs);
        assert_eq!(read(0), Err(ExtentError::UnknownPack { pack: 0 }));
        assert_eq!(read(1), Ok(frames));
    }

    fn any_frame() -> impl Strategy<Value = FrameRef> {
        let raw = prop_oneof![Just(131_072_u32), 1..200_000_u32];
        (0..4_u32, 0..9_u32, 144..900_u32, 24..70_000_u32, raw)
            .prop_map(|(pack, number, offset, stored, raw)| frame(pack, number, offset, stored, raw))
    }

    proptest! {
        #[test]
        fn any_frames_are_read_back(mut frames in proptest::collection::vec(any_frame(), 0..60), chain in any::<u64>()) {
            // Every second file or so in one stretch, as they mostly are.
            for index in 1..frames.len() {
                if chain >> (index % 64) & 1 == 1 {
                    let before = frames[index - 1];
                    frames[index].pack = before.pack;
                    frames[index].place.frame = before.place.frame + 1;
                    frames[index].place.offset = before.place.offset + before.place.stored_len;
                }
            }
            let size = frames.iter().map(|frame| u64::from(frame.raw_len)).sum();
            let extents = encode(&frames, size).unwrap();
            prop_assert_eq!(decode(&extents.encoded, size, extents.frame_bytes, 4), Ok(frames));
        }

        #[test]
        fn arbitrary_bytes_never_panic_and_never_make_up_another_file(
            encoded in proptest::collection::vec(any::<u8>(), 0..100), size in any::<u64>(), frame_bytes in any::<u64>(),
        ) {
            if let Ok(frames) = decode(&encoded, size, frame_bytes, u32::MAX) {
                prop_assert!(frames.len() <= encoded.len());
                prop_assert_eq!(frames.iter().map(|frame| u64::from(frame.raw_len)).sum::<u64>(), size);
            }
        }
    }
}

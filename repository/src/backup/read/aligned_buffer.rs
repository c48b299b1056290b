//! Memory in which plain bytes come together before they are written.

/// Alignment that lets a sink write past the page cache.
const ALIGNMENT: usize = 4096;

/// A buffer whose content begins at a multiple of [`ALIGNMENT`].
pub(crate) struct AlignedBuffer {
    memory: Vec<u8>,
    start: usize,
    end: usize,
}

impl AlignedBuffer {
    pub(crate) fn new(capacity: usize) -> Self {
        let memory = vec![0; capacity + ALIGNMENT];
        let start = memory.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        Self { memory, start, end: start }
    }

    pub(crate) fn clear(&mut self) {
        self.end = self.start;
    }

    pub(crate) fn len(&self) -> usize {
        self.end - self.start
    }

    /// Adds `count` bytes and gives them out to be filled. A single frame may be larger than the buffer was made for.
    pub(crate) fn grow(&mut self, count: usize) -> &mut [u8] {
        let needed = self.end + count;
        if needed > self.memory.len() {
            let held = self.filled().to_vec();
            *self = Self::new(held.len() + count);
            self.end += held.len();
            let end = self.end;
            self.memory[self.start..end].copy_from_slice(&held);
        }
        let from = self.end;
        self.end += count;
        &mut self.memory[from..self.end]
    }

    pub(crate) fn tail(&self, count: usize) -> &[u8] {
        &self.memory[self.end - count..self.end]
    }

    pub(crate) fn filled(&self) -> &[u8] {
        &self.memory[self.start..self.end]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_stays_aligned_and_whole_when_it_outgrows_the_buffer() {
        let mut buffer = AlignedBuffer::new(10_000);
        for (count, byte) in [(4_000, 1), (6_000, 2), (50_000, 3)] {
            buffer.grow(count).fill(byte);
            assert!(buffer.tail(count).iter().all(|found| *found == byte));
            assert_eq!(buffer.filled().as_ptr().align_offset(ALIGNMENT), 0);
        }
        assert_eq!(buffer.len(), 60_000);
        assert_eq!((buffer.filled()[3_999], buffer.filled()[4_000], buffer.filled()[10_000]), (1, 2, 3));
        buffer.clear();
        assert_eq!(buffer.len(), 0);
    }
}

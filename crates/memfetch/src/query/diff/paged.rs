//! [`Paged`]: a buffer that begins at a page boundary.

use std::ops::{Deref, DerefMut};

const PAGE: usize = 4096;

/// Bytes that begin at a page boundary of this process' memory.
///
/// The kernel copies pages into it several times as fast as to any other place: `rep movsb` is slow where source and
/// destination lie differently in their cache lines.
#[derive(Debug, Default)]
pub(super) struct Paged {
    bytes: Vec<u8>,
    start: usize,
}

impl Paged {
    /// Makes room for so many bytes; what was in it is lost where that takes another buffer.
    pub(super) fn make_room(&mut self, len: usize) {
        if self.len() < len {
            self.bytes = vec![0; len.saturating_add(PAGE)];
            // Where it cannot be told it is a matter of speed only.
            self.start = self.bytes.as_ptr().align_offset(PAGE).min(PAGE);
        }
    }
}

impl Deref for Paged {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or_default()
    }
}

impl DerefMut for Paged {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.bytes.get_mut(self.start..).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_from_a_page_boundary_on() {
        let mut paged = Paged::default();
        assert!(paged.is_empty());
        for len in [1, 100, 4096, 5 << 20] {
            paged.make_room(len);
            assert!(paged.len() >= len);
            assert_eq!(paged.as_ptr().addr() % PAGE, 0);
        }
        let before = paged.as_ptr();
        paged.make_room(4096);
        assert_eq!(paged.as_ptr(), before);
    }
}

//! [`Buffer`]: memory of its own pages, for direct I/O and for reads that may never come back.

use std::ops::{Deref, DerefMut};

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

/// A block of zeroed memory that starts at a page boundary, as `O_DIRECT` asks for (open(2)).
///
/// It is mapped on its own, so that dropping it gives the memory back to the kernel at once.
#[derive(Debug)]
pub struct Buffer {
    start: *mut u8,
    len: usize,
}

// SAFETY: the mapping belongs to this value alone, as the memory of a `Box<[u8]>` does; no thread is special to it.
unsafe impl Send for Buffer {}
// SAFETY: `&Buffer` gives out `&[u8]` only, which is `Sync`.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// Maps `len` bytes (mmap(2)).
    ///
    /// # Errors
    ///
    /// `len` is 0, or memory is short.
    pub fn new(len: usize) -> std::io::Result<Self> {
        // SAFETY: a new anonymous mapping at an address of the kernel's choice overlaps nothing that exists.
        let start = unsafe {
            mmap_anonymous(std::ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)
        }?;
        Ok(Self { start: start.cast(), len })
    }

    /// Has all of it in RAM now rather than page by page when it is first written. `MADV_POPULATE_WRITE`, since Linux
    /// 5.14
    pub fn enter_pages(&mut self) {
        // SAFETY: the range is mapped until drop, and neither kind of advice changes a byte of it.
        let entered = unsafe {
            // Fewer faults; where there are no huge pages, the small ones do.
            libc::madvise(self.start.cast(), self.len, libc::MADV_HUGEPAGE);
            libc::madvise(self.start.cast(), self.len, libc::MADV_POPULATE_WRITE)
        };
        if entered < 0 {
            for byte in self.iter_mut().step_by(4096) {
                *byte = std::hint::black_box(*byte);
            }
        }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `start..start + len` is mapped readable until drop, initialised with zeros by the kernel, and
        // shared references are tied to `&self`.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `&mut self` makes the reference the only one.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.len) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new` with this length, and nothing refers to it any more.
        let unmapped = unsafe { munmap(self.start.cast(), self.len) };
        debug_assert!(unmapped.is_ok());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_zeroed_page_aligned_and_writable() {
        let mut buffer = Buffer::new(10_000).unwrap();
        assert_eq!(buffer.as_ptr() as usize % 4096, 0);
        assert!(buffer.iter().all(|&byte| byte == 0));
        buffer.fill(7);
        assert_eq!(buffer.len(), 10_000);
        assert!(Buffer::new(0).is_err());
    }
}

//! Roles that are about what is mapped.

use crate::{Role, argument, fact, serve, unknown};

/// The roles of this module.
pub const ROLES: &[Role] = &[("private", private)];

/// `private MIB`: so much private anonymous memory, every 8-byte word of it its own address.
fn private(arguments: &[String]) {
    let bytes = argument(arguments, 0, 4_usize) << 20;
    let start = map(bytes, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    fill(start, bytes);
    fact("start", format_args!("{start:#x}"));
    fact("bytes", bytes);
    serve(unknown);
}

/// Maps memory with no file behind it and returns its address.
pub fn map(bytes: usize, protection: i32, flags: i32) -> usize {
    // SAFETY: a new mapping at a place of the kernel's choice overlaps nothing.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0) };
    assert!(at != libc::MAP_FAILED, "mmap: {}", std::io::Error::last_os_error());
    at as usize
}

/// Makes every 8-byte word of a mapping its own address, so that a test knows what must be read anywhere.
pub fn fill(start: usize, bytes: usize) {
    for at in (start..start + bytes).step_by(8) {
        // SAFETY: the caller mapped `start..start + bytes` writable, and nothing else refers to it.
        unsafe { std::ptr::write_volatile(at as *mut usize, at) };
    }
}

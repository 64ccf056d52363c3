//! A role whose writes are followed from outside.

use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use crate::memory::{PAGE, advise, fill, map, map_at, resize, temporary_file};
use crate::{Role, argument, fact, serve, unknown};

pub const ROLES: &[Role] = &[("tracked", tracked)];

const READ_WRITE: i32 = libc::PROT_READ | libc::PROT_WRITE;
const PRIVATE: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
const PAGES: usize = 64;

/// `tracked FOLDER`: mappings of 64 pages, each filled in its first half: `private`, `file` (a private mapping of a
/// file), `shared-file` and `memory` (shared and anonymous); and a huge page of hugetlbfs, `huge`, or 0 where there
/// is none. `write ADDRESS` writes a word of a page, `discard ADDRESS` gives a page back (MADV_DONTNEED), and `map`
/// tells of a new private mapping of as many pages.
fn tracked(arguments: &[String]) {
    let folder = PathBuf::from(argument(arguments, 0, "/tmp".to_owned()));
    let bytes = PAGES * PAGE;
    let file = temporary_file(&folder, "tracked");
    resize(file.as_raw_fd(), bytes);
    file.write_all_at(&vec![1; bytes], 0).expect("the file can be written");
    let small = |start| {
        // A write to a huge page is one to all of it.
        advise(start, bytes, libc::MADV_NOHUGEPAGE);
        start
    };
    for (name, start) in [
        ("private", small(map(bytes, READ_WRITE, PRIVATE))),
        ("file", map_at(0, bytes, READ_WRITE, libc::MAP_PRIVATE, file.as_raw_fd())),
        ("shared-file", map_at(0, bytes, READ_WRITE, libc::MAP_SHARED, file.as_raw_fd())),
        ("memory", small(map(bytes, READ_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS))),
    ] {
        fill(start, bytes / 2);
        fact(name, format_args!("{start:#x}"));
    }
    fact("huge", format_args!("{:#x}", huge().unwrap_or_default()));
    serve(|order| match order.split_once(' ') {
        Some((order @ ("write" | "discard"), address)) => {
            let Ok(at) = usize::from_str_radix(address.trim_start_matches("0x"), 16) else {
                return unknown(address);
            };
            if order == "write" {
                fill(at, 8);
            } else {
                // SAFETY: the page is of a mapping of this role's own, and nothing refers to it.
                unsafe { libc::madvise(at as *mut libc::c_void, PAGE, libc::MADV_DONTNEED) };
            }
            "done".to_owned()
        }
        None if order == "map" => format!("{:#x}", small(map(bytes, READ_WRITE, PRIVATE))),
        _ => unknown(order),
    });
}

/// Maps a huge page of 2 MiB, and writes a word of it.
fn huge() -> Option<usize> {
    let flags = PRIVATE | libc::MAP_HUGETLB;
    // SAFETY: a new mapping at a place of the kernel's choice.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), 2 << 20, READ_WRITE, flags, -1, 0) };
    (start != libc::MAP_FAILED).then(|| {
        fill(start as usize, 8);
        start as usize
    })
}

//! The pieces of the role `mixed-writers`: memory of one kind each, and how the epoch comes into it.

use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use memfetch_testkit::invariants::mixed::EITHER;

use super::mixed::Entry;
use super::{load, small_pages, store};
use crate::memory::{
    PAGE, PRIVATE, READ_WRITE, advise, map, map_at, memfd, protect, resize, temporary_file, unmap,
};

/// Writes an epoch into all cells of a piece.
pub type Write = Box<dyn FnMut(u64)>;

/// A piece: its name, and what makes it, with its files in a folder.
type Piece = (&'static str, fn(Entry, &Path) -> Write);

/// All of them.
pub const PIECES: &[Piece] = &[
    ("private", private),
    ("huge", huge),
    ("file", file),
    ("shared", shared),
    ("memfd", shared_file),
    ("write", written),
    ("view", other_view),
    ("brk", program_break),
    ("remap", remapped),
    ("move", moved),
    ("jit", jit),
    ("hidden", hidden),
    ("discard", discarded),
    ("thread", threads),
    ("fork", forks),
];

/// A row with a cell on each page of a mapping.
fn row(entry: Entry, start: usize, pages: usize) -> usize {
    entry.set_row(start, pages, PAGE);
    start
}

/// Private memory in small pages.
fn private(entry: Entry, _: &Path) -> Write {
    row(entry, small_pages(256), 256);
    Box::new(move |epoch| entry.write(epoch))
}

/// Private memory in huge pages, two of them.
fn huge(entry: Entry, _: &Path) -> Write {
    let start = map(6 << 20, READ_WRITE, PRIVATE).next_multiple_of(2 << 20);
    advise(start, 4 << 20, libc::MADV_HUGEPAGE);
    row(entry, start, 1024);
    Box::new(move |epoch| entry.write(epoch))
}

/// Pages of a file that are copied when they are written, and dropped every eighth time, when the file's own zeros
/// come back.
fn file(entry: Entry, folder: &Path) -> Write {
    let file = temporary_file(folder, "mixed");
    resize(file.as_raw_fd(), 64 * PAGE);
    let start = row(entry, map_at(0, 64 * PAGE, READ_WRITE, libc::MAP_PRIVATE, file.as_raw_fd()), 64);
    // It stays open: that is the way in for an ordinary user to what has become the file's own again.
    std::mem::forget(file);
    Box::new(move |epoch| {
        entry.set_fresh(true);
        if epoch.is_multiple_of(8) {
            advise(start, 64 * PAGE, libc::MADV_DONTNEED);
        }
        entry.write(epoch);
        entry.set_fresh(false);
    })
}

/// Shared memory with no name.
fn shared(entry: Entry, _: &Path) -> Write {
    row(entry, map(64 * PAGE, READ_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS), 64);
    Box::new(move |epoch| entry.write(epoch))
}

/// Pages of a memfd, which become a hole of it every sixteenth time.
fn shared_file(entry: Entry, _: &Path) -> Write {
    let (fd, bytes) = (memfd("mixed"), 64 * PAGE);
    resize(fd.as_raw_fd(), bytes);
    row(entry, map_at(0, bytes, READ_WRITE, libc::MAP_SHARED, fd.as_raw_fd()), 64);
    Box::new(move |epoch| {
        entry.set_fresh(true);
        if epoch.is_multiple_of(16) {
            let how = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
            // SAFETY: fallocate(2) takes numbers.
            let result = unsafe { libc::fallocate(fd.as_raw_fd(), how, 0, bytes as i64) };
            assert!(result == 0, "fallocate: {}", std::io::Error::last_os_error());
        }
        entry.write(epoch);
        entry.set_fresh(false);
    })
}

/// Pages of a memfd that are written by pwrite(2), not through the mapping.
fn written(entry: Entry, _: &Path) -> Write {
    let file = std::fs::File::from(memfd("written"));
    resize(file.as_raw_fd(), 16 * PAGE);
    row(entry, map_at(0, 16 * PAGE, READ_WRITE, libc::MAP_SHARED, file.as_raw_fd()), 16);
    Box::new(move |epoch| {
        for at in (0..16 * PAGE as u64).step_by(PAGE) {
            file.write_all_at(&epoch.to_ne_bytes(), at).expect("the memfd can be written");
        }
    })
}

/// Pages of a memfd that are mapped twice and written through the other view.
fn other_view(entry: Entry, _: &Path) -> Write {
    let fd = memfd("viewed");
    resize(fd.as_raw_fd(), 16 * PAGE);
    let view = || map_at(0, 16 * PAGE, READ_WRITE, libc::MAP_SHARED, fd.as_raw_fd());
    row(entry, view(), 16);
    let other = view();
    // It stays open: that is the way in for an ordinary user to what this view never touches.
    std::mem::forget(fd);
    Box::new(move |epoch| {
        for page in 0..16 {
            store(other + page * PAGE, epoch);
        }
    })
}

/// The last pages below the program break, which moves up by a page each time, and back when it has come far.
fn program_break(entry: Entry, _: &Path) -> Write {
    const LAST: usize = 16;
    let top = move_break(0);
    let base = top.next_multiple_of(PAGE);
    move_break((base - top + LAST * PAGE) as isize);
    let mut end = base + LAST * PAGE;
    row(entry, base, LAST);
    Box::new(move |epoch| {
        // The C library moves it as well, if seldom: behind what it took, and below it, nothing can move.
        if move_break(0) == end {
            let down = end - base >= 1024 * PAGE;
            let first = if down { base } else { end };
            let new_end = if down { base + LAST * PAGE } else { end + PAGE };
            if !down {
                move_break(PAGE as isize);
            }
            for at in (first..new_end).step_by(PAGE) {
                store(at, epoch - 1);
            }
            entry.set_address(new_end - LAST * PAGE);
            if down {
                move_break(-((end - new_end) as isize));
            }
            end = new_end;
        }
        entry.write(epoch);
    })
}

/// Moves the program break, and returns where it was.
fn move_break(by: isize) -> usize {
    // SAFETY: what is added the C library takes for someone else's, and only that is given back.
    let old = unsafe { libc::sbrk(by) };
    assert!(old as isize != -1, "sbrk: {}", std::io::Error::last_os_error());
    old.expose_provenance()
}

/// Memory that is mapped anew each time and written there, before the old one is unmapped.
fn remapped(entry: Entry, _: &Path) -> Write {
    row(entry, small_pages(16), 16);
    Box::new(move |epoch| {
        let (old, new) = (entry.address(), small_pages(16));
        for page in 0..16 {
            store(new + page * PAGE, epoch);
        }
        entry.set_address(new);
        unmap(old, 16 * PAGE);
    })
}

/// Memory whose pages mremap(2) moves to and fro between two places.
fn moved(entry: Entry, _: &Path) -> Write {
    let bytes = 16 * PAGE;
    let (mut here, mut there) = (small_pages(16), small_pages(16));
    row(entry, here, 16);
    entry.set_form(EITHER, there);
    Box::new(move |epoch| {
        let how = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED | libc::MREMAP_DONTUNMAP;
        let [from, to] = [here, there].map(std::ptr::with_exposed_provenance_mut::<libc::c_void>);
        // SAFETY: both places are this piece's own, and nothing refers to them but by their numbers.
        let got = unsafe { libc::mremap(from, bytes, bytes, how, to) };
        assert!(got == to, "mremap: {}", std::io::Error::last_os_error());
        std::mem::swap(&mut here, &mut there);
        for page in 0..16 {
            store(here + page * PAGE, epoch);
        }
    })
}

/// Pages of code that are never writable and executable at once: each has the epoch, and a function that returns it.
fn jit(entry: Entry, _: &Path) -> Write {
    const CODE: usize = 64;
    let start = row(entry, small_pages(4), 4);
    Box::new(move |epoch| {
        protect(start, 4 * PAGE, READ_WRITE);
        entry.write(epoch);
        for at in (start..start + 4 * PAGE).step_by(PAGE) {
            let [a, b, c, d, ..] = epoch.to_le_bytes();
            // mov eax, EPOCH; ret
            store(at + CODE, u64::from_le_bytes([0xb8, a, b, c, d, 0xc3, 0x90, 0x90]));
        }
        protect(start, 4 * PAGE, libc::PROT_READ | libc::PROT_EXEC);
        for at in (start..start + 4 * PAGE).step_by(PAGE) {
            let code = std::ptr::with_exposed_provenance::<()>(at + CODE);
            // SAFETY: the bytes there are a function of this type, which was written before the page was made
            // executable.
            let function: extern "C" fn() -> u32 = unsafe { std::mem::transmute(code) };
            assert!(function() == epoch as u32, "the code is not what was written");
        }
    })
}

/// Memory that can be read by nobody but while it is written.
fn hidden(entry: Entry, _: &Path) -> Write {
    let start = row(entry, small_pages(4), 4);
    Box::new(move |epoch| {
        protect(start, 4 * PAGE, READ_WRITE);
        entry.write(epoch);
        protect(start, 4 * PAGE, libc::PROT_NONE);
    })
}

/// Memory that is given back each time before it is written.
fn discarded(entry: Entry, _: &Path) -> Write {
    let start = row(entry, small_pages(64), 64);
    Box::new(move |epoch| {
        entry.set_fresh(true);
        advise(start, 64 * PAGE, libc::MADV_DONTNEED);
        entry.write(epoch);
        entry.set_fresh(false);
    })
}

/// Memory that every 64th time a new thread writes, which then ends.
fn threads(entry: Entry, _: &Path) -> Write {
    row(entry, small_pages(16), 16);
    Box::new(move |epoch| {
        if epoch.is_multiple_of(64) {
            std::thread::spawn(move || entry.write(epoch)).join().expect("it only writes");
        } else {
            entry.write(epoch);
        }
    })
}

/// Memory that every 64th time a child is made with a copy of, which writes into its own and ends.
fn forks(entry: Entry, _: &Path) -> Write {
    let start = row(entry, small_pages(16), 16);
    Box::new(move |epoch| {
        if epoch % 64 == 32 {
            // SAFETY: the child stores into its own memory and ends, and calls nothing that another thread may hold.
            let child = unsafe { libc::fork() };
            assert!(child >= 0, "fork: {}", std::io::Error::last_os_error());
            if child == 0 {
                for page in 0..16 {
                    store(start + page * PAGE, u64::MAX - load(start + page * PAGE));
                }
                // SAFETY: ends the child, and runs nothing before.
                unsafe { libc::_exit(0) };
            }
            // SAFETY: waits for the child that was just made.
            let waited = unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
            assert!(waited == child, "waitpid: {}", std::io::Error::last_os_error());
        }
        entry.write(epoch);
    })
}

//! What a process and the machine have in memory: the figures that a snapshot must leave as they were.

use std::path::Path;
use std::time::Duration;

use crate::Target;
use crate::target::status_of;

/// What reading a process may change in it: kilobytes, by their names in `/proc/PID/status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Footprint(Vec<(&'static str, u64)>);

impl Footprint {
    /// That of a process now.
    ///
    /// # Panics
    ///
    /// Where there is no such process.
    #[must_use]
    pub fn of(pid: i32) -> Self {
        let keys = ["VmRSS", "RssAnon", "RssFile", "RssShmem", "VmPTE", "VmSwap"];
        Self(keys.map(|key| (key, status_of(pid, key))).to_vec())
    }

    /// Asserts that no figure has moved by more than so many kilobytes.
    ///
    /// # Panics
    ///
    /// Where one has.
    pub fn assert_near(&self, later: &Self, kilobytes: u64, what: &str) {
        for ((key, before), (_, after)) in self.0.iter().zip(&later.0) {
            let moved = before.abs_diff(*after);
            assert!(moved <= kilobytes, "{what}: {key}: {before} kB before, {after} kB after");
        }
    }
}

/// Kilobytes by `/proc/PID/smaps_rollup`. Pages that are un-shared become private to both sides; the machine's
/// own counts would tell as well, but other programs move those.
///
/// # Panics
///
/// Where there is no such process or line.
#[must_use]
pub fn rollup(pid: i32, key: &str) -> u64 {
    kilobytes(Path::new(&format!("/proc/{pid}/smaps_rollup")), key)
}

/// Kilobytes by `/proc/meminfo`.
///
/// # Panics
///
/// Where there is no such line.
#[must_use]
pub fn machine(key: &str) -> u64 {
    kilobytes(Path::new("/proc/meminfo"), key)
}

fn kilobytes(path: &Path, key: &str) -> u64 {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))
        .and_then(|value| value.trim().trim_end_matches(" kB").parse().ok())
        .unwrap_or_else(|| panic!("no {key} in {}", path.display()))
}

/// Has the target go once through what it does for an order: its own code is paged in by that, not by a reader.
///
/// # Panics
///
/// Where the target does not answer.
pub fn settle(target: &mut Target) {
    for _ in 0..2 {
        target.ask("nothing");
    }
    std::thread::sleep(Duration::from_millis(20));
}

/// How many bytes of a file are in the page cache.
///
/// # Panics
///
/// Where it cannot be opened or mapped.
#[must_use]
pub fn cached_bytes(path: &Path) -> u64 {
    use std::os::fd::AsRawFd;
    const PAGE: usize = 4096;
    let file = std::fs::File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let len = usize::try_from(file.metadata().expect("it has a size").len()).expect("a size");
    if len == 0 {
        return 0;
    }
    let mut pages = vec![0_u8; len.div_ceil(PAGE)];
    // SAFETY: a new mapping, which is never looked into, and unmapped at once; the vector has a byte for each page.
    unsafe {
        let start =
            libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), 0);
        assert!(start != libc::MAP_FAILED, "mmap: {}", std::io::Error::last_os_error());
        let result = libc::mincore(start, len, pages.as_mut_ptr());
        libc::munmap(start, len);
        assert!(result == 0, "mincore: {}", std::io::Error::last_os_error());
    }
    pages.iter().filter(|&&page| page & 1 != 0).count() as u64 * PAGE as u64
}

//! The vdso: code that the kernel maps into every process, the same bytes for all of one word size. A page of it
//! that the target has not touched is read from this process' own mapping.

use std::os::fd::OwnedFd;
use std::sync::OnceLock;

use rustix::fs::{Mode, OFlags};

use crate::address::Address;
use crate::maps;
use crate::memory::Platform;
use crate::region::Backing;

struct Own {
    start: Address,
    len: u64,
    mem: OwnedFd,
}

/// Reads bytes at `offset` of a vdso of `len` bytes; `None` where this process has none like it.
pub fn read(platform: Platform, len: u64, offset: u64, buf: &mut [u8]) -> Option<usize> {
    static OWN: OnceLock<Option<Own>> = OnceLock::new();
    let own = OWN.get_or_init(open).as_ref()?;
    if platform != Platform::X86_64 || own.len != len {
        return None;
    }
    let wanted = usize::try_from(len.checked_sub(offset)?).ok()?.min(buf.len());
    let read =
        rustix::io::pread(&own.mem, buf.get_mut(..wanted)?, own.start.checked_add(offset)?.get()).ok()?;
    (read > 0).then_some(read)
}

fn open() -> Option<Own> {
    let map = maps::parse(&std::fs::read("/proc/self/maps").ok()?).ok()?;
    let region =
        map.iter().find(|region| matches!(&region.backing, Backing::Kernel(name) if name == "vdso"))?;
    let mem = rustix::fs::open("/proc/self/mem", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    Some(Own { start: region.span.start(), len: region.span.len(), mem })
}

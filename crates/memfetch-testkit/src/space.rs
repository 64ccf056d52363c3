//! [`Space`]: an address space built from literals.

use std::collections::BTreeMap;
use std::sync::Arc;

use memfetch::{
    Address, Backing, Cause, Error, Memory, PageRuns, PageSource, PageState, Permissions, Platform,
    ReadError, Region, RegionMap, Source, Span,
};

/// A memory that a test makes up: regions with page states, bytes where they are given, holes anywhere.
///
/// ```
/// use memfetch::{Address, Memory, PageState};
/// use memfetch_testkit::Space;
/// let space = Space::new().bytes(0x1000, b"hello").zeros(0x3000, 0x1000);
/// let mut text = [0; 8];
/// assert_eq!(space.read_at(Address::new(0x1000), &mut text).unwrap(), 5);
/// ```
///
/// Addresses need not lie on page boundaries: a hole may begin at any byte.
#[derive(Clone, Debug)]
pub struct Space {
    platform: Platform,
    regions: Vec<Region>,
    /// Parts of regions by their start: how long, in what state, and with which bytes.
    parts: BTreeMap<u64, Part>,
}

#[derive(Clone, Debug)]
struct Part {
    len: u64,
    state: PageState,
    bytes: Vec<u8>,
    /// Why a read fails, whatever the state promises.
    fault: Option<Cause>,
}

impl Default for Space {
    fn default() -> Self {
        Self::new()
    }
}

impl Space {
    /// Nothing mapped, on x86-64.
    #[must_use]
    pub const fn new() -> Self {
        Self { platform: Platform::X86_64, regions: Vec::new(), parts: BTreeMap::new() }
    }

    /// The same on another machine.
    #[must_use]
    pub const fn on(mut self, platform: Platform) -> Self {
        self.platform = platform;
        self
    }

    /// Adds a region of readable and writable private memory that holds these bytes and nothing else.
    #[must_use]
    pub fn bytes(self, start: u64, bytes: &[u8]) -> Self {
        let len = bytes.len() as u64;
        self.region(start, len, "rw-p", Backing::Anonymous { label: None }).part(
            start,
            len,
            PageState::Resident,
            bytes,
        )
    }

    /// Adds a region of private memory that was never touched.
    #[must_use]
    pub fn zeros(self, start: u64, len: u64) -> Self {
        self.region(start, len, "rw-p", Backing::Anonymous { label: None }).part(
            start,
            len,
            PageState::Absent,
            &[],
        )
    }

    /// Adds a region that cannot be read, and why.
    #[must_use]
    pub fn unreadable(self, start: u64, len: u64, cause: Cause) -> Self {
        self.region(start, len, "rw-p", Backing::Anonymous { label: None }).part(
            start,
            len,
            PageState::Unreadable(cause),
            &[],
        )
    }

    /// Adds a region whose pages are said to be in RAM, and which is gone when it is read.
    #[must_use]
    pub fn vanished(mut self, start: u64, len: u64) -> Self {
        self = self.region(start, len, "rw-p", Backing::Anonymous { label: None });
        let fault = Some(Cause::Vanished);
        self.parts.insert(start, Part { len, state: PageState::Resident, bytes: Vec::new(), fault });
        self
    }

    /// Adds a region and says nothing of its pages: [`Space::part`] does. What it leaves out is a hole in the
    /// region: mapped, and not readable.
    ///
    /// # Panics
    ///
    /// Where the literals make no region.
    #[must_use]
    pub fn region(mut self, start: u64, len: u64, permissions: &str, backing: Backing) -> Self {
        self.regions.push(Region {
            span: Span::from_len(Address::new(start), len).expect("a span"),
            permissions: Permissions::parse(permissions.as_bytes()).expect("permissions such as rw-p"),
            backing,
        });
        self
    }

    /// Adds a part of a region in one state. `bytes` is all of it, or nothing for a state without bytes.
    ///
    /// # Panics
    ///
    /// Where the bytes are neither nothing nor `len`.
    #[must_use]
    pub fn part(mut self, start: u64, len: u64, state: PageState, bytes: &[u8]) -> Self {
        assert!(bytes.is_empty() || bytes.len() as u64 == len, "as many bytes as the part is long");
        self.parts.insert(start, Part { len, state, bytes: bytes.to_vec(), fault: state.refusal() });
        self
    }

    /// The part that holds `at`, and how far into it that is.
    fn part_at(&self, at: u64) -> Option<(&Part, u64)> {
        let (start, part) = self.parts.range(..=at).next_back()?;
        (at - start < part.len).then_some((part, at - start))
    }
}

impl PageSource for Space {
    fn fetch(&self, _: &Region, _: PageState, at: Address, buf: &mut [u8]) -> Result<usize, ReadError> {
        self.read_at(at, buf)
    }

    fn touch(&self, _: &Region, at: Address, buf: &mut [u8]) -> Result<usize, ReadError> {
        self.read_at(at, buf)
    }
}

impl Source for Space {
    fn handle(&self) -> Arc<dyn Source> {
        Arc::new(self.clone())
    }
}

impl Memory for Space {
    fn platform(&self) -> &Platform {
        &self.platform
    }

    fn regions(&self) -> Result<RegionMap, Error> {
        Ok(RegionMap::new(self.regions.clone()))
    }

    fn pages(&self, span: Span) -> Result<PageRuns, Error> {
        let mut runs = PageRuns::new();
        for (&start, part) in &self.parts {
            let part_span =
                Span::from_len(Address::new(start), part.len).and_then(|it| it.intersection(span));
            if let Some(part_span) = part_span {
                runs.push(part_span, part.state);
            }
        }
        Ok(runs)
    }

    fn read_at(&self, at: Address, buf: &mut [u8]) -> Result<usize, ReadError> {
        let mut done = 0;
        while done < buf.len() {
            let Some(here) = at.checked_add(done as u64) else { break };
            let found = self.part_at(here.get());
            let cause = match found {
                None => Some(Cause::NotMapped),
                Some((part, _)) => part.fault,
            };
            if let Some(cause) = cause {
                return if done == 0 { Err(ReadError::fault(here, cause)) } else { Ok(done) };
            }
            let Some((part, offset)) = found else { break };
            let room = usize::try_from(part.len - offset).unwrap_or(usize::MAX).min(buf.len() - done);
            let into = &mut buf[done..done + room];
            if part.bytes.is_empty() {
                into.fill(0);
            } else {
                let offset = usize::try_from(offset).expect("bytes lie in memory");
                into.copy_from_slice(&part.bytes[offset..offset + room]);
            }
            done += room;
        }
        if done == 0 && !buf.is_empty() {
            return Err(ReadError::fault(at, Cause::NotMapped));
        }
        Ok(done)
    }
}

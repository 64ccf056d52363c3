//! [`Words`]: a memory of words at addresses, for tests of those who judge.

use std::collections::BTreeMap;

use memfetch::{Address, Cause, Error, Memory, PageRuns, Platform, ReadError, RegionMap, Span};

/// Words at addresses; nothing else can be read.
#[derive(Clone, Debug, Default)]
pub(super) struct Words(BTreeMap<u64, u64>);

impl Words {
    pub(super) const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// With a word of this value at a multiple of 8.
    pub(super) fn set(mut self, at: u64, value: u64) -> Self {
        self.0.insert(at, value);
        self
    }

    /// With words in a row.
    pub(super) fn row(self, at: u64, values: &[u64]) -> Self {
        (0..).zip(values).fold(self, |memory, (index, &value)| memory.set(at + index * 8, value))
    }

    /// Without the word at `at`.
    pub(super) fn without(mut self, at: u64) -> Self {
        self.0.remove(&at);
        self
    }
}

impl Memory for Words {
    fn platform(&self) -> &Platform {
        &Platform::X86_64
    }

    fn regions(&self) -> Result<RegionMap, Error> {
        Ok(RegionMap::default())
    }

    fn pages(&self, _: Span) -> Result<PageRuns, Error> {
        Ok(PageRuns::new())
    }

    fn read_at(&self, at: Address, buf: &mut [u8]) -> Result<usize, ReadError> {
        let word = self.0.get(&at.get()).ok_or_else(|| ReadError::fault(at, Cause::NotMapped))?;
        let len = buf.len().min(8);
        for (to, from) in buf.iter_mut().zip(word.to_ne_bytes()) {
            *to = from;
        }
        Ok(len)
    }
}

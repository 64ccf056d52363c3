//! [`Known`]: a gathered process as a source that is never touched, for the few bytes that decide what is saved.

use super::gather::Gathered;
use crate::address::{Address, Span};
use crate::error::Error;
use crate::memory::{Cause, Memory, PageRuns, PageState, Platform, ReadError, Touch};
use crate::region::RegionMap;

/// The memory of a process by the map and the page states that were gathered. A read goes by the state of its page, and
/// only where the snapshot's own rule lets that be read; nothing is ever entered into the process' page table.
pub(crate) struct Known<'a> {
    pub gathered: &'a Gathered,
    pub touch: Touch,
}

impl Memory for Known<'_> {
    fn platform(&self) -> &Platform {
        &self.gathered.platform
    }

    fn regions(&self) -> Result<RegionMap, Error> {
        Ok((*self.gathered.map).clone())
    }

    fn pages(&self, span: Span) -> Result<PageRuns, Error> {
        let mut pages = PageRuns::new();
        pages.extend(self.gathered.pages.within(span));
        Ok(pages)
    }

    fn read_at(&self, at: Address, buf: &mut [u8]) -> Result<usize, ReadError> {
        if buf.is_empty() {
            return Ok(0);
        }
        let (Some(region), Some(run)) = (self.gathered.map.at(at), self.gathered.pages.at(at)) else {
            return Err(ReadError::fault(at, Cause::NotMapped));
        };
        let is_elsewhere = matches!(run.state, PageState::Swapped | PageState::Backed | PageState::FileClean);
        if is_elsewhere && self.touch == Touch::Resident {
            return Err(ReadError::fault(at, Cause::NotSaved));
        }
        let room = run.span.end().offset_from(at).unwrap_or_default();
        let len = usize::try_from(room).unwrap_or(usize::MAX).min(buf.len());
        let bytes = self.gathered.peek(region, run.state, at, len)?;
        match buf.get_mut(..bytes.len()) {
            Some(prefix) if !bytes.is_empty() => prefix.copy_from_slice(&bytes),
            _ => return Err(ReadError::fault(at, Cause::Vanished)),
        }
        Ok(bytes.len())
    }
}

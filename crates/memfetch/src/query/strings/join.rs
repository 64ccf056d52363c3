//! [`Joiner`]: puts together what chunks have cut, and tells it in order.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use super::encoding::Encoding;
use super::rules::Rules;
use super::scan::Run;
use super::{PIECE, Text};
use crate::address::Address;
use crate::query::sweep::Segment;

/// Strings of one encoding that begin at even addresses, or those at odd ones. Those of single bytes have one lane.
type Lane = (Encoding, bool);

/// A piece of a string that may not have come to its end, or that waits for its turn.
#[derive(Debug)]
struct Piece {
    bytes: Vec<u8>,
    continued: bool,
    continues: bool,
}

/// A string that reaches the end of all that was seen.
#[derive(Debug)]
struct Open {
    at: Address,
    piece: Piece,
    /// Its first piece was none that is told.
    dropped: bool,
}

/// Puts together what chunks have cut, and tells it in order.
///
/// It holds back at most what lies in one chunk and a piece of each lane.
pub(super) struct Joiner<'a, F> {
    rules: &'a Rules,
    each: F,
    open: BTreeMap<Lane, Open>,
    /// Pieces that an open string lies before.
    waiting: BTreeMap<(Address, Encoding), Piece>,
    /// The last text of two bytes a unit, and where it ends.
    last_wide: (Option<Encoding>, Address),
}

impl<'a, F: FnMut(&Text<'_>) -> ControlFlow<()>> Joiner<'a, F> {
    pub(super) const fn new(rules: &'a Rules, each: F) -> Self {
        let last_wide = (None, Address::ZERO);
        Self { rules, each, open: BTreeMap::new(), waiting: BTreeMap::new(), last_wide }
    }

    /// Takes the runs of a segment, which lies behind all that were taken before.
    pub(super) fn take(&mut self, segment: &Segment<'_>, runs: &[Run]) -> ControlFlow<()> {
        let core = segment.core();
        if core.is_empty() {
            return ControlFlow::Continue(());
        }
        let key = |run: &Run| {
            let at = segment.address_of(run.start);
            (lane(run.encoding, at), at)
        };
        // What does not go on right here has come to its end.
        let edge: Vec<_> = runs.iter().take_while(|run| run.start < core.start + 2).map(key).collect();
        let ended = self.open.iter().filter(|(lane, open)| !edge.contains(&(**lane, open.end())));
        for lane in ended.map(|(lane, _)| *lane).collect::<Vec<_>>() {
            self.close(lane);
        }
        for run in runs {
            let at = segment.address_of(run.start);
            let bytes = segment.bytes().get(run.start..run.end).unwrap_or_default();
            self.drain(at)?;
            let is_whole = run.start >= core.start + 2 && run.end < core.end;
            if is_whole && bytes.len() <= PIECE && self.is_clear() {
                // The scan knew all of it, and that it is wanted.
                self.tell(at, run.encoding, bytes, (false, false))?;
                continue;
            }
            self.take_run(run.encoding, at, bytes, run.end >= core.end)?;
        }
        self.drain(segment.address_of(core.end))
    }

    /// Nothing more comes.
    pub(super) fn finish(mut self) -> ControlFlow<()> {
        while let Some((&lane, _)) = self.open.first_key_value() {
            self.close(lane);
        }
        while let Some(((at, encoding), piece)) = self.waiting.pop_first() {
            self.tell(at, encoding, &piece.bytes, (piece.continued, piece.continues))?;
        }
        ControlFlow::Continue(())
    }

    /// Whether nothing has to be told before what comes next.
    fn is_clear(&self) -> bool {
        self.open.is_empty() && self.waiting.is_empty()
    }

    fn take_run(
        &mut self,
        encoding: Encoding,
        at: Address,
        bytes: &[u8],
        may_go_on: bool,
    ) -> ControlFlow<()> {
        let lane = lane(encoding, at);
        if let Some(open) = self.open.get_mut(&lane) {
            open.piece.bytes.extend_from_slice(bytes);
        } else if may_go_on || bytes.len() > PIECE {
            let piece = Piece { bytes: bytes.to_vec(), continued: false, continues: false };
            self.open.insert(lane, Open { at, piece, dropped: false });
        } else if !self.rules.wants(encoding, bytes) {
            return ControlFlow::Continue(());
        } else if self.is_clear() {
            return self.tell(at, encoding, bytes, (false, false));
        } else {
            let piece = Piece { bytes: bytes.to_vec(), continued: false, continues: false };
            self.waiting.insert((at, encoding), piece);
            return ControlFlow::Continue(());
        }
        self.cut(lane);
        if !may_go_on {
            self.close(lane);
        }
        ControlFlow::Continue(())
    }

    /// Takes the pieces that are full off an open string.
    fn cut(&mut self, lane: Lane) {
        let Some(open) = self.open.get_mut(&lane) else { return };
        let encoding = lane.0;
        let mut done = 0;
        while let Some(rest) = open.piece.bytes.get(done..).filter(|rest| rest.len() > PIECE) {
            let len = encoding.boundary(rest, PIECE);
            let Some(bytes) = rest.get(..len) else { break };
            open.dropped |= !open.piece.continued && !self.rules.wants(encoding, bytes);
            if !open.dropped {
                let piece = Piece { bytes: bytes.to_vec(), continued: open.piece.continued, continues: true };
                self.waiting.insert((open.at, encoding), piece);
            }
            open.piece.continued = true;
            open.at = open.at.saturating_add(len as u64);
            done += len;
        }
        open.piece.bytes.drain(..done);
    }

    fn close(&mut self, lane: Lane) {
        let Some(open) = self.open.remove(&lane) else { return };
        let is_wanted = open.piece.continued || self.rules.wants(lane.0, &open.piece.bytes);
        if is_wanted && !open.dropped {
            self.waiting.insert((open.at, lane.0), open.piece);
        }
    }

    /// Tells what waits and lies below `end`, as far as nothing that is open lies before it.
    fn drain(&mut self, end: Address) -> ControlFlow<()> {
        if self.waiting.is_empty() {
            return ControlFlow::Continue(());
        }
        let end = self.open.values().map(|open| open.at).fold(end, Address::min);
        while let Some(entry) = self.waiting.first_entry().filter(|entry| entry.key().0 < end) {
            let ((at, encoding), piece) = entry.remove_entry();
            self.tell(at, encoding, &piece.bytes, (piece.continued, piece.continues))?;
        }
        ControlFlow::Continue(())
    }

    fn tell(
        &mut self,
        at: Address,
        encoding: Encoding,
        bytes: &[u8],
        (continued, continues): (bool, bool),
    ) -> ControlFlow<()> {
        // Text in one byte order is, shifted by a byte, the same text in the other.
        if encoding.byte_order().is_some() && !self.rules.all_scripts {
            let (last, end) = self.last_wide;
            if last.is_some_and(|last| last != encoding) && at < end {
                return ControlFlow::Continue(());
            }
            self.last_wide = (Some(encoding), end.max(at.saturating_add(bytes.len() as u64)));
        }
        (self.each)(&Text { at, encoding, bytes, continued, continues })
    }
}

impl Open {
    fn end(&self) -> Address {
        self.at.saturating_add(self.piece.bytes.len() as u64)
    }
}

const fn lane(encoding: Encoding, at: Address) -> Lane {
    (encoding, encoding.byte_order().is_some() && at.get() & 1 == 1)
}

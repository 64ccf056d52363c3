//! [`Reader`]: the bytes of a span in the order of their addresses, as far as they may be read.
//!
//! The page states decide what is read and how, so that the target stays as it is: what was never touched is known to
//! be zero and is told as a span, however long it is; what is in swap or in a file only is read if [`Touch`] allows
//! it. Neither the states nor the bytes of a large span are ever in memory together.
//!
//! A source with a time limit is read on a thread that can be left behind: a page of a stuck process is missing from
//! the result, and holds up nobody for longer than the limit.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::address::{Address, Span};
use crate::error::Error;
use crate::memory::{Cause, PageRun, PageState, ReadError, Touch};
use crate::region::{Region, RegionMap};
use crate::source::{Reach, Source, is_touched, reach};

/// A part of what was asked for.
#[derive(Clone, Copy, Debug)]
pub enum Chunk<'a> {
    /// These bytes lie at this address.
    Bytes(Address, &'a [u8]),
    /// All of it is known to be zero.
    Zeros(Span),
    /// It could not be read, or was not to be.
    Missing(Span, Cause),
}

/// Reads spans of a source, part by part.
#[derive(Clone, Copy)]
pub struct Reader<'a> {
    source: &'a dyn Source,
    touch: Touch,
}

/// What takes the parts; with [`ControlFlow::Break`] it has enough.
pub type Each<'f, E> = dyn FnMut(Chunk<'_>) -> Result<ControlFlow<()>, E> + 'f;

/// The first read is small, since little is wanted as a rule; each of the next is larger up to the size that is
/// fastest.
const FIRST_PIECE: u64 = 16 << 10;
const PIECE: u64 = 256 << 10;

/// Page states are asked for so many bytes at first; where they are few, for more at a time. Of the largest span they
/// take 32 MiB at the worst.
const FIRST_LOOK: u64 = 1 << 20;
const LARGEST_LOOK: u64 = 4 << 30;
const FEW_RUNS: usize = 4096;

/// So many threads may be left behind; after that nothing more is read.
const MOST_STUCK: usize = 4;

impl<'a> Reader<'a> {
    /// Reads `source`, as far as `touch` allows.
    #[must_use]
    pub fn new(source: &'a dyn Source, touch: Touch) -> Self {
        Self { source, touch }
    }

    /// Tells `each` the parts of `span`, in order and without gaps between them.
    ///
    /// # Errors
    ///
    /// The source as a whole is lost; or what `each` gave.
    pub fn read<E: From<Error>>(self, span: Span, each: &mut Each<'_, E>) -> Result<(), E> {
        let regions = self.source.regions()?;
        let mut hands = Hands::new(self.source);
        let mut at = span.start();
        let mut look = FIRST_LOOK;
        while at < span.end() {
            let rest = span.split_at(at).1;
            let Some(next) = regions.within(rest).next().and_then(|next| next.span.intersection(rest)) else {
                return each(Chunk::Missing(rest, Cause::NotMapped)).map(|_| ());
            };
            if missing(at, next.start(), Cause::NotMapped, each)?.is_break() {
                return Ok(());
            }
            let window = rest.split_at(next.start()).1.split_at(next.start().saturating_add(look)).0;
            let runs = self.source.pages(window)?;
            at = next.start();
            for run in &runs {
                let cut = run.span.split_at(at).1;
                if missing_in(&regions, at, cut.start(), each)?.is_break()
                    || self.run(&regions, PageRun { span: cut, ..*run }, &mut hands, each)?.is_break()
                {
                    return Ok(());
                }
                at = at.max(run.span.end());
            }
            if missing_in(&regions, at, window.end(), each)?.is_break() {
                return Ok(());
            }
            at = window.end();
            if runs.len() < FEW_RUNS {
                look = (look * 4).min(LARGEST_LOOK);
            } else {
                look = (look / 4).max(FIRST_LOOK);
            }
        }
        Ok(())
    }

    /// All of `len` bytes from `at` on, if they can be read.
    ///
    /// # Errors
    ///
    /// The first byte that cannot be, or the loss of the source as a whole.
    pub fn exact(self, at: Address, len: usize) -> Result<Vec<u8>, ReadError> {
        let span = Span::from_len(at, len as u64).ok_or(ReadError::fault(at, Cause::NotMapped))?;
        let mut bytes = Vec::new();
        let mut missing = None;
        self.read(span, &mut |chunk| -> Result<_, Error> {
            match chunk {
                Chunk::Bytes(_, more) => bytes.extend_from_slice(more),
                Chunk::Zeros(zeros) => bytes.resize(bytes.len().saturating_add(len_of(zeros)), 0),
                Chunk::Missing(gap, cause) => {
                    missing = Some(ReadError::fault(gap.start(), cause));
                    return Ok(ControlFlow::Break(()));
                }
            }
            Ok(ControlFlow::Continue(()))
        })?;
        missing.map_or(Ok(bytes), Err)
    }

    /// Tells a run of pages of one state, which may lie in several regions.
    fn run<E: From<Error>>(
        self,
        regions: &RegionMap,
        run: PageRun,
        hands: &mut Hands<'_>,
        each: &mut Each<'_, E>,
    ) -> Result<ControlFlow<()>, E> {
        let not_read = match reach(run.state, self.touch) {
            Reach::Zero => return each(Chunk::Zeros(run.span)),
            Reach::Read => None,
            Reach::LeftAlone => Some(Cause::NotTouched),
            Reach::Refused(cause) => Some(cause),
        };
        if let Some(cause) = not_read {
            return missing(run.span.start(), run.span.end(), cause, each);
        }
        let touched = is_touched(run.state, self.touch);
        let mut at = run.span.start();
        while at < run.span.end() {
            let rest = run.span.split_at(at).1;
            let Some(region) = regions.within(rest).next() else {
                return missing(at, rest.end(), Cause::NotMapped, each);
            };
            let Some(part) = region.span.intersection(rest) else { break };
            if missing(at, part.start(), Cause::NotMapped, each)?.is_break()
                || self.part(region, PageRun { span: part, ..run }, touched, hands, each)?.is_break()
            {
                return Ok(ControlFlow::Break(()));
            }
            at = part.end();
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Reads pages of one state that lie in one region.
    fn part<E: From<Error>>(
        self,
        region: &Region,
        run: PageRun,
        mut touched: bool,
        hands: &mut Hands<'_>,
        each: &mut Each<'_, E>,
    ) -> Result<ControlFlow<()>, E> {
        let page = self.source.platform().page_size;
        let region = Arc::new(region.clone());
        let mut at = run.span.start();
        while at < run.span.end() {
            let rest = run.span.split_at(at).1;
            let end = at.saturating_add(hands.piece).align_down(page.max(1));
            let piece = rest.split_at(if end > at { end } else { rest.end() }).0;
            let read =
                hands.read(Ask { region: Arc::clone(&region), state: run.state, touched, span: piece });
            match read {
                Ok(bytes) if !bytes.is_empty() => {
                    let told = bytes.len() as u64;
                    let flow = each(Chunk::Bytes(at, bytes))?;
                    at = at.saturating_add(told);
                    hands.piece = (hands.piece * 2).min(PIECE);
                    if flow.is_break() {
                        return Ok(flow);
                    }
                }
                // The file is gone, or was never to be had.
                Err(ReadError::Fault(fault))
                    if fault.cause == Cause::FileUnavailable && self.touch == Touch::All && !touched =>
                {
                    touched = true;
                }
                Err(ReadError::Source(error)) => return Err(error.into()),
                fault => {
                    let cause = match fault {
                        Err(ReadError::Fault(fault)) => fault.cause,
                        _ => Cause::Vanished,
                    };
                    // One page is missing, and those behind it may well be there.
                    let end = at.saturating_add(1).align_up(page).min(run.span.end());
                    if missing(at, end, cause, each)?.is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                    at = end;
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

fn missing<E>(
    start: Address,
    end: Address,
    cause: Cause,
    each: &mut Each<'_, E>,
) -> Result<ControlFlow<()>, E> {
    match Span::new(start, end).filter(|span| !span.is_empty()) {
        Some(span) => each(Chunk::Missing(span, cause)),
        None => Ok(ControlFlow::Continue(())),
    }
}

/// What has no page states: it was never mapped, or was unmapped since the map was read.
fn missing_in<E>(
    regions: &RegionMap,
    start: Address,
    end: Address,
    each: &mut Each<'_, E>,
) -> Result<ControlFlow<()>, E> {
    let Some(span) = Span::new(start, end) else { return Ok(ControlFlow::Continue(())) };
    let mut at = start;
    for region in regions.within(span) {
        let Some(part) = region.span.intersection(span) else { continue };
        if missing(at, part.start(), Cause::NotMapped, each)?.is_break()
            || missing(part.start(), part.end(), Cause::Vanished, each)?.is_break()
        {
            return Ok(ControlFlow::Break(()));
        }
        at = part.end();
    }
    missing(at, end, Cause::NotMapped, each)
}

fn len_of(span: Span) -> usize {
    usize::try_from(span.len()).unwrap_or(usize::MAX)
}

/// One read.
struct Ask {
    region: Arc<Region>,
    state: PageState,
    touched: bool,
    span: Span,
}

impl Ask {
    fn carry_out(&self, source: &dyn Source, buffer: &mut Vec<u8>) -> Result<usize, ReadError> {
        buffer.resize(len_of(self.span), 0);
        if self.touched {
            source.touch(&self.region, self.span.start(), buffer)
        } else {
            source.fetch(&self.region, self.state, self.span.start(), buffer)
        }
    }

    fn timed_out(&self) -> ReadError {
        ReadError::fault(self.span.start(), Cause::TimedOut)
    }
}

/// What does the reads: this thread, or one that can be left behind.
struct Hands<'a> {
    source: &'a dyn Source,
    limit: Option<Duration>,
    buffer: Vec<u8>,
    /// How much is read at once.
    piece: u64,
    helper: Option<Helper>,
    stuck: usize,
}

/// The thread, and the ways to and from it.
struct Helper {
    asks: Sender<(Ask, Vec<u8>)>,
    answers: Receiver<(Vec<u8>, Result<usize, ReadError>)>,
}

impl Helper {
    fn start(source: &dyn Source) -> Result<Self, Error> {
        let source = source.handle();
        let (asks, inbox) = channel::<(Ask, Vec<u8>)>();
        let (outbox, answers) = channel();
        let run = move || {
            while let Ok((ask, mut buffer)) = inbox.recv() {
                let read = ask.carry_out(&*source, &mut buffer);
                if outbox.send((buffer, read)).is_err() {
                    break;
                }
            }
        };
        let started = thread::Builder::new().name("memfetch-query".into()).spawn(run);
        started.map_err(|source| Error::Os { action: "start a thread".into(), source })?;
        Ok(Self { asks, answers })
    }
}

impl<'a> Hands<'a> {
    fn new(source: &'a dyn Source) -> Self {
        let limit = source.time_limit();
        Self { source, limit, buffer: Vec::new(), piece: FIRST_PIECE, helper: None, stuck: 0 }
    }

    /// Reads a prefix of what is asked for. What does not come back in time as a whole is tried by its first page.
    fn read(&mut self, ask: Ask) -> Result<&[u8], ReadError> {
        let Some(limit) = self.limit else {
            let read = ask.carry_out(self.source, &mut self.buffer)?;
            return Ok(self.buffer.get(..read).unwrap_or_default());
        };
        let page = self.source.platform().page_size;
        let begun = Instant::now();
        let (first, later) = ask.span.split_at(ask.span.start().saturating_add(1).align_up(page));
        let read = if later.is_empty() {
            self.within(limit, ask)?
        } else {
            let alone = Ask { region: Arc::clone(&ask.region), span: first, ..ask };
            match self.within(limit / 2, ask) {
                Err(ReadError::Fault(fault)) if fault.cause == Cause::TimedOut => {
                    // One page at a time from here on: which of them it is shows.
                    self.piece = page;
                    self.within(limit.saturating_sub(begun.elapsed()), alone)?
                }
                read => read?,
            }
        };
        Ok(self.buffer.get(..read).unwrap_or_default())
    }

    fn within(&mut self, limit: Duration, ask: Ask) -> Result<usize, ReadError> {
        if self.stuck >= MOST_STUCK {
            return Err(ask.timed_out());
        }
        let helper = match self.helper.take() {
            Some(helper) => helper,
            None => Helper::start(self.source)?,
        };
        let timed_out = ask.timed_out();
        // It fills a buffer of its own: when it is left behind it may still write to it.
        let sent = helper.asks.send((ask, std::mem::take(&mut self.buffer)));
        match sent.map_err(|_| ()).and_then(|()| helper.answers.recv_timeout(limit).map_err(|_| ())) {
            Ok((buffer, read)) => {
                self.buffer = buffer;
                self.helper = Some(helper);
                read
            }
            Err(()) => {
                self.stuck += 1;
                Err(timed_out)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Memory, PageRuns, Platform};
    use crate::region::{Backing, Permissions};
    use crate::source::PageSource;

    /// One region of pages in these states; a resident page holds its number, and one that hangs never comes back.
    #[derive(Clone)]
    struct Pages {
        states: Vec<PageState>,
        hanging: Vec<u64>,
        limit: Option<Duration>,
    }

    const START: u64 = 0x10_0000;
    const PAGE: u64 = 4096;

    impl Pages {
        fn region(&self) -> Region {
            Region {
                span: Span::from_len(Address::new(START), self.states.len() as u64 * PAGE).unwrap(),
                permissions: Permissions::parse(b"rw-p").unwrap(),
                backing: Backing::Heap,
            }
        }
    }

    impl Memory for Pages {
        fn platform(&self) -> &Platform {
            &Platform::X86_64
        }

        fn regions(&self) -> Result<RegionMap, Error> {
            Ok(RegionMap::new(vec![self.region()]))
        }

        fn pages(&self, span: Span) -> Result<PageRuns, Error> {
            let mut runs = PageRuns::new();
            for (page, &state) in self.region().span.pieces(PAGE).zip(&self.states) {
                if let Some(part) = page.intersection(span) {
                    runs.push(part, state);
                }
            }
            Ok(runs)
        }

        fn read_at(&self, _: Address, _: &mut [u8]) -> Result<usize, ReadError> {
            panic!("reads go by the states")
        }
    }

    impl PageSource for Pages {
        fn fetch(
            &self,
            _: &Region,
            state: PageState,
            at: Address,
            buf: &mut [u8],
        ) -> Result<usize, ReadError> {
            for (at, byte) in (at.get()..).zip(buf.iter_mut()) {
                let page = (at - START) / PAGE;
                assert_eq!(self.states[page as usize], state);
                if self.hanging.contains(&page) {
                    loop {
                        thread::park();
                    }
                }
                *byte = page as u8;
            }
            Ok(buf.len())
        }

        fn touch(&self, region: &Region, at: Address, buf: &mut [u8]) -> Result<usize, ReadError> {
            self.fetch(region, PageState::Unreadable(Cause::SharedUnknown), at, buf)
        }
    }

    impl Source for Pages {
        fn handle(&self) -> Arc<dyn Source> {
            Arc::new(self.clone())
        }

        fn time_limit(&self) -> Option<Duration> {
            self.limit
        }
    }

    /// The pages that a read of `span` told: their number, and what they are.
    fn told(pages: &Pages, span: Span, touch: Touch) -> Vec<(u64, String)> {
        let mut told = Vec::new();
        let mut end = span.start();
        Reader::new(pages, touch)
            .read(span, &mut |chunk| -> Result<_, Error> {
                let (part, what): (Span, &dyn Fn(Address) -> String) = match &chunk {
                    Chunk::Bytes(at, bytes) => {
                        let part = Span::from_len(*at, bytes.len() as u64).unwrap();
                        for (at, byte) in (at.get()..).zip(*bytes) {
                            assert_eq!(u64::from(*byte), (at - START) / PAGE);
                        }
                        (part, &|_| "read".to_owned())
                    }
                    Chunk::Zeros(span) => (*span, &|_| "zero".to_owned()),
                    Chunk::Missing(span, cause) => (*span, &move |_| format!("{cause:?}")),
                };
                assert_eq!(part.start(), end, "in order, and without gaps");
                end = part.end();
                told.extend(
                    part.pieces(PAGE)
                        .map(|page| (page.start().get().wrapping_sub(START) / PAGE, what(page.start()))),
                );
                Ok(ControlFlow::Continue(()))
            })
            .unwrap();
        assert_eq!(end, span.end());
        told
    }

    fn span(start: u64, end: u64) -> Span {
        Span::new(Address::new(start), Address::new(end)).unwrap()
    }

    #[test]
    fn states_decide_what_is_read() {
        let unknown = PageState::Unreadable(Cause::SharedUnknown);
        let states = vec![
            PageState::Resident,
            PageState::Absent,
            PageState::Swapped,
            PageState::FileClean,
            PageState::Guard,
            unknown,
        ];
        let pages = Pages { states, hanging: Vec::new(), limit: None };
        let all = span(START + 1, START + 6 * PAGE);
        for (touch, expected) in [
            (Touch::Resident, ["read", "zero", "NotTouched", "NotTouched", "Guard", "SharedUnknown"]),
            (Touch::Stored, ["read", "zero", "read", "read", "Guard", "SharedUnknown"]),
            (Touch::All, ["read", "zero", "read", "read", "Guard", "read"]),
        ] {
            let states: Vec<_> = told(&pages, all, touch).into_iter().map(|(_, state)| state).collect();
            assert_eq!(states, expected, "{touch:?}");
        }
    }

    #[test]
    fn what_is_around_is_not_mapped() {
        let pages = Pages { states: vec![PageState::Resident], hanging: Vec::new(), limit: None };
        let told = told(&pages, span(START - 2, START + PAGE + 2), Touch::Stored);
        let told: Vec<_> = told.iter().map(|(_, what)| what.as_str()).collect();
        assert_eq!(told, ["NotMapped", "read", "NotMapped"]);
    }

    #[test]
    fn whoever_has_enough_stops_the_reading() {
        let pages = Pages { states: vec![PageState::Resident; 1000], hanging: vec![100], limit: None };
        let mut read = 0;
        Reader::new(&pages, Touch::Stored)
            .read(span(START, START + 1000 * PAGE), &mut |chunk| -> Result<_, Error> {
                let Chunk::Bytes(_, bytes) = chunk else { panic!("{chunk:?}") };
                read += bytes.len();
                Ok(if read > 10_000 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
            })
            .unwrap();
        assert_eq!(read, FIRST_PIECE as usize);
    }

    #[test]
    fn a_page_that_never_comes_back_is_one_that_is_missing() {
        let limit = Some(Duration::from_millis(200));
        let pages = Pages { states: vec![PageState::Resident; 12], hanging: vec![5], limit };
        let told = told(&pages, span(START, START + 12 * PAGE), Touch::Stored);
        let missing: Vec<_> = told.iter().filter(|(_, what)| what != "read").collect();
        assert_eq!(missing, [&(5, "TimedOut".to_owned())]);
    }

    #[test]
    fn a_source_that_hangs_is_given_up() {
        let limit = Some(Duration::from_millis(20));
        let pages = Pages { states: vec![PageState::Resident; 2000], hanging: (0..2000).collect(), limit };
        let told = told(&pages, span(START, START + 2000 * PAGE), Touch::Stored);
        assert!(told.len() == 2000 && told.iter().all(|(_, what)| what == "TimedOut"));
    }
}

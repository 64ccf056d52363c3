//! The suite that every [`Memory`] must pass: what its documentation promises, tried around every edge.
//!
//! A test says what it knows of a source ([`Expected`]); everything else is asked of the source itself, and its
//! answers must fit each other.

use std::fmt;

use memfetch::{Address, Cause, Memory, PageRun, ReadError, RegionMap, Span};

/// What is known of a source.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    /// Parts that can be read from end to end, with their bytes. Around their ends the edges are tried, so that
    /// what lies behind an end should be a part or a hole as well.
    pub parts: Vec<(Span, Vec<u8>)>,
    /// Parts of which no byte can be read, and why; no cause for any.
    pub holes: Vec<(Span, Option<Cause>)>,
}

impl Expected {
    /// Nothing yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { parts: Vec::new(), holes: Vec::new() }
    }

    /// Adds a part with these bytes.
    ///
    /// # Panics
    ///
    /// Where it would pass the end of the address space.
    #[must_use]
    pub fn part(mut self, start: u64, bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        let span = Span::from_len(Address::new(start), bytes.len() as u64).expect("a span");
        self.parts.push((span, bytes));
        self
    }

    /// Adds a part every 8-byte word of which is its own address, as `memfetch-target` fills them.
    ///
    /// # Panics
    ///
    /// Where it would pass the end of the address space.
    #[must_use]
    pub fn addresses(self, start: u64, len: u64) -> Self {
        let bytes: Vec<u8> = (start..start + len).step_by(8).flat_map(u64::to_ne_bytes).collect();
        self.part(start, bytes)
    }

    /// Adds a hole.
    ///
    /// # Panics
    ///
    /// Where it would pass the end of the address space.
    #[must_use]
    pub fn hole(mut self, start: u64, len: u64, cause: impl Into<Option<Cause>>) -> Self {
        let span = Span::from_len(Address::new(start), len).expect("a span");
        self.holes.push((span, cause.into()));
        self
    }

    /// The byte at `at`, or the hole that it lies in, if either is known.
    fn at(&self, at: Address) -> Option<Result<u8, Option<Cause>>> {
        let part = self.parts.iter().find(|(span, _)| span.contains(at));
        if let Some((span, bytes)) = part {
            let offset = usize::try_from(at.offset_from(span.start())?).ok()?;
            return bytes.get(offset).copied().map(Ok);
        }
        self.holes.iter().find(|(span, _)| span.contains(at)).map(|(_, cause)| Err(*cause))
    }
}

/// A promise that was not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken(String);

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Broken {}

type Verdict = Result<(), Broken>;

macro_rules! promise {
    ($kept:expr, $($what:tt)+) => {
        if !$kept {
            return Err(Broken(format!($($what)+)));
        }
    };
}

/// Runs the suite, and panics with the first promise that was not kept.
///
/// # Panics
///
/// See above: this is for tests.
#[track_caller]
pub fn check(memory: &dyn Memory, expected: &Expected) {
    if let Err(broken) = run(memory, expected) {
        panic!("{broken}");
    }
}

/// Runs the suite.
///
/// # Errors
///
/// The first promise that was not kept.
pub fn run(memory: &dyn Memory, expected: &Expected) -> Verdict {
    let regions = memory.regions().map_err(|error| Broken(format!("regions: {error}")))?;
    check_regions(&regions)?;
    check_pages(memory, &regions, expected)?;
    check_empty_reads(memory, expected)?;
    check_contents(memory, expected)?;
    check_edges(memory, expected)?;
    check_last_addresses(memory)
}

fn check_regions(regions: &RegionMap) -> Verdict {
    let mut end = Address::ZERO;
    for region in regions {
        promise!(!region.span.is_empty(), "an empty region at {}", region.span);
        promise!(region.span.start() >= end, "{} overlaps the region before it, or lies below", region.span);
        end = region.span.end();
    }
    Ok(())
}

fn runs_of(memory: &dyn Memory, span: Span) -> Result<Vec<PageRun>, Broken> {
    let runs = memory.pages(span).map_err(|error| Broken(format!("pages of {span}: {error}")))?;
    let runs = runs.as_slice().to_vec();
    for run in &runs {
        promise!(!run.span.is_empty(), "an empty run at {}", run.span);
        promise!(span.covers(run.span), "the run {} is not cut to {span}", run.span);
    }
    for pair in runs.windows(2) {
        let [one, other] = pair else { continue };
        promise!(one.span.end() <= other.span.start(), "{} and {} overlap or descend", one.span, other.span);
        let joined = one.span.end() == other.span.start() && one.state == other.state;
        promise!(!joined, "{} and {} are one run", one.span, other.span);
    }
    Ok(runs)
}

fn check_pages(memory: &dyn Memory, regions: &RegionMap, expected: &Expected) -> Verdict {
    promise!(runs_of(memory, Span::empty_at(Address::ZERO))?.is_empty(), "an empty span has runs");
    for run in runs_of(memory, Span::ALL)? {
        let mut at = run.span.start();
        for region in regions.within(run.span) {
            promise!(region.span.start() <= at, "the run {} lies in no region at {at}", run.span);
            at = region.span.end();
        }
        promise!(at >= run.span.end(), "the run {} lies in no region at {at}", run.span);
    }
    for (span, bytes) in &expected.parts {
        let runs = runs_of(memory, *span)?;
        let covered: u64 = runs.iter().map(|run| run.span.len()).sum();
        promise!(covered == span.len(), "the runs of {span} cover {covered} bytes of it");
        for run in runs {
            promise!(
                run.state.refusal().is_none(),
                "{} is readable, and its state is {:?}",
                run.span,
                run.state
            );
            if run.state.is_known_zero() {
                let is_zero = part_of(*span, bytes, run.span).iter().all(|&byte| byte == 0);
                promise!(is_zero, "{} is {:?}, and not zero", run.span, run.state);
            }
        }
        for piece in pieces_around(*span) {
            runs_of(memory, piece)?;
        }
    }
    for (span, _) in &expected.holes {
        for run in runs_of(memory, *span)? {
            // A state that does not know the hole is allowed, one that promises zeros there is not.
            promise!(!run.state.is_known_zero(), "the hole {span} is {:?} at {}", run.state, run.span);
        }
    }
    Ok(())
}

fn part_of(span: Span, bytes: &[u8], wanted: Span) -> &[u8] {
    let from = wanted.start().offset_from(span.start()).and_then(|at| usize::try_from(at).ok()).unwrap_or(0);
    let len = usize::try_from(wanted.len()).unwrap_or(0);
    bytes.get(from..from + len).unwrap_or_default()
}

fn pieces_around(span: Span) -> Vec<Span> {
    let len = span.len();
    [(0, 1), (1, len.saturating_sub(1)), (len / 2, len - len / 2), (len.saturating_sub(1), 1)]
        .into_iter()
        .filter_map(|(from, len)| Span::from_len(span.start().checked_add(from)?, len))
        .collect()
}

fn check_empty_reads(memory: &dyn Memory, expected: &Expected) -> Verdict {
    let known =
        expected.parts.iter().map(|(span, _)| span).chain(expected.holes.iter().map(|(span, _)| span));
    let addresses = known.map(|span| span.start()).chain([Address::ZERO, Address::new(u64::MAX)]);
    for at in addresses {
        let read = memory.read_at(at, &mut []);
        promise!(matches!(read, Ok(0)), "an empty read at {at} is {read:?}");
    }
    Ok(())
}

/// One read, held against all that is known and promised. Returns how many bytes came.
fn check_read(memory: &dyn Memory, expected: &Expected, at: Address, len: usize) -> Result<usize, Broken> {
    // Two canaries: a byte that a source writes behind the prefix may equal one of them.
    let mut seen = None;
    for canary in [0xa5_u8, 0x5a] {
        let mut buf = vec![canary; len];
        match memory.read_at(at, &mut buf) {
            Ok(read) => {
                promise!(read > 0, "a read of {len} bytes at {at} is Ok(0)");
                promise!(read <= len, "a read of {len} bytes at {at} is Ok({read})");
                let (prefix, rest) = buf.split_at(read);
                promise!(
                    rest.iter().all(|&byte| byte == canary),
                    "a read at {at} returned {read} and wrote behind that"
                );
                for (offset, &byte) in prefix.iter().enumerate() {
                    let here = at.saturating_add(offset as u64);
                    match expected.at(here) {
                        Some(Ok(known)) => {
                            promise!(
                                byte == known,
                                "the byte at {here} is {known:#x}, and was read as {byte:#x}"
                            );
                        }
                        Some(Err(_)) => {
                            return Err(Broken(format!("a read at {at} delivers the hole at {here}")));
                        }
                        None => {}
                    }
                }
                seen = Some(read);
                if read == len {
                    break;
                }
            }
            Err(ReadError::Fault(fault)) => {
                promise!(fault.at == at, "a read at {at} faults at {}", fault.at);
                promise!(
                    buf.iter().all(|&byte| byte == canary),
                    "a read at {at} faulted and wrote to the buffer"
                );
                match expected.at(at) {
                    Some(Ok(_)) => {
                        return Err(Broken(format!("{at} is readable, and faults: {:?}", fault.cause)));
                    }
                    Some(Err(Some(cause))) => {
                        promise!(fault.cause == cause, "{at} faults by {:?}, not {cause:?}", fault.cause);
                    }
                    _ => {}
                }
                seen = Some(0);
            }
            Err(ReadError::Source(error)) => {
                return Err(Broken(format!("the source is lost at {at}: {error}")));
            }
        }
    }
    Ok(seen.unwrap_or(0))
}

fn check_contents(memory: &dyn Memory, expected: &Expected) -> Verdict {
    for (span, bytes) in &expected.parts {
        for len in [bytes.len(), 4096, 1000] {
            let mut at = span.start();
            while at < span.end() {
                let rest =
                    span.end().offset_from(at).and_then(|rest| usize::try_from(rest).ok()).unwrap_or(0);
                let read = check_read(memory, expected, at, len.min(rest))?;
                at = at.saturating_add(read.max(1) as u64);
            }
            // Small chunks of much memory are tried elsewhere.
            if bytes.len() > 1 << 20 {
                break;
            }
        }
    }
    for (span, _) in &expected.holes {
        for piece in pieces_around(*span) {
            check_read(
                memory,
                expected,
                piece.start(),
                usize::try_from(piece.len().min(10_000)).unwrap_or(1),
            )?;
        }
    }
    Ok(())
}

/// Reads that start and end at every offset of a page around every edge.
fn check_edges(memory: &dyn Memory, expected: &Expected) -> Verdict {
    let page = memory.platform().page_size;
    let known =
        expected.parts.iter().map(|(span, _)| *span).chain(expected.holes.iter().map(|(span, _)| *span));
    let mut edges: Vec<Address> = known.flat_map(|span| [span.start(), span.end()]).collect();
    edges.sort_unstable();
    edges.dedup();
    for edge in edges {
        for offset in 1..=page {
            // Starting before the edge, ending behind it.
            if let Some(at) = edge.get().checked_sub(offset).map(Address::new) {
                let read = check_read(memory, expected, at, usize::try_from(offset).unwrap_or(1) + 16)?;
                // Where it stopped short there is a fault, or more to read: no byte that is known is skipped.
                if (read as u64) < offset {
                    check_read(memory, expected, at.saturating_add(read as u64), 16)?;
                }
            }
            // Starting at the edge or behind it.
            check_read(memory, expected, edge.saturating_add(offset - 1), 24)?;
        }
    }
    Ok(())
}

fn check_last_addresses(memory: &dyn Memory) -> Verdict {
    for at in [u64::MAX, u64::MAX - 1, u64::MAX - 4095, u64::MAX - 8192, 1 << 63, (1 << 47) - 1, 1 << 47] {
        check_read(memory, &Expected::new(), Address::new(at), 4096)?;
        runs_of(memory, Span::new(Address::new(at), Address::new(u64::MAX)).unwrap_or(Span::ALL))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use memfetch::{Error, PageRuns, Platform};

    use super::*;
    use crate::Space;

    /// Parts and holes next to each other, on page boundaries and off them.
    fn space() -> Space {
        let bytes: Vec<u8> = (0..9000_u32).map(|n| u8::try_from(n % 251).unwrap_or(0)).collect();
        Space::new()
            .bytes(0x1_0000, &bytes)
            .bytes(0x2_0000, &bytes[..4096])
            .bytes(0x2_1000, &bytes[..4096])
            .unreadable(0x2_2000, 4096, Cause::Guard)
            .zeros(0x2_3000, 4096)
    }

    fn expected() -> Expected {
        let bytes: Vec<u8> = (0..9000_u32).map(|n| u8::try_from(n % 251).unwrap_or(0)).collect();
        Expected::new()
            .part(0x1_0000, bytes.clone())
            .hole(0x1_0000 + 9000, 5000, Cause::NotMapped)
            .part(0x2_0000, &bytes[..4096])
            .part(0x2_1000, &bytes[..4096])
            .hole(0x2_2000, 4096, Cause::Guard)
            .part(0x2_3000, [0; 4096])
            .hole(0x2_4000, 4096, Cause::NotMapped)
    }

    #[test]
    fn a_space_of_literals_passes() {
        check(&space(), &expected());
    }

    /// A space that breaks one promise.
    struct Bad(Space, fn(&Space, Address, &mut [u8]) -> Result<usize, ReadError>);

    impl Memory for Bad {
        fn platform(&self) -> &Platform {
            self.0.platform()
        }

        fn regions(&self) -> Result<RegionMap, Error> {
            self.0.regions()
        }

        fn pages(&self, span: Span) -> Result<PageRuns, Error> {
            self.0.pages(span)
        }

        fn read_at(&self, at: Address, buf: &mut [u8]) -> Result<usize, ReadError> {
            (self.1)(&self.0, at, buf)
        }
    }

    fn verdict(read: fn(&Space, Address, &mut [u8]) -> Result<usize, ReadError>) -> String {
        run(&Bad(space(), read), &expected()).expect_err("the promise is broken").to_string()
    }

    #[test]
    fn filling_holes_with_zeros_fails() {
        let text = verdict(|space, at, buf| {
            let read = space.read_at(at, buf).unwrap_or(0);
            buf[read..].fill(0);
            Ok(buf.len())
        });
        assert!(text.contains("hole"), "{text}");
    }

    #[test]
    fn nothing_read_without_an_error_fails() {
        let text = verdict(|space, at, buf| match space.read_at(at, buf) {
            Err(ReadError::Fault(_)) => Ok(0),
            result => result,
        });
        assert!(text.contains("Ok(0)"), "{text}");
    }

    #[test]
    fn writing_behind_the_prefix_fails() {
        let text = verdict(|space, at, buf| {
            let read = space.read_at(at, buf)?;
            if let Some(byte) = buf.get_mut(read) {
                *byte = 0;
            }
            Ok(read)
        });
        assert!(text.contains("wrote behind"), "{text}");
    }

    #[test]
    fn the_address_of_the_fault_counts() {
        let text = verdict(|space, at, buf| match space.read_at(at, buf) {
            Err(ReadError::Fault(fault)) => Err(ReadError::fault(fault.at.align_down(4096), fault.cause)),
            result => result,
        });
        assert!(text.contains("faults at"), "{text}");
    }

    #[test]
    fn all_or_nothing_fails() {
        let text = verdict(|space, at, buf| match space.read_at(at, &mut vec![0; buf.len()])? {
            read if read == buf.len() => space.read_at(at, buf),
            _ => Err(ReadError::fault(at, Cause::NotMapped)),
        });
        assert!(text.contains("readable, and"), "{text}");
    }

    #[test]
    fn the_wrong_byte_fails() {
        let text = verdict(|space, at, buf| {
            let read = space.read_at(at, buf)?;
            if let Some(byte) = buf.first_mut() {
                *byte ^= 1;
            }
            Ok(read)
        });
        assert!(text.contains("was read as"), "{text}");
    }
}

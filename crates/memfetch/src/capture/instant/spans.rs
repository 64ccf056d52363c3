//! Arithmetic with ascending lists: of spans, and of runs of pages.

use crate::address::Span;
use crate::memory::{PageRun, PageRuns, PageState};
use crate::region::RegionMap;

/// The parts of `span` that lie in `spans`, which are ascending and disjoint.
pub(super) fn inside(span: Span, spans: &[Span]) -> impl Iterator<Item = Span> + '_ {
    let first = spans.partition_point(|other| other.end() <= span.start());
    spans.iter().skip(first).map_while(move |other| other.intersection(span))
}

/// The parts of `span` that do not.
pub(super) fn outside(span: Span, spans: &[Span]) -> impl Iterator<Item = Span> + '_ {
    let mut rest = span;
    let mut cuts = inside(span, spans);
    let mut is_over = false;
    std::iter::from_fn(move || {
        while !is_over {
            let before = match cuts.next() {
                Some(cut) => {
                    let (before, from) = rest.split_at(cut.start());
                    rest = from.split_at(cut.end()).1;
                    before
                }
                None => {
                    is_over = true;
                    rest
                }
            };
            if !before.is_empty() {
                return Some(before);
            }
        }
        None
    })
}

/// The runs without what lies in `spans`.
pub(super) fn without(runs: &PageRuns, spans: &[Span]) -> PageRuns {
    let mut left = PageRuns::new();
    for run in runs {
        left.extend(outside(run.span, spans).map(|span| PageRun { span, state: run.state }));
    }
    left
}

/// Where runs lie.
pub(super) fn spans_of(runs: &PageRuns) -> Vec<Span> {
    Span::union(runs.iter().map(|run| run.span))
}

/// Runs of which those of `newer` take the place of others.
pub(super) fn merged(older: &PageRuns, newer: &PageRuns) -> PageRuns {
    let kept = without(older, &spans_of(newer));
    let mut all: Vec<PageRun> = kept.iter().chain(newer).copied().collect();
    all.sort_unstable_by_key(|run| run.span);
    let mut merged = PageRuns::new();
    merged.extend(all);
    merged
}

/// What of `wanted` is not in `had`, or was in another state there. What is anonymous by `map` may have gone to swap and
/// come back meanwhile: it is what it was.
pub(super) fn missing(wanted: &PageRuns, had: &PageRuns, map: &RegionMap) -> PageRuns {
    let mut missing = PageRuns::new();
    for run in wanted {
        let same: Vec<Span> = had
            .within(run.span)
            .filter(|had| had.state == run.state || is_own(had.state) && is_own(run.state))
            .flat_map(|had| match had.state == run.state {
                true => vec![had.span],
                // In other mappings what looks like swap may be the mark of a page that has gone.
                false => anonymous(map, had.span).collect(),
            })
            .collect();
        missing.extend(outside(run.span, &same).map(|span| PageRun { span, state: run.state }));
    }
    missing
}

/// `stale` with what lies between two runs of it, where that is no more than `gap` bytes of the same run of `wanted`: to
/// read a little more takes less than to read twice.
pub(super) fn coarse(stale: &PageRuns, wanted: &PageRuns, gap: u64) -> PageRuns {
    let mut coarse = PageRuns::new();
    for run in wanted {
        let mut open: Option<Span> = None;
        for next in stale.within(run.span) {
            open = match open {
                Some(span) if next.span.start().offset_from(span.end()).is_some_and(|len| len <= gap) => {
                    Span::new(span.start(), next.span.end())
                }
                before => {
                    coarse.extend(before.map(|span| PageRun { span, state: run.state }));
                    Some(next.span)
                }
            };
        }
        coarse.extend(open.map(|span| PageRun { span, state: run.state }));
    }
    coarse
}

/// Whether it holds what no file has.
const fn is_own(state: PageState) -> bool {
    matches!(state, PageState::Resident | PageState::Swapped)
}

/// The parts of a span in mappings of private anonymous memory.
fn anonymous(map: &RegionMap, span: Span) -> impl Iterator<Item = Span> + '_ {
    let regions = map.within(span).filter(|region| region.is_zero_until_touched() && region.file().is_none());
    regions.filter_map(move |region| region.span.intersection(span))
}

/// How many bytes are in runs.
pub(super) fn bytes_of(runs: &PageRuns) -> u64 {
    runs.bytes_where(|_| true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::Address;

    fn span(start: u64, end: u64) -> Span {
        Span::new(Address::new(start), Address::new(end)).unwrap()
    }

    fn runs(of: &[(u64, u64, PageState)]) -> PageRuns {
        let mut runs = PageRuns::new();
        runs.extend(of.iter().map(|&(start, end, state)| PageRun { span: span(start, end), state }));
        runs
    }

    use PageState::{FileResident, Resident, Swapped};

    #[test]
    fn a_span_is_cut_by_others() {
        let others = [span(2, 4), span(6, 8), span(12, 20)];
        let inner: Vec<_> = inside(span(3, 14), &others).collect();
        assert_eq!(inner, [span(3, 4), span(6, 8), span(12, 14)]);
        let outer: Vec<_> = outside(span(3, 14), &others).collect();
        assert_eq!(outer, [span(4, 6), span(8, 12)]);
        assert_eq!(outside(span(2, 4), &others).count(), 0);
        assert_eq!(outside(span(0, 2), &others).collect::<Vec<_>>(), [span(0, 2)]);
        assert_eq!(outside(span(0, 2), &[]).collect::<Vec<_>>(), [span(0, 2)]);
    }

    #[test]
    fn what_is_newer_counts() {
        let older = runs(&[(0, 10, Resident), (20, 30, Swapped)]);
        let newer = runs(&[(5, 7, FileResident), (8, 22, Resident)]);
        let expected = runs(&[(0, 5, Resident), (5, 7, FileResident), (7, 22, Resident), (22, 30, Swapped)]);
        assert_eq!(merged(&older, &newer), expected);
        assert_eq!(merged(&older, &PageRuns::new()), older);
        assert_eq!(merged(&PageRuns::new(), &older), older);
        assert_eq!(bytes_of(&expected), 30);
    }

    #[test]
    fn what_lies_between_is_read_as_well() {
        let wanted = runs(&[(0, 100, Resident), (100, 120, FileResident), (130, 200, Resident)]);
        let stale =
            runs(&[(10, 12, Resident), (15, 20, Resident), (30, 99, Resident), (100, 101, FileResident)]);
        assert_eq!(
            coarse(&stale, &wanted, 3),
            runs(&[(10, 20, Resident), (30, 99, Resident), (100, 101, FileResident)])
        );
        assert_eq!(coarse(&stale, &wanted, 0), stale);
        assert_eq!(coarse(&PageRuns::new(), &wanted, 9), PageRuns::new());
    }

    #[test]
    fn a_page_that_became_another_is_missing() {
        let wanted = runs(&[(0, 10, Resident), (10, 20, FileResident), (30, 40, Resident)]);
        let had = runs(&[(0, 4, Swapped), (4, 6, FileResident), (8, 12, Resident), (12, 20, FileResident)]);
        let map = crate::maps::parse(b"0-3 rw-p 0 0:0 0 \n3-50 rw-p 0 8:1 7 /file\n").unwrap();
        assert_eq!(
            missing(&wanted, &had, &map),
            runs(&[(3, 8, Resident), (10, 12, FileResident), (30, 40, Resident)])
        );
        assert_eq!(
            without(&had, &[span(0, 9), span(13, 50)]),
            runs(&[(9, 12, Resident), (12, 13, FileResident)])
        );
    }
}

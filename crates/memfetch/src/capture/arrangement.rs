//! [`Arrangement`]: where in the output the saved memory goes, whatever the output is.
//!
//! An output is a line of bytes: a core, the regions one after the other, or several files of which each begins at a
//! multiple of [`BLOCK`] of that line, so that no block belongs to two of them. Layout first, bytes second: every
//! offset is known before the first byte is written.

use crate::address::Span;
use crate::image::encode::{Layout, Segment};
use crate::image::trailer::BLOCK;
use crate::region::RegionMap;

/// Saved memory, and where its first byte goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// The memory, at page boundaries.
    pub span: Span,
    /// The offset of its first byte.
    pub offset: u64,
}

/// Places in an output that memory has already, and room behind them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pins {
    /// Ascending by address, disjoint.
    places: Vec<Stretch>,
    /// The offset of the first byte behind them.
    pub end: u64,
}

impl Pins {
    /// The places of an arrangement.
    #[must_use]
    pub fn of(arrangement: &Arrangement) -> Self {
        let mut places = arrangement.saved.clone();
        places.sort_unstable_by_key(|stretch| stretch.span);
        Self { places, end: arrangement.end }
    }

    /// The places, ascending by address.
    #[must_use]
    pub fn into_places(self) -> Vec<Stretch> {
        self.places
    }

    /// Where a span goes: to the places that parts of it have, and for the rest behind everything. `None` where the
    /// offsets do not fit 64 bits.
    pub fn place(&mut self, span: Span) -> Option<Vec<Stretch>> {
        let mut placed: Vec<Stretch> = Vec::new();
        let mut add = |span: Span, offset: u64| match placed.last_mut() {
            Some(last) if last.offset + last.span.len() == offset => {
                last.span = Span::new(last.span.start(), span.end()).unwrap_or(last.span);
            }
            _ => placed.push(Stretch { span, offset }),
        };
        let mut rest = span;
        let first = self.places.partition_point(|place| place.span.end() <= span.start());
        let there = self.places.iter().skip(first).map_while(|place| {
            let inside = place.span.intersection(span)?;
            Some((inside, place.offset.checked_add(inside.start().offset_from(place.span.start())?)))
        });
        for (inside, offset) in there {
            let (new, behind) = rest.split_at(inside.start());
            if !new.is_empty() {
                add(new, self.end);
                self.end = self.end.checked_add(new.len())?;
            }
            add(inside, offset?);
            rest = behind.split_at(inside.end()).1;
        }
        if !rest.is_empty() {
            add(rest, self.end);
            self.end = self.end.checked_add(rest.len())?;
        }
        Some(placed)
    }
}

/// Where everything goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arrangement {
    /// How many bytes of headers stand ahead of the memory.
    pub headers: u64,
    /// The saved memory by its offsets, none over another.
    pub saved: Vec<Stretch>,
    /// Where the second file and those behind it begin: multiples of [`BLOCK`], ascending.
    pub starts: Vec<u64>,
    /// The offset behind the last byte.
    pub end: u64,
}

impl Arrangement {
    /// That of a core.
    #[must_use]
    pub fn of_core(layout: &Layout) -> Self {
        let stretch = |placed: &crate::image::encode::Placed| Stretch {
            span: placed.segment.span,
            offset: placed.offset,
        };
        Self {
            headers: layout.data_start(),
            saved: layout.saved().iter().map(stretch).collect(),
            starts: Vec::new(),
            end: layout.data_end(),
        }
    }

    /// Saved memory by its addresses, with nothing between, a stretch belonging to one region; `None` where the offsets
    /// do not fit 64 bits.
    #[must_use]
    pub fn in_one_line(map: &RegionMap, segments: &[Segment]) -> Option<Self> {
        let mut line = Self::default();
        for span in saved(segments) {
            match line.saved.last_mut() {
                // The plan has a region in several groups.
                Some(last)
                    if last.span.end() == span.start()
                        && map
                            .at(span.start())
                            .is_some_and(|region| region.span.contains(last.span.start())) =>
                {
                    last.span = Span::new(last.span.start(), span.end())?;
                }
                _ => line.saved.push(Stretch { span, offset: line.end }),
            }
            line.end = line.end.checked_add(span.len())?;
        }
        Some(line)
    }

    /// Saved memory where it has a place already, and behind that; `None` where the offsets do not fit 64 bits.
    #[must_use]
    pub fn pinned(segments: &[Segment], pins: &mut Pins) -> Option<Self> {
        let mut arrangement = Self::default();
        for span in saved(segments) {
            arrangement.saved.extend(pins.place(span)?);
        }
        arrangement.saved.sort_unstable_by_key(|stretch| stretch.offset);
        arrangement.end = pins.end;
        Some(arrangement)
    }

    /// A file for each region of which something is saved, in which every byte has its place; and the numbers of those
    /// regions. `None` where the offsets do not fit 64 bits.
    #[must_use]
    pub fn by_region(map: &RegionMap, segments: &[Segment]) -> Option<(Self, Vec<usize>)> {
        let (mut arrangement, mut numbers) = (Self::default(), Vec::new());
        let mut saved = saved(segments).peekable();
        for (number, region) in map.iter().enumerate() {
            let mut begun = None;
            while let Some(span) = saved.next_if(|span| span.start() < region.span.end()) {
                let start = match begun {
                    Some(start) => start,
                    None => {
                        let start = arrangement.end.checked_next_multiple_of(BLOCK)?;
                        if !numbers.is_empty() {
                            arrangement.starts.push(start);
                        }
                        numbers.push(number);
                        arrangement.end = start.checked_add(region.span.len())?;
                        begun = Some(start);
                        start
                    }
                };
                let offset = start.checked_add(span.start().offset_from(region.span.start())?)?;
                arrangement.saved.push(Stretch { span, offset });
            }
        }
        Some((arrangement, numbers))
    }

    /// The number of the file that an offset lies in, and where that begins.
    #[must_use]
    pub fn file_at(&self, offset: u64) -> (usize, u64) {
        let number = self.starts.partition_point(|&start| start <= offset);
        let start = number.checked_sub(1).and_then(|before| self.starts.get(before));
        (number, start.copied().unwrap_or(0))
    }
}

fn saved(segments: &[Segment]) -> impl Iterator<Item = Span> {
    segments.iter().filter(|segment| segment.saved).map(|segment| segment.span)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::Address;
    use crate::image::encode::Group;
    use crate::maps;
    use crate::region::Permissions;

    fn segment(start: u64, end: u64, saved: bool) -> Segment {
        let span = Span::new(Address::new(start), Address::new(end)).unwrap();
        Segment { span, permissions: Permissions::default(), saved, group: Group::Bulk }
    }

    const MAP: &[u8] = b"1000-4000 rw-p 0 0:0 0 \n4000-5000 r--p 0 0:0 0 \n8000-9000 rw-p 0 0:0 0 \n";

    fn offsets(arrangement: &Arrangement) -> Vec<(u64, u64, u64)> {
        let stretch = |it: &Stretch| (it.span.start().get(), it.span.len(), it.offset);
        arrangement.saved.iter().map(stretch).collect()
    }

    fn segments() -> Vec<Segment> {
        vec![
            segment(0x1000, 0x2000, true),
            segment(0x2000, 0x3000, false),
            segment(0x3000, 0x4000, true),
            segment(0x4000, 0x5000, false),
            segment(0x8000, 0x9000, true),
        ]
    }

    #[test]
    fn a_region_has_its_own_file_in_which_every_byte_has_its_place() {
        let map = maps::parse(MAP).unwrap();
        let (arrangement, numbers) = Arrangement::by_region(&map, &segments()).unwrap();
        assert_eq!(numbers, [0, 2]);
        assert_eq!(
            offsets(&arrangement),
            [(0x1000, 0x1000, 0), (0x3000, 0x1000, 0x2000), (0x8000, 0x1000, BLOCK)]
        );
        assert_eq!((arrangement.starts.as_slice(), arrangement.end), (&[BLOCK][..], BLOCK + 0x1000));
        assert_eq!(arrangement.file_at(0x2fff), (0, 0));
        assert_eq!(arrangement.file_at(BLOCK + 5), (1, BLOCK));
    }

    #[test]
    fn what_has_a_place_keeps_it() {
        let stretch = |start, end, offset| Stretch {
            span: Span::new(Address::new(start), Address::new(end)).unwrap(),
            offset,
        };
        let arrangement = Arrangement {
            saved: vec![stretch(0x5000, 0x7000, 0x1000), stretch(0x2000, 0x3000, 0x3000)],
            end: 0x4000,
            ..Arrangement::default()
        };
        let mut pins = Pins::of(&arrangement);
        let whole = pins.place(Span::new(Address::new(0x1000), Address::new(0x8000)).unwrap()).unwrap();
        assert_eq!(
            whole,
            [
                stretch(0x1000, 0x2000, 0x4000),
                stretch(0x2000, 0x3000, 0x3000),
                stretch(0x3000, 0x5000, 0x5000),
                stretch(0x5000, 0x7000, 0x1000),
                stretch(0x7000, 0x8000, 0x7000),
            ]
        );
        assert_eq!(pins.end, 0x8000);
        let part = pins.place(Span::new(Address::new(0x6000), Address::new(0x7000)).unwrap()).unwrap();
        assert_eq!(part, [stretch(0x6000, 0x7000, 0x2000)]);
        assert_eq!(pins.end, 0x8000);
        // What continues in the output as in memory is one piece.
        let pins = &mut Pins { places: vec![stretch(0x1000, 0x2000, 0)], end: 0x1000 };
        assert_eq!(
            pins.place(Span::new(Address::new(0x1000), Address::new(0x3000)).unwrap()).unwrap(),
            [stretch(0x1000, 0x3000, 0)]
        );
    }

    #[test]
    fn a_line_has_no_holes_for_what_is_not_saved() {
        let line = Arrangement::in_one_line(&maps::parse(MAP).unwrap(), &segments()).unwrap();
        assert_eq!(offsets(&line), [(0x1000, 0x1000, 0), (0x3000, 0x1000, 0x1000), (0x8000, 0x1000, 0x2000)]);
        assert_eq!((line.end, line.file_at(0x2fff)), (0x3000, (0, 0)));
    }
}

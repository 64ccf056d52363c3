//! The mappings of a source as a table or as JSON, row by row: a process may have 100,000.

use std::io::Write;

use memfetch::{Backing, Cause, Memory, PageRun, PageRuns, PageState, Permissions, Region, Span};
use serde::Serialize;

use crate::failure::Failure;
use crate::json;
use crate::plan::Layout;
use crate::quantity::{Units, count, size};
use crate::text::{Paint, cut_middle, printable};

/// How many bytes are in which page state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
struct PageSums {
    absent: u64,
    zero: u64,
    resident: u64,
    swapped: u64,
    backed: u64,
    file_resident: u64,
    file_clean: u64,
    guard: u64,
    not_saved: u64,
    unreadable: u64,
}

impl PageSums {
    fn of(runs: impl IntoIterator<Item = PageRun>) -> Self {
        let mut sums = Self::default();
        for run in runs {
            let sum = match run.state {
                PageState::Absent => &mut sums.absent,
                PageState::Zero => &mut sums.zero,
                PageState::Resident => &mut sums.resident,
                PageState::Swapped => &mut sums.swapped,
                PageState::Backed => &mut sums.backed,
                PageState::FileResident => &mut sums.file_resident,
                PageState::FileClean => &mut sums.file_clean,
                PageState::Guard => &mut sums.guard,
                PageState::Unreadable(Cause::NotSaved) => &mut sums.not_saved,
                PageState::Unreadable(_) => &mut sums.unreadable,
            };
            *sum += run.span.len();
        }
        sums
    }
}

/// The figures of a mapping, or of all, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Figures {
    size: u64,
    resident: u64,
    swapped: u64,
    dirty: u64,
    shared: u64,
}

/// What tells whether a page that is there is a mapping's own, or its file's.
#[derive(Clone, Copy, Debug)]
pub enum Witness<'a> {
    /// The kernel: the page states say so.
    Kernel,
    /// What an image recorded of the process, which may be nothing: to its page states, all that is saved is alike.
    Record(&'a PageRuns),
}

impl Witness<'_> {
    /// How many bytes of a region are its own, of pages that are there.
    fn dirty(self, region: &Region, runs: &PageRuns) -> u64 {
        let there = |span: Span| {
            let runs = runs.within(span).filter(|run| run.state == PageState::Resident);
            runs.map(|run| run.span.len()).sum::<u64>()
        };
        match self {
            _ if region.permissions.shared => 0,
            Self::Record(recorded) if region.file().is_some() => recorded
                .within(region.span)
                .filter(|run| matches!(run.state, PageState::Resident | PageState::Swapped))
                .map(|run| there(run.span))
                .sum(),
            Self::Kernel | Self::Record(_) => there(region.span),
        }
    }
}

impl Figures {
    const fn of(region: &Region, pages: &PageSums, dirty: u64) -> Self {
        let resident = pages.resident + pages.file_resident;
        Self { size: region.span.len(), resident, swapped: pages.swapped, dirty, shared: resident - dirty }
    }

    const fn add(&mut self, other: &Self) {
        self.size += other.size;
        self.resident += other.resident;
        self.swapped += other.swapped;
        self.dirty += other.dirty;
        self.shared += other.shared;
    }

    const fn columns(&self) -> [u64; 5] {
        [self.size, self.resident, self.swapped, self.dirty, self.shared]
    }
}

/// More mappings than this are asked for together.
const FEW: usize = 16;
/// How many are asked for at a time: a live source reads its whole map for each question, and the answers for a
/// whole process may be many.
const TOGETHER: usize = 4096;

/// Tells `row` each region and the states of its pages.
fn with_pages(
    memory: &dyn Memory,
    witness: Witness<'_>,
    regions: &[&Region],
    mut row: impl FnMut(&Region, Figures, PageSums) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let together = if regions.len() <= FEW { 1 } else { TOGETHER };
    for group in regions.chunks(together) {
        let ends = group.first().zip(group.last());
        let Some(span) = ends.and_then(|(first, last)| Span::new(first.span.start(), last.span.end())) else {
            continue;
        };
        let runs = memory.pages(span)?;
        for region in group {
            let pages = PageSums::of(runs.within(region.span));
            row(region, Figures::of(region, &pages, witness.dirty(region, &runs)), pages)?;
        }
    }
    Ok(())
}

/// A mapping in JSON. Sizes are in bytes.
#[derive(Debug, Serialize)]
struct Entry<'a> {
    #[serde(flatten)]
    span: Span,
    size: u64,
    permissions: Permissions,
    name: std::borrow::Cow<'a, str>,
    backing: &'a Backing,
    resident: u64,
    swapped: u64,
    dirty: u64,
    shared: u64,
    pages: PageSums,
}

/// Writes the regions, which ascend.
pub fn write(
    memory: &dyn Memory,
    witness: Witness<'_>,
    regions: &[&Region],
    layout: Layout,
    out: &mut impl Write,
) -> Result<(), Failure> {
    match layout {
        Layout::Json => write_json(memory, witness, regions, out),
        Layout::Table { width, paint } => Table::new(width, paint).write(memory, witness, regions, out),
    }
}

fn write_json(
    memory: &dyn Memory,
    witness: Witness<'_>,
    regions: &[&Region],
    out: &mut impl Write,
) -> Result<(), Failure> {
    let mut separator = "[\n";
    with_pages(memory, witness, regions, |region, figures, pages| {
        let Figures { size, resident, swapped, dirty, shared } = figures;
        let name = region.name();
        let entry = Entry {
            span: region.span,
            size,
            permissions: region.permissions,
            name: name.to_string_lossy(),
            backing: &region.backing,
            resident,
            swapped,
            dirty,
            shared,
            pages,
        };
        out.write_all(separator.as_bytes())?;
        json::write(&mut *out, &entry)?;
        separator = ",\n";
        Ok(())
    })?;
    out.write_all(if separator == "[\n" { b"[]\n" } else { b"\n]\n" })?;
    Ok(())
}

/// The columns of the table.
#[derive(Debug)]
struct Table {
    titles: [&'static str; 5],
    units: Units,
    column: usize,
    gap: usize,
    width: Option<usize>,
    paint: Paint,
}

/// Two addresses of 12 digits and a dash. Higher ones, of the kernel's own page, reach over.
const RANGE_WIDTH: usize = 25;

impl Table {
    /// Narrow columns where the terminal is.
    const fn new(width: Option<usize>, paint: Paint) -> Self {
        match width {
            Some(columns) if columns < 110 => Self {
                titles: ["SIZE", "RES", "SWAP", "DIRTY", "SHARE"],
                units: Units::Short,
                column: 5,
                gap: 1,
                width,
                paint,
            },
            _ => Self {
                titles: ["SIZE", "RESIDENT", "SWAPPED", "DIRTY", "SHARED"],
                units: Units::Full,
                column: 8,
                gap: 2,
                width,
                paint,
            },
        }
    }

    fn write(
        &self,
        memory: &dyn Memory,
        witness: Witness<'_>,
        regions: &[&Region],
        out: &mut impl Write,
    ) -> Result<(), Failure> {
        let titles = self.titles.map(|title| self.cell(title, false));
        self.row(&self.pad_range("ADDRESS"), &titles, "PERM", "NAME", Paint::bold, out)?;
        let mut totals = Figures::default();
        let mut rows = 0;
        with_pages(memory, witness, regions, |region, figures, _| {
            totals.add(&figures);
            rows += 1;
            let range = format!("{:012x}-{:012x}", region.span.start(), region.span.end());
            let name = printable(&region.name());
            let permissions = region.permissions.to_string();
            self.row(&range, &self.cells(&figures), &permissions, &name, |_, text| text.to_owned(), out)
        })?;
        let cells = self.cells(&totals);
        self.row(&self.pad_range("TOTAL"), &cells, "    ", &count(rows, "mapping"), Paint::bold, out)?;
        Ok(())
    }

    fn pad_range(&self, title: &str) -> String {
        format!("{title:RANGE_WIDTH$}")
    }

    fn cells(&self, figures: &Figures) -> [String; 5] {
        figures.columns().map(|bytes| self.cell(&size(bytes, self.units), bytes == 0))
    }

    /// A cell, right-aligned and faint where it says nothing. Its padding comes first: colours have no width.
    fn cell(&self, text: &str, faint: bool) -> String {
        let padded = format!("{:gap$}{text:>width$}", "", gap = self.gap, width = self.column);
        if faint { self.paint.dim(&padded) } else { padded }
    }

    fn row(
        &self,
        range: &str,
        cells: &[String; 5],
        permissions: &str,
        name: &str,
        paint: impl Fn(Paint, &str) -> String,
        out: &mut impl Write,
    ) -> Result<(), Failure> {
        let gap = " ".repeat(self.gap);
        let taken = range.len() + 5 * (self.gap + self.column) + 2 * self.gap + permissions.len();
        let name = match self.width {
            Some(width) => cut_middle(name, width.saturating_sub(taken)),
            None => name.to_owned(),
        };
        let line = format!("{range}{}{gap}{permissions}{gap}{name}", cells.concat());
        writeln!(out, "{}", paint(self.paint, line.trim_end()))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use memfetch::region::{Device, RegionMap};
    use memfetch::{Address, Error, Platform, ReadError};

    use super::*;

    /// Regions whose pages are, from the first on: resident, swapped, absent, identical to the file.
    struct Space(RegionMap);

    impl Space {
        fn new(rows: &[(u64, u64, &str, &str)]) -> Self {
            let regions = rows.iter().map(|&(start, end, permissions, name)| {
                let file = Device { major: 8, minor: 1 };
                let (device, inode) = if name.starts_with('/') { (file, 5) } else { (Device::default(), 0) };
                Region {
                    span: Span::new(Address::new(start), Address::new(end)).unwrap(),
                    permissions: Permissions::parse(permissions.as_bytes()).unwrap(),
                    backing: Backing::from_maps(name.as_bytes(), 0, device, inode),
                }
            });
            Self(RegionMap::new(regions.collect()))
        }

        fn table(&self, width: Option<usize>, paint: Paint) -> String {
            self.written(Layout::Table { width, paint })
        }

        fn written(&self, layout: Layout) -> String {
            let mut out = Vec::new();
            write(self, Witness::Kernel, &self.0.iter().collect::<Vec<_>>(), layout, &mut out).unwrap();
            String::from_utf8(out).unwrap()
        }
    }

    impl Memory for Space {
        fn platform(&self) -> &Platform {
            &Platform::X86_64
        }

        fn regions(&self) -> Result<RegionMap, Error> {
            Ok(self.0.clone())
        }

        fn pages(&self, span: Span) -> Result<PageRuns, Error> {
            let states =
                [PageState::Resident, PageState::Swapped, PageState::Absent, PageState::FileResident];
            let mut runs = PageRuns::new();
            for region in self.0.within(span) {
                for (page, state) in region.span.pieces(4096).zip(states) {
                    runs.push(page, state);
                }
            }
            Ok(runs)
        }

        fn read_at(&self, at: Address, _: &mut [u8]) -> Result<usize, ReadError> {
            Err(ReadError::fault(at, Cause::NotSaved))
        }
    }

    fn space() -> Space {
        Space::new(&[
            (0x5555_5555_4000, 0x5555_5555_8000, "r-xp", "/usr/lib/x86_64-linux-gnu/libc.so.6"),
            (0x7f00_0000_0000, 0x7f00_0000_2000, "rw-s", "/dev/shm/a\nb"),
            (0xffff_ffff_ff60_0000, 0xffff_ffff_ff60_1000, "--xp", "[vsyscall]"),
        ])
    }

    #[test]
    fn dirty_and_shared_make_up_resident() {
        let expected = "\
ADDRESS                        SIZE  RESIDENT   SWAPPED     DIRTY    SHARED  PERM  NAME
555555554000-555555558000    16 KiB     8 KiB     4 KiB     4 KiB     4 KiB  r-xp  /usr/lib/x86_64-linux-gnu/libc.so.6
7f0000000000-7f0000002000     8 KiB     4 KiB     4 KiB         0     4 KiB  rw-s  /dev/shm/a\\nb
ffffffffff600000-ffffffffff601000     4 KiB     4 KiB         0     4 KiB         0  --xp  [vsyscall]
TOTAL                        28 KiB    16 KiB     8 KiB     8 KiB     8 KiB        3 mappings
";
        assert_eq!(space().table(None, Paint::OFF), expected);
    }

    #[test]
    fn of_an_image_only_what_is_known_to_be_a_mappings_own_is_dirty() {
        let space = Space::new(&[
            (0x10000, 0x11000, "r--p", "/usr/lib/libc.so.6"),
            (0x20000, 0x21000, "rw-p", "/usr/lib/libc.so.6"),
            (0x30000, 0x31000, "rw-p", ""),
            (0x40000, 0x41000, "rw-s", "/dev/shm/a"),
        ]);
        let span = |start| Span::from_len(Address::new(start), 0x1000).unwrap();
        let mut recorded = PageRuns::new();
        recorded.push(span(0x10000), PageState::FileResident);
        for start in [0x20000, 0x30000, 0x40000] {
            recorded.push(span(start), PageState::Resident);
        }
        let regions: Vec<_> = space.0.iter().collect();
        for (witness, expected) in [
            (Witness::Record(&recorded), [0, 4096, 4096, 0]),
            (Witness::Record(&PageRuns::new()), [0, 0, 4096, 0]),
        ] {
            let mut out = Vec::new();
            write(&space, witness, &regions, Layout::Json, &mut out).unwrap();
            let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
            let dirty: Vec<_> = (0..4).map(|row| value[row]["dirty"].as_u64().unwrap()).collect();
            assert_eq!(dirty, expected);
            assert!((0..4).all(|row| value[row]["resident"] == 4096));
        }
    }

    #[test]
    fn a_narrow_terminal_is_never_overrun() {
        let expected = "\
ADDRESS                    SIZE   RES  SWAP DIRTY SHARE PERM NAME
555555554000-555555558000   16K    8K    4K    4K    4K r-xp /usr/l…nu/libc.so.6
7f0000000000-7f0000002000    8K    4K    4K     0    4K rw-s /dev/shm/a\\nb
ffffffffff600000-ffffffffff601000    4K    4K     0    4K     0 --xp [vsyscall]
TOTAL                       28K   16K    8K    8K    8K      3 mappings
";
        let text = space().table(Some(80), Paint::OFF);
        assert_eq!(text, expected);
        for width in [78, 80, 109, 110, 140] {
            let text = space().table(Some(width), Paint::OFF);
            assert!(text.lines().all(|line| line.chars().count() <= width), "{width}\n{text}");
        }
    }

    #[test]
    fn zeros_are_faint_and_colours_take_no_room() {
        let text = space().table(Some(80), Paint::ON);
        assert!(text.contains("\x1b[2m     0\x1b[0m"), "{text}");
        let mut plain = text.replace("\x1b[2m", "");
        plain = plain.replace("\x1b[1m", "").replace("\x1b[0m", "");
        assert_eq!(plain, space().table(Some(80), Paint::OFF));
    }

    #[test]
    fn json_has_exact_bytes() {
        let value: serde_json::Value = serde_json::from_str(&space().written(Layout::Json)).unwrap();
        assert_eq!(value[0]["start"], "0x555555554000");
        assert_eq!(value[0]["size"], 16384);
        assert_eq!(value[0]["permissions"], "r-xp");
        assert_eq!(value[0]["backing"]["inode"], 5);
        assert_eq!(value[0]["pages"]["absent"], 4096);
        assert_eq!(value[1]["name"], "/dev/shm/a\nb");
        assert_eq!((&value[1]["dirty"], &value[1]["shared"]), (&0.into(), &4096.into()));
        assert_eq!(Space::new(&[]).written(Layout::Json), "[]\n");
    }

    #[test]
    fn a_hundred_thousand_rows_stream() {
        struct Counter(usize);
        impl Write for Counter {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0 += bytes.iter().filter(|&&byte| byte == b'\n').count();
                Ok(bytes.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let rows: Vec<_> = (0..100_000_u64).map(|n| (n * 0x2000, n * 0x2000 + 0x1000, "rw-p", "")).collect();
        let space = Space::new(&rows);
        let mut lines = Counter(0);
        write(
            &space,
            Witness::Kernel,
            &space.0.iter().collect::<Vec<_>>(),
            Layout::Table { width: None, paint: Paint::OFF },
            &mut lines,
        )
        .unwrap();
        assert_eq!(lines.0, 100_002);
    }
}

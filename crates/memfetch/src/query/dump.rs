//! Hexdumps: lines of an address, the bytes in hexadecimal, and the bytes as characters.
//!
//! A [`Cell`] says what is known of one byte: a byte that could not be read is a cell of its own kind and shown as
//! `--`, so that it cannot be taken for any value. [`Layout::render`] makes one [`Line`] of some cells and colours
//! nothing: it says which [`Style`] each part of the text has, and whoever shows the line paints it. [`Dump`] makes
//! the lines of a stream of bytes, and stands a single `*` for lines that repeat the one above it (as hexdump(1) and
//! xxd(1) do), without looking at every byte of what is known to be all alike.
//!
//! ```
//! use memfetch::Address;
//! use memfetch::query::dump::{Cell, Layout, Line};
//! let mut line = Line::default();
//! let cells = [Cell::Byte(b'h'), Cell::Byte(b'i'), Cell::Missing, Cell::Byte(0)];
//! Layout { width: 4, ..Layout::default() }.render(Address::new(0x1000), &cells, |_| false, &mut line);
//! assert_eq!(line.text(), "000000001000  68 69 -- 00  |hi .|");
//! ```

use crate::address::{Address, Span};

/// What is known of one byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cell {
    /// Its value.
    Byte(u8),
    /// It was wanted, and could not be read.
    Missing,
    /// It was not asked for; its place stays empty.
    Outside,
}

/// What a part of a line is, for whoever paints it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Style {
    /// The address, and the frame around the characters.
    Frame,
    /// Space between the parts.
    Blank,
    /// A zero byte.
    Zero,
    /// A printable ASCII character.
    Printable,
    /// ASCII white space.
    Space,
    /// Any other control character.
    Control,
    /// A byte above ASCII.
    High,
    /// A byte that could not be read.
    Missing,
}

impl Style {
    /// That of a cell.
    #[must_use]
    pub const fn of(cell: Cell) -> Self {
        match cell {
            Cell::Outside => Self::Blank,
            Cell::Missing => Self::Missing,
            Cell::Byte(0) => Self::Zero,
            Cell::Byte(b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c) => Self::Space,
            Cell::Byte(0x21..=0x7e) => Self::Printable,
            Cell::Byte(0x80..) => Self::High,
            Cell::Byte(_) => Self::Control,
        }
    }
}

/// A part of a line in one style.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// What it is.
    pub style: Style,
    /// Whether its bytes are marked: those that match, or that differ.
    pub marked: bool,
    /// Where it ends in the text.
    end: usize,
}

/// A line of a dump, without its newline. One value serves for all lines, so that none is allocated for each.
#[derive(Clone, Debug, Default)]
pub struct Line {
    text: String,
    runs: Vec<Run>,
    styled: bool,
}

impl Line {
    /// All of it, for where there are no colours.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Its parts in order, neighbours of one style joined; none, where the layout asked for no styles.
    pub fn parts(&self) -> impl Iterator<Item = (Run, &str)> {
        let mut start = 0;
        self.runs.iter().map(move |run| {
            let part = self.text.get(start..run.end).unwrap_or_default();
            start = run.end;
            (*run, part)
        })
    }

    fn clear(&mut self) {
        self.text.clear();
        self.runs.clear();
    }

    fn push(&mut self, style: Style, marked: bool, text: &str) {
        self.text.push_str(text);
        self.end_run(style, marked);
    }

    fn push_char(&mut self, style: Style, marked: bool, c: char) {
        self.text.push(c);
        self.end_run(style, marked);
    }

    /// What was added last has this style.
    fn end_run(&mut self, style: Style, marked: bool) {
        if !self.styled {
            return;
        }
        let end = self.text.len();
        match self.runs.last_mut() {
            Some(last) if last.style == style && last.marked == marked => last.end = end,
            _ => self.runs.push(Run { style, marked, end }),
        }
    }

    fn push_address(&mut self, at: Address, digits: usize) {
        let number = at.get();
        let most = (64 - number.leading_zeros() as usize).div_ceil(4).max(digits);
        for place in (0..most).rev() {
            let nibble = if place < 16 { (number >> (4 * place)) & 0xf } else { 0 };
            self.text.push(digit(nibble as u8));
        }
        self.end_run(Style::Frame, false);
    }
}

const fn digit(nibble: u8) -> char {
    (if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 }) as char
}

/// How lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Bytes in a line, 1 to [`Layout::WIDEST`].
    pub width: usize,
    /// Bytes that are written together, without a space between them; in their order in memory.
    pub group: usize,
    /// Whether the bytes are shown as characters too.
    pub characters: bool,
    /// The least digits of an address.
    pub digits: usize,
    /// Whether lines tell the styles of their parts: what paints nothing is faster without.
    pub styled: bool,
}

impl Default for Layout {
    /// That of `hexdump -C`, with addresses of 12 digits.
    fn default() -> Self {
        Self { width: 16, group: 1, characters: true, digits: 12, styled: true }
    }
}

/// After so many bytes there is a second space, where groups are smaller.
const HALF: usize = 8;

impl Layout {
    /// The most bytes that a line may have.
    pub const WIDEST: usize = 4096;

    fn width(self) -> usize {
        self.width.clamp(1, Self::WIDEST)
    }

    /// Makes the line of at most `width` cells, the first of which lies at `at`. `marked` tells by the number
    /// of a cell whether it is marked.
    pub fn render(self, at: Address, cells: &[Cell], marked: impl Fn(usize) -> bool, line: &mut Line) {
        line.clear();
        line.styled = self.styled;
        line.push_address(at, self.digits);
        line.push(Style::Blank, false, " ");
        let cell = |index: usize| cells.get(index).copied().unwrap_or(Cell::Outside);
        for index in 0..self.width() {
            if index.is_multiple_of(self.group.max(1)) {
                // A gap between two marked bytes is not marked: a match is not longer than its bytes.
                line.push(Style::Blank, false, " ");
            }
            if self.group < HALF && index > 0 && index.is_multiple_of(HALF) {
                line.push(Style::Blank, false, " ");
            }
            let cell = cell(index);
            let (style, marked) = (Style::of(cell), cell != Cell::Outside && marked(index));
            match cell {
                Cell::Byte(byte) => {
                    line.text.push(digit(byte >> 4));
                    line.text.push(digit(byte & 0xf));
                    line.end_run(style, marked);
                }
                Cell::Missing => line.push(style, marked, "--"),
                Cell::Outside => line.push(style, marked, "  "),
            }
        }
        if !self.characters {
            // Nothing follows that would have to be aligned.
            let used = line.text.trim_end().len();
            line.text.truncate(used);
            for run in &mut line.runs {
                run.end = run.end.min(used);
            }
            return;
        }
        line.push(Style::Blank, false, "  ");
        line.push(Style::Frame, false, "|");
        for index in 0..cells.len().min(self.width()) {
            let cell = cell(index);
            let shown = match cell {
                Cell::Byte(byte @ 0x20..=0x7e) => char::from(byte),
                Cell::Byte(_) => '.',
                Cell::Missing | Cell::Outside => ' ',
            };
            line.push_char(Style::of(cell), cell != Cell::Outside && marked(index), shown);
        }
        line.push(Style::Frame, false, "|");
    }
}

/// Lines of a stream of bytes, which are told piece by piece in the order of their addresses.
///
/// Lines begin at the first address, and anew where the next piece does not continue the last one. A line that is as
/// long as the others and repeats the one above it is left out where `squeeze` is set, and one `*` stands for all in a
/// row; where such a row is the last thing, the address of its end follows, so that its length is told.
#[derive(Debug)]
pub struct Dump {
    layout: Layout,
    squeeze: bool,
    /// The line that is being filled.
    cells: Vec<Cell>,
    at: Address,
    /// The last full line that was shown, if the next could repeat it.
    shown: Vec<Cell>,
    squeezing: bool,
    line: Line,
}

/// A line that is to be written.
#[derive(Clone, Copy, Debug)]
pub enum Written<'a> {
    /// This one.
    Line(&'a Line),
    /// The `*` in the place of lines that are alike.
    Repeats,
}

impl Dump {
    /// Nothing yet.
    #[must_use]
    pub fn new(layout: Layout, squeeze: bool) -> Self {
        Self {
            layout,
            squeeze,
            cells: Vec::with_capacity(layout.width()),
            at: Address::ZERO,
            shown: Vec::new(),
            squeezing: false,
            line: Line::default(),
        }
    }

    /// The next piece is these bytes.
    ///
    /// # Errors
    ///
    /// Those of `write`, here and below.
    pub fn bytes<E>(
        &mut self,
        at: Address,
        bytes: &[u8],
        write: &mut dyn FnMut(Written<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.go_on_at(at, write)?;
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = self.layout.width().saturating_sub(self.cells.len());
            let (now, later) = rest.split_at(room.min(rest.len()));
            self.cells.extend(now.iter().map(|&byte| Cell::Byte(byte)));
            rest = later;
            self.flush_full(write)?;
        }
        Ok(())
    }

    /// The next piece is all alike: zeros that are known, or bytes that could not be read.
    ///
    /// # Errors
    ///
    /// Those of `write`.
    pub fn run<E>(
        &mut self,
        span: Span,
        cell: Cell,
        write: &mut dyn FnMut(Written<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.go_on_at(span.start(), write)?;
        let width = self.layout.width() as u64;
        let mut rest = span.len();
        while rest > 0 {
            let repeats = self.squeezing
                && self.cells.is_empty()
                && self.shown.iter().all(|&shown| shown == cell)
                && rest >= width;
            if repeats {
                // They are all the line above.
                let lines = rest / width;
                self.at = self.at.saturating_add(lines * width);
                rest -= lines * width;
                continue;
            }
            let room = width.saturating_sub(self.cells.len() as u64).min(rest);
            self.cells.extend(std::iter::repeat_n(cell, room as usize));
            rest -= room;
            self.flush_full(write)?;
        }
        Ok(())
    }

    /// There are no more pieces: the last line, and the end of what repeats.
    ///
    /// # Errors
    ///
    /// Those of `write`.
    pub fn finish<E>(&mut self, write: &mut dyn FnMut(Written<'_>) -> Result<(), E>) -> Result<(), E> {
        if !self.cells.is_empty() {
            self.show(write)?;
        } else if self.squeezing {
            self.line.clear();
            self.line.push_address(self.at, self.layout.digits);
            write(Written::Line(&self.line))?;
        }
        self.squeezing = false;
        self.shown.clear();
        Ok(())
    }

    fn go_on_at<E>(
        &mut self,
        at: Address,
        write: &mut dyn FnMut(Written<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let next = self.at.saturating_add(self.cells.len() as u64);
        if next != at {
            self.finish(write)?;
            self.at = at;
        }
        Ok(())
    }

    fn flush_full<E>(&mut self, write: &mut dyn FnMut(Written<'_>) -> Result<(), E>) -> Result<(), E> {
        if self.cells.len() < self.layout.width() {
            return Ok(());
        }
        if self.squeeze && self.cells == self.shown {
            if !self.squeezing {
                self.squeezing = true;
                write(Written::Repeats)?;
            }
            self.at = self.at.saturating_add(self.cells.len() as u64);
            self.cells.clear();
            return Ok(());
        }
        self.show(write)
    }

    fn show<E>(&mut self, write: &mut dyn FnMut(Written<'_>) -> Result<(), E>) -> Result<(), E> {
        self.layout.render(self.at, &self.cells, |_| false, &mut self.line);
        write(Written::Line(&self.line))?;
        self.squeezing = false;
        self.at = self.at.saturating_add(self.cells.len() as u64);
        std::mem::swap(&mut self.shown, &mut self.cells);
        self.cells.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn span(start: u64, len: u64) -> Span {
        Span::from_len(Address::new(start), len).unwrap()
    }

    fn rendered(layout: Layout, cells: &[Cell]) -> String {
        let mut line = Line::default();
        layout.render(Address::new(0x7ffd_1000), cells, |_| false, &mut line);
        assert_eq!(line.parts().map(|(_, part)| part).collect::<String>(), line.text());
        line.text().to_owned()
    }

    fn bytes(bytes: &[u8]) -> Vec<Cell> {
        bytes.iter().map(|&byte| Cell::Byte(byte)).collect()
    }

    /// What a dump comes to.
    fn dumped(layout: Layout, squeeze: bool, tell: impl FnOnce(&mut Dump, &mut Sink<'_>)) -> String {
        let mut text = String::new();
        let mut write = |written: Written<'_>| -> Result<(), Infallible> {
            match written {
                Written::Line(line) => text.push_str(line.text()),
                Written::Repeats => text.push('*'),
            }
            text.push('\n');
            Ok(())
        };
        let mut dump = Dump::new(layout, squeeze);
        tell(&mut dump, &mut write);
        let Ok(()) = dump.finish(&mut write);
        text
    }

    type Sink<'a> = dyn FnMut(Written<'_>) -> Result<(), Infallible> + 'a;

    #[test]
    fn a_line_is_that_of_hexdump() {
        let text = bytes(b"\x7fELF\x02\x01\x01\0hexdump!");
        let layout = Layout::default();
        assert_eq!(
            rendered(layout, &text),
            "00007ffd1000  7f 45 4c 46 02 01 01 00  68 65 78 64 75 6d 70 21  |.ELF....hexdump!|"
        );
        assert_eq!(
            rendered(layout, &text[8..13]),
            "00007ffd1000  68 65 78 64 75                                    |hexdu|"
        );
        let groups = |width, group| rendered(Layout { width, group, ..layout }, &text[..width]);
        assert_eq!(groups(8, 2), "00007ffd1000  7f45 4c46 0201 0100  |.ELF....|");
        assert_eq!(groups(16, 8), "00007ffd1000  7f454c4602010100 68657864756d7021  |.ELF....hexdump!|");
        assert_eq!(groups(3, 2), "00007ffd1000  7f45 4c  |.EL|");
        let bare = Layout { characters: false, digits: 0, ..layout };
        assert_eq!(rendered(bare, &text[..2]), "7ffd1000  7f 45");
    }

    #[test]
    fn what_was_not_read_has_no_value() {
        let cells = [Cell::Outside, Cell::Byte(0), Cell::Missing, Cell::Byte(b'-')];
        assert_eq!(
            rendered(Layout { width: 4, ..Layout::default() }, &cells),
            "00007ffd1000     00 -- 2d  | . -|"
        );
    }

    #[test]
    fn parts_tell_styles_and_marks() {
        let mut line = Line::default();
        let cells = bytes(b"\0\0a\xff\n\x01");
        let layout = Layout { width: 6, ..Layout::default() };
        layout.render(Address::ZERO, &cells, |index| index == 2, &mut line);
        let shown: Vec<_> = line.parts().skip_while(|(_, part)| *part != "|").collect();
        let shown: Vec<_> = shown.iter().map(|(run, part)| (run.style, run.marked, *part)).collect();
        assert_eq!(
            shown,
            [
                (Style::Frame, false, "|"),
                (Style::Zero, false, ".."),
                (Style::Printable, true, "a"),
                (Style::High, false, "."),
                (Style::Space, false, "."),
                (Style::Control, false, "."),
                (Style::Frame, false, "|"),
            ]
        );
    }

    #[test]
    fn lines_that_repeat_are_one_star() {
        let layout = Layout { width: 4, ..Layout::default() };
        let text = |squeeze| {
            dumped(layout, squeeze, |dump, write| {
                let Ok(()) = dump.bytes(Address::new(0x10), b"aaaaaaaaaaaab", write);
                let Ok(()) = dump.run(span(0x1d, 3), Cell::Byte(0), write);
            })
        };
        assert_eq!(text(true), "000000000010  61 61 61 61  |aaaa|\n*\n00000000001c  62 00 00 00  |b...|\n");
        assert_eq!(text(false).lines().count(), 4);
    }

    #[test]
    fn a_terabyte_of_zeros_is_a_line_and_a_star() {
        let text = dumped(Layout::default(), true, |dump, write| {
            let Ok(()) = dump.run(span(0x1000, 1 << 40), Cell::Byte(0), write);
        });
        let zeros = format!("{}{}", " 00".repeat(8), " ".to_owned() + &" 00".repeat(8));
        assert_eq!(text, format!("000000001000 {zeros}  |{}|\n*\n010000001000\n", ".".repeat(16)));
        // Zeros that were read repeat those that are known.
        let text = dumped(Layout { width: 4, ..Layout::default() }, true, |dump, write| {
            let Ok(()) = dump.bytes(Address::ZERO, &[0; 6], write);
            let Ok(()) = dump.run(span(6, 1001), Cell::Byte(0), write);
        });
        assert_eq!(text, "000000000000  00 00 00 00  |....|\n*\n0000000003ec  00 00 00     |...|\n");
    }

    #[test]
    fn missing_bytes_repeat_no_zeros() {
        let text = dumped(Layout { width: 2, ..Layout::default() }, true, |dump, write| {
            let Ok(()) = dump.run(span(0, 8), Cell::Byte(0), write);
            let Ok(()) = dump.run(span(8, 8), Cell::Missing, write);
        });
        assert_eq!(text, "000000000000  00 00  |..|\n*\n000000000008  -- --  |  |\n*\n000000000010\n");
    }

    #[test]
    fn a_piece_elsewhere_begins_a_line() {
        let text = dumped(Layout { width: 4, ..Layout::default() }, true, |dump, write| {
            let Ok(()) = dump.bytes(Address::new(1), b"ab", write);
            let Ok(()) = dump.bytes(Address::new(0x100), b"c", write);
        });
        assert_eq!(text, "000000000001  61 62        |ab|\n000000000100  63           |c|\n");
    }

    #[test]
    fn addresses_end_with_the_space() {
        let last = Address::new(u64::MAX - 1);
        let text = dumped(Layout { width: 4, ..Layout::default() }, true, |dump, write| {
            let Ok(()) = dump.bytes(last, b"a", write);
        });
        assert_eq!(text, "fffffffffffffffe  61           |a|\n");
    }
}

//! [`Hex`]: a hexdump.

use std::io::Write;
use std::ops::ControlFlow;

use memfetch::query::dump::{Cell, Dump, Layout, Line, Style, Written};
use memfetch::query::reader::Chunk;

use super::Show;
use crate::failure::Failure;
use crate::text::Paint;

/// A hexdump.
pub struct Hex<W> {
    dump: Dump,
    paint: Paint,
    out: W,
}

impl<W: Write> Hex<W> {
    /// Lines of this layout; those that repeat are left out where `squeeze` is set.
    pub fn new(layout: Layout, squeeze: bool, paint: Paint, out: W) -> Self {
        Self { dump: Dump::new(layout, squeeze), paint, out }
    }
}

impl<W: Write> Show for Hex<W> {
    fn show(&mut self, chunk: Chunk<'_>) -> Result<ControlFlow<()>, Failure> {
        let Self { dump, paint, out } = self;
        let write = &mut |written: Written<'_>| write(written, *paint, out);
        match chunk {
            Chunk::Bytes(at, bytes) => dump.bytes(at, bytes, write)?,
            Chunk::Zeros(span) => dump.run(span, Cell::Byte(0), write)?,
            Chunk::Missing(span, _) => dump.run(span, Cell::Missing, write)?,
        }
        Ok(ControlFlow::Continue(()))
    }

    fn finish(&mut self) -> Result<(), Failure> {
        let Self { dump, paint, out } = self;
        dump.finish(&mut |written: Written<'_>| write(written, *paint, out))?;
        Ok(out.flush()?)
    }
}

fn write(written: Written<'_>, paint: Paint, out: &mut impl Write) -> Result<(), Failure> {
    match written {
        Written::Repeats => out.write_all(b"*\n")?,
        Written::Line(line) if !paint.is_on() => writeln!(out, "{}", line.text())?,
        Written::Line(line) => writeln!(out, "{}", painted(line, paint))?,
    }
    Ok(())
}

/// A line in the colours of its parts; what is marked stands out by being reversed.
pub fn painted(line: &Line, paint: Paint) -> String {
    let mut text = String::with_capacity(2 * line.text().len());
    for (run, part) in line.parts() {
        let colour = match run.style {
            Style::Blank => "",
            Style::Frame | Style::Zero => "2",
            Style::Printable => "36",
            Style::Space => "32",
            Style::Control => "35",
            Style::High => "33",
            Style::Missing => "1;31",
        };
        match (colour, run.marked) {
            ("", _) => text.push_str(part),
            (_, false) => text.push_str(&paint.coloured(colour, part)),
            (_, true) => text.push_str(&paint.coloured(&format!("7;{colour}"), part)),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use memfetch::{Address, Cause, Span};

    use super::*;

    #[test]
    fn colours_are_those_of_the_bytes() {
        let mut out = Vec::new();
        let layout = Layout { width: 3, digits: 4, ..Layout::default() };
        let mut hex = Hex::new(layout, true, Paint::ON, &mut out);
        assert!(hex.show(Chunk::Bytes(Address::new(16), b"a\0")).unwrap().is_continue());
        let missing = Span::from_len(Address::new(18), 1).unwrap();
        assert!(hex.show(Chunk::Missing(missing, Cause::Guard)).unwrap().is_continue());
        hex.finish().unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(
            text,
            "\x1b[2m0010\x1b[0m  \x1b[36m61\x1b[0m \x1b[2m00\x1b[0m \x1b[1;31m--\x1b[0m  \
             \x1b[2m|\x1b[0m\x1b[36ma\x1b[0m\x1b[2m.\x1b[0m\x1b[1;31m \x1b[0m\x1b[2m|\x1b[0m\n"
        );
    }

    #[test]
    fn what_is_marked_is_reversed() {
        let mut line = Line::default();
        let layout = Layout { width: 2, digits: 1, characters: false, ..Layout::default() };
        layout.render(Address::new(1), &[Cell::Byte(b'a'), Cell::Byte(b'b')], |index| index == 1, &mut line);
        assert_eq!(painted(&line, Paint::ON), "\x1b[2m1\x1b[0m  \x1b[36m61\x1b[0m \x1b[7;36m62\x1b[0m");
    }
}

//! What a search covered, in words.

use std::fmt::Write;

use memfetch::query::sweep::Coverage;

use crate::quantity::{Units, size};
use crate::summary;

/// A line of what was searched and what was not, and one for each cause of gaps; they end in newlines. `verb` is what
/// was done with the bytes: `searched`.
pub fn paragraph(verb: &str, coverage: &Coverage) -> String {
    let show = |bytes: u64| size(bytes, Units::Full);
    let mut text = format!("{verb} {}", show(coverage.read_bytes));
    let left = &coverage.left;
    for (bytes, words) in [
        (coverage.zero_bytes, "never touched, all zero"),
        (left.unsaved_bytes, "not saved in the image"),
        (left.swapped_bytes, "in swap, left there"),
        (left.backed_bytes, "in memory objects, left alone"),
        (left.file_bytes, "in files, left alone"),
        (coverage.gaps.bytes(), "could not be read"),
    ] {
        if bytes > 0 {
            let _ = write!(text, "; {} {words}", show(bytes));
        }
    }
    text.push('\n');
    if coverage.left_in_ram_bytes > 0 {
        let bytes = show(coverage.left_in_ram_bytes);
        let _ = writeln!(
            text,
            "  {bytes} that were in swap stay in RAM: to send them back takes CAP_SYS_NICE, and room in swap"
        );
    }
    text + &summary::gaps(&coverage.gaps)
}

#[cfg(test)]
mod tests {
    use memfetch::query::sweep::Left;
    use memfetch::{Address, Cause, Span};

    use super::*;

    #[test]
    fn what_was_not_searched_is_told_with_its_cause() {
        let mut coverage = Coverage { read_bytes: 3 << 20, zero_bytes: 64 << 30, ..Coverage::default() };
        assert_eq!(paragraph("searched", &coverage), "searched 3 MiB; 64 GiB never touched, all zero\n");
        coverage.left = Left { unsaved_bytes: 4096, ..Left::default() };
        coverage.gaps.push(Span::from_len(Address::new(0x1000), 4096).unwrap(), Cause::Secret);
        let text = paragraph("searched", &coverage);
        assert!(
            text.contains("; 4 KiB not saved in the image; 4 KiB could not be read\n  1 gap, 4 KiB: secret"),
            "{text}"
        );
    }
}

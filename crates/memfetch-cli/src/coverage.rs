//! What a query looked at and what it did not: a paragraph for a person, or an object for a program.

use std::fmt::Write;

use memfetch::query::sweep::Coverage;
use serde::Serialize;

use crate::quantity::{Units, size};
use crate::summary;

/// The last object of a query's JSON.
#[derive(Debug, Serialize)]
pub struct Object<'a> {
    /// Whether it came to its end: neither an error nor a number that was enough ended it before.
    pub complete: bool,
    /// What was looked at and what was not.
    pub coverage: &'a Coverage,
}

/// The paragraph. Its lines end in newlines.
#[must_use]
pub fn paragraph(coverage: &Coverage) -> String {
    let left = &coverage.left;
    let parts = [
        (coverage.read_bytes, "read"),
        (coverage.zero_bytes, "known to be zero and not read"),
        (left.swapped_bytes, "in swap left alone"),
        (left.backed_bytes, "in memory objects left alone"),
        (left.file_bytes, "in files left alone"),
        (left.unsaved_bytes, "not saved in the image"),
    ];
    let shown = parts.iter().enumerate().filter(|(index, (bytes, _))| *index == 0 || *bytes > 0);
    let parts: Vec<_> =
        shown.map(|(_, (bytes, what))| format!("{} {what}", size(*bytes, Units::Full))).collect();
    let mut text = parts.join(", ");
    text.push_str(".\n");
    text.push_str(&summary::gaps(&coverage.gaps));
    if coverage.left_in_ram_bytes > 0 {
        let bytes = size(coverage.left_in_ram_bytes, Units::Full);
        let _ = writeln!(text, "  Note: {bytes} came from swap and could not be sent back there");
    }
    text
}

#[cfg(test)]
mod tests {
    use memfetch::query::sweep::Left;
    use memfetch::{Address, Cause, Gaps, Span};

    use super::*;

    #[test]
    fn the_paragraph_tells_what_was_not_looked_at() {
        let mut gaps = Gaps::new();
        gaps.push(Span::from_len(Address::new(0x1000), 0x1000).unwrap(), Cause::Vanished);
        let left = Left { swapped_bytes: 4096, backed_bytes: 8192, file_bytes: 1 << 20, unsaved_bytes: 17 };
        let coverage =
            Coverage { read_bytes: 3 << 30, zero_bytes: 64 << 30, left, gaps, left_in_ram_bytes: 4096 };
        assert_eq!(
            paragraph(&coverage),
            "3 GiB read, 64 GiB known to be zero and not read, 4 KiB in swap left alone, 8 KiB in memory objects \
             left alone, 1 MiB in files left alone, 17 B not saved in the image.\n  \
             1 gap, 4 KiB: it was unmapped before it could be read (0x1000..0x2000)\n  \
             Note: 4 KiB came from swap and could not be sent back there\n"
        );
        assert_eq!(paragraph(&Coverage::default()), "0 read.\n");
        let object = serde_json::to_value(Object { complete: true, coverage: &coverage }).unwrap();
        assert_eq!(object["coverage"]["left"]["swapped_bytes"], 4096);
        assert_eq!(object["coverage"]["gaps"][0]["cause"], "vanished");
    }
}

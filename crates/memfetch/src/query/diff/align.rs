//! Which regions of one address space correspond to which of another.
//!
//! The kernel puts the program, its heap, its libraries and its stack at random addresses, each as one: what they
//! consist of keeps its distances. So regions are taken together as [`Block`]s, blocks are matched by what is behind
//! them and in which order they lie, and inside a matched pair addresses differ by a constant.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::hash::Hash;
use std::ops::Range;

use serde::Serialize;

use crate::address::Span;
use crate::region::{Backing, Permissions, Region, RegionMap};

/// How the regions of two sources are brought together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Alignment {
    /// By address where most of what has a name lies at the same address in both, else by region.
    #[default]
    Auto,
    /// Each byte with that at the same address: for the same process at two times, and its forks.
    ByAddress,
    /// Each byte with the one that lies at the same place in the corresponding region: for two runs of a program.
    ByRegion,
}

/// Regions that lie together, by their places in the two maps; one of the ranges may be empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pair {
    pub before: Range<usize>,
    pub after: Range<usize>,
    /// How far above the first the corresponding byte of the second lies.
    pub shift: i128,
}

/// Two segments of a module may lie so far apart.
const HOLE: u64 = 4 << 20;
/// More comparisons than this are not made to find the best matching of unnamed blocks.
const CELLS: usize = 1 << 20;

/// The likeness of blocks of the same size and permissions.
const MOST_ALIKE: u32 = 9;

/// What a block is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Key<'a> {
    Anonymous,
    Label(&'a OsStr),
    Heap,
    Stack,
    Kernel(&'a OsStr),
    File(&'a OsStr),
}

impl<'a> Key<'a> {
    fn of(region: &'a Region) -> Self {
        match &region.backing {
            Backing::Anonymous { label: None } => Self::Anonymous,
            Backing::Anonymous { label: Some(label) } => Self::Label(label),
            Backing::Heap => Self::Heap,
            Backing::Stack => Self::Stack,
            Backing::Kernel(name) => Self::Kernel(name),
            Backing::File(file) => Self::File(&file.path),
        }
    }
}

/// Regions that move as one.
#[derive(Clone, Debug)]
struct Block<'a> {
    key: Key<'a>,
    regions: Range<usize>,
    /// Where the zeros of a module begin that lie behind its file, or what is taken for them.
    tail: usize,
    span: Span,
    permissions: Permissions,
}

impl Block<'_> {
    /// How well they fit together; `None` if not at all.
    fn likeness(&self, other: &Self) -> Option<u32> {
        (self.key == other.key).then(|| {
            let same_size = self.span.len() == other.span.len();
            // One of the same size is worth more than two of others.
            2 + 6 * u32::from(same_size) + u32::from(self.permissions == other.permissions)
        })
    }

    /// The pairs that they make: two where what lies behind a module is no longer of one size. Then it is not, or not
    /// only, the module's, but an unnamed mapping that happens to lie there.
    fn pairs(&self, other: &Self, maps: (&RegionMap, &RegionMap)) -> Vec<Pair> {
        let tails = (self.tail..self.regions.end, other.tail..other.regions.end);
        let (tail_before, tail_after) = (extent(maps.0, &tails.0), extent(maps.1, &tails.1));
        let whole = self.pair(other);
        if tail_before.map(Span::len) == tail_after.map(Span::len) {
            return vec![whole];
        }
        let named = Pair {
            before: self.regions.start..self.tail,
            after: other.regions.start..other.tail,
            shift: whole.shift,
        };
        let end = |tail: Option<Span>| tail.map(|span| i128::from(span.end().get()));
        let shift = end(tail_before).zip(end(tail_after)).map_or(0, |(before, after)| after - before);
        vec![named, Pair { before: tails.0, after: tails.1, shift }]
    }

    fn pair(&self, other: &Self) -> Pair {
        // A stack grows downwards, and so do unnamed mappings: the kernel puts new ones below those that are there.
        let by_end = matches!(self.key, Key::Stack | Key::Anonymous);
        let anchor = |span: Span| i128::from(if by_end { span.end().get() } else { span.start().get() });
        Pair {
            before: self.regions.clone(),
            after: other.regions.clone(),
            shift: anchor(other.span) - anchor(self.span),
        }
    }
}

/// Brings two maps together, and tells how it was done: never [`Alignment::Auto`]. What the first map has comes in
/// the order of its addresses, and then what only the second has.
pub(super) fn align(before: &RegionMap, after: &RegionMap, how: Alignment) -> (Alignment, Vec<Pair>) {
    let (blocks_before, blocks_after) = (blocks(before), blocks(after));
    let by_address = match how {
        Alignment::Auto => !is_relocated(&blocks_before, &blocks_after),
        Alignment::ByAddress => true,
        Alignment::ByRegion => false,
    };
    if by_address {
        let all = Pair { before: 0..before.len(), after: 0..after.len(), shift: 0 };
        return (Alignment::ByAddress, vec![all]);
    }
    (Alignment::ByRegion, matched(&blocks_before, &blocks_after, (before, after)))
}

/// From the start of the first of these regions to the end of the last.
pub(super) fn extent(map: &RegionMap, range: &Range<usize>) -> Option<Span> {
    let regions = map.as_slice().get(range.clone())?;
    Span::new(regions.first()?.span.start(), regions.last()?.span.end())
}

/// Takes regions together.
fn blocks(map: &RegionMap) -> Vec<Block<'_>> {
    let mut blocks: Vec<Block<'_>> = Vec::new();
    // The offset and the permissions of the last region of a file.
    let mut last_segment = None;
    for (index, region) in map.iter().enumerate() {
        let key = Key::of(region);
        let segment = region.file().map(|file| (file.offset, region.permissions));
        // The page at the end of one segment is often the first of the next, with other permissions.
        let follows =
            segment.zip(last_segment).is_some_and(|(it, last): ((u64, Permissions), (u64, Permissions))| {
                it.0 > last.0 || (it.0 == last.0 && it.1 != last.1)
            });
        let joined = blocks.last_mut().filter(|last| {
            let hole = region.span.start().offset_from(last.span.end()).unwrap_or(u64::MAX);
            match last.key {
                // Its segments, in the order of the file, and the zeros of its data segment (.bss) behind.
                Key::File(_) if key == last.key => hole <= HOLE && follows,
                Key::File(_) => hole == 0 && key == Key::Anonymous,
                _ => hole == 0 && key == last.key,
            }
        });
        match joined {
            Some(last) => {
                last.regions.end = index + 1;
                if key != Key::Anonymous {
                    last.tail = index + 1;
                }
                last.span = Span::new(last.span.start(), region.span.end()).unwrap_or(last.span);
            }
            None => blocks.push(Block {
                key,
                regions: index..index + 1,
                tail: index + 1,
                span: region.span,
                permissions: region.permissions,
            }),
        }
        last_segment = segment.or(last_segment);
    }
    blocks
}

/// Pairs of blocks that have a name which no other block has, on either side.
fn landmarks(before: &[Block<'_>], after: &[Block<'_>]) -> Vec<(usize, usize)> {
    fn unique<'b>(blocks: &'b [Block<'b>]) -> HashMap<Key<'b>, Option<usize>> {
        let mut found = HashMap::new();
        for (index, block) in blocks.iter().enumerate().filter(|(_, block)| block.key != Key::Anonymous) {
            found.entry(block.key).and_modify(|it| *it = None).or_insert(Some(index));
        }
        found
    }
    let after = unique(after);
    let mut pairs: Vec<(usize, usize)> = unique(before)
        .into_iter()
        .filter_map(|(key, index)| Some((index?, after.get(&key).copied().flatten()?)))
        .collect();
    pairs.sort_unstable();
    pairs
}

/// Whether most of what both have by name lies elsewhere in the second.
fn is_relocated(before: &[Block<'_>], after: &[Block<'_>]) -> bool {
    let (mut here, mut elsewhere) = (0_usize, 0_usize);
    for (b, a) in landmarks(before, after) {
        let Some((b, a)) = before.get(b).zip(after.get(a)) else { continue };
        // This page of the kernel's lies at one address always.
        if b.key == Key::Kernel(OsStr::new("vsyscall")) {
            continue;
        }
        match b.pair(a).shift {
            0 => here += 1,
            _ => elsewhere += 1,
        }
    }
    elsewhere > here
}

/// Matches blocks: first what has a name of its own, wherever it lies, then what lies between.
fn matched(before: &[Block<'_>], after: &[Block<'_>], maps: (&RegionMap, &RegionMap)) -> Vec<Pair> {
    let mut partner: Vec<Option<usize>> = vec![None; before.len()];
    let mut taken = vec![false; after.len()];
    let mut join = |b: usize, a: usize| {
        if let (Some(partner), Some(taken)) = (partner.get_mut(b), taken.get_mut(a)) {
            *partner = Some(a);
            *taken = true;
        }
    };
    let landmarks = landmarks(before, after);
    let mut by_after: Vec<(usize, usize)> = landmarks.iter().map(|&(b, a)| (a, b)).collect();
    by_after.sort_unstable();
    // Each stretch between landmarks by the landmarks below and above it, which are named by their place in the first.
    let stretches_before = between(landmarks.iter().map(|&(b, _)| (b, b)), before.len());
    let stretches_after = between(by_after.into_iter(), after.len());
    let by_upper: HashMap<_, _> = stretches_after.iter().map(|it| (it.upper, it)).collect();
    let by_lower: HashMap<_, _> = stretches_after.iter().map(|it| (it.lower, it)).collect();
    let mut used_after = std::collections::HashSet::new();
    for &(b, a) in &landmarks {
        join(b, a);
    }
    for stretch in stretches_before.iter().filter(|it| !it.blocks.is_empty()) {
        // What is unnamed was mostly put below what was there before.
        let there = [by_upper.get(&stretch.upper), by_lower.get(&stretch.lower)];
        let found = there
            .into_iter()
            .flatten()
            .find(|it| !it.blocks.is_empty() && !used_after.contains(&it.blocks.start));
        let Some(found) = found else { continue };
        used_after.insert(found.blocks.start);
        let slice = |blocks: &'_ [Block<'_>], range: &Range<usize>| -> Vec<usize> {
            range.clone().filter(|&index| index < blocks.len()).collect()
        };
        let (some_before, some_after) = (slice(before, &stretch.blocks), slice(after, &found.blocks));
        let like = |b: usize, a: usize| {
            let (b, a) = some_before.get(b).zip(some_after.get(a))?;
            before.get(*b)?.likeness(after.get(*a)?)
        };
        for (b, a) in best_order(some_before.len(), some_after.len(), like) {
            if let Some((&b, &a)) = some_before.get(b).zip(some_after.get(a)) {
                join(b, a);
            }
        }
    }
    let mut pairs = Vec::new();
    for (block, partner) in before.iter().zip(&partner) {
        match partner.and_then(|index| after.get(index)) {
            Some(other) => pairs.extend(block.pairs(other, maps)),
            None => pairs.push(Pair { before: block.regions.clone(), after: 0..0, shift: 0 }),
        }
    }
    for (block, _) in after.iter().zip(&taken).filter(|(_, taken)| !**taken) {
        pairs.push(Pair { before: 0..0, after: block.regions.clone(), shift: 0 });
    }
    pairs
}

/// Blocks between two landmarks.
#[derive(Debug)]
struct Between {
    lower: Option<usize>,
    upper: Option<usize>,
    blocks: Range<usize>,
}

/// What lies between landmarks, which are given as their places and names, ascending.
fn between(landmarks: impl Iterator<Item = (usize, usize)>, blocks: usize) -> Vec<Between> {
    let mut found = Vec::new();
    let (mut start, mut lower) = (0, None);
    for (at, name) in landmarks {
        found.push(Between { lower, upper: Some(name), blocks: start..at });
        (start, lower) = (at + 1, Some(name));
    }
    found.push(Between { lower, upper: None, blocks: start..blocks });
    found
}

/// The pairs, ascending on both sides, whose likeness is the most in sum.
fn best_order(
    before: usize,
    after: usize,
    like: impl Fn(usize, usize) -> Option<u32>,
) -> Vec<(usize, usize)> {
    let same = |b: usize, a: usize| like(b, a) == Some(MOST_ALIKE);
    let most = before.min(after);
    let head = (0..most).take_while(|&index| same(index, index)).count();
    let tail = (0..most - head).take_while(|&index| same(before - 1 - index, after - 1 - index)).count();
    let mut pairs: Vec<_> = (0..head).map(|index| (index, index)).collect();
    let (rows, columns) = (before - head - tail, after - head - tail);
    if rows.saturating_mul(columns) <= CELLS {
        pairs.extend(
            best_sum(rows, columns, |b, a| like(head + b, head + a)).map(|(b, a)| (head + b, head + a)),
        );
    } else {
        // Too many to try all: those at the same places count as the same.
        let middle = (head..head + rows.min(columns)).filter(|&index| like(index, index).is_some());
        pairs.extend(middle.map(|index| (index, index)));
    }
    pairs.extend((0..tail).rev().map(|index| (before - 1 - index, after - 1 - index)));
    pairs
}

/// The best sum of all, by a table of the best sums of all ends.
fn best_sum(
    rows: usize,
    columns: usize,
    like: impl Fn(usize, usize) -> Option<u32>,
) -> impl Iterator<Item = (usize, usize)> {
    let width = columns + 1;
    let mut best = vec![0_u32; (rows + 1) * width];
    let cell = |best: &[u32], row: usize, column: usize| best.get(row * width + column).copied().unwrap_or(0);
    for row in (0..rows).rev() {
        for column in (0..columns).rev() {
            let skipped = cell(&best, row + 1, column).max(cell(&best, row, column + 1));
            let joined = like(row, column).map_or(0, |likeness| likeness + cell(&best, row + 1, column + 1));
            if let Some(cell) = best.get_mut(row * width + column) {
                *cell = skipped.max(joined);
            }
        }
    }
    let mut pairs = Vec::new();
    let (mut row, mut column) = (0, 0);
    while row < rows && column < columns {
        let here = cell(&best, row, column);
        if like(row, column).is_some_and(|likeness| likeness + cell(&best, row + 1, column + 1) == here) {
            pairs.push((row, column));
            row += 1;
            column += 1;
        } else if cell(&best, row + 1, column) == here {
            row += 1;
        } else {
            column += 1;
        }
    }
    pairs.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(text: &str) -> RegionMap {
        let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        crate::maps::parse((lines.join("\n") + "\n").as_bytes()).unwrap()
    }

    /// Pairs as the starts of their blocks; 0 for none.
    fn starts(before: &RegionMap, after: &RegionMap, pairs: &[Pair]) -> Vec<(u64, u64)> {
        let start = |map: &RegionMap, range: &Range<usize>| {
            map.as_slice().get(range.clone()).and_then(<[_]>::first).map_or(0, |r| r.span.start().get())
        };
        pairs.iter().map(|pair| (start(before, &pair.before), start(after, &pair.after))).collect()
    }

    const RUN: &str = "
        1000-2000 r--p 00000000 08:01 7 /bin/a
        2000-3000 r-xp 00001000 08:01 7 /bin/a
        3000-4000 rw-p 00001000 08:01 7 /bin/a
        4000-5000 rw-p 00000000 00:00 0
        9000-b000 rw-p 00000000 00:00 0 [heap]
        20000-22000 rw-p 00000000 00:00 0
        30000-31000 r--p 00000000 08:01 8 /lib/c
        32000-33000 rw-p 00003000 08:01 8 /lib/c
        33000-34000 rw-p 00000000 00:00 0
        f0000-f4000 rw-p 00000000 00:00 0 [stack]
        f5000-f6000 r-xp 00000000 00:00 0 [vdso]
        ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0 [vsyscall]";
    // Everything elsewhere; the heap and the stack are larger, and there is one more mapping.
    const OTHER_RUN: &str = "
        51000-52000 r--p 00000000 08:01 7 /bin/a
        52000-53000 r-xp 00001000 08:01 7 /bin/a
        53000-54000 rw-p 00001000 08:01 7 /bin/a
        54000-55000 rw-p 00000000 00:00 0
        5a000-5d000 rw-p 00000000 00:00 0 [heap]
        71000-71800 rw-p 00000000 00:00 0
        72000-74000 rw-p 00000000 00:00 0
        80000-81000 r--p 00000000 08:01 8 /lib/c
        82000-83000 rw-p 00003000 08:01 8 /lib/c
        83000-84000 rw-p 00000000 00:00 0
        e0000-e8000 rw-p 00000000 00:00 0 [stack]
        ea000-eb000 r-xp 00000000 00:00 0 [vdso]
        ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0 [vsyscall]";

    #[test]
    fn two_runs_are_matched_by_what_lies_where() {
        let (before, after) = (map(RUN), map(OTHER_RUN));
        let (how, pairs) = align(&before, &after, Alignment::Auto);
        assert_eq!(how, Alignment::ByRegion);
        let vsyscall = 0xffff_ffff_ff60_0000;
        assert_eq!(
            starts(&before, &after, &pairs),
            [
                (0x1000, 0x51000),
                (0x9000, 0x5a000),
                (0x20000, 0x72000),
                (0x30000, 0x80000),
                (0xf0000, 0xe0000),
                (0xf5000, 0xea000),
                (vsyscall, vsyscall),
                (0, 0x71000),
            ]
        );
        // The heap by its start, the stack by its end.
        assert_eq!((pairs[1].shift, pairs[4].shift), (0x51000, -0xc000));
        // The program with its zeroed data is one block.
        assert_eq!((pairs[0].before.clone(), pairs[0].after.clone()), (0..4, 0..4));
    }

    #[test]
    fn one_run_is_compared_by_address() {
        let before = map(RUN);
        let grown =
            map(&RUN.replace("9000-b000", "9000-f000").replace("20000-22000 rw-p", "1e000-22000 rw-p"));
        let (how, pairs) = align(&before, &grown, Alignment::Auto);
        assert_eq!((how, pairs.len(), pairs[0].shift), (Alignment::ByAddress, 1, 0));
        // Where nothing has a name, nothing is known to have moved.
        let bare = map("1000-2000 rw-p 0 00:00 0 ");
        assert_eq!(align(&bare, &map("5000-6000 rw-p 0 00:00 0 "), Alignment::Auto).0, Alignment::ByAddress);
    }

    #[test]
    fn libraries_in_another_order_are_still_found() {
        let before = map("1000-2000 rw-p 0 08:01 1 /lib/a
            4000-5000 rw-p 0 00:00 0 \n 5000-6000 rw-p 0 08:01 2 /lib/b");
        let after = map("21000-22000 rw-p 0 08:01 2 /lib/b
            28000-29000 rw-p 0 08:01 1 /lib/a
            2f000-30000 rw-p 0 00:00 0 ");
        let (_, pairs) = align(&before, &after, Alignment::ByRegion);
        assert_eq!(
            starts(&before, &after, &pairs),
            [(0x1000, 0x28000), (0x4000, 0x2f000), (0x5000, 0x21000)]
        );
    }

    #[test]
    fn the_same_file_mapped_twice_is_two_blocks() {
        let text = "1000-2000 r--p 0 08:01 1 /data \n 2000-3000 r--p 0 08:01 1 /data";
        let (before, after) = (map(text), map(&text.replace("1000-2000", "0800-1800")));
        assert_eq!(blocks(&before).len(), 2);
        let (_, pairs) = align(&before, &after, Alignment::ByRegion);
        assert_eq!(starts(&before, &after, &pairs), [(0x1000, 0x800), (0x2000, 0x2000)]);
    }

    #[test]
    fn what_lies_behind_a_module_by_chance_is_aligned_by_its_end() {
        let text = "1000-2000 rw-p 0 08:01 1 /lib/a \n 2000-8000 rw-p 0 00:00 0 ";
        let (before, after) = (map(text), map(&text.replace("2000-8000", "2000-9000")));
        let (_, pairs) = align(&before, &after, Alignment::ByRegion);
        assert_eq!(pairs.iter().map(|pair| pair.shift).collect::<Vec<_>>(), [0, 0x1000]);
        let (_, pairs) = align(&before, &map("1000-2000 rw-p 0 08:01 1 /lib/a"), Alignment::ByRegion);
        assert_eq!((pairs.len(), pairs[1].after.is_empty()), (2, true));
        assert_eq!(align(&before, &before, Alignment::ByRegion).1.len(), 1);
    }

    #[test]
    fn sizes_decide_among_the_unnamed() {
        let line = |(index, len): (usize, &u64)| {
            let start = 0x10_0000 * (index as u64 + 1);
            format!("{start:x}-{:x} rw-p 0 00:00 0 ", start + len * 0x1000)
        };
        let space = |lens: &[u64]| map(&lens.iter().enumerate().map(line).collect::<Vec<_>>().join("\n"));
        let (before, after) = (space(&[1, 9, 3, 4]), space(&[9, 5, 3, 7, 4]));
        let (_, pairs) = align(&before, &after, Alignment::ByRegion);
        assert_eq!(
            starts(&before, &after, &pairs),
            [
                (0x10_0000, 0),
                (0x20_0000, 0x10_0000),
                (0x30_0000, 0x30_0000),
                (0x40_0000, 0x50_0000),
                (0, 0x20_0000),
                (0, 0x40_0000)
            ]
        );
    }

    #[test]
    fn tens_of_thousands_are_matched_without_trying_all() {
        use std::fmt::Write as _;
        let space = |len: u64| {
            let mut text = String::new();
            for n in 0..30_000_u64 {
                let start = 0x10_0000 + n * 0x4000;
                let _ = writeln!(text, "{start:x}-{:x} rw-p 0 00:00 0 ", start + len);
            }
            crate::maps::parse(text.as_bytes()).unwrap()
        };
        let (_, pairs) = align(&space(0x1000), &space(0x2000), Alignment::ByRegion);
        assert_eq!(pairs.len(), 30_000);
        assert!(pairs.iter().all(|pair| pair.before == pair.after));
    }
}

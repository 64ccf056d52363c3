//! The role `mixed-writers`: an epoch that is written into memory of every kind, piece after piece.

use memfetch::Memory;

use super::{Invariant, Judgement, Violation, hold, word, words, words_or_hole};
use crate::Target;

/// Words of an entry of the table.
pub const ENTRY: u64 = 8;
/// Where in an entry stands whether it is on: 0 or 1.
pub const ON: u64 = 0;
/// Where its cells are: see [`ROW`], [`CHAIN`] and [`EITHER`].
pub const ADDRESS: u64 = 8;
/// How many cells it has.
pub const CELLS: u64 = 16;
/// How far they are from each other.
pub const STRIDE: u64 = 24;
/// 1 while the cells that the epoch has not reached may have become zero, all at once.
pub const FRESH: u64 = 32;
/// Its form.
pub const FORM: u64 = 40;
/// Where else its cells may be.
pub const OTHER: u64 = 48;

/// A form: cells in a row from the address on.
pub const ROW: u64 = 0;
/// A form: the last cell is at the address, and behind each stands the address of the one before it.
pub const CHAIN: u64 = 1;
/// A form: as a row, at the address or at the other one, and nothing but zeros or a hole where they are not.
pub const EITHER: u64 = 2;

/// The epoch `E` is written into a word of its own, then into all cells of the first piece in the table, of the second,
/// and so on, and then the next one begins: so a cell holds `E`, and if any cell before it does not, `E - 1`.
#[derive(Clone, Debug)]
pub struct Mixed {
    /// Where the epoch is.
    pub epoch: u64,
    /// Where the table is.
    pub table: u64,
    /// What the entries are called, in their order.
    pub pieces: Vec<String>,
}

impl Mixed {
    /// By the facts of a target.
    #[must_use]
    pub fn of(target: &Target) -> Self {
        Self {
            epoch: target.number("epoch"),
            table: target.number("table"),
            pieces: target.fact("pieces").split(',').map(str::to_owned).collect(),
        }
    }
}

/// What the cells of an entry hold, in the order in which they are written.
fn values(memory: &dyn Memory, entry: &[u64; ENTRY as usize]) -> Result<Vec<u64>, Violation> {
    let [_, address, cells, stride, fresh, form, other, _] = *entry;
    let places = (0..cells).map(|index| index * stride);
    match form {
        ROW => {
            // A page that became its file's own again is zero, and no part of an image.
            let value = |offset| match words_or_hole(memory, address + offset)? {
                Some([value]) => Ok(value),
                None if fresh == 1 => Ok(0),
                None => Err(Violation(format!("{:#x} cannot be read", address + offset))),
            };
            places.map(value).collect()
        }
        CHAIN => {
            let mut values = Vec::new();
            let mut at = address;
            for _ in 0..cells {
                let [value, before] = words(memory, at)?;
                values.push(value);
                at = before;
            }
            values.reverse();
            Ok(values)
        }
        EITHER => {
            let value = |offset| {
                let there = [address, other].map(|start| words_or_hole::<1>(memory, start + offset));
                let [here, there] = there;
                let (here, there) = (here?.map_or(0, |[word]| word), there?.map_or(0, |[word]| word));
                hold!(
                    (here == 0) != (there == 0),
                    "{:#x} holds {here}, and {:#x} {there}: one of them should be nothing",
                    address + offset,
                    other + offset
                );
                Ok(here | there)
            };
            places.map(value).collect()
        }
        _ => Err(Violation(format!("no form {form}"))),
    }
}

impl Invariant for Mixed {
    fn check(&self, memory: &dyn Memory) -> Result<Judgement, Violation> {
        let epoch = word(memory, self.epoch)?;
        let mut reached = true;
        for (number, piece) in (0..).zip(&self.pieces) {
            let entry = words::<{ ENTRY as usize }>(memory, self.table + number * ENTRY * 8)?;
            let [on, _, _, _, fresh, ..] = entry;
            if on == 0 {
                continue;
            }
            let values = values(memory, &entry)
                .map_err(|Violation(what)| Violation(format!("epoch {epoch}, {piece}: {what}")))?;
            // What the first cell that the epoch has not reached holds, all behind it do.
            let mut left = None;
            for (index, value) in values.into_iter().enumerate() {
                reached &= value == epoch;
                if reached {
                    continue;
                }
                let first = *left.get_or_insert(value);
                hold!(
                    value == first && (value + 1 == epoch || value == 0 && fresh == 1),
                    "epoch {epoch}, {piece}: cell {index} holds {value}; the first before it that is not \
                     reached {first}"
                );
            }
        }
        Ok(Judgement::complete(epoch))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::tests::Words;

    fn check(memory: &Words) -> Result<Judgement, Violation> {
        let pieces = ["a", "b", "c", "d"].map(str::to_owned).to_vec();
        Mixed { epoch: 0x1000, table: 0x2000, pieces }.check(memory)
    }

    const ROW_AT: u64 = 0x2000;
    const EITHER_AT: u64 = 0x2000 + 2 * ENTRY * 8;

    /// A chain of two, a row of three, two cells that are in one place or the other, and what is off.
    fn memory(chain: [u64; 2], row: [u64; 3], either: [u64; 2]) -> Words {
        let memory = Words::new().set(0x1000, 9);
        let memory = memory.row(0x2040, &[1, 0x5000, 2, 0, 0, CHAIN, 0, 0]);
        let memory = memory.row(ROW_AT, &[1, 0x3000, 3, 16, 0, ROW, 0, 0]);
        let memory = memory.row(EITHER_AT, &[1, 0x4000, 2, 8, 0, EITHER, 0x4100, 0]);
        let memory = memory.row(0x20c0, &[0, 0, 5, 8, 0, ROW, 0, 0]);
        let memory = memory.row(0x5000, &[chain[1], 0x5100]).row(0x5100, &[chain[0], 0]);
        let memory =
            row.iter().zip([0x3000, 0x3010, 0x3020]).fold(memory, |memory, (&v, at)| memory.set(at, v));
        memory.set(0x4000, either[0]).set(0x4100, 0).set(0x4108, either[1])
    }

    #[test]
    fn each_instant_of_an_epoch_holds() {
        for (chain, row, either) in [
            ([8, 8], [8, 8, 8], [8, 8]),
            ([8, 8], [9, 9, 8], [8, 8]),
            ([9, 8], [9, 9, 9], [8, 8]),
            ([9, 9], [9, 9, 9], [9, 8]),
            ([9, 9], [9, 9, 9], [9, 9]),
        ] {
            assert_eq!(check(&memory(chain, row, either)), Ok(Judgement::complete(9)));
        }
        let fresh = |row| memory([8, 8], row, [8, 8]).set(ROW_AT + FRESH, 1);
        for row in [[8, 8, 8], [0, 0, 0], [9, 0, 0], [9, 9, 8]] {
            assert_eq!(check(&fresh(row)), Ok(Judgement::complete(9)), "{row:?}");
        }
    }

    #[test]
    fn torn_epochs_are_found() {
        for (chain, row, either) in [
            ([8, 8], [8, 9, 8], [8, 8]),
            ([9, 8], [9, 9, 8], [8, 8]),
            ([8, 9], [9, 9, 9], [8, 8]),
            ([9, 9], [9, 9, 9], [7, 7]),
            ([9, 9], [9, 9, 9], [9, 10]),
            ([8, 8], [9, 0, 0], [8, 8]),
            ([8, 8], [8, 8, 8], [0, 8]),
        ] {
            let memory = memory(chain, row, either);
            assert!(check(&memory).is_err(), "{chain:?} {row:?} {either:?}");
        }
        let good = memory([9, 9], [9, 9, 9], [9, 9]);
        assert!(check(&good.clone().set(0x4008, 9)).is_err(), "in both places");
        assert!(check(&good.clone().without(0x3010)).is_err(), "a cell is missing");
        assert!(check(&good.clone().set(0x1000, 10).set(0x3000, 10).set(0x3010, 8)).is_err());
        let fresh = memory([8, 8], [9, 0, 8], [8, 8]).set(ROW_AT + FRESH, 1);
        assert!(check(&fresh).is_err(), "only some became zero");
        let fresh = fresh.without(0x3020);
        assert_eq!(check(&fresh), Ok(Judgement::complete(9)), "zeros of a file");
        assert!(check(&fresh.set(ROW_AT + FRESH, 0)).is_err(), "a cell is missing");
    }
}

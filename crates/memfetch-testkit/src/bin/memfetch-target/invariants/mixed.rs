//! The role `mixed-writers`.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use memfetch_testkit::invariants::mixed::{ADDRESS, CELLS, CHAIN, ENTRY, FORM, FRESH, ON, OTHER, STRIDE};

use super::pieces::{PIECES, Write};
use super::{load, small_pages, store, thread};
use crate::memory::{PAGE, advise};
use crate::{argument, fact, serve, unknown};

/// The piece whose cells are in the frames of the stack, below which all others are written.
const STACK: &str = "stack";

/// An entry of the table.
#[derive(Clone, Copy)]
pub struct Entry(usize);

impl Entry {
    /// Whether it counts.
    pub fn set_on(self, on: bool) {
        store(self.0 + ON as usize, u64::from(on));
    }

    /// Where its cells are, how many, and how far from each other.
    pub fn set_row(self, address: usize, cells: usize, stride: usize) {
        self.set_address(address);
        store(self.0 + STRIDE as usize, stride as u64);
        self.set_cells(cells);
    }

    /// Where its cells are.
    pub fn set_address(self, address: usize) {
        store(self.0 + ADDRESS as usize, address as u64);
    }

    /// How many cells it has.
    pub fn set_cells(self, cells: usize) {
        store(self.0 + CELLS as usize, cells as u64);
    }

    /// Whether cells may have become zero.
    pub fn set_fresh(self, fresh: bool) {
        store(self.0 + FRESH as usize, u64::from(fresh));
    }

    /// The form, and where else the cells may be.
    pub fn set_form(self, form: u64, other: usize) {
        store(self.0 + OTHER as usize, other as u64);
        store(self.0 + FORM as usize, form);
    }

    /// Where its cells are.
    pub fn address(self) -> usize {
        load(self.0 + ADDRESS as usize) as usize
    }

    /// Writes the epoch into all cells of a row, one after the other.
    pub fn write(self, epoch: u64) {
        let stride = load(self.0 + STRIDE as usize) as usize;
        for index in 0..load(self.0 + CELLS as usize) as usize {
            store(self.address() + index * stride, epoch);
        }
    }
}

/// `mixed-writers [FOLDER [PIECE...]]`: the first thread writes an epoch into memory of every kind, or of these, whose
/// names the fact `pieces` tells. The orders `on PIECE` and `off PIECE` switch one, `count` answers the epoch.
pub fn mixed_writers(arguments: &[String]) {
    let folder = PathBuf::from(argument(arguments, 0, "/tmp".to_owned()));
    let only = arguments.get(1..).unwrap_or_default();
    let names: Vec<&str> = [STACK].into_iter().chain(PIECES.iter().map(|(name, _)| *name)).collect();
    if let Some(name) = only.iter().find(|name| !names.contains(&name.as_str())) {
        eprintln!("memfetch-target: no piece {name:?}; there are {}", names.join(", "));
        std::process::exit(2);
    }
    let (epoch_at, table) = (small_pages(1), small_pages(1));
    let entry = move |index: usize| Entry(table + index * ENTRY as usize * 8);
    entry(0).set_form(CHAIN, 0);
    let mut pieces: Vec<Write> = Vec::new();
    for (index, (_, prepare)) in PIECES.iter().enumerate() {
        pieces.push(prepare(entry(index + 1), &folder));
    }
    let is_on = |name: &&str| only.is_empty() || only.iter().any(|one| one == name);
    let wanted: Arc<[AtomicBool]> = names.iter().map(|name| AtomicBool::new(is_on(name))).collect();
    fact("epoch", format_args!("{epoch_at:#x}"));
    fact("table", format_args!("{table:#x}"));
    fact("pieces", names.join(","));
    let switches = Arc::clone(&wanted);
    thread("serving", move || {
        while load(epoch_at) < 20 {
            std::thread::yield_now();
        }
        serve(|order| {
            let switch = match order.split_once(' ') {
                Some(("on", name)) => Some((name, true)),
                Some(("off", name)) => Some((name, false)),
                _ => None,
            };
            let index = switch.and_then(|(name, _)| names.iter().position(|known| *known == name));
            match (switch, index) {
                (Some((_, on)), Some(index)) => {
                    switches[index].store(on, Ordering::Relaxed);
                    while (load(entry(index).0 + ON as usize) == 1) != on {
                        std::thread::yield_now();
                    }
                    "switched".to_owned()
                }
                _ if order == "count" => load(epoch_at).to_string(),
                _ => unknown(order),
            }
        })
    });
    let mut lowest = usize::MAX;
    let mut on = vec![false; wanted.len()];
    // A cell is never zero unless it was lost.
    for epoch in 2.. {
        // Between two epochs all cells that count hold the last one: so must those that are to count.
        for (index, on) in on.iter_mut().enumerate() {
            if std::mem::replace(on, wanted[index].load(Ordering::Relaxed)) == *on {
                continue;
            }
            if *on && index > 0 {
                pieces[index - 1](epoch - 1);
            }
            entry(index).set_on(*on);
        }
        store(epoch_at, epoch);
        let depth = if on[0] { epoch as usize / 4 % 64 } else { 0 };
        let mut write = || {
            for (piece, _) in pieces.iter_mut().zip(&on[1..]).filter(|(_, on)| **on) {
                piece(epoch);
            }
        };
        if depth == 0 {
            discard_stack(&mut lowest);
        }
        descend(entry(0), epoch, (0, depth), 0, &mut lowest, &mut write);
        entry(0).set_cells(0);
    }
}

/// A cell in each frame of so many, with the address of the cell above behind it, and in the deepest the rest.
fn descend(
    entry: Entry,
    epoch: u64,
    (done, depth): (usize, usize),
    above: usize,
    lowest: &mut usize,
    rest: &mut dyn FnMut(),
) {
    if done == depth {
        rest();
        return;
    }
    // Aligned as the checker reads it, and large, so that a few frames are many pages.
    let mut frame = [0_u64; 2048];
    let cell = std::hint::black_box(frame.as_mut_ptr()).expose_provenance();
    *lowest = cell.min(*lowest);
    store(cell + 8, above as u64);
    store(cell, epoch);
    entry.set_address(cell);
    entry.set_cells(done + 1);
    descend(entry, epoch, (done + 1, depth), cell, lowest, rest);
    std::hint::black_box(&mut frame);
}

/// Gives the pages of the stack back that the deepest frames had, so that they come anew.
fn discard_stack(lowest: &mut usize) {
    let here = std::ptr::from_ref(&lowest).expose_provenance();
    let (first, end) = (*lowest & !(PAGE - 1), (here & !(PAGE - 1)).saturating_sub(16 * PAGE));
    if first < end {
        advise(first, end - first, libc::MADV_DONTNEED);
    }
    *lowest = usize::MAX;
}

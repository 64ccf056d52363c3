//! The role `linked`: lists whose nodes move to fresh pages all the time.

use memfetch::Memory;

use super::{Invariant, Judgement, PAGE, Violation, hold, words, words_or_hole};
use crate::Target;

/// The first word of a node.
pub const MAGIC: u64 = 0x6c69_6e6b_6564_2e31;

/// Words at the start of a node: [`MAGIC`], its key, how often it has moved, the node behind it, the node before it.
pub const NODE: usize = 5;

/// Where in a node the address of the one behind it stands, and that of the one before it.
pub const NEXT: u64 = 3 * 8;
/// See [`NEXT`].
pub const PREVIOUS: u64 = 4 * 8;

/// Where in a page the seal of a node stands: its last word.
pub const SEAL: u64 = PAGE - 8;

/// The seal of a node.
#[must_use]
pub const fn seal(at: u64, key: u64, moves: u64) -> u64 {
    (at ^ key.rotate_left(17) ^ moves.rotate_left(41)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Words of an intent: the phase, the place that a node moves from, that which it moves to, and how many moves are
/// done.
pub const INTENT: usize = 4;

/// No node moves: what lies in no list is a hole, or zero.
pub const IDLE: u64 = 0;
/// The new place is being filled; no node points to it.
pub const BUILDING: u64 = 1;
/// The new place is whole. First the node before it comes to point to it, then the node behind it.
pub const LINKING: u64 = 2;
/// No node points to the old place, which is being given back.
pub const RELEASING: u64 = 3;

/// Lists in a ring, one for each thread, each in a stretch of pages of its own: the head, with the key 0, in the first
/// page, and nodes with the keys from 1 on, in this order, anywhere in the others.
#[derive(Clone, Copy, Debug)]
pub struct Linked {
    /// Where the first stretch starts.
    pub start: u64,
    /// How many pages each has.
    pub pages: u64,
    /// How many nodes each list has beside its head.
    pub nodes: u64,
    /// Where the first intent is; each has a page.
    pub intents: u64,
    /// How many lists there are.
    pub threads: u64,
}

/// A node that was read.
#[derive(Clone, Copy)]
struct Node {
    key: u64,
    next: u64,
    previous: u64,
}

impl Linked {
    /// By the facts of a target.
    #[must_use]
    pub fn of(target: &Target) -> Self {
        Self {
            start: target.number("start"),
            pages: target.number("pages"),
            nodes: target.number("nodes"),
            intents: target.number("intents"),
            threads: target.number("threads"),
        }
    }

    /// The node at an address, which must be whole.
    fn node(&self, memory: &dyn Memory, thread: u64, at: u64) -> Result<Node, Violation> {
        let start = self.start + thread * self.pages * PAGE;
        let inside = (start..start + self.pages * PAGE).contains(&at) && at.is_multiple_of(PAGE);
        hold!(inside, "list {thread}: no node can be at {at:#x}");
        let [magic, key, moves, next, previous] = words::<NODE>(memory, at)?;
        let [sealed] = words(memory, at + SEAL)?;
        hold!(
            magic == MAGIC && sealed == seal(at, key, moves),
            "list {thread}: no whole node is at {at:#x}: {magic:#x}, key {key}, {moves} moves, seal {sealed:#x}"
        );
        Ok(Node { key, next, previous })
    }

    /// Walks through a list and back; returns how often a node of it has moved.
    fn walk(&self, memory: &dyn Memory, thread: u64) -> Result<u64, Violation> {
        let start = self.start + thread * self.pages * PAGE;
        let [phase, old, new, moved] = words::<INTENT>(memory, self.intents + thread * PAGE)?;
        hold!(phase <= RELEASING, "list {thread}: its intent says {phase}");
        // Which of both places the nodes around may point to, and what is used by no list meanwhile.
        let (gone, spare) = match phase {
            IDLE => (None, None),
            BUILDING => (Some(new), Some(new)),
            LINKING => (None, None),
            _ => (Some(old), Some(old)),
        };
        let mut used = vec![start];
        let (mut at, mut node) = (start, self.node(memory, thread, start)?);
        for key in 1..=self.nodes + 1 {
            let (before, from) = (at, node);
            at = from.next;
            hold!(gone != Some(at), "list {thread}: {before:#x} points to {at:#x} in phase {phase}");
            node = self.node(memory, thread, at)?;
            let expected = if key > self.nodes { 0 } else { key };
            hold!(
                node.key == expected,
                "list {thread}: the key {} is at {at:#x} behind {}",
                node.key,
                key - 1
            );
            // Between the two stores of a move the node behind it still points to the old place, which is whole and
            // points to where the new one does.
            let behind = phase == LINKING && node.previous == old && before == new;
            if behind {
                let left = self.node(memory, thread, old)?;
                hold!(
                    left.key == from.key && left.next == from.next && left.previous == from.previous,
                    "list {thread}: {old:#x} is not what moved to {new:#x}"
                );
            }
            hold!(
                behind || node.previous == before,
                "list {thread}: {at:#x} points back to {:#x}, not to {before:#x}, in phase {phase}",
                node.previous
            );
            used.push(at);
        }
        hold!(at == start, "list {thread}: the ring ends at {at:#x}");
        self.unused(memory, thread, &mut used, (phase, old, new), spare)?;
        Ok(moved)
    }

    /// What lies in no list holds nothing: neither does what was given back come back.
    fn unused(
        &self,
        memory: &dyn Memory,
        thread: u64,
        used: &mut [u64],
        (phase, old, new): (u64, u64, u64),
        spare: Option<u64>,
    ) -> Result<(), Violation> {
        used.sort_unstable();
        let start = self.start + thread * self.pages * PAGE;
        for at in (start..start + self.pages * PAGE).step_by(PAGE as usize) {
            let moves = phase == LINKING && (at == old || at == new);
            if moves || spare == Some(at) || used.binary_search(&at).is_ok() {
                continue;
            }
            for place in [at, at + SEAL] {
                let there = words_or_hole::<1>(memory, place)?;
                hold!(
                    there.is_none_or(|word| word == [0]),
                    "list {thread}: {place:#x} is free, and holds {there:x?}, in phase {phase}"
                );
            }
        }
        Ok(())
    }
}

impl Invariant for Linked {
    fn check(&self, memory: &dyn Memory) -> Result<Judgement, Violation> {
        let mut progress = 0_u64;
        for thread in 0..self.threads {
            progress = progress.wrapping_add(self.walk(memory, thread)?);
        }
        Ok(Judgement::complete(progress))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::tests::Words;

    const LIST: Linked = Linked { start: 0x10000, pages: 6, nodes: 3, intents: 0x1000, threads: 1 };
    /// Where the head and the nodes lie, and two places that are free.
    const PLACES: [u64; 6] = [0x10000, 0x13000, 0x11000, 0x14000, 0x12000, 0x15000];

    fn node(memory: Words, at: u64, key: u64, next: u64, previous: u64) -> Words {
        memory.row(at, &[MAGIC, key, 1, next, previous]).set(at + SEAL, seal(at, key, 1))
    }

    fn memory(phase: u64, old: u64, new: u64) -> Words {
        let [head, one, two, three, free, _] = PLACES;
        let memory = Words::new().row(0x1000, &[phase, old, new, 9]).set(free, 0).set(free + SEAL, 0);
        let memory = node(memory, head, 0, one, three);
        let memory = node(memory, one, 1, two, head);
        node(node(memory, two, 2, three, one), three, 3, head, two)
    }

    #[test]
    fn each_instant_of_a_move_holds() {
        let [_, one, two, three, free, hole] = PLACES;
        let whole = Ok(Judgement::complete(9));
        assert_eq!(LIST.check(&memory(IDLE, two, free)), whole);
        let building = memory(BUILDING, two, free).set(free, MAGIC);
        assert_eq!(LIST.check(&building), whole);
        let building = memory(BUILDING, two, hole).set(hole, MAGIC).set(hole + SEAL, 0);
        assert_eq!(LIST.check(&building), whole);
        let linking = node(memory(LINKING, two, free), free, 2, three, one);
        assert_eq!(LIST.check(&linking), whole);
        let linking = linking.set(one + NEXT, free);
        assert_eq!(LIST.check(&linking), whole);
        let linked = linking.set(three + PREVIOUS, free);
        assert_eq!(LIST.check(&linked), whole);
        let releasing = linked.row(0x1000, &[RELEASING, two, free, 9]);
        assert_eq!(LIST.check(&releasing), whole);
        let released = releasing.row(two, &[0; NODE]).set(two + SEAL, 0);
        assert_eq!(LIST.check(&released), whole);
        assert_eq!(LIST.check(&released.row(0x1000, &[IDLE, two, free, 9])), whole);
    }

    #[test]
    fn torn_moves_are_found() {
        let [_, one, two, three, free, hole] = PLACES;
        let idle = memory(IDLE, two, free);
        let linked = node(idle.clone(), free, 2, three, one).set(one + NEXT, free);
        for (memory, what) in [
            (idle.clone().set(free, MAGIC), "a free page holds a node"),
            (idle.clone().set(free + SEAL, 1), "the end of a free page is not zero"),
            (idle.clone().set(two, 0), "a node is gone"),
            (idle.clone().without(two), "a node cannot be read"),
            (idle.clone().set(two + 8, 3), "another key, under the old seal"),
            (idle.clone().set(two + SEAL, 0), "no seal"),
            (idle.clone().set(one + NEXT, hole), "the next node cannot be read"),
            (idle.clone().set(one + NEXT, three), "a node was left out"),
            (idle.clone().set(three + PREVIOUS, one), "a node was left out on the way back"),
            (idle.clone().set(three + NEXT, one), "a ring without its head"),
            (linked.clone(), "both places are used, and no node moves"),
            (linked.clone().row(0x1000, &[BUILDING, two, free, 9]), "linked before it was built"),
            (linked.row(0x1000, &[RELEASING, two, free, 9]), "released before it was linked"),
            (
                idle.clone().row(0x1000, &[LINKING, two, hole, 9]).set(three + PREVIOUS, hole),
                "linked backwards first",
            ),
            (idle.row(0x1000, &[4, two, free, 9]), "no such phase"),
        ] {
            assert!(LIST.check(&memory).is_err(), "{what}");
        }
    }
}

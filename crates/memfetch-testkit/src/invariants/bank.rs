//! The role `bank`: transfers between accounts on pages of their own, whose sum never changes.

use memfetch::Memory;

use super::{Invariant, Judgement, PAGE, Violation, hold, word, words};
use crate::Target;

/// What each account has at first.
pub const OPENING: u64 = 1 << 20;

/// Words of a journal: whether a transfer is under way ([`UNDER_WAY`]), from which account to which (their addresses),
/// what these had before, the amount, and how many transfers are done. All but the first are written before a transfer
/// is under way; then the balance that shrinks, then the one that grows.
pub const JOURNAL: usize = 7;

/// The first word of a journal while a transfer is under way; else it is zero.
pub const UNDER_WAY: u64 = 1;

/// Accounts and journals, each the first word or words of a page.
#[derive(Clone, Copy, Debug)]
pub struct Bank {
    /// Where the first account is.
    pub start: u64,
    /// How many there are; number `n` belongs to thread `n % threads`, unless there is a lock.
    pub accounts: u64,
    /// Where the first journal is.
    pub journals: u64,
    /// How many threads make transfers.
    pub threads: u64,
    /// The lock that all take for a transfer, where they share the accounts: the number of the thread that holds it,
    /// counted from 1, or zero.
    pub lock: Option<u64>,
}

impl Bank {
    /// By the facts of a target.
    #[must_use]
    pub fn of(target: &Target) -> Self {
        Self {
            start: target.number("start"),
            accounts: target.number("accounts"),
            journals: target.number("journals"),
            threads: target.number("threads"),
            lock: Some(target.number("lock")).filter(|lock| *lock != 0),
        }
    }

    /// The account at this address has its number.
    fn account(&self, at: u64, thread: u64) -> Result<u64, Violation> {
        let number = at.wrapping_sub(self.start) / PAGE;
        hold!(
            at.is_multiple_of(PAGE) && at >= self.start && number < self.accounts,
            "thread {thread}: no account is at {at:#x}"
        );
        let own = self.lock.is_some() || number % self.threads == thread;
        hold!(own, "thread {thread}: account {number} is not its own");
        Ok(number)
    }
}

impl Invariant for Bank {
    fn check(&self, memory: &dyn Memory) -> Result<Judgement, Violation> {
        let mut balances = Vec::new();
        for number in 0..self.accounts {
            balances.push(word(memory, self.start + number * PAGE)?);
        }
        let holder = self.lock.map(|lock| word(memory, lock)).transpose()?;
        let mut progress = 0_u64;
        for thread in 0..self.threads {
            let [phase, from, to, had, other_had, amount, done] =
                words::<JOURNAL>(memory, self.journals + thread * PAGE)?;
            progress = progress.wrapping_add(done);
            hold!(phase == 0 || phase == UNDER_WAY, "thread {thread}: its journal says {phase}");
            if phase == 0 {
                continue;
            }
            hold!(
                holder.is_none_or(|holder| holder == thread + 1),
                "thread {thread} makes a transfer, and {holder:?} holds the lock"
            );
            let (from, to) = (self.account(from, thread)?, self.account(to, thread)?);
            let (now, other_now) = (*balance(&mut balances, from), *balance(&mut balances, to));
            let (less, more) = (had.wrapping_sub(amount), other_had.wrapping_add(amount));
            let states = [(had, other_had), (less, other_had), (less, more)];
            hold!(
                from != to && amount <= had && states.contains(&(now, other_now)),
                "thread {thread} transfers {amount} from {from} with {had} to {to} with {other_had}: \
                 these have {now} and {other_now}"
            );
            *balance(&mut balances, from) = had;
            *balance(&mut balances, to) = other_had;
        }
        // Those that share no account with others keep a sum each.
        let purses = if self.lock.is_some() { 1 } else { self.threads };
        for purse in 0..purses {
            let own = (0..self.accounts).filter(|number| number % purses == purse);
            let has =
                own.clone().fold(0_u64, |sum, number| sum.wrapping_add(*balance(&mut balances, number)));
            let should = own.count() as u64 * OPENING;
            hold!(has == should, "accounts {purse} of {purses} have {has}, which should be {should}");
        }
        Ok(Judgement::complete(progress))
    }
}

/// The balance of an account that exists.
fn balance(balances: &mut [u64], number: u64) -> &mut u64 {
    let number = usize::try_from(number).expect("a number of an account");
    balances.get_mut(number).expect("an account that exists")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::tests::Words;

    const BANK: Bank = Bank { start: 0x10000, accounts: 4, journals: 0x20000, threads: 2, lock: None };
    const LOCKED: Bank = Bank { lock: Some(0x30000), ..BANK };

    fn memory(balances: [u64; 4], first: [u64; JOURNAL], holder: u64) -> Words {
        let accounts = (0..).zip(balances);
        let memory = accounts.fold(Words::new(), |memory, (number, balance)| {
            memory.set(0x10000 + number * PAGE, OPENING.wrapping_add(balance))
        });
        memory.row(0x20000, &first).row(0x21000, &[0, 0, 0, 0, 0, 0, 3]).set(0x30000, holder)
    }

    /// A journal of 10 from account 0 to account 2.
    const TEN: [u64; JOURNAL] = [UNDER_WAY, 0x10000, 0x12000, OPENING, OPENING, 10, 4];
    const NOTHING: [u64; JOURNAL] = [0; JOURNAL];

    const fn minus(amount: u64) -> u64 {
        0_u64.wrapping_sub(amount)
    }

    #[test]
    fn each_instant_of_a_transfer_holds() {
        for balances in [[0, 0, 0, 0], [minus(10), 0, 0, 0], [minus(10), 0, 10, 0]] {
            assert_eq!(BANK.check(&memory(balances, TEN, 0)), Ok(Judgement::complete(7)));
            assert_eq!(LOCKED.check(&memory(balances, TEN, 1)), Ok(Judgement::complete(7)));
        }
        assert!(BANK.check(&memory([minus(10), 5, 10, minus(5)], NOTHING, 0)).is_ok());
        assert!(LOCKED.check(&memory([minus(10), 10, 0, 0], NOTHING, 2)).is_ok());
    }

    #[test]
    fn torn_transfers_are_found() {
        for balances in [[0, 0, 10, 0], [minus(10), 0, 0, 0], [minus(10), 10, 0, 0]] {
            assert!(BANK.check(&memory(balances, NOTHING, 0)).is_err(), "{balances:?}");
        }
        for balances in [[0, 0, 10, 0], [minus(9), 0, 10, 0], [minus(10), 1, 10, 0]] {
            assert!(BANK.check(&memory(balances, TEN, 0)).is_err(), "{balances:?}");
        }
        for journal in [
            [2, 0x10000, 0x12000, OPENING, OPENING, 10, 4],
            [UNDER_WAY, 0x10000, 0x14000, OPENING, OPENING, 10, 4],
            [UNDER_WAY, 0x10000, 0x11000, OPENING, OPENING, 10, 4],
            [UNDER_WAY, 0x10000, 0x12000, OPENING, OPENING - 1, 10, 4],
        ] {
            assert!(BANK.check(&memory([0; 4], journal, 0)).is_err(), "{journal:x?}");
        }
        assert!(LOCKED.check(&memory([0; 4], TEN, 2)).is_err(), "another holds the lock");
        assert!(LOCKED.check(&memory([0; 4], TEN, 0)).is_err(), "nobody holds the lock");
        assert!(BANK.check(&memory([0; 4], NOTHING, 0).without(0x13000)).is_err());
    }
}

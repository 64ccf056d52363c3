//! A running process as a source.
//!
//! [`Process`] names one process for good: a recycled number never makes it another. It reads by the way that
//! harms the target least, which page states decide: never-touched anonymous memory is known to be zero and is
//! not read, clean file pages come from their file, pages of shared memory that the process has not entered into
//! its own page table come from the memory object behind them, and pages that it shares with others since a fork
//! are read so that they stay shared.
//!
//! Every kernel call that takes the target's locks runs on a worker thread that can be given up on, so that a
//! stuck target gives an error in time ([`Process::with_time_limit`]).

mod facts;
mod files;
mod find;
mod identity;
mod memory;
mod page_states;
mod paging;
mod process;
mod reader;
mod refusal;
mod scan;
mod stat;
mod status;
mod target;
mod threads;
pub(crate) mod track;
mod vdso;
mod worker;

pub use facts::ProcessFacts;
pub use process::Process;

pub mod stop;

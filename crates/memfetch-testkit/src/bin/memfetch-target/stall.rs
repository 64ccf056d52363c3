//! The role `stall`: memory that is written at some rate, and a meter of how long the process stood still.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use memfetch_testkit::invariants::next_random;

use crate::memory::{PAGE, PRIVATE, READ_WRITE, advise, map, unmap};
use crate::{Role, argument, fact, serve, unknown};

/// The roles of this module.
pub const ROLES: &[Role] = &[("stall", stall)];

/// How many pages are hot.
const HOT: u64 = 1024;

/// How many pages the meter itself writes in turn, which lie behind the others.
const METERED: usize = 256;

/// Turns of the meter since it was last asked.
static TURNS: AtomicU64 = AtomicU64::new(0);
/// Writes to pages since then.
static WRITES: AtomicU64 = AtomicU64::new(0);

/// The longest turn of the meter.
#[derive(Clone, Copy)]
struct Longest {
    took: Duration,
    /// For how long of it the thread was ready to run and had no processor.
    waited: Duration,
    /// The step that took most of it.
    step: &'static str,
}

const NONE: Longest = Longest { took: Duration::ZERO, waited: Duration::ZERO, step: "none" };

/// What it was since the meter was last asked, by its time less the wait for a processor.
static LONGEST: Mutex<Longest> = Mutex::new(NONE);

/// `stall [MIB [SIZE [LOAD [RATE]]]]`: so much private memory, `small` or `huge` the pages of its page table, filled
/// and then written by a thread as the load says: `idle` never, `random` a page anywhere, `hot` one of 1024 pages; so
/// many pages a second, or 0 for as many as it can. A meter thread reads the clock, writes a page of its own 256, and
/// maps, writes and unmaps another, over and over.
///
/// The order `stall` answers of the time since the last one: the longest turn of the meter in microseconds, how many
/// turns it made a second, how many microseconds of the longest it waited for a processor, the step of it that took
/// longest (`clock`, `write` or `map`), and how many pages the load has written a second. The longest is that which is
/// longest without the wait, which tells more of the machine than of who stopped this process.
fn stall(arguments: &[String]) {
    let bytes = argument(arguments, 0, 256_usize) << 20;
    let huge = argument(arguments, 1, "small".to_owned()) == "huge";
    let load = argument(arguments, 2, "random".to_owned());
    let rate = argument(arguments, 3, 0_u64);
    let start = map(bytes + (2 << 20), READ_WRITE, PRIVATE).next_multiple_of(2 << 20);
    advise(start, bytes, if huge { libc::MADV_HUGEPAGE } else { libc::MADV_NOHUGEPAGE });
    let own = map(METERED * PAGE, READ_WRITE, PRIVATE);
    advise(own, METERED * PAGE, libc::MADV_NOHUGEPAGE);
    for at in (start..start + bytes).step_by(PAGE).chain((own..own + METERED * PAGE).step_by(PAGE)) {
        touch(at, at as u64);
    }
    fact("start", format_args!("{start:#x}"));
    fact("bytes", bytes);
    let pages = match load.as_str() {
        "idle" => None,
        "hot" => Some(HOT.min((bytes / PAGE) as u64)),
        "random" => Some((bytes / PAGE) as u64),
        other => {
            eprintln!("memfetch-target: no load {other:?}; there are idle, random, hot");
            std::process::exit(2);
        }
    };
    if let Some(pages) = pages {
        std::thread::spawn(move || write_at_rate(start, pages, rate));
    }
    std::thread::spawn(move || meter(own));
    while TURNS.load(Ordering::Relaxed) < 1000 {
        std::thread::yield_now();
    }
    take();
    let mut asked = Instant::now();
    serve(|order| match order {
        "stall" => {
            let (longest, turns, writes) = take();
            let seconds = std::mem::replace(&mut asked, Instant::now()).elapsed().as_secs_f64();
            let a_second = |count: u64| count as f64 / seconds;
            format!(
                "{} {:.0} {} {} {:.0}",
                longest.took.as_micros(),
                a_second(turns),
                longest.waited.as_micros(),
                longest.step,
                a_second(writes)
            )
        }
        _ => unknown(order),
    });
}

fn take() -> (Longest, u64, u64) {
    let longest = std::mem::replace(&mut *LONGEST.lock().unwrap_or_else(PoisonError::into_inner), NONE);
    (longest, TURNS.swap(0, Ordering::Relaxed), WRITES.swap(0, Ordering::Relaxed))
}

fn touch(at: usize, value: u64) {
    // SAFETY: the caller mapped the page writable, and nothing else refers to it.
    unsafe { std::ptr::write_volatile(std::ptr::with_exposed_provenance_mut(at), value) };
}

/// Writes pages at a rate: what is due each half millisecond at once, and nothing of what a stall left undone, since
/// those who write for a client do not catch up either.
fn write_at_rate(start: usize, pages: u64, rate: u64) {
    let period = Duration::from_micros(500);
    let (mut random, mut due, mut owed) = (1, Instant::now(), 0.0);
    loop {
        let mut turns = 256;
        if rate > 0 {
            due += period;
            match due.checked_duration_since(Instant::now()) {
                Some(early) => std::thread::sleep(early),
                None => due = Instant::now(),
            }
            owed += rate as f64 * period.as_secs_f64();
            turns = owed as u64;
            owed -= turns as f64;
        }
        for _ in 0..turns {
            random = next_random(random);
            touch(start + (random % pages) as usize * PAGE, random);
        }
        WRITES.fetch_add(turns, Ordering::Relaxed);
    }
}

/// Makes turns for ever, each of which begins where the last one ended.
fn meter(own: usize) {
    let waits = File::open("/proc/thread-self/schedstat").ok();
    let waited = || waits.as_ref().and_then(waited).unwrap_or_default();
    let mut page = 0;
    let (mut begun, mut had_waited) = (Instant::now(), waited());
    loop {
        let clock = Instant::now();
        touch(own + page * PAGE, page as u64);
        page = (page + 1) % METERED;
        let written = Instant::now();
        let at = map(PAGE, READ_WRITE, PRIVATE);
        touch(at, 1);
        unmap(at, PAGE);
        let ended = Instant::now();
        // Asked behind the clock: who takes the processor away does so when the call returns, which the next turn's
        // answer counts.
        let has_waited = waited();
        let steps = [("clock", clock - begun), ("write", written - clock), ("map", ended - written)];
        let step = steps.iter().max_by_key(|(_, took)| *took).map_or("none", |(step, _)| step);
        let turn = Longest { took: ended - begun, waited: has_waited.saturating_sub(had_waited), step };
        (begun, had_waited) = (ended, has_waited);
        let without = |turn: &Longest| turn.took.saturating_sub(turn.waited);
        TURNS.fetch_add(1, Ordering::Relaxed);
        let mut longest = LONGEST.lock().unwrap_or_else(PoisonError::into_inner);
        if without(&turn) > without(&longest) {
            *longest = turn;
        }
    }
}

/// For how long this thread was ready to run and did not (proc(5), `schedstat`).
fn waited(file: &File) -> Option<Duration> {
    let mut text = [0; 64];
    let read = file.read_at(&mut text, 0).ok()?;
    let text = std::str::from_utf8(text.get(..read)?).ok()?;
    text.split_whitespace().nth(1)?.parse().ok().map(Duration::from_nanos)
}

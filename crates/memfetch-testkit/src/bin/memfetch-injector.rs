//! Has a process make a userfaultfd, and is killed meanwhile: `memfetch-injector PID [STEP]`.
//!
//! Prints `up` when it starts, and, unless it died before that step, `STEPS RESULT` with the number of steps. Without a step it goes on until somebody else kills it.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use memfetch::live::stop::{FreezeOptions, freeze};

fn main() {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse::<u32>().expect("a number"));
    let pid = numbers.next().expect("a process").cast_signed();
    let last = numbers.next().map(|step| step as usize);
    println!("up");
    std::io::stdout().flush().expect("the test listens");
    loop {
        let mut frozen = freeze(pid, &FreezeOptions::default()).expect("it can be stopped");
        let steps = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&steps);
        let result = frozen.userfaultfd_observed(move |_| {
            if Some(counted.fetch_add(1, Ordering::SeqCst)) == last {
                // SAFETY: kill and getpid take numbers only.
                unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
                loop {
                    std::thread::park();
                }
            }
        });
        let _ = frozen.resume();
        if last.is_some() {
            println!("{} {result:?}", steps.load(Ordering::SeqCst));
            return;
        }
        result.expect("it is made");
    }
}

//! Roles that are about faults, and what becomes of their signals.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;

use crate::memory::{PAGE, map};
use crate::{Role, argument, fact, serve, unknown};

/// The roles of this module.
pub const ROLES: &[Role] = &[("faults", faults), ("fault-together", fault_together)];

/// The page that may not be read, and how often its handler and that of SIGUSR1 ran.
static PLACE: AtomicUsize = AtomicUsize::new(0);
static HANDLED: AtomicUsize = AtomicUsize::new(0);
static NOTED: AtomicUsize = AtomicUsize::new(0);

extern "C" fn mend(_: i32) {
    HANDLED.fetch_add(1, Ordering::SeqCst);
    let start = PLACE.load(Ordering::SeqCst) as *mut libc::c_void;
    // SAFETY: the page is this role's own; mprotect may be called in a handler.
    unsafe { libc::mprotect(start, PAGE, libc::PROT_READ) };
}

extern "C" fn note(_: i32) {
    NOTED.fetch_add(1, Ordering::SeqCst);
}

/// `faults [handled]`: a second thread, `worker`, that reads the page at `place`, which it may not, on the order
/// `read`; with `handled` a handler lets it. `raise N` has it raise that signal, `born` has a thread that it bears take
/// its work over, and `count` tells how often the handlers of SIGSEGV and SIGUSR1 ran. SIGPIPE is ignored.
fn faults(arguments: &[String]) {
    let place = map(PAGE, libc::PROT_NONE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    PLACE.store(place, Ordering::SeqCst);
    fact("place", format_args!("{place:#x}"));
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the handlers do only what a handler may; the limit is read during the call.
    unsafe {
        libc::setrlimit(libc::RLIMIT_CORE, &raw const none);
        libc::signal(libc::SIGUSR1, note as *const () as usize);
        libc::signal(libc::SIGSEGV, libc::SIG_DFL);
        if arguments.first().is_some_and(|word| word == "handled") {
            libc::signal(libc::SIGSEGV, mend as *const () as usize);
        }
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
    }
    let (orders, inbox) = channel::<String>();
    let (outbox, answers) = channel();
    let worker = || std::thread::Builder::new().name("worker".to_owned());
    let _ = worker().spawn(move || {
        let mut inbox = Some(inbox);
        work(&mut inbox);
        // SAFETY: gettid takes nothing.
        let _ = outbox.send(unsafe { libc::gettid() });
        let _ = worker().spawn(move || {
            // SAFETY: as above.
            let _ = outbox.send(unsafe { libc::gettid() });
            work(&mut inbox);
        });
        std::thread::park();
    });
    serve(|order| match order {
        "count" => format!("{} {}", HANDLED.load(Ordering::SeqCst), NOTED.load(Ordering::SeqCst)),
        "born" => {
            let _ = orders.send("born".to_owned());
            let _ = answers.recv();
            answers.recv().map_or_else(|_| "none".to_owned(), |tid| tid.to_string())
        }
        _ if order == "read" || order.starts_with("raise ") => {
            let _ = orders.send(order.to_owned());
            "told".to_owned()
        }
        _ => unknown(order),
    })
}

/// `fault-together COUNT`: so many threads that write through a null pointer at the order `go`, all at once.
fn fault_together(arguments: &[String]) {
    static GO: AtomicBool = AtomicBool::new(false);
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the limit is read during the call, the other takes numbers.
    unsafe {
        libc::setrlimit(libc::RLIMIT_CORE, &raw const none);
        libc::signal(libc::SIGSEGV, libc::SIG_DFL);
    }
    for _ in 0..argument(arguments, 0, 8_usize) {
        std::thread::spawn(|| {
            while !GO.load(Ordering::SeqCst) {
                std::hint::spin_loop();
            }
            // SAFETY: nothing is written: the kernel keeps the lowest page unmapped. That is what this is about.
            unsafe { std::arch::asm!("mov byte ptr [{0}], 0", in(reg) 0_usize) };
        });
    }
    serve(|order| match order {
        "go" => {
            GO.store(true, Ordering::SeqCst);
            "told".to_owned()
        }
        _ => unknown(order),
    })
}

/// Follows orders until another one is to take over.
fn work(inbox: &mut Option<std::sync::mpsc::Receiver<String>>) {
    let Some(orders) = inbox else { return };
    while let Ok(order) = orders.recv() {
        match order.strip_prefix("raise ").and_then(|number| number.parse().ok()) {
            // SAFETY: raise takes a number.
            Some(signal) => drop(unsafe { libc::raise(signal) }),
            None if order == "born" => return,
            None => {
                let place = PLACE.load(Ordering::SeqCst) as *const u8;
                // SAFETY: the page is mapped. That it may not be read is what this is about.
                let _ = unsafe { place.read_volatile() };
            }
        }
    }
}

//! What is in swap goes back there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use memfetch_testkit::Swap;
use memfetch_testkit::target::status_of;

use super::*;

/// Looks at the RSS of a process as often as it can until it is asked for the largest.
struct Watch {
    stop: Arc<AtomicBool>,
    most: Arc<AtomicU64>,
    thread: Option<std::thread::JoinHandle<u64>>,
}

impl Watch {
    fn over(pid: i32) -> Self {
        let (stop, most) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, highest) = (Arc::clone(&stop), Arc::clone(&most));
        let thread = std::thread::spawn(move || {
            let mut looks = 0;
            while !stopped.load(Ordering::Relaxed) {
                highest.fetch_max(status_of(pid, "VmRSS"), Ordering::Relaxed);
                looks += 1;
                std::thread::sleep(Duration::from_micros(200));
            }
            looks
        });
        Self { stop, most, thread: Some(thread) }
    }

    fn most(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let looks = self.thread.take().unwrap().join().unwrap();
        assert!(looks > 10, "only {looks} looks");
        self.most.load(Ordering::Relaxed)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

#[test]
fn swap_stays_swap() {
    let _alone = alone();
    let what = "a snapshot of a process in swap";
    let swap = Swap::new(320);
    if !needs(what, "root, for a swap file", swap.is_some()) {
        return;
    }
    let mut target = Target::spawn("swapped", &["256"]);
    if !needs(what, "memory that can be paged out", target.status("VmSwap") > 200 << 10) {
        return;
    }
    let span = span_of(&target);
    for mode in MODES {
        settle(&mut target);
        let before = Footprint::of(target.pid());
        let rss = target.status("VmRSS");
        let watch = Watch::over(target.pid());
        let taken = snap(target.pid(), &["--mode", mode]);
        let above = watch.most().saturating_sub(rss);
        taken.print(&format!("256 MiB in swap, {mode}"));
        println!("  its RSS rose by {above} kB");
        assert!(above <= 16 << 10, "{mode}: its RSS rose by {above} kB");
        before.assert_near(&Footprint::of(target.pid()), 4 << 10, mode);
        assert_eq!(taken.report["outcome"]["remarks"].as_array().map(Vec::len), Some(0), "{}", taken.said);
        assert_words(&taken.image(), span, |at| at);
    }
}

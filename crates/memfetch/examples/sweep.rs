//! How fast a process' memory can be read, and how fast with a search: `cargo run --release --example sweep PID [TEXT]`.
//!
//! Both go through the same calls in the same chunks on the same number of threads; the first does nothing with the bytes.

use std::hint::black_box;
use std::ops::ControlFlow;
use std::time::Instant;

use memfetch::Process;
use memfetch::query::find::Search;
use memfetch::query::sweep::{Scope, Survey, Sweep};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let process = Process::find(&arguments.next().ok_or("whose memory?")?)?;
    let text = arguments.next().unwrap_or_else(|| "a text that is nowhere".to_owned());
    let threads: usize = arguments.next().map_or(Ok(2), |count| count.parse())?;
    for _ in 0..5 {
        let begun = Instant::now();
        let survey = Survey::of(&process, &Scope::default())?;
        let each = |_: &_, ()| ControlFlow::Continue(());
        let swept = Sweep::new().threads(threads).run(
            &process,
            survey,
            |chunk| {
                black_box(chunk);
            },
            each,
        );
        swept.result?;
        let read = begun.elapsed();
        let begun = Instant::now();
        let found = Search::text(&text).threads(threads).over(&process)?;
        let searched = begun.elapsed();
        let speed = |time: std::time::Duration| swept.coverage.read_bytes as f64 / time.as_secs_f64() / 1e9;
        println!(
            "read {:.2} GB/s, searched {:.2} GB/s ({:.0} %), {} hits in {} MiB",
            speed(read),
            speed(searched),
            100.0 * read.as_secs_f64() / searched.as_secs_f64(),
            found.hits.len(),
            found.coverage.read_bytes >> 20
        );
    }
    Ok(())
}

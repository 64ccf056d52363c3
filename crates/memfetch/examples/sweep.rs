//! How fast a process' memory can be read: `cargo run --release --example sweep PID [THREADS]`.
//!
//! It goes through the same calls in the same chunks as a search does, and does nothing with the bytes: what a search can
//! reach at the most.

use std::hint::black_box;
use std::ops::ControlFlow;
use std::time::Instant;

use memfetch::Process;
use memfetch::query::sweep::{Chunk, Scope, Survey, Sweep};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let process = Process::find(&arguments.next().ok_or("whose memory?")?)?;
    let mut sweep = Sweep::new();
    if let Some(threads) = arguments.next() {
        sweep = sweep.threads(threads.parse()?);
    }
    let begun = Instant::now();
    let survey = Survey::of(&process, &Scope::default())?;
    let look = |chunk: &Chunk| {
        black_box(chunk);
    };
    let swept = sweep.run(&process, survey, look, |_, ()| ControlFlow::Continue(()));
    swept.result?;
    let bytes = swept.coverage.read_bytes;
    let speed = bytes as f64 / begun.elapsed().as_secs_f64() / 1e9;
    println!("{} MiB at {speed:.2} GB/s", bytes >> 20);
    Ok(())
}

//! Stops a process over and over, until it is killed: `memfetch-freezer PID HOLD_MICROSECONDS [ROUNDS]`.
//!
//! Prints `up` when it starts, `held` when it holds the process for the first time, and, if it is not killed, `done` or the reason why it cannot stop the process.

use std::io::Write;
use std::time::Duration;

use memfetch::live::stop::{FreezeOptions, freeze};

fn main() {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse::<u32>().expect("a number"));
    let pid = numbers.next().expect("a process").cast_signed();
    let hold = Duration::from_micros(numbers.next().unwrap_or(0).into());
    let rounds = numbers.next().unwrap_or(u32::MAX);
    println!("up");
    std::io::stdout().flush().expect("the test listens");
    for round in 0..rounds {
        match freeze(pid, &FreezeOptions::default()) {
            Ok(frozen) => {
                if round == 0 {
                    let _ = writeln!(std::io::stdout(), "held");
                    let _ = std::io::stdout().flush();
                }
                std::thread::sleep(hold);
                let _ = frozen.resume();
            }
            Err(error) => {
                println!("{error:?}");
                return;
            }
        }
    }
    println!("done");
}

//! A program to take snapshots of. `memfetch-target ROLE [ARGUMENT...]` brings itself into the state that the
//! role is named for, prints facts (`key=value`) and `ready`, and then follows orders from standard input.
//!
//! Roles live in modules by what they are about; each is a function `fn(&[String])` that ends in [`serve`].

mod blocked;
mod compute;
mod faults;
mod invariants;
mod measure;
mod memory;
mod odd;
mod registers;
mod sequences;
mod stall;
mod storm;
mod threads;
mod tracked;
mod unwilling;

use std::io::{BufRead, Write};

/// A role: its name and what it does.
type Role = (&'static str, fn(&[String]));

fn main() {
    let mut arguments = std::env::args().skip(1);
    let role = arguments.next().unwrap_or_default();
    let rest: Vec<String> = arguments.collect();
    let modules = [
        memory::ROLES,
        odd::ROLES,
        registers::ROLES,
        blocked::ROLES,
        compute::ROLES,
        sequences::ROLES,
        storm::ROLES,
        threads::ROLES,
        unwilling::ROLES,
        faults::ROLES,
        measure::ROLES,
        invariants::ROLES,
        stall::ROLES,
        tracked::ROLES,
    ];
    let roles: Vec<&Role> = modules.into_iter().flatten().collect();
    match roles.iter().find(|(name, _)| *name == role) {
        Some((_, run)) => run(&rest),
        None => {
            let names: Vec<_> = roles.iter().map(|(name, _)| *name).collect();
            eprintln!("memfetch-target: no role {role:?}; there are {}", names.join(", "));
            std::process::exit(2);
        }
    }
}

/// Prints a fact.
pub fn fact(key: &str, value: impl std::fmt::Display) {
    println!("{key}={value}");
}

/// Says that the role's state is reached, then answers orders until standard input ends, and exits.
///
/// `exit` ends the process at once; every other order goes to `order`, whose result is the answer.
pub fn serve(mut order: impl FnMut(&str) -> String) -> ! {
    println!("ready");
    std::io::stdout().flush().expect("the test listens");
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        if line == "exit" {
            break;
        }
        println!("{}", order(&line));
    }
    std::process::exit(0);
}

/// The answer to an order that a role does not know.
pub fn unknown(order: &str) -> String {
    format!("unknown order {order:?}")
}

/// The argument at `index`, or the default.
pub fn argument<T: std::str::FromStr>(arguments: &[String], index: usize, default: T) -> T {
    arguments.get(index).map_or(default, |text| {
        text.parse().unwrap_or_else(|_| {
            eprintln!("memfetch-target: bad argument {text:?}");
            std::process::exit(2);
        })
    })
}

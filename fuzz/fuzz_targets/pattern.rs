//! Fuzzes `entry::pattern`.
#![no_main]

#[path = "../entry.rs"]
#[allow(dead_code, reason = "each target has its own entry")]
mod entry;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| entry::pattern(bytes));

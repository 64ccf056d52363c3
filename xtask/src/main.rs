//! `cargo xtask COMMAND`: what CI runs and what a developer runs are the same.

mod bench;
mod benchmarks;
mod check;
mod docs;
mod golden;
mod kernels;
mod pauses;
mod rules;
mod run;
mod tools;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

const USAGE: &str = "\
cargo xtask test [--kernels]
                            everything that must hold: format, lints, import rules, tests, documentation;
                            and the tests on other kernels
cargo xtask bench [NAME]... benchmarks side by side with other programs, into docs/benchmarks.md
cargo xtask kernels [6.1|6.12|NAME]...
                            tests on other kernels than this one, in QEMU: all of them, or on one kernel,
                            or those of a name
cargo xtask docs            manual pages and completions, into target/docs
cargo xtask golden          what every command says of every committed core, into the golden files of its test
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let root = root();
    let done = match arguments.split_first() {
        Some((command, [])) if command == "test" => check::everything(&root, false),
        Some((command, [flag])) if command == "test" && flag == "--kernels" => check::everything(&root, true),
        Some((command, [])) if command == "docs" => docs::write(&root),
        Some((command, [])) if command == "golden" => golden::write(&root),
        Some((command, names)) if command == "kernels" => kernels::command(&root, names),
        Some((command, names)) if command == "bench" => bench::compare(&root, names),
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("xtask: {message}");
            ExitCode::FAILURE
        }
    }
}

/// The folder of the workspace.
fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

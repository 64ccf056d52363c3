//! The binary `memfetch`: arguments, then a plan that resolves them, then one call of the library, then a report.
//!
//! Standard output carries data, standard error all else.

mod args;
mod changes;
mod commands;
mod coverage;
mod ending;
mod failure;
mod findings;
mod generate;
mod hints;
mod json;
mod map_table;
mod places;
mod plan;
mod progress;
mod quantity;
mod report;
mod rule_files;
mod rule_report;
mod source;
mod stdout;
mod summary;
mod template;
mod text;
mod views;

use std::process::ExitCode;

use args::{Args, Command};
use ending::Ending;
use failure::Failure;

fn main() -> ExitCode {
    let words = std::env::args_os();
    let done = if std::env::args_os().next().is_some_and(|name| args::gcore::is_called(&name)) {
        commands::gcore::run(args::gcore::parse(words.skip(1)).as_ref())
    } else {
        run(args::parse(words))
    };
    done.unwrap_or_else(|failure| report::report(&failure)).into()
}

/// Does what the arguments ask for.
fn run(args: Args) -> Result<Ending, Failure> {
    if let Some(shell) = args.completions {
        return generate::completions(shell);
    }
    if let Some(directory) = args.man {
        return generate::man(directory.as_deref());
    }
    match args.command {
        Some(Command::Snap(args)) => commands::snap::run(&plan::Snap::new(args)?),
        Some(Command::Find(args)) => commands::find::run(&plan::Find::new(args)?),
        Some(Command::Diff(args)) => commands::diff::run(&plan::Diff::new(args)?),
        Some(Command::Maps(args)) => commands::maps::run(&plan::Maps::new(args)),
        Some(Command::Recv(args)) => commands::recv::run(&plan::Recv::new(args)),
        Some(Command::Read(args)) => commands::read::run(&plan::Read::new(args)?),
        Some(Command::Strings(args)) => commands::strings::run(&plan::Strings::new(args)),
        Some(Command::Verify(args)) => commands::verify::run(&plan::Verify::new(args)),
        None => generate::help(),
    }
}

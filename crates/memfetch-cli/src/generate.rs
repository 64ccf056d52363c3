//! What is made from the definition of the arguments: completions, manual pages, help.

use std::io::{self, Write};
use std::path::Path;

use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;

use crate::args::Args;
use crate::ending::Ending;
use crate::failure::Failure;

/// Prints the completions of a shell.
pub fn completions(shell: Shell) -> Result<Ending, Failure> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "memfetch", &mut text);
    io::stdout().write_all(&text)?;
    Ok(Ending::Done)
}

/// Prints the manual pages one after another, or writes each into a file in `directory`.
pub fn man(directory: Option<&Path>) -> Result<Ending, Failure> {
    for (name, page) in pages()? {
        match directory {
            None => io::stdout().write_all(&page)?,
            Some(directory) => {
                let path = directory.join(format!("{name}.1"));
                std::fs::write(&path, page).map_err(|source| Failure::File { path, source })?;
            }
        }
    }
    Ok(Ending::Done)
}

/// Prints the help on standard error: nothing was asked for.
pub fn help() -> Result<Ending, Failure> {
    // Where even this cannot be written there is nobody to tell.
    let _ = write!(io::stderr(), "{}", Args::command().render_help());
    Ok(Ending::Error)
}

/// The page of memfetch, then that of each command, by their names.
fn pages() -> io::Result<Vec<(String, Vec<u8>)>> {
    // The long version names the kernel that runs: nothing for a page that is handed on.
    let mut root = Args::command().disable_help_subcommand(true).long_version(env!("CARGO_PKG_VERSION"));
    root.build();
    let mut pages = vec![page("memfetch".to_owned(), root.clone())?];
    for command in root.get_subcommands() {
        let name = format!("memfetch-{}", command.get_name());
        pages.push(page(name, command.clone().version(env!("CARGO_PKG_VERSION")))?);
    }
    Ok(pages)
}

fn page(name: String, command: Command) -> io::Result<(String, Vec<u8>)> {
    let mut text = Vec::new();
    Man::new(command.display_name(name.clone())).title(name.to_uppercase()).render(&mut text)?;
    Ok((name, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_with_examples() {
        let pages = pages().unwrap();
        let names: Vec<_> = pages.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["memfetch", "memfetch-snap", "memfetch-maps", "memfetch-diff", "memfetch-verify"]);
        for (name, page) in &pages {
            let text = String::from_utf8(page.clone()).unwrap();
            assert!(text.contains(".TH ") && text.contains("Examples:"), "{name}: {text}");
        }
    }

    #[test]
    fn completions_know_the_commands() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Args::command(), "memfetch", &mut text);
            let text = String::from_utf8(text).unwrap();
            assert!(["snap", "maps", "diff", "verify"].iter().all(|name| text.contains(name)), "{shell}");
        }
    }
}

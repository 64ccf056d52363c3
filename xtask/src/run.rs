//! Running programs.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Cargo, the one that runs this.
pub fn cargo(root: &Path, arguments: &[&str]) -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.args(arguments).current_dir(root);
    command
}

/// Runs a program; what it prints is seen. An error where it fails.
pub fn must(command: &mut Command) -> Result<(), String> {
    let shown = show(command);
    eprintln!("+ {shown}");
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("`{shown}`: {status}")),
        Err(error) => Err(format!("`{shown}`: {error}")),
    }
}

/// Runs a program and returns what it printed on standard output; what it prints elsewhere is seen.
pub fn output(command: &mut Command) -> Result<String, String> {
    let shown = show(command);
    command.stderr(std::process::Stdio::inherit());
    let output = command.output().map_err(|error| format!("`{shown}`: {error}"))?;
    if !output.status.success() {
        return Err(format!("`{shown}`: {}", output.status));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The command line, without its folder.
pub fn show(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let words = std::iter::once(program).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// Where a program lies, looked for in `first` and then by `PATH`.
pub fn find(program: &str, first: &Path) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(first.to_owned()).chain(std::env::split_paths(&path));
    folders.map(|folder| folder.join(program)).find(|candidate| candidate.is_file())
}

/// `PATH` with a folder in front.
pub fn path_with(folder: &Path) -> OsString {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(folder.to_owned()).chain(std::env::split_paths(&path));
    std::env::join_paths(folders).unwrap_or(path.clone())
}

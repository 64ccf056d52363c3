//! `cargo xtask docs`: manual pages and completions, made by the program itself.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::run::{cargo, must, output};

/// The shells, and what their completions are called.
const SHELLS: [(&str, &str); 3] =
    [("bash", "memfetch.bash"), ("zsh", "_memfetch"), ("fish", "memfetch.fish")];

/// Writes them below target/docs.
pub fn write(root: &Path) -> Result<(), String> {
    must(&mut cargo(root, &["build", "--quiet", "--release", "--package", "memfetch-cli"]))?;
    let program = root.join("target/release/memfetch");
    let folder = root.join("target/docs");
    let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
    for part in ["man1", "completions"] {
        fs::create_dir_all(folder.join(part)).map_err(failed)?;
    }
    must(Command::new(&program).arg(format!("--man={}", folder.join("man1").display())))?;
    for (shell, name) in SHELLS {
        let text = output(Command::new(&program).args(["--completions", shell]))?;
        fs::write(folder.join("completions").join(name), text).map_err(failed)?;
    }
    println!("{}", folder.display());
    Ok(())
}

//! `cargo xtask golden`: what every command says of every committed core, written anew by the test that compares it.

use std::path::Path;

use crate::run::{cargo, must};

/// Writes them below crates/memfetch-cli/tests/golden.
pub fn write(root: &Path) -> Result<(), String> {
    let test = ["test", "--quiet", "--package", "memfetch-cli", "--test", "golden"];
    must(cargo(root, &test).env("MEMFETCH_GOLDEN", "write"))?;
    println!("{}", root.join("crates/memfetch-cli/tests/golden").display());
    Ok(())
}

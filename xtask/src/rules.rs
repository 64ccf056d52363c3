//! Rules that neither the compiler nor clippy checks: who may import whom, where `unsafe` may stand, how long a
//! file may be.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Lines that a file may have. Near 500 it should be split.
const LINES: usize = 650;

/// The words that every module of the library may use.
const MODEL: [&str; 8] = ["address", "error", "maps", "memory", "region", "selector", "source", "threads"];

/// What a module of the library may import besides the model and itself.
const MAY_IMPORT: [(&str, &[&str]); 6] = [
    ("image", &[]),
    ("query", &[]),
    ("sink", &[]),
    ("live", &["memfetch_sys"]),
    ("net", &["image", "sink", "memfetch_sys"]),
    ("capture", &["live", "image", "sink", "memfetch_sys"]),
];

/// The crates in which `unsafe` may stand.
const UNSAFE: [&str; 2] = ["crates/memfetch-sys/", "crates/memfetch-testkit/"];

/// Checks all sources; the error lists what breaks a rule.
pub fn check(root: &Path) -> Result<(), String> {
    eprintln!("+ rules: imports, unsafe, length of files");
    let mut broken = Vec::new();
    let exported = exported(&read(&root.join("crates/memfetch/src/lib.rs"))?);
    for path in sources(root)? {
        let text = read(&path)?;
        let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
        broken.extend(too_long(&name, &text));
        let code = without_comments(&text);
        broken.extend(unsafe_outside(&name, &code));
        broken.extend(imports(&name, without_tests(&code), &exported));
    }
    if broken.is_empty() { Ok(()) } else { Err(format!("rules are broken:\n  {}", broken.join("\n  "))) }
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// All Rust files of the workspace's own crates.
fn sources(root: &Path) -> Result<Vec<PathBuf>, String> {
    let mut found = Vec::new();
    let mut folders = vec![root.join("crates"), root.join("xtask"), root.join("fuzz")];
    while let Some(folder) = folders.pop() {
        if !folder.is_dir() || folder.file_name().is_some_and(|name| name == "target") {
            continue;
        }
        let entries = fs::read_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        for entry in entries.filter_map(Result::ok) {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

fn too_long(name: &str, text: &str) -> Option<String> {
    let lines = text.lines().count();
    (lines > LINES).then(|| format!("{name}: {lines} lines, and {LINES} are the most"))
}

fn unsafe_outside(name: &str, code: &str) -> Option<String> {
    if UNSAFE.iter().any(|folder| name.starts_with(folder)) {
        return None;
    }
    words(code).any(|word| word == "unsafe").then(|| format!("{name}: `unsafe` belongs into memfetch-sys"))
}

/// What a file imports and may not.
fn imports(name: &str, code: &str, exported: &HashMap<String, String>) -> Vec<String> {
    let complain = |what: &str| format!("{name}: may not import `{what}`");
    if name.starts_with("crates/memfetch-sys/") {
        return words(code)
            .any(|word| word == "memfetch")
            .then(|| complain("memfetch"))
            .into_iter()
            .collect();
    }
    // Its tests may look at the kernel for themselves.
    if name.starts_with("crates/memfetch/tests/") {
        return Vec::new();
    }
    let Some(inside) = name.strip_prefix("crates/memfetch/src/") else {
        return uses_sys(code).then(|| complain("memfetch_sys")).into_iter().collect();
    };
    let module = inside.split(['/', '.']).next().unwrap_or(inside);
    if module == "lib" || inside.ends_with("tests.rs") {
        return Vec::new();
    }
    let more = MAY_IMPORT.iter().find(|(name, _)| *name == module).map_or(&[][..], |(_, more)| more);
    let allowed = |wanted: &str| wanted == module || MODEL.contains(&wanted) || more.contains(&wanted);
    let mut wanted = crate_paths(code);
    if uses_sys(code) {
        wanted.push("memfetch_sys".to_owned());
    }
    wanted.sort();
    wanted.dedup();
    let home = |item: &String| exported.get(item).unwrap_or(item).clone();
    wanted.iter().map(home).filter(|item| !allowed(item)).map(|item| complain(&item)).collect()
}

fn uses_sys(code: &str) -> bool {
    words(code).any(|word| word == "memfetch_sys")
}

/// What follows `crate::`: one name, or those of a group.
fn crate_paths(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        if code[..at].ends_with(|c: char| is_of_word(c) || c == '$') {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            None => found.extend(words(rest).next().map(str::to_owned)),
            Some(group) => found.extend(heads(group)),
        }
    }
    found
}

/// The first names in a group `a::{b, c}, d}`, whose opening brace is gone.
fn heads(group: &str) -> Vec<String> {
    let mut depth = 1;
    let mut heads = Vec::new();
    let mut head = true;
    let mut word = String::new();
    for c in group.chars() {
        if is_of_word(c) {
            word.push(c);
            continue;
        }
        if head && !word.is_empty() {
            heads.push(word.clone());
            head = false;
        }
        word.clear();
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => head = true,
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    heads
}

/// The items that the root of the library exports, and the module that each is of.
fn exported(lib: &str) -> HashMap<String, String> {
    let code = without_comments(lib);
    let mut items = HashMap::new();
    for statement in code.split(';') {
        let Some(path) = statement.trim().strip_prefix("pub use ") else { continue };
        let mut names = words(path);
        let Some(module) = names.next() else { continue };
        for item in names {
            items.insert(item.to_owned(), module.to_owned());
        }
    }
    items
}

/// The code before the tests at the end of a file: they may use anything.
fn without_tests(code: &str) -> &str {
    code.split_once("#[cfg(test)]\nmod tests").map_or(code, |(before, _)| before)
}

fn is_of_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c| !is_of_word(c)).filter(|word| !word.is_empty())
}

/// The text without comments to the end of a line, and without what stands in quotes on one line.
fn without_comments(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    for line in text.lines() {
        let mut quoted = false;
        let mut previous = ' ';
        for (at, c) in line.char_indices() {
            if !quoted && line[at..].starts_with("//") {
                break;
            }
            if c == '"' && previous != '\\' && previous != '\'' {
                quoted = !quoted;
            } else if !quoted {
                code.push(c);
            }
            previous = c;
        }
        code.push('\n');
    }
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken(name: &str, code: &str) -> Vec<String> {
        let exported = exported("pub use live::{Process, Other};\npub use address::Address;");
        imports(name, without_tests(&without_comments(code)), &exported)
    }

    #[test]
    fn the_walls_stand() {
        for (name, code) in [
            ("image/mod.rs", "use crate::live::Process;"),
            ("image/mod.rs", "use crate::Process;"),
            ("image/mod.rs", "use crate::{Address, Process};"),
            ("image/mod.rs", "use memfetch_sys::ptrace;"),
            ("memory.rs", "fn f(_: crate::image::Image) {}"),
            ("live/mod.rs", "use crate::{address::{self, Span}, capture::plan};"),
        ] {
            assert_eq!(broken(&format!("crates/memfetch/src/{name}"), code).len(), 1, "{code}");
        }
        assert_eq!(broken("crates/memfetch-cli/src/main.rs", "use memfetch_sys::ptrace;").len(), 1);
        assert_eq!(broken("crates/memfetch-sys/src/lib.rs", "use memfetch::Process;").len(), 1);
    }

    #[test]
    fn what_is_allowed_passes() {
        for (name, code) in [
            ("image/mod.rs", "use crate::{Address, image::record::{Mode, Origin}, memory::Cause};"),
            ("image/mod.rs", "//! See [`crate::live`].\nconst A: &str = \"crate::live\";"),
            ("live/mod.rs", "use memfetch_sys::ptrace;"),
            ("capture/mod.rs", "use crate::{Process, sink::OutputFile};"),
            ("capture/plan_tests.rs", "use crate::anything;"),
            ("sink/file.rs", "fn f() {}\n#[cfg(test)]\nmod tests {\n use memfetch_sys::buffer;\n}"),
        ] {
            assert_eq!(broken(&format!("crates/memfetch/src/{name}"), code), Vec::<String>::new(), "{code}");
        }
    }

    #[test]
    fn unsafe_is_a_word_of_the_code() {
        assert!(unsafe_outside("crates/memfetch/src/x.rs", "unsafe { f() }").is_some());
        assert!(unsafe_outside("crates/memfetch/src/x.rs", "#![forbid(unsafe_code)]").is_none());
        assert!(unsafe_outside("crates/memfetch-sys/src/x.rs", "unsafe { f() }").is_none());
        assert!(too_long("x", &"\n".repeat(651)).is_some());
    }
}

//! [`Template`]: names of output files with the words of core(5) in them.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// A file name with `%p %e %h %t %%` in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(Vec<u8>),
    Pid,
    Name,
    Host,
    Time,
}

/// What the words stand for.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// `%p`: the number of the process.
    pub pid: i32,
    /// `%e`: its name.
    pub name: &'a OsStr,
    /// `%h`: the name of the host.
    pub host: &'a OsStr,
    /// `%t`: seconds since 1970.
    pub time: u64,
}

impl Template {
    /// `NAME.PID.` and an extension, in this directory.
    #[must_use]
    pub fn standard_in(directory: &Path, extension: &str) -> Self {
        let mut parts = Vec::new();
        if !directory.as_os_str().is_empty() {
            let mut text = directory.as_os_str().as_bytes().to_vec();
            if !text.ends_with(b"/") {
                text.push(b'/');
            }
            parts.push(Part::Text(text));
        }
        let extension = format!(".{extension}").into_bytes();
        parts.extend([Part::Name, Part::Text(b".".to_vec()), Part::Pid, Part::Text(extension)]);
        Self(parts)
    }

    /// Reads a template.
    ///
    /// # Errors
    ///
    /// The word that is not known, or a lone `%` at the end.
    pub fn parse(text: &OsStr) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut plain = Vec::new();
        let mut bytes = text.as_bytes().iter().copied();
        while let Some(byte) = bytes.next() {
            if byte != b'%' {
                plain.push(byte);
                continue;
            }
            let part = match bytes.next() {
                Some(b'%') => {
                    plain.push(b'%');
                    continue;
                }
                Some(b'p') => Part::Pid,
                Some(b'e') => Part::Name,
                Some(b'h') => Part::Host,
                Some(b't') => Part::Time,
                Some(other) => return Err(format!("%{}", char::from(other))),
                None => return Err("%".to_owned()),
            };
            if !plain.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut plain)));
            }
            parts.push(part);
        }
        if !plain.is_empty() {
            parts.push(Part::Text(plain));
        }
        Ok(Self(parts))
    }

    /// Whether the names of two processes always differ.
    #[must_use]
    pub fn tells_processes_apart(&self) -> bool {
        self.0.contains(&Part::Pid)
    }

    /// The name for a process.
    #[must_use]
    pub fn name_for(&self, facts: Facts<'_>) -> PathBuf {
        let mut name = Vec::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => name.extend_from_slice(text),
                Part::Pid => name.extend_from_slice(facts.pid.to_string().as_bytes()),
                Part::Name => name.extend(harmless(facts.name, "process")),
                Part::Host => name.extend(harmless(facts.host, "host")),
                Part::Time => name.extend_from_slice(facts.time.to_string().as_bytes()),
            }
        }
        OsString::from_vec(name).into()
    }
}

/// A name that a process chose, made fit to be part of a file name: no slash, no control character, no dash or dot
/// in front. Any process may call itself `../../etc/passwd` or `-rf`.
fn harmless(name: &OsStr, otherwise: &str) -> Vec<u8> {
    let mut bytes: Vec<u8> = name
        .as_bytes()
        .iter()
        .map(|&byte| if byte == b'/' || byte.is_ascii_control() { b'_' } else { byte })
        .collect();
    if let Some(first) = bytes.first_mut().filter(|first| matches!(first, b'-' | b'.')) {
        *first = b'_';
    }
    if bytes.is_empty() { otherwise.into() } else { bytes }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(template: &str, name: &str) -> String {
        let facts = Facts { pid: 17, name: OsStr::new(name), host: OsStr::new("box"), time: 99 };
        Template::parse(OsStr::new(template)).unwrap().name_for(facts).to_str().unwrap().to_owned()
    }

    #[test]
    fn words_are_those_of_core_5() {
        assert_eq!(named("a/%e-%p@%h.%t%%", "redis"), "a/redis-17@box.99%");
        assert_eq!(Template::parse(OsStr::new("x%q")), Err("%q".to_owned()));
        assert_eq!(Template::parse(OsStr::new("x%")), Err("%".to_owned()));
    }

    #[test]
    fn a_process_cannot_choose_where_its_core_goes() {
        assert_eq!(named("%e", "../../etc/passwd"), "_._.._etc_passwd");
        assert_eq!(named("%e", "-rf"), "_rf");
        assert_eq!(named("%e", "a\nb\x1b"), "a_b_");
        assert_eq!(named("%e", ""), "process");
    }

    #[test]
    fn the_standard_name_takes_a_percent_in_the_directory_as_it_is() {
        let facts = Facts { pid: 17, name: OsStr::new("x"), host: OsStr::new("box"), time: 99 };
        assert_eq!(
            Template::standard_in(Path::new("/a%p"), "core").name_for(facts),
            Path::new("/a%p/x.17.core")
        );
        assert_eq!(Template::standard_in(Path::new(""), "core").name_for(facts), Path::new("x.17.core"));
    }
}

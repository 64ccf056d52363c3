//! [`Archive`]: a cpio archive of the format that the kernel unpacks as its first file system.
//!
//! Source: Documentation/driver-api/early-userspace/buffer-format.rst ("newc").

use std::collections::BTreeSet;
use std::path::{Component, Path};

const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;

/// Files and the folders that they lie in, readable and executable for all.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
    folders: BTreeSet<String>,
}

impl Archive {
    /// Adds a folder, and those that it lies in.
    pub fn folder(&mut self, path: &Path) {
        let mut name = String::new();
        for part in path.components() {
            let Component::Normal(part) = part else { continue };
            if !name.is_empty() {
                name.push('/');
            }
            name.push_str(&part.to_string_lossy());
            if self.folders.insert(name.clone()) {
                self.entry(&name, FOLDER, &[]);
            }
        }
    }

    /// Adds a file, and the folders that it lies in.
    pub fn file(&mut self, path: &Path, contents: &[u8]) {
        if let Some(folder) = path.parent() {
            self.folder(folder);
        }
        self.entry(&path.to_string_lossy(), PROGRAM, contents);
    }

    /// The archive with its end mark.
    pub fn into_bytes(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, contents: &[u8]) {
        self.entries += 1;
        let name = name.trim_start_matches('/');
        let len = u32::try_from(contents.len()).expect("a file of an archive is smaller than 4 GiB");
        let name_len = u32::try_from(name.len() + 1).expect("a path is short");
        // inode, mode, uid, gid, links, time, length, device of the file and of the node, name, checksum (unused).
        let fields = [self.entries, mode, 0, 0, 1, 0, len, 0, 0, 0, 0, name_len, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend_from_slice(contents);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_come_once_and_before_what_lies_in_them() {
        let mut archive = Archive::default();
        archive.file(Path::new("/a/b/one"), b"12345");
        archive.file(Path::new("/a/two"), b"");
        let bytes = archive.into_bytes();
        assert_eq!(bytes.len() % 4, 0);
        let mut names = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            let field = |n: usize| {
                let text = str::from_utf8(&bytes[at + 6 + 8 * n..at + 14 + 8 * n]).unwrap();
                usize::from_str_radix(text, 16).unwrap()
            };
            assert_eq!(&bytes[at..at + 6], b"070701");
            let (len, name_len) = (field(6), field(11));
            let name = str::from_utf8(&bytes[at + 110..at + 110 + name_len - 1]).unwrap();
            let data = at + (110 + name_len).next_multiple_of(4);
            names.push((name.to_owned(), bytes[data..data + len].to_vec()));
            at = data + len.next_multiple_of(4);
        }
        let expected = [("a", ""), ("a/b", ""), ("a/b/one", "12345"), ("a/two", ""), ("TRAILER!!!", "")];
        assert_eq!(names, expected.map(|(name, data)| (name.to_owned(), data.as_bytes().to_vec())));
    }
}

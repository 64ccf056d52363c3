//! A core of which one byte is changed: `verify` finds it, and names where it is.

use std::os::unix::fs::FileExt;
use std::path::Path;

use memfetch::{Image, Memory, PageState, Span};
use memfetch_testkit::Target;

use super::{Told, assert_whole, memfetch, snap};

fn verify(path: &Path) -> Told {
    memfetch(&["verify".as_ref(), path.as_os_str()])
}

#[test]
fn one_byte_anywhere_is_found_and_named() {
    let target = Target::spawn("private", &["4"]);
    // Room that was never touched: a hole of the file.
    let reserved = Target::spawn("reserved", &["1"]);
    let folder = tempfile::tempdir().unwrap();
    for target in [&target, &reserved] {
        let path = folder.path().join(target.pid().to_string());
        snap(target.pid(), &path, &[]).says(0, &[]);
        assert_whole(&path);
        let length = path.metadata().unwrap().len();
        let file = std::fs::File::options().read(true).write(true).open(&path).unwrap();
        let image = Image::open(&path).unwrap();
        let trailer = image.origin().unwrap().trailer_offset;
        drop(image);
        let byte = |at: u64| {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            byte[0]
        };
        let number = |at: u64| {
            let mut bytes = [0; 8];
            file.read_exact_at(&mut bytes, at).unwrap();
            u64::from_le_bytes(bytes)
        };
        // The first program header is that of the notes: offset at 8, length at 32 (elf(5)).
        let (notes, notes_len) = (number(64 + 8), number(64 + 32));
        let headers_end = (notes + notes_len).next_multiple_of(4096);
        let mut places: Vec<(&str, u64, Vec<String>)> = Vec::new();
        // Whatever the altered byte makes of the headers, their digest differs.
        for at in [
            4,
            5,
            6,
            16,
            18,
            20,
            32,
            40,
            54,
            56,
            58,
            64,
            64 + 4,
            64 + 8,
            64 + 32,
            64 + 56 + 16,
            notes,
            notes + 8,
            notes + 12,
            notes + 40,
            notes + notes_len - 2,
            headers_end - 1,
        ] {
            places.push((
                "headers and notes",
                at,
                vec!["bytes 0x0..".to_owned(), "is not what was written".to_owned()],
            ));
        }
        for at in [headers_end, headers_end + 5000, trailer - 1] {
            let hole = byte_is_in_a_hole(&file, at);
            let words = if hole { "was never written" } else { "is not what was written" };
            places.push(("data", at, vec![words.to_owned()]));
        }
        for at in [
            trailer,
            trailer + 17,
            trailer + 21,
            trailer + 40,
            (trailer + length) / 2,
            length - 60,
            length - 50,
            length - 40,
            length - 12,
            length - 8,
            length - 1,
        ] {
            places.push(("trailer", at, vec![]));
        }
        if let Some(at) = (headers_end..trailer).step_by(4096).find(|&at| byte_is_in_a_hole(&file, at + 7)) {
            let words = vec![
                format!("bytes {:#x}..{:#x} of the file: was never written, and is not zero", at + 7, at + 8),
                "memory ".to_owned(),
            ];
            places.push(("a hole", at + 7, words));
        }
        for (what, at, words) in places {
            let before = byte(at);
            file.write_all_at(&[before ^ 1], at).unwrap();
            let told = verify(&path);
            assert!(!told.out.contains("whole"), "{what} at {at:#x}: {told:?}");
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let told = told.says(1, &words);
            // It is named by a range that holds it, or by the part of the file.
            if what != "trailer" {
                assert!(told.out.contains("ALTERED in 1 place"), "{what} at {at:#x}: {told:?}");
                let range = told.out.split("bytes ").nth(1).unwrap().split(' ').next().unwrap();
                let ends: Vec<u64> = range
                    .split("..")
                    .map(|end| u64::from_str_radix(end.trim_start_matches("0x"), 16).unwrap())
                    .collect();
                assert!((ends[0]..ends[1]).contains(&at), "{what} at {at:#x}: {told:?}");
            } else {
                assert!(told.out.contains("trailer"), "{what} at {at:#x}: {told:?}");
            }
            // `maps` is not misled where it can know.
            let listed = memfetch(&["maps".as_ref(), path.as_os_str()]);
            assert!(
                listed.code.is_some_and(|code| code <= 2) && !listed.err.contains("panicked"),
                "{what}: {listed:?}"
            );
            file.write_all_at(&[before], at).unwrap();
        }
        // Something behind the end.
        file.write_all_at(b"more", length).unwrap();
        verify(&path).says(1, &["ALTERED in 1 place", "stands behind the end"]);
        file.set_len(length).unwrap();
        verify(&path).says(0, &[]);
    }
}

fn byte_is_in_a_hole(file: &std::fs::File, at: u64) -> bool {
    match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(at)) {
        Ok(data) => data != at,
        Err(_) => true,
    }
}

/// What is altered is told by the memory that it was.
#[test]
fn altered_memory_is_named_by_its_address() {
    let target = Target::spawn("private", &["4"]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.core");
    snap(target.pid(), &path, &[]).says(0, &[]);
    let start = target.number("start");
    let bytes = std::fs::read(&path).unwrap();
    let needle = (start + 0x21_2340).to_le_bytes();
    let at = bytes.windows(8).position(|window| window == needle).unwrap() as u64;
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.write_all_at(&[bytes[at as usize] ^ 0x80], at).unwrap();
    let told = verify(&path).says(1, &["ALTERED in 1 place", "; memory 0x"]);
    let spans = told.out.split("memory ").nth(1).unwrap().trim();
    let holds = spans.trim_end_matches(", ...").split(", ").any(|span| {
        let ends: Vec<u64> = span
            .split("..")
            .map(|end| u64::from_str_radix(end.trim_start_matches("0x"), 16).unwrap())
            .collect();
        (ends[0]..ends[1]).contains(&(start + 0x21_2340))
    });
    assert!(holds, "{told:?}");
    // It still opens, and the rest of it is right.
    let image = Image::open(&path).unwrap();
    assert!(image.pages(Span::ALL).unwrap().iter().any(|run| run.state == PageState::Resident));
}

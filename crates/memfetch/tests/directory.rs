//! Region directories and raw memory: what is written, what its readers find in it, and what is read back.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use memfetch::error::{FormatError, OutputError};
use memfetch::image::verify::{Part, Verdict, verify};
use memfetch::image::{Completeness, Shortfall};
use memfetch::{
    Address, Cause, Error, Image, Memory, PageState, Process, Region, Selection, Snapshot, Touch,
};
use memfetch_testkit::conformance::check;
use memfetch_testkit::{Expected, Target};

const PAGE: u64 = 4096;

fn process(target: &Target) -> Process {
    Process::open(target.pid()).unwrap()
}

fn only(start: u64) -> Selection {
    Selection { only: vec![format!("{start:#x}").parse().unwrap()], skip: Vec::new() }
}

fn names(folder: &Path) -> Vec<String> {
    let name = |entry: fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
    let mut names: Vec<_> = fs::read_dir(folder).unwrap().flatten().map(name).collect();
    names.sort();
    names
}

fn verdict(path: &Path) -> Verdict {
    verify(path, &mut |done, total| assert!(done <= total)).unwrap()
}

/// A page of the target `holes`, and what a snapshot with everything has of it.
fn expected_of_holes(target: &Target) -> Expected {
    let page = |number: u64| target.number("start") + number * PAGE;
    let mut expected = Expected::new();
    for number in [0, 1, 3, 4, 5, 6, 15] {
        expected = expected.addresses(page(number), PAGE);
    }
    expected = expected.part(page(7), vec![0; 4096]);
    for number in [2, 8, 14] {
        expected = expected.hole(page(number), PAGE, Cause::NotMapped);
    }
    expected = expected.hole(page(11), PAGE, Cause::BeyondFile);
    if target.number("guard") == 1 {
        expected = expected.hole(page(13), PAGE, Cause::Guard);
    }
    if target.number("secret") == 1 {
        expected = expected.hole(page(12), PAGE, Cause::Secret);
    }
    expected
}

#[test]
fn a_directory_keeps_the_promises_of_every_source() {
    let folder = tempfile::tempdir().unwrap();
    let target = Target::spawn("holes", &[folder.path().to_str().unwrap()]);
    let path = folder.path().join("dump");
    let report = Snapshot::of(&process(&target)).touch(Touch::All).write_directory(&path).unwrap();
    let secret = target.number("secret") == 1;
    assert_eq!(report.outcome.gaps.len(), usize::from(secret), "{:?}", report.outcome.gaps);
    for path in [path.clone(), path.join("mf-index.txt")] {
        let image = Image::open(&path).unwrap();
        check(&image, &expected_of_holes(&target));
        assert_eq!((image.completeness(), image.shortfall()), (&Completeness::Complete, None));
        assert_eq!(image.outcome().unwrap().gaps, report.outcome.gaps);
        assert_eq!(image.origin(), Some(&report.origin));
    }
    assert!(matches!(verdict(&path), Verdict::Whole { .. }));
    // Found by the directory that is held open, whatever it is called by now.
    let image = Image::open(&path).unwrap();
    fs::rename(&path, folder.path().join("renamed")).unwrap();
    check(&image, &expected_of_holes(&target));
}

#[test]
fn a_directory_and_a_core_say_the_same_of_a_process() {
    use memfetch::image::record::Contents;

    let folder = tempfile::tempdir().unwrap();
    let target = Target::spawn("many-mappings", &["700"]);
    let (dump, core) = (folder.path().join("dump"), folder.path().join("core"));
    let process = process(&target);
    let everything = || Snapshot::of(&process).contents(Contents::Full);
    everything().write_directory(&dump).unwrap();
    everything().write_core(&core).unwrap();
    let (dump, core) = (Image::open(dump).unwrap(), Image::open(core).unwrap());
    assert_eq!(dump.regions().unwrap(), core.regions().unwrap());
    assert_eq!(dump.recorded_pages(), core.recorded_pages());
    assert_eq!(dump.platform(), core.platform());
    // More files than are held open.
    for region in &dump.regions().unwrap() {
        for run in &core.pages(region.span).unwrap() {
            let (mut one, mut other) = (vec![1; 100], vec![2; 100]);
            let reads =
                [dump.read_at(run.span.start(), &mut one), core.read_at(run.span.start(), &mut other)];
            match reads {
                [Ok(_), Ok(_)] => assert_eq!(one, other, "{}", run.span),
                [Err(_), Err(_)] => {}
                [one, other] => panic!("{}: {one:?} {other:?}", run.span),
            }
        }
    }
}

#[test]
fn memory_that_was_never_touched_is_a_hole_of_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let target = Target::spawn("private", &["2"]);
    let start = target.number("start");
    let path = folder.path().join("dump");
    let report = Snapshot::of(&process(&target)).write_directory(&path).unwrap();
    let mut files = 0;
    for name in names(&path).iter().filter(|name| name.starts_with("mf-m")) {
        let metadata = path.join(name).metadata().unwrap();
        assert_eq!(metadata.mode() & 0o777, 0o600);
        files += 1;
    }
    assert!(files > 5);
    assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o700);
    let stack = Image::open(&path).unwrap().regions().unwrap().stack().unwrap().clone();
    let index = fs::read_to_string(path.join("mf-index.txt")).unwrap();
    let line = index.lines().find(|line| line.ends_with("[stack]")).unwrap();
    let file = path.join(line.split(' ').nth(1).unwrap()).metadata().unwrap();
    assert_eq!(file.len(), stack.span.len());
    assert!(file.blocks() * 512 < file.len(), "{} blocks", file.blocks());
    assert!(report.stored_bytes < report.apparent_bytes);
    // As `awk` sees it: the number of the line is that of the region, and the file has the bytes where they belong.
    let line = index.lines().find(|line| line.contains(&format!(" {start:08x}-"))).unwrap();
    let words: Vec<_> = line.split(' ').collect();
    assert!(words[1].ends_with(&format!("-{}.bin", words[0])), "{line}");
    let mut word = [0; 8];
    fs::File::open(path.join(words[1])).unwrap().read_exact_at(&mut word, 5 * PAGE).unwrap();
    assert_eq!(u64::from_ne_bytes(word), start + 5 * PAGE);
}

/// As mffind.pl reads `mfetch.lst`: what stands behind `]` and white space, up to the colon, is a file, and the word behind `range ` where
/// it begins. It tells matches as `[match] OFFSET + 0xBASE -> 0xADDRESS`.
fn mffind(folder: &Path, needle: &[u8]) -> Vec<(u64, u64)> {
    let text = fs::read_to_string(folder.join("mfetch.lst")).unwrap();
    let mut bases: Vec<(PathBuf, u64)> = Vec::new();
    for line in text.lines() {
        if let Some((_, rest)) = line.split_once(']')
            && rest.starts_with(char::is_whitespace)
            && let Some((name, _)) = rest.trim_start().split_once(':')
        {
            bases.push((folder.join(name), 0));
        }
        if let Some((_, rest)) = line.split_once("range ") {
            let word = rest.split(' ').next().unwrap();
            bases.last_mut().unwrap().1 = u64::from_str_radix(word.strip_prefix("0x").unwrap(), 16).unwrap();
        }
    }
    let mut found = Vec::new();
    for (file, base) in bases {
        let bytes = fs::read(file).unwrap();
        let offset = bytes.windows(needle.len()).position(|window| window == needle);
        found.extend(offset.map(|offset| (base, base + offset as u64)));
    }
    found
}

/// As the other readers do: the text is split at blank lines, the first block and the last are dropped, and names that
/// begin with `mem` or `map` are taken with their ranges.
fn split_at_blank_lines(text: &str) -> HashMap<String, (u64, u64)> {
    let mut blocks: Vec<&str> = text.split("\n\n").collect();
    blocks.remove(0);
    blocks.pop();
    let mut ranges = HashMap::new();
    for block in blocks {
        let words: Vec<_> = block.split_whitespace().collect();
        let name = words[1].trim_end_matches(':');
        assert!(name.starts_with("mem") || name.starts_with("map"), "{block}");
        let range = words.iter().position(|word| *word == "range").unwrap();
        let number = |word: &str| u64::from_str_radix(word.strip_prefix("0x").unwrap(), 16).unwrap();
        assert_eq!(words[range + 2], "to");
        ranges.insert(name.to_owned(), (number(words[range + 1]), number(words[range + 3])));
    }
    ranges
}

#[test]
fn the_readers_of_2002_find_what_they_look_for() {
    let folder = tempfile::tempdir().unwrap();
    let target = Target::spawn("private", &["1"]);
    let start = target.number("start");
    let path = folder.path().join("dump");
    let skip_files = Selection { only: Vec::new(), skip: vec!["file".parse().unwrap()] };
    let report =
        Snapshot::of(&process(&target)).classic(true).selection(skip_files).write_directory(&path).unwrap();
    let needle: Vec<u8> = [start + 0x2000, start + 0x2008].into_iter().flat_map(u64::to_ne_bytes).collect();
    let found = mffind(&path, &needle);
    assert!(found.iter().any(|(_, at)| *at == start + 0x2000), "{found:x?}");

    let text = fs::read_to_string(path.join("mfetch.lst")).unwrap();
    let ranges = split_at_blank_lines(&text);
    assert_eq!(ranges.len(), names(&path).len() - 1);
    for (number, name) in names(&path).iter().filter(|name| *name != "mfetch.lst").enumerate() {
        assert_eq!(name, &format!("mem-{number:03}.bin"), "regions that are dumped are counted");
        let (from, to) = ranges[name];
        assert_eq!(path.join(name).metadata().unwrap().len(), to - from);
    }
    assert!(text.ends_with("\n\n# End of file.\n"));
    // What `-w` shows is what stands between the comments.
    let shown = String::from_utf8(report.index).unwrap();
    assert!(text.contains(&shown) && shown.starts_with("[000] ") && !shown.contains('#'));

    let image = Image::open(&path).unwrap();
    check(&image, &Expected::new().addresses(start, 64 << 10));
    assert_eq!(image.completeness(), &Completeness::Foreign);
    assert!(matches!(verdict(&path), Verdict::Unverifiable { .. }));
}

#[test]
fn everything_that_can_be_read_is_in_a_classic_one() {
    let folder = tempfile::tempdir().unwrap();
    let target = Target::spawn("private", &["1"]);
    let path = folder.path().join("dump");
    Snapshot::of(&process(&target)).classic(true).write_directory(&path).unwrap();
    let image = Image::open(&path).unwrap();
    let regions = image.regions().unwrap();
    let is_text = |region: &&Region| region.permissions.execute && region.file().is_some();
    assert!(regions.iter().any(|region| is_text(&region)));
    let mut magic = [0; 4];
    let program = regions.iter().find(|region| region.file().is_some_and(|file| file.offset == 0)).unwrap();
    assert_eq!(image.read_at(program.span.start(), &mut magic).unwrap(), 4);
    assert_eq!(&magic, b"\x7fELF");
    assert!(names(&path).iter().any(|name| name.starts_with("map-")));
}

#[test]
fn what_is_lost_of_a_directory_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let target = Target::spawn("private", &["2"]);
    let start = target.number("start");
    let path = folder.path().join("dump");
    Snapshot::of(&process(&target)).selection(only(start)).write_directory(&path).unwrap();
    let file = names(&path).into_iter().find(|name| name.starts_with("mf-mem")).unwrap();
    let (member, index) = (path.join(&file), path.join("mf-index.txt"));
    let (bytes, text) = (fs::read(&member).unwrap(), fs::read(&index).unwrap());
    let state_at =
        |at: u64| Image::open(&path).unwrap().pages(memfetch::Span::ALL).unwrap().at(Address::new(at));
    let truncated = PageState::Unreadable(Cause::Truncated);

    // A short file, and none.
    for left in [PAGE + 5, 0] {
        fs::write(&member, &bytes[..left as usize]).unwrap();
        let image = Image::open(&path).unwrap();
        assert_eq!(image.shortfall(), Some(Shortfall::File(file.clone())));
        let expected = Expected::new();
        let expected = if left > 0 { expected.addresses(start, PAGE) } else { expected };
        check(&image, &expected.hole(start + 2 * PAGE, PAGE, Cause::Truncated));
        let Verdict::Incomplete { why: Shortfall::File(name), present_bytes, expected_bytes } =
            verdict(&path)
        else {
            panic!("{:?}", verdict(&path));
        };
        assert_eq!((name.as_str(), present_bytes < expected_bytes), (file.as_str(), true));
    }
    fs::remove_file(&member).unwrap();
    assert_eq!(state_at(start).unwrap().state, truncated);
    // What has the name is no file: it is neither followed nor waited for.
    for make in [
        |at: &Path| std::os::unix::fs::symlink("/etc/passwd", at),
        |at: &Path| Ok(rustix::fs::mkfifoat(rustix::fs::CWD, at, rustix::fs::Mode::RUSR)?),
    ] {
        make(&member).unwrap();
        assert_eq!(state_at(start).unwrap().state, truncated);
        fs::remove_file(&member).unwrap();
    }

    // A byte that was changed, one that was never written, and bytes behind the end.
    let altered = |change: &dyn Fn(&mut Vec<u8>), part: Part| {
        let mut changed = bytes.clone();
        change(&mut changed);
        fs::write(&member, &changed).unwrap();
        let Verdict::Altered { ranges } = verdict(&path) else { panic!("{:?}", verdict(&path)) };
        assert_eq!((ranges[0].of.as_deref(), ranges[0].part), (Some(file.as_str()), part), "{ranges:?}");
    };
    altered(&|bytes| bytes[4097] ^= 1, Part::Written);
    altered(&|bytes| bytes.push(7), Part::Behind);
    fs::write(&member, &bytes).unwrap();
    assert!(matches!(verdict(&path), Verdict::Whole { .. }));

    // The index: altered, cut, without sense, empty, gone.
    let as_text = String::from_utf8(text.clone()).unwrap();
    fs::write(&index, as_text.replace("\"threads\":1", "\"threads\":2")).unwrap();
    let Verdict::Altered { ranges } = verdict(&path) else { panic!("{:?}", verdict(&path)) };
    assert_eq!((ranges[0].of.as_deref(), ranges[0].part), (Some("mf-index.txt"), Part::Index));
    assert_eq!(Image::open(&path).unwrap().shortfall(), Some(Shortfall::IndexAltered));
    let table = as_text.find("\npages 0").unwrap();
    fs::write(&index, &text[..table]).unwrap();
    let image = Image::open(&path).unwrap();
    assert_eq!(image.shortfall(), Some(Shortfall::Index));
    check(&image, &Expected::new().addresses(start, PAGE));
    assert!(matches!(verdict(&path), Verdict::Incomplete { why: Shortfall::Index, .. }));
    for (bad, told) in [
        (as_text.replace("\n001 ", "\n017 "), "makes no sense"),
        (as_text[..40].to_owned(), "ends within its index"),
        (String::new(), "no index of regions"),
    ] {
        fs::write(&index, &bad).unwrap();
        let error = Image::open(&path).unwrap_err();
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.contains(told), "{cause}");
    }
    fs::remove_file(&index).unwrap();
    for error in [Image::open(&path).unwrap_err(), verify(&path, &mut |_, _| {}).unwrap_err()] {
        assert!(matches!(error, Error::Format { source: FormatError::NoIndex, .. }), "{error}");
    }
}

#[test]
fn what_is_unmapped_meanwhile_is_filler_and_a_gap() {
    let folder = tempfile::tempdir().unwrap();
    let mut target = Target::spawn("private", &["96"]);
    let (start, bytes) = (target.number("start"), target.number("bytes"));
    let path = folder.path().join("dump");
    let process = process(&target);
    let mut unmapped = false;
    let report = Snapshot::of(&process)
        .mode(memfetch::ModeChoice::Live)
        .selection(only(start))
        .progress(|_| {
            if !std::mem::replace(&mut unmapped, true) {
                assert_eq!(target.ask("unmap"), "0");
            }
        })
        .write_directory(&path)
        .unwrap();
    let missing = report.outcome.gaps.bytes();
    assert!(missing > 0 && missing < bytes, "{missing} of {bytes}");
    let image = Image::open(&path).unwrap();
    let (mut own, mut gone) = (0, 0);
    for at in (start..start + bytes).step_by(PAGE as usize) {
        let mut word = [0; 8];
        match image.read_at(Address::new(at), &mut word) {
            Ok(_) if u64::from_ne_bytes(word) == at => own += PAGE,
            Err(memfetch::ReadError::Fault(fault)) if fault.cause == Cause::Vanished => gone += PAGE,
            other => panic!("{at:#x}: {other:?} {word:?}"),
        }
    }
    assert_eq!((own + gone, gone), (bytes, missing));
    assert!(matches!(verdict(&path), Verdict::Whole { .. }));
    let text = fs::read_to_string(path.join("mf-index.txt")).unwrap();
    assert!(text.lines().any(|line| line.starts_with("gap ") && line.ends_with(" vanished")), "{text}");
}

#[test]
fn a_directory_takes_nobodys_place_and_a_failure_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let target = Target::spawn("private", &["1"]);
    let process = process(&target);
    let path = folder.path().join("dump");
    let snapshot = || Snapshot::of(&process).selection(only(target.number("start")));
    snapshot().write_directory(&path).unwrap();
    let refused = snapshot().write_directory(&path).unwrap_err();
    assert!(matches!(refused, Error::Output { source: OutputError::DirectoryExists, .. }), "{refused}");
    snapshot().classic(true).replace(true).write_directory(&path).unwrap();
    assert_eq!(names(&path), ["mem-000.bin", "mfetch.lst"]);
    fs::write(path.join("notes"), b"mine").unwrap();
    let refused = snapshot().replace(true).write_directory(&path).unwrap_err();
    assert!(matches!(refused, Error::Output { source: OutputError::NotOurs(_), .. }), "{refused}");
    assert_eq!(names(&path), ["mem-000.bin", "mfetch.lst", "notes"]);
    drop(target);
    snapshot_of_the_dead(&process, &folder.path().join("late"));
    assert_eq!(names(folder.path()), ["dump"]);
}

fn snapshot_of_the_dead(process: &Process, path: &Path) {
    Snapshot::of(process).write_directory(path).unwrap_err();
}

/// The lines of a raw index: position, length, address.
fn stretches(index: &[u8]) -> Vec<(u64, u64, u64)> {
    let text = str::from_utf8(index).unwrap();
    assert!(text.starts_with("# memfetch raw index, version 1\n") && text.ends_with("\n# end\n"));
    let lines = text.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_digit()));
    let stretch = |line: &str| {
        let words: Vec<_> = line.split(' ').collect();
        let address = u64::from_str_radix(words[2].split('-').next().unwrap(), 16).unwrap();
        (words[0].parse().unwrap(), words[1].parse().unwrap(), address)
    };
    lines.map(stretch).collect()
}

#[test]
fn raw_memory_stands_where_its_index_says() {
    let folder = tempfile::tempdir().unwrap();
    let target = Target::spawn("private", &["3"]);
    let process = process(&target);
    let (start, bytes) = (target.number("start"), target.number("bytes"));
    let (path, index) = (folder.path().join("raw"), folder.path().join("index"));
    let by_file = Snapshot::of(&process).index_file(&index).write_raw(&path).unwrap();
    assert_eq!(fs::read(&index).unwrap(), by_file.index);
    let mut stream = Vec::new();
    let by_stream = Snapshot::of(&process).write_raw_to(&mut stream).unwrap();
    for (written, index) in [(fs::read(&path).unwrap(), by_file.index), (stream, by_stream.index)] {
        let mut end = 0;
        let mut found = 0;
        for (position, length, address) in stretches(&index) {
            assert_eq!(position, end, "nothing stands between them");
            end += length;
            for at in (address..address + length)
                .step_by(PAGE as usize)
                .filter(|at| (start..start + bytes).contains(at))
            {
                let place = usize::try_from(position + at - address).unwrap();
                assert_eq!(written[place..][..8], at.to_ne_bytes());
                found += PAGE;
            }
        }
        assert_eq!((end, found), (written.len() as u64, bytes));
    }
    assert_eq!(names(folder.path()), ["index", "raw"]);
}

#[test]
fn a_long_reservation_is_a_hole_of_a_raw_file_and_not_in_a_stream() {
    let folder = tempfile::tempdir().unwrap();
    let target = Target::spawn("reserved", &["2"]);
    let process = process(&target);
    let (start, bytes) = (target.number("start"), target.number("bytes"));
    let path = folder.path().join("raw");
    let by_file = Snapshot::of(&process).selection(only(start)).write_raw(&path).unwrap();
    assert!(by_file.stored_bytes < 64 << 20, "{} bytes on the disk", by_file.stored_bytes);
    let mut stream = Vec::new();
    let by_stream = Snapshot::of(&process).write_raw_to(&mut stream).unwrap();
    assert!((stream.len() as u64) < bytes, "{} of {bytes} bytes", stream.len());
    assert_eq!(by_stream.stored_bytes, stream.len() as u64);
    let remark = |remark: &String| remark.contains("never touched are left out");
    assert!(by_stream.outcome.remarks.iter().any(remark), "{:?}", by_stream.outcome.remarks);
}

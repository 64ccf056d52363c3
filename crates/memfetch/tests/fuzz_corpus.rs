//! Every seed of the fuzz targets, through the functions that are fuzzed, with any compiler.
//!
//! `cargo test -p memfetch --test fuzz_corpus -- --ignored` writes the seeds that are built here anew.

#[path = "../../../fuzz/entry.rs"]
mod entry;
mod synth;

use std::path::PathBuf;

use memfetch::image::directory::classic;
use memfetch::image::directory::index::{Ending, Entry, Index, RegionFile};
use memfetch::image::record::{Contents, Mode, Origin, Outcome};
use memfetch::image::trailer::{Extent, Trailer};
use memfetch::{Address, Cause, PageRuns, PageState, Platform, Span, Touch, maps as text};
use synth::{Core, Load, SHAPES};

fn seeds(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds").join(target)
}

fn run(target: &str, entry: fn(&[u8])) {
    let mut count = 0;
    for seed in std::fs::read_dir(seeds(target)).unwrap() {
        let path = seed.unwrap().path();
        eprintln!("{}", path.display());
        let begun = std::time::Instant::now();
        entry(&std::fs::read(&path).unwrap());
        assert!(begun.elapsed().as_secs() < 10, "{} takes too long", path.display());
        count += 1;
    }
    assert!(count >= 3, "{target} has {count} seeds");
}

#[test]
fn maps() {
    run("maps", entry::maps);
}

#[test]
fn core() {
    run("core", entry::core);
}

#[test]
fn trailer() {
    run("trailer", entry::trailer);
}

#[test]
fn place() {
    run("place", entry::place);
}

#[test]
fn elf() {
    run("elf", entry::elf);
}

#[test]
fn pattern() {
    run("pattern", entry::pattern);
}

#[test]
fn index() {
    run("index", entry::index);
}

const MAPS: &[u8] = b"00010000-00012000 rw-p 00000000 00:00 0                                  [heap]\n\
00020000-00022000 r--s 00001000 00:01 77                                 /memfd:a b\\012c (deleted)\n\
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]\n";

fn small(shape: synth::Shape) -> Core {
    let mut core = synth::full(shape);
    for load in &mut core.loads {
        load.bytes.truncate(24);
    }
    core
}

fn own_trailer() -> Trailer {
    let mut pages = PageRuns::new();
    let span = |start, end| Span::new(Address::new(start), Address::new(end)).unwrap();
    pages.push(span(0x1_0000, 0x1_1000), PageState::Resident);
    pages.push(span(0x1_1000, 0x1_2000), PageState::Absent);
    pages.push(span(0x2_0000, 0x2_1000), PageState::Unreadable(Cause::Os(5)));
    pages.push(span(0x2_1000, 0x2_2000), PageState::Unreadable(Cause::Vanished));
    let extents = vec![Extent { offset: 0, len: 64 }, Extent { offset: 0x100, len: 0x40 }];
    let outcome = Outcome { remarks: vec!["a remark".into()], ..Outcome::default() };
    Trailer { outcome, maps: MAPS.to_vec(), pages, extents, digests: vec![[7; 32]] }
}

fn origin(trailer_offset: u64) -> Origin {
    Origin {
        version: "0.1.0".into(),
        pid: 42,
        started_ns: 1,
        host: "h".into(),
        kernel: "6.18".into(),
        mode: Mode::Freeze,
        contents: Contents::Default,
        touch: Touch::Stored,
        trailer_offset,
    }
}

/// The index of a region directory: of ours, and of 2002.
fn own_indices() -> [Vec<u8>; 2] {
    let map = text::parse(MAPS).unwrap();
    let trailer = own_trailer();
    let entries = map.iter().enumerate().map(|(number, region)| {
        let mut pages = PageRuns::new();
        pages.extend(trailer.pages.within(region.span));
        let file = Some(RegionFile { name: format!("mf-mem-{number:03}.bin"), digest: [7; 32] });
        let written = pages.iter().take(1).map(|run| run.span).collect();
        Entry { region: region.clone(), file: file.filter(|_| number == 0), pages, written }
    });
    let mut entries: Vec<_> = entries.collect();
    entries.iter_mut().skip(1).for_each(|entry| entry.written.clear());
    let index = Index {
        name: "a b".into(),
        origin: origin(0),
        platform: Platform::X86_64,
        outcome: Some(trailer.outcome.clone()),
        entries,
        ending: Ending::Whole,
    };
    let blocks = classic::encode_blocks(map.iter());
    [index.encode(), classic::encode(&origin(0), "/bin/program", &blocks, &trailer.outcome)]
}

fn own_core() -> Vec<u8> {
    let build = |trailer_offset| {
        Core::new(SHAPES[0])
            .note(
                "MEMFETCH",
                memfetch::image::note::TYPE_ORIGIN,
                &memfetch::image::note::encode(&origin(trailer_offset)),
            )
            .load(Load::new(0x1_0000, 0x2000, 6, synth::pattern(1, 64)))
            .load(Load::new(0x2_0000, 0x2000, 4, vec![]))
            .build()
    };
    // The number has three digits, and so the length does not depend on it.
    let length = build(100).len() as u64;
    let mut bytes = build(length);
    assert_eq!(bytes.len() as u64, length);
    bytes.extend(own_trailer().encode());
    bytes
}

#[test]
#[ignore = "writes into the source tree"]
fn write_seeds() {
    let write = |target: &str, name: &str, bytes: &[u8]| {
        std::fs::create_dir_all(seeds(target)).unwrap();
        std::fs::write(seeds(target).join(name), bytes).unwrap();
    };
    for (name, shape) in ["64-little", "32-little", "64-big", "32-big"].into_iter().zip(SHAPES) {
        write("core", name, &small(shape).build());
    }
    let mut counted = small(SHAPES[0]);
    counted.counted_by_section = true;
    write("core", "counted-by-section", &counted.build());
    write("core", "own", &own_core());
    let whole = own_trailer().encode();
    write("trailer", "whole", &whole);
    write("trailer", "sections", &whole[28..whole.len() - 48]);
    write("trailer", "empty-sections", &Trailer::default().encode()[28..][..200]);
    for (name, words) in [
        ("address", "0x10000"),
        ("heap", "heap+0x10..heap+32"),
        ("length", "[stack]..+0x20"),
        ("rest", "program+0x1000.."),
        ("symbol", "program!environ@@GLIBC_2.2.5-8"),
        ("anywhere", "!environ"),
        ("plus-in-name", "libstdc++.so.6+16-0x8"),
        ("dots-in-name", "/tmp/a..b"),
    ] {
        write("place", name, words.as_bytes());
    }
    for (name, words) in [
        ("hex", "de ad ?? e?\n00ff"),
        ("regex", "[a-z]+@[a-z]{2,}\n(?i)k.y"),
        ("text", "session: \u{c9}t\u{e9}"),
        ("numbers", "-2\n0x4d2\n2.5"),
        ("selectors", "heap\n0x1000..0x2000\n*.so*"),
    ] {
        write("pattern", name, words.as_bytes());
    }
    let [own, of_2002] = own_indices();
    write("index", "own", &own);
    write("index", "own-without-end", &own[..own.len() - 69]);
    write("index", "2002", &of_2002);
    write("index", "2002-cut", &of_2002[..of_2002.len() / 2]);
    write("maps", "three", MAPS);
    write("maps", "cut", &MAPS[..100]);
    write("maps", "overlapping", b"1000-3000 r--p 0 0:0 0 \n2000-4000 rw-p 0 8:1 5 /x (deleted)\n");
}

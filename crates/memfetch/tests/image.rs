//! Cores built from literals, read back.

mod synth;

use memfetch::{Address, Backing, Cause, Image, Memory, PageState, ReadError, Region, Span, Threads};
use proptest::prelude::*;
use synth::{Core, Load, SHAPES, Shape, full, pattern};

fn span(start: u64, end: u64) -> Span {
    Span::new(Address::new(start), Address::new(end)).unwrap()
}

fn read(image: &Image, at: u64, len: usize) -> Result<Vec<u8>, Cause> {
    let mut buf = vec![0xaa; len];
    match image.read_at(Address::new(at), &mut buf) {
        Ok(n) => {
            assert!(n > 0 && n <= len);
            assert!(buf[n..].iter().all(|&byte| byte == 0xaa), "the bytes behind the prefix are untouched");
            buf.truncate(n);
            Ok(buf)
        }
        Err(ReadError::Fault(fault)) => {
            assert_eq!(fault.at, Address::new(at));
            assert!(buf.iter().all(|&byte| byte == 0xaa));
            Err(fault.cause)
        }
        Err(other) => panic!("{other}"),
    }
}

/// Reads everything that can be read, as an operation would, and checks what must hold whatever the file says.
fn exercise(image: &Image) {
    let regions = image.regions().unwrap();
    let pages = image.pages(Span::ALL).unwrap();
    let mut end = Address::ZERO;
    for run in &pages {
        assert!(run.span.start() >= end && !run.span.is_empty());
        end = run.span.end();
        for at in [run.span.start().get(), run.span.end().get() - 1] {
            match (read(image, at, 64), run.state.refusal()) {
                (Err(cause), Some(refusal)) => assert_eq!(cause, refusal),
                (Ok(_), None) => {}
                (read, refusal) => panic!("{at:#x}: {read:?} and {refusal:?}"),
            }
        }
    }
    for region in &regions {
        let known = pages.within(region.span).map(|run| run.span.len()).sum::<u64>();
        assert_eq!(known, region.span.len(), "every page of a region has a state");
    }
    image.threads().unwrap();
}

fn names(regions: &memfetch::RegionMap) -> Vec<(u64, u64, String, String)> {
    let describe = |region: &Region| {
        let (start, end) = (region.span.start().get(), region.span.end().get());
        (start, end, region.permissions.to_string(), region.name().to_string_lossy().into_owned())
    };
    regions.iter().map(describe).collect()
}

#[test]
fn both_word_sizes_and_byte_orders() {
    for shape in SHAPES {
        let image = Image::from_bytes(full(shape).build()).unwrap();
        let platform = image.platform();
        assert_eq!(platform.machine, shape.machine);
        assert_eq!(platform.page_size, 4096);
        let row = |start, end, permissions: &str, name: &str| (start, end, permissions.into(), name.into());
        let regions = image.regions().unwrap();
        assert_eq!(
            names(&regions),
            [
                row(0x1_0000, 0x1_2000, "r-xp", "/bin/program"),
                row(0x1_2000, 0x1_3000, "rw-p", "/bin/program"),
                row(0x1_3000, 0x1_4000, "rw-p", ""),
                row(0x1_8000, 0x1_a000, "rw-p", "[heap]"),
                row(0x5000_0000, 0x5000_1000, "r--p", "/tmp/gone (deleted)"),
                row(0x6000_0000, 0x6000_1000, "r-xp", "[vdso]"),
                row(0x7000_0000, 0x7000_2000, "rw-p", "[stack]"),
            ],
            "{shape:?}"
        );
        let file = regions.at(Address::new(0x5000_0000)).and_then(Region::file).unwrap();
        assert_eq!((file.offset, file.deleted), (5 * 4096, true));

        let threads = image.threads().unwrap();
        assert_eq!(threads.iter().map(|thread| thread.tid).collect::<Vec<_>>(), [42, 43]);
        let first = &threads[0];
        assert_eq!(first.name, "program");
        assert_eq!(first.registers.set(1).unwrap(), synth::registers(shape, 0x7000_1000));
        assert_eq!(first.registers.set(2).unwrap(), [2; 64]);
        assert_eq!(first.registers.set(0x202).unwrap(), [3; 70]);
        assert_eq!(first.accounting.pending, 0x10);
        assert_eq!(first.accounting.blocked, 0x20);
        assert_eq!(first.accounting.user_ticks, 203);
        assert_eq!(first.accounting.system_ticks, 101);
        let signal = first.signal.as_ref().unwrap();
        assert_eq!((signal.number, signal.bytes.len()), (11, 128));
        assert_eq!(threads[1].registers.set(2).unwrap(), [4; 64]);
        assert_eq!(threads[1].signal, None);

        let process = image.process().unwrap();
        assert_eq!((process.pid, process.parent, process.uid, process.gid), (42, 7, 1000, 100));
        assert_eq!((process.state, &*process.arguments), ('S', "program --with arguments".as_ref()));
        assert_eq!(image.auxv().len(), 4);
        assert!(image.origin().is_none());

        assert_eq!(read(&image, 0x1_0010, 16).unwrap(), pattern(1, 0x1000)[0x10..0x20]);
        exercise(&image);
    }
}

#[test]
fn what_is_not_saved_faults_and_ends_a_prefix() {
    let image = Image::from_bytes(full(SHAPES[0]).build()).unwrap();
    assert_eq!(read(&image, 0x1_0ff0, 64).unwrap().len(), 16);
    assert_eq!(read(&image, 0x1_1000, 64), Err(Cause::NotSaved));
    assert_eq!(read(&image, 0x5000_07ff, 64).unwrap().len(), 1);
    assert_eq!(read(&image, 0x5000_0800, 64), Err(Cause::NotSaved));
    assert_eq!(read(&image, 0x9000_0000, 64), Err(Cause::NotMapped));
    assert_eq!(read(&image, u64::MAX, 64), Err(Cause::NotMapped));
    assert_eq!(image.read_at(Address::new(0x9000_0000), &mut []).unwrap(), 0);
    let across = read(&image, 0x1_2f00, 0x300).unwrap();
    assert_eq!(across[..0x100], pattern(2, 0x1000)[0xf00..], "a read goes on over neighbouring segments");
    assert_eq!(across[0x100..], pattern(3, 0x1000)[..0x200]);
    let runs = image.pages(span(0x1_0800, 0x1_2800)).unwrap();
    let runs: Vec<_> = runs.iter().map(|run| (run.span, run.state)).collect();
    let unsaved = PageState::Unreadable(Cause::NotSaved);
    assert_eq!(
        runs,
        [
            (span(0x1_0800, 0x1_1000), PageState::Resident),
            (span(0x1_1000, 0x1_2000), unsaved),
            (span(0x1_2000, 0x1_2800), PageState::Resident)
        ]
    );
}

#[test]
fn cut_at_every_length() {
    for shape in SHAPES {
        let core = full(shape);
        let whole = core.build();
        let data = usize::try_from(core.data_offset()).unwrap();
        for length in 0..whole.len() {
            // Within the data, only the ends of what it is made of are of interest.
            if length > data + 16 && length % 0x1ff != 0 {
                continue;
            }
            match Image::from_bytes(whole[..length].to_vec()) {
                Ok(image) => {
                    exercise(&image);
                    assert_eq!(image.regions().unwrap().bytes(), 0xa000, "the regions are all there");
                    if length >= data {
                        assert_eq!(image.threads().unwrap().len(), 2);
                    }
                    let missing = image.pages(Span::ALL).unwrap();
                    let missing = missing.bytes_where(|s| s == PageState::Unreadable(Cause::Truncated));
                    assert_eq!(missing, (whole.len() - length.max(data)) as u64);
                }
                Err(error) => assert!(length < data, "{length}: {error}"),
            }
        }
    }
}

#[test]
fn other_files_are_told_apart() {
    let error = |bytes: &[u8]| Image::from_bytes(bytes.to_vec()).unwrap_err().to_string();
    assert_eq!(error(b""), "it is no ELF core");
    assert_eq!(error(b"#!/bin/sh\n"), "it is no ELF core");
    assert_eq!(error(b"\x7fELF"), "it ends within its ELF header");
    let program = std::fs::read("/proc/self/exe").unwrap();
    assert!(error(&program).starts_with("it is an ELF "), "{}", error(&program));
    let folder = tempfile::tempdir().unwrap();
    let message = Image::open(folder.path()).unwrap_err();
    assert!(message.to_string().ends_with("is no image that can be read"), "{message}");
}

#[test]
fn more_segments_than_the_header_can_count() {
    for shape in SHAPES {
        let mut core = full(shape);
        core.counted_by_section = true;
        let plain = full(shape).build();
        let counted = core.build();
        let image = Image::from_bytes(counted.clone()).unwrap();
        assert_eq!(image.regions().unwrap().len(), 7);
        exercise(&image);
        // The section header stands last: it is the first to go, and the notes tell where the table ends.
        let image = Image::from_bytes(counted[..plain.len()].to_vec()).unwrap();
        assert_eq!(image.regions().unwrap().len(), 7);
    }
}

#[test]
fn seventy_thousand_segments() {
    let mut core = Core::new(SHAPES[0]);
    for n in 0..70_000 {
        core.loads.push(Load::new(0x10_0000 + n * 0x2000, 0x1000, 6, vec![n as u8]));
    }
    core.counted_by_section = true;
    let image = Image::from_bytes(core.build()).unwrap();
    assert_eq!(image.regions().unwrap().len(), 70_000);
    assert_eq!(read(&image, 0x10_0000 + 69_999 * 0x2000, 8).unwrap(), [69_999_u32 as u8]);
}

#[test]
fn overlapping_segments_are_cut() {
    let core = Core::new(SHAPES[0]).load(Load::new(0x1000, 0x2000, 6, vec![1; 0x2000])).load(Load::new(
        0x2000,
        0x2000,
        6,
        pattern(9, 0x2000),
    ));
    let image = Image::from_bytes(core.build()).unwrap();
    let both = read(&image, 0x2fff, 2).unwrap();
    assert_eq!(both, [1, pattern(9, 0x2000)[0x1000]]);
    exercise(&image);
}

#[test]
fn numbers_of_gdb_count_offsets_in_bytes() {
    let shape = SHAPES[0];
    let mut note = synth::Fields::new(shape).long(1).long(1);
    note = note.long(0x1000).long(0x3000).long(0x5000).raw(b"/x\0");
    let core =
        Core::new(shape).note("CORE", 0x4649_4c45, &note.bytes).load(Load::new(0x2000, 0x1000, 4, vec![]));
    let image = Image::from_bytes(core.build()).unwrap();
    let regions = image.regions().unwrap();
    assert_eq!(regions.at(Address::new(0x2000)).and_then(Region::file).unwrap().offset, 0x6000);
}

#[test]
fn claims_that_the_file_cannot_keep() {
    let shape = SHAPES[0];
    // A descriptor of 4 GiB, NT_FILE with 2^64 entries, a segment that ends behind the last address.
    let mut core =
        Core::new(shape).note("CORE", 0x4649_4c45, &synth::Fields::new(shape).long(u64::MAX).long(1).bytes);
    core = core.load(Load::new(u64::MAX - 0xfff, u64::MAX, 6, vec![1; 32]));
    exercise(&Image::from_bytes(core.build()).unwrap());
    let mut core = Core::new(shape);
    core.notes = synth::Fields::new(shape).int(5).int(u32::MAX).int(1).raw(b"CORE\0\0\0\0").bytes;
    exercise(&Image::from_bytes(core.build()).unwrap());
    let mut bytes = full(shape).build();
    bytes[56..58].copy_from_slice(&[0xfe, 0xff]);
    assert_eq!(Image::from_bytes(bytes).unwrap_err().to_string(), "it ends within its program headers");
}

/// A file of 1 TiB that is nearly all hole justifies no memory and no time.
#[test]
fn a_sparse_file_of_nothing() {
    let shape = SHAPES[0];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sparse");
    let open = |head: &[u8], apparent: u64| {
        std::fs::write(&path, head).unwrap();
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(apparent).unwrap();
        let begun = std::time::Instant::now();
        let image = Image::open(&path);
        assert!(begun.elapsed().as_secs() < 5);
        image.map_err(|error| std::error::Error::source(&error).unwrap().to_string())
    };
    let core = full(shape).build();
    let mut notes = core.clone();
    notes[64 + 32..64 + 40].copy_from_slice(&(1_u64 << 39).to_le_bytes());
    assert_eq!(open(&notes, 1 << 40).unwrap_err(), "its notes take more room than it has");
    let mut counted = full(shape);
    counted.counted_by_section = true;
    let mut counted = counted.build();
    let info = counted.len() - 64 + 44;
    counted[info..info + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(open(&counted, 1 << 40).unwrap_err(), "it claims 4294967295 program headers");
    // A million headers of nothing, which the file does have.
    counted[info..info + 4].copy_from_slice(&1_000_000_u32.to_le_bytes());
    assert_eq!(open(&counted, 1 << 40).unwrap().regions().unwrap().len(), 7);
    let image = open(&core, 1 << 40).unwrap();
    exercise(&image);
}

#[test]
fn note_segments_over_one_another_cost_no_time() {
    let shape = SHAPES[0];
    let mut bytes = full(shape).build();
    // Every program header becomes a note over the whole file.
    for header in 0..9 {
        let at = 64 + 56 * header;
        bytes[at..at + 4].copy_from_slice(&4_u32.to_le_bytes());
        bytes[at + 8..at + 16].copy_from_slice(&0_u64.to_le_bytes());
        bytes[at + 32..at + 40].copy_from_slice(&u64::MAX.to_le_bytes());
    }
    assert_eq!(Image::from_bytes(bytes).unwrap_err().to_string(), "its notes take more room than it has");
}

#[test]
fn mappings_that_only_the_notes_know_are_mapped() {
    let shape = SHAPES[0];
    let mapped = [(0x1000, 0x5000, 1, "/a"), (0x4000, 0x6000, 0, "/over"), (0x9000, 0xa000, 0, "/b")];
    let core = Core::new(shape)
        .note("CORE", 0x4649_4c45, &synth::files(shape, &mapped))
        .load(Load::new(0x2000, 0x1000, 6, pattern(1, 0x1000)))
        .load(Load::new(0x3000, 0x1000, 5, pattern(2, 0x1000)));
    let image = Image::from_bytes(core.build()).unwrap();
    let row = |start, end, permissions: &str, name: &str| (start, end, permissions.into(), name.into());
    assert_eq!(
        names(&image.regions().unwrap()),
        [
            row(0x1000, 0x2000, "---p", "/a"),
            row(0x2000, 0x3000, "rw-p", "/a"),
            row(0x3000, 0x4000, "r-xp", "/a"),
            row(0x4000, 0x6000, "---p", "/over"),
            row(0x9000, 0xa000, "---p", "/b"),
        ]
    );
    assert_eq!(read(&image, 0x1000, 1), Err(Cause::NotSaved));
    exercise(&image);
}

#[test]
fn the_pages_of_the_vdso_are_named() {
    let shape = SHAPES[0];
    for (below, expected) in [
        (vec![], vec!["[vdso]"]),
        (vec![0x6000], vec!["[vvar]", "[vdso]"]),
        (vec![0x5000, 0x6000], vec!["[vvar]", "[vvar_vclock]", "[vdso]"]),
        (vec![0x5000], vec!["", "[vdso]"]),
    ] {
        let mut core = Core::new(shape).note("CORE", 6, &synth::auxv(shape, &[(33, 0x7000)]));
        core = core.load(Load::new(0x7000, 0x1000, 5, vec![]));
        for start in below {
            core = core.load(Load::new(start, 0x1000, 4, vec![]));
        }
        let image = Image::from_bytes(core.build()).unwrap();
        let regions = names(&image.regions().unwrap());
        assert_eq!(regions.into_iter().map(|(.., name)| name).collect::<Vec<_>>(), expected);
    }
}

#[test]
fn the_stack_is_found_by_the_stack_pointer_too() {
    for shape in SHAPES {
        let core = Core::new(shape)
            .note("CORE", 1, &synth::prstatus(shape, 0, 42, &synth::registers(shape, 0x7000_1000)))
            .load(Load::new(0x7000_0000, 0x2000, 6, vec![]));
        let image = Image::from_bytes(core.build()).unwrap();
        assert_eq!(image.regions().unwrap().as_slice()[0].backing, Backing::Stack, "{shape:?}");
    }
}

/// A shape of a core, by its number.
fn shapes() -> impl Strategy<Value = Shape> {
    (0..SHAPES.len()).prop_map(|index| SHAPES[index])
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..4096), head in any::<bool>()) {
        if head && bytes.len() > 20 {
            bytes[..20].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 62, 0]);
        }
        let begun = std::time::Instant::now();
        if let Ok(image) = Image::from_bytes(bytes) {
            exercise(&image);
        }
        prop_assert!(begun.elapsed().as_secs() < 2);
    }

    #[test]
    fn mutated_cores_never_panic(
        shape in shapes(),
        changes in prop::collection::vec((0..2600_usize, any::<u8>()), 1..12),
        words in prop::collection::vec((0..300_usize, prop_oneof![Just(u64::MAX), Just(1 << 63), Just(0x1000), any::<u64>()]), 0..4),
    ) {
        let mut bytes = full(shape).build();
        for (at, value) in changes {
            bytes[at] = value;
        }
        for (at, value) in words {
            bytes[at * 8..at * 8 + 8].copy_from_slice(&value.to_le_bytes());
        }
        let begun = std::time::Instant::now();
        if let Ok(image) = Image::from_bytes(bytes) {
            exercise(&image);
        }
        prop_assert!(begun.elapsed().as_secs() < 2);
    }
}

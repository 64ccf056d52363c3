//! Images of ours, built from literals: the note, the trailer, and what `verify` says of them.

mod synth;

use memfetch::image::record::{Contents, Mode, Origin, Outcome};
use memfetch::image::trailer::{self, BLOCK, BlockHasher, Extent, Trailer};
use memfetch::image::verify::{Alteration, Part, verify_bytes};
use memfetch::image::{Completeness, Shortfall, Verdict, note};
use memfetch::{Address, Cause, Image, Memory, PageRuns, PageState, ReadError, Span, Threads, Touch};
use proptest::prelude::*;
use synth::{Core, Fields, Load, SHAPES, pattern};

fn span(start: u64, end: u64) -> Span {
    Span::new(Address::new(start), Address::new(end)).unwrap()
}

fn origin(trailer_offset: u64) -> Origin {
    Origin {
        version: "0.1.0".into(),
        pid: 42,
        started_ns: 1,
        host: "host".into(),
        kernel: "6.18".into(),
        mode: Mode::Freeze,
        contents: Contents::Default,
        touch: Touch::Stored,
        trailer_offset,
    }
}

/// LEB128, one digit of 128 after the other.
fn leb(mut value: u64) -> Vec<u8> {
    let mut digits = vec![(value % 128) as u8];
    while value >= 128 {
        value /= 128;
        *digits.last_mut().unwrap() += 128;
        digits.push((value % 128) as u8);
    }
    digits
}

/// A trailer as the module's documentation has it, from sections.
fn literal(sections: &[(u32, Vec<u8>)]) -> Vec<u8> {
    let body: usize = sections.iter().map(|(_, bytes)| 12 + bytes.len()).sum();
    let length = (16 + 4 + 8 + body + 32 + 8 + 8) as u64;
    let mut out = b"MEMFETCH-TRAILER".to_vec();
    out.extend(1_u32.to_le_bytes());
    out.extend(length.to_le_bytes());
    for (kind, bytes) in sections {
        out.extend(kind.to_le_bytes());
        out.extend((bytes.len() as u64).to_le_bytes());
        out.extend(bytes);
    }
    let root = blake3::hash(&out);
    out.extend(root.as_bytes());
    out.extend(b"MF-WHOLE");
    out.extend(length.to_le_bytes());
    out
}

const OUTCOME: &[u8] = br#"{"finished_ns":9,"pause_ns":8,"stops":1,"threads":1,"partial_threads":0,"rewound_calls":0,"read_bytes":4096,"file_bytes":0,"absent_bytes":0,"unwanted_bytes":0,"gaps":[{"span":{"start":"0x12000","end":"0x13000"},"cause":"vanished"}],"remarks":["a remark"]}"#;

const MAPS: &[u8] =
    b"00010000-00014000 rw-s 00000000 00:01 77                                 /memfd:it (deleted)\n\
00020000-00022000 ---p 00000000 00:00 0                                  [anon:fenced]\n\
00030000-00031000 r--p 00000000 00:00 0                                  [vvar]\n";

/// Kinds and bytes.
type Sections = Vec<(u32, Vec<u8>)>;

/// Where the image of ours has its data and its trailer.
const DATA: u64 = BLOCK - 0x1000;
const TRAILER: u64 = DATA + 0x6000;

/// The core without its trailer: a page read, one absent, one gap with filler, one that is not spoken of; then a segment of
/// which nothing is in the file. All of it lies over a border of blocks.
fn core() -> Vec<u8> {
    let shape = SHAPES[0];
    let mut bytes = pattern(1, 0x4000);
    bytes[0x1000..0x2000].fill(0);
    bytes[0x2000..0x3000].fill(0xee);
    bytes[0x3000..].fill(0);
    let mut first = Load::new(0x1_0000, 0x4000, 6, bytes);
    first.offset = DATA;
    let mut json = br#"{"version":"0.1.0","pid":42,"started_ns":1,"host":"host","kernel":"6.18","mode":"freeze","contents":"default","touch":"stored","trailer_offset":"#.to_vec();
    json.extend(format!("{TRAILER}}}   ").bytes());
    let mut stopped = Fields::new(shape).int(19).bytes;
    stopped.resize(128, 0);
    let core = Core::new(shape)
        .note("CORE", 1, &synth::prstatus(shape, 19, 42, &synth::registers(shape, 0x1_0000)))
        .note("CORE", 0x5349_4749, &stopped)
        .note("MEMFETCH", note::TYPE_ORIGIN, &json)
        .load(first)
        .load(Load::new(0x2_0000, 0x2000, 0, Vec::new()));
    let mut file = core.build();
    file.resize(TRAILER as usize, 0);
    file
}

/// The extents: the headers, the page that was read, and the filler.
fn extents() -> Vec<(u64, u64)> {
    vec![(0, 0x400), (DATA, 0x1000), (DATA + 0x2000, 0x1000)]
}

fn sections(file: &[u8]) -> Sections {
    let mut pages = vec![12];
    for (distance, length, state) in
        [(0x10, 1, 2), (0, 1, 0), (0, 1, 16 + 1), (0x20 - 0x13, 1, 0), (0, 1, 16 + 15)]
    {
        pages.extend(leb(distance));
        pages.extend(leb(length));
        pages.extend(leb(state));
    }
    pages.extend(leb(5));
    let mut extent_bytes = vec![10];
    let mut end = 0;
    for (offset, len) in extents() {
        extent_bytes.extend(leb((offset - end) >> 10));
        extent_bytes.extend(leb(len >> 10));
        end = offset + len;
    }
    // The first block has the headers and the page, the second the filler.
    let hash = |parts: &[(u64, u64)]| {
        let mut text = Vec::new();
        for (offset, len) in parts {
            text.extend(offset.to_le_bytes());
            text.extend(len.to_le_bytes());
            text.extend(&file[*offset as usize..][..*len as usize]);
        }
        *blake3::hash(&text).as_bytes()
    };
    let mut digests = hash(&extents()[..2]).to_vec();
    digests.extend(hash(&extents()[2..]));
    vec![
        (5, digests),
        (1, OUTCOME.to_vec()),
        (77, b"of a later version".to_vec()),
        (2, MAPS.to_vec()),
        (3, pages),
        (4, extent_bytes),
    ]
}

fn whole() -> Vec<u8> {
    let mut file = core();
    let trailer = literal(&sections(&file));
    file.extend(trailer);
    file
}

fn check(bytes: &[u8]) -> Verdict {
    verify_bytes(bytes.to_vec(), &mut |done, total| assert!(done <= total)).unwrap()
}

fn altered(start: u64, len: u64, part: Part, memory: &[Span]) -> Alteration {
    Alteration { of: None, file: Extent { offset: start, len }, part, memory: memory.to_vec() }
}

#[test]
fn a_trailer_makes_an_image_exact() {
    let image = Image::from_bytes(whole()).unwrap();
    assert_eq!(*image.completeness(), Completeness::Complete);
    assert_eq!(*image.origin().unwrap(), origin(TRAILER));
    let outcome = image.outcome().unwrap();
    assert_eq!(
        (outcome.finished_ns, outcome.gaps.bytes(), &outcome.remarks[..]),
        (9, 0x1000, &["a remark".into()][..])
    );
    assert_eq!(image.threads().unwrap()[0].signal, None, "SIGSTOP stands for no signal");

    let regions = image.regions().unwrap();
    let names: Vec<_> =
        regions.iter().map(|region| (region.permissions.to_string(), region.name())).collect();
    let row = |permissions: &str, name: &str| (permissions.to_owned(), name.into());
    assert_eq!(
        names,
        [row("rw-s", "/memfd:it (deleted)"), row("---p", "[anon:fenced]"), row("r--p", "[vvar]")]
    );

    let runs = image.pages(Span::ALL).unwrap();
    let runs: Vec<_> = runs.iter().map(|run| (run.span, run.state)).collect();
    assert_eq!(
        runs,
        [
            (span(0x1_0000, 0x1_1000), PageState::Resident),
            (span(0x1_1000, 0x1_2000), PageState::Absent),
            (span(0x1_2000, 0x1_3000), PageState::Unreadable(Cause::Vanished)),
            (span(0x1_3000, 0x1_4000), PageState::Unreadable(Cause::NotSaved)),
            (span(0x2_0000, 0x2_1000), PageState::Absent),
            (span(0x2_1000, 0x2_2000), PageState::Unreadable(Cause::Os(5))),
            (span(0x3_0000, 0x3_1000), PageState::Unreadable(Cause::NotSaved)),
        ]
    );
    let mut buf = vec![0xaa; 0x4000];
    assert_eq!(image.read_at(Address::new(0x1_0000), &mut buf).unwrap(), 0x2000);
    assert_eq!(buf[..0x1000], pattern(1, 0x1000));
    assert!(buf[0x1000..0x2000].iter().all(|&byte| byte == 0));
    assert!(buf[0x2000..].iter().all(|&byte| byte == 0xaa));
    assert_eq!(
        image.read_at(Address::new(0x2_0ff0), &mut buf).unwrap(),
        16,
        "known zero without a byte in the file"
    );
    let fault = image.read_at(Address::new(0x1_2000), &mut buf).unwrap_err();
    assert!(
        matches!(fault, ReadError::Fault(fault) if fault.cause == Cause::Vanished),
        "filler is not memory"
    );
}

#[test]
fn verify_finds_every_altered_byte() {
    let bytes = whole();
    assert_eq!(check(&bytes), Verdict::Whole { bytes: bytes.len() as u64 });
    let flip = |at: u64| {
        let mut bytes = bytes.clone();
        bytes[at as usize] ^= 0x10;
        check(&bytes)
    };
    let first = altered(0, BLOCK, Part::Written, &[span(0x1_0000, 0x1_1000)]);
    assert_eq!(flip(DATA + 7), Verdict::Altered { ranges: vec![first.clone()] });
    assert_eq!(flip(0x101), Verdict::Altered { ranges: vec![first] });
    // Even where the file is no ELF any more.
    assert!(matches!(flip(0), Verdict::Altered { ranges } if ranges[0].file.len == BLOCK));
    let second = altered(DATA + 0x2000, 0x1000, Part::Written, &[span(0x1_2000, 0x1_3000)]);
    assert_eq!(flip(DATA + 0x2fff), Verdict::Altered { ranges: vec![second] });
    let hole = altered(DATA + 0x1008, 1, Part::Unwritten, &[span(0x1_1008, 0x1_1009)]);
    assert_eq!(flip(DATA + 0x1008), Verdict::Altered { ranges: vec![hole] });
    let before = altered(0x4000, 1, Part::Unwritten, &[]);
    assert_eq!(flip(0x4000), Verdict::Altered { ranges: vec![before] });
    let last = altered(TRAILER - 1, 1, Part::Unwritten, &[]);
    assert_eq!(flip(TRAILER - 1), Verdict::Altered { ranges: vec![last] });
    let trailer = altered(TRAILER, bytes.len() as u64 - TRAILER, Part::Trailer, &[]);
    for at in
        [TRAILER, TRAILER + 16, TRAILER + 20, TRAILER + 300, bytes.len() as u64 - 30, bytes.len() as u64 - 1]
    {
        assert_eq!(flip(at), Verdict::Altered { ranges: vec![trailer.clone()] }, "{at:#x}");
        let mut bytes = bytes.clone();
        bytes[at as usize] ^= 0x10;
        let image = Image::from_bytes(bytes).unwrap();
        assert!(matches!(image.completeness(), Completeness::Incomplete(_)), "{at:#x}");
    }
}

#[test]
fn verify_knows_what_is_missing_and_what_is_too_much() {
    let bytes = whole();
    let length = bytes.len() as u64;
    for (cut, why, expected_bytes) in [
        (0x800, Shortfall::Data, TRAILER),
        (DATA + 0x2800, Shortfall::Data, TRAILER),
        (TRAILER, Shortfall::Data, TRAILER),
        (TRAILER + 10, Shortfall::Trailer, TRAILER),
        (TRAILER + 100, Shortfall::Trailer, length),
        (length - 1, Shortfall::Trailer, length),
    ] {
        let short = &bytes[..cut as usize];
        assert_eq!(
            check(short),
            Verdict::Incomplete { why: why.clone(), present_bytes: cut, expected_bytes },
            "{cut:#x}"
        );
        let image = Image::from_bytes(short.to_vec()).unwrap();
        assert_eq!(*image.completeness(), Completeness::Incomplete(why));
        assert_eq!(image.threads().unwrap().len(), 1);
        assert_eq!(image.regions().unwrap().bytes(), 0x6000);
    }
    let mut longer = bytes.clone();
    longer.extend_from_slice(b"more");
    let behind = altered(length, 4, Part::Behind, &[]);
    assert_eq!(check(&longer), Verdict::Altered { ranges: vec![behind] });
}

#[test]
fn verify_says_of_foreign_cores_what_can_be_said() {
    let bytes = synth::full(SHAPES[1]).build();
    let length = bytes.len() as u64;
    assert_eq!(check(&bytes), Verdict::Unverifiable { bytes: length });
    let cut = Verdict::Incomplete { why: Shortfall::Data, present_bytes: length - 9, expected_bytes: length };
    assert_eq!(check(&bytes[..bytes.len() - 9]), cut);
    assert!(verify_bytes(b"no core".to_vec(), &mut |_, _| {}).is_err());
}

#[test]
fn verify_skips_the_holes_of_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sparse.core");
    let file = std::fs::File::create(&path).unwrap();
    let bytes = whole();
    let write = |at: u64, len: u64| {
        std::os::unix::fs::FileExt::write_all_at(&file, &bytes[at as usize..][..len as usize], at).unwrap();
    };
    for (offset, len) in extents() {
        write(offset, len);
    }
    write(TRAILER, bytes.len() as u64 - TRAILER);
    let verdict = memfetch::image::verify(&path, &mut |_, _| {}).unwrap();
    assert_eq!(verdict, Verdict::Whole { bytes: bytes.len() as u64 });
    std::os::unix::fs::FileExt::write_all_at(&file, b"x", DATA + 0x1000).unwrap();
    let verdict = memfetch::image::verify(&path, &mut |_, _| {}).unwrap();
    assert!(
        matches!(verdict, Verdict::Altered { ranges } if ranges[0].file == Extent { offset: DATA + 0x1000, len: 1 })
    );
}

#[test]
fn the_encoder_writes_what_is_documented() {
    let file = core();
    let mut sections = sections(&file);
    let decoded = Trailer::decode(&literal(&sections)).unwrap();
    assert_eq!(
        decoded.extents.iter().map(|extent| (extent.offset, extent.len)).collect::<Vec<_>>(),
        extents()
    );
    assert_eq!(decoded.maps, MAPS);
    assert_eq!(decoded.pages.len(), 5);
    sections.retain(|(kind, _)| *kind < 6);
    sections.sort();
    // The writer's units are the largest that fit: pages for both, here.
    let again = decoded.encode();
    assert_eq!(again, literal(&sections), "in this order, without what it does not know");
    let mut digests = Vec::new();
    let mut parts = trailer::parts(&decoded.extents).peekable();
    while let Some(first) = parts.next() {
        let mut hasher = BlockHasher::new();
        hasher.part(first.offset, &file[first.offset as usize..first.end() as usize]);
        while let Some(part) = parts.next_if(|part| part.offset / BLOCK == first.offset / BLOCK) {
            hasher.part(part.offset, &file[part.offset as usize..part.end() as usize]);
        }
        digests.push(hasher.finish());
    }
    assert_eq!(digests, decoded.digests);
}

#[test]
fn a_trailer_is_refused_for_what_is_wrong_with_it() {
    let sections = sections(&core());
    let error = |change: &dyn Fn(&mut Sections)| {
        let mut changed = sections.clone();
        change(&mut changed);
        Trailer::decode(&literal(&changed)).unwrap_err().to_string()
    };
    assert_eq!(error(&|s| s.retain(|(kind, _)| *kind != 4)), "its trailer has no section 4");
    assert_eq!(error(&|s| s[0].1.push(0)), "its trailer has part of a digest");
    assert_eq!(error(&|s| s[4].1.push(0x80)), "its trailer has page runs that make no sense");
    assert_eq!(error(&|s| s[5].1.extend([1, 0])), "its trailer has extents that make no sense");
    assert_eq!(error(&|s| s[5].1[0] = 64), "its trailer has extents that make no sense");
    assert_eq!(error(&|s| s[5].1.extend([0xff; 12])), "its trailer has extents that make no sense");
    let good = literal(&sections);
    for length in 0..good.len() {
        assert!(Trailer::decode(&good[..length]).is_err(), "{length}");
    }
    let mut version = good.clone();
    version[16] = 2;
    assert_eq!(
        Trailer::decode(&version).unwrap_err().to_string(),
        "its trailer is of version 2, which is not known here"
    );
}

#[test]
fn the_note_is_padded_json() {
    let bytes = note::encode(&origin(u64::MAX));
    assert_eq!(bytes.len() % 4, 0);
    assert_eq!(note::decode(&bytes).unwrap(), origin(u64::MAX));
    assert_eq!(
        note::decode(b"{}").unwrap_err().to_string().split(':').next(),
        Some("its MEMFETCH note makes no sense")
    );
    let mut bytes = whole();
    let at = bytes.windows(9).position(|text| text == b"{\"version").unwrap();
    bytes[at] = b'x';
    bytes.truncate(TRAILER as usize);
    let image = Image::from_bytes(bytes.clone()).unwrap();
    assert!(matches!(image.completeness(), Completeness::Incomplete(Shortfall::NoteDamaged(_))));
    assert!(matches!(check(&bytes), Verdict::Incomplete { why: Shortfall::NoteDamaged(_), .. }));
}

fn states() -> impl Strategy<Value = PageState> {
    use PageState::*;
    let plain =
        prop::sample::select(vec![Absent, Zero, Resident, Swapped, Backed, FileResident, FileClean, Guard]);
    let causes = vec![
        Cause::NotMapped,
        Cause::Vanished,
        Cause::Guard,
        Cause::BeyondFile,
        Cause::Secret,
        Cause::Device,
        Cause::NotPermitted,
        Cause::SharedUnknown,
        Cause::FileUnavailable,
        Cause::NotSaved,
        Cause::Truncated,
        Cause::TimedOut,
        Cause::Ended,
    ];
    let os = any::<i32>().prop_map(|errno| Unreadable(Cause::Os(errno)));
    prop_oneof![plain, prop::sample::select(causes).prop_map(Unreadable), os]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn trailers_survive_encoding(
        runs in prop::collection::vec((0..1_u64 << 40, 1..1_u64 << 40, states()), 0..20),
        gaps in prop::collection::vec((0..1_u64 << 40, 1..1_u64 << 40), 0..20),
        shift in 0..20_u32,
        maps in prop::collection::vec(any::<u8>(), 0..200),
        digests in prop::collection::vec(any::<[u8; 32]>(), 0..5),
        flip in any::<prop::sample::Index>(),
    ) {
        let mut pages = PageRuns::new();
        let mut end = 0;
        for (distance, len, state) in runs {
            let start = end + (distance << shift);
            end = start + (len << shift);
            pages.push(span(start, end), state);
        }
        let mut extents = Vec::new();
        let mut end = 0;
        for (distance, len) in gaps {
            let offset = end + (distance << shift);
            extents.push(Extent { offset, len: len << shift });
            end = offset + (len << shift);
        }
        let outcome = Outcome { pause_ns: u64::MAX, remarks: vec!["é\n".into()], ..Outcome::default() };
        let trailer = Trailer { outcome, maps, pages, extents, digests };
        let mut bytes = trailer.encode();
        prop_assert_eq!(&Trailer::decode(&bytes).unwrap(), &trailer);
        let at = flip.index(bytes.len());
        bytes[at] ^= 1;
        prop_assert!(Trailer::decode(&bytes).is_err());
    }

    #[test]
    fn arbitrary_sections_never_panic(
        sections in prop::collection::vec((0..7_u32, prop::collection::vec(any::<u8>(), 0..60)), 0..8),
    ) {
        let mut all = vec![(1, OUTCOME.to_vec()), (2, MAPS.to_vec())];
        all.extend(sections);
        let mut file = core();
        file.extend(literal(&all));
        let _ = Image::from_bytes(file.clone()).unwrap().pages(Span::ALL);
        let _ = verify_bytes(file, &mut |_, _| {});
    }
}

//! What each fuzz target does with its input. The library's own tests run the seeds through the same functions.

use std::sync::Arc;

use memfetch::image::directory::classic::ClassicIndex;
use memfetch::image::directory::index::{Ending, Index};
use memfetch::image::trailer::Trailer;
use memfetch::image::verify::verify_bytes;
use memfetch::query::atlas::Atlas;
use memfetch::query::find::{Encoding, Pattern, Search};
use memfetch::query::place::Where;
use memfetch::query::symbols::{self, Symbols};
use memfetch::query::values::{Type, encode};
use memfetch::source::{FileBehind, ReadFile};
use memfetch::{
    Address, ByteOrder, Error, Image, Memory, PageRuns, PageSource, PageState, Platform, ReadError, Region,
    RegionMap, Selector, Source, Span, Threads, Touch, maps as text,
};

/// The text of `/proc/PID/maps`: what was understood is printed so that it is understood again.
pub fn maps(bytes: &[u8]) {
    let Ok(map) = text::parse(bytes) else { return };
    let again = text::parse(&text::print(&map)).expect("what is printed is a map");
    let outline =
        |map: &RegionMap| -> Vec<_> { map.iter().map(|region| (region.span, region.permissions)).collect() };
    assert_eq!(outline(&map), outline(&again));
}

/// A core: whatever it says, its pages ascend, its regions have pages, and a read does what its page's state says.
pub fn core(bytes: &[u8]) {
    let _ = verify_bytes(bytes.to_vec(), &mut |done, total| assert!(done <= total));
    let Ok(image) = Image::from_bytes(bytes.to_vec()) else { return };
    let pages = image.pages(Span::ALL).expect("an image knows its pages");
    let regions = image.regions().expect("an image knows its regions");
    assert!(image.threads().is_ok());
    let mut end = Address::ZERO;
    for run in &pages {
        assert!(run.span.start() >= end && !run.span.is_empty());
        end = run.span.end();
    }
    for run in pages.iter().take(64) {
        let mut buf = [0; 100];
        for at in [run.span.start().get(), run.span.end().get() - 1] {
            match (image.read_at(Address::new(at), &mut buf), run.state.refusal()) {
                (Ok(read), None) => assert!(read > 0 && read <= buf.len()),
                (Err(ReadError::Fault(fault)), Some(cause)) => {
                    assert_eq!((fault.at, fault.cause), (Address::new(at), cause));
                }
                (read, refusal) => panic!("{at:#x}: {read:?} where the page says {refusal:?}"),
            }
        }
    }
    for region in &regions {
        let known: u64 = pages.within(region.span).map(|run| run.span.len()).sum();
        assert_eq!(known, region.span.len(), "every page of a region has a state");
    }
}

/// A trailer, or the sections of one: what was understood is written so that it is understood alike.
pub fn trailer(bytes: &[u8]) {
    let _ = Trailer::decode(bytes);
    // No fuzzer finds a digest: the sections get a frame that is right.
    let length = (28 + bytes.len() + 48) as u64;
    let mut framed = b"MEMFETCH-TRAILER\x01\0\0\0".to_vec();
    framed.extend(length.to_le_bytes());
    framed.extend(bytes);
    let root = blake3::hash(&framed);
    framed.extend(root.as_bytes());
    framed.extend(b"MF-WHOLE");
    framed.extend(length.to_le_bytes());
    if let Ok(trailer) = Trailer::decode(&framed) {
        assert_eq!(Trailer::decode(&trailer.encode()).expect("what is written is a trailer"), trailer);
    }
}

/// A place in words: what was understood is printed so that it is understood alike, and leads somewhere or nowhere.
pub fn place(bytes: &[u8]) {
    let Ok(words) = std::str::from_utf8(bytes) else { return };
    let Ok(place) = words.parse::<Where>() else { return };
    let again: Where = place.to_string().parse().expect("what is printed is a place");
    assert_eq!(place.to_string(), again.to_string());
    let core = include_bytes!("seeds/core/64-little");
    let image = Image::from_bytes(core.to_vec()).expect("the seed is a core");
    let mut atlas = Atlas::new(&image, Touch::Stored).expect("an image knows its regions");
    match (place.resolve(&mut atlas), again.resolve(&mut atlas)) {
        (Ok(one), Ok(other)) => assert_eq!(one, other),
        (one, other) => assert_eq!(one.is_err(), other.is_err()),
    }
}

/// An ELF file that is mapped as a whole: its symbols, from the file and from memory.
pub fn elf(bytes: &[u8]) {
    for has_file in [true, false] {
        let mapped = Mapped { bytes: Arc::new(bytes.to_vec()), has_file };
        let region = mapped.region();
        let _ = symbols::extent(&mapped, Touch::Stored, &region);
        let Ok(found) = Symbols::of(&mapped, Touch::Stored, &region) else { continue };
        for at in [BASE, BASE + 0x1000, BASE + bytes.len() as u64, 0, u64::MAX] {
            let Some((symbol, offset)) = found.holding(Address::new(at)) else { continue };
            assert_eq!(symbol.address.get().wrapping_add(offset), at);
            assert!(!symbol.name.is_empty());
            let _ = found.named(&symbol.name, symbol.version.as_deref());
        }
        assert!(found.named("", None).is_empty());
    }
}

const BASE: u64 = 0x10_0000;

/// A space with one mapping, of all of a file.
#[derive(Clone)]
struct Mapped {
    bytes: Arc<Vec<u8>>,
    has_file: bool,
}

impl Mapped {
    fn region(&self) -> Region {
        let end = BASE + self.bytes.len().max(1).next_multiple_of(4096) as u64;
        let line = format!("{BASE:x}-{end:x} r-xp 00000000 08:01 5 /lib/a.so\n");
        text::parse(line.as_bytes()).expect("a line of a map").as_slice()[0].clone()
    }
}

impl Memory for Mapped {
    fn platform(&self) -> &Platform {
        &Platform::X86_64
    }

    fn regions(&self) -> Result<RegionMap, Error> {
        Ok(RegionMap::new(vec![self.region()]))
    }

    fn pages(&self, span: Span) -> Result<PageRuns, Error> {
        let mut runs = PageRuns::new();
        if let Some(span) = self.region().span.intersection(span) {
            runs.push(span, PageState::Resident);
        }
        Ok(runs)
    }

    fn read_at(&self, at: Address, buf: &mut [u8]) -> Result<usize, ReadError> {
        buf.fill(0);
        let read = ReadFile::read_at(self, at.get() - BASE, buf).expect("bytes can be read");
        Ok(read.max(buf.len()))
    }
}

impl PageSource for Mapped {
    fn fetch(&self, _: &Region, _: PageState, at: Address, buf: &mut [u8]) -> Result<usize, ReadError> {
        Memory::read_at(self, at, buf)
    }

    fn touch(&self, _: &Region, at: Address, buf: &mut [u8]) -> Result<usize, ReadError> {
        Memory::read_at(self, at, buf)
    }
}

impl Source for Mapped {
    fn handle(&self) -> Arc<dyn Source> {
        Arc::new(self.clone())
    }

    fn file_behind(&self, _: &Region) -> Option<FileBehind> {
        self.has_file.then(|| FileBehind { file: Arc::new(self.clone()), is_certain: true })
    }
}

impl ReadFile for Mapped {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> std::io::Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|at| self.bytes.get(at..)).unwrap_or_default();
        let read = rest.len().min(buf.len());
        buf[..read].copy_from_slice(&rest[..read]);
        Ok(read)
    }
}

/// The index of a region directory, of either kind: what was understood of ours is written so that it is understood
/// alike, and no name in either leads out of its directory.
pub fn index(bytes: &[u8]) {
    let is_plain = |name: &str| !name.contains('/') && name.ends_with(".bin");
    if let Ok(index) = ClassicIndex::decode(bytes) {
        assert!(index.entries.iter().all(|entry| is_plain(&entry.file)));
    }
    // No fuzzer finds a digest: the text gets an end that is right.
    let mut ended = bytes.to_vec();
    ended.extend(format!("end {}\n", blake3::hash(bytes).to_hex()).as_bytes());
    for text in [bytes, &ended] {
        let Ok(index) = Index::decode(text) else { continue };
        let files = index.entries.iter().filter_map(|entry| entry.file.as_ref());
        assert!(files.into_iter().all(|file| is_plain(&file.name)));
        let again = Index::decode(&index.encode()).expect("what is written is an index");
        assert_eq!(again, Index { ending: Ending::Whole, ..index });
    }
}

/// Patterns as they are typed, one a line: what is understood is found where it was put, and nowhere that it is not.
pub fn pattern(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    // To the end of the page, as it is mapped.
    let mut page = bytes.to_vec();
    page.resize(bytes.len().max(1).next_multiple_of(4096), 0);
    for (number, line) in text.lines().take(8).enumerate() {
        for order in [ByteOrder::Little, ByteOrder::Big] {
            for (name, kind) in Type::NAMES {
                if let Ok(bytes) = encode(kind, line, &Platform::X86_64, order) {
                    assert!(kind.is_text() || bytes.len() as u64 == kind.unit(&Platform::X86_64), "{name}");
                }
            }
        }
        let texts = [Encoding::Utf8, Encoding::Utf16(ByteOrder::Little)];
        let texts = texts.map(|encoding| Pattern::text(line, encoding, true));
        let _ = line.parse::<Selector>();
        let patterns = texts.into_iter().chain([Pattern::hex(line), Pattern::regex(line, false)]).flatten();
        // To start threads takes far longer than to read a pattern.
        for pattern in patterns.filter(|_| number == 0) {
            let space = Mapped { bytes: Arc::new(bytes.to_vec()), has_file: false };
            let Ok(found) = Search::new([pattern.clone()]).core(16).threads(1).over(&space) else { continue };
            for hit in found {
                let Pattern::Bytes { bytes: wanted, mask } = &pattern else { continue };
                let start = (hit.at.get() - BASE) as usize;
                let there = page[start..].iter().zip(wanted).zip(mask);
                assert!(there.fold(0, |wrong, ((byte, wanted), mask)| wrong | (byte ^ wanted) & mask) == 0);
            }
        }
    }
}

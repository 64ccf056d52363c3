//! What each fuzz target does with its input. The library's own tests run the seeds through the same functions.

use memfetch::image::directory::classic::ClassicIndex;
use memfetch::image::directory::index::{Ending, Index};
use memfetch::image::trailer::Trailer;
use memfetch::image::verify::verify_bytes;
use memfetch::{Address, Image, Memory, ReadError, Span, Threads, maps as text};

/// The text of `/proc/PID/maps`: what was understood is printed so that it is understood again.
pub fn maps(bytes: &[u8]) {
    let Ok(map) = text::parse(bytes) else { return };
    let again = text::parse(&text::print(&map)).expect("what is printed is a map");
    let outline = |map: &memfetch::RegionMap| -> Vec<_> {
        map.iter().map(|region| (region.span, region.permissions)).collect()
    };
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

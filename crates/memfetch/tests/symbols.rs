//! Names of an address space, over spaces built from literals and a small library that they have mapped.
//!
//! The library is a seed of the fuzz target `elf`: two versions of `second`, an indirect function `chosen`, a
//! thread-local `each`, a `zeroed` array behind its file, and `own`, which no other module sees.

use std::sync::Arc;

use memfetch::query::atlas::{Atlas, NameError};
use memfetch::query::place::{PlaceError, Where};
use memfetch::region::Device;
use memfetch::source::{FileBehind, ReadFile};
use memfetch::{
    Address, Backing, Error, Memory, PageRuns, PageSource, PageState, Platform, ReadError, Region, RegionMap,
    Source, Span, Touch,
};
use memfetch_testkit::Space;

const LIBRARY: &[u8] = include_bytes!("../../../fuzz/seeds/elf/gnu");
const STRIPPED: &[u8] = include_bytes!("../../../fuzz/seeds/elf/flat-sysv");

const BASE: u64 = 0x7f00_0000_0000;

fn file(name: &str, offset: u64, inode: u64) -> Backing {
    Backing::from_maps(name.as_bytes(), offset, Device { major: 8, minor: 1 }, inode)
}

/// The library as the dynamic linker maps it: its first page at `base`, its data on the page behind, zeros behind that.
fn loaded(space: Space, base: u64, name: &str, inode: u64) -> Space {
    let mut page = LIBRARY.to_vec();
    page.resize(4096, 0);
    space
        .region(base, 4096, "r-xp", file(name, 0, inode))
        .part(base, 4096, PageState::Resident, &page)
        .region(base + 4096, 4096, "rw-p", file(name, 0, inode))
        .part(base + 4096, 4096, PageState::Resident, &page)
}

/// A space whose mapped files can be opened.
#[derive(Clone)]
struct WithFile {
    space: Space,
    bytes: &'static [u8],
    is_certain: bool,
}

impl Memory for WithFile {
    fn platform(&self) -> &Platform {
        self.space.platform()
    }
    fn regions(&self) -> Result<RegionMap, Error> {
        self.space.regions()
    }
    fn pages(&self, span: Span) -> Result<PageRuns, Error> {
        self.space.pages(span)
    }
    fn read_at(&self, at: Address, buf: &mut [u8]) -> Result<usize, ReadError> {
        self.space.read_at(at, buf)
    }
}

impl PageSource for WithFile {
    fn fetch(
        &self,
        region: &Region,
        state: PageState,
        at: Address,
        buf: &mut [u8],
    ) -> Result<usize, ReadError> {
        self.space.fetch(region, state, at, buf)
    }
    fn touch(&self, region: &Region, at: Address, buf: &mut [u8]) -> Result<usize, ReadError> {
        self.space.touch(region, at, buf)
    }
}

impl Source for WithFile {
    fn handle(&self) -> Arc<dyn Source> {
        Arc::new(self.clone())
    }
    fn auxiliary_vector(&self) -> Result<Vec<(u64, u64)>, Error> {
        Ok(vec![(3, BASE + 64)])
    }
    fn file_behind(&self, _: &Region) -> Option<FileBehind> {
        struct Bytes(&'static [u8]);
        impl ReadFile for Bytes {
            fn size(&self) -> u64 {
                self.0.len() as u64
            }
            fn read_at(&self, offset: u64, mut buf: &mut [u8]) -> std::io::Result<usize> {
                std::io::Write::write(&mut buf, self.0.get(offset as usize..).unwrap_or_default())
            }
        }
        Some(FileBehind { file: Arc::new(Bytes(self.bytes)), is_certain: self.is_certain })
    }
}

fn found(source: &dyn Source, place: &str) -> Result<(u64, Option<u64>), PlaceError> {
    let place: Where = place.parse().unwrap();
    let stretch = place.resolve(&mut Atlas::new(source, Touch::Stored).unwrap())?;
    Ok((stretch.start.get(), stretch.symbol.map(|symbol| symbol.size).or(stretch.end.map(Address::get))))
}

fn refused(source: &dyn Source, place: &str) -> String {
    found(source, place).unwrap_err().to_string()
}

#[test]
fn symbols_come_from_memory_where_there_is_no_file() {
    let space = loaded(Space::new(), BASE, "/lib/libtiny.so.1", 5);
    // By `readelf --dyn-syms` the data begins at 0x1488 of the file's addresses.
    let (counter, size) = found(&space, "libtiny.so.1!counter").unwrap();
    assert_eq!(size, Some(4));
    let mut word = [0; 4];
    assert_eq!(space.read_at(Address::new(counter), &mut word).unwrap(), 4);
    assert_eq!(word, [42, 0, 0, 0]);
    assert_eq!(found(&space, "!counter+2").unwrap(), (counter + 2, None));
    let (old, _) = found(&space, "!second@V_1").unwrap();
    let (new, _) = found(&space, "!second@@V_2").unwrap();
    assert_ne!(old, new);
    assert_eq!(found(&space, "!second").unwrap().0, new);
    assert!(refused(&space, "!each").contains("thread-local"));
    let Err(PlaceError::Name(NameError::Indirect { resolver, .. })) = found(&space, "!chosen") else {
        panic!()
    };
    assert!((BASE..BASE + 4096).contains(&resolver.get()));
    assert!(refused(&space, "!own").contains("is no symbol of"), "only the file has it");
    assert!(refused(&space, "!first@V_9").contains("is no symbol of"));
}

#[test]
fn symbols_come_from_the_file_that_is_mapped_and_from_no_other() {
    let space = loaded(Space::new(), BASE, "/lib/libtiny.so.1", 5);
    let mut source = WithFile { space, bytes: LIBRARY, is_certain: false };
    // The build-id is the same.
    let (own, size) = found(&source, "main!own").unwrap();
    assert_eq!(size, Some(8));
    let mut words = [0; 8];
    source.read_at(Address::new(own), &mut words).unwrap();
    assert_eq!(words, [1, 0, 0, 0, 2, 0, 0, 0]);
    source.bytes = STRIPPED;
    for is_certain in [true, false] {
        source.is_certain = is_certain;
        assert!(refused(&source, "main!own").contains("is no symbol of"), "it is another file");
        assert!(found(&source, "main!counter").is_ok(), "memory has it");
    }
}

#[test]
fn a_name_of_two_things_is_no_name() {
    let space = loaded(Space::new(), BASE, "/lib/libtiny.so.1", 5);
    let space = loaded(space, BASE + 0x10_0000, "/opt/libtiny.so.1", 6);
    assert_eq!(
        refused(&space, "libtiny.so.1+8"),
        "`libtiny.so.1` may be /lib/libtiny.so.1 at 0x7f0000000000, or /opt/libtiny.so.1 at 0x7f0000100000"
    );
    assert_eq!(found(&space, "/opt/libtiny.so.1+8").unwrap().0, BASE + 0x10_0008);
    let text = refused(&space, "!counter");
    assert!(text.contains("libtiny.so.1!counter at 0x7f000000"), "{text}");
    assert!(found(&space, "/lib/libtiny.so.1!counter").is_ok());
}

#[test]
fn what_could_be_part_of_a_name_is_asked_back() {
    let space = Space::new()
        .region(0x1000, 0x1000, "rw-p", file("/tmp/data", 0, 1))
        .region(0x3000, 0x1000, "rw-p", file("/tmp/data+8", 0, 2))
        .region(0x5000, 0x1000, "rw-p", file("/tmp/libx++.so-2", 0, 3))
        .region(0x7000, 0x1000, "rw-p", file("/tmp/a..b", 0, 4));
    assert_eq!(found(&space, "data").unwrap().0, 0x1000);
    assert_eq!(found(&space, "data+9").unwrap().0, 0x1009);
    assert!(refused(&space, "data+8").contains("0x3000 (data+8 and an offset of 0)"));
    assert_eq!(found(&space, "/tmp/data+8+0x10").unwrap_err().to_string().matches(", or ").count(), 1);
    assert_eq!(found(&space, "libx++.so-2+1").unwrap().0, 0x5001);
    assert_eq!(found(&space, "a..b").unwrap().0, 0x7000);
    assert_eq!(found(&space, "data..data+0x10").unwrap(), (0x1000, Some(0x1010)));
}

#[test]
fn places_of_regions() {
    let space = Space::new()
        .region(0x1000, 0x2000, "rw-p", Backing::Heap)
        .region(0x8000, 0x1000, "rw-p", Backing::Stack)
        .region(0x9000, 0x1000, "r-xp", Backing::Kernel("vdso".into()));
    for (place, expected) in [
        ("heap", (0x1000, None)),
        ("[heap]+0x10", (0x1010, None)),
        ("heap..", (0x1000, Some(0x3000))),
        ("heap+0x1000..", (0x2000, Some(0x3000))),
        ("stack-0x10..+32", (0x7ff0, Some(0x8010))),
        ("[vdso]+1", (0x9001, None)),
        ("0x1000..0x1000", (0x1000, Some(0x1000))),
    ] {
        assert_eq!(found(&space, place).unwrap(), expected, "{place}");
    }
    for (place, words) in [
        ("heap-0x2000", "outside of the address space"),
        ("0xffffffffffffffff+1", "outside of the address space"),
        ("0xfffffffffffffff0..+0x20", "outside of the address space"),
        ("0x2000..0x1000", "ends before it starts"),
        ("0x100..", "has no end"),
        ("nothing", "no mapping is called `nothing`"),
        ("main", "no mapping is called `main`"),
        ("[vdso]!x", "cannot be read"),
    ] {
        let text = refused(&space, place);
        assert!(text.contains(words), "{place}: {text}");
    }
    assert!(refused(&Space::new(), "stack").contains("there is no stack"));
}

#[test]
fn addresses_lead_back_to_names() {
    let bss = BASE + 0x2000;
    let space = loaded(Space::new(), BASE, "/lib/libtiny.so.1", 5)
        .region(bss, 4096, "rw-p", Backing::Anonymous { label: None })
        .region(0x1000, 0x2000, "rw-p", Backing::Heap);
    let mut atlas = Atlas::new(&space, Touch::Stored).unwrap();
    let counter = "!counter".parse::<Where>().unwrap().resolve(&mut atlas).unwrap().start;
    let mut told = |at: u64| atlas.landmark_with_symbol(Address::new(at)).map(|it| it.to_string());
    assert_eq!(told(counter.get()).unwrap(), "libtiny.so.1!counter@V_1");
    assert_eq!(told(counter.get() + 3).unwrap(), "libtiny.so.1!counter@V_1+0x3");
    assert_eq!(told(BASE + 8).unwrap(), "libtiny.so.1+0x8");
    assert_eq!(told(0x1010).unwrap(), "[heap]+0x10");
    assert_eq!(told(bss + 8).unwrap(), format!("{bss:x}+0x8"));
    assert_eq!(told(bss).unwrap(), format!("{bss:x}+0x0"));
    assert_eq!(told(0x10), None);
    let mut landmark = atlas.landmark(Address::new(BASE + 8)).unwrap();
    assert!(landmark.span.contains(Address::new(BASE + 0x18)));
    landmark.move_to(Address::new(BASE + 0x18));
    assert_eq!(Some(landmark), atlas.landmark(Address::new(BASE + 0x18)));
}

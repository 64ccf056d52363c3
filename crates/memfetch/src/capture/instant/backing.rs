//! [`Backing`]: the file that memory is copied to that does not fit into memory.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use super::super::arrangement::{Arrangement, Pins, Stretch};
use super::super::blocks::{Block, Blocks};
use super::super::copy::extents;
use super::super::crew::at_path;
use super::super::gather::{Gathered, now_ns};
use super::super::prepare::{Form, Placing};
use super::super::{Snapshot, write};
use super::spool::{Base, Spool};
use crate::error::Error;
use crate::image::trailer::BLOCK;
use crate::memory::PageRuns;
use crate::sink::OutputFile;

/// The file that what does not fit into memory is copied to.
pub(crate) struct Backing {
    pub output: Arc<OutputFile>,
    pub arrangement: Arrangement,
    /// Whether it is nobody's if this is dropped. Workers that are stuck share it to the end of this process.
    pub is_abandoned: bool,
    /// Whether anything was put there.
    pub has_begun: bool,
    /// The pages that were.
    pub written: PageRuns,
    /// The digests of blocks that are as they were put there at first.
    pub digests: HashMap<u64, [u8; 32]>,
    /// Where, if it is the output itself, its headers end, and what is left out of it.
    pub image: Option<ImageRoom>,
}

/// What of an image is settled before its memory is copied.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ImageRoom {
    /// How much room there is for headers.
    pub headers: u64,
    /// Known zeros from this length on are not in it.
    pub split_zeros: Option<u64>,
}

impl Backing {
    fn new(output: OutputFile, arrangement: Arrangement, image: Option<ImageRoom>) -> Self {
        let output = Arc::new(output);
        Self {
            output,
            arrangement,
            is_abandoned: true,
            has_begun: false,
            written: PageRuns::new(),
            digests: HashMap::new(),
            image,
        }
    }

    /// The output itself: the image is laid out in it, with room for what may come.
    pub fn in_image(
        gathered: &Gathered,
        snapshot: &Snapshot<'_>,
        form: Form,
        output: OutputFile,
        wanted: &PageRuns,
    ) -> Result<Self, Error> {
        let prepared = write::reserve(gathered, form, &output, snapshot, Placing::Roomy)?;
        let arrangement = prepared.arrangement;
        let long = |block: Block| extents(&block.parts).into_iter().filter(|(_, len)| *len >= BLOCK);
        for (offset, len) in joined(Blocks::new(&arrangement, wanted).flat_map(long)) {
            output.allocate(offset, len).map_err(at_path(output.path()))?;
        }
        let image = ImageRoom { headers: arrangement.headers, split_zeros: prepared.split_zeros };
        // They are written when they are known.
        let arrangement = Arrangement { headers: 0, ..arrangement };
        Ok(Self::new(output, arrangement, Some(image)))
    }

    /// A file without a name in this folder.
    pub fn in_file(folder: &Path, wanted: &PageRuns) -> Result<Self, Error> {
        let path = folder.join(format!(".memfetch-spool.{}.{:x}", std::process::id(), now_ns()));
        let failed = at_path(&path);
        let output = OutputFile::create(&path, true).map_err(&failed)?;
        let mut arrangement = Arrangement::default();
        for run in wanted {
            arrangement.saved.push(Stretch { span: run.span, offset: arrangement.end });
            arrangement.end += run.span.len();
        }
        output.reserve(arrangement.end, arrangement.end).map_err(&failed)?;
        output.allocate(0, arrangement.end).map_err(&failed)?;
        Ok(Self::new(output, arrangement, None))
    }

    /// The spool that reads it.
    pub fn spool(&self) -> Result<Spool, Error> {
        let file = self.output.reader().map_err(at_path(self.output.path()))?;
        Ok(Spool::with_base(Box::new(FileBase(file)), Pins::of(&self.arrangement).into_places()))
    }
}

impl Drop for Backing {
    fn drop(&mut self) {
        if self.is_abandoned {
            self.output.abandon();
        }
    }
}

/// Ranges that adjoin as one.
fn joined(ranges: impl Iterator<Item = (u64, u64)>) -> Vec<(u64, u64)> {
    let mut joined: Vec<(u64, u64)> = Vec::new();
    for (offset, len) in ranges {
        match joined.last_mut() {
            Some((last, length)) if *last + *length == offset => *length += len,
            _ => joined.push((offset, len)),
        }
    }
    joined
}

struct FileBase(File);

impl Base for FileBase {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> std::io::Result<usize> {
        self.0.read_at(buf, offset)
    }
}

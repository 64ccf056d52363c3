//! [`pour`]: from a connection into a file, without what is zero.

use std::io::{self, Read};
use std::net::TcpStream;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

use memfetch_sys::buffer::Buffer;

use super::holes;
use crate::error::{Error, OutputError};
use crate::image::trailer::BLOCK;
use crate::sink::OutputFile;
use crate::sink::file::ALIGNMENT;

/// How many blocks are in memory at once: so many may come while one is written.
const BUFFERS: usize = 16;
/// How many blocks are written at once.
const WRITERS: usize = 3;

/// Why not everything is in the file.
pub(super) enum Failure {
    /// The connection: after so many bytes.
    Peer { bytes: u64, source: io::Error },
    /// More came than is allowed.
    TooLong,
    /// The file.
    Output(OutputError),
    /// Anything else.
    Error(Error),
}

/// A block of the file, in a buffer that may have room behind it.
struct Filled {
    buffer: Buffer,
    len: usize,
    offset: u64,
}

/// Puts everything that comes into the file, and returns how much that was. One thread takes while others write: the
/// process at the other end may be held for as long as this takes.
pub(super) fn pour(
    stream: &mut TcpStream,
    output: &OutputFile,
    max_size: u64,
    progress: impl FnMut(u64),
) -> Result<u64, Failure> {
    let os = |action: &str| {
        let action = action.to_owned();
        move |source| Failure::Error(Error::Os { action, source })
    };
    let (empty, free) = channel();
    for _ in 0..BUFFERS {
        // Its receiver is right here.
        let _ = empty.send(Buffer::new(BLOCK as usize).map_err(os("allocate a buffer"))?);
    }
    let (full, to_write) = sync_channel(BUFFERS);
    let shared = Shared { output, to_write: Mutex::new(to_write), failed: AtomicBool::new(false) };
    thread::scope(|scope| {
        let mut writers = Vec::new();
        for _ in 0..WRITERS {
            let (shared, empty) = (&shared, empty.clone());
            let writer = thread::Builder::new()
                .name("memfetch-write".into())
                .spawn_scoped(scope, move || shared.write(&empty))
                .map_err(os("start a thread"))?;
            writers.push(writer);
        }
        // The last writer that ends is known by it.
        drop(empty);
        let taken = take(stream, &free, full, &shared.failed, max_size, progress);
        for writer in writers {
            writer
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                .map_err(Failure::Output)?;
        }
        taken
    })
}

/// Fills buffers until the peer has sent everything, or a writer has failed.
fn take(
    stream: &mut TcpStream,
    free: &Receiver<Buffer>,
    full: SyncSender<Filled>,
    failed: &AtomicBool,
    max_size: u64,
    mut progress: impl FnMut(u64),
) -> Result<u64, Failure> {
    let mut bytes = 0_u64;
    while let Ok(mut buffer) = free.recv() {
        let offset = bytes;
        let mut len = 0_usize;
        while let Some(room) = buffer.get_mut(len..).filter(|room| !room.is_empty()) {
            match stream.read(room) {
                Ok(0) => break,
                Ok(read) => {
                    len = len.saturating_add(read);
                    bytes = bytes.saturating_add(read as u64);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(Failure::Peer { bytes, source }),
            }
            if bytes > max_size {
                return Err(Failure::TooLong);
            }
        }
        let is_last = len < buffer.len();
        progress(bytes);
        // There is room for as many as there are buffers.
        if (len > 0 && full.send(Filled { buffer, len, offset }).is_err())
            || is_last
            || failed.load(Ordering::Relaxed)
        {
            break;
        }
    }
    // Where the writer gave up it says why.
    Ok(bytes)
}

/// What the writers share.
struct Shared<'a> {
    output: &'a OutputFile,
    to_write: Mutex<Receiver<Filled>>,
    /// Set when one of them has failed: nobody goes on then.
    failed: AtomicBool,
}

impl Shared<'_> {
    /// Writes blocks until there are no more, and gives their buffers back.
    fn write(&self, empty: &Sender<Buffer>) -> Result<(), OutputError> {
        while let Some(filled) = self.next()? {
            let buffer = self.noted(write(self.output, filled))?;
            // Nobody wants it any more where all has come.
            let _ = empty.send(buffer);
        }
        Ok(())
    }

    /// The next block, for which there is room in the file. One after the other: its length only grows.
    fn next(&self) -> Result<Option<Filled>, OutputError> {
        let to_write = self.to_write.lock().unwrap_or_else(PoisonError::into_inner);
        match to_write.recv() {
            Ok(filled) if !self.failed.load(Ordering::Relaxed) => {
                self.noted(make_room(self.output, &filled)).map(|()| Some(filled))
            }
            _ => Ok(None),
        }
    }

    fn noted<T>(&self, result: Result<T, OutputError>) -> Result<T, OutputError> {
        self.failed.fetch_or(result.is_err(), Ordering::Relaxed);
        result
    }
}

/// Writes what is not zero of a block.
fn write(output: &OutputFile, Filled { mut buffer, len, offset }: Filled) -> Result<Buffer, OutputError> {
    // The file is cut to its length in the end.
    if let Some(padding) = buffer.get_mut(len..) {
        padding.fill(0);
    }
    let block = buffer.get(..aligned(len)).unwrap_or_default();
    for range in holes::written(block) {
        let at = offset.saturating_add(range.start as u64);
        output.write_at(block.get(range).unwrap_or_default(), at)?;
    }
    Ok(buffer)
}

/// Lets the file grow by a block, and checks that there is room for what of it is written.
fn make_room(output: &OutputFile, Filled { buffer, len, offset }: &Filled) -> Result<(), OutputError> {
    let block = buffer.get(..*len).unwrap_or_default();
    let bytes = |range: Range<usize>| aligned(range.len()) as u64;
    let stored = holes::written(block).map(bytes).sum();
    output.reserve(offset.saturating_add(aligned(*len) as u64), stored)?;
    for range in holes::written(block) {
        output.allocate(offset.saturating_add(range.start as u64), bytes(range))?;
    }
    Ok(())
}

/// The length of a direct write of so many bytes.
const fn aligned(len: usize) -> usize {
    len.next_multiple_of(ALIGNMENT as usize)
}

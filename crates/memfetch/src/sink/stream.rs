//! [`OutputStream`]: a pipe or a socket, written strictly in order.

use std::io::{ErrorKind, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::OutputError;

/// A writer that counts what it took and knows where it stands.
pub struct OutputStream<'w> {
    inner: &'w mut dyn Write,
    position: Arc<AtomicU64>,
}

/// So much is written at once, so that a slow reader can be told from one that has stopped.
const PIECE: usize = 64 << 10;

impl<'w> OutputStream<'w> {
    /// Writes to `inner`, whose next byte counts as the first.
    pub fn new(inner: &'w mut dyn Write) -> Self {
        Self { inner, position: Arc::default() }
    }

    /// How many bytes were written.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position.load(Ordering::Relaxed)
    }

    /// The same for somebody who watches from another thread.
    #[must_use]
    pub fn watch(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.position)
    }

    /// Writes all of `bytes`.
    ///
    /// # Errors
    ///
    /// [`OutputError::Closed`] where the reader went away, else what the writer says.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), OutputError> {
        for piece in bytes.chunks(PIECE) {
            self.inner.write_all(piece).map_err(|source| failure("writing", source))?;
            self.position.fetch_add(piece.len() as u64, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Writes zeros up to `position`.
    ///
    /// # Errors
    ///
    /// As [`OutputStream::write`].
    pub fn zeros_to(&mut self, position: u64) -> Result<(), OutputError> {
        static ZEROS: [u8; 1 << 16] = [0; 1 << 16];
        while self.position() < position {
            let len = (position - self.position()).min(ZEROS.len() as u64);
            self.write(ZEROS.get(..len as usize).unwrap_or(&ZEROS))?;
        }
        Ok(())
    }

    /// Hands on what the writer still holds.
    ///
    /// # Errors
    ///
    /// As [`OutputStream::write`].
    pub fn flush(&mut self) -> Result<(), OutputError> {
        self.inner.flush().map_err(|source| failure("writing", source))
    }
}

fn failure(action: &'static str, source: std::io::Error) -> OutputError {
    // What a writer of ours knows better than a number of the kernel's comes through `Write` as it is.
    match source.downcast::<OutputError>() {
        Ok(known) => known,
        Err(source) if source.kind() == ErrorKind::BrokenPipe => OutputError::Closed,
        Err(source) => OutputError::Io { action, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Gone;

    impl Write for Gone {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn it_knows_where_it_stands() {
        let mut bytes = Vec::new();
        let mut stream = OutputStream::new(&mut bytes);
        stream.write(b"abc").unwrap();
        stream.zeros_to(70_000).unwrap();
        stream.write(b"d").unwrap();
        assert_eq!(stream.position(), 70_001);
        assert_eq!((bytes.len(), bytes[2], bytes[3], bytes[70_000]), (70_001, b'c', 0, b'd'));
    }

    #[test]
    fn a_closed_pipe_is_told_apart() {
        assert!(matches!(OutputStream::new(&mut Gone).write(b"x"), Err(OutputError::Closed)));
    }
}

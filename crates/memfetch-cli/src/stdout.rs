//! [`Stdout`]: standard output as a snapshot goes to it.

use std::fs::File;
use std::io::{self, Seek, Write};

/// Standard output, which may be a file that has a limit.
///
/// To write past RLIMIT_FSIZE is a SIGXFSZ, which kills without a word (setrlimit(2)): here it is an error.
#[derive(Debug)]
pub struct Stdout {
    file: File,
    /// How many bytes a regular file may still take.
    room: Option<u64>,
}

impl Stdout {
    /// Goes on where the file stands.
    pub fn new(mut file: File) -> io::Result<Self> {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Fsize).current;
        let metadata = file.metadata()?;
        let room = match limit.filter(|_| metadata.is_file()) {
            Some(limit) => {
                let appends = rustix::fs::fcntl_getfl(&file)?.contains(rustix::fs::OFlags::APPEND);
                let position = if appends { metadata.len() } else { file.stream_position()? };
                Some(limit.saturating_sub(position))
            }
            None => None,
        };
        Ok(Self { file, room })
    }
}

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let most = self.room.map_or(bytes.len(), |room| usize::try_from(room).unwrap_or(usize::MAX));
        if most == 0 && !bytes.is_empty() {
            return Err(rustix::io::Errno::FBIG.into());
        }
        let written = self.file.write(bytes.get(..most).unwrap_or(bytes))?;
        self.room = self.room.map(|room| room.saturating_sub(written as u64));
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

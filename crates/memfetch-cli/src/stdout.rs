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

    /// Writes so many zeros: at the end of a regular file as a hole.
    pub fn write_zeros(&mut self, len: u64) -> io::Result<()> {
        const BLOCK: usize = 64 << 10;
        if len >= BLOCK as u64 && self.leave_hole(len)? {
            return Ok(());
        }
        let zeros = vec![0; BLOCK];
        let mut left = len;
        while left > 0 {
            let now = usize::try_from(left).unwrap_or(BLOCK).min(BLOCK);
            self.write_all(zeros.get(..now).unwrap_or(&zeros))?;
            left -= now as u64;
        }
        Ok(())
    }

    /// Makes the file longer, if this is its end: what it holds already is not zero.
    fn leave_hole(&mut self, len: u64) -> io::Result<bool> {
        let metadata = self.file.metadata()?;
        if !metadata.is_file() || rustix::fs::fcntl_getfl(&self.file)?.contains(rustix::fs::OFlags::APPEND) {
            return Ok(false);
        }
        let position = self.file.stream_position()?;
        let Some(end) = position.checked_add(len).filter(|_| position >= metadata.len()) else {
            return Ok(false);
        };
        if self.room.is_some_and(|room| room < len) {
            return Err(rustix::io::Errno::FBIG.into());
        }
        self.file.set_len(end)?;
        self.file.seek(io::SeekFrom::Start(end))?;
        self.room = self.room.map(|room| room.saturating_sub(len));
        Ok(true)
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn zeros_at_the_end_are_a_hole_and_others_are_written() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[1; 300_000]).unwrap();
        file.rewind().unwrap();
        let mut out = Stdout::new(file.try_clone().unwrap()).unwrap();
        out.write_zeros(200_000).unwrap();
        out.write_all(&[2; 100_000]).unwrap();
        out.write_zeros(1 << 30).unwrap();
        out.write_all(&[3]).unwrap();
        let metadata = file.metadata().unwrap();
        assert_eq!(metadata.len(), 300_000 + (1 << 30) + 1);
        assert!(metadata.blocks() * 512 < 1 << 20);
        let mut bytes = [9; 4];
        for (at, expected) in [(0, 0), (199_996, 0), (200_000, 2), (300_000, 0), ((1 << 30) + 299_997, 0)] {
            std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes[..3], at).unwrap();
            assert_eq!(bytes[..3], [expected; 3], "{at}");
        }
    }
}

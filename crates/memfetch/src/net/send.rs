//! [`Connection`]: the sending end.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use memfetch_sys::socket;

use super::{Endpoint, close_well, timed_out};
use crate::error::{Error, OutputError};

/// How often the kernel is asked whether all has arrived, where nothing tells.
const LOOK: Duration = Duration::from_millis(5);

/// So many bytes may come back while the peer is at work: those of [`Receive`](super::Receive) for more than a day.
const MOST_SIGNS: u64 = 1 << 20;

/// A connection to a peer that takes an image.
///
/// It is a [`Write`], and so takes whatever a snapshot writes. A write that takes nothing for the time limit fails with
/// [`OutputError::PeerStalled`], and one whose peer is gone with [`OutputError::PeerGone`], both within an [`io::Error`].
/// Dropped before [`Connection::finish`], it resets the connection, so that the peer does not take what it has for a whole.
///
/// ```no_run
/// use std::time::Duration;
/// use memfetch::{Connection, Process, Snapshot};
///
/// let redis = Process::find("redis-server")?;
/// // Before the process is stopped: a peer that is not there costs it nothing.
/// let peer = Connection::open(&"box:9000".parse()?, Some(Duration::from_secs(10)))?;
/// let report = peer.send(|to| Snapshot::of(&redis).write_core_to(to))?;
/// println!("{} bytes sent", report.stored_bytes);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    peer: SocketAddr,
    /// How the peer is called in errors.
    name: String,
    limit: Option<Duration>,
}

impl Connection {
    /// Connects. The addresses of a name are tried in turn, all within `limit`, which from then on is what the peer has
    /// for taking the next byte; `None` waits for as long as the kernel does.
    ///
    /// # Errors
    ///
    /// [`Error::Connect`], with every address that was tried.
    pub fn open(endpoint: &Endpoint, limit: Option<Duration>) -> Result<Self, Error> {
        let (stream, peer) = endpoint.connect(limit)?;
        Ok(Self { stream, peer, name: format!("tcp://{endpoint}"), limit })
    }

    /// Who it is.
    #[must_use]
    pub const fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Sends what `write` writes, and ends the connection well: [`Connection::finish`]. An output that fails is called by
    /// the peer's name in the error.
    ///
    /// # Errors
    ///
    /// What `write` returns, and [`Error::Output`] as by `finish`. The connection is reset then.
    pub fn send<R>(mut self, write: impl FnOnce(&mut dyn Write) -> Result<R, Error>) -> Result<R, Error> {
        let name = self.name.clone();
        let result = write(&mut self).and_then(|result| self.finish().map(|()| result));
        result.map_err(|error| match error {
            Error::Output { source, .. } => Error::Output { path: name.into(), source },
            error => error,
        })
    }

    /// Ends the stream, and waits until the peer closes the connection as well, within the time limit for each byte that
    /// it may send meanwhile, which means nothing.
    ///
    /// Then everything has arrived at the peer's kernel, and the peer has closed the connection without an error. A peer
    /// on Linux that closes before it has read everything resets the connection instead. What it does with what it has
    /// read no sender can know; [`Receive`](super::Receive) closes when the image is verified and has its name.
    ///
    /// # Errors
    ///
    /// [`Error::Output`]: [`PeerGone`](OutputError::PeerGone) where the peer reset the connection,
    /// [`PeerStalled`](OutputError::PeerStalled) where not everything has arrived in time,
    /// [`Unconfirmed`](OutputError::Unconfirmed) where it has and the peer does not close.
    pub fn finish(self) -> Result<(), Error> {
        self.confirm().map_err(|source| Error::Output { path: self.name.into(), source })
    }

    fn confirm(&self) -> Result<(), OutputError> {
        let gone = OutputError::PeerGone;
        self.stream.shutdown(Shutdown::Write).map_err(gone)?;
        let mut ignored = [0; 4096];
        let mut room = MOST_SIGNS;
        loop {
            match (&self.stream).read(&mut ignored) {
                Ok(0) => break,
                // It is no receiver that says something of its own without end.
                Ok(read) => match room.checked_sub(read as u64) {
                    Some(left) => room = left,
                    None => return Err(self.unconfirmed()),
                },
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if timed_out(&error) => return Err(self.unconfirmed()),
                Err(error) => return Err(gone(error)),
            }
        }
        // It may have closed its direction long ago, and still be reading.
        let mut last = (self.unacknowledged()?, Instant::now());
        while last.0 > 0 {
            thread::sleep(LOOK);
            if let Some(error) = self.stream.take_error().map_err(gone)? {
                return Err(self.failure(error));
            }
            let left = self.unacknowledged()?;
            if left != last.0 {
                last = (left, Instant::now());
            } else if let Some(limit) = self.limit.filter(|limit| last.1.elapsed() > *limit) {
                return Err(OutputError::PeerStalled { limit });
            }
        }
        close_well(&self.stream).map_err(gone)
    }

    fn unacknowledged(&self) -> Result<u64, OutputError> {
        socket::unacknowledged(&self.stream).map_err(OutputError::PeerGone)
    }

    /// What to say of a peer that does not close.
    fn unconfirmed(&self) -> OutputError {
        let limit = self.limit.unwrap_or_default();
        match self.unacknowledged() {
            Ok(0) => OutputError::Unconfirmed { limit },
            _ => OutputError::PeerStalled { limit },
        }
    }

    fn failure(&self, error: io::Error) -> OutputError {
        match self.limit {
            Some(limit) if timed_out(&error) => OutputError::PeerStalled { limit },
            _ => OutputError::PeerGone(error),
        }
    }
}

impl Write for Connection {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.stream.write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(error) => Err(io::Error::new(error.kind(), self.failure(error))),
            taken => taken,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

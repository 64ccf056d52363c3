//! [`Receive`]: the receiving end, which makes a file of what one peer sends.

use std::fs::File;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::Advice;
use serde::{Serialize, Serializer};

use super::intake::{self, Failure};
use super::{Endpoint, close_well, guard, timed_out};
use crate::error::{Error, FormatError, OutputError, ReceiveError};
use crate::image::record::{Origin, Outcome};
use crate::image::verify::{Verdict, verify_file};
use crate::image::{Image, Shortfall};
use crate::sink::OutputFile;

/// How many bytes are taken by default: as many as a core of ours looks long at the most by default.
pub const MAX_SIZE: u64 = 1 << 40;

/// How often the peer is told that somebody is at work on what it sent: more often than any limit that makes sense.
const BUSY: Duration = Duration::from_millis(200);
/// After so many bytes the page cache gives up what was read for verification.
const CACHED: u64 = 64 << 20;

/// A file to be made of what one peer will send.
///
/// It is an [`OutputFile`]: it has its name only when it is whole and on stable storage. Long runs of zeros become
/// holes; the bytes are those that came. A core of memfetch is verified before the file gets its name; anything else
/// cannot be, and is refused unless [`Receive::unverified`] says otherwise.
///
/// ```no_run
/// use memfetch::{Endpoint, Receive};
///
/// let listening = Receive::to("redis.core").listen(&Endpoint::loopback(0))?;
/// println!("port {}", listening.address().port());
/// let received = listening.receive()?;
/// println!("{} bytes from {}", received.received_bytes, received.peer);
/// # Ok::<(), memfetch::Error>(())
/// ```
pub struct Receive<'a> {
    path: PathBuf,
    replace: bool,
    time_limit: Option<Duration>,
    max_size: u64,
    unverified: bool,
    progress: Box<dyn FnMut(ReceiveProgress) + Send + 'a>,
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReceiveProgress {
    /// So many bytes have come, of a number that nobody knows.
    Received {
        /// How many.
        bytes: u64,
    },
    /// All have come; so many have been compared with their digests.
    Verified {
        /// How many.
        done_bytes: u64,
        /// Of how many.
        total_bytes: u64,
    },
}

/// What came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Received {
    /// Who sent it.
    pub peer: SocketAddr,
    /// The file.
    #[serde(serialize_with = "lossy")]
    pub path: PathBuf,
    /// Its length.
    pub received_bytes: u64,
    /// What it takes on the disk.
    pub stored_bytes: u64,
    /// How long it took from the moment when the peer connected, in nanoseconds in JSON.
    #[serde(rename = "elapsed_ns", serialize_with = "as_nanoseconds")]
    pub elapsed: Duration,
    /// What is known of it.
    #[serde(flatten)]
    pub checked: Checked,
}

/// What is known of an image that was received.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "verdict")]
pub enum Checked {
    /// It is a core of memfetch, whole, and every byte is what was written.
    Whole {
        /// Where it came from.
        origin: Box<Origin>,
        /// How the capture went.
        outcome: Box<Outcome>,
    },
    /// It has no digests. The peer closed the connection in good order, and more is not known.
    Unverified,
}

impl<'a> Receive<'a> {
    /// Receives into a file that will be called `path`.
    #[must_use]
    pub fn to(path: impl AsRef<Path>) -> Self {
        Self {
            path: path.as_ref().to_owned(),
            replace: false,
            time_limit: Some(Duration::from_secs(120)),
            max_size: MAX_SIZE,
            unverified: false,
            progress: Box::new(|_| {}),
        }
    }

    /// Whether a file of the same name is replaced.
    #[must_use]
    pub fn replace(mut self, replace: bool) -> Self {
        self.replace = replace;
        self
    }

    /// For how long to wait for a peer, and for each next byte of it; `None` waits for ever.
    #[must_use]
    pub fn time_limit(mut self, limit: Option<Duration>) -> Self {
        self.time_limit = limit;
        self
    }

    /// How many bytes are taken at the most.
    #[must_use]
    pub fn max_size(mut self, bytes: u64) -> Self {
        self.max_size = bytes;
        self
    }

    /// Whether what has no digests is taken as well: raw bytes, a core of another program.
    #[must_use]
    pub fn unverified(mut self, unverified: bool) -> Self {
        self.unverified = unverified;
        self
    }

    /// Whom to tell how far it is.
    #[must_use]
    pub fn progress(mut self, progress: impl FnMut(ReceiveProgress) + Send + 'a) -> Self {
        self.progress = Box::new(progress);
        self
    }

    /// Makes the file, without its name, and listens; a peer can connect from now on.
    ///
    /// # Errors
    ///
    /// [`Error::Output`] where the file cannot be made, [`Error::Listen`] where the address cannot be had.
    pub fn listen(self, endpoint: &Endpoint) -> Result<Listening<'a>, Error> {
        let output = OutputFile::create(&self.path, self.replace)
            .map_err(|source| Error::Output { path: self.path.clone(), source })?;
        let listener = endpoint.listen(self.time_limit)?;
        let address = listener
            .local_addr()
            .map_err(|source| Error::Os { action: format!("listen on {endpoint}"), source })?;
        Ok(Listening { settings: self, output, listener, address })
    }
}

/// Somebody who waits for a peer.
pub struct Listening<'a> {
    settings: Receive<'a>,
    output: OutputFile,
    listener: TcpListener,
    address: SocketAddr,
}

impl Listening<'_> {
    /// Where, with the port that the kernel chose if that was left to it.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes what the first peer sends; a second one is refused from then on.
    ///
    /// The peer's connection is closed in good order only when the file is whole and has its name, else it is reset.
    ///
    /// # Errors
    ///
    /// No file is left behind then. [`Error::Receive`]: nobody came, the peer stalled or went away, it sent too much, or
    /// what it sent is not whole. [`Error::Output`]: the file cannot be written.
    pub fn receive(self) -> Result<Received, Error> {
        let Self { mut settings, output, listener, .. } = self;
        let path = settings.path.clone();
        let refused = |source| Error::Receive { path: path.clone(), source };
        let (mut stream, peer) = accept(&listener, settings.time_limit)?.ok_or_else(|| {
            refused(ReceiveError::NoPeer { limit: settings.time_limit.unwrap_or_default() })
        })?;
        drop(listener);
        let begun = Instant::now();
        let broken = |bytes, source| ReceiveError::Broken { peer, bytes, source };
        guard(&stream, settings.time_limit).map_err(|source| refused(broken(0, source)))?;
        let received_bytes = intake::pour(&mut stream, &output, settings.max_size, |bytes| {
            (settings.progress)(ReceiveProgress::Received { bytes });
        })
        .map_err(|failure| match failure {
            Failure::Error(error) => error,
            Failure::Output(source) => Error::Output { path: path.clone(), source },
            Failure::TooLong => refused(ReceiveError::TooLong { peer, limit: settings.max_size }),
            Failure::Peer { bytes, source } => {
                refused(match settings.time_limit.filter(|_| timed_out(&source)) {
                    Some(limit) => ReceiveError::Stalled { peer, bytes, limit },
                    None => broken(bytes, source),
                })
            }
        })?;
        if received_bytes == 0 {
            return Err(refused(ReceiveError::Nothing { peer }));
        }
        let (checked, stored_bytes) = while_telling(&stream, || {
            let checked = check(&output, received_bytes, peer, &mut settings)?;
            let stored_bytes = output
                .commit(received_bytes)
                .map_err(|source| Error::Output { path: path.clone(), source })?;
            Ok((checked, stored_bytes))
        })?;
        // Whether the peer still wants to know or not: the file is there.
        let _ = close_well(&stream);
        Ok(Received { peer, path, received_bytes, stored_bytes, elapsed: begun.elapsed(), checked })
    }
}

/// The first peer, if one comes in time.
fn accept(listener: &TcpListener, limit: Option<Duration>) -> Result<Option<(TcpStream, SocketAddr)>, Error> {
    let failed = |source| Error::Os { action: "accept a connection".into(), source };
    listener.set_nonblocking(true).map_err(failed)?;
    let begun = Instant::now();
    loop {
        match listener.accept() {
            Ok(accepted) => return Ok(Some(accepted)),
            // One that went away before it was looked at is no peer (accept(2)).
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted
                ) => {}
            Err(error) => return Err(failed(error)),
        }
        let left = limit.map(|limit| limit.saturating_sub(begun.elapsed()));
        if left.is_some_and(|left| left.is_zero()) {
            return Ok(None);
        }
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut [PollFd::new(listener, PollFlags::IN)], left.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(failed(errno.into())),
        }
    }
}

/// Does something, and tells the peer meanwhile that somebody is there.
fn while_telling<R>(stream: &TcpStream, work: impl FnOnce() -> Result<R, Error>) -> Result<R, Error> {
    thread::scope(|scope| {
        let (busy, ends) = channel::<()>();
        let mut stream = stream;
        thread::Builder::new()
            .name("memfetch-busy".into())
            .spawn_scoped(scope, move || {
                while ends.recv_timeout(BUSY) == Err(RecvTimeoutError::Timeout) {
                    // A peer that has closed both directions does not want to know.
                    let _ = stream.write(&[0]);
                }
            })
            .map_err(|source| Error::Os { action: "start a thread".into(), source })?;
        let result = work();
        drop(busy);
        result
    })
}

/// What is known of the file, where that is enough for it to get its name.
fn check(
    output: &OutputFile,
    bytes: u64,
    peer: SocketAddr,
    settings: &mut Receive<'_>,
) -> Result<Checked, Error> {
    let path = &settings.path;
    let refused = |source| Error::Receive { path: path.clone(), source };
    let unread = |source| {
        let source = OutputError::Io { action: "reading it again", source };
        Error::Output { path: path.clone(), source }
    };
    let file = output.review(bytes).map_err(|source| Error::Output { path: path.clone(), source })?;
    let again = file.try_clone().map_err(unread)?;
    let mut cached = 0;
    let verdict = verify_file(file.try_clone().map_err(unread)?, &mut |done_bytes, total_bytes| {
        if done_bytes >= cached + CACHED || done_bytes == total_bytes {
            cached = done_bytes;
            forget(&again);
        }
        (settings.progress)(ReceiveProgress::Verified { done_bytes, total_bytes });
    });
    match verdict {
        Ok(Verdict::Whole { .. }) => {
            let format = |source| refused(ReceiveError::Format { peer, source });
            let image = Image::from_file(file).map_err(format)?;
            let told = image.origin().cloned().zip(image.outcome().cloned());
            let (origin, outcome) = told.ok_or_else(|| format(FormatError::NotACore))?;
            Ok(Checked::Whole { origin: Box::new(origin), outcome: Box::new(outcome) })
        }
        Ok(Verdict::Altered { ranges }) => {
            let first = ranges.first().map_or(0, |range| range.file.offset);
            Err(refused(ReceiveError::Altered { peer, places: ranges.len(), first }))
        }
        Ok(Verdict::Incomplete { why, .. }) => {
            Err(refused(ReceiveError::Incomplete { peer, why: why.to_string(), bytes }))
        }
        Err(FormatError::Truncated(_)) => {
            let why = Shortfall::Data.to_string();
            Err(refused(ReceiveError::Incomplete { peer, why, bytes }))
        }
        // A dump of raw memory may begin with the header of a program.
        Ok(Verdict::Unverifiable { .. }) | Err(FormatError::NotACore | FormatError::OtherElf(_)) => {
            if settings.unverified {
                Ok(Checked::Unverified)
            } else {
                Err(refused(ReceiveError::Unverifiable { peer, bytes }))
            }
        }
        Err(FormatError::Io(source)) => Err(unread(source)),
        Err(source) => Err(refused(ReceiveError::Format { peer, source })),
    }
}

/// Lets the page cache give up what it has of the file, which nobody is about to read.
fn forget(file: &File) {
    // It is advice (posix_fadvise(2)).
    let _ = rustix::fs::fadvise(file, 0, None, Advice::DontNeed);
}

fn lossy<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.to_string_lossy())
}

fn as_nanoseconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX))
}

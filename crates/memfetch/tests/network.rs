//! Images over TCP through the library: what arrives, and what is said of what does not.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use memfetch::error::{EndpointError, OutputError, ReceiveError};
use memfetch::net::{Checked, Received};
use memfetch::{Connection, Endpoint, Error, ModeChoice, Process, Receive, Snapshot};
use memfetch_testkit::Target;
use memfetch_testkit::peers::skipped;

/// Long enough for a machine that is busy.
const LONG: Duration = Duration::from_secs(60);
/// Short enough to wait for.
const SHORT: Duration = Duration::from_millis(300);

/// A core of memfetch, as a stream.
fn core() -> &'static [u8] {
    static CORE: OnceLock<Vec<u8>> = OnceLock::new();
    CORE.get_or_init(|| {
        let target = Target::spawn("private", &["3"]);
        let process = Process::open(target.pid()).unwrap();
        let mut bytes = Vec::new();
        Snapshot::of(&process).mode(ModeChoice::Live).write_core_to(&mut bytes).unwrap();
        bytes
    })
}

/// A receiver at work, and the folder that it writes into.
struct Receiving {
    folder: tempfile::TempDir,
    path: PathBuf,
    address: SocketAddr,
    thread: JoinHandle<Result<Received, Error>>,
}

impl Receiving {
    fn begin(settings: impl FnOnce(Receive<'static>) -> Receive<'static>) -> Self {
        Self::at(&Endpoint::loopback(0), settings).unwrap()
    }

    fn at(
        endpoint: &Endpoint,
        settings: impl FnOnce(Receive<'static>) -> Receive<'static>,
    ) -> Result<Self, Error> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.core");
        let listening = settings(Receive::to(&path).time_limit(Some(LONG))).listen(endpoint)?;
        let address = listening.address();
        Ok(Self { folder, path, address, thread: thread::spawn(move || listening.receive()) })
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream.set_write_timeout(Some(LONG)).unwrap();
        stream
    }

    fn ended(self) -> (tempfile::TempDir, Result<Received, Error>) {
        (self.folder, self.thread.join().unwrap())
    }

    /// What was wrong; nothing may be left in the folder.
    #[track_caller]
    fn refused(self) -> ReceiveError {
        let (folder, result) = self.ended();
        assert_eq!(names(folder.path()), [""; 0]);
        match result {
            Err(Error::Receive { source, .. }) => source,
            other => panic!("{other:?}"),
        }
    }
}

fn names(folder: &Path) -> Vec<String> {
    std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// Sends bytes as any program would, and returns how the receiver closed the connection.
fn send_plainly(mut stream: TcpStream, bytes: &[u8]) -> std::io::Result<usize> {
    stream.write_all(bytes)?;
    stream.shutdown(Shutdown::Write)?;
    stream.read_to_end(&mut Vec::new())
}

fn connection(address: SocketAddr, limit: Duration) -> Connection {
    Connection::open(&address.into(), Some(limit)).unwrap()
}

#[test]
fn what_is_sent_arrives_over_both_protocols() {
    for host in ["127.0.0.1", "::1", "localhost"] {
        let endpoint = if host.contains(':') { format!("[{host}]:0") } else { format!("{host}:0") };
        let receiving = match Receiving::at(&endpoint.parse().unwrap(), |receive| receive) {
            Err(error) if host == "::1" => {
                skipped("images over IPv6", &error.to_string());
                continue;
            }
            receiving => receiving.unwrap(),
        };
        let peer: Endpoint =
            endpoint.replace(":0", &format!(":{}", receiving.address.port())).parse().unwrap();
        let sent = Connection::open(&peer, Some(LONG))
            .unwrap()
            .send(|to| {
                to.write_all(core()).unwrap();
                Ok(17)
            })
            .unwrap();
        assert_eq!(sent, 17);
        // The sender knows it only when the file is there.
        assert!(std::fs::read(&receiving.path).unwrap() == core(), "{host}");
        let (_folder, received) = receiving.ended();
        let received = received.unwrap();
        assert_eq!(received.received_bytes, core().len() as u64);
        let Checked::Whole { origin, outcome } = received.checked else { panic!("{received:?}") };
        assert!(origin.pid > 0 && outcome.gaps.is_empty());
    }
}

#[test]
fn the_connection_is_closed_well_only_when_the_file_has_its_name() {
    let receiving = Receiving::begin(|receive| receive);
    let stream = receiving.connect();
    send_plainly(stream, core()).unwrap();
    assert_eq!(receiving.path.metadata().unwrap().len(), core().len() as u64);
    receiving.ended().1.unwrap();
}

#[test]
fn long_runs_of_zeros_become_holes() {
    let mut bytes = vec![0; (64 << 20) + 5];
    let length = bytes.len();
    for at in [0, 1 << 20, (20 << 20) + 4097, length - 1] {
        bytes[at] = 7;
    }
    let receiving = Receiving::begin(|receive| receive.unverified(true));
    send_plainly(receiving.connect(), &bytes).unwrap();
    let path = receiving.path.clone();
    let (_folder, received) = receiving.ended();
    let received = received.unwrap();
    assert_eq!(received.checked, Checked::Unverified);
    assert!(std::fs::read(&path).unwrap() == bytes);
    let stored = path.metadata().unwrap().blocks() * 512;
    assert_eq!(stored, received.stored_bytes);
    assert!(stored < 4 << 20, "{stored} bytes are on the disk");
}

#[test]
fn what_has_no_digests_is_taken_only_where_that_is_said() {
    for bytes in [&b"garbage"[..], &[7; 3 << 20], &std::fs::read("/proc/self/exe").unwrap()[..1 << 20]] {
        let receiving = Receiving::begin(|receive| receive);
        let told = send_plainly(receiving.connect(), bytes).unwrap_err();
        assert_eq!(told.kind(), ErrorKind::ConnectionReset);
        let refused = receiving.refused();
        assert!(matches!(refused, ReceiveError::Unverifiable { .. }), "{refused}");
        let receiving = Receiving::begin(|receive| receive.unverified(true));
        send_plainly(receiving.connect(), bytes).unwrap();
        assert!(std::fs::read(&receiving.path).unwrap() == bytes);
        assert_eq!(receiving.ended().1.unwrap().checked, Checked::Unverified);
    }
}

#[test]
fn nothing_is_no_image() {
    let receiving = Receiving::begin(|receive| receive.unverified(true));
    send_plainly(receiving.connect(), b"").unwrap_err();
    assert!(matches!(receiving.refused(), ReceiveError::Nothing { .. }));
}

#[test]
fn a_core_that_is_not_whole_is_refused_whatever_is_asked_for() {
    for (unverified, cut) in [(false, 0), (true, 0), (false, 1), (true, 1), (true, core().len() - 100)] {
        let mut bytes = core()[..core().len() - cut].to_vec();
        let middle = bytes.len() / 2;
        bytes[middle] ^= u8::from(cut == 0);
        let receiving = Receiving::begin(|receive| receive.unverified(unverified));
        send_plainly(receiving.connect(), &bytes).unwrap_err();
        match (cut, receiving.refused()) {
            (0, ReceiveError::Altered { places: 1, first, .. }) => assert!(first <= middle as u64),
            (1.., ReceiveError::Incomplete { bytes: came, .. }) => assert_eq!(came, bytes.len() as u64),
            (_, other) => panic!("{cut} {other}"),
        }
    }
}

#[test]
fn a_sender_that_goes_away_leaves_no_file_whatever_it_sent() {
    // Closed in good order: only the digests tell. Reset: a sender of ours never closes well before the end.
    let receiving = Receiving::begin(|receive| receive);
    let mut stream = receiving.connect();
    stream.write_all(&core()[..1 << 20]).unwrap();
    drop(stream);
    assert!(matches!(receiving.refused(), ReceiveError::Incomplete { .. }));
    let receiving = Receiving::begin(|receive| receive.unverified(true));
    let mut connection = connection(receiving.address, LONG);
    connection.write_all(&[7; 1 << 20]).unwrap();
    drop(connection);
    let refused = receiving.refused();
    assert!(
        matches!(&refused, ReceiveError::Broken { source, .. } if source.kind() == ErrorKind::ConnectionReset)
    );
}

#[test]
fn a_snapshot_that_fails_resets_the_connection() {
    let receiving = Receiving::begin(|receive| receive.unverified(true));
    let failed: Result<(), _> = connection(receiving.address, LONG).send(|to| {
        to.write_all(&[7; 100]).unwrap();
        Err(Error::Ended { pid: 17 })
    });
    assert!(matches!(failed, Err(Error::Ended { pid: 17 })));
    assert!(matches!(receiving.refused(), ReceiveError::Broken { .. }));
}

#[test]
fn waiting_has_an_end() {
    let receiving = Receiving::begin(|receive| receive.time_limit(Some(SHORT)));
    assert!(matches!(receiving.refused(), ReceiveError::NoPeer { limit: SHORT }));
    let limit = Duration::from_secs(3);
    let receiving = Receiving::begin(|receive| receive.time_limit(Some(limit)));
    let mut stream = receiving.connect();
    stream.write_all(&core()[..1000]).unwrap();
    assert!(
        matches!(receiving.refused(), ReceiveError::Stalled { bytes: 1000, limit: told, .. } if told == limit)
    );
    assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[test]
fn no_more_is_taken_than_is_allowed() {
    for (allowed, whole) in [(core().len() as u64, true), (core().len() as u64 - 1, false), (0, false)] {
        let receiving = Receiving::begin(|receive| receive.max_size(allowed));
        let told = send_plainly(receiving.connect(), core());
        assert_eq!(told.is_ok(), whole);
        if whole {
            receiving.ended().1.unwrap();
        } else {
            assert!(matches!(receiving.refused(), ReceiveError::TooLong { limit, .. } if limit == allowed));
        }
    }
}

#[test]
fn a_second_peer_is_refused() {
    let receiving = Receiving::begin(|receive| receive);
    let first = receiving.connect();
    let begun = Instant::now();
    // Until the first one is accepted the kernel takes others, and resets them then.
    loop {
        match TcpStream::connect_timeout(&receiving.address, LONG) {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => break,
            Err(error) => assert!(begun.elapsed() < LONG, "{error}"),
            Ok(mut second) => {
                second.set_read_timeout(Some(LONG)).unwrap();
                assert_eq!(second.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
            }
        }
    }
    send_plainly(first, core()).unwrap();
    receiving.ended().1.unwrap();
}

#[test]
fn the_output_and_the_port_are_looked_at_before_anybody_can_connect() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a"), "mine").unwrap();
    let listen = |name: &str, endpoint: &Endpoint| {
        Receive::to(folder.path().join(name)).listen(endpoint).map(|listening| listening.address())
    };
    let any = Endpoint::loopback(0);
    assert!(matches!(listen("a", &any), Err(Error::Output { source: OutputError::Exists, .. })));
    assert!(matches!(listen("no/a", &any), Err(Error::Output { source: OutputError::Io { .. }, .. })));
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let Err(Error::Listen { source: EndpointError::Failed { attempts }, .. }) =
        listen("b", &taken.local_addr().unwrap().into())
    else {
        panic!()
    };
    assert_eq!(attempts[0].error.kind(), ErrorKind::AddrInUse);
    assert_eq!(names(folder.path()), ["a"]);
}

#[test]
fn a_file_that_is_there_is_replaced_only_by_a_whole_one() {
    for whole in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        std::fs::write(&path, "mine").unwrap();
        let listening = Receive::to(&path).replace(true).listen(&Endpoint::loopback(0)).unwrap();
        let address = listening.address();
        let sender = thread::spawn(move || {
            let cut = usize::from(!whole);
            send_plainly(TcpStream::connect(address).unwrap(), &core()[cut..])
        });
        assert_eq!(listening.receive().is_ok(), whole);
        assert_eq!(sender.join().unwrap().is_ok(), whole);
        assert_eq!(std::fs::read(&path).unwrap() == b"mine", !whole);
        assert_eq!(names(folder.path()), ["a"]);
    }
}

/// A peer that does this with the connection, and where it listens.
fn peer<T: Send + 'static>(
    role: impl FnOnce(TcpStream) -> T + Send + 'static,
) -> (SocketAddr, JoinHandle<T>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (address, thread::spawn(move || role(listener.accept().unwrap().0)))
}

/// Sends so many bytes, and returns what was wrong with the output.
fn send_failing(address: SocketAddr, bytes: usize, limit: Duration) -> OutputError {
    let sent = connection(address, limit).send(|to| {
        let mut stream = memfetch::sink::OutputStream::new(to);
        stream.write(&vec![7; bytes]).map_err(|source| Error::Output { path: "renamed".into(), source })
    });
    match sent {
        Err(Error::Output { path, source }) if path == Path::new(&format!("tcp://{address}")) => source,
        other => panic!("{other:?}"),
    }
}

fn write(to: &mut dyn Write, bytes: &[u8]) -> Result<(), Error> {
    to.write_all(bytes).unwrap();
    Ok(())
}

#[test]
fn a_plain_reader_gets_the_bytes_and_nothing_else() {
    let (address, read) = peer(|mut stream| {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        bytes
    });
    connection(address, LONG).send(|to| write(to, core())).unwrap();
    assert!(read.join().unwrap() == core());
}

#[test]
fn a_reader_that_stalls_or_goes_away_is_told_apart() {
    // Takes nothing: while it is sent to, and behind the last byte.
    for bytes in [64 << 20, 1 << 20] {
        let (address, held) = peer(|stream| {
            let mut first = [0; 1];
            (&stream).read_exact(&mut first).unwrap();
            stream
        });
        let failure = send_failing(address, bytes, SHORT);
        assert!(
            matches!(
                failure,
                OutputError::PeerStalled { limit: SHORT } | OutputError::Unconfirmed { limit: SHORT }
            ),
            "{failure}"
        );
        drop(held.join());
    }
    // Reads everything, and does not close.
    let (address, held) = peer(|mut stream| {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        stream
    });
    let limit = Duration::from_secs(3);
    let failure = send_failing(address, 1 << 20, limit);
    assert!(matches!(failure, OutputError::Unconfirmed { limit: told } if told == limit), "{failure}");
    drop(held.join());
    // Goes away, having read something or nothing.
    for reads in [0, 1 << 20] {
        let (address, gone) = peer(move |mut stream| stream.read_exact(&mut vec![0; reads]).unwrap());
        let failure = send_failing(address, 64 << 20, LONG);
        assert!(matches!(failure, OutputError::PeerGone(_)), "{failure}");
        gone.join().unwrap();
    }
}

#[test]
fn a_reader_that_has_nothing_to_say_may_say_so_first() {
    let (address, read) = peer(|mut stream| {
        stream.shutdown(Shutdown::Write).unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        bytes.len()
    });
    connection(address, LONG).send(|to| write(to, &[7; 32 << 20])).unwrap();
    assert_eq!(read.join().unwrap(), 32 << 20);
}

#[test]
fn a_peer_that_is_not_there_is_an_error_with_each_address() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let Err(Error::Connect { endpoint, source }) = Connection::open(&free.into(), Some(LONG)) else {
        panic!()
    };
    assert_eq!(endpoint, free.to_string());
    assert_eq!(source.to_string(), format!("{free}: Connection refused (os error 111)"));
    // A queue that is full drops what knocks, as a firewall does.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let address = listener.local_addr().unwrap();
    let _queued: Vec<_> = (0..4).map_while(|_| TcpStream::connect_timeout(&address, SHORT).ok()).collect();
    let refused = Connection::open(&address.into(), Some(SHORT)).unwrap_err();
    assert!(
        matches!(&refused, Error::Connect { source: EndpointError::Failed { attempts }, .. }
            if attempts[0].error.kind() == ErrorKind::TimedOut),
        "{refused:?}"
    );
}

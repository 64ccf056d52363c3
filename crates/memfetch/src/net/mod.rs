//! Images over TCP: [`Connection`] sends one, [`Receive`] makes a file of what comes.
//!
//! What goes over the wire is the image and nothing else, so that `nc` fits either end; nothing is encrypted, and
//! nobody is asked who they are. All that the two ends say to each other beside it is said by how a connection ends:
//!
//! - A sender that has sent everything closes its direction (shutdown(2)). One that fails or is killed resets the
//!   connection: a cut image never looks like a whole one, whatever its format.
//! - The peer closes when it has read to the end. [`Receive`] does so only when the image is verified, on stable storage,
//!   and has its name; it resets the connection where anything is wrong, and where it is killed. While it is at work on
//!   an image that it has whole, it sends a zero byte now and then: what comes back tells the sender only that somebody is
//!   there.
//!
//! Every wait has a limit: for a name, for a connection, for the next byte that is taken, for the next one that comes.

mod endpoint;
mod holes;
mod intake;
mod receive;
mod send;

use std::io;
use std::net::TcpStream;
use std::time::Duration;

use rustix::net::sockopt;

pub use endpoint::{Endpoint, ParseEndpointError};
pub use receive::{Checked, Listening, MAX_SIZE, Receive, ReceiveProgress, Received};
pub use send::Connection;

/// An idle connection is probed after this time, and then as often.
const PROBE: Duration = Duration::from_secs(15);

/// What holds for a connection at either end: a peer that is silently gone is found out, and until [`close_well`] any end
/// of this process resets the connection.
fn guard(stream: &TcpStream, limit: Option<Duration>) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(limit)?;
    stream.set_write_timeout(limit)?;
    sockopt::set_socket_linger(stream, Some(Duration::ZERO))?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, PROBE)?;
    sockopt::set_tcp_keepintvl(stream, PROBE)?;
    if let Some(limit) = limit {
        // Without it, bytes that nobody acknowledges are tried for a quarter of an hour (tcp(7)).
        let milliseconds = u32::try_from(limit.as_millis()).unwrap_or(u32::MAX);
        sockopt::set_tcp_user_timeout(stream, milliseconds)?;
    }
    Ok(())
}

/// From now on the end of the connection is an orderly one.
fn close_well(stream: &TcpStream) -> io::Result<()> {
    Ok(sockopt::set_socket_linger(stream, None)?)
}

/// Whether a wait was given up: by the socket's own limit (`EAGAIN`), or by the kernel's for what is not acknowledged.
fn timed_out(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

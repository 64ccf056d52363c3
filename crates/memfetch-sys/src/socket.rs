//! Sockets: what the kernel knows of a connection and neither the standard library nor rustix asks for.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// How many bytes of a TCP connection the peer's kernel has not acknowledged yet, those not sent included, and the end
/// of the stream as one more (tcp(7), `SIOCOUTQ`). 0 after shutdown(2): all that was written has arrived.
///
/// # Errors
///
/// It is no such socket.
pub fn unacknowledged(socket: impl AsFd) -> io::Result<u64> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: SIOCOUTQ, which is TIOCOUTQ under another name, writes one int to where its argument points, and `bytes`
    // is one that lives until the call returns.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(u64::try_from(bytes).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener, TcpStream};

    use super::*;

    #[test]
    fn what_has_arrived_is_acknowledged() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut here = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut there, _) = listener.accept().unwrap();
        // More than both ends hold: something of it is always on its way.
        here.set_nonblocking(true).unwrap();
        let mut written = 0;
        while let Ok(some) = here.write(&[7; 1 << 16]) {
            written += some;
        }
        assert!(unacknowledged(&here).unwrap() > 0);
        here.set_nonblocking(false).unwrap();
        here.shutdown(Shutdown::Write).unwrap();
        let mut read = Vec::new();
        there.read_to_end(&mut read).unwrap();
        assert_eq!(read.len(), written);
        while unacknowledged(&here).unwrap() > 0 {
            std::thread::yield_now();
        }
        assert!(unacknowledged(std::fs::File::open("/dev/null").unwrap()).is_err());
    }
}

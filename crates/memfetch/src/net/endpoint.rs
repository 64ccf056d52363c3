//! [`Endpoint`]: a host and a port, and what it takes to connect to it or to listen on it.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::str::FromStr;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use super::guard;
use crate::error::{Attempt, EndpointError, Error};

/// A host, by its name or its address, and a port: `box:9000`, `127.0.0.1:9000`, `[::1]:9000`.
///
/// ```
/// let endpoint: memfetch::Endpoint = "[fe80::1%eth0]:9000".parse()?;
/// assert_eq!((endpoint.host(), endpoint.port()), ("fe80::1%eth0", 9000));
/// # Ok::<(), memfetch::net::ParseEndpointError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    host: String,
    port: u16,
}

/// Why a text is no host and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseEndpointError {
    /// There is no port.
    #[error("the port is missing: HOST:PORT")]
    NoPort,
    /// The port is no number up to 65535.
    #[error("a port is a number from 0 to 65535")]
    BadPort,
    /// There is no host.
    #[error("the host is missing: HOST:PORT")]
    NoHost,
    /// Where an IPv6 address ends and a port begins cannot be told.
    #[error("an IPv6 address stands in brackets: [::1]:9000")]
    Brackets,
}

impl FromStr for Endpoint {
    type Err = ParseEndpointError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, behind) = rest.split_once(']').ok_or(ParseEndpointError::Brackets)?;
                (host, behind.strip_prefix(':').ok_or(ParseEndpointError::NoPort)?)
            }
            None => {
                let (host, port) = text.rsplit_once(':').ok_or(ParseEndpointError::NoPort)?;
                if host.contains(':') {
                    return Err(ParseEndpointError::Brackets);
                }
                (host, port)
            }
        };
        if host.is_empty() {
            return Err(ParseEndpointError::NoHost);
        }
        // Not `+9000`, which the parser of numbers would take.
        if port.is_empty() || !port.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(ParseEndpointError::BadPort);
        }
        let port = port.parse().map_err(|_| ParseEndpointError::BadPort)?;
        Ok(Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Self { host: address.ip().to_string(), port: address.port() }
    }
}

impl Endpoint {
    /// A port of this machine that no other can reach.
    #[must_use]
    pub fn loopback(port: u16) -> Self {
        Self { host: "127.0.0.1".to_owned(), port }
    }

    /// The name or the address, without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port; 0 lets the kernel choose one to listen on.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Connects to the first address that answers, within `limit` for all of them and the name.
    pub(super) fn connect(&self, limit: Option<Duration>) -> Result<(TcpStream, SocketAddr), Error> {
        let begun = Instant::now();
        let connected = self.addresses(limit).and_then(|addresses| {
            let mut left = u32::try_from(addresses.len()).unwrap_or(u32::MAX);
            first_of(addresses, |address| {
                // An address where nobody answers must not use up the time of those behind it.
                let share = limit.map(|limit| limit.saturating_sub(begun.elapsed()) / left.max(1));
                left = left.saturating_sub(1);
                let stream = match share {
                    // Zero is no limit that a connect can have.
                    Some(share) => TcpStream::connect_timeout(&address, share.max(Duration::from_millis(1))),
                    None => TcpStream::connect(address),
                }?;
                guard(&stream, limit)?;
                Ok((stream, address))
            })
        });
        connected.map_err(|source| Error::Connect { endpoint: self.to_string(), source })
    }

    /// Listens on the first address that can be had.
    pub(super) fn listen(&self, limit: Option<Duration>) -> Result<TcpListener, Error> {
        let bound = self.addresses(limit).and_then(|addresses| first_of(addresses, TcpListener::bind));
        bound.map_err(|source| Error::Listen { endpoint: self.to_string(), source })
    }

    /// The addresses, at least one. The system's resolver knows no limit, so it is asked in a thread that can be given
    /// up on.
    fn addresses(&self, limit: Option<Duration>) -> Result<Vec<SocketAddr>, EndpointError> {
        let ask = {
            let (host, port) = (self.host.clone(), self.port);
            move || Ok((host.as_str(), port).to_socket_addrs()?.collect::<Vec<_>>())
        };
        let answer = match limit {
            None => ask(),
            Some(limit) => {
                let (answer, inbox) = channel();
                let thread = thread::Builder::new()
                    .name("memfetch-name".into())
                    .spawn(move || answer.send(ask()))
                    .map_err(EndpointError::Name)?;
                let answer = inbox.recv_timeout(limit).map_err(|_| EndpointError::NameTimedOut { limit })?;
                // It is about to end, and must have: a snapshot wants to be alone with its signals.
                let _ = thread.join();
                answer
            }
        };
        let addresses: Vec<SocketAddr> = answer.map_err(EndpointError::Name)?;
        if addresses.is_empty() {
            return Err(EndpointError::Name(io::Error::other("it has no address")));
        }
        Ok(addresses)
    }
}

/// What the first address gives that gives anything.
fn first_of<T>(
    addresses: Vec<SocketAddr>,
    mut attempt: impl FnMut(SocketAddr) -> io::Result<T>,
) -> Result<T, EndpointError> {
    let mut attempts: Vec<Attempt> = Vec::new();
    for address in addresses {
        // The resolver names an address once for each kind of socket.
        if attempts.iter().any(|tried| tried.address == address) {
            continue;
        }
        match attempt(address) {
            Ok(found) => return Ok(found),
            Err(error) => attempts.push(Attempt { address, error }),
        }
    }
    Err(EndpointError::Failed { attempts })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &str) -> Result<(String, u16), ParseEndpointError> {
        text.parse::<Endpoint>().map(|endpoint| (endpoint.host, endpoint.port))
    }

    #[test]
    fn hosts_are_names_and_addresses_of_both_kinds() {
        for (text, host, port) in [
            ("localhost:9000", "localhost", 9000),
            ("127.0.0.1:0", "127.0.0.1", 0),
            ("[::1]:65535", "::1", 65535),
            ("[fe80::1%eth0]:1", "fe80::1%eth0", 1),
        ] {
            assert_eq!(parsed(text), Ok((host.to_owned(), port)));
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
        for (text, error) in [
            ("localhost", ParseEndpointError::NoPort),
            ("[::1]", ParseEndpointError::NoPort),
            ("[::1]9000", ParseEndpointError::NoPort),
            ("::1:9000", ParseEndpointError::Brackets),
            ("[::1:9000", ParseEndpointError::Brackets),
            (":9000", ParseEndpointError::NoHost),
            ("[]:9000", ParseEndpointError::NoHost),
            ("box:", ParseEndpointError::BadPort),
            ("box:65536", ParseEndpointError::BadPort),
            ("box:+1", ParseEndpointError::BadPort),
            ("box:http", ParseEndpointError::BadPort),
        ] {
            assert_eq!(parsed(text), Err(error), "{text}");
        }
    }

    #[test]
    fn the_first_address_that_answers_is_taken_and_each_failure_is_told() {
        let addresses: Vec<SocketAddr> = ["[::1]:1", "127.0.0.1:2", "127.0.0.1:2", "127.0.0.3:4"]
            .map(|text| text.parse().unwrap())
            .to_vec();
        let mut tried = Vec::new();
        let found = first_of(addresses.clone(), |address| {
            tried.push(address.port());
            if address.port() == 4 { Ok(address) } else { Err(io::ErrorKind::ConnectionRefused.into()) }
        });
        assert_eq!(found.unwrap().port(), 4);
        assert_eq!(tried, [1, 2, 4]);
        let none: Result<(), _> = first_of(addresses, |_| Err(io::Error::from_raw_os_error(111)));
        assert_eq!(
            none.unwrap_err().to_string(),
            "[::1]:1: Connection refused (os error 111); 127.0.0.1:2: Connection refused (os error 111); \
             127.0.0.3:4: Connection refused (os error 111)"
        );
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_alike(text in "\\PC{0,30}", port: u16) {
            let _ = parsed(&text);
            if let Ok(endpoint) = format!("{text}:{port}").parse::<Endpoint>() {
                prop_assert_eq!(endpoint.to_string().parse::<Endpoint>(), Ok(endpoint));
            }
        }
    }
}

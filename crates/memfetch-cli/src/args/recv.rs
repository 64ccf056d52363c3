//! The arguments of `memfetch recv`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueHint};
use memfetch::Endpoint;

use crate::quantity;

/// `memfetch recv`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  memfetch recv 9000 -o redis.core
      Listen on 127.0.0.1, for a peer that comes through
      `ssh -R 9000:localhost:9000 HOST`.
  memfetch recv 0.0.0.0:9000 -o redis.core
      Listen on all addresses; the peer:
      `memfetch snap redis-server -o tcp://HOST:9000`.
  memfetch recv '[::]:0' -o redis.core
      The same for IPv6, on a port that the kernel chooses and standard error
      tells.
  memfetch recv 9000 -o memory.raw --unverified
      Also bytes that carry no digests: raw memory, a core of another program.
  memfetch recv 9000 -o redis.core --json |
      jq 'select(.event == \"received\") | .outcome.gaps'

Nothing is encrypted, and the first who connects is the peer: listen where you
trust the network.

Exit codes:
  0  received, whole
  2  error: there is no file of that name, or the one that was there before
  3  received, whole, and it has gaps: something that was wanted could not be
     read when it was taken")]
pub struct RecvArgs {
    /// Where to listen: PORT on 127.0.0.1, or ADDRESS:PORT; port 0 lets the kernel choose one
    #[arg(value_name = "[ADDR:]PORT", value_parser = endpoint)]
    pub endpoint: Endpoint,
    /// The file
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub output: PathBuf,
    /// Overwrite a file that is there; never a device, a pipe or a socket, nor a link to one
    #[arg(long)]
    pub force: bool,
    /// Take also what has no digests, so that nobody can tell whether it is whole
    #[arg(long)]
    pub unverified: bool,
    /// How long to wait for the peer, and for each next byte of it: 500ms, 10s, 2m
    #[arg(long, value_name = "DURATION", value_parser = quantity::parse_duration, default_value = "2m")]
    pub time_limit: Duration,
    /// How many bytes to take at the most: 512M, 4GiB ...
    #[arg(long, value_name = "SIZE", value_parser = quantity::parse_size, default_value = "1TiB")]
    pub max_size: u64,
    /// Two JSON objects: the address when it listens, and what came
    #[arg(long)]
    pub json: bool,
    /// No summary and no progress; errors, and a port that the kernel chose, are still told
    #[arg(short, long)]
    pub quiet: bool,
}

/// A port of the loopback address, or an address with its port.
fn endpoint(text: &str) -> Result<Endpoint, String> {
    if text.bytes().all(|byte| byte.is_ascii_digit())
        && let Ok(port) = text.parse()
    {
        return Ok(Endpoint::loopback(port));
    }
    text.parse().map_err(|error| format!("{error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_alone_is_one_of_the_loopback_address() {
        for (text, shown) in
            [("9000", "127.0.0.1:9000"), ("0.0.0.0:0", "0.0.0.0:0"), ("[::]:9", "[::]:9"), ("box:1", "box:1")]
        {
            assert_eq!(endpoint(text).map(|endpoint| endpoint.to_string()), Ok(shown.to_owned()));
        }
        for bad in ["", "65536", "box", "::1:9000", "tcp://box:1"] {
            assert!(endpoint(bad).is_err(), "{bad}");
        }
    }
}

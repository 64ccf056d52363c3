//! `memfetch recv`.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::net::SocketAddr;

use memfetch::net::{Checked, ReceiveProgress, Received};
use memfetch::{Error, Receive};
use serde::Serialize;

use crate::ending::Ending;
use crate::failure::Failure;
use crate::json;
use crate::plan::{Recv, Telling};
use crate::progress::Bar;
use crate::quantity::{Units, duration, size};
use crate::report::print;
use crate::summary;
use crate::text::printable;

/// What is told in JSON, one after the other.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case", tag = "event")]
enum Event<'a> {
    /// A peer may connect.
    Listening {
        address: SocketAddr,
        port: u16,
    },
    Received(&'a Received),
}

/// Makes a file of what the first peer sends.
pub fn run(plan: &Recv) -> Result<Ending, Failure> {
    let name = printable(plan.output.as_os_str());
    let (mut coming, mut verifying) = (None, None);
    let told = plan.telling == Telling::Summary;
    let listening = Receive::to(&plan.output)
        .replace(plan.overwrite)
        .unverified(plan.unverified)
        .time_limit(Some(plan.time_limit))
        .max_size(plan.max_size)
        .progress(|progress| match progress {
            ReceiveProgress::Received { bytes } => {
                coming.get_or_insert_with(|| Bar::counting(told, name.clone())).update(bytes, bytes);
            }
            ReceiveProgress::Verified { done_bytes, total_bytes } => {
                // Its line is the next one's.
                drop(coming.take());
                let bar = verifying.get_or_insert_with(|| Bar::new(told, format!("verifying {name}")));
                bar.update(done_bytes, total_bytes);
            }
        })
        .listen(&plan.endpoint)
        .map_err(failure)?;
    tell_address(listening.address(), plan)?;
    let received = listening.receive().map_err(failure)?;
    drop((coming, verifying));
    tell(&received, plan)?;
    Ok(match &received.checked {
        Checked::Whole { outcome, .. } if !outcome.gaps.is_empty() => Ending::Gaps,
        Checked::Whole { .. } | Checked::Unverified => Ending::Done,
    })
}

fn failure(error: Error) -> Failure {
    Failure::Receiving(error)
}

/// Where nobody could know the port it is told in any case.
fn tell_address(address: SocketAddr, plan: &Recv) -> Result<(), Failure> {
    if plan.telling == Telling::Json {
        return print(&line(&Event::Listening { address, port: address.port() })?);
    }
    if plan.telling == Telling::Summary || plan.endpoint.port() == 0 {
        // Where this cannot be written there is nobody to tell.
        let _ = writeln!(io::stderr(), "Listening on {address} for one peer");
    }
    Ok(())
}

fn tell(received: &Received, plan: &Recv) -> Result<(), Failure> {
    match plan.telling {
        Telling::Nothing => {}
        Telling::Json => print(&line(&Event::Received(received))?)?,
        Telling::Summary => {
            // The file is there, whether anybody listens or not.
            let _ = io::stderr().write_all(paragraph(received).as_bytes());
        }
    }
    Ok(())
}

fn line(event: &Event<'_>) -> Result<String, Failure> {
    Ok(json::line(event)?)
}

/// What came, in words; its lines end in newlines.
fn paragraph(received: &Received) -> String {
    let Received { peer, path, received_bytes, stored_bytes, elapsed, checked } = received;
    let mut text = format!(
        "{}: {} on disk, {} apparent, from {peer} in {}; ",
        printable(path.as_os_str()),
        size(*stored_bytes, Units::Full),
        size(*received_bytes, Units::Full),
        duration(*elapsed)
    );
    match checked {
        Checked::Whole { outcome, .. } => {
            text.push_str("whole and unaltered\n");
            if !outcome.gaps.is_empty() {
                let _ = write!(text, "  missing since it was taken:\n{}", summary::gaps(&outcome.gaps));
            }
        }
        Checked::Unverified => text.push_str(
            "UNVERIFIED: it has no digests; the peer closed the connection in good order, and more is not known\n",
        ),
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_is_not_verified_is_called_so() {
        let received = Received {
            peer: "127.0.0.1:5".parse().unwrap(),
            path: "a\x1b.raw".into(),
            received_bytes: 3 << 20,
            stored_bytes: 1 << 20,
            elapsed: Duration::from_millis(1500),
            checked: Checked::Unverified,
        };
        let text = paragraph(&received);
        assert!(
            text.starts_with(
                "a\\x1b.raw: 1 MiB on disk, 3 MiB apparent, from 127.0.0.1:5 in 1.5 s; UNVERIFIED"
            ),
            "{text}"
        );
        let value: serde_json::Value =
            serde_json::from_str(&line(&Event::Received(&received)).unwrap()).unwrap();
        assert_eq!((&value["event"], &value["verdict"]), (&"received".into(), &"unverified".into()));
        assert_eq!(value["elapsed_ns"], 1_500_000_000);
    }
}

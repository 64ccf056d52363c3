//! What arrives whole.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use memfetch::image::Verdict;
use memfetch::{Address, Image, Memory};
use memfetch_testkit::Target;
use memfetch_testkit::peers::skipped;
use serde_json::Value;

use super::{Running, assert_runs, names, snap};

/// Checks that the core is whole, and that every word of the target's memory in it is its own address.
#[track_caller]
fn assert_core_of(target: &Target, core: &Path) {
    assert!(matches!(memfetch::image::verify(core, &mut |_, _| {}), Ok(Verdict::Whole { .. })));
    let image = Image::open(core).unwrap();
    let (start, bytes) = (target.number("start"), target.number("bytes"));
    let mut memory = vec![0; usize::try_from(bytes).unwrap()];
    assert_eq!(image.read_at(Address::new(start), &mut memory).unwrap(), memory.len());
    for (word, at) in memory.as_chunks::<8>().0.iter().zip((start..).step_by(8)) {
        assert_eq!(u64::from_ne_bytes(*word), at);
    }
}

#[test]
fn a_core_goes_from_one_end_to_the_other_over_both_protocols() {
    for endpoint in ["0", "127.0.0.1:0", "[::1]:0", "0.0.0.0:0", "localhost:0"] {
        if endpoint.starts_with('[') && std::net::TcpListener::bind(endpoint).is_err() {
            skipped("a core over IPv6", "there is no ::1");
            continue;
        }
        let target = Target::spawn("private", &["5"]);
        let folder = tempfile::tempdir().unwrap();
        let (recv, address) = Running::recv_at(endpoint, folder.path(), &[]);
        let sent = snap(&target, &address, &[]);
        sent.says(0, &[&format!("tcp://{address}: "), "sent; the peer closed"]);
        recv.says(0, &["a.core: ", "whole and unaltered"]);
        let core = folder.path().join("a.core");
        assert_core_of(&target, &core);
        assert_eq!(core.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(names(folder.path()), ["a.core"]);
        assert_runs(&target);
    }
}

#[test]
fn both_ends_tell_programs_the_same() {
    let target = Target::spawn("private", &["1"]);
    let folder = tempfile::tempdir().unwrap();
    // Its first line is on standard output, and a program that reads it there need not read standard error.
    let mut recv = Running::spawn(folder.path(), &["recv", "0", "-o", "a.core", "--json"]);
    let mut line = String::new();
    let mut out = std::io::BufReader::new(recv.child.stdout.as_mut().unwrap());
    std::io::BufRead::read_line(&mut out, &mut line).unwrap();
    let listening: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(listening["event"], "listening");
    let address = listening["address"].as_str().unwrap();
    assert_eq!(address, format!("127.0.0.1:{}", listening["port"]));
    let (_, out, err) = snap(&target, address, &["--json"]).ended();
    assert_eq!(err, "");
    let sent: Value = serde_json::from_str(&out).unwrap();
    let (code, out, err) = recv.ended();
    assert_eq!((code, err.as_str()), (Some(0), ""));
    let received: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(received["event"], "received");
    assert_eq!(received["verdict"], "whole");
    assert_eq!(received["path"], "a.core");
    assert_eq!(received["received_bytes"], sent["apparent_bytes"]);
    assert_eq!((&received["origin"], &received["outcome"]), (&sent["origin"], &sent["outcome"]));
    assert_eq!(sent["peer"], format!("tcp://{address}"));
    assert_eq!(sent["path"], Value::Null);
}

#[test]
fn quiet_ends_are_quiet_but_for_a_port_that_nobody_could_know() {
    let target = Target::spawn("private", &["1"]);
    let folder = tempfile::tempdir().unwrap();
    let (recv, address) = Running::recv(folder.path(), &["-q"]);
    assert_eq!(snap(&target, &address, &["-q"]).ended(), (Some(0), String::new(), String::new()));
    let (code, out, err) = recv.ended();
    assert_eq!((code, out.as_str(), err), (Some(0), "", format!("Listening on {address} for one peer\n")));
}

#[test]
fn holes_of_a_file_are_holes_again() {
    let target = Target::spawn("reserved", &["1", "8"]);
    let folder = tempfile::tempdir().unwrap();
    let original = folder.path().join("original.core");
    let pid = target.pid().to_string();
    Running::spawn(folder.path(), &["snap", &pid, "-o", "original.core"]).says(0, &[]);
    let (recv, address) = Running::recv(folder.path(), &[]);
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    std::io::copy(&mut std::fs::File::open(&original).unwrap(), &mut stream).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    recv.says(0, &["whole and unaltered"]);
    let received = folder.path().join("a.core").metadata().unwrap();
    let original = original.metadata().unwrap();
    assert_eq!(received.len(), original.len());
    assert!(received.len() > 500 << 20, "{} bytes", received.len());
    assert!(received.blocks() * 512 < 32 << 20, "{} blocks, of {}", received.blocks(), original.blocks());
}

#[test]
fn a_gap_is_told_at_both_ends() {
    let target = Target::spawn("holes", &[]);
    if target.number("secret") == 0 {
        return skipped("a gap that goes over the wire", "there is no secret memory");
    }
    let folder = tempfile::tempdir().unwrap();
    let (recv, address) = Running::recv(folder.path(), &[]);
    snap(&target, &address, &[]).says(3, &["1 gap", "secret"]);
    recv.says(3, &["whole and unaltered", "missing since it was taken", "1 gap", "secret"]);
    assert_eq!(names(folder.path()), ["a.core"]);
}

#[test]
fn a_file_that_is_there_is_overwritten_only_by_force() {
    let target = Target::spawn("private", &["1"]);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.core"), "mine").unwrap();
    let refused = Running::spawn(folder.path(), &["recv", "0", "-o", "a.core"]);
    let said = refused.says(2, &["Error: cannot write a.core", "the file exists", "Hint: `--force`"]);
    assert!(!said.contains("Listening"), "{said}");
    let (recv, address) = Running::recv(folder.path(), &["--force"]);
    snap(&target, &address, &[]).says(0, &[]);
    recv.says(0, &[]);
    assert_core_of(&target, &folder.path().join("a.core"));
    assert_eq!(names(folder.path()), ["a.core"]);
}

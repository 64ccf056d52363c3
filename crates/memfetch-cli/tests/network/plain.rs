//! Peers that are no memfetch: they send and get the bytes and nothing else.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use memfetch::image::Verdict;
use memfetch::image::verify::verify_bytes;
use memfetch_testkit::Target;
use memfetch_testkit::peers::{find, run};

use super::{LIMIT, Running, names, snap};

#[test]
fn a_plain_reader_gets_exactly_the_core() {
    let target = Target::spawn("private", &["2"]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let reader = thread::spawn(move || {
        let mut bytes = Vec::new();
        listener.accept().unwrap().0.read_to_end(&mut bytes).unwrap();
        bytes
    });
    let (code, out, err) = snap(&target, &address, &["--json"]).ended();
    assert_eq!((code, err.as_str()), (Some(0), ""));
    let bytes = reader.join().unwrap();
    let told: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(told["apparent_bytes"], bytes.len());
    assert!(matches!(verify_bytes(bytes, &mut |_, _| {}), Ok(Verdict::Whole { .. })));
}

/// Python's sockets are those of C, and are everywhere.
#[test]
fn another_program_at_either_end() {
    let Some(python) = find("python3", "Python at the other end of a connection") else { return };
    let target = Target::spawn("private", &["2"]);
    let folder = tempfile::tempdir().unwrap();
    let script = "import socket, sys\n\
                  s = socket.create_server(('127.0.0.1', 0))\n\
                  print(s.getsockname()[1], flush=True)\n\
                  c, f = s.accept()[0], open('theirs.core', 'wb')\n\
                  while b := c.recv(65536): f.write(b)\n";
    let mut server = Command::new(&python)
        .args(["-c", script])
        .current_dir(folder.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut port = String::new();
    let mut out = std::io::BufReader::new(server.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut out, &mut port).unwrap();
    let sent = snap(&target, &format!("localhost:{}", port.trim()), &[]);
    let ended = sent.ended();
    let _ = server.kill();
    server.wait().unwrap();
    assert_eq!(ended.0, Some(0), "{}", ended.2);

    let (recv, address) = Running::recv(folder.path(), &[]);
    let script = "import socket, sys\n\
                  host, port = sys.argv[1].split(':')\n\
                  s = socket.create_connection((host, int(port)))\n\
                  s.sendfile(open('theirs.core', 'rb'))\n";
    let client = run(Command::new(&python).args(["-c", script, &address]).current_dir(folder.path()), LIMIT);
    assert!(client.status.success());
    recv.says(0, &["whole and unaltered"]);
    let read = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
    assert!(read("a.core") == read("theirs.core"));
}

#[test]
fn raw_bytes_are_taken_only_as_unverified_and_are_called_so() {
    let send = |address: &str| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.write_all(&[7; 100_000]).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        stream.read_to_end(&mut Vec::new()).is_ok()
    };
    let folder = tempfile::tempdir().unwrap();
    let (recv, address) = Running::recv(folder.path(), &[]);
    assert!(!send(&address));
    recv.says(2, &["nothing was received into a.core", "is no core of memfetch", "Hint: `--unverified`"]);
    assert_eq!(names(folder.path()), [""; 0]);
    for (flag, word) in [("--unverified", "UNVERIFIED"), ("--json", "\"verdict\":\"unverified\"")] {
        let flags = ["--unverified", "--force", flag].into_iter().skip(usize::from(flag == "--unverified"));
        let mut arguments = vec!["recv", "0", "-o", "a.core"];
        arguments.extend(flags);
        let mut recv = Running::spawn(folder.path(), &arguments);
        let mut line = String::new();
        if flag == "--json" {
            let mut out = std::io::BufReader::new(recv.child.stdout.as_mut().unwrap());
            std::io::BufRead::read_line(&mut out, &mut line).unwrap();
        } else {
            std::io::BufRead::read_line(&mut recv.err, &mut line).unwrap();
        }
        let from = line.find("127.0.0.1:").unwrap();
        let address = line[from..].split([' ', '"']).next().unwrap();
        assert!(send(address));
        recv.says(0, &[word]);
        assert_eq!(std::fs::read(folder.path().join("a.core")).unwrap(), [7; 100_000]);
    }
}

#[test]
fn a_peer_that_closes_late_is_waited_for() {
    let target = Target::spawn("private", &["1"]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let reader = thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        stream.read_to_end(&mut Vec::new()).unwrap();
        // At work on it, for longer than the limit, and says so.
        for _ in 0..40 {
            stream.write_all(&[0]).unwrap();
            thread::sleep(Duration::from_millis(100));
        }
    });
    snap(&target, &address, &["--time-limit", "3s"]).says(0, &["the peer closed"]);
    reader.join().unwrap();
}

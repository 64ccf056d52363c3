//! What does not arrive: nothing is left of it, both ends say so in time, and the target runs on.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use memfetch_testkit::{Target, signals};

use super::{LIMIT, Running, assert_runs, names, snap};

const SIGKILL: i32 = 9;

/// A peer in the middle: what comes is handed on to `to` by `pass`, what comes back is handed back.
fn proxy(
    to: String,
    pass: impl FnOnce(&mut TcpStream, &mut TcpStream) + Send + 'static,
) -> (String, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let thread = thread::spawn(move || {
        let mut from = listener.accept().unwrap().0;
        let mut to = TcpStream::connect(to).unwrap();
        pass(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
        let _ = std::io::copy(&mut to, &mut from);
    });
    (address, thread)
}

/// Waits until somebody has connected to this address, accepted or not (proc_net_tcp in the kernel's documentation).
fn wait_for_peer(address: &str) {
    let port: u16 = address.rsplit(':').next().unwrap().parse().unwrap();
    let local = format!(":{port:04X}");
    let begun = Instant::now();
    let connected = || {
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        table.lines().any(|line| {
            let mut words = line.split_whitespace().skip(1);
            words.next().is_some_and(|word| word.ends_with(&local)) && words.nth(1) == Some("01")
        })
    };
    while !connected() {
        assert!(begun.elapsed() < LIMIT, "nobody connects");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_byte_that_is_flipped_on_its_way_is_found() {
    let target = Target::spawn("private", &["5"]);
    for at in [5_000, 3 << 20] {
        let folder = tempfile::tempdir().unwrap();
        let (recv, address) = Running::recv(folder.path(), &[]);
        let (through, proxy) = proxy(address, move |from, to| {
            let mut head = vec![0; at];
            from.read_exact(&mut head).unwrap();
            head[at - 1] ^= 0x10;
            to.write_all(&head).unwrap();
            std::io::copy(from, to).unwrap();
        });
        // Resets do not come through this proxy.
        let _ = snap(&target, &through, &[]).ended();
        let said =
            recv.says(2, &["nothing was received into a.core", "altered in 1 place", "Hint: send it again"]);
        assert!(!said.contains("whole and unaltered"), "{said}");
        assert_eq!(names(folder.path()), [""; 0]);
        proxy.join().unwrap();
    }
}

#[test]
fn a_stream_that_is_cut_in_good_order_is_found() {
    let target = Target::spawn("private", &["5"]);
    let folder = tempfile::tempdir().unwrap();
    let (recv, address) = Running::recv(folder.path(), &["--unverified"]);
    let (through, proxy) = proxy(address, |from, to| {
        let mut head = vec![0; 2 << 20];
        from.read_exact(&mut head).unwrap();
        to.write_all(&head).unwrap();
    });
    let _ = snap(&target, &through, &["--time-limit", "1s"]).ended();
    recv.says(2, &["is incomplete: it ends before its data does; 2097152 bytes came"]);
    assert_eq!(names(folder.path()), [""; 0]);
    assert_runs(&target);
    proxy.join().unwrap();
}

#[test]
fn a_receiver_that_is_killed_is_an_error_for_the_sender() {
    let target = Target::spawn("private", &["48"]);
    for mode in ["freeze", "live"] {
        let folder = tempfile::tempdir().unwrap();
        let (recv, address) = Running::recv(folder.path(), &[]);
        // The kernel takes the connection, and so many bytes: the receiver does not get to the end of them.
        signals::send(recv.pid(), 19);
        let sent = snap(&target, &address, &["--mode", mode]);
        wait_for_peer(&address);
        signals::send(recv.pid(), SIGKILL);
        sent.says(2, &["Error: cannot write tcp://127.0.0.1:", "the peer went away", "Hint: "]);
        assert_eq!(recv.ended().0, None);
        assert_eq!(names(folder.path()), [""; 0]);
        assert_runs(&target);
    }
}

#[test]
fn a_sender_that_is_killed_leaves_no_file() {
    let target = Target::spawn("private", &["48"]);
    for flags in [&[][..], &["--unverified"]] {
        let folder = tempfile::tempdir().unwrap();
        let (recv, address) = Running::recv(folder.path(), flags);
        // Halfway: this proxy takes no more, and hands on the reset.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let through = listener.local_addr().unwrap().to_string();
        let sent = snap(&target, &through, &["--time-limit", "60s"]);
        let mut from = listener.accept().unwrap().0;
        let mut head = vec![0; 1 << 20];
        from.read_exact(&mut head).unwrap();
        signals::send(sent.pid(), SIGKILL);
        assert_eq!(sent.ended().0, None);
        let reset = loop {
            match from.read(&mut head) {
                Ok(0) => panic!("a sender that was killed closed the connection in good order"),
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert_eq!(reset.kind(), std::io::ErrorKind::ConnectionReset);
        let mut to = TcpStream::connect(address).unwrap();
        to.write_all(&head).unwrap();
        rustix::net::sockopt::set_socket_linger(&to, Some(Duration::ZERO)).unwrap();
        drop(to);
        recv.says(
            2,
            &["nothing was received into a.core", "the connection to 127.0.0.1:", "Connection reset"],
        );
        assert_eq!(names(folder.path()), [""; 0]);
        assert_runs(&target);
    }
}

#[test]
fn a_peer_that_takes_nothing_is_given_up_on() {
    let target = Target::spawn("private", &["48"]);
    for mode in ["freeze", "live"] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let sent = snap(&target, &address, &["--mode", mode, "--time-limit", "500ms"]);
        let held = listener.accept().unwrap();
        sent.says(2, &["Error: cannot write tcp://127.0.0.1:", "took nothing for 500ms", "--time-limit"]);
        assert_runs(&target);
        drop(held);
    }
}

#[test]
fn a_peer_that_is_not_there_is_told_before_the_target_is_stopped() {
    let target = Target::spawn("private", &["1"]);
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let said = snap(&target, &free, &[]);
    said.says(
        2,
        &["Error: cannot connect to 127.0.0.1:", "Connection refused", "Hint: nobody listens there"],
    );
    snap(&target, "nowhere.invalid:9", &[]).says(2, &["its name is not known", "Hint: `getent"]);
    snap(&target, "localhost", &[]).says(2, &["names no peer: the port is missing", "tcp://box:9000"]);
}

#[test]
fn a_peer_that_does_not_answer_costs_the_target_no_pause() {
    let target = Target::spawn("private", &["1"]);
    // A queue that is full drops what knocks, as a firewall does.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let address = listener.local_addr().unwrap();
    let soon = Duration::from_millis(300);
    let _queue: Vec<_> = (0..4).map_while(|_| TcpStream::connect_timeout(&address, soon).ok()).collect();
    let mut sent = snap(&target, &address.to_string(), &["--time-limit", "1s"]);
    let begun = Instant::now();
    while sent.child.try_wait().unwrap().is_none() {
        assert_eq!(target.status("TracerPid"), 0);
        assert!(begun.elapsed() < LIMIT, "it does not end");
        thread::sleep(Duration::from_millis(1));
    }
    sent.says(2, &["cannot connect to 127.0.0.1:", "timed out", "Hint: nothing answers"]);
}

#[test]
fn a_receiver_that_cannot_begin_or_that_nobody_comes_to_says_what_would_help() {
    let folder = tempfile::tempdir().unwrap();
    let recv = |endpoint: &str, further: &[&str]| {
        Running::spawn(folder.path(), &[&["recv", endpoint, "-o", "a.core"], further].concat())
    };
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    recv(&port, &[])
        .says(2, &["Error: cannot listen on 127.0.0.1:", "Address already in use", "Hint: port 0"]);
    recv("0", &["--time-limit", "100ms"])
        .says(2, &["nobody connected within 100ms", "Hint: send with `memfetch snap"]);
    recv("box", &[]).says(2, &["the port is missing"]);
    assert_eq!(names(folder.path()), [""; 0]);
}

#[test]
fn more_than_is_allowed_is_refused_at_both_ends() {
    let target = Target::spawn("private", &["48"]);
    let folder = tempfile::tempdir().unwrap();
    let (recv, address) = Running::recv(folder.path(), &["--max-size", "4M"]);
    snap(&target, &address, &[]).says(2, &["the peer went away"]);
    recv.says(2, &["sends more than 4194304 bytes", "Hint: `--max-size`"]);
    assert_eq!(names(folder.path()), [""; 0]);
    assert_runs(&target);
}

#[test]
fn a_limit_on_the_size_of_files_is_an_error_and_no_signal() {
    let target = Target::spawn("private", &["8"]);
    let folder = tempfile::tempdir().unwrap();
    let limit = rustix::process::Resource::Fsize;
    let (recv, address) = Running::recv(folder.path(), &[]);
    let pid = rustix::process::Pid::from_raw(recv.pid());
    let most = rustix::process::Rlimit { current: Some(1 << 20), maximum: Some(1 << 20) };
    rustix::process::prlimit(pid, limit, most).unwrap();
    snap(&target, &address, &[]).says(2, &["the peer went away"]);
    recv.says(2, &["cannot write a.core", "RLIMIT_FSIZE", "Hint: `ulimit -f"]);
    assert_eq!(names(folder.path()), [""; 0]);
}

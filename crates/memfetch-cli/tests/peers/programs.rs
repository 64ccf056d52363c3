//! The programs whose cores are compared.

use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

use memfetch_testkit::peers::{Server, find, run, skipped, text};

/// A program that runs, and the files that it needs for that.
pub struct Running {
    pub name: &'static str,
    pub server: Server,
    /// Views that take too long on it.
    pub skip: &'static [&'static str],
    _folder: tempfile::TempDir,
}

fn running(name: &'static str, server: Server, folder: tempfile::TempDir) -> Option<Running> {
    Some(Running { name, server, skip: &[], _folder: folder })
}

/// Whether a process has at least so many threads: the sign that an interpreter is up.
fn has_threads(pid: i32, least: usize) -> bool {
    std::fs::read_dir(format!("/proc/{pid}/task")).is_ok_and(|tasks| tasks.count() >= least)
}

pub fn threads() -> Option<Running> {
    let cc = find("cc", "core of a C program")?;
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("threads");
    let output = run(
        Command::new(cc)
            .args(["-g", "-O1", "-pthread", "-o"])
            .arg(&program)
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/programs/threads.c")),
        Duration::from_secs(60),
    );
    assert!(output.status.success(), "{}", text(&output));
    let server = Server::start::<&str>(&program, &[], |pid| has_threads(pid, 4));
    std::thread::sleep(Duration::from_millis(200));
    running("a C program", server, folder)
}

pub fn redis() -> Option<Running> {
    let redis = find("redis-server", "core of redis-server")?;
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket");
    let arguments = [
        "--port".as_ref(),
        "0".as_ref(),
        "--save".as_ref(),
        "".as_ref(),
        "--dir".as_ref(),
        folder.path().as_os_str(),
        "--unixsocket".as_ref(),
        socket.as_os_str(),
    ];
    let server = Server::start(&redis, &arguments, |_| UnixStream::connect(&socket).is_ok());
    running("redis-server", server, folder)
}

pub fn python() -> Option<Running> {
    let python = find("python3", "core of Python")?;
    let folder = tempfile::tempdir().unwrap();
    let script = "import threading, time, json\n\
        data = {str(n): [n, n / 3, {'x': n}] for n in range(20000)}\n\
        threading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n\
        threading.Thread(target=lambda: threading.Event().wait(), daemon=True).start()\n\
        time.sleep(600)\n";
    let server = Server::start(&python, &["-c", script], |pid| has_threads(pid, 3));
    std::thread::sleep(Duration::from_millis(200));
    running("Python", server, folder)
}

pub fn node() -> Option<Running> {
    let node = find("node", "core of Node")?;
    let folder = tempfile::tempdir().unwrap();
    let script = "const data = []; for (let i = 0; i < 50000; i++) data.push({n: i, s: 'x' + i});\n\
        require('fs').readFile('/dev/null', () => {}); setInterval(() => data.length, 1000);";
    let server = Server::start(&node, &["-e", script], |pid| has_threads(pid, 7));
    std::thread::sleep(Duration::from_millis(500));
    running("Node", server, folder)
}

pub fn java() -> Option<Running> {
    let java = find("java", "core of Java")?;
    let javac = find("javac", "core of Java")?;
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("Sleep.java");
    std::fs::write(
        &source,
        "public class Sleep { public static void main(String[] a) throws Exception {\n\
         int[] data = new int[1 << 20]; for (int i = 0; i < data.length; i++) data[i] = i;\n\
         Thread.sleep(600_000); System.out.println(data[5]); } }\n",
    )
    .unwrap();
    let output = run(Command::new(javac).arg("-d").arg(folder.path()).arg(&source), Duration::from_secs(120));
    if !output.status.success() {
        skipped("core of Java", &format!("javac fails: {}", text(&output)));
        return None;
    }
    let arguments = ["-Xmx128m".as_ref(), "-cp".as_ref(), folder.path().as_os_str(), "Sleep".as_ref()];
    let server = Server::start(&java, &arguments, |pid| has_threads(pid, 10));
    std::thread::sleep(Duration::from_secs(1));
    running("Java", server, folder)
}

//! The benchmarks by their names.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::bench::{Benchmark, Contest, Contestant, Folder, Scene, Target};
use crate::run::must;

/// All of them, in the order in which they run.
pub const ALL: &[Benchmark] = &[
    Benchmark {
        name: "core-4g",
        about: "A core of a process with 4 GiB of data in RAM, on the disk and synced. `dd` writes as many zeros by \
                direct I/O, 4 MiB at a time: what the disk can do.",
        prepare: core_4g,
    },
    Benchmark {
        name: "reserved-8g",
        about: "A core of a process that has reserved 8 GiB and touched 4 MiB of it.",
        prepare: reserved_8g,
    },
    Benchmark {
        name: "redis",
        about: "A core of a Redis server that holds nothing: what a snapshot costs at least.",
        prepare: redis,
    },
    Benchmark {
        name: "churn",
        about: "How long a process with 256 MiB in RAM takes to map, touch and unmap 200,000 times while each program \
                takes a core of it once a second. (The peak memory is that process'.)",
        prepare: churn,
    },
    Benchmark {
        name: "find-2g",
        about: "A text in a process with 2 GiB in RAM: a quarter each of random bytes, of text, of pointers and of small \
                numbers. `reading alone` goes through the same calls on as many threads, and does nothing with the bytes.",
        prepare: find_2g,
    },
    Benchmark {
        name: "rules-2g",
        about: "A file of 500 rules with a text each, over such a process.",
        prepare: rules_2g,
    },
    Benchmark {
        name: "strings-1g",
        about: "Strings of 8 characters and more in 1 GiB of such bytes. binutils' strings reads them from a file in the \
                page cache, as raw memory; it knows ASCII only, as `-e ascii` does. The core is read from the disk each \
                time, since memfetch leaves nothing of it in the page cache.",
        prepare: strings_1g,
    },
    Benchmark {
        name: "diff-4g",
        about: "Two equal images of a process with 4 GiB in RAM, neither in the page cache. `cmp` and `cat` read the same files.",
        prepare: diff_4g,
    },
];

fn core_4g(scene: &Scene) -> Result<Contest, String> {
    let (target, pid) = python(
        scene,
        "import os, sys\nb = os.urandom(1 << 20) * 4096\nprint('ready', flush=True)\nsys.stdin.read()",
    )?;
    let mut contestants = snapshots(scene, &pid)?;
    let mut dd = Command::new(scene.program("dd")?);
    dd.args(["if=/dev/zero", "bs=4M", "count=1024", "oflag=direct", "conv=fsync"]);
    dd.arg(format!("of={}", core(scene).display()));
    contestants.insert(2, Contestant { name: "dd".to_owned(), command: dd });
    Ok((Some(target), contestants))
}

fn reserved_8g(scene: &Scene) -> Result<Contest, String> {
    let (target, pid) = python(
        scene,
        "import mmap, sys\nm = mmap.mmap(-1, 8 << 30, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000)\n\
         for at in range(0, 4 << 20, 4096): m[at] = 1\nprint('ready', flush=True)\nsys.stdin.read()",
    )?;
    Ok((Some(target), snapshots(scene, &pid)?))
}

fn redis(scene: &Scene) -> Result<Contest, String> {
    let (target, _) = redis_server(scene)?;
    let pid = target.child.id().to_string();
    Ok((Some(target), snapshots(scene, &pid)?))
}

/// A Redis server that holds nothing, and the socket that it listens on.
pub fn redis_server(scene: &Scene) -> Result<(Target, PathBuf), String> {
    let mut command = Command::new(scene.program("redis-server")?);
    // Not among the outputs, which are emptied after each run, nor below the target folder, whose path may be too long
    // for the name of a socket.
    let folder = std::env::temp_dir().join(format!("memfetch-bench-{}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let socket = folder.join("socket");
    let folder = Folder(folder);
    command.args(["--port", "0", "--save", "", "--unixsocket"]).arg(&socket);
    let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    let mut target = Target::new(spawned.map_err(|error| format!("redis-server: {error}"))?);
    target.files = Some(folder);
    // Its log goes on for as long as it runs, and nothing that matters comes after it has begun to serve.
    if let Some(stdout) = target.child.stdout.take() {
        let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
        if !lines.any(|line| line.contains("Ready to accept connections") || line.contains("is now ready")) {
            return Err("redis-server does not start".to_owned());
        }
    }
    std::thread::sleep(std::time::Duration::from_millis(500));
    Ok((target, socket))
}

fn churn(scene: &Scene) -> Result<Contest, String> {
    let under = |name: &str, program: Option<Command>| {
        let mut command = Command::new(&scene.roles);
        command.args(["churn-under", "200000"]);
        if let Some(program) = program {
            command.arg(program.get_program()).args(program.get_args());
        }
        Contestant { name: name.to_owned(), command }
    };
    let mut contestants = vec![under("nothing", None)];
    for Contestant { name, mut command } in snapshots(scene, "PID")? {
        if name.starts_with("memfetch") {
            command.arg("--force");
        }
        contestants.push(under(&name, Some(command)));
    }
    Ok((None, contestants))
}

/// Snapshots of a process by memfetch, in both modes, and by gcore.
fn snapshots(scene: &Scene, pid: &str) -> Result<Vec<Contestant>, String> {
    Ok(vec![snapshot(scene, pid, "freeze"), snapshot(scene, pid, "live"), gcore(scene, pid)?])
}

/// A snapshot of a process by memfetch.
pub fn snapshot(scene: &Scene, pid: &str, mode: &str) -> Contestant {
    let mut command = Command::new(&scene.memfetch);
    command.args(["snap", pid, "--quiet", "--mode", mode, "--output"]).arg(core(scene));
    Contestant { name: format!("memfetch --mode {mode}"), command }
}

/// A core of a process by gcore.
pub fn gcore(scene: &Scene, pid: &str) -> Result<Contestant, String> {
    let mut command = Command::new(scene.program("gcore")?);
    command.arg("-o").arg(core(scene)).arg(pid);
    Ok(Contestant { name: "gcore".to_owned(), command })
}

fn core(scene: &Scene) -> PathBuf {
    scene.outputs.join("core")
}

/// A Python process that runs a program until its standard input ends, after it has said that it is ready.
fn python(scene: &Scene, program: &str) -> Result<(Target, String), String> {
    let mut command = Command::new(scene.program("python3")?);
    let spawned = command.args(["-c", program]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut target = Target::new(spawned.map_err(|error| format!("python3: {error}"))?);
    let mut line = String::new();
    if let Some(stdout) = target.child.stdout.take() {
        let _ = BufReader::new(stdout).read_line(&mut line);
    }
    let pid = target.child.id().to_string();
    if line.trim() == "ready" { Ok((target, pid)) } else { Err(format!("python3 is not ready: {line}")) }
}

/// A process with so many MiB of bytes as processes have them.
fn mixed(scene: &Scene, mebibytes: u32) -> Result<(Target, String), String> {
    let program = format!(
        "import os, struct, sys\nq = 256 << 10\n\
         text = b''.join(b'%d: the quick brown fox jumps over %d lazy dogs\\n' % (i, i * 7) for i in range(9000))[:q]\n\
         pointers = struct.pack('<%dQ' % (q // 8), *(0x7f0000000000 + i * 48 for i in range(q // 8)))\n\
         numbers = struct.pack('<%dI' % (q // 4), *(i % 1000 for i in range(q // 4)))\n\
         b = (os.urandom(q) + text + pointers + numbers) * {mebibytes}\n\
         needle = 'a needle in ' + 'the haystack'\nprint('ready', flush=True)\nsys.stdin.read()"
    );
    python(scene, &program)
}

fn contestant(name: &str, program: &Path, arguments: &[&str]) -> Contestant {
    let mut command = Command::new(program);
    command.args(arguments);
    Contestant { name: name.to_owned(), command }
}

/// A folder beside the outputs, which stays through all runs.
fn kept(scene: &Scene, name: &str) -> Result<(Folder, PathBuf), String> {
    let path = scene.outputs.with_file_name(format!("bench-{name}"));
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok((Folder(path.clone()), path))
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}

fn find_2g(scene: &Scene) -> Result<Contest, String> {
    let (mut target, pid) = mixed(scene, 2048)?;
    let (folder, path) = kept(scene, "find")?;
    let rules = path.join("needle.yar");
    write(&rules, "rule needle { strings: $a = \"a needle in the haystack\" condition: $a }\n")?;
    target.files = Some(folder);
    let text = "a needle in the haystack";
    let rules = rules.display().to_string();
    let contestants = vec![
        contestant("memfetch find", &scene.memfetch, &["find", &pid, text]),
        contestant("reading alone", &scene.reader, &[&pid]),
        contestant("memfetch find --threads 1", &scene.memfetch, &["find", &pid, text, "--threads", "1"]),
        contestant("reading alone, one thread", &scene.reader, &[&pid, "1"]),
        contestant("memfetch find -i", &scene.memfetch, &["find", "-i", &pid, text]),
        contestant("memfetch find -e", &scene.memfetch, &["find", &pid, "-e", "needle (in|on) the [a-z]+"]),
        contestant("yara", &scene.program("yara")?, &[&rules, &pid]),
    ];
    Ok((Some(target), contestants))
}

fn rules_2g(scene: &Scene) -> Result<Contest, String> {
    let (mut target, pid) = mixed(scene, 2048)?;
    let (folder, path) = kept(scene, "rules")?;
    let file = path.join("500.yar");
    let rule = |number: u32| {
        format!(
            "rule r{number} {{ strings: $a = \"secret word {} of {number}\" condition: $a }}\n",
            number * 7919
        )
    };
    write(&file, &(0..500).map(rule).collect::<String>())?;
    target.files = Some(folder);
    let file = file.display().to_string();
    // No rule is true, which is exit code 1 of ours.
    let ours = format!("{} find {pid} --rules {file} || test $? = 1", scene.memfetch.display());
    let shell = scene.program("sh")?;
    let contestants = vec![
        contestant("memfetch find --rules", &shell, &["-c", &ours]),
        contestant("yara -p 2", &scene.program("yara")?, &["-p", "2", &file, &pid]),
    ];
    Ok((Some(target), contestants))
}

fn strings_1g(scene: &Scene) -> Result<Contest, String> {
    let (mut target, pid) = mixed(scene, 1024)?;
    let (folder, path) = kept(scene, "strings")?;
    target.files = Some(folder);
    let (raw, core) = (path.join("raw").display().to_string(), path.join("core").display().to_string());
    must(Command::new(&scene.memfetch).args(["snap", "-q", &pid, "--format", "raw", "-o", &raw]))?;
    must(Command::new(&scene.memfetch).args(["snap", "-q", &pid, "-o", &core]))?;
    let ours = |name: &str, more: &[&str]| {
        contestant(name, &scene.memfetch, &[&["strings", "-n", "8"], more].concat())
    };
    let contestants = vec![
        ours("memfetch strings -e ascii, the process", &["-e", "ascii", &pid]),
        ours("memfetch strings -e ascii, a core", &["-e", "ascii", &core]),
        ours("memfetch strings (UTF-8 and UTF-16), the process", &[&pid]),
        ours("memfetch strings (UTF-8 and UTF-16), a core", &[&core]),
        contestant("strings", &scene.program("strings")?, &["-n", "8", "-t", "x", &raw]),
    ];
    Ok((Some(target), contestants))
}

fn diff_4g(scene: &Scene) -> Result<Contest, String> {
    let (mut target, pid) = mixed(scene, 4096)?;
    let (folder, path) = kept(scene, "diff")?;
    target.files = Some(folder);
    let (one, other) = (path.join("one").display().to_string(), path.join("other").display().to_string());
    must(Command::new(&scene.memfetch).args(["snap", "-q", &pid, "-o", &one]))?;
    must(Command::new("cp").args([&one, &other]))?;
    must(&mut Command::new("sync"))?;
    let cold = |name: &str, command: String| {
        let script = format!(
            "for file in {one} {other}; do dd if=$file iflag=nocache count=0 status=none; done; exec {command}"
        );
        contestant(name, Path::new("/bin/sh"), &["-c", &script])
    };
    let contestants = vec![
        cold("memfetch diff", format!("{} diff {one} {other}", scene.memfetch.display())),
        cold("cmp", format!("cmp {one} {other}")),
        cold("cat", format!("cat {one} {other}")),
    ];
    Ok((Some(target), contestants))
}

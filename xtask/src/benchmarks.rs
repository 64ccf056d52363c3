//! The benchmarks by their names.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::bench::{Benchmark, Contest, Contestant, Scene, Target};

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
    let mut command = Command::new(scene.program("redis-server")?);
    // Not among the outputs, which are emptied after each run; Redis takes it away when it ends.
    let socket = std::env::temp_dir().join(format!("memfetch-bench-{}.socket", std::process::id()));
    command.args(["--port", "0", "--save", "", "--unixsocket"]).arg(&socket);
    let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    let mut target = Target(spawned.map_err(|error| format!("redis-server: {error}"))?);
    // Its log goes on for as long as it runs, and nothing that matters comes after it has begun to serve.
    if let Some(stdout) = target.0.stdout.take() {
        let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
        if !lines.any(|line| line.contains("Ready to accept connections") || line.contains("is now ready")) {
            return Err("redis-server does not start".to_owned());
        }
    }
    std::thread::sleep(std::time::Duration::from_millis(500));
    let pid = target.0.id().to_string();
    Ok((Some(target), snapshots(scene, &pid)?))
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
    let ours = |mode: &str| {
        let mut command = Command::new(&scene.memfetch);
        command.args(["snap", pid, "--quiet", "--mode", mode, "--output"]).arg(core(scene));
        Contestant { name: format!("memfetch --mode {mode}"), command }
    };
    let mut gcore = Command::new(scene.program("gcore")?);
    gcore.arg("-o").arg(core(scene)).arg(pid);
    Ok(vec![ours("freeze"), ours("live"), Contestant { name: "gcore".to_owned(), command: gcore }])
}

fn core(scene: &Scene) -> PathBuf {
    scene.outputs.join("core")
}

/// A Python process that runs a program until its standard input ends, after it has said that it is ready.
fn python(scene: &Scene, program: &str) -> Result<(Target, String), String> {
    let mut command = Command::new(scene.program("python3")?);
    let spawned = command.args(["-c", program]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut target = Target(spawned.map_err(|error| format!("python3: {error}"))?);
    let mut line = String::new();
    if let Some(stdout) = target.0.stdout.take() {
        let _ = BufReader::new(stdout).read_line(&mut line);
    }
    let pid = target.0.id().to_string();
    if line.trim() == "ready" { Ok((target, pid)) } else { Err(format!("python3 is not ready: {line}")) }
}

//! The benchmarks by their names.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::bench::{Benchmark, Contest, Contestant, Scene, Target};

/// All of them, in the order in which they run.
pub const ALL: &[Benchmark] = &[Benchmark {
    name: "core-512m",
    about: "A core of a Python process with 512 MiB of random bytes in RAM, written to the disk.",
    prepare: core_512m,
}];

fn core_512m(scene: &Scene) -> Result<Contest, String> {
    let (target, pid) = python(
        scene,
        "import os, sys\nb = os.urandom(512 << 20)\nprint('ready', flush=True)\nsys.stdin.read()",
    )?;
    let ours = |mode: &str| {
        let mut command = Command::new(&scene.memfetch);
        command.args(["snap", &pid, "--quiet", "--mode", mode, "--output"]).arg(core(scene));
        Contestant { name: format!("memfetch --mode {mode}"), command }
    };
    let mut gcore = Command::new(scene.program("gcore")?);
    gcore.arg("-o").arg(core(scene)).arg(&pid);
    Ok((target, vec![ours("freeze"), ours("live"), Contestant { name: "gcore".to_owned(), command: gcore }]))
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

//! A machine that QEMU emulates: boots a kernel with a first file system, and tells what was printed.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use crate::run::show;

/// A machine may be on for this long.
const LIMIT: Duration = Duration::from_secs(600);

/// What is seen of a machine that runs.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// Which kernel it is.
    Kernel(String),
    /// A program begins.
    Begin(String),
    /// A line that it printed.
    Line(String),
    /// It has ended, with this exit status.
    End(i32),
    /// Something that the machine should have is missing.
    Broken(String),
    /// All has run.
    Done,
}

impl Event {
    fn of(line: &str) -> Self {
        // A program may leave its last line without an end.
        let mark = line.find("@@ ").and_then(|at| line.get(at + 3..));
        let Some((word, rest)) = mark.map(|mark| mark.split_once(' ').unwrap_or((mark, ""))) else {
            return Self::Line(line.to_owned());
        };
        match word {
            "kernel" => Self::Kernel(rest.to_owned()),
            "begin" => Self::Begin(rest.to_owned()),
            "end" => Self::End(rest.parse().unwrap_or(-1)),
            "broken:" => Self::Broken(rest.to_owned()),
            "done" => Self::Done,
            _ => Self::Line(line.to_owned()),
        }
    }
}

/// A machine before it is switched on.
#[derive(Debug)]
pub struct Machine<'a> {
    pub qemu: &'a Path,
    pub kernel: &'a Path,
    /// The first file system.
    pub archive: &'a [u8],
    pub disk: &'a Path,
    /// Parameters for the kernel.
    pub parameters: String,
    /// For its files, and what the kernel and the programs print.
    pub folder: PathBuf,
}

/// The process of QEMU, which ends with this.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Machine<'_> {
    /// Switches it on, and passes on what happens until it is off.
    pub fn run(&self, mut each: impl FnMut(Event, Duration)) -> Result<(), String> {
        // QEMU's processors, when there are several, now and then see code that the kernel is just changing: seen as
        // `Oops: int3` in sched_clock_cpu, while it boots.
        for _ in 0..3 {
            let mut has_booted = false;
            let done = self.run_once(|event, at| {
                has_booted |= matches!(event, Event::Kernel(_));
                each(event, at);
            });
            match done {
                Err(message) if !has_booted => eprintln!("xtask: once more: {message}"),
                done => return done,
            }
        }
        self.run_once(each)
    }

    fn run_once(&self, mut each: impl FnMut(Event, Duration)) -> Result<(), String> {
        let folder = &self.folder;
        let fail = |path: &Path, error: std::io::Error| format!("{}: {error}", path.display());
        std::fs::create_dir_all(folder).map_err(|error| fail(folder, error))?;
        let archive = folder.join("first.cpio");
        std::fs::write(&archive, self.archive).map_err(|error| fail(&archive, error))?;
        let console = folder.join("console.log");
        let mut command = Command::new(self.qemu);
        command.args(["-nodefaults", "-display", "none", "-no-reboot", "-m", "3072"]);
        // Emulated, so that it works where there is no KVM, as in another virtual machine.
        command.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2"]);
        command.arg("-kernel").arg(self.kernel).arg("-initrd").arg(&archive);
        command.arg("-append").arg(format!("console=ttyS0 quiet panic=-1 {}", self.parameters));
        // What is written goes to a file without a name: all machines begin with the same disk.
        let disk = self.disk.display();
        command.arg("-drive").arg(format!("file={disk},if=virtio,format=raw,cache=unsafe,snapshot=on"));
        command.env("TMPDIR", folder);
        command.arg("-serial").arg(format!("file:{}", console.display())).args(["-serial", "stdio"]);
        eprintln!("+ {}", show(&command));
        let begun = Instant::now();
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let mut running = Running(child.map_err(|error| format!("`{}`: {error}", show(&command)))?);
        let output = running.0.stdout.take().ok_or("QEMU has no standard output")?;
        let (sender, lines) = channel();
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let mut log = String::new();
        let mut is_done = false;
        let ended = loop {
            match lines.recv_timeout(LIMIT.saturating_sub(begun.elapsed())) {
                Ok(line) => {
                    log.push_str(&line);
                    log.push('\n');
                    let event = Event::of(&line);
                    is_done |= event == Event::Done;
                    each(event, begun.elapsed());
                }
                Err(RecvTimeoutError::Disconnected) => break Ok(()),
                Err(RecvTimeoutError::Timeout) => break Err(format!("it is not done after {LIMIT:?}")),
            }
        };
        drop(running);
        let _ = reader.join();
        let _ = std::fs::remove_file(&archive);
        let output = folder.join("output.log");
        std::fs::write(&output, log).map_err(|error| fail(&output, error))?;
        ended?;
        if !is_done {
            let text = std::fs::read(&console).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            let mut last: Vec<&str> = text.lines().rev().take(20).collect();
            last.reverse();
            return Err(format!(
                "the machine went off before all had run; its console:\n{}",
                last.join("\n")
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_the_machine_and_what_programs_print() {
        assert_eq!(Event::of("@@ begin memfetch/live"), Event::Begin("memfetch/live".to_owned()));
        assert_eq!(Event::of("no newline@@ end 137"), Event::End(137));
        assert_eq!(Event::of("@@ done"), Event::Done);
        assert_eq!(Event::of("test a@b ... ok"), Event::Line("test a@b ... ok".to_owned()));
    }
}

//! The program is killed at any moment: the target runs on, and no half a file is left.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use memfetch_testkit::Target;

use super::{MEMFETCH, Running, assert_runs, assert_whole, names, snap};

/// How often it is killed in each mode.
const KILLS: u64 = 105;

/// Numbers that look random and are the same in each run of one seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        // xorshift64
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound.max(1)
    }
}

fn kill_at_any_moment(mode: &str, seed: u64) {
    let mut target = Target::spawn("threads", &["9", "100"]);
    let pid = target.pid();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.core");
    let whole_run = duration_of_a_run(pid, mode, &path);
    let mut dice = Dice(seed);
    let (mut killed, mut done, mut round) = (0, 0, 0);
    // Some rounds are through before they are killed.
    while killed < KILLS {
        round += 1;
        assert!(round < 4 * KILLS, "only {killed} were killed in time");
        let moment = Duration::from_micros(dice.below(whole_run.as_micros() as u64 * 11 / 10));
        let begun = Instant::now();
        let mut command = Command::new(MEMFETCH);
        command.args(["snap", &pid.to_string(), "-q", "--mode", mode, "-o"]).arg(&path);
        let mut running = Running::spawn(command.stderr(Stdio::null()));
        std::thread::sleep(moment.saturating_sub(begun.elapsed()));
        // SIGKILL, by the process that is still to be waited for: it cannot be another one.
        let _ = running.0.kill();
        let was_killed = running.ended().code.is_none();
        killed += u64::from(was_killed);
        assert_runs(pid);
        assert!(target.is_alive(), "round {round}: the target has died");
        assert_eq!(
            tracked_mappings(pid),
            0,
            "round {round}, killed after {moment:?}: mappings stay registered"
        );
        assert!(!target.ask("returns").is_empty());
        // What has its name is whole, and there is nothing else.
        match names(folder.path()).as_slice() {
            [] => assert!(was_killed, "round {round}: done, and there is no file"),
            [only] if only == "a.core" => {
                if done % 8 == 0 {
                    assert_whole(&path);
                }
                done += 1;
                std::fs::remove_file(&path).unwrap();
            }
            others => panic!("round {round}, killed after {moment:?}: {others:?} is left"),
        }
    }
    println!("{mode}: {killed} of {round} killed within {whole_run:?}, {done} files, seed {seed}");
    println!("calls that returned, as they may where the stop is cut off: {}", target.ask("returns"));
    snap(pid, &path, &["--mode", mode]).says(0, &[]);
    assert_whole(&path);
}

/// How many mappings are registered with a userfaultfd (`uw` among the VmFlags of proc(5)).
fn tracked_mappings(pid: i32) -> usize {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
    let flags = maps.lines().filter(|line| line.starts_with("VmFlags:"));
    flags.filter(|line| line.split(' ').any(|flag| flag == "uw")).count()
}

fn duration_of_a_run(pid: i32, mode: &str, path: &Path) -> Duration {
    let runs = (0..3).map(|_| {
        let begun = Instant::now();
        snap(pid, path, &["--mode", mode]).says(0, &[]);
        let took = begun.elapsed();
        std::fs::remove_file(path).unwrap();
        took
    });
    runs.max().unwrap()
}

fn seed() -> u64 {
    std::time::UNIX_EPOCH.elapsed().map_or(1, |elapsed| elapsed.as_nanos() as u64) | 1
}

#[test]
fn killed_while_it_holds_the_target() {
    kill_at_any_moment("freeze", seed());
}

#[test]
fn killed_while_it_tracks_the_target() {
    kill_at_any_moment("instant", seed());
}

#[test]
fn killed_while_the_target_runs() {
    kill_at_any_moment("live", seed());
}

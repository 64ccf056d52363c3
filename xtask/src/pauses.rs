//! The benchmarks of what a client of a Redis server waits while a snapshot is taken of the server.

use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::bench::{Contestant, RUNS, Scene, empty, machine, median, shown, timed};
use crate::benchmarks::{gcore, redis_server, snapshot};

/// A comparison under a load.
pub struct Pause {
    /// Its name on the command line and in the file.
    pub name: &'static str,
    /// How many values are set a second meanwhile.
    pub rate: u64,
}

/// All of them, in the order in which they run.
pub const ALL: &[Pause] = &[
    Pause { name: "pause-redis", rate: 0 },
    Pause { name: "pause-redis-20k", rate: 20_000 },
    Pause { name: "pause-redis-100k", rate: 100_000 },
];

/// The modes of ours that compete.
const MODES: &[&str] = &["freeze", "instant"];

/// How often the client asks.
const PERIOD: Duration = Duration::from_micros(500);

/// How often the load sends what is due.
const BATCH_PERIOD: Duration = Duration::from_millis(1);

/// How many keys there are, and how long each value is: 2 GB with what the server adds.
const KEYS: u64 = 1_700_000;
const VALUE_BYTES: usize = 1000;

/// How many commands are sent before the answers are read.
const FILL_BATCH: u64 = 1000;

/// How long the load is counted before a snapshot.
const BEFORE: Duration = Duration::from_secs(1);

type Result<T> = std::result::Result<T, String>;

/// What one run showed.
struct Run {
    total: Duration,
    longest: Duration,
    high: Duration,
    /// How fast the load was, as a part of what it was before.
    load: Option<f64>,
}

/// Runs a comparison, and returns its section.
pub fn run(pause: &Pause, scene: &Scene) -> Result<String> {
    let (target, socket) = redis_server(scene)?;
    fill(&socket)?;
    let mut contestants = contestants(scene, &target.child.id().to_string())?;
    let mut runs: Vec<Vec<Run>> = contestants.iter().map(|_| Vec::new()).collect();
    for round in 0..=RUNS {
        for (contestant, runs) in contestants.iter_mut().zip(&mut runs) {
            eprintln!("+ {}: {} ({round} of {RUNS})", pause.name, contestant.name);
            let run = measured(&socket, pause.rate, &mut contestant.command)?;
            if round > 0 {
                runs.push(run);
            }
            empty(&scene.outputs)?;
        }
    }
    let load = match pause.rate {
        0 => "nothing else asks it for anything".to_owned(),
        rate => format!("another client sets {rate} of the values a second"),
    };
    let mut text = format!(
        "## {}\n\nHow long a client of a Redis server with 2 GB of data waits for the answer to a PING, one each half \
         millisecond, while each program takes a core of the server; {load}. A PING counts from when it was due. \
         `longest wait` and the 99.9th percentile are medians of the runs, `worst wait` is the longest of all. `sleep` \
         is what the machine does by itself.\n\n{}\n\n\
         | program | longest wait | worst wait | 99.9 % | total time | load meanwhile |\n|---|---:|---:|---:|---:|---:|\n",
        pause.name,
        machine()
    );
    for (contestant, runs) in contestants.iter().zip(&runs) {
        let middle = |of: fn(&Run) -> Duration| median(&mut runs.iter().map(of).collect::<Vec<_>>());
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} |",
            contestant.name,
            shown(middle(|run| run.longest)),
            shown(runs.iter().map(|run| run.longest).max().unwrap_or_default()),
            shown(middle(|run| run.high)),
            shown(middle(|run| run.total)),
            percent(runs)
        );
    }
    Ok(text)
}

fn contestants(scene: &Scene, pid: &str) -> Result<Vec<Contestant>> {
    let mut all: Vec<_> = MODES.iter().map(|mode| snapshot(scene, pid, mode)).collect();
    all.push(gcore(scene, pid)?);
    let mut sleep = Command::new("sleep");
    sleep.arg("2");
    all.push(Contestant { name: "sleep".to_owned(), command: sleep });
    Ok(all)
}

/// The median of the loads in percent.
fn percent(runs: &[Run]) -> String {
    let mut loads: Vec<f64> = runs.iter().filter_map(|run| run.load).collect();
    loads.sort_by(f64::total_cmp);
    loads.get(loads.len() / 2).map_or_else(|| "-".to_owned(), |load| format!("{:.0} %", load * 100.0))
}

/// Runs a command while clients ask the server.
fn measured(socket: &Path, rate: u64, command: &mut Command) -> Result<Run> {
    let load = Load::start(socket, rate)?;
    thread::sleep(BEFORE);
    let before = load.rate();
    let asking = Asking::start(socket)?;
    let begun = Instant::now();
    load.rate();
    let (total, _) = timed(command)?;
    let during = load.rate();
    let mut waits = asking.stop(begun + total)?;
    load.stop()?;
    waits.sort();
    let longest = waits.last().copied().ok_or("no PING was answered")?;
    let high = waits.get(waits.len() * 999 / 1000).copied().unwrap_or(longest);
    Ok(Run { total, longest, high, load: (rate > 0).then_some(during / before) })
}

/// A connection to the server. Where it does not answer for minutes, that is an error.
struct Connection {
    stream: UnixStream,
    answers: Vec<u8>,
}

impl Connection {
    fn open(socket: &Path) -> Result<Self> {
        let open = || {
            let stream = UnixStream::connect(socket)?;
            stream.set_read_timeout(Some(Duration::from_secs(120)))?;
            Ok(stream)
        };
        open().map(|stream| Self { stream, answers: Vec::new() }).map_err(failed)
    }

    /// Sends commands, and waits for the answers, which are to be these.
    fn ask(&mut self, commands: &[u8], answer: &str, count: usize) -> Result<()> {
        self.stream.write_all(commands).map_err(failed)?;
        self.answers.resize(answer.len() * count, 0);
        self.stream.read_exact(&mut self.answers).map_err(failed)?;
        if self.answers.chunks_exact(answer.len()).all(|one| one == answer.as_bytes()) {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&self.answers);
        Err(format!("redis-server answers {:?}", said.lines().find(|line| *line != answer.trim_end())))
    }
}

fn failed(error: std::io::Error) -> String {
    format!("redis-server does not answer: {error}")
}

const OK: &str = "+OK\r\n";
const PING: &[u8] = b"PING\r\n";
const PONG: &str = "+PONG\r\n";

/// Adds a command that sets a key.
fn set(commands: &mut Vec<u8>, key: u64, filler: u8) {
    let _ = write!(commands, "*3\r\n$3\r\nSET\r\n$11\r\nkey:{key:07}\r\n${VALUE_BYTES}\r\n");
    commands.resize(commands.len() + VALUE_BYTES, filler);
    commands.extend_from_slice(b"\r\n");
}

fn fill(socket: &Path) -> Result<()> {
    let mut connection = Connection::open(socket)?;
    for first in (0..KEYS).step_by(FILL_BATCH as usize) {
        let mut commands = Vec::new();
        (first..first + FILL_BATCH).for_each(|key| set(&mut commands, key, b'a'));
        connection.ask(&commands, OK, FILL_BATCH as usize)?;
    }
    Ok(())
}

/// A client that asks in a fixed rhythm.
struct Asking {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Vec<(Instant, Duration)>>>,
}

impl Asking {
    fn start(socket: &Path) -> Result<Self> {
        let mut connection = Connection::open(socket)?;
        connection.ask(PING, PONG, 1)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut waits = Vec::new();
            let mut due = Instant::now();
            while !stopped.load(Ordering::Relaxed) || due < Instant::now() {
                thread::sleep(due.saturating_duration_since(Instant::now()));
                connection.ask(PING, PONG, 1)?;
                waits.push((due, due.elapsed()));
                due += PERIOD;
            }
            Ok(waits)
        });
        Ok(Self { stop, thread })
    }

    /// How long it waited, each time, for answers to what was due until `end`.
    fn stop(self, end: Instant) -> Result<Vec<Duration>> {
        self.stop.store(true, Ordering::Relaxed);
        let waits = self.thread.join().map_err(|_| "the client panicked")??;
        Ok(waits.into_iter().filter(|(due, _)| *due <= end).map(|(_, wait)| wait).collect())
    }
}

/// A client that sets values at a rate; what it could not send in time it leaves out.
struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    /// When the rate was last asked for, and how many were done then.
    asked: std::cell::Cell<(Instant, u64)>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Load {
    fn start(socket: &Path, rate: u64) -> Result<Self> {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let asked = std::cell::Cell::new((Instant::now(), 0));
        let mut load = Self { stop, done, asked, thread: None };
        let batch = rate * BATCH_PERIOD.as_micros() as u64 / 1_000_000;
        if batch == 0 {
            return Ok(load);
        }
        let mut connection = Connection::open(socket)?;
        let (stopped, done) = (Arc::clone(&load.stop), Arc::clone(&load.done));
        load.thread = Some(thread::spawn(move || {
            let (mut random, mut due) = (1_u64, Instant::now());
            let mut commands = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                commands.clear();
                for _ in 0..batch {
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    set(&mut commands, random % KEYS, b'a' + (random >> 32) as u8 % 26);
                }
                connection.ask(&commands, OK, batch as usize)?;
                done.fetch_add(batch, Ordering::Relaxed);
                due = (due + BATCH_PERIOD).max(Instant::now() - 4 * BATCH_PERIOD);
                thread::sleep(due.saturating_duration_since(Instant::now()));
            }
            Ok(())
        }));
        Ok(load)
    }

    /// How many it has set a second since this was last asked.
    fn rate(&self) -> f64 {
        let now = (Instant::now(), self.done.load(Ordering::Relaxed));
        let (since, done) = self.asked.replace(now);
        (now.1 - done) as f64 / (now.0 - since).as_secs_f64().max(f64::MIN_POSITIVE)
    }

    fn stop(mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().map_or(Ok(()), |thread| thread.join().map_err(|_| "the load panicked")?)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

//! [`Copying`]: a process from its first page to its last.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::super::blocks::{Block, Blocks};
use super::super::copy::Copier;
use super::super::crew::{self, Rules, Step};
use super::super::gather::{Gathered, gather_by};
use super::super::known::Known;
use super::super::prepare::{Form, plan};
use super::super::{Progress, Sharing, Snapshot, write};
use super::backing::Backing;
use super::spans::{bytes_of, coarse, inside, merged, missing, spans_of, without};
use super::spool::{Order, Spool};
use super::{Course, briefly};
use crate::address::Span;
use crate::error::{Error, InstantError};
use crate::live::stop::{FreezeOptions, Frozen, freeze};
use crate::live::track::Tracker;
use crate::live::{Process, ProcessFacts};
use crate::memory::{Gaps, Memory, PageRun, PageRuns, PageState};
use crate::region::{FileBacking, FileKind, Region, RegionMap};
use crate::sink::OutputFile;

/// What is left by a round is copied in the stop once it is so little: about a millisecond's worth.
const LITTLE: u64 = 4 << 20;
/// So many rounds at the most.
const MOST_ROUNDS: u32 = 12;
const MOST_ROUNDS_WITH_STOPS: u32 = 3;
/// Pages that lie so near each other are read together while the process runs, and so near while it is held.
const NEAR: u64 = 8 << 10;
const NEARER: u64 = 4 << 10;
/// A copy up to this size lies in memory as a whole.
const WHOLE_IN_MEMORY: u64 = 256 << 20;
/// How many bytes are copied in a second of a stop, as a bound for planning.
const STOP_SPEED: f64 = 3e9;
/// How long shared memory may lengthen the stop, unless a longest pause was asked for.
const SHARED_PAUSE: Duration = Duration::from_millis(100);

/// A process that is being copied.
pub(super) struct Copying<'a, 's> {
    process: &'a Process,
    snapshot: &'a Snapshot<'s>,
    form: Form,
    tracker: Box<dyn Tracker>,
    course: Course,
    spool: Spool,
    base: Option<Backing>,
    /// How much memory the spool may take.
    memory: u64,
    /// How many bytes are left to the stop, whatever becomes of them until then.
    deferred: u64,
    progress: &'a mut dyn FnMut(Progress),
}

impl<'a, 's> Copying<'a, 's> {
    /// Nothing of it is copied yet.
    pub fn new(
        process: &'a Process,
        snapshot: &'a Snapshot<'s>,
        form: Form,
        tracker: Box<dyn Tracker>,
        course: Course,
        progress: &'a mut dyn FnMut(Progress),
    ) -> Self {
        let (spool, memory) = (Spool::default(), snapshot.spool_memory.unwrap_or_else(memory_limit));
        Self { process, snapshot, form, tracker, course, spool, base: None, memory, deferred: 0, progress }
    }

    /// Decides whether what others can change is copied in the stop.
    pub fn choose_sharing(&mut self, gathered: &Gathered) {
        let wanted = self.wanted(gathered);
        let shared = wanted.iter().filter(|run| is_others_too(&gathered.map, run));
        let bytes = shared.map(|run| run.span.len()).sum();
        self.course.sharing = match self.snapshot.sharing {
            Sharing::Auto if time_for(bytes) <= self.snapshot.max_pause.unwrap_or(SHARED_PAUSE) / 2 => {
                Sharing::Stop
            }
            Sharing::Auto => Sharing::Tracked,
            chosen => chosen,
        };
        self.deferred = if self.course.sharing == Sharing::Stop { bytes } else { 0 };
    }

    /// The pages that hold something and are wanted, with their states.
    fn wanted(&self, gathered: &Gathered) -> PageRuns {
        let known = Known { gathered, touch: self.snapshot.touch };
        let plan = plan(gathered, &known, self.snapshot, self.form.rule(), None);
        let mut wanted = PageRuns::new();
        for segment in plan.segments.iter().filter(|segment| segment.saved) {
            let runs = gathered.pages.within(segment.span);
            wanted.extend(runs.filter(|run| !run.state.is_known_zero()));
        }
        wanted
    }

    /// What of it is left to the stop, whatever becomes of it until then.
    fn is_deferred(&self, map: &RegionMap, run: &PageRun) -> bool {
        self.course.sharing == Sharing::Stop && is_others_too(map, run)
    }

    /// What can be copied while the process runs.
    fn without_deferred(&self, map: &RegionMap, wanted: &PageRuns) -> PageRuns {
        let mut runs = PageRuns::new();
        for region in map {
            runs.extend(wanted.within(region.span).filter(|run| !self.is_deferred(map, run)));
        }
        runs
    }

    /// Copies everything for the first time; returns what is copied.
    pub fn first(&mut self, gathered: &Gathered, output: &mut Option<OutputFile>) -> Result<PageRuns, Error> {
        let wanted = self.without_deferred(&gathered.map, &self.wanted(gathered));
        if bytes_of(&wanted) > WHOLE_IN_MEMORY.min(self.memory / 2) {
            let base = match output.take() {
                Some(output) => Backing::in_image(gathered, self.snapshot, self.form, output, &wanted)?,
                None => Backing::in_file(&self.snapshot.spool_directory, &wanted)?,
            };
            self.spool = base.spool()?;
            self.base = Some(base);
        }
        self.copy(gathered, &wanted, false)
    }

    /// Copies again what was written, until little is left or it does not become less. Returns what is copied, and how
    /// much was left the last time.
    pub fn rounds(
        &mut self,
        gathered: &mut Gathered,
        mut copied: PageRuns,
    ) -> Result<(PageRuns, u64), Error> {
        let mut before = u64::MAX;
        loop {
            let refuse =
                |error| Error::NoInstant { pid: self.process.pid(), source: InstantError::Stop(error) };
            let held = match self.tracker.needs_stop() {
                true => Some(freeze(self.process.pid(), &briefly(self.process)).map_err(refuse)?),
                false => None,
            };
            let (map, pages, _) = self.tracker.look(copied.clone(), held.is_some())?;
            copied = of_the_same_files(&copied, &gathered.map, &map);
            (gathered.map, gathered.pages) = (Arc::new(map), pages);
            // What is watched from now on has been written at any time before.
            copied = without(&copied, &self.tracker.watch(&gathered.map));
            let written = self.tracker.written_and_rearm(&gathered.map, &gathered.pages);
            self.course.stops.extend(held.map(Frozen::resume));
            let written = written?;
            copied = without(&copied, &written);
            let wanted = self.without_deferred(&gathered.map, &self.wanted(gathered));
            let stale = missing(&wanted, &copied, &gathered.map);
            let bytes = bytes_of(&stale);
            if bytes > 0 {
                let again = self.copy(gathered, &coarse(&stale, &wanted, NEAR), false)?;
                copied = merged(&copied, &again);
            }
            self.course.rounds += 1;
            self.course.again_bytes += bytes;
            if bytes <= LITTLE || bytes > before / 10 * 9 || self.course.rounds >= self.most_rounds() {
                return Ok((copied, bytes));
            }
            before = bytes;
        }
    }

    /// So many rounds at the most; few where each needs a stop.
    fn most_rounds(&self) -> u32 {
        if self.tracker.needs_stop() { MOST_ROUNDS_WITH_STOPS } else { MOST_ROUNDS }
    }

    /// Copies runs to where there is room for them, and returns what of them is copied.
    fn copy(&mut self, gathered: &Gathered, runs: &PageRuns, held: bool) -> Result<PageRuns, Error> {
        let room = self.memory.saturating_sub(self.spool.memory(held));
        let mut gaps = Gaps::new();
        let to_file = match &self.base {
            // What is copied again goes to the file if it is much: what is copied last needs the memory.
            Some(base) if !base.has_begun || bytes_of(runs) > if held { room } else { room / 2 } => {
                let places: Vec<Span> = self.spool.places().iter().map(|place| place.span).collect();
                let mut to_file = PageRuns::new();
                for run in runs {
                    to_file.extend(inside(run.span, &places).map(|span| PageRun { span, state: run.state }));
                }
                to_file
            }
            _ => PageRuns::new(),
        };
        let to_memory = without(runs, &spans_of(&to_file));
        if !to_file.is_empty() {
            gaps.extend(self.write_to_base(gathered, &to_file, held)?.iter().copied());
            self.spool.forget(&spans_of(&to_file));
        }
        let order = Order {
            process: self.process,
            map: &gathered.map,
            touch: self.snapshot.touch,
            page_size: gathered.platform.page_size,
            held,
            limit: self.snapshot.time_limit,
        };
        let copied = self.spool.copy(&to_memory, &order)?;
        gaps.extend(copied.gaps.iter().copied());
        self.spool.note_gaps(&gaps);
        // It takes its time, and is done later where the process waits for it.
        if !held {
            self.spool.settle();
        }
        let missing: Vec<Span> = gaps.iter().map(|gap| gap.span).collect();
        Ok(without(runs, &Span::union(missing)))
    }

    /// Copies runs to their places in the file.
    fn write_to_base(&mut self, gathered: &Gathered, runs: &PageRuns, held: bool) -> Result<Gaps, Error> {
        let Some(base) = &mut self.base else { return Ok(Gaps::new()) };
        let copier = Arc::new(Copier {
            source: self.process.clone(),
            map: Arc::clone(&gathered.map),
            headers: Vec::new(),
            touch: self.snapshot.touch,
            page_size: gathered.platform.page_size,
            cancelled: AtomicBool::new(false),
        });
        let rules = Rules {
            workers: write::WORKERS,
            buffers: write::BUFFERS,
            time_limit: self.snapshot.time_limit,
            held,
        };
        let is_first = !std::mem::replace(&mut base.has_begun, true);
        let blocks = || Blocks::new(&base.arrangement, runs);
        let blocks = blocks().filter(|block| !block.is_swapped()).chain(blocks().filter(Block::is_swapped));
        let mut written = Vec::new();
        let total_bytes = bytes_of(runs);
        let mut done_bytes = 0;
        let totals = crew::run(&copier, blocks, rules, write::into_place(&base.output), |step| {
            if let Step::Block { block, .. } = step {
                written.push(block.index);
                // What goes to another file first is told of when it goes to its output.
                if is_first && base.image.is_some() {
                    done_bytes += block.parts.iter().map(|part| part.len).sum::<u64>();
                    (self.progress)(Progress { done_bytes, total_bytes });
                }
            }
            Ok(())
        });
        let path = base.output.path();
        let totals = totals.map_err(|failure| failure.into_error(self.process.pid(), path))?;
        base.written = merged(&base.written, runs);
        if is_first {
            base.digests = totals.digests.into_iter().collect();
        } else {
            // What is in the block beside what was written now, nobody has looked at again.
            for index in written {
                base.digests.remove(&index);
            }
        }
        Ok(totals.gaps)
    }

    /// Holds the process, copies what is left, and lets it go.
    pub fn stop(
        mut self,
        facts: ProcessFacts,
        before: Gathered,
        copied: &PageRuns,
        last: u64,
    ) -> Result<Gathered, Error> {
        let refuse = |source| Error::NoInstant { pid: self.process.pid(), source };
        let left = last.saturating_add(self.deferred);
        if let Some(limit) = self.snapshot.max_pause
            && time_for(left) > limit
        {
            return Err(refuse(InstantError::TooFast { bytes: left, limit }));
        }
        self.spool.make_ready((left.saturating_add(left / 4) + (16 << 20)).min(self.memory))?;
        let options = FreezeOptions { word: self.process.platform().word, ..FreezeOptions::default() };

        let frozen = freeze(self.process.pid(), &options).map_err(InstantError::Stop).map_err(refuse)?;
        let mut clean = Vec::new();
        let known = copied.clone();
        let look = |_: &Process| {
            let (map, pages, unwritten) = self.tracker.look(known, true)?;
            clean = unwritten;
            Ok((map, pages))
        };
        let mut gathered = gather_by(self.process, Some(frozen), facts, before.started_ns, Vec::new(), look)?;
        gathered.elf_headers = before.elf_headers;
        let wanted = self.wanted(&gathered);
        let copied = of_the_same_files(copied, &before.map, &gathered.map);
        let good = self.still_good(&gathered.map, &copied, &clean);
        let stale = coarse(&missing(&wanted, &good, &gathered.map), &wanted, NEARER);
        self.course.stop_bytes = bytes_of(&stale);
        let done = self.copy(&gathered, &stale, true);
        gathered.hold.let_go();
        done?;
        self.spool.close();
        let cost = self.tracker.leave();
        self.course.longest_lock = cost.longest_lock;
        self.course.split_bytes = cost.split_bytes;
        gathered.take_spool(self.spool, self.course, self.base.take());
        Ok(gathered)
    }

    /// What of the copies is good, now that the process is held.
    fn still_good(&self, map: &RegionMap, copied: &PageRuns, clean: &[Span]) -> PageRuns {
        let mut good = PageRuns::new();
        for region in map {
            for run in copied.within(region.span) {
                if self.is_deferred(map, &run) {
                    continue;
                }
                match run.state {
                    // Not in the page table: the file, or the object, is as it was.
                    PageState::FileClean | PageState::Backed => good.push(run.span, run.state),
                    state => good.extend(inside(run.span, clean).map(|span| PageRun { span, state })),
                }
            }
        }
        good
    }
}

/// Whether a page can change with no store by the process: shared memory, memory objects, and what is a file's.
fn is_others_too(map: &RegionMap, run: &PageRun) -> bool {
    let of_others = |region: &Region| {
        let is_object = |file: &FileBacking| !matches!(file.kind, FileKind::Regular | FileKind::HugePages);
        region.permissions.shared || region.file().is_some_and(is_object)
    };
    run.state == PageState::FileResident || map.at(run.span.start()).is_some_and(of_others)
}

/// The runs without those that are a file's or an object's, and lie where another one is mapped now: no entry of the page
/// table tells that.
fn of_the_same_files(runs: &PageRuns, before: &RegionMap, now: &RegionMap) -> PageRuns {
    let place = |region: &Region| {
        let file = region.file()?;
        Some((file.device, file.inode, file.offset.wrapping_sub(region.span.start().get())))
    };
    let mut same = PageRuns::new();
    for region in now {
        for run in runs.within(region.span) {
            let is_behind = matches!(run.state, PageState::FileClean | PageState::Backed);
            let is_same = before.within(run.span).all(|before| place(before) == place(region));
            if !is_behind || is_same && before.at(run.span.start()).is_some() {
                same.push(run.span, run.state);
            }
        }
    }
    same
}

fn time_for(bytes: u64) -> Duration {
    Duration::from_secs_f64(bytes as f64 / STOP_SPEED)
}

/// How much memory a spool may take.
fn memory_limit() -> u64 {
    const LEAST: u64 = 128 << 20;
    const MOST: u64 = 4 << 30;
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    (available.unwrap_or(0) * 1024 / 4).clamp(LEAST, MOST)
}

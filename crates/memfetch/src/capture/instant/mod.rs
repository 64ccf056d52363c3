//! Mode instant: the memory of one moment, for a pause of milliseconds.
//!
//! All of it is copied while the process runs, and what is written meanwhile is noted and copied again, until little is
//! left. Then all threads are held, that rest is copied into memory, and they run on. What is written to the output
//! afterwards is the state of that one stop.
//!
//! Which pages have to be copied in the stop: those that are wanted, and of which there is no copy made of the same kind
//! of page, in a mapping that is tracked, and not written since. A page that was given back and is there again, a mapping
//! that came, went, moved or was split: all of them fail one of these tests. What can change with no store through this
//! process' mapping, which is shared memory and pages of files, is copied in the stop as far as its length allows:
//! [`Sharing`].

mod backing;
mod copying;
pub(super) mod in_place;
mod spans;
mod spool;

use std::time::Duration;

pub(super) use self::backing::Backing;
use self::copying::Copying;
pub(super) use self::spool::Spool;
use super::gather::{Gathered, gather_held, nanoseconds, now_ns};
use super::prepare::Form;
use super::{Progress, Sharing, Snapshot, TrackerChoice, remarks};
use crate::error::{Error, InstantError};
use crate::image::record::{Tracked, TrackerKind};
use crate::live::Process;
use crate::live::stop::{FreezeOptions, StopReport, freeze};
use crate::live::track::{BySoftDirty, Kind, Tracker, WriteProtect, keeps_soft_dirty};
use crate::memory::Memory;
use crate::sink::OutputFile;

/// Above so many mappings the process would come near to as many as the kernel allows, since tracking splits some.
const MOST_MAPPINGS: usize = 60_000;

/// How an instant snapshot came about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Course {
    /// By what writes were told.
    pub tracker: Kind,
    /// The stops before the last.
    pub stops: Vec<StopReport>,
    /// How often what was written meanwhile was copied again.
    pub rounds: u32,
    /// Bytes that were copied again.
    pub again_bytes: u64,
    /// Bytes that were copied in the stop.
    pub stop_bytes: u64,
    /// The longest time for which one call of ours held a lock that the process may have waited for.
    pub longest_lock: Duration,
    /// Bytes of huge pages that writes have split, and that could not be put together again.
    pub split_bytes: u64,
    /// How shared memory was taken.
    pub sharing: Sharing,
}

impl Course {
    /// As the image tells it; the last stop took so long.
    pub(crate) fn tracked(&self, stopped: Duration) -> Tracked {
        Tracked {
            tracker: match self.tracker {
                Kind::WriteProtect => TrackerKind::WriteProtect,
                Kind::SoftDirty => TrackerKind::SoftDirty,
            },
            stopped_ns: nanoseconds(stopped + self.stops.iter().map(|stop| stop.pause).sum()),
            longest_request_ns: nanoseconds(self.longest_lock),
            rounds: self.rounds,
            again_bytes: self.again_bytes,
            stop_bytes: self.stop_bytes,
            shared_in_stop: self.sharing == Sharing::Stop,
            split_bytes: self.split_bytes,
        }
    }

    /// What a reader of the image should know.
    pub(crate) fn remarks(&self) -> Vec<String> {
        let mut remarks: Vec<String> = self.stops.iter().flat_map(remarks::of_stop).collect();
        remarks.dedup();
        if self.sharing == Sharing::Tracked {
            remarks.push(
                "shared memory was copied before the last stop: what others wrote to it meanwhile may be missing"
                    .to_owned(),
            );
        }
        if self.split_bytes > 0 {
            remarks.push(format!(
                "{} bytes of the process' huge pages were split into small ones, and stay so: to put them together \
                 takes CAP_SYS_NICE",
                self.split_bytes
            ));
        }
        remarks
    }
}

/// Copies a process as it is at one moment. When this returns it runs on, and its memory is in the spool.
///
/// What does not fit into memory goes to `output`, to the places that it has in the image, where there is one; else to a
/// file without a name.
///
/// # Errors
///
/// [`Error::NoInstant`] where it cannot be done on this process: it is as it was then.
pub(super) fn gather(
    process: &Process,
    snapshot: &Snapshot<'_>,
    form: Form,
    output: &mut Option<OutputFile>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Gathered, Error> {
    let started_ns = now_ns();
    let facts = process.facts()?;
    let mut gathered = gather_held(process, None, facts.clone(), started_ns, Vec::new())?;
    let refuse = |source| Error::NoInstant { pid: process.pid(), source };
    if gathered.map.len() > MOST_MAPPINGS {
        return Err(refuse(InstantError::Mappings(gathered.map.len())));
    }
    let (tracker, stops) = track(process, snapshot.tracker).map_err(refuse)?;
    tracker.watch(&gathered.map);
    // A page that is written before it is armed is copied later, one written afterwards is told of.
    tracker.begin(&gathered.pages)?;
    let course = Course { tracker: tracker.kind(), stops, ..Course::default() };
    let mut copying = Copying::new(process, snapshot, form, tracker, course, progress);
    copying.choose_sharing(&gathered);
    let copied = copying.first(&gathered, output)?;
    let (copied, last) = copying.rounds(&mut gathered, copied)?;
    copying.stop(facts, gathered, &copied, last)
}

/// Chooses who tells of writes, and what that took.
fn track(
    process: &Process,
    choice: TrackerChoice,
) -> Result<(Box<dyn Tracker>, Vec<StopReport>), InstantError> {
    let by_bits = || BySoftDirty::new(process).ok_or(InstantError::NoSoftDirty);
    match choice {
        TrackerChoice::SoftDirty => Ok((Box::new(by_bits()?), Vec::new())),
        TrackerChoice::WriteProtect => write_protect(process),
        TrackerChoice::Auto => write_protect(process).or_else(|error| match error {
            InstantError::Injection(_) | InstantError::Tracking(_) if keeps_soft_dirty() => {
                Ok((Box::new(by_bits()?) as Box<dyn Tracker>, Vec::new()))
            }
            error => Err(error),
        }),
    }
}

/// Has writes of the process tracked, by a stop in which one of its threads makes the userfaultfd.
fn write_protect(process: &Process) -> Result<(Box<dyn Tracker>, Vec<StopReport>), InstantError> {
    WriteProtect::probe().map_err(InstantError::Tracking)?;
    let mut frozen = freeze(process.pid(), &briefly(process)).map_err(InstantError::Stop)?;
    let made = frozen.userfaultfd();
    let report = frozen.resume();
    let tracker = WriteProtect::new(process, made.map_err(InstantError::Injection)?);
    Ok((Box::new(tracker.map_err(InstantError::Tracking)?), vec![report]))
}

/// A stop in which nothing has to be known of the threads.
fn briefly(process: &Process) -> FreezeOptions {
    FreezeOptions { registers: false, word: process.platform().word, ..FreezeOptions::default() }
}

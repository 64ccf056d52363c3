use std::sync::atomic::AtomicBool;

use super::super::blocks::{Part, Source};
use super::*;
use crate::address::Address;
use crate::memory::{Cause, PageState, ReadError, Touch};
use crate::region::{Region, RegionMap};

/// Memory in which every byte is the number of its page, with a page that is missing, one behind which the process
/// is gone, and one whose read never ends.
#[derive(Default)]
struct Fake {
    missing: Option<u64>,
    gone: Option<u64>,
    stuck: Option<u64>,
    release: Arc<AtomicBool>,
}

const PAGE: u64 = 4096;

impl PageSource for Fake {
    fn fetch(&self, _: &Region, _: PageState, at: Address, buf: &mut [u8]) -> Result<usize, ReadError> {
        let page = at.get() / PAGE;
        if Some(page) == self.missing {
            return Err(ReadError::fault(at, Cause::Vanished));
        }
        if Some(page) == self.gone {
            return Err(ReadError::Source(Error::Ended { pid: 1 }));
        }
        if Some(page) == self.stuck {
            while !self.release.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(1));
            }
        }
        let len = (PAGE - at.get() % PAGE).min(buf.len() as u64) as usize;
        buf[..len].fill(page as u8);
        Ok(len)
    }

    fn touch(&self, region: &Region, at: Address, buf: &mut [u8]) -> Result<usize, ReadError> {
        self.fetch(region, PageState::Resident, at, buf)
    }
}

fn copier(source: Fake) -> Arc<Copier<Fake>> {
    let map = crate::maps::parse(b"100000-900000 rw-p 00000000 00:00 0 \n").unwrap();
    Arc::new(Copier {
        source,
        map: Arc::new(RegionMap::new(map.into_iter().collect())),
        headers: Vec::new(),
        touch: Touch::Stored,
        page_size: PAGE,
        cancelled: AtomicBool::new(false),
    })
}

/// Eight blocks of 1 MiB, the file's offset being the address less 1 MiB.
fn blocks(state: PageState) -> impl Iterator<Item = Block> {
    (0..8).map(move |index| Block {
        index,
        file: 0,
        file_start: 0,
        parts: vec![Part {
            offset: index * BLOCK,
            len: BLOCK,
            from: Source::Memory { at: Address::new((index + 1) * BLOCK), state },
        }],
    })
}

fn rules(workers: usize) -> Rules {
    Rules { workers, buffers: workers + 1, time_limit: Some(Duration::from_millis(300)), held: false }
}

fn nothing() -> Arc<Finish> {
    Arc::new(|_, _| Ok(()))
}

#[test]
fn one_worker_keeps_the_order_and_many_agree_with_it() {
    let mut order = Vec::new();
    let mut all_read = 0;
    let one = run(&copier(Fake::default()), blocks(PageState::Resident), rules(1), nothing(), |step| {
        match step {
            Step::Block { block, bytes, .. } => {
                order.push(block.index);
                assert_eq!(bytes[5000], ((block.index + 1) * BLOCK / PAGE + 1) as u8);
            }
            Step::AllRead => all_read += 1,
        }
        Ok(())
    });
    let Ok(one) = one else { panic!("it failed") };
    assert_eq!(order, (0..8).collect::<Vec<_>>());
    assert_eq!(all_read, 1);
    assert_eq!(one.read_bytes, 8 * BLOCK);
    let Ok(mut many) =
        run(&copier(Fake::default()), blocks(PageState::Resident), rules(4), nothing(), |_| Ok(()))
    else {
        panic!("it failed")
    };
    many.digests.sort_unstable();
    assert_eq!(one.digests, many.digests);
}

#[test]
fn a_page_that_cannot_be_read_is_filler_and_a_gap() {
    let fake = Fake { missing: Some(0x200), ..Fake::default() };
    let result = run(&copier(fake), blocks(PageState::Resident), rules(2), nothing(), |step| {
        if let Step::Block { block, bytes, .. } = step
            && block.index == 1
        {
            assert_eq!((bytes[0], bytes[4095], bytes[4096]), (0, 0, 1));
        }
        Ok(())
    });
    let Ok(totals) = result else { panic!("it failed") };
    let gap = totals.gaps.as_slice()[0];
    assert_eq!((gap.span.start().get(), gap.span.len(), gap.cause), (0x20_0000, PAGE, Cause::Vanished));
    assert_eq!(totals.read_bytes, 8 * BLOCK - PAGE);
}

#[test]
fn a_process_that_ends_fails_the_capture() {
    let fake = Fake { gone: Some(0x300), ..Fake::default() };
    let result = run(&copier(fake), blocks(PageState::Resident), rules(3), nothing(), |_| Ok(()));
    assert!(matches!(result, Err(Failure::Error(Error::Ended { pid: 1 }))));
}

#[test]
fn a_read_that_never_ends_is_given_up() {
    let release = Arc::new(AtomicBool::new(false));
    let fake = Fake { stuck: Some(0x300), release: Arc::clone(&release), ..Fake::default() };
    let result = run(&copier(fake), blocks(PageState::Resident), rules(2), nothing(), |_| Ok(()));
    assert!(matches!(result, Err(Failure::Stuck(_))));
    release.store(true, Ordering::Relaxed);
}

#[test]
fn a_failing_output_stops_everything() {
    let full: Arc<Finish> = Arc::new(|_, _| {
        let source = std::io::Error::from_raw_os_error(28);
        Err(Error::Output { path: "x".into(), source: OutputError::Io { action: "writing", source } })
    });
    let result = run(&copier(Fake::default()), blocks(PageState::Resident), rules(2), full, |_| Ok(()));
    assert!(matches!(result, Err(Failure::Error(Error::Output { .. }))));
}

#[test]
fn with_room_for_all_everything_is_read_before_anything_is_written() {
    let mut steps = Vec::new();
    let roomy = Rules { buffers: 8, ..rules(1) };
    let result = run(&copier(Fake::default()), blocks(PageState::Resident), roomy, nothing(), |step| {
        steps.push(matches!(step, Step::AllRead));
        Ok(())
    });
    assert!(result.is_ok());
    assert_eq!(steps.iter().position(|all_read| *all_read), Some(0));
    assert_eq!(steps.len(), 1 + 8);
}

#[test]
fn an_output_that_takes_nothing_is_given_up_while_the_process_is_held() {
    let blocked: Arc<Finish> = Arc::new(|_, _| {
        thread::sleep(Duration::from_secs(3));
        Ok(())
    });
    let held = Rules { held: true, ..rules(2) };
    let result = run(&copier(Fake::default()), blocks(PageState::Resident), held, blocked, |_| Ok(()));
    assert!(matches!(result, Err(Failure::Blocked(_))));
}

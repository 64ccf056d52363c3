//! Processes that end, call exec, or lose their first thread, while they are being read.

use std::time::{Duration, Instant};

use memfetch::{Error, ReadError, Threads};

use super::*;

fn until(what: &str, mut is_met: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_met() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn the_end_is_an_error_everywhere() {
    let target = Target::spawn("private", &["4"]);
    let process = Process::open(target.pid()).unwrap();
    let span = span_of(&target);
    let all = read_all(&process, span);
    let pid = target.pid();
    drop(target);
    let is_end = |error: &Error| matches!(error, Error::Ended { pid: of } if *of == pid);
    assert!(is_end(&process.check().unwrap_err()));
    assert!(is_end(&process.regions().unwrap_err()));
    assert!(is_end(&process.pages(span).unwrap_err()));
    assert!(is_end(&process.facts().unwrap_err()));
    assert!(is_end(&process.threads().unwrap_err()));
    assert!(is_end(&process.read_proc("status").unwrap_err()));
    assert!(matches!(process.read_at(span.start(), &mut [0; 8]), Err(ReadError::Source(e)) if is_end(&e)));
    assert!(matches!(Process::open(pid), Err(Error::NoSuchProcess(_))));
    assert_same(&all, &addresses(span));
}

#[test]
fn the_end_in_the_middle_of_reading() {
    let target = Target::spawn("private", &["64"]);
    let process = Process::open(target.pid()).unwrap();
    let span = span_of(&target);
    let reader = std::thread::spawn(move || {
        let mut bytes = vec![0; 1 << 20];
        loop {
            for piece in span.pieces(1 << 20) {
                match process.read_at(piece.start(), &mut bytes) {
                    Ok(read) => {
                        let expected = addresses(Span::from_len(piece.start(), read as u64 & !7).unwrap());
                        assert_same(&bytes[..expected.len()], &expected);
                    }
                    Err(error) => return error,
                }
            }
        }
    });
    std::thread::sleep(Duration::from_millis(100));
    drop(target);
    let error = reader.join().unwrap();
    assert!(matches!(error, ReadError::Source(Error::Ended { .. })), "{error:?}");
}

#[test]
fn nothing_is_read_from_what_came_after_an_exec() {
    let mut target = Target::spawn("exec", &[]);
    let process = Process::open(target.pid()).unwrap();
    let at = Address::new(target.number("start"));
    let page = Span::from_len(at, 4096).unwrap();
    assert_same(&read_all(&process, page), &addresses(page));
    assert!(target.ask("exec").starts_with("start="));
    let replaced = |error: &Error| matches!(error, Error::Replaced { .. });
    assert!(replaced(&process.check().unwrap_err()));
    assert!(replaced(&process.regions().unwrap_err()));
    assert!(matches!(process.read_at(at, &mut [0; 8]), Err(ReadError::Source(error)) if replaced(&error)));
    // Opened anew it is another address space.
    Process::open(target.pid()).unwrap().regions().unwrap();
}

#[test]
fn a_process_whose_first_thread_has_exited() {
    let target = Target::spawn("leader-exits", &[]);
    until("the first thread exits", || {
        std::fs::read_to_string(format!("/proc/{}/stat", target.pid())).unwrap().contains(") Z ")
    });
    let process = Process::open(target.pid()).unwrap();
    let tid = process.live_tid().unwrap();
    assert_ne!(tid, target.pid());
    let page = Span::from_len(Address::new(target.number("start")), 4096).unwrap();
    assert!(!process.regions().unwrap().is_empty());
    assert_eq!(only_state(&process, page), PageState::Resident);
    assert_same(&read_all(&process, page), &addresses(page));
    let threads = process.threads().unwrap();
    assert_eq!(threads.iter().map(|thread| thread.tid).collect::<Vec<_>>(), [tid]);
    assert!(!process.read_proc("auxv").unwrap().is_empty());
}

#[test]
fn threads_that_block_show_their_call() {
    let target = Target::spawn("churn", &["1"]);
    let process = Process::open(target.pid()).unwrap();
    let threads = process.threads().unwrap();
    assert_eq!(threads.len(), 2);
    assert_eq!(threads[0].tid, target.pid());
    until("the first thread waits for orders", || {
        let first = process.threads().unwrap().swap_remove(0);
        // read(2) of standard input
        matches!(first.registers, memfetch::threads::Registers::Partial(call)
            if call.number == 0 && call.arguments[0] == 0 && call.program_counter > 0)
    });
}

#[test]
fn processes_by_name() {
    let one = Target::spawn("private", &["1"]);
    let _other = Target::spawn("private", &["1"]);
    match Process::find("memfetch-target") {
        Err(Error::Ambiguous { candidates, .. }) => {
            assert!(candidates.iter().any(|candidate| candidate.pid == one.pid()));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(Process::find(&one.pid().to_string()).unwrap().pid(), one.pid());
    assert!(matches!(Process::find("no such name at all"), Err(Error::NoSuchProcess(_))));
    let own = Process::find("self").unwrap().name().to_owned();
    assert!(matches!(
        Process::find(own.to_str().unwrap()),
        Err(Error::NoSuchProcess(_) | Error::Ambiguous { .. })
    ));
}

#[test]
fn a_target_that_maps_and_unmaps_goes_on() {
    let mut target = Target::spawn("churn", &["64"]);
    let process = Process::open(target.pid()).unwrap();
    let span = span_of(&target);
    let before: u64 = target.ask("count").parse().unwrap();
    for _ in 0..20 {
        read_all(&process, span);
        process.pages(Span::ALL).unwrap();
    }
    let after: u64 = target.ask("count").parse().unwrap();
    assert!(after > before + 100, "{before} {after}");
}

#[test]
fn an_exec_in_the_middle_of_reading() {
    let mut target = Target::spawn("exec", &[]);
    let process = Process::open(target.pid()).unwrap();
    let at = Address::new(target.number("start"));
    let reader = std::thread::spawn(move || {
        let page = Span::from_len(at, 4096).unwrap();
        let mut bytes = vec![0; 4096];
        loop {
            match process.read_at(at, &mut bytes) {
                Ok(read) => assert_same(&bytes[..read], &addresses(page)[..read]),
                Err(error) => return error,
            }
        }
    });
    std::thread::sleep(Duration::from_millis(50));
    assert!(target.ask("exec").starts_with("start="));
    let error = reader.join().unwrap();
    assert!(matches!(error, ReadError::Source(Error::Replaced { .. })), "{error:?}");
}

#[test]
fn a_number_that_passes_to_another_process() {
    // The kernel gives out the number behind this one next, unless another program is quicker.
    let last = std::path::Path::new("/proc/sys/kernel/ns_last_pid");
    if !needs("root, to choose a process number", is_root() && last.exists()) {
        return;
    }
    for _ in 0..50 {
        let first = Target::spawn("private", &["1"]);
        let (pid, span) = (first.pid(), span_of(&first));
        let process = Process::open(pid).unwrap();
        process.read_at(span.start(), &mut [0; 8]).unwrap();
        drop(first);
        if std::fs::write(last, (pid - 1).to_string()).is_err() {
            break;
        }
        let second = Target::spawn("private", &["1"]);
        if second.pid() != pid {
            continue;
        }
        assert!(matches!(process.check(), Err(Error::Ended { .. })));
        assert!(matches!(process.regions(), Err(Error::Ended { .. })));
        let at = Address::new(second.number("start"));
        for process in [process.clone(), process.with_time_limit(None)] {
            let read = process.read_at(at, &mut [0; 65536]);
            assert!(matches!(read, Err(ReadError::Source(Error::Ended { .. }))), "{read:?}");
        }
        assert!(process.facts().is_err() && process.read_proc("cmdline").is_err());
        Process::open(pid).unwrap().read_at(at, &mut [0; 8]).unwrap();
        return;
    }
    needs("a quieter machine: no number could be had twice", false);
}

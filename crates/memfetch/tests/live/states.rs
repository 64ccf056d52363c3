//! Page states, and the bytes that go with them.

use memfetch::ReadError;

use super::*;

const PAGE: u64 = 4096;

fn page(start: u64, number: u64) -> Span {
    Span::from_len(Address::new(start + number * PAGE), PAGE).unwrap()
}

fn cause_at(process: &Process, at: Address) -> Cause {
    match process.read_at(at, &mut [0; 64]) {
        Err(ReadError::Fault(fault)) => {
            assert_eq!(fault.at, at);
            fault.cause
        }
        other => panic!("{at}: {other:?}"),
    }
}

#[test]
fn private_memory_reads_back() {
    let target = Target::spawn("private", &["8"]);
    let process = Process::open(target.pid()).unwrap();
    let span = span_of(&target);
    assert_eq!(only_state(&process, span), PageState::Resident);
    assert_same(&read_all(&process, span), &addresses(span));
    assert_same(&read_all(&process.with_time_limit(None), span), &addresses(span));
    assert_eq!(process.name(), "memfetch-target");
    let facts = process.facts().unwrap();
    assert_eq!(facts.ppid, i32::try_from(std::process::id()).unwrap());
    assert!(facts.cmdline.ends_with(b"\0private\08\0"));
    assert_eq!(facts.exe.unwrap(), memfetch_testkit::target::program());
    assert!(facts.coredump_filter.is_some());
}

#[test]
fn every_sort_of_hole() {
    let folder = tempfile::tempdir().unwrap();
    let target = Target::spawn("holes", &[folder.path().to_str().unwrap()]);
    let process = Process::open(target.pid()).unwrap();
    let start = target.number("start");
    let (guard, secret) = (target.number("guard") == 1, target.number("secret") == 1);
    for number in [0, 1, 3, 4, 5, 6, 15] {
        let page = page(start, number);
        assert_eq!(only_state(&process, page), PageState::Resident, "{number}");
        assert_same(&read_all(&process, page), &addresses(page));
    }
    for number in [2, 8, 14] {
        assert_eq!(states(&process, page(start, number)), []);
        assert_eq!(cause_at(&process, page(start, number).start()), Cause::NotMapped);
    }
    assert_eq!(only_state(&process, page(start, 7)), PageState::Absent);
    assert_same(&read_all(&process, page(start, 7)), &[0; 4096]);
    assert_eq!(only_state(&process, page(start, 9)), PageState::FileClean);
    let content: Vec<u8> = (0..PAGE + 100).map(|n| u8::try_from(n % 251).unwrap()).chain([0; 3996]).collect();
    let file = Span::new(page(start, 9).start(), page(start, 10).end()).unwrap();
    assert_same(&read_all(&process, file), &content);
    let beyond = page(start, 11);
    assert_eq!(only_state(&process, beyond), PageState::Unreadable(Cause::BeyondFile));
    assert_eq!(cause_at(&process, beyond.start()), Cause::BeyondFile);
    if secret {
        assert_eq!(only_state(&process, page(start, 12)), PageState::Unreadable(Cause::Secret));
        assert_eq!(cause_at(&process, page(start, 12).start().saturating_add(5)), Cause::Secret);
    }
    if guard {
        assert!(matches!(only_state(&process, page(start, 13)), PageState::Guard | PageState::Swapped));
        assert_eq!(cause_at(&process, page(start, 13).start()), Cause::Guard);
    }
    // A read that runs into a hole is a prefix, and what lies behind the prefix is untouched.
    let mut bytes = [0xaa; 3 * 4096];
    let read = process.read_at(Address::new(start + 100), &mut bytes).unwrap();
    assert_eq!(read, 2 * 4096 - 100);
    assert!(bytes[read..].iter().all(|&byte| byte == 0xaa));
}

#[test]
fn kernel_mappings() {
    let target = Target::spawn("private", &["1"]);
    let process = Process::open(target.pid()).unwrap();
    for region in &process.regions().unwrap() {
        match region.name().to_str().unwrap() {
            "[vdso]" => {
                let bytes = read_all(&process, region.span);
                assert_eq!(bytes[..4], *b"\x7fELF");
                let by_kernel = std::os::unix::fs::FileExt::read_at(
                    &mem(target.pid()),
                    &mut vec![0; bytes.len()],
                    region.span.start().get(),
                );
                assert_eq!(by_kernel.unwrap(), bytes.len());
            }
            "[vvar]" | "[vvar_vclock]" => {
                assert_eq!(only_state(&process, region.span), PageState::Unreadable(Cause::Device));
                assert_eq!(cause_at(&process, region.span.start()), Cause::Device);
            }
            "[vsyscall]" => {
                assert_eq!(only_state(&process, region.span), PageState::Unreadable(Cause::NotPermitted));
                assert_eq!(cause_at(&process, region.span.start()), Cause::NotPermitted);
            }
            _ => {}
        }
    }
}

fn mem(pid: i32) -> std::fs::File {
    std::fs::File::open(format!("/proc/{pid}/mem")).unwrap()
}

#[test]
fn shared_memory_that_a_parent_filled() {
    let folder = tempfile::tempdir().unwrap();
    for sort in ["anonymous", "memfd", "sysv", "/dev/shm", folder.path().to_str().unwrap()] {
        let parent = Target::spawn("shared", &["4", sort]);
        let pid = i32::try_from(parent.number("child")).unwrap();
        let process = Process::open(pid).unwrap();
        let span = span_of(&parent);
        let (filled, hole) = span.split_at(span.start().saturating_add(span.len() / 2));
        // Only by map_files can what has no name be opened.
        if matches!(sort, "anonymous" | "sysv" | "/dev/shm") && !is_root() {
            assert_eq!(only_state(&process, span), PageState::Unreadable(Cause::SharedUnknown));
            continue;
        }
        let (with_data, without) = if sort.starts_with("/") && sort != "/dev/shm" {
            (PageState::FileClean, PageState::FileClean)
        } else {
            (PageState::Backed, PageState::Absent)
        };
        assert_eq!(only_state(&process, filled), with_data, "{sort}");
        assert_eq!(only_state(&process, hole), without, "{sort}");
        assert_same(&read_all(&process, filled), &addresses(filled));
        assert_same(&read_all(&process, hole), &vec![0; 2 << 20]);
        if with_data == PageState::FileClean && !is_root() {
            // Its file has no name left either: there was no way but through the mapping.
            continue;
        }
        // Nothing of it was entered into the child's page table.
        assert_eq!(only_state(&process, filled), with_data, "{sort}");
    }
}

#[test]
fn file_pages_by_what_became_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let target = Target::spawn("written-file", &[folder.path().to_str().unwrap()]);
    let process = Process::open(target.pid()).unwrap();
    let private = target.number("private");
    assert_eq!(only_state(&process, page(private, 0)), PageState::FileResident);
    assert_eq!(only_state(&process, page(private, 1)), PageState::Resident);
    assert_same(&read_all(&process, page(private, 1)), &addresses(page(private, 1)));
    let rest = Span::from_len(page(private, 32).start(), 32 * PAGE).unwrap();
    assert_eq!(only_state(&process, rest), PageState::FileClean);
    let shared = target.number("shared");
    assert_eq!(only_state(&process, page(shared, 0)), PageState::Resident);
    assert_eq!(only_state(&process, page(shared, 2)), PageState::Resident);
    assert_eq!(read_all(&process, page(shared, 2))[..8], 42_u64.to_ne_bytes());
    // The write went to the page cache: whoever reads the file itself sees it.
    assert_eq!(
        read_all(&process, page(private, 2))[..16],
        [42_u64.to_ne_bytes(), 8200_u64.to_ne_bytes()].concat()
    );
}

#[test]
fn many_mappings() {
    let target = Target::spawn("many-mappings", &["20000"]);
    let process = Process::open(target.pid()).unwrap();
    let span = Span::from_len(Address::new(target.number("start")), 20_000 * PAGE).unwrap();
    assert_eq!(process.regions().unwrap().within(span).count(), 20_000);
    let runs = states(&process, span);
    assert_eq!(runs.len(), 20_000);
    assert!(runs.iter().step_by(2).all(|run| run.state == PageState::Resident));
    assert!(runs.iter().skip(1).step_by(2).all(|run| run.state == PageState::Absent));
    // A part of it that starts and ends within pages.
    let odd = Span::new(span.start().saturating_add(100), span.start().saturating_add(9000)).unwrap();
    assert_eq!(states(&process, odd).iter().map(|run| run.span.len()).collect::<Vec<_>>(), [3996, 4096, 808]);
}

#[test]
fn names_that_mislead() {
    let folder = tempfile::tempdir().unwrap();
    let target = Target::spawn("names", &[folder.path().to_str().unwrap()]);
    let process = Process::open(target.pid()).unwrap();
    assert_eq!(process.name(), ") R 1 (");
    let regions = process.regions().unwrap();
    for (key, name, deleted) in [
        ("space", "a b", false),
        ("newline", "a\nb\\c", false),
        ("deleted", "a", true),
        ("gone", "gone", true),
    ] {
        let span = page(target.number(key), 0);
        let file = regions.at(span.start()).unwrap().file().unwrap().clone();
        assert_eq!(std::path::Path::new(&file.path), folder.path().join(name));
        assert_eq!(file.deleted, deleted, "{key}");
        let bytes = read_all(&process, span);
        assert!(
            bytes.starts_with(key.as_bytes()) && bytes[key.len()..].iter().all(|&byte| byte == 0),
            "{key}"
        );
    }
    assert_eq!(Process::find(") R 1 (").unwrap().pid(), target.pid());
}

#[test]
fn a_page_whose_fault_is_never_answered() {
    let target = Target::spawn("uffd-missing", &[]);
    if !needs("userfaultfd", target.number("registered") == 1) {
        return;
    }
    let process = Process::open(target.pid()).unwrap();
    let span = page(target.number("start"), 1);
    let started = std::time::Instant::now();
    assert_eq!(only_state(&process, span), PageState::Absent);
    assert_same(&read_all(&process, span), &[0; 4096]);
    assert!(started.elapsed().as_secs() < 5);
}

#[test]
fn this_process_from_any_thread() {
    let bytes: Vec<u8> = (0..200_000_u32).flat_map(u32::to_ne_bytes).collect();
    let span = Span::from_len(Address::new(bytes.as_ptr() as u64), bytes.len() as u64).unwrap();
    let process = Process::current().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_same(&read_all(&process, span), &bytes));
        }
    });
    std::thread::spawn(move || {
        let process = Process::find("self").unwrap();
        process.with_time_limit(None).check().unwrap();
    })
    .join()
    .unwrap();
}

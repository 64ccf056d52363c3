//! Outputs that fail, at once or halfway: what is said, and that nothing is left.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use memfetch_testkit::peers::{find, run, text};
use memfetch_testkit::{Target, signals, target};

use super::{MEMFETCH, Mounts, Running, Told, assert_runs, assert_whole, is_root, names, needs, snap, tell};

fn target() -> Target {
    Target::spawn("private", &["48"])
}

/// A call that writes to standard output, which goes to `to`.
fn stream(pid: i32, to: impl Into<Stdio>) -> Running {
    let mut command = Command::new(MEMFETCH);
    command.args(["snap", &pid.to_string(), "-q", "-o", "-"]);
    Running::spawn(command.stdout(to).stderr(Stdio::piped()))
}

#[test]
fn a_full_disk_is_said_before_the_first_byte() {
    let folder = tempfile::tempdir().unwrap();
    let script = "mount -t tmpfs -o size=20m none \"$1\"";
    let Some(disk) = Mounts::by(script, folder.path(), "a disk that is too small") else { return };
    let disk = disk.path(folder.path());
    let target = target();
    let told = snap(target.pid(), &disk.join("a.core"), &[]);
    told.says(
        2,
        &[
            "cannot write",
            "Caused by: it needs",
            "20971520 are free",
            "Hint: ",
            "more are needed",
            "--contents minimal",
        ],
    );
    assert!(names(&disk).is_empty());
    assert_runs(target.pid());
}

#[test]
fn a_disk_that_runs_full_halfway_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    for (what, script) in [
        ("a tmpfs that runs full", "mount -t tmpfs -o size=64m none \"$1\"".to_owned()),
        (
            "an ext4 that runs full",
            "truncate -s 80M \"$1/disk\" && mkfs.ext4 -q \"$1/disk\" && mkdir -p \"$1/on\" && \
             mount -o loop \"$1/disk\" \"$1/on\" && mount --move \"$1/on\" \"$1\" 2>/dev/null || \
             mount --bind \"$1/on\" \"$1\""
                .to_owned(),
        ),
    ] {
        let Some(disk) = Mounts::by(&script, folder.path(), what) else { continue };
        let disk = disk.path(folder.path());
        let before = names(&disk);
        let target = target();
        let free = || rustix::fs::statvfs(&disk).map(|space| space.f_bfree * space.f_frsize).unwrap();
        let all = free();
        let mut command = Command::new(MEMFETCH);
        command
            .args(["snap", &target.pid().to_string(), "-q", "--mode", "live", "-o"])
            .arg(disk.join("a.core"));
        let running = Running::spawn(command.stderr(Stdio::piped()));
        // It stands still while the disk is filled.
        let begun = Instant::now();
        while free() == all && begun.elapsed() < Duration::from_secs(10) {
            std::thread::yield_now();
        }
        signals::send(running.pid(), 19);
        let filler = File::create(disk.join("filler")).unwrap();
        let mut room = free();
        while room > 4096 {
            let length = filler.metadata().unwrap().len();
            if rustix::fs::fallocate(&filler, rustix::fs::FallocateFlags::empty(), length, room).is_err() {
                room /= 2;
            }
        }
        signals::send(running.pid(), 18);
        let told = running.ended();
        std::fs::remove_file(disk.join("filler")).unwrap();
        if told.code == Some(0) {
            // It was through before it could be stopped.
            assert_whole(&disk.join("a.core"));
            memfetch_testkit::peers::skipped(what, "it was written too fast");
            continue;
        }
        told.says(2, &["cannot write", "No space left on device", "Hint: `-o` writes elsewhere"]);
        assert_eq!(names(&disk), before, "{what}");
        drop(filler);
        let begun = Instant::now();
        while free() + (1 << 20) < all {
            assert!(begun.elapsed() < Duration::from_secs(5), "{what}: {} of {all} are free", free());
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_runs(target.pid());
    }
}

#[test]
fn a_limit_on_the_size_of_files_is_an_error_and_no_signal() {
    let target = target();
    let pid = target.pid().to_string();
    let folder = tempfile::tempdir().unwrap();
    let limited = |end: &str| {
        let script = format!("ulimit -f 4000; exec \"$0\" snap {pid} -q {end}");
        tell(Command::new("sh").args(["-c", &script, MEMFETCH]).current_dir(folder.path()))
    };
    limited("-o a.core").says(2, &["RLIMIT_FSIZE", "Hint: `ulimit -f unlimited`"]);
    assert!(names(folder.path()).is_empty());
    // Standard output may be a file, too.
    for redirection in ["-o - > b.core", "-o - >> b.core"] {
        limited(redirection).says(2, &["cannot write standard output", "File too large", "Hint: `ulimit -f"]);
        super::memfetch(&["verify".as_ref(), folder.path().join("b.core").as_os_str()])
            .says(1, &["INCOMPLETE"]);
    }
    // What was never touched need not be in the file.
    let reserved = Target::spawn("reserved", &["16"]);
    let script = format!("ulimit -f 100000; exec \"$0\" snap {} -q -o c.core", reserved.pid());
    tell(Command::new("sh").args(["-c", &script, MEMFETCH]).current_dir(folder.path())).says(0, &[]);
    assert_whole(&folder.path().join("c.core"));
}

#[test]
fn a_reader_that_goes_away_is_no_news_and_no_success() {
    let target = target();
    for bytes in [0, 1000, 5 << 20] {
        let mut running = stream(target.pid(), Stdio::piped());
        let mut out = running.0.stdout.take().unwrap();
        out.read_exact(&mut vec![0; bytes]).unwrap();
        drop(out);
        let told = running.ended();
        assert_eq!((told.code, told.err.as_str()), (Some(2), ""), "after {bytes} bytes");
        assert_runs(target.pid());
    }
    // The same through a shell: the last one in the pipe decides.
    let script = format!("\"$0\" snap {} -o - | head -c 1000 | wc -c", target.pid());
    let told = tell(Command::new("sh").args(["-c", &script, MEMFETCH])).says(0, &["1000"]);
    assert_eq!(told.err, "");
}

#[test]
fn a_device_that_takes_nothing_is_said() {
    let target = target();
    let full = File::options().write(true).open("/dev/full").unwrap();
    stream(target.pid(), full).ended().says(2, &["cannot write standard output", "No space left on device"]);
    assert_runs(target.pid());
}

#[test]
fn names_that_no_file_can_have_are_said_before_the_target_is_stopped() {
    let target = target();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "mine").unwrap();
    let refused = |name: &str, further: &[&str], words: &[&str]| {
        let told = snap(target.pid(), &folder.path().join(name), further).says(2, words);
        assert!(told.err.contains("Error: cannot write ") && told.err.contains("\nCaused by: "), "{told:?}");
        assert!(told.err.contains("\nHint: "), "{told:?}");
    };
    refused(
        "nowhere/a.core",
        &[],
        &["opening the directory", "No such file", "the directory has to be there"],
    );
    refused("nowhere/", &[], &["No such file"]);
    refused("file/a.core", &[], &["Not a directory"]);
    refused("file", &[], &["the file exists", "`--force` overwrites it"]);
    std::os::unix::fs::symlink("nowhere", folder.path().join("link")).unwrap();
    refused("link", &[], &["the file exists"]);
    std::fs::create_dir(folder.path().join("folder")).unwrap();
    assert_eq!(names(folder.path()), ["file", "folder", "link"]);
    assert_eq!(std::fs::read(&file).unwrap(), b"mine");

    // A link is replaced itself; what it led to stays as it was.
    std::fs::remove_file(folder.path().join("link")).unwrap();
    std::os::unix::fs::symlink("file", folder.path().join("link")).unwrap();
    snap(target.pid(), &folder.path().join("link"), &["--force"]).says(0, &[]);
    assert_whole(&folder.path().join("link"));
    assert!(folder.path().join("link").symlink_metadata().unwrap().is_file());
    assert_eq!(std::fs::read(&file).unwrap(), b"mine");
    snap(target.pid(), &file, &["--force"]).says(0, &[]);
    assert_whole(&file);
    snap(target.pid(), &folder.path().join("folder"), &[]).says(0, &["folder/memfetch-target."]);
    assert_eq!(names(folder.path()), ["file", "folder", "link"]);
}

/// A rename would put a regular file in the place of a device, and did: `-o /dev/null --force`, as root.
#[test]
fn what_is_no_file_is_never_replaced() {
    let target = target();
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR).unwrap();
    let socket = folder.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let mut kinds = vec![(pipe.clone(), "a pipe"), (socket.clone(), "a socket")];
    let device = folder.path().join("device");
    if needs("a device as output", "only root may make one", is_root()) {
        let made = run(Command::new("mknod").arg(&device).args(["c", "1", "3"]), Duration::from_secs(10));
        if needs("a device as output", &text(&made), made.status.success()) {
            kinds.push((device.clone(), "a device"));
        }
    }
    for (path, kind) in &kinds {
        for further in [&[][..], &["--force"]] {
            snap(target.pid(), path, further)
                .says(2, &[&format!("Caused by: it is {kind}"), "Hint: `-o` gives another"]);
        }
    }
    assert!(pipe.symlink_metadata().unwrap().file_type().is_fifo());
    assert!(socket.symlink_metadata().unwrap().file_type().is_socket());
    assert!(kinds.len() < 3 || device.symlink_metadata().unwrap().file_type().is_char_device());
}

#[test]
fn a_folder_that_may_not_be_written_is_said() {
    let target = target();
    let folder = tempfile::tempdir().unwrap();
    let script = "mount -t tmpfs none \"$1\" && mount -o remount,ro \"$1\"";
    if let Some(disk) = Mounts::by(script, folder.path(), "a read-only file system") {
        let path = disk.path(folder.path()).join("a.core");
        snap(target.pid(), &path, &[])
            .says(2, &["Read-only file system", "Hint: `-o` names another directory"]);
    }
    // File systems that have files of their own only.
    for path in ["/proc/a.core", "/sys/a.core"] {
        snap(target.pid(), Path::new(path), &[])
            .says(2, &["cannot write /", "creating the file failed", "Hint: "]);
    }
}

#[test]
fn file_systems_that_lack_things() {
    let target = target();
    let folder = tempfile::tempdir().unwrap();
    // Without files that have no name, and without direct I/O: a filter answers for the file system.
    for what in ["tmpfile", "direct"] {
        let path = folder.path().join(what);
        for further in [&["-q"][..], &["-q", "--force"]] {
            let mut command = Command::new(target::program());
            command
                .args(["without", what, MEMFETCH, "snap", &target.pid().to_string(), "-o"])
                .arg(&path)
                .args(further);
            // The process is no child of the filter's, which forbids nothing that a snapshot of it needs.
            tell(&mut command).says(0, &[]);
            assert_whole(&path);
        }
        let mut command = Command::new(target::program());
        command.args(["without", what, MEMFETCH, "snap", &target.pid().to_string(), "-o"]).arg(&path);
        tell(&mut command).says(2, &["the file exists"]);
        assert_eq!(names(folder.path()), [what]);
        std::fs::remove_file(&path).unwrap();
    }
    for (what, script) in [
        ("a core on ramfs", "mount -t ramfs none \"$1\""),
        (
            "a core on overlayfs",
            "mount -t tmpfs none \"$1\" && cd \"$1\" && mkdir low up work on && \
             mount -t overlay none -o lowerdir=low,upperdir=up,workdir=work on && mount --bind on \"$1\"",
        ),
        (
            "a core on xfs",
            "cd \"$1\" && truncate -s 400M disk && mkfs.xfs -q disk && mount -o loop disk \"$1\"",
        ),
        (
            "a core on btrfs",
            "cd \"$1\" && truncate -s 400M disk && mkfs.btrfs -q disk && mount -o loop disk \"$1\"",
        ),
    ] {
        let at = tempfile::tempdir().unwrap();
        let Some(disk) = Mounts::by(script, at.path(), what) else { continue };
        let path = disk.path(at.path()).join("a.core");
        let told = snap(target.pid(), &path, &[]);
        // A ramfs has no size, and says that it has no room.
        if what.contains("ramfs") && told.code == Some(2) {
            assert!(told.err.contains("are free"), "{told:?}");
            assert!(names(path.parent().unwrap()).is_empty());
            continue;
        }
        told.says(0, &[]);
        assert_whole(&path);
        assert_eq!(names(path.parent().unwrap()).iter().filter(|name| name.contains("core")).count(), 1);
    }
}

#[test]
fn a_stream_into_a_file_and_a_pipe_is_a_core() {
    let target = target();
    let folder = tempfile::tempdir().unwrap();
    let (by_file, by_pipe) = (folder.path().join("file.core"), folder.path().join("pipe.core"));
    stream(target.pid(), File::create(&by_file).unwrap()).ended().says(0, &[]);
    let script = format!("\"$0\" snap {} -q -o - | cat > \"$1\"", target.pid());
    tell(Command::new("sh").args(["-c", &script, MEMFETCH]).arg(&by_pipe)).says(0, &[]);
    for core in [&by_file, &by_pipe] {
        assert_whole(core);
        let Some(gdb) = find("gdb", "a streamed core in gdb") else { continue };
        let mut command = Command::new(gdb);
        command.args(["-nx", "-batch", "-iex", "set debuginfod enabled off", "-ex", "bt"]);
        command.args(["-ex", &format!("p/x *(long *){}", target.fact("start"))]);
        let Told { out, err, .. } = tell(command.arg(target::program()).arg(core));
        assert!(out.contains("#0 "), "{out}{err}");
        assert!(out.contains(&format!("= {}", target.fact("start"))), "{out}{err}");
        assert!(!err.contains("truncated"), "{err}");
    }
}

//! Gates that the machine as a whole has: Yama's `ptrace_scope` and the boot parameter `proc_mem.force_override`.
//! What each lets through works, and a refusal names the gate. They change the machine, and so need one of their
//! own: `cargo xtask kernels` boots it.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use memfetch_testkit::peers::{run, skipped, text};
use memfetch_testkit::{Target, target};

const USER: &str = "65534";

/// A machine that these tests may change, with a folder in which an ordinary user has the programs.
struct Machine {
    folder: tempfile::TempDir,
}

/// How the program ended, and what it said on both outputs.
#[derive(Debug)]
struct Told(Option<i32>, String);

impl Told {
    #[track_caller]
    fn says(&self, code: i32, words: &[&str]) {
        assert_eq!(self.0, Some(code), "{}", self.1);
        for word in words {
            assert!(self.1.contains(word), "no word of {word:?}: {}", self.1);
        }
    }
}

impl Machine {
    /// Nothing, which is said, where the machine is somebody else's.
    fn own(what: &str) -> Option<Self> {
        if std::env::var_os("MEMFETCH_OWN_MACHINE").is_none() {
            skipped(what, "needs a machine of its own (`cargo xtask kernels`)");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        // Whatever the umask is.
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o777)).unwrap();
        for program in [PathBuf::from(env!("CARGO_BIN_EXE_memfetch")), target::program()] {
            std::fs::copy(&program, folder.path().join(program.file_name().unwrap())).unwrap();
        }
        Some(Self { folder })
    }

    /// A command of root's or of an ordinary user's; the program is one of the folder's, or one of the system's.
    fn command(&self, as_root: bool, program: &str) -> Command {
        let own = self.folder.path().join(program);
        let program = if own.exists() { own } else { program.into() };
        let mut command = if as_root {
            Command::new(program)
        } else {
            let mut command = Command::new("setpriv");
            command.args(["--reuid", USER, "--regid", USER, "--clear-groups"]).arg(program);
            command
        };
        command.current_dir(self.folder.path());
        command
    }

    fn target(&self, role: &[&str]) -> Target {
        let mut command = self.command(false, "memfetch-target");
        command.args(role);
        Target::spawn_command(command)
    }

    fn tell(&self, as_root: bool, program: &str, arguments: &[&str]) -> Told {
        let output = run(self.command(as_root, program).args(arguments), Duration::from_secs(60));
        Told(output.status.code(), text(&output))
    }

    fn memfetch(&self, as_root: bool, arguments: &[&str]) -> Told {
        self.tell(as_root, "memfetch", arguments)
    }

    fn snap(&self, as_root: bool, pid: &str, mode: &str) -> Told {
        let image = if as_root { "root.core" } else { "user.core" };
        self.memfetch(as_root, &["snap", pid, "--mode", mode, "-o", image, "--force"])
    }

    /// A shell of the user's that has a target as its child becomes memfetch.
    fn snap_of_a_child(&self) -> Told {
        let script = "sleep 20 >/dev/null 2>&1 & sleep 0.3; exec ./memfetch snap $! --mode freeze -o child.core --force";
        self.tell(false, "sh", &["-c", &format!("{{ {script}; }} </dev/null")])
    }
}

const SCOPE: &str = "/proc/sys/kernel/yama/ptrace_scope";

#[test]
fn yama_at_each_of_its_scopes() {
    let what = "Yama's ptrace_scope";
    let Some(machine) = Machine::own(what) else { return };
    if !std::fs::exists(SCOPE).unwrap() {
        skipped(what, "the kernel has no Yama");
        return;
    }
    let (own, willing) = (machine.target(&["private", "1"]), machine.target(&["any-tracer"]));
    let word = own.fact("start").to_owned();
    let (own, willing) = (own.pid().to_string(), willing.pid().to_string());
    // 3 cannot be taken back before the next boot.
    for scope in 0..=3 {
        std::fs::write(SCOPE, scope.to_string()).unwrap();
        let refused = "Error: no permission to ";
        let hint = match scope {
            1 => "Hint: Yama lets only a parent read it (kernel.yama.ptrace_scope = 1)",
            2 => "Hint: Yama asks for CAP_SYS_PTRACE (kernel.yama.ptrace_scope = 2)",
            _ => "Hint: Yama forbids it to everybody until the next boot (kernel.yama.ptrace_scope = 3)",
        };
        let check = |told: Told, is_allowed: bool| match is_allowed {
            true => told.says(0, &[]),
            false => {
                told.says(2, &[refused, hint]);
                assert!(!told.1.contains("--mode live`"), "that is refused as well: {}", told.1);
            }
        };
        for mode in ["freeze", "live", "auto"] {
            check(machine.snap(false, &own, mode), scope == 0);
        }
        for mode in ["freeze", "live"] {
            check(machine.snap(true, &own, mode), scope < 3);
        }
        check(machine.snap(false, &willing, "freeze"), scope < 2);
        check(machine.snap_of_a_child(), scope < 2);
        // Looking at the map, and all of its own memory, is not Yama's business.
        machine.memfetch(false, &["maps", &own]).says(0, &["[stack]", "TOTAL"]);
        machine.memfetch(false, &["read", "self", "stack"]).says(0, &[]);
        check(machine.memfetch(false, &["read", &own, &word, "-n", "8"]), scope == 0);
    }
}

#[test]
fn the_force_of_proc_mem_as_the_boot_parameter_has_it() {
    let what = "proc_mem.force_override";
    let Some(machine) = Machine::own(what) else { return };
    let parameters = std::fs::read_to_string("/proc/cmdline").unwrap();
    let restricted = parameters.contains("proc_mem.force_override=");
    let holes = machine.target(&["holes", machine.folder.path().to_str().unwrap()]);
    let pid = holes.pid().to_string();
    let page = |number: u64| format!("{:#x}", holes.number("start") + number * 4096);
    let plain = machine.target(&["private", "1"]);
    for as_root in [true, false] {
        // Data that the process itself may not read.
        let read = machine.memfetch(as_root, &["read", &pid, &page(4), "-n", "8"]);
        if restricted {
            read.says(2, &["Error: cannot read memory at ", "no permission to read it"]);
        } else {
            read.says(0, &[]);
        }
        machine.memfetch(as_root, &["read", &pid, &page(3), "-n", "8"]).says(0, &[]);
        for mode in ["freeze", "live"] {
            machine.snap(as_root, &plain.pid().to_string(), mode).says(0, &[]);
            let mut gaps = Vec::new();
            if holes.number("secret") == 1 {
                gaps.push("1 gap, 4 KiB: secret memory");
            }
            if restricted {
                gaps.push("1 gap, 4 KiB: no permission to read it");
            }
            machine.snap(as_root, &pid, mode).says(if gaps.is_empty() { 0 } else { 3 }, &gaps);
        }
    }
}

/// The commands that look at a process, on whatever kernel this is.
#[test]
fn every_command_on_a_process_and_on_its_image() {
    let folder = tempfile::tempdir().unwrap();
    let target = Target::spawn("private", &["1"]);
    let pid = target.pid().to_string();
    let memfetch = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_memfetch"));
        let output = run(command.args(arguments).current_dir(folder.path()), Duration::from_secs(60));
        Told(output.status.code(), text(&output))
    };
    memfetch(&["snap", &pid, "--mode", "live", "-o", "live.core"]).says(0, &["live: never stopped"]);
    memfetch(&["snap", &pid, "--mode", "freeze", "-o", "x.core"]).says(0, &["frozen for"]);
    // Its first word is its own address, low byte first.
    let start = target.number("start");
    let bytes: Vec<String> = start.to_le_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    for source in [pid.as_str(), "live.core", "x.core"] {
        if source != pid {
            memfetch(&["verify", source]).says(0, &["whole and unaltered"]);
        }
        memfetch(&["maps", source]).says(0, &["[stack]", "TOTAL"]);
        let address = format!("{start:#x}");
        memfetch(&["read", source, &address, "-n", "8"]).says(0, &[&bytes.join(" ")]);
        memfetch(&["find", source, "--hex", &bytes.concat()]).says(0, &[address.trim_start_matches("0x")]);
        memfetch(&["strings", source, "--only", "stack"]).says(0, &["memfetch-target"]);
    }
    memfetch(&["diff", "live.core", "x.core", "--only", &format!("{start:#x}")]).says(0, &[]);
}

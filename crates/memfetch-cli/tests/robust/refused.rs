//! An ordinary user: what is allowed works, and a refusal names the gate and what would open it.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use memfetch_testkit::peers::find;
use memfetch_testkit::{Target, target};

use super::{MEMFETCH, Told, assert_runs, assert_whole, is_root, names, needs, tell};

const NOBODY: u32 = 65534;

/// An ordinary user with a folder of its own, where copies of the programs lie: those of the build may not be open
/// to it.
struct User {
    setpriv: PathBuf,
    folder: tempfile::TempDir,
}

impl User {
    fn new(what: &str) -> Option<Self> {
        if !needs(what, "only root may become another user", is_root()) {
            return None;
        }
        let setpriv = find("setpriv", what)?;
        let folder =
            tempfile::Builder::new().permissions(PermissionsExt::from_mode(0o755)).tempdir().unwrap();
        std::fs::copy(MEMFETCH, folder.path().join("memfetch")).unwrap();
        std::fs::copy(target::program(), folder.path().join("memfetch-target")).unwrap();
        std::os::unix::fs::chown(folder.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        Some(Self { setpriv, folder })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(&self.setpriv);
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
        command.arg(self.folder.path().join(program)).current_dir(self.folder.path());
        command
    }

    fn target(&self, role: &[&str]) -> Target {
        let mut command = self.command("memfetch-target");
        command.args(role);
        Target::spawn_command(command)
    }

    fn memfetch(&self, arguments: &[&str]) -> Told {
        tell(self.command("memfetch").args(arguments))
    }

    fn cores(&self) -> Vec<String> {
        names(self.folder.path()).into_iter().filter(|name| !name.starts_with("memfetch")).collect()
    }
}

#[test]
fn its_own_process() {
    let Some(user) = User::new("an ordinary user's own process") else { return };
    let mut target = user.target(&["threads", "6", "8"]);
    let pid = target.pid().to_string();
    for (mode, words) in [
        ("freeze", "frozen for"),
        ("live", "live: never stopped"),
        ("instant", "at one instant"),
        ("auto", "at one instant"),
    ] {
        let told = user
            .memfetch(&["snap", &pid, "--mode", mode, "-o", "x.core", "--force"])
            .says(0, &[words, "7 threads"]);
        assert!(!told.err.contains("gap"), "{told:?}");
        user.memfetch(&["verify", "x.core"]).says(0, &["whole and unaltered"]);
        assert_whole(&user.folder.path().join("x.core"));
        user.memfetch(&["maps", "x.core"]).says(0, &["[stack]"]);
    }
    let metadata = user.folder.path().join("x.core").metadata().unwrap();
    assert_eq!((metadata.uid(), metadata.mode() & 0o777), (NOBODY, 0o600));
    user.memfetch(&["maps", &pid]).says(0, &["[stack]", "TOTAL"]);
    user.memfetch(&["snap", &pid, "-o", "-", "-q"]).says(0, &[]);
    user.memfetch(&["maps", "self"]).says(0, &["[heap]"]);
    assert_runs(target.pid());
    let returns = target.ask("returns");
    assert_eq!(returns, "0", "the stop was felt");
    assert_eq!(user.cores(), ["x.core"]);
}

#[test]
fn a_process_of_root() {
    let Some(user) = User::new("a process of root, for an ordinary user") else { return };
    let target = Target::spawn("private", &["1"]);
    let pid = target.pid().to_string();
    let sudo = |command: &str| {
        format!("Hint: it belongs to root; run `sudo {}/memfetch {command}`", user.folder.path().display())
    };
    for mode in ["freeze", "live", "instant", "auto"] {
        let command = format!("snap {pid} --mode {mode}");
        let told = user.memfetch(&["snap", &pid, "--mode", mode]).says(
            2,
            &["Error: no permission to ", &format!(" of process {pid}\nCaused by: "), &sudo(&command)],
        );
        assert_eq!(told.out, "");
    }
    user.memfetch(&["maps", &pid])
        .says(2, &["Error: no permission to read the map", &sudo(&format!("maps {pid}"))]);
    // Its core, too.
    std::fs::write(user.folder.path().join("root.core"), "").unwrap();
    std::fs::set_permissions(user.folder.path().join("root.core"), PermissionsExt::from_mode(0o600)).unwrap();
    for command in ["verify", "maps"] {
        user.memfetch(&[command, "./root.core"]).says(2, &["root.core", "Permission denied"]);
    }
    // A folder of root's.
    let own = user.target(&["private", "1"]);
    user.memfetch(&["snap", &own.pid().to_string(), "-o", "/usr/x.core"]).says(
        2,
        &["Error: cannot write /usr/x.core", "Permission denied", "Hint: `-o` names another directory"],
    );
    assert_eq!(user.cores(), ["root.core"]);
}

#[test]
fn its_own_process_that_is_not_dumpable() {
    let Some(user) = User::new("a process that is not dumpable") else { return };
    let target = user.target(&["undumpable"]);
    let pid = target.pid().to_string();
    for mode in ["freeze", "live", "instant", "auto"] {
        user.memfetch(&["snap", &pid, "--mode", mode]).says(
            2,
            &["Error: no permission to ", "Hint: it is not dumpable", "PR_SET_DUMPABLE", "run `sudo "],
        );
    }
    user.memfetch(&["maps", &pid]).says(2, &["Hint: it is not dumpable"]);
    assert_eq!(user.cores(), Vec::<String>::new());
    // Root may.
    let path = user.folder.path().join("x.core");
    super::snap(target.pid(), &path, &[]).says(0, &[]);
    assert_whole(&path);
    assert_runs(target.pid());
}

/// Root without the capability that counts, as in a container.
#[test]
fn root_without_its_capabilities() {
    let Some(user) = User::new("root without CAP_SYS_PTRACE") else { return };
    let target = user.target(&["private", "1"]);
    let mut command = Command::new(&user.setpriv);
    command.args(["--bounding-set", "-sys_ptrace", "--inh-caps", "-sys_ptrace"]);
    command
        .arg(Path::new(MEMFETCH))
        .args(["snap", &target.pid().to_string()])
        .current_dir(user.folder.path());
    tell(&mut command).says(
        2,
        &[
            "Error: no permission to ",
            "CAP_SYS_PTRACE is missing although this is root",
            "--cap-add SYS_PTRACE",
        ],
    );
    assert_eq!(user.cores(), Vec::<String>::new());
}

//! [`Swap`]: swap space for the length of a test.

use std::ffi::OsStr;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A swap file that is in use until this is dropped. Only one test of a program has one at a time: taking one away
/// brings back into RAM what another test had in it.
#[derive(Debug)]
pub struct Swap {
    folder: PathBuf,
    _alone: MutexGuard<'static, ()>,
}

static ALONE: Mutex<()> = Mutex::new(());

impl Swap {
    /// Makes a swap file; nothing where this user may not, or the file system cannot.
    #[must_use]
    pub fn new(mebibytes: usize) -> Option<Self> {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("memfetch-swap-{}-{number}", std::process::id()));
        std::fs::create_dir(&folder).ok()?;
        let swap = Self { folder, _alone: ALONE.lock().unwrap_or_else(PoisonError::into_inner) };
        let file = swap.file();
        // A swap file may have no holes.
        let mut out = std::fs::File::create(&file).ok()?;
        for _ in 0..mebibytes {
            out.write_all(&[0; 1 << 20]).ok()?;
        }
        let is_on = run("chmod", &["600".as_ref(), file.as_os_str()])
            && run("mkswap", &[file.as_os_str()])
            && run("swapon", &[file.as_os_str()]);
        is_on.then_some(swap)
    }

    fn file(&self) -> PathBuf {
        self.folder.join("swap")
    }
}

fn run(program: &str, arguments: &[&OsStr]) -> bool {
    Command::new(program).args(arguments).output().is_ok_and(|output| output.status.success())
}

impl Drop for Swap {
    fn drop(&mut self) {
        run("swapoff", &[self.file().as_os_str()]);
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

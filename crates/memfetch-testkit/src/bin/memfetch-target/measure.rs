//! The role that watches another program.

use std::os::unix::process::CommandExt;

use crate::Role;

/// The roles of this module.
pub const ROLES: &[Role] = &[("measure", measure)];

/// `measure FILE PROGRAM [ARGUMENT...]`: runs a program, writes the most kilobytes of RAM that it had into a
/// file, and exits as it did. A program counts what its parent had when it was started, so that a test of any
/// size cannot tell this by itself; this process is small.
fn measure(arguments: &[String]) {
    let [file, program, rest @ ..] = arguments else {
        eprintln!("memfetch-target measure FILE PROGRAM [ARGUMENT...]");
        std::process::exit(2);
    };
    let mut command = std::process::Command::new(program);
    command.args(rest);
    // SAFETY: prctl(2) may be called between fork and exec, and takes numbers.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        });
    }
    let child = command.spawn();
    let child = child.unwrap_or_else(|error| panic!("{program}: {error}"));
    let pid = libc::pid_t::try_from(child.id()).expect("a pid is positive");
    let mut status = 0;
    // SAFETY: all zeros are a `struct rusage`.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: waits for the child that was just started, with room for both answers.
    let waited = unsafe { libc::wait4(pid, &mut status, 0, &mut usage) };
    assert!(waited == pid, "wait4: {}", std::io::Error::last_os_error());
    std::fs::write(file, usage.ru_maxrss.to_string()).expect("the file can be written");
    let code = if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { 128 + libc::WTERMSIG(status) };
    std::process::exit(code);
}

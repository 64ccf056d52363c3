//! [`report`]: the one place that says on standard error what went wrong: what failed, why, and what would help.
//! [`print()`]: what a command with several objects says on standard output of each.

use std::error::Error as _;
use std::ffi::OsStr;
use std::io::{self, IsTerminal, Write};
use std::os::unix::ffi::OsStrExt;

use memfetch::error::Candidate;

use crate::ending::Ending;
use crate::failure::Failure;
use crate::hints::{self, Caller};
use crate::text::{Paint, printable};

/// Says what went wrong, and how the command ends by it. A broken pipe is silent.
pub fn report(failure: &Failure) -> Ending {
    if failure.is_broken_pipe() {
        return Ending::Done;
    }
    if !failure.is_unread_snapshot() {
        let stderr = io::stderr();
        let paint = Paint::of(&stderr);
        // Where even this cannot be written there is nobody to tell.
        let _ = write(failure, &Caller::current(), paint, &mut stderr.lock());
    }
    Ending::Error
}

/// Prints what was found out about one of several objects. Where nobody reads it any more the work goes on, and the
/// exit code tells.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}

/// As [`print()`], for lines that may hold any bytes, which a terminal is kept from.
pub fn print_bytes(text: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    let written = if io::stdout().is_terminal() {
        let mut lines = text.split(|&byte| byte == b'\n');
        // What stands behind the last newline is no line.
        lines.next_back();
        lines.try_for_each(|line| writeln!(stdout, "{}", printable(OsStr::from_bytes(line))))
    } else {
        stdout.write_all(text)
    };
    match written.and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}

/// Writes `Error:`, one `Caused by:` for each cause, the candidates of an ambiguous name, and `Hint:`.
fn write(failure: &Failure, caller: &Caller, paint: Paint, out: &mut impl Write) -> io::Result<()> {
    let shown = |text: String| printable(OsStr::new(&text));
    writeln!(out, "{} {}", paint.alarm("Error:"), shown(failure.to_string()))?;
    let mut cause = failure.source();
    while let Some(error) = cause {
        writeln!(out, "{} {}", paint.bold("Caused by:"), shown(error.to_string()))?;
        cause = error.source();
    }
    if let Failure::Memory(memfetch::Error::Ambiguous { candidates, .. }) = failure {
        write_candidates(candidates, out)?;
    }
    match hints::hint(failure, caller) {
        Some(hint) => writeln!(out, "{} {}", paint.bold("Hint:"), shown(hint)),
        None => Ok(()),
    }
}

fn write_candidates(candidates: &[Candidate], out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "{:>10} {:>8}  COMMAND", "PID", "UID")?;
    for Candidate { pid, uid, command } in candidates {
        let command = printable(OsStr::new(command));
        let command: String = command.chars().take(120).collect();
        writeln!(out, "{pid:>10} {uid:>8}  {command}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use memfetch::Error;
    use memfetch::error::{Refusal, StopError};

    use super::*;

    fn told(failure: &Failure) -> String {
        let caller = Caller { is_root: false, command: "memfetch maps 17".to_owned() };
        let mut text = Vec::new();
        write(failure, &caller, Paint::OFF, &mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn each_level_says_its_own_part() {
        let source = io::Error::from_raw_os_error(1);
        let refused = Error::Refused {
            pid: 17,
            action: "read the memory",
            reason: Refusal::OtherUser { uid: 0 },
            source,
        };
        assert_eq!(
            told(&refused.into()),
            "Error: no permission to read the memory of process 17\n\
             Caused by: Operation not permitted (os error 1)\n\
             Hint: it belongs to root; run `sudo memfetch maps 17`\n"
        );
        let stuck =
            Error::CannotStop { pid: 17, source: StopError::Traced { by: 3, name: "gdb".to_owned() } };
        let text = told(&stuck.into());
        assert!(text.contains("Caused by: it is traced by process 3 (gdb)\nHint: "), "{text}");
    }

    #[test]
    fn an_ambiguous_name_lists_its_processes() {
        let one = Candidate { pid: 17, uid: 33, command: "nginx: worker\x1b[2J".to_owned() };
        let two = Candidate { pid: 4_000_000, uid: 0, command: "nginx: master".to_owned() };
        let text = told(&Error::Ambiguous { name: "nginx".to_owned(), candidates: vec![one, two] }.into());
        assert_eq!(
            text,
            "Error: `nginx` is the name of 2 processes\n\
             \u{20}      PID      UID  COMMAND\n\
             \u{20}       17       33  nginx: worker\\x1b[2J\n\
             \u{20}  4000000        0  nginx: master\n\
             Hint: name one by its number, such as 17\n"
        );
    }
}

//! [`Threads`] for a process that runs: what `/proc` tells, with no stop.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::identity::Identity;
use super::process::Process;
use super::status;
use crate::error::Error;
use crate::threads::{Accounting, BlockedCall, Registers, Thread, Threads, Tid};

/// Registers are known in part for threads that are blocked in the kernel, where this process may see that
/// (`PTRACE_MODE_ATTACH`), and unknown for those that run.
impl Threads for Process {
    fn threads(&self) -> Result<Vec<Thread>, Error> {
        self.run("list its threads", |target| {
            let identity = &target.identity;
            let fail = |error| identity.error("list the threads", error);
            // Ascending: the first thread has the lowest number unless numbers have wrapped around.
            let mut tids = identity.tids().map_err(fail)?;
            tids.sort_by_key(|&tid| tid != identity.pid());
            let threads: Vec<Thread> = tids.into_iter().filter_map(|tid| thread(identity, tid)).collect();
            if threads.is_empty() {
                return Err(Error::Ended { pid: identity.pid() });
            }
            Ok(threads)
        })?
    }
}

/// One thread; nothing where it has ended.
fn thread(identity: &Identity, tid: Tid) -> Option<Thread> {
    let stat = identity.thread_stat(tid).ok().filter(|stat| !stat.is_dead())?;
    let status = identity.read(format!("task/{tid}/status")).ok().and_then(|text| status::parse(&text))?;
    let call = identity.read(format!("task/{tid}/syscall")).ok().and_then(|text| blocked_call(&text));
    Some(Thread {
        tid,
        name: OsStr::from_bytes(&stat.comm).to_owned(),
        registers: call.map_or(Registers::Unknown, Registers::Partial),
        accounting: Accounting { pending: status.pending, blocked: status.blocked, ..stat.times() },
        signal: None,
    })
}

/// Reads `/proc/PID/task/TID/syscall`: `running`; `-1 SP PC`; or `NUMBER`, six arguments, `SP PC`.
/// Source: `proc_pid_syscall` in fs/proc/base.c.
pub fn blocked_call(text: &[u8]) -> Option<BlockedCall> {
    let mut fields = str::from_utf8(text).ok()?.split_ascii_whitespace();
    let number: i64 = fields.next()?.parse().ok()?;
    let rest: Vec<u64> = fields
        .map(|field| field.strip_prefix("0x").and_then(|hex| u64::from_str_radix(hex, 16).ok()))
        .collect::<Option<_>>()?;
    match *rest.as_slice() {
        [stack_pointer, program_counter] => {
            Some(BlockedCall { number, arguments: [0; 6], stack_pointer, program_counter })
        }
        [a, b, c, d, e, f, stack_pointer, program_counter] => {
            Some(BlockedCall { number, arguments: [a, b, c, d, e, f], stack_pointer, program_counter })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn calls_of_all_forms() {
        assert_eq!(blocked_call(b"running\n"), None);
        let outside = blocked_call(b"-1 0x7ffc 0x55aa\n").unwrap();
        assert_eq!((outside.number, outside.stack_pointer, outside.program_counter), (-1, 0x7ffc, 0x55aa));
        let call = blocked_call(b"232 0x4 0x1 0x2 0x3 0x8 0x9 0x7ffc 0x55aa\n").unwrap();
        assert_eq!((call.number, call.arguments), (232, [4, 1, 2, 3, 8, 9]));
        for bad in ["", "1", "1 0x2", "x 0x1 0x2", "1 0x2 3", "0 0x1 0x2 0x3"] {
            assert_eq!(blocked_call(bad.as_bytes()), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(text: Vec<u8>) {
            let _ = blocked_call(&text);
        }
    }
}

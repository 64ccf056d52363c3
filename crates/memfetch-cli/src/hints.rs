//! Hints: for each failure the smallest thing that would help.

use std::io::ErrorKind;

use memfetch::error::{
    EndpointError, FormatError, InjectionError, InstantError, OutputError, ReceiveError, Refusal, StopError,
};
use memfetch::query::atlas::NameError;
use memfetch::query::place::PlaceError;
use memfetch::{Cause, Error};

use crate::args;
use crate::failure::Failure;
use crate::quantity::{Units, count, size};
use crate::rule_files::RuleFailure;

fn of_rules(error: &RuleFailure) -> Option<String> {
    let hint = match error {
        RuleFailure::File { .. } => return None,
        RuleFailure::Definition(_) => "`-d NAME=VALUE` defines a variable",
        RuleFailure::Rules(error) if error.to_string().contains("unknown identifier") => {
            "a variable that the rules do not define is given as `-d NAME=VALUE`"
        }
        RuleFailure::Rules(_) => return None,
    };
    Some(hint.to_owned())
}

/// Who asks, and how.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Whether it is root already, so that `sudo` changes nothing.
    pub is_root: bool,
    /// The command line, quoted for a shell.
    pub command: String,
}

impl Caller {
    /// This process.
    #[must_use]
    pub fn current() -> Self {
        let words = std::env::args_os().map(|word| quoted(&word.to_string_lossy()));
        Self { is_root: rustix::process::geteuid().is_root(), command: words.collect::<Vec<_>>().join(" ") }
    }

    /// How to run the same with the capability to read any process.
    fn with_privilege(&self) -> String {
        if self.is_root {
            "CAP_SYS_PTRACE is missing although this is root: start the container with \
             `--cap-add SYS_PTRACE`, or run memfetch outside of it"
                .to_owned()
        } else {
            format!("run `sudo {}`", self.command)
        }
    }
}

/// The word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,+%@".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// What would help, if anything would.
#[must_use]
pub fn hint(failure: &Failure, caller: &Caller) -> Option<String> {
    match failure {
        Failure::Memory(error) => of_memory(error, caller),
        Failure::Receiving(error) => of_receiving(error).or_else(|| of_memory(error, caller)),
        Failure::Place(error) => of_place(error),
        Failure::Unread(fault) => of_cause(fault.cause),
        Failure::Rules(error) => of_rules(error),
        Failure::Usage { hint, .. } => Some(hint.clone()),
        Failure::Stdout(_) => None,
        Failure::File { source, .. } => match source.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => {
                Some("the directory has to be there".to_owned())
            }
            _ => None,
        },
    }
}

fn of_memory(error: &Error, caller: &Caller) -> Option<String> {
    Some(match error {
        Error::NoSuchProcess(name) => return of_absence(name),
        Error::Ambiguous { candidates, .. } => {
            format!("name one by its number, such as {}", candidates.first()?.pid)
        }
        Error::Replaced { .. } => "run the command again to read the new program".to_owned(),
        Error::Refused { reason, pid, .. } => of_refusal(reason, *pid, caller),
        Error::TimedOut { pid, .. } => format!(
            "it waits in the kernel, often for a file system or a device that does not answer; \
             `sudo cat /proc/{pid}/stack` shows where; `memfetch snap --time-limit` gives it longer"
        ),
        Error::CannotStop { source, .. } => return of_stop(source, caller),
        Error::NoInstant { source, .. } => match source {
            InstantError::Stop(source) => return of_stop(source, caller),
            InstantError::Injection(InjectionError::Seccomp) => {
                format!("{}; or `--mode freeze`, which stops it for longer", caller.with_privilege())
            }
            InstantError::TooFast { .. } => {
                "a longer `--max-pause`, or a snapshot without a stop: `--mode live`".to_owned()
            }
            _ => "`--mode freeze` stops it for as long as the copy takes; `--mode auto` chooses".to_owned(),
        },
        Error::Format { source, .. } => match source {
            FormatError::NotACore | FormatError::OtherElf(_) | FormatError::NoIndex => {
                "a running process is given by its number or its name, an image by the path of an ELF core or of a \
                 region directory"
                    .to_owned()
            }
            FormatError::Truncated(_) => "it was cut short while it was written or copied".to_owned(),
            _ => return None,
        },
        Error::Output { source, .. } => return of_output(source),
        Error::Connect { source, .. } => return of_peer(source),
        Error::Listen { endpoint, source } => return of_listening(endpoint, source),
        _ => return None,
    })
}

fn of_stop(error: &StopError, caller: &Caller) -> Option<String> {
    Some(match error {
        StopError::Traced { by, name } => {
            format!("end {name} ({by}), or take the snapshot without a stop: `--mode live`")
        }
        StopError::Refused(_) => {
            format!("{}; or take the snapshot without a stop: `--mode live`", caller.with_privilege())
        }
        StopError::NoThreads => return None,
        _ => "take the snapshot without a stop: `--mode live`".to_owned(),
    })
}

fn of_place(error: &PlaceError) -> Option<String> {
    let PlaceError::Name(error) = error else {
        return match error {
            PlaceError::Readings { .. } => Some("say one of them by its address".to_owned()),
            PlaceError::NotMapped { .. } => of_cause(Cause::NotMapped),
            _ => None,
        };
    };
    Some(match error {
        NameError::NoModule(name) if is_hexadecimal(name) => {
            format!("addresses begin with 0x: `0x{name}`")
        }
        NameError::NoModule(name) => format!(
            "`memfetch maps` lists the names; a symbol is `!{name}`, or MODULE!{name} (in quotes, for the shell)"
        ),
        NameError::NoRegion(_) => "`memfetch maps` lists what there is".to_owned(),
        NameError::Ambiguous { .. } => {
            "say it by its whole path, by its module (MODULE!SYMBOL), or by its address".to_owned()
        }
        NameError::NoSymbol { unsearched, .. } => {
            let (module, why) = unsearched.first()?;
            let others = match unsearched.len() {
                1 => String::new(),
                more => format!(", and {} more", count(more as u64 - 1, "module")),
            };
            format!("it may be in {module}, which could not be searched: {why}{others}")
        }
        NameError::NoSymbols { .. } => {
            "an offset from the base of the module needs no symbols: MODULE+0x...".to_owned()
        }
        NameError::Indirect { resolver, .. } => format!("the function that decides it lies at {resolver}"),
        _ => return None,
    })
}

fn is_hexadecimal(name: &str) -> bool {
    name.len() >= 4 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// What would let a byte be read.
fn of_cause(cause: Cause) -> Option<String> {
    Some(match cause {
        Cause::NotMapped | Cause::Vanished => "`memfetch maps` lists what is mapped".to_owned(),
        Cause::NotTouched => "`--touch stored` reads it where it is, and leaves it there".to_owned(),
        Cause::SharedUnknown | Cause::FileUnavailable => {
            "root may open what is behind it; `--touch all` reads it through the process, whose memory may grow by it"
                .to_owned()
        }
        Cause::NotSaved => {
            "`memfetch snap --contents full` saves everything; a process that still runs can be read itself".to_owned()
        }
        Cause::Truncated => "it was cut short while it was written or copied".to_owned(),
        Cause::TimedOut => "`--time-limit` gives the kernel longer".to_owned(),
        _ => return None,
    })
}

fn of_absence(name: &str) -> Option<String> {
    if name.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    if let Some(command) = args::command_names().into_iter().find(|command| is_slip(name, command)) {
        return Some(format!("there is a command `{command}`"));
    }
    Some(
        "a process is given by its number, or by its name as `ps -e` shows it; `self` is memfetch".to_owned(),
    )
}

/// Whether one letter added, left out, changed, or swapped with its neighbour makes `typed` of `meant`.
pub fn is_slip(typed: &str, meant: &str) -> bool {
    let (typed, meant): (Vec<char>, Vec<char>) = (typed.chars().collect(), meant.chars().collect());
    let same_head = typed.iter().zip(&meant).take_while(|(a, b)| a == b).count();
    let rest = |text: &[char]| text.get(same_head..).unwrap_or_default().to_vec();
    let (typed, meant) = (rest(&typed), rest(&meant));
    let behind = |text: &[char], skip: usize| text.get(skip..).map(<[char]>::to_vec);
    match (typed.len(), meant.len()) {
        (0, 0) => false,
        (t, m) if t == m + 1 => behind(&typed, 1).as_ref() == Some(&meant),
        (t, m) if t + 1 == m => behind(&meant, 1).as_ref() == Some(&typed),
        (t, m) if t == m => {
            let swapped = typed.first() == meant.get(1) && typed.get(1) == meant.first();
            behind(&typed, 1) == behind(&meant, 1)
                || (swapped && t > 1 && behind(&typed, 2) == behind(&meant, 2))
        }
        _ => false,
    }
}

fn of_refusal(reason: &Refusal, pid: i32, caller: &Caller) -> String {
    let privilege = caller.with_privilege();
    match reason {
        Refusal::OtherUser { uid: 0 } => format!("it belongs to root; {privilege}"),
        Refusal::OtherUser { uid } => format!("it belongs to user {uid}; {privilege}"),
        Refusal::NotDumpable => {
            format!("it is not dumpable: it changed its user, or asked for it (PR_SET_DUMPABLE); {privilege}")
        }
        Refusal::Yama { scope: 1 } => format!(
            "Yama lets only a parent read it (kernel.yama.ptrace_scope = 1); {privilege}, or let the process \
             allow it with prctl(PR_SET_PTRACER), or, for all processes, \
             `sudo sysctl kernel.yama.ptrace_scope=0`"
        ),
        Refusal::Yama { scope: 2 } => format!(
            "Yama asks for CAP_SYS_PTRACE (kernel.yama.ptrace_scope = 2); {privilege}, or give memfetch the \
             capability: `sudo setcap cap_sys_ptrace+ep \"$(command -v memfetch)\"`"
        ),
        Refusal::Yama { scope } => format!(
            "Yama forbids it to everybody until the next boot (kernel.yama.ptrace_scope = {scope}): set it \
             lower in /etc/sysctl.d and reboot"
        ),
        Refusal::UserNamespace => format!(
            "it lives in another user namespace: run memfetch in it (`nsenter --user --target {pid} ...`) or as \
             root of the host"
        ),
        Refusal::MoreCapabilities => format!("it has capabilities that this user lacks; {privilege}"),
        Refusal::Traced { by, name } => {
            format!("{name} ({by}) traces it: end that, or take the snapshot without a stop: `--mode live`")
        }
        Refusal::Hidden => format!("/proc hides the processes of others (hidepid); {privilege}"),
        _ if caller.is_root => {
            "a security module, seccomp or lockdown may be in the way (`dmesg` may say which), \
             or CAP_SYS_PTRACE is missing: a container gets it by `--cap-add SYS_PTRACE`"
                .to_owned()
        }
        _ => format!(
            "a security module, seccomp or lockdown may be in the way (`sudo dmesg` may say which); {privilege}"
        ),
    }
}

fn of_output(source: &OutputError) -> Option<String> {
    Some(match source {
        OutputError::Exists => {
            "`--force` overwrites it, `-o` gives another name (%t in it is the time)".to_owned()
        }
        OutputError::DirectoryExists => {
            "`--force` replaces it if it holds nothing but the files of a snapshot, \
             `-o` gives another name (%t in it is the time)"
                .to_owned()
        }
        OutputError::NoDirectory | OutputError::NotOurs(_) => "`-o` gives another name".to_owned(),
        OutputError::NoFile(_) => {
            "`-o` gives another name; `-o -` writes to standard output, which may be a pipe or a device"
                .to_owned()
        }
        OutputError::Blocked { .. } => {
            "a file takes it faster than a pipe; `--mode live` holds nothing, and `--time-limit` waits longer"
                .to_owned()
        }
        OutputError::PeerGone(_) => {
            "what it said itself tells why; the bytes that it has are no whole image".to_owned()
        }
        OutputError::PeerStalled { .. } | OutputError::Unconfirmed { .. } => {
            "`--time-limit` waits longer".to_owned()
        }
        OutputError::NoSpace { needed, free } => format!(
            "{} more are needed: `-o` writes elsewhere, `--only`, `--skip` or `--contents minimal` saves less",
            size(needed.saturating_sub(*free), Units::Full)
        ),
        // What was never touched is left out by then.
        OutputError::SizeLimit { .. } => {
            "`ulimit -f unlimited` lifts the limit; `--only`, `--skip` or `--contents minimal` saves less"
                .to_owned()
        }
        OutputError::Io { source, .. } => match source.kind() {
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
                "`-o` names another directory".to_owned()
            }
            ErrorKind::NotFound | ErrorKind::NotADirectory => {
                "the directory has to be there, and take files".to_owned()
            }
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                "`-o` writes elsewhere, `--only`, `--skip` or `--contents minimal` saves less".to_owned()
            }
            ErrorKind::FileTooLarge => {
                "`ulimit -f unlimited` lifts the limit where it is this process' own; \
                 `--only`, `--skip` or `--contents minimal` saves less"
                    .to_owned()
            }
            _ => return None,
        },
        _ => return None,
    })
}

/// What helps a sender.
fn of_peer(source: &EndpointError) -> Option<String> {
    Some(match source {
        EndpointError::Name(_) | EndpointError::NameTimedOut { .. } => of_name(),
        EndpointError::Failed { attempts } => match attempts.last()?.error.kind() {
            ErrorKind::ConnectionRefused => {
                "nobody listens there: begin with the other end, `memfetch recv [ADDR:]PORT -o FILE`"
                    .to_owned()
            }
            ErrorKind::TimedOut => {
                "nothing answers: a firewall may drop it, or the machine is down; `--time-limit` waits longer"
                    .to_owned()
            }
            ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable => {
                "there is no way to that address from here: `ip route get ADDRESS` tells".to_owned()
            }
            _ => return None,
        },
        _ => return None,
    })
}

/// What helps a receiver that cannot listen.
fn of_listening(endpoint: &str, source: &EndpointError) -> Option<String> {
    Some(match source {
        EndpointError::Name(_) | EndpointError::NameTimedOut { .. } => of_name(),
        EndpointError::Failed { attempts } => match attempts.last()?.error.kind() {
            ErrorKind::AddrInUse => {
                let port = endpoint.rsplit(':').next().unwrap_or(endpoint);
                format!("port 0 takes a free one; `ss -tlnp 'sport = :{port}'` tells who has this one")
            }
            ErrorKind::PermissionDenied => {
                "ports below 1024 take CAP_NET_BIND_SERVICE: take a higher one, or 0 for a free one"
                    .to_owned()
            }
            ErrorKind::AddrNotAvailable => {
                "listen on an address of this machine (`ip address`), or on all: 0.0.0.0 or [::]".to_owned()
            }
            _ => return None,
        },
        _ => return None,
    })
}

fn of_name() -> String {
    "`getent ahosts NAME` asks for the same name; an address does without".to_owned()
}

/// What helps where something was to be received, and that is not what helps a snapshot.
fn of_receiving(error: &Error) -> Option<String> {
    Some(match error {
        Error::Output { source, .. } => match source {
            OutputError::Exists => "`--force` overwrites it, `-o` gives another name".to_owned(),
            OutputError::NoFile(_) => "`-o` gives another name".to_owned(),
            OutputError::NoSpace { .. } => "`-o` writes elsewhere".to_owned(),
            OutputError::SizeLimit { .. } => "`ulimit -f unlimited` lifts the limit".to_owned(),
            OutputError::Io { source, .. } => match source.kind() {
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "`-o` writes elsewhere".to_owned(),
                ErrorKind::FileTooLarge => "`ulimit -f unlimited` lifts the limit".to_owned(),
                _ => return None,
            },
            _ => return None,
        },
        Error::Receive { source, .. } => match source {
            ReceiveError::NoPeer { .. } => {
                "send with `memfetch snap PROCESS -o tcp://HOST:PORT`; on 127.0.0.1 only this machine can connect; \
                 `--time-limit` waits longer"
                    .to_owned()
            }
            ReceiveError::Stalled { .. } => "`--time-limit` waits longer".to_owned(),
            ReceiveError::TooLong { .. } => "`--max-size` takes more".to_owned(),
            ReceiveError::Unverifiable { .. } => "`--unverified` takes it as it comes".to_owned(),
            ReceiveError::Nothing { .. }
            | ReceiveError::Broken { .. }
            | ReceiveError::Incomplete { .. }
            | ReceiveError::Altered { .. } => "send it again; what the sender said tells more".to_owned(),
            _ => return None,
        },
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::io;

    use memfetch::error::Attempt;

    use super::*;

    fn user() -> Caller {
        Caller { is_root: false, command: "memfetch 17".to_owned() }
    }

    fn refused(reason: Refusal, caller: &Caller) -> String {
        let source = io::Error::from_raw_os_error(13);
        let error = Error::Refused { pid: 17, action: "read the memory", reason, source };
        hint(&error.into(), caller).unwrap()
    }

    #[test]
    fn a_refusal_names_the_gate_and_the_smallest_remedy() {
        let root = Caller { is_root: true, command: "memfetch 17".to_owned() };
        for (reason, words) in [
            (Refusal::OtherUser { uid: 33 }, &["user 33", "`sudo memfetch 17`"][..]),
            (Refusal::NotDumpable, &["PR_SET_DUMPABLE", "sudo"]),
            (Refusal::Yama { scope: 1 }, &["PR_SET_PTRACER", "kernel.yama.ptrace_scope=0"]),
            (Refusal::Yama { scope: 2 }, &["setcap cap_sys_ptrace"]),
            (Refusal::Yama { scope: 3 }, &["reboot"]),
            (Refusal::UserNamespace, &["nsenter --user --target 17"]),
            (Refusal::MoreCapabilities, &["capabilities"]),
            (Refusal::Traced { by: 5, name: "gdb".to_owned() }, &["gdb (5)", "--mode live"]),
            (Refusal::Hidden, &["hidepid"]),
            (Refusal::Other, &["security module"]),
        ] {
            let text = refused(reason, &user());
            assert!(words.iter().all(|word| text.contains(word)), "{text}");
        }
        let text = refused(Refusal::OtherUser { uid: 33 }, &root);
        assert!(text.contains("--cap-add SYS_PTRACE") && !text.contains("sudo"), "{text}");
    }

    #[test]
    fn a_slip_of_the_finger_in_a_command_is_seen() {
        for typed in ["mapz", "map", "mmaps", "amps", "verfiy", "snpa", "verifi"] {
            let text = hint(&Error::NoSuchProcess(typed.to_owned()).into(), &user()).unwrap();
            assert!(text.starts_with("there is a command"), "{typed}: {text}");
        }
        for typed in ["redis", "bash", "maps1x", "s"] {
            let text = hint(&Error::NoSuchProcess(typed.to_owned()).into(), &user()).unwrap();
            assert!(text.contains("ps -e"), "{typed}: {text}");
        }
        assert_eq!(hint(&Error::NoSuchProcess("99".to_owned()).into(), &user()), None);
    }

    #[test]
    fn outputs_that_cannot_be_written() {
        for (source, word) in [
            (OutputError::Exists, "--force"),
            (OutputError::NoFile("a device"), "`-o -`"),
            (OutputError::Blocked { limit: std::time::Duration::from_secs(10) }, "--time-limit"),
            (OutputError::NoSpace { needed: 3 << 30, free: 1 << 30 }, "2 GiB more"),
            (OutputError::SizeLimit { needed: 9, limit: 5 }, "ulimit -f unlimited"),
        ] {
            let text = hint(&Error::Output { path: "x".into(), source }.into(), &user()).unwrap();
            assert!(text.contains(word), "{text}");
        }
    }

    fn failed(errno: i32) -> EndpointError {
        let error = io::Error::from_raw_os_error(errno);
        EndpointError::Failed { attempts: vec![Attempt { address: "[::1]:80".parse().unwrap(), error }] }
    }

    #[test]
    fn a_peer_that_cannot_be_reached_and_a_port_that_cannot_be_had() {
        for (errno, word) in [(111, "memfetch recv"), (110, "firewall"), (101, "ip route"), (113, "ip route")]
        {
            let error = Error::Connect { endpoint: "[::1]:80".to_owned(), source: failed(errno) };
            let text = hint(&error.into(), &user()).unwrap();
            assert!(text.contains(word), "{text}");
        }
        for (errno, word) in [(98, "sport = :80"), (13, "1024"), (99, "[::]")] {
            let error = Error::Listen { endpoint: "[::1]:80".to_owned(), source: failed(errno) };
            let text = hint(&Failure::Receiving(error), &user()).unwrap();
            assert!(text.contains(word), "{text}");
        }
    }

    #[test]
    fn a_receiver_is_not_told_what_helps_a_snapshot() {
        for source in [
            OutputError::Exists,
            OutputError::NoFile("a device"),
            OutputError::NoSpace { needed: 3 << 30, free: 1 << 30 },
            OutputError::SizeLimit { needed: 9, limit: 5 },
            OutputError::Io { action: "writing", source: ErrorKind::StorageFull.into() },
        ] {
            let error = Error::Output { path: "x".into(), source };
            let text = hint(&Failure::Receiving(error), &user()).unwrap();
            assert!(!text.contains("--contents") && !text.contains("-o -") && !text.contains("%t"), "{text}");
        }
    }

    #[test]
    fn a_command_is_quoted_for_a_shell() {
        assert_eq!(quoted("--only=*.so"), "'--only=*.so'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted("/a/b.core"), "/a/b.core");
    }
}

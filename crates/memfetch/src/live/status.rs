//! The text of `/proc/PID/status`. Source: `proc_pid_status` in fs/proc/array.c, proc_pid_status(5).

/// What `status` says, as far as it is needed here. What a kernel does not print stays at its default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Real, effective, saved and file-system user.
    pub uid: [u32; 4],
    /// Real, effective, saved and file-system group.
    pub gid: [u32; 4],
    /// Who traces it, 0 for nobody.
    pub tracer_pid: i32,
    /// Signals that wait for this thread.
    pub pending: u64,
    /// Signals that this thread blocks.
    pub blocked: u64,
    /// The capabilities that it may take up.
    pub permitted: u64,
    /// The capabilities that it has.
    pub effective: u64,
    /// 0 off, 1 strict, 2 filter.
    pub seccomp: u8,
}

/// Reads `status`. The kernel escapes newlines in the name, so that no name can forge a line.
pub fn parse(text: &[u8]) -> Option<Status> {
    let mut status = Status::default();
    let mut has_uid = false;
    for line in text.split(|&byte| byte == b'\n') {
        let Ok(line) = str::from_utf8(line) else { continue };
        let Some((key, value)) = line.split_once(':') else { continue };
        let value = value.trim();
        match key {
            "Uid" => {
                status.uid = four(value)?;
                has_uid = true;
            }
            "Gid" => status.gid = four(value)?,
            "TracerPid" => status.tracer_pid = value.parse().ok()?,
            "SigPnd" => status.pending = hexadecimal(value)?,
            "SigBlk" => status.blocked = hexadecimal(value)?,
            "CapPrm" => status.permitted = hexadecimal(value)?,
            "CapEff" => status.effective = hexadecimal(value)?,
            "Seccomp" => status.seccomp = value.parse().ok()?,
            _ => {}
        }
    }
    has_uid.then_some(status)
}

fn four(text: &str) -> Option<[u32; 4]> {
    let mut numbers = text.split_ascii_whitespace().map(|number| number.parse().ok());
    Some([numbers.next()??, numbers.next()??, numbers.next()??, numbers.next()??])
}

fn hexadecimal(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_there_is_read() {
        let text = b"Name:\tUid:\\n1\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nTracerPid:\t99\nSigPnd:\t0000000000000001\n\
            SigBlk:\tffffffffffffffff\nCapPrm:\t000001ffffffffff\nCapEff:\t0\nSeccomp:\t2\n";
        let status = parse(text).unwrap();
        assert_eq!((status.uid, status.gid), ([1, 2, 3, 4], [5, 6, 7, 8]));
        assert_eq!((status.tracer_pid, status.pending, status.blocked), (99, 1, u64::MAX));
        assert_eq!((status.permitted, status.seccomp), (0x1ff_ffff_ffff, 2));
        assert_eq!(parse(b"Name:\tx\n"), None);
    }

    #[test]
    fn this_process() {
        assert!(parse(&std::fs::read("/proc/self/status").unwrap()).is_some());
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(text: Vec<u8>, value: String) {
            let _ = parse(&text);
            for key in ["Uid", "Gid", "TracerPid", "SigPnd", "CapPrm", "Seccomp"] {
                let _ = parse(format!("{key}:{value}\n").as_bytes());
            }
        }
    }
}

//! The text of `/proc/PID/stat`. Source: `do_task_stat` in fs/proc/array.c, proc_pid_stat(5).

use crate::threads::Accounting;

/// What one line of `stat` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stat {
    /// The name, at most 15 bytes (more for kernel threads).
    pub comm: Vec<u8>,
    /// The state letter.
    pub state: u8,
    /// The parent.
    pub ppid: i32,
    /// The process group.
    pub pgrp: i32,
    /// The session.
    pub session: i32,
    /// `PF_*` flags.
    pub flags: u32,
    /// User time in clock ticks.
    pub user_ticks: u64,
    /// Kernel time in clock ticks.
    pub system_ticks: u64,
    /// User time of children that were waited for.
    pub children_user_ticks: u64,
    /// Kernel time of children that were waited for.
    pub children_system_ticks: u64,
    /// The nice value.
    pub nice: i32,
    /// When it started, in clock ticks after boot.
    pub start_ticks: u64,
}

impl Stat {
    const KERNEL_THREAD: u32 = 0x0020_0000;
    const EXITING: u32 = 0x4;

    /// Whether it is a thread of the kernel's own.
    pub const fn is_kernel_thread(&self) -> bool {
        self.flags & Self::KERNEL_THREAD != 0
    }

    /// Whether it has exited or is about to: its memory is gone, or going.
    pub const fn is_exiting(&self) -> bool {
        self.is_dead() || self.flags & Self::EXITING != 0
    }

    /// The times alone.
    pub fn times(&self) -> Accounting {
        Accounting {
            user_ticks: self.user_ticks,
            system_ticks: self.system_ticks,
            children_user_ticks: self.children_user_ticks,
            children_system_ticks: self.children_system_ticks,
            ..Accounting::default()
        }
    }

    /// Whether it has exited.
    pub const fn is_dead(&self) -> bool {
        matches!(self.state, b'Z' | b'X' | b'x')
    }
}

/// Reads `stat`. The name stands unescaped in parentheses and may hold some itself, and spaces and newlines: it
/// ends at the last one.
pub fn parse(text: &[u8]) -> Option<Stat> {
    let open = text.iter().position(|&byte| byte == b'(')?;
    let close = text.iter().rposition(|&byte| byte == b')')?;
    let comm = text.get(open + 1..close)?.to_vec();
    // Fields from the third on, which is the first here.
    let fields: Vec<&str> = str::from_utf8(text.get(close + 1..)?).ok()?.split_ascii_whitespace().collect();
    let field = |number: usize| fields.get(number - 3).copied();
    fn number<T: std::str::FromStr>(text: Option<&str>) -> Option<T> {
        text?.parse().ok()
    }
    Some(Stat {
        comm,
        state: *field(3)?.as_bytes().first()?,
        ppid: number(field(4))?,
        pgrp: number(field(5))?,
        session: number(field(6))?,
        flags: number(field(9))?,
        user_ticks: number(field(14))?,
        system_ticks: number(field(15))?,
        // Signed in the kernel's format, and never negative.
        children_user_ticks: number(field(16))?,
        children_system_ticks: number(field(17))?,
        nice: number(field(19))?,
        start_ticks: number(field(22))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const REST: &str =
        "S 1 17 18 0 -1 4194560 9 8 7 6 11 12 13 14 20 -5 3 0 4711 1000000 250 18446744073709551615";

    #[test]
    fn a_name_may_look_like_the_rest() {
        for comm in ["cat", ") R 1 (", "a b\nc", "((", "", ") S 1 1 1 1"] {
            let stat = parse(format!("42 ({comm}) {REST}\n").as_bytes()).unwrap();
            assert_eq!(stat.comm, comm.as_bytes());
            assert_eq!((stat.state, stat.ppid, stat.pgrp, stat.session), (b'S', 1, 17, 18));
            assert_eq!((stat.user_ticks, stat.children_system_ticks), (11, 14));
            assert_eq!((stat.nice, stat.start_ticks), (-5, 4711));
            assert!(!stat.is_kernel_thread() && !stat.is_exiting());
        }
    }

    #[test]
    fn this_process() {
        let stat = parse(&std::fs::read("/proc/self/stat").unwrap()).unwrap();
        assert!(!stat.is_dead() && !stat.is_kernel_thread());
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(text: Vec<u8>) {
            let _ = parse(&text);
        }

        #[test]
        fn any_name_comes_back(comm: Vec<u8>) {
            let mut text = b"7 (".to_vec();
            text.extend_from_slice(&comm);
            text.extend_from_slice(format!(") {REST}").as_bytes());
            prop_assert_eq!(parse(&text).unwrap().comm, comm);
        }

        #[test]
        fn cut_text_is_no_text(cut in 0_usize..60) {
            let text = format!("42 (x) {REST}");
            prop_assert_eq!(parse(&text.as_bytes()[..cut]), None);
        }
    }
}

//! Which gate keeps a process shut, as far as that can be told from outside.
//!
//! Source: `__ptrace_may_access` in kernel/ptrace.c, `cap_ptrace_access_check` in security/commoncap.c,
//! security/yama/yama_lsm.c. Asked in the kernel's order.

use super::identity::Identity;
use super::status::{self, Status};
use crate::error::Refusal;

const CAP_SYS_PTRACE: u64 = 1 << 19;

/// What is known about a refusal.
#[derive(Debug)]
struct Facts {
    caller: Status,
    target: Status,
    /// The owner of the target's files in `/proc`.
    owner: u32,
    /// Yama's `ptrace_scope`.
    yama: Option<u8>,
    /// Whether what was refused needs the right to attach, which Yama guards, and not just to look.
    attach: bool,
    /// Whether both are known to live in one user namespace.
    same_namespace: bool,
}

/// Says which gate refused `action`.
pub fn diagnose(identity: &Identity, action: &str) -> Refusal {
    let Ok(target) = identity.status() else { return Refusal::Hidden };
    let caller = std::fs::read("/proc/thread-self/status").ok().and_then(|text| status::parse(&text));
    let Some(caller) = caller else { return Refusal::Other };
    let owner = rustix::fs::statat(identity.directory(), "status", rustix::fs::AtFlags::empty())
        .map_or(target.uid[1], |stat| stat.st_uid);
    let scope = std::fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").ok();
    let namespace = |path: &str| std::fs::read(path).ok();
    judge(&Facts {
        owner,
        yama: scope.and_then(|text| text.trim().parse().ok()),
        attach: action.contains("the memory") || action.contains("attach"),
        // The link itself needs the refused right; the maps of user numbers are for all to read.
        same_namespace: namespace("/proc/self/uid_map") == identity.read("uid_map").ok(),
        caller,
        target,
    })
}

fn judge(facts: &Facts) -> Refusal {
    let Facts { caller, target, .. } = facts;
    let yama = facts.yama.filter(|&scope| scope > 0 && facts.attach);
    if caller.effective & CAP_SYS_PTRACE != 0 {
        return match yama {
            Some(scope @ 3..) => Refusal::Yama { scope },
            _ if !facts.same_namespace => Refusal::UserNamespace,
            _ => Refusal::Other,
        };
    }
    let user = caller.uid[1];
    if let Some(&uid) = target.uid[..3].iter().find(|&&uid| uid != user) {
        return Refusal::OtherUser { uid };
    }
    // The kernel gives the files of a process that is not dumpable to root.
    if facts.owner != target.uid[1] {
        return Refusal::NotDumpable;
    }
    if target.permitted & !caller.permitted != 0 {
        return if facts.same_namespace { Refusal::MoreCapabilities } else { Refusal::UserNamespace };
    }
    match yama {
        Some(scope) => Refusal::Yama { scope },
        None if !facts.same_namespace => Refusal::UserNamespace,
        None => Refusal::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(uid: u32) -> Status {
        Status { uid: [uid; 4], ..Status::default() }
    }

    fn facts(caller: Status, target: Status) -> Facts {
        Facts { owner: target.uid[1], caller, target, yama: None, attach: true, same_namespace: true }
    }

    #[test]
    fn each_gate_by_its_name() {
        assert_eq!(judge(&facts(user(1), user(2))), Refusal::OtherUser { uid: 2 });
        let setuid = Status { uid: [1, 0, 0, 0], ..Status::default() };
        assert_eq!(judge(&facts(user(1), setuid)), Refusal::OtherUser { uid: 0 });
        assert_eq!(judge(&Facts { owner: 0, ..facts(user(1), user(1)) }), Refusal::NotDumpable);
        let capable = Status { permitted: 1, ..user(1) };
        assert_eq!(judge(&facts(user(1), capable.clone())), Refusal::MoreCapabilities);
        let inner = Facts { same_namespace: false, ..facts(user(1), capable) };
        assert_eq!(judge(&inner), Refusal::UserNamespace);
        let yama = Facts { yama: Some(1), ..facts(user(1), user(1)) };
        assert_eq!(judge(&yama), Refusal::Yama { scope: 1 });
        assert_eq!(judge(&Facts { attach: false, ..yama }), Refusal::Other);
        let root = Status { effective: CAP_SYS_PTRACE, ..user(0) };
        let locked = Facts { yama: Some(3), ..facts(root, user(1)) };
        assert_eq!(judge(&locked), Refusal::Yama { scope: 3 });
        assert_eq!(judge(&Facts { yama: Some(2), ..locked }), Refusal::Other);
    }
}

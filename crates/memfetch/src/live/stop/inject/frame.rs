//! [`Frame`]: what rt_sigreturn(2) makes a thread of again: its registers, its extended state, its signal mask.
//!
//! Laid out like the frame that the kernel pushes for a signal handler (`struct rt_sigframe` of
//! arch/x86/include/asm/sigframe.h, `struct sigcontext_64` and `struct _fpx_sw_bytes` of asm/sigcontext.h), with two
//! differences that the kernel allows: the `siginfo` at its end is left out, which rt_sigreturn does not read, and of
//! the extended state only those parts are there that are in use. The alternate signal stack stays as it is: one of
//! size 0 that is not disabled is refused, and that refusal is ignored (`restore_altstack` of kernel/signal.c).

use memfetch_sys::ptrace::UserRegs;
use memfetch_sys::xsave::Component;

/// Bytes below the stack pointer that belong to the function that runs (System V ABI, 3.2.2).
const RED_ZONE: u64 = 128;
/// `pretcode` and `struct ucontext`.
const CONTEXT_BYTES: usize = 8 + 304;
/// `fpstate` in use, a stack segment as it was saved, and no other one put in its place.
const FLAGS: u64 = 1 | 2 | 4;
/// The x87 and SSE registers, and the header that tells what follows.
const LEGACY_BYTES: usize = 512;
const HEADER_BYTES: usize = 64;
/// Where in the legacy area the kernel looks for `struct _fpx_sw_bytes`.
const SOFTWARE: usize = 464;
const MAGIC1: u32 = 0x4650_5853;
const MAGIC2: u32 = 0x4650_5845;
/// x87 and SSE.
const LEGACY: u64 = 3;
/// The protection keys, which the kernel keeps outside the area.
const PKRU: u32 = 9;

/// A frame, and where it belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The address of its first byte, which holds the address of the restorer: a stack pointer with this value makes
    /// a `ret` go there.
    pub at: u64,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// What must be mapped from `at` on, for the kernel to read the state back after its pages were swapped out.
    pub reach: u64,
}

impl Frame {
    /// A frame below the red zone of a thread that is to go on with these registers; none where the extended state is
    /// not understood or the stack pointer leaves no room.
    pub fn new(regs: &UserRegs, mask: u64, xstate: &[u8], components: &[Component]) -> Option<Self> {
        let state = extended_state(xstate, components)?;
        let top = regs.rsp.checked_sub(RED_ZONE)?;
        // XRSTOR wants it aligned to 64 bytes.
        let state_at = top.checked_sub(u64::try_from(state.len()).ok()?)? & !63;
        // As at the entry of a handler: 8 bytes below a multiple of 16.
        let at = (state_at.checked_sub(u64::try_from(CONTEXT_BYTES).ok()?)? & !15).checked_sub(8)?;
        let mut bytes = Vec::with_capacity(usize::try_from(top - at).ok()?);
        let mut put = |word: u64| bytes.extend_from_slice(&word.to_le_bytes());
        put(0);
        put(FLAGS);
        // uc_link, and uc_stack of size 0.
        [0; 4].into_iter().for_each(&mut put);
        let general = [
            regs.r8,
            regs.r9,
            regs.r10,
            regs.r11,
            regs.r12,
            regs.r13,
            regs.r14,
            regs.r15,
            regs.rdi,
            regs.rsi,
            regs.rbp,
            regs.rbx,
            regs.rdx,
            regs.rax,
            regs.rcx,
            regs.rsp,
            regs.rip,
            regs.eflags,
        ];
        general.into_iter().for_each(&mut put);
        // The selectors, 16 bits each: cs, gs, fs, ss.
        put((regs.cs & 0xffff)
            | (regs.gs & 0xffff) << 16
            | (regs.fs & 0xffff) << 32
            | (regs.ss & 0xffff) << 48);
        // err, trapno, oldmask, cr2
        [0; 4].into_iter().for_each(&mut put);
        put(state_at);
        [0; 8].into_iter().for_each(&mut put);
        put(mask);
        bytes.resize(usize::try_from(state_at - at).ok()?, 0);
        bytes.extend_from_slice(&state);
        let whole = u64::try_from(xstate.len()).ok()?.max(u64::try_from(state.len()).ok()?);
        Some(Self { at, bytes, reach: state_at.checked_add(whole)? - at })
    }

    /// Sets the address of the restorer.
    pub fn return_to(&mut self, restorer: u64) {
        if let Some(word) = self.bytes.get_mut(..8) {
            word.copy_from_slice(&restorer.to_le_bytes());
        }
    }
}

/// The parts in use of an area that `PTRACE_GETREGSET` gave, in the form that a signal frame has it.
fn extended_state(xstate: &[u8], components: &[Component]) -> Option<Vec<u8>> {
    let word = |at: usize| Some(u64::from_le_bytes(xstate.get(at..at + 8)?.try_into().ok()?));
    // What the kernel gives user space of the processor's features: the mask that ptrace puts where a frame has its
    // own words.
    let allowed = word(SOFTWARE)?;
    let mut used = word(LEGACY_BYTES)?;
    // Standard format only: bit 63 of the second word means that parts follow each other without gaps.
    if word(LEGACY_BYTES + 8)? >> 63 != 0 {
        return None;
    }
    // Without its bit all keys would be open afterwards.
    used |= allowed & 1 << PKRU;
    let mut len = LEGACY_BYTES + HEADER_BYTES;
    for part in components.iter().filter(|part| used & 1_u64.checked_shl(part.bit).unwrap_or(0) != 0) {
        len = len.max(usize::try_from(part.offset.checked_add(part.size)?).ok()?);
    }
    // A part in use that the processor does not describe could not be carried over.
    let described =
        components.iter().fold(LEGACY, |all, part| all | 1_u64.checked_shl(part.bit).unwrap_or(0));
    if used & !described != 0 {
        return None;
    }
    let mut state = xstate.get(..len)?.to_vec();
    state.get_mut(LEGACY_BYTES..LEGACY_BYTES + 8)?.copy_from_slice(&used.to_le_bytes());
    let len = u32::try_from(len).ok()?;
    let mut software = Vec::with_capacity(48);
    software.extend_from_slice(&MAGIC1.to_le_bytes());
    software.extend_from_slice(&len.checked_add(4)?.to_le_bytes());
    software.extend_from_slice(&(used | LEGACY).to_le_bytes());
    software.extend_from_slice(&len.to_le_bytes());
    software.resize(48, 0);
    state.get_mut(SOFTWARE..LEGACY_BYTES)?.copy_from_slice(&software);
    state.extend_from_slice(&MAGIC2.to_le_bytes());
    Some(state)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn area(used: u64, allowed: u64, len: usize) -> Vec<u8> {
        let mut area: Vec<u8> = (0..len).map(|at| at as u8).collect();
        area[SOFTWARE..SOFTWARE + 8].copy_from_slice(&allowed.to_le_bytes());
        area[512..520].copy_from_slice(&used.to_le_bytes());
        area[520..576].fill(0);
        area
    }

    fn word(bytes: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
    }

    const PARTS: &[Component] = &[
        Component { bit: 2, offset: 576, size: 256 },
        Component { bit: 7, offset: 1664, size: 1024 },
        Component { bit: PKRU, offset: 2688, size: 8 },
    ];

    #[test]
    fn it_lies_below_the_red_zone_and_points_to_its_own_parts() {
        for rsp in 0x7fff_0000_1000..0x7fff_0000_1080 {
            let regs = UserRegs { rsp, rip: 0x1234, rax: 232, cs: 0x33, ss: 0x2b, ..UserRegs::default() };
            let mut frame = Frame::new(&regs, 0xabcd, &area(7, 7, 832), PARTS).unwrap();
            frame.return_to(0x5678);
            let end = frame.at + frame.bytes.len() as u64;
            assert!(end <= rsp - 128 && end + 256 > rsp);
            assert_eq!((frame.at + 8) % 16, 0);
            assert_eq!(word(&frame.bytes, 0), 0x5678);
            // gregs from 48 on: the 14th is rax, the 16th rsp, the 17th rip.
            assert_eq!(word(&frame.bytes, 48 + 13 * 8), 232);
            assert_eq!(word(&frame.bytes, 48 + 15 * 8), rsp);
            assert_eq!(word(&frame.bytes, 48 + 16 * 8), 0x1234);
            assert_eq!(word(&frame.bytes, 48 + 18 * 8), 0x2b << 48 | 0x33);
            let state_at = word(&frame.bytes, 48 + 23 * 8);
            assert_eq!(state_at % 64, 0);
            assert_eq!(word(&frame.bytes, 48 + 32 * 8), 0xabcd);
            let state = &frame.bytes[(state_at - frame.at) as usize..];
            assert_eq!(word(state, SOFTWARE) as u32, MAGIC1);
            let len = word(state, SOFTWARE + 16) as usize;
            assert_eq!((len, state.len()), (832, 836));
            assert_eq!(state[len..], MAGIC2.to_le_bytes());
        }
        let low = UserRegs { rsp: 500, ..UserRegs::default() };
        assert_eq!(Frame::new(&low, 0, &area(7, 7, 832), PARTS), None);
    }

    #[test]
    fn only_what_is_in_use_is_carried_over() {
        let used = |used, allowed, len| {
            let state = extended_state(&area(used, allowed, len), PARTS)?;
            Some((word(&state, 512), word(&state, SOFTWARE + 8), state.len()))
        };
        assert_eq!(used(0, 0x87, 2696), Some((0, 3, 580)));
        assert_eq!(used(3, 0x87, 2696), Some((3, 3, 580)));
        assert_eq!(used(0x87, 0x87, 2696), Some((0x87, 0x87, 2692)));
        // Protection keys are in force whether their bit is set or not.
        assert_eq!(used(3, 0x287, 2696), Some((0x203, 0x203, 2700)));
        // A part that the processor does not describe, or that was not given.
        assert_eq!(used(1 << 17, 1 << 17, 2696), None);
        assert_eq!(used(0x87, 0x87, 1000), None);
        assert_eq!(extended_state(&area(3, 3, 576)[..575], PARTS), None);
    }
}

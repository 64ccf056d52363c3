//! Roles of a process whose only thread computes, and looks all the time at what it computes with.

use std::sync::atomic::{AtomicI64, Ordering::SeqCst};

use crate::blocked::{system, use_stack};
use crate::memory::map;
use crate::registers::{own, vectors};
use crate::storm;
use crate::unwilling::ready;
use crate::{Role, fact};

/// The roles of this module.
pub const ROLES: &[Role] = &[("compute", compute), ("touching", touching)];

/// What `memfetch_hold` takes and gives. Its offsets are written out there.
#[repr(C, align(64))]
struct Area {
    /// rax, rbx, rcx, rdx, rsi, rdi, rbp, r8 to r15, the flags.
    set: [u64; 16],
    got: [u64; 16],
    /// 0 SSE, 1 AVX, 2 AVX-512.
    level: u64,
    mxcsr: u64,
    control: u64,
    /// The status word of the x87, mxcsr and the control word of the x87.
    words_got: [u64; 3],
    pad: [u64; 2],
    red_zone: [u64; 16],
    x87: [[u64; 2]; 8],
    vectors: [[u64; 8]; 32],
    vectors_got: [[u64; 8]; 32],
    masks: [u64; 8],
    masks_got: [u64; 8],
}

const _: () = assert!(size_of::<Area>() == 4800);

std::arch::global_asm!(
    ".globl memfetch_hold, memfetch_hold_begin, memfetch_hold_end",
    "memfetch_hold:",
    "push rbx; push rbp; push r12; push r13; push r14; push r15; push rdi",
    // Where the red zone begins when all is set; its other words count down from 16.
    "push qword ptr [rdi+120]",
    "lea rax, [rsp-120]",
    "mov rcx, 16",
    "2: mov [rax], rcx; add rax, 8; dec rcx; cmp rcx, 1; jne 2b",
    "ldmxcsr [rdi+264]",
    "fldcw [rdi+272]",
    "fld1; fldl2t; fldl2e; fldpi; fldlg2; fldln2; fldz; fld1",
    "cmp qword ptr [rdi+256], 1",
    "je 4f",
    "ja 5f",
    ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
    "movdqu xmm\\n, [rdi+576+\\n*64]",
    ".endr",
    "jmp 6f",
    "4:",
    ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
    "vmovdqu ymm\\n, [rdi+576+\\n*64]",
    ".endr",
    "jmp 6f",
    "5:",
    ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
    "vmovdqu64 zmm\\n, [rdi+576+\\n*64]",
    ".endr",
    ".irp n,0,1,2,3,4,5,6,7",
    "kmovw k\\n, [rdi+4672+\\n*8]",
    ".endr",
    "6:",
    "mov rax, [rdi]; mov rbx, [rdi+8]; mov rcx, [rdi+16]; mov rdx, [rdi+24]; mov rsi, [rdi+32]; mov rbp, [rdi+48]",
    "mov r8, [rdi+56]; mov r9, [rdi+64]; mov r10, [rdi+72]; mov r11, [rdi+80]; mov r12, [rdi+88]; mov r13, [rdi+96]",
    "mov r14, [rdi+104]; mov r15, [rdi+112]; mov rdi, [rdi+40]",
    "popfq",
    "memfetch_hold_begin:",
    ".fill 40000, 1, 0x90",
    "memfetch_hold_end:",
    "pushfq",
    // The area for rdi, whose value is kept in its place.
    "xchg rdi, [rsp+8]",
    "mov [rdi+128], rax; mov [rdi+136], rbx; mov [rdi+144], rcx; mov [rdi+152], rdx; mov [rdi+160], rsi",
    "mov [rdi+176], rbp; mov [rdi+184], r8; mov [rdi+192], r9; mov [rdi+200], r10; mov [rdi+208], r11",
    "mov [rdi+216], r12; mov [rdi+224], r13; mov [rdi+232], r14; mov [rdi+240], r15",
    "pop rax; mov [rdi+248], rax",
    "mov rax, [rsp]; mov [rdi+168], rax",
    "mov rcx, 16",
    "3: mov rax, [rsp-136+rcx*8]; mov [rdi+312+rcx*8], rax; dec rcx; jnz 3b",
    "push 0; popfq",
    "xor eax, eax; fnstsw ax; mov [rdi+280], rax",
    "stmxcsr [rdi+288]",
    "fnstcw [rdi+296]",
    ".irp n,0,1,2,3,4,5,6,7",
    "fstp tbyte ptr [rdi+448+\\n*16]",
    ".endr",
    "cmp qword ptr [rdi+256], 1",
    "je 4f",
    "ja 5f",
    ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
    "movdqu [rdi+2624+\\n*64], xmm\\n",
    ".endr",
    "jmp 6f",
    "4:",
    ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
    "vmovdqu [rdi+2624+\\n*64], ymm\\n",
    ".endr",
    "jmp 6f",
    "5:",
    ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
    "vmovdqu64 [rdi+2624+\\n*64], zmm\\n",
    ".endr",
    ".irp n,0,1,2,3,4,5,6,7",
    "kmovw [rdi+4736+\\n*8], k\\n",
    ".endr",
    "6:",
    "pop rdi; pop r15; pop r14; pop r13; pop r12; pop rbp; pop rbx",
    "ret",
);

unsafe extern "C" {
    fn memfetch_hold(area: *mut Area);
    fn memfetch_hold_begin();
    fn memfetch_hold_end();
}

/// Carry, parity, auxiliary carry, zero, sign, direction, overflow, alignment check, identification; with the bit that is
/// always set, and interrupts.
const FLAGS: u64 = 0x24_0ed7;

impl Area {
    fn new() -> Self {
        let mut words = (1_u64..).map(|index| index.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut word = || words.next().unwrap_or_default();
        let mut set: [u64; 16] = std::array::from_fn(|_| word());
        set[15] = FLAGS;
        let vectors = std::array::from_fn(|_| std::array::from_fn(|_| word()));
        Self {
            set,
            got: [0; 16],
            level: crate::registers::vectors().0,
            // Rounding towards zero, in the x87 as well, and 53 bits there.
            mxcsr: 0x7f80,
            control: 0x0e7f,
            words_got: [0; 3],
            pad: [0; 2],
            red_zone: [0; 16],
            x87: [[0; 2]; 8],
            vectors,
            vectors_got: [[0; 8]; 32],
            masks: std::array::from_fn(|_| word() & 0xffff),
            masks_got: [0; 8],
        }
    }

    /// Holds all of it for some microseconds; returns what was not as before.
    fn hold(&mut self, x87: Option<&[[u64; 2]; 8]>) -> Result<(), String> {
        // SAFETY: the function keeps to the C convention (it restores what it must, the control words below), and writes
        // to the area only, whose layout it shares.
        unsafe {
            memfetch_hold(self);
            std::arch::asm!("ldmxcsr [{0}]", "fldcw [{0} + 4]", in(reg) &[0x1f80_u32, 0x037f]);
        }
        let (level, count, words) = vectors();
        if self.got != self.set {
            return Err(format!("registers {:x?}", self.got));
        }
        // The top of the stack is back where it began: eight values are in it.
        if self.words_got[0] & 0x3800 != 0
            || self.words_got[1] as u32 != 0x7f80
            || self.words_got[2] as u16 != 0x0e7f
        {
            return Err(format!("control {:x?}", self.words_got));
        }
        if x87.is_some_and(|x87| *x87 != self.x87) {
            return Err(format!("x87 {:x?}", self.x87));
        }
        let pairs = self.vectors.iter().zip(&self.vectors_got).take(count);
        if let Some((_, got)) = pairs.into_iter().find(|(set, got)| set[..words] != got[..words]) {
            return Err(format!("vector {got:x?}"));
        }
        if level == 2 && self.masks != self.masks_got {
            return Err(format!("masks {:x?}", self.masks_got));
        }
        if self.red_zone[..15].iter().copied().ne((2..=16).rev()) || self.red_zone[15] != FLAGS {
            return Err(format!("red zone {:x?}", self.red_zone));
        }
        Ok(())
    }
}

#[repr(align(64))]
struct Counter(AtomicI64);

/// `compute`: the only thread fills all registers, flags, x87, vectors and the red zone, runs on for some microseconds and
/// looks at all of them, over and over.
///
/// `counters`: rounds; rounds after which something was not as before; signals 36 that were taken, with the values 1, 2, 3,
/// ...; those of them that were not as they should be. `begin`, `end`: the instructions between which all is in use.
fn compute(_: &[String]) {
    let counters: &[Counter; 4] = Box::leak(Box::new(std::array::from_fn(|_| Counter(AtomicI64::new(0)))));
    fact("counters", format!("{:#x}", std::ptr::from_ref(counters).addr()));
    fact("begin", format!("{:#x}", (memfetch_hold_begin as unsafe extern "C" fn() as *const u8).addr()));
    fact("end", format!("{:#x}", (memfetch_hold_end as unsafe extern "C" fn() as *const u8).addr()));
    storm::handle();
    use_stack();
    let mut area = Area::new();
    area.hold(None).expect("nobody has touched it yet");
    let x87 = area.x87;
    let before = own();
    ready();
    for round in 1.. {
        let mut held = area.hold(Some(&x87));
        // Calls, seldom.
        if round % 256 == 0 && own() != before {
            held = Err(format!("own {:x?}", own()));
        }
        if let Err(wrong) = held {
            eprintln!("compute: {wrong}");
            counters[1].0.fetch_add(1, SeqCst);
        }
        let [received, wrong] = storm::counted();
        counters[2].0.store(received, SeqCst);
        counters[3].0.store(wrong, SeqCst);
        counters[0].0.store(round, SeqCst);
    }
}

/// `touching`: the only thread writes to pages that it has not got, so that it is mostly in the midst of an instruction,
/// and reads what it wrote. `counters`: rounds; pages that did not hold what they should.
fn touching(_: &[String]) {
    const SIZE: usize = 8 << 20;
    let counters: &[Counter; 2] = Box::leak(Box::new(std::array::from_fn(|_| Counter(AtomicI64::new(0)))));
    fact("counters", format!("{:#x}", std::ptr::from_ref(counters).addr()));
    let start = map(SIZE, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    system(libc::SYS_madvise, [start, SIZE, libc::MADV_NOHUGEPAGE as usize]);
    use_stack();
    ready();
    for round in 1_i64.. {
        let pages = || (start..start + SIZE).step_by(4096).map(std::ptr::with_exposed_provenance_mut::<i64>);
        for page in pages() {
            // SAFETY: it lies in the mapping, which stays and is nobody else's.
            unsafe { page.write_volatile(round) };
        }
        for page in pages() {
            // SAFETY: as above.
            if unsafe { page.read_volatile() } != round {
                counters[1].0.fetch_add(1, SeqCst);
            }
        }
        counters[0].0.store(round, SeqCst);
        system(libc::SYS_madvise, [start, SIZE, libc::MADV_DONTNEED as usize]);
    }
}

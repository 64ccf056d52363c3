//! Cores built from literals. Shares no code with the reader: fields are written one after the other, as elf(5)
//! and include/linux/elfcore.h list them.

#![allow(dead_code, reason = "each test uses its own part")]

/// How a core writes its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub wide: bool,
    pub big: bool,
    pub machine: u16,
}

/// x86-64, i386, 64-bit PowerPC and 32-bit PowerPC: both word sizes in both byte orders.
pub const SHAPES: [Shape; 4] = [
    Shape { wide: true, big: false, machine: 62 },
    Shape { wide: false, big: false, machine: 3 },
    Shape { wide: true, big: true, machine: 21 },
    Shape { wide: false, big: true, machine: 20 },
];

/// Numbers written one after the other.
pub struct Fields {
    shape: Shape,
    pub bytes: Vec<u8>,
}

impl Fields {
    pub fn new(shape: Shape) -> Self {
        Self { shape, bytes: Vec::new() }
    }

    fn put(mut self, value: u64, width: usize) -> Self {
        let big = value.to_be_bytes();
        let little = value.to_le_bytes();
        self.bytes.extend_from_slice(if self.shape.big { &big[8 - width..] } else { &little[..width] });
        self
    }

    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    pub fn half(self, value: u16) -> Self {
        self.put(value.into(), 2)
    }

    pub fn int(self, value: u32) -> Self {
        self.put(value.into(), 4)
    }

    pub fn long(self, value: u64) -> Self {
        let width = if self.shape.wide { 8 } else { 4 };
        self.put(value, width)
    }

    pub fn text(mut self, text: &str, room: usize) -> Self {
        let end = self.bytes.len() + room;
        self.bytes.extend_from_slice(text.as_bytes());
        self.bytes.resize(end, 0);
        self
    }

    pub fn note(self, owner: &str, kind: u32, descriptor: &[u8]) -> Self {
        let mut name = owner.as_bytes().to_vec();
        name.push(0);
        let (name_bytes, descriptor_bytes) = (name.len(), descriptor.len());
        name.resize(name_bytes.next_multiple_of(4), 0);
        let mut padded = descriptor.to_vec();
        padded.resize(descriptor_bytes.next_multiple_of(4), 0);
        self.int(name_bytes as u32).int(descriptor_bytes as u32).int(kind).raw(&name).raw(&padded)
    }
}

/// A segment that is to be.
#[derive(Clone, Debug)]
pub struct Load {
    pub start: u64,
    pub memory: u64,
    pub bytes: Vec<u8>,
    /// Where the bytes are put; behind what came before if 0.
    pub offset: u64,
    pub flags: u32,
}

impl Load {
    pub fn new(start: u64, memory: u64, flags: u32, bytes: Vec<u8>) -> Self {
        Self { start, memory, bytes, offset: 0, flags }
    }
}

/// A core that is to be.
pub struct Core {
    pub shape: Shape,
    pub kind: u16,
    pub notes: Vec<u8>,
    pub loads: Vec<Load>,
    /// Count the program headers in the first section header, as from 65,535 on.
    pub counted_by_section: bool,
}

impl Core {
    pub fn new(shape: Shape) -> Self {
        Self { shape, kind: 4, notes: Vec::new(), loads: Vec::new(), counted_by_section: false }
    }

    pub fn note(mut self, owner: &str, kind: u32, descriptor: &[u8]) -> Self {
        self.notes = Fields { shape: self.shape, bytes: self.notes }.note(owner, kind, descriptor).bytes;
        self
    }

    pub fn load(mut self, load: Load) -> Self {
        self.loads.push(load);
        self
    }

    /// Where the data begins: right behind the notes.
    pub fn data_offset(&self) -> u64 {
        let (header, entry) = if self.shape.wide { (64, 56) } else { (52, 32) };
        (header + entry * (1 + self.loads.len()) + self.notes.len()) as u64
    }

    pub fn build(&self) -> Vec<u8> {
        let shape = self.shape;
        let (header, entry) = if shape.wide { (64_u64, 56_u64) } else { (52, 32) };
        let count = 1 + self.loads.len() as u64;
        let notes_at = header + entry * count;
        let mut offset = self.data_offset();
        let mut placed = Vec::new();
        for load in &self.loads {
            if load.offset != 0 {
                offset = load.offset;
            }
            placed.push(offset);
            offset += load.bytes.len() as u64;
        }
        let end = placed.iter().zip(&self.loads).map(|(at, load)| at + load.bytes.len() as u64);
        let end = end.max().unwrap_or(offset).max(notes_at + self.notes.len() as u64);
        let sections_at = if self.counted_by_section { end } else { 0 };
        let ident = [0x7f, b'E', b'L', b'F', 1 + u8::from(shape.wide), 1 + u8::from(shape.big), 1, 0];
        let mut fields = Fields::new(shape).raw(&ident).raw(&[0; 8]);
        fields =
            fields.half(self.kind).half(shape.machine).int(1).long(0).long(header).long(sections_at).int(0);
        fields = fields.half(header as u16).half(entry as u16);
        fields = fields.half(if self.counted_by_section { 0xffff } else { count as u16 });
        fields = fields.half(if shape.wide { 64 } else { 40 }).half(0).half(0);
        fields = segment(fields, 4, 0, notes_at, 0, self.notes.len() as u64, 0, 4);
        for (load, at) in self.loads.iter().zip(&placed) {
            let saved = load.bytes.len() as u64;
            fields = segment(fields, 1, load.flags, *at, load.start, saved, load.memory, 4096);
        }
        let mut file = fields.raw(&self.notes).bytes;
        file.resize(end as usize, 0);
        for (load, at) in self.loads.iter().zip(placed) {
            file[at as usize..][..load.bytes.len()].copy_from_slice(&load.bytes);
        }
        if self.counted_by_section {
            let section = Fields::new(shape).int(0).int(0).long(0).long(0).long(0).long(0).int(0);
            file.extend(section.int(count as u32).long(0).long(0).bytes);
        }
        file
    }
}

#[expect(clippy::too_many_arguments, reason = "a program header has as many")]
fn segment(
    fields: Fields,
    kind: u32,
    flags: u32,
    offset: u64,
    address: u64,
    saved: u64,
    memory: u64,
    align: u64,
) -> Fields {
    if fields.shape.wide {
        let fields = fields.int(kind).int(flags).long(offset).long(address).long(0);
        fields.long(saved).long(memory).long(align)
    } else {
        let fields = fields.int(kind).long(offset).long(address).long(0).long(saved).long(memory);
        fields.int(flags).long(align)
    }
}

/// `elf_prstatus`: signal, pending, blocked, pid, times, and registers that count up from 1.
pub fn prstatus(shape: Shape, signal: u16, tid: u32, registers: &[u8]) -> Vec<u8> {
    let fields = Fields::new(shape).int(signal.into()).int(0).int(0).half(signal).half(0);
    let fields = fields.long(0x10).long(0x20).int(tid).int(1).int(tid).int(tid);
    let fields = fields.long(2).long(30_000).long(1).long(10_000).long(0).long(0).long(0).long(0);
    let fields = fields.raw(registers).int(1);
    if shape.wide { fields.int(0).bytes } else { fields.bytes }
}

/// The general registers of the machine, all 0x55 but for the stack pointer.
pub fn registers(shape: Shape, stack_pointer: u64) -> Vec<u8> {
    let (count, index) = match shape.machine {
        62 => (27, 19),
        3 => (17, 15),
        _ => (48, 1),
    };
    let mut fields = Fields::new(shape);
    for register in 0..count {
        fields = fields.long(if register == index { stack_pointer } else { 0x55 });
    }
    fields.bytes
}

/// `elf_prpsinfo`.
pub fn prpsinfo(shape: Shape, pid: u32, name: &str, arguments: &str) -> Vec<u8> {
    let fields = Fields::new(shape).raw(b"\x01S\x00\x00");
    let fields = if shape.wide { fields.int(0) } else { fields };
    let fields = fields.long(0x40_0000);
    let fields = if shape.machine == 3 { fields.half(1000).half(100) } else { fields.int(1000).int(100) };
    fields.int(pid).int(7).int(pid).int(pid).text(name, 16).text(arguments, 80).bytes
}

/// The auxiliary vector.
pub fn auxv(shape: Shape, entries: &[(u64, u64)]) -> Vec<u8> {
    let mut fields = Fields::new(shape);
    for (key, value) in entries.iter().chain(&[(0, 0)]) {
        fields = fields.long(*key).long(*value);
    }
    fields.bytes
}

/// NT_FILE: start, end, offset in pages, name.
pub fn files(shape: Shape, entries: &[(u64, u64, u64, &str)]) -> Vec<u8> {
    let mut fields = Fields::new(shape).long(entries.len() as u64).long(4096);
    for (start, end, offset, _) in entries {
        fields = fields.long(*start).long(*end).long(*offset);
    }
    for (.., name) in entries {
        fields = fields.raw(name.as_bytes()).raw(&[0]);
    }
    fields.bytes
}

/// `len` bytes that differ from those of another seed.
pub fn pattern(seed: u64, len: usize) -> Vec<u8> {
    (0..len as u64).map(|n| (n.wrapping_mul(0x9e37_79b9) >> 7) as u8 ^ seed as u8 | 1).collect()
}

/// A core with everything that a foreign one has: a program of two files, a bss, a heap, a vdso, a stack, two threads.
pub fn full(shape: Shape) -> Core {
    let auxiliary = auxv(shape, &[(6, 4096), (9, 0x1_0400), (25, 0x7000_1800), (33, 0x6000_0000)]);
    let mapped = files(
        shape,
        &[
            (0x1_0000, 0x1_2000, 0, "/bin/program"),
            (0x1_2000, 0x1_3000, 2, "/bin/program"),
            (0x5000_0000, 0x5000_1000, 5, "/tmp/gone (deleted)"),
        ],
    );
    let mut siginfo = Fields::new(shape).int(11).int(0).int(1).bytes;
    siginfo.resize(128, 0);
    Core::new(shape)
        .note("CORE", 1, &prstatus(shape, 11, 42, &registers(shape, 0x7000_1000)))
        .note("CORE", 3, &prpsinfo(shape, 42, "program", "program --with arguments "))
        .note("CORE", 0x5349_4749, &siginfo)
        .note("CORE", 6, &auxiliary)
        .note("CORE", 0x4649_4c45, &mapped)
        .note("CORE", 2, &[2; 64])
        .note("LINUX", 0x202, &[3; 70])
        .note("CORE", 1, &prstatus(shape, 0, 43, &registers(shape, 0x5100_0000)))
        .note("CORE", 2, &[4; 64])
        .note("GNU", 1, &[9; 3])
        .load(Load::new(0x1_0000, 0x1000, 5, pattern(1, 0x1000)))
        .load(Load::new(0x1_1000, 0x1000, 5, Vec::new()))
        .load(Load::new(0x1_2000, 0x1000, 6, pattern(2, 0x1000)))
        .load(Load::new(0x1_3000, 0x1000, 6, pattern(3, 0x1000)))
        .load(Load::new(0x1_8000, 0x2000, 6, pattern(4, 0x2000)))
        .load(Load::new(0x5000_0000, 0x1000, 4, pattern(5, 0x800)))
        .load(Load::new(0x6000_0000, 0x1000, 5, pattern(6, 0x1000)))
        .load(Load::new(0x7000_0000, 0x2000, 6, pattern(7, 0x2000)))
}

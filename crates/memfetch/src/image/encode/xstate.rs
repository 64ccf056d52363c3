//! NT_X86_XSTATE in the layout that its readers assume.
//!
//! The note says which parts of the extended state it holds (XCR0, in the bytes that the XSAVE header leaves to
//! software), and nothing of where they are: that is the processor's choice. Debuggers assume Intel's offsets; AMD's
//! differ behind AVX, and gdb before 14 then shows wrong AVX-512 registers, or none with a warning that the section
//! is too small. So the parts are moved to Intel's offsets, which all readers know; on a processor that has those
//! anyway nothing changes.

/// One part of the extended state on the processor that the registers come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Component {
    /// Its bit in XCR0.
    pub bit: u32,
    /// Where its bytes are.
    pub offset: usize,
    /// How many there are.
    pub size: usize,
}

/// Intel's offsets and sizes by bit (gdb's `X86_XSTATE_*_SIZE`, the kernel's `xstate_offsets` on Intel): AVX, the two
/// of MPX, the three of AVX-512, PKRU, the two of AMX.
const STANDARD: [Component; 9] = [
    Component { bit: 2, offset: 576, size: 256 },
    Component { bit: 3, offset: 960, size: 64 },
    Component { bit: 4, offset: 1024, size: 64 },
    Component { bit: 5, offset: 1088, size: 64 },
    Component { bit: 6, offset: 1152, size: 512 },
    Component { bit: 7, offset: 1664, size: 1024 },
    Component { bit: 9, offset: 2688, size: 8 },
    Component { bit: 17, offset: 2752, size: 64 },
    Component { bit: 18, offset: 2816, size: 8192 },
];
/// The legacy region and the XSAVE header.
const HEADER: usize = 576;
/// Where the kernel puts XCR0 (`USER_XSTATE_XCR0_WORD`, arch/x86/include/asm/fpu/xstate.h).
const XCR0: usize = 464;

/// The same registers at Intel's offsets, or unchanged where a part has none or anything does not add up.
#[must_use]
pub fn standard_layout(bytes: &[u8], processor: &[Component]) -> Vec<u8> {
    moved(bytes, processor).unwrap_or_else(|| bytes.to_vec())
}

fn moved(bytes: &[u8], processor: &[Component]) -> Option<Vec<u8>> {
    let xcr0 = u64::from_le_bytes(bytes.get(XCR0..XCR0 + 8)?.try_into().ok()?);
    let present = || processor.iter().filter(|component| xcr0 & (1 << component.bit) != 0);
    let standard = |component: &Component| {
        STANDARD.iter().find(|known| known.bit == component.bit && known.size == component.size)
    };
    if present().all(|component| standard(component) == Some(component)) {
        return None;
    }
    let mut out = bytes.get(..HEADER)?.to_vec();
    for component in present() {
        let to = standard(component)?.offset;
        let from = bytes.get(component.offset..component.offset.checked_add(component.size)?)?;
        out.resize(out.len().max(to + component.size), 0);
        out.get_mut(to..to + component.size)?.copy_from_slice(from);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const AMD: [Component; 5] = [
        Component { bit: 2, offset: 576, size: 256 },
        Component { bit: 5, offset: 832, size: 64 },
        Component { bit: 6, offset: 896, size: 512 },
        Component { bit: 7, offset: 1408, size: 1024 },
        Component { bit: 9, offset: 2432, size: 8 },
    ];

    fn area(len: usize, xcr0: u64) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..len).map(|at| (at / 64) as u8).collect();
        bytes[XCR0..XCR0 + 8].copy_from_slice(&xcr0.to_le_bytes());
        bytes
    }

    #[test]
    fn amds_offsets_become_intels() {
        let bytes = area(2432, 0xe7);
        let moved = standard_layout(&bytes, &AMD);
        assert_eq!(moved.len(), 2688, "gdb knows this size as AVX-512 without PKRU");
        assert_eq!(moved[..832], bytes[..832]);
        assert_eq!(moved[832..1088], [0; 256]);
        assert_eq!(moved[1088..1152], bytes[832..896]);
        assert_eq!(moved[1152..1664], bytes[896..1408]);
        assert_eq!(moved[1664..], bytes[1408..2432]);
        assert_eq!(standard_layout(&area(2440, 0x2e7), &AMD).len(), 2696);
    }

    #[test]
    fn intels_stay_and_so_does_what_is_not_understood() {
        let bytes = area(2696, 0x2e7);
        assert_eq!(standard_layout(&bytes, &STANDARD), bytes);
        // A part that has no offset in the table, one that sticks out, and an area without a header.
        let strange = [Component { bit: 19, offset: 960, size: 128 }];
        let with_strange = area(1088, 7 | 1 << 19);
        assert_eq!(standard_layout(&with_strange, &strange), with_strange);
        let short = area(1000, 0xe7);
        assert_eq!(standard_layout(&short, &AMD), short);
        assert_eq!(standard_layout(&[1, 2, 3], &AMD), [1, 2, 3]);
    }
}

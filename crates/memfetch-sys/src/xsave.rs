//! Where this processor keeps each part of an XSAVE area.

use std::arch::x86_64::{__cpuid, __cpuid_count};

/// One part of the extended state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Component {
    /// Its bit in XCR0.
    pub bit: u32,
    /// The offset of its bytes in an area of the standard format.
    pub offset: u32,
    /// Their number.
    pub size: u32,
}

/// The parts that have an offset of their own, from bit 2 on (Intel SDM volume 1, 13.2; CPUID leaf 0xD).
#[must_use]
pub fn components() -> Vec<Component> {
    const LEAF: u32 = 0xd;
    if __cpuid(0).eax < LEAF {
        return Vec::new();
    }
    (2..63)
        .filter_map(|bit| {
            let leaf = __cpuid_count(LEAF, bit);
            // Bit 0 of ecx: a part that XSAVES alone saves, which user space never sees.
            (leaf.eax != 0 && leaf.ecx & 1 == 0).then_some(Component {
                bit,
                offset: leaf.ebx,
                size: leaf.eax,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_upper_halves_of_ymm_stand_behind_the_header() {
        if let Some(avx) = components().iter().find(|component| component.bit == 2) {
            assert_eq!((avx.offset, avx.size), (576, 256));
        }
    }
}

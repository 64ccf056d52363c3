//! Numbers of variable length: seven bits a byte, lowest first, the eighth set where more follow (LEB128).

/// Appends a number.
pub(super) fn put(out: &mut Vec<u8>, mut value: u64) {
    loop {
        let low = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            out.push(low);
            return;
        }
        out.push(low | 0x80);
    }
}

/// Takes a number off the front, or `None` where it is cut off or has more than 64 bits.
pub(super) fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let low = u64::from(byte & 0x7f);
        let placed = low.checked_shl(shift)?;
        if placed >> shift != low {
            return None;
        }
        value |= placed;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

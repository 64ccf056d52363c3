//! Holes: what of a block is worth writing.

use std::ops::Range;

/// The shortest run of zeros that becomes a hole, and what it is aligned to, in bytes. Shorter ones would cost a write each
/// and save little.
pub(super) const GRAIN: usize = 64 << 10;

static ZEROS: [u8; GRAIN] = [0; GRAIN];

/// The ranges of `block` to write, ascending and apart: whole grains, and the last one as long as it is. What lies between
/// them is zero.
pub(super) fn written(block: &[u8]) -> impl Iterator<Item = Range<usize>> {
    let mut grains = block.chunks(GRAIN).enumerate().map(|(index, grain)| {
        let start = index * GRAIN;
        (start..start + grain.len(), ZEROS.get(..grain.len()) != Some(grain))
    });
    std::iter::from_fn(move || {
        let (mut range, _) = grains.find(|(_, written)| *written)?;
        for (more, written) in grains.by_ref() {
            if !written {
                break;
            }
            range.end = more.end;
        }
        Some(range)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ranges(block: &[u8]) -> Vec<Range<usize>> {
        written(block).collect()
    }

    #[test]
    fn grains_of_zeros_are_left_out() {
        assert!(ranges(&[]).is_empty());
        assert!(ranges(&[0; 4 * GRAIN + 3]).is_empty());
        let mut block = vec![0; 6 * GRAIN + 7];
        block[GRAIN - 1] = 1;
        block[3 * GRAIN] = 1;
        block[5 * GRAIN - 1] = 1;
        block[6 * GRAIN + 6] = 1;
        assert_eq!(ranges(&block), [0..GRAIN, 3 * GRAIN..5 * GRAIN, 6 * GRAIN..6 * GRAIN + 7]);
    }

    proptest! {
        #[test]
        fn what_is_left_out_is_zero(set in prop::collection::vec(0..10 * GRAIN, 0..12), len in 0..10 * GRAIN) {
            let mut block = vec![0; len];
            for at in set {
                if let Some(byte) = block.get_mut(at) {
                    *byte = 1;
                }
            }
            let mut again = vec![0; len];
            let mut end = 0;
            for range in written(&block) {
                prop_assert!(range.start >= end && range.start % GRAIN == 0 && !range.is_empty());
                prop_assert!(range.end % GRAIN == 0 || range.end == len);
                end = range.end;
                again[range.clone()].copy_from_slice(&block[range]);
            }
            prop_assert_eq!(again, block);
        }
    }
}

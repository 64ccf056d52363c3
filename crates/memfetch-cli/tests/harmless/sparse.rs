//! Memory that is reserved and hardly used: the cost is that of what is used.

use super::*;

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;

/// Libraries, the stack, headers and the trailer.
const REST: u64 = 16 * MIB;

#[test]
fn sixty_four_gigabytes_reserved() {
    let _alone = alone();
    // As much again is PROT_NONE.
    let mut target = Target::spawn("reserved", &["128", "4"]);
    let span = span_of(&target);
    unharmed("64 GiB reserved", &mut target, &["default", "full"], |taken| {
        assert!(taken.stored() < 4 * MIB + REST, "{} bytes", taken.stored());
        let image = taken.image();
        assert_words(&image, part(span, 0, 4 * MIB), |at| at);
        assert_words(&image, part(span, 4 * MIB, 4 * MIB), |_| 0);
        assert_words(&image, part(span, 63 * GIB, 4 * MIB), |_| 0);
        assert_words(&image, part(span, 64 * GIB, 4 * MIB), |_| 0);
    });
}

#[test]
fn sixteen_terabytes_reserved() {
    let _alone = alone();
    let mut target = Target::spawn("reserved", &["16384", "4"]);
    let span = span_of(&target);
    unharmed("16 TiB reserved", &mut target, &["default", "full"], |taken| {
        assert!(taken.stored() < 4 * MIB + REST, "{} bytes", taken.stored());
        let image = taken.image();
        assert_words(&image, part(span, 0, 4 * MIB), |at| at);
        assert_words(&image, part(span, 8191 * GIB, MIB), |_| 0);
    });
}

#[test]
fn a_sparse_shadow_in_sixteen_terabytes() {
    let _alone = alone();
    let mut target = Target::spawn("reserved", &["16384", "4", "1"]);
    let span = span_of(&target);
    unharmed("16 TiB with a page in each GiB", &mut target, &["default"], |taken| {
        assert!(taken.stored() < 8192 * 4096 + 4 * MIB + REST, "{} bytes", taken.stored());
        let image = taken.image();
        for gib in [1, 2, 4097, 8191] {
            assert_words(&image, part(span, gib * GIB, 4096), |at| at);
            assert_words(&image, part(span, gib * GIB + 4096, MIB), |_| 0);
        }
    });
}

#[test]
fn a_gigabyte_of_untouched_shared_memory() {
    let _alone = alone();
    for sort in ["anonymous", "memfd"] {
        let mut target = Target::spawn("shared-untouched", &["1024", sort]);
        let span = span_of(&target);
        unharmed(&format!("1 GiB untouched, {sort}"), &mut target, &["default", "full"], |taken| {
            assert!(taken.stored() < REST, "{} bytes", taken.stored());
            if is_root() || sort == "memfd" {
                assert_words(&taken.image(), part(span, 512 * MIB, MIB), |_| 0);
            }
        });
    }
}

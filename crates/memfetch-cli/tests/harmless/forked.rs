//! Memory that a parent and its child share since a fork stays shared.

use memfetch_testkit::footprint::rollup;

use super::*;

#[test]
fn parent_and_child() {
    let _alone = alone();
    for role in ["cow", "cow-huge"] {
        let mut target = Target::spawn(role, &["512"]);
        settle(&mut target);
        let span = span_of(&target);
        let child = i32::try_from(target.number("child")).unwrap();
        for (who, pid) in [("child", child), ("parent", target.pid())] {
            for mode in MODES {
                let what = format!("{role}, {who}, {mode}");
                let both = || [child, target.pid()].map(Footprint::of);
                // The copy that un-sharing makes is clean, by the page table.
                let private = || rollup(pid, "Private_Dirty") + rollup(pid, "Private_Clean");
                let (before, private_before) = (both(), private());
                let huge = rollup(pid, "AnonHugePages");
                let taken = snap(pid, &["--mode", mode]);
                taken.print(&what);
                let unshared = private().saturating_sub(private_before);
                assert!(unshared < 256, "{what}: {unshared} kB are no longer shared");
                assert_eq!(rollup(pid, "AnonHugePages"), huge, "{what}");
                for (before, after) in before.iter().zip(&both()) {
                    before.assert_near(after, NOISE_KB, &what);
                }
                // The child of cow-huge has only the upper half of each 2 MiB.
                assert_words(&taken.image(), part(span, (256 << 20) + (1 << 20), 1 << 20), |at| at);
            }
        }
    }
}

//! Very many mappings, very many threads, and very much memory.

use super::*;

/// The most mappings that a process may have: raised, and put back in the end.
struct MostMappings(Option<String>);

const MOST_MAPPINGS: &str = "/proc/sys/vm/max_map_count";

impl MostMappings {
    /// Raises it where that is allowed, and returns how many there may be now.
    fn raise(to: usize) -> (Self, usize) {
        let old = std::fs::read_to_string(MOST_MAPPINGS).unwrap();
        let most: usize = old.trim().parse().unwrap();
        if most >= to || std::fs::write(MOST_MAPPINGS, to.to_string()).is_err() {
            return (Self(None), most);
        }
        (Self(Some(old)), to)
    }
}

impl Drop for MostMappings {
    fn drop(&mut self) {
        if let Some(old) = &self.0 {
            let _ = std::fs::write(MOST_MAPPINGS, old.trim());
        }
    }
}

#[test]
fn a_hundred_thousand_mappings() {
    let _alone = alone();
    let (_most, most) = MostMappings::raise(110_000);
    let count = 100_000.min(most.saturating_sub(1_000));
    let mut target = Target::spawn("many-mappings", &[&count.to_string()]);
    let span = Span::from_len(Address::new(target.number("start")), count as u64 * 4096).unwrap();
    unharmed(&format!("{count} mappings"), &mut target, &["default", "full"], |taken| {
        let image = taken.image();
        assert_words(&image, part(span, 0, 256 << 12), |at| {
            if at >> 12 & 1 == span.start().get() >> 12 & 1 { at } else { 0 }
        });
        let regions = image.regions().unwrap();
        assert!(regions.within(span).count() >= count, "{} regions", regions.len());
    });
}

#[test]
fn two_thousand_threads() {
    let _alone = alone();
    let mut target = Target::spawn("threads", &["2000"]);
    unharmed("2000 threads", &mut target, &["default"], |taken| {
        assert_eq!(taken.report["outcome"]["threads"], 2001);
    });
}

#[test]
fn two_gigabytes_in_ram() {
    let _alone = alone();
    let mut target = Target::spawn("private", &["2048"]);
    let span = span_of(&target);
    unharmed("2 GiB in RAM", &mut target, &["default"], |taken| {
        assert_words(&taken.image(), part(span, 1 << 30, 64 << 20), |at| at);
    });
}

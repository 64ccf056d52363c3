//! How long the file may look.

use super::*;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

fn holds_the_reservation(image: &Image, span: Span) {
    assert_words(image, part(span, 0, 4 * MIB), |at| at);
    for at in [4 * MIB, 32 * GIB, 64 * GIB - MIB] {
        assert_words(image, part(span, at, MIB), |_| 0);
    }
}

#[test]
fn a_file_that_may_not_look_large() {
    let _alone = alone();
    let target = Target::spawn("reserved", &["128", "4"]);
    let span = span_of(&target);
    for (most, split) in [("1GiB", true), ("100G", false)] {
        let taken = snap(target.pid(), &["--mode", "live", "--max-apparent-size", most]);
        let apparent = taken.core().metadata().unwrap().len();
        println!("--max-apparent-size {most}: {apparent} bytes");
        assert_eq!(apparent < GIB, split, "{apparent} bytes");
        holds_the_reservation(&taken.image(), span);
        opens_in_gdb(&taken, span);
    }
}

#[test]
fn a_length_that_the_bytes_themselves_pass_is_remarked() {
    let _alone = alone();
    let target = Target::spawn("reserved", &["128", "4"]);
    let taken = snap(target.pid(), &["--mode", "live", "--max-apparent-size", "1M"]);
    let remarks = taken.report["outcome"]["remarks"].to_string();
    assert!(remarks.contains("longer than 1048576 bytes"), "{remarks}");
    holds_the_reservation(&taken.image(), span_of(&target));
}

fn opens_in_gdb(taken: &Taken, span: Span) {
    let Some(gdb) = peers::find("gdb", "a core with segments that are left out in gdb") else { return };
    let start = span.start().get();
    let mut command = Command::new(gdb);
    command.args(["-nx", "--batch", "-ex", &format!("x/2gx {start:#x}"), "-ex", "info threads", "-ex", "bt"]);
    let output = peers::run(
        command.arg(memfetch_testkit::target::program()).arg(taken.core()),
        Duration::from_secs(120),
    );
    let text = peers::text(&output);
    assert!(text.contains(&format!("{start:#x}:\t{start:#018x}\t{:#018x}", start + 8)), "{text}");
    assert!(output.status.success() && !text.to_lowercase().contains("truncated"), "{text}");
}

/// A limit on the length of files, as a shell's `ulimit -f` sets it.
fn with_file_limit(bytes: u64) -> Runner {
    let wrapper = ["prlimit".to_owned(), format!("--fsize={bytes}"), "--".to_owned()].to_vec();
    Runner { wrapper, ..Runner::default() }
}

#[test]
fn a_limit_on_files_that_is_too_small_is_an_error_that_leaves_nothing() {
    let _alone = alone();
    let mut target = Target::spawn("reserved", &["128", "4"]);
    settle(&mut target);
    let before = Footprint::of(target.pid());
    for mode in MODES {
        let taken = with_file_limit(2 * MIB).snap(target.pid(), &["--mode", mode]);
        assert_eq!(taken.code, 2, "{}", taken.said);
        assert!(!taken.core().exists());
        assert!(taken.said.contains("RLIMIT_FSIZE") || taken.said.contains("ulimit"), "{}", taken.said);
        println!("{}", taken.said);
    }
    before.assert_near(&Footprint::of(target.pid()), NOISE_KB, "a limit that is too small");
}

#[test]
fn a_limit_on_files_leaves_long_zeros_out() {
    let _alone = alone();
    let target = Target::spawn("reserved", &["128", "4"]);
    for mode in MODES {
        let taken = with_file_limit(64 * MIB).snap(target.pid(), &["--mode", mode]);
        assert_eq!(taken.code, 0, "{}", taken.said);
        assert!(taken.core().metadata().unwrap().len() <= 64 * MIB);
        holds_the_reservation(&taken.image(), span_of(&target));
    }
}

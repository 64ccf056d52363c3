use super::*;
use crate::region::Permissions;

const PAGE: u64 = 4096;

/// A map and its page states from lines: an address in pages, a length in pages, permissions, a name, and states
/// by a letter a page.
fn world(lines: &[(u64, &str, &str, &str)]) -> (RegionMap, PageRuns) {
    use std::fmt::Write as _;
    let mut text = String::new();
    let mut pages = PageRuns::new();
    for (first, permissions, name, states) in lines {
        let start = first * PAGE;
        let end = start + states.len() as u64 * PAGE;
        let ids = if name.starts_with('/') { "08:01 7" } else { "00:00 0" };
        writeln!(text, "{start:x}-{end:x} {permissions} 00000000 {ids} {name}").unwrap();
        for (index, letter) in states.bytes().enumerate() {
            let state = match letter {
                b'.' => PageState::Absent,
                b'0' => PageState::Zero,
                b'R' => PageState::Resident,
                b'S' => PageState::Swapped,
                b'B' => PageState::Backed,
                b'f' => PageState::FileResident,
                b'c' => PageState::FileClean,
                b'G' => PageState::Guard,
                b'X' => PageState::Unreadable(Cause::Secret),
                b'?' => PageState::Unreadable(Cause::SharedUnknown),
                _ => continue,
            };
            pages.push(span(first + index as u64, 1), state);
        }
    }
    (crate::maps::parse(text.as_bytes()).unwrap(), pages)
}

fn span(page: u64, pages: u64) -> Span {
    Span::from_len(Address::new(page * PAGE), pages * PAGE).unwrap()
}

fn wishes() -> Wishes {
    Wishes {
        contents: Contents::Default,
        touch: Touch::Stored,
        selection: Selection::default(),
        rule: DefaultRule::CoredumpFilter,
        filter: Filter::DEFAULT,
        stack_pointers: Vec::new(),
        needed: Vec::new(),
        split_zeros: None,
        page_size: PAGE,
    }
}

/// The plan, a letter a page: `#` saved, `-` not.
fn drawn(world: &(RegionMap, PageRuns), wishes: &Wishes) -> (Vec<String>, Plan) {
    let plan = Plan::make(&world.0, &world.1, wishes, |_| true);
    let rows = world.0.iter().map(|region| {
        let inside = plan.segments.iter().filter(|segment| region.span.covers(segment.span));
        inside
            .map(|s| if s.saved { "#" } else { "-" }.repeat((s.span.len() / PAGE) as usize))
            .collect::<String>()
    });
    (rows.collect(), plan)
}

#[test]
fn every_page_has_a_segment_and_untouched_ones_are_not_read() {
    let world = world(&[
        (10, "rw-p", "", "R..R"),
        (20, "---p", "", "...."),
        (30, "---p", "", ".R.."),
        (40, "rw-p", "[heap]", "S0"),
    ]);
    let (rows, plan) = drawn(&world, &wishes());
    assert_eq!(rows, ["####", "----", "####", "##"]);
    assert_eq!(plan.data_bytes, 4 * PAGE);
    assert_eq!(plan.zero_bytes, 10 * PAGE);
    assert!(plan.gaps.is_empty());
}

#[test]
fn written_file_pages_are_saved_and_clean_ones_only_as_headers() {
    let world = world(&[
        (10, "r--p", "/lib/a.so", "fcc"),
        (20, "r-xp", "/lib/a.so", "ffc"),
        (30, "r--p", "/lib/a.so", "Rf"),
        (40, "rw-s", "/data", "RR"),
    ]);
    let (rows, plan) = drawn(&world, &wishes());
    // The text mapping's offset is 0 here as well, so its first page counts as a header.
    assert_eq!(rows, ["#--", "#--", "##", "--"]);
    assert_eq!(plan.unwanted_bytes, 6 * PAGE);
    let full = Wishes { contents: Contents::Full, ..wishes() };
    assert_eq!(drawn(&world, &full).0, ["###", "###", "##", "##"]);
}

#[test]
fn what_cannot_be_had_is_a_gap_and_a_guard_page_is_not() {
    let world = world(&[
        (10, "rw-p", "", "RGR"),
        (20, "rw-s", "/secretmem (deleted)", "XX"),
        (30, "rw-s", "/dev/zero (deleted)", "B?."),
    ]);
    let (rows, plan) = drawn(&world, &wishes());
    assert_eq!(rows, ["#-#", "--", "#-#"]);
    let gaps: Vec<_> = plan.gaps.iter().map(|gap| (gap.span, gap.cause)).collect();
    assert_eq!(gaps, [(span(20, 2), Cause::Secret), (span(31, 1), Cause::SharedUnknown)]);
    let all = Wishes { touch: Touch::All, ..wishes() };
    assert_eq!(drawn(&world, &all).0[2], "###");
}

#[test]
fn touch_decides_what_is_read() {
    let world = world(&[(10, "rw-p", "", "RSR"), (20, "rw-s", "/dev/zero (deleted)", "BR")]);
    let resident = Wishes { touch: Touch::Resident, ..wishes() };
    let (rows, plan) = drawn(&world, &resident);
    assert_eq!(rows, ["#-#", "-#"]);
    assert!(plan.gaps.is_empty(), "what was asked not to be touched is not missing");
}

#[test]
fn the_filter_of_the_target_counts() {
    let world =
        world(&[(10, "rw-p", "", "R"), (20, "rw-s", "/dev/zero (deleted)", "R"), (30, "r--s", "/d", "f")]);
    for (filter, rows) in [(0x33, ["#", "#", "-"]), (0, ["-", "-", "-"]), (0x9, ["#", "-", "#"])] {
        let wishes = Wishes { filter: Filter(filter), ..wishes() };
        assert_eq!(drawn(&world, &wishes).0, rows, "{filter:#x}");
    }
}

#[test]
fn a_page_that_went_between_map_and_states_is_a_gap() {
    let world = world(&[(10, "rw-p", "", "R R")]);
    let (rows, plan) = drawn(&world, &wishes());
    assert_eq!(rows, ["#-#"]);
    assert_eq!(plan.gaps.as_slice()[0].cause, Cause::Vanished);
}

#[test]
fn stacks_come_first_and_minimal_keeps_only_them() {
    let states = "R".repeat(600);
    let world = world(&[(1000, "rw-p", "", &states), (5000, "rw-p", "", &states)]);
    let wishes = Wishes { stack_pointers: vec![Address::new(1300 * PAGE)], ..wishes() };
    let (_, plan) = drawn(&world, &wishes);
    let stack: Vec<_> = plan.segments.iter().filter(|s| s.group == Group::Stack).map(|s| s.span).collect();
    // The red zone reaches into the page below; 256 KiB above the pointer are 64 pages.
    assert_eq!(stack, [span(1299, 65)]);
    assert_eq!(plan.saved_bytes(), 1200 * PAGE);
    let minimal = Wishes { contents: Contents::Minimal, ..wishes };
    assert_eq!(drawn(&world, &minimal).1.saved_bytes(), 65 * PAGE);
}

#[test]
fn minimal_keeps_what_debuggers_need_besides() {
    let states = "R".repeat(300);
    let world = world(&[(1000, "rw-p", "[heap]", &states), (2000, "rw-p", "", "RR")]);
    let wishes = Wishes {
        contents: Contents::Minimal,
        stack_pointers: vec![Address::new(1299 * PAGE + 200)],
        needed: vec![span(1010, 1), span(1298, 2), span(2001, 1)],
        ..wishes()
    };
    let (rows, _) = drawn(&world, &wishes);
    let expected = format!("{}#{}##", "-".repeat(10), "-".repeat(287));
    assert_eq!(rows, [expected.as_str(), "##"]);
}

#[test]
fn long_zeros_leave_the_file_where_that_is_asked_for() {
    let world = world(&[(10, "rw-p", "", "R....R.R")]);
    let split = Wishes { split_zeros: Some(3 * PAGE), ..wishes() };
    let (rows, plan) = drawn(&world, &split);
    assert_eq!(rows, ["#----###"]);
    assert_eq!(plan.zero_bytes, 5 * PAGE);
    assert!(plan.gaps.is_empty());
}

#[test]
fn selectors_choose_regions_and_permissions_survive() {
    let world = world(&[(10, "rw-p", "[heap]", "R"), (20, "r-xp", "", "R")]);
    let selection = Selection { only: vec!["heap".parse().unwrap()], skip: Vec::new() };
    let (rows, plan) = drawn(&world, &Wishes { selection, ..wishes() });
    assert_eq!(rows, ["#", "-"]);
    assert_eq!(plan.segments[1].permissions, Permissions::parse(b"r-xp").unwrap());
}

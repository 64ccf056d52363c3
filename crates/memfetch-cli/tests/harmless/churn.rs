//! A process that maps, touches and unmaps all the time, and what looking at it costs it. Printed, not asserted:
//! `cargo xtask bench churn` compares.

use super::*;

/// Rounds a second while `during` runs over and over.
fn rate(target: &mut Target, mut during: impl FnMut()) -> f64 {
    let count = |target: &mut Target| target.ask("count").parse::<u64>().unwrap();
    let (begun, before) = (Instant::now(), count(target));
    while begun.elapsed() < Duration::from_millis(1500) {
        during();
    }
    (count(target) - before) as f64 / begun.elapsed().as_secs_f64()
}

#[test]
fn rounds_a_second() {
    let _alone = alone();
    let mut target = Target::spawn("churn", &["256"]);
    let pid = target.pid();
    let alone = rate(&mut target, || std::thread::sleep(Duration::from_millis(100)));
    let mut snapshots = 0;
    let read = rate(&mut target, || {
        // It unmaps what was seen: gaps are no failure here.
        let taken = Runner::default().snap(pid, &["--mode", "live"]);
        assert!([0, 3].contains(&taken.code), "{}", taken.said);
        snapshots += 1;
    });
    println!("churn: {alone:.0} rounds/s alone, {read:.0} during {snapshots} snapshots in mode live");
    let Some(gcore) = peers::find("gcore", "a process that maps and unmaps, under gcore") else { return };
    let folder = open_folder();
    let under_gcore = rate(&mut target, || {
        let mut command = Command::new(&gcore);
        command.arg("-o").arg(folder.path().join("core")).arg(pid.to_string());
        let output = peers::run(&mut command, Duration::from_secs(120));
        assert!(output.status.success(), "{}", peers::text(&output));
    });
    println!("churn: {under_gcore:.0} rounds/s during gcore");
    assert!(target.is_alive());
}

//! Sentences for the report: what a stop could not hide, and what else its reader should know.

use crate::live::stop::StopReport;

/// What is to be said of a stop.
pub(super) fn of_stop(stop: &StopReport) -> Vec<String> {
    let mut remarks = Vec::new();
    let mut say = |count: usize, one: &str, many: &str| match count {
        0 => {}
        1 => remarks.push(format!("1 {one}")),
        _ => remarks.push(format!("{count} {many}")),
    };
    say(
        stop.shortened,
        "half-done transfer of the process returns short because of the stop",
        "half-done transfers of the process return short because of the stop",
    );
    say(
        stop.limits_restarted,
        "call of the process sleeps on with its time limit begun anew",
        "calls of the process sleep on with their time limits begun anew",
    );
    say(
        stop.interrupted,
        "call of the process returns EINTR because of the stop",
        "calls of the process return EINTR because of the stop",
    );
    say(
        stop.unsettled,
        "thread of the process had not come back into its call when the stop ended, and gets there by itself",
        "threads of the process had not come back into their calls when the stop ended, and get there by themselves",
    );
    if stop.already_stopped {
        remarks.push("job control had stopped the process before; it still is stopped".to_owned());
    }
    if !stop.sharers.is_empty() {
        remarks.push(format!("stopped too, since they share its memory: {}", listed(&stop.sharers)));
    }
    if !stop.loose_sharers.is_empty() {
        remarks.push(format!("share its memory and could not be stopped: {}", listed(&stop.loose_sharers)));
    }
    remarks
}

fn listed(pids: &[i32]) -> String {
    pids.iter().map(|pid| format!("process {pid}")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_happened_is_said() {
        assert_eq!(of_stop(&StopReport::default()), [""; 0]);
        let stop = StopReport {
            shortened: 1,
            interrupted: 2,
            unsettled: 1,
            sharers: vec![7, 8],
            ..StopReport::default()
        };
        assert_eq!(
            of_stop(&stop),
            [
                "1 half-done transfer of the process returns short because of the stop",
                "2 calls of the process return EINTR because of the stop",
                "1 thread of the process had not come back into its call when the stop ended, and gets there by \
                 itself",
                "stopped too, since they share its memory: process 7, process 8",
            ]
        );
    }
}

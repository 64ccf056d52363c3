//! [`Bar`]: progress on standard error, where that is a terminal.
//!
//! It draws when it is told something, and has no thread (no steady tick): while a snapshot runs, no thread may be there
//! that was begun before it and would take a signal that the main thread holds back.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A progress bar, or nothing.
#[derive(Debug)]
pub struct Bar(Option<ProgressBar>);

impl Bar {
    /// A bar with this label, if it is wanted and there is somebody to see it.
    #[must_use]
    pub fn new(wanted: bool, label: String) -> Self {
        Self::styled(wanted, label, "{msg} {wide_bar} {bytes} of {total_bytes}, {bytes_per_sec}")
    }

    fn styled(wanted: bool, label: String, template: &str) -> Self {
        if !wanted || !std::io::stderr().is_terminal() {
            return Self(None);
        }
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr_with_hz(10));
        Self(Some(bar.with_style(style).with_message(label)))
    }

    /// A count of bytes of which nobody knows how many there will be.
    #[must_use]
    pub fn counting(wanted: bool, label: String) -> Self {
        Self::styled(wanted, label, "{msg} {bytes}, {bytes_per_sec}")
    }

    /// Shows that so many bytes are done, of so many.
    pub fn update(&self, done: u64, total: u64) {
        if let Some(bar) = &self.0 {
            bar.set_length(total);
            bar.set_position(done);
        }
    }
}

impl Drop for Bar {
    /// The line is given back, however the work ended.
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

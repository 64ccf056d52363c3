//! [`Ending`]: how a command ended, and the exit code that says so.

use std::process::ExitCode;

/// How a command ended, the worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ending {
    /// Done.
    Done,
    /// Nothing found, or different.
    Different,
    /// Done, and something that was wanted is missing.
    Gaps,
    /// Not done.
    Error,
}

impl From<Ending> for ExitCode {
    fn from(ending: Ending) -> Self {
        Self::from(match ending {
            Ending::Done => 0,
            Ending::Different => 1,
            Ending::Error => 2,
            Ending::Gaps => 3,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_outweighs_gaps_and_gaps_a_difference() {
        let endings = [Ending::Done, Ending::Gaps, Ending::Error, Ending::Different];
        assert_eq!(endings.into_iter().max(), Some(Ending::Error));
        assert_eq!(Ending::Different.max(Ending::Gaps), Ending::Gaps);
    }
}

//! The exit codes of both programs: a table that scripts may rely on.

use std::process::ExitCode;

use crate::errln;

/// How a command ended.
///
/// | code | meaning |
/// |---|---|
/// | 0 | done, all is well |
/// | 1 | failed; the message says why and what to do |
/// | 2 | the command line was not understood |
/// | 3 | the configuration has faults; all are listed |
/// | 4 | degraded: done in enough regions, but not in all |
/// | 5 | below the quorum: done in fewer regions than required |
/// | 6 | damaged: pages or stored objects are not what they should be, or data is missing in a backup |
/// | 7 | the key does not fit |
/// | 8 | there is no such backup, or no such hold |
/// | 9 | the target cannot be used: not empty, too small, or not writable |
/// | 10 | the recovery target cannot be reached; the message says what can |
/// | 11 | busy: a backup of the cluster, or another daemon for it, is under way already |
/// | 12 | recovery has ended somewhere else than at its target; the server was stopped |
/// | 130 | stopped by SIGINT or SIGTERM |
/// | 141 | nobody read all of what was to be shown |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Ending {
    /// 0
    Done = 0,
    /// 1
    Failed = 1,
    /// 2
    BadCommandLine = 2,
    /// 3
    BadConfig = 3,
    /// 4
    Degraded = 4,
    /// 5
    BelowQuorum = 5,
    /// 6
    Damaged = 6,
    /// 7
    WrongKey = 7,
    /// 8
    NoSuchBackup = 8,
    /// 9
    BadTarget = 9,
    /// 10
    Unreachable = 10,
    /// 11
    Busy = 11,
    /// 12
    ShortOfTarget = 12,
    /// 130
    Stopped = 130,
    /// 141
    Unread = 141,
}

impl Ending {
    /// Every ending with its meaning, for the manual pages; `docs/COMMANDS.md` has the same.
    pub const MEANINGS: [(Self, &'static str); 15] = [
        (Self::Done, "done, all is well"),
        (Self::Failed, "failed; the message says why and what to do"),
        (Self::BadCommandLine, "the command line was not understood"),
        (Self::BadConfig, "the configuration has faults; all are listed"),
        (Self::Degraded, "degraded: done in enough regions, but not in all"),
        (Self::BelowQuorum, "below the quorum: done in fewer regions than required; it does not count"),
        (
            Self::Damaged,
            "damaged: pages of the database, or stored objects, are not what they should be, or data is missing in a backup",
        ),
        (Self::WrongKey, "the key does not fit, or none was given"),
        (Self::NoSuchBackup, "there is no such backup, or no such hold"),
        (Self::BadTarget, "the target cannot be used: not empty, too small, or not writable"),
        (Self::Unreachable, "the recovery target cannot be reached; the message says what can"),
        (
            Self::Busy,
            "busy: a backup of the cluster, or another daemon for it, is under way already; the message says which \
             process, and since when",
        ),
        (
            Self::ShortOfTarget,
            "recovery of a restored server has ended somewhere else than at its target; the server was stopped, and the \
             message says where it was",
        ),
        (Self::Stopped, "stopped by SIGINT or SIGTERM; nothing that looks like a backup is left behind"),
        (Self::Unread, "what was to be shown was not read to its end, as of a program that SIGPIPE ends"),
    ];
}

impl From<Ending> for ExitCode {
    fn from(ending: Ending) -> Self {
        Self::from(ending as u8)
    }
}

/// An error that decides the exit code, anywhere in the chain.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Exit {
    /// The code.
    pub ending: Ending,
    /// What to print.
    pub message: String,
}

impl Exit {
    /// An error with this ending.
    #[must_use]
    pub fn error(ending: Ending, message: impl Into<String>) -> anyhow::Error {
        anyhow::Error::new(Self { ending, message: message.into() })
    }
}

/// An error with all its causes, as it is printed.
#[must_use]
pub fn in_words(error: &anyhow::Error) -> String {
    let chain: Vec<String> = error.chain().map(ToString::to_string).collect();
    format!("error: {}", chain.join(": "))
}

/// The exit code that an error stands for.
#[must_use]
pub fn ending_of(error: &anyhow::Error) -> Ending {
    error.chain().find_map(|cause| cause.downcast_ref::<Exit>()).map_or(Ending::Failed, |exit| exit.ending)
}

/// Prints an error with all its causes and gives the exit code that it stands for.
#[must_use]
pub fn report(error: &anyhow::Error) -> ExitCode {
    errln!("{}", in_words(error));
    ending_of(error).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_has_the_same_codes_with_the_same_meanings() {
        let document = include_str!("../../docs/COMMANDS.md");
        for (ending, meaning) in Ending::MEANINGS {
            let row = format!("| {} | {meaning} |", ending as u8);
            assert!(document.contains(&row), "docs/COMMANDS.md lacks {row:?}");
        }
        let codes = document
            .lines()
            .skip_while(|line| *line != "## Exit codes")
            .skip(1)
            .take_while(|line| !line.starts_with("## "));
        let codes = codes.filter(|line| line.starts_with("| ") && !line.starts_with("| code")).count();
        assert_eq!(codes, Ending::MEANINGS.len(), "an exit code of the documentation has no meaning in the manual");
    }
}

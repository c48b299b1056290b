//! An error with everything that led to it, in one line.

/// The text of `error` and those of its causes, from the outermost to the first: `read the log: connection reset`.
#[must_use]
pub fn error_chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("connection reset")]
    struct Reset;

    #[derive(Debug, thiserror::Error)]
    #[error("list {prefix}")]
    struct List {
        prefix: &'static str,
        source: Reset,
    }

    #[derive(Debug, thiserror::Error)]
    #[error("read the log")]
    struct ReadLog(#[from] List);

    #[test]
    fn the_causes_follow_the_error_from_the_outermost_to_the_first() {
        assert_eq!(error_chain(&Reset), "connection reset");
        let error = ReadLog(List { prefix: "log/", source: Reset });
        assert_eq!(error_chain(&error), "read the log: list log/: connection reset");
    }
}

//! An error with everything that led to it, in one line.

/// The error's text and those of its causes, from the outermost to the first.
#[must_use]
pub fn causes(error: &dyn std::error::Error) -> String {
    let chain = std::iter::successors(Some(error), |error| error.source());
    chain.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

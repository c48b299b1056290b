//! Times that false backups claim.

/// When a false backup was made, as it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    Now,
    Ahead,
    LongAgo,
}

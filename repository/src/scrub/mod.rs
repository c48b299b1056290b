//! Everything stored is read back and verified, in turn.

pub(crate) mod damage;
pub(crate) mod round;
pub(crate) mod walk;

pub use self::damage::DamageReporter;
pub use self::round::ScrubState;
pub use self::walk::{ScrubWalk, Scrubbed};

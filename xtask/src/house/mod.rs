//! Rules of the source tree that no compiler knows: short files, small folders, no circles between modules, links that
//! lead somewhere.

pub(crate) mod circles;
pub(crate) mod links;
mod modules;
pub(crate) mod sizes;
mod source;
mod tree;

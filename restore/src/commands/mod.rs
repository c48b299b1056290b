//! The commands of `lifeboat-restore`, one file each.

pub mod keygen;
pub mod keys;
pub mod restore;
pub mod verify;
pub mod window;

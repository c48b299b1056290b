//! The commands of `lifeboat-restore`, one file each.

pub mod command_line;
pub mod keygen;
pub mod list;
pub mod restore;
pub mod verify;
pub mod window;

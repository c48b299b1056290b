//! WAL back out of the regions.

pub(crate) mod assembly;
pub(crate) mod keys;
pub(crate) mod reader;
pub(crate) mod source;

pub use self::keys::{WalOpeners, WalRegion};
pub use self::reader::{HistoryRead, WalHistories, WalListing, WalRead, WalReader};
pub use self::source::WalTrouble;

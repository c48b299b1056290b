//! What the logs of all regions say together.

pub(crate) mod agreement;
pub(crate) mod listing;

pub use self::agreement::{Authorship, Disagreement, LogReading, Observer, RememberedHeads, disagreements, remember};
pub use self::listing::{Catalog, CatalogRow, Finding, Presence, RegionAnswer, RegionView};

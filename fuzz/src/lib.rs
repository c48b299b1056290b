//! What several fuzz targets share: a key that everybody knows, and headers that belong to it.

use lifeboat_repository::format::header::{ObjectHeader, Trailer, WalPlace};
use lifeboat_repository::format::ids::{EpochId, ObjectId, ObjectKind, RepositoryId, Salt};
use lifeboat_repository::format::seal::EpochKey;
use lifeboat_repository::format::unseal::ExpectedObject;

/// The repository of all fuzzed objects.
pub const REPOSITORY: RepositoryId = RepositoryId::from_bytes([1; 16]);
/// The epoch of all fuzzed objects.
pub const EPOCH: EpochId = EpochId::from_bytes([2; 16]);

/// The key of all fuzzed objects.
#[must_use]
pub fn epoch_key() -> EpochKey {
    EpochKey::from_bytes([3; 32])
}

/// Any object of the kind.
#[must_use]
pub fn expected(kind: ObjectKind) -> ExpectedObject {
    ExpectedObject { kind, repository: REPOSITORY, epoch: EPOCH, object: None, place: None }
}

/// The header of an unsigned object.
#[must_use]
pub fn header(kind: ObjectKind) -> ObjectHeader {
    let (object, salt) = (ObjectId::from_bytes([4; 16]), Salt::from_bytes([5; 24]));
    let (trailer, place) = (Trailer::Absent, WalPlace::Nowhere);
    ObjectHeader { kind, trailer, repository: REPOSITORY, epoch: EPOCH, object, salt, place }
}

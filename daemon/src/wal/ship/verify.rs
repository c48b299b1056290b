//! Whether objects that a region lists are WAL of ours: their signatures, and what they say of the WAL in them.

use anyhow::Context;
use futures_util::{StreamExt, TryStreamExt};
use lifeboat_repository::format::WalMark;
use lifeboat_repository::log::{KeyStanding, RegionStore};
use lifeboat_repository::wal::{WalObject, WalTrust, stored_bytes_max};
use lifeboat_stores::{ByteRange, StoreError};
use lifeboat_vocabulary::{ByteCount, error_chain};

/// Objects that are read at the same time; each has at most some 18 MiB.
const PARALLEL: usize = 4;
/// Objects that are named in the log, at the most.
const TOLD: usize = 20;

/// An object whose signature fits its name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SignedObject {
    pub(crate) object: WalObject,
    pub(crate) mark: Option<WalMark>,
}

/// What became of one object.
#[derive(Debug)]
pub(crate) enum Verified {
    Signed(Option<WalMark>),
    /// By a key that was revoked since: nobody knows whether its owner has signed it, or whoever stole the key.
    Revoked,
    /// It is not there any more.
    Gone,
    /// None of our keys signed it for this place, or it was changed.
    Refused(String),
}

/// Reads an object and verifies that one of our keys signed it for its place.
///
/// # Errors
/// Whatever the store says: nothing is known then.
pub(crate) async fn verify(region: &RegionStore, trust: &WalTrust, object: WalObject) -> Result<Verified, StoreError> {
    let name = object.name();
    let bound = ByteRange::WholeUpTo(ByteCount::from_bytes(stored_bytes_max(&name)));
    let bytes = match region.store.get(&object.key(), bound).await {
        Ok(bytes) => bytes,
        Err(StoreError::NotFound { .. }) => return Ok(Verified::Gone),
        // Larger than any object of this name.
        Err(error @ StoreError::Unsupported { .. }) => return Ok(Verified::Refused(error_chain(&error))),
        // The role may not read: nothing can be said for it.
        Err(error @ StoreError::Misconfigured { .. }) => return Ok(Verified::Refused(error_chain(&error))),
        Err(error) => return Err(error),
    };
    Ok(match trust.check_sealed(&name, &bytes) {
        Ok(signed) => match signed.standing {
            KeyStanding::InForce => Verified::Signed(signed.mark),
            KeyStanding::Revoked => Verified::Revoked,
        },
        Err(error) => Verified::Refused(error_chain(&error)),
    })
}

/// What became of the objects that a region lists.
#[derive(Debug, Default)]
pub(crate) struct Signed {
    /// Those that are signed for their places.
    pub(crate) objects: Vec<SignedObject>,
    /// The names of all others: they are taken.
    pub(crate) taken: Vec<WalObject>,
    /// What is wrong with the first that nobody of ours has signed.
    pub(crate) unverified: Option<String>,
}

/// Verifies which of the objects are signed for their places. Those that are not are reported, and count for nothing. Those of
/// revoked keys count for nothing either, and are nothing to report: a restore reads them.
///
/// # Errors
/// If the region does not give one of them.
pub(crate) async fn signed(region: &RegionStore, trust: &WalTrust, objects: Vec<WalObject>) -> anyhow::Result<Signed> {
    let verified = futures_util::stream::iter(objects).map(|object| async move {
        let verified = verify(region, trust, object).await;
        let verified = verified.with_context(|| format!("read {}, to verify who signed it", object.key()))?;
        anyhow::Ok((object, verified))
    });
    let mut verified = verified.buffered(PARALLEL);
    let (mut signed, mut refused) = (Signed::default(), 0_usize);
    while let Some((object, outcome)) = verified.try_next().await? {
        match outcome {
            Verified::Signed(mark) => signed.objects.push(SignedObject { object, mark }),
            Verified::Gone => {}
            Verified::Revoked => signed.taken.push(object),
            Verified::Refused(why) => {
                refused += 1;
                signed.taken.push(object);
                signed.unverified.get_or_insert_with(|| format!("{}: {why}", object.key()));
                if refused <= TOLD {
                    tracing::warn!(region = %region.name, key = %object.key(), why, "an object below wal/ or slices/ is not ours and counts for nothing");
                }
            }
        }
    }
    if refused > TOLD {
        tracing::warn!(region = %region.name, refused, "objects below wal/ and slices/ are not ours and count for nothing");
    }
    Ok(signed)
}

//! One object into one region, and what to think if there is one already.

use std::time::Duration;

use bytes::Bytes;
use lifeboat_repository::format::WalMark;
use lifeboat_repository::format::header::ObjectHeader;
use lifeboat_repository::format::layout::{self, StoredName};
use lifeboat_repository::log::{KeyStanding, RegionStore};
use lifeboat_repository::wal::{WalTrust, stored_bytes_max};
use lifeboat_stores::{ByteRange, PutMode, SealedBody, StoreError};
use lifeboat_vocabulary::{ByteCount, error_chain};

/// How often an object that differs is read again.
const LOOKS: u32 = 3;
/// No descriptor is larger, in **bytes**.
const DESCRIPTOR_MAX: u64 = 1 << 20;
const BETWEEN_LOOKS: Duration = Duration::from_millis(300);

/// How one put ended.
#[derive(Debug)]
pub(crate) enum Put {
    /// The object is there: ours, or that of an earlier run.
    Stored,
    /// Another writer's object is there, signed by one of our keys.
    Conflict(String),
    /// Something is there that none of our keys signed: the name is taken, and what it should hold is not stored.
    Planted { what: String, body: SealedBody },
    /// To be tried again.
    Failed(StoreError),
    /// The spool cannot give it any more.
    Unreadable(StoreError),
    /// Nobody could read it there: the key that it is sealed under is not on record.
    WithoutKey,
}

/// Puts an object at its name. By `trust` it is decided whose object is there already, if one is.
pub(crate) async fn put(region: &RegionStore, name: &StoredName, body: SealedBody, trust: &WalTrust) -> Put {
    match region.store.put(&name.key(), body.clone(), PutMode::CreateOnly).await {
        Ok(_) => Put::Stored,
        // Or the answer to our own first request was lost.
        Err(StoreError::Conflict { .. }) => look(region, name, body, trust).await,
        Err(error) => Put::Failed(error),
    }
}

/// Decides whose object it is. Nothing is ever overwritten, so this only decides whether to go on. A name is nobody's:
/// only what one of our keys signed for it counts.
async fn look(region: &RegionStore, name: &StoredName, body: SealedBody, trust: &WalTrust) -> Put {
    let key = name.key();
    let found = match read(region, name).await {
        Ok(Some(found)) if found == body.bytes => return Put::Stored,
        Ok(Some(found)) => match look_again(region, name, &body, found).await {
            Ok(found) => found,
            Err(put) => return put,
        },
        Ok(None) => return Put::Planted { what: format!("{key} is larger than any object of its name"), body },
        Err(StoreError::Misconfigured { .. }) => match refused(region, name).await {
            Ok(why) => return Put::Planted { what: format!("{key} cannot be read: {why}"), body },
            Err(error) => return Put::Failed(error),
        },
        Err(error) => return Put::Failed(error),
    };
    let theirs = match trust.check_sealed(name, &found) {
        Ok(theirs) => theirs,
        Err(error) => {
            let what = format!("{key} was not signed by this repository's keys: {}", error_chain(&error));
            return Put::Planted { what, body };
        }
    };
    if theirs.standing == KeyStanding::Revoked {
        // What it says of its content may be a lie. A restore that cannot use it finds ours under another name.
        let what = format!("{key} was signed by a key that was revoked");
        return Put::Planted { what, body };
    }
    let content_of = |mark: Option<WalMark>| mark.map(|mark| mark.content_crc);
    let ours = trust.check_sealed(name, &body.bytes).ok().and_then(|signed| content_of(signed.mark));
    if theirs.mark.is_none() && matches!(name, StoredName::TimelineHistory { .. }) {
        // Signed for this place by a key of ours, and this host has seen no other history of the timeline.
        tracing::warn!(region = %region.name, %key, "the history that is there does not say what it holds; it counts as ours");
        return Put::Stored;
    }
    // What does not tell what it holds may hold anything.
    if ours.is_none() || content_of(theirs.mark) != ours {
        return Put::Conflict(format!("{key} holds something else, which another writer has signed"));
    }
    // The same, sealed by the run before, by another daemon of the same server, or brought there by healing.
    tracing::info!(region = %region.name, %key, "the object is there already, with the same content");
    Put::Stored
}

/// What is there; `None` if it is larger than anything of that name.
async fn read(region: &RegionStore, name: &StoredName) -> Result<Option<Bytes>, StoreError> {
    let bound = ByteRange::WholeUpTo(ByteCount::from_bytes(stored_bytes_max(name)));
    match region.store.get(&name.key(), bound).await {
        Ok(found) => Ok(Some(found)),
        Err(StoreError::Unsupported { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// An object of another class, or under a key of somebody else's, keeps us from reading it, and no waiting would change that. Returns what
/// the store says each time.
///
/// # Errors
/// If it says something else in between: then it was no refusal of this object.
async fn refused(region: &RegionStore, name: &StoredName) -> Result<String, StoreError> {
    let mut why = String::new();
    for _ in 0..LOOKS {
        tokio::time::sleep(BETWEEN_LOOKS).await;
        match read(region, name).await {
            Err(error @ StoreError::Misconfigured { .. }) => why = error_chain(&error),
            Err(error) => return Err(error),
            Ok(_) => {
                let doing = format!("read {} in {}", name.key(), region.store);
                return Err(StoreError::Transient { doing, source: "it was refused before".into() });
            }
        }
    }
    // Where nothing can be read, it is not for what this object is.
    let descriptor = ByteRange::WholeUpTo(ByteCount::from_bytes(DESCRIPTOR_MAX));
    region.store.get(&layout::descriptor(), descriptor).await.map(|_| why)
}

/// An object that differs is read some more times: what stops a region for good must not be a bit that flipped on the way,
/// or an error that came with status 200.
async fn look_again(region: &RegionStore, name: &StoredName, body: &SealedBody, first: Bytes) -> Result<Bytes, Put> {
    let unclear = |what: &'static str| {
        let doing = format!("compare {} in {} with what was sent", name.key(), region.store);
        Err(Put::Failed(StoreError::Transient { doing, source: what.into() }))
    };
    for _ in 0..LOOKS {
        tokio::time::sleep(BETWEEN_LOOKS).await;
        match read(region, name).await {
            Ok(Some(again)) if again == body.bytes => return Err(Put::Stored),
            Ok(Some(again)) if again == first => {}
            Ok(_) => return unclear("it reads differently each time"),
            Err(error) => return Err(Put::Failed(error)),
        }
    }
    match (ObjectHeader::parse(&first), ObjectHeader::parse(&body.bytes)) {
        (Ok(theirs), Ok(ours)) if theirs.object == ours.object => {
            unclear("it is ours and does not read as it was sent")
        }
        _ => Ok(first),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use lifeboat_repository::format::aead::sha256;
    use lifeboat_repository::format::ids::RepositoryId;
    use lifeboat_repository::format::layout::{WalForm, WalRange};
    use lifeboat_repository::keys::{Identity, KeyRecipients, SigningKey};
    use lifeboat_repository::log::NoteSigner;
    use lifeboat_repository::wal::{PlainWal, WalEpoch, WalLevels, WalSealer};
    use lifeboat_stores::{MemoryStore, Store};
    use lifeboat_vocabulary::{Clock, Lsn, SystemClock, TimelineId};

    /// The same key seals WAL in two runs.
    #[tokio::test(start_paused = true)]
    async fn an_object_that_is_there_counts_by_its_signature_and_its_content() {
        let repository = RepositoryId::random().unwrap();
        let signer = || {
            let key = SigningKey::generate().unwrap();
            Arc::new(NoteSigner::new("lifeboat.test".parse().unwrap(), key))
        };
        let (ours, stranger) = (signer(), signer());
        let recipients = [Identity::generate().unwrap().recipient()];
        let recipients = KeyRecipients { recipients: &recipients, commands: &[] };
        let epoch = WalEpoch::new(repository, SystemClock.now(), recipients).await.unwrap();
        let lsn = |at| Lsn::from_bytes(at).unwrap();
        let range = WalRange { timeline: TimelineId::new(1).unwrap(), start: lsn(100), end: lsn(104) };
        let sealed = |signer: &Arc<NoteSigner>, bytes: &[u8]| {
            let mut sealer = WalSealer::new(repository, Arc::clone(signer), WalLevels::default()).unwrap();
            sealer.seal_checked(&epoch, WalForm::Slice, PlainWal { range, bytes, last_record: None }).unwrap()
        };
        let history = |signer: &Arc<NoteSigner>, content: &[u8]| {
            let mut sealer = WalSealer::new(repository, Arc::clone(signer), WalLevels::default()).unwrap();
            sealer.seal_history(&epoch, range.timeline, content).unwrap()
        };
        let trust = WalTrust::new(repository, &[ours.verify_key()]);
        let junk = SealedBody { bytes: Bytes::from_static(b"planted"), sha256: sha256(b"planted") };
        for (why, there, sent, expected) in [
            ("an earlier run's", sealed(&ours, b"same").body, sealed(&ours, b"same"), "stored"),
            ("other WAL", sealed(&ours, b"else").body, sealed(&ours, b"same"), "conflict"),
            ("a stranger's", sealed(&stranger, b"same").body, sealed(&ours, b"same"), "planted"),
            ("junk", junk, sealed(&ours, b"same"), "planted"),
            ("a history that was sealed before", history(&ours, b"1\t0/10").body, history(&ours, b"1\t0/10"), "stored"),
            ("another history", history(&ours, b"1\t0/20").body, history(&ours, b"1\t0/10"), "conflict"),
            ("a stranger's history", history(&stranger, b"1\t0/10").body, history(&ours, b"1\t0/10"), "planted"),
        ] {
            let name = sent.name;
            let store = Arc::new(MemoryStore::default());
            store.put(&name.key(), there, PutMode::CreateOnly).await.unwrap();
            let region = RegionStore { name: "r".parse().unwrap(), store };
            let found = match put(&region, &name, sent.body, &trust).await {
                Put::Stored => "stored",
                Put::Conflict(_) => "conflict",
                Put::Planted { .. } => "planted",
                other => panic!("{why}: {other:?}"),
            };
            assert_eq!(found, expected, "{why}");
        }
    }
}

//! One body to many regions at once, and what the outcomes amount to.

use std::sync::Arc;

use futures_util::future::join_all;
use lifeboat_vocabulary::RegionName;

use crate::error::StoreError;
use crate::key::ObjectKey;
use crate::store::{PutMode, PutOutcome, SealedBody, Store};

/// A region's answer.
pub type RegionResult = (RegionName, Result<PutOutcome, StoreError>);

/// Writes one body to all stores at once, from the same buffer, and waits for the last answer; the order is kept.
/// Whoever must not wait for a slow region gives each store a queue of its own instead.
pub async fn put_everywhere(
    stores: &[(RegionName, Arc<dyn Store>)],
    key: &ObjectKey,
    body: &SealedBody,
    mode: &PutMode,
) -> Vec<RegionResult> {
    let puts = stores.iter().map(async |(region, store)| {
        let result = store.put(key, body.clone(), mode.clone()).await;
        (region.clone(), result)
    });
    join_all(puts).await
}

/// What it means that some of all regions hold an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every region holds it.
    Ok,
    /// The quorum holds it, but not every region: it counts, and the others are to be healed.
    Degraded,
    /// Fewer than the quorum hold it: it must not count.
    Failed,
}

/// The quorum rule. A quorum of 0 is taken for 1, and one that is larger than the number of regions cannot be met:
/// nothing that no region holds ever counts.
#[must_use]
pub fn verdict(total: usize, succeeded: usize, quorum: usize) -> Verdict {
    if succeeded < quorum.max(1) {
        Verdict::Failed
    } else if succeeded < total {
        Verdict::Degraded
    } else {
        Verdict::Ok
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::body;
    use crate::memory::MemoryStore;
    use crate::wrappers::faults::{Fault, Rule, WithFaults};

    #[test]
    fn an_object_in_fewer_regions_than_the_quorum_does_not_count() {
        for (total, succeeded, quorum, expected) in [
            (0, 0, 0, Verdict::Failed),
            (2, 0, 0, Verdict::Failed),
            (1, 0, 1, Verdict::Failed),
            (2, 1, 2, Verdict::Failed),
            (2, 2, 3, Verdict::Failed),
            (3, 1, 1, Verdict::Degraded),
            (3, 2, 2, Verdict::Degraded),
            (1, 1, 1, Verdict::Ok),
            (1, 1, 0, Verdict::Ok),
            (3, 3, 2, Verdict::Ok),
        ] {
            assert_eq!(verdict(total, succeeded, quorum), expected, "{succeeded} of {total}, quorum {quorum}");
        }
    }

    #[tokio::test]
    async fn a_region_that_fails_does_not_stop_the_others() {
        let (good, bad) = (Arc::new(MemoryStore::new()), WithFaults::new(Arc::new(MemoryStore::new())));
        bad.add(Rule::always(Fault::Full));
        let names: [RegionName; 2] = ["bad".parse().unwrap(), "good".parse().unwrap()];
        let stores: Vec<(RegionName, Arc<dyn Store>)> =
            vec![(names[0].clone(), Arc::new(bad)), (names[1].clone(), good.clone())];
        let key = "data/a".parse().unwrap();
        let results = put_everywhere(&stores, &key, &body("x"), &PutMode::CreateOnly).await;
        assert_eq!(results.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>(), names);
        assert!(matches!(results[0].1, Err(StoreError::Full { .. })));
        assert!(results[1].1.is_ok() && good.head(&key).await.is_ok());
    }

    #[tokio::test]
    async fn all_regions_share_one_buffer_and_are_written_at_the_same_time() {
        let slow = || {
            let store = WithFaults::new(Arc::new(MemoryStore::new()));
            store.add(Rule::always(Fault::Slow(std::time::Duration::from_secs(1))));
            Arc::new(store) as Arc<dyn Store>
        };
        let stores: Vec<_> = ["a", "b", "c"].iter().map(|name| (name.parse().unwrap(), slow())).collect();
        tokio::time::pause();
        let (start, sent) = (tokio::time::Instant::now(), body("x"));
        let key = "k".parse().unwrap();
        put_everywhere(&stores, &key, &sent, &PutMode::CreateOnly).await;
        assert_eq!(start.elapsed().as_secs(), 1);
        for (_, store) in &stores {
            let range = crate::store::ByteRange::WholeUpTo(crate::store::OBJECT_BYTES_MAX);
            let read = store.get(&key, range).await.unwrap();
            assert_eq!(read.as_ptr(), sent.bytes.as_ptr());
        }
    }
}

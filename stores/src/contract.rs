//! Every sentence of the contract of [`Store`], as functions that any store can be put through.
//!
//! The functions write below a folder of their own and leave it behind; run them on stores made for tests.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream;
use lifeboat_vocabulary::ByteCount;

use crate::error::StoreError;
use crate::key::ObjectKey;
use crate::sha256;
use crate::store::OBJECT_BYTES_MAX;
use crate::store::{ByteRange, Entry, ObjectVersion, PutMode, PutOutcome, SealedBody, Store, Support};

/// A sentence of the contract that a store does not keep.
#[derive(Debug, thiserror::Error)]
#[error("{rule}: {found}")]
pub struct Breach {
    /// The sentence.
    pub rule: &'static str,
    /// What the store did instead.
    pub found: String,
}

/// Where the functions write, and in what.
#[derive(Clone, Debug)]
pub struct Area {
    store: Arc<dyn Store>,
    folder: String,
}

const ALL: ByteRange = ByteRange::WholeUpTo(OBJECT_BYTES_MAX);
const WRITERS: usize = 32;

/// Runs all functions of this module on `store`, which must claim to have exact conditions.
///
/// # Errors
/// The first sentence that does not hold.
pub async fn run(store: Arc<dyn Store>) -> Result<(), Breach> {
    run_with(store, Support::Yes).await
}

/// Runs all functions of this module on `store`. With [`Support::No`], races between writers and bodies that do not
/// match their digest are left out: some servers are not made for them.
///
/// # Errors
/// The first sentence that does not hold.
pub async fn run_with(store: Arc<dyn Store>, exact: Support) -> Result<(), Breach> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(|error| breach("chance is available", &error))?;
    let area = Area { store, folder: format!("contract/{:016x}", u64::from_le_bytes(random)) };
    missing_objects_are_an_answer(&area).await?;
    what_was_written_is_seen_at_once(&area).await?;
    a_key_is_created_once(&area).await?;
    a_version_is_replaced_once(&area).await?;
    bodies_of_any_allowed_size_arrive_whole(&area).await?;
    ranges_give_what_they_name(&area).await?;
    deleting_is_repeatable(&area).await?;
    prefixes_are_any_text(&area).await?;
    listings_have_no_limit(&area).await?;
    a_cancelled_write_leaves_all_or_nothing(&area).await?;
    if exact == Support::Yes {
        of_many_creators_one_succeeds(&area).await?;
        of_many_replacers_one_succeeds(&area).await?;
        a_body_that_does_not_match_is_never_published(&area).await?;
    }
    Ok(())
}

fn breach(rule: &'static str, found: &dyn std::fmt::Display) -> Breach {
    Breach { rule, found: found.to_string() }
}

fn hold(rule: &'static str, holds: Hold) -> Result<(), Breach> {
    match holds {
        Hold::Yes => Ok(()),
        Hold::No(found) => Err(Breach { rule, found }),
    }
}

enum Hold {
    Yes,
    No(String),
}

fn equal<T: PartialEq + std::fmt::Debug>(found: &T, expected: &T) -> Hold {
    if found == expected { Hold::Yes } else { Hold::No(format!("{found:?} instead of {expected:?}")) }
}

fn refused<T: std::fmt::Debug>(found: Result<T, StoreError>, expected: fn(&StoreError) -> bool) -> Hold {
    match found {
        Err(error) if expected(&error) => Hold::Yes,
        other => Hold::No(format!("{other:?}")),
    }
}

fn is_missing(error: &StoreError) -> bool {
    matches!(error, StoreError::NotFound { .. })
}

fn is_conflict(error: &StoreError) -> bool {
    matches!(error, StoreError::Conflict { .. })
}

fn is_unsupported(error: &StoreError) -> bool {
    matches!(error, StoreError::Unsupported { .. })
}

/// A body with its true digest.
#[must_use]
pub fn body(bytes: impl Into<Bytes>) -> SealedBody {
    let bytes = bytes.into();
    SealedBody { sha256: sha256::digest(&bytes), bytes }
}

impl Area {
    fn key(&self, name: &str) -> Result<ObjectKey, Breach> {
        format!("{}/{name}", self.folder).parse().map_err(|error| breach("the test's own keys are valid", &error))
    }

    async fn create(&self, name: &str, content: impl Into<Bytes>) -> Result<PutOutcome, Breach> {
        let written = self.store.put(&self.key(name)?, body(content), PutMode::CreateOnly).await;
        written.map_err(|error| breach("a new key can be created", &format!("{name}: {error:?}")))
    }

    async fn read(&self, name: &str) -> Result<Bytes, Breach> {
        let read = self.store.get(&self.key(name)?, ALL).await;
        read.map_err(|error| breach("what was written can be read", &format!("{name}: {error:?}")))
    }

    async fn list(&self, prefix: &str, after: Option<&ObjectKey>) -> Result<(Vec<Entry>, usize), Breach> {
        let (mut entries, mut after, mut pages) = (Vec::new(), after.cloned(), 0);
        loop {
            let page = self.store.list(prefix, after.as_ref()).await;
            let page = page.map_err(|error| breach("keys can be listed", &format!("{error:?}")))?;
            pages += 1;
            entries.extend(page.entries);
            if !page.more {
                return Ok((entries, pages));
            }
            after = entries.last().map(|entry: &Entry| entry.key.clone());
        }
    }

    async fn names(&self, prefix: &str, after: Option<&ObjectKey>) -> Result<Vec<String>, Breach> {
        let (entries, _) = self.list(&format!("{}/{prefix}", self.folder), after).await?;
        let own = format!("{}/", self.folder);
        Ok(entries.iter().map(|entry| entry.key.as_str().trim_start_matches(&own).to_owned()).collect())
    }
}

/// `get`, `head` and `IfUnchanged` of a missing key; `delete` of one; a listing of nothing.
pub async fn missing_objects_are_an_answer(area: &Area) -> Result<(), Breach> {
    let key = area.key("missing/a")?;
    hold("get of a missing key is NotFound", refused(area.store.get(&key, ALL).await, is_missing))?;
    let part = ByteRange::Part { start: 0, length: 1 };
    hold("a range of a missing key is NotFound", refused(area.store.get(&key, part).await, is_missing))?;
    hold("head of a missing key is NotFound", refused(area.store.head(&key).await, is_missing))?;
    let mode = PutMode::IfUnchanged(ObjectVersion("\"d41d8cd98f00b204e9800998ecf8427e\"".to_owned()));
    let put = area.store.put(&key, body("x"), mode).await;
    hold("a missing object cannot be replaced", refused(put, is_conflict))?;
    hold(
        "delete of a missing key is Ok",
        equal(&format!("{:?}", area.store.delete(&key).await), &"Ok(())".to_owned()),
    )?;
    hold("nothing is listed where nothing is", equal(&area.names("missing", None).await?, &vec![]))
}

/// After `Ok`, `get`, `head` and `list` see the object, and agree on size and version.
pub async fn what_was_written_is_seen_at_once(area: &Area) -> Result<(), Breach> {
    for name in ["seen/a", "seen/UPPER.lower_9-0", "seen/deep/er/still/x"] {
        let outcome = area.create(name, format!("content of {name}")).await?;
        hold("get sees the object", equal(&area.read(name).await?, &Bytes::from(format!("content of {name}"))))?;
        let key = area.key(name)?;
        let meta =
            area.store.head(&key).await.map_err(|error| breach("head sees the object", &format!("{error:?}")))?;
        hold("head gives the version that put gave", equal(&meta.version, &outcome.version))?;
        hold("head gives the size", equal(&meta.size.as_bytes(), &("content of ".len() as u64 + name.len() as u64)))?;
        let (entries, _) = area.list(key.as_str(), None).await?;
        hold("list sees the object once", equal(&entries.len(), &1))?;
        let listed = entries.into_iter().next().map(|entry| (entry.key, entry.meta.size, entry.meta.version));
        hold("list agrees with head", equal(&listed, &Some((key, meta.size, meta.version))))?;
    }
    Ok(())
}

/// `CreateOnly` on an existing key is `Conflict` and changes nothing; after `delete` the key is free again.
pub async fn a_key_is_created_once(area: &Area) -> Result<(), Breach> {
    area.create("once", "first").await?;
    let key = area.key("once")?;
    for content in ["second", "first"] {
        let put = area.store.put(&key, body(content), PutMode::CreateOnly).await;
        hold("a taken key is not created again", refused(put, is_conflict))?;
    }
    hold("a refused write changes nothing", equal(&area.read("once").await?, &Bytes::from("first")))?;
    area.store.delete(&key).await.map_err(|error| breach("an object can be deleted", &error))?;
    area.create("once", "third").await?;
    hold("a deleted key can be created", equal(&area.read("once").await?, &Bytes::from("third")))
}

/// `IfUnchanged` replaces exactly the version that it names.
pub async fn a_version_is_replaced_once(area: &Area) -> Result<(), Breach> {
    let first = area.create("lease", "0").await?.version;
    let key = area.key("lease")?;
    let mut current = first.clone();
    for content in ["1", "22", "1"] {
        let put = area.store.put(&key, body(content), PutMode::IfUnchanged(current.clone())).await;
        let next = put.map_err(|error| breach("the current version can be replaced", &format!("{error:?}")))?.version;
        hold("the replacement is what is read", equal(&area.read("lease").await?, &Bytes::from(content)))?;
        let stale = area.store.put(&key, body("stale"), PutMode::IfUnchanged(current)).await;
        hold("a version that was replaced is gone", refused(stale, is_conflict))?;
        current = next;
    }
    let stale = area.store.put(&key, body("stale"), PutMode::IfUnchanged(first)).await;
    hold("the first version is gone", refused(stale, is_conflict))?;
    hold("refused replacements change nothing", equal(&area.read("lease").await?, &Bytes::from("1")))
}

/// Empty and large bodies arrive whole; larger ones than allowed are refused.
pub async fn bodies_of_any_allowed_size_arrive_whole(area: &Area) -> Result<(), Breach> {
    for (name, size) in [("size/empty", 0), ("size/one", 1), ("size/large", 9 << 20)] {
        let content: Bytes = (0..size).map(|i: u32| i.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
        area.create(name, content.clone()).await?;
        hold("the body arrives whole", equal(&sha256::digest(&area.read(name).await?), &sha256::digest(&content)))?;
    }
    let too_much = usize::try_from(OBJECT_BYTES_MAX.as_bytes() + 1).map_err(|error| breach("sizes fit", &error))?;
    let key = area.key("size/too-much")?;
    let put = area.store.put(&key, body(vec![0; too_much]), PutMode::CreateOnly).await;
    hold("a body beyond the limit is refused", refused(put, is_unsupported))?;
    hold("a refused body leaves no object", refused(area.store.head(&key).await, is_missing))
}

/// Whole objects up to a bound, parts, parts that reach past the end, and what makes no sense.
pub async fn ranges_give_what_they_name(area: &Area) -> Result<(), Breach> {
    area.create("range/ten", "0123456789").await?;
    area.create("range/none", "").await?;
    let ten = area.key("range/ten")?;
    let whole = |bound| ByteRange::WholeUpTo(ByteCount::from_bytes(bound));
    let part = |start, length| ByteRange::Part { start, length };
    for (range, expected) in [
        (whole(10), "0123456789"),
        (whole(1 << 40), "0123456789"),
        (part(0, 10), "0123456789"),
        (part(0, 1), "0"),
        (part(3, 4), "3456"),
        (part(9, 1), "9"),
        (part(8, 100), "89"),
        (part(0, 1 << 20), "0123456789"),
    ] {
        let read = area.store.get(&ten, range).await;
        let read =
            read.map_err(|error| breach("a range of the object can be read", &format!("{range:?}: {error:?}")))?;
        hold("a range gives what it names", equal(&read, &Bytes::from(expected)))?;
    }
    for range in [whole(9), whole(0), part(10, 1), part(11, 5), part(1 << 40, 1)] {
        let read = area.store.get(&ten, range).await;
        hold("a bound below the size, and a start at the end, are refused", refused(read, is_unsupported))?;
    }
    let none = area.key("range/none")?;
    let read = area.store.get(&none, whole(0)).await;
    hold("an empty object is read as nothing", equal(&format!("{read:?}"), &"Ok(b\"\")".to_owned()))?;
    hold("an empty object has no parts", refused(area.store.get(&none, part(0, 1)).await, is_unsupported))
}

/// `delete` removes the object for every reader, and may be repeated.
pub async fn deleting_is_repeatable(area: &Area) -> Result<(), Breach> {
    area.create("delete/a", "1").await?;
    area.create("delete/a.b", "2").await?;
    let key = area.key("delete/a")?;
    for _ in 0..2 {
        area.store.delete(&key).await.map_err(|error| breach("delete may be repeated", &format!("{error:?}")))?;
        hold("a deleted object cannot be read", refused(area.store.get(&key, ALL).await, is_missing))?;
        hold("its neighbour stays", equal(&area.names("delete/", None).await?, &vec!["delete/a.b".to_owned()]))?;
    }
    Ok(())
}

/// A prefix may end in the middle of a part; `after` need not exist; the order is that of bytes.
pub async fn prefixes_are_any_text(area: &Area) -> Result<(), Breach> {
    let sorted = ["list/a-b/x", "list/a.b", "list/a/b", "list/a/c/d", "list/a0", "list/aa", "list/b"];
    for name in sorted.iter().rev() {
        area.create(name, *name).await?;
    }
    for (prefix, after, expected) in [
        ("list/", None, &sorted[..]),
        ("list", None, &sorted[..]),
        ("li", None, &sorted[..]),
        ("list/a", None, &sorted[..6]),
        ("list/a/", None, &sorted[2..4]),
        ("list/a-", None, &sorted[..1]),
        ("list/a/c/d", None, &sorted[3..4]),
        ("list/a/c/d/", None, &[]),
        ("list/c", None, &[]),
        ("list/", Some("list/a/b"), &sorted[3..]),
        ("list/", Some("list/a/bb"), &sorted[3..]),
        ("list/", Some("list/a"), &sorted[..]),
        ("list/a/", Some("list/a0"), &[]),
        ("list/a/", Some("list/0"), &sorted[2..4]),
        ("list/", Some("list/b"), &[]),
    ] {
        let after = after.map(|after| area.key(after)).transpose()?;
        let names = area.names(prefix, after.as_ref()).await?;
        let expected: Vec<String> = expected.iter().map(|name| (*name).to_owned()).collect();
        let found =
            if names == expected { Hold::Yes } else { Hold::No(format!("{prefix} after {after:?}: {names:?}")) };
        hold("list gives the keys with the prefix after the given one, in byte order", found)?;
    }
    Ok(())
}

/// More keys than any page holds: each is listed exactly once, in order.
pub async fn listings_have_no_limit(area: &Area) -> Result<(), Breach> {
    const KEYS: usize = 1234;
    let writes = (0..KEYS).map(|number| area.create_owned(format!("many/{number:05}/x"), "x"));
    let mut writes = stream::iter(writes).buffer_unordered(16);
    while let Some(written) = writes.next().await {
        written?;
    }
    let (entries, pages) = area.list(&format!("{}/many/", area.folder), None).await?;
    let numbers: Vec<String> = (0..KEYS).map(|number| format!("{}/many/{number:05}/x", area.folder)).collect();
    let found: Vec<String> = entries.iter().map(|entry| entry.key.to_string()).collect();
    hold("every key is listed once, in order", equal(&found.len(), &numbers.len()))?;
    hold("every key is listed once, in order", if found == numbers { Hold::Yes } else { Hold::No("others".into()) })?;
    hold("a page holds about a thousand keys at the most", equal(&(pages > 1), &true))
}

/// A dropped `put` may have happened, but never in part.
pub async fn a_cancelled_write_leaves_all_or_nothing(area: &Area) -> Result<(), Breach> {
    let content = Bytes::from(vec![7; 4 << 20]);
    for wait in [0, 1, 2, 4, 8] {
        let name = format!("cancelled/{wait}");
        let key = area.key(&name)?;
        let put = area.store.put(&key, body(content.clone()), PutMode::CreateOnly);
        let finished = tokio::time::timeout(Duration::from_millis(wait), put).await.is_ok();
        match area.store.get(&key, ALL).await {
            Err(StoreError::NotFound { .. }) if !finished => {}
            Ok(read) if read == content => {}
            other => {
                let found = other.map(|read| read.len());
                return Err(breach("a cancelled write leaves all or nothing", &format!("{found:?}")));
            }
        }
    }
    Ok(())
}

impl Area {
    async fn create_owned(&self, name: String, content: &'static str) -> Result<PutOutcome, Breach> {
        self.create(&name, content).await
    }

    /// Lets many writers, each with a body of its own, write one key at once; gives who succeeded.
    async fn race(&self, name: &str, mode: PutMode) -> Result<Vec<usize>, Breach> {
        let key = self.key(name)?;
        let tasks: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (store, key, mode) = (Arc::clone(&self.store), key.clone(), mode.clone());
                tokio::spawn(async move { store.put(&key, body(format!("writer {writer}")), mode).await })
            })
            .collect();
        let mut winners = Vec::new();
        for (writer, task) in tasks.into_iter().enumerate() {
            match task.await.map_err(|error| breach("put does not panic", &error))? {
                Ok(_) => winners.push(writer),
                Err(StoreError::Conflict { .. }) => {}
                Err(other) => return Err(breach("losers of a race get Conflict", &format!("{other:?}"))),
            }
        }
        Ok(winners)
    }

    async fn one_winner(&self, name: &str, winners: &[usize]) -> Result<(), Breach> {
        hold("of many concurrent writers exactly one succeeds", equal(&winners.len(), &1))?;
        let winner = winners.iter().map(|writer| Bytes::from(format!("writer {writer}"))).next();
        hold("the winner's body is what is read", equal(&Some(self.read(name).await?), &winner))
    }
}

/// 32 concurrent `CreateOnly` puts of one key.
pub async fn of_many_creators_one_succeeds(area: &Area) -> Result<(), Breach> {
    for round in 0..4 {
        let name = format!("race/create-{round}");
        let winners = area.race(&name, PutMode::CreateOnly).await?;
        area.one_winner(&name, &winners).await?;
    }
    Ok(())
}

/// 32 concurrent `IfUnchanged` puts of one version.
pub async fn of_many_replacers_one_succeeds(area: &Area) -> Result<(), Breach> {
    for round in 0..4 {
        let name = format!("race/replace-{round}");
        let version = area.create(&name, "before").await?.version;
        let winners = area.race(&name, PutMode::IfUnchanged(version)).await?;
        area.one_winner(&name, &winners).await?;
    }
    Ok(())
}

/// A body whose SHA-256 is another's is refused before anybody can read it.
pub async fn a_body_that_does_not_match_is_never_published(area: &Area) -> Result<(), Breach> {
    let key = area.key("digest")?;
    let wrong = SealedBody { bytes: Bytes::from("damaged"), sha256: sha256::digest(b"original") };
    let put = area.store.put(&key, wrong, PutMode::CreateOnly).await;
    hold("a body that does not match is refused", refused(put, |error| matches!(error, StoreError::Corrupted { .. })))?;
    hold("a refused body leaves no object", refused(area.store.get(&key, ALL).await, is_missing))?;
    hold("a refused body is not listed", equal(&area.names("digest", None).await?, &vec![]))
}

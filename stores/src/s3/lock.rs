//! Deleting and keeping where the bucket has Object Lock.
//!
//! Such a bucket keeps every version: a delete without a version only hides the object, and would leave its bytes (and
//! their cost) behind for ever. So versions are removed by their names, and a version that is still locked is told apart
//! from a right that the role lacks, because both are answered with 403.

use aws_sdk_s3::primitives::DateTime;
use aws_sdk_s3::types::{ObjectLockLegalHoldStatus, ObjectLockRetention, ObjectLockRetentionMode};
use lifeboat_vocabulary::{ByteCount, Clock, SystemClock, UtcTime};

use crate::error::StoreError;
use crate::key::ObjectKey;
use crate::s3::answer::Asked;
use crate::s3::error::Seen;
use crate::s3::store::{S3Store, What, time};
use crate::settings::ObjectLock;
use crate::transfer::Patience;

/// Pages of versions of one key that are gone through at once; each removal makes room for the next.
const VERSION_PAGES_MAX: u32 = 100;

/// What HEAD says about the lock of one version.
struct Held {
    until: Option<UtcTime>,
    legal: bool,
    version: Option<String>,
    server_time: Option<UtcTime>,
}

impl S3Store {
    /// Removes all versions and delete markers of `key`.
    pub(crate) async fn delete_versions(&self, key: &ObjectKey) -> Result<(), StoreError> {
        let path = self.path(key);
        let (mut locked, mut marker) = (None, (None, None));
        for _ in 0..VERSION_PAGES_MAX {
            let what = What::of(format!("list the versions of {key} in {self}"), key);
            let request = self.client().list_object_versions().bucket(&self.bucket).prefix(&path);
            let request = request.set_key_marker(marker.0.take()).set_version_id_marker(marker.1.take());
            let request = request.set_expected_bucket_owner(self.owner.clone()).customize();
            let patience = Patience::receiving(ByteCount::from_mib(1));
            let sent = self.send(what, Asked::Document, patience, |watch| request.interceptor(watch).send());
            let (page, _) = sent.await?;
            if page.is_truncated().is_none() {
                let why = "the list of versions does not say whether there is more".to_owned();
                let doing = format!("list the versions of {key} in {self}");
                return Err(Seen::no_answer_of_s3(why).into_error(doing, Some(key)));
            }
            let versions = page.versions().iter().map(|version| (version.key(), version.version_id()));
            let markers = page.delete_markers().iter().map(|marker| (marker.key(), marker.version_id()));
            let ours = versions.chain(markers).filter(|(found, _)| *found == Some(path.as_str()));
            for version in ours.filter_map(|(_, version)| version) {
                match self.delete_version(key, version).await {
                    Ok(()) => {}
                    // The other versions may be free, and every byte that goes is one less to pay for.
                    Err(held @ StoreError::Locked { .. }) => locked = Some(held),
                    Err(error) => return Err(error),
                }
            }
            // Keys ascend: behind our own there is nothing of ours.
            let passed = page.next_key_marker().is_none_or(|next| next > path.as_str());
            if page.is_truncated() != Some(true) || passed {
                return locked.map_or(Ok(()), Err);
            }
            marker = (page.next_key_marker.clone(), page.next_version_id_marker.clone());
        }
        let doing = format!("delete {key} from {self}");
        Err(StoreError::Unsupported { doing, why: "it has more versions than anybody writes".to_owned() })
    }

    async fn delete_version(&self, key: &ObjectKey, version: &str) -> Result<(), StoreError> {
        let request = self.client().delete_object().bucket(&self.bucket).key(self.path(key)).version_id(version);
        let request = request.set_expected_bucket_owner(self.owner.clone()).customize();
        let what = What::of(format!("delete {key} from {self}"), key);
        let sent = self.send(what, Asked::Delete, Patience::default(), |watch| request.interceptor(watch).send());
        let refused = match sent.await {
            // Only by its code: a version that is listed cannot be looked for by a listing of names.
            Ok(_) | Err(StoreError::NotFound { .. }) => return Ok(()),
            Err(error @ StoreError::Misconfigured { .. }) => error,
            Err(error) => return Err(error),
        };
        let Ok(held) = self.look_at_lock(key, Some(version)).await else { return Err(refused) };
        let now = held.server_time.unwrap_or_else(|| SystemClock.now());
        match held.until.filter(|until| *until > now) {
            Some(until) => Err(StoreError::Locked { key: key.clone(), until: Some(until) }),
            None if held.legal => Err(StoreError::Locked { key: key.clone(), until: None }),
            None => Err(refused),
        }
    }

    async fn look_at_lock(&self, key: &ObjectKey, version: Option<&str>) -> Result<Held, StoreError> {
        let request = self.client().head_object().bucket(&self.bucket).key(self.path(key));
        let request = request.set_version_id(version.map(str::to_owned));
        let request = request.set_expected_bucket_owner(self.owner.clone()).customize();
        let what = What::of(format!("look at the lock of {key} in {self}"), key);
        let sent = self.send(what, Asked::Head, Patience::default(), |watch| request.interceptor(watch).send());
        let (answer, watch) = match sent.await {
            Ok(answered) => answered,
            Err(error) => return Err(self.confirmed(key, error).await),
        };
        Ok(Held {
            until: answer.object_lock_retain_until_date.as_ref().and_then(time),
            legal: answer.object_lock_legal_hold_status == Some(ObjectLockLegalHoldStatus::On),
            version: answer.version_id,
            server_time: watch.server_time(),
        })
    }

    /// Until when the current version of `key` is locked.
    pub(crate) async fn locked_until(&self, key: &ObjectKey) -> Result<Option<UtcTime>, StoreError> {
        Ok(self.look_at_lock(key, None).await?.until)
    }

    /// Locks the current version of `key` until `until`, unless it is locked for longer.
    pub(crate) async fn lock_until(&self, key: &ObjectKey, until: UtcTime) -> Result<(), StoreError> {
        let doing = format!("lock {key} in {self}");
        let mode = match self.lock {
            ObjectLock::Governance => ObjectLockRetentionMode::Governance,
            ObjectLock::Compliance => ObjectLockRetentionMode::Compliance,
            ObjectLock::Off => {
                let why = "set object_lock in the region's settings".to_owned();
                return Err(StoreError::Unsupported { doing, why });
            }
        };
        // Locks are exact to a second: never a shorter one than was asked for.
        let seconds = until.as_unix_micros().div_euclid(1_000_000);
        let seconds = seconds.saturating_add(i64::from(until.as_unix_micros().rem_euclid(1_000_000) > 0));
        let held = self.look_at_lock(key, None).await?;
        if held.until.is_some_and(|held| held.as_unix_seconds() >= seconds) {
            return Ok(());
        }
        let retention = ObjectLockRetention::builder().mode(mode).retain_until_date(DateTime::from_secs(seconds));
        let request = self.client().put_object_retention().bucket(&self.bucket).key(self.path(key));
        let request = request.set_version_id(held.version).retention(retention.build());
        let request = request.set_expected_bucket_owner(self.owner.clone()).customize();
        let what = What::of(doing, key);
        let sent = self.send(what, Asked::Lock, Patience::default(), |watch| request.interceptor(watch).send());
        sent.await.map(|_| ())
    }
}

//! Versions, delete markers and Object Lock, seen through the SDK.

use std::time::Duration;

use crate::common::{BUCKET, client, put, refusal};
use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::{ByteStream, DateTime, DateTimeFormat};
use aws_sdk_s3::types::{Delete, ObjectIdentifier, ObjectLockMode, ObjectLockRetention, ObjectLockRetentionMode};
use lifeboat_s3_testd::{Bucket, Config, Server};
use lifeboat_vocabulary::{Clock, SystemClock};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn server(bucket: Bucket) -> (Server, Client) {
    let server = Server::start(Config { buckets: vec![bucket], page_size: 2, ..Config::default() }).unwrap();
    let client = client(&server.url());
    (server, client)
}

fn in_days(days: u32) -> DateTime {
    let time = SystemClock.now().plus(DAY * days).as_unix_seconds();
    DateTime::from_secs(time)
}

/// Writes an object that is locked for ten days, and gives its version.
async fn put_locked(client: &Client, key: &str, mode: ObjectLockMode) -> String {
    let put = client.put_object().bucket(BUCKET).key(key).body(ByteStream::from_static(b"123456789"));
    let put = put.checksum_sha256("FeKw08M4keuw8e9gnsQZQgwg4yDOlMZfvIwzEkSOsiU=");
    put.object_lock_mode(mode).object_lock_retain_until_date(in_days(10)).send().await.unwrap().version_id.unwrap()
}

#[tokio::test]
async fn a_delete_hides_a_key_and_every_version_stays_readable() {
    let (server, client) = server(Bucket::versioned(BUCKET));
    put(&client, "k", b"first").await;
    let first = client.head_object().bucket(BUCKET).key("k").send().await.unwrap().version_id.unwrap();
    put(&client, "k", b"second").await;
    let deleted = client.delete_object().bucket(BUCKET).key("k").send().await.unwrap();
    assert_eq!(deleted.delete_marker(), Some(true));
    assert_eq!(refusal(client.get_object().bucket(BUCKET).key("k").send().await), ("NoSuchKey".to_owned(), 404));
    assert!(client.list_objects_v2().bucket(BUCKET).send().await.unwrap().contents().is_empty());
    assert!(server.keys(BUCKET).is_empty());

    let marker = deleted.version_id.unwrap();
    let of_marker = client.get_object().bucket(BUCKET).key("k").version_id(&marker).send().await;
    assert_eq!(refusal(of_marker), ("MethodNotAllowed".to_owned(), 405));
    let unknown = client.get_object().bucket(BUCKET).key("k").version_id("unknown").send().await;
    assert_eq!(refusal(unknown), ("NoSuchVersion".to_owned(), 404));
    let old = client.get_object().bucket(BUCKET).key("k").version_id(&first).send().await.unwrap();
    assert_eq!(old.body.collect().await.unwrap().into_bytes(), "first");

    let create = client.put_object().bucket(BUCKET).key("k").if_none_match("*").body(ByteStream::from_static(b"third"));
    create.send().await.expect("a delete marker counts as absent");
    client.delete_object().bucket(BUCKET).key("k").version_id(&first).send().await.unwrap();
    let gone = client.get_object().bucket(BUCKET).key("k").version_id(&first).send().await;
    assert_eq!(refusal(gone), ("NoSuchVersion".to_owned(), 404));
}

#[tokio::test]
async fn all_versions_are_listed_newest_first_over_many_pages() {
    let (_server, client) = server(Bucket::versioned(BUCKET));
    for key in ["a", "b", "b", "b", "c"] {
        put(&client, key, b"x").await;
    }
    client.delete_object().bucket(BUCKET).key("b").send().await.unwrap();
    let (mut rows, mut key, mut version, mut pages) = (Vec::new(), None, None, 0);
    loop {
        let request = client.list_object_versions().bucket(BUCKET);
        let page = request.set_key_marker(key).set_version_id_marker(version).send().await.unwrap();
        rows.extend(page.versions().iter().map(|row| {
            (row.key().unwrap().to_owned(), row.version_id().unwrap().to_owned(), row.is_latest().unwrap(), "object")
        }));
        rows.extend(page.delete_markers().iter().map(|row| {
            (row.key().unwrap().to_owned(), row.version_id().unwrap().to_owned(), row.is_latest().unwrap(), "marker")
        }));
        (key, version) = (page.next_key_marker.clone(), page.next_version_id_marker.clone());
        pages += 1;
        if page.is_truncated() != Some(true) {
            break;
        }
    }
    rows.sort_by(|one, other| (&one.0, &other.1).cmp(&(&other.0, &one.1)));
    let seen: Vec<_> = rows.iter().map(|(key, _, latest, kind)| (key.as_str(), *latest, *kind)).collect();
    let expected = [
        ("a", true, "object"),
        ("b", true, "marker"),
        ("b", false, "object"),
        ("b", false, "object"),
        ("b", false, "object"),
        ("c", true, "object"),
    ];
    assert_eq!((seen, pages), (expected.to_vec(), 3));
}

#[tokio::test]
async fn a_locked_version_cannot_be_removed_before_its_time() {
    let (server, client) = server(Bucket::locked(BUCKET));
    let table = [(ObjectLockMode::Compliance, false), (ObjectLockMode::Governance, true)];
    for (mode, can_be_bypassed) in table {
        let version = put_locked(&client, "k", mode.clone()).await;
        let removal = client.delete_object().bucket(BUCKET).key("k").version_id(&version);
        assert_eq!(refusal(removal.clone().send().await), ("AccessDenied".to_owned(), 403), "{mode:?}");
        let delete = ObjectIdentifier::builder().key("k").version_id(&version).build().unwrap();
        let delete = Delete::builder().objects(delete).build().unwrap();
        let many = client.delete_objects().bucket(BUCKET).delete(delete).send().await.unwrap();
        assert_eq!(many.errors()[0].code(), Some("AccessDenied"));
        client.delete_object().bucket(BUCKET).key("k").send().await.expect("hiding is not removing");

        let bypassed = removal.clone().bypass_governance_retention(true).send().await;
        assert_eq!(refusal(bypassed).1 == 200, can_be_bypassed, "{mode:?}");
        server.faults().change(|plan| plan.retention_clock_ahead = DAY * 11);
        removal.send().await.expect("the lock has ended");
        server.faults().clear();
    }
}

#[tokio::test]
async fn a_lock_can_be_extended_and_not_shortened() {
    let (_server, client) = server(Bucket::locked(BUCKET));
    let retention = |mode: ObjectLockRetentionMode, days| {
        ObjectLockRetention::builder().mode(mode).retain_until_date(in_days(days)).build()
    };
    let (governance, compliance) = (ObjectLockRetentionMode::Governance, ObjectLockRetentionMode::Compliance);
    let set = |wanted| client.put_object_retention().bucket(BUCKET).key("k").retention(wanted);

    put_locked(&client, "k", ObjectLockMode::Governance).await;
    let shorter = set(retention(governance.clone(), 5));
    assert_eq!(refusal(shorter.clone().send().await), ("AccessDenied".to_owned(), 403));
    shorter.bypass_governance_retention(true).send().await.unwrap();
    set(retention(compliance.clone(), 20)).send().await.expect("stricter and longer");
    for weaker in [retention(compliance.clone(), 19), retention(governance, 30)] {
        let weaken = set(weaker).bypass_governance_retention(true).send().await;
        assert_eq!(refusal(weaken), ("AccessDenied".to_owned(), 403));
    }
    let past = client.put_object_retention().bucket(BUCKET).key("k");
    let past = past.retention(
        ObjectLockRetention::builder().mode(compliance.clone()).retain_until_date(DateTime::from_secs(1)).build(),
    );
    assert_eq!(refusal(past.send().await), ("InvalidArgument".to_owned(), 400));
    set(retention(compliance.clone(), 30)).send().await.unwrap();

    let held = client.get_object_retention().bucket(BUCKET).key("k").send().await.unwrap().retention.unwrap();
    let text = |time: &DateTime| time.fmt(DateTimeFormat::DateTime).unwrap();
    assert_eq!(held.mode(), Some(&compliance));
    assert!(text(held.retain_until_date().unwrap())[..10] >= text(&in_days(30))[..10]);
    let head = client.head_object().bucket(BUCKET).key("k").send().await.unwrap();
    assert_eq!(head.object_lock_mode(), Some(&ObjectLockMode::Compliance));
}

#[tokio::test]
async fn a_lock_needs_a_checksum_and_a_bucket_that_knows_locks() {
    let (_server, locked) = server(Bucket::locked(BUCKET));
    let (_other, versioned) = server(Bucket::versioned(BUCKET));
    let put = |client: &Client| {
        let put = client.put_object().bucket(BUCKET).key("k").body(ByteStream::from_static(b"123456789"));
        put.object_lock_mode(ObjectLockMode::Compliance).object_lock_retain_until_date(in_days(1))
    };
    assert_eq!(refusal(put(&locked).send().await), ("InvalidRequest".to_owned(), 400), "no checksum");
    let with_checksum = put(&versioned).content_md5("JfnnlDI7RTiF9RgfG2JNCw==").send().await;
    assert_eq!(refusal(with_checksum), ("InvalidRequest".to_owned(), 400), "no Object Lock");
    put(&locked).content_md5("JfnnlDI7RTiF9RgfG2JNCw==").send().await.unwrap();

    crate::common::put(&locked, "free", b"x").await;
    let none = locked.get_object_retention().bucket(BUCKET).key("free").send().await;
    assert_eq!(refusal(none), ("NoSuchObjectLockConfiguration".to_owned(), 404));
    locked.create_bucket().bucket("third").object_lock_enabled_for_bucket(true).send().await.unwrap();
    let third = put(&locked).bucket("third").content_md5("JfnnlDI7RTiF9RgfG2JNCw==");
    third.send().await.unwrap();
}

//! Every switch changes what a client sees, and nothing else.

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{Delete, ObjectIdentifier};
use bytes::Bytes;
use lifeboat_s3_testd::{
    Config, CorruptGet, Delay, Deny, FailNext, Failure, KeyPattern, Operation, Server, Times, TruncateGet, Truncation,
};

use crate::common::{BUCKET, client, get, put, refusal};

const CHECK: &[u8] = b"123456789";

async fn server() -> (Server, Client) {
    let server = Server::start(Config::default()).unwrap();
    let client = client(&server.url());
    put(&client, "k", CHECK).await;
    (server, client)
}

async fn head(client: &Client) -> (String, u16) {
    refusal(client.head_object().bucket(BUCKET).key("k").send().await)
}

async fn write(client: &Client, key: &str) -> (String, u16) {
    refusal(client.put_object().bucket(BUCKET).key(key).body(ByteStream::from_static(b"new")).send().await)
}

#[tokio::test]
async fn an_old_server_overwrites_what_should_only_be_created() {
    let (server, client) = server().await;
    let create = || client.put_object().bucket(BUCKET).key("k").if_none_match("*").send();
    let replace = || client.put_object().bucket(BUCKET).key("k").if_match("\"other\"").send();
    let remove = || client.delete_object().bucket(BUCKET).key("k").if_match("\"other\"").send();
    let statuses = || async { [refusal(create().await).1, refusal(replace().await).1, refusal(remove().await).1] };
    assert_eq!(statuses().await, [412, 412, 412]);
    server.faults().change(|plan| plan.ignore_if_none_match = true);
    assert_eq!(statuses().await, [200, 200, 200]);
}

#[tokio::test]
async fn some_servers_refuse_checksum_headers_and_others_insist_on_md5() {
    let (server, client) = server().await;
    let put =
        || client.put_object().bucket(BUCKET).key("k").body(ByteStream::from_static(CHECK)).checksum_crc32("y/Q5Jg==");
    let delete = || {
        let object = ObjectIdentifier::builder().key("never").build().unwrap();
        client.delete_objects().bucket(BUCKET).delete(Delete::builder().objects(object).build().unwrap())
    };
    assert_eq!((refusal(put().send().await).1, refusal(delete().send().await).1), (200, 200));
    server.faults().change(|plan| (plan.reject_checksum_headers, plan.require_content_md5) = (true, true));
    assert_eq!(refusal(put().send().await), ("NotImplemented".to_owned(), 501));
    assert_eq!(refusal(delete().send().await), ("InvalidRequest".to_owned(), 400));
    assert_eq!(write(&client, "k").await.1, 200, "without checksum headers");
}

#[tokio::test]
async fn a_wrong_md5_is_taken_only_where_the_server_trusts_it() {
    let (server, client) = server().await;
    let put = || client.put_object().bucket(BUCKET).key("k").body(ByteStream::from_static(CHECK));
    let wrong = || put().content_md5("1B2M2Y8AsgTpgAmY7PhCfg==").send();
    assert_eq!(refusal(wrong().await), ("BadDigest".to_owned(), 400));
    server.faults().change(|plan| plan.trust_content_md5 = true);
    assert_eq!(refusal(wrong().await).1, 200);
    assert_eq!(refusal(put().checksum_crc32("AAAAAA==").send().await), ("BadDigest".to_owned(), 400), "nothing else");
}

#[tokio::test]
async fn requests_fail_when_and_how_the_test_says() {
    let (server, client) = server().await;
    server.faults().change(|plan| plan.slow_down_every = NonZeroU64::new(2));
    let slowed = [write(&client, "a").await, write(&client, "a").await, write(&client, "a").await];
    assert_eq!(slowed.map(|(code, _)| code), ["accepted", "SlowDown", "accepted"]);

    let expired = FailNext { times: Times::of(Operation::PutObject, 1), failure: Failure::new(400, "ExpiredToken") };
    server.faults().change(|plan| (plan.slow_down_every, plan.fail_next) = (None, Some(expired)));
    assert_eq!(head(&client).await.1, 200, "of another kind");
    assert_eq!(write(&client, "a").await, ("ExpiredToken".to_owned(), 400));
    assert_eq!(write(&client, "a").await.1, 200, "only the next one");

    server.faults().change(|plan| plan.fail_after = Some((2, Failure::status(500))));
    let statuses = [write(&client, "a").await.1, write(&client, "a").await.1, write(&client, "a").await.1];
    assert_eq!(statuses, [200, 200, 500]);
    assert_eq!(head(&client).await.1, 500, "and so on");

    server.faults().clear();
    server.faults().change(|plan| {
        plan.fail_all = Some(Failure { retry_after_seconds: Some(7), ..Failure::slow_down() });
    });
    let error = client.list_objects_v2().bucket(BUCKET).send().await.unwrap_err();
    assert_eq!(error.raw_response().unwrap().headers().get("retry-after"), Some("7"));
    server.faults().clear();
    assert_eq!(head(&client).await.1, 200);
}

#[tokio::test]
async fn refusing_a_large_body_still_lets_the_client_read_the_answer() {
    let (server, client) = server().await;
    server.faults().change(|plan| plan.fail_all = Some(Failure::slow_down()));
    let put = client.put_object().bucket(BUCKET).key("large").body(ByteStream::from(vec![7; 8 << 20]));
    assert_eq!(refusal(put.send().await), ("SlowDown".to_owned(), 503));
    assert_eq!(server.keys(BUCKET), ["k"]);
}

#[tokio::test]
async fn a_dead_region_gives_no_answer_and_does_nothing() {
    let (server, client) = server().await;
    server.faults().change(|plan| plan.dead = true);
    assert_eq!(write(&client, "new").await.1, 0);
    assert_eq!((server.requests().last().unwrap().status, server.keys(BUCKET)), (None, vec!["k".to_owned()]));
    server.faults().clear();
    assert_eq!(write(&client, "new").await.1, 200);
}

#[tokio::test]
async fn a_lost_answer_leaves_the_write_behind_and_its_repetition_conflicts() {
    let (server, client) = server().await;
    let create = || client.put_object().bucket(BUCKET).key("log/1").if_none_match("*").send();
    server.faults().change(|plan| plan.lose_response_after_commit = Some(Times::any(1)));
    assert_eq!(head(&client).await.1, 200, "reads are not hit");
    assert_eq!(refusal(create().await).1, 0);
    assert_eq!(server.object(BUCKET, "log/1").unwrap(), "");
    assert_eq!(refusal(create().await), ("PreconditionFailed".to_owned(), 412));
    assert_eq!(server.faults().plan().lose_response_after_commit, Some(Times::any(0)));
}

#[tokio::test]
async fn what_is_read_can_be_other_than_what_was_written() {
    let (server, client) = server().await;
    put(&client, "other", CHECK).await;
    let fault = CorruptGet { keys: KeyPattern::new("k*"), offset: 4, mask: 0x01 };
    server.faults().change(|plan| plan.corrupt_get = Some(fault));
    assert_eq!(get(&client, "k").await, b"123446789");
    assert_eq!(get(&client, "other").await, CHECK);
    for (range, expected) in [("bytes=3-5", "446"), ("bytes=5-8", "6789")] {
        let part = client.get_object().bucket(BUCKET).key("k").range(range).send().await.unwrap();
        assert_eq!(part.body.collect().await.unwrap().into_bytes(), expected);
    }
    server.faults().clear();
    server.faults().change(|plan| plan.wrong_bytes.extend([("k".to_owned(), Bytes::from_static(b"of another"))]));
    assert_eq!(get(&client, "k").await, b"of another");
    server.faults().clear();
    assert_eq!(get(&client, "k").await, CHECK, "what is stored was never touched");
}

#[tokio::test]
async fn what_is_read_can_end_early_with_and_without_http_noticing() {
    let (server, client) = server().await;
    let truncate = |how| {
        server.faults().change(|plan| {
            plan.truncate_get = Some(TruncateGet { keys: KeyPattern::any(), keep: 4, how });
        });
    };
    truncate(Truncation::ConnectionCut);
    let cut = client.get_object().bucket(BUCKET).key("k").send().await.unwrap();
    assert_eq!(cut.content_length(), Some(9));
    assert!(cut.body.collect().await.is_err());
    truncate(Truncation::ShorterLength);
    assert_eq!(get(&client, "k").await, b"1234");
}

#[tokio::test]
async fn an_etag_need_not_be_an_md5() {
    let (server, client) = server().await;
    let etag = || async { client.head_object().bucket(BUCKET).key("k").send().await.unwrap().e_tag.unwrap() };
    assert_eq!(etag().await, "\"25f9e794323b453885f5181f1b624d0b\"");
    server.faults().change(|plan| plan.etag_not_md5 = true);
    put(&client, "k", CHECK).await;
    let first = etag().await;
    put(&client, "k", CHECK).await;
    let second = etag().await;
    assert!(first != second && first.len() == 34 && !second.contains("25f9e794"), "{first} {second}");
    let conditional = client.put_object().bucket(BUCKET).key("k").if_match(second).send().await;
    assert_eq!(refusal(conditional).1, 200);
}

#[tokio::test]
async fn a_listing_can_lag_behind_reads() {
    let (server, client) = server().await;
    let listed = || async { client.list_objects_v2().bucket(BUCKET).send().await.unwrap().contents().len() };
    assert_eq!(listed().await, 1);
    server.faults().change(|plan| plan.list_lag = Duration::from_secs(3600));
    assert_eq!((listed().await, get(&client, "k").await), (0, CHECK.to_vec()));
    server.faults().change(|plan| plan.list_lag = Duration::from_millis(1));
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert_eq!(listed().await, 1);
}

#[tokio::test]
async fn a_clock_that_is_off_refuses_signatures_until_the_client_has_seen_the_servers_date() {
    let (server, client) = server().await;
    for offset in [-3600, 7200] {
        server.faults().change(|plan| plan.clock_offset_seconds = offset);
        let refused = client.list_objects_v2().bucket(BUCKET).send().await;
        assert_eq!(refusal(refused), ("RequestTimeTooSkewed".to_owned(), 403));
        let answer = client.head_object().bucket(BUCKET).key("k").send().await;
        assert_eq!(refusal(answer).1, 200, "the client corrects its clock by the Date header");
        put(&client, "now", CHECK).await;
        let modified = client.head_object().bucket(BUCKET).key("now").send().await.unwrap().last_modified.unwrap();
        let real = aws_sdk_s3::primitives::DateTime::from(std::time::UNIX_EPOCH + since_epoch());
        assert!((modified.secs() - real.secs() - offset).abs() < 5, "{modified:?}");
    }
}

fn since_epoch() -> Duration {
    use lifeboat_vocabulary::{Clock, SystemClock};
    Duration::from_secs(SystemClock.now().as_unix_seconds().unsigned_abs())
}

#[tokio::test]
async fn an_error_can_hide_behind_status_200() {
    let (server, client) = server().await;
    server.faults().change(|plan| plan.error_in_200 = Some(Times::of(Operation::PutObject, 1)));
    assert_eq!(write(&client, "new").await, ("InternalError".to_owned(), 200));
    assert_eq!((server.keys(BUCKET), server.requests().last().unwrap().status), (vec!["k".to_owned()], Some(200)));
    assert_eq!((write(&client, "new").await.0, server.keys(BUCKET).len()), ("accepted".to_owned(), 2));
}

#[tokio::test]
async fn requests_take_as_long_as_the_test_says() {
    let (server, client) = server().await;
    let millis = Duration::from_millis;
    let timed = |length| {
        let put = client.put_object().bucket(BUCKET).key("new").body(ByteStream::from(vec![1; length])).send();
        async {
            let start = Instant::now();
            put.await.unwrap();
            start.elapsed()
        }
    };
    server.faults().change(|plan| plan.delay = Delay { fixed: millis(200), ..Delay::default() });
    assert!(timed(0).await >= millis(200));
    server.faults().change(|plan| plan.delay = Delay { per_mib: millis(1000), ..Delay::default() });
    assert!(timed(0).await < millis(1500));
    assert!(timed(3 << 19).await >= millis(1500));
}

#[tokio::test]
async fn a_role_may_be_kept_from_reading_and_deleting() {
    let (server, client) = server().await;
    for key in ["data/1/packs/7", "data/1/packs.sha256"] {
        put(&client, key, CHECK).await;
    }
    server.faults().change(|plan| {
        plan.deny = vec![
            Deny { operation: Operation::GetObject, keys: "*/packs/*".into() },
            Deny { operation: Operation::DeleteObject, keys: KeyPattern::any() },
        ];
    });
    let denied = ("AccessDenied".to_owned(), 403);
    assert_eq!(refusal(client.get_object().bucket(BUCKET).key("data/1/packs/7").send().await), denied);
    assert_eq!(refusal(client.delete_object().bucket(BUCKET).key("k").send().await), denied);
    assert_eq!(get(&client, "data/1/packs.sha256").await, CHECK);
    assert_eq!(write(&client, "data/1/packs/8").await.1, 200);
}

#[tokio::test]
async fn a_key_can_vanish_and_come_back() {
    let (server, client) = server().await;
    server.faults().change(|plan| plan.vanish.extend(["k".to_owned()]));
    assert_eq!(refusal(client.get_object().bucket(BUCKET).key("k").send().await), ("NoSuchKey".to_owned(), 404));
    assert_eq!(head(&client).await.1, 404);
    assert!(client.list_objects_v2().bucket(BUCKET).send().await.unwrap().contents().is_empty());
    server.faults().clear();
    assert_eq!(get(&client, "k").await, CHECK);
}

#[tokio::test]
async fn objects_can_be_changed_behind_the_clients_back() {
    let (server, client) = server().await;
    server.put_raw(BUCKET, "k", Bytes::from_static(b"raw")).unwrap();
    assert_eq!(get(&client, "k").await, b"raw");
    assert_eq!((server.remove_raw(BUCKET, "k"), server.remove_raw(BUCKET, "k")), (Ok(true), Ok(false)));
    assert_eq!(head(&client).await.1, 404);
    assert!(server.put_raw("nowhere", "k", Bytes::new()).is_err());
    server.forget_requests();
    assert_eq!((server.requests().len(), server.count(Operation::HeadObject)), (0, 0));
}

#[tokio::test]
async fn requests_that_run_together_are_counted() {
    let (server, client) = server().await;
    server.faults().change(|plan| plan.delay.fixed = Duration::from_millis(300));
    let (one, two, three) = tokio::join!(write(&client, "1"), write(&client, "2"), write(&client, "3"));
    assert_eq!([one.1, two.1, three.1], [200; 3]);
    assert_eq!((server.in_flight_max(), server.count(Operation::PutObject)), (3, 4));
}

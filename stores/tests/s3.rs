//! What a bucket store sends, and what it makes of servers that misbehave.

mod support;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lifeboat_s3_testd::{
    Config, CorruptGet, Deny, FailNext, Failure, KeyPattern, Operation, Page, Proxy, Server, Times, TruncateGet,
    Truncation,
};
use lifeboat_stores::contract::body;
use lifeboat_stores::{
    ByteRange, OBJECT_BYTES_MAX, ObjectKey, PutMode, RetryPolicy, StackOptions, Store, StoreError, list_folders, open,
    open_below, standard_stack,
};

const ALL: ByteRange = ByteRange::WholeUpTo(OBJECT_BYTES_MAX);

fn key(text: &str) -> ObjectKey {
    text.parse().expect("a key")
}

async fn server() -> (Server, Arc<dyn Store>) {
    let server = Server::start(Config::default()).expect("a server");
    let store = open(&support::region(&server.url(), "")).await.expect("a store");
    (server, store)
}

async fn create(store: &Arc<dyn Store>, name: &str, content: &'static str) -> Result<(), StoreError> {
    store.put(&key(name), body(content), PutMode::CreateOnly).await.map(|_| ())
}

#[tokio::test]
async fn an_upload_carries_the_hash_that_we_have_and_nothing_that_old_servers_refuse() {
    let server = Server::start(Config::default()).unwrap();
    for (profile, header) in [("minio", true), ("ceph", false)] {
        let settings = support::region(&server.url(), &format!("&profile={profile}"));
        let store = open(&settings).await.unwrap();
        let sent = body(profile);
        store.put(&key(profile), sent.clone(), PutMode::CreateOnly).await.unwrap();
        let is_put = |request: &lifeboat_s3_testd::LoggedRequest| request.operation == Operation::PutObject;
        let request = server.requests().into_iter().rfind(is_put).unwrap();
        assert_eq!(request.header("x-amz-content-sha256"), Some(sent.sha256.to_string().as_str()));
        assert_eq!(request.header("x-amz-checksum-sha256").is_some(), header, "{profile}");
        assert_eq!(request.header("if-none-match"), Some("*"));
        for name in
            ["x-amz-checksum-crc32", "x-amz-trailer", "x-amz-sdk-checksum-algorithm", "x-amz-decoded-content-length"]
        {
            assert_eq!(request.header(name), None, "{name}");
        }
        store.get(&key(profile), ALL).await.unwrap();
        assert_eq!(server.requests().pop().unwrap().header("x-amz-checksum-mode"), None);
    }
}

#[tokio::test]
async fn a_server_that_refuses_checksum_headers_is_answered_with_advice_and_served_by_another_profile() {
    let server = Server::start(Config::default()).unwrap();
    server.faults().change(|plan| plan.reject_checksum_headers = true);
    let store = open(&support::region(&server.url(), "")).await.unwrap();
    let error = create(&store, "a", "x").await.unwrap_err();
    assert!(matches!(&error, StoreError::Misconfigured { advice, .. } if advice.contains("profile")), "{error:?}");
    let store = open(&support::region(&server.url(), "&profile=other")).await.unwrap();
    create(&store, "a", "x").await.unwrap();
}

#[tokio::test]
async fn what_a_server_says_becomes_what_a_caller_may_do() {
    let (server, store) = server().await;
    type Expected = fn(&StoreError) -> bool;
    let transient: Expected = |e| matches!(e, StoreError::Transient { .. });
    let throttled: Expected = |e| matches!(e, StoreError::Throttled { .. });
    let person: Expected = |e| matches!(e, StoreError::Misconfigured { .. });
    for (status, code, expected) in [
        (500, "InternalError", transient),
        (503, "ServiceUnavailable", transient),
        (408, "RequestTimeout", transient),
        (503, "SlowDown", throttled),
        (429, "TooManyRequests", throttled),
        (409, "ConditionalRequestConflict", throttled),
        (403, "AccessDenied", person),
        (403, "InvalidAccessKeyId", person),
        (404, "NoSuchBucket", person),
        (400, "BadDigest", |e| matches!(e, StoreError::Corrupted { .. })),
        (507, "InsufficientStorage", |e| matches!(e, StoreError::Full { .. })),
        (412, "PreconditionFailed", |e| matches!(e, StoreError::Conflict { .. })),
    ] {
        let failure = Failure::new(status, code);
        server.faults().change(|plan| plan.fail_next = Some(FailNext { times: Times::any(1), failure }));
        let before = server.count(Operation::PutObject);
        let error = create(&store, "a", "x").await.unwrap_err();
        assert!(expected(&error), "{status} {code}: {error:?}");
        assert_eq!(server.count(Operation::PutObject) - before, 1, "the SDK must not retry by itself");
    }
    assert_eq!(server.keys("lifeboat"), Vec::<String>::new());
}

#[tokio::test]
async fn the_servers_wish_to_wait_is_passed_on() {
    let (server, store) = server().await;
    let failure = Failure { retry_after_seconds: Some(7), ..Failure::slow_down() };
    server.faults().change(|plan| plan.fail_all = Some(failure));
    let error = create(&store, "a", "x").await.unwrap_err();
    let seven = Some(Duration::from_secs(7));
    assert!(matches!(error, StoreError::Throttled { retry_after, .. } if retry_after == seven), "{error:?}");
}

#[tokio::test]
async fn keys_that_the_server_does_not_know_are_a_matter_for_a_person_and_never_shown() {
    let server = Server::start(Config { access_key: "another".to_owned(), ..Config::default() }).unwrap();
    let store = open(&support::region(&server.url(), "")).await.unwrap();
    let error = create(&store, "a", "x").await.unwrap_err();
    assert!(matches!(error, StoreError::Misconfigured { .. }), "{error:?}");
    assert!(!format!("{error:?}{store:?}").contains("test-secret-key"));
}

#[tokio::test]
async fn success_without_an_etag_is_not_believed() {
    let (server, store) = server().await;
    server.faults().change(|plan| plan.error_in_200 = Some(Times::any(1)));
    let error = create(&store, "a", "x").await.unwrap_err();
    assert!(matches!(error, StoreError::Transient { .. }), "{error:?}");
}

#[tokio::test]
async fn a_web_application_in_place_of_the_store_is_never_believed() {
    let (server, store) = server().await;
    create(&store, "there", "content").await.unwrap();
    let version = store.head(&key("there")).await.unwrap().version;
    let page = "<!DOCTYPE html><html></html>";
    for (what, etag, text) in
        [("a page", "W/\"1f-abc\"", page), ("a strong tag", "\"1f-abc\"", page), ("nothing at all", "W/\"1f-abc\"", "")]
    {
        let everything = Page::html(Times::any(u64::MAX), etag, text);
        server.faults().change(|plan| plan.page = Some(everything));
        for (asked, answer) in [
            ("put", create(&store, "a", "x").await),
            ("replace", store.put(&key("there"), body("y"), PutMode::IfUnchanged(version.clone())).await.map(drop)),
            ("get", store.get(&key("there"), ALL).await.map(drop)),
            ("part", store.get(&key("there"), ByteRange::Part { start: 0, length: 4 }).await.map(drop)),
            ("head", store.head(&key("there")).await.map(drop)),
            ("list", store.list("", None).await.map(drop)),
        ] {
            assert!(matches!(answer, Err(StoreError::Transient { .. })), "{what}: {asked}: {answer:?}");
        }
        assert!(store.delete(&key("there")).await.is_err(), "{what}");
        server.faults().clear();
        assert_eq!(store.get(&key("there"), ALL).await.unwrap(), "content", "{what}");
        assert!(!server.keys("lifeboat").contains(&"pg/a".to_owned()), "{what}");
    }
}

#[tokio::test]
async fn a_status_alone_is_no_word_of_the_store_about_an_object() {
    let (server, store) = server().await;
    create(&store, "there", "content").await.unwrap();
    let version = store.head(&key("there")).await.unwrap().version;
    for (content_type, text) in
        [("text/plain", "not found"), ("application/json", "{\"error\":404}"), ("text/plain", "")]
    {
        for (status, what) in [(404, "no such object"), (412, "somebody was first"), (416, "past the end")] {
            let everything = Page::refusal(Times::any(u64::MAX), status, content_type, text);
            for (asked, times) in [("everything", Times::any(u64::MAX)), ("all but lists", Times::any(1))] {
                let fault = || server.faults().change(|plan| plan.page = Some(Page { times, ..everything.clone() }));
                let unchanged = || PutMode::IfUnchanged(version.clone());
                fault();
                let mut answers = vec![("get", store.get(&key("there"), ALL).await.map(drop))];
                fault();
                answers
                    .push(("part", store.get(&key("there"), ByteRange::Part { start: 0, length: 4 }).await.map(drop)));
                fault();
                answers.push(("head", store.head(&key("there")).await.map(drop)));
                fault();
                answers.push(("delete", store.delete(&key("there")).await));
                fault();
                answers.push(("replace", store.put(&key("there"), body("y"), unchanged()).await.map(drop)));
                fault();
                answers.push(("create", create(&store, "a", "x").await));
                fault();
                answers.push(("list", store.list("", None).await.map(drop)));
                for (request, answer) in answers {
                    let is_transient = matches!(answer, Err(StoreError::Transient { .. }));
                    assert!(is_transient, "{what}, {content_type} {text:?} to {asked}: {request}: {answer:?}");
                }
                server.faults().clear();
                assert_eq!(store.get(&key("there"), ALL).await.unwrap(), "content");
                assert!(!server.keys("lifeboat").contains(&"pg/a".to_owned()));
            }
        }
    }
}

#[tokio::test]
async fn a_store_that_gives_no_codes_is_asked_for_its_list() {
    let (server, store) = server().await;
    create(&store, "there", "content").await.unwrap();
    let version = store.head(&key("there")).await.unwrap().version;
    let bare = |status| {
        server.faults().change(|plan| plan.page = Some(Page::refusal(Times::any(1), status, "text/plain", "")));
    };
    bare(404);
    let answer = store.get(&key("gone"), ALL).await;
    assert!(matches!(answer, Err(StoreError::NotFound { .. })), "{answer:?}");
    bare(404);
    let answer = store.head(&key("gone")).await;
    assert!(matches!(answer, Err(StoreError::NotFound { .. })), "{answer:?}");
    bare(404);
    store.delete(&key("gone")).await.unwrap();
    let unchanged = || PutMode::IfUnchanged(version.clone());
    bare(404);
    let answer = store.put(&key("gone"), body("y"), unchanged()).await;
    assert!(matches!(answer, Err(StoreError::Conflict { .. })), "{answer:?}");
    bare(412);
    let answer = create(&store, "there", "other").await;
    assert!(matches!(answer, Err(StoreError::Conflict { .. })), "{answer:?}");
    bare(416);
    let answer = store.get(&key("there"), ByteRange::Part { start: 7, length: 1 }).await;
    assert!(matches!(answer, Err(StoreError::Unsupported { .. })), "{answer:?}");
    // Where nobody may list, that is what has to be changed.
    let deny = Deny { operation: Operation::ListObjectsV2, keys: KeyPattern::any() };
    server.faults().change(|plan| plan.deny = vec![deny]);
    let answer = store.head(&key("gone")).await;
    assert!(matches!(answer, Err(StoreError::Misconfigured { .. })), "{answer:?}");
}

#[tokio::test]
async fn the_first_objects_of_a_session_are_looked_for_after_they_were_written() {
    let server = Server::start(Config::default()).unwrap();
    for count in 0..4_u64 {
        let store = open(&support::region(&server.url(), "")).await.unwrap();
        for number in 0..count {
            create(&store, &format!("{count}/{number}"), "x").await.unwrap();
        }
        // An answer in the form of S3, from something that keeps nothing.
        let liar = Page::html(Times::of(Operation::PutObject, 1), "\"0123\"", "");
        server.faults().change(|plan| plan.page = Some(liar));
        let answer = create(&store, &format!("{count}/lost"), "x").await;
        assert_eq!(matches!(answer, Err(StoreError::Transient { .. })), count < 3, "{count}: {answer:?}");
        server.faults().clear();
    }
    // Something that keeps nothing and cannot list either is never believed.
    let store = open(&support::region(&server.url(), "")).await.unwrap();
    let everything = Page::html(Times::any(u64::MAX), "\"0123\"", "");
    let only_puts = Page { times: Times::of(Operation::PutObject, u64::MAX), ..everything.clone() };
    let refused = FailNext { times: Times::of(Operation::ListObjectsV2, u64::MAX), failure: Failure::status(404) };
    for (page, refusal) in [(everything, None), (only_puts, Some(refused))] {
        server.faults().change(|plan| (plan.page, plan.fail_next) = (Some(page), refusal));
        for number in 0..10 {
            let answer = create(&store, &format!("nowhere/{number}"), "x").await;
            assert!(matches!(answer, Err(StoreError::Transient { .. })), "{number}: {answer:?}");
        }
        server.faults().clear();
    }
    // Without the right to look, what is written counts.
    let deny = Deny { operation: Operation::ListObjectsV2, keys: KeyPattern::any() };
    server.faults().change(|plan| plan.deny = vec![deny]);
    let store = open(&support::region(&server.url(), "")).await.unwrap();
    let asked = server.count(Operation::ListObjectsV2);
    for number in 0..10 {
        create(&store, &format!("unseen/{number}"), "x").await.unwrap();
    }
    assert_eq!(server.count(Operation::ListObjectsV2) - asked, 3, "a refusal is an answer: not every write asks again");
}

#[tokio::test]
async fn a_body_that_ends_early_is_never_taken_for_the_whole() {
    let (server, store) = server().await;
    create(&store, "a", "0123456789").await.unwrap();
    let truncate = TruncateGet { keys: KeyPattern::any(), keep: 4, how: Truncation::ConnectionCut };
    server.faults().change(|plan| plan.truncate_get = Some(truncate));
    for range in [ALL, ByteRange::Part { start: 2, length: 6 }] {
        let error = store.get(&key("a"), range).await.unwrap_err();
        assert!(matches!(error, StoreError::Transient { .. }), "{range:?}: {error:?}");
    }
    // A shorter length that agrees with itself shows in a range, whose header says how much there should be.
    let truncate = TruncateGet { keys: KeyPattern::any(), keep: 4, how: Truncation::ShorterLength };
    server.faults().change(|plan| plan.truncate_get = Some(truncate));
    let error = store.get(&key("a"), ByteRange::Part { start: 2, length: 6 }).await.unwrap_err();
    assert!(matches!(error, StoreError::Transient { .. }), "{error:?}");
}

#[tokio::test]
async fn a_flipped_bit_passes_unchanged() {
    let (server, store) = server().await;
    create(&store, "a", "0123").await.unwrap();
    let flip = CorruptGet { keys: KeyPattern::any(), offset: 1, mask: 1 };
    server.faults().change(|plan| plan.corrupt_get = Some(flip));
    assert_eq!(store.get(&key("a"), ALL).await.unwrap(), Bytes::from("0023"));
}

#[tokio::test]
async fn a_server_that_is_not_there_and_one_that_hangs_up_are_transient() {
    let (server, store) = server().await;
    server.faults().change(|plan| plan.dead = true);
    let error = store.list("", None).await.unwrap_err();
    assert!(matches!(error, StoreError::Transient { .. }), "{error:?}");
    drop(server);
    let error = store.list("", None).await.unwrap_err();
    assert!(matches!(error, StoreError::Transient { .. }), "{error:?}");
}

#[tokio::test]
async fn other_peoples_objects_are_passed_over_however_many_there_are() {
    let server = Server::start(Config { page_size: 3, ..Config::default() }).unwrap();
    let store = open(&support::region(&server.url(), "")).await.unwrap();
    for number in 0..10 {
        server.put_raw("lifeboat", &format!("pg/b + {number}"), Bytes::from("theirs")).unwrap();
    }
    server.put_raw("lifeboat", "other/a", Bytes::from("outside")).unwrap();
    create(&store, "a", "1").await.unwrap();
    create(&store, "c", "2").await.unwrap();
    let (mut names, mut after) = (Vec::new(), None);
    loop {
        let page = store.list("", after.as_ref()).await.unwrap();
        after = page.entries.last().map(|entry| entry.key.clone());
        names.extend(page.entries.into_iter().map(|entry| entry.key.to_string()));
        if !page.more {
            break;
        }
    }
    assert_eq!(names, ["a", "c"]);
}

#[tokio::test]
async fn without_conditional_writes_a_put_looks_for_the_object_first() {
    let server = Server::start(Config::default()).unwrap();
    server.faults().change(|plan| plan.ignore_if_none_match = true);
    let settings = support::region(&server.url(), "&profile=garage");
    let store = open(&settings).await.unwrap();
    create(&store, "a", "1").await.unwrap();
    assert!(matches!(create(&store, "a", "2").await, Err(StoreError::Conflict { .. })));
    assert_eq!(store.get(&key("a"), ALL).await.unwrap(), "1");
    let version = store.head(&key("a")).await.unwrap().version;
    store.put(&key("a"), body("2"), PutMode::IfUnchanged(version.clone())).await.unwrap();
    let stale = store.put(&key("a"), body("3"), PutMode::IfUnchanged(version)).await;
    assert!(matches!(stale, Err(StoreError::Conflict { .. })));
}

#[tokio::test]
async fn clusters_are_found_by_their_mark() {
    let (server, _) = server().await;
    for name in
        ["main/lifeboat.json", "main/data/x", "Bad_Name/lifeboat.json", "half/data/x", "zeta/lifeboat.json", "loose"]
    {
        server.put_raw("lifeboat", &format!("pg/{name}"), Bytes::from("x")).unwrap();
    }
    server.put_raw("lifeboat", "elsewhere/lifeboat.json", Bytes::from("x")).unwrap();
    let settings = support::region(&server.url(), "");
    let names: Vec<String> = list_folders(&settings).await.unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(names, ["main", "zeta"]);
}

/// The whole stack with short pauses.
fn stacked(store: Arc<dyn Store>) -> lifeboat_stores::Stack {
    standard_stack(store, StackOptions::with_short_pauses(8))
}

#[tokio::test]
async fn an_answer_lost_after_the_commit_is_settled_by_the_stack() {
    let (server, store) = server().await;
    let stack = stacked(store);
    server.faults().change(|plan| plan.lose_response_after_commit = Some(Times::of(Operation::PutObject, 1)));
    create(&stack.store, "log/1", "ours").await.unwrap();
    let counts = stack.metrics.snapshot().of(lifeboat_stores::Operation::Put);
    assert_eq!((counts.requests, counts.errors), (2, 1), "the second attempt was answered with a conflict");
}

#[tokio::test]
async fn a_role_that_may_only_create_writes_over_a_bad_connection() {
    let (server, store) = server().await;
    let deny = |operation| Deny { operation, keys: KeyPattern::any() };
    server.faults().change(|plan| {
        plan.deny = vec![deny(Operation::GetObject), deny(Operation::HeadObject), deny(Operation::DeleteObject)];
        plan.lose_response_after_commit = Some(Times::of(Operation::PutObject, 1));
    });
    let retry = RetryPolicy { key_nature: |_| lifeboat_stores::KeyNature::Unguessable, ..RetryPolicy::default() };
    let stack = standard_stack(store, StackOptions { retry, ..StackOptions::with_short_pauses(8) });
    create(&stack.store, "data/p-000001", "pack").await.unwrap();
    assert_eq!(server.object("lifeboat", "pg/data/p-000001"), Some(Bytes::from("pack")));
}

#[tokio::test]
async fn a_dead_region_is_left_alone_after_three_failed_operations_and_found_again() {
    let (server, store) = server().await;
    let stack = stacked(store);
    server.faults().change(|plan| plan.fail_all = Some(Failure::status(503)));
    for _ in 0..3 {
        assert!(matches!(create(&stack.store, "a", "x").await, Err(StoreError::Transient { .. })));
    }
    let asked = server.requests().len();
    assert_eq!(asked, 12, "four attempts each");
    assert!(matches!(create(&stack.store, "a", "x").await, Err(StoreError::BreakerOpen { .. })));
    assert_eq!(server.requests().len(), asked, "an open breaker asks nobody");
    server.faults().clear();
    tokio::time::pause();
    tokio::time::advance(stack.breaker.wait()).await;
    tokio::time::resume();
    create(&stack.store, "a", "x").await.unwrap();
    assert_eq!(stack.breaker.state(), lifeboat_stores::BreakerState::Closed);
}

#[tokio::test]
async fn a_connection_that_breaks_transfers_is_survived() {
    let server = Server::start(Config::default()).unwrap();
    let proxy = Proxy::start(server.addr()).unwrap();
    let settings = support::region(&proxy.url(), "");
    let stack = stacked(open_below(&settings, None).await.unwrap());
    let content = Bytes::from(vec![42; 3 << 20]);
    proxy.change(|network| network.up.reset_after = Some(lifeboat_s3_testd::Strike::once(1 << 20)));
    stack.store.put(&key("a"), body(content.clone()), PutMode::CreateOnly).await.unwrap();
    proxy.change(|network| network.down.reset_after = Some(lifeboat_s3_testd::Strike::once(1 << 20)));
    assert_eq!(stack.store.get(&key("a"), ALL).await.unwrap(), content);
    assert!(stack.metrics.snapshot().of(lifeboat_stores::Operation::Get).errors > 0, "the line was never cut");
}

#[tokio::test(start_paused = true)]
async fn a_network_that_swallows_everything_is_given_up() {
    let server = Server::start(Config::default()).unwrap();
    let proxy = Proxy::start(server.addr()).unwrap();
    let store = open(&support::region(&proxy.url(), "")).await.unwrap();
    proxy.change(|network| network.mode = lifeboat_s3_testd::Mode::Blackhole);
    for result in [create(&store, "a", "x").await, store.get(&key("a"), ALL).await.map(|_| ())] {
        let is_late = result.as_ref().is_err_and(|error| error.is_transient() && error.is_timeout());
        assert!(is_late, "{result:?}");
    }
}

//! The server does what S3 does, seen through the SDK that the product uses.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::common::{BUCKET, body, checksumming_client, client, client_with, get, http, put, refusal};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumMode, Delete, ObjectIdentifier};
use bytes::Bytes;
use lifeboat_s3_testd::{Config, Operation, Server, StartError, Storage, Tls};

const CHECK: &[u8] = b"123456789";

fn server() -> Server {
    Server::start(Config::default()).unwrap()
}

#[tokio::test]
async fn a_wrong_secret_and_a_missing_bucket_are_refused_before_an_object_is_given_back() {
    let server = server();
    let stranger = client_with(&server.url(), "guessed", http(Default::default()));
    let answer = stranger.put_object().bucket(BUCKET).key("k").body(ByteStream::from_static(b"x")).send().await;
    assert_eq!(refusal(answer), ("SignatureDoesNotMatch".to_owned(), 403));

    let client = client(&server.url());
    assert_eq!(refusal(client.get_object().bucket("nowhere").key("k").send().await), ("NoSuchBucket".to_owned(), 404));
    assert_eq!(refusal(client.get_object().bucket(BUCKET).key("k").send().await), ("NoSuchKey".to_owned(), 404));
    assert_eq!(refusal(client.head_object().bucket(BUCKET).key("k").send().await).1, 404);

    put(&client, "k with space/ä", b"content").await;
    assert_eq!(get(&client, "k with space/ä").await, b"content");
    let head = client.head_object().bucket(BUCKET).key("k with space/ä").send().await.unwrap();
    assert_eq!((head.content_length(), head.e_tag()), (Some(7), Some("\"9a0364b9e99bb480dd25e1f0284c8555\"")));
    assert_eq!(server.object(BUCKET, "k with space/ä").unwrap(), Bytes::from_static(b"content"));
    assert_eq!((server.keys(BUCKET), server.bytes_stored(BUCKET)), (vec!["k with space/ä".to_owned()], 7));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_64_writers_that_may_only_create_exactly_one_wins() {
    let server = server();
    let client = client(&server.url());
    let writers: Vec<_> = (0..64)
        .map(|writer: u8| {
            let put = client.put_object().bucket(BUCKET).key("log/1").if_none_match("*");
            tokio::spawn(put.body(ByteStream::from(vec![writer; 1000])).send())
        })
        .collect();
    let (mut winners, mut losers) = (Vec::new(), 0);
    for (writer, answer) in (0..64_u8).zip(writers) {
        match refusal(answer.await.unwrap()) {
            (code, 200) if code == "accepted" => winners.push(writer),
            (code, 412) if code == "PreconditionFailed" => losers += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((winners.len(), losers), (1, 63));
    assert_eq!(server.object(BUCKET, "log/1").unwrap(), vec![winners[0]; 1000]);
}

#[tokio::test]
async fn a_conditional_write_needs_the_version_that_was_read() {
    let server = server();
    let client = client(&server.url());
    let write = |etag: &str| client.put_object().bucket(BUCKET).key("head").if_match(etag).send();
    assert_eq!(refusal(write("\"d41d8cd98f00b204e9800998ecf8427e\"").await), ("NoSuchKey".to_owned(), 404));
    put(&client, "head", b"1").await;
    let etag = client.head_object().bucket(BUCKET).key("head").send().await.unwrap().e_tag.unwrap();
    put(&client, "head", b"2").await;
    assert_eq!(refusal(write(&etag).await), ("PreconditionFailed".to_owned(), 412));
    let removal = client.delete_object().bucket(BUCKET).key("head");
    assert_eq!(refusal(removal.clone().if_match(&etag).send().await), ("PreconditionFailed".to_owned(), 412));
    assert_eq!(server.object(BUCKET, "head").unwrap(), "2");

    let etag = client.head_object().bucket(BUCKET).key("head").send().await.unwrap().e_tag.unwrap();
    write(&etag).await.unwrap();
    assert_eq!(server.object(BUCKET, "head").unwrap(), "");
    let other = client.put_object().bucket(BUCKET).key("head").if_none_match(&etag).send().await;
    assert_eq!(refusal(other), ("NotImplemented".to_owned(), 501), "S3 knows only If-None-Match: *");
}

#[tokio::test]
async fn a_body_that_does_not_match_its_checksum_is_never_published() {
    let server = server();
    let client = client(&server.url());
    let put = || client.put_object().bucket(BUCKET).key("k").body(ByteStream::from_static(b"123456780"));
    for signed in ["signed", "unsigned"] {
        let wrong = [
            put().checksum_sha256("FeKw08M4keuw8e9gnsQZQgwg4yDOlMZfvIwzEkSOsiU="),
            put().checksum_crc32("y/Q5Jg=="),
            put().content_md5("JfnnlDI7RTiF9RgfG2JNCw=="),
        ];
        for put in wrong {
            let put = put.customize();
            let put = if signed == "signed" { put } else { put.disable_payload_signing() };
            assert_eq!(refusal(put.send().await), ("BadDigest".to_owned(), 400), "{signed} payload");
        }
    }
    assert!(server.keys(BUCKET).is_empty());

    let right = client.put_object().bucket(BUCKET).key("k").body(ByteStream::from_static(CHECK));
    let sha256 = "FeKw08M4keuw8e9gnsQZQgwg4yDOlMZfvIwzEkSOsiU=";
    right.content_md5("JfnnlDI7RTiF9RgfG2JNCw==").checksum_sha256(sha256).send().await.unwrap();
    let head = client.head_object().bucket(BUCKET).key("k").checksum_mode(ChecksumMode::Enabled).send().await.unwrap();
    assert_eq!(head.checksum_sha256(), Some(sha256));
    let log = server.requests();
    let sent = log.iter().rfind(|request| request.operation == Operation::PutObject).unwrap();
    assert_eq!((sent.header("x-amz-checksum-sha256"), sent.header("authorization")), (Some(sha256), None));
    assert_eq!((sent.status, sent.bytes_in), (Some(200), 9));
}

#[tokio::test]
async fn a_checksum_after_a_streamed_body_is_read_and_kept() {
    let server = server();
    let client = checksumming_client(&server.url());
    let mut file = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut file, CHECK).unwrap();
    let streamed = ByteStream::from_path(file.path()).await.unwrap();
    client.put_object().bucket(BUCKET).key("k").body(streamed).send().await.unwrap();
    let encoding = server.requests().pop().and_then(|request| request.header("x-amz-trailer").map(str::to_owned));
    assert_eq!(encoding.as_deref(), Some("x-amz-checksum-crc32"));
    assert_eq!(server.object(BUCKET, "k").unwrap(), CHECK);
    let head = client.head_object().bucket(BUCKET).key("k").checksum_mode(ChecksumMode::Enabled).send().await.unwrap();
    assert_eq!(head.checksum_crc32(), Some("y/Q5Jg=="));
}

#[tokio::test]
async fn ranges_are_exact_and_a_range_past_the_end_is_refused() {
    let server = server();
    let client = client(&server.url());
    put(&client, "k", CHECK).await;
    let range = |range: &str| client.get_object().bucket(BUCKET).key("k").range(range).send();
    for past in ["bytes=9-", "bytes=9-9", "bytes=100-200", "bytes=-0"] {
        assert_eq!(refusal(range(past).await), ("InvalidRange".to_owned(), 416), "{past}");
    }
    let table = [
        ("bytes=0-0", "1", "bytes 0-0/9"),
        ("bytes=2-4", "345", "bytes 2-4/9"),
        ("bytes=7-100", "89", "bytes 7-8/9"),
        ("bytes=8-", "9", "bytes 8-8/9"),
        ("bytes=-3", "789", "bytes 6-8/9"),
    ];
    for (asked, bytes, content_range) in table {
        let answer = range(asked).await.unwrap();
        assert_eq!(answer.content_range(), Some(content_range));
        assert_eq!(answer.body.collect().await.unwrap().into_bytes(), bytes, "{asked}");
    }
    assert_eq!(server.requests().last().unwrap().status, Some(206));
}

#[tokio::test]
async fn a_read_may_carry_conditions() {
    let server = server();
    let client = client(&server.url());
    put(&client, "k", CHECK).await;
    let get = client.get_object().bucket(BUCKET).key("k");
    let etag = "\"25f9e794323b453885f5181f1b624d0b\"";
    assert_eq!(refusal(get.clone().if_match("\"other\"").send().await).1, 412);
    assert_eq!(refusal(get.clone().if_none_match(etag).send().await).1, 304);
    get.if_match(etag).send().await.unwrap();
}

#[tokio::test]
async fn more_than_a_thousand_keys_are_listed_once_each_and_in_order() {
    let server = Server::start(Config { page_size: 300, ..Config::default() }).unwrap();
    let client = client(&server.url());
    let keys: Vec<String> = (0..2345).map(|n| format!("wal/{n:06}")).collect();
    for key in keys.iter().chain([&"a".to_owned(), &"wal".to_owned(), &"wam".to_owned()]) {
        server.put_raw(BUCKET, key, Bytes::from_static(b"x")).unwrap();
    }
    let mut pages = client.list_objects_v2().bucket(BUCKET).prefix("wal/").into_paginator().page_size(5000).send();
    let (mut found, mut count) = (Vec::new(), 0);
    while let Some(page) = pages.try_next().await.unwrap() {
        assert!(page.contents().len() <= 300);
        found.extend(page.contents().iter().map(|object| object.key().unwrap().to_owned()));
        count += 1;
    }
    assert_eq!((found, count), (keys.clone(), 8));

    let by_start_after = client.list_objects_v2().bucket(BUCKET).start_after("wal/002300").max_keys(10).send().await;
    let page = by_start_after.unwrap();
    let found: Vec<_> = page.contents().iter().filter_map(|object| object.key()).collect();
    assert_eq!(found, keys[2301..2311].iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!((page.is_truncated(), page.key_count()), (Some(true), Some(10)));

    let forged = client.list_objects_v2().bucket(BUCKET).continuation_token("wal/000000").send().await;
    assert_eq!(refusal(forged), ("InvalidArgument".to_owned(), 400));
}

#[tokio::test]
async fn a_delimiter_rolls_keys_up_and_no_page_repeats_a_folder() {
    let server = server();
    let client = client(&server.url());
    for key in ["a", "b/1", "b/2", "b/c/3", "b0", "c/4", "d"] {
        server.put_raw(BUCKET, key, Bytes::from_static(b"x")).unwrap();
    }
    for page_size in 1..6 {
        let request = client.list_objects_v2().bucket(BUCKET).delimiter("/");
        let mut pages = request.into_paginator().page_size(page_size).send();
        let mut rows = Vec::new();
        while let Some(page) = pages.try_next().await.unwrap() {
            let keys = page.contents().iter().map(|object| object.key().unwrap().to_owned());
            rows.extend(keys.chain(page.common_prefixes().iter().map(|folder| folder.prefix().unwrap().to_owned())));
        }
        assert_eq!(rows.len(), 5, "pages of {page_size}: {rows:?}");
        let unique: BTreeSet<_> = rows.iter().map(String::as_str).collect();
        assert_eq!(unique, BTreeSet::from(["a", "b/", "b0", "c/", "d"]));
    }
    let inside = client.list_objects_v2().bucket(BUCKET).prefix("b/").delimiter("/").send().await.unwrap();
    assert_eq!((inside.contents().len(), inside.common_prefixes()[0].prefix()), (2, Some("b/c/")));
}

#[tokio::test]
async fn deleting_what_is_not_there_succeeds_and_many_keys_go_at_once() {
    let server = server();
    let client = client(&server.url());
    client.delete_object().bucket(BUCKET).key("never").send().await.unwrap();
    for key in ["a", "b", "c"] {
        put(&client, key, b"x").await;
    }
    let object = |key: &str| ObjectIdentifier::builder().key(key).build().unwrap();
    let delete = Delete::builder().objects(object("a")).objects(object("b")).objects(object("never")).build().unwrap();
    let answer = client.delete_objects().bucket(BUCKET).delete(delete).send().await.unwrap();
    assert_eq!((answer.deleted().len(), answer.errors().len()), (3, 0));
    assert_eq!(server.keys(BUCKET), ["c"]);
}

#[tokio::test]
async fn buckets_are_made_once_and_can_be_looked_for() {
    let server = server();
    let client = client(&server.url());
    assert_eq!(refusal(client.head_bucket().bucket("second").send().await).1, 404);
    client.create_bucket().bucket("second").send().await.unwrap();
    client.head_bucket().bucket("second").send().await.unwrap();
    let again = client.create_bucket().bucket("second").send().await;
    assert_eq!(refusal(again), ("BucketAlreadyOwnedByYou".to_owned(), 409));
    assert_eq!(refusal(client.list_buckets().send().await), ("NotImplemented".to_owned(), 501));
}

#[tokio::test]
async fn large_bodies_are_checked_and_counted_but_not_kept_where_asked() {
    let storage = Storage::DiscardLargerThan(1000);
    let server = Server::start(Config { storage, ..Config::default() }).unwrap();
    let client = client(&server.url());
    let put = || client.put_object().bucket(BUCKET).key("large").body(ByteStream::from(body(1001)));
    let wrong = put().checksum_sha256("FeKw08M4keuw8e9gnsQZQgwg4yDOlMZfvIwzEkSOsiU=").send().await;
    assert_eq!(refusal(wrong), ("BadDigest".to_owned(), 400));
    put().send().await.unwrap();
    let read = client.get_object().bucket(BUCKET).key("large").send().await;
    assert_eq!(refusal(read), ("InvalidObjectState".to_owned(), 403));
    crate::common::put(&client, "small", CHECK).await;
    assert_eq!(get(&client, "small").await, CHECK);
    assert_eq!(server.bytes_stored(BUCKET), 1010);
}

#[tokio::test]
async fn a_16_mib_body_arrives_whole_over_tls_and_a_stranger_to_the_certificate_gets_nothing() {
    let issued = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let tls = Tls { certificate_pem: issued.cert.pem(), key_pem: issued.signing_key.serialize_pem().into() };
    let server = Server::start(Config { tls: Some(tls), ..Config::default() }).unwrap();
    assert!(server.url().starts_with("https://"));
    let suspicious = client(&server.url());
    assert_eq!(refusal(suspicious.head_bucket().bucket(BUCKET).send().await).1, 0);

    let trust = aws_smithy_http_client::tls::TrustStore::empty().with_pem_certificate(issued.cert.pem());
    let trusting = client_with(&server.url(), "test-secret-key", http(trust));
    let sent = body(16 << 20);
    trusting.put_object().bucket(BUCKET).key("k").body(ByteStream::from(sent.clone())).send().await.unwrap();
    assert!(server.object(BUCKET, "k").unwrap() == sent);
    assert!(get(&trusting, "k").await == sent);
}

#[test]
fn a_server_works_without_a_runtime_and_frees_its_port_when_dropped() {
    let first = server();
    let listen = first.addr();
    let taken = Server::start(Config { listen, ..Config::default() }).unwrap_err();
    assert!(matches!(taken, StartError::Listen { .. }), "{taken}");
    drop(first);
    assert!(std::net::TcpStream::connect_timeout(&listen, Duration::from_secs(1)).is_err());
    let second = Server::start(Config { listen, ..Config::default() }).unwrap();
    assert_eq!(second.port(), listen.port());

    let tls = Tls { certificate_pem: "no certificate".to_owned(), key_pem: "no key".to_owned().into() };
    let broken = Server::start(Config { tls: Some(tls), ..Config::default() }).unwrap_err();
    assert!(matches!(broken, StartError::Tls { .. }), "{broken}");
}

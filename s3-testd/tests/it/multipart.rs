//! Uploads in parts, as the tools that Lifeboat is measured beside send them.

use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use lifeboat_s3_testd::{Config, Operation, Server};

use crate::common::{BUCKET, body, client, get, put, refusal};

const KEY: &str = "large";

async fn begin(client: &Client) -> String {
    client.create_multipart_upload().bucket(BUCKET).key(KEY).send().await.unwrap().upload_id.unwrap()
}

async fn send(client: &Client, upload: &str, number: i32, part: Vec<u8>) -> CompletedPart {
    let request = client.upload_part().bucket(BUCKET).key(KEY).upload_id(upload).part_number(number);
    let sent = request.body(ByteStream::from(part)).send().await.unwrap();
    CompletedPart::builder().part_number(number).e_tag(sent.e_tag.unwrap()).build()
}

async fn complete(client: &Client, upload: &str, parts: Vec<CompletedPart>) -> (String, u16) {
    let list = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
    let request = client.complete_multipart_upload().bucket(BUCKET).key(KEY).upload_id(upload);
    refusal(request.multipart_upload(list).send().await)
}

#[tokio::test]
async fn parts_that_are_missing_or_out_of_order_make_no_object_and_the_right_ones_do() {
    let server = Server::start(Config::default()).unwrap();
    let client = client(&server.url());
    let upload = begin(&client).await;
    let whole = body(1_000_000);
    let second = send(&client, &upload, 2, whole[400_000..].to_vec()).await;
    let replaced = send(&client, &upload, 1, b"not this".to_vec()).await;
    let first = send(&client, &upload, 1, whole[..400_000].to_vec()).await;
    let unknown = CompletedPart::builder().part_number(3).e_tag(first.e_tag.clone().unwrap()).build();
    for (why, parts, code) in [
        ("no parts", vec![], "MalformedXML"),
        ("descending", vec![second.clone(), first.clone()], "InvalidPartOrder"),
        ("twice", vec![first.clone(), first.clone()], "InvalidPartOrder"),
        ("never sent", vec![first.clone(), unknown], "InvalidPart"),
        ("sent anew since", vec![replaced, second.clone()], "InvalidPart"),
    ] {
        assert_eq!(complete(&client, &upload, parts).await, (code.to_owned(), 400), "{why}");
    }
    assert!(server.keys(BUCKET).is_empty(), "nothing shows before the upload is complete");

    assert_eq!(complete(&client, &upload, vec![first.clone(), second.clone()]).await.1, 200);
    assert_eq!(get(&client, KEY).await, whole);
    assert_eq!((server.bytes_stored(BUCKET), server.object(BUCKET, KEY).unwrap().len()), (1_000_000, 1_000_000));
    let ranged = client.get_object().bucket(BUCKET).key(KEY).range("bytes=399990-400009").send().await.unwrap();
    assert_eq!(ranged.content_range(), Some("bytes 399990-400009/1000000"));
    assert_eq!(ranged.body.collect().await.unwrap().to_vec(), whole[399_990..=400_009]);
    assert_eq!(server.count(Operation::UploadPart), 3);
    let again = complete(&client, &upload, vec![first, second]).await;
    assert_eq!(again, ("NoSuchUpload".to_owned(), 404), "an upload ends when it is complete");
}

#[tokio::test]
async fn an_aborted_upload_and_a_foreign_one_take_no_parts() {
    let server = Server::start(Config::default()).unwrap();
    let client = client(&server.url());
    let upload = begin(&client).await;
    let part = send(&client, &upload, 1, b"part".to_vec()).await;
    let elsewhere = client.upload_part().bucket(BUCKET).key("other").upload_id(&upload).part_number(1);
    let elsewhere = elsewhere.body(ByteStream::from_static(b"x")).send().await;
    assert_eq!(refusal(elsewhere), ("NoSuchUpload".to_owned(), 404));
    for number in [0, 10_001] {
        let request = client.upload_part().bucket(BUCKET).key(KEY).upload_id(&upload).part_number(number);
        let answer = request.body(ByteStream::from_static(b"x")).send().await;
        assert_eq!(refusal(answer), ("InvalidArgument".to_owned(), 400), "{number}");
    }
    client.abort_multipart_upload().bucket(BUCKET).key(KEY).upload_id(&upload).send().await.unwrap();
    assert_eq!(complete(&client, &upload, vec![part]).await, ("NoSuchUpload".to_owned(), 404));
    assert!(server.keys(BUCKET).is_empty());
}

#[tokio::test]
async fn completing_may_be_bound_to_the_keys_absence() {
    let server = Server::start(Config::default()).unwrap();
    let client = client(&server.url());
    put(&client, KEY, b"older").await;
    let upload = begin(&client).await;
    let part = send(&client, &upload, 1, b"newer".to_vec()).await;
    let list = CompletedMultipartUpload::builder().parts(part.clone()).build();
    let bound = client.complete_multipart_upload().bucket(BUCKET).key(KEY).upload_id(&upload).if_none_match("*");
    let answer = refusal(bound.multipart_upload(list).send().await);
    assert_eq!(answer, ("PreconditionFailed".to_owned(), 412));
    assert_eq!(get(&client, KEY).await, b"older");
    assert_eq!(complete(&client, &upload, vec![part]).await.1, 200);
    assert_eq!(get(&client, KEY).await, b"newer");
}

//! The second opinion: what our server says of conditional writes, another implementation says too.

use aws_sdk_s3::primitives::ByteStream;
use lifeboat_s3_testd::{Moto, MotoError};

use crate::common::{BUCKET, client, refusal};

#[tokio::test]
async fn moto_starts_with_a_bucket_and_agrees_about_conditional_writes() {
    let moto = tokio::task::spawn_blocking(|| Moto::start(BUCKET)).await.unwrap().unwrap();
    let client = client(&moto.url());
    assert_eq!(refusal(client.head_object().bucket(BUCKET).key("k").send().await).1, 404);
    let create = || client.put_object().bucket(BUCKET).key("k").if_none_match("*").body(ByteStream::from_static(b"1"));
    create().send().await.unwrap();
    assert_eq!(refusal(create().send().await), ("PreconditionFailed".to_owned(), 412));
    let address = moto.addr();
    tokio::task::spawn_blocking(move || drop(moto)).await.unwrap();
    assert!(tokio::net::TcpStream::connect(address).await.is_err(), "dropping it ends the process");
}

#[tokio::test]
async fn a_bucket_that_moto_does_not_like_is_an_error() {
    let answer = tokio::task::spawn_blocking(|| Moto::start("x")).await.unwrap();
    assert!(matches!(answer.unwrap_err(), MotoError::NoAnswer { .. }));
}

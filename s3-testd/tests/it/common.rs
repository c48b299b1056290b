//! A client as the product configures it, and what the tests ask of it.

use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation, SharedHttpClient,
};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use aws_smithy_http_client::Builder;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};

/// The bucket of `Config::default()`.
pub const BUCKET: &str = "lifeboat";

/// One attempt, 10 seconds, no checksums of its own accord.
pub fn client(url: &str) -> Client {
    client_with(url, "test-secret-key", http(TrustStore::default()))
}

pub fn http(trust: TrustStore) -> SharedHttpClient {
    let tls = TlsContext::builder().with_trust_store(trust).build().unwrap();
    Builder::new().tls_provider(Provider::Rustls(CryptoMode::AwsLc)).tls_context(tls).build_https()
}

pub fn client_with(url: &str, secret_key: &str, http: SharedHttpClient) -> Client {
    Client::from_conf(config(url, secret_key, http).build())
}

/// A client as others configure it: a checksum with every upload.
pub fn checksumming_client(url: &str) -> Client {
    let config = config(url, "test-secret-key", http(TrustStore::default()));
    Client::from_conf(config.request_checksum_calculation(RequestChecksumCalculation::WhenSupported).build())
}

fn config(url: &str, secret_key: &str, http: SharedHttpClient) -> aws_sdk_s3::config::Builder {
    aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .http_client(http)
        .endpoint_url(url)
        .force_path_style(true)
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new("test-access-key", secret_key, None, None, "test"))
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        .retry_config(RetryConfig::standard().with_max_attempts(1))
        .timeout_config(TimeoutConfig::builder().operation_attempt_timeout(Duration::from_secs(10)).build())
}

/// The S3 error code and the HTTP status of a refusal; empty and 0 if there was no answer.
pub fn refusal<T, E: ProvideErrorMetadata>(result: Result<T, SdkError<E>>) -> (String, u16) {
    let Err(error) = result else { return ("accepted".to_owned(), 200) };
    let status = error.raw_response().map_or(0, |response| response.status().as_u16());
    (error.code().unwrap_or("").to_owned(), status)
}

pub async fn put(client: &Client, key: &str, body: &'static [u8]) {
    client.put_object().bucket(BUCKET).key(key).body(ByteStream::from_static(body)).send().await.unwrap();
}

pub async fn get(client: &Client, key: &str) -> Vec<u8> {
    let answer = client.get_object().bucket(BUCKET).key(key).send().await.unwrap();
    answer.body.collect().await.unwrap().to_vec()
}

/// The same body always, with no two equal pages.
pub fn body(length: usize) -> Vec<u8> {
    (0..length).map(|i| u8::try_from((i ^ (i >> 8) ^ (i >> 16)) & 0xFF).unwrap()).collect()
}

//! Every kind of store keeps the whole contract.

mod support;

use std::sync::Arc;

use lifeboat_s3_testd::{Config, Moto, Server, Tls};
use lifeboat_stores::{
    MemoryStore, Operation, RegionSettings, StackOptions, Store, Support, WithFaults, contract, open, open_below,
    standard_stack,
};
use lifeboat_vocabulary::Secret;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

#[tokio::test(flavor = "multi_thread")]
async fn a_store_in_memory_keeps_the_contract() {
    contract::run(Arc::new(MemoryStore::new())).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_wrappers_of_a_store_keep_the_contract() {
    let store = Arc::new(WithFaults::new(Arc::new(MemoryStore::new())));
    let stack = standard_stack(store, StackOptions::with_short_pauses(8));
    contract::run(Arc::clone(&stack.store)).await.unwrap();
    assert_eq!(stack.store.to_string(), "memory", "wrappers show what they wrap");
    let snapshot = stack.metrics.snapshot();
    assert!(Operation::ALL.iter().all(|operation| snapshot.of(*operation).requests > 0), "{snapshot:?}");
    assert_eq!(snapshot.in_flight, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_keeps_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    let settings = RegionSettings::from_url(support::name(), &format!("file://{}", dir.path().display())).unwrap();
    contract::run(open(&settings).await.unwrap()).await.unwrap();
    contract::run(open_below(&settings, Some(&"main".parse().unwrap())).await.unwrap()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_keeps_the_contract_over_plain_http() {
    let server = Server::start(Config { page_size: 100, ..Config::default() }).unwrap();
    let store = open_below(&support::region(&server.url(), ""), Some(&"main".parse().unwrap())).await.unwrap();
    assert_eq!(store.to_string(), "s3://lifeboat/pg/main");
    contract::run(store).await.unwrap();
    assert!(server.keys("lifeboat").iter().all(|key| key.starts_with("pg/main/contract/")));
}

/// A private authority, and a certificate for 127.0.0.1 that it signed.
fn private_authority() -> (String, Tls) {
    let (root_key, key) = (KeyPair::generate().expect("a key"), KeyPair::generate().expect("a key"));
    let mut root = CertificateParams::new(Vec::new()).expect("parameters");
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root_pem = root.self_signed(&root_key).expect("signed").pem();
    let issuer = Issuer::new(root, root_key);
    let own = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("parameters");
    let certificate_pem = own.signed_by(&key, &issuer).expect("signed").pem();
    (root_pem, Tls { certificate_pem, key_pem: Secret::new(key.serialize_pem()) })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_keeps_the_contract_over_tls_with_a_private_authority() {
    let (root, tls) = private_authority();
    let server = Server::start(Config { tls: Some(tls), ..Config::default() }).unwrap();

    let (stranger, _) = private_authority();
    let wrong = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut wrong.as_file(), stranger.as_bytes()).unwrap();
    let settings = support::region(&server.url(), &format!("&ca={}", wrong.path().display()));
    let error = open(&settings).await.unwrap().list("", None).await.unwrap_err();
    assert!(error.to_string().contains("ca_file"), "{error:?}");

    let right = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut right.as_file(), root.as_bytes()).unwrap();
    let settings = support::region(&server.url(), &format!("&ca={}", right.path().display()));
    contract::run(open(&settings).await.unwrap()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn moto_agrees_except_about_races_and_digests() {
    let moto = tokio::task::spawn_blocking(|| Moto::start("lifeboat")).await.unwrap().unwrap();
    let store: Arc<dyn Store> = open(&support::region(&moto.url(), "")).await.unwrap();
    contract::run_with(store, Support::No).await.unwrap();
}

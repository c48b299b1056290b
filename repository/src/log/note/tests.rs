//! Tests of signed notes.

use super::*;
use proptest::prelude::*;
use zeroize::Zeroizing;

const TEXT: &str = "{\"v\":1,\"kind\":\"init\",\"seq\":0}\n";

fn signer(name: &str, first: u8) -> NoteSigner {
    let seed = Zeroizing::new(std::array::from_fn(|i| first.wrapping_add(u8::try_from(i).unwrap())));
    NoteSigner::new(name.parse().unwrap(), SigningKey::from_seed(&seed))
}

fn db1() -> NoteSigner {
    signer("lifeboat.example/db1", 0xe0)
}

/// Computed with pyca/cryptography: seed e0..ff.
#[test]
fn the_known_answer_is_reproduced_and_accepted() {
    let note = sign(TEXT, &[&db1()]).unwrap();
    let line = "\u{2014} lifeboat.example/db1 SLbqpQ32iz3zbG4LkaM0JrNZIYf4rrYGP6nS+aNX8e0ThgzIXPtDkqNzLfz6u1iAztIp6eLxI/9hkMwFIMjxf9ohHQA=\n";
    assert_eq!(String::from_utf8(note.clone()).unwrap(), format!("{TEXT}\n{line}"));
    assert_eq!(sha256(&note).to_string(), "be2169b10c4667ef1d1c2f7caeb893013be5a1990f796b4e0d646b045665b280");
    let verified = verify(&note, &[db1().verify_key()]).unwrap();
    assert_eq!(verified, VerifiedNote { text: TEXT, signers: vec![db1().verify_key()] });
}

/// The example of the format's first implementation, golang.org/x/mod/sumdb/note: a key and a note that Go made.
#[test]
fn a_note_by_another_implementation_is_accepted() {
    let key = BASE64.decode(b"ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW").unwrap();
    let key = VerifyKey::from_bytes(key[1..].try_into().unwrap()).unwrap();
    assert_eq!(key_id("PeterNeumann", &key), [0xc7, 0x4f, 0x20, 0xa3]);
    let text = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n";
    let line = "\u{2014} PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";
    let note = format!("{text}\n{line}");
    assert_eq!(verify(note.as_bytes(), &[key]).unwrap(), VerifiedNote { text, signers: vec![key] });
}

#[test]
fn every_flipped_bit_is_detected() {
    let note = sign(TEXT, &[&db1()]).unwrap();
    for place in 0..note.len() {
        for bit in 0..8 {
            let mut changed = note.clone();
            changed[place] ^= 1 << bit;
            assert!(verify(&changed, &[db1().verify_key()]).is_err(), "byte {place} bit {bit}");
        }
    }
    for length in 0..note.len() {
        assert!(verify(&note[..length], &[db1().verify_key()]).is_err(), "cut at {length}");
    }
}

#[test]
fn malformed_notes_are_refused_by_meaning() {
    let good = String::from_utf8(sign(TEXT, &[&db1()]).unwrap()).unwrap();
    let line = good.rsplit_once("\n\n").unwrap().1;
    let many = format!("{TEXT}\n{}", line.repeat(17));
    for (why, note, expected) in [
        ("nothing", String::new(), NoteError::Text),
        ("no signature", TEXT.to_owned(), NoteError::Unsigned),
        ("an empty line and no signature", format!("{TEXT}\n"), NoteError::Unsigned),
        ("a tab", good.replace(':', "\t"), NoteError::Text),
        ("carriage returns", good.replace('\n', "\r\n"), NoteError::Text),
        ("no last newline", good.trim_end().to_owned(), NoteError::Text),
        ("a hyphen for the dash", good.replace('\u{2014}', "-"), NoteError::SignatureLine { line: 1 }),
        ("a name with a plus", good.replace("/db1", "+db1"), NoteError::SignatureLine { line: 1 }),
        ("no base64", good.replace("SLbqp", "SLb!p"), NoteError::SignatureLine { line: 1 }),
        ("rubbish below", format!("{good}rubbish\n"), NoteError::SignatureLine { line: 2 }),
        ("another name", good.replace("/db1", "/db2"), NoteError::UnknownSigner),
        ("another text", good.replace("init", "back"), NoteError::WrongSignature { line: 1 }),
        ("an added newline", format!("\n{good}"), NoteError::WrongSignature { line: 1 }),
        ("seventeen signatures", many, NoteError::TooManySignatures),
        (
            "too large",
            format!("{}\n{good}", "a".repeat(1 << 20)),
            NoteError::TooLarge { bytes: (1 << 20) + 1 + good.len() },
        ),
    ] {
        assert_eq!(verify(note.as_bytes(), &[db1().verify_key()]).unwrap_err(), expected, "{why}");
    }
}

#[test]
fn one_known_signature_is_enough_and_a_wrong_one_is_refused() {
    let (ours, other) = (db1(), signer("witness.example", 1));
    let both = sign(TEXT, &[&other, &ours]).unwrap();
    assert_eq!(verify(&both, &[]).unwrap_err(), NoteError::UnknownSigner);
    assert_eq!(verify(&both, &[ours.verify_key()]).unwrap().signers, [ours.verify_key()]);
    let known = [ours.verify_key(), other.verify_key()];
    assert_eq!(verify(&both, &known).unwrap().signers, [other.verify_key(), ours.verify_key()]);

    // A signature over another text, under the name of the second signer.
    let foreign = String::from_utf8(sign("other\n", &[&other]).unwrap()).unwrap();
    let mixed =
        format!("{}{}", String::from_utf8(sign(TEXT, &[&ours]).unwrap()).unwrap(), &foreign["other\n\n".len()..]);
    assert_eq!(verify(mixed.as_bytes(), &known).unwrap_err(), NoteError::WrongSignature { line: 2 });
    assert!(verify(mixed.as_bytes(), &[ours.verify_key()]).is_ok(), "signatures by unknown keys are skipped");
}

#[test]
fn texts_that_cannot_be_signed_are_refused() {
    let (ours, none): (_, &[&NoteSigner]) = (db1(), &[]);
    assert_eq!(sign("no newline", &[&ours]).unwrap_err(), NoteError::Text);
    assert_eq!(sign("a\tb\n", &[&ours]).unwrap_err(), NoteError::Text);
    assert_eq!(sign(TEXT, none).unwrap_err(), NoteError::Unsigned);
    assert_eq!(sign(TEXT, &[&ours; 17]).unwrap_err(), NoteError::TooManySignatures);
    let long = format!("{}\n", "a".repeat(1 << 20));
    assert!(matches!(sign(&long, &[&ours]).unwrap_err(), NoteError::TooLarge { .. }));
}

#[test]
fn key_names_fit_into_keys_and_notes() {
    for text in ["", "/", "a/", "/a", "A", "a b", "a+b", "a_b", ".a", "a//b", "-a", "ä", &"a".repeat(101)] {
        assert!(text.parse::<KeyName>().is_err(), "{text}");
    }
    for text in ["a", "lifeboat.example/db1", "db-1/main"] {
        let name: KeyName = text.parse().unwrap();
        assert_eq!(KeyName::from_key_part(&name.as_key_part()), Some(name));
    }
}

proptest! {
    #[test]
    fn any_signed_text_is_given_back(text in "(\\PC{0,30}\n){1,5}") {
        let note = sign(&text, &[&db1()]).unwrap();
        prop_assert_eq!(verify(&note, &[db1().verify_key()]).unwrap().text, text);
    }

    #[test]
    fn arbitrary_bytes_are_refused_without_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        text in "\\PC{0,40}\n\n(\u{2014} [a-z]{0,5} [A-Za-z0-9+/=]{0,100}\n){0,3}",
    ) {
        prop_assert!(verify(&bytes, &[db1().verify_key()]).is_err());
        prop_assert!(verify(text.as_bytes(), &[db1().verify_key()]).is_err());
    }
}

//! Runs the files in `tests/vectors`: each says what must come out, and why. They were made by another implementation
//! (`make_vectors.py` beside them), and are never changed, only added to.

use std::collections::BTreeMap;
use std::path::Path;

use ed25519_dalek::VerifyingKey;
use lifeboat_repository::format::compression::Decompressor;
use lifeboat_repository::format::ids::ObjectKind;
use lifeboat_repository::format::seal::EpochKey;
use lifeboat_repository::format::unseal::{ExpectedObject, verify_object};

use crate::samples::class;

fn hex<const N: usize>(text: &str) -> [u8; N] {
    data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap().try_into().unwrap()
}

/// Header lines `name: value`, an empty line, then the object in base64.
fn run(text: &str) -> Result<(), String> {
    let (head, body) = text.split_once("\n\n").ok_or("no empty line")?;
    let fields: BTreeMap<_, _> = head.lines().filter_map(|line| line.split_once(": ")).collect();
    let field = |name: &str| fields.get(name).copied().ok_or(format!("no {name}"));
    let object = data_encoding::BASE64.decode(body.replace('\n', "").as_bytes()).map_err(|error| error.to_string())?;
    let kind = ObjectKind::from_byte(field("kind")?.parse().unwrap()).ok_or("no such kind")?;
    let signers: Vec<_> =
        fields.get("signer").map(|key| VerifyingKey::from_bytes(&hex(key)).unwrap()).into_iter().collect();
    let expected = ExpectedObject {
        kind,
        repository: field("repository")?.parse().unwrap(),
        epoch: field("epoch")?.parse().unwrap(),
        object: None,
        place: None,
    };
    let key = EpochKey::from_bytes(hex(field("epoch-key")?));
    let mut decompressor = Decompressor::new().unwrap();
    let found = match verify_object(&key, &expected, &signers, object.into(), &mut decompressor) {
        Ok(summary) => format!("success {} {}", summary.data_frames, summary.raw_bytes),
        Err(error) => class(&error).to_owned(),
    };
    let wanted = field("expect")?;
    if found == wanted { Ok(()) } else { Err(format!("expected {wanted}, found {found}: {}", field("reason")?)) }
}

#[test]
fn every_vector_gives_its_expected_outcome() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
    let (mut accepted, mut refused, mut wrong) = (0, 0, Vec::new());
    for file in std::fs::read_dir(directory).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "lfb1") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        if let Err(what) = run(&text) {
            wrong.push(format!("{}: {what}", path.file_name().unwrap().display()));
        }
        *if text.contains("\nexpect: success") { &mut accepted } else { &mut refused } += 1;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(accepted >= 8 && refused >= 60, "{accepted} accepted, {refused} refused: files are missing");
}

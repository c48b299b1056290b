//! Signed notes: text that people can read, with signatures below it (c2sp.org/signed-note).
//!
//! ```text
//! {"v":1,"kind":"init","seq":0}
//!
//! — lifeboat.example/db1 SLbqpQ32iz3zbG4L...
//! ```
//! The signed bytes are exactly the text above the empty line. Names on signature lines are labels: what counts is
//! whether one of the keys that the reader was given has signed.

use data_encoding::BASE64;

use crate::format::aead::sha256;
use crate::format::key_name::KeyName;
use crate::keys::signing::{SIGNATURE_BYTES, SigningKey, VerifyKey};

/// The largest note that is written or read, in **bytes**.
pub(crate) const NOTE_BYTES_MAX: usize = 1 << 20;
/// The largest number of signatures below one note.
pub(crate) const SIGNATURES_MAX: usize = 16;
const MARK: &str = "\u{2014} ";
const ED25519: u8 = 1;
const KEY_ID_BYTES: usize = 4;

/// Why a note is not accepted, or cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoteError {
    /// More than anybody writes.
    #[error("a note of {bytes} bytes is larger than {NOTE_BYTES_MAX}")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// It is not UTF-8, has control characters, or does not end with a newline.
    #[error("the note is not plain text")]
    Text,
    /// There is no empty line with signatures below it.
    #[error("the note has no signatures")]
    Unsigned,
    /// A line below the text is not a signature.
    #[error("signature line {line} of the note is malformed")]
    SignatureLine {
        /// Counted from 1.
        line: usize,
    },
    /// More signatures than anybody needs.
    #[error("the note has more than {SIGNATURES_MAX} signatures")]
    TooManySignatures,
    /// No known key has signed it.
    #[error("the note is not signed by any known key")]
    UnknownSigner,
    /// It is not what was signed.
    #[error("signature line {line} of the note does not fit its text")]
    WrongSignature {
        /// Counted from 1.
        line: usize,
    },
}

/// A name with the private key behind it.
#[derive(Debug)]
pub struct NoteSigner {
    name: KeyName,
    key: SigningKey,
    root: VerifyKey,
}

impl NoteSigner {
    /// Signs as `name` with `key`, which is the root key of the repository itself: it may sign everything.
    #[must_use]
    pub fn new(name: KeyName, key: SigningKey) -> Self {
        let root = key.verify_key();
        Self { name, key, root }
    }

    /// Signs as `name` with `key`, which the root key `root` has named in the log.
    #[must_use]
    pub fn under(name: KeyName, key: SigningKey, root: VerifyKey) -> Self {
        Self { name, key, root }
    }

    /// The root key of the repository.
    #[must_use]
    pub fn root(&self) -> VerifyKey {
        self.root
    }

    /// Whether it is the root key that signs.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.root == self.verify_key()
    }

    /// The name that stands on its signature lines.
    #[must_use]
    pub fn name(&self) -> &KeyName {
        &self.name
    }

    /// What its signatures are checked with.
    #[must_use]
    pub fn verify_key(&self) -> VerifyKey {
        self.key.verify_key()
    }

    /// The key, for objects that carry their own signature.
    #[must_use]
    pub fn key(&self) -> &SigningKey {
        &self.key
    }
}

/// A note whose signatures were checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedNote<'a> {
    /// The text, with its last newline.
    pub text: &'a str,
    /// Which of the known keys have signed it; at least one.
    pub signers: Vec<VerifyKey>,
}

/// The first 4 bytes of SHA-256(name ‖ 0x0A ‖ 0x01 ‖ public key).
fn key_id(name: &str, key: &VerifyKey) -> [u8; KEY_ID_BYTES] {
    let [a, b, c, d, ..] = *sha256(&[name.as_bytes(), b"\n", &[ED25519], key.as_bytes()].concat()).as_bytes();
    [a, b, c, d]
}

fn is_plain_text(text: &str) -> bool {
    text.ends_with('\n') && !text.bytes().any(|b| b < 0x20 && b != b'\n')
}

/// Signs `text`, which ends with a newline, in the order of `signers`. The same text and keys give the same bytes.
///
/// # Errors
/// [`NoteError`] if the text cannot be a note, or there are none or too many signers.
pub fn sign(text: &str, signers: &[&NoteSigner]) -> Result<Vec<u8>, NoteError> {
    if !is_plain_text(text) {
        return Err(NoteError::Text);
    }
    if signers.len() > SIGNATURES_MAX {
        return Err(NoteError::TooManySignatures);
    }
    let mut note = format!("{text}\n");
    for NoteSigner { name, key, .. } in signers {
        let mut signature = key_id(name.as_str(), &key.verify_key()).to_vec();
        signature.extend_from_slice(&key.sign(text.as_bytes()));
        note.push_str(&format!("{MARK}{name} {}\n", BASE64.encode(&signature)));
    }
    match note.len() {
        _ if signers.is_empty() => Err(NoteError::Unsigned),
        bytes if bytes > NOTE_BYTES_MAX => Err(NoteError::TooLarge { bytes }),
        _ => Ok(note.into_bytes()),
    }
}

/// Splits a note into its text and the lines below it, without verifying any of it.
pub(crate) fn split(note: &[u8]) -> Result<(&str, &str), NoteError> {
    if note.len() > NOTE_BYTES_MAX {
        return Err(NoteError::TooLarge { bytes: note.len() });
    }
    let note = std::str::from_utf8(note).map_err(|_| NoteError::Text)?;
    if !is_plain_text(note) {
        return Err(NoteError::Text);
    }
    let gap = note.rfind("\n\n").ok_or(NoteError::Unsigned)?;
    let (text, lines) = note.split_at(gap + 1);
    match lines.strip_prefix('\n') {
        Some(lines) if !lines.is_empty() => Ok((text, lines)),
        _ => Err(NoteError::Unsigned),
    }
}

fn signature_of(line: &str) -> Option<(&str, [u8; KEY_ID_BYTES], Vec<u8>)> {
    let (name, encoded) = line.strip_prefix(MARK)?.split_once(' ')?;
    if name.is_empty() || name.contains(|c: char| c.is_whitespace() || c == '+') {
        return None;
    }
    let bytes = BASE64.decode(encoded.as_bytes()).ok()?;
    let (id, signature) = bytes.split_first_chunk::<KEY_ID_BYTES>()?;
    (!signature.is_empty()).then(|| (name, *id, signature.to_vec()))
}

/// Checks a note: every signature by one of the `known` keys must fit, and there must be one. Signatures by others are
/// skipped.
///
/// # Errors
/// [`NoteError`], by meaning. Nothing of the note may be used then.
pub fn verify<'a>(note: &'a [u8], known: &[VerifyKey]) -> Result<VerifiedNote<'a>, NoteError> {
    signers_of(note, known, VerifyKey::verifies)
}

/// As [`verify`], for a note that was verified before, and that its SHA-256 shows to be the same.
pub(crate) fn known_before<'a>(note: &'a [u8], known: &[VerifyKey]) -> Result<VerifiedNote<'a>, NoteError> {
    signers_of(note, known, |_, _, _| true)
}

fn signers_of<'a>(
    note: &'a [u8],
    known: &[VerifyKey],
    verifies: impl Fn(&VerifyKey, &[u8], &[u8; SIGNATURE_BYTES]) -> bool,
) -> Result<VerifiedNote<'a>, NoteError> {
    let (text, lines) = split(note)?;
    let mut signers = Vec::new();
    for (index, content) in lines.lines().enumerate() {
        let line = index + 1;
        if line > SIGNATURES_MAX {
            return Err(NoteError::TooManySignatures);
        }
        let (name, id, signature) = signature_of(content).ok_or(NoteError::SignatureLine { line })?;
        for key in known.iter().filter(|key| key_id(name, key) == id) {
            let signature: Result<[u8; SIGNATURE_BYTES], _> = signature.as_slice().try_into();
            match signature {
                Ok(signature) if verifies(key, text.as_bytes(), &signature) => signers.push(*key),
                _ => return Err(NoteError::WrongSignature { line }),
            }
        }
    }
    if signers.is_empty() { Err(NoteError::UnknownSigner) } else { Ok(VerifiedNote { text, signers }) }
}

#[cfg(test)]
mod tests;

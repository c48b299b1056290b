//! Identities: the private keys that open backups, and the files that keep them.

use lifeboat_vocabulary::{Secret, UtcTime};
use zeroize::Zeroizing;

use crate::format::ids::{RandomError, random_bytes};
use crate::keys::key_file::KEY_FILE_BYTES_MAX;
use crate::keys::key_text::{self, KeyKind, KeyTextError};
use crate::keys::passphrase::{self, LOCKED_BYTES, LockCost, PassphraseError};
use crate::keys::recipient::Recipient;

/// How many identities one file may hold: trying a passphrase on each is meant to be slow.
pub(crate) const IDENTITIES_MAX: usize = 32;

/// An X25519 private key (RFC 7748): opens every epoch key that was sealed to its [`Recipient`]. Wiped when dropped.
#[derive(Debug)]
pub struct Identity {
    private: Secret<[u8; 32]>,
    recipient: Recipient,
}

/// Why a file of identities cannot be used. Names the line, never its content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityFileError {
    /// It is not what it should be.
    #[error("the identity file is larger than {KEY_FILE_BYTES_MAX}")]
    TooLarge,
    /// A line is neither a comment nor a key.
    #[error("line {line} of the identity file")]
    Line {
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        source: KeyTextError,
    },
    /// A key cannot be unlocked.
    #[error("line {line} of the identity file")]
    Locked {
        /// Counted from 1.
        line: usize,
        /// Why not.
        source: PassphraseError,
    },
    /// A key is under a passphrase, and there is none.
    #[error("line {line} of the identity file is under a passphrase, and none was given")]
    NoPassphrase {
        /// Counted from 1.
        line: usize,
    },
    /// More keys than anybody needs.
    #[error("the identity file has more than {IDENTITIES_MAX} keys")]
    TooMany,
    /// No key at all.
    #[error("the identity file has no key in it (a line that begins with lifeboat-sk-1 or lifeboat-locked-1)")]
    Empty,
}

impl Identity {
    /// A new identity.
    ///
    /// # Errors
    /// [`RandomError`] if the operating system has no random bytes to give.
    pub fn generate() -> Result<Self, RandomError> {
        loop {
            // Every 32 bytes are a private key (RFC 7748 section 5), so this ends with the first turn.
            if let Some(identity) = Self::from_private(&Zeroizing::new(random_bytes()?)) {
                return Ok(identity);
            }
        }
    }

    fn from_private(private: &Zeroizing<[u8; 32]>) -> Option<Self> {
        let recipient = Recipient::of_private(private)?;
        Some(Self { private: Secret::new(**private), recipient })
    }

    /// Reads the text `lifeboat-sk-1...`.
    ///
    /// # Errors
    /// [`KeyTextError`], which never quotes the text.
    pub fn from_text(text: &str) -> Result<Self, KeyTextError> {
        let private = key_text::decode_32(KeyKind::Identity, text)?;
        Self::from_private(&private).ok_or(KeyTextError::Unusable { kind: KeyKind::Identity })
    }

    /// The text `lifeboat-sk-1...`: it opens all backups.
    #[must_use]
    pub fn to_text(&self) -> Secret<String> {
        Secret::new(key_text::encode(KeyKind::Identity, self.private.expose()).to_string())
    }

    /// The public half.
    #[must_use]
    pub fn recipient(&self) -> Recipient {
        self.recipient
    }

    pub(crate) fn private(&self) -> &[u8; 32] {
        self.private.expose()
    }

    /// The content of an identity file: comments, and the key on one line; under `passphrase`, if there is one.
    /// The passphrase is taken as its UTF-8 bytes, unchanged. CPU-bound with one (about half a second and 256 MiB).
    ///
    /// # Errors
    /// [`PassphraseError`] if the passphrase is empty, or there is no memory or no salt.
    pub fn to_file_text(
        &self,
        created: UtcTime,
        passphrase: Option<&Secret<String>>,
    ) -> Result<Secret<String>, PassphraseError> {
        self.to_file_text_at(created, passphrase, LockCost::DEFAULT)
    }

    fn to_file_text_at(
        &self,
        created: UtcTime,
        passphrase: Option<&Secret<String>>,
        cost: LockCost,
    ) -> Result<Secret<String>, PassphraseError> {
        let (about, key) = match passphrase {
            None => ("keep this file secret: it opens all backups", self.to_text()),
            Some(passphrase) => {
                let locked = passphrase::lock(self.private.expose(), passphrase, cost)?;
                let text = key_text::encode(KeyKind::LockedIdentity, &locked);
                ("opens all backups, together with its passphrase", Secret::new(text.to_string()))
            }
        };
        let recipient = self.recipient;
        Ok(Secret::new(format!(
            "# lifeboat identity: {about}\n# created: {created}\n# public key: {recipient}\n{}\n",
            key.expose()
        )))
    }
}

/// Reads all identities of a file: one key on a line; empty lines and lines that begin with `#` are skipped.
/// `ask` is called with the line number (from 1) for every key that is under a passphrase.
///
/// # Errors
/// [`IdentityFileError`], with the line number and without the key.
pub fn parse_file(
    text: &str,
    ask: &mut dyn FnMut(usize) -> Option<Secret<String>>,
) -> Result<Vec<Identity>, IdentityFileError> {
    if text.len() as u64 > KEY_FILE_BYTES_MAX.as_bytes() {
        return Err(IdentityFileError::TooLarge);
    }
    let mut identities = Vec::new();
    let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim()));
    for (line, content) in lines.filter(|(_, content)| !content.is_empty() && !content.starts_with('#')) {
        if identities.len() == IDENTITIES_MAX {
            return Err(IdentityFileError::TooMany);
        }
        let wrong = |source| IdentityFileError::Line { line, source };
        let identity = match key_text::kind_of(content) {
            Some(KeyKind::LockedIdentity) => {
                let locked = key_text::decode(KeyKind::LockedIdentity, content).map_err(wrong)?;
                let unusable = KeyTextError::Unusable { kind: KeyKind::LockedIdentity };
                let locked: &[u8; LOCKED_BYTES] = locked.as_slice().try_into().map_err(|_| wrong(unusable))?;
                let passphrase = ask(line).ok_or(IdentityFileError::NoPassphrase { line })?;
                let private = passphrase::unlock(locked, &passphrase);
                let private = private.map_err(|source| IdentityFileError::Locked { line, source })?;
                Identity::from_private(&private).ok_or(wrong(unusable))?
            }
            _ => Identity::from_text(content).map_err(wrong)?,
        };
        identities.push(identity);
    }
    if identities.is_empty() { Err(IdentityFileError::Empty) } else { Ok(identities) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nobody(_: usize) -> Option<Secret<String>> {
        None
    }

    fn text_of(identity: &Identity, passphrase: Option<&str>) -> String {
        let passphrase = passphrase.map(|text| Secret::new(text.to_owned()));
        let created = "2026-11-20T02:00:00Z".parse().unwrap();
        let cost = LockCost::new(64, 1, 1).unwrap();
        identity.to_file_text_at(created, passphrase.as_ref(), cost).unwrap().expose().clone()
    }

    #[test]
    fn errors_name_the_line_and_never_the_key() {
        let identity = Identity::generate().unwrap();
        let key = identity.to_text();
        let key = key.expose();
        let swapped = key.replacen("sk-1", "sk-1q", 1);
        let recipient = identity.recipient().to_string();
        let cases = [
            (String::new(), "the identity file has no key in it"),
            ("# only a comment\n\n".to_owned(), "the identity file has no key in it"),
            (format!("# c\n\n{swapped}\n"), "line 3 of the identity file: a private key (lifeboat-sk-1...) has 71"),
            (recipient, "line 1 of the identity file: this is a public key (lifeboat-pk-1...); a private key"),
            (format!("{key} {key}"), "line 1 of the identity file: a private key (lifeboat-sk-1...) has 71"),
            (format!("{key}\n").repeat(33), "the identity file has more than 32 keys"),
            (text_of(&identity, Some("p")), "line 4 of the identity file is under a passphrase, and none was given"),
            ("#".repeat((1 << 20) + 1), "the identity file is larger than 1.0 MiB"),
        ];
        for (text, expected) in cases {
            let error = lifeboat_vocabulary::error_chain(&parse_file(&text, &mut nobody).unwrap_err());
            assert!(error.starts_with(expected), "{error}");
            assert!(!error.contains(&key[20..]), "{error}");
        }
    }

    #[test]
    fn identities_are_read_from_a_file_in_order() {
        let (plain, locked) = (Identity::generate().unwrap(), Identity::generate().unwrap());
        let text = format!("{}\r\n{}", text_of(&plain, None), text_of(&locked, Some("horse")));
        let mut asked = Vec::new();
        let mut ask = |line| {
            asked.push(line);
            Some(Secret::new("horse".to_owned()))
        };
        let read = parse_file(&text, &mut ask).unwrap();
        let recipients: Vec<_> = read.iter().map(Identity::recipient).collect();
        assert_eq!(recipients, [plain.recipient(), locked.recipient()]);
        assert_eq!(asked, [9]);
        let wrong = parse_file(&text, &mut |_| Some(Secret::new("house".to_owned()))).unwrap_err();
        assert_eq!(wrong, IdentityFileError::Locked { line: 9, source: PassphraseError::Wrong });
    }

    #[test]
    fn a_locked_file_does_not_hold_the_key_itself() {
        let identity = Identity::generate().unwrap();
        let text = text_of(&identity, Some("horse"));
        assert!(!text.contains("lifeboat-sk-1"));
        assert!(text.contains(&identity.recipient().to_string()));
        assert_eq!(format!("{identity:?}").matches("Secret(..)").count(), 1);
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in "((#.*|lifeboat-(sk|locked|pk)-1[a-z0-9]{0,150}|\\PC{0,40})\n){0,6}") {
            prop_assert!(parse_file(&text, &mut nobody).is_err());
        }
    }
}

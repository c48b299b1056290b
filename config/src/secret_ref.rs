//! Where a secret is, in place of the secret.

use std::fmt;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use lifeboat_vocabulary::Secret;
use zeroize::Zeroize;

use crate::Environment;

/// The longest secret, in bytes: a key file with comments is far below.
const SECRET_MAX: usize = 64 * 1024;

/// A reference to a secret: `file:/path`, `env:NAME`, or `credential:NAME` for a systemd credential.
///
/// Source of the third: `systemd.exec(5)`, `LoadCredential=` and `$CREDENTIALS_DIRECTORY`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretRef {
    /// A file that only its owner can read.
    File(PathBuf),
    /// An environment variable.
    Variable(String),
    /// A file in the service's credentials directory.
    Credential(String),
}

/// A text that is not a reference to a secret. It never repeats the text, which may be the secret itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseSecretRefError {
    /// No such kind of reference.
    #[error("the value is not a reference to a secret (file:/path, env:NAME or credential:NAME)")]
    Kind,
    /// `file:` without an absolute path.
    #[error("the file is not named by an absolute path (such as file:/etc/lifeboat/signing.key)")]
    Path,
    /// A name with characters that it cannot have.
    #[error("the name after the colon is not usable (1 to 255 of A-Z a-z 0-9 . _ - @, not beginning with a point)")]
    Name,
}

/// Why a secret could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The variable is not set.
    #[error("environment variable {name} is not set")]
    NotSet {
        /// Its name.
        name: String,
    },
    /// The service manager gave no credentials.
    #[error("there is no credential {name}: $CREDENTIALS_DIRECTORY is not set (add LoadCredential= to the unit)")]
    NoCredentials {
        /// Its name.
        name: String,
    },
    /// The file cannot be read.
    #[error("read secret {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others can read the file.
    #[error("file {} can be read by others (mode {mode:03o}): chmod 600 it, and replace the secret", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A directory, a pipe or a device.
    #[error("{} is not a regular file", path.display())]
    NotAFile {
        /// What was named.
        path: PathBuf,
    },
    /// Empty, longer than 64 KiB, or not UTF-8.
    #[error("the secret in {origin} is {what}")]
    Content {
        /// The reference.
        origin: SecretRef,
        /// What is wrong with it.
        what: &'static str,
    },
}

impl SecretRef {
    /// Fetches the secret, without white space at its ends. Reads at most 64 KiB.
    ///
    /// # Errors
    /// [`SecretError`]; a file is refused if anybody but its owner may read it.
    pub fn load(&self, environment: &Environment) -> Result<Secret<String>, SecretError> {
        let bytes = match self {
            Self::File(path) => read(path, Audience::OwnerAlone)?,
            Self::Variable(name) => {
                let value = environment.get(name).ok_or_else(|| SecretError::NotSet { name: name.clone() })?;
                value.as_encoded_bytes().to_vec()
            }
            Self::Credential(name) => {
                let directory = environment.get("CREDENTIALS_DIRECTORY").filter(|text| !text.is_empty());
                let directory = directory.ok_or_else(|| SecretError::NoCredentials { name: name.clone() })?;
                // The service manager guards the directory itself; modes and ACLs inside are its own business.
                read(&Path::new(directory).join(name), Audience::Guarded)?
            }
        };
        self.checked(bytes)
    }

    fn checked(&self, mut bytes: Vec<u8>) -> Result<Secret<String>, SecretError> {
        let fault = |what| SecretError::Content { origin: self.clone(), what };
        if bytes.len() > SECRET_MAX {
            bytes.zeroize();
            return Err(fault("longer than 64 KiB"));
        }
        let mut text = String::from_utf8(bytes).map_err(|error| {
            error.into_bytes().zeroize();
            fault("not text")
        })?;
        let trimmed = Secret::new(text.trim().to_owned());
        text.zeroize();
        if trimmed.expose().is_empty() { Err(fault("empty")) } else { Ok(trimmed) }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Audience {
    OwnerAlone,
    Guarded,
}

fn read(path: &Path, audience: Audience) -> Result<Vec<u8>, SecretError> {
    let refused = |source| SecretError::Read { path: path.to_owned(), source };
    // Asked before opening, because opening a pipe would wait for its other end; asked again after, because only what
    // was opened counts.
    check(path, &fs::metadata(path).map_err(refused)?, audience)?;
    let file = File::open(path).map_err(refused)?;
    check(path, &file.metadata().map_err(refused)?, audience)?;
    // With all its room at once the buffer never moves, and leaves no copies behind.
    let mut bytes = Vec::with_capacity(SECRET_MAX + 1);
    file.take(SECRET_MAX as u64 + 1).read_to_end(&mut bytes).map_err(refused)?;
    Ok(bytes)
}

fn check(path: &Path, about: &Metadata, audience: Audience) -> Result<(), SecretError> {
    if !about.is_file() {
        return Err(SecretError::NotAFile { path: path.to_owned() });
    }
    let mode = about.mode() & 0o777;
    if audience == Audience::OwnerAlone && mode & 0o077 != 0 {
        return Err(SecretError::Open { path: path.to_owned(), mode });
    }
    Ok(())
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Variable(name) => write!(f, "env:{name}"),
            Self::Credential(name) => write!(f, "credential:{name}"),
        }
    }
}

impl FromStr for SecretRef {
    type Err = ParseSecretRefError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (kind, rest) = text.split_once(':').ok_or(ParseSecretRefError::Kind)?;
        let fits = |c: char| c.is_ascii_alphanumeric() || "._-@".contains(c);
        let name = || match rest {
            rest if (1..=255).contains(&rest.len()) && rest.chars().all(fits) && !rest.starts_with('.') => {
                Ok(rest.to_owned())
            }
            _ => Err(ParseSecretRefError::Name),
        };
        match kind {
            "file" if rest.starts_with('/') => Ok(Self::File(PathBuf::from(rest))),
            "file" => Err(ParseSecretRefError::Path),
            "env" => Ok(Self::Variable(name()?)),
            "credential" => Ok(Self::Credential(name()?)),
            _ => Err(ParseSecretRefError::Kind),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn file(dir: &Path, name: &str, content: &[u8], mode: u32) -> PathBuf {
        let path = dir.join(name);
        File::create(&path).unwrap().write_all(content).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn only_references_are_understood_and_errors_never_repeat_the_text() {
        for text in
            ["hunter2", "", "file:", "file:relative", "env:", "credential:../hunter2", "credential:.", "hunter2:x"]
        {
            let error = text.parse::<SecretRef>().unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
        for text in ["file:/etc/key", "env:LIFEBOAT_KEY", "credential:signing-key"] {
            assert_eq!(text.parse::<SecretRef>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let none = Environment::default();
        for mode in [0o640, 0o604, 0o660, 0o644] {
            let path = file(dir.path(), "open", b"x", mode);
            assert!(matches!(SecretRef::File(path).load(&none), Err(SecretError::Open { .. })), "{mode:o}");
        }
        for mode in [0o600, 0o400] {
            let path = file(dir.path(), &format!("{mode}"), b"hunter2\n", mode);
            assert_eq!(SecretRef::File(path).load(&none).unwrap().expose(), "hunter2");
        }
    }

    #[test]
    fn what_cannot_be_a_secret_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let none = Environment::default();
        for (why, content) in
            [("empty", b" \n".to_vec()), ("not text", vec![0xff]), ("longer", vec![b'a'; 64 * 1024 + 1])]
        {
            let path = file(dir.path(), "secret", &content, 0o600);
            let error = SecretRef::File(path).load(&none).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        assert!(matches!(SecretRef::File(dir.path().into()).load(&none), Err(SecretError::NotAFile { .. })));
        assert!(matches!(SecretRef::File(dir.path().join("no")).load(&none), Err(SecretError::Read { .. })));
    }

    #[test]
    fn variables_and_credentials_come_from_the_environment() {
        let dir = tempfile::tempdir().unwrap();
        file(dir.path(), "signing-key", b"hunter2", 0o440);
        let reference: SecretRef = "credential:signing-key".parse().unwrap();
        let variable: SecretRef = "env:KEY".parse().unwrap();
        assert!(matches!(reference.load(&Environment::default()), Err(SecretError::NoCredentials { .. })));
        assert!(matches!(variable.load(&Environment::default()), Err(SecretError::NotSet { .. })));
        let directory = dir.path().to_str().unwrap();
        let environment = Environment::from_pairs([("CREDENTIALS_DIRECTORY", directory), ("KEY", "abc")]);
        assert_eq!(reference.load(&environment).unwrap().expose(), "hunter2");
        assert_eq!(variable.load(&environment).unwrap().expose(), "abc");
        assert!(!format!("{environment:?}").contains("abc"));
    }
}

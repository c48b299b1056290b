//! Files that hold private keys: for their owner alone, written once, read with a bound.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use lifeboat_vocabulary::{ByteCount, Secret};
use zeroize::Zeroizing;

/// The largest file that is read as a key.
pub(crate) const KEY_FILE_BYTES_MAX: ByteCount = ByteCount::from_mib(1);

/// Why a file with a private key was not read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFileError {
    /// It cannot be read.
    #[error("read key file {path}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// Others may read or change it.
    #[error("key file {path} has mode {mode:04o}: others can use it; run `chmod 600 {path}`, and make a new key if they may have", path = path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It is no key.
    #[error("key file {path} is larger than {KEY_FILE_BYTES_MAX}", path = path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// It is not text.
    #[error("key file {path} is not UTF-8 text", path = path.display())]
    NotText {
        /// The file.
        path: PathBuf,
    },
    /// A key is never overwritten: backups may depend on it.
    #[error("key file {path} exists already and is not overwritten", path = path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// It cannot be written.
    #[error("write key file {path}", path = path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
}

/// Reads a private key's file, at most `KEY_FILE_BYTES_MAX`.
///
/// # Errors
/// [`KeyFileError::Exposed`] if group or others have any right to it; else as the variants say.
pub fn read_private_file(path: &Path) -> Result<Secret<String>, KeyFileError> {
    let failed = |source| KeyFileError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    // Asked of the open file, so that it cannot be exchanged in between.
    let mode = file.metadata().map_err(failed)?.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(KeyFileError::Exposed { path: path.to_owned(), mode });
    }
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(KEY_FILE_BYTES_MAX.as_bytes() + 1).read_to_end(&mut bytes).map_err(failed)?;
    if ByteCount::of(&bytes) > KEY_FILE_BYTES_MAX {
        return Err(KeyFileError::TooLarge { path: path.to_owned() });
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| KeyFileError::NotText { path: path.to_owned() })?;
    Ok(Secret::new(text.to_owned()))
}

/// Writes a private key's file with mode 0600 and waits until file and name are on disk.
///
/// # Errors
/// [`KeyFileError::Exists`] if there is a file of that name, [`KeyFileError::Write`] for everything else.
pub fn write_private_file(path: &Path, text: &Secret<String>) -> Result<(), KeyFileError> {
    let failed = |source: std::io::Error| match source.kind() {
        ErrorKind::AlreadyExists => KeyFileError::Exists { path: path.to_owned() },
        _ => KeyFileError::Write { path: path.to_owned(), source },
    };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    let written = file.write_all(text.expose().as_bytes()).and_then(|()| file.sync_all());
    if let Err(source) = written {
        // Half a key would stand in the way of the next try and could be taken for a whole one.
        if let Err(error) = std::fs::remove_file(path) {
            tracing::warn!(path = %path.display(), %error, "an incomplete key file was left behind");
        }
        return Err(failed(source));
    }
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{Permissions, set_permissions};
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_file_that_others_may_use_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key.txt");
        write_private_file(&path, &Secret::new("text\n".to_owned())).unwrap();
        for mode in [0o640, 0o604, 0o660, 0o601, 0o644] {
            set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let error = read_private_file(&path).unwrap_err();
            assert!(matches!(error, KeyFileError::Exposed { mode: found, .. } if found == mode), "{mode:o}: {error}");
        }
        for mode in [0o600, 0o400] {
            set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            assert_eq!(read_private_file(&path).unwrap().expose(), "text\n");
        }
    }

    #[test]
    fn a_key_is_never_overwritten_and_is_private_from_the_start() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key.txt");
        write_private_file(&path, &Secret::new("first".to_owned())).unwrap();
        let error = write_private_file(&path, &Secret::new("second".to_owned())).unwrap_err();
        assert!(matches!(error, KeyFileError::Exists { .. }), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "first");
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
    }

    #[test]
    fn files_that_are_not_small_texts_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| {
            let path = directory.path().join(name);
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).unwrap();
            file.write_all(bytes).unwrap();
            path
        };
        let large = write("large", &vec![b'a'; (1 << 20) + 1]);
        assert!(matches!(read_private_file(&large).unwrap_err(), KeyFileError::TooLarge { .. }));
        let binary = write("binary", &[0xff, 0xfe]);
        assert!(matches!(read_private_file(&binary).unwrap_err(), KeyFileError::NotText { .. }));
        let missing = directory.path().join("missing");
        assert!(matches!(read_private_file(&missing).unwrap_err(), KeyFileError::Read { .. }));
    }
}

//! What the system says of the user that runs this program: environment, name, home; and files of his that are read.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The most that is read of a password file, certificate or key, in bytes.
const FILE_MAX: u64 = 4 << 20;

/// Environment and user. No `Debug`: a password may be among the variables.
pub(crate) struct Surroundings {
    /// `PG*` variables.
    pub(crate) variables: HashMap<String, String>,
    /// The name of the user that runs this program.
    pub(crate) user: Option<String>,
    /// Where `.pgpass` and `.postgresql/` are.
    pub(crate) home: Option<PathBuf>,
}

impl Surroundings {
    /// Those of this process.
    pub(crate) fn of_process() -> Self {
        // A variable that is not UTF-8 cannot be a setting of the server; libpq would send it on and fail there.
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            name.into_string().ok().zip(value.into_string().ok())
        };
        let all =
            |name: &str| std::env::var_os(name).and_then(|value| value.into_string().ok()).filter(|v| !v.is_empty());
        let account = Account::of_user(rustix::process::geteuid().as_raw());
        Self {
            variables: std::env::vars_os().filter_map(text).filter(|(name, _)| name.starts_with("PG")).collect(),
            // Users that come from a directory service are not in the file; systemd and login set these for them.
            user: account
                .as_ref()
                .map(|account| account.name.clone())
                .or_else(|| all("USER"))
                .or_else(|| all("LOGNAME")),
            home: all("HOME").map(PathBuf::from).or_else(|| account.map(|account| account.home)),
        }
    }

    pub(crate) fn variable(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str)
    }
}

/// A line of the system's list of users.
pub(crate) struct Account {
    pub(crate) name: String,
    home: PathBuf,
}

impl Account {
    /// The account with this number, if the local list has it.
    pub(crate) fn of_user(number: u32) -> Option<Self> {
        // Without the list there is no name; whoever needs one says so.
        let list = read_bounded(Path::new("/etc/passwd")).unwrap_or_default();
        String::from_utf8_lossy(&list).lines().find_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            match fields.as_slice() {
                [name, _, uid, _, _, home, ..] if uid.parse() == Ok(number) => {
                    Some(Self { name: (*name).to_owned(), home: PathBuf::from(home) })
                }
                _ => None,
            }
        })
    }
}

/// Reads a small file.
pub(crate) fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    read_open(&File::open(path)?)
}

fn read_open(file: &File) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    let read = file.take(FILE_MAX + 1).read_to_end(&mut content)?;
    if u64::try_from(read).is_ok_and(|read| read <= FILE_MAX) {
        Ok(content)
    } else {
        Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("the file is larger than {FILE_MAX} bytes")))
    }
}

/// Who besides its owner may read a secret file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum MayRead {
    /// Nobody.
    OwnerOnly,
    /// The group too, if the file is root's: how system services hand keys to their users.
    GroupOfRoot,
}

/// Reads a small file that others must not be able to read.
///
/// # Errors
/// `PermissionDenied` with a text that says so, if they are; else what the system says.
pub(crate) fn read_secret(path: &Path, who: MayRead) -> io::Result<Vec<u8>> {
    // The open file is judged, not the path: a path could name another file a moment later.
    let file = File::open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a plain file"));
    }
    let forbidden = if who == MayRead::GroupOfRoot && meta.uid() == 0 { 0o037 } else { 0o077 };
    if meta.mode() & forbidden != 0 {
        let text = format!("others may read it (mode {:04o}); run `chmod 0600` on it", meta.mode() & 0o7777);
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    read_open(&file)
}

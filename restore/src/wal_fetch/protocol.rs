//! What client and prefetcher say to each other: one line there, lines back, over a Unix socket.
//!
//! ```text
//! client:     lifeboat-wal-fetch 1 <restore id> <file name>
//! prefetcher: wait                          any number of times, so that silence means death
//! prefetcher: ready <path>                  a complete file, to be moved away
//!        or:  absent                        it is not in the archive
//!        or:  failed <text>                 nobody can say; recovery must not go on
//! ```
//!
//! Only the standard library is used here: the client is started once per segment, and each library that it touched would
//! be paid for as often.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Begins every request.
pub(crate) const GREETING: &str = "lifeboat-wal-fetch 1";
/// The name of the socket in the prefetcher's directory.
pub(crate) const SOCKET: &str = "socket";
/// The name of the settings in the prefetcher's directory.
pub(crate) const SETTINGS: &str = "wal-fetch.json";
/// The name of the prefetcher's log in its directory.
pub(crate) const LOG: &str = "wal-fetch.log";
/// The longest line of the protocol in **bytes**.
pub(crate) const LINE_MAX: usize = 8192;
/// How often the prefetcher says `wait`.
pub(crate) const WAIT_EVERY: Duration = Duration::from_secs(5);
/// How long the prefetcher may be silent before it counts as dead.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(30);
/// `sun_path` holds 108 bytes with the NUL at the end (`unix(7)`).
const SOCKET_PATH_MAX: usize = 100;

/// An answer, as it goes over the socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Not yet.
    Wait,
    /// A complete file lies there.
    Ready(PathBuf),
    /// The archive does not have it.
    Absent,
    /// It could not be found out, or the file must not be replayed.
    Failed(String),
}

impl Answer {
    /// The line, with its end.
    #[must_use]
    pub(crate) fn line(&self) -> Vec<u8> {
        let mut line = match self {
            Self::Wait => b"wait".to_vec(),
            Self::Ready(path) => [b"ready ", path.as_os_str().as_bytes()].concat(),
            Self::Absent => b"absent".to_vec(),
            Self::Failed(text) => format!("failed {}", text.replace(['\n', '\r'], " ")).into_bytes(),
        };
        line.truncate(LINE_MAX - 1);
        line.push(b'\n');
        line
    }

    /// Reads a line without its end; `None` if it is none of ours.
    #[must_use]
    pub(crate) fn parse(line: &[u8]) -> Option<Self> {
        let rest = |word: &[u8]| line.strip_prefix(word).filter(|rest| !rest.is_empty());
        match line {
            b"wait" => Some(Self::Wait),
            b"absent" => Some(Self::Absent),
            _ => match (rest(b"ready "), rest(b"failed ")) {
                (Some(path), _) => Some(Self::Ready(PathBuf::from(std::ffi::OsStr::from_bytes(path)))),
                (_, Some(text)) => Some(Self::Failed(String::from_utf8_lossy(text).into_owned())),
                _ => None,
            },
        }
    }
}

/// A request: which file of which restore.
#[must_use]
pub(crate) fn request(restore: &str, name: &str) -> String {
    format!("{GREETING} {restore} {name}\n")
}

/// Reads a request without its line's end: the restore and the file.
#[must_use]
pub(crate) fn parse_request(line: &str) -> Option<(&str, &str)> {
    line.strip_prefix(GREETING)?.strip_prefix(' ')?.split_once(' ')
}

/// A socket's address that fits into `sun_path`, however deep the directory lies: a long one is reached through the
/// open directory, as long as the file is open.
///
/// # Errors
/// If the directory cannot be opened.
pub(crate) fn socket_address(path: &Path) -> io::Result<(PathBuf, Option<File>)> {
    if path.as_os_str().as_bytes().len() <= SOCKET_PATH_MAX {
        return Ok((path.to_owned(), None));
    }
    let directory = File::open(path.parent().unwrap_or(Path::new("/")))?;
    let name = path.file_name().unwrap_or_default();
    let address = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name);
    Ok((address, Some(directory)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_and_requests_survive_their_line() {
        let answers = [
            Answer::Wait,
            Answer::Absent,
            Answer::Ready("/srv/a b/segment".into()),
            Answer::Failed("region a: 500; region b: time-out".to_owned()),
        ];
        for answer in answers {
            let line = answer.line();
            assert_eq!(Answer::parse(line.strip_suffix(b"\n").unwrap()), Some(answer));
        }
        assert_eq!(Answer::Failed("a\nabsent".to_owned()).line(), b"failed a absent\n", "a text cannot be an answer");
        for line in [&b""[..], b"ready ", b"failed ", b"absent ", b"ok", b"wait\r"] {
            assert_eq!(Answer::parse(line), None);
        }
        let line = request("5f1c09ab", "000000010000000000000003");
        assert_eq!(parse_request(line.trim_end()), Some(("5f1c09ab", "000000010000000000000003")));
        assert_eq!(parse_request("GET / HTTP/1.1"), None);
    }

    #[test]
    fn a_socket_can_lie_deeper_than_its_address_is_long() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(120));
        std::fs::create_dir(&deep).unwrap();
        let path = deep.join(SOCKET);
        let (address, _open) = socket_address(&path).unwrap();
        let _listener = std::os::unix::net::UnixListener::bind(&address).unwrap();
        assert!(path.exists());
        let (address, _open) = socket_address(&path).unwrap();
        std::os::unix::net::UnixStream::connect(address).unwrap();
    }
}

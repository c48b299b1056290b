//! `restore_command`: the tiny client that PostgreSQL starts for every file. It asks the prefetcher, moves the file that it
//! is given to where PostgreSQL wants it, and ends.
//!
//! Exit codes, as PostgreSQL reads them (`src/backend/access/transam/xlogarchive.c`, `RestoreArchivedFile`):
//!
//! | code | meaning | PostgreSQL |
//! |---|---|---|
//! | 0 | the file is there | replays it |
//! | 1 | the archive does not have it; every region said so | takes it for the end of the WAL |
//! | 200 | it could not be found out, or must not be replayed | stops recovery |
//! | 201 | the prefetcher cannot be started or reached | stops recovery |
//! | 202 | the file could not be put in place | stops recovery |
//! | 203 | the command line is not what `restore` has written | stops recovery |
//! | 204 | a fault of this program | stops recovery |
//!
//! Whatever goes wrong, the code is never one of 1 to 125 by accident: PostgreSQL would open the cluster without the rest
//! of its WAL. SIGTERM ends the client at once, which PostgreSQL understands as its own shutdown.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;

use crate::wal_fetch::protocol::{Answer, LINE_MAX, LOG, SETTINGS, SILENCE_MAX, request, socket_address};

/// The archive does not have the file.
pub(crate) const ABSENT: u8 = 1;
/// It could not be found out.
pub(crate) const UNKNOWN: u8 = 200;
/// There is no prefetcher.
pub(crate) const NO_PREFETCHER: u8 = 201;
/// The file could not be put in place.
pub(crate) const NOT_PLACED: u8 = 202;
/// The command line is wrong.
pub(crate) const USAGE: u8 = 203;
/// A fault of this program.
pub(crate) const FAULT: u8 = 204;

/// How long another prefetcher, which was there first, may take until it can be asked.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// How long one that we have started may read before it can be asked; it gives up sooner by itself.
const READ_PATIENCE: Duration = Duration::from_secs(24 * 3600);
/// How often a prefetcher that died in the middle of a request is started anew.
const ATTEMPTS: u32 = 5;
const POLL: Duration = Duration::from_millis(10);

struct Request {
    socket: PathBuf,
    restore: String,
    name: String,
    target: PathBuf,
}

/// Serves `wal-fetch --socket PATH --restore ID FILE TARGET`. `None` if the command line is of another command, so that
/// the full parser takes it.
#[must_use]
pub fn run(arguments: impl Iterator<Item = OsString>) -> Option<u8> {
    let arguments: Vec<OsString> = arguments.skip(1).take(16).collect();
    if arguments.first().is_none_or(|word| word != "wal-fetch") {
        return None;
    }
    if arguments.iter().any(|word| word == "--serve" || word == "--help" || word == "-h") {
        return None;
    }
    // A panic would end with 101, which PostgreSQL takes for "not there".
    let code = std::panic::catch_unwind(|| match parse(&arguments) {
        Some(request) => fetch(&request),
        None => {
            say("usage: lifeboat-restore wal-fetch --socket PATH --restore ID %f %p (as `restore` has written it)");
            USAGE
        }
    });
    Some(code.unwrap_or(FAULT))
}

fn parse(arguments: &[OsString]) -> Option<Request> {
    let [_, socket_word, socket, restore_word, restore, name, target] = arguments else { return None };
    let text = |word: &OsString| word.to_str().map(str::to_owned);
    let plain = |text: &String| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.');
    let known = socket_word == "--socket" && restore_word == "--restore";
    let (restore, name) = (text(restore).filter(plain)?, text(name).filter(plain)?);
    known.then(|| Request { socket: socket.into(), restore, name, target: target.into() })
}

/// To standard error, which is the server's log.
fn say(text: &str) {
    // Without a log there is nobody to tell; the exit code speaks.
    drop(writeln!(io::stderr(), "lifeboat wal-fetch: {text}"));
}

fn fetch(request: &Request) -> u8 {
    let mut last = String::new();
    for _ in 0..ATTEMPTS {
        let stream = match connect_or_start(&request.socket) {
            Ok(stream) => stream,
            Err(error) => {
                say(&format!("no prefetcher at {}: {error}", request.socket.display()));
                return NO_PREFETCHER;
            }
        };
        match ask(stream, request) {
            Ok(Answer::Ready(path)) => return placed(&path, request),
            Ok(Answer::Absent) => return ABSENT,
            Ok(Answer::Failed(text)) => {
                say(&format!("{}: {text}", request.name));
                return UNKNOWN;
            }
            // It died while it worked: the next one begins anew.
            Ok(Answer::Wait) => "it said nothing".clone_into(&mut last),
            Err(error) => last = error.to_string(),
        }
    }
    say(&format!("{}: the prefetcher ended {ATTEMPTS} times in the middle of a request: {last}", request.name));
    NO_PREFETCHER
}

fn placed(path: &Path, request: &Request) -> u8 {
    match place(path, &request.target) {
        Ok(()) => 0,
        Err(error) => {
            say(&format!("{}: put {} into {}: {error}", request.name, path.display(), request.target.display()));
            NOT_PLACED
        }
    }
}

fn connect(socket: &Path) -> io::Result<UnixStream> {
    let (address, _open) = socket_address(socket)?;
    UnixStream::connect(address)
}

fn connect_or_start(socket: &Path) -> io::Result<UnixStream> {
    match connect(socket) {
        Ok(stream) => return Ok(stream),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {}
        Err(error) => return Err(error),
    }
    let begun = Instant::now();
    let mut child = start(socket)?;
    loop {
        match connect(socket) {
            Ok(stream) => return Ok(stream),
            // Another one may hold the place and not listen yet; then ours ends well.
            Err(error) => match child.try_wait()? {
                Some(status) if !status.success() => {
                    let log = socket.with_file_name(LOG);
                    return Err(io::Error::other(format!("it ended with {status}; see {}", log.display())));
                }
                Some(_) if begun.elapsed() > START_PATIENCE => return Err(error),
                // It reads the repository first, as patiently as its settings say.
                None if begun.elapsed() > READ_PATIENCE => return Err(error),
                Some(_) | None => {}
            },
        }
        std::thread::sleep(POLL);
    }
}

/// Starts the prefetcher as a process of its own. It leaves this one's session by itself and tells its story to a file
/// beside the socket.
fn start(socket: &Path) -> io::Result<std::process::Child> {
    let log = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(socket.with_file_name(LOG))?;
    let errors = log.try_clone()?;
    Command::new(std::env::current_exe()?)
        .args(["wal-fetch", "--serve"])
        .arg(socket.with_file_name(SETTINGS))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        .spawn()
}

/// Sends the request and waits for the last line of the answer.
fn ask(mut stream: UnixStream, asked: &Request) -> io::Result<Answer> {
    stream.set_read_timeout(Some(SILENCE_MAX))?;
    stream.set_write_timeout(Some(SILENCE_MAX))?;
    stream.write_all(request(&asked.restore, &asked.name).as_bytes())?;
    let mut lines = BufReader::new(stream);
    loop {
        let mut line = Vec::new();
        let count = lines.by_ref().take(LINE_MAX as u64).read_until(b'\n', &mut line)?;
        if count == 0 || line.pop() != Some(b'\n') {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match Answer::parse(&line) {
            Some(Answer::Wait) => {}
            Some(answer) => return Ok(answer),
            None => return Err(io::Error::new(io::ErrorKind::InvalidData, "the answer is not understood")),
        }
    }
}

/// Moves a complete file to its place: at once, never partly.
///
/// CRASH SAFETY. A rename shows all of the file or nothing. It need not be flushed: PostgreSQL asks for the file again
/// after a crash, and flushes what it keeps (`durable_rename` in `KeepFileRestoredFromArchive`). Over the bounds of a
/// file system the file is copied under another name first.
fn place(from: &Path, to: &Path) -> io::Result<()> {
    match rustix::fs::rename(from, to) {
        Err(rustix::io::Errno::XDEV) => {}
        other => return Ok(other?),
    }
    let mut name = to.as_os_str().to_owned();
    name.push(".lifeboat");
    let beside = PathBuf::from(name);
    let copied = copy(from, &beside).and_then(|()| Ok(rustix::fs::rename(&beside, to)?));
    if copied.is_err() {
        // Whatever is left of it has a name that PostgreSQL does not read.
        drop(std::fs::remove_file(&beside));
    }
    copied?;
    std::fs::remove_file(from)
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let mut source = File::open(from)?;
    let mut copy = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(to)?;
    io::copy(&mut source, &mut copy)?;
    copy.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    fn words(text: &str) -> Vec<OsString> {
        text.split_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn a_command_line_that_is_not_understood_never_looks_like_the_end_of_the_wal() {
        for line in [
            "x wal-fetch",
            "x wal-fetch --socket /s 0000000100000000000000AA",
            "x wal-fetch --socket /s --restore ab 00000002.history",
            "x wal-fetch --socket /s --restore ab a/b p",
            "x wal-fetch --socket /s --restore ab name p more",
            "x wal-fetch --sock /s --restore ab name p",
        ] {
            assert_eq!(run(words(line).into_iter()), Some(USAGE), "{line}");
        }
        for line in ["x", "x list", "x restore --to wal-fetch", "x wal-fetch --serve f", "x wal-fetch --help"] {
            assert_eq!(run(words(line).into_iter()), None, "{line}");
        }
    }

    /// Answers requests with these texts, one connection each, and counts them.
    fn prefetcher(dir: &Path, answers: Vec<Vec<u8>>) -> std::thread::JoinHandle<usize> {
        let listener = UnixListener::bind(dir.join("socket")).unwrap();
        std::thread::spawn(move || {
            for answer in &answers {
                let (stream, _) = listener.accept().unwrap();
                let mut line = String::new();
                BufReader::new(&stream).read_line(&mut line).unwrap();
                assert_eq!(line, "lifeboat-wal-fetch 1 ab 00000002.history\n");
                (&stream).write_all(answer).unwrap();
            }
            answers.len()
        })
    }

    fn run_in(dir: &Path) -> u8 {
        let line = format!("x wal-fetch --socket {0}/socket --restore ab 00000002.history {0}/target", dir.display());
        run(words(&line).into_iter()).unwrap()
    }

    #[test]
    fn answers_become_exit_codes_and_a_dead_prefetcher_is_asked_again() {
        let ready = |dir: &Path| format!("wait\nready {}/file\n", dir.display()).into_bytes();
        let cut = b"wait\nabs".to_vec();
        for (why, answers, code) in [
            ("absent", vec![b"absent\n".to_vec()], ABSENT),
            ("failed", vec![b"wait\nfailed 500\n".to_vec()], UNKNOWN),
            ("cut in the middle, then absent", vec![cut.clone(), b"absent\n".to_vec()], ABSENT),
            ("cut every time", vec![cut; 5], NO_PREFETCHER),
            ("not understood", vec![b"ok\n".to_vec(); 5], NO_PREFETCHER),
            ("ready without a file", vec![b"ready /nowhere/file\n".to_vec()], NOT_PLACED),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let served = prefetcher(dir.path(), answers);
            assert_eq!(run_in(dir.path()), code, "{why}");
            served.join().unwrap();
            assert!(!dir.path().join("target").exists(), "{why}");
        }
        let dir = tempfile::tempdir().unwrap();
        File::create(dir.path().join("file")).unwrap().write_all(b"wal").unwrap();
        let served = prefetcher(dir.path(), vec![ready(dir.path())]);
        assert_eq!(run_in(dir.path()), 0);
        assert_eq!(served.join().unwrap(), 1);
        assert_eq!(std::fs::read(dir.path().join("target")).unwrap(), b"wal");
        assert!(!dir.path().join("file").exists());
    }
}

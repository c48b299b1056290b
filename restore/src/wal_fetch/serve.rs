//! The prefetcher's door: a Unix socket beside the data directory, and the process behind it when no restore runs.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use lifeboat_postgres::{RECOVERY_SIGNAL, STANDBY_SIGNAL};
use parking_lot::Mutex;
use rustix::fs::FlockOperation;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::fetch::archive::Archive;
use crate::fetch::beneath::{Beneath, Owner};
use crate::wal_fetch::fetch::Fetcher;
use crate::wal_fetch::prefetch::Prefetcher;
use crate::wal_fetch::protocol::{Answer, LINE_MAX, SOCKET, WAIT_EVERY, parse_request};
use crate::wal_fetch::segment_files::SegmentFiles;
use crate::wal_fetch::settings::WalFetchSettings;
use crate::wal_fetch::tablespaces::TablespaceGuard;

/// How long a process of its own stays when nobody asks any more. The next request starts another one.
const IDLE_MAX: Duration = Duration::from_secs(10 * 60);
/// Likewise, once the server has finished its recovery.
const RECOVERED_IDLE: Duration = Duration::from_secs(10);
/// How long a client may take to say what it wants, and to hear the answer.
const CLIENT_PATIENCE: Duration = Duration::from_secs(10);
const LOCK: &str = "lock";

/// A directory that one prefetcher at a time may serve from.
#[derive(Debug)]
pub(crate) struct Place {
    directory: Beneath,
    _lock: File,
}

impl Place {
    /// Takes the directory; `None` if another prefetcher has it.
    ///
    /// # Errors
    /// Whatever the operating system says.
    pub(crate) fn take(directory: &Path, owner: Option<Owner>) -> io::Result<Option<Self>> {
        let directory = Beneath::keep(directory, owner)?;
        let lock = directory.open_or_make(LOCK)?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self { directory, _lock: lock })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The directory, which is nobody else's as long as this lives.
    pub(crate) fn directory(&self) -> &Beneath {
        &self.directory
    }

    fn listen(&self) -> io::Result<UnixListener> {
        // Whoever holds the lock is the only one to listen: what is there was left by a crash.
        self.directory.remove(SOCKET.as_ref())?;
        // Nobody but the owner gets into the directory: the socket needs no rights of its own.
        let listener = UnixListener::bind(self.directory.open_path().join(SOCKET))?;
        self.directory.give_socket_away(SOCKET)?;
        Ok(listener)
    }
}

/// A prefetcher that answers at its door, until it is dropped.
pub(crate) struct Serving {
    prefetcher: Arc<Prefetcher>,
    last_asked: Arc<Mutex<Instant>>,
    _tasks: JoinSet<()>,
}

impl Serving {
    /// Opens the door.
    ///
    /// # Errors
    /// Whatever the operating system says.
    pub(crate) fn start(place: Place, settings: &WalFetchSettings, archive: Arc<Archive>) -> anyhow::Result<Self> {
        let files = SegmentFiles::emptied(place.directory()).context("empty the directory for segments")?;
        let fetcher = Fetcher::new(archive, files, settings.system_identifier()?);
        let guard = TablespaceGuard::new(settings.data_dir.clone());
        let prefetcher = Prefetcher::start(settings.plan.plan()?, settings.limits(), fetcher, guard);
        let prefetcher = Arc::new(prefetcher);
        let listener = place.listen().context("listen for PostgreSQL")?;
        let last_asked = Arc::new(Mutex::new(Instant::now()));
        let mut tasks = JoinSet::new();
        let door = Door {
            place,
            restore: settings.restore.clone(),
            prefetcher: Arc::clone(&prefetcher),
            last_asked: Arc::clone(&last_asked),
        };
        tasks.spawn(door.open(listener));
        Ok(Self { prefetcher, last_asked, _tasks: tasks })
    }

    #[must_use]
    pub(crate) fn prefetcher(&self) -> &Prefetcher {
        &self.prefetcher
    }

    fn idle(&self) -> Duration {
        self.last_asked.lock().elapsed()
    }
}

struct Door {
    place: Place,
    restore: String,
    prefetcher: Arc<Prefetcher>,
    last_asked: Arc<Mutex<Instant>>,
}

impl Door {
    /// Requests come one after the other; a client that was killed must not keep the next one waiting.
    async fn open(self, listener: UnixListener) {
        let door = Arc::new(self);
        let mut clients = JoinSet::new();
        loop {
            tokio::select! {
                Some(_) = clients.join_next() => {}
                accepted = listener.accept(), if clients.len() < 8 => match accepted {
                    Ok((stream, _)) => {
                        let door = Arc::clone(&door);
                        clients.spawn(async move { door.serve(stream).await });
                    }
                    Err(error) => {
                        tracing::error!(%error, directory = %door.place.directory().path().display(), "cannot be asked any more");
                        tokio::time::sleep(Duration::from_secs(1)).await;
                    }
                },
            }
        }
    }

    async fn serve(&self, stream: UnixStream) {
        *self.last_asked.lock() = Instant::now();
        match self.converse(stream).await {
            Ok(()) => {}
            // A client that was stopped together with its server.
            Err(error) => tracing::info!(%error, "a client left before its answer"),
        }
        *self.last_asked.lock() = Instant::now();
    }

    async fn converse(&self, stream: UnixStream) -> io::Result<()> {
        let (read, mut write) = stream.into_split();
        let mut line = String::new();
        let mut lines = BufReader::new(read.take(LINE_MAX as u64));
        timeout(CLIENT_PATIENCE, lines.read_line(&mut line)).await??;
        let answer = match parse_request(line.trim_end_matches('\n')) {
            Some((restore, name)) if restore == self.restore => self.answer(name, &mut write).await?,
            Some((restore, _)) => {
                Answer::Failed(format!("this prefetcher is of restore {}, not of {restore}", self.restore))
            }
            None => Answer::Failed("the request was not understood".to_owned()),
        };
        timeout(CLIENT_PATIENCE, write.write_all(&answer.line())).await?
    }

    async fn answer(&self, name: &str, to: &mut tokio::net::unix::OwnedWriteHalf) -> io::Result<Answer> {
        let mut answer = Box::pin(self.prefetcher.answer(name));
        loop {
            tokio::select! {
                answer = &mut answer => return Ok(answer),
                () = tokio::time::sleep(WAIT_EVERY) => {
                    *self.last_asked.lock() = Instant::now();
                    timeout(CLIENT_PATIENCE, to.write_all(&Answer::Wait.line())).await??;
                }
            }
        }
    }
}

/// `wal-fetch --serve FILE`: a prefetcher as a process of its own, started by its client. Ends soon after the
/// recovery, and when nobody has asked for ten minutes.
///
/// # Errors
/// If the settings cannot be used, or the repository cannot be read.
pub async fn run(path: &Path, stop: &CancellationToken) -> anyhow::Result<()> {
    // The client belongs to the server's session, and a signal to that must not end us in the middle of a file.
    if let Err(error) = rustix::process::setsid() {
        tracing::debug!(%error, "leads a session already");
    }
    let directory = path.parent().context("find the prefetcher's directory")?;
    // Before anything in it is believed: the settings name programs that are run.
    let Some(place) = Place::take(directory, None).context("take the prefetcher's directory")? else {
        tracing::info!("another prefetcher serves this directory");
        return Ok(());
    };
    let settings = WalFetchSettings::read(path)?;
    let (without, patience) = (settings.without()?, settings.limits().patience);
    let archive =
        Archive::open_patiently(&settings.place()?, &without, settings.plan.plan()?.segment, patience).await?;
    let serving = Serving::start(place, &settings, Arc::new(archive))?;
    tracing::info!(restore = settings.restore, "the prefetcher serves");
    let recovers = |signal: &str| settings.data_dir.join(signal).exists();
    while serving.idle() < IDLE_MAX {
        // The server removes the file when it opens; a copy that was removed has none either.
        if serving.idle() > RECOVERED_IDLE && !recovers(RECOVERY_SIGNAL) && !recovers(STANDBY_SIGNAL) {
            tracing::info!("recovery is over; the prefetcher ends");
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
            () = stop.cancelled() => return Ok(()),
        }
    }
    if serving.prefetcher().trouble().is_some() {
        bail!("ended without having been asked for {IDLE_MAX:?}");
    }
    Ok(())
}

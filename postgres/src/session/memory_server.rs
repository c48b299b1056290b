//! Servers inside the process, for tests that must not depend on sockets: whoever listens at the path of a socket gets the
//! connections that would go there.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use tokio::io::DuplexStream;
use tokio::sync::mpsc;

/// Bytes that may be on their way in one direction.
const BUFFER: usize = 256 << 10;
/// Connections that wait to be taken.
const WAITING: usize = 64;

type Listeners = BTreeMap<PathBuf, mpsc::Sender<DuplexStream>>;

static LISTENERS: LazyLock<Mutex<Listeners>> = LazyLock::new(Mutex::default);

fn listeners() -> MutexGuard<'static, Listeners> {
    LISTENERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes the connections to the socket `directory/.s.PGSQL.port` from now on, until the listener is dropped.
#[derive(Debug)]
pub struct MemoryListener {
    path: PathBuf,
    connections: mpsc::Receiver<DuplexStream>,
}

impl MemoryListener {
    /// Replaces one that listened there before.
    #[must_use]
    pub fn bind(directory: &Path, port: u16) -> Self {
        let path = directory.join(format!(".s.PGSQL.{port}"));
        let (sender, connections) = mpsc::channel(WAITING);
        listeners().insert(path.clone(), sender);
        Self { path, connections }
    }

    /// The next connection; `None` if somebody else listens there now.
    pub async fn accept(&mut self) -> Option<DuplexStream> {
        self.connections.recv().await
    }
}

impl Drop for MemoryListener {
    fn drop(&mut self) {
        self.connections.close();
        // One that has replaced it stays.
        listeners().retain(|path, sender| *path != self.path || !sender.is_closed());
    }
}

pub(crate) fn listens(path: &Path) -> bool {
    listeners().contains_key(path)
}

pub(crate) fn connect(path: &Path) -> io::Result<DuplexStream> {
    let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
    let listener = listeners().get(path).cloned().ok_or_else(refused)?;
    let (ours, theirs) = tokio::io::duplex(BUFFER);
    listener.try_send(theirs).map_err(|_| refused())?;
    Ok(ours)
}

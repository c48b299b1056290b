//! SIGINT and SIGTERM ask a run to stop; a second one ends the process at once.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A token that is cancelled by the first SIGINT or SIGTERM. After a second one nothing is waited for any more: whatever
/// is killed at any point leaves nothing that looks like a backup or a restored directory.
///
/// # Errors
/// If the handlers cannot be installed.
pub fn stop_token() -> std::io::Result<CancellationToken> {
    let token = CancellationToken::new();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let stop = token.clone();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if stop.is_cancelled() {
                eprintln!("stopping at once");
                let killed = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
                if let Err(error) = killed {
                    eprintln!("could not stop: {error}");
                }
            }
            eprintln!("stopping; once more to stop at once");
            stop.cancel();
        }
    });
    Ok(token)
}

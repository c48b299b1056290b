//! SIGINT and SIGTERM ask a run to stop; a second one ends the process at once.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A token that is cancelled by the first SIGINT or SIGTERM; `tell` says so to people. After a second one nothing is waited
/// for any more: whatever is killed at any point leaves nothing that looks like a backup or a restored directory.
///
/// # Errors
/// If the handlers cannot be installed.
pub fn stop_token(tell: fn(&str)) -> std::io::Result<CancellationToken> {
    let token = CancellationToken::new();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    // From here on no signal ends the process by itself. If this task should ever end, the run is stopped with it, instead
    // of going on deaf to every signal but SIGKILL.
    let stop = token.clone().drop_guard();
    let stopping = token.clone();
    tokio::spawn(async move {
        let _stop = stop;
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            // First what was asked for, then what is said about it: that may take as long as a pipe that nobody empties.
            if stopping.is_cancelled() {
                let killed = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
                if let Err(error) = killed {
                    tell(&format!("could not stop: {error}"));
                }
            }
            stopping.cancel();
            tell("stopping; once more to stop at once");
        }
    });
    Ok(token)
}

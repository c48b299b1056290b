//! What the service manager hears from us, and how often it wants to.
//!
//! Source: `sd_notify(3)` and `systemd.service(5)` (`Type=notify`, `WatchdogSec=`). A message is one datagram of lines
//! `NAME=value`; whoever is not run by a service manager says nothing.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use lifeboat_config::Environment;
use rustix::time::ClockId;

/// Where messages go.
#[derive(Debug)]
pub struct ServiceManager {
    socket: Option<(UnixDatagram, SocketAddr)>,
    /// How often it wants to hear that we are alive; `None` if it does not ask.
    pub watchdog: Option<Duration>,
}

impl ServiceManager {
    /// As the environment names it (`NOTIFY_SOCKET`, `WATCHDOG_USEC`, `WATCHDOG_PID`).
    #[must_use]
    pub fn of(environment: &Environment) -> Self {
        let socket = environment.get("NOTIFY_SOCKET").and_then(|name| {
            let opened = address(name).and_then(|address| Ok((UnixDatagram::unbound()?, address)));
            let prepared = opened.and_then(|(socket, address)| {
                // A manager that does not read must not hold us up.
                socket.set_nonblocking(true)?;
                Ok((socket, address))
            });
            prepared.inspect_err(|error| tracing::warn!(%error, "the service manager cannot be told anything")).ok()
        });
        Self { socket, watchdog: watchdog(environment) }
    }

    /// Work has begun, with this to say about it.
    pub fn ready(&self, status: &str) {
        self.tell(&format!("READY=1\nSTATUS={}", one_line(status)));
    }

    /// The configuration is read again. [`ServiceManager::ready`] ends it.
    pub fn reloading(&self) {
        let now = rustix::time::clock_gettime(ClockId::Monotonic);
        let micros = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1000;
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
    }

    /// The end has begun, and takes at most so long.
    pub fn stopping(&self, at_most: Duration) {
        let micros = at_most.as_micros();
        self.tell(&format!("STOPPING=1\nEXTEND_TIMEOUT_USEC={micros}\nSTATUS=stopping"));
    }

    /// We are alive, and get on with our work.
    pub fn alive(&self) {
        self.tell("WATCHDOG=1");
    }

    /// How it stands, in a line.
    pub fn status(&self, status: &str) {
        self.tell(&format!("STATUS={}", one_line(status)));
    }

    fn tell(&self, message: &str) {
        let Some((socket, address)) = &self.socket else { return };
        if let Err(error) = socket.send_to_addr(message.as_bytes(), address) {
            tracing::debug!(%error, message, "the service manager did not take a message");
        }
    }
}

/// A path, or a name in the abstract namespace, which begins with `@`.
fn address(name: &OsStr) -> io::Result<SocketAddr> {
    match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        [b'/', ..] => SocketAddr::from_pathname(name),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "NOTIFY_SOCKET is neither a path nor an abstract name")),
    }
}

fn watchdog(environment: &Environment) -> Option<Duration> {
    let number = |name| environment.get(name)?.to_str()?.parse::<u64>().ok();
    // Meant for another process of the service, such as the shell that started us.
    if number("WATCHDOG_PID").is_some_and(|pid| pid != u64::from(std::process::id())) {
        return None;
    }
    number("WATCHDOG_USEC").filter(|micros| *micros > 0).map(Duration::from_micros)
}

fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 1024];
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    fn manager(name: &str) -> ServiceManager {
        ServiceManager::of(&Environment::from_pairs([("NOTIFY_SOCKET", name)]))
    }

    #[test]
    fn messages_arrive_at_a_path_and_at_an_abstract_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let hidden = format!("lifeboat-test-{}", std::process::id());
        let abstract_address = SocketAddr::from_abstract_name(&hidden).unwrap();
        for (socket, name) in [
            (UnixDatagram::bind(&path).unwrap(), path.to_str().unwrap().to_owned()),
            (UnixDatagram::bind_addr(&abstract_address).unwrap(), format!("@{hidden}")),
        ] {
            let manager = manager(&name);
            manager.ready("2 clusters\nall is well");
            assert_eq!(heard(&socket), "READY=1\nSTATUS=2 clusters all is well");
            manager.reloading();
            let reloading = heard(&socket);
            let micros = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
            assert!(micros.parse::<u64>().unwrap() > 0, "{reloading}");
            manager.alive();
            assert_eq!(heard(&socket), "WATCHDOG=1");
            manager.stopping(Duration::from_secs(60));
            assert_eq!(heard(&socket), "STOPPING=1\nEXTEND_TIMEOUT_USEC=60000000\nSTATUS=stopping");
        }
    }

    #[test]
    fn nobody_is_told_where_there_is_nobody() {
        for name in ["", "relative", "/nowhere/at/all"] {
            manager(name).ready("well");
        }
        ServiceManager::of(&Environment::default()).alive();
    }

    #[test]
    fn a_manager_that_does_not_read_holds_nobody_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let _socket = UnixDatagram::bind(&path).unwrap();
        let manager = manager(path.to_str().unwrap());
        // More than any socket's queue takes.
        (0..10_000).for_each(|_| manager.alive());
    }

    #[test]
    fn the_watchdog_is_meant_for_this_process_or_not() {
        let own = std::process::id().to_string();
        for (why, pairs, expected) in [
            ("not asked for", vec![], None),
            ("asked for", vec![("WATCHDOG_USEC", "30000000")], Some(30)),
            ("asked of us", vec![("WATCHDOG_USEC", "30000000"), ("WATCHDOG_PID", own.as_str())], Some(30)),
            ("asked of another", vec![("WATCHDOG_USEC", "30000000"), ("WATCHDOG_PID", "1")], None),
            ("nonsense", vec![("WATCHDOG_USEC", "soon")], None),
            ("switched off", vec![("WATCHDOG_USEC", "0")], None),
        ] {
            let found = ServiceManager::of(&Environment::from_pairs(pairs)).watchdog;
            assert_eq!(found, expected.map(Duration::from_secs), "{why}");
        }
    }
}

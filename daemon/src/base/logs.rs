//! Where the log goes: text on a terminal, fields in the journal, JSON lines elsewhere. `LIFEBOAT_LOG` filters it, in the
//! syntax of tracing's `EnvFilter`.
//!
//! An ERROR is something that a person must act on. What heals itself is a WARN at most, and repeats are DEBUG.

use std::io::{self, IsTerminal, Write};
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use lifeboat_cli::errln;
use lifeboat_cli::output::send_errors_to;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::base::log_queue::LogQueue;

/// Where the journal listens. Source: systemd's "Native Journal Protocol".
const SOCKET: &str = "/run/systemd/journal/socket";
/// Longer values are cut: a datagram has to fit into the socket's buffer.
const VALUE_BYTES_MAX: usize = 32 * 1024;
/// More fields than any event has.
const FIELDS_MAX: usize = 32;

/// How long the end of the process waits for its last lines to be read.
const LAST_PATIENCE: Duration = Duration::from_secs(1);

/// Where the log goes, for its end.
pub struct Logs {
    /// `None` where the journal takes entries as they come.
    queue: Option<LogQueue>,
}

impl Logs {
    /// Waits until what was logged is written, but not for ever.
    pub fn flush(&self) {
        if let Some(queue) = &self.queue {
            queue.flush(LAST_PATIENCE);
        }
    }

    /// Writes a plain line behind all that was logged.
    pub fn last_words(&self, text: &str) {
        match &self.queue {
            Some(queue) => {
                // A queue takes everything.
                drop(queue.clone().write_all(format!("{text}\n").as_bytes()));
                self.flush();
            }
            None => errln!("{text}"),
        }
    }
}

/// Begins to log. A panic is an ERROR in the log, whatever becomes of the task.
///
/// # Errors
/// If the system gives no thread.
pub fn init() -> io::Result<Logs> {
    let filter = EnvFilter::try_from_env("LIFEBOAT_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    std::panic::set_hook(Box::new(|panic| tracing::error!("a part of the program has panicked: {panic}")));
    if let Some(journal) = Journal::behind_stderr() {
        tracing_subscriber::registry().with(filter).with(journal).init();
        return Ok(Logs { queue: None });
    }
    let queue = LogQueue::start(std::io::stderr())?;
    let words = queue.clone();
    // A queue takes everything.
    send_errors_to(move |text| drop(words.clone().write_all(text.as_bytes())));
    let lines = queue.clone();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(move || lines.clone());
    let log = log.with_target(false).log_internal_errors(false).with_ansi(std::io::stderr().is_terminal());
    if std::io::stderr().is_terminal() {
        log.compact().init()
    } else {
        log.json().init()
    }
    Ok(Logs { queue: Some(queue) })
}

/// The journal of systemd.
struct Journal {
    socket: UnixDatagram,
}

impl Journal {
    /// The journal, if it is what standard error leads to: `JOURNAL_STREAM` names the very file. Source: systemd.exec(5).
    fn behind_stderr() -> Option<Self> {
        let named = std::env::var("JOURNAL_STREAM").ok()?;
        let stderr = rustix::fs::fstat(std::io::stderr()).ok()?;
        (named == format!("{}:{}", stderr.st_dev, stderr.st_ino)).then_some(())?;
        Self::at(SOCKET).ok()
    }

    fn at(path: &str) -> std::io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(path)?;
        // A journal that does not read must not stop the daemon.
        socket.set_nonblocking(true)?;
        Ok(Self { socket })
    }
}

impl<S: Subscriber> Layer<S> for Journal {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let message = fields.message();
        if self.socket.send(&entry(*event.metadata().level(), &message, &fields)).is_err() {
            // It leads to the journal too, by another way and without fields.
            errln!("{message}");
        }
    }
}

/// What an event says.
#[derive(Default)]
struct Fields {
    message: String,
    others: Vec<(&'static str, String)>,
}

impl Fields {
    /// The line that people read: who looks at the journal without options sees nothing else.
    fn message(&self) -> String {
        let others = self.others.iter().map(|(name, value)| format!(" {name}={value}"));
        format!("{}{}", self.message, others.collect::<String>())
    }

    fn note(&mut self, field: &Field, mut value: String) {
        let mut end = value.len().min(VALUE_BYTES_MAX);
        while !value.is_char_boundary(end) {
            end -= 1;
        }
        value.truncate(end);
        match field.name() {
            "message" => self.message = value,
            name if self.others.len() < FIELDS_MAX => self.others.push((name, value)),
            _ => {}
        }
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.note(field, value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.note(field, format!("{value:?}"));
    }
}

/// An entry in the journal's own form.
fn entry(level: Level, message: &str, fields: &Fields) -> Vec<u8> {
    // Source: syslog(3), "Values for level".
    let priority = match level {
        Level::ERROR => "3",
        Level::WARN => "4",
        Level::INFO => "6",
        Level::DEBUG | Level::TRACE => "7",
    };
    let mut entry = Vec::new();
    put(&mut entry, "PRIORITY", priority);
    put(&mut entry, "SYSLOG_IDENTIFIER", "lifeboatd");
    put(&mut entry, "MESSAGE", message);
    for (name, value) in &fields.others {
        let allowed = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
        let name: String = name.chars().map(allowed).collect();
        put(&mut entry, &format!("LIFEBOAT_{name}"), value);
    }
    entry
}

/// `NAME=value`, or where the value has several lines, its length in eight bytes before it.
fn put(entry: &mut Vec<u8>, name: &str, value: &str) {
    entry.extend_from_slice(name.as_bytes());
    if value.contains('\n') {
        entry.push(b'\n');
        entry.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        entry.push(b'=');
    }
    entry.extend_from_slice(value.as_bytes());
    entry.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(tell: impl FnOnce()) -> Vec<Vec<u8>> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let journal = UnixDatagram::bind(&path).unwrap();
        journal.set_nonblocking(true).unwrap();
        let layer = Journal::at(path.to_str().unwrap()).unwrap();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), tell);
        let mut all = Vec::new();
        let mut bytes = vec![0; 1 << 20];
        while let Ok(length) = journal.recv(&mut bytes) {
            all.push(bytes[..length].to_vec());
        }
        all
    }

    #[test]
    fn the_journal_gets_a_line_to_read_and_fields_to_search() {
        let all = heard(|| {
            tracing::error!(cluster = "main", region = %"eu-1", count = 3, "a region is away");
            tracing::info!("two\nlines");
        });
        let texts: Vec<String> = all.iter().map(|entry| String::from_utf8_lossy(entry).into_owned()).collect();
        assert_eq!(
            texts[0],
            "PRIORITY=3\nSYSLOG_IDENTIFIER=lifeboatd\nMESSAGE=a region is away cluster=main region=eu-1 count=3\n\
             LIFEBOAT_CLUSTER=main\nLIFEBOAT_REGION=eu-1\nLIFEBOAT_COUNT=3\n"
        );
        assert_eq!(texts[1], "PRIORITY=6\nSYSLOG_IDENTIFIER=lifeboatd\nMESSAGE\n\u{9}\0\0\0\0\0\0\0two\nlines\n");
    }

    #[test]
    fn what_is_too_long_is_cut_and_no_field_can_forge_another() {
        let long = "ä".repeat(VALUE_BYTES_MAX);
        let all = heard(|| tracing::warn!(why = long, "cut"));
        assert!(all[0].len() < 3 * VALUE_BYTES_MAX);
        let all = heard(|| tracing::warn!(why = "x\nPRIORITY=0", "forged"));
        let text = String::from_utf8_lossy(&all[0]).into_owned();
        assert!(text.contains("LIFEBOAT_WHY\n\u{c}\0\0\0\0\0\0\0x\nPRIORITY=0\n"), "{text:?}");
    }
}

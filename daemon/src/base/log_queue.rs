//! Log lines on their way to standard error, by a thread of their own.
//!
//! Whoever reads the daemon's standard error may end, or stop to read while the pipe is full. Neither may keep a task from
//! its work: lines are dropped then, and counted.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

/// How many lines may wait.
const LINES_MAX: usize = 1024;
/// Longer lines are cut, in **bytes**: with [`LINES_MAX`] this bounds the memory.
const LINE_BYTES_MAX: usize = 32 * 1024;

/// How often it is tried again to say that all is said.
const POLL: Duration = Duration::from_millis(5);

enum Message {
    Line(Vec<u8>),
    /// Everything before this was written, or could not be.
    Written(SyncSender<()>),
}

/// The way to the thread. Clones lead to the same one.
#[derive(Clone)]
pub(crate) struct LogQueue {
    messages: SyncSender<Message>,
    dropped: Arc<AtomicU64>,
}

impl LogQueue {
    /// Begins a thread that writes to `place` for as long as the process lives.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub(crate) fn start(place: impl Write + Send + 'static) -> io::Result<Self> {
        let (messages, lines) = sync_channel(LINES_MAX);
        let dropped = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&dropped);
        std::thread::Builder::new().name("log".to_owned()).spawn(move || write_all(lines, place, &counted))?;
        Ok(Self { messages, dropped })
    }

    /// Waits until what was said so far is written, but not longer than `patience`.
    pub(crate) fn flush(&self, patience: Duration) {
        let end = Instant::now() + patience;
        let (written, wait) = sync_channel(1);
        let mut message = Message::Written(written);
        // There may be no room before somebody reads.
        while let Err(TrySendError::Full(back)) = self.messages.try_send(message) {
            if Instant::now() >= end {
                return;
            }
            message = back;
            std::thread::sleep(POLL);
        }
        // Late or never: nothing more can be done.
        wait.recv_timeout(end.saturating_duration_since(Instant::now())).unwrap_or_default();
    }
}

/// Takes one line per call, as `tracing_subscriber` writes; it never waits and never fails.
impl Write for LogQueue {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut line = bytes.get(..LINE_BYTES_MAX).unwrap_or(bytes).to_vec();
        if line.len() < bytes.len() {
            line.extend_from_slice(b"...\n");
        }
        match self.messages.try_send(Message::Line(line)) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_all(messages: Receiver<Message>, mut place: impl Write, dropped: &AtomicU64) {
    for message in messages {
        match message {
            Message::Line(line) => {
                let missing = dropped.swap(0, Ordering::Relaxed);
                let written = match missing {
                    0 => place.write_all(&line),
                    missing => {
                        let gap = format!("{missing} lines of the log are missing here: nobody read them in time\n");
                        place.write_all(gap.as_bytes()).and_then(|()| place.write_all(&line))
                    }
                };
                if written.is_err() {
                    // Somebody may read again, from a named pipe or a terminal: the next line is tried too.
                    dropped.fetch_add(missing.saturating_add(1), Ordering::Relaxed);
                }
            }
            // Who asked may have given up waiting.
            Message::Written(done) => drop(done.try_send(())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Sender, channel};

    const PATIENCE: Duration = Duration::from_secs(60);

    /// A place that takes each piece only when it is told to, and fails where it is told that.
    struct Stubborn {
        allowed: Receiver<io::Result<()>>,
        taken: Sender<Vec<u8>>,
    }

    impl Write for Stubborn {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.allowed.recv().unwrap()?;
            self.taken.send(bytes.to_vec()).unwrap();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn stubborn() -> (LogQueue, Sender<io::Result<()>>, Receiver<Vec<u8>>) {
        let ((allow, allowed), (taken, written)) = (channel(), channel());
        (LogQueue::start(Stubborn { allowed, taken }).unwrap(), allow, written)
    }

    #[test]
    fn who_logs_never_waits_for_who_reads_and_what_is_dropped_is_counted() {
        let (mut queue, allow, written) = stubborn();
        let lines = LINES_MAX + 10;
        // Nothing is read; this would wait for ever if a full queue did.
        for line in 0..lines {
            queue.write_all(format!("line {line}\n").as_bytes()).unwrap();
        }
        let dropped = queue.dropped.load(Ordering::Relaxed);
        assert!((9..=10).contains(&dropped), "the thread may have taken one: {dropped}");
        // It reads again.
        for _ in 0..=lines {
            allow.send(Ok(())).unwrap();
        }
        queue.flush(PATIENCE);
        let text: Vec<String> = written.try_iter().map(|line| String::from_utf8(line).unwrap()).collect();
        assert!(text.contains(&format!("{dropped} lines of the log are missing here: nobody read them in time\n")));
        assert!(text.contains(&"line 0\n".to_owned()) && text.contains(&"line 1000\n".to_owned()), "{}", text.len());
    }

    #[test]
    fn a_reader_that_has_gone_is_no_error_and_one_that_comes_back_is_told_what_is_missing() {
        let (mut queue, allow, written) = stubborn();
        for _ in 0..3 {
            allow.send(Err(io::ErrorKind::BrokenPipe.into())).unwrap();
            writeln!(queue, "unread").unwrap();
            queue.flush(PATIENCE);
        }
        allow.send(Ok(())).unwrap();
        allow.send(Ok(())).unwrap();
        writeln!(queue, "read").unwrap();
        queue.flush(PATIENCE);
        let text: Vec<String> = written.try_iter().map(|line| String::from_utf8(line).unwrap()).collect();
        assert_eq!(text, ["3 lines of the log are missing here: nobody read them in time\n", "read\n"]);
    }

    #[test]
    fn a_flush_gives_up_in_time() {
        let (mut queue, _allow, _written) = stubborn();
        writeln!(queue, "stuck").unwrap();
        let begun = std::time::Instant::now();
        queue.flush(Duration::from_millis(50));
        assert!(begun.elapsed() < PATIENCE);
    }

    #[test]
    fn a_line_of_any_length_takes_bounded_memory() {
        let (mut queue, allow, written) = stubborn();
        allow.send(Ok(())).unwrap();
        queue.write_all(&[b'x'; 10 * LINE_BYTES_MAX]).unwrap();
        queue.flush(PATIENCE);
        let line = written.recv_timeout(PATIENCE).unwrap();
        assert_eq!((line.len(), line.ends_with(b"...\n")), (LINE_BYTES_MAX + 4, true));
    }
}

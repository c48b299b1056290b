//! Standard output and standard error, either of which may be gone: the reader of a pipe ends when it has seen enough, a
//! disk is full. Neither may end what a command is doing, so nothing here panics, as the macros of the standard library do.
//!
//! What cannot be written is dropped. Of standard output it is remembered, and [`ending`] decides what that means for the
//! command. Standard error is for people who may have left: nothing depends on it.

use std::fmt;
use std::io::{self, Write};
use std::sync::OnceLock;

use parking_lot::Mutex;

use crate::exit_code::Ending;

/// Why standard output was given up.
static LOST: Mutex<Option<Lost>> = Mutex::new(None);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Lost {
    /// Nobody reads any more.
    Unread,
    /// It could not be written, and this is why.
    Unwritten(String),
}

impl Lost {
    fn of(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::Unread,
            _ => Self::Unwritten(error.to_string()),
        }
    }
}

/// What a command is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To show something: without a reader it has not done its work.
    Show,
    /// To do something: what it shows is beside its work.
    Work,
}

/// Writes to standard output; see [`crate::out`].
pub fn write_out(text: fmt::Arguments<'_>) {
    let mut lost = LOST.lock();
    if lost.is_none()
        && let Err(error) = io::stdout().write_fmt(text)
    {
        *lost = Some(Lost::of(&error));
    }
}

/// Where what goes to standard error is handed to instead.
static ERRORS: OnceLock<Place> = OnceLock::new();

type Place = Box<dyn Fn(&str) + Send + Sync>;

/// Hands everything that goes to standard error from here on to `place`, which does not wait: a pipe that is full and that
/// nobody empties would hold up whoever writes. The first place counts.
pub fn send_errors_to(place: impl Fn(&str) + Send + Sync + 'static) {
    ERRORS.get_or_init(|| Box::new(place));
}

/// Writes to standard error; see [`crate::err`].
pub fn write_error(text: fmt::Arguments<'_>) {
    let text = text.to_string();
    match ERRORS.get() {
        Some(place) => place(&text),
        // One write, so that lines of several threads do not mix. Nobody is left to be told that it failed.
        None => drop(io::stderr().write_all(text.as_bytes())),
    }
}

/// `print!` that survives a closed standard output.
#[macro_export]
macro_rules! out {
    ($($text:tt)*) => { $crate::output::write_out(format_args!($($text)*)) };
}

/// `println!` that survives a closed standard output.
#[macro_export]
macro_rules! outln {
    () => { $crate::output::write_out(format_args!("\n")) };
    ($($text:tt)*) => { $crate::output::write_out(format_args!("{}\n", format_args!($($text)*))) };
}

/// `eprint!` that survives a closed standard error.
#[macro_export]
macro_rules! err {
    ($($text:tt)*) => { $crate::output::write_error(format_args!($($text)*)) };
}

/// `eprintln!` that survives a closed standard error.
#[macro_export]
macro_rules! errln {
    ($($text:tt)*) => { $crate::output::write_error(format_args!("{}\n", format_args!($($text)*))) };
}

/// Writes what is left, and returns how a command ended whose work ended like this.
///
/// A command that only shows something ends as one that is killed by SIGPIPE does in a shell if nobody has read all of it,
/// and has failed if it could not be written. Work that was done has its own code in either case.
#[must_use]
pub fn ending(work: Ending, purpose: Purpose) -> Ending {
    let mut lost = LOST.lock();
    if lost.is_none()
        && let Err(error) = io::stdout().flush()
    {
        *lost = Some(Lost::of(&error));
    }
    if let Some(Lost::Unwritten(why)) = &*lost {
        errln!("error: write to standard output: {why}; what was shown is not complete");
    }
    after(lost.as_ref(), work, purpose)
}

fn after(lost: Option<&Lost>, work: Ending, purpose: Purpose) -> Ending {
    match (lost, work, purpose) {
        (Some(Lost::Unread), Ending::Done, Purpose::Show) => Ending::Unread,
        (Some(Lost::Unwritten(_)), Ending::Done, Purpose::Show) => Ending::Failed,
        _ => work,
    }
}

/// Standard error as a place for logs, which never fails.
#[derive(Clone, Copy, Debug, Default)]
pub struct StandardError;

impl Write for StandardError {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        drop(io::stderr().write_all(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_command_that_was_to_show_something_fails_for_want_of_a_reader() {
        let full = Lost::Unwritten("No space left on device".to_owned());
        for (lost, work, purpose, expected) in [
            (None, Ending::Done, Purpose::Show, Ending::Done),
            (Some(&Lost::Unread), Ending::Done, Purpose::Show, Ending::Unread),
            (Some(&Lost::Unread), Ending::Done, Purpose::Work, Ending::Done),
            (Some(&Lost::Unread), Ending::Damaged, Purpose::Show, Ending::Damaged),
            (Some(&full), Ending::Done, Purpose::Show, Ending::Failed),
            (Some(&full), Ending::Done, Purpose::Work, Ending::Done),
        ] {
            assert_eq!(after(lost, work, purpose), expected, "{lost:?} {work:?} {purpose:?}");
        }
    }
}

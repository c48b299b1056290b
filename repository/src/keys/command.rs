//! Epoch keys wrapped by an external program: a key management service, a hardware token, another tool.
//!
//! The program gets its input on standard input and gives its output on standard output, both as raw bytes. Keys never
//! stand in arguments or in the environment, where other users of the machine could see them.

use std::process::Stdio;
use std::time::Duration;

use data_encoding::{BASE64, HEXLOWER};
use lifeboat_vocabulary::Secret;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use zeroize::Zeroizing;

/// The longest output that a program may give, in **bytes**.
pub(crate) const BLOB_BYTES_MAX: usize = 16 << 10;
/// How long a program may take, if nothing else is said.
pub const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);
const COMPLAINT_BYTES: u64 = 4 << 10;
const COMPLAINT_CHARACTERS: usize = 300;
const NAME_BYTES_MAX: usize = 40;

/// A program that wraps or unwraps epoch keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyCommand {
    name: String,
    program: String,
    arguments: Vec<String>,
    timeout: Duration,
}

/// Why a program did not wrap or unwrap a key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyCommandError {
    /// It cannot be used as it is configured.
    #[error("key command `{name}`: {what}")]
    Settings {
        /// Its name.
        name: String,
        /// What is wrong.
        what: &'static str,
    },
    /// It could not be started, or its pipes broke.
    #[error("run key command `{name}` ({program})")]
    Run {
        /// Its name.
        name: String,
        /// The program.
        program: String,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// It took too long.
    #[error("key command `{name}` did not end within {timeout:?}")]
    Timeout {
        /// Its name.
        name: String,
        /// Its bound.
        timeout: Duration,
    },
    /// It says that it failed.
    #[error("key command `{name}` failed ({status}){complaint}")]
    Failed {
        /// Its name.
        name: String,
        /// Its exit status.
        status: std::process::ExitStatus,
        /// What it wrote to standard error, after a colon; empty if nothing.
        complaint: String,
    },
    /// Its output is no wrapped key, or no key.
    #[error("key command `{name}` gave {found}, not {expected}")]
    Output {
        /// Its name.
        name: String,
        /// What it gave.
        found: String,
        /// What it should give.
        expected: String,
    },
}

impl KeyCommand {
    /// The command `name`, which stands in slots: wrapping and unwrapping find each other by it. `argv` is the program
    /// and its arguments; there is no shell between. Variables of the environment are passed on.
    ///
    /// # Errors
    /// [`KeyCommandError::Settings`] if `name` is not 1 to 40 of `a-z`, `0-9` and `-`, or `argv` names no program.
    pub fn new(name: &str, argv: &[String], timeout: Duration) -> Result<Self, KeyCommandError> {
        let wrong = |what| KeyCommandError::Settings { name: name.chars().take(NAME_BYTES_MAX).collect(), what };
        if !is_command_name(name) {
            return Err(wrong("its name must be 1 to 40 of a-z, 0-9 and -"));
        }
        match argv.split_first() {
            Some((program, arguments)) if !program.is_empty() => {
                Ok(Self { name: name.to_owned(), program: program.clone(), arguments: arguments.to_vec(), timeout })
            }
            _ => Err(wrong("it names no program")),
        }
    }

    /// The name that stands in slots.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Wraps a key: 1 to [`BLOB_BYTES_MAX`] bytes that only the other half can turn back.
    pub(crate) async fn wrap(&self, key: &[u8; 32]) -> Result<Vec<u8>, KeyCommandError> {
        let output = self.run(key, key.as_slice()).await?;
        let expected = || format!("1 to {BLOB_BYTES_MAX} bytes");
        if output.is_empty() || output.len() > BLOB_BYTES_MAX {
            return Err(self.output(format!("{} bytes or more", output.len().min(BLOB_BYTES_MAX + 1)), expected()));
        }
        if contains(&output, key) {
            return Err(self.output("the key itself".to_owned(), "a wrapped one".to_owned()));
        }
        Ok(output.to_vec())
    }

    /// Unwraps a key.
    pub(crate) async fn unwrap(&self, blob: &[u8]) -> Result<Secret<[u8; 32]>, KeyCommandError> {
        let output = self.run(blob, &[]).await?;
        let wrong = |_| self.output(format!("{} bytes", output.len()), "the 32 bytes of a key".to_owned());
        let key: Zeroizing<[u8; 32]> = Zeroizing::new(output.as_slice().try_into().map_err(wrong)?);
        Ok(Secret::new(*key))
    }

    fn output(&self, found: String, expected: String) -> KeyCommandError {
        KeyCommandError::Output { name: self.name.clone(), found, expected }
    }

    async fn run(&self, input: &[u8], secret: &[u8]) -> Result<Zeroizing<Vec<u8>>, KeyCommandError> {
        let failed = |source| KeyCommandError::Run { name: self.name.clone(), program: self.program.clone(), source };
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Also when the time is over: the future is dropped then, and the process with it.
        let mut child = command.kill_on_drop(true).spawn().map_err(failed)?;
        let ended = tokio::time::timeout(self.timeout, converse(&mut child, input)).await;
        let timeout = |_| KeyCommandError::Timeout { name: self.name.clone(), timeout: self.timeout };
        let Ended { written, output, complaint, status } = ended.map_err(timeout)?.map_err(failed)?;
        if !status.success() {
            let complaint = quote(&complaint, secret);
            return Err(KeyCommandError::Failed { name: self.name.clone(), status, complaint });
        }
        written.map_err(failed)?;
        Ok(output)
    }
}

/// Whether `name` can be the name of a command.
pub(crate) fn is_command_name(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(allowed)
}

struct Ended {
    /// A program that fails may not read its input at all; then its status tells more than the broken pipe.
    written: std::io::Result<()>,
    output: Zeroizing<Vec<u8>>,
    complaint: Vec<u8>,
    status: std::process::ExitStatus,
}

async fn converse(child: &mut Child, input: &[u8]) -> std::io::Result<Ended> {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (written, output, complaint) = tokio::join!(feed(stdin, input), gather(stdout), listen(stderr));
    let status = child.wait().await?;
    Ok(Ended { written, output: output?, complaint: complaint?, status })
}

async fn feed(stdin: Option<ChildStdin>, input: &[u8]) -> std::io::Result<()> {
    // Dropping it at the end is what tells the program that there is no more.
    let Some(mut stdin) = stdin else { return Ok(()) };
    stdin.write_all(input).await?;
    stdin.shutdown().await
}

async fn gather(stdout: Option<ChildStdout>) -> std::io::Result<Zeroizing<Vec<u8>>> {
    let mut output = Zeroizing::new(Vec::with_capacity(BLOB_BYTES_MAX + 1));
    if let Some(stdout) = stdout {
        stdout.take(BLOB_BYTES_MAX as u64 + 1).read_to_end(&mut output).await?;
    }
    Ok(output)
}

async fn listen(stderr: Option<ChildStderr>) -> std::io::Result<Vec<u8>> {
    let mut complaint = Vec::new();
    if let Some(mut stderr) = stderr {
        (&mut stderr).take(COMPLAINT_BYTES).read_to_end(&mut complaint).await?;
        // Read on, or a talkative program would never end.
        tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await?;
    }
    Ok(complaint)
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    !part.is_empty() && bytes.windows(part.len()).any(|window| window == part)
}

/// What a program complained about, for an error message: printable, short, and not the key in any usual form.
fn quote(complaint: &[u8], secret: &[u8]) -> String {
    let forms = [secret.to_vec(), HEXLOWER.encode(secret).into_bytes(), BASE64.encode(secret).into_bytes()];
    if forms.iter().any(|form| contains(complaint, form)) {
        return ": its complaint is not shown, because it contains the key".to_owned();
    }
    let text = String::from_utf8_lossy(complaint);
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let shown: String = words.chars().filter(|c| !c.is_control()).take(COMPLAINT_CHARACTERS).collect();
    if shown.is_empty() { shown } else { format!(": {shown}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> KeyCommand {
        let argv = ["/bin/sh", "-c", script].map(str::to_owned);
        KeyCommand::new("test", &argv, Duration::from_secs(20)).unwrap()
    }

    #[test]
    fn commands_without_a_name_or_a_program_are_refused() {
        let long = "a".repeat(41);
        for (name, argv) in [("", vec!["x"]), ("A", vec!["x"]), (&long, vec!["x"]), ("a", vec![]), ("a", vec![""])] {
            let argv: Vec<String> = argv.into_iter().map(str::to_owned).collect();
            let error = KeyCommand::new(name, &argv, COMMAND_TIMEOUT).unwrap_err();
            assert!(matches!(error, KeyCommandError::Settings { .. }), "{name}: {error}");
        }
    }

    #[tokio::test]
    async fn failing_programs_are_reported_with_their_fault() {
        for (script, expected) in [
            ("exit 3", "key command `test` failed (exit status: 3)"),
            ("echo no access >&2; exit 1", "key command `test` failed (exit status: 1): no access"),
            ("cat >&2; exit 1", "key command `test` failed (exit status: 1): its complaint is not shown"),
            ("base64 >&2; exit 1", "key command `test` failed (exit status: 1): its complaint is not shown"),
            ("kill -9 $$", "key command `test` failed (signal: 9"),
            ("cat >/dev/null", "key command `test` gave 0 bytes or more, not 1 to 16384 bytes"),
            ("head -c 20000 /dev/zero", "key command `test` gave 16385 bytes or more, not 1 to 16384 bytes"),
            ("cat", "key command `test` gave the key itself, not a wrapped one"),
        ] {
            let error = shell(script).wrap(&[b'k'; 32]).await.unwrap_err().to_string();
            assert!(error.starts_with(expected), "{script}: {error}");
        }
        let error = shell("head -c 31").unwrap(&[1; 40]).await.unwrap_err().to_string();
        assert_eq!(error, "key command `test` gave 31 bytes, not the 32 bytes of a key");
        let missing = KeyCommand::new("test", &["/nonexistent/program".to_owned()], COMMAND_TIMEOUT).unwrap();
        let error = missing.wrap(&[1; 32]).await.unwrap_err().to_string();
        assert_eq!(error, "run key command `test` (/nonexistent/program)");
    }

    #[tokio::test]
    async fn a_program_that_does_not_end_is_ended() {
        let argv = ["/bin/sh", "-c", "exec sleep 600"].map(str::to_owned);
        let command = KeyCommand::new("slow", &argv, Duration::from_millis(200)).unwrap();
        let begun = tokio::time::Instant::now();
        let error = command.wrap(&[1; 32]).await.unwrap_err();
        assert!(matches!(error, KeyCommandError::Timeout { .. }), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(20));
    }

    #[tokio::test]
    async fn output_beyond_the_limit_does_not_block_the_program() {
        let script = "head -c 300000 /dev/zero | tr '\\0' x >&2; tr k j";
        assert_eq!(shell(script).wrap(&[b'k'; 32]).await.unwrap(), [b'j'; 32]);
        let key = shell("tr j k").unwrap(&[b'j'; 32]).await.unwrap();
        assert_eq!(*key.expose(), [b'k'; 32]);
    }
}

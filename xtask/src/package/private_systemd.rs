//! A real systemd of our own, to test units in: the script `xtask/private-systemd`, and a way to run things inside.

use std::fs;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lifeboat_testkit::TempDir;

use crate::steps::shown;
use crate::tools::root;

const START_PATIENCE: Duration = Duration::from_secs(30);

/// Everything inside ends, and everything that was written is gone, when this is dropped.
#[derive(Debug)]
pub(crate) struct PrivateSystemd {
    script: Child,
    pid: u32,
    dir: TempDir,
}

impl PrivateSystemd {
    /// Boots it, and waits until it has started everything.
    pub(crate) fn start() -> Result<Self> {
        let dir = TempDir::with_prefix("lifeboat-systemd-").context("make a temporary directory")?;
        let mut boot = Command::new("setpriv");
        // If we are killed, it goes too.
        boot.args(["--pdeathsig", "TERM"]).arg(root().join("xtask/private-systemd")).arg(dir.path());
        boot.stdin(Stdio::null()).stdout(Stdio::null()).process_group(0);
        let script = boot.spawn().context("start a systemd of our own")?;
        let mut ours = Self { script, pid: 0, dir };
        let begun = Instant::now();
        loop {
            if let Some(ended) = ours.script.try_wait().context("look after our systemd")? {
                bail!("our systemd did not start ({ended}): it needs root, namespaces and control groups of version 2");
            }
            if let Ok(text) = fs::read_to_string(ours.dir.path().join("pid")) {
                ours.pid = text.trim().parse().context("read the process id of our systemd")?;
                let state = ours.command("systemctl").arg("is-system-running").output().context("ask our systemd")?;
                let state = String::from_utf8_lossy(&state.stdout).trim().to_owned();
                if state == "running" || state == "degraded" {
                    return Ok(ours);
                }
            }
            ensure!(begun.elapsed() < START_PATIENCE, "our systemd is not up after {START_PATIENCE:?}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// A program inside, as root.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.pid.to_string(), "--all", "--", program]).env_clear();
        command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", "/root");
        command.env("LC_ALL", "C.UTF-8").stdin(Stdio::null());
        command
    }

    /// Runs a line of shell inside, whatever comes of it.
    pub(crate) fn shell(&self, line: &str) -> Result<Output> {
        self.command("sh").args(["-c", line]).output().with_context(|| format!("run inside: {line}"))
    }

    /// Runs a line of shell inside that has to succeed, and returns what it wrote, without white space at its ends.
    pub(crate) fn said(&self, line: &str) -> Result<String> {
        let output = self.shell(line)?;
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let error = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        ensure!(output.status.success(), "`{line}` ended with {}: {text}\n{error}", output.status);
        Ok(text)
    }

    /// Writes a file inside; the directories above it are made.
    pub(crate) fn write(&self, path: &str, content: &[u8], mode: u32) -> Result<()> {
        let mut install = self.command("sh");
        let script =
            "mkdir -p \"$(dirname \"$1\")\" && rm -f \"$1\" && umask 077 && cat > \"$1\" && chmod \"$2\" \"$1\"";
        install.args(["-c", script, "sh", path, &format!("{mode:o}")]).stdin(Stdio::piped());
        let mut child = install.spawn().with_context(|| format!("start {}", shown(&install)))?;
        let mut stdin = child.stdin.take().context("the shell has no input")?;
        stdin.write_all(content).with_context(|| format!("write {path}"))?;
        drop(stdin);
        let status = child.wait().with_context(|| format!("write {path}"))?;
        ensure!(status.success(), "write {path}: {status}");
        Ok(())
    }

    /// Asks again and again until `line` succeeds and `wanted` likes what it wrote.
    pub(crate) fn wait_for(
        &self,
        what: &str,
        line: &str,
        patience: Duration,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<String> {
        let begun = Instant::now();
        loop {
            let output = self.shell(line)?;
            let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            if output.status.success() && wanted(&text) {
                return Ok(text);
            }
            if begun.elapsed() > patience {
                let error = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                bail!("{what}: not after {patience:?}; `{line}` says ({}): {text}\n{error}", output.status);
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn stop(&mut self) -> Result<()> {
        let id = self.script.id().to_string();
        crate::steps::run(Command::new("kill").args(["-TERM", &id])).context("end our systemd")?;
        self.script.wait().map(drop).context("wait for the end of our systemd")
    }
}

impl Drop for PrivateSystemd {
    fn drop(&mut self) {
        if self.script.try_wait().is_ok_and(|ended| ended.is_none())
            && let Err(error) = self.stop()
        {
            eprintln!("end our systemd: {error:#}");
        }
    }
}

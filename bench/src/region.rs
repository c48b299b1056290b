//! A region as the benchmark sees it: a child process and the line to it.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::serve_s3::{Arrival, Contents};

/// A running region. Dropping it ends the process.
#[derive(Debug)]
pub(crate) struct Region {
    port: u16,
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Region {
    /// Starts `program serve-s3` on a free port of 127.0.0.1, with a certificate from `tls` (`server.pem`, `server.key`).
    pub(crate) fn start(program: &Path, tls: &Path, buckets: &[&str]) -> Result<Self> {
        let mut command = Command::new(program);
        command.args(["serve-s3", "--listen", "127.0.0.1:0"]);
        command.arg("--tls-cert").arg(tls.join("server.pem")).arg("--tls-key").arg(tls.join("server.key"));
        for bucket in buckets {
            command.args(["--bucket", bucket]);
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("start a region")?;
        let input = child.stdin.take();
        let mut output = BufReader::new(child.stdout.take().context("a region has no output")?);
        let port = line(&mut output)?.parse().context("understand the region's port")?;
        Ok(Self { port, child, input, output })
    }

    /// The server's process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The port, on 127.0.0.1 and `localhost`.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The address, such as `https://127.0.0.1:40213`.
    pub(crate) fn endpoint(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// What is in a bucket, and how many requests there were since [`Region::count_from_0`].
    pub(crate) fn contents(&mut self, bucket: &str) -> Result<Contents> {
        let answer = self.ask(&format!("contents {bucket}"))?;
        serde_json::from_str(&answer).context("understand the region's answer")
    }

    /// When each object of a bucket was completely there, by the machine's clock.
    pub(crate) fn arrivals(&mut self, bucket: &str) -> Result<Vec<Arrival>> {
        let answer = self.ask(&format!("arrivals {bucket}"))?;
        serde_json::from_str(&answer).context("understand the region's answer")
    }

    /// Removes all objects of a bucket.
    pub(crate) fn empty(&mut self, bucket: &str) -> Result<()> {
        self.ask(&format!("empty {bucket}")).map(drop)
    }

    /// Begins to count requests anew.
    pub(crate) fn count_from_0(&mut self) -> Result<()> {
        self.ask("count-from-0").map(drop)
    }

    fn ask(&mut self, command: &str) -> Result<String> {
        let Some(input) = &mut self.input else { bail!("the region is closed") };
        writeln!(input, "{command}").and_then(|()| input.flush()).context("ask a region")?;
        line(&mut self.output)
    }
}

fn line(output: &mut BufReader<ChildStdout>) -> Result<String> {
    let mut line = String::new();
    if output.read_line(&mut line).context("hear from a region")? == 0 {
        bail!("the region has ended");
    }
    Ok(line.trim_end().to_owned())
}

impl Drop for Region {
    fn drop(&mut self) {
        drop(self.input.take());
        if let Err(error) = self.child.wait() {
            eprintln!("end a region: {error}");
        }
    }
}

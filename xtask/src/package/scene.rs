//! Where the package is tried: a systemd of our own with a server in it, and two S3 regions outside.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lifeboat_testkit::{TempDir, bin_dir, majors_under_test};

use crate::package::deb::{self, Profile};
use crate::package::documents::{Typed, blocks};
use crate::package::private_systemd::PrivateSystemd;
use crate::tools::{is_root, root};

/// The regions of the documentation: name and bucket.
pub(crate) const REGIONS: [(&str, &str); 2] = [("frankfurt", "acme-backups-fra"), ("virginia", "acme-backups-iad")];
/// Where lines of the documentation are typed.
const DESK: &str = "/srv/desk";
const HBA: &str = "local all postgres peer\nlocal replication postgres peer\n";
/// `sudo` and `apt` as far as the documentation needs them, so that neither they nor an archive have to be there.
const SUDO: &str =
    "#!/bin/sh\nif [ \"$1\" = -u ]; then\n  user=$2; shift 2; exec runuser -u \"$user\" -- \"$@\"\nfi\nexec \"$@\"\n";
const APT: &str = "#!/bin/sh\n# What was the other machine's is not needed any more.\nrm -f /usr/local/bin/lifeboat-restore\nshift\nexec dpkg --install \"$@\"\n";
/// `editor FILE` saves what was laid ready for that file.
const EDITOR: &str = "#!/bin/sh\nexec cp \"/srv/desk/edits/$(basename \"$1\")\" \"$1\"\n";
/// What the test adds to the unit: a system call that is denied kills, where the unit as it is only refuses it; and less
/// patience with a daemon that hangs.
const DROP_IN: &str = "[Service]\nSystemCallErrorNumber=kill\nWatchdogSec=5s\n";
/// The longest that a document may have to wait for what it promises.
const PATIENCE: Duration = Duration::from_secs(90);

/// How the daemon gets its secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Secrets {
    /// Files of its own.
    Files,
    /// `LoadCredential=` in the unit.
    Credentials,
}

/// Everything ends when it is dropped.
pub(crate) struct Scene {
    pub(crate) systemd: PrivateSystemd,
    regions: Vec<S3>,
    recipients: Vec<String>,
    /// The text of INSTALL.md, which has the configuration.
    install: String,
    secrets: Secrets,
    /// The package, as `dpkg` tells its files.
    pub(crate) files: Vec<String>,
}

impl Scene {
    /// Builds the package of what the tests have built, boots, and makes a server. Nothing is installed yet.
    pub(crate) fn start() -> Result<Self> {
        ensure!(
            is_root(),
            "it boots a systemd of its own, which only root can: sudo -E env \"PATH=$PATH\" cargo xtask package"
        );
        let ours = std::env::current_exe().context("find our own program")?;
        let programs = ours.parent().context("our own program has no directory")?;
        let regions = REGIONS.iter().map(|(_, bucket)| S3::start(programs, bucket)).collect::<Result<Vec<_>>>()?;
        let out = TempDir::with_prefix("lifeboat-package-").context("make a temporary directory")?;
        let package = deb::package(programs, Profile::Dev, out.path())?;
        let contents = crate::steps::output_of(Command::new("dpkg-deb").arg("--contents").arg(&package))?;
        let files = contents.lines().filter_map(|line| line.split_whitespace().nth(5)).map(str::to_owned).collect();
        let systemd = PrivateSystemd::start()?;
        for (path, script) in [("sudo", SUDO), ("apt", APT), ("editor", EDITOR)] {
            systemd.write(&format!("/usr/local/bin/{path}"), script.as_bytes(), 0o755)?;
        }
        let name = package.file_name().context("the package has no name")?.to_string_lossy().into_owned();
        systemd.write(&format!("{DESK}/{name}"), &read(&package)?, 0o644)?;
        systemd.write("/usr/local/bin/lifeboat-restore", &read(&programs.join("lifeboat-restore"))?, 0o755)?;
        let keys = "[default]\naws_access_key_id = test-access-key\naws_secret_access_key = test-secret-key\n";
        systemd.write(&format!("{DESK}/aws-credentials"), keys.as_bytes(), 0o600)?;
        systemd.write("/etc/systemd/system/lifeboatd.service.d/zz-test.conf", DROP_IN.as_bytes(), 0o644)?;
        start_server(&systemd)?;
        let install = read(&root().join("docs/INSTALL.md"))?;
        let install = String::from_utf8(install).context("read docs/INSTALL.md")?;
        Ok(Self { systemd, regions, recipients: Vec::new(), install, secrets: Secrets::Files, files })
    }

    /// Types a line of a document. What ends otherwise than it says is an error, after a while for what has to come.
    pub(crate) fn type_line(&mut self, document: &str, typed: &Typed) -> Result<()> {
        let line = typed.line.as_str();
        if let Some(file) = line.split_whitespace().skip_while(|word| *word != "editor").nth(1) {
            self.lay_ready(document, file)?;
        }
        let whole = format!("cd {DESK} && {line}");
        // Only what tells how it stands may be asked again.
        if line.contains("lifeboatd status") && typed.code == 0 {
            return self.systemd.wait_for(line, &whole, PATIENCE, |_| true).map(drop);
        }
        let output = self.systemd.shell(&whole)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.code() != Some(typed.code) {
            let (out, err) = (text(&output.stdout), text(&output.stderr));
            bail!("`{line}` ended with {}, and not with {}\n{out}\n{err}", output.status, typed.code);
        }
        if line.contains("lifeboat-restore keygen") {
            self.recipients.push(text(&output.stdout));
        }
        Ok(())
    }

    /// What somebody who follows the document writes into a file.
    fn lay_ready(&mut self, document: &str, file: &str) -> Result<()> {
        let block = |text: &str, kind: &str| {
            let found = blocks(text).into_iter().find(|block| block.kind == kind).map(|block| block.text());
            found.with_context(|| format!("there is no block for {file}"))
        };
        let name = Path::new(file).file_name().context("it edits no file")?.to_string_lossy().into_owned();
        let content = match name.as_str() {
            "pg_hba.conf" => block(document, "pg_hba")? + HBA,
            "lifeboat.toml" => self.configuration(&block(&self.install, "toml")?)?,
            "credentials.conf" => {
                let unit = block(document, "unit")?;
                self.secrets = Secrets::Credentials;
                unit
            }
            _ => bail!("nobody knows what to write into {file}"),
        };
        self.systemd.write(&format!("{DESK}/edits/{name}"), content.as_bytes(), 0o644)
    }

    /// The configuration of the document, with what only we know: addresses and keys.
    fn configuration(&self, document: &str) -> Result<String> {
        let quoted: Vec<String> = self.recipients.iter().map(|key| format!("\"{key}\"")).collect();
        ensure!(quoted.len() == 2, "the document has made {} keys", quoted.len());
        let mut urls = self.regions.iter().map(|region| region.url.as_str());
        let mut text = String::new();
        for line in document.lines() {
            match line.split(" = ").next().unwrap_or_default() {
                "recipients" => text.push_str(&format!("recipients = [{}]\n", quoted.join(", "))),
                "signing_key" if self.secrets == Secrets::Credentials => {
                    text.push_str("signing_key = \"credential:signing-key\"\n");
                }
                "credentials_file" => {
                    let url = urls.next().context("the document has more regions than there are")?;
                    text.push_str(&format!("endpoint = \"{url}\"\nprofile = \"minio\"\ns3_region = \"us-east-1\"\n"));
                    if self.secrets == Secrets::Files {
                        text.push_str(&format!("{line}\n"));
                    }
                }
                _ => text.push_str(&format!("{line}\n")),
            }
        }
        // Every backup starts a program, under the rules of the unit.
        text.push_str("[[keys.wrap_commands]]\nname = \"mirror\"\nwrap = [\"/usr/bin/base64\"]\n");
        Ok(text)
    }

    /// The configuration as it is now, changed; it is not told to anybody.
    pub(crate) fn edit_configuration(&self, from: &str, to: &str) -> Result<()> {
        let text = self.systemd.said("cat /etc/lifeboat/lifeboat.toml")?;
        ensure!(text.contains(from), "there is no `{from}` in the configuration");
        self.systemd.write("/etc/lifeboat/lifeboat.toml", (text.replacen(from, to, 1) + "\n").as_bytes(), 0o644)
    }
}

/// A server as Debian has it: its socket in /run/postgresql, a unit of its name.
fn start_server(systemd: &PrivateSystemd) -> Result<()> {
    let major = majors_under_test().into_iter().max().context("there is no version to test with")?;
    let bin = bin_dir(major)?;
    let bin = bin.display();
    // A server that this machine has would be started together with ours.
    systemd.said("rm -rf /etc/postgresql")?;
    systemd.write("/etc/postgresql/15/main/pg_hba.conf", HBA.as_bytes(), 0o644)?;
    let unit = format!(
        "[Service]\nUser=postgres\nRuntimeDirectory=postgresql\nExecStart={bin}/postgres -D /var/lib/postgresql/desk \
         -k /run/postgresql -c listen_addresses= -c hba_file=/etc/postgresql/15/main/pg_hba.conf\n\
         ExecReload=/bin/kill -HUP $MAINPID\nKillSignal=SIGINT\nKillMode=mixed\n"
    );
    systemd.write("/etc/systemd/system/postgresql.service", unit.as_bytes(), 0o644)?;
    let make = format!(
        "ln -sf {bin}/psql /usr/local/bin/psql && mkdir -p /var/lib/postgresql && chown postgres: /var/lib/postgresql && \
         cd / && runuser -u postgres -- {bin}/initdb -D /var/lib/postgresql/desk -A trust -N --data-checksums && \
         systemctl daemon-reload && systemctl start postgresql"
    );
    systemd.said(&make).context("make a server")?;
    let ask = "cd / && runuser -u postgres -- psql -XAtc 'select 1'";
    systemd.wait_for("the server", ask, Duration::from_secs(30), |said| said == "1").map(drop)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("read {}", path.display()))
}

/// A region outside; killed when dropped.
struct S3 {
    child: Child,
    url: String,
}

impl S3 {
    fn start(programs: &Path, bucket: &str) -> Result<Self> {
        let mut command = Command::new(programs.join("lifeboat-s3-testd"));
        command.args(["--listen", "127.0.0.1:0", "--bucket", bucket]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().context("start a region (built by: cargo build -p lifeboat-s3-testd)")?;
        let mut url = String::new();
        let stdout = child.stdout.take().context("the region has no output")?;
        BufReader::new(stdout).read_line(&mut url).context("read the region's address")?;
        ensure!(url.starts_with("http"), "the region did not start");
        Ok(Self { child, url: url.trim().to_owned() })
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait()) {
            eprintln!("end a region: {error}");
        }
    }
}

//! The package as an operator has it: installed, used as documented, reloaded, wedged, killed, stopped, removed.

use lifeboat_vocabulary::counted;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::package::documents;
use crate::package::scene::Scene;
use crate::tools::root;

const PATIENCE: Duration = Duration::from_secs(60);
/// The highest exposure that `systemd-analyze security` may find.
const EXPOSURE_MAX: f64 = 2.0;
const UNIT: &str = "lifeboatd.service";

/// All of it; returns what was seen.
pub(crate) fn run() -> Result<String> {
    let mut scene = Scene::start()?;
    contents(&scene)?;
    let mut typed = follow(&mut scene, &root().join("docs/INSTALL.md"))?;
    println!("    installed and started as the documentation says");
    unit_is_sound(&scene)?;
    let mut wrong = Vec::new();
    for document in operators_documents()? {
        match follow(&mut scene, &document) {
            Ok(count) => typed += count,
            Err(error) => wrong.push(format!("{error:#}")),
        }
    }
    ensure!(wrong.is_empty(), "the documentation is wrong:\n{}", wrong.join("\n"));
    println!("    the documentation is right: {}", counted(typed as u64, "line", "lines"));
    reload(&scene)?;
    scheduled_backup(&scene)?;
    wedged(&scene)?;
    killed(&scene)?;
    stopped(&scene)?;
    no_denied_call(&scene)?;
    removed(&scene)?;
    let lines = counted(typed as u64, "line", "lines");
    Ok(format!("installed, {lines} of the documentation, backed up, reloaded, wedged, killed, stopped, removed"))
}

/// Every document for operators but the one that installs. That which moves the secrets comes last.
fn operators_documents() -> Result<Vec<PathBuf>> {
    let docs = root().join("docs");
    let mut documents = vec![docs.join("CHECKLIST.md")];
    let mut runbooks = Vec::new();
    for entry in fs::read_dir(docs.join("runbooks")).context("list the runbooks")? {
        runbooks.push(entry.context("list the runbooks")?.path());
    }
    runbooks.sort();
    documents.extend(runbooks);
    documents.push(docs.join("CONFIGURE.md"));
    Ok(documents)
}

fn follow(scene: &mut Scene, document: &Path) -> Result<usize> {
    let text = fs::read_to_string(document).with_context(|| format!("read {}", document.display()))?;
    let name = document.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let typed = documents::typed(&text).with_context(|| name.clone())?;
    for line in &typed {
        scene.type_line(&text, line).with_context(|| format!("{name}, line {}", line.number))?;
    }
    Ok(typed.len())
}

/// What Debian's tools look for. Some systems leave manuals and documents out when they install, so the package is asked.
fn contents(scene: &Scene) -> Result<()> {
    for file in [
        "./usr/bin/lifeboatd",
        "./usr/bin/lifeboat-restore",
        "./usr/lib/systemd/system/lifeboatd.service",
        "./usr/lib/sysusers.d/lifeboat.conf",
        "./usr/lib/tmpfiles.d/lifeboat.conf",
        "./etc/lifeboat/lifeboat.toml",
        "./usr/share/man/man8/lifeboatd.8.gz",
        "./usr/share/man/man1/lifeboat-restore.1.gz",
        "./usr/share/man/man5/lifeboat.toml.5.gz",
        "./usr/share/bash-completion/completions/lifeboatd",
        "./usr/share/zsh/vendor-completions/_lifeboatd",
        "./usr/share/fish/vendor_completions.d/lifeboat-restore.fish",
        "./usr/share/doc/lifeboat/INSTALL.md",
        "./usr/share/doc/lifeboat/runbooks/wal-gap.md",
        "./usr/share/doc/lifeboat/copyright",
        "./usr/share/doc/lifeboat/changelog.gz",
        "./usr/share/doc/lifeboat/examples/lifeboatd.service.d/example.conf",
    ] {
        ensure!(scene.files.iter().any(|found| found == file), "{file} is not in the package");
    }
    Ok(())
}

/// What systemd knows of the unit.
fn property(scene: &Scene, name: &str) -> Result<String> {
    scene.systemd.said(&format!("systemctl show --value --property {name} {UNIT}"))
}

/// It has said READY, is as closed as it says, and nothing in it is misspelt.
fn unit_is_sound(scene: &Scene) -> Result<()> {
    let inside = &scene.systemd;
    ensure!(property(scene, "Type")? == "notify", "the unit does not wait for READY");
    ensure!(property(scene, "ActiveState")? == "active", "the unit is not active");
    let status = property(scene, "StatusText")?;
    ensure!(!status.is_empty(), "the daemon tells no status line");
    println!("    {status}");
    let analysis = inside.said(&format!("systemd-analyze security --no-pager {UNIT}"))?;
    let last = analysis.lines().find_map(|line| line.split_once("exposure level for lifeboatd.service: "));
    let exposure = last.and_then(|(_, rest)| rest.split(' ').next()?.parse::<f64>().ok());
    let exposure = exposure.with_context(|| format!("systemd-analyze says: {analysis}"))?;
    ensure!(exposure <= EXPOSURE_MAX, "exposure is {exposure}, above {EXPOSURE_MAX}:\n{analysis}");
    // Whether there is a program to read manuals with is the machine's business.
    let verify = format!("systemd-analyze verify --man=no /usr/lib/systemd/system/{UNIT} 2>&1");
    let verified = inside.said(&verify)?;
    ensure!(verified.is_empty(), "systemd-analyze verify says: {verified}");
    println!("    exposure {exposure}, verified");
    Ok(())
}

/// A good configuration is taken, a bad one refused with its faults, and the daemon goes on in both cases.
fn reload(scene: &Scene) -> Result<()> {
    let pid = property(scene, "MainPID")?;
    let inside = &scene.systemd;
    scene.edit_configuration("full = \"0 2 * * *\"", "full = \"* * * * *\"")?;
    inside.said(&format!("systemctl reload {UNIT}"))?;
    wait_for_journal(scene, "the configuration was read again")?;
    scene.edit_configuration("[durability]", "[durabilitty]")?;
    inside.said(&format!("systemctl reload {UNIT}"))?;
    wait_for_journal(scene, "durabilitty")?;
    // The file that the daemon refuses is refused by the command, too: it reads one that is still good.
    let status = "runuser -u lifeboat -- lifeboatd --config /srv/desk/edits/lifeboat.toml status || true";
    inside.wait_for("the alarm config-refused", status, PATIENCE, |said| said.contains("config-refused"))?;
    scene.edit_configuration("[durabilitty]", "[durability]")?;
    inside.said(&format!("systemctl reload {UNIT}"))?;
    inside.wait_for("the end of config-refused", status, PATIENCE, |said| !said.contains("config-refused"))?;
    ensure!(property(scene, "MainPID")? == pid, "the daemon did not outlive a reload");
    println!("    reloaded; a bad configuration is refused");
    Ok(())
}

fn wait_for_journal(scene: &Scene, words: &str) -> Result<()> {
    let journal = format!("journalctl --no-pager --output cat --unit {UNIT}");
    scene.systemd.wait_for(words, &journal, PATIENCE, |said| said.contains(words)).map(drop)
}

/// The schedule is due each minute now.
fn scheduled_backup(scene: &Scene) -> Result<()> {
    let list = "AWS_SHARED_CREDENTIALS_FILE=/srv/desk/aws-credentials lifeboat-restore --json --identity /srv/desk/operations.key list";
    let count = |said: &str| said.matches("\"backup\"").count();
    let before = count(&scene.systemd.said(list)?);
    let patience = Duration::from_secs(100);
    scene.systemd.wait_for("a scheduled backup", list, patience, |said| count(said) > before)?;
    println!("    a scheduled backup is there");
    Ok(())
}

/// Stopped in the middle of everything, as a process is that waits for a disk for ever.
fn wedged(scene: &Scene) -> Result<()> {
    let pid = property(scene, "MainPID")?;
    scene.systemd.said(&format!("kill -STOP {pid}"))?;
    restarted(scene, &pid)?;
    let said =
        scene.systemd.said(&format!("journalctl --no-pager --output cat _PID=1 | grep '{UNIT}: Watchdog timeout'"))?;
    ensure!(!said.is_empty(), "it was not the watchdog");
    println!("    the watchdog has restarted it");
    Ok(())
}

fn killed(scene: &Scene) -> Result<()> {
    let pid = property(scene, "MainPID")?;
    scene.systemd.said(&format!("kill -KILL {pid}"))?;
    restarted(scene, &pid)?;
    println!("    it is restarted after SIGKILL");
    Ok(())
}

/// It is active again, as another process, and streams.
fn restarted(scene: &Scene, before: &str) -> Result<()> {
    let show = format!("systemctl show --value --property ActiveState --property MainPID {UNIT}");
    scene.systemd.wait_for("the restart", &show, PATIENCE, |said| {
        let mut lines = said.lines().collect::<Vec<_>>();
        lines.sort_unstable();
        matches!(lines.as_slice(), [pid, "active"] if *pid != before && *pid != "0")
    })?;
    let streams = "cd / && runuser -u postgres -- psql -XAtc \"select count(*) from pg_stat_replication where state = 'streaming'\"";
    scene.systemd.wait_for("the stream", streams, PATIENCE, |said| said != "0").map(drop)
}

/// In order, in time, and with 0.
fn stopped(scene: &Scene) -> Result<()> {
    let begun = Instant::now();
    scene.systemd.said(&format!("systemctl stop {UNIT}"))?;
    let took = begun.elapsed();
    let (result, code) = (property(scene, "Result")?, property(scene, "ExecMainStatus")?);
    ensure!(result == "success" && code == "0", "the stop ended with {result}, code {code}");
    ensure!(took < Duration::from_secs(30), "the stop took {took:?}");
    let last =
        format!("journalctl --no-pager --output cat --unit {UNIT} --lines 20 | grep -c 'WAL shipping has ended'");
    scene.systemd.said(&last).context("the last WAL did not leave before the end")?;
    println!("    stopped in {:.1} s", took.as_secs_f64());
    Ok(())
}

/// With the test's drop-in a denied system call ends the process with SIGSYS.
fn no_denied_call(scene: &Scene) -> Result<()> {
    let ends = scene
        .systemd
        .said(&format!("journalctl --no-pager --output cat _PID=1 | grep '{UNIT}: Main process exited'"))?;
    let expected = ["code=dumped, status=6/ABRT", "code=killed, status=6/ABRT", "code=killed, status=9/KILL"];
    for end in ends.lines() {
        if !expected.iter().any(|expected| end.contains(expected)) {
            bail!("the daemon ended in a way that nobody has ordered: {end}");
        }
    }
    ensure!(ends.lines().count() == 2, "it was wedged once and killed once, but it ended so: {ends}");
    println!("    no system call was denied");
    Ok(())
}

/// Keys stay, whatever is done to the package.
fn removed(scene: &Scene) -> Result<()> {
    scene.systemd.said(&format!("systemctl start {UNIT} && dpkg --remove lifeboat"))?;
    let active = scene.systemd.shell(&format!("systemctl is-active {UNIT}"))?;
    ensure!(!active.status.success(), "the daemon outlives its package");
    scene.systemd.said("dpkg --purge lifeboat")?;
    scene.systemd.said("test -s /etc/lifeboat/credentials/signing-key && ! test -e /etc/lifeboat/lifeboat.toml")?;
    println!("    removed; its keys are still there");
    Ok(())
}

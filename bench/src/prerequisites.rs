//! Programs of others: found, or installed from where their users get them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Directories that the servers' account can use; a private `PATH` of root would mislead.
const PROGRAMS: [&str; 4] = ["/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin"];

/// Fails if one of these programs is missing.
pub(crate) fn need(names: &[&str]) -> Result<()> {
    let missing: Vec<_> = names.iter().copied().filter(|name| find(name).is_none()).collect();
    if !missing.is_empty() {
        bail!("missing {}: install them with the system's package manager", missing.join(", "));
    }
    Ok(())
}

/// pgBackRest; as root it is installed if need be.
pub(crate) fn pgbackrest() -> Result<PathBuf> {
    if let Some(program) = find("pgbackrest") {
        return Ok(program);
    }
    if !rustix::process::geteuid().is_root() {
        bail!("pgBackRest is missing: run `apt-get install pgbackrest`");
    }
    let _lock = one_installation()?;
    if let Some(program) = find("pgbackrest") {
        return Ok(program);
    }
    eprintln!("install pgBackRest");
    let mut update = Command::new("apt-get");
    run(update.args(["update", "-qq"]))?;
    let mut install = Command::new("apt-get");
    run(install.env("DEBIAN_FRONTEND", "noninteractive").args(["install", "-y", "-qq", "pgbackrest"]))?;
    find("pgbackrest").context("pgBackRest is still missing after its installation")
}

/// awscli, from a virtual environment that is made on first use.
pub(crate) fn aws() -> Result<PathBuf> {
    let environment = cache_dir()?.join("venv");
    let program = environment.join("bin/aws");
    let _lock = one_installation()?;
    if program.is_file() {
        return Ok(program);
    }
    eprintln!("install awscli");
    need(&["python3"])?;
    let python = find("python3").context("python3 is missing")?;
    fs::create_dir_all(cache_dir()?).context("make the directory for other's programs")?;
    run(Command::new(python).args(["-m", "venv"]).arg(&environment))?;
    run(Command::new(environment.join("bin/pip")).args(["install", "--quiet", "awscli"]))?;
    Ok(program)
}

/// Two runs at once do not both install: the second waits, and finds what it wants. Released when it is dropped.
fn one_installation() -> Result<File> {
    let path = std::env::temp_dir().join("lifeboat-bench-install.lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.with_context(|| format!("open {}", path.display()))?;
    file.lock().with_context(|| format!("wait for {}", path.display()))?;
    Ok(file)
}

/// Where the servers' account can go, also if root's home is closed.
fn cache_dir() -> Result<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Ok(PathBuf::from("/var/cache/lifeboat-bench"));
    }
    let home = std::env::var_os("HOME").context("HOME is not set")?;
    Ok(Path::new(&home).join(".cache/lifeboat-bench"))
}

fn find(name: &str) -> Option<PathBuf> {
    PROGRAMS.iter().map(|dir| Path::new(dir).join(name)).find(|program| program.is_file())
}

fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("start {program}"))?;
    if !output.status.success() {
        bail!("{program} ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_is_named() {
        let error = need(&["bash", "no-such-program"]).unwrap_err().to_string();
        assert!(error.contains("no-such-program") && !error.contains("bash"), "{error}");
        need(&["bash", "tar"]).unwrap();
    }
}

//! What has to be on the machine.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Result, bail};
use lifeboat_testkit::{bin_dir, majors_under_test};

use crate::steps::{run, shown};

/// The top of the source tree: where cargo says that we are now, else where we were built.
pub(crate) fn root() -> PathBuf {
    let ours = std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    ours.parent().unwrap_or(Path::new(".")).to_owned()
}

/// The cargo that started us.
pub(crate) fn cargo() -> PathBuf {
    std::env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from)
}

/// Whether a program can be started at all; what it says to `--version` does not matter.
pub(crate) fn works(program: &str, arguments: &[&str]) -> bool {
    let mut probe = Command::new(program);
    probe.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    probe.status().is_ok_and(|status| status.success())
}

/// A Debian package, and how to tell that it is there.
struct Package {
    what_for: &'static str,
    packages: &'static [&'static str],
    present: fn() -> bool,
}

const PACKAGES: [Package; 6] = [
    Package {
        what_for: "commands of the documentation for operators",
        packages: &["procps"],
        present: || works("ps", &["--version"]),
    },
    Package {
        what_for: "to build and to read Debian packages",
        packages: &["dpkg-dev"],
        present: || works("dpkg-shlibdeps", &["--version"]),
    },
    Package {
        what_for: "a systemd to try the package in",
        packages: &["systemd"],
        present: || std::path::Path::new("/lib/systemd/systemd").exists() && works("systemctl", &["--version"]),
    },
    Package {
        what_for: "a C compiler for the cryptography",
        packages: &["build-essential"],
        present: || works("cc", &["--version"]),
    },
    Package {
        what_for: "a real server to back up",
        packages: &["postgresql", "postgresql-contrib"],
        present: || std::fs::read_dir("/usr/lib/postgresql").is_ok_and(|mut versions| versions.next().is_some()),
    },
    Package {
        what_for: "another S3 server for a second opinion",
        packages: &["python3-venv", "python3-pip"],
        present: || works("python3", &["-c", "import venv, ensurepip"]),
    },
];

/// Installs what is missing, as root; as anybody else it says what to type and stops.
pub(crate) fn ensure_packages() -> Result<String> {
    let missing: Vec<&Package> = PACKAGES.iter().filter(|package| !(package.present)()).collect();
    if missing.is_empty() {
        return Ok("nothing is missing".to_owned());
    }
    for package in &missing {
        println!("    missing: {} ({})", package.packages.join(" "), package.what_for);
    }
    let names: Vec<&str> = missing.iter().flat_map(|package| package.packages).copied().collect();
    let mut install = Command::new("apt-get");
    install.args(["install", "-y", "--no-install-recommends"]).args(&names).env("DEBIAN_FRONTEND", "noninteractive");
    if !is_root() || !works("apt-get", &["--version"]) {
        bail!("programs are missing; install them with: sudo {}", shown(&install));
    }
    println!("    {}", shown(&install));
    run(Command::new("apt-get").args(["update", "-q"]))?;
    run(&mut install)?;
    match missing.iter().find(|package| !(package.present)()) {
        None => Ok(format!("installed {}", names.join(" "))),
        Some(package) => bail!("{} is still not there after installing it", package.packages.join(" ")),
    }
}

pub(crate) fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|about| std::os::unix::fs::MetadataExt::uid(&about) == 0)
}

/// Makes sure of every PostgreSQL version that tests will ask for.
pub(crate) fn ensure_postgres(majors: Option<&str>) -> Result<String> {
    let majors = match majors {
        Some(text) => parse_majors(text)?,
        None => majors_under_test(),
    };
    for major in &majors {
        println!("    PostgreSQL {major}: {}", bin_dir(*major)?.display());
    }
    Ok(format!("PostgreSQL {}", majors.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")))
}

/// Reads a list such as `13,15,18`.
pub(crate) fn parse_majors(text: &str) -> Result<Vec<u32>> {
    let majors: Option<Vec<u32>> = text.split(',').map(|part| part.trim().parse().ok()).collect();
    match majors {
        Some(majors) if majors.iter().all(|major| (13..=18).contains(major)) => Ok(majors),
        _ => bail!("`{text}` is not a list of versions from 13 to 18, such as 13,15,18"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_that_do_not_exist_are_refused() {
        for text in ["", "12", "15,", "15,x", "19"] {
            assert!(parse_majors(text).is_err(), "{text}");
        }
        assert_eq!(parse_majors("13, 18").unwrap(), [13, 18]);
    }

    #[test]
    fn a_program_that_is_not_there_does_not_work() {
        assert!(!works("no-such-program", &[]) && !works("false", &[]) && works("true", &[]));
        assert!(root().join("Cargo.toml").is_file());
    }
}

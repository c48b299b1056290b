//! The account that servers and their tools run as, and what that account needs of files.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

/// Environment that would redirect libpq or the server away from the scratch cluster.
const MISLEADING: [&str; 15] = [
    "PGHOST",
    "PGHOSTADDR",
    "PGPORT",
    "PGUSER",
    "PGPASSWORD",
    "PGPASSFILE",
    "PGDATABASE",
    "PGDATA",
    "PGSERVICE",
    "PGOPTIONS",
    "PGSSLMODE",
    "PGSSLROOTCERT",
    "PGAPPNAME",
    "PGTARGETSESSIONATTRS",
    "LD_LIBRARY_PATH",
];

#[derive(Clone, Copy, Debug)]
struct Account {
    uid: u32,
    gid: u32,
}

/// The account to switch to, or `None` where we are not root and stay what we are.
fn other_account() -> Option<Account> {
    static ACCOUNT: OnceLock<Option<Account>> = OnceLock::new();
    *ACCOUNT.get_or_init(|| {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        account_named(&passwd, "postgres")
            .or_else(|| account_named(&passwd, "nobody"))
            .or(Some(Account { uid: 65534, gid: 65534 }))
    })
}

fn account_named(passwd: &str, name: &str) -> Option<Account> {
    let mut fields = passwd.lines().map(|line| line.split(':')).find_map(|mut fields| {
        let found = fields.next() == Some(name);
        found.then_some(fields)
    })?;
    let uid = fields.nth(1)?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    Some(Account { uid, gid })
}

/// Makes `command` run as the servers' account, in `/`, with English messages and without libpq settings of ours.
pub fn as_postgres(command: &mut Command) -> &mut Command {
    for name in MISLEADING {
        command.env_remove(name);
    }
    command.current_dir("/").env("HOME", "/tmp").env("LC_ALL", "C");
    if let Some(account) = other_account() {
        // The standard library drops supplementary groups together with the user id.
        command.uid(account.uid).gid(account.gid);
    }
    command
}

/// Runs a command to its end as the account that owns the servers, and returns what it wrote to standard output.
///
/// # Errors
/// If it cannot be started or ends with another code than 0; the message holds what it wrote to standard error.
pub fn run_as_postgres(command: &mut Command) -> Result<String> {
    run(as_postgres(command))
}

/// Runs a command to its end.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("start {program}"))?;
    if !output.status.success() {
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        bail!("{program} ended with {}: {}{}", output.status, err.trim(), out.trim());
    }
    String::from_utf8(output.stdout).with_context(|| format!("read the output of {program}"))
}

/// A temporary directory that belongs to the servers' account and that it can reach; removed when dropped.
///
/// # Errors
/// If the system's temporary directory cannot be used.
pub fn scratch_dir(prefix: &str) -> Result<TempDir> {
    let dir = tempfile::Builder::new().prefix(prefix).tempdir().context("make a temporary directory")?;
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).context("open the temporary directory to others")?;
    own(dir.path())?;
    Ok(dir)
}

/// Gives `path` and everything below it to the servers' account (as root; else nothing happens).
///
/// # Errors
/// If something below cannot be listed or given away.
pub fn give_to_postgres(path: &Path) -> Result<()> {
    if other_account().is_none() {
        return Ok(());
    }
    own(path)?;
    if fs::symlink_metadata(path).with_context(|| format!("look at {}", path.display()))?.is_dir() {
        for entry in fs::read_dir(path).with_context(|| format!("list {}", path.display()))? {
            give_to_postgres(&entry.with_context(|| format!("list {}", path.display()))?.path())?;
        }
    }
    Ok(())
}

fn own(path: &Path) -> Result<()> {
    match other_account() {
        Some(to) => lchown(path, Some(to.uid), Some(to.gid)).with_context(|| format!("give {} away", path.display())),
        None => Ok(()),
    }
}

/// Lets the servers' account pass through the directories above `path`, as far as these are ours and temporary.
///
/// # Errors
/// If a directory above is closed to other accounts and must stay so, such as root's home.
pub fn let_postgres_pass(path: &Path) -> Result<()> {
    let Some(account) = other_account() else { return Ok(()) };
    let temporary = std::env::temp_dir();
    for above in path.ancestors().skip(1).filter(|above| !above.as_os_str().is_empty()) {
        let about = fs::metadata(above).with_context(|| format!("look at {}", above.display()))?;
        if about.mode() & 0o001 != 0 || (about.uid() == account.uid && about.mode() & 0o100 != 0) {
            continue;
        }
        if above == temporary || !above.starts_with(&temporary) {
            bail!("{} is closed to user postgres: set TMPDIR to a directory that is not", above.display());
        }
        let mode = Permissions::from_mode(about.mode() & 0o7777 | 0o011);
        fs::set_permissions(above, mode).with_context(|| format!("open {}", above.display()))?;
    }
    Ok(())
}

/// Makes a directory that only the servers' account can use.
pub(crate) fn private_dir(path: &Path) -> Result<()> {
    fs::create_dir(path).with_context(|| format!("make {}", path.display()))?;
    fs::set_permissions(path, Permissions::from_mode(0o700)).with_context(|| format!("close {}", path.display()))?;
    own(path)
}

/// Writes a file that only the servers' account can read. Nothing here has to survive a crash.
pub(crate) fn private_file(path: &Path, content: &[u8]) -> Result<()> {
    let write = || -> std::io::Result<()> {
        let mut file = File::create(path)?;
        file.set_permissions(Permissions::from_mode(0o600))?;
        file.write_all(content)
    };
    write().with_context(|| format!("write {}", path.display()))?;
    own(path)
}

/// Copies a program to `to`, ready to be run. By `cp`: a copy made by this process would have its writable descriptor
/// inherited by whatever another thread starts just then, and could not be run (`ETXTBSY`) until that ends.
///
/// # Errors
/// If `cp` fails.
pub fn copy_program(from: &Path, to: &Path) -> Result<()> {
    let said = Command::new("cp").arg("--").args([from, to]).output().context("run cp")?;
    anyhow::ensure!(said.status.success(), "copy {}: {}", from.display(), String::from_utf8_lossy(&said.stderr).trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\npostgresql:x:9:9::/:\npostgres:x:101:104:,,,:/v:/bin/bash\n";

    #[test]
    fn only_the_whole_name_of_an_account_counts() {
        let found = account_named(PASSWD, "postgres").map(|account| (account.uid, account.gid));
        assert_eq!(found, Some((101, 104)));
        assert!(account_named(PASSWD, "post").is_none());
        assert!(account_named("postgres:x:many:1::/:", "postgres").is_none());
    }

    #[test]
    fn a_failing_command_tells_what_it_wrote() {
        let error = run_as_postgres(Command::new("sh").args(["-c", "echo trouble >&2; exit 3"])).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("trouble") && text.contains('3'), "{text}");
        assert_eq!(run_as_postgres(Command::new("sh").args(["-c", "echo fine"])).unwrap(), "fine\n");
    }

    #[test]
    fn commands_never_run_as_root_and_get_no_libpq_variables_of_ours() {
        let mut command = Command::new("sh");
        command.env("PGHOST", "production").args(["-c", "echo $(id -u) ${PGHOST:-nothing}"]);
        let said = run_as_postgres(&mut command).unwrap();
        assert!(!said.starts_with("0 ") && said.ends_with(" nothing\n"), "{said}");
    }

    #[test]
    fn a_closed_directory_above_is_opened_only_in_the_temporary_directory() {
        let outer = tempfile::tempdir().unwrap();
        let inner = outer.path().join("a");
        fs::create_dir(&inner).unwrap();
        fs::set_permissions(outer.path(), Permissions::from_mode(0o700)).unwrap();
        let probe = || run_as_postgres(Command::new("ls").arg(&inner));
        if other_account().is_some() {
            assert!(probe().is_err());
            assert!(let_postgres_pass(Path::new("/root/x")).is_err() || fs::metadata("/root").unwrap().mode() & 1 == 1);
        }
        let_postgres_pass(&inner).unwrap();
        probe().unwrap();
    }
}

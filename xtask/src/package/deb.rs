//! `cargo xtask deb`: a Debian package with both programs and everything around them.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use lifeboat_testkit::TempDir;

use crate::package::config_manual;
use crate::steps::{output_of, run, shown};
use crate::tools::{cargo, root};

/// Whom to write to, unless `DEBFULLNAME` and `DEBEMAIL` say it.
const MAINTAINER: (&str, &str) = ("Lifeboat maintainers", "lifeboat@localhost.localdomain");
const DESCRIPTION: &str = "backups and disaster recovery of PostgreSQL
 Lifeboat keeps base backups and every second of write-ahead log in several
 regions at once, encrypted to public keys and signed, and brings a cluster back
 to any moment from nothing but a bucket, a key and one program.
 .
 This package holds the daemon, lifeboatd, and the restorer, lifeboat-restore,
 which needs no daemon and no configuration.
";
const PROGRAMS: [&str; 2] = ["lifeboatd", "lifeboat-restore"];
/// Documents for operators, below `docs/`.
const DOCUMENTS: [&str; 4] = ["INSTALL.md", "CONFIGURE.md", "CHECKLIST.md", "COMMANDS.md"];

/// How to build the package.
#[derive(Debug, Args)]
pub(crate) struct DebArgs {
    /// How the programs are built.
    #[arg(long, value_enum, default_value_t = Profile::Release)]
    profile: Profile,
    /// Where the package goes [default: target/debian]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Cargo's profiles, as far as there is something to build with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Profile {
    /// Optimised: what is given to others.
    Release,
    /// What the tests have built: not compressed, and for tests alone.
    Dev,
}

/// Builds the programs, then the package.
pub(crate) fn main(args: &DebArgs) -> Result<()> {
    let mut build = Command::new(cargo());
    build.args(["build", "--package", "lifeboat-daemon", "--package", "lifeboat-restore"]).current_dir(root());
    let directory = match args.profile {
        Profile::Release => {
            build.arg("--release");
            "release"
        }
        Profile::Dev => "debug",
    };
    println!("building the programs: {}", shown(&build));
    run(&mut build)?;
    // We were built into the same target directory.
    let ours = std::env::current_exe().context("find our own program")?;
    let target = ours.parent().and_then(Path::parent).context("our own program has no directory")?;
    let out = args.out.clone().unwrap_or_else(|| target.join("debian"));
    fs::create_dir_all(&out).with_context(|| format!("make {}", out.display()))?;
    let package = package(&target.join(directory), args.profile, &out)?;
    println!("{}", package.display());
    Ok(())
}

/// Makes a package of the programs in `programs`, in `out`, and returns its path.
pub(crate) fn package(programs: &Path, profile: Profile, out: &Path) -> Result<PathBuf> {
    let scratch = TempDir::with_prefix("lifeboat-deb-").context("make a temporary directory")?;
    // As in a source package, because `dpkg-shlibdeps` works in one; this is the least that it takes for one.
    let source = Tree { root: scratch.path().to_owned() };
    source.put("debian/control", b"Source: lifeboat\n\nPackage: lifeboat\nArchitecture: any\n", 0o644)?;
    let tree = Tree { root: source.root.join("debian/lifeboat") };
    let architecture = output_of(Command::new("dpkg").arg("--print-architecture"))?.trim().to_owned();
    let version = env!("CARGO_PKG_VERSION");
    add_programs(&tree, programs, profile)?;
    add_service(&tree)?;
    add_manuals(&tree, programs, version)?;
    add_documents(&tree, version)?;
    let depends = depends(&source)?;
    add_control(&tree, version, &architecture, &depends)?;
    let package = out.join(format!("lifeboat_{version}_{architecture}.deb"));
    let mut make = Command::new("dpkg-deb");
    make.args(["--root-owner-group", if profile == Profile::Dev { "-Znone" } else { "-Zxz" }, "--build"]);
    make.arg(&tree.root).arg(&package).stdout(Stdio::null());
    if let Some(seconds) = source_date() {
        make.env("SOURCE_DATE_EPOCH", seconds);
    }
    run(&mut make)?;
    Ok(package)
}

/// What will be the root of the machine that the package is installed on.
struct Tree {
    root: PathBuf,
}

impl Tree {
    fn put(&self, path: &str, content: &[u8], mode: u32) -> Result<()> {
        let path = self.root.join(path);
        if let Some(parent) = path.parent() {
            make_directory(parent, &self.root)?;
        }
        let write = || -> std::io::Result<()> {
            let mut file = File::create(&path)?;
            file.write_all(content)?;
            file.set_permissions(Permissions::from_mode(mode))
        };
        write().with_context(|| format!("write {}", path.display()))
    }

    fn copy(&self, from: &Path, to: &str, mode: u32) -> Result<()> {
        self.put(to, &fs::read(from).with_context(|| format!("read {}", from.display()))?, mode)
    }

    /// As `gzip -9n`: no name and no time, so that the same input gives the same package.
    fn put_compressed(&self, path: &str, content: &str) -> Result<()> {
        let mut gzip = Command::new("gzip").args(["-9nc"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut input = gzip.stdin.take().context("gzip has no input")?;
        let content = content.to_owned();
        let writer = std::thread::spawn(move || input.write_all(content.as_bytes()));
        let output = gzip.wait_with_output().context("wait for gzip")?;
        writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"))?.context("write to gzip")?;
        ensure!(output.status.success(), "gzip ended with {}", output.status);
        self.put(path, &output.stdout, 0o644)
    }
}

/// Every directory that everybody can pass, whatever our umask is.
fn make_directory(path: &Path, top: &Path) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent().filter(|parent| parent.starts_with(top)) {
        make_directory(parent, top)?;
    }
    fs::create_dir(path).with_context(|| format!("make {}", path.display()))?;
    fs::set_permissions(path, Permissions::from_mode(0o755)).with_context(|| format!("open {}", path.display()))
}

fn add_programs(tree: &Tree, programs: &Path, profile: Profile) -> Result<()> {
    for program in PROGRAMS {
        let to = format!("usr/bin/{program}");
        tree.copy(&programs.join(program), &to, 0o755)?;
        if profile == Profile::Release {
            run(Command::new("strip")
                .args(["--strip-unneeded", "--remove-section=.comment"])
                .arg(tree.root.join(&to)))?;
        }
        for (shell, path) in [
            ("bash", format!("usr/share/bash-completion/completions/{program}")),
            ("zsh", format!("usr/share/zsh/vendor-completions/_{program}")),
            ("fish", format!("usr/share/fish/vendor_completions.d/{program}.fish")),
        ] {
            let script = output_of(Command::new(programs.join(program)).args(["completions", shell]))?;
            tree.put(&path, script.as_bytes(), 0o644)?;
        }
    }
    Ok(())
}

fn add_service(tree: &Tree) -> Result<()> {
    let systemd = root().join("systemd");
    tree.copy(&systemd.join("lifeboatd.service"), "usr/lib/systemd/system/lifeboatd.service", 0o644)?;
    tree.copy(&systemd.join("lifeboat.sysusers"), "usr/lib/sysusers.d/lifeboat.conf", 0o644)?;
    tree.copy(&systemd.join("lifeboat.tmpfiles"), "usr/lib/tmpfiles.d/lifeboat.conf", 0o644)?;
    let example = systemd.join("lifeboatd.service.d/example.conf");
    tree.copy(&example, "usr/share/doc/lifeboat/examples/lifeboatd.service.d/example.conf", 0o644)
}

fn add_manuals(tree: &Tree, programs: &Path, version: &str) -> Result<()> {
    for (program, section) in PROGRAMS.into_iter().zip([8, 1]) {
        let page = output_of(Command::new(programs.join(program)).arg("manual"))?;
        tree.put_compressed(&format!("usr/share/man/man{section}/{program}.{section}.gz"), &page)?;
    }
    let page = config_manual::page(&example()?, version);
    tree.put_compressed("usr/share/man/man5/lifeboat.toml.5.gz", &page)
}

fn example() -> Result<String> {
    let path = root().join("config/lifeboat.example.toml");
    fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
}

/// The example, with the signing key where the package has made room for it. Lifeboat refuses it until its recipients
/// are replaced.
fn configuration(example: &str) -> Result<String> {
    let (theirs, ours) = ("\"credential:signing-key\"", "\"file:/etc/lifeboat/credentials/signing-key\"");
    ensure!(example.matches(theirs).count() == 1, "the example names the signing key in another way");
    Ok(example.replace(theirs, ours))
}

fn add_documents(tree: &Tree, version: &str) -> Result<()> {
    tree.put("etc/lifeboat/lifeboat.toml", configuration(&example()?)?.as_bytes(), 0o644)?;
    tree.put("DEBIAN/conffiles", b"/etc/lifeboat/lifeboat.toml\n", 0o644)?;
    let (docs, doc) = (root().join("docs"), "usr/share/doc/lifeboat");
    for document in DOCUMENTS {
        tree.copy(&docs.join(document), &format!("{doc}/{document}"), 0o644)?;
    }
    for runbook in fs::read_dir(docs.join("runbooks")).context("list the runbooks")? {
        let runbook = runbook.context("list the runbooks")?;
        let name = runbook.file_name().to_string_lossy().into_owned();
        tree.copy(&runbook.path(), &format!("{doc}/runbooks/{name}"), 0o644)?;
    }
    tree.copy(&root().join("config/lifeboat.example.toml"), &format!("{doc}/examples/lifeboat.example.toml"), 0o644)?;
    tree.put(&format!("{doc}/copyright"), include_bytes!("../../debian/copyright"), 0o644)?;
    let upstream = fs::read_to_string(root().join("CHANGELOG.md")).context("read the changelog")?;
    tree.put_compressed(&format!("{doc}/changelog.gz"), &upstream)?;
    let date =
        output_of(Command::new("date").args(["-R", "-u", "-d", &format!("@{}", source_date().unwrap_or_default())]))?;
    let (name, email) = maintainer();
    let changes = format!(
        "lifeboat ({version}) unstable; urgency=medium\n\n  * What changed is in changelog.gz.\n\n -- {name} <{email}>  {}\n",
        date.trim()
    );
    tree.put_compressed(&format!("{doc}/changelog.Debian.gz"), &changes)
}

fn maintainer() -> (String, String) {
    let said = |name, usual: &str| std::env::var(name).unwrap_or_else(|_| usual.to_owned());
    (said("DEBFULLNAME", MAINTAINER.0), said("DEBEMAIL", MAINTAINER.1))
}

/// Seconds since 1970 of the last commit, so that the same source gives the same package; `None` outside of git.
fn source_date() -> Option<String> {
    if let Ok(given) = std::env::var("SOURCE_DATE_EPOCH") {
        return Some(given);
    }
    let mut git = Command::new("git");
    git.args(["log", "-1", "--format=%ct"]).current_dir(root()).stderr(Stdio::null());
    let said = git.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&said.stdout).trim().to_owned()).filter(|text| !text.is_empty())
}

/// The libraries that the programs really need, with the oldest versions that will do: `libc6 (>= 2.34), ...`.
fn depends(source: &Tree) -> Result<String> {
    let mut ask = Command::new("dpkg-shlibdeps");
    ask.arg("-O").args(PROGRAMS.map(|program| format!("debian/lifeboat/usr/bin/{program}"))).current_dir(&source.root);
    let said = output_of(&mut ask)?;
    let list = said.lines().find_map(|line| line.strip_prefix("shlibs:Depends="));
    list.map(str::to_owned).with_context(|| format!("understand what dpkg-shlibdeps says: {said}"))
}

fn add_control(tree: &Tree, version: &str, architecture: &str, depends: &str) -> Result<()> {
    let size = output_of(Command::new("du").args(["-sk", "--apparent-size"]).arg(&tree.root))?;
    let (name, email) = maintainer();
    let control = format!(
        "Package: lifeboat\nVersion: {version}\nArchitecture: {architecture}\nMaintainer: {name} <{email}>\n\
         Installed-Size: {}\nDepends: {depends}, ca-certificates, systemd | systemd-standalone-sysusers, \
         systemd | systemd-standalone-tmpfiles\nRecommends: postgresql-client\nSection: database\nPriority: optional\n\
         Description: {DESCRIPTION}",
        size.split_whitespace().next().unwrap_or("0")
    );
    tree.put("DEBIAN/control", control.as_bytes(), 0o644)?;
    for (name, script) in [
        ("postinst", include_bytes!("../../debian/postinst").as_slice()),
        ("prerm", include_bytes!("../../debian/prerm").as_slice()),
        ("postrm", include_bytes!("../../debian/postrm").as_slice()),
    ] {
        tree.put(&format!("DEBIAN/{name}"), script, 0o755)?;
    }
    let sums =
        "cd \"$1\" && find . -path ./DEBIAN -prune -o -type f -printf '%P\\0' | LC_ALL=C sort -z | xargs -0 md5sum";
    let sums = output_of(Command::new("sh").args(["-c", sums, "sh"]).arg(&tree.root))?;
    tree.put("DEBIAN/md5sums", sums.as_bytes(), 0o644)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_in_the_package_differs_from_the_example_only_in_the_signing_key() {
        let example = example().unwrap();
        let ours = configuration(&example).unwrap();
        let different: Vec<_> = example.lines().zip(ours.lines()).filter(|(theirs, ours)| theirs != ours).collect();
        assert_eq!(different.len(), 1);
        assert!(different[0].1.starts_with("signing_key = \"file:/etc/lifeboat/credentials/"), "{different:?}");
        assert!(configuration("signing_key = \"env:KEY\"").is_err());
    }

    #[test]
    fn compression_is_reproducible() {
        let scratch = tempfile::tempdir().unwrap();
        let tree = Tree { root: scratch.path().join("tree") };
        fs::create_dir(&tree.root).unwrap();
        tree.put_compressed("a.gz", "some text\n").unwrap();
        tree.put_compressed("deep/b.gz", "some text\n").unwrap();
        let read = |name: &str| fs::read(tree.root.join(name)).unwrap();
        assert_eq!(read("a.gz"), read("deep/b.gz"));
        let mode = fs::metadata(tree.root.join("deep")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o755);
    }
}

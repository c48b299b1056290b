//! What the base backup tests have in common: a backup, collected into a directory.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use lifeboat_postgres::{
    BackupCheckpoint, BackupEnd, BackupSource, BackupStart, BaseBackupOptions, ConnectionSettings, FileNumber,
    ManifestFile, ManifestVersion, ManifestWriter, PageChecks, PageFault, RECOVERY_SIGNAL, ReplicationSource,
    SourceError, SourceEvent, WalRange, check_pages, recovered_copy_settings,
};
use lifeboat_testkit::{PgServer, RestoredServer, TempDir, pg_verifybackup, scratch_dir};
use lifeboat_vocabulary::{EntryKind, FileEntry, RelativePath};

pub fn options() -> BaseBackupOptions {
    BaseBackupOptions { label: "it's a test".to_owned(), checkpoint: BackupCheckpoint::Fast, max_rate: None }
}

pub async fn begin(conninfo: &str, options: &BaseBackupOptions) -> Result<ReplicationSource, SourceError> {
    ReplicationSource::start(&ConnectionSettings::parse(conninfo).unwrap(), options).await
}

/// A whole backup in a directory, with everything that the source said about it.
pub struct Collected {
    dir: TempDir,
    pub source: ReplicationSource,
    pub start: BackupStart,
    pub end: BackupEnd,
    /// Every member in order.
    pub members: Vec<FileEntry>,
    /// CRC-32C of every file.
    pub sums: BTreeMap<RelativePath, (u64, u32)>,
    pub listed: Vec<ManifestFile>,
    pub findings: Vec<String>,
    /// Pages that do not look right.
    pub faults: Vec<(RelativePath, PageFault)>,
    /// How many bytes of files came.
    pub received: u64,
}

struct Open {
    entry: FileEntry,
    file: File,
    at: u64,
    sum: u32,
}

impl Collected {
    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub fn has(&self, path: &str) -> bool {
        self.members.iter().any(|member| member.path.as_bytes() == path.as_bytes())
    }

    /// Takes a whole backup.
    pub async fn take(mut source: ReplicationSource) -> Result<Self, SourceError> {
        match source.next().await? {
            SourceEvent::Started(start) => Self::rest(source, start).await,
            other => panic!("{other:?} before the start"),
        }
    }

    /// Takes the rest of a backup, and checks on the way that the source keeps the contract of its seam.
    pub async fn rest(mut source: ReplicationSource, start: BackupStart) -> Result<Self, SourceError> {
        let dir = scratch_dir("lifeboat-collected-").unwrap();
        make_tablespaces(dir.path(), &start);
        let (mut members, mut sums, mut listed) = (Vec::new(), BTreeMap::new(), Vec::new());
        let (mut findings, mut faults, mut received) = (Vec::new(), Vec::new(), 0);
        let mut open: HashMap<FileNumber, Open> = HashMap::new();
        let end = loop {
            match source.next().await? {
                SourceEvent::Started(_) => panic!("a second start"),
                SourceEvent::FileBegin(number, entry) => {
                    assert_eq!(number, FileNumber(u32::try_from(members.len()).unwrap()), "{entry:?}");
                    members.push(entry.clone());
                    if let Some(file) = make(&dir.path().join("data"), &entry) {
                        open.insert(number, Open { entry, file, at: 0, sum: 0 });
                    }
                }
                SourceEvent::Data { file, offset, bytes } => {
                    let open = open.get_mut(&file).unwrap();
                    assert!(!bytes.is_empty() && offset == open.at, "{:?} at {offset}", open.entry);
                    open.file.write_all(&bytes).unwrap();
                    (open.at, open.sum) = (offset + bytes.len() as u64, crc32c::crc32c_append(open.sum, &bytes));
                    received += bytes.len() as u64;
                }
                SourceEvent::FileEnd { file, size } => {
                    let Open { entry, at, sum, .. } = open.remove(&file).unwrap();
                    assert_eq!((size, entry.size), (at, at), "{entry:?}");
                    let content = fs::read(dir.path().join("data").join(text(&entry.path))).unwrap();
                    if start.page_checks != PageChecks::None {
                        let found = check_pages(&entry.path, 0, &content, start.position.lsn);
                        faults.extend(found.into_iter().map(|fault| (entry.path.clone(), fault)));
                    }
                    assert!(sums.insert(entry.path, (size, sum)).is_none(), "a file came twice");
                }
                SourceEvent::ManifestFile(file) => listed.push(file),
                SourceEvent::LeftOut(left_out) => {
                    findings.push(format!("{:?}: {}: {}", left_out.part, left_out.path, left_out.why));
                }
                SourceEvent::Finding(finding) => findings.push(finding),
                SourceEvent::Finished(end) => break end,
            }
        };
        assert!(open.is_empty());
        Ok(Self { dir, source, start, end, members, sums, listed, findings, faults, received })
    }

    /// The server's manifest agrees with what came, file by file, and PostgreSQL's own tool finds nothing amiss.
    pub fn verify(&self) {
        for ManifestFile { path, size, crc32c } in &self.listed {
            assert_eq!(self.sums.get(path), Some(&(*size, crc32c.unwrap())), "{path}");
        }
        let listed: Vec<&RelativePath> = self.listed.iter().map(|file| &file.path).collect();
        let is_listed = |path: &&RelativePath| listed.contains(path) || path.is_below(b"pg_wal");
        assert_eq!(self.sums.keys().find(|path| !is_listed(path)), None, "not in the manifest");
        assert_eq!(self.members.iter().filter(|member| text(&member.path) == "global/pg_control").count(), 1);
        self.write_manifest();
        pg_verifybackup(&self.data_dir()).unwrap();
    }

    fn write_manifest(&self) {
        let facts = self.source.facts();
        let version = ManifestVersion::for_server(facts.version_num, facts.system_identifier);
        let file = File::create(self.data_dir().join("backup_manifest")).unwrap();
        let mut writer = ManifestWriter::new(file, version).unwrap();
        for member in self.members.iter().filter(|member| !member.path.is_below(b"pg_wal")) {
            if let Some((size, sum)) = self.sums.get(&member.path) {
                writer.file(&member.path, *size, member.modified, *sum).unwrap();
            }
        }
        let (start, end) = (self.start.position, self.end.position);
        writer.finish(&[WalRange { timeline: start.timeline, start: start.lsn, end: end.lsn }]).unwrap();
    }

    /// Starts the copy with nothing but the WAL that it carries.
    pub fn restore(&self, server: &PgServer) -> RestoredServer {
        let data = self.data_dir();
        for empty in ["pg_replslot", "pg_notify", "pg_wal"] {
            assert!(data.join(empty).is_dir(), "{empty}");
        }
        let mut settings = File::options().append(true).open(data.join("postgresql.auto.conf")).unwrap();
        settings.write_all(recovered_copy_settings(self.source.facts().version_num).as_bytes()).unwrap();
        File::create(data.join(RECOVERY_SIGNAL)).unwrap();
        let restored = RestoredServer::start(&data, server.major()).unwrap();
        restored.wait_until_promoted(std::time::Duration::from_secs(60)).unwrap();
        restored
    }
}

pub async fn collect(conninfo: &str, options: &BaseBackupOptions) -> Result<Collected, SourceError> {
    Collected::take(begin(conninfo, options).await?).await
}

/// Tablespaces go into directories beside the copy, never into those of the server.
fn make_tablespaces(dir: &Path, start: &BackupStart) {
    fs::create_dir_all(dir.join("data/pg_tblspc")).unwrap();
    fs::set_permissions(dir.join("data"), fs::Permissions::from_mode(0o700)).unwrap();
    for tablespace in &start.tablespaces {
        let location = dir.join(format!("tablespace_{}", tablespace.oid));
        fs::create_dir(&location).unwrap();
        symlink(&location, dir.join(format!("data/pg_tblspc/{}", tablespace.oid))).unwrap();
    }
}

fn make(data: &Path, entry: &FileEntry) -> Option<File> {
    let path = data.join(text(&entry.path));
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    match &entry.kind {
        EntryKind::Directory => fs::create_dir_all(path).map(|()| None).unwrap(),
        EntryKind::File => Some(File::create_new(path).unwrap()),
        EntryKind::Symlink { target } => symlink(std::ffi::OsStr::from_bytes(target), path).map(|()| None).unwrap(),
    }
}

pub fn text(path: &RelativePath) -> &str {
    std::str::from_utf8(path.as_bytes()).unwrap()
}

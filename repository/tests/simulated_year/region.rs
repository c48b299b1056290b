//! Regions whose clock the test sets: a directory, whose files are given the times of the simulation, and a bucket of a
//! server whose clock is as far off as the test wants.

use std::collections::HashSet;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use lifeboat_repository::log::records::{BackupRecord, InitRecord, Origin, RecordBody};
use lifeboat_repository::log::{Draft, LogError, LogMemory, RegionLog, RegionStore};
use lifeboat_repository::retention::{Candidate, Verification};
use lifeboat_s3_testd::{Config, Failure, Server};
use lifeboat_stores::{FixedJitter, RegionSettings, RetryPolicy, Store, WithRetry, open};
use lifeboat_vocabulary::{Clock, RegionName, SystemClock, UtcTime};
use parking_lot::Mutex;
use tempfile::TempDir;

use crate::cluster::{Cluster, SYSID};

enum Place {
    Directory { root: TempDir, timed: Mutex<HashSet<PathBuf>> },
    Bucket { server: Server, _credentials: tempfile::NamedTempFile },
}

/// One region.
pub struct Region {
    pub store: Arc<RegionStore>,
    pub log: RegionLog,
    place: Place,
    now: Mutex<UtcTime>,
    memory: LogMemory,
    committed: Vec<Candidate>,
}

/// When the backup in this folder began.
pub fn start_of(folder: &str) -> UtcTime {
    let (date, time) = folder.split_once('T').unwrap();
    let text = format!("{}-{}-{}T{}:{}:{}Z", &date[..4], &date[4..6], &date[6..], &time[..2], &time[2..4], &time[4..6]);
    text.parse().unwrap()
}

impl Region {
    /// A directory.
    pub async fn directory(name: &str, cluster: &Cluster) -> Self {
        // Thousands of objects are each made durable: in memory, where there is such a file system, that costs no time.
        let memory = Path::new("/dev/shm");
        let root = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
        let address = format!("file://{}", root.path().display());
        let place = Place::Directory { root, timed: Mutex::default() };
        Self::begin(RegionSettings::from_url(name.parse().unwrap(), &address).unwrap(), place, cluster).await
    }

    /// A bucket.
    pub async fn bucket(name: &str, cluster: &Cluster) -> Self {
        let server = Server::start(Config::default()).unwrap();
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"aws_access_key_id = test-access-key\naws_secret_access_key = test-secret-key\n").unwrap();
        let (endpoint, credentials) = (server.url(), file.path().display().to_string());
        let address = format!("s3://lifeboat/pg?endpoint={endpoint}&credentials_file={credentials}&profile=minio");
        let settings = RegionSettings::from_url(name.parse().unwrap(), &address).unwrap();
        Self::begin(settings, Place::Bucket { server, _credentials: file }, cluster).await
    }

    async fn begin(settings: RegionSettings, place: Place, cluster: &Cluster) -> Self {
        let bare = open(&settings).await.unwrap();
        // A clock that jumps makes the first request of each day be signed anew, so everything is asked again if need be.
        let store: Arc<dyn Store> =
            Arc::new(WithRetry::new(bare, RetryPolicy::default(), Arc::new(FixedJitter(0.001))));
        let name = settings.name.clone();
        let descriptor_sha256 = cluster.descriptor().create(&*store, &cluster.signer).await.unwrap();
        let mut log = RegionLog::read(&*store, cluster.trust(&name)).await.unwrap();
        let init = InitRecord { repo: cluster.repository, sysid: SYSID, descriptor_sha256 };
        let time = "2026-01-01T00:00:00Z".parse().unwrap();
        let origin = Origin { writer: cluster.signer.name().clone(), wseq: 0, time, tool: "test".to_owned() };
        log.append(&*store, &cluster.signer, &Draft { origin, body: RecordBody::Init(init) }).await.unwrap();
        let store = Arc::new(RegionStore { name, store });
        let (now, memory) = (Mutex::new(time), LogMemory::default());
        Self { store, log, place, now, memory, committed: Vec::new() }
    }

    pub fn name(&self) -> &RegionName {
        &self.store.name
    }

    pub fn is_bucket(&self) -> bool {
        matches!(self.place, Place::Bucket { .. })
    }

    pub fn now(&self) -> UtcTime {
        *self.now.lock()
    }

    /// Sets the region's own clock.
    pub fn set_clock(&self, now: UtcTime) {
        self.set_file_times();
        *self.now.lock() = now;
        if let Place::Bucket { server, .. } = &self.place {
            let seconds = now.as_unix_seconds() - SystemClock.now().as_unix_seconds();
            server.faults().change(|plan| plan.clock_offset_seconds = seconds);
        }
    }

    /// Every request is refused while the region is away.
    pub fn set_away(&self, away: bool) {
        if let Place::Bucket { server, .. } = &self.place {
            server.faults().change(|plan| plan.fail_all = away.then(|| Failure::status(503)));
        }
    }

    /// How many requests the region has answered.
    pub fn requests(&self) -> u64 {
        match &self.place {
            Place::Bucket { server, .. } => server.count_all(),
            Place::Directory { .. } => 0,
        }
    }

    /// Gives new files the time of the simulation.
    pub fn set_file_times(&self) {
        let Place::Directory { root, timed } = &self.place else { return };
        let time = UNIX_EPOCH + Duration::from_secs(u64::try_from(self.now().as_unix_seconds()).unwrap());
        let mut timed = timed.lock();
        for folder in ["data", "keys", "log"] {
            for path in files(&root.path().join(folder)) {
                if timed.insert(path.clone()) {
                    File::open(&path).unwrap().set_modified(time).unwrap();
                }
            }
        }
    }

    /// Reads what is new in the log.
    pub async fn read_log(&mut self, cluster: &Cluster) -> Result<(), Arc<LogError>> {
        let read = self.memory.read(&self.store, &cluster.trust(&self.store.name)).await?;
        self.log = RegionLog::clone(&read);
        Ok(())
    }

    /// What a history without any deletion would consist of.
    pub fn remember(&mut self, record: &BackupRecord) {
        self.committed.push(Candidate {
            backup: record.backup.clone(),
            stop_time: record.stop_time,
            arrived: None,
            start: record.start(),
            verification: Verification::Undrilled,
            held: std::collections::BTreeSet::new(),
            leaving: None,
            parent: None,
            own_bytes: record.packs.own_bytes,
        });
    }

    /// All backups that were ever committed here.
    pub fn history(&self) -> Vec<Candidate> {
        self.committed.clone()
    }

    /// All keys that begin with `prefix`.
    pub async fn keys(&self, prefix: &str) -> Vec<String> {
        match &self.place {
            // Behind the back of the server's count.
            Place::Bucket { server, .. } => {
                let all = server.keys("lifeboat").into_iter();
                all.filter_map(|key| key.strip_prefix("pg/").map(str::to_owned))
                    .filter(|key| key.starts_with(prefix))
                    .collect()
            }
            Place::Directory { root, .. } => {
                let relative = |path: PathBuf| path.strip_prefix(root.path()).unwrap().display().to_string();
                files(&root.path().join(prefix.trim_end_matches('/'))).into_iter().map(relative).collect()
            }
        }
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut found = Vec::new();
    for path in entries.map(|entry| entry.unwrap().path()) {
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

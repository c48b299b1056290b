//! A history of backups: one real one in two regions, and copies of it that are some days older.

use std::time::Duration;

use lifeboat_cli::access::{open_region, read_region};
use lifeboat_repository::format::layout;
use lifeboat_repository::keys::SigningKey;
use lifeboat_repository::log::records::{BackupRecord, Origin, RecordBody};
use lifeboat_repository::log::{Draft, NoteSigner, RegionLog, RegionStore};
use lifeboat_stores::RegionSettings;
use lifeboat_testkit::{PgServer, majors_under_test};
use lifeboat_vocabulary::{BackupId, UtcTime};
use serde_json::Value;

use super::{BUCKET, Scene};

const DAY: Duration = Duration::from_secs(86_400);
pub const POLICY: &str = "[cluster.retention]\ndaily = 3\nweekly = 1\nmonthly = 1\nmin_keep = 1\npitr_window = \"1d\"";

/// A scene with one real backup in two regions, and copies of it that are some days older.
pub struct History {
    pub scene: Scene,
    pub server: PgServer,
    pub real: BackupId,
    /// The backup that is so many days old; the real one is 0.
    pub by_age: Vec<BackupId>,
    pub runtime: tokio::runtime::Runtime,
}

impl History {
    pub fn new(grace: &str, days: u32) -> Self {
        let server = PgServer::builder(majors_under_test()[0]).start().unwrap();
        let scene = Scene::new(2);
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let history = Self { scene, server, real: BackupId::new(at(0), 0), by_age: Vec::new(), runtime };
        history.configure(&format!("{POLICY}\ngrace = \"{grace}\""));
        history.scene.daemon(&["init"]).expect(0);
        let made = history.scene.daemon(&["--json", "backup"]).expect(0);
        let real: BackupId = made.backup().parse().unwrap();
        let by_age = history.runtime.block_on(copy_into_the_past(&history.scene, &real, days));
        Self { real, by_age, ..history }
    }

    pub fn configure(&self, cluster: &str) {
        self.scene.configure_wal(&self.server.connection_string(), cluster, "");
    }

    pub fn json(&self, arguments: &[&str], code: i32) -> Value {
        let mut all = vec!["--json"];
        all.extend(arguments);
        serde_json::from_str(&self.scene.daemon(&all).expect(code).out).unwrap()
    }

    /// How many records both logs have together.
    pub fn records(&self) -> usize {
        self.scene.keys(0, "/log/").len() + self.scene.keys(1, "/log/").len()
    }

    /// The kinds of the records in a region's log, in its order.
    pub fn kinds(&self, region: usize) -> Vec<String> {
        let log = self.runtime.block_on(log_of(&self.scene, region)).1;
        log.entries().iter().map(|entry| entry.record.body.kind().to_owned()).collect()
    }

    /// How old the backups are, in days, that a field of the plan names in every region.
    #[track_caller]
    pub fn ages(&self, plan: &Value, field: &str) -> Vec<usize> {
        let regions = plan["regions"].as_array().unwrap();
        let of = |region: &Value| -> Vec<usize> {
            let backups = region[field].as_array().unwrap().iter().map(|each| each["backup"].as_str().unwrap());
            let age = |backup: &str| self.by_age.iter().position(|known| known.as_str() == backup).unwrap();
            backups.map(age).collect()
        };
        assert!(regions.iter().all(|region| of(region) == of(&regions[0])), "{plan:#}");
        of(&regions[0])
    }
}

fn at(seconds: i64) -> UtcTime {
    UtcTime::from_unix_micros(seconds * 1_000_000).unwrap()
}

fn before(time: UtcTime, earlier: Duration) -> UtcTime {
    at(time.as_unix_seconds() - i64::try_from(earlier.as_secs()).unwrap())
}

pub async fn log_of(scene: &Scene, region: usize) -> (RegionStore, RegionLog) {
    let settings =
        RegionSettings::from_url(format!("r{region}").parse().unwrap(), &scene.site.address(region)).unwrap();
    let store = open_region(&settings, &"main".parse().unwrap()).await.unwrap();
    let (_, log) = read_region(&*store.store, None, None).await.unwrap();
    (store, log)
}

pub fn signer(scene: &Scene) -> NoteSigner {
    let text = std::fs::read_to_string(scene.site.dir.path().join("signing.key")).unwrap();
    NoteSigner::new("lifeboat.main".parse().unwrap(), SigningKey::parse_file(&text).unwrap())
}

/// Repeats a backup in both regions as if it had been made on each of the days before.
async fn copy_into_the_past(scene: &Scene, real: &BackupId, days: u32) -> Vec<BackupId> {
    let signer = signer(scene);
    let mut ids = vec![real.clone()];
    for region in 0..scene.regions.len() {
        let (store, mut log) = log_of(scene, region).await;
        let entry = log.entries().iter().find(|entry| entry.record.commits(real)).unwrap().clone();
        let record = entry.record.backup().unwrap().clone();
        for age in 1..=days {
            let (start_time, stop_time) = (before(record.start_time, DAY * age), before(record.stop_time, DAY * age));
            let backup = BackupId::new(start_time, age);
            for key in scene.keys(region, &format!("/data/{real}/")) {
                let body = scene.regions[region].object(BUCKET, &key).unwrap();
                let copy = key.replace(real.as_str(), backup.as_str());
                scene.regions[region].put_raw(BUCKET, &copy, body).unwrap();
            }
            let mut index = record.index.clone();
            (0..).zip(&mut index).for_each(|(number, shard)| shard.key = layout::index_shard(&backup, number));
            let copy = BackupRecord { backup: backup.clone(), index, start_time, stop_time, ..record.clone() };
            let origin = Origin { wseq: u64::from(age), ..entry.record.origin.clone() };
            let draft = Draft { origin, body: RecordBody::Backup(Box::new(copy)) };
            log.append(&*store.store, &signer, &draft).await.unwrap();
            if region == 0 {
                ids.push(backup);
            }
        }
    }
    ids
}

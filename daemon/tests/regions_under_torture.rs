//! Three regions under random outages, kills and lies, while backups, WAL, deletion, healing and scrubbing go on. In the
//! end all three are alike, nothing that was claimed durable and had to be kept is missing, and memory stayed in its budget.
//!
//! `LIFEBOAT_TORTURE_SECONDS` says how long (default: what a test run can afford), `LIFEBOAT_TORTURE_SEED` which chances.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a scene that cannot be set up is a failed test")]
#![allow(clippy::print_stdout, reason = "figures of a long test")]

mod support;

use std::collections::BTreeSet;
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use lifeboat_s3_testd::{CorruptGet, Failure, FaultPlan, KeyPattern, Operation, Times, TruncateGet, Truncation};
use lifeboat_testkit::{PgServer, RestoredServer, SeededRandom, majors_under_test};
use support::{BUCKET, Daemon, Scene, lsn_number};

const SECONDS_DEFAULT: u64 = 45;
/// `limits.memory`, the WAL's share, and what the program itself needs (code, TLS, runtime, allocator).
const MEMORY_MAX_MIB: u64 = 128 + 64 + 112;
/// How long the regions have to become alike once they are left in peace.
const CONVERGENCE: Duration = Duration::from_secs(240);
const MORE: &str = "[durability]\nbackup_quorum = 2\nwal_quorum = 2\nflush_interval = \"200ms\"\n[limits]\nmemory = \"128MiB\"\n\
    [scrub]\nperiod = \"1d\"\n";
const CLUSTER: &str = "[cluster.schedule]\nfull = \"* * * * *\"\n[cluster.retention]\ndaily = 2\nweekly = 1\nmonthly = 1\n\
    min_keep = 2\npitr_window = \"90s\"\ngrace = \"20s\"\n";
/// A run of this length sees backups leave.
const LONG: u64 = 600;

type Fault = fn(&mut FaultPlan);

/// What a region may do to us, one thing at a time.
const FAULTS: [(&str, Fault); 11] = [
    ("is dead", |plan| plan.dead = true),
    ("says 500", |plan| plan.fail_all = Some(Failure::status(500))),
    ("says 503", |plan| plan.fail_all = Some(Failure::status(503))),
    ("asks to slow down", |plan| plan.slow_down_every = NonZeroU64::new(3)),
    ("loses answers", |plan| plan.lose_response_after_commit = Some(Times::of(Operation::PutObject, 20))),
    ("says errors with status 200", |plan| plan.error_in_200 = Some(Times::any(5))),
    ("flips bits", |plan| plan.corrupt_get = Some(CorruptGet { keys: KeyPattern::any(), offset: 100, mask: 1 })),
    ("cuts bodies", |plan| {
        plan.truncate_get = Some(TruncateGet { keys: KeyPattern::any(), keep: 50, how: Truncation::ConnectionCut });
    }),
    ("lists late", |plan| plan.list_lag = Duration::from_secs(2)),
    ("has another clock", |plan| plan.clock_offset_seconds = 200),
    ("is slow", |plan| plan.delay.fixed = Duration::from_millis(800)),
];

/// What is known to have been claimed.
#[derive(Default)]
struct Claims {
    /// The highest position that the quorum was said to hold.
    durable: u64,
    backups: BTreeSet<String>,
}

impl Claims {
    fn listen(&mut self, scene: &Scene) {
        let status = scene.wal_status();
        if let Some(durable) = status["quorum"]["durable"].as_str() {
            self.durable = self.durable.max(lsn_number(durable));
        }
        self.backups.extend(listed(scene));
    }
}

/// The backups that the regions have, as far as they answer.
fn listed(scene: &Scene) -> BTreeSet<String> {
    let listed = scene.daemon(&["--json", "list"]);
    let document: serde_json::Value = serde_json::from_str(&listed.out).unwrap_or_default();
    let rows = document["backups"].as_array().cloned().unwrap_or_default();
    rows.iter().filter_map(|row| row["record"]["backup"].as_str().map(str::to_owned)).collect()
}

/// Resident memory of the daemon in MiB, as the kernel counts it.
fn resident_mib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0");
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1024
}

fn number_from(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().map_or(default, |text| text.parse().unwrap())
}

/// Writes a row whose number says how far the ledger is, and returns the position behind it.
fn commit(server: &PgServer, number: u64) -> u64 {
    server.psql("postgres", &format!("INSERT INTO ledger VALUES ({number})")).unwrap();
    lsn_number(server.psql("postgres", "SELECT pg_current_wal_flush_lsn()").unwrap().trim())
}

/// Takes an object of one backup or of the WAL out of a region, or changes a bit of it, behind everybody's back.
fn damage(scene: &Scene, region: usize, random: &mut SeededRandom) -> Option<String> {
    let keys: Vec<String> = scene
        .keys(region, "/data/")
        .into_iter()
        .chain(scene.keys(region, "/wal/"))
        .filter(|key| key.ends_with(".lbp") || key.ends_with(".lbw"))
        .collect();
    let key = random.choose(&keys)?.clone();
    // Somebody else must have it whole: two regions never lie about the same thing.
    let others = (0..scene.regions.len()).filter(|other| *other != region);
    if others.filter(|other| scene.regions[*other].object(BUCKET, &key).is_some()).count() == 0 {
        return None;
    }
    if random.one_in(2) {
        scene.regions[region].remove_raw(BUCKET, &key).unwrap();
    } else {
        let mut body = scene.regions[region].object(BUCKET, &key)?.to_vec();
        let middle = body.len() / 2;
        body[middle] ^= 1;
        scene.regions[region].put_raw(BUCKET, &key, body.into()).unwrap();
    }
    Some(key)
}

/// The rows that are restored from these regions alone.
fn rows_of(scene: &Scene, regions: &[usize], name: &str) -> Vec<u64> {
    let target = scene.site.target(name);
    let identity = scene.site.identity();
    let arguments = ["--identity", identity.to_str().unwrap(), "restore", "--to", target.to_str().unwrap()];
    scene.site.restore_from(regions, &arguments).expect(0);
    let copy = RestoredServer::start(&target, majors_under_test()[0]).unwrap();
    copy.wait_until_promoted(Duration::from_secs(120)).unwrap();
    let rows = copy.psql("postgres", "SELECT id FROM ledger ORDER BY id").unwrap();
    drop(copy);
    std::fs::remove_dir_all(target.parent().unwrap()).unwrap();
    rows.lines().map(|line| line.parse().unwrap()).collect()
}

/// What has to be the same everywhere: everything but each region's own log and state, and slices.
fn content(scene: &Scene, region: usize) -> BTreeSet<String> {
    let keys = scene.regions[region].keys(BUCKET).into_iter();
    keys.filter(|key| ["/data/", "/wal/"].iter().any(|folder| key.contains(folder))).collect()
}

struct Torture {
    scene: Scene,
    server: PgServer,
    daemon: Option<Daemon>,
    random: SeededRandom,
    claims: Claims,
    /// The position behind each row.
    rows: Vec<u64>,
    largest_mib: u64,
}

impl Torture {
    fn begin(seed: u64) -> Self {
        let server = PgServer::builder(majors_under_test()[0]).start().unwrap();
        server.psql("postgres", "CREATE TABLE ledger (id bigint PRIMARY KEY)").unwrap();
        server.pgbench_init(2).unwrap();
        let scene = Scene::new(3);
        scene.configure_wal(&server.connection_string(), CLUSTER, MORE);
        scene.daemon(&["init"]).expect(0);
        let daemon = Some(scene.run_daemon());
        scene.wait_for_backups(1);
        let (random, claims) = (SeededRandom::new(seed), Claims::default());
        Self { scene, server, daemon, random, claims, rows: Vec::new(), largest_mib: 0 }
    }

    fn write(&mut self, until: Instant) {
        while Instant::now() < until {
            let number = self.rows.len() as u64 + 1;
            self.rows.push(commit(&self.server, number));
            if let Some(daemon) = &self.daemon {
                self.largest_mib = self.largest_mib.max(resident_mib(daemon.pid()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// One thing happens to one region, or to the daemon.
    fn happen(&mut self) {
        let region = self.random.index(3);
        match self.random.below(10) {
            0 | 1 => {
                println!("{:>6} rows: the daemon is killed", self.rows.len());
                if let Some(daemon) = self.daemon.take() {
                    daemon.kill();
                }
                self.daemon = Some(self.scene.run_daemon());
            }
            2 => {
                if let Some(key) = damage(&self.scene, region, &mut self.random) {
                    println!("{:>6} rows: region {region} lies about {key}", self.rows.len());
                    // Found and healed before another one may lie.
                    self.scene.daemon(&["scrub", "--full"]);
                    self.scene.daemon(&["heal"]);
                }
            }
            _ => {
                let (name, fault) = FAULTS[self.random.index(FAULTS.len())];
                println!("{:>6} rows: region {region} {name}", self.rows.len());
                self.scene.regions[region].faults().change(fault);
                let lasts = Duration::from_millis(500 + self.random.below(6000));
                self.write(Instant::now() + lasts);
                self.claims.listen(&self.scene);
                self.scene.regions[region].faults().clear();
            }
        }
    }

    /// Everything that was claimed so far is restored.
    fn verify(&mut self, regions: &[usize], name: &str) {
        self.claims.listen(&self.scene);
        let (claimed, known) = (self.claims.durable, self.rows.len());
        let found = rows_of(&self.scene, regions, name);
        let expected = self.rows.iter().filter(|position| **position <= claimed).count();
        assert!(found.len() >= expected, "{name}: {expected} rows were claimed durable, {} were restored", found.len());
        assert!(found.len() <= known && found.iter().copied().eq(1..=found.len() as u64), "{name}: not a prefix");
        println!("{:>6} rows: {} claimed, {} restored", known, expected, found.len());
    }

    /// Left in peace, the regions become alike.
    fn converge(&mut self) {
        let end = self.server.psql("postgres", "SELECT pg_current_wal_flush_lsn()").unwrap();
        self.scene.wait_until_durable(&end);
        // No new backups from here on: what there is has to be everywhere.
        let stopped = self.daemon.take().unwrap().stop();
        assert_eq!(stopped, Some(0), "{}", self.scene.daemon_log());
        self.claims.listen(&self.scene);
        let begun = Instant::now();
        loop {
            let scrubbed = self.scene.daemon(&["scrub", "--full"]);
            let healed = self.scene.daemon(&["heal"]);
            let swept = self.scene.daemon(&["retention", "apply", "--yes", "--force"]);
            let all: Vec<BTreeSet<String>> = (0..3).map(|region| content(&self.scene, region)).collect();
            if all.windows(2).all(|pair| pair[0] == pair[1]) && healed.code == Some(0) && swept.code == Some(0) {
                return;
            }
            let different: Vec<&String> =
                all[0].symmetric_difference(&all[1]).chain(all[1].symmetric_difference(&all[2])).collect();
            assert!(
                begun.elapsed() < CONVERGENCE,
                "the regions stay different: {different:?}\nscrub: {}{}\nheal: {}{}\nretention: {}{}",
                scrubbed.out,
                scrubbed.err,
                healed.out,
                healed.err,
                swept.out,
                swept.err
            );
        }
    }
}

#[test]
fn three_regions_that_fail_and_lie_at_random_end_up_alike_and_nothing_claimed_is_missing() {
    let (seconds, seed) =
        (number_from("LIFEBOAT_TORTURE_SECONDS", SECONDS_DEFAULT), number_from("LIFEBOAT_TORTURE_SEED", 1));
    println!("{seconds} s with seed {seed}");
    let mut torture = Torture::begin(seed);
    let (begun, mut next_proof, mut proofs) = (Instant::now(), 20, 0);
    while begun.elapsed() < Duration::from_secs(seconds) {
        torture.happen();
        let pause = Duration::from_millis(200 + torture.random.below(2500));
        torture.write(Instant::now() + pause);
        if begun.elapsed() > Duration::from_secs(next_proof) {
            proofs += 1;
            torture.verify(&[0, 1, 2], &format!("proof-{proofs}"));
            next_proof = begun.elapsed().as_secs() + seconds.div_ceil(15).max(20);
        }
    }
    torture.converge();
    for region in 0..3 {
        let found = rows_of(&torture.scene, &[region], &format!("from-{region}"));
        assert_eq!(found.len(), torture.rows.len(), "region {region} alone has every row");
        let identity = torture.scene.site.identity();
        torture.scene.site.restore_from(&[region], &["--identity", identity.to_str().unwrap(), "verify"]).expect(0);
    }
    let kept = listed(&torture.scene);
    println!(
        "{} rows, {} backups were claimed, {} are kept, the daemon took {} MiB",
        torture.rows.len(),
        torture.claims.backups.len(),
        kept.len(),
        torture.largest_mib
    );
    assert!(kept.len() >= 2 && kept.is_subset(&torture.claims.backups), "{kept:?}");
    assert!(seconds < LONG || kept.len() < torture.claims.backups.len(), "nothing was ever deleted");
    assert!(torture.largest_mib < MEMORY_MAX_MIB, "{} MiB", torture.largest_mib);
}

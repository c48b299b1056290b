//! Keys by role: a root key that stays offline, a database host that can only add, another host that deletes and heals, and what
//! somebody can do who has taken the database host over.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a scene that cannot be set up is a failed test")]

mod support;

use std::path::PathBuf;
use std::time::Duration;

use lifeboat_repository::format::{InstanceId, layout};
use lifeboat_repository::keys::SigningKey;
use lifeboat_repository::log::note;
use lifeboat_repository::log::records::{Link, Origin, Record, RecordBody, SweepIntentRecord};
use lifeboat_repository::log::{NoteSigner, RegionLog};
use lifeboat_repository::wal::{Head, HeadFile};
use lifeboat_testkit::{PgServer, RestoredServer, majors_under_test};
use lifeboat_vocabulary::{Clock, Lsn, RecordMark, SystemClock, TimelineId, WalPosition};
use support::history::log_of;
use support::{BUCKET, Said, Scene, insert};

/// A database host whose key may write, another host whose key may prune, and a root key that neither has.
struct Hosts {
    server: PgServer,
    writer: Scene,
    pruner: Scene,
    root: String,
    runtime: tokio::runtime::Runtime,
}

impl Hosts {
    fn new() -> Self {
        let server = PgServer::builder(majors_under_test()[0]).start().unwrap();
        let writer = Scene::new(2);
        let pruner = Scene::beside(&writer, "pruner");
        let root = writer.site.dir.path().join("root.key");
        let made = writer.site.restore(&["keygen", "--signing", "--out", root.to_str().unwrap()]).expect(0);
        let root = made.out.trim().to_owned();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let hosts = Self { server, writer, pruner, root, runtime };
        hosts.configure(&hosts.writer, "");
        hosts.configure(&hosts.pruner, "name = \"pruner\"\n");
        hosts
    }

    fn root_key(&self) -> String {
        self.writer.site.dir.path().join("root.key").to_str().unwrap().to_owned()
    }

    /// The signing key of a host.
    fn key_file(scene: &Scene) -> PathBuf {
        scene.site.dir.path().join(format!("{}-signing.key", scene.state))
    }

    fn configure(&self, scene: &Scene, more: &str) {
        scene.configure(&self.server, "");
        let text = std::fs::read_to_string(scene.config()).unwrap();
        let ours = format!("file:{}", scene.site.signing_key().display());
        let own = format!("file:{}", Self::key_file(scene).display());
        assert!(text.contains(&ours), "{text}");
        let keys = format!("[keys]\nroot = \"{}\"\n{more}", self.root);
        std::fs::write(scene.config(), text.replace(&ours, &own).replace("[keys]\n", &keys)).unwrap();
    }

    fn init(&self, scene: &Scene, roles: &[&str]) -> Said {
        let root = self.root_key();
        let mut arguments = vec!["--json", "init", "--root-key", &root];
        roles.iter().for_each(|role| arguments.extend(["--role", role]));
        scene.daemon(&arguments)
    }

    fn log(&self, region: usize) -> RegionLog {
        self.runtime.block_on(log_of(&self.writer, region)).1
    }

    fn kinds(&self, region: usize) -> Vec<String> {
        self.log(region).entries().iter().map(|entry| entry.record.body.kind().to_owned()).collect()
    }

    /// The key of the database host, in the hands of whoever has taken it over.
    fn stolen(&self) -> NoteSigner {
        let text = std::fs::read_to_string(Self::key_file(&self.writer)).unwrap();
        let root = self.root.parse().unwrap();
        NoteSigner::under("lifeboat.main".parse().unwrap(), SigningKey::parse_file(&text).unwrap(), root)
    }

    /// Puts an object at the next place of a region's log, as anybody may who may create objects.
    fn plant(&self, region: usize, bytes: Vec<u8>) -> u64 {
        let log = self.log(region);
        let last = log.outside().last().map_or(0, |outside| outside.seq + 1);
        let seq = log.places().max(last);
        self.runtime.block_on(async {
            let store = log_of(&self.writer, region).await.0;
            let body = lifeboat_stores::SealedBody {
                sha256: lifeboat_repository::format::aead::sha256(&bytes),
                bytes: bytes.into(),
            };
            store.store.put(&layout::log_note(seq), body, lifeboat_stores::PutMode::CreateOnly).await.unwrap();
        });
        seq
    }

    /// A record that follows the last one, signed by `signer`.
    fn signed(&self, region: usize, signer: &NoteSigner, body: RecordBody) -> Vec<u8> {
        let log = self.log(region);
        let head = log.head().unwrap();
        let link = Link { region: log.region().unwrap().clone(), seq: head.seq + 1, prev: Some(head.sha256) };
        let time = SystemClock.now();
        let wseq = Origin::next_count(log.last_count(signer.name()), time);
        let origin = Origin { writer: signer.name().clone(), wseq, time, tool: "intruder".to_owned() };
        note::sign(&Record { link, origin, body }.to_text().unwrap(), &[signer]).unwrap()
    }
}

#[test]
fn a_database_host_adds_and_another_host_deletes_and_heals() {
    let hosts = Hosts::new();
    let (writer, pruner) = (&hosts.writer, &hosts.pruner);
    let refused = writer.daemon(&["init"]).expect(1);
    assert!(refused.err.contains("only the root key begins a repository"), "{}{}", refused.out, refused.err);
    let made = hosts.init(writer, &["writer"]).expect(0).json();
    assert_eq!(made["signer"], hosts.root.as_str(), "the recovery kit pins the root key");
    hosts.init(pruner, &["pruner", "operator"]).expect(0);
    hosts.init(pruner, &["pruner", "operator"]).expect(0);
    assert_eq!(hosts.kinds(0), ["init", "signer", "signer"], "a repetition writes nothing");

    // The database host adds, and may do nothing else.
    let first = writer.daemon(&["--json", "backup"]).expect(0).backup();
    let hold = ["hold", "add", &first, "--reason", "an audit", "--owner", "mia"];
    let refused = writer.daemon(&hold).expect(1);
    assert!(refused.err.contains("it needs the role operator or pruner"), "{}{}", refused.out, refused.err);
    pruner.daemon(&hold).expect(0);
    let refused = pruner.daemon(&["backup"]).expect(1);
    assert!(refused.err.contains("it needs the role writer"), "{}{}", refused.out, refused.err);

    // The pruner brings a backup to a region that missed it, although it may write none of its own.
    writer.regions[1].faults().change(|plan| plan.dead = true);
    let text = std::fs::read_to_string(writer.config()).unwrap();
    std::fs::write(writer.config(), format!("{text}[durability]\nbackup_quorum = 1\n")).unwrap();
    let second = writer.daemon(&["--json", "backup"]).expect(4).backup();
    writer.regions[1].faults().clear();
    assert_eq!(hosts.kinds(1).iter().filter(|kind| *kind == "backup").count(), 1);
    pruner.daemon(&["heal"]).expect(0);
    assert_eq!(hosts.kinds(1).iter().filter(|kind| *kind == "backup").count(), 2);
    let signer = ["--signer", &hosts.root];
    writer
        .site
        .restore_from(
            &[1],
            &[&signer[..], &["--identity", writer.site.identity().to_str().unwrap(), "verify", &second]].concat(),
        )
        .expect(0);
    let notes: Vec<_> = writer.regions[1].keys(BUCKET).into_iter().filter(|key| key.contains("/log/")).collect();
    assert!(!notes.is_empty());

    let signers = writer.site.restore(&["--json", "keys", "signers"]).expect(0).json();
    assert_eq!(signers["root"], hosts.root.as_str());
    let names: Vec<_> =
        signers["signers"].as_array().unwrap().iter().map(|each| &each["delegations"][0]["name"]).collect();
    assert_eq!(names, ["lifeboat.main", "pruner.main"]);
    let table = writer.site.restore(&["keys", "signers"]).expect(0).out;
    assert!(table.contains("in force"), "{table}");
}

#[test]
fn who_has_taken_the_database_host_over_ends_no_history_and_can_be_locked_out() {
    let hosts = Hosts::new();
    let (writer, pruner) = (&hosts.writer, &hosts.pruner);
    hosts.init(writer, &["writer"]).expect(0);
    hosts.init(pruner, &["pruner", "operator"]).expect(0);
    let first = writer.daemon(&["--json", "backup"]).expect(0).backup();
    let stolen = hosts.stolen();

    // It says that everything is being deleted; it puts garbage behind that, and an object that is none of ours.
    let everything = SweepIntentRecord { backups: vec![first.parse().unwrap()], ..SweepIntentRecord::default() };
    let intent = hosts.signed(0, &stolen, RecordBody::SweepIntent(everything));
    let at = hosts.plant(0, intent);
    hosts.plant(0, b"junk".to_vec());
    let listed = writer.site.restore(&["list"]).expect(0);
    assert!(listed.out.contains(&first), "{}", listed.out);
    let all = format!("{}{}", listed.out, listed.err);
    assert!(all.contains(&format!("record {at} of kind sweep-intent does not count")), "{all}");
    assert!(all.contains(&format!("the object at place {} is no record", at + 1)), "{all}");

    // Backups go on behind it.
    let second = writer.daemon(&["--json", "backup"]).expect(0).backup();
    let log = hosts.log(0);
    assert!(log.state(SystemClock.now()).backups.contains_key(&second.parse().unwrap()));
    assert_eq!(log.head().unwrap().seq, at + 2);
    // Nothing is deleted, by anybody, until a person has looked.
    let applied = pruner.daemon(&["retention", "apply", "--yes"]);
    assert_ne!(applied.code, Some(0), "{}{}", applied.out, applied.err);
    assert!(format!("{}{}", applied.out, applied.err).contains("does not count"), "{}{}", applied.out, applied.err);
    writer.site.restore(&["verify", &first]).expect(0);

    // Its key is revoked, by a statement that was signed offline.
    let key = stolen.verify_key().to_string();
    let repository = log.trust().repository.to_string();
    let root = hosts.root_key();
    let offline =
        ["keys", "revoke", "--root-key", &root, "--key", &key, "--reason", "host lost", "--repository", &repository];
    let statement = writer.site.restore(&offline).expect(0).out;
    let file = writer.site.dir.path().join("statement");
    std::fs::write(&file, statement.replace("host lost", "host fine")).unwrap();
    pruner.daemon(&["delegate", "--statement", file.to_str().unwrap()]).expect(1);
    std::fs::write(&file, &statement).unwrap();
    pruner.daemon(&["delegate", "--statement", file.to_str().unwrap()]).expect(0);
    let refused = writer.daemon(&["backup"]).expect(1);
    assert!(refused.err.contains("its key was revoked: host lost"), "{}", refused.err);
    let late = hosts.signed(
        0,
        &stolen,
        RecordBody::Incarnation(lifeboat_repository::log::records::IncarnationRecord { incarnation: None }),
    );
    let at = hosts.plant(0, late);
    assert_eq!(hosts.log(0).at(at).unwrap().record.body.kind(), "incarnation");
    assert!(matches!(hosts.log(0).at(at).unwrap().record.body, RecordBody::Void { .. }));
    // What it signed before stays.
    writer.site.restore(&["verify", &second]).expect(0);

    // The host that was set up anew gets a new key, and goes on.
    std::fs::remove_file(Hosts::key_file(writer)).unwrap();
    hosts.init(writer, &["writer"]).expect(0);
    writer.daemon(&["backup"]).expect(0);
}

#[test]
fn wal_goes_on_with_a_new_key_whatever_the_stolen_one_has_signed() {
    let hosts = Hosts::new();
    let (writer, server) = (&hosts.writer, &hosts.server);
    hosts.init(writer, &["writer"]).expect(0);
    server.psql("postgres", "CREATE TABLE ledger (id bigint PRIMARY KEY)").unwrap();
    let daemon = writer.run_daemon();
    writer.wait_for_backups(1);
    writer.wait_until_durable(&insert(server, 1, 100));
    drop(daemon);

    // Whoever has the key says that WAL is stored which the server will not write for years.
    let stolen = hosts.stolen();
    let far = |offset: u64| Lsn::from_bytes((1 << 44) + offset).unwrap();
    let timeline = TimelineId::new(1).unwrap();
    for region in 0..2 {
        hosts.runtime.block_on(async {
            let (store, log) = log_of(writer, region).await;
            let record = RecordMark { timeline, start: far(8), end: far(64), previous: None, crc: 1 };
            let head = Head {
                repository: log.trust().repository,
                region: log.region().unwrap().clone(),
                writer: stolen.name().clone(),
                instance: InstanceId::random().unwrap(),
                time: SystemClock.now(),
                log: log.head(),
                last_record: Some(record),
                complete: None,
                confirmed: None,
                durable: Some(WalPosition { timeline, lsn: far(64) }),
            };
            let (mut file, _) = HeadFile::open(&*store.store, stolen.name(), log.trust()).await.unwrap();
            file.write(&*store.store, &stolen, &head).await.unwrap();
        });
    }
    let daemon = writer.run_daemon();
    let is_refused = |status: &serde_json::Value| {
        let alarms = status["alarms"].as_array();
        alarms.is_some_and(|all| all.iter().any(|alarm| alarm["alarm"] == "wal-server-refused"))
    };
    writer.wait_for_status("a refusal", is_refused);
    drop(daemon);

    // The key is revoked, and the host gets a new one: nothing is asked of the server any more that only the old one has said.
    let root = hosts.root_key();
    let (key, repository) = (stolen.verify_key().to_string(), hosts.log(0).trust().repository.to_string());
    let offline =
        ["keys", "revoke", "--root-key", &root, "--key", &key, "--reason", "host lost", "--repository", &repository];
    let file = writer.site.dir.path().join("statement");
    std::fs::write(&file, writer.site.restore(&offline).expect(0).out).unwrap();
    std::fs::remove_file(Hosts::key_file(writer)).unwrap();
    hosts.init(writer, &["writer"]).expect(0);
    writer.daemon(&["delegate", "--statement", file.to_str().unwrap()]).expect(0);
    let listed = writer.daemon(&["list"]).expect(0);
    assert!(listed.out.contains("key-revoked"), "{}", listed.out);
    let daemon = writer.run_daemon();
    writer.wait_for_backups(2);
    writer.wait_until_durable(&insert(server, 101, 200));
    drop(daemon);
    let target = writer.site.target("anew");
    writer.site.restore(&["restore", "--to", target.to_str().unwrap()]).expect(0);
    let copy = RestoredServer::start(&target, majors_under_test()[0]).unwrap();
    copy.wait_until_promoted(Duration::from_secs(120)).unwrap();
    assert_eq!(copy.psql("postgres", "SELECT count(*) FROM ledger").unwrap().trim(), "200");
}

//! Tests of what a key may say in a log.

use lifeboat_stores::{MemoryStore, PutMode, SealedBody, Store};

use super::*;
use crate::format::layout;
use crate::log::append::{Attempt, Draft, DraftCopy};
use crate::log::note::NoteSigner;
use crate::log::records::care::{DamageRecord, FoundBy};
use crate::log::records::record::Origin;
use crate::log::records::trust::SignerRecord;
use crate::log::region_log::{LogTrust, RegionLog};
use crate::log::roles::Role;
use crate::log::statement::{Delegation, Revocation};
use crate::samples;

const WRITER: &str = "lifeboat.main";
const PRUNER: &str = "pruner.main";

fn root() -> NoteSigner {
    samples::signer()
}

fn host(name: &str, first: u8) -> NoteSigner {
    let key = samples::signer_named(name, first);
    let seed = std::array::from_fn(|place| first.wrapping_add(u8::try_from(place).unwrap()));
    let seed = crate::keys::signing::SigningKey::from_seed(&zeroize::Zeroizing::new(seed));
    assert_eq!(seed.verify_key(), key.verify_key());
    NoteSigner::under(name.parse().unwrap(), seed, root().verify_key())
}

fn writer() -> NoteSigner {
    host(WRITER, 0x11)
}

fn pruner() -> NoteSigner {
    host(PRUNER, 0x51)
}

fn delegation(host: &NoteSigner, roles: &[Role]) -> Delegation {
    Delegation {
        repo: samples::repository(),
        key: host.verify_key(),
        name: host.name().clone(),
        roles: roles.to_vec(),
        from: samples::time("2026-11-01T00:00:00Z"),
        until: Some(samples::time("2026-12-01T00:00:00Z")),
    }
}

fn statement(delegation: Delegation) -> RecordBody {
    let statement = Statement::Delegation(delegation).sign(&root()).unwrap();
    RecordBody::Signer(SignerRecord { statement })
}

fn revocation(host: &NoteSigner) -> RecordBody {
    let (repo, key, time) = (samples::repository(), host.verify_key(), samples::time("2026-11-21T00:00:00Z"));
    let statement = Statement::Revocation(Revocation { repo, key, time, reason: "host lost".to_owned() });
    RecordBody::Signer(SignerRecord { statement: statement.sign(&root()).unwrap() })
}

/// A log, and what is said in it next.
struct World {
    store: MemoryStore,
    region: &'static str,
    log: RegionLog,
    count: u64,
}

impl World {
    async fn new(region: &'static str) -> Self {
        let store = MemoryStore::new();
        let mut log = RegionLog::read(&store, trust(region)).await.unwrap();
        let init = Draft { origin: samples::origin(0), body: RecordBody::Init(samples::init_record()) };
        log.append(&store, &root(), &init).await.unwrap();
        Self { store, region, log, count: 0 }
    }

    /// One in which a writer and a pruner are known.
    async fn with_hosts(region: &'static str) -> Self {
        let mut world = Self::new(region).await;
        world.say(&writer(), statement(delegation(&writer(), &[Role::Writer]))).await.unwrap();
        world.say(&pruner(), statement(delegation(&pruner(), &[Role::Pruner]))).await.unwrap();
        world
    }

    fn draft(&mut self, by: &NoteSigner, time: &str, body: RecordBody) -> Draft {
        self.count += 1;
        let origin = Origin { writer: by.name().clone(), time: samples::time(time), ..samples::origin(self.count) };
        Draft { origin, body }
    }

    async fn say(&mut self, by: &NoteSigner, body: RecordBody) -> Result<(), LogError> {
        let draft = self.draft(by, "2026-11-20T03:00:00Z", body);
        self.log.append(&self.store, by, &draft).await.map(drop)
    }

    /// Puts a record there as somebody would who keeps no rule but that it follows the last one. Returns what readers make of it.
    async fn force(&mut self, by: &NoteSigner, draft: Draft) -> RecordBody {
        let (head, seq) = (self.log.head().unwrap(), self.log.next_place());
        let link = Link { region: self.region.parse().unwrap(), seq, prev: Some(head.sha256) };
        let text = Record { link, origin: draft.origin, body: draft.body }.to_text().unwrap();
        let note = note::sign(&text, &[by]).unwrap();
        put(&self.store, seq, note).await;
        let mut follower = self.log.clone();
        follower.refresh(&self.store).await.unwrap();
        let read = RegionLog::read(&self.store, trust(self.region)).await.unwrap();
        assert_eq!(read.entries(), follower.entries(), "who follows and who reads everything see the same");
        self.log = read;
        self.log.at(seq).map_or_else(
            || RecordBody::Void { kind: "outside".to_owned(), why: self.log.outside().last().unwrap().why.clone() },
            |entry| entry.record.body.clone(),
        )
    }

    async fn refused(&mut self, by: &NoteSigner, body: RecordBody) -> String {
        let draft = self.draft(by, "2026-11-20T03:00:00Z", body);
        match self.force(by, draft).await {
            RecordBody::Void { why, .. } => why,
            body => panic!("it counts: {body:?}"),
        }
    }
}

async fn put(store: &MemoryStore, seq: u64, note: Vec<u8>) {
    let body = SealedBody { sha256: sha256(&note), bytes: note.into() };
    store.put(&layout::log_note(seq), body, PutMode::CreateOnly).await.unwrap();
}

fn trust(region: &str) -> LogTrust {
    let signers = Signers::root_only(root().verify_key());
    LogTrust { repository: samples::repository(), signers, region: Some(region.parse().unwrap()), remembered: None }
}

fn backup(number: u64) -> RecordBody {
    let id = format!("20261120T020003Z-{number:08x}");
    RecordBody::Backup(Box::new(samples::backup_record_named(&id, "2026-11-20T02:41:07Z")))
}

fn hold() -> RecordBody {
    RecordBody::Hold(samples::hold(1, "20261120T020003Z-00000001", None))
}

#[tokio::test]
async fn a_record_counts_only_under_a_key_whose_role_may_write_it() {
    let mut world = World::with_hosts("eu-1").await;
    for (by, body) in
        [(writer(), backup(1)), (pruner(), hold()), (writer(), audit()), (pruner(), RecordBody::Damage(damage()))]
    {
        let kind = body.kind().to_owned();
        world.say(&by, body).await.unwrap_or_else(|error| panic!("{kind}: {error}"));
    }
    for body in samples::care_entries().into_iter().map(|record| record.body) {
        if matches!(body, RecordBody::Audit(_)) {
            continue;
        }
        let error = world.say(&writer(), body.clone()).await.unwrap_err();
        assert!(matches!(error, LogError::NotAllowed { .. }), "{}: {error}", body.kind());
        let why = world.refused(&writer(), body.clone()).await;
        assert!(why.contains("its key may not sign it"), "{}: {why}", body.kind());
    }
    for body in [backup(2)].into_iter().chain(samples::wal_entries().into_iter().map(|record| record.body)) {
        let why = world.refused(&pruner(), body.clone()).await;
        assert_eq!(why, "its key may not sign it: it needs the role writer", "{}", body.kind());
    }
    let state = world.log.state(samples::time("2026-11-21T00:00:00Z"));
    assert_eq!(state.backups.len(), 1);
    assert!(
        state.swept.is_empty() && state.open_intents.is_empty(),
        "what the writer said about deletion says nothing"
    );
    assert!(world.log.refused().count() > 8);
    // The log goes on behind all of it.
    world.say(&writer(), backup(3)).await.unwrap();
}

fn audit() -> RecordBody {
    let is_audit = |record: &Record| matches!(record.body, RecordBody::Audit(_));
    samples::care_entries().into_iter().find(is_audit).unwrap().body
}

fn damage() -> DamageRecord {
    DamageRecord { backup: None, objects: Vec::new(), count: 1, found_by: FoundBy::Scrub }
}

#[tokio::test]
async fn a_key_signs_in_its_time_under_its_name_and_until_it_is_revoked() {
    let mut world = World::with_hosts("eu-1").await;
    let early = world.draft(&writer(), "2026-10-31T23:59:59Z", backup(1));
    let late = world.draft(&writer(), "2026-12-01T00:00:00Z", backup(2));
    for draft in [early, late] {
        let body = world.force(&writer(), draft).await;
        let in_time = "its key may sign it only from 2026-11-01T00:00:00Z until 2026-12-01T00:00:00Z";
        assert!(matches!(&body, RecordBody::Void { why, .. } if why == in_time), "{body:?}");
    }
    let mut other_name = world.draft(&writer(), "2026-11-20T03:00:00Z", backup(3));
    other_name.origin.writer = PRUNER.parse().unwrap();
    let body = world.force(&writer(), other_name).await;
    assert!(
        matches!(&body, RecordBody::Void { why, .. } if why.contains("its key belongs to lifeboat.main")),
        "{body:?}"
    );

    world.say(&writer(), backup(4)).await.unwrap();
    // Anybody brings the revocation; the one that it is about cannot take it back.
    world.say(&pruner(), revocation(&writer())).await.unwrap();
    assert!(matches!(world.say(&writer(), backup(5)).await, Err(LogError::NotAllowed { .. })));
    assert_eq!(world.refused(&writer(), backup(5)).await, "its key was revoked: host lost");
    world.say(&writer(), statement(delegation(&writer(), &[Role::Writer]))).await.unwrap();
    let longer = Delegation { until: None, ..delegation(&writer(), &[Role::Writer, Role::Pruner]) };
    world.say(&writer(), statement(longer)).await.unwrap();
    assert_eq!(world.refused(&writer(), backup(6)).await, "its key was revoked: host lost");
    let state = world.log.state(samples::time("2026-11-21T00:00:00Z"));
    assert_eq!(state.backups.len(), 1, "what it signed before stays");
}

#[tokio::test]
async fn only_the_root_key_names_keys() {
    let mut world = World::with_hosts("eu-1").await;
    let stranger = host("stranger", 0x91);
    // Unknown, and with a statement that somebody else has signed.
    assert!(matches!(world.say(&stranger, backup(1)).await, Err(LogError::UnknownSigner { .. })));
    let own = Statement::Delegation(delegation(&stranger, &[Role::Writer])).sign(&pruner()).unwrap();
    let forged = RecordBody::Signer(SignerRecord { statement: own });
    assert!(matches!(world.say(&stranger, forged.clone()).await, Err(LogError::Statement(_))));
    let why = world.refused(&stranger, forged.clone()).await;
    assert!(why.contains("not signed by any known key"), "{why}");
    let why = world.refused(&pruner(), forged).await;
    assert!(why.starts_with("check the root key's signature below a statement"), "{why}");
    // Of another repository, about the root key, or cut.
    let elsewhere = Delegation { repo: RepositoryId::from_bytes([1; 16]), ..delegation(&stranger, &[Role::Writer]) };
    let why = world.refused(&pruner(), statement(elsewhere)).await;
    assert!(why.contains("the statement is about repository 01010101"), "{why}");
    let itself = Delegation { key: root().verify_key(), ..delegation(&stranger, &[Role::Writer]) };
    let why = world.refused(&pruner(), statement(itself)).await;
    assert!(why.contains("it is about the root key itself"), "{why}");
    assert!(world.log.trust().signers.signer(&stranger.verify_key()).is_none());
    // Another's statement is passed on only by whoever is known.
    let of_stranger = statement(delegation(&stranger, &[Role::Writer]));
    let unknown = host("unknown", 0xb1);
    assert!(matches!(world.say(&unknown, of_stranger.clone()).await, Err(LogError::UnknownSigner { .. })));
    world.say(&stranger, of_stranger).await.unwrap();
    world.say(&stranger, backup(1)).await.unwrap();
}

#[tokio::test]
async fn a_record_that_cannot_be_understood_is_a_link_that_says_nothing() {
    let mut world = World::with_hosts("eu-1").await;
    let (head, seq) = (world.log.head().unwrap(), world.log.next_place());
    let draft = world.draft(&writer(), "2026-11-20T03:00:00Z", backup(1));
    let link = Link { region: "eu-1".parse().unwrap(), seq, prev: Some(head.sha256) };
    let text = Record { link, origin: draft.origin, body: draft.body }.to_text().unwrap();
    let newer = note::sign(&text.replace("\"v\":1,", "\"v\":9,"), &[&writer()]).unwrap();
    put(&world.store, seq, newer).await;
    world.log.refresh(&world.store).await.unwrap();
    let body = &world.log.at(seq).unwrap().record.body;
    assert!(
        matches!(body, RecordBody::Void { kind, why } if kind == "backup" && why.contains("version 9")),
        "{body:?}"
    );
    world.say(&writer(), backup(1)).await.unwrap();
}

#[tokio::test]
async fn a_copied_record_counts_as_its_writer_has_signed_it_and_no_other_does() {
    let mut source = World::with_hosts("eu-1").await;
    let mut target = World::with_hosts("us-1").await;
    source.say(&writer(), backup(1)).await.unwrap();
    let entry = source.log.entries().last().unwrap().clone();
    let original = Draft { origin: entry.record.origin.clone(), body: entry.record.body.clone() };
    let note = source.log.original_note(&source.store, &entry).await.unwrap();
    let origin = |world: &mut World, by: &NoteSigner| world.draft(by, "2026-11-20T04:00:00Z", hold()).origin;
    let mut copy = DraftCopy { original: original.clone(), note, origin: origin(&mut target, &writer()) };
    let not_allowed = target.log.try_append_copy(&target.store, &writer(), &copy).await;
    assert!(matches!(not_allowed, Err(LogError::NotAllowed { .. })), "a writer copies nothing");
    copy.origin = origin(&mut target, &pruner());
    // The key was revoked here meanwhile: what it signed before still counts.
    target.say(&pruner(), revocation(&writer())).await.unwrap();
    for _ in 0..2 {
        let attempt = target.log.try_append_copy(&target.store, &pruner(), &copy).await.unwrap();
        assert!(matches!(attempt, Attempt::Written(_)), "a repetition finds it");
    }
    let read = RegionLog::read(&target.store, trust("us-1")).await.unwrap();
    let last = read.entries().last().unwrap();
    assert_eq!((&last.record.origin, &last.record.body), (&original.origin, &original.body));
    assert_eq!(read.entries().len(), 5);
    // A copy of the copy is the original again.
    let again = read.original_note(&target.store, last).await.unwrap();
    assert_eq!(again, copy.note);
    // One that nobody allowed to has signed, and one that stays in its region.
    let made_up = source.draft(&pruner(), "2026-11-20T03:00:00Z", backup(7));
    let link = entry.record.link.clone();
    let text = Record { link: link.clone(), origin: made_up.origin, body: made_up.body }.to_text().unwrap();
    let made_up = String::from_utf8(note::sign(&text, &[&pruner()]).unwrap()).unwrap();
    let why = target.refused(&pruner(), RecordBody::Copy(CopyRecord { note: made_up })).await;
    assert_eq!(why, "the record that it copies: its key may not sign it: it needs the role writer");
    let forget =
        samples::care_entries().into_iter().find(|record| matches!(record.body, RecordBody::Forget(_))).unwrap();
    let text = Record { link, ..forget }.to_text().unwrap();
    let forget = String::from_utf8(note::sign(&text, &[&root()]).unwrap()).unwrap();
    let why = target.refused(&pruner(), RecordBody::Copy(CopyRecord { note: forget })).await;
    assert_eq!(why, "the record that it copies: kind forget stays in its region");
}

#[test]
fn what_every_log_says_about_keys_is_taken_together() {
    let (first, second) = (delegation(&writer(), &[Role::Writer]), delegation(&pruner(), &[Role::Pruner]));
    let mut signers = Signers::root_only(root().verify_key());
    signers.adopt(&Statement::Delegation(first.clone()));
    let mut other = Signers::root_only(root().verify_key());
    other.adopt(&Statement::Delegation(second));
    other.adopt(&Statement::Revocation(Revocation {
        repo: samples::repository(),
        key: writer().verify_key(),
        time: samples::time("2026-11-21T00:00:00Z"),
        reason: "lost".to_owned(),
    }));
    signers.merge(&other);
    signers.merge(&other);
    let now = samples::time("2026-11-22T00:00:00Z");
    assert!(signers.allows(&writer(), Role::Writer, now).is_err());
    assert!(signers.allows(&pruner(), Role::Pruner, now).is_ok());
    assert!(signers.allows(&root(), Role::Pruner, now).is_ok(), "the root key has every role");
    assert_eq!(signers.that_had(Role::Writer), [root().verify_key(), writer().verify_key()]);
    assert_eq!(signers.that_have(Role::Writer, now), [root().verify_key()]);
    assert_eq!(signers.delegated().len(), 2);
    let strange = Signers::root_only(samples::signer_named("x", 1).verify_key());
    let before = signers.clone();
    signers.merge(&strange);
    assert_eq!(signers, before);
}

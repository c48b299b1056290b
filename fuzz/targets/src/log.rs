//! A region's log: notes, records, and whole logs that somebody has added to.

use std::sync::{Arc, LazyLock};

use lifeboat_repository::format::layout::StoredName;
use lifeboat_repository::log::records::{CopyRecord, Link, Record, RecordBody, SignerRecord};
use lifeboat_repository::log::{
    Bundle, Descriptor, Draft, KeyStanding, LogEntry, LogTrust, RegionLog, RegionState, Role, Signers, Statement, note,
};
use lifeboat_stores::{MemoryStore, ObjectKey};

use crate::material::{Input, Party, REPOSITORY, at_once, put, region, time, unused_key};
use crate::seeds::{BACKUP, INIT};

/// Notes that one input adds.
const ADDED_MAX: usize = 24;

/// Signed notes and the repository's descriptor: nobody signs for a key without its private half, and what a key has signed is
/// read back.
pub fn note(data: &[u8]) {
    let unused = unused_key();
    assert!(note::verify(data, &[unused]).is_err(), "nobody has signed it");
    assert!(Descriptor::from_note(data, Some(&unused)).is_err());
    let text = String::from_utf8_lossy(data);
    let (writer, pruner) = (&*Party::Writer.signer(), &*Party::Pruner.signer());
    let Ok(mut signed) = note::sign(&text, &[writer, pruner]) else { return };
    let verified = note::verify(&signed, &[writer.verify_key()]).expect("it was just signed");
    assert_eq!((verified.text, verified.signers), (&*text, vec![writer.verify_key()]));
    assert!(note::verify(&signed, &[unused]).is_err());
    if let Some(byte) = signed.get_mut(data.len() / 2) {
        *byte ^= 1;
    }
    let read = note::verify(&signed, &[writer.verify_key()]).map(|verified| verified.text.to_owned());
    assert!(read.is_err(), "one bit of {text:?} was flipped");
}

/// Descriptors as the holder of a root key could sign them, and records: what is read is written as it was read.
pub fn record(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let text = format!("{text}\n");
    let root = Party::Root.signer();
    if let Ok(signed) = note::sign(&text, &[&root])
        && let Ok(descriptor) = Descriptor::from_note(&signed, None)
    {
        assert_eq!(descriptor.root, root.root(), "only the key that it names signs it");
        let written = descriptor.to_note(&root).expect("what was read can be written");
        assert_eq!(Descriptor::from_note(&written, Some(&root.root())).ok(), Some(descriptor));
    }
    if let Ok(record) = Record::parse(&text) {
        match record.to_text() {
            Ok(written) => assert_eq!(Record::parse(&written).ok(), Some(record)),
            Err(error) => assert!(matches!(record.body, RecordBody::Unknown { .. }), "{error}"),
        }
    }
}

/// Many notes in one object: what is read is written as it was read, and what is put together is read back.
pub fn bundle(data: &[u8]) {
    if let Ok(read) = Bundle::decode(data) {
        assert_eq!(Bundle::places_of(data), Some((read.first(), read.last())));
        assert_eq!(read.last() - read.first() + 1, read.notes().count() as u64);
        let written = Bundle::encode(read.first(), read.notes()).expect("what was read can be written");
        assert_eq!(Bundle::decode(&written).ok(), Some(read));
    }
    let (first, notes) = (data.len() as u64, || data.chunks(97));
    if let Ok(written) = Bundle::encode(first, notes()) {
        let read = Bundle::decode(&written).expect("it was just written");
        assert!(read.notes().eq(notes()) && read.first() == first);
    }
}

/// A log that begins with the root key, says what two other keys may sign, and has one backup.
struct Honest {
    log: RegionLog,
    objects: Vec<(ObjectKey, Vec<u8>)>,
}

static HONEST: LazyLock<Honest> = LazyLock::new(|| {
    let store = MemoryStore::new();
    let mut log = at_once(RegionLog::read(&store, trust())).expect("an empty log");
    let draft = |text: &str| {
        let Record { origin, body, .. } = Record::parse(&format!("{text}\n")).expect("it is a record");
        Draft { origin, body }
    };
    let mut append = |party: Party, draft: &Draft| {
        at_once(log.append(&store, &party.signer(), draft)).expect("it may sign it");
    };
    let init = draft(INIT);
    append(Party::Root, &init);
    for (party, role) in [(Party::Writer, Role::Writer), (Party::Pruner, Role::Pruner)] {
        let statement = party.delegation(role).sign(&Party::Root.signer()).expect("it is well formed");
        let (mut origin, body) = (init.origin.clone(), RecordBody::Signer(SignerRecord { statement }));
        origin.wseq = if party == Party::Writer { 1 } else { 2 };
        append(Party::Root, &Draft { origin, body });
    }
    append(Party::Writer, &draft(BACKUP));
    let key = |seq| StoredName::LogNote { seq }.key();
    let read = |seq| at_once(lifeboat_stores::Store::get(&store, &key(seq), whole())).expect("it was just written");
    let objects = (0..log.places()).map(|seq| (key(seq), read(seq).to_vec())).collect();
    Honest { log, objects }
});

fn whole() -> lifeboat_stores::ByteRange {
    lifeboat_stores::ByteRange::WholeUpTo(lifeboat_stores::OBJECT_BYTES_MAX)
}

fn trust() -> LogTrust {
    let signers = Signers::root_only(Party::Root.verify_key());
    LogTrust { repository: REPOSITORY, signers, region: Some(region()), remembered: None }
}

/// A log that others add to: notes of nobody, and of holders of keys, each at the next place or behind a free one. Nobody's
/// notes become records, nobody says what its roles do not allow, and whoever has only the key of a backup's writer can add
/// to what there is, and end none of it.
///
/// The input, repeatedly: who and what (1 byte), length (2 bytes), text.
pub fn log(data: &[u8]) {
    let store = MemoryStore::new();
    HONEST.objects.iter().for_each(|(key, note)| put(&store, key, note.clone()));
    let mut log = HONEST.log.clone();
    let honest: Vec<Arc<LogEntry>> = log.entries().to_vec();
    let mut input = Input(data);
    let mut seq = log.places();
    let mut stored: Vec<Vec<u8>> = HONEST.objects.iter().map(|(_, note)| note.clone()).collect();
    let mut are_writers_only = true;
    for _ in 0..ADDED_MAX {
        if input.0.is_empty() {
            break;
        }
        let (choice, length) = (input.byte(), usize::from(input.short()));
        let added = Added::of(choice, input.take(length));
        seq += u64::from(choice >> 7);
        let Some(bytes) = added.note(&log, seq) else { continue };
        if seq == stored.len() as u64 {
            stored.push(bytes.clone());
        }
        put(&store, &StoredName::LogNote { seq }.key(), bytes);
        are_writers_only &=
            matches!(added.by, None | Some(Party::Writer | Party::Stranger)) && added.what != What::Statement;
        let before = log.clone();
        at_once(log.refresh(&store)).expect("what comes behind a log hides none of it");
        check_added(&before, &log, &added);
        seq += 1;
    }
    assert_eq!(log.entries().get(..honest.len()), Some(&honest[..]), "what was there stays");
    log.entries().iter().for_each(|entry| check_right(&log, entry));
    let fresh = at_once(RegionLog::read(&store, trust())).expect("what comes behind a log hides none of it");
    assert_eq!(fresh.entries(), log.entries(), "who follows a log reads what a newcomer reads");
    assert_eq!(fresh.trust().signers, log.trust().signers);
    // Whoever can create objects may put anything together.
    if let Ok(bundle) = Bundle::encode(0, stored.iter().map(Vec::as_slice)) {
        let (last, sha256) = (stored.len() as u64 - 1, lifeboat_repository::format::aead::sha256(&bundle));
        put(&store, &StoredName::LogBundle { first: 0, last, sha256 }.key(), bundle);
        let bundled = at_once(RegionLog::read_by_any_bundles(&store, trust())).expect("no bundle hides anything");
        assert_eq!(bundled.entries(), log.entries(), "a bundle says nothing that the log does not say");
        assert_eq!(bundled.trust().signers, log.trust().signers);
    }
    let state = log.state(time("2027-01-01T00:00:00Z"));
    check_state(&log, &state);
    if are_writers_only {
        assert!(state.swept.is_empty() && state.open_intents.is_empty() && state.holds.is_empty());
        let stays = |backup: &lifeboat_repository::log::BackupState| backup.leaving.is_none();
        assert!(state.backups.len() >= honest.iter().filter(|entry| entry.record.backup().is_some()).count());
        assert!(state.backups.values().all(stays), "a writer ends nothing");
        assert!(state.wal_floors.is_empty() && state.slice_floors.is_empty());
    }
}

/// A note that is added.
#[derive(Debug)]
struct Added<'a> {
    /// Whose key signs it; `None` is nobody's.
    by: Option<Party>,
    what: What,
    text: &'a [u8],
}

#[derive(Debug, PartialEq, Eq)]
enum What {
    /// The text as it is.
    Plain,
    /// The text as a record, with the place that it is added at.
    Record,
    /// The text as a statement that the root key signs, in a record of any key.
    Statement,
    /// The text as a record of another region, signed by the writer, in a record that copies it.
    Copy,
}

impl<'a> Added<'a> {
    fn of(choice: u8, text: &'a [u8]) -> Self {
        let what = match choice >> 2 & 3 {
            0 => What::Plain,
            1 => What::Record,
            2 => What::Statement,
            _ => What::Copy,
        };
        let is_nobodys = what == What::Plain && choice >> 4 & 1 == 0;
        Self { by: (!is_nobodys).then(|| Party::chosen(choice)), what, text }
    }

    /// The bytes of the note; `None` if there can be no such note.
    fn note(&self, log: &RegionLog, seq: u64) -> Option<Vec<u8>> {
        let Some(by) = self.by else { return Some(self.text.to_vec()) };
        let text = std::str::from_utf8(self.text).ok()?;
        let link = Link { region: region(), seq, prev: log.head().map(|head| head.sha256) };
        let origin = |wseq| {
            let Record { mut origin, .. } = Record::parse(&format!("{INIT}\n")).expect("it is a record");
            (origin.writer, origin.wseq) = (by.key_name(), wseq);
            origin
        };
        let text = match self.what {
            What::Plain => format!("{text}\n"),
            What::Record => {
                let Record { origin, body, .. } = Record::parse(&format!("{text}\n")).ok()?;
                Record { link, origin, body }.to_text().ok()?
            }
            What::Statement => {
                let statement = note::sign(&format!("{text}\n"), &[&Party::Root.signer()]).ok()?;
                let body = RecordBody::Signer(SignerRecord { statement: String::from_utf8(statement).ok()? });
                Record { link, origin: origin(seq), body }.to_text().ok()?
            }
            What::Copy => {
                let original = note::sign(&format!("{text}\n"), &[&Party::Writer.signer()]).ok()?;
                let body = RecordBody::Copy(CopyRecord { note: String::from_utf8(original).ok()? });
                Record { link, origin: origin(seq), body }.to_text().ok()?
            }
        };
        note::sign(&text, &[&by.signer()]).ok()
    }
}

/// What one note has added to a log.
fn check_added(before: &RegionLog, log: &RegionLog, added: &Added<'_>) {
    let new = log.entries().get(before.entries().len()..).expect("a log never gets shorter");
    let Some(entry) = new.first() else { return };
    let by = added.by.expect("nobody's note is no record");
    let known = |signers: &Signers| signers.knows(&by.verify_key());
    assert!(known(&log.trust().signers), "{by:?} was never named");
    assert!(known(&before.trust().signers) || matches!(entry.record.body, RecordBody::Signer(_)));
    let was_revoked = before.trust().signers.standing(&by.verify_key()) == KeyStanding::Revoked;
    let says_nothing = matches!(entry.record.body, RecordBody::Void { .. } | RecordBody::Signer(_));
    assert!(!was_revoked || says_nothing, "a revoked key says nothing");
    assert_eq!(entry.record.link.prev, before.head().map(|head| head.sha256));
    assert_eq!(new.len(), 1);
}

/// Whether the key of a record may say what the record says: by a table of its own.
fn check_right(log: &RegionLog, entry: &LogEntry) {
    let signers = &log.trust().signers;
    let Record { origin, body, .. } = &entry.record;
    if entry.signer == signers.root() || matches!(body, RecordBody::Void { .. } | RecordBody::Signer(_)) {
        return;
    }
    let signer = signers.signer(&entry.signer).expect("a key that was named");
    let own = || signer.delegations.iter().filter(|delegation| delegation.name == origin.writer);
    assert!(own().count() > 0, "it signs in its own name: {entry:?}");
    let roles: &[Role] = match body.kind() {
        "audit" => return,
        "backup" | "wal-epoch" | "wal-gap" | "incarnation" => &[Role::Writer],
        "damage" => &[Role::Pruner, Role::Drill],
        "hold" | "release" => &[Role::Operator, Role::Pruner],
        "init" => &[],
        _ => &[Role::Pruner],
    };
    let mut allows = own().filter(|delegation| delegation.covers(origin.time));
    assert!(allows.any(|delegation| delegation.roles.iter().any(|role| roles.contains(role))), "{entry:?}");
}

fn check_state(log: &RegionLog, state: &RegionState) {
    for (id, backup) in &state.backups {
        assert!(!state.swept.contains_key(id), "what was swept does not exist");
        let entry = log.at(backup.seq).expect("its record is in the log");
        assert!(entry.record.commits(id));
    }
    let places = log.places();
    assert!(state.swept.values().all(|seq| *seq < places));
    let is_statement = |entry: &&Arc<LogEntry>| matches!(entry.record.body, RecordBody::Signer(_));
    for entry in log.entries().iter().filter(is_statement) {
        let RecordBody::Signer(carried) = &entry.record.body else { continue };
        let statement = Statement::verify(&carried.statement, &log.trust().signers.root(), REPOSITORY);
        assert!(statement.is_ok_and(|statement| log.trust().signers.knows(&statement.key())));
    }
}

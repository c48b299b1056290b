//! Inputs to begin with: small, and made by what the product itself writes with. The same at every time and on every machine.

use std::fmt::Write;

use lifeboat_postgres::{ManifestVersion, ManifestWriter, WalRange};
use lifeboat_repository::format::WalMark;
use lifeboat_repository::format::compression::Compressor;
use lifeboat_repository::format::frame::Codec;
use lifeboat_repository::format::ids::ObjectKind;
use lifeboat_repository::format::seal::{FrameContent, seal_object};
use lifeboat_repository::format::toc::PackFooter;
use lifeboat_repository::log::records::Record;
use lifeboat_repository::log::{Bundle, Descriptor, Revocation, Role, Statement};
use lifeboat_vocabulary::{Lsn, RecordMark, RelativePath, TimelineId};

use crate::material::{Party, REPOSITORY, epoch_key, header, time};

/// An input for one target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seed {
    /// The target.
    pub target: &'static str,
    /// The name of its file in the corpus.
    pub name: String,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// The first record of a log.
pub(crate) const INIT: &str = r#"{"v":1,"kind":"init","region":"eu-1","seq":0,"writer":"root","wseq":0,"time":"2026-11-20T02:00:00Z","tool":"lifeboat 0.1.0","repo":"01010101010101010101010101010101","sysid":"7400000000000000001","descriptor_sha256":"0101010101010101010101010101010101010101010101010101010101010101"}"#;
/// A backup.
pub(crate) const BACKUP: &str = r#"{"v":1,"kind":"backup","region":"eu-1","seq":3,"prev":"0909090909090909090909090909090909090909090909090909090909090909","writer":"writer","wseq":1,"time":"2026-11-20T02:41:08Z","tool":"lifeboat 0.1.0","backup":"20261120T020003Z-5f1c09ab","type":"full","pg":{"version":170006,"sysid":"7400000000000000001","wal_segment_bytes":16777216},"start_lsn":"A/28000028","start_tli":7,"stop_lsn":"A/2C0001F8","stop_tli":7,"start_time":"2026-11-20T02:00:03Z","stop_time":"2026-11-20T02:41:07Z","duration_ms":2464000,"frame_bytes":131072,"epochs":[{"id":"02020202020202020202020202020202","slots":0,"keys_sha256":"0202020202020202020202020202020202020202020202020202020202020202"}],"packs":{"sha256":"0303030303030303030303030303030303030303030303030303030303030303","objects":12,"bytes":6871947673,"own":12,"own_bytes":6871947673},"index":[{"key":"data/20261120T020003Z-5f1c09ab/index-0000.lbx","sha256":"0404040404040404040404040404040404040404040404040404040404040404","size":3145990}],"files":{"count":4127,"raw_bytes":20615843020},"pages":{"checked":2516582,"damaged":0,"damaged_files":0}}"#;
/// What begins every other record: kind, writer, count.
fn start(kind: &str, writer: &str, count: u32) -> String {
    format!(
        r#"{{"v":1,"kind":"{kind}","region":"eu-1","seq":5,"prev":"{}","writer":"{writer}","wseq":{count},"time":"2026-11-23T02:00:00Z","tool":"lifeboat 0.1.0","#,
        "09".repeat(32)
    )
}

/// Records of all other kinds, and who may sign them.
fn records() -> Vec<(Party, String, String)> {
    let backup = "20261120T020003Z-5f1c09ab";
    let policy = r#""policy":{"timezone":"Europe/Berlin","daily":7,"weekly":4,"monthly":12,"min_keep":2,"window_seconds":604800}"#;
    let bodies = [
        (
            Party::Writer,
            "wal-epoch",
            format!(
                r#""epoch":"{}","keys_sha256":"{}","tli":7,"start_lsn":"A/28000000","wal_segment_bytes":16777216"#,
                "02".repeat(16),
                "05".repeat(32)
            ),
        ),
        (
            Party::Writer,
            "wal-gap",
            r#""tli":7,"from":"A/28000000","to":"A/29000000","reason":"fresh_slot","scope":"everywhere""#.to_owned(),
        ),
        (Party::Writer, "incarnation", format!(r#""incarnation":"{}""#, "0c".repeat(8))),
        (
            Party::Pruner,
            "forget",
            format!(
                r#""backups":[{{"backup":"{backup}","why":"no rule keeps it"}}],{policy},"not_before":"2026-11-24T02:00:00Z""#
            ),
        ),
        (Party::Pruner, "keep", format!(r#""backups":["{backup}"]"#)),
        (
            Party::Pruner,
            "sweep-intent",
            format!(
                r#""backups":["{backup}"],"leftovers":["20261119T020003Z-00000002"],"wal":[{{"tli":7,"before":"A/28000000"}}]"#
            ),
        ),
        (Party::Pruner, "sweep-done", r#""intent":4,"objects":9,"bytes":1048576,"locked":0"#.to_owned()),
        (
            Party::Pruner,
            "hold",
            format!(r#""hold":"{}","backup":"{backup}","reason":"case 4711","owner":"mia""#, "0d".repeat(8)),
        ),
        (Party::Pruner, "release", format!(r#""hold":"{}","reason":"case closed","owner":"mia""#, "0d".repeat(8))),
        (
            Party::Pruner,
            "damage",
            format!(r#""backup":"{backup}","objects":["data/{backup}/index-0000.lbx"],"count":1,"found_by":"scrub""#),
        ),
        (
            Party::Pruner,
            "healed",
            format!(r#""backups":["{backup}"],"settles":[1],"objects":1,"bytes":1048576,"from":"us""#),
        ),
        (
            Party::Writer,
            "audit",
            r#""action":"pause","subject":"delete","reason":"moving the bucket","owner":"mia""#.to_owned(),
        ),
        (Party::Pruner, "bundle", format!(r#""first":1,"last":3,"sha256":"{}","bytes":1048576"#, "0e".repeat(32))),
    ];
    let record = |(party, kind, body): (Party, &str, String)| {
        let text = format!("{}{body}}}", start(kind, party.key_name().as_str(), 9));
        (party, kind.to_owned(), text)
    };
    bodies.into_iter().map(record).collect()
}

fn statements() -> Vec<(&'static str, String)> {
    let revocation = Revocation {
        repo: REPOSITORY,
        key: Party::Writer.verify_key(),
        time: time("2026-11-22T00:00:00Z"),
        reason: "its host was taken over".to_owned(),
    };
    let statements = [
        ("delegation", Party::Stranger.delegation(Role::Operator)),
        ("delegation-again", Party::Writer.delegation(Role::Drill)),
        ("revocation", Statement::Revocation(revocation)),
    ];
    let unsigned = |statement: &Statement| {
        let note = statement.sign(&Party::Root.signer()).expect("it is well formed");
        note.lines().next().unwrap_or_default().to_owned()
    };
    statements.iter().map(|(name, statement)| (*name, unsigned(statement))).collect()
}

/// An addition to a log, see [`crate::log`].
fn added(choice: u8, text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).unwrap_or(u16::MAX).to_le_bytes();
    [&[choice], &length[..], text.as_bytes()].concat()
}

fn log_programs() -> Vec<(String, Vec<u8>)> {
    let number = |party: Party| Party::ALL.iter().position(|other| *other == party).map_or(0, |at| at.to_le_bytes()[0]);
    let record = |party, text: &str| added(number(party) | 1 << 2, text);
    let records = records();
    let text = |kind: &str| records.iter().find(|(_, found, _)| found == kind).map_or("", |(_, _, text)| text.as_str());
    let mut programs: Vec<_> = records.iter().map(|(party, kind, text)| (kind.clone(), record(*party, text))).collect();
    let named = |text: &str, party: Party| {
        let text = text.replace(r#""writer":"pruner""#, &format!(r#""writer":"{}""#, party.key_name()));
        record(party, &text)
    };
    let forged = records.iter().flat_map(|(_, _, text)| named(text, Party::Writer)).collect();
    programs.push(("forged".to_owned(), forged));
    let sweep = [record(Party::Pruner, text("forget")), record(Party::Pruner, text("sweep-intent"))].concat();
    programs.push(("sweep".to_owned(), sweep));
    for (name, statement) in statements() {
        let mut program = added(number(Party::Stranger) | 2 << 2, &statement);
        program.extend(named(text("hold"), Party::Stranger));
        program.extend(record(Party::Writer, text("wal-gap")));
        programs.push((name.to_owned(), program));
    }
    programs.push(("copy".to_owned(), added(number(Party::Pruner) | 3 << 2, text("wal-gap"))));
    let strays = [added(0, "hello"), added(0x80, "far"), record(Party::Writer, text("wal-gap"))].concat();
    programs.push(("strays".to_owned(), strays));
    programs
}

fn heads() -> Vec<(&'static str, Vec<u8>)> {
    let start = format!(
        r#"{{"v":1,"kind":"head","repo":"{}","region":"eu-1","writer":"writer","instance":"0707070707070707","time":"2026-11-20T02:00:00Z""#,
        "01".repeat(16)
    );
    let full = format!(
        r#"{start},"log_seq":3,"log_sha256":"{}","tli":7,"durable":"A/28001000","record":{{"tli":7,"start":"A/28000F00","end":"A/28001000","prev":"A/28000E00","crc":17}}}}"#,
        "09".repeat(32)
    );
    let by = |party: u8, text: &str| [&[party], text.as_bytes()].concat();
    vec![("full", by(1, &full)), ("bare", by(1, &format!("{start}}}"))), ("of-the-pruner", by(2, &full))]
}

fn wal_objects() -> Vec<(&'static str, Vec<u8>)> {
    let lsn = |at| Lsn::from_bytes(at).expect("it is not 0");
    let timeline = TimelineId::new(7).expect("it is not 0");
    let start = 0xA_2800_0000_u64;
    let record =
        RecordMark { timeline, start: lsn(start), end: lsn(start + 64), previous: Some(lsn(start - 64)), crc: 17 };
    let mark = WalMark { record: Some(record), content_crc: 0 }.encode();
    let object = |form: u8, content: &[u8]| {
        [&200_u32.to_le_bytes()[..], &[3], &start.to_le_bytes(), &mark, &[form], content].concat()
    };
    let mut piece = vec![7; 300];
    piece.extend([0; 700]);
    vec![("slice", object(0, &[1; 100])), ("piece", object(1, &piece))]
}

fn sealed() -> Vec<Seed> {
    let vectors: [(&str, &[u8]); 5] = [
        ("slice", include_bytes!("../../../repository/tests/vectors/good_slice.lfb1")),
        ("history", include_bytes!("../../../repository/tests/vectors/good_history_signed.lfb1")),
        ("shard", include_bytes!("../../../repository/tests/vectors/good_shard.lfb1")),
        ("pack", include_bytes!("../../../repository/tests/vectors/good_pack.lfb1")),
        ("segment", include_bytes!("../../../repository/tests/vectors/good_segment_empty.lfb1")),
    ];
    let mut seeds: Vec<_> = vectors.into_iter().map(|(name, bytes)| seed("object", name, bytes)).collect();
    let frame = FrameContent { codec: Codec::Stored, payload: b"hello", raw_len: 5 };
    let known = seal_object(&epoch_key(), &header(ObjectKind::IndexShard), &[frame], None).expect("it is small");
    seeds.push(seed("object", "known-key", &known.bytes));
    let slots = include_bytes!("../../../repository/tests/vectors/keys_slots.json");
    seeds.push(seed("keys", "slots", slots));
    seeds.push(seed("authenticated_object", "stored", &[2 << 1, b'x']));
    seeds.push(seed("authenticated_object", "zstd", &[&[21 << 1 | 1], &compressed()[..]].concat()));
    seeds.push(seed("zstd", "frame", &compressed()));
    let footer = PackFooter { toc_offset: 4096, toc_len: 64, frames: 2 };
    seeds.push(seed("pack_toc", "footer", &footer.encode()));
    seeds.push(seed("pack_toc", "two-frames", &[2, 0, 1, 30, 6, 1, 1, 30, 6]));
    let list = format!("{}  data/20261120T020003Z-5f1c09ab/index-0000.lbx\n", "04".repeat(32));
    seeds.push(seed("packs_list", "one", list.as_bytes()));
    items().iter().for_each(|(name, items)| seeds.push(seed("index", name, items)));
    seeds
}

/// Where the first frame ends, and items of an index in CBOR.
fn items() -> [(&'static str, Vec<u8>); 3] {
    let pack = |number: &[u8]| [&[0xA4, 0, 2, 1], number, &[2, 0x50], &[4; 16], &[3, 0x58, 24], &[5; 24]].concat();
    let directory = [&[0xA5, 0, 3, 1, 0x44], &b"base"[..], &[2, 1, 3, 0x19, 1, 0xC0, 5, 0]].concat();
    // Five bytes in the first frame of the first pack.
    let file =
        [0xA8, 0, 3, 1, 0x41, b'a', 2, 0, 3, 0x19, 1, 0x80, 4, 5, 5, 0, 6, 0x1A, 0, 0, 0, 17, 8, 0x45, 2, 0, 0, 0, 29];
    let link = [&[0xA6, 0, 3, 1, 0x41], &b"l"[..], &[2, 2, 3, 0x19, 1, 0xFF, 5, 0, 9, 0x41, b't']].concat();
    [
        ("files", [&[20, 0], &pack(&[0])[..], &directory, &file, &link].concat()),
        ("file", [&[0, 0], &file[..]].concat()),
        ("pack", [&[9, 0], &pack(&[0x1A, 0, 0x10, 0, 0])[..]].concat()),
    ]
}

/// 64 bytes and more, as the product compresses them.
fn compressed() -> Vec<u8> {
    let mut payload = Vec::new();
    let mut compressor = Compressor::new(1).expect("zstd has memory and this level");
    let codec = compressor.compress(&b"to be, or not to be, ".repeat(64), &mut payload).expect("it is short");
    assert_eq!(codec, Codec::Zstd);
    payload
}

fn manifest() -> Vec<u8> {
    let version = ManifestVersion::Two { system_identifier: 7 };
    let mut writer = ManifestWriter::new(vec![40], version).expect("a vector takes all");
    let mut file = |path: &[u8]| {
        let path = RelativePath::new(path).expect("it is a path");
        writer.file(&path, 8192, 1_763_600_000, 0xDEAD_BEEF).expect("a vector takes all");
    };
    file(b"base/5/16384");
    file(b"base/5/\xff");
    let lsn = |at| Lsn::from_bytes(at).expect("it is not 0");
    let timeline = TimelineId::new(1).expect("it is not 0");
    writer.finish(&[WalRange { timeline, start: lsn(1 << 25), end: lsn((1 << 25) + 256) }]).expect("a vector takes all")
}

fn seed(target: &'static str, name: &str, bytes: &[u8]) -> Seed {
    Seed { target, name: format!("seed-{name}"), bytes: bytes.to_vec() }
}

/// All of them.
///
/// # Panics
/// If the product does not read any more what is written here.
#[must_use]
pub fn seeds() -> Vec<Seed> {
    let mut seeds = sealed();
    let mut add = |target, name: &str, bytes: &[u8]| seeds.push(seed(target, name, bytes));
    for (_, kind, text) in records() {
        Record::parse(&format!("{text}\n")).unwrap_or_else(|error| panic!("{kind}: {error:?}"));
        add("record", &kind, text.as_bytes());
    }
    add("record", "init", INIT.as_bytes());
    add("record", "backup", BACKUP.as_bytes());
    let root = Party::Root.signer();
    let descriptor = Descriptor::new(REPOSITORY, 7, time("2026-11-20T02:00:00Z"), root.verify_key());
    let note = descriptor.to_note(&root).expect("it is well formed");
    add("record", "descriptor", note.split(|byte| *byte == b'\n').next().unwrap_or_default());
    add("note", "descriptor", &note);
    add("note", "text", b"hello\n");
    statements().iter().for_each(|(name, text)| add("statement", name, text.as_bytes()));
    let mut both = String::new();
    statements().iter().for_each(|(_, text)| writeln!(both, "{text}").expect("a text takes all"));
    add("statement", "all", both.as_bytes());
    log_programs().iter().for_each(|(name, program)| add("log", name, program));
    add("bundle", "two-notes", &Bundle::encode(7, [&b"a"[..], b"bc"]).expect("they are small"));
    heads().iter().for_each(|(name, head)| add("head", name, head));
    wal_objects().iter().for_each(|(name, object)| add("wal_object", name, object));
    let lease = r#"{"v":1,"instance":"0707070707070707","cluster":"main","since":"2026-11-20T00:00:00Z","ttl_seconds":60,"nonce":"01"}"#;
    add("lease", "ours", &[&30_u32.to_le_bytes()[..], lease.as_bytes()].concat());
    let copy = lease.replace(r#""nonce":"01""#, r#""nonce":"02""#);
    add("lease", "copy", &[&30_u32.to_le_bytes()[..], copy.as_bytes()].concat());
    let contested = lease.replace('}', r#","contested_by":"0909090909090909"}"#);
    add("lease", "contested", &[&30_u32.to_le_bytes()[..], contested.as_bytes()].concat());
    let other = lease.replace("0707", "0909");
    add("lease", "other", &[&30_u32.to_le_bytes()[..], other.as_bytes()].concat());
    add("lease", "expired", &[&61_u32.to_le_bytes()[..], other.as_bytes()].concat());
    add("backup_manifest", "two-files", &manifest());
    for seed in crate::texts::all() {
        add(seed.0, seed.1, seed.2.as_bytes());
    }
    seeds
}

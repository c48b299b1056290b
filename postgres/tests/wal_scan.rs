//! WAL that real servers have written, checked, and compared with what `pg_waldump` finds in it.

#![cfg(test)]

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use lifeboat_postgres::{ControlFile, ScanStart, WalFact, WalFactKind, WalFaultKind, WalScanner};
use lifeboat_testkit::{PgServer, Stop, run_as_postgres};
use lifeboat_vocabulary::{Lsn, SegmentName, SegmentSize, TimelineId, UtcTime};
use proptest::prelude::*;

/// Layouts of WAL differ between these, so that all of them are always read.
const MAJORS: [u32; 4] = [13, 15, 17, 18];

fn server(major: u32, segment: u32) -> PgServer {
    let builder = PgServer::builder(major).wal_segsize_mb(segment).setting("wal_keep_size", "4GB");
    let builder = builder.setting("max_wal_size", "2GB").setting("wal_level", "logical").setting("autovacuum", "off");
    builder.setting("max_prepared_transactions", "10").start().unwrap()
}

/// The WAL of a timeline from the first segment that is there up to `end`.
struct Written {
    start: ScanStart,
    bytes: Vec<u8>,
    /// The first and the last file.
    names: (String, String),
}

fn written(server: &PgServer, end: Lsn) -> Written {
    let control = fs::read(server.data_dir().join("global/pg_control")).unwrap();
    let control = ControlFile::parse(&control).unwrap();
    let (size, timeline) = (control.wal_segment_size, TimelineId::new(1).unwrap());
    let files = fs::read_dir(server.data_dir().join("pg_wal")).unwrap().map(|entry| entry.unwrap());
    let names = files.filter_map(|entry| SegmentName::parse(entry.file_name().to_str()?, size).ok());
    let mut names: Vec<SegmentName> = names.filter(|name| name.start().unwrap() < end).collect();
    names.sort_by_key(|name| name.number);
    assert!(names.windows(2).all(|pair| pair[0].next() == pair[1]), "{names:?}");
    let (first, last) = (names[0], names[names.len() - 1]);
    let path = |name: &SegmentName| -> PathBuf { server.data_dir().join("pg_wal").join(name.to_string()) };
    let mut bytes: Vec<u8> = names.iter().flat_map(|name| fs::read(path(name)).unwrap()).collect();
    let at = first.start().unwrap();
    bytes.truncate(usize::try_from(end.bytes_since(at).unwrap().as_bytes()).unwrap());
    let start = ScanStart { timeline, system_identifier: control.system_identifier, segment_size: size, at };
    Written { start, bytes, names: (first.to_string(), last.to_string()) }
}

fn flushed(server: &PgServer) -> Lsn {
    server.psql("postgres", "select pg_current_wal_flush_lsn()").unwrap().parse().unwrap()
}

/// Everything whose records matter, and what lies around them.
fn busy(server: &mut PgServer) {
    let place = server.tablespace_dir("a").unwrap();
    let sql = "create table t (i int primary key, x text);
         create table other as select * from t;
         insert into t select i, repeat('x', 500) from generate_series(1, 5000) i;
         begin; savepoint a; insert into t values (-1); savepoint b; insert into t values (-2); drop table other; commit;
         begin; insert into t values (-3); create table gone (i int); rollback;
         begin; savepoint a; insert into t values (-4); savepoint b; insert into t values (-5);
         create table prepared as select 1 as i; drop table prepared; alter table t add column y int;
         prepare transaction 'it''s'";
    server.psql("postgres", sql).unwrap();
    server.psql("postgres", "begin; savepoint a; create table p2 (i int); prepare transaction 'two'").unwrap();
    server.psql("postgres", "commit prepared 'it''s'; rollback prepared 'two'").unwrap();
    server.psql("postgres", "select pg_create_restore_point('before the deluge ä')").unwrap();
    server.psql("postgres", &format!("create tablespace a location '{}'", place.display())).unwrap();
    // Larger than a segment of 1 MiB.
    server.psql("postgres", "select pg_logical_emit_message(false, 'l', repeat('y', 3000000))").unwrap();
    server
        .psql("postgres", "select pg_switch_wal(); checkpoint; update t set x = x || 'z'; select pg_switch_wal()")
        .unwrap();
    let many: String = (1..400).map(|n| format!("create table many_{n} (i int primary key);")).collect();
    server.psql("postgres", &format!("begin; {many} commit; drop tablespace a")).unwrap();
    // A new value of one of the settings that standbys must follow.
    let conf = server.data_dir().join("postgresql.auto.conf");
    let mut text = fs::read_to_string(&conf).unwrap();
    text.push_str("max_connections = 41\n");
    fs::OpenOptions::new()
        .write(true)
        .open(&conf)
        .map(|mut f| std::io::Write::write_all(&mut f, text.as_bytes()))
        .unwrap()
        .unwrap();
    server.restart().unwrap();
    server.psql("postgres", "insert into t values (-10)").unwrap();
    server.stop(Stop::Immediate).unwrap();
    server.start().unwrap();
    server.psql("postgres", "insert into t values (-11)").unwrap();
}

fn scan(written: &Written, mut cut: impl FnMut() -> usize) -> (Vec<WalFact>, WalScanner) {
    let (mut scanner, mut facts) = (WalScanner::new(written.start), Vec::new());
    let mut rest = written.bytes.as_slice();
    while !rest.is_empty() {
        let (now, later) = rest.split_at(cut().clamp(1, rest.len()));
        scanner.feed(now, &mut |fact| facts.push(fact.clone())).unwrap();
        rest = later;
    }
    (facts, scanner)
}

/// What `pg_waldump` calls each kind of fact, with its place and what it says of it.
fn theirs(server: &PgServer, written: &Written) -> BTreeMap<Lsn, String> {
    let mut dump = Command::new(server.bin_dir().join("pg_waldump"));
    dump.arg("-p").arg(server.data_dir().join("pg_wal")).args([&written.names.0, &written.names.1]);
    dump.env("TZ", "UTC").env("LC_ALL", "C");
    // It ends with an error at the end of the WAL, after it has told everything.
    let script = "\"$@\" 2>/dev/null; true";
    let program = dump.get_program().to_owned();
    let mut shell = Command::new("sh");
    shell.args(["-c", script, "sh"]).arg(program).args(dump.get_args()).env("TZ", "UTC").env("LC_ALL", "C");
    let text = run_as_postgres(&mut shell).unwrap();
    let mut records = BTreeMap::new();
    for line in text.lines() {
        let field = |name: &str| line.split_once(name).map(|(_, rest)| rest.trim_start());
        let (Some(lsn), Some(desc), Some(xid)) = (field("lsn: "), field("desc: "), field("tx: ")) else { continue };
        let lsn: Lsn = lsn.split(',').next().unwrap().parse().unwrap();
        let xid = xid.split(',').next().unwrap();
        let kind = desc.split([' ', ';']).next().unwrap();
        let manager = field("rmgr: ").unwrap().split_whitespace().next().unwrap();
        let told = match (manager, kind) {
            ("Transaction", "COMMIT" | "ABORT") => {
                let time = desc.split_once(' ').unwrap().1.split_once(" UTC").unwrap().0;
                format!("{kind} {xid} {time}")
            }
            ("Transaction", "COMMIT_PREPARED" | "ABORT_PREPARED") => {
                let (prepared, rest) = desc.split_once(' ').unwrap().1.split_once(": ").unwrap();
                let kind = kind.trim_end_matches("_PREPARED");
                format!("{kind} {prepared} {}", rest.split_once(" UTC").unwrap().0)
            }
            ("XLOG", "SWITCH" | "CHECKPOINT_SHUTDOWN" | "CHECKPOINT_ONLINE" | "END_OF_RECOVERY") => kind.to_owned(),
            ("XLOG", "RESTORE_POINT" | "PARAMETER_CHANGE") => desc.to_owned(),
            ("Tablespace", "CREATE") => desc.to_owned(),
            _ => continue,
        };
        records.insert(lsn, told);
    }
    records
}

fn exact(time: UtcTime) -> String {
    format!("{}.{:06}", time.for_tables(), time.as_unix_micros().rem_euclid(1_000_000))
}

/// The same words for ours.
fn ours(fact: &WalFact) -> String {
    match &fact.kind {
        WalFactKind::Commit { time, xid } => format!("COMMIT {xid} {}", exact(*time)),
        WalFactKind::Abort { time, xid } => format!("ABORT {xid} {}", exact(*time)),
        WalFactKind::Switch => "SWITCH".to_owned(),
        WalFactKind::ShutdownCheckpoint => "CHECKPOINT_SHUTDOWN".to_owned(),
        WalFactKind::OnlineCheckpoint => "CHECKPOINT_ONLINE".to_owned(),
        WalFactKind::EndOfRecovery => "END_OF_RECOVERY".to_owned(),
        WalFactKind::RestorePoint { name, .. } => format!("RESTORE_POINT {name}"),
        WalFactKind::CreateTablespace { oid, path } => format!("CREATE {oid} \"{}\"", path.display()),
        WalFactKind::ParameterChange { max_connections, wal_level, .. } => {
            let level = ["minimal", "replica", "logical"][usize::try_from(*wal_level).unwrap()];
            format!("PARAMETER_CHANGE max_connections={max_connections} wal_level={level}")
        }
        other => panic!("{other:?}"),
    }
}

/// `pg_waldump`'s text of a parameter change, cut down to the first and the sixth value.
fn comparable(told: &str) -> String {
    let Some(values) = told.strip_prefix("PARAMETER_CHANGE ") else { return told.to_owned() };
    let value = |name: &str| values.split_whitespace().find(|word| word.starts_with(name)).unwrap();
    format!("PARAMETER_CHANGE {} {}", value("max_connections="), value("wal_level="))
}

#[test]
fn real_wal_is_valid_and_yields_what_pg_waldump_prints() {
    for major in MAJORS {
        let mut server = server(major, 1);
        busy(&mut server);
        let end = flushed(&server);
        let written = written(&server, end);
        let (facts, scanner) = scan(&written, || usize::MAX);
        assert_eq!((scanner.position(), scanner.last_record_end()), (end, Some(end)), "{major}");
        let mine: BTreeMap<Lsn, String> = facts.iter().map(|fact| (fact.start, ours(fact))).collect();
        let mut told: BTreeMap<Lsn, String> =
            theirs(&server, &written).into_iter().map(|(lsn, told)| (lsn, comparable(&told))).collect();
        // What the server wrote while the files were read.
        told.retain(|lsn, _| *lsn < end);
        assert_eq!(mine, told, "{major}");
        let count = |kind: &str| mine.values().filter(|told| told.starts_with(kind)).count();
        println!("{major}: {} facts, {} commits, {} MiB", facts.len(), count("COMMIT"), written.bytes.len() >> 20);
        for kind in ["ABORT", "SWITCH", "RESTORE_POINT before", "CREATE ", "PARAMETER_CHANGE max_connections=41"] {
            assert!(count(kind) >= 1, "{major}: no {kind}");
        }
        assert!(count("COMMIT") > 10 && count("CHECKPOINT_SHUTDOWN") >= 2 && count("CHECKPOINT_ONLINE") >= 1);
        assert!(facts.iter().all(|fact| fact.start < fact.end && fact.end <= end));
    }
}

#[test]
fn how_real_wal_is_cut_makes_no_difference() {
    let mut server = server(18, 1);
    busy(&mut server);
    let written = written(&server, flushed(&server));
    let (whole, _) = scan(&written, || usize::MAX);
    let longest = prop_oneof![Just(1usize), 1..100usize, 1..20_000usize, 1..300_000usize];
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 24,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let strategy = proptest::collection::vec(longest, 1..200);
    let outcome = runner.run(&strategy, |lengths| {
        let mut lengths = lengths.into_iter().cycle();
        let (facts, scanner) = scan(&written, || lengths.next().unwrap());
        prop_assert_eq!(&facts, &whole);
        prop_assert_eq!(scanner.position(), scanner.last_record_end().unwrap());
        Ok(())
    });
    outcome.unwrap();
}

#[test]
fn a_scan_may_begin_at_any_segment_and_a_foreign_or_recycled_one_is_refused() {
    for major in MAJORS {
        let mut server = server(major, 1);
        busy(&mut server);
        let end = flushed(&server);
        let written = written(&server, end);
        let (whole, _) = scan(&written, || usize::MAX);
        let segment = usize::try_from(written.start.segment_size.as_bytes()).unwrap();
        for offset in (segment..written.bytes.len()).step_by(segment) {
            let at = Lsn::from_bytes(written.start.at.as_bytes() + offset as u64).unwrap();
            let part = Written {
                start: ScanStart { at, ..written.start },
                bytes: written.bytes[offset..].to_vec(),
                names: written.names.clone(),
            };
            let (facts, scanner) = scan(&part, || 8192);
            let expected: Vec<WalFact> = whole.iter().filter(|fact| fact.start >= at).cloned().collect();
            assert_eq!((facts, scanner.position()), (expected, end), "{major} {at}");
        }
        let first = |start: ScanStart| WalScanner::new(start).feed(&written.bytes, &mut |_| {}).unwrap_err().what;
        let system_identifier = written.start.system_identifier + 1;
        assert!(matches!(
            first(ScanStart { system_identifier, ..written.start }),
            WalFaultKind::SystemIdentifier { .. }
        ));
        let segment_size = SegmentSize::DEFAULT;
        let other = first(ScanStart { segment_size, ..written.start });
        assert!(matches!(other, WalFaultKind::SegmentBytes { .. } | WalFaultKind::Flags { .. }), "{other:?}");
        let later = Lsn::from_bytes(written.start.at.as_bytes() + (1 << 20)).unwrap();
        let misplaced = first(ScanStart { at: later, ..written.start });
        assert!(matches!(misplaced, WalFaultKind::Address { .. }), "{misplaced:?}");
    }
}

/// A crash that loses the second half of a record: the WAL behind a page's end was never written.
#[test]
fn wal_in_which_a_server_has_overwritten_a_torn_record_is_valid() {
    for major in MAJORS {
        let mut server = server(major, 16);
        server.psql("postgres", "create table t as select 1 as i; checkpoint").unwrap();
        let begin: Lsn = server.psql("postgres", "select pg_current_wal_insert_lsn()").unwrap().parse().unwrap();
        server.psql("postgres", "select pg_logical_emit_message(true, 'l', repeat('y', 100000))").unwrap();
        server.stop(Stop::Immediate).unwrap();
        let size = SegmentSize::DEFAULT;
        let name = SegmentName::holding(TimelineId::new(1).unwrap(), begin, size);
        let path = server.data_dir().join("pg_wal").join(name.to_string());
        let mut bytes = fs::read(&path).unwrap();
        let torn = usize::try_from(begin.as_bytes() % size.as_bytes()).unwrap().next_multiple_of(8192) + 8192;
        bytes[torn..].fill(0);
        std::io::Write::write_all(&mut fs::OpenOptions::new().write(true).open(&path).unwrap(), &bytes).unwrap();
        server.start().unwrap();
        server.psql("postgres", "insert into t values (2)").unwrap();
        let end = flushed(&server);
        let written = written(&server, end);
        let offset = usize::try_from(begin.as_bytes() - written.start.at.as_bytes()).unwrap();
        let page = offset.next_multiple_of(8192) + 8192;
        assert_eq!(written.bytes[page + 2] & 8, 8, "{major}: no page was overwritten");
        let (facts, scanner) = scan(&written, || 1000);
        assert_eq!(scanner.last_record_end(), Some(end));
        let last = facts.iter().rfind(|fact| matches!(fact.kind, WalFactKind::Commit { .. })).unwrap();
        assert!(last.start > begin);
        // Without the page's flag the same bytes are a torn record.
        let mut bytes = written.bytes.clone();
        bytes[page + 2] &= !8;
        let fault = WalScanner::new(written.start).feed(&bytes, &mut |_| {}).unwrap_err();
        assert!(matches!(fault.what, WalFaultKind::Continuation { found: 0, .. }), "{fault}");
    }
}

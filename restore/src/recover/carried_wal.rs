//! The WAL that a backup carries, read before a server does: where recovery takes it from there, no prefetcher sees it.
//!
//! Source: PostgreSQL `src/backend/access/transam/xlogrecovery.c` (`XLogFileReadAnyTLI`): a segment that the archive does not have is
//! read from `pg_wal`, from the newest timeline that has it.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::io::{self, Read};

use lifeboat_cli::exit_code::{Ending, Exit};
use lifeboat_postgres::{BackupLabel, ScanStart, WalFact, WalScanner};
use lifeboat_repository::log::records::BackupRecord;
use lifeboat_vocabulary::{Lsn, SegmentName, SegmentSize, WalPosition};

use crate::fetch::target_dir::TargetDir;
use crate::recover::decide::Decision;
use crate::target::coverage::segment_start;
use crate::target::prove::StopAt;
use crate::wal_fetch::plan::Mode;
use crate::wal_fetch::tablespaces::{CreatedTablespace, created};

/// Read at once, in **bytes**.
const STEP: usize = 1 << 20;
/// The longest `backup_label` that is read, in **bytes**.
const LABEL_MAX: u64 = 64 << 10;

/// What recovery reads of a backup's own WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CarriedWal {
    system_identifier: u64,
    segment: SegmentSize,
    start: WalPosition,
    stop: WalPosition,
    /// From where on the archive has all segments; `None` if it has none.
    archive: Option<Lsn>,
    /// Nothing is replayed that begins here or later.
    end: Option<Lsn>,
}

impl CarriedWal {
    /// As far as this restore needs it.
    pub(crate) fn of(decision: &Decision, segment: SegmentSize) -> Self {
        let record: &BackupRecord = &decision.row.record;
        // A standby goes on with what it has where no region answers.
        let plan = decision.fetch.as_ref().filter(|plan| plan.mode == Mode::Recovery);
        let legs = plan.map(|plan| plan.legs.as_slice()).unwrap_or_default();
        Self {
            system_identifier: record.pg.sysid,
            segment,
            start: record.start(),
            stop: record.stop(),
            archive: legs.first().map(|leg| leg.from),
            end: (decision.proof.stop == StopAt::Immediate).then(|| record.stop().lsn),
        }
    }

    /// Reads it, and returns the tablespaces that its replay creates.
    ///
    /// # Errors
    /// [`Ending::Damaged`] if it does not lead from the start to the stop, or to where the archive begins; whatever the operating
    /// system says.
    pub(crate) fn tablespaces(&self, target: &TargetDir) -> anyhow::Result<Vec<CreatedTablespace>> {
        let first = segment_start(self.start.lsn, self.segment);
        let begin = ScanStart {
            timeline: self.start.timeline,
            system_identifier: self.system_identifier,
            segment_size: self.segment,
            at: first,
        };
        let carried = self.carried(target);
        let (mut scanner, mut found) = (WalScanner::new(begin), Vec::new());
        let mut name = SegmentName::holding(self.start.timeline, first, self.segment);
        let why = loop {
            // A record may go on in the first segment that the archive has; what begins there, the prefetcher sees.
            let archived = self.archive.zip(name.start()).map(|(archive, start)| start.cmp(&archive));
            let is_archived = archived.is_some_and(Ordering::is_ge);
            if archived.is_some_and(Ordering::is_gt) || is_archived && name.start() == Some(first) {
                return Ok(found);
            }
            let scanned = match carried.get(&name.number) {
                Some(segment) => {
                    scanner.go_on_as(segment.timeline);
                    self.scan(target, *segment, &mut scanner, &mut found)?
                }
                None => Some(format!("{name} is not in it")),
            };
            match scanned {
                None => name = name.next(),
                Some(_) if is_archived => return Ok(found),
                Some(why) => break why,
            }
        };
        // Behind the stop there may be anything: a standby's last segment may have been another one before.
        if scanner.last_record_end().is_some_and(|end| end >= self.stop.lsn) { Ok(found) } else { Err(damaged(&why)) }
    }

    /// Compares where the backup says that it begins with where the server will begin. Whoever writes backups writes both.
    ///
    /// # Errors
    /// [`Ending::Damaged`] if they differ.
    pub(crate) fn check_label(&self, target: &TargetDir) -> anyhow::Result<()> {
        let label = target.read_small("backup_label", LABEL_MAX)?.unwrap_or_default();
        let label = BackupLabel::parse(&label).map_err(|error| damaged(&format!("backup_label: {error}")))?;
        if (label.timeline, label.start) == (self.start.timeline, self.start.lsn) {
            return Ok(());
        }
        let (start, timeline) = (label.start, label.timeline);
        Err(damaged(&format!(
            "its record says that it begins at {}, its backup_label at {start} on timeline {timeline}",
            self.start
        )))
    }

    /// The segments by number, as recovery takes them.
    fn carried(&self, target: &TargetDir) -> BTreeMap<u64, SegmentName> {
        let names = target.names("pg_wal").unwrap_or_default();
        let mut carried: BTreeMap<u64, SegmentName> = BTreeMap::new();
        let segments = names.iter().filter_map(|name| SegmentName::parse(name, self.segment).ok());
        for segment in segments.filter(|segment| segment.timeline <= self.stop.timeline) {
            let known = carried.entry(segment.number).or_insert(segment);
            if segment.timeline > known.timeline {
                *known = segment;
            }
        }
        carried
    }

    /// Reads a segment; returns where it is no WAL any more.
    fn scan(
        &self,
        target: &TargetDir,
        name: SegmentName,
        scanner: &mut WalScanner,
        tablespaces: &mut Vec<CreatedTablespace>,
    ) -> io::Result<Option<String>> {
        let mut file = target.open_to_read(&format!("pg_wal/{name}"))?;
        let mut found = |fact: &WalFact| {
            let is_replayed = self.end.is_none_or(|end| fact.start < end);
            let is_replayed = is_replayed && self.archive.is_none_or(|archive| fact.start < archive);
            tablespaces.extend(created(fact, self.start.lsn).filter(|_| is_replayed));
        };
        let mut bytes = vec![0; STEP];
        loop {
            let length = file.read(&mut bytes)?;
            if length == 0 {
                return Ok(None);
            }
            if let Err(fault) = scanner.feed(bytes.get(..length).unwrap_or_default(), &mut found) {
                return Ok(Some(format!("{name}: {fault}")));
            }
        }
    }
}

fn damaged(what: &str) -> anyhow::Error {
    let text = format!(
        "the WAL that the backup carries does not lead to where it is consistent: {what}. Choose another one with --backup"
    );
    Exit::error(Ending::Damaged, text)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use lifeboat_repository::backup::read::FileSink;
    use lifeboat_testkit::{PgServer, majors_under_test};
    use lifeboat_vocabulary::{EntryKind, FileEntry, RelativePath, TimelineId};

    use crate::fetch::beneath::PlannedPlace;
    use crate::fetch::target_dir::TargetPlaces;

    use super::*;

    /// A target with these segments.
    fn target(root: &Path, segments: &[(String, Vec<u8>)]) -> TargetDir {
        let root = PlannedPlace::of(root).unwrap();
        let places = TargetPlaces { root, tablespaces: BTreeMap::new(), owner: None, major: 17 };
        let target = TargetDir::prepare(&places).unwrap();
        for (name, content) in segments {
            let path = RelativePath::new(format!("pg_wal/{name}").as_bytes()).unwrap();
            let entry = FileEntry { path, kind: EntryKind::File, mode: 0o600, size: content.len() as u64, modified: 0 };
            let file = target.open(&entry).unwrap();
            file.write_at(content, 0).unwrap();
            target.complete(&entry, crc32c::crc32c(content), file).unwrap();
        }
        target
    }

    #[test]
    fn tablespaces_in_the_wal_of_a_backup_are_found_as_far_as_it_is_replayed() {
        for major in majors_under_test() {
            let server = PgServer::builder(major).wal_segsize_mb(1).start().unwrap();
            let at = || {
                server.psql("postgres", "SELECT pg_current_wal_insert_lsn()").unwrap().trim().parse::<Lsn>().unwrap()
            };
            let fill =
                "CREATE TABLE t AS SELECT repeat(md5(i::text), 30) FROM generate_series(1, 4000) i; DROP TABLE t";
            let fill = || fill.split("; ").for_each(|statement| drop(server.psql("postgres", statement).unwrap()));
            server.psql("postgres", "CHECKPOINT").unwrap();
            let start = at();
            fill();
            let before = at();
            let place = server.tablespace_dir("fast").unwrap().display().to_string();
            server.psql("postgres", &format!("CREATE TABLESPACE fast LOCATION '{place}'")).unwrap();
            let behind = at();
            fill();
            let stop = at();
            server.psql("postgres", "SELECT pg_switch_wal()").unwrap();
            let sysid = server.psql("postgres", "SELECT system_identifier FROM pg_control_system()").unwrap();
            let (one, segment) = (TimelineId::new(1).unwrap(), SegmentSize::from_bytes(1 << 20).unwrap());
            let number = |lsn| SegmentName::holding(one, lsn, segment).number;
            let names =
                (number(start)..=number(stop)).map(|number| SegmentName { timeline: one, number, size: segment });
            let read = |name: SegmentName| {
                let path = server.data_dir().join(format!("pg_wal/{name}"));
                (name.to_string(), std::fs::read(path).unwrap())
            };
            let segments: Vec<(String, Vec<u8>)> = names.map(read).collect();
            let all = CarriedWal {
                system_identifier: sysid.trim().parse().unwrap(),
                segment,
                start: WalPosition { timeline: one, lsn: start },
                stop: WalPosition { timeline: one, lsn: stop },
                archive: None,
                end: Some(stop),
            };
            let dir = tempfile::tempdir().unwrap();
            let whole = target(&dir.path().join("whole"), &segments);
            for (why, carried, expected) in [
                ("all of it", all, 1),
                ("what lies behind the stop, too", CarriedWal { end: None, ..all }, 1),
                ("the archive has the rest", CarriedWal { archive: Some(segment_start(stop, segment)), ..all }, 1),
                ("the archive has it", CarriedWal { archive: Some(segment_start(before, segment)), ..all }, 0),
                ("the archive has all", CarriedWal { archive: Some(segment_start(start, segment)), ..all }, 0),
                ("replay ends before", CarriedWal { end: Some(before), ..all }, 0),
                ("replay begins behind", CarriedWal { start: WalPosition { lsn: behind, ..all.start }, ..all }, 0),
            ] {
                let found = carried.tablespaces(&whole).unwrap();
                assert_eq!(found.len(), expected, "{why}, major {major}: {found:?}");
                assert!(
                    found.iter().all(|found| found.path == Path::new(&place) && found.at >= before),
                    "{why}: {found:?}"
                );
            }
            let mut lacking = segments.clone();
            lacking.remove(1);
            let mut broken = segments.clone();
            broken[1].1[30_000] ^= 1;
            let mut short = segments.clone();
            short.last_mut().unwrap().1.truncate(8192);
            for (why, segments, part) in [
                ("lacking", &lacking, "is not in it"),
                ("broken", &broken, &*segments[1].0),
                ("short", &short, "is not in it"),
            ] {
                let refused = all.tablespaces(&target(&dir.path().join(why), segments)).unwrap_err().to_string();
                assert!(refused.contains(part) && refused.contains("--backup"), "{why}, major {major}: {refused}");
            }
            let mut other_tail = segments.clone();
            let inside = usize::try_from(stop.as_bytes() % segment.as_bytes()).unwrap();
            other_tail.last_mut().unwrap().1[inside..].fill(7);
            let found = CarriedWal { end: None, ..all }.tablespaces(&target(&dir.path().join("tail"), &other_tail));
            assert_eq!(found.unwrap().len(), 1, "what lies behind the stop does no harm, major {major}");
        }
    }
}

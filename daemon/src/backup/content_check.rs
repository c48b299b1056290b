//! What a copy cannot start without, looked at while it comes by: `pg_control`, and the WAL from the backup's start to its
//! stop. The server reads the one without a lock while it may be written, and sends the other from files that it does not
//! check; a backup with a torn or damaged one looks whole and cannot be opened.
//!
//! Source: PostgreSQL `src/backend/backup/basebackup.c` (`perform_base_backup`): WAL segments come behind all other files, in
//! the order of their positions, from the segment of the start to that of the stop. After a change of the timeline a segment may
//! come twice, of the old timeline and of the new one, in any order; recovery reads it from the newest.

use anyhow::{Context, bail, ensure};
use lifeboat_postgres::{BackupStart, ControlFile, ScanStart, ServerFacts, SourceEvent, WalFault, WalScanner};
use lifeboat_vocabulary::{EntryKind, FileEntry, FileNumber, Lsn, SegmentName, SegmentSize, WalPosition};

const PG_CONTROL: &[u8] = b"global/pg_control";
/// Its size in bytes (`PG_CONTROL_FILE_SIZE`).
const PG_CONTROL_BYTES: usize = 8192;

/// What was found out so far.
pub(crate) struct ContentCheck {
    system_identifier: u64,
    segment: SegmentSize,
    start: WalPosition,
    control: Control,
    /// The segment that comes now.
    open: Option<(FileNumber, SegmentName, u64)>,
    wal: Option<Wal>,
}

enum Control {
    Awaited,
    Coming(FileNumber, Vec<u8>),
    Right,
}

/// The WAL that has come.
struct Wal {
    now: Scanned,
    /// Where the next segment has to begin.
    next: Lsn,
    /// The segment that was read last, or is read now, and what was known before it.
    last: Option<(SegmentName, Scanned)>,
    /// What comes now was read from a newer timeline before.
    is_passed_over: bool,
}

#[derive(Clone)]
struct Scanned {
    scanner: WalScanner,
    /// Where it is no WAL any more. Behind the stop of the backup that is no fault: a standby's last segment may have been
    /// another one before.
    fault: Option<WalFault>,
}

impl Wal {
    /// A segment begins: the next one, or the last one of another timeline.
    ///
    /// # Errors
    /// If it is neither.
    fn begin(&mut self, name: SegmentName, start: Lsn) -> anyhow::Result<()> {
        let again = self.last.take_if(|(last, _)| last.start() == Some(start));
        ensure!(
            self.next == start || again.is_some(),
            "the server sent the WAL segment {name}, where the one from {} on was to come: the backup could not be restored",
            self.next
        );
        self.is_passed_over = again.as_ref().is_some_and(|(last, _)| name.timeline <= last.timeline);
        if self.is_passed_over {
            self.last = again;
            return Ok(());
        }
        if let Some((_, before)) = again {
            self.now = before;
        }
        self.last = Some((name, self.now.clone()));
        self.now.scanner.go_on_as(name.timeline);
        Ok(())
    }

    fn data(&mut self, bytes: &[u8]) {
        if self.now.fault.is_none() && !self.is_passed_over {
            self.now.fault = self.now.scanner.feed(bytes, &mut |_| {}).err();
        }
    }
}

impl ContentCheck {
    /// For a backup that begins like this.
    ///
    /// # Errors
    /// If the server's segment size is none.
    pub(crate) fn new(start: &BackupStart, facts: &ServerFacts) -> anyhow::Result<Self> {
        let segment = segment_size(facts)?;
        let (start, system_identifier) = (start.position, facts.system_identifier);
        Ok(Self { system_identifier, segment, start, control: Control::Awaited, open: None, wal: None })
    }

    /// Looks at what comes by.
    ///
    /// # Errors
    /// If `pg_control` is torn, or not that of this cluster at this time; if WAL is missing, or not what the server wrote.
    pub(crate) fn see(&mut self, event: &SourceEvent) -> anyhow::Result<()> {
        match event {
            SourceEvent::FileBegin(number, entry) if entry.kind == EntryKind::File => self.begin(*number, entry),
            SourceEvent::Data { file, bytes, .. } => {
                self.data(*file, bytes);
                Ok(())
            }
            SourceEvent::FileEnd { file, .. } => self.end(*file),
            _ => Ok(()),
        }
    }

    fn begin(&mut self, number: FileNumber, entry: &FileEntry) -> anyhow::Result<()> {
        if entry.path.as_bytes() == PG_CONTROL {
            self.control = Control::Coming(number, Vec::with_capacity(PG_CONTROL_BYTES));
            return Ok(());
        }
        let name = entry.path.as_bytes().strip_prefix(b"pg_wal/").and_then(|name| std::str::from_utf8(name).ok());
        let Some(name) = name.and_then(|name| SegmentName::parse(name, self.segment).ok()) else { return Ok(()) };
        let first = name.start().with_context(|| format!("the server sent a segment {name}, which cannot be"))?;
        let at = SegmentName::holding(self.start.timeline, self.start.lsn, self.segment).start().unwrap_or(first);
        let begin = ScanStart {
            timeline: name.timeline,
            system_identifier: self.system_identifier,
            segment_size: self.segment,
            at,
        };
        let new = || {
            let now = Scanned { scanner: WalScanner::new(begin), fault: None };
            Wal { now, next: at, last: None, is_passed_over: false }
        };
        self.wal.get_or_insert_with(new).begin(name, first)?;
        self.open = Some((number, name, 0));
        Ok(())
    }

    fn data(&mut self, number: FileNumber, bytes: &[u8]) {
        if let Control::Coming(file, content) = &mut self.control
            && *file == number
        {
            let room = PG_CONTROL_BYTES.saturating_sub(content.len());
            content.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
        }
        if let (Some((file, _, seen)), Some(wal)) = (&mut self.open, &mut self.wal)
            && *file == number
        {
            *seen += bytes.len() as u64;
            wal.data(bytes);
        }
    }

    fn end(&mut self, number: FileNumber) -> anyhow::Result<()> {
        if matches!(&self.control, Control::Coming(file, _) if *file == number)
            && let Control::Coming(_, content) = std::mem::replace(&mut self.control, Control::Right)
        {
            self.control_file(&content)?;
        }
        if let Some((_, name, seen)) = self.open.take_if(|(file, _, _)| *file == number) {
            let size = self.segment.as_bytes();
            ensure!(seen == size, "the server sent {seen} bytes of the WAL segment {name}, which has {size}");
            if let Some(wal) = &mut self.wal {
                wal.next = name.next().start().with_context(|| format!("no segment can follow {name}"))?;
            }
        }
        Ok(())
    }

    fn control_file(&self, content: &[u8]) -> anyhow::Result<()> {
        let control = ControlFile::parse(content).context(
            "check global/pg_control: the server read it while it was written, or it is damaged; the backup could not be \
             started, so take another one",
        )?;
        let (found, expected) = (control.system_identifier, self.system_identifier);
        ensure!(found == expected, "global/pg_control is of the cluster {found}, this server is {expected}");
        ensure!(
            control.redo.lsn >= self.start.lsn,
            "global/pg_control is from before the backup: its checkpoint is at {}, the backup starts at {}",
            control.redo.lsn,
            self.start.lsn
        );
        Ok(())
    }

    /// Everything has come, and the copy is consistent at `stop`.
    ///
    /// # Errors
    /// If there was no `pg_control`, or the WAL does not lead there.
    pub(crate) fn finish(self, stop: WalPosition) -> anyhow::Result<()> {
        ensure!(matches!(self.control, Control::Right), "the server sent no global/pg_control");
        let Some(wal) = self.wal else { bail!("the server sent no WAL with the backup: it could not be restored") };
        let (start, stop) = (self.start.lsn, stop.lsn);
        match (wal.now.scanner.last_record_end(), wal.now.fault) {
            (Some(end), _) if end >= stop => Ok(()),
            (_, Some(fault)) => Err(anyhow::Error::new(fault).context(format!(
                "the WAL of the backup, from {start} to {stop}, is damaged: it could not be restored"
            ))),
            (end, None) => {
                let end = end.map_or_else(|| "nowhere".to_owned(), |end| end.to_string());
                bail!("the WAL that the server sent with the backup leads to {end}, and has to lead to {stop}")
            }
        }
    }
}

/// The size of the server's WAL segments.
///
/// # Errors
/// If it is none.
pub(crate) fn segment_size(facts: &ServerFacts) -> anyhow::Result<SegmentSize> {
    facts.setting("wal_segment_size").unwrap_or("16MB").parse().context("read wal_segment_size")
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use lifeboat_postgres::{BackupCheckpoint, BackupSource, BaseBackupOptions, ConnectionSettings, ReplicationSource};
    use lifeboat_testkit::{PgServer, majors_under_test};
    use lifeboat_vocabulary::RelativePath;

    use super::*;

    /// A backup as it came from a server.
    struct Recorded {
        start: BackupStart,
        facts: ServerFacts,
        events: Vec<SourceEvent>,
        stop: WalPosition,
    }

    /// A backup with WAL of several segments.
    async fn record(major: u32) -> Recorded {
        let server = PgServer::builder(major).wal_segsize_mb(1).start().unwrap();
        let options = BaseBackupOptions { label: "x".to_owned(), checkpoint: BackupCheckpoint::Fast, max_rate: None };
        let settings = ConnectionSettings::parse(&server.connection_string()).unwrap();
        let mut source = ReplicationSource::start(&settings, &options).await.unwrap();
        let facts = source.facts().clone();
        let SourceEvent::Started(start) = source.next().await.unwrap() else { panic!("no start") };
        // While it waits for us to read.
        let wal = "CREATE TABLE t AS SELECT repeat(md5(i::text), 30) FROM generate_series(1, 4000) i";
        server.psql("postgres", wal).unwrap();
        let mut events = Vec::new();
        loop {
            match source.next().await.unwrap() {
                SourceEvent::Finished(end) => return Recorded { start, facts, events, stop: end.position },
                event => events.push(event),
            }
        }
    }

    impl Recorded {
        fn check(&self, events: &[SourceEvent]) -> anyhow::Result<()> {
            let mut check = ContentCheck::new(&self.start, &self.facts)?;
            events.iter().try_for_each(|event| check.see(event))?;
            check.finish(self.stop)
        }

        fn number(&self, wanted: impl Fn(&str) -> bool) -> Vec<FileNumber> {
            let of = |event: &SourceEvent| match event {
                SourceEvent::FileBegin(number, entry) if wanted(&entry.path.to_string()) => Some(*number),
                _ => None,
            };
            self.events.iter().filter_map(of).collect()
        }

        fn segments(&self) -> Vec<FileNumber> {
            self.number(|path| path.starts_with("pg_wal/0") && path.len() == 31)
        }

        fn without(&self, gone: &[FileNumber]) -> Vec<SourceEvent> {
            let stays = |event: &&SourceEvent| match event {
                SourceEvent::FileBegin(file, _)
                | SourceEvent::FileEnd { file, .. }
                | SourceEvent::Data { file, .. } => !gone.contains(file),
                _ => true,
            };
            self.events.iter().filter(stays).cloned().collect()
        }

        /// With one bit of a file the other way round.
        fn flipped(&self, number: FileNumber, at: u64) -> Vec<SourceEvent> {
            let change = |event: &SourceEvent| match event {
                SourceEvent::Data { file, offset, bytes }
                    if *file == number && (*offset..offset + bytes.len() as u64).contains(&at) =>
                {
                    let mut content = bytes.to_vec();
                    content[usize::try_from(at - offset).unwrap()] ^= 1;
                    SourceEvent::Data { file: *file, offset: *offset, bytes: Bytes::from(content) }
                }
                other => other.clone(),
            };
            self.events.iter().map(change).collect()
        }
    }

    /// A segment of timeline 1, right before or behind itself on timeline 2, on which everything goes on.
    fn twice(events: &[SourceEvent], file: FileNumber, copy: &[SourceEvent], is_first: bool) -> Vec<SourceEvent> {
        let number = FileNumber(u32::MAX);
        let copied = copy.iter().filter_map(|event| match event {
            SourceEvent::FileBegin(of, entry) if *of == file => Some(SourceEvent::FileBegin(number, entry.clone())),
            SourceEvent::Data { file: of, offset, bytes } if *of == file => {
                Some(SourceEvent::Data { file: number, offset: *offset, bytes: bytes.clone() })
            }
            SourceEvent::FileEnd { file: of, size } if *of == file => {
                Some(SourceEvent::FileEnd { file: number, size: *size })
            }
            _ => None,
        });
        let copied: Vec<SourceEvent> = copied.collect();
        let is_begin = |event: &SourceEvent| matches!(event, SourceEvent::FileBegin(of, _) if *of == file);
        let is_end = |event: &SourceEvent| matches!(event, SourceEvent::FileEnd { file: of, .. } if *of == file);
        let at = events.iter().position(is_begin).unwrap();
        let behind = events.iter().position(is_end).unwrap() + 1;
        let mut all = events.to_vec();
        // What comes from here on is on the new timeline.
        for event in &mut all[at..] {
            if let SourceEvent::FileBegin(_, entry) = event
                && let Some(rest) = entry.path.to_string().strip_prefix("pg_wal/00000001")
            {
                entry.path = RelativePath::new(format!("pg_wal/00000002{rest}").as_bytes()).unwrap();
            }
        }
        let place = if is_first { at } else { behind };
        all.splice(place..place, copied);
        all
    }

    #[tokio::test]
    async fn a_segment_that_comes_of_two_timelines_is_read_from_the_newer() {
        let major = majors_under_test()[0];
        let whole = record(major).await;
        let segment = whole.segments()[1];
        let (fine, broken) = (&whole.events, whole.flipped(segment, 30_000));
        for (why, own, other, is_first, is_fine) in [
            ("the old one first", fine, fine, true, true),
            ("a damaged old one first", fine, &broken, true, true),
            ("a damaged old one behind", fine, &broken, false, true),
            ("a damaged new one, behind the old", &broken, fine, true, false),
            ("a damaged new one, before the old", &broken, fine, false, false),
        ] {
            let checked = whole.check(&twice(own, segment, other, is_first));
            assert_eq!(checked.is_ok(), is_fine, "{why}: {checked:?}");
        }
    }

    #[tokio::test]
    async fn a_backup_that_could_not_be_started_is_none() {
        for major in majors_under_test() {
            let whole = record(major).await;
            let (segments, control) = (whole.segments(), whole.number(|path| path == "global/pg_control"));
            let (&[first, second, .., last], &[control]) = (segments.as_slice(), control.as_slice()) else {
                panic!("{segments:?} {control:?}")
            };
            whole.check(&whole.events).unwrap();
            let inside = whole.start.position.lsn.as_bytes() % (1 << 20) + 64;
            for (why, events, part) in [
                ("a torn pg_control", whole.flipped(control, 100), "check global/pg_control"),
                ("no pg_control", whole.without(&[control]), "no global/pg_control"),
                ("a damaged record", whole.flipped(first, inside), "is damaged"),
                ("the last segment is missing", whole.without(&[last]), "has to lead to"),
                ("one between is missing", whole.without(&[second]), "was to come"),
                ("the first one is missing", whole.without(&[first]), "was to come"),
                ("none has come", whole.without(&segments), "sent no WAL"),
            ] {
                let error = format!("{:#}", whole.check(&events).expect_err(why));
                assert!(error.contains(part), "{why}, major {major}: {error}");
            }
            let mut stale = BackupStart { ..whole.start.clone() };
            stale.position.lsn = whole.stop.lsn;
            let mut stranger = whole.facts.clone();
            stranger.system_identifier = 7;
            for (start, facts, part) in
                [(&stale, &whole.facts, "from before the backup"), (&whole.start, &stranger, "this server is 7")]
            {
                let mut check = ContentCheck::new(start, facts).unwrap();
                let error = whole.events.iter().find_map(|event| check.see(event).err()).unwrap().to_string();
                assert!(error.contains(part), "major {major}: {error}");
            }
        }
    }
}

//! One file: read from the regions, checked as WAL, laid down complete.

use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use lifeboat_postgres::{ScanStart, WalFact, WalFactKind, WalScanner};
use lifeboat_repository::format::layout::WalRange;
use lifeboat_vocabulary::{Lsn, SegmentName};

use crate::target::wal_source::WalSource;
use crate::wal_fetch::segment_files::SegmentFiles;

/// WAL that is held in memory at once while a segment is fetched, in **bytes**: the unit of stored objects.
const STEP: u64 = 16 << 20;

/// A tablespace that a segment creates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CreatedTablespace {
    pub(crate) oid: u32,
    /// Its directory, as it was on the server that wrote the WAL.
    pub(crate) path: String,
    /// Where its record begins.
    pub(crate) at: Lsn,
}

/// A complete file.
#[derive(Clone, Debug)]
pub(crate) struct Fetched {
    /// Where it lies.
    pub(crate) path: PathBuf,
    /// Up to where it holds WAL.
    pub(crate) end: Lsn,
    /// The tablespaces that its replay creates.
    pub(crate) tablespaces: Vec<CreatedTablespace>,
}

/// Fetches files.
#[derive(Clone)]
pub(crate) struct Fetcher {
    source: Arc<dyn WalSource>,
    files: SegmentFiles,
    system_identifier: u64,
}

impl Fetcher {
    /// A fetcher for the cluster with this system identifier.
    #[must_use]
    pub(crate) fn new(source: Arc<dyn WalSource>, files: SegmentFiles, system_identifier: u64) -> Self {
        Self { source, files, system_identifier }
    }

    pub(crate) fn source(&self) -> &dyn WalSource {
        &*self.source
    }

    pub(crate) fn files(&self) -> &SegmentFiles {
        &self.files
    }

    /// The segment with WAL up to `end` and zeros behind. Tablespaces that are created before `replay_from` are not told:
    /// nobody replays that.
    pub(crate) async fn segment(
        &self,
        name: SegmentName,
        start: Lsn,
        end: Lsn,
        replay_from: Lsn,
    ) -> Result<Fetched, String> {
        let files = self.files.clone();
        let file_name = name.to_string();
        let begin = {
            let (files, file_name) = (files.clone(), file_name.clone());
            move || files.begin(&file_name, name.size.as_bytes()).map_err(|error| format!("write a segment: {error}"))
        };
        let file = blocking(begin).await?;
        let scan = ScanStart {
            timeline: name.timeline,
            system_identifier: self.system_identifier,
            segment_size: name.size,
            at: start,
        };
        let mut work = (WalScanner::new(scan), Vec::new(), file);
        let mut at = start;
        while at < end {
            let next = Lsn::from_bytes(at.as_bytes().saturating_add(STEP)).unwrap_or(end).min(end);
            let range = WalRange { timeline: name.timeline, start: at, end: next };
            let bytes = self.source.read(range).await.map_err(|error| error.to_string())?;
            let offset = at.as_bytes() - start.as_bytes();
            work = blocking(move || {
                let (mut scanner, mut tablespaces, file) = work;
                let mut found = |fact: &WalFact| tablespaces.extend(tablespace(fact, replay_from));
                scanner.feed(&bytes, &mut found).map_err(|fault| format!("{name} is not WAL: {fault}"))?;
                file.write_all_at(&bytes, offset).map_err(|error| format!("write a segment: {error}"))?;
                Ok((scanner, tablespaces, file))
            })
            .await?;
            at = next;
        }
        let (_, tablespaces, _) = work;
        let publish = move || files.publish(&file_name).map_err(|error| format!("write a segment: {error}"));
        Ok(Fetched { path: blocking(publish).await?, end, tablespaces })
    }

    /// A small file.
    pub(crate) async fn small(&self, name: &str, content: &[u8]) -> Result<PathBuf, String> {
        let (files, name, content) = (self.files.clone(), name.to_owned(), content.to_vec());
        let write = move || {
            files.begin(&name, content.len() as u64)?.write_all_at(&content, 0)?;
            files.publish(&name)
        };
        blocking(move || write().map_err(|error| format!("write a history file: {error}"))).await
    }
}

fn tablespace(fact: &WalFact, replay_from: Lsn) -> Option<CreatedTablespace> {
    match &fact.kind {
        WalFactKind::CreateTablespace { oid, path } if fact.start >= replay_from => {
            Some(CreatedTablespace { oid: *oid, path: path.clone(), at: fact.start })
        }
        _ => None,
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, String> + Send + 'static) -> Result<T, String> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(format!("work on a segment: {error}")),
    }
}

//! One file: read from the regions, checked as WAL, laid down complete.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use lifeboat_postgres::{ScanStart, WalFact, WalScanner};
use lifeboat_repository::format::layout::WalRange;
use lifeboat_vocabulary::Lsn;

use crate::target::wal_source::WalSource;
use crate::wal_fetch::seam::Seam;
use crate::wal_fetch::segment::{Fetched, Part};
use crate::wal_fetch::segment_files::SegmentFiles;
use crate::wal_fetch::tablespaces::{CreatedTablespace, created};

/// WAL that is held in memory at once while a segment is fetched, in **bytes**: the unit of stored objects.
const STEP: u64 = 16 << 20;

/// A segment that is being read.
struct Scan {
    scanner: WalScanner,
    tablespaces: Vec<CreatedTablespace>,
    /// Where it is laid down, if it is.
    file: Option<File>,
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

    /// The segment with WAL up to its end and zeros behind. Tablespaces that are created before `replay_from` are not told:
    /// nobody replays that.
    pub(crate) async fn segment(&self, part: Part, replay_from: Lsn) -> Result<Fetched, String> {
        let Part { name, start, end } = part;
        let files = self.files.clone();
        let file_name = name.to_string();
        let begin = {
            let (files, file_name) = (files.clone(), file_name.clone());
            move || files.begin(&file_name, name.size.as_bytes()).map_err(|error| format!("write a segment: {error}"))
        };
        let Scan { scanner, tablespaces, .. } = self.scan(part, replay_from, Some(blocking(begin).await?)).await?;
        let publish = move || files.publish(&file_name).map_err(|error| format!("write a segment: {error}"));
        Ok(Fetched { path: blocking(publish).await?, name, start, end, tablespaces, scanner })
    }

    /// The end of a segment that is not handed out itself.
    pub(crate) async fn seam(&self, part: Part) -> Result<Seam, String> {
        Ok(Seam::new(part.end, self.scan(part, part.end, None).await?.scanner))
    }

    async fn scan(&self, part: Part, replay_from: Lsn, file: Option<File>) -> Result<Scan, String> {
        let Part { name, start, end } = part;
        let begin = ScanStart {
            timeline: name.timeline,
            system_identifier: self.system_identifier,
            segment_size: name.size,
            at: start,
        };
        let mut work = Scan { scanner: WalScanner::new(begin), tablespaces: Vec::new(), file };
        let mut at = start;
        while at < end {
            let next = Lsn::from_bytes(at.as_bytes().saturating_add(STEP)).unwrap_or(end).min(end);
            let range = WalRange { timeline: name.timeline, start: at, end: next };
            let bytes = self.source.read(range).await.map_err(|error| error.to_string())?;
            let offset = at.as_bytes() - start.as_bytes();
            work = blocking(move || {
                let Scan { mut scanner, mut tablespaces, file } = work;
                let mut found = |fact: &WalFact| tablespaces.extend(created(fact, replay_from));
                scanner.feed(&bytes, &mut found).map_err(|fault| format!("{name} is not WAL: {fault}"))?;
                if let Some(file) = &file {
                    file.write_all_at(&bytes, offset).map_err(|error| format!("write a segment: {error}"))?;
                }
                Ok(Scan { scanner, tablespaces, file })
            })
            .await?;
            at = next;
        }
        Ok(work)
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

pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(format!("work on a segment: {error}")),
    }
}

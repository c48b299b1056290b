//! PostgreSQL's page checksums on the way through the workers, and the second look at pages that failed.

use lifeboat_postgres::{BackupSource, PAGE_BYTES, PageVerdict, SourceError, check_pages, is_relation, judge_reread};
use lifeboat_repository::backup::write::{Checked, FrameCheck, SuspectPage};
use lifeboat_vocabulary::{Lsn, RelativePath};

/// Who looks at the checksums of pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Judge {
    /// The workers.
    Workers,
    /// The server did, while it sent: the workers only count.
    Server,
}

/// Checks, or counts, every page of every relation file.
#[derive(Debug)]
pub(crate) struct PageCheck {
    /// Pages that were written after this position are repaired by the backup's own WAL.
    pub(crate) start: Lsn,
    /// Who looks at them.
    pub(crate) judge: Judge,
}

impl FrameCheck for PageCheck {
    fn check(&self, path: &RelativePath, offset: u64, bytes: &[u8]) -> Checked {
        if !is_relation(path) {
            return Checked::default();
        }
        let faults = match self.judge {
            Judge::Workers => check_pages(path, offset, bytes, self.start),
            Judge::Server => Vec::new(),
        };
        let place = |page: u64| usize::try_from(page.saturating_sub(offset)).ok();
        let suspects = faults.into_iter().filter_map(|fault| place(fault.offset)).map(|from| from..from + PAGE_BYTES);
        Checked { pages: (bytes.len() / PAGE_BYTES) as u64, suspects: suspects.collect() }
    }
}

/// A page that is damaged in the database itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DamagedPage {
    pub(crate) path: RelativePath,
    /// Where it stands in the file, in bytes.
    pub(crate) offset: u64,
}

/// Reads the suspects again and keeps those that are damaged: unchanged since, and still wrong. A page that has changed
/// was being written while it was read, and the backup's WAL has a full image of it.
///
/// # Errors
/// [`SourceError`] if the server does not answer any more.
pub(crate) async fn second_look(
    source: &mut dyn BackupSource,
    suspects: &[SuspectPage],
) -> Result<Vec<DamagedPage>, SourceError> {
    let mut damaged = Vec::new();
    for suspect in suspects {
        let again = source.reread_page(&suspect.path, suspect.offset).await?;
        // A file that is gone or was cut meanwhile: the WAL of the backup says so too.
        let verdict = again.map_or(PageVerdict::BeingWritten, |again| judge_reread(&suspect.page, &again));
        if verdict == PageVerdict::Damaged {
            damaged.push(DamagedPage { path: suspect.path.clone(), offset: suspect.offset });
        }
    }
    Ok(damaged)
}

//! PostgreSQL's page checksums on the way through the workers, and the second look at pages that failed.

use lifeboat_postgres::{BackupSource, PageVerdict, SourceError, check_pages, judge_reread};
use lifeboat_repository::{FrameCheck, SuspectPage};
use lifeboat_vocabulary::{Lsn, RelativePath};

/// Checks every page of every relation file.
#[derive(Debug)]
pub struct PageCheck {
    /// Pages that were written after this position are mended by the backup's own WAL.
    pub start: Lsn,
}

const PAGE: usize = 8192;

impl FrameCheck for PageCheck {
    fn suspects(&self, path: &RelativePath, offset: u64, bytes: &[u8]) -> Vec<std::ops::Range<usize>> {
        let found = check_pages(path, offset, bytes, self.start);
        let place = |page: u64| usize::try_from(page.saturating_sub(offset)).ok();
        found.into_iter().filter_map(|page| place(page.offset)).map(|from| from..from + PAGE).collect()
    }
}

/// Reads the suspects again and keeps those that are damaged: unchanged since, and still wrong. A page that has changed
/// was being written while it was read, and the backup's WAL has a full image of it.
///
/// # Errors
/// [`SourceError`] if the server does not answer any more.
pub async fn second_look(
    source: &mut dyn BackupSource,
    suspects: &[SuspectPage],
) -> Result<Vec<String>, SourceError> {
    let mut damaged = Vec::new();
    for suspect in suspects {
        let again = source.reread_page(&suspect.path, suspect.offset).await?;
        let verdict = again.map_or(PageVerdict::Damaged, |again| judge_reread(&suspect.page, &again));
        if verdict == PageVerdict::Damaged {
            damaged.push(format!("{} block at byte {}", suspect.path, suspect.offset));
        }
    }
    Ok(damaged)
}

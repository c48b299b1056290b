//! Makes the base backups that continuous WAL needs: a first one, and one behind every gap.

use std::sync::Arc;
use std::time::Duration;

use lifeboat_repository::WalGapRecord;
use lifeboat_vocabulary::WalPosition;
use tokio_util::sync::CancellationToken;

use super::shared::Shared;

const PAUSE_MIN: Duration = Duration::from_secs(10);
const PAUSE_MAX: Duration = Duration::from_secs(600);

/// Makes one base backup.
#[async_trait::async_trait]
pub trait BackupMaker: Send + Sync {
    /// Makes it, or says why there is none that counts.
    async fn make(&self, stop: &CancellationToken) -> anyhow::Result<()>;
}

/// Why a base backup is needed before recovery can reach the present; `None` if the newest one will do.
///
/// `newest` is the start of the newest good backup, `gaps` those that no region fills. A gap on another timeline is
/// behind a backup that was made on a later one.
#[must_use]
pub fn needed<'a>(newest: Option<WalPosition>, gaps: impl IntoIterator<Item = &'a WalGapRecord>) -> Option<String> {
    let Some(newest) = newest else { return Some("there is no base backup yet".to_owned()) };
    let behind = |gap: &&WalGapRecord| {
        let end = gap.to.unwrap_or(gap.from);
        gap.timeline > newest.timeline || gap.timeline == newest.timeline && end > newest.lsn
    };
    gaps.into_iter().find(behind).map(ToString::to_string)
}

/// Carries out orders until it is told to stop. A backup that fails is tried again, with longer pauses each time.
pub async fn keep(shared: Arc<Shared>, maker: Arc<dyn BackupMaker>, stop: CancellationToken) {
    let mut pause = PAUSE_MIN;
    while !stop.is_cancelled() {
        let why = tokio::select! {
            () = stop.cancelled() => break,
            why = shared.wait_for_order() => why,
        };
        tracing::info!(cluster = %shared.cluster(), why, "a base backup begins");
        match maker.make(&stop).await {
            Ok(()) => {
                tracing::info!(cluster = %shared.cluster(), "the base backup is done");
                shared.carried_out(&why);
                pause = PAUSE_MIN;
            }
            Err(_) if stop.is_cancelled() => break,
            Err(error) => {
                let error = format!("{error:#}");
                tracing::warn!(cluster = %shared.cluster(), error, pause = ?pause, "no base backup; it is tried again");
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = tokio::time::sleep(pause) => {}
                }
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    use lifeboat_repository::{GapReason, GapScope};
    use lifeboat_vocabulary::{Lsn, SystemClock, TimelineId};

    fn at(timeline: u32, lsn: u64) -> WalPosition {
        WalPosition { timeline: TimelineId::new(timeline).unwrap(), lsn: Lsn::from_bytes(lsn).unwrap() }
    }

    fn gap(from: WalPosition, to: Option<u64>) -> WalGapRecord {
        let to = to.and_then(Lsn::from_bytes);
        let (reason, scope) = (GapReason::SegmentRemoved, GapScope::Everywhere);
        WalGapRecord { timeline: from.timeline, from: from.lsn, to, reason, scope }
    }

    #[test]
    fn a_backup_is_needed_when_there_is_none_or_a_gap_came_after_it() {
        for (why, newest, gaps, expected) in [
            ("none at all", None, vec![], true),
            ("no gap", Some(at(1, 100)), vec![], false),
            ("the gap is behind it", Some(at(1, 100)), vec![gap(at(1, 10), Some(90))], false),
            ("the gap came later", Some(at(1, 100)), vec![gap(at(1, 10), Some(90)), gap(at(1, 150), Some(160))], true),
            ("the backup began in the gap", Some(at(1, 100)), vec![gap(at(1, 90), Some(160))], true),
            ("a gap without an end", Some(at(1, 100)), vec![gap(at(1, 150), None)], true),
            ("a gap on a later timeline", Some(at(1, 100)), vec![gap(at(2, 20), Some(30))], true),
            ("a gap on an earlier timeline", Some(at(2, 100)), vec![gap(at(1, 500), Some(600))], false),
        ] {
            assert_eq!(needed(newest, &gaps).is_some(), expected, "{why}");
        }
    }

    struct FailsTwice(AtomicU32);

    #[async_trait::async_trait]
    impl BackupMaker for FailsTwice {
        async fn make(&self, _: &CancellationToken) -> anyhow::Result<()> {
            match self.0.fetch_add(1, Ordering::SeqCst) {
                0 | 1 => anyhow::bail!("no"),
                _ => Ok(()),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_order_is_repeated_until_it_is_carried_out() {
        let shared = Arc::new(Shared::new("main".parse().unwrap(), 1, Arc::new(SystemClock)));
        let maker = Arc::new(FailsTwice(AtomicU32::new(0)));
        let stop = CancellationToken::new();
        let work = tokio::spawn(keep(Arc::clone(&shared), Arc::<FailsTwice>::clone(&maker), stop.clone()));
        shared.order_backup("a gap".to_owned());
        let waited = tokio::time::Instant::now();
        while shared.ordered().is_some() {
            assert!(waited.elapsed() < Duration::from_secs(3600));
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert_eq!(maker.0.load(Ordering::SeqCst), 3);
        assert!(waited.elapsed() >= PAUSE_MIN * 3, "10 s, then 20 s");
        stop.cancel();
        work.await.unwrap();
    }
}

//! The archive of a cluster's WAL, over all regions: what there is, and its bytes.

mod evidence;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use bytes::Bytes;
use lifeboat_cli::access::{Keys, Repository, open_region, region_settings};
use lifeboat_cli::place::PlaceArgs;
use lifeboat_postgres::TimelineHistory;
use lifeboat_repository::catalog::{CatalogRow, RegionAnswer};
use lifeboat_repository::format::layout::WalRange;
use lifeboat_repository::log::records::{BackupRecord, GapScope, Integrity};
use lifeboat_repository::log::{KeyStanding, LogTrust, RegionLog, RegionStore, Signers};
use lifeboat_repository::wal::read::{HistoryRead, WalRead, WalReader, WalRegion, WalTrouble};
use lifeboat_repository::wal::{GapAsTold, PieceSize, WalTrust};
use lifeboat_vocabulary::{BackupId, Lsn, RegionName, SegmentSize, TimelineId, WalPosition};
use tokio::time::Instant;

use crate::target::coverage::{Coverage, segment_start};
use crate::target::timeline_tree::TimelineTree;
use crate::target::wal_plan::{ArchiveView, BackupPoint};
use crate::target::wal_source::{Extent, SourceError, WalSource};

/// How often the repository is asked for again while no region answers.
const RETRY: Duration = Duration::from_secs(2);

/// Whether WAL was ever written beside the backups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeysForWal {
    OnRecord,
    None,
}

/// Reads WAL from all regions that were not given up.
pub(crate) struct Archive {
    reader: WalReader,
    regions: Vec<ArchiveRegion>,
    segment: SegmentSize,
    system_identifier: u64,
}

struct ArchiveRegion {
    store: RegionStore,
    /// `None` and why not, if the log could not be read.
    log: Result<(RegionLog, LogTrust), String>,
}

/// What is stored of a timeline.
struct Stored {
    coverage: Coverage,
    /// What is on record as missing in all regions.
    gaps: Vec<(Lsn, Lsn)>,
    troubles: Vec<WalTrouble>,
}

/// What an archive holds.
#[derive(Clone, Debug)]
pub(crate) struct Inventory {
    /// For planning.
    pub(crate) view: ArchiveView,
    /// Regions that could not be asked, and why.
    pub(crate) unanswered: Vec<(RegionName, String)>,
}

impl Archive {
    /// The archive of a repository that was read, without the regions in `without`, for backups and WAL with segments of this size.
    ///
    /// # Errors
    /// If a name in `without` is no region, or no region is left.
    pub(crate) async fn new(
        place: &PlaceArgs,
        repository: &Repository,
        keys: &Keys,
        without: &[RegionName],
        segment: SegmentSize,
    ) -> anyhow::Result<Self> {
        let descriptor = repository.descriptor()?;
        let regions = archive_regions(place, repository, without).await?;
        let wal_regions = regions.iter().map(|region| WalRegion {
            store: region.store.clone(),
            log: region.log.as_ref().ok().map(|(log, _)| log.clone()),
        });
        let mut signers = Signers::root_only(descriptor.root);
        regions
            .iter()
            .filter_map(|region| region.log.as_ref().ok())
            .for_each(|(log, _)| signers.merge(&log.trust().signers));
        let trust = LogTrust { repository: descriptor.repo, signers, region: None, remembered: None };
        let reader =
            WalReader::new(WalTrust::of(&trust), keys.openers(), wal_regions.collect(), PieceSize::of(segment));
        Ok(Self { reader, regions, segment, system_identifier: descriptor.sysid })
    }

    /// The same for a prefetcher: as long as no region answers, it is asked again.
    ///
    /// # Errors
    /// If the keys cannot be read, or nothing has answered for as long as `patience`.
    pub(crate) async fn open_patiently(
        place: &PlaceArgs,
        without: &[RegionName],
        segment: SegmentSize,
        patience: Duration,
    ) -> anyhow::Result<Self> {
        let keys = Keys::load(place)?;
        let begun = Instant::now();
        loop {
            let opened = async {
                let repository = Repository::open_without(place, without).await?;
                Self::new(place, &repository, &keys, without, segment).await
            };
            match opened.await {
                Ok(archive) => return Ok(archive),
                Err(error) if begun.elapsed() > patience => return Err(error),
                Err(error) => tracing::warn!("the repository cannot be read yet: {error:#}"),
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// The cluster's segment size.
    #[must_use]
    pub(crate) fn segment(&self) -> SegmentSize {
        self.segment
    }

    /// The cluster's system identifier.
    #[must_use]
    pub(crate) fn system_identifier(&self) -> u64 {
        self.system_identifier
    }

    /// Lists everything that a restore could use. With `fixed`, a backup that does not count as good may be used too.
    ///
    /// # Errors
    /// If a history file is damaged in a way that only a wrong program makes.
    pub(crate) async fn inventory(
        &self,
        repository: &Repository,
        fixed: Option<&BackupId>,
    ) -> anyhow::Result<Inventory> {
        let backups: Vec<BackupPoint> =
            repository.catalog.rows().iter().filter(|row| self.can_use(row, fixed)).map(point).collect();
        let mut unanswered: Vec<(RegionName, String)> = Vec::new();
        for region in &self.regions {
            if let Err(why) = &region.log {
                note(&mut unanswered, &region.store.name, why);
            }
        }
        // Before the WAL is listed: what a writer that is at work says must not lie behind what was listed.
        let heads = self.heads(&mut unanswered).await;
        let histories = self.reader.histories().await;
        histories.troubles.iter().for_each(|trouble| note(&mut unanswered, &trouble.region, &trouble.what));
        let parsed = histories.found.iter().map(|(timeline, content)| {
            TimelineHistory::parse(*timeline, content)
                .with_context(|| format!("read the history of timeline {timeline}"))
        });
        let tree = TimelineTree::new(parsed.collect::<anyhow::Result<Vec<_>>>()?);
        let mut timelines: Vec<TimelineId> = histories.found.keys().chain(&histories.missing).copied().collect();
        timelines.extend(TimelineId::new(1));
        let (mut coverage, mut gaps) = (BTreeMap::new(), BTreeMap::new());
        if let Some(oldest) = backups.iter().map(|backup| backup.start.lsn).min() {
            let from = segment_start(oldest, self.segment);
            for timeline in timelines {
                let stored = self.stored(WalPosition { timeline, lsn: from }).await;
                stored.troubles.iter().for_each(|trouble| note(&mut unanswered, &trouble.region, &trouble.what));
                coverage.insert(timeline, stored.coverage);
                gaps.insert(timeline, stored.gaps);
            }
        }
        let mut behind_holes = BTreeMap::new();
        for (timeline, stored) in &coverage {
            let gaps = gaps.get(timeline).map_or(&[][..], Vec::as_slice);
            behind_holes.extend(self.behind_holes(*timeline, stored, gaps, &mut unanswered).await);
        }
        let view = ArchiveView { segment: self.segment, tree, coverage, gaps, behind_holes, backups, heads };
        Ok(Inventory { view, unanswered })
    }

    /// Whether a backup can be used, that of this name also if it does not count as good.
    fn can_use(&self, row: &CatalogRow, fixed: Option<&BackupId>) -> bool {
        let fits = fixed == Some(&row.record.backup) || row.record.integrity() == Integrity::Intact;
        let has_these_segments = segment_size(&row.record).is_ok_and(|size| size == self.segment);
        fits && has_these_segments && !row.is_disputed() && row.holders().next().is_some()
    }

    /// Whether a region that was read has a key for WAL on record.
    pub(crate) fn keys_for_wal(&self) -> KeysForWal {
        let mut logs = self.regions.iter().filter_map(|region| region.log.as_ref().ok());
        match logs.any(|(log, _)| log.wal_epochs().next().is_some()) {
            true => KeysForWal::OnRecord,
            false => KeysForWal::None,
        }
    }

    async fn stored(&self, from: WalPosition) -> Stored {
        let survey = self.reader.list(from, None).await;
        let ranges = survey.map.coverage(from.timeline).into_iter().map(|range| (range.start, range.end));
        let stored = Coverage::of(ranges);
        let logs = self.regions.iter().filter_map(|region| region.log.as_ref().ok());
        // What one region lacks says nothing of the others.
        let counts = |told: &GapAsTold| told.gap.timeline == from.timeline && told.gap.scope == GapScope::Everywhere;
        let gaps = logs.flat_map(|(log, _)| log.gaps_as_told()).filter(counts);
        let mut cut = BTreeSet::new();
        for GapAsTold { gap, standing } in gaps {
            let Some(to) = gap.to else { continue };
            if !gap.reason.is_overruled_by_wal() && standing == KeyStanding::InForce {
                // What stands on both sides does not belong together, even where bytes of it are stored. Whoever stole a key
                // may have said so too; once it is revoked, what is stored and verified counts.
                cut.insert((gap.from, to));
            } else {
                cut.extend(self.unreadable(&stored, from.timeline, (gap.from, to)).await);
            }
        }
        let coverage = stored.without(cut.iter().copied());
        Stored { coverage, gaps: cut.into_iter().collect(), troubles: survey.troubles }
    }

    /// The parts of a gap that are listed as stored and cannot be read: a name alone does not fill a gap that was put on
    /// record, what is verified does.
    async fn unreadable(&self, stored: &Coverage, timeline: TimelineId, gap: (Lsn, Lsn)) -> Vec<(Lsn, Lsn)> {
        let mut unreadable = Vec::new();
        for (start, end) in stored.within(gap) {
            let pieces = PieceSize::of(self.segment).cut(WalRange { timeline, start, end });
            for part in pieces {
                if !matches!(self.reader.read(part).await, WalRead::Found(_)) {
                    tracing::warn!(%timeline, from = %part.start, to = %part.end, "WAL within a recorded gap is listed, and cannot be read");
                    unreadable.push((part.start, part.end));
                }
            }
        }
        unreadable
    }
}

fn note(unanswered: &mut Vec<(RegionName, String)>, region: &RegionName, why: &str) {
    if !unanswered.iter().any(|(known, _)| known == region) {
        unanswered.push((region.clone(), why.to_owned()));
    }
}

fn point(row: &CatalogRow) -> BackupPoint {
    let record = &row.record;
    let (start, stop) = (record.start(), record.stop());
    BackupPoint { id: record.backup.clone(), start, stop, stop_time: record.stop_time }
}

/// The size of WAL segments of the cluster that a backup was made of.
///
/// # Errors
/// If PostgreSQL has no segments of such a size.
pub(crate) fn segment_size(record: &BackupRecord) -> anyhow::Result<SegmentSize> {
    let size = SegmentSize::from_bytes(u64::from(record.pg.wal_segment_bytes));
    size.with_context(|| format!("use the segment size of backup {}", record.backup))
}

/// All regions but those that were given up: also those that did not answer so far, because they may later.
async fn archive_regions(
    place: &PlaceArgs,
    repository: &Repository,
    without: &[RegionName],
) -> anyhow::Result<Vec<ArchiveRegion>> {
    let descriptor = repository.descriptor()?;
    let settings = region_settings(place)?;
    for name in without {
        let known: Vec<&str> = repository.views.iter().map(|view| view.name.as_str()).collect();
        let is_known = known.contains(&name.as_str()) || settings.iter().any(|settings| settings.name == *name);
        anyhow::ensure!(is_known, "--without-region {name}: the regions are {}", known.join(", "));
    }
    let mut regions = Vec::new();
    for (view, settings) in repository.views.iter().zip(&settings) {
        // On the command line a region has the name of its log, or a number while that cannot be read.
        if without.contains(&view.name) || without.contains(&settings.name) {
            continue;
        }
        match &view.answer {
            // Another repository's WAL is none of ours; the catalog has said so.
            RegionAnswer::Read { descriptor: other, .. } if **other != *descriptor => {}
            RegionAnswer::Read { log, .. } => {
                let Some(store) = repository.regions.iter().find(|region| region.name == view.name) else { continue };
                let trust = log.trust().clone();
                regions.push(ArchiveRegion { store: store.clone(), log: Ok((RegionLog::clone(log), trust)) });
            }
            RegionAnswer::Unreadable { why } => match open_region(settings, &repository.cluster).await {
                Ok(store) => regions.push(ArchiveRegion { store, log: Err(why.clone()) }),
                Err(error) => anyhow::bail!(
                    "region {} cannot be opened ({error:#}); restore without it by --without-region {}",
                    view.name,
                    view.name
                ),
            },
        }
    }
    anyhow::ensure!(!regions.is_empty(), "no region is left to read WAL from");
    Ok(regions)
}

fn troubles(troubles: &[WalTrouble]) -> SourceError {
    SourceError { what: troubles.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ") }
}

#[async_trait]
impl WalSource for Archive {
    async fn read(&self, range: WalRange) -> Result<Bytes, SourceError> {
        let missing = |from: Lsn| SourceError {
            what: format!("no region has the WAL from {from} on timeline {} any more", range.timeline),
        };
        match self.reader.read(range).await {
            WalRead::Found(bytes) => Ok(bytes),
            WalRead::Beginning { bytes, .. } => {
                let length = lifeboat_vocabulary::ByteCount::from_bytes(bytes.len() as u64);
                Err(missing(range.start.advanced_by(length).unwrap_or(range.start)))
            }
            WalRead::NotThere { .. } => Err(missing(range.start)),
            WalRead::Undetermined(found) => Err(troubles(&found)),
        }
    }

    async fn history(&self, timeline: TimelineId) -> Result<Option<Bytes>, SourceError> {
        match self.reader.history(timeline).await {
            HistoryRead::Found(content) => Ok(Some(content)),
            HistoryRead::NotThere => Ok(None),
            HistoryRead::Undetermined(found) => Err(troubles(&found)),
        }
    }

    async fn extent(&self, timeline: TimelineId, from: Lsn, until: Lsn) -> Extent {
        let position = WalPosition { timeline, lsn: from };
        let survey = self.reader.list(position, Some(until)).await;
        let end = survey.map.contiguous_end(position).min(until);
        let unanswered = (!survey.troubles.is_empty() && end < until).then(|| troubles(&survey.troubles));
        Extent { end: (end > from).then_some(end), unanswered }
    }
}

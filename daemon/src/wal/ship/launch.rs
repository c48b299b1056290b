//! The start of the shipper: what lies in the spool, what the regions say, and where the stream has to begin.

use std::sync::Arc;

use anyhow::{Context, ensure};
use lifeboat_repository::format::layout::{StoredName, WalForm, WalRange};
use lifeboat_repository::log::RegionStore;
use lifeboat_repository::wal::WalObject;
use lifeboat_vocabulary::{ByteCount, Clock, WalPosition, counted};
use tokio::time::Instant;

use crate::wal::ship::context::ShipContext;
use crate::wal::ship::entry::{Answer, pieces_until};
use crate::wal::ship::notice::Notice;
use crate::wal::ship::pending::What;
use crate::wal::ship::piece::CutPolicy;
use crate::wal::ship::positions::{ResumePoint, on_latest_timeline};
use crate::wal::ship::settings::{ANSWER_PATIENCE, ShipSettings};
use crate::wal::ship::spool::{Spool, SpoolFile, SpoolName};
use crate::wal::ship::state::{Bounds, Found, ShipState};
use crate::wal::ship::uploader::RegionUploader;

/// Less memory, or less spool, does not hold enough pieces to work with.
const BYTES_MIN: ByteCount = ByteCount::from_mib(64);

/// What was found, region by region.
pub(crate) struct Beginning {
    spooled: Vec<WalObject>,
    /// `None` for regions that have not answered.
    found: Vec<Option<Answered>>,
}

/// What a region has.
struct Answered {
    objects: Vec<WalObject>,
    gaps: Vec<WalRange>,
}

/// Opens the spool and lays its content on the state.
pub(crate) async fn open(
    settings: ShipSettings,
    regions: &[RegionStore],
    clock: Arc<dyn Clock>,
) -> anyhow::Result<(Arc<ShipContext>, Beginning)> {
    let quorum = settings.wal_quorum;
    let all = counted(regions.len() as u64, "region", "regions");
    ensure!((1..=regions.len()).contains(&quorum), "{quorum} of {all} cannot be a quorum");
    ensure!(settings.memory >= BYTES_MIN, "WAL needs {BYTES_MIN} of memory, not {}", settings.memory);
    ensure!(settings.spool_limit >= BYTES_MIN, "the spool needs {BYTES_MIN}, not {}", settings.spool_limit);
    let (spool, files) = Spool::open(&settings.spool_directory, settings.spool_limit, clock.now()).await?;
    let instance = spool.instance(&settings.spool_directory).await.context("name this installation")?;
    // A quarter is left for what is read back from the spool.
    let bounds = Bounds { memory: settings.memory.as_bytes() / 4 * 3, wal_quorum: quorum };
    let policy = CutPolicy { mode: settings.mode, flush_interval: settings.flush_interval };
    let names = regions.iter().map(|region| region.name.clone()).collect();
    let mut ship_state = ShipState::new(names, bounds, policy);
    for file in files {
        if let Some(what) = read(&spool, &file).await? {
            ship_state.reloaded(what, file, Instant::now());
        }
    }
    let spooled = ship_state.waiting_objects();
    let found = regions.iter().map(|_| None).collect();
    let ship = ShipContext::new(settings, spool, instance, clock, ship_state);
    Ok((Arc::new(ship), Beginning { spooled, found }))
}

async fn read(spool: &Spool, file: &SpoolFile) -> anyhow::Result<Option<What>> {
    let name = match &file.name {
        SpoolName::Object(name) => name,
        SpoolName::Notice => {
            let notice = match spool.read(file).await {
                Ok(body) => Notice::parse(&body.bytes).context("read a notice"),
                Err(error) => Err(error.into()),
            };
            return match notice {
                Ok(notice) => Ok(Some(What::Notice(Arc::new(notice)))),
                Err(error) => {
                    let (error, sequence) = (format!("{error:#}"), file.sequence);
                    tracing::warn!(sequence, error, "a notice in the spool is lost");
                    spool.remove(file).await?;
                    Ok(None)
                }
            };
        }
    };
    let object = match name {
        StoredName::WalSegment(range) => WalObject::new(WalForm::Piece, *range),
        StoredName::WalSlice(range) => WalObject::new(WalForm::Slice, *range),
        StoredName::TimelineHistory { timeline } => return Ok(Some(What::History(*timeline))),
        _ => None,
    };
    Ok(object.map(What::Wal))
}

/// Asks a region, but not for longer than the start may take.
pub(crate) async fn ask(mut uploader: RegionUploader) -> (RegionUploader, anyhow::Result<Answer>) {
    let answer = match tokio::time::timeout(ANSWER_PATIENCE, uploader.ask()).await {
        Ok(answer) => answer,
        Err(_) => Err(anyhow::anyhow!("no answer within {ANSWER_PATIENCE:?}")),
    };
    (uploader, answer)
}

impl Beginning {
    /// A region has answered.
    pub(crate) fn answered(&mut self, region: usize, found: &Found) {
        if let Some(known) = self.found.get_mut(region) {
            *known = Some(Answered {
                objects: found.objects.clone(),
                gaps: found.gaps.iter().copied().chain(found.losses.iter().map(|(range, _)| *range)).collect(),
            });
        }
    }

    /// Where the stream has to begin, once all answers lie on the state.
    pub(crate) fn resume(&self, ship_state: &mut ShipState) -> Option<ResumePoint> {
        let in_order = |at: &WalPosition| (at.timeline, at.lsn);
        let pieces = |safe, known: &[WalObject], gaps: &[WalRange]| {
            let objects: Vec<_> = known.iter().chain(&self.spooled).copied().collect();
            (safe, pieces_until(safe, &objects, gaps))
        };
        let mut points = Vec::new();
        for (region, answered) in self.found.iter().enumerate() {
            let Some((Answered { objects, gaps }, safe)) = answered.as_ref().zip(ship_state.safe(region)) else {
                continue;
            };
            let point = pieces(safe, objects, gaps);
            ship_state.lacks_pieces_from(region, point.1);
            points.push(point);
        }
        let ends = self.spooled.iter().map(|object| object.range);
        let ends = ends.map(|range| WalPosition { timeline: range.timeline, lsn: range.end });
        let spool = ends.max_by_key(in_order).map(|end| pieces(end, &[], &[]));
        let highest = points.iter().chain(&spool).map(|(safe, _)| *safe).max_by_key(in_order)?;
        let seen = self.found.iter().flatten().flat_map(|answered| &answered.objects).chain(&self.spooled);
        let starts = seen.map(|object| WalPosition { timeline: object.range.timeline, lsn: object.range.start });
        // A head is some seconds old, so what was stored last need not follow it yet.
        let highest = on_latest_timeline(highest, starts);
        if points.is_empty() {
            points.extend(spool);
        }
        Some(ResumePoint {
            position: points.iter().map(|(safe, _)| *safe).min_by_key(in_order)?,
            pieces: points.iter().map(|(_, pieces)| *pieces).min_by_key(in_order)?,
            quorum: ship_state.quorum(),
            highest,
            unknown: ship_state.regions_without_wal(),
        })
    }
}

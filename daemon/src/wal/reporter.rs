//! Watches one cluster's positions: keeps the commit clock, decides what is wrong, and tells how it stands.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lifeboat_vocabulary::{ByteCount, UtcTime, WalPosition};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::base::alarms::board::{Alarm, AlarmBoard, RaisedAlarm, Source, SourceKind, Wrongs};
use crate::model::facts::ClusterFacts;
use crate::model::wal_status::{AlarmStatus, HolderStatus, WalStatus};
use crate::wal::shared::{QUORUM, ReceiverState, Shared};
use crate::wal::ship::positions::{Positions, RegionPosition, UploadState};
use crate::wal::ship::shipper::Shipper;
use crate::wal::slot_watch::SlotOutlook;

/// How long something may be away before it is reported.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a region may lag behind before it is reported.
const LAG_PATIENCE: Duration = Duration::from_secs(300);

/// What the reporter is set to.
#[derive(Clone, Debug)]
pub(crate) struct ReporterSettings {
    /// The objective for the age of the oldest commit that the quorum lacks.
    pub(crate) rpo: Duration,
    /// Regions in the quorum.
    pub(crate) wal_quorum: usize,
    /// What the spool may hold.
    pub(crate) spool_limit: ByteCount,
}

/// Reports on one cluster.
pub(crate) struct Reporter {
    /// How it is set.
    pub(crate) settings: ReporterSettings,
    /// What the other tasks know.
    pub(crate) shared: Arc<Shared>,
    pub(crate) shipper: Arc<Shipper>,
    /// What the server keeps for us.
    pub(crate) outlook: Arc<SlotOutlook>,
    pub(crate) board: Arc<AlarmBoard>,
    /// Where the state is reported.
    pub(crate) facts: Arc<ClusterFacts>,
}

impl Reporter {
    /// Reports until it is told to stop.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut positions = self.shipper.watch();
        let mut second = tokio::time::interval(Duration::from_secs(1));
        second.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let source = Source::of(self.shared.cluster(), SourceKind::Wal);
        let mut behind_since = BTreeMap::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Ok(()) = positions.changed() => self.note(&positions.borrow_and_update()),
                _ = second.tick() => {
                    let now = positions.borrow().clone();
                    lagging(&now, &mut behind_since);
                    self.board.report(&source, self.wrong(&now, &behind_since));
                    self.facts.wal(self.status(&now));
                }
            }
        }
    }

    /// What became durable just now.
    fn note(&self, positions: &Positions) {
        if let Some(quorum) = positions.quorum {
            self.shared.durable(QUORUM, quorum);
        }
        for (index, region) in positions.regions.iter().enumerate() {
            if let Some(durable) = region.durable {
                self.shared.durable(index + 1, durable);
            }
        }
    }

    fn wrong(&self, positions: &Positions, behind_since: &BTreeMap<usize, Instant>) -> Wrongs {
        let mut wrong = Wrongs::default();
        self.wrong_receiver(&self.shared.receiver(), &mut wrong);
        if let Some(why) = self.shared.wanted_backup() {
            wrong.add(
                Alarm::WalGap,
                format!("{why}; until the base backup that is ordered is there, recovery cannot cross it"),
            );
        }
        let (exposure, ..) = self.shared.exposure(QUORUM);
        if exposure > self.settings.rpo {
            let text = format!(
                "commits of the last {:.0} s are not in {} region(s): they would be lost with the host; the objective is {:.0} s",
                exposure.as_secs_f64(),
                self.settings.wal_quorum,
                self.settings.rpo.as_secs_f64()
            );
            wrong.add(Alarm::WalRpo, text);
        }
        if let Some(text) = self.outlook.warning() {
            wrong.add(Alarm::WalSlotAtRisk, text);
        }
        for (index, region) in positions.regions.iter().enumerate() {
            wrong_region(region, behind_since.get(&index).copied(), &mut wrong);
            if let Some(what) = &region.unverified {
                let name = &region.region;
                let text = format!(
                    "region {name} holds an object under a name of WAL that none of this repository's keys signed ({what}): \
                     somebody else may create objects there. It counts for nothing, and WAL goes on beside it"
                );
                wrong.add(Alarm::WalUnverified.of_region(name), text);
            }
        }
        wrong
    }

    fn wrong_receiver(&self, receiver: &ReceiverState, wrong: &mut Wrongs) {
        if let Some(why) = &receiver.refused {
            wrong.add(Alarm::WalServerRefused, why.clone());
        }
        if let Some(why) = &receiver.damaged {
            wrong.add(Alarm::WalDamaged, why.clone());
        }
        if let Some((since, why)) = &receiver.waiting
            && receiver.refused.is_none()
            && receiver.full.is_none()
            && since.elapsed() > PATIENCE
        {
            wrong.add(Alarm::WalDisconnected, format!("no WAL for {} s: {why}", since.elapsed().as_secs()));
        }
        if receiver.full.is_some() {
            let outlook = self.outlook.in_words();
            let text = format!(
                "the spool of {} is full because a region is away; the server keeps the WAL now. {outlook}",
                self.settings.spool_limit
            );
            wrong.add(Alarm::WalSpoolFull, text);
        }
    }

    fn status(&self, positions: &Positions) -> WalStatus {
        let receiver = self.shared.receiver();
        let holder = |number: usize, durable: Option<WalPosition>, state: String| {
            let (exposure, [p50, p99, longest], commits) = self.shared.exposure(number);
            HolderStatus {
                durable: durable.map(|position| position.lsn.to_string()),
                timeline: durable.map(|position| position.timeline.get()),
                complete_until: durable.and_then(|at| self.shipper.complete_until(at)).map(|time| time.to_string()),
                lag_bytes: lag(positions, durable),
                exposure_seconds: exposure.as_secs_f64(),
                commits,
                latency_p50: p50.as_secs_f64(),
                latency_p99: p99.as_secs_f64(),
                latency_max: longest.as_secs_f64(),
                state,
            }
        };
        let regions = positions.regions.iter().enumerate();
        let regions = regions.map(|(index, region)| {
            (region.region.to_string(), holder(index + 1, region.durable, state_in_words(&region.state)))
        });
        let now = self.shared.now();
        let ended = receiver.ended.map(|ended| now.as_unix_micros().saturating_sub_unsigned(micros(ended.elapsed())));
        WalStatus {
            cluster: self.shared.cluster().to_string(),
            time: now.to_string(),
            pid: std::process::id(),
            host: receiver.host.clone(),
            waiting: receiver.waiting.map(|(_, why)| why),
            stream_ended: ended.and_then(UtcTime::from_unix_micros).map(|ended| ended.to_string()),
            timeline: positions.timeline.map(|timeline| timeline.get()),
            received: positions.received.map(|lsn| lsn.to_string()),
            confirmed: positions.confirmed.map(|position| position.lsn.to_string()),
            spool_bytes: positions.spool_bytes.as_bytes(),
            spool_limit_bytes: self.settings.spool_limit.as_bytes(),
            wal_quorum: self.settings.wal_quorum,
            quorum: holder(QUORUM, positions.quorum, String::new()),
            regions: regions.collect(),
            rpo_objective_seconds: self.settings.rpo.as_secs_f64(),
            alarms: self.board.raised(Some(self.shared.cluster())).into_iter().map(alarm_status).collect(),
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn alarm_status(raised: RaisedAlarm) -> AlarmStatus {
    AlarmStatus { alarm: raised.id.to_string(), since: raised.since.to_string(), text: raised.text }
}

/// Since when each region has been catching up.
fn lagging(positions: &Positions, since: &mut BTreeMap<usize, Instant>) {
    for (index, region) in positions.regions.iter().enumerate() {
        match region.state {
            UploadState::Current => {
                since.remove(&index);
            }
            _ => {
                since.entry(index).or_insert_with(Instant::now);
            }
        }
    }
}

fn wrong_region(region: &RegionPosition, since: Option<Instant>, wrong: &mut Wrongs) {
    let name = &region.region;
    let long = |patience| since.is_some_and(|since| since.elapsed() > patience);
    if let Some(other) = &region.contested {
        let text = format!(
            "another daemon wants to ship WAL into region {name} ({other}), and is kept out as long as this one is at work; stop \
             one of the two"
        );
        wrong.add(Alarm::WalConflict.of_region(name), text);
    }
    match &region.state {
        UploadState::Conflict { what } => {
            let text = format!(
                "region {name} holds other WAL than this server's: {what}. Another cluster writes into the same place; \
                 nothing more is written there. Find the other writer before anything else"
            );
            wrong.add(Alarm::WalConflict.of_region(name), text);
        }
        UploadState::Leased { holder } if long(PATIENCE) => {
            let text = format!("another daemon ships WAL into region {name} ({holder}); stop one of the two");
            wrong.add(Alarm::WalConflict.of_region(name), text);
        }
        UploadState::Away { why, .. } if long(PATIENCE) => {
            wrong.add(Alarm::WalRegion.of_region(name), format!("region {name} takes no WAL: {why}"));
        }
        UploadState::Unknown { why } if long(PATIENCE) => {
            let why = why.as_deref().unwrap_or("it has not answered yet");
            wrong.add(Alarm::WalRegion.of_region(name), format!("region {name} takes no WAL: {why}"));
        }
        UploadState::Behind { bytes } if long(LAG_PATIENCE) => {
            wrong.add(
                Alarm::WalRegion.of_region(name),
                format!("region {name} lags behind by {bytes} and does not catch up"),
            );
        }
        _ => {}
    }
}

/// A region's state in a few words.
fn state_in_words(state: &UploadState) -> String {
    match state {
        UploadState::Current => "current".to_owned(),
        UploadState::Behind { bytes } => format!("catching up, {bytes} to go"),
        UploadState::Away { since, why } => format!("away since {since}: {why}"),
        UploadState::Unknown { why } => {
            why.as_ref().map_or_else(|| "not asked yet".to_owned(), |why| format!("unknown: {why}"))
        }
        UploadState::Leased { holder } => format!("held by another daemon: {holder}"),
        UploadState::Conflict { what } => format!("CONFLICT: {what}"),
    }
}

/// WAL that was received and that a holder lacks.
fn lag(positions: &Positions, durable: Option<WalPosition>) -> u64 {
    let (Some(received), Some(durable)) = (positions.received, durable) else { return 0 };
    if positions.timeline != Some(durable.timeline) {
        return 0;
    }
    received.bytes_since(durable.lsn).map_or(0, ByteCount::as_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lifeboat_vocabulary::{Clock, SystemClock};

    fn region(state: UploadState) -> RegionPosition {
        RegionPosition { region: "r".parse().unwrap(), durable: None, state, unverified: None, contested: None }
    }

    #[tokio::test(start_paused = true)]
    async fn a_region_is_reported_when_it_stays_away_and_at_once_when_somebody_else_writes_there() {
        let since = Instant::now();
        let away = || UploadState::Away { since: SystemClock.now(), why: "no route".to_owned() };
        let told = |state: UploadState, since| {
            let mut wrong = Wrongs::default();
            wrong_region(&region(state), since, &mut wrong);
            wrong.iter().next().map(|(alarm, _)| alarm.to_string())
        };
        assert_eq!(told(away(), Some(since)), None, "a short absence is nobody's business");
        let conflict = told(UploadState::Conflict { what: "x".to_owned() }, Some(since));
        assert_eq!(conflict.as_deref(), Some("wal-conflict/r"));
        tokio::time::advance(Duration::from_secs(31)).await;
        assert_eq!(told(away(), Some(since)).as_deref(), Some("wal-region/r"));
        let behind = || UploadState::Behind { bytes: ByteCount::from_mib(1) };
        assert_eq!(told(behind(), Some(since)), None);
        tokio::time::advance(Duration::from_secs(300)).await;
        assert_eq!(told(behind(), Some(since)).as_deref(), Some("wal-region/r"));
        assert_eq!(told(UploadState::Current, None), None);
    }
}

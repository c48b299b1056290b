//! What the server keeps for us, and how long it can: a backup tool must not fill the disk that it protects.

use std::sync::Arc;
use std::time::Duration;

use lifeboat_postgres::{ConnectionSettings, Purpose, Session, SlotName, WalStreamError, server_wal, slot_status};
use lifeboat_vocabulary::{ByteCount, Lsn};
use parking_lot::Mutex;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::wal::ship::shipper::Shipper;

/// How often the server is asked.
const EVERY: Duration = Duration::from_secs(15);
/// An alarm is raised when the room would last for less than this.
const HORIZON: Duration = Duration::from_secs(6 * 3600);
/// Below this much WAL kept, nobody needs to hear of it.
const KEPT_MIN: ByteCount = ByteCount::from_mib(256);
/// How much one new measurement of the rate counts.
const WEIGHT: f64 = 0.2;

/// What is known about the server's room for WAL. Empty until the server was asked.
#[derive(Debug, Default)]
pub(crate) struct SlotOutlook(Mutex<Option<Outlook>>);

/// One look at it.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Outlook {
    /// WAL that the slot holds back.
    kept: ByteCount,
    /// Until the slot is invalidated, or the disk is full; `None` if the server does not say.
    room: Option<Room>,
    /// WAL per second.
    rate: f64,
}

/// How much more WAL the server can keep, and what happens then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Room {
    Slot(ByteCount),
    Disk(ByteCount),
}

impl Outlook {
    fn time_left(&self) -> Option<Duration> {
        let (Room::Slot(bytes) | Room::Disk(bytes)) = self.room?;
        if self.rate < 1.0 {
            return None;
        }
        Some(Duration::from_secs_f64((bytes.as_bytes() as f64 / self.rate).min(1e9)))
    }
}

impl SlotOutlook {
    /// What to raise an alarm about.
    #[must_use]
    pub(crate) fn warning(&self) -> Option<String> {
        let outlook = (*self.0.lock())?;
        if outlook.kept < KEPT_MIN || outlook.time_left().is_none_or(|left| left > HORIZON) {
            return None;
        }
        Some(in_words(&outlook))
    }

    /// How it stands, in a sentence.
    #[must_use]
    pub(crate) fn in_words(&self) -> String {
        match &*self.0.lock() {
            Some(outlook) => in_words(outlook),
            None => "How long the server has room is not known: it could not be asked".to_owned(),
        }
    }
}

fn in_words(outlook: &Outlook) -> String {
    let kept = outlook.kept;
    let Some(room) = outlook.room else {
        return format!(
            "The slot holds back {kept} of WAL, without limit: max_slot_wal_keep_size is not set, and how full the \
             server's disk is cannot be seen from here"
        );
    };
    let (bytes, then) = match room {
        Room::Slot(bytes) => (bytes, "then the slot is invalidated and WAL is lost"),
        Room::Disk(bytes) => (bytes, "then its disk is full and the server stops"),
    };
    match outlook.time_left() {
        Some(left) => format!(
            "The slot holds back {kept} of WAL; at this rate the server has room for {} ({bytes}), {then}",
            span(left)
        ),
        None => format!("The slot holds back {kept} of WAL; the server has room for {bytes}, {then}"),
    }
}

fn span(left: Duration) -> String {
    match left.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds @ 7200..172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

/// Asks the server every few seconds, until it is told to stop.
pub(crate) async fn watch(
    connection: ConnectionSettings,
    slot: SlotName,
    outlook: Arc<SlotOutlook>,
    shipper: Arc<Shipper>,
    stop: CancellationToken,
) {
    let mut timer = tokio::time::interval(EVERY);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut session: Option<Session> = None;
    let mut last: Option<(Instant, u64)> = None;
    let mut rate = 0.0;
    while !stop.is_cancelled() {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = timer.tick() => {}
        }
        match ask(&connection, &slot, &mut session).await {
            Ok(None) => {}
            Ok(Some(answer)) => {
                let end = answer.end.as_bytes();
                if let Some((when, before)) = last {
                    let seconds = when.elapsed().as_secs_f64().max(0.001);
                    let now = end.saturating_sub(before) as f64 / seconds;
                    rate = rate * (1.0 - WEIGHT) + now * WEIGHT;
                }
                last = Some((Instant::now(), end));
                *outlook.0.lock() = Some(look(&answer, &shipper, rate));
            }
            Err(error) => {
                tracing::debug!(%error, "the server's room for WAL is not known");
                session = None;
            }
        }
    }
    if let Some(session) = session {
        session.close().await;
    }
}

/// What the server said.
struct Answer {
    end: Lsn,
    restart: Option<Lsn>,
    room: Option<Room>,
}

async fn ask(
    connection: &ConnectionSettings,
    slot: &SlotName,
    session: &mut Option<Session>,
) -> Result<Option<Answer>, WalStreamError> {
    let mut open = match session.take() {
        Some(open) => open,
        None => Session::connect(connection, Purpose::Sql)
            .await
            .map_err(|source| WalStreamError::Session { doing: "connect to the server", source })?,
    };
    let status = slot_status(&mut open, slot).await?;
    let server = server_wal(&mut open, "").await?;
    let safe = status.as_ref().and_then(|status| status.safe_wal_size);
    let safe = safe.map(|bytes| Room::Slot(ByteCount::from_bytes(u64::try_from(bytes).unwrap_or(0))));
    let room = match safe {
        None => disk(&mut open).await.map(Room::Disk),
        limited => limited,
    };
    *session = Some(open);
    let restart = status.and_then(|status| status.restart);
    Ok(server.end.map(|end| Answer { end, restart, room }))
}

fn look(answer: &Answer, shipper: &Shipper, rate: f64) -> Outlook {
    let confirmed = shipper.positions().confirmed.map(|position| position.lsn);
    let from = answer.restart.or(confirmed);
    let kept = from.and_then(|from| answer.end.bytes_since(from)).unwrap_or(ByteCount::ZERO);
    Outlook { kept, room: answer.room, rate }
}

/// Free space for the server's WAL, if the server runs on this host and the role may know where its directory is.
async fn disk(session: &mut Session) -> Option<ByteCount> {
    if !session.host().starts_with('/') {
        return None;
    }
    // Not SHOW: to a role without pg_read_all_settings that is an error, and a line in the server's log every time.
    let sql = "SELECT setting FROM pg_catalog.pg_settings WHERE name OPERATOR(pg_catalog.=) 'data_directory'";
    let directory = session.query_one_text(sql).await.ok()??;
    let space = rustix::fs::statvfs(std::path::Path::new(&directory).join("pg_wal")).ok()?;
    Some(ByteCount::from_bytes(space.f_bavail.saturating_mul(space.f_frsize)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alarm_tells_the_time_until_the_limit() {
        let told = |kept, room, rate| {
            let outlook = SlotOutlook(Mutex::new(Some(Outlook { kept: ByteCount::from_mib(kept), room, rate })));
            outlook.warning()
        };
        let mib = ByteCount::from_mib;
        assert_eq!(told(1, Some(Room::Slot(mib(1))), 1e9), None, "little is kept");
        assert_eq!(told(9000, Some(Room::Slot(mib(1 << 20))), 1.0), None, "it lasts for years");
        assert_eq!(told(9000, None, 1e9), None, "nobody knows");
        let slot = told(9000, Some(Room::Slot(mib(600))), 1_048_576.0).unwrap();
        assert!(slot.contains("room for 10 min") && slot.contains("slot is invalidated"), "{slot}");
        let disk = told(9000, Some(Room::Disk(mib(60))), 1_048_576.0).unwrap();
        assert!(disk.contains("room for 60 s") && disk.contains("disk is full"), "{disk}");
        assert!(SlotOutlook::default().in_words().contains("not known"));
    }
}

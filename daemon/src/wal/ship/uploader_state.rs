//! How one region is doing. Pure.

use std::time::Duration;

use lifeboat_vocabulary::{ByteCount, RegionName, UtcTime, WalPosition};
use tokio::time::Instant;

use crate::wal::ship::pending::Lacking;
use crate::wal::ship::positions::UploadState;

/// A region whose oldest object has waited for longer is behind.
const BEHIND_AFTER: Duration = Duration::from_secs(5);

/// Whether the region has told what it has.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Asked {
    NotYet { why: Option<String> },
    Known,
}

/// What is known of a region besides how far it is.
#[derive(Clone, Debug)]
pub(crate) struct UploaderState {
    pub(crate) name: RegionName,
    asked: Asked,
    /// Since when it takes nothing, and why.
    away: Option<(UtcTime, String)>,
    leased: Option<String>,
    conflict: Option<String>,
    /// Who else asks for the lease, which is ours.
    pub(crate) contested: Option<String>,
    /// The first object under a name of WAL that is not ours.
    unverified: Option<String>,
    /// Where it began to lack whole pieces at the start.
    pub(crate) pieces: Option<WalPosition>,
}

impl UploaderState {
    pub(crate) fn new(name: RegionName) -> Self {
        let asked = Asked::NotYet { why: None };
        Self { name, asked, away: None, leased: None, conflict: None, contested: None, unverified: None, pieces: None }
    }

    pub(crate) fn known(&mut self) {
        self.asked = Asked::Known;
    }

    /// It could not be asked.
    pub(crate) fn unanswered(&mut self, why: String) {
        if let Asked::NotYet { why: known } = &mut self.asked {
            *known = Some(why);
        }
    }

    pub(crate) fn is_known(&self) -> bool {
        self.asked == Asked::Known
    }

    pub(crate) fn refused(&mut self, now: UtcTime, why: String) {
        let since = self.away.as_ref().map_or(now, |(since, _)| *since);
        self.away = Some((since, why));
    }

    pub(crate) fn took_something(&mut self) {
        self.away = None;
    }

    pub(crate) fn lease(&mut self, other: Option<String>) {
        self.leased = other;
    }

    pub(crate) fn conflict(&mut self, what: String) {
        self.conflict = Some(what);
    }

    /// Something lies under a name of WAL that is not ours. The first stays until a start finds none.
    pub(crate) fn unverified(&mut self, what: String) {
        self.unverified.get_or_insert(what);
    }

    pub(crate) fn unverified_object(&self) -> Option<String> {
        self.unverified.clone()
    }

    /// Whether the lease is ours, as far as we know.
    pub(crate) fn holds_lease(&self) -> bool {
        self.is_known() && self.leased.is_none()
    }

    /// Whether WAL may be written there.
    pub(crate) fn may_write(&self) -> bool {
        self.holds_lease() && self.conflict.is_none()
    }

    /// Whether it gets things as they are made.
    pub(crate) fn is_prompt(&self, lacking: Lacking, now: Instant) -> bool {
        self.may_write() && self.away.is_none() && !is_behind(lacking, now)
    }

    pub(crate) fn state(&self, lacking: Lacking, now: Instant) -> UploadState {
        match (&self.conflict, &self.leased, &self.asked, &self.away) {
            (Some(what), ..) => UploadState::Conflict { what: what.clone() },
            (_, Some(holder), ..) => UploadState::Leased { holder: holder.clone() },
            (.., Asked::NotYet { why }, _) => UploadState::Unknown { why: why.clone() },
            (.., Some((since, why))) => UploadState::Away { since: *since, why: why.clone() },
            _ if is_behind(lacking, now) => UploadState::Behind { bytes: ByteCount::from_bytes(lacking.bytes) },
            _ => UploadState::Current,
        }
    }
}

fn is_behind(lacking: Lacking, now: Instant) -> bool {
    lacking.since.is_some_and(|since| now.saturating_duration_since(since) > BEHIND_AFTER)
}

//! How far the scrub of one region has come, and how fast it has to go. Pure: what outlives a restart.
//!
//! A round goes through all objects in the byte order of their keys, and round follows upon round. So what comes next is
//! always what was verified longest ago, and one key is all that has to be remembered.

use std::time::Duration;

use lifeboat_stores::ObjectKey;
use lifeboat_vocabulary::{ByteCount, UtcTime};
use serde::{Deserialize, Serialize};

use crate::format::json_text::{as_optional_text, as_text};

/// Marks of a round at the most: so precise is the age of the oldest proof, as a part of the period.
const MARKS: u32 = 128;
/// A round is to take this part of the period, in percent: the rest is for regions that are away for a while.
const ROUND_PERCENT: u32 = 80;
/// Slower than this, in **bytes per second**, a rate makes no sense: small repositories are done early, and rest.
const RATE_MIN: u64 = 64 << 10;

/// At this time everything up to this key had been verified.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Mark {
    #[serde(with = "as_text")]
    key: ObjectKey,
    #[serde(with = "as_text")]
    time: UtcTime,
}

/// One time through everything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Round {
    #[serde(with = "as_text")]
    began: UtcTime,
    marks: Vec<Mark>,
    objects: u64,
    bytes: u64,
    damaged: u64,
}

impl Round {
    fn beginning(began: UtcTime) -> Self {
        Self { began, marks: Vec::new(), objects: 0, bytes: 0, damaged: 0 }
    }
}

/// How far the scrub of one region has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubState {
    /// The last object that was verified, or found damaged, in this round.
    #[serde(with = "as_optional_text", default, skip_serializing_if = "Option::is_none")]
    after: Option<ObjectKey>,
    round: Round,
    /// The round before, once there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    before: Option<Round>,
    /// Whether the round is over, and the next one not due.
    #[serde(default)]
    resting: bool,
    /// When presence was last checked.
    #[serde(with = "as_optional_text", default, skip_serializing_if = "Option::is_none")]
    listed: Option<UtcTime>,
    /// Bytes in the region when it was listed last.
    #[serde(default)]
    stored: u64,
    /// The place of the log from which on its notes are to be compared.
    #[serde(default)]
    compared: u64,
}

impl ScrubState {
    /// Nothing was ever verified.
    #[must_use]
    pub fn new(now: UtcTime) -> Self {
        let round = Round::beginning(now);
        Self { after: None, round, before: None, resting: false, listed: None, stored: 0, compared: 0 }
    }

    /// Leaves out what is dated later than `now`: the clock was ahead then, and nobody knows how old it is. To be called before
    /// anything is decided: a round from the future would not be followed by another one for as long as that lasts.
    pub fn forget_future(&mut self, now: UtcTime) {
        self.listed = self.listed.filter(|listed| *listed <= now);
        self.before = self.before.take().filter(|before| before.began <= now);
        for round in self.before.iter_mut().chain([&mut self.round]) {
            round.marks.retain(|mark| mark.time <= now);
        }
        if self.round.began > now {
            // What was read in it was read; a rest begins nowhere, so the next round is due.
            self.round.began = now;
            if self.resting {
                (self.round, self.after, self.resting) = (Round::beginning(now), None, false);
            }
        }
    }

    /// Where to go on.
    #[must_use]
    pub fn after(&self) -> Option<&ObjectKey> {
        self.after.as_ref()
    }

    /// Whether there is something to read now. Begins the next round when it is due.
    pub fn is_due(&mut self, period: Duration, now: UtcTime) -> bool {
        if self.resting && now.since(self.round.began) >= share(period) {
            let ended = std::mem::replace(&mut self.round, Round::beginning(now));
            (self.before, self.after, self.resting) = (Some(ended), None, false);
        }
        !self.resting
    }

    /// An object was looked at.
    pub fn verified(&mut self, key: &ObjectKey, bytes: ByteCount, period: Duration, now: UtcTime) {
        self.round.objects += 1;
        self.round.bytes = self.round.bytes.saturating_add(bytes.as_bytes());
        self.after = Some(key.clone());
        let last = self.round.marks.last().map_or(self.round.began, |mark| mark.time);
        if now.since(last) >= period / MARKS && self.round.marks.len() < 4 * MARKS as usize {
            self.round.marks.push(Mark { key: key.clone(), time: now });
        }
    }

    /// One of the objects of this round was damaged.
    pub fn damaged(&mut self) {
        self.round.damaged += 1;
    }

    /// Everything was looked at.
    pub fn finish(&mut self) {
        self.resting = true;
    }

    /// The place of the log from which on its notes are to be compared.
    #[must_use]
    pub fn to_compare(&self) -> u64 {
        self.compared
    }

    /// The notes of the log before this place were compared; before all of them, if it is `None`.
    pub fn was_compared(&mut self, next: Option<u64>) {
        self.compared = next.unwrap_or(0);
    }

    /// Presence was checked.
    pub fn was_listed(&mut self, stored: ByteCount, now: UtcTime) {
        (self.listed, self.stored) = (Some(now), stored.as_bytes());
    }

    /// How long ago presence was checked; `None` for never.
    #[must_use]
    pub fn listed_ago(&self, now: UtcTime) -> Option<Duration> {
        self.listed.map(|listed| now.since(listed))
    }

    /// Objects of this round, their bytes, and how many of them were damaged.
    #[must_use]
    pub fn so_far(&self) -> (u64, ByteCount, u64) {
        (self.round.objects, ByteCount::from_bytes(self.round.bytes), self.round.damaged)
    }

    /// Bytes in the region, as far as is known.
    #[must_use]
    pub fn stored(&self) -> ByteCount {
        let before = self.before.as_ref().map_or(0, |round| round.bytes);
        ByteCount::from_bytes(self.stored.max(before).max(self.round.bytes))
    }

    /// The longest that any object has gone without proof, at the most: the age that must not exceed the period. An object
    /// that was stored since counts from when it was passed over.
    #[must_use]
    pub fn oldest(&self, now: UtcTime) -> Duration {
        let verified = match (&self.before, &self.after) {
            // While the round rests, its own first object is the oldest; in the first round ever, nothing was verified.
            _ if self.resting => self.round.began,
            (None, _) => self.round.began,
            (Some(before), None) => before.began,
            (Some(before), Some(after)) => {
                let passed = before.marks.iter().take_while(|mark| mark.key <= *after).last();
                passed.map_or(before.began, |mark| mark.time)
            }
        };
        now.since(verified)
    }

    /// How fast to read, in **bytes per second**: everything within the round, but never faster than `bound`.
    #[must_use]
    pub fn rate(&self, period: Duration, bound: Option<ByteCount>) -> ByteCount {
        let per_second = self.stored().as_bytes() / share(period).as_secs().max(1);
        let rate = ByteCount::from_bytes(per_second.max(RATE_MIN));
        bound.map_or(rate, |bound| rate.min(bound))
    }
}

fn share(period: Duration) -> Duration {
    period * ROUND_PERCENT / 100
}

#[cfg(test)]
mod tests;

//! How far the scrub of one region has come, and how fast it has to go. Pure: what outlives a restart.
//!
//! A round goes through all objects in the byte order of their keys, and round follows upon round. So what comes next is
//! always what was verified longest ago, and one key is all that has to be remembered.

use std::collections::BTreeMap;
use std::time::Duration;

use lifeboat_stores::ObjectKey;
use lifeboat_vocabulary::{ByteCount, UtcTime, counted};
use serde::{Deserialize, Serialize};

use crate::format::json_text::{as_optional_text, as_text};
use crate::heal::faults::SILENT;

/// Marks of a round at the most: so precise is the age of the oldest proof, as a part of the period.
const MARKS: u32 = 128;
/// A round is to take this part of the period, in percent: the rest is for regions that are away for a while.
const ROUND_PERCENT: u32 = 80;
/// Slower than this, in **bytes per second**, a rate makes no sense: small repositories are done early, and rest.
const RATE_MIN: u64 = 64 << 10;
/// An object that gives no answer is tried so often before the round goes on without it.
const TRIES: u32 = 3;
/// Objects without an answer that are remembered; more are reported once these can be read.
const UNREAD_MAX: usize = 1000;

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

/// An object that could not be read, and that the round has passed over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct PassedOver {
    /// When it was passed over first.
    #[serde(with = "as_text")]
    since: UtcTime,
    /// And last.
    #[serde(with = "as_text")]
    last: UtcTime,
    why: String,
}

/// Where the round stands still.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stuck {
    #[serde(with = "as_text")]
    key: ObjectKey,
    tries: u32,
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
    /// What that listing could not read, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    listed_unread: Option<String>,
    /// What the rounds have passed over and not read since, by key.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    unread: BTreeMap<String, PassedOver>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stuck: Option<Stuck>,
    /// Objects without an answer that were passed over one after the other.
    #[serde(default)]
    silent: u32,
    /// The place of the log from which on its notes are to be compared.
    #[serde(default)]
    compared: u64,
    /// When all of them were compared last.
    #[serde(with = "as_optional_text", default, skip_serializing_if = "Option::is_none")]
    compared_at: Option<UtcTime>,
}

impl ScrubState {
    /// Nothing was ever verified.
    #[must_use]
    pub fn new(now: UtcTime) -> Self {
        let round = Round::beginning(now);
        Self {
            after: None,
            round,
            before: None,
            resting: false,
            listed: None,
            stored: 0,
            listed_unread: None,
            unread: BTreeMap::new(),
            stuck: None,
            silent: 0,
            compared: 0,
            compared_at: None,
        }
    }

    /// Leaves out what is dated later than `now`: the clock was ahead then, and nobody knows how old it is. To be called before
    /// anything is decided: a round from the future would not be followed by another one for as long as that lasts.
    pub fn forget_future(&mut self, now: UtcTime) {
        self.listed = self.listed.filter(|listed| *listed <= now);
        self.compared_at = self.compared_at.filter(|compared| *compared <= now);
        self.before = self.before.take().filter(|before| before.began <= now);
        for passed in self.unread.values_mut() {
            (passed.since, passed.last) = (passed.since.min(now), passed.last.min(now));
        }
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

    /// An object gave no answer: it is tried again.
    pub fn gave_no_answer(&mut self, key: &ObjectKey) {
        let tries = self.stuck.as_ref().filter(|stuck| stuck.key == *key).map_or(0, |stuck| stuck.tries);
        self.stuck = Some(Stuck { key: key.clone(), tries: tries.saturating_add(1) });
    }

    /// The object that the round goes on without, if it still gives no answer. Where several in a row gave none, the region does not
    /// answer, and is waited for.
    #[must_use]
    pub fn passes_over(&self) -> Option<&ObjectKey> {
        let stuck = self.stuck.as_ref().filter(|stuck| stuck.tries >= TRIES && self.silent < SILENT)?;
        Some(&stuck.key)
    }

    /// An object could not be read, and the round goes on without it. The next round looks at it again.
    pub fn passed_over(&mut self, key: &ObjectKey, why: &str, now: UtcTime) {
        let gave_no_answer = self.passes_over() == Some(key);
        self.silent = if gave_no_answer { self.silent + 1 } else { 0 };
        (self.stuck, self.after) = (None, Some(key.clone()));
        let is_known = self.unread.contains_key(key.as_str());
        if is_known || self.unread.len() < UNREAD_MAX {
            let new = || PassedOver { since: now, last: now, why: String::new() };
            let passed = self.unread.entry(key.to_string()).or_insert_with(new);
            (passed.last, passed.why) = (now, why.to_owned());
        }
    }

    /// What to say about what could not be read, by rounds and by the last listing; `None` if there is nothing to say.
    #[must_use]
    pub fn unread_text(&self) -> Option<String> {
        let passed = self.unread.first_key_value().map(|(key, PassedOver { since, why, .. })| {
            let objects = counted(self.unread.len() as u64, "object", "objects");
            format!("{objects} could not be read back, such as {key} since {since}: {why}")
        });
        let texts: Vec<String> = passed.into_iter().chain(self.listed_unread.clone()).collect();
        (!texts.is_empty()).then(|| texts.join("; "))
    }

    /// An object was looked at.
    pub fn verified(&mut self, key: &ObjectKey, bytes: ByteCount, period: Duration, now: UtcTime) {
        (self.stuck, self.silent) = (None, 0);
        self.unread.remove(key.as_str());
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

    /// Everything was looked at, or passed over.
    pub fn finish(&mut self) {
        self.resting = true;
        // What this round has not met any more was deleted.
        let began = self.round.began;
        self.unread.retain(|_, passed| passed.last >= began);
    }

    /// The place of the log from which on its notes are to be compared.
    #[must_use]
    pub fn to_compare(&self) -> u64 {
        self.compared
    }

    /// The notes of the log before this place were compared; before all of them, if it is `None`.
    pub fn was_compared(&mut self, next: Option<u64>, now: UtcTime) {
        self.compared = next.unwrap_or(0);
        if next.is_none() {
            self.compared_at = Some(now);
        }
    }

    /// The log is refused: whoever accepts it again, after a restart perhaps, compares it first.
    pub fn forget_comparison(&mut self) {
        (self.compared, self.compared_at) = (0, None);
    }

    /// How long ago all notes of the log had been compared; `None` for never.
    #[must_use]
    pub fn compared_ago(&self, now: UtcTime) -> Option<Duration> {
        self.compared_at.map(|compared| now.since(compared))
    }

    /// Presence was checked.
    pub fn was_listed(&mut self, stored: ByteCount, now: UtcTime) {
        (self.listed, self.stored, self.listed_unread) = (Some(now), stored.as_bytes(), None);
    }

    /// What the check of presence could not read, in words.
    pub fn listing_left(&mut self, unread: Option<String>) {
        self.listed_unread = unread;
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
        // Who passes an object over has not verified it.
        let passed = self.unread.values().map(|passed| passed.since).min();
        now.since(passed.map_or(verified, |passed| passed.min(verified)))
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

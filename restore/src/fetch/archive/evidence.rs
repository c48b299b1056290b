//! What tells whether WAL that cannot be reached was ever safe: signs of life, and what lies behind holes.

use lifeboat_repository::format::KeyName;
use lifeboat_repository::format::layout::WalRange;
use lifeboat_repository::wal::read::{WalRead, WalTrouble};
use lifeboat_repository::wal::{FoundHead, Head, PieceSize};
use lifeboat_vocabulary::{Lsn, RegionName, TimelineId, UtcTime, WalPosition, error_chain};

use crate::fetch::archive::{Archive, note};
use crate::target::commit_clock::CLOCK_TOLERANCE;
use crate::target::coverage::Coverage;
use crate::target::wal_plan::{BehindHole, HeadFact};

/// Stretches behind holes of one timeline that are looked at. A copy whose host died has one.
const STRETCHES: usize = 64;
/// Pieces of a stretch that are tried: what was planted at its beginning must not hide what follows.
const PARTS: usize = 8;

impl Archive {
    /// The signs of life of all writers. Where they cannot be read, nobody knows how far WAL was stored.
    pub(super) async fn heads(&self, unanswered: &mut Vec<(RegionName, String)>) -> Vec<HeadFact> {
        let mut facts = Vec::new();
        for region in &self.regions {
            let Ok((_, trust)) = &region.log else { continue };
            let name = &region.store.name;
            let heads = match Head::read_all(&*region.store.store, trust).await {
                Ok(heads) => heads,
                Err(error) => {
                    note(unanswered, name, &format!("its signs of life cannot be listed: {}", error_chain(&error)));
                    continue;
                }
            };
            for FoundHead { writer, stored, head } in heads {
                match head {
                    Ok(head) => facts.push(fact(name, &writer, stored, head)),
                    // It may say that WAL was safe.
                    Err(error) if error.may_hide_a_head() => {
                        let why = format!("the sign of life of {writer} cannot be read: {}", error_chain(&error));
                        note(unanswered, name, &why);
                    }
                    Err(error) => {
                        let error = error_chain(&error);
                        tracing::warn!(region = %name, %writer, error, "a sign of life is not used");
                    }
                }
            }
        }
        facts
    }

    /// What there is of a timeline behind holes that are not on record. A name alone is no WAL: the first pieces behind a hole are read.
    pub(super) async fn behind_holes(
        &self,
        timeline: TimelineId,
        stored: &Coverage,
        gaps: &[(Lsn, Lsn)],
        unanswered: &mut Vec<(RegionName, String)>,
    ) -> Vec<((TimelineId, Lsn), BehindHole)> {
        let is_on_record = |begins: Lsn| gaps.iter().any(|(_, end)| *end == begins);
        let behind = stored.stretches().iter().skip(1).filter(|(begins, _)| !is_on_record(*begins));
        let mut found = Vec::new();
        for (begins, end) in behind.take(STRETCHES) {
            let stretch = WalRange { timeline, start: *begins, end: *end };
            found.push(((timeline, *begins), self.behind_hole(stretch, unanswered).await));
        }
        found
    }

    /// What a stretch behind a hole is. Only what is damaged in every region that has it is no WAL: a region that does not give it now
    /// may give it later.
    async fn behind_hole(&self, stretch: WalRange, unanswered: &mut Vec<(RegionName, String)>) -> BehindHole {
        for piece in PieceSize::of(self.segment).cut(stretch).take(PARTS) {
            match self.reader.read(piece).await {
                WalRead::Found(_) | WalRead::Beginning { .. } => {
                    let at = WalPosition { timeline: stretch.timeline, lsn: stretch.start };
                    return match self.reader.newest_from(at).await {
                        Ok(newest) => BehindHole::Wal { newest },
                        Err(trouble) => {
                            note(unanswered, &trouble.region, &trouble.what);
                            BehindHole::Wal { newest: None }
                        }
                    };
                }
                WalRead::NotThere { .. } => {}
                WalRead::Undetermined(troubles) => {
                    let unread: Vec<_> = troubles.iter().filter(|trouble| !self.is_damaged(trouble)).collect();
                    if !unread.is_empty() {
                        unread.iter().for_each(|trouble| note(unanswered, &trouble.region, &trouble.what));
                        return BehindHole::Wal { newest: None };
                    }
                }
            }
        }
        BehindHole::Unreadable
    }

    /// Whether a region has given an object, and that is not what was written.
    fn is_damaged(&self, trouble: &WalTrouble) -> bool {
        let Some(key) = &trouble.key else { return false };
        self.reader.damage().iter().any(|damage| damage.region == trouble.region && damage.key == *key)
    }
}

/// A head is no older than the region says that it is stored: what it tells of later moments cannot be known.
fn fact(region: &RegionName, writer: &KeyName, stored: Option<UtcTime>, head: Head) -> HeadFact {
    let Head { time, durable, complete: told, confirmed, .. } = head;
    let stored = stored.unwrap_or(time);
    let complete = told.filter(|mark| mark.time <= stored.plus(CLOCK_TOLERANCE));
    if let (Some(told), None) = (told, complete) {
        tracing::warn!(%region, %writer, moment = %told.time, %stored, "a sign of life tells of a moment after it was stored, which proves nothing");
    }
    HeadFact { region: region.clone(), time, stored, durable, complete, confirmed }
}

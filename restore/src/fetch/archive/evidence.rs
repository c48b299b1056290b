//! What tells whether WAL that cannot be reached was ever safe: signs of life, and what lies behind holes.

use lifeboat_repository::format::layout::WalRange;
use lifeboat_repository::wal::read::WalRead;
use lifeboat_repository::wal::{FoundHead, Head, HeadError, PieceSize};
use lifeboat_stores::StoreError;
use lifeboat_vocabulary::{Lsn, RegionName, TimelineId, UtcTime, WalPosition, error_chain};

use crate::fetch::archive::{Archive, note};
use crate::target::commit_clock::CLOCK_TOLERANCE;
use crate::target::coverage::Coverage;
use crate::target::wal_plan::{BehindHole, HeadFact};

/// Stretches behind holes of one timeline that are looked at. A copy whose host died has one.
const STRETCHES: usize = 64;

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
                    Ok(head) => facts.push(fact(name, stored, head)),
                    // Larger than any: somebody else has put it there.
                    Err(HeadError::Store { source: StoreError::Unsupported { why, .. }, .. }) => {
                        tracing::warn!(region = %name, %writer, why, "a sign of life is not used");
                    }
                    Err(error @ HeadError::Store { .. }) => {
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

    /// What there is of a timeline behind holes that are not on record. A name alone is no WAL: the first object behind a hole is read.
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
            let first = PieceSize::of(self.segment).cut(WalRange { timeline, start: *begins, end: *end }).next();
            let Some(first) = first else { continue };
            let what = match self.reader.read(first).await {
                WalRead::Found(_) | WalRead::Beginning { .. } => {
                    match self.reader.newest_from(WalPosition { timeline, lsn: *begins }).await {
                        Ok(newest) => BehindHole::Wal { newest },
                        Err(trouble) => {
                            note(unanswered, &trouble.region, &trouble.what);
                            BehindHole::Wal { newest: None }
                        }
                    }
                }
                WalRead::NotThere { .. } | WalRead::Undetermined(_) => BehindHole::Unreadable,
            };
            found.push(((timeline, *begins), what));
        }
        found
    }
}

/// A head is no older than the region says that it is stored: what it tells of later moments cannot be known.
fn fact(region: &RegionName, stored: Option<UtcTime>, head: Head) -> HeadFact {
    let Head { time, durable, complete, confirmed, .. } = head;
    let stored = stored.unwrap_or(time);
    let complete = complete.filter(|mark| mark.time <= stored.plus(CLOCK_TOLERANCE));
    HeadFact { region: region.clone(), time, stored, durable, complete, confirmed }
}

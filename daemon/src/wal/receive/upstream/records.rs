//! Whether a server has what was received before: the records that it must have, and when it is refused for one.

use std::collections::HashSet;

use anyhow::Context;
use lifeboat_postgres::{TimelineHistory, WalConnection};
use lifeboat_vocabulary::{RecordMark, WalPosition};

use crate::wal::receive::continuity::Refusal;
use crate::wal::receive::proof::{Look, Verdict, is_of_its_history, look_for};
use crate::wal::receive::upstream::{Finder, NoStream};
use crate::wal::server_memory::{LostWal, Remembered};

impl Finder {
    /// The server must have every record that was received before, as far as its history contains them: then it is the
    /// one that is followed, or a copy of it. Before that nothing is taken from it.
    pub(super) async fn check_records(
        &mut self,
        wal: &mut WalConnection,
        server: WalPosition,
        history: &TimelineHistory,
    ) -> Result<(), NoStream> {
        let mut remembered = self.memory.read();
        if let Some(lost) = remembered.refused.as_ref().filter(|lost| self.is_unfounded(lost, &remembered)) {
            tracing::warn!(
                why = lost.why,
                "a server was refused for WAL that only revoked keys have signed: it is judged anew"
            );
            self.memory.found_again().await.context("lift the refusal of the server")?;
            remembered.refused = None;
        }
        let refused = remembered.refused.as_ref();
        if let Some(lost) = remembered.accepted_and_not_passed().and_then(|loss| loss.range())
            && lost.timeline == server.timeline
            && server.lsn < lost.end
        {
            let (end, at) = (lost.end, server.lsn);
            return Err(NoStream::Foreign(format!(
                "what the server lost was given up, and it is followed again from {end} on; it is at {at} now. `select \
                 pg_switch_wal()` on the server takes it to the next segment"
            )));
        }
        let mut proven_now = HashSet::new();
        for record in self.wanted_records(&remembered) {
            let is_behind = record.timeline == server.timeline && record.end > server.lsn;
            if is_behind {
                let stored = WalPosition { timeline: record.timeline, lsn: record.end };
                let refusal = Refusal::Behind { server, stored };
                return Err(self.lost(&refusal.to_string(), stored, Some(record)));
            }
            if !is_of_its_history(&record, server.timeline, history) {
                continue;
            }
            let segment_size = wal.segment_size().await.context("ask for the segment size")?;
            let look = Look {
                connection: &self.settings.connection,
                options: &self.options(),
                host: wal.host(),
                system_identifier: self.belonging.system_identifier,
                segment_size,
            };
            match look_for(record, &look).await.with_context(|| format!("look for {record}"))? {
                Verdict::Same => {
                    proven_now.insert(record);
                }
                Verdict::Other => {
                    let stored = WalPosition { timeline: record.timeline, lsn: record.end };
                    return Err(self.lost(&not_there(&look, record), stored, Some(record)));
                }
                Verdict::Removed => {
                    tracing::info!(host = wal.host(), %record, "the server has removed the WAL of a record that was received before");
                }
            }
        }
        match refused {
            None => {}
            Some(lost) if lost.record().is_some_and(|record| proven_now.contains(&record)) => {
                tracing::warn!(host = wal.host(), "this server has what another one had lost; it is followed");
                self.memory.found_again().await.context("lift the refusal of the server")?;
            }
            Some(lost) => return Err(NoStream::LostWal(Box::new(lost.clone()))),
        }
        self.proven.extend(proven_now);
        Ok(())
    }

    /// Whether a server was refused for what nobody has: keys were revoked, all regions have answered, and neither they nor this
    /// host know of WAL so far. Then whoever stole a key has made it up.
    fn is_unfounded(&self, lost: &LostWal, remembered: &Remembered) -> bool {
        let in_order = |at: WalPosition| (at.timeline, at.lsn);
        let end = |record: RecordMark| (record.timeline, record.end);
        let own = [self.shipper.last_record(), remembered.newest()].into_iter().flatten().map(end);
        let found = self.shipper.found_records().into_iter().map(end);
        let stored = self.resume.iter().map(|resume| in_order(resume.highest));
        let known = own.chain(found).chain(stored).max();
        let is_unknown = match lost.record() {
            Some(record) => Some(record) != remembered.newest() && Some(end(record)) > known,
            // Of a host that has received nothing, only positions in the regions can have been the reason.
            None => remembered.newest().is_none() && lost.stored().map(in_order) > known,
        };
        self.shipper.has_revoked_keys() && self.shipper.knows_all_regions() && is_unknown
    }

    /// The newest record, and what regions hold and was not looked for yet.
    fn wanted_records(&self, remembered: &Remembered) -> Vec<RecordMark> {
        let newest = self.shipper.last_record().or(remembered.newest());
        let refused = remembered.refused.as_ref().and_then(LostWal::record);
        let found = self.shipper.found_records().into_iter().filter(|record| !self.proven.contains(record));
        let mut wanted: Vec<RecordMark> = refused.into_iter().chain(newest).chain(found).collect();
        wanted.retain(|record| !remembered.accepted.is_some_and(|loss| loss.gives_up(record)));
        wanted.sort_unstable_by_key(|record| (record.timeline, record.start, record.crc));
        wanted.dedup();
        // The newest first: what it proves, the others only confirm.
        wanted.reverse();
        wanted
    }
}

fn not_there(look: &Look<'_>, record: RecordMark) -> String {
    format!(
        "{record} was received from this cluster, and {} has other WAL there: it was set back to an earlier state (a snapshot, \
         a copy of its files) and has gone on from there. Nothing of it is stored. If the lost commits are wanted, restore \
         them from the regions; to go on without them, `lifeboatd adopt --lost-wal`",
        look.host
    )
}

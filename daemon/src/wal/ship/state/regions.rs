//! What happens at the regions, one method for each event, and what a region may be asked for.

use lifeboat_repository::format::ids::EpochId;
use lifeboat_repository::log::records::GapReason;
use lifeboat_repository::wal::WalObject;
use lifeboat_stores::SealedBody;
use lifeboat_vocabulary::{RecordMark, RegionName, UtcTime, WalPosition};
use tokio::time::Instant;

use crate::wal::ship::memory::Body;
use crate::wal::ship::pending::{Load, What};
use crate::wal::ship::spool::SpoolFile;
use crate::wal::ship::state::narrow_gap::Told;
use crate::wal::ship::state::{Found, Job, ShipState, start_of};
use crate::wal::ship::uploader_state::UploaderState;

/// Why a region cannot be entered yet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotEntered {
    /// It has not answered, or not as it should.
    #[error("{0}")]
    Unanswered(String),
    /// Another installation holds its lease.
    #[error("its lease is held by {0}")]
    Leased(String),
}

/// What follows where the name of WAL of an earlier run is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AfterTaken {
    GoOn,
    BeginAgain,
}

/// What was sealed.
#[derive(Debug)]
pub(crate) struct Sealed {
    pub(crate) what: What,
    pub(crate) body: SealedBody,
    /// What it took before it was sealed.
    pub(crate) raw_bytes: u64,
}

impl ShipState {
    /// A region has told what it has, and its lease is ours.
    pub(crate) fn entered(&mut self, region: usize, found: Found, time: UtcTime) {
        let Found { durable, objects, gaps, losses, records, checksums, given_up, taken, unverified, has_revoked_keys } =
            found;
        self.has_revoked_keys |= has_revoked_keys;
        let durable = durable.or(self.owed);
        let told = Told { durable, held: objects.iter().map(|object| object.range).collect() };
        for at in durable.into_iter().chain(objects.iter().map(|object| start_of(object.range))) {
            self.marks.found(at);
        }
        for range in objects.iter().map(|object| object.range).chain(gaps) {
            self.marks.hold(region, range);
        }
        losses.iter().for_each(|(range, reason)| self.marks.lose(region, *range, *reason));
        self.missing_in(region, &losses);
        let is_given_up =
            |record: &RecordMark| given_up.is_some_and(|up| up.timeline == record.timeline && record.end <= up.lsn);
        let highest = records.iter().max_by_key(|(end, _)| (end.timeline, end.lsn));
        if let Some((_, record)) = highest.filter(|(_, record)| !is_given_up(record)) {
            self.must_have(*record);
        }
        records.into_iter().for_each(|(end, record)| self.found_record(end, record));
        checksums.into_iter().for_each(|(range, crc)| self.found_wal.add(range, crc));
        let out_of_reach = self.pending_objects.taken(region, &taken);
        let kept = self.pending_objects.kept_for(region);
        out_of_reach.into_iter().for_each(|range| self.marks.out_of_reach(region, range, &kept));
        self.marks.enter(region, durable);
        self.pending_objects.present(region, objects);
        self.at(region, |uploader| {
            uploader.known();
            unverified.into_iter().for_each(|what| uploader.unverified(what));
            uploader.lease(None);
        });
        self.record_holes(region, time);
        self.widen_gaps(region, &told, time);
    }

    /// A region could not be entered; it is tried again.
    pub(crate) fn not_entered(&mut self, region: usize, why: NotEntered) {
        self.at(region, |uploader| match why {
            NotEntered::Unanswered(why) => {
                uploader.lease(None);
                uploader.unanswered(why);
            }
            NotEntered::Leased(holder) => uploader.lease(Some(holder)),
        });
    }

    /// The lease of a region is ours (`None`) or another's.
    pub(crate) fn lease_changed(&mut self, region: usize, other: Option<String>) {
        self.at(region, |uploader| uploader.lease(other));
    }

    /// Another installation asks for the lease of a region, which is ours; `None` if none does any more.
    pub(crate) fn contested(&mut self, region: usize, by: Option<String>) {
        self.at(region, |uploader| uploader.contested = by);
    }

    /// An object cannot go to a region, because its name is taken there by one that is not ours: its WAL is sealed again under
    /// other names. A history has no other name, and the other regions have it.
    pub(crate) fn planted(&mut self, region: usize, load: &Load, what: String, body: SealedBody) {
        self.at(region, |uploader| uploader.unverified(what));
        match &load.what {
            // CRASH SAFETY: it waits until its WAL waits under the other names, so that at any time one of them is kept.
            What::Wal(object) => {
                self.jobs.push_back(Job::SealAgain { object: *object, load: load.clone(), body, region })
            }
            _ => self.pending_objects.done(region, load.file.sequence),
        }
    }

    /// What an earlier run has sealed cannot go to a region, because its name is taken there, and nobody here can open it. Its file
    /// stays as long as another region lacks it. Returns whether the task is to begin again: then the name is known to be taken,
    /// and WAL is received from there once more.
    ///
    /// CRASH SAFETY: a loss is put on record only where enough other regions have the WAL. Else nothing is, so that the server is
    /// not told, and the next start asks it.
    pub(crate) fn cannot_go(&mut self, region: usize, load: &Load, what: String, time: UtcTime) -> AfterTaken {
        self.at(region, |uploader| uploader.unverified(what));
        self.pending_objects.done(region, load.file.sequence);
        let Some(range) = load.what.range() else { return AfterTaken::GoOn };
        if self.gets(region, range) {
            return AfterTaken::GoOn;
        }
        let is_made_up_for = match self.can_be_received_again(load) {
            true => self.marks.has_quorum_without(region, range),
            false => self.marks.is_made_up_for(region, range),
        };
        if !is_made_up_for {
            return AfterTaken::BeginAgain;
        }
        self.notice_gap(range, GapReason::RegionMissed, Some(vec![region]), time);
        AfterTaken::GoOn
    }

    /// The WAL of a load waits for a region in these objects as well.
    pub(crate) fn sealed_again(&mut self, region: usize, load: &Load, instead: Vec<u64>) {
        self.pending_objects.replace(region, load.file.sequence, instead);
    }

    /// Which keys of this run are kept.
    pub(crate) fn keep_keys(&mut self, keys: Vec<EpochId>) {
        self.own_keys = keys;
    }

    /// Whether this run can open what was sealed under a key.
    pub(crate) fn can_open(&self, key: EpochId) -> bool {
        self.own_keys.contains(&key)
    }

    /// The name of the key in use is taken in a region: the next object gets a new key.
    pub(crate) fn key_is_taken(&mut self, region: usize, what: String) {
        self.at(region, |uploader| uploader.unverified(what));
        self.wants_new_key = true;
    }

    /// Whether a new key is due before its time; asked once.
    pub(crate) fn take_wish_for_key(&mut self) -> bool {
        std::mem::take(&mut self.wants_new_key)
    }

    /// Another writer is in a region: nothing more is written there.
    pub(crate) fn conflict(&mut self, region: usize, what: String) {
        self.at(region, |uploader| uploader.conflict(what));
    }

    /// A region has taken a load.
    pub(crate) fn stored(&mut self, region: usize, load: &Load) {
        match (load.what.range(), &load.what) {
            (Some(range), What::Notice(notice)) if notice.is_of_one_region() => {
                self.marks.lose(region, range, notice.reason().unwrap_or(GapReason::RegionMissed));
            }
            (Some(range), _) => self.marks.hold(region, range),
            (None, _) => {}
        }
        self.pending_objects.done(region, load.file.sequence);
        self.at(region, UploaderState::took_something);
    }

    /// A region has not taken a load; it is tried again.
    pub(crate) fn refused(&mut self, region: usize, load: &Load, why: String, time: UtcTime) {
        self.pending_objects.failed(region, load.file.sequence);
        self.at(region, |uploader| uploader.refused(time, why));
    }

    /// Where a region lacks whole pieces from, as it was found at the start.
    pub(crate) fn lacks_pieces_from(&mut self, region: usize, at: WalPosition) {
        self.at(region, |uploader| uploader.pieces = Some(at));
    }

    fn at(&mut self, region: usize, change: impl FnOnce(&mut UploaderState)) {
        if let Some(uploader) = self.regions.get_mut(region) {
            change(uploader);
        }
    }

    /// The next load for a region, if it may be written to: one whose body is in memory, or takes at most `room` bytes when
    /// it is read back.
    pub(crate) fn claim(&mut self, region: usize, room: u64) -> Option<Load> {
        if self.may_write(region) { self.pending_objects.claim(region, room) } else { None }
    }

    /// Whether WAL may be written into a region.
    pub(crate) fn may_write(&self, region: usize) -> bool {
        self.regions.get(region).is_some_and(UploaderState::may_write)
    }

    /// Whether a region has told what it has.
    pub(crate) fn is_known(&self, region: usize) -> bool {
        self.regions.get(region).is_some_and(UploaderState::is_known)
    }

    /// Whether the lease of a region is ours, as far as we know.
    pub(crate) fn holds_lease(&self, region: usize) -> bool {
        self.regions.get(region).is_some_and(UploaderState::holds_lease)
    }

    /// How many regions there are.
    pub(crate) fn region_count(&self) -> usize {
        self.regions.len()
    }

    /// Up to where a region needs nothing any more.
    pub(crate) fn safe(&self, region: usize) -> Option<WalPosition> {
        self.marks.safe(region)
    }

    /// The regions of which nothing is known: they may be new, or have been away since the beginning.
    pub(crate) fn regions_without_wal(&self) -> Vec<RegionName> {
        let without = self.regions.iter().enumerate().filter(|(region, _)| self.marks.safe(*region).is_none());
        without.map(|(_, uploader)| uploader.name.clone()).collect()
    }

    /// Up to where the quorum has everything.
    pub(crate) fn quorum(&self) -> Option<WalPosition> {
        self.marks.quorum()
    }

    /// The WAL objects that wait for regions.
    pub(crate) fn waiting_objects(&self) -> Vec<WalObject> {
        self.pending_objects.objects().copied().collect()
    }

    /// An object was sealed: it waits for all regions, or for those that want it. Its raw bytes are free. Returns its number.
    pub(crate) fn sealed(&mut self, sealed: Sealed, wanted: Option<&[usize]>, now: Instant) -> u64 {
        let Sealed { what, body, raw_bytes } = sealed;
        let (sequence, size, sha256) = (self.pending_objects.next_sequence(), body.bytes.len() as u64, body.sha256);
        let file = SpoolFile { sequence, name: what.name(), size, sha256 };
        self.job_bytes = self.job_bytes.saturating_sub(raw_bytes);
        if let What::Wal(object) = &what {
            self.marks.seal(object.range);
        }
        let body = Some(Body::new(body, &self.memory));
        self.pending_objects.add(Load { what, file, body }, wanted, now);
        sequence
    }

    /// The files of the spool that nobody needs any more.
    pub(crate) fn take_removals(&mut self) -> Vec<SpoolFile> {
        self.pending_objects.take_removals()
    }

    /// A load could not be written into the spool; it stays in memory.
    pub(crate) fn not_spooled(&mut self, load: &Load) {
        self.pending_objects.not_spooled(load.file.sequence);
    }

    /// Whether nothing waits for the spool.
    pub(crate) fn is_all_spooled(&self) -> bool {
        self.pending_objects.is_all_spooled()
    }
}

//! What a restore is going to do about WAL: decided from its options and from what the archive holds.

use std::sync::Arc;

use lifeboat_cli::access::{Keys, Repository};
use lifeboat_cli::exit_code::{Ending, Exit};
use lifeboat_cli::place::PlaceArgs;
use lifeboat_repository::catalog::CatalogRow;
use lifeboat_repository::log::KeyStanding;
use lifeboat_repository::log::records::BackupRecord;
use lifeboat_vocabulary::{Clock, RegionName, SystemClock, UtcTime, WalPosition};

use crate::command_line::RestoreArgs;
use crate::fetch::archive::{Archive, KeysForWal, segment_size};
use crate::target::commit_clock::CLOCK_TOLERANCE;
use crate::target::coverage::segment_start;
use crate::target::prove::{Accepts, Proof, Question, StopAt};
use crate::target::recovery_target::{Goal, GoalOrigin, Target};
use crate::target::survey::Survey;
use crate::target::wal_plan::Chain;
use crate::target::wal_source::WalSource;
use crate::wal_fetch::plan::{FetchPlan, Mode};

const WAL_IS_GONE: &str =
    "keys for WAL are on record, and no WAL is stored: what was committed behind this backup may be lost";

/// A restore that is known to work.
pub(crate) struct Decision {
    /// The backup.
    pub(crate) row: CatalogRow,
    pub(crate) target: Target,
    /// How it will be reached.
    pub(crate) proof: Proof,
    /// What the prefetcher is told; `None` if the backup's own WAL is enough.
    pub(crate) fetch: Option<FetchPlan>,
    /// Regions that the prefetcher does without: given up by the operator, or not needed for a target that is proven.
    pub(crate) without: Vec<RegionName>,
}

/// Finds the backup and the WAL for the target.
///
/// # Errors
/// [`Ending::Unreachable`] if the target cannot be reached, [`Ending::NoSuchBackup`], or whatever kept it from being found
/// out.
pub(crate) async fn decide(
    place: &PlaceArgs,
    args: &RestoreArgs,
    repository: &Repository,
    keys: &Keys,
) -> anyhow::Result<Decision> {
    let target = args.target.target().map_err(|message| Exit::error(Ending::BadCommandLine, message))?;
    let newest = repository.choose(args.backup.as_ref())?;
    let segment = segment_size(&newest.record)?;
    let archive = Arc::new(Archive::new(place, repository, keys, &args.without_regions, segment).await?);
    let inventory = archive.inventory(repository, args.backup.as_ref()).await?;
    let is_latest = target.goal == Goal::Latest;
    // A region that does not answer may have WAL, and a sign of life may say that there was some.
    let is_alone = !inventory.view.has_wal() && inventory.view.heads.is_empty() && inventory.unanswered.is_empty();
    if is_latest && !args.standby && target.origin == GoalOrigin::Default && is_alone {
        let mut decision = backup_alone(newest, target, archive.keys_for_wal());
        decision.proof.warnings.extend(left_out(args));
        return Ok(decision);
    }
    let source = Arc::clone(&archive) as Arc<dyn WalSource>;
    let survey =
        Survey::new(source, archive.system_identifier(), archive.segment(), inventory.view.latest(SystemClock.now()));
    // A standby goes on when a region answers again.
    let unanswered = if args.standby { &[] } else { inventory.unanswered.as_slice() };
    let accepts = match (args.standby, args.without_regions.is_empty()) {
        (true, _) => Accepts::WhatMayCome,
        (false, false) => Accepts::LossOfRegions,
        (false, true) => Accepts::NoLoss,
    };
    let question =
        Question { view: &inventory.view, target: &target, backup: args.backup.as_ref(), unanswered, accepts };
    let mut proof = question.prove(&survey).await?;
    let row = repository.choose(Some(&proof.backup))?.clone();
    proof.warnings.extend(standing_texts(&row, SystemClock.now()));
    proof.warnings.extend(left_out(args));
    if args.standby {
        let silent = |(region, why): &(RegionName, String)| {
            format!("region {region} does not answer; its WAL is followed once it does: {why}")
        };
        proof.warnings.extend(inventory.unanswered.iter().map(silent));
    }
    if proof.stop == StopAt::End && proof.chain.is_none() && archive.keys_for_wal() == KeysForWal::OnRecord {
        proof.warnings.push(WAL_IS_GONE.to_owned());
    }
    let mut without = args.without_regions.clone();
    if !is_latest {
        without.extend(inventory.unanswered.iter().map(|(region, _)| region.clone()));
    }
    let mode = if args.standby { Mode::Standby } else { Mode::Recovery };
    let fetch = match (&proof.chain, mode) {
        (None, Mode::Recovery) => None,
        (chain, mode) => Some(fetch_plan(chain.as_ref(), mode, &row, &archive)),
    };
    Ok(Decision { row, target, proof, fetch, without })
}

/// What is given up with regions that nobody asks.
fn left_out(args: &RestoreArgs) -> impl Iterator<Item = String> {
    let text = |region: &RegionName| {
        format!("region {region} is left out, as it was asked: what it alone holds is not restored")
    };
    args.without_regions.iter().map(text)
}

/// What speaks against a backup as its record stands.
fn standing_texts(row: &CatalogRow, now: UtcTime) -> Vec<String> {
    let BackupRecord { backup, stop_time, .. } = &row.record;
    let mut texts = Vec::new();
    if row.standing == KeyStanding::Revoked {
        texts.push(format!(
            "the key that has signed backup {backup} was revoked: if it was stolen before, somebody else may have made this backup"
        ));
    }
    if *stop_time > now.plus(CLOCK_TOLERANCE) {
        texts.push(format!(
            "backup {backup} is dated {stop_time}, which is later than this machine's clock says: one of the two clocks is wrong. If it \
             is that of the database host, newer backups may be dated earlier; see `list`"
        ));
    }
    texts
}

/// Nothing but backups is stored: the newest one, with the WAL that it carries.
fn backup_alone(row: &CatalogRow, target: Target, keys_for_wal: KeysForWal) -> Decision {
    let WalPosition { timeline, lsn } = row.record.stop();
    let proof = Proof {
        backup: row.record.backup.clone(),
        timeline,
        chain: None,
        stop: StopAt::End,
        expected: lsn,
        found: "no WAL is stored beside the backups; it recovers from its own".to_owned(),
        warnings: (keys_for_wal == KeysForWal::OnRecord)
            .then(|| WAL_IS_GONE.to_owned())
            .into_iter()
            .chain(standing_texts(row, SystemClock.now()))
            .collect(),
    };
    Decision { row: row.clone(), target, proof, fetch: None, without: Vec::new() }
}

fn fetch_plan(chain: Option<&Chain>, mode: Mode, row: &CatalogRow, archive: &Archive) -> FetchPlan {
    let segment = archive.segment();
    let mut legs = chain.map(|chain| chain.legs.clone()).unwrap_or_default();
    if mode == Mode::Standby
        && let Some(last) = legs.last_mut()
    {
        // What is not complete yet grows: it is looked at whenever it is asked for.
        last.to = segment_start(last.to, segment);
    }
    legs.retain(|leg| leg.from < leg.to);
    FetchPlan { segment, mode, legs, replay_from: row.record.start_lsn }
}

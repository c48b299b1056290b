//! From a target to a restore that will reach it: which backup, which WAL, and where PostgreSQL is told to stop. Nothing is
//! written before this has an answer.

use anyhow::Context;
use lifeboat_cli::exit_code::{Ending, Exit};
use lifeboat_postgres::{WalFact, WalFactKind};
use lifeboat_vocabulary::{BackupId, Lsn, RegionName, TimelineId, UtcTime};

use crate::target::behind::{Behind, Loss};
use crate::target::recovery_target::{Goal, Inclusion, Target, TargetTimeline};
use crate::target::survey::Survey;
use crate::target::timeline_tree::TimelinePath;
use crate::target::wal_plan::{ArchiveView, Chain, Reach};
use crate::target::window::{Window, sentence, windows};

/// Where PostgreSQL is told to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StopAt {
    /// At the end of the WAL: no target is set.
    End,
    /// As soon as it is consistent.
    Immediate,
    /// At a record; a target by time is one, too.
    Lsn(Lsn, Inclusion),
}

/// A restore that is known to reach its target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Proof {
    /// The backup to start from.
    pub(crate) backup: BackupId,
    /// The timeline that recovery follows.
    pub(crate) timeline: TimelineId,
    /// The WAL from the archive; `None` if the backup's own is enough.
    pub(crate) chain: Option<Chain>,
    /// Where PostgreSQL is told to stop.
    pub(crate) stop: StopAt,
    /// About where that is, for a progress bar.
    pub(crate) expected: Lsn,
    /// What was found out about the target, for a person.
    pub(crate) found: String,
    /// What a person should know.
    pub(crate) warnings: Vec<String>,
}

/// What a target is measured against.
pub(crate) struct Question<'a> {
    /// What is stored.
    pub(crate) view: &'a ArchiveView,
    pub(crate) target: &'a Target,
    /// The only backup to start from, if somebody said so.
    pub(crate) backup: Option<&'a BackupId>,
    /// Regions that could not be asked, and why. Those whose loss was accepted are not among them.
    pub(crate) unanswered: &'a [(RegionName, String)],
    /// What may be missing.
    pub(crate) accepts: Accepts,
}

/// What a restore to the end of the WAL may lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accepts {
    /// Nothing that anybody was told is safe.
    NoLoss,
    /// What only regions have that were given up.
    LossOfRegions,
    /// What may still be stored: a standby follows.
    WhatMayCome,
}

/// The way to a timeline, and how far it leads from each backup on it, the oldest first.
struct Routes {
    path: TimelinePath,
    reaches: Vec<Reach>,
}

impl Question<'_> {
    /// Finds the newest backup from which the target can be reached, and proves it.
    ///
    /// # Errors
    /// [`Ending::Unreachable`], with everything that can be reached; or whatever kept the WAL from being read.
    pub(crate) async fn prove(&self, survey: &Survey) -> anyhow::Result<Proof> {
        match self.try_to_prove(survey).await {
            Err(error) if error.downcast_ref::<Exit>().is_some_and(|exit| exit.ending == Ending::Unreachable) => {
                Err(self.with_what_can_be(survey, &error).await?)
            }
            other => other,
        }
    }

    async fn try_to_prove(&self, survey: &Survey) -> anyhow::Result<Proof> {
        let goal = &self.target.goal;
        if *goal == Goal::Immediate {
            let mut proof = self.immediate()?;
            // A backup that was named is the one that is wanted, whatever else there is.
            let unanswered = self.unanswered.iter().filter(|_| self.backup.is_none());
            let may_have_newer = |(region, why): &(RegionName, String)| {
                format!("region {region} does not answer, and may have a newer backup: {why}")
            };
            proof.warnings.extend(unanswered.map(may_have_newer));
            return Ok(proof);
        }
        let path = self.path()?;
        let routes = Routes { reaches: self.reaches(&path), path };
        let mut proof = match goal {
            Goal::Latest | Goal::Immediate => self.latest(&routes)?,
            Goal::Time(time, inclusion) => self.time(survey, &routes, *time, *inclusion).await?,
            Goal::Lsn(lsn, inclusion) => self.lsn(survey, &routes.reaches, *lsn, *inclusion).await?,
            Goal::Xid(xid, inclusion) => self.xid(survey, &routes.reaches, *xid, *inclusion).await?,
            Goal::Name(name) => self.name(survey, &routes.reaches, name).await?,
        };
        for (region, why) in self.unanswered {
            proof.warnings.push(match goal {
                Goal::Name(name) => {
                    format!("region {region} does not answer, and may have a newer restore point `{name}`: {why}")
                }
                _ => format!("region {region} does not answer and is not needed for this target: {why}"),
            });
        }
        Ok(proof)
    }

    /// A refusal, with everything that can be reached instead.
    async fn with_what_can_be(&self, survey: &Survey, refusal: &anyhow::Error) -> anyhow::Result<anyhow::Error> {
        let windows = timed_windows(self.view, survey).await.context("find out what can be reached")?;
        let mut text = format!("{refusal}; {}", sentence(&windows));
        for (region, what) in self.unanswered {
            text.push_str(&format!("; region {region} could not be asked and may have more: {what}"));
        }
        Ok(Exit::error(Ending::Unreachable, text))
    }

    /// The path to the timeline that was asked for.
    fn path(&self) -> anyhow::Result<TimelinePath> {
        let newest = || self.view.backups.iter().max_by_key(|backup| (backup.stop_time, backup.stop.lsn));
        let fixed = || self.view.backups.iter().find(|backup| Some(&backup.id) == self.backup);
        let timeline = match self.target.timeline {
            TargetTimeline::Number(timeline) => Some(timeline),
            TargetTimeline::Latest => self.view.newest_timeline(),
            TargetTimeline::Current => fixed().or_else(newest).map(|backup| backup.stop.timeline),
        };
        let timeline = timeline.ok_or_else(|| unreachable("there is no backup"))?;
        let known = self.view.timelines().contains(&timeline);
        if !known {
            return Err(unreachable(&format!("the archive knows no timeline {timeline}")));
        }
        let stored = self.view.coverage.get(&timeline).is_some_and(|coverage| !coverage.is_empty());
        match self.view.tree.path(timeline) {
            Some(path) => Ok(path),
            // A backup of a timeline without any WAL still is a place to start from.
            None if !stored => Ok(self.view.tree.path_or_alone(timeline)),
            None => Err(unreachable(&format!("the history file of timeline {timeline} is missing in every region"))),
        }
    }

    fn reaches(&self, path: &TimelinePath) -> Vec<Reach> {
        let mut reaches = self.view.reaches(path);
        reaches.retain(|reach| self.backup.is_none_or(|backup| reach.backup.id == *backup));
        reaches
    }

    fn immediate(&self) -> anyhow::Result<Proof> {
        let usable = |timeline: TimelineId| match self.target.timeline {
            TargetTimeline::Number(number) => number == timeline,
            TargetTimeline::Latest | TargetTimeline::Current => true,
        };
        let backups = self.view.backups.iter().filter(|backup| self.backup.is_none_or(|id| backup.id == *id));
        let newest = backups.filter(|backup| usable(backup.stop.timeline)).max_by_key(|b| (b.stop_time, b.stop.lsn));
        let backup = newest.ok_or_else(|| unreachable("there is no such backup"))?;
        Ok(Proof {
            backup: backup.id.clone(),
            timeline: backup.stop.timeline,
            chain: None,
            stop: StopAt::Immediate,
            expected: backup.stop.lsn,
            found: format!("the backup is consistent at {}", backup.stop.lsn),
            warnings: Vec::new(),
        })
    }

    fn latest(&self, Routes { path, reaches }: &Routes) -> anyhow::Result<Proof> {
        let reach = reaches.last().ok_or_else(|| unreachable("no backup lies on the way to that timeline"))?;
        if let Some((region, why)) = self.unanswered.first() {
            let why = format!(
                "region {region} does not answer, and may hold newer WAL than all others ({why}); wait for it, or accept \
                 the loss with --without-region {region}"
            );
            return Err(unreachable(&why));
        }
        let mut warnings = Vec::new();
        match self.view.behind(path, reach.end, reach.beyond_hole) {
            Behind::Nothing => {}
            Behind::NeverSafe(text) => warnings.push(text),
            Behind::Doubtful(text) if self.accepts == Accepts::WhatMayCome => warnings.push(text),
            Behind::Lost(Loss { why, may_be_elsewhere: true }) if self.accepts == Accepts::LossOfRegions => {
                warnings.push(why);
            }
            Behind::Doubtful(why) | Behind::Lost(Loss { why, .. }) => {
                let why = format!("{why}; name a target to restore what is left, such as {}", as_target(reach));
                return Err(unreachable(&why));
            }
        }
        let found = match self.view.complete_until(path, reach.end) {
            Some(time) => format!("WAL ends at {}; everything that was committed by {time} is in it", reach.end),
            None => format!("WAL ends at {}", reach.end),
        };
        Ok(Proof { warnings, ..proof(reach, StopAt::End, reach.end.lsn, found) })
    }

    async fn time(
        &self,
        survey: &Survey,
        Routes { path, reaches }: &Routes,
        time: UtcTime,
        inclusion: Inclusion,
    ) -> anyhow::Result<Proof> {
        let passes = |decision: UtcTime| match inclusion {
            Inclusion::Inclusive => decision > time,
            Inclusion::Exclusive => decision >= time,
        };
        let mut newest = None;
        let mut undated_for_all = None;
        for reach in reaches.iter().rev().filter(|reach| reach.backup.stop_time <= time) {
            let stop = reach.backup.stop.lsn;
            let Some(chain) = &reach.chain else { continue };
            // With the WAL of the backup itself: the clock that dated the backup need not be the server's.
            let begin = chain.legs.first().map_or(stop, |leg| leg.from);
            let decisions = survey.decisions(chain, begin, passes).await?;
            if decisions.end().is_some_and(|end| end.start < stop) {
                undated_for_all = decisions.first_past.is_none().then_some(decisions);
                continue;
            }
            // As a position: told to stop at a time, PostgreSQL would stop at the first commit that is dated later, also if its clock was
            // ten years ahead for that one alone.
            let stop_at = decisions.end().map_or(StopAt::End, |end| StopAt::Lsn(end.start, Inclusion::Exclusive));
            let expected = decisions.end().map_or(reach.end.lsn, |end| end.start);
            let (last, complete) = (decisions.last.map(|last| last.time), self.view.complete_until(path, reach.end));
            let found = if let Some(first) = decisions.first_past {
                Some(format!("the first commit behind {time} is at WAL {}, of {}", first.start, first.time))
            } else if let Some(complete) = complete.filter(|complete| *complete >= time) {
                let last = last.map_or_else(|| "none".to_owned(), |last| last.to_string());
                Some(format!(
                    "the last commit ({last}) is older, and everything that was committed by {complete} is stored"
                ))
            } else {
                None
            };
            if let Some(found) = found {
                let mut proof = proof(reach, stop_at, expected, found);
                proof.warnings.extend(decisions.attention());
                return Ok(proof);
            }
            newest = newest.max(last).max(complete).max(Some(reach.backup.stop_time));
        }
        let before_all = reaches.iter().all(|reach| reach.backup.stop_time > time);
        let why = match newest {
            Some(newest) => format!(
                "{time} lies after everything that is verified to be stored; the newest moment that can be reached is {newest}"
            ),
            None if before_all => format!("no backup on this timeline was complete by {time}"),
            None if let Some(text) = undated_for_all.and_then(|decisions| decisions.attention()) => {
                format!("no backup on this timeline is from before a commit whose time is unknown: {text}")
            }
            None => format!("no WAL leads from a backup to {time}"),
        };
        Err(unreachable(&why))
    }

    async fn lsn(&self, survey: &Survey, reaches: &[Reach], lsn: Lsn, inclusion: Inclusion) -> anyhow::Result<Proof> {
        let mut candidates = reaches.iter().rev().filter(|reach| reach.backup.stop.lsn <= lsn).peekable();
        if candidates.peek().is_none() {
            return Err(unreachable(&format!("no backup on this timeline is consistent at or before {lsn}")));
        }
        let reach = candidates.find(|reach| reach.end.lsn >= lsn && reach.chain.is_some());
        let Some((reach, chain)) = reach.and_then(|reach| Some((reach, reach.chain.as_ref()?))) else {
            return Err(unreachable(&format!("no WAL without a hole leads to {lsn}")));
        };
        if survey.has_record_from(chain, lsn).await? {
            let found = format!("WAL goes on to {}", reach.end);
            return Ok(proof(reach, StopAt::Lsn(lsn, inclusion), lsn, found));
        }
        let found = format!("{lsn} is at the end of the WAL; no record follows");
        Ok(proof(reach, StopAt::End, reach.end.lsn, found))
    }

    async fn xid(&self, survey: &Survey, reaches: &[Reach], xid: u32, inclusion: Inclusion) -> anyhow::Result<Proof> {
        let is_it = |fact: &WalFact| match &fact.kind {
            WalFactKind::Commit { xid: found, .. } | WalFactKind::Abort { xid: found, .. } => *found == xid,
            _ => false,
        };
        match self.find(survey, reaches, is_it).await? {
            Some((reach, fact)) => match fact.kind {
                WalFactKind::Commit { time, .. } => {
                    let found = format!("transaction {xid} was committed at {time} (WAL {})", fact.start);
                    Ok(proof(reach, StopAt::Lsn(fact.start, inclusion), fact.end, found))
                }
                _ => Err(unreachable(&format!("transaction {xid} was rolled back, at WAL {}", fact.start))),
            },
            None => Err(unreachable(&format!("the WAL that can be reached holds no commit of transaction {xid}"))),
        }
    }

    async fn name(&self, survey: &Survey, reaches: &[Reach], name: &str) -> anyhow::Result<Proof> {
        let is_it =
            |fact: &WalFact| matches!(&fact.kind, WalFactKind::RestorePoint { name: found, .. } if found == name);
        match self.find(survey, reaches, is_it).await? {
            Some((reach, fact)) => {
                let time = match &fact.kind {
                    WalFactKind::RestorePoint { time, .. } => format!(" of {time}"),
                    _ => String::new(),
                };
                let found = format!("restore point `{name}`{time} is at WAL {}", fact.start);
                // By name PostgreSQL would stop at the first of that name.
                let stop = StopAt::Lsn(fact.start, Inclusion::Inclusive);
                Ok(proof(reach, stop, fact.end, found))
            }
            None => Err(unreachable(&format!("the WAL that can be reached holds no restore point `{name}`"))),
        }
    }

    /// The newest record like that, and the newest backup before it.
    async fn find<'r>(
        &self,
        survey: &Survey,
        reaches: &'r [Reach],
        is_it: impl Fn(&WalFact) -> bool,
    ) -> anyhow::Result<Option<(&'r Reach, WalFact)>> {
        let mut ceiling: Option<Lsn> = None;
        for reach in reaches.iter().rev() {
            let floor = reach.backup.stop.lsn;
            let newest = |facts: &[WalFact]| facts.iter().rev().find(|fact| is_it(fact)).cloned();
            if let Some(chain) = &reach.chain {
                // What lies above has been looked at already, on behalf of a newer backup.
                let part = ceiling.map_or_else(|| chain.clone(), |ceiling| chain.up_to(ceiling.max(floor)));
                if let Some(fact) = survey.newest_first(&part, floor, newest).await? {
                    return Ok(Some((reach, fact)));
                }
                ceiling = Some(floor);
            }
        }
        Ok(None)
    }
}

/// How to ask for the end of what can be reached.
fn as_target(reach: &Reach) -> String {
    match reach.chain {
        Some(_) => format!("--target-lsn {}", reach.end.lsn),
        None => format!("--backup {} --target immediate", reach.backup.id),
    }
}

fn unreachable(why: &str) -> anyhow::Error {
    Exit::error(Ending::Unreachable, why)
}

/// All windows, with the newest commit of each as its end where that is the newest moment that is known.
///
/// # Errors
/// If WAL cannot be read.
pub(crate) async fn timed_windows(view: &ArchiveView, survey: &Survey) -> anyhow::Result<Vec<Window>> {
    let mut windows = windows(view);
    for window in &mut windows {
        let path = view.tree.path_or_alone(window.timeline);
        let reaches = view.reaches(&path);
        let last = reaches.iter().rev().find(|reach| window.backups.contains(&reach.backup.id));
        if let Some((reach, chain)) = last.and_then(|reach| Some((reach, reach.chain.as_ref()?))) {
            let decisions = survey.newest_decisions(chain, reach.backup.stop.lsn).await?;
            window.to_time = window.to_time.max(decisions.last.map(|last| last.time)).max(Some(reach.backup.stop_time));
            window.decisions = Some(decisions);
        }
    }
    Ok(windows)
}

/// Recovery follows the timeline on which the WAL ends: a newer one of which nothing is stored has nothing to give.
fn proof(reach: &Reach, stop: StopAt, expected: Lsn, found: String) -> Proof {
    let (backup, chain) = (reach.backup.id.clone(), reach.chain.clone());
    Proof { backup, timeline: reach.end.timeline, chain, stop, expected, found, warnings: Vec::new() }
}

#[cfg(test)]
mod tests;

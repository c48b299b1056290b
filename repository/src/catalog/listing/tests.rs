//! Tests of the table of all backups.

use super::*;
use crate::log::append::Draft;
use crate::log::records::backup::PageFacts;
use crate::log::records::care::{DamageRecord, FoundBy, SweepIntentRecord};
use crate::log::records::record::RecordBody;
use crate::log::region_log::LogTrust;
use crate::log::signers::Signers;
use crate::samples;
use crate::samples::wal::Archive;
use lifeboat_stores::MemoryStore;

const OLD: &str = "20261118T020003Z-00000001";
const MIDDLE: &str = "20261119T020003Z-00000002";
const NEW: &str = "20261120T020003Z-00000003";

fn backup(id: &str) -> BackupRecord {
    let day = id.get(6..8).unwrap();
    BackupRecord { ..samples::backup_record_named(id, &format!("2026-11-{day}T02:41:07Z")) }
}

async fn view(name: &str, backups: &[BackupRecord]) -> RegionView {
    let bodies: Vec<_> = backups.iter().map(|record| RecordBody::Backup(Box::new(record.clone()))).collect();
    view_of(name, &bodies).await
}

async fn view_of(name: &str, bodies: &[RecordBody]) -> RegionView {
    let store = MemoryStore::new();
    let signer = samples::signer();
    let region: RegionName = name.parse().unwrap();
    let descriptor = samples::descriptor();
    let (signers, repository) = (Signers::root_only(signer.verify_key()), descriptor.repo);
    let trust = LogTrust { repository, signers, region: Some(region.clone()), remembered: None };
    let mut log = RegionLog::read(&store, trust).await.unwrap();
    let init = RecordBody::Init(samples::init_record());
    for (wseq, body) in (0..).zip(std::iter::once(init).chain(bodies.iter().cloned())) {
        log.append(&store, &signer, &Draft { origin: samples::origin(wseq), body }).await.unwrap();
    }
    RegionView { name: region, answer: RegionAnswer::Read { descriptor: Box::new(descriptor), log: Box::new(log) } }
}

fn described(view: RegionView, change: impl FnOnce(&mut Descriptor)) -> RegionView {
    let RegionAnswer::Read { mut descriptor, log } = view.answer else { panic!("a readable region") };
    change(&mut descriptor);
    RegionView { name: view.name, answer: RegionAnswer::Read { descriptor, log } }
}

/// Later than all backups.
fn late() -> UtcTime {
    samples::time("2026-11-20T12:00:00Z")
}

fn region(name: &str) -> RegionName {
    name.parse().unwrap()
}

fn ids(catalog: &Catalog) -> Vec<String> {
    catalog.rows().iter().map(|row| row.record.backup.to_string()).collect()
}

fn presence(catalog: &Catalog, id: &str, name: &str) -> Presence {
    catalog.find(&id.parse().unwrap()).unwrap().regions[&region(name)]
}

#[tokio::test]
async fn regions_that_disagree_about_a_backup_are_reported_and_the_backup_is_disputed() {
    let forged = BackupRecord { duration_ms: 1, ..backup(NEW) };
    let views = [view("eu", &[backup(OLD), backup(NEW)]).await, view("us", &[backup(OLD), forged]).await];
    let catalog = Catalog::merge(&views);
    let (first, second) = (region("eu"), region("us"));
    let disagreement = Finding::Disagreement { backup: NEW.parse().unwrap(), first, second };
    assert_eq!(catalog.findings(), [disagreement]);
    assert_eq!(presence(&catalog, NEW, "eu"), Presence::Committed { seq: 2 });
    assert_eq!(presence(&catalog, NEW, "us"), Presence::Different { seq: 2 });
    assert_eq!(catalog.newest_intact(late()).unwrap().record.backup.as_str(), OLD, "nobody guesses which one is right");
}

#[tokio::test]
async fn regions_of_another_repository_are_reported_and_not_mixed_in() {
    let other_repo = RepositoryId::from_bytes([1; 16]);
    let other_root = samples::signer_named("other", 1).verify_key();
    let own = samples::descriptor();
    let (repo, root) = (own.repo, own.root);
    type Change = Box<dyn Fn(&mut Descriptor)>;
    let cases: [(Change, Finding); 3] = [
        (
            Box::new(move |descriptor| descriptor.repo = other_repo),
            Finding::OtherRepository { region: region("us"), expected: repo, found: other_repo },
        ),
        (
            Box::new(move |descriptor| descriptor.root = other_root),
            Finding::OtherRoot { region: region("us"), expected: Box::new(root), found: Box::new(other_root) },
        ),
        (Box::new(|descriptor| descriptor.frame_bytes *= 2), Finding::OtherDescriptor { region: region("us") }),
    ];
    for (change, expected) in cases {
        let other = described(view("us", &[backup(NEW)]).await, change);
        let catalog = Catalog::merge(&[view("eu", &[backup(OLD)]).await, other]);
        assert_eq!(catalog.findings(), [expected]);
        assert_eq!(ids(&catalog), [OLD]);
        assert_eq!(presence(&catalog, OLD, "us"), Presence::Unknown);
    }
}

#[tokio::test]
async fn oddities_of_a_region_are_reported() {
    let foreign =
        BackupRecord { pg: crate::log::records::backup::ServerFacts { sysid: 5, ..backup(OLD).pg }, ..backup(OLD) };
    let views = [
        RegionView { name: region("down"), answer: RegionAnswer::Unreadable { why: "no route".to_owned() } },
        RegionView { name: region("alias"), ..view("eu", &[backup(MIDDLE), backup(MIDDLE), foreign]).await },
        view("alias", &[]).await,
    ];
    let catalog = Catalog::merge(&views);
    let shown: Vec<String> = catalog.findings().iter().map(ToString::to_string).collect();
    assert_eq!(
        shown,
        [
            "region down cannot be read: no route".to_owned(),
            "region alias calls itself eu".to_owned(),
            "in the log of region alias, record 3 of kind backup does not count: a backup of system 5, in the repository of \
             7400000000000000001"
                .to_owned(),
            format!("backup {MIDDLE} stands twice in the log of alias, as records 1 and 2; the first one counts"),
            "region alias was given twice; the second is not used".to_owned(),
        ]
    );
    assert_eq!(presence(&catalog, MIDDLE, "down"), Presence::Unknown);
}

#[tokio::test]
async fn every_backup_is_shown_newest_first_with_what_each_region_has() {
    let views = [view("eu", &[backup(OLD), backup(MIDDLE)]).await, view("us", &[backup(NEW), backup(OLD)]).await];
    let catalog = Catalog::merge(&views);
    assert_eq!(ids(&catalog), [NEW, MIDDLE, OLD]);
    assert_eq!(catalog.findings(), []);
    for (id, eu, us) in [
        (NEW, Presence::Absent, Presence::Committed { seq: 1 }),
        (MIDDLE, Presence::Committed { seq: 2 }, Presence::Absent),
        (OLD, Presence::Committed { seq: 1 }, Presence::Committed { seq: 2 }),
    ] {
        assert_eq!((presence(&catalog, id, "eu"), presence(&catalog, id, "us")), (eu, us), "{id}");
    }
    let holders: Vec<_> = catalog.find(&NEW.parse().unwrap()).unwrap().holders().collect();
    assert_eq!(holders, [&region("us")]);
    assert_eq!(catalog.descriptor(), Some(&samples::descriptor()));
}

#[tokio::test]
async fn a_new_timeline_does_not_make_a_backup_deletable() {
    let one = lifeboat_vocabulary::TimelineId::new(1).unwrap();
    let upgraded = BackupRecord { start_tli: one, stop_tli: one, ..backup(NEW) };
    let catalog = Catalog::merge(&[view("eu", &[upgraded, backup(OLD)]).await]);
    assert_eq!(ids(&catalog), [NEW, OLD]);
}

#[tokio::test]
async fn a_damaged_backup_is_listed_and_is_not_the_newest_intact_one() {
    let pages = Some(PageFacts { checked: 10, damaged: 1, damaged_files: 1 });
    let damaged = BackupRecord { pages, ..backup(NEW) };
    let catalog = Catalog::merge(&[view("eu", &[backup(OLD), damaged]).await]);
    assert_eq!(ids(&catalog), [NEW, OLD]);
    assert_eq!(catalog.newest_intact(late()).unwrap().record.backup.as_str(), OLD);
    assert!(Catalog::merge(&[]).newest_intact(late()).is_none());
}

#[tokio::test]
async fn wal_records_are_read_only_from_the_logs_of_regions_in_use() {
    let (ours, others) = (Archive::new(&["eu", "us"]).await, Archive::new(&["ap"]).await);
    let view = |region: &crate::samples::wal::Region| {
        let (descriptor, log) = (Box::new(samples::descriptor()), Box::new(region.log.clone()));
        RegionView { name: region.name.clone(), answer: RegionAnswer::Read { descriptor, log } }
    };
    let foreign = described(view(&others.regions[0]), |descriptor| descriptor.repo = RepositoryId::from_bytes([9; 16]));
    let catalog = Catalog::merge(&[view(&ours.regions[0]), view(&ours.regions[1]), foreign]);
    let epochs: Vec<_> = catalog.wal().epochs.keys().copied().collect();
    assert_eq!(epochs, [ours.epoch.id()]);
    assert_eq!(Catalog::merge(&[]).wal(), &WalRecords::default());
}

fn unreadable(name: &str) -> RegionView {
    RegionView { name: region(name), answer: RegionAnswer::Unreadable { why: "no route".to_owned() } }
}

fn committed(id: &str) -> RecordBody {
    RecordBody::Backup(Box::new(backup(id)))
}

fn sweep(id: &str) -> RecordBody {
    let backups = vec![id.parse().unwrap()];
    RecordBody::SweepIntent(SweepIntentRecord { backups, ..SweepIntentRecord::default() })
}

fn forget(id: &str) -> RecordBody {
    RecordBody::Forget(samples::forget(&[id], "2026-11-20T02:00:00Z"))
}

#[tokio::test]
async fn a_backup_swept_in_one_region_is_listed_while_another_region_has_it() {
    let eu = [committed(OLD), committed(MIDDLE), committed(NEW), forget(OLD), sweep(OLD), forget(MIDDLE)];
    let us = [committed(OLD), committed(MIDDLE), committed(NEW), forget(OLD)];
    let catalog = Catalog::merge(&[view_of("eu", &eu).await, view_of("us", &us).await]);
    assert_eq!(ids(&catalog), [NEW, MIDDLE, OLD]);
    assert_eq!(
        (presence(&catalog, OLD, "eu"), presence(&catalog, OLD, "us")),
        (Presence::Swept, Presence::Committed { seq: 1 })
    );
    let row = |id: &str| catalog.find(&id.parse().unwrap()).unwrap();
    assert_eq!(row(OLD).holders().collect::<Vec<_>>(), [&region("us")], "nobody restores from where it was given up");
    for (id, leaving) in [(OLD, vec!["us"]), (MIDDLE, vec!["eu"]), (NEW, vec![])] {
        let found: Vec<_> = row(id).leaving.keys().map(RegionName::as_str).collect();
        assert_eq!(found, leaving, "{id}");
    }
    assert_eq!(row(OLD).leaving[&region("us")].not_before, samples::time("2026-11-20T02:00:00Z"));
}

#[tokio::test]
async fn a_backup_swept_in_all_regions_is_not_listed() {
    let swept = [committed(OLD), committed(NEW), forget(OLD), sweep(OLD)];
    let without = [committed(NEW)];
    let leftovers = vec![OLD.parse().unwrap()];
    let left_over =
        [committed(NEW), RecordBody::SweepIntent(SweepIntentRecord { leftovers, ..SweepIntentRecord::default() })];
    for (why, other) in [("swept too", &swept[..]), ("never had it", &without), ("only leftovers of it", &left_over)] {
        let catalog = Catalog::merge(&[view_of("eu", &swept).await, view_of("us", other).await, unreadable("ap")]);
        assert_eq!(ids(&catalog), [NEW], "{why}");
    }
    let still_there = Catalog::merge(&[view_of("eu", &left_over).await, view("us", &[backup(OLD)]).await]);
    assert_eq!(presence(&still_there, OLD, "eu"), Presence::Swept, "what is left over cannot become a backup");
}

#[tokio::test]
async fn holds_and_damage_are_known_of_each_backup() {
    let (for_ever, until) = (samples::hold(1, OLD, None), samples::hold(2, OLD, Some("2026-12-01T00:00:00Z")));
    let released = samples::hold(3, OLD, None);
    let damage = |id: &str| {
        let (backup, objects) = (Some(id.parse().unwrap()), Vec::new());
        RecordBody::Damage(DamageRecord { backup, objects, count: 1, found_by: FoundBy::Scrub })
    };
    let eu = [committed(OLD), committed(NEW), RecordBody::Hold(for_ever), RecordBody::Hold(released), damage(NEW)];
    let us = [committed(OLD), RecordBody::Hold(until), RecordBody::Release(samples::release(3))];
    let catalog = Catalog::merge(&[view_of("eu", &eu).await, view_of("us", &us).await]);
    let row = catalog.find(&OLD.parse().unwrap()).unwrap();
    for (now, holds) in [("2026-11-30T23:59:59Z", 2), ("2026-12-01T00:00:00Z", 1)] {
        assert_eq!(row.holds_at(samples::time(now)).count(), holds, "{now}");
    }
    assert!(row.damaged.is_empty());
    let damaged: Vec<_> = catalog.find(&NEW.parse().unwrap()).unwrap().damaged.iter().collect();
    assert_eq!(damaged, [&region("eu")]);
}

#[tokio::test]
async fn a_backup_that_is_damaged_wherever_it_is_is_not_the_newest_whole_one() {
    let damage = |id: &str| {
        let (backup, objects) = (Some(id.parse().unwrap()), Vec::new());
        RecordBody::Damage(DamageRecord { backup, objects, count: 1, found_by: FoundBy::Scrub })
    };
    let eu = [committed(OLD), committed(NEW), damage(NEW)];
    let newest = |catalog: &Catalog| catalog.newest_whole(late()).map(|row| row.record.backup.to_string());
    for (us, expected) in [
        (vec![committed(OLD)], OLD),
        (vec![committed(OLD), committed(NEW)], NEW),
        (vec![committed(OLD), committed(NEW), damage(NEW)], OLD),
    ] {
        let catalog = Catalog::merge(&[view_of("eu", &eu).await, view_of("us", &us).await]);
        assert_eq!(newest(&catalog).unwrap(), expected);
        assert_eq!(catalog.newest_intact(late()).unwrap().record.backup.as_str(), NEW);
    }
}

#[tokio::test]
async fn of_two_records_of_a_backup_in_one_log_the_first_counts() {
    let second = BackupRecord { duration_ms: 1, ..backup(NEW) };
    let views = [view("eu", &[backup(NEW), second]).await, view("us", &[backup(NEW)]).await];
    for views in [views.clone(), {
        let [one, other] = views;
        [other, one]
    }] {
        let catalog = Catalog::merge(&views);
        let twice = Finding::Twice { backup: NEW.parse().unwrap(), region: region("eu"), first: 1, second: 2 };
        assert_eq!(catalog.findings(), [twice]);
        assert_eq!(catalog.newest_intact(late()).unwrap().record, backup(NEW));
    }
}

#[tokio::test]
async fn a_backup_from_the_future_is_the_newest_only_if_there_is_no_other() {
    let catalog = Catalog::merge(&[view("eu", &[backup(OLD), backup(NEW)]).await]);
    let newest = |time: &str| catalog.newest_intact(samples::time(time)).unwrap().record.backup.to_string();
    assert_eq!(newest("2026-11-20T12:00:00Z"), NEW);
    assert_eq!(newest("2026-11-19T12:00:00Z"), OLD);
    assert_eq!(newest("2026-11-01T12:00:00Z"), NEW, "both are ahead");
}

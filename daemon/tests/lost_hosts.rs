//! Hosts that are lost: what a restore reaches then, and what it claims.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a scene that cannot be set up is a failed test")]

mod support;

use std::time::{Duration, Instant};

use lifeboat_s3_testd::{DelaySome, Deny, FaultPlan, Operation};
use lifeboat_testkit::{PgServer, RestoredServer, SeededRandom, Stop, majors_under_test};
use support::{Scene, insert, lsn_number, server_with_ledger};

/// How often a host is lost; `LOST_HOSTS` says how often instead.
fn hosts() -> u64 {
    std::env::var("LOST_HOSTS").map_or(5, |count| count.parse().unwrap())
}

/// The highest and the number of the rows of a restored server.
fn rows(target: &std::path::Path, major: u32) -> (u32, u32) {
    let copy = RestoredServer::start(target, major).unwrap();
    copy.wait_until_promoted(Duration::from_secs(120)).unwrap();
    let said = copy.psql("postgres", "SELECT coalesce(max(id), 0), count(*) FROM ledger").unwrap();
    let (highest, count) = said.trim().split_once('|').unwrap();
    (highest.parse().unwrap(), count.parse().unwrap())
}

fn now(server: &PgServer) -> String {
    let sql = "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')";
    server.psql("postgres", sql).unwrap().trim().to_owned()
}

/// What is told as complete by the quorum, as text that sorts.
fn wait_until_complete(scene: &Scene, moment: &str) {
    let whole = &moment[..19];
    scene.wait_for_status(&format!("WAL that is complete until {moment}"), |status| {
        status["quorum"]["complete_until"].as_str().is_some_and(|until| until > whole && &until[..19] > whole)
    });
}

#[test]
fn objects_on_their_way_leave_holes_that_keep_no_restore_from_what_was_told_to_be_safe() {
    let major = majors_under_test()[0];
    let server = server_with_ledger(major);
    let (scene, mut daemon) =
        Scene::protected(&server.connection_string(), "", "[durability]\nflush_interval = \"50ms\"\n");
    let mut random = SeededRandom::new(7);
    let (mut row, mut holes) = (0, 0);
    for host in 0..hosts() {
        let some = DelaySome {
            operation: Operation::PutObject,
            keys: "*/slices/*".into(),
            one_in: 3,
            by: Duration::from_secs(20),
            salt: host,
        };
        // The same objects in both regions.
        scene.regions.iter().for_each(|region| region.faults().change(|plan| plan.delay_some = Some(some.clone())));
        let until = Instant::now() + Duration::from_millis(1500) + Duration::from_secs(2).mul_f64(random.fraction());
        let mut ends = Vec::new();
        while Instant::now() < until {
            row += 1;
            ends.push((row, insert(&server, row, row)));
        }
        daemon.kill();
        let told = server.psql("postgres", "SELECT restart_lsn FROM pg_replication_slots").unwrap();
        scene.regions.iter().for_each(|region| region.faults().clear());
        let target = scene.site.target(&format!("lost-{host}"));
        let said = scene.site.restore(&["restore", "--to", target.to_str().unwrap()]).expect(0);
        holes += u64::from(said.out.contains("lies behind a hole") || said.err.contains("lies behind a hole"));
        let (highest, count) = rows(&target, major);
        assert_eq!(highest, count, "host {host}: a row before the last is missing");
        let safe = ends.iter().filter(|(_, end)| lsn_number(end) <= lsn_number(&told)).map(|(row, _)| *row).max();
        assert!(
            Some(highest) >= safe,
            "host {host}: rows up to {safe:?} were told to be safe, up to {highest} are there"
        );
        let windows = scene.site.restore(&["--json", "window"]).expect(0).json();
        let state = &windows["windows"][0]["behind"]["state"];
        assert!(state == "never-safe" || state == "nothing", "{windows:#}");
        std::fs::remove_dir_all(&target).unwrap();
        daemon = scene.run_daemon();
        scene.wait_until_durable(&ends.last().unwrap().1);
    }
    assert!(holes > 0, "no hole was provoked");
    drop(daemon);
    let target = scene.site.target("all");
    scene.site.restore(&["restore", "--to", target.to_str().unwrap()]).expect(0);
    assert_eq!(rows(&target, major), (row, row), "the host had them all along");
}

/// A row is committed that no region gets, and the daemon goes on to say that it is alive.
fn a_row_that_is_not_stored(cut: impl FnOnce(&Scene, &PgServer)) {
    let major = majors_under_test()[0];
    let mut server = server_with_ledger(major);
    let (scene, daemon) = Scene::protected(&server.connection_string(), "", "");
    scene.wait_until_durable(&insert(&server, 1, 10));
    let good = now(&server);
    wait_until_complete(&scene, &good);
    cut(&scene, &server);
    insert(&server, 11, 11);
    let committed = now(&server);
    std::thread::sleep(Duration::from_secs(8));
    // Its last words are a sign of life in every region.
    assert!(daemon.stop().is_some());
    server.stop(Stop::Kill).unwrap();
    scene.regions.iter().for_each(|region| region.faults().clear());
    let target = scene.site.target("behind");
    let restore = ["restore", "--to", target.to_str().unwrap(), "--target-time", &committed];
    let said = scene.site.restore(&restore).expect(10);
    assert!(said.err.contains("lies after everything that is verified to be stored"), "{}", said.err);
    let windows = scene.site.restore(&["--json", "window"]).expect(0).json();
    let until = windows["windows"][0]["to"]["time"].as_str().unwrap().to_owned();
    assert!(until < committed && until > good, "{good}, {until}, {committed}");
    let target = scene.site.target("good");
    scene.site.restore(&["restore", "--to", target.to_str().unwrap(), "--target-time", &good]).expect(0);
    assert_eq!(rows(&target, major), (10, 10));
}

#[test]
fn a_moment_is_not_proven_by_a_writer_that_hears_nothing_from_its_server() {
    a_row_that_is_not_stored(|_, server| {
        let path = server.data_dir().join("pg_hba.conf");
        let rules = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("local replication all reject\nhost replication all all reject\n{rules}"))
            .unwrap();
        server.psql("postgres", "SELECT pg_reload_conf()").unwrap();
        std::thread::sleep(Duration::from_millis(500));
        server.psql("postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_replication").unwrap();
    });
}

#[test]
fn a_moment_is_not_proven_by_regions_that_take_signs_of_life_and_no_wal() {
    a_row_that_is_not_stored(|scene, _| {
        let deny = |keys: &str| Deny { operation: Operation::PutObject, keys: keys.into() };
        let fault = |plan: &mut FaultPlan| plan.deny.extend([deny("*/wal/*"), deny("*/slices/*")]);
        scene.regions.iter().for_each(|region| region.faults().change(fault));
    });
}

#[test]
fn regions_that_cannot_be_asked_are_not_taken_for_regions_without_wal() {
    let major = majors_under_test()[0];
    let server = server_with_ledger(major);
    let (scene, daemon) = Scene::protected(&server.connection_string(), "", "");
    scene.wait_until_durable(&insert(&server, 1, 10));
    assert_eq!(daemon.stop(), Some(0));
    // All WAL is gone, and one region does not let its signs of life be looked at.
    for (index, region) in scene.regions.iter().enumerate() {
        for key in scene.keys(index, "wal/").into_iter().chain(scene.keys(index, "slices/")) {
            region.remove_raw(support::BUCKET, &key).unwrap();
        }
    }
    for key in scene.keys(0, "state/head-") {
        scene.regions[0].remove_raw(support::BUCKET, &key).unwrap();
    }
    type Fault = fn(&mut FaultPlan);
    let faults: [(&str, Fault); 3] = [
        ("heads cannot be read", |plan| {
            plan.deny.push(Deny { operation: Operation::GetObject, keys: "*/state/*".into() })
        }),
        ("nothing can be listed", |plan| {
            plan.deny.push(Deny { operation: Operation::ListObjectsV2, keys: "*".into() })
        }),
        ("it is away", |plan| plan.dead = true),
    ];
    for (number, (why, fault)) in faults.into_iter().enumerate() {
        scene.regions[1].faults().change(fault);
        let target = scene.site.target(&format!("refused-{number}"));
        let restore = ["restore", "--dry-run", "--to", target.to_str().unwrap()];
        let said = scene.site.restore(&restore).expect(10);
        // By its own name, or by its number where that cannot be read.
        let name = said.err.split("--without-region ").nth(1).and_then(|rest| rest.split(';').next());
        let name = name.unwrap_or_else(|| panic!("{why}: {}", said.err));
        let windows = scene.site.restore(&["--json", "window"]).expect(4).json();
        assert_eq!(windows["unanswered"][0]["region"], name, "{why}: {windows:#}");
        let accepted = ["restore", "--dry-run", "--without-region", name, "--to", target.to_str().unwrap()];
        let said = scene.site.restore(&accepted).expect(0);
        assert!(said.out.contains("no WAL is stored"), "{why}: {}", said.out);
        let left_out = format!("region {name} is left out, as it was asked: what it alone holds is not restored");
        assert!(said.out.contains(&left_out), "{why}: {}", said.out);
        scene.regions[1].faults().clear();
    }
}

//! What the status page says.

use super::*;
use crate::model::snapshot::{HealStatus, OverrideStatus, Point, TaskStatus};
use crate::model::verdict::{WalReceiver, judge};
use crate::status::samples::{alarm, at, cluster, snapshot};

fn judged(mut cluster: ClusterStatus) -> ClusterStatus {
    cluster.verdict = judge(&cluster, WalReceiver::Here);
    cluster
}

#[test]
fn when_all_is_well_the_first_line_says_so() {
    let page = page(&snapshot(vec![judged(cluster("main"))]));
    let expected = "\
main  OK  a disaster now would cost 300 ms of commits

main
  recoverable   2026-11-14 02:12:07 to 2026-11-21 17:24:05 UTC (7 days)
                0/3000028 to 0/5A3F1B8 on timeline 1
  RPO now       300 ms (objective 1 min 00 s)
  last backup   20261121T020003Z-5f1c09ab, full, 15 h ago
                42.0 GiB stored as 10.5 GiB in 12 min 04 s
                in frankfurt, virginia
  next run      full backup in 8 h (2026-11-22 02:00:00 UTC)
  restore time  not known yet: no restore has been measured
  WAL           from /var/run/postgresql, timeline 1
                received to 0/5A3F1B8
  spool         0 B of 10.0 GiB

  region     state     WAL behind  backups       verified  latency
  frankfurt  healthy  0 B, 300 ms        7  82 %, 12 days    31 ms
  virginia   healthy  0 B, 300 ms        7  82 %, 12 days    31 ms

  no alarms

  last runs (UTC)      what                took  ended
  2026-11-21 02:00:03  full backup  12 min 04 s  done

  daemon        lifeboatd 0.1.0, process 4711, up 3 days, http://127.0.0.1:9432
";
    assert_eq!(page, expected, "{page}");
}

#[test]
fn trouble_of_the_daemon_itself_stands_first() {
    let mut all = snapshot(vec![judged(cluster("main"))]);
    let first = |all: &StatusSnapshot| page(all).lines().next().unwrap_or_default().to_owned();
    assert_eq!(first(&all), "main  OK  a disaster now would cost 300 ms of commits");
    all.alarms = vec![alarm("http-unavailable", "the port is taken"), alarm("state-damaged", "runs.json was damaged")];
    assert_eq!(first(&all), "lifeboatd  AT RISK  the port is taken (and 1 more)");
    let second = page(&all).lines().nth(1).unwrap_or_default().to_owned();
    assert_eq!(second, "main       OK  a disaster now would cost 300 ms of commits");
    all.daemon.core_stuck = Some("task main/wal has made no step for 2 min 00 s".to_owned());
    assert_eq!(first(&all), "lifeboatd  STUCK  task main/wal has made no step for 2 min 00 s (and 2 more)");
    assert!(!figures(&all).contains("STUCK"), "a daemon that is gone gives no verdict");
}

#[test]
fn the_window_ends_where_wal_is_lost() {
    let mut main = cluster("main");
    let window = main.window.as_mut().unwrap();
    (window.to.time, window.ends_at_lost_wal) = (None, true);
    let text = page(&snapshot(vec![judged(main)]));
    assert!(text.contains("  recoverable   2026-11-14 02:12:07 to where WAL is lost\n"), "{text}");
}

#[test]
fn the_window_says_what_it_does_not_hold() {
    let mut main = cluster("main");
    let window = main.window.as_mut().unwrap();
    window.gaps = vec!["timeline 1 from 0/4000000 to 0/5000000: the slot was lost".to_owned()];
    window.older_backups = 14;
    window.older_from = Some(Point { time: Some(at("02:00:00")), lsn: "0/1000028".to_owned(), timeline: 1 });
    window.to.time = None;
    let text = page(&snapshot(vec![judged(main)]));
    let expected = "\
  recoverable   2026-11-14 02:12:07 to a time that is not known while no WAL
                streams
                0/3000028 to 0/5A3F1B8 on timeline 1
                but not timeline 1 from 0/4000000 to 0/5000000: the slot was
                lost
                and 14 older backups, each to its own end, the oldest of
                2026-11-21 02:00:00 UTC
";
    assert!(text.contains(expected), "{text}");
}

#[test]
fn the_page_explains_a_cluster_whose_wal_another_daemon_receives() {
    let mut main = cluster("main");
    (main.wal, main.rpo.seconds) = (None, None);
    main.verdict = judge(&main, WalReceiver::Elsewhere);
    let page = page(&snapshot(vec![main]));
    let first = "main  OK  nothing is wrong here; whether another daemon receives the WAL is not\n";
    assert!(page.starts_with(first), "{page}");
    assert!(page.contains("for certain only the ends of backups: no WAL is received here\n"), "{page}");
    assert!(page.contains("  WAL           is not received here\n"), "{page}");
}

#[test]
fn what_is_wrong_stands_first_and_says_what_to_do() {
    let mut main = cluster("main");
    let away = "region virginia does not answer: connect: connection refused. Look at the provider's status page, then \
                at the network of this host";
    main.alarms = vec![alarm("region-away/virginia", away)];
    main.regions[1].health = Health::Away;
    main.regions[1].health_since = at("17:12:03");
    main.regions[1].breaker = "open".to_owned();
    main.regions[1].log.as_mut().unwrap().missing = 1;
    main.regions[1].heal = Some(HealStatus {
        doing: "from frankfurt".to_owned(),
        objects_done: 3,
        objects_total: 10,
        bytes_done: 1 << 20,
        bytes_total: 30 << 20,
    });
    main.pauses = vec![StopStatus {
        what: "delete".to_owned(),
        since: at("10:24:05"),
        who: "anna".to_owned(),
        why: "audit until Monday".to_owned(),
        expires: Some("2026-11-23T17:24:05Z".parse().unwrap()),
    }];
    let mut billing = cluster("billing");
    let wal = billing.wal.as_mut().unwrap();
    (wal.host, wal.waiting) = (None, Some("connection refused".to_owned()));
    (billing.window, billing.last_backup, billing.next_run) = (None, None, None);
    let mut all = snapshot(vec![judged(main), judged(billing)]);
    all.overrides = vec![OverrideStatus {
        variable: "LIFEBOAT_LIMITS__WORKERS".to_owned(),
        setting: "limits.workers".to_owned(),
        since: at("01:00:00"),
    }];
    all.daemon.tasks =
        vec![TaskStatus { name: "main/scrub".to_owned(), doing: "region virginia".to_owned(), wedged: true }];
    let page = page(&all);
    for line in [
        "main     AT RISK  1 of 2 regions answer, a backup needs 2 (and 1 more)",
        "billing  NOT PROTECTED  no WAL streams: connection refused (and 1 more)",
        "  virginia   AWAY 12 min  0 B, 300 ms   7 (-1)  82 %, 12 days    31 ms",
        "  virginia: its breaker is open",
        "  virginia: heal: from frankfurt, 3 of 10 objects, 1.0 MiB of 30.0 MiB",
        "  paused        delete for 7 h by anna, for another 2 days",
        "                audit until Monday",
        "  CRITICAL  region-away/virginia for 12 min",
        "    region virginia does not answer: connect: connection refused. Look at the",
        "    provider's status page, then at the network of this host",
        "    what to do: docs/runbooks/region-away.md",
        "  recoverable   nothing yet",
        "  next run      none is planned here",
        "  task          STUCK main/scrub: region virginia",
        "  override      limits.workers for 16 h, by LIFEBOAT_LIMITS__WORKERS",
    ] {
        assert!(page.lines().any(|found| found == line), "{line}\nis not in\n{page}");
    }
    assert!(page.lines().all(|line| line.chars().count() <= WIDTH), "{page}");
}

#[test]
fn long_durations_are_rough() {
    for (seconds, text) in
        [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7199, "119 min"), (7200, "2 h"), (172_800, "2 days")]
    {
        assert_eq!(rough(Duration::from_secs(seconds)), text);
    }
}

#[test]
fn the_readme_shows_the_page_as_it_is() {
    let readme = include_str!("../../../../README.md");
    let from = readme.find("--- protected: ").unwrap();
    let shown = &readme[from..from + readme[from..].find("--- a mistake: ").unwrap()];
    let labels = |page: &str| -> Vec<String> {
        let lines = page.lines().filter(|line| line.starts_with("  ") && !line.starts_with("      "));
        let words = lines.filter_map(|line| line.split("  ").find(|part| !part.is_empty()).map(str::to_owned));
        words.filter(|word| word.starts_with(char::is_alphabetic)).collect()
    };
    let mut expected = labels(&page(&snapshot(vec![judged(cluster("demo"))])));
    for (sample, demo) in [("frankfurt", "near"), ("virginia", "far")] {
        expected.iter_mut().filter(|label| *label == sample).for_each(|label| *label = demo.to_owned());
    }
    assert_eq!(labels(shown), expected);
    assert!(shown.contains("\ndemo  OK  a disaster now would cost "), "{shown}");
}

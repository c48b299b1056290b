//! What is refused, and how it is reported.

mod common;

use std::time::Duration;

use common::{RECIPIENTS, load};
use lifeboat_config::{Config, Environment, Place, Role, SecretRef, ValueOrigin};
use lifeboat_postgres::BackupCheckpoint;
use lifeboat_stores::ObjectLock;
use lifeboat_vocabulary::ByteCount;

/// The smallest file that is right; `{}` places take more.
fn file(cluster: &str, rest: &str) -> String {
    let [one, two] = RECIPIENTS;
    format!(
        "[[cluster]]\nname = 'main'\nconnection = 'host=/tmp user=lifeboat'\n{cluster}\n\
         [[region]]\nname = 'one'\nurl = 'file:///var/one'\n[[region]]\nname = 'two'\nurl = 'file:///var/two'\n\
         [keys]\nrecipients = ['{one}', '{two}']\nsigning_key = 'file:/etc/key'\n{rest}\n"
    )
}

fn told(text: &str, variables: &[(&str, &str)]) -> String {
    load(text, variables).err().map_or_else(|| panic!("accepted: {text}"), |faults| faults.to_string())
}

#[test]
fn every_fault_is_reported_with_its_fix() {
    for (text, problem, fix) in [
        (file("conection = 'x'", ""), "unknown key `conection` in `cluster.main`", "did you mean `connection`?"),
        (file("[cluster.bakup]", ""), "unknown key `bakup` in `cluster.main`", "did you mean `backup`?"),
        (file("[cluster.backup]\nmaxrate = '1MiB'", ""), "unknown key `maxrate`", "did you mean `max_rate`?"),
        (file("[cluster.backup]\nmax_rate = '1KiB'", ""), "1.0 KiB is out of range", "32.0 KiB to 1.0 GiB"),
        (file("[cluster.backup]\nmax_rate = 100", ""), "this is a whole number", "a text"),
        (file("[cluster.backup]\ncompression_level = 5", ""), "5 is out of range", "from 1 to 4"),
        (file("[cluster.backup]\ncheckpoint = 'slow'", ""), "`slow` is not understood", "\"fast\" or \"spread\""),
        (file("backup = 'x'", ""), "`cluster.main.backup` is a text", "[cluster.main.backup]"),
        (file("", "[durability]\nbackup_quorum = 3"), "asks for 3 regions, and there are 2", "add a region"),
        (file("", "[durability]\nbackup_quorum = 0"), "0 is out of range", "from 1"),
        (file("", "[durability]\nregion_lag_limit = '90'"), "`90` is not a length of time", "such as 90s"),
        (file("", "[durability]\nregion_lag_limit = '2d'"), "2d is out of range", "1s to 1d"),
        (file("", "[durability]\nwal_quorum = 3"), "`durability.wal_quorum` asks for 3 regions", "add a region"),
        (file("", "[durability]\nflush_interval = '10ms'"), "10ms is out of range", "50ms to 1m"),
        (file("[cluster.wal]\nslot = 'Main'", ""), "`Main` cannot name a replication slot", "a-z, 0-9 and _"),
        (file("[cluster.wal]\napplication_name = ''", ""), "cannot be an application_name", "1 to 63"),
        (file("[cluster.wal]\nsynchronous = 'yes'", ""), "this is a text", "true or false"),
        (file("[cluster.objectives]\nrpo = '0s'", ""), "0s is out of range", "1s to 1d"),
        (file("", "[limits]\nspool = '1MiB'"), "1.0 MiB is out of range", "64.0 MiB"),
        (file("", "[state]\ndirectory = 'state'"), "`state` is not an absolute path", "begin with /"),
        (
            file(
                "[cluster.wal]\nslot = 's'",
                "[[cluster]]\nname = 'b'\nconnection = 'host=/tmp user=lifeboat'\nwal.slot = 's'",
            ),
            "clusters `main` and `b` would share the slot `s`",
            "of its own",
        ),
        (file("", "[durabilty]"), "unknown key `durabilty` at the top of the file", "did you mean `durability`?"),
        (file("", "[limits]\nmemory = '32MiB'"), "32.0 MiB is out of range", "64.0 MiB"),
        (file("", "[limits]\nworkers = 1.5"), "this is a fraction", "from 1 to 256"),
        (file("", "[[keys.wrap_commands]]\nname = 'a'\nwrap = ['age']"), "absolute path", "/usr/bin/age"),
        (file("", "[[keys.wrap_commands]]\nname = 'A'\nwrap = ['/x']"), "key command `A`", "a-z, 0-9 and -"),
        (file("", "[[region]]\nname = 'three'"), "`region.three.url` is missing", "s3://bucket"),
        (file("", "[[region]]\nurl = 'file:///x'"), "`region[2].name` is missing", "never change"),
        (file("", "[[region]]\nname = 'two'\nurl = 'file:///x'"), "two regions have the name `two`", "of its own"),
        (
            file("", "[[region]]\nname = 'c'\nurl = 'file:///var/one'"),
            "`one` and `c` are one and the same",
            "remove one",
        ),
        (file("", "[[region]]\nname = 'c'\nurl = 's3://bkt'\nendpont = 'x'"), "unknown key `endpont`", "`endpoint`?"),
        (file("", "[[region]]\nname = 'c'\nurl = 'bucket'"), "`region.c.url`", "help"),
        (file("", "[[region]]\nname = 'c'\nurl = 's3://bkt'\nmax_concurrency = 0"), "max_concurrency", "1 to 64"),
        (file("", "[[region]]\nname = 'c'\nurl = 's3://bkt'\nmax_concurrency = 'x'"), "max_concurrency", "help"),
        (file("", "[[region]]\nname = 'c'\nurl = 's3://bkt'\nprofile = ['x']"), "this is a list", "single value"),
        (file("", "[[region]]\nname = 'c'\nurl = 'file:///c'\nca_file = '/x'"), "no meaning for a directory", "leave"),
        (file("", "[[cluster]]\nname = 'main'\nconnection = 'host=/x'"), "two clusters have the name `main`", "own"),
        (file("", "[[cluster]]\nname = 'b'"), "`cluster.b.connection` is missing", "host="),
        ("cluster = 1\n".to_owned() + &file("", "").replace("[[cluster]]", "[x]"), "whole number", "[[cluster]]"),
        (file("", "[[cluster]]\nname = 'Ü'\nconnection = 'host=/x'"), "is not a cluster name", "a-z, 0-9"),
        (file("", "[[cluster]]\nname = 'b'\nconnection = 'hots=/x'"), "hots", "help"),
        (file("", "a = 1\na = 2"), "duplicate key", "correct this line"),
        (file("", "[keys"), "unclosed", "correct this line"),
        (file("", "").replace("'file:/etc/key'", "'/etc/key'"), "not a reference to a secret", "file:/path"),
        (file("", "").replace("recipients", "#"), "`keys.recipients` is missing", "keygen"),
        (file("", "").replace(RECIPIENTS[1], RECIPIENTS[0]), "is there twice", "remove one"),
        (file("", "").replace(RECIPIENTS[1], "age1xyz"), "not a public key", "lifeboat-pk-"),
        ("x = 1".to_owned(), "there is no cluster to protect", "[[cluster]]"),
    ] {
        let told = told(&text, &[]);
        assert!(told.contains(problem) && told.contains(fix), "expected `{problem}` and `{fix}`:\n{told}");
    }
}

#[test]
fn faults_of_schedules_retention_and_the_daemon_are_reported_with_their_fix() {
    for (text, problem, fix) in [
        (file("[cluster.schedule]\nfull = '0 2 * *'", ""), "has 4 fields", "five fields: minute, hour"),
        (file("[cluster.schedule]\nfull = '0 2 * * 8'", ""), "`8` is not a weekday", "0 to 7"),
        (file("[cluster.schedule]\nfull = '0 2 31 2 *'", ""), "`0 2 31 2 *` never comes", "give `0 2 29 2 *`"),
        (file("[cluster.schedule]\nfull = '@daily'", ""), "is a name for a schedule", "such as `0 2 * * *`"),
        (file("[cluster.schedule]\nful = '0 2 * * *'", ""), "unknown key `ful`", "did you mean `full`?"),
        (
            file("[cluster.schedule]\ntimezone = 'Europe/Berlln'", ""),
            "`Europe/Berlln` is not a time zone",
            "did you mean `Europe/Berlin`?",
        ),
        (file("[cluster.schedule]\ntimezone = 'CET-1CEST'", ""), "is not a time zone", "such as Europe/Berlin"),
        (file("[cluster.schedule]\njitter = '1d'", ""), "1d is out of range", "0s to 12h"),
        (
            file("[cluster.schedule]\nblackout = ['8-18']", ""),
            "`8-18` is not a window of time",
            "such as Mon-Fri 08:00-18:00",
        ),
        (
            file("[cluster.schedule]\nblackout = ['06:00-18:00', '18:00-06:00']", ""),
            "the windows cover the whole week",
            "leave some hours free",
        ),
        (file("[cluster.retention]\ndaily = -1", ""), "-1 is out of range", "from 0 to 1200"),
        (file("[cluster.retention]\nmin_keep = 0", ""), "0 is out of range", "from 1 to 1200"),
        (file("[cluster.retention]\npitr_window = '7'", ""), "`7` is not a length of time", "such as 90s"),
        (file("[cluster.retention]\ngrace = '2y'", ""), "`2y` is not a length of time", "such as 90s"),
        (file("", "[heal]\nmax_bandwidth = '1KiB'"), "1.0 KiB is out of range", "64.0 KiB"),
        (file("", "[scrub]\nperiod = '1s'"), "1s is out of range", "1m to 366d"),
        (file("", "[daemon]\nroles = []"), "does nothing", "at least one role"),
        (file("", "[daemon]\nroles = ['prun']"), "`prun` is not understood", "\"prune\""),
        (file("", "[daemon]\nstop_timeout = '0s'"), "0s is out of range", "1s to 1h"),
        (file("", "[http]\nlisten = ':9432'"), "is not an address with a port", "127.0.0.1:9432"),
        (file("", "[http]\nlisten = '0.0.0.0:9432'"), "there is no token", "listen on 127.0.0.1"),
        (file("", "[http]\nlisten = '[::]:9432'\ntoken = 'env:T'"), "there is no certificate", "http.tls_key"),
        (file("", "[http]\ntls_key = 'env:K'"), "given without `http.tls_certificate`", "give both"),
        (file("", "[http]\ntls_certificate = '/c'"), "given without `http.tls_key`", "give both"),
        (file("", "[http]\ntls_certificate = 'c'"), "`c` is not an absolute path", "begin with /"),
        (file("", "[http]\ntoken = 'hunter2'"), "not a reference to a secret", "file:/path"),
        (file("", "[limits]\nbackups = 0"), "0 is out of range", "from 1 to 64"),
        (
            file("", "[[region]]\nname = 'c'\nurl = 's3://bkt'\nobject_lock = 'on'"),
            "`on` is not a mode of Object Lock",
            "none, governance or compliance",
        ),
        (
            file("", "[[region]]\nname = 'c'\nurl = 'file:///c'\nobject_lock = 'governance'"),
            "no meaning for a directory",
            "leave it out",
        ),
    ] {
        let told = told(&text, &[]);
        assert!(told.contains(problem) && told.contains(fix), "expected `{problem}` and `{fix}`:\n{told}");
    }
}

#[test]
fn all_faults_come_at_once_in_the_order_of_the_file() {
    let text = file("conection = 'x'\n[cluster.backup]\ncompression_level = 9", "[limits]\nmemory = '1MiB'\nspeed = 1");
    let faults = load(&text, &[("LIFEBOAT_LIMITS__WORKERS", "many")]).unwrap_err();
    let lines: Vec<usize> = faults
        .as_slice()
        .iter()
        .map(|finding| match &finding.place {
            Place::Line { line, .. } => *line,
            _ => 0,
        })
        .collect();
    assert_eq!(lines, [4, 6, 17, 18, 0]);
    let told = faults.to_string();
    let expected = "error: unknown key `conection` in `cluster.main`
 --> lifeboat.toml:4:1
  |
4 | conection = 'x'
  | ^^^^^^^^^
  = help: did you mean `connection`?
";
    assert!(told.starts_with(expected), "{told}");
    assert!(told.ends_with("5 faults in the configuration"), "{told}");
    assert!(told.contains("environment variable LIFEBOAT_LIMITS__WORKERS"), "{told}");
}

#[test]
fn no_fault_shows_a_secret() {
    for (text, variables) in [
        (file("connection = 'host=x password=hunter2'", ""), vec![]),
        (file("", "").replace("host=/tmp", "postgresql://me:hunter2@host/db"), vec![]),
        (file("", "").replace("user=lifeboat", "hunter2 password"), vec![]),
        (file("", "").replace("file:/etc/key", "hunter2"), vec![]),
        (file("", "").replace("'file:/etc/key'", "'''\nhunter2'''"), vec![]),
        (file("", "").replace(RECIPIENTS[1], "lifeboat-sk-1hunter2"), vec![]),
        (file("", "[[region]]\nname = 'c'\nurl = 's3://bkt'\nendpoint = 'https://a:hunter2@host'"), vec![]),
        (file("", "[http]\ntoken = 'hunter2'"), vec![]),
        (file("", "[http]\ntls_key = 'hunter2'"), vec![]),
        (file("", ""), vec![("LIFEBOAT_KEYS__SIGNING_KEY", "hunter2")]),
        (file("", ""), vec![("LIFEBOAT_CLUSTER__MAIN__CONNECTION", "host=x password=hunter2")]),
    ] {
        let told = told(&text, &variables);
        assert!(!told.contains("hunter2"), "{told}");
    }
}

#[test]
fn a_file_that_cannot_be_used_is_a_fault_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lifeboat.toml");
    let told = || Config::load(&path, &Environment::default()).err().unwrap().to_string();
    assert!(told().contains("read the configuration") && told().contains("--config"), "{}", told());
    std::io::Write::write_all(&mut std::fs::File::create(&path).unwrap(), &[0xff]).unwrap();
    assert!(told().contains("not UTF-8"));
    std::fs::File::create(&path).unwrap().set_len(2 << 20).unwrap();
    assert!(told().contains("longer than 1 MiB"));
}

#[test]
fn the_smallest_file_that_is_right_has_safe_defaults() {
    let loaded = load(&file("", ""), &[]).unwrap();
    let config = &loaded.config;
    assert_eq!(config.clusters[0].name.as_str(), "main");
    let backup = config.clusters[0].backup;
    assert_eq!((backup.checkpoint, backup.max_rate, backup.compression_level), (BackupCheckpoint::Fast, None, 3));
    assert_eq!(config.durability.backup_quorum, 2, "all regions");
    assert_eq!(config.durability.region_lag_limit, Duration::from_secs(60));
    assert_eq!(config.keys.recipients.len(), 2);
    assert_eq!(config.keys.signing_key, SecretRef::File("/etc/key".into()));
    assert_eq!(config.limits.memory, ByteCount::from_mib(128));
    assert!(config.limits.workers >= 1);
    let schedule = &config.clusters[0].schedule;
    assert_eq!((schedule.timezone_name(), schedule.full.to_string().as_str()), ("UTC", "0 2 * * *"));
    assert_eq!((schedule.jitter, schedule.blackout.len()), (Duration::ZERO, 0));
    let kept = config.clusters[0].retention;
    assert_eq!((kept.daily, kept.weekly, kept.monthly, kept.min_keep), (7, 4, 12, 2));
    assert_eq!((kept.pitr_window.as_secs(), kept.grace.as_secs()), (7 * 86_400, 72 * 3600));
    assert!(Role::ALL.iter().all(|(_, role)| config.daemon.does(*role)));
    assert!(config.http.listen.is_some_and(|address| address.ip().is_loopback()), "open to nobody else");
    assert_eq!(config.regions[0].object_lock, ObjectLock::Off);
    assert!(loaded.warnings.is_empty() && loaded.overrides.is_empty());
}

#[test]
fn one_recipient_is_allowed_with_a_warning() {
    let text = file("", "").replace(&format!(", '{}'", RECIPIENTS[1]), "");
    let loaded = load(&text, &[]).unwrap();
    assert_eq!(loaded.warnings.len(), 1);
    assert!(loaded.warnings[0].problem.contains("only one recipient"));
    assert!(matches!(loaded.warnings[0].place, Place::Line { .. }));
}

#[test]
fn settings_that_work_but_should_change_cause_a_warning() {
    for (text, problem) in [
        (file("[cluster.retention]\ngrace = '1h'", ""), "may lose the backup that it reads"),
        (file("[cluster.retention]\ndaily = 0\nweekly = 0\nmonthly = 0", ""), "keeps its newest 2 backups"),
    ] {
        let loaded = load(&text, &[]).unwrap();
        assert_eq!(loaded.warnings.len(), 1, "{text}");
        assert!(loaded.warnings[0].problem.contains(problem), "{}", loaded.warnings[0]);
    }
}

#[test]
fn schedules_windows_and_roles_are_read_as_they_are_written() {
    let cluster = "[cluster.schedule]\ntimezone = 'Europe/Berlin'\nfull = '30  1 * * Mon-Sat'\njitter = '10m'\n\
                   blackout = ['Mon-Fri 08:00-18:00', '22:00-01:00']";
    let rest = "[daemon]\nroles = ['wal', 'backup']\n[http]\nlisten = 'localhost:0'";
    let loaded = load(&file(cluster, rest), &[("LIFEBOAT_HEAL__MAX_BANDWIDTH", "1MiB")]).unwrap();
    let schedule = &loaded.config.clusters[0].schedule;
    assert_eq!((schedule.timezone_name(), schedule.full.to_string().as_str()), ("Europe/Berlin", "30 1 * * Mon-Sat"));
    assert_eq!(schedule.blackout.len(), 2);
    assert!(loaded.config.daemon.does(Role::Wal) && !loaded.config.daemon.does(Role::Prune));
    assert_eq!(loaded.config.heal.max_bandwidth, ByteCount::from_mib(1));
    let off = load(&file("", "[http]\nlisten = 'off'"), &[("LIFEBOAT_DAEMON__ROLES", "heal, scrub")]).unwrap();
    assert_eq!(off.config.http.listen, None);
    assert_eq!(off.config.daemon.roles.len(), 2);
}

#[test]
fn variables_override_the_file_and_are_reported() {
    let variables = [
        ("LIFEBOAT_DURABILITY__BACKUP_QUORUM", "1"),
        ("LIFEBOAT_REGION__TWO__URL", "s3://bucket/two"),
        ("LIFEBOAT_REGION__TWO__MAX_CONCURRENCY", "3"),
        ("LIFEBOAT_REGION__TWO__ALLOW_PLAIN_HTTP", "true"),
        ("LIFEBOAT_CLUSTER__MAIN__BACKUP__CHECKPOINT", "spread"),
        ("LIFEBOAT_KEYS__RECIPIENTS", RECIPIENTS[1]),
    ];
    let loaded = load(&file("[cluster.backup]\ncheckpoint = 'fast'", ""), &variables).unwrap();
    assert_eq!(loaded.config.durability.backup_quorum, 1);
    assert_eq!(loaded.config.regions[1].url.to_string(), "s3://bucket/two");
    assert_eq!(loaded.config.regions[1].max_concurrency, 3);
    assert!(loaded.config.regions[1].allow_plain_http);
    assert_eq!(loaded.config.clusters[0].backup.checkpoint, BackupCheckpoint::Spread);
    assert_eq!(loaded.config.keys.recipients.len(), 1);
    assert_eq!(loaded.overrides.len(), variables.len());
    assert!(loaded.overrides.iter().any(|given| given.path == "region.two.url" && given.shown == "s3://bucket/two"));
}

#[test]
fn every_value_in_force_is_explained_with_its_origin() {
    let loaded = load(&file("", ""), &[("LIFEBOAT_LIMITS__MEMORY", "256MiB")]).unwrap();
    let find = |path: &str| loaded.explained.iter().find(|row| row.path == path).unwrap();
    assert_eq!(find("region.one.max_concurrency").origin, ValueOrigin::Default);
    assert_eq!(find("region.one.max_concurrency").value, "8");
    assert_eq!(find("durability.backup_quorum").value, "2 (all regions)");
    assert_eq!(find("limits.memory").to_string(), "limits.memory = \"256MiB\"   # LIFEBOAT_LIMITS__MEMORY");
    assert_eq!(find("keys.signing_key").to_string(), "keys.signing_key = \"file:/etc/key\"   # lifeboat.toml:13");
    assert!(find("cluster.main.connection").value.contains("user=lifeboat"));
}

//! Whatever stops a backup leaves nothing that looks like one; damage in the database is shown and never counts as good.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a scene that cannot be set up is a failed test")]

mod support;

use std::io::{Seek, SeekFrom, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lifeboat_s3_testd::{Deny, KeyPattern, Operation};
use lifeboat_testkit::{Checksums, PgServer, RestoredServer, Stop, majors_under_test};
use support::{Said, Scene};

fn server() -> PgServer {
    let server = PgServer::builder(majors_under_test()[0]).checksums(Checksums::On).start().unwrap();
    let rows =
        "CREATE TABLE rows AS SELECT i, md5(i::text) || md5((i * 7)::text) AS t FROM generate_series(1, 400000) i";
    server.psql("postgres", rows).unwrap();
    server.psql("postgres", "CHECKPOINT").unwrap();
    server
}

/// A server, and regions without a backup of it.
fn initialised(regions: usize) -> (PgServer, Scene) {
    let (server, scene) = (server(), Scene::new(regions));
    scene.configure(&server, "");
    scene.daemon(&["init"]).expect(0);
    (server, scene)
}

/// A slow backup: the server sends so little per second that there is time to interrupt it.
fn slow(scene: &Scene, server: &PgServer) -> Child {
    let rate = "[limits]\nmemory = \"64MiB\"";
    scene.configure(server, rate);
    let text = std::fs::read_to_string(scene.config()).unwrap();
    let text = text.replacen("[[region]]", "[cluster.backup]\nmax_rate = \"4MiB\"\n[[region]]", 1);
    std::fs::write(scene.config(), text).unwrap();
    let mut command = scene.daemon_command();
    command.arg("backup").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn wait_for_objects(scene: &Scene, part: &str) {
    let patience = Instant::now() + Duration::from_secs(60);
    while scene.keys(0, part).is_empty() {
        assert!(Instant::now() < patience, "no object appears");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn signal(child: &Child, signal: &str) {
    let status = Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
    assert!(status.success());
}

fn said(child: Child) -> Said {
    child.wait_with_output().unwrap().into()
}

fn nothing_is_listed(scene: &Scene) {
    let listed = scene.daemon(&["list"]).expect(0);
    assert!(listed.out.contains("no backups"), "{}", listed.out);
}

#[test]
fn kill_and_stop_leave_nothing_that_looks_like_a_backup() {
    let (server, scene) = initialised(2);
    for (how, code) in [("-KILL", None), ("-TERM", Some(130)), ("-INT", Some(130))] {
        let running = slow(&scene, &server);
        let before = scene.keys(0, ".lbp").len();
        let patience = Instant::now() + Duration::from_secs(60);
        while scene.keys(0, ".lbp").len() == before {
            assert!(Instant::now() < patience, "no pack appears");
            std::thread::sleep(Duration::from_millis(20));
        }
        signal(&running, how);
        let ended = said(running);
        assert_eq!(ended.code, code, "{how}: {}", ended.err);
        nothing_is_listed(&scene);
        let slots = server.psql("postgres", "SELECT count(*) FROM pg_replication_slots WHERE NOT active").unwrap();
        assert_eq!(slots.trim(), "0", "the temporary slot is gone with its session");
    }
    scene.configure(&server, "");
    scene.daemon(&["backup"]).expect(0);
    scene.site.restore(&["verify"]).expect(0);
}

#[test]
fn a_kill_between_the_last_object_and_the_record_leaves_no_backup() {
    let (_server, scene) = initialised(1);
    for last in ["*keys/*", "*packs.sha256", "*log/*"] {
        // The write that is due next is refused at first and would be tried again: time to kill.
        let deny = Deny { operation: Operation::PutObject, keys: KeyPattern::new(last) };
        scene.regions[0].faults().change(|plan| {
            plan.deny = vec![deny];
            plan.delay.fixed = Duration::from_millis(5);
        });
        let before = scene.regions[0].requests().len();
        let mut command = scene.daemon_command();
        let running = command.arg("backup").stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let wanted = last.trim_matches('*').to_owned();
        let patience = Instant::now() + Duration::from_secs(60);
        let refused = || {
            let requests = scene.regions[0].requests();
            requests.iter().skip(before).any(|r| r.operation == Operation::PutObject && r.key.contains(&wanted))
        };
        while !refused() {
            assert!(Instant::now() < patience, "{last} is never written");
            std::thread::sleep(Duration::from_millis(5));
        }
        signal(&running, "-KILL");
        said(running);
        scene.regions[0].faults().clear();
        nothing_is_listed(&scene);
    }
}

#[test]
fn a_server_that_restarts_during_the_backup_fails_it_clearly() {
    let (mut server, scene) = initialised(1);
    let running = slow(&scene, &server);
    wait_for_objects(&scene, ".lbp");
    server.stop(Stop::Immediate).unwrap();
    server.start().unwrap();
    let ended = said(running).expect(1);
    assert!(ended.err.contains("receive the backup"), "{}", ended.err);
    nothing_is_listed(&scene);
}

#[test]
fn a_tablespace_that_was_made_during_a_backup_is_not_made_where_the_original_has_it() {
    let (server, scene) = initialised(1);
    let running = slow(&scene, &server);
    wait_for_objects(&scene, ".lbp");
    let space = server.tablespace_dir("late").unwrap();
    server.psql("postgres", &format!("CREATE TABLESPACE late LOCATION '{}'", space.display())).unwrap();
    said(running).expect(0);

    let back = |name: &str, more: &[&str], code| {
        let target = scene.site.target(name);
        let arguments = [&["restore", "--to", target.to_str().unwrap()], more].concat();
        let mut command = scene.site.restore_command(&arguments);
        let output = command.env("LIFEBOAT_PG_BIN", server.bin_dir()).output().unwrap();
        (target, Said::from(output).expect(code))
    };
    let (target, refused) = back("in-use", &[], 9);
    assert!(refused.err.contains("may belong to a running cluster"), "{}", refused.err);
    assert!(!target.join("global/pg_control").exists(), "nobody can start it");

    server.psql("postgres", "DROP TABLESPACE late").unwrap();
    std::fs::remove_dir(&space).unwrap();
    let (_, told) = back("later", &[], 0);
    assert!(told.out.contains("make that directory"), "{}", told.out);
    let (target, told) = back("missing", &["--start"], 9);
    assert!(told.err.contains("make that directory") && told.err.contains("is restored"), "{}", told.err);
    assert!(target.join("global/pg_control").exists() && !target.join("postmaster.pid").exists());
    let made = server.tablespace_dir("late").unwrap();
    assert_eq!(made, space);
    let copy = RestoredServer::start(&target, server.major()).unwrap();
    copy.wait_until_promoted(Duration::from_secs(60)).unwrap();
    assert_eq!(copy.psql("postgres", "SELECT count(*) FROM rows").unwrap().trim(), "400000");
    let kept = copy.psql("postgres", "SELECT count(*) FROM pg_tablespace WHERE spcname = 'late'").unwrap();
    assert_eq!(kept.trim(), "1");
}

#[test]
fn a_damaged_page_is_shown_and_the_backup_never_counts_as_good() {
    let mut server = server();
    let path = server.psql("postgres", "SELECT pg_relation_filepath('rows')").unwrap();
    server.stop(Stop::Fast).unwrap();
    let file = server.data_dir().join(path.trim());
    let mut open = std::fs::OpenOptions::new().write(true).open(&file).unwrap();
    open.seek(SeekFrom::Start(5 * 8192 + 4000)).unwrap();
    open.write_all(b"rotten").unwrap();
    server.start().unwrap();
    let scene = Scene::new(1);
    scene.configure(&server, "");
    scene.daemon(&["init"]).expect(0);
    let ended = scene.daemon(&["backup"]).expect(6);
    assert!(ended.out.contains(&format!("{} at byte 40960", path.trim())), "{}", ended.out);
    let listed = scene.daemon(&["list"]).expect(0);
    assert!(listed.out.contains("damaged"), "{}", listed.out);
    let target = scene.site.target("back");
    let refused = scene.site.restore(&["restore", "--to", target.to_str().unwrap()]).expect(8);
    assert!(refused.err.contains("no good backup"), "{}", refused.err);
    let id = scene.keys(0, "packs.sha256").remove(0);
    let id = id.split('/').rev().nth(1).unwrap().to_owned();
    scene.site.restore(&["restore", "--backup", &id, "--to", target.to_str().unwrap()]).expect(0);

    // The same by a role that may not read pages again: the server verifies.
    server.psql("postgres", "CREATE ROLE plain LOGIN REPLICATION").unwrap();
    let text = std::fs::read_to_string(scene.config()).unwrap();
    let user = text.split("user=").nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
    std::fs::write(scene.config(), text.replacen(&format!("user={user}"), "user=plain", 1)).unwrap();
    let ended = scene.daemon(&["backup"]).expect(6);
    assert!(ended.out.contains("damaged page"), "{}", ended.out);
}

#[test]
fn a_full_disk_in_a_region_or_in_the_target_is_an_error_that_says_so() {
    let server = server();
    let scene = Scene::new(1);
    scene.init_and_back_up(&server);
    let small = scene.site.dir.path().join("small");
    std::fs::create_dir(&small).unwrap();
    let address = scene.site.address(0);
    let identity = scene.site.identity();
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_lifeboatd"));
    let restore = program.with_file_name("lifeboat-restore");
    let script = format!(
        "mount -t tmpfs -o size=8m tmpfs {small} && exec {restore} --region '{address}' --identity {identity} restore --to {small}/data",
        small = small.display(),
        restore = restore.display(),
        identity = identity.display(),
    );
    let ended = in_own_mounts(&script).expect(9);
    assert!(ended.err.contains("free, the backup needs"), "{}", ended.err);

    let text = std::fs::read_to_string(scene.config()).unwrap();
    let (head, tail) = (text.split("[[region]]").next().unwrap(), text.split("[keys]").nth(1).unwrap());
    let region = format!("[[region]]\nname = \"disk\"\nurl = \"file://{}\"\n", small.display());
    std::fs::write(scene.config(), format!("{head}{region}[keys]{tail}")).unwrap();
    let script = format!(
        "mount -t tmpfs -o size=1m tmpfs {small} && {program} --config {config} init > /dev/null && exec {program} --config {config} backup",
        small = small.display(),
        program = program.display(),
        config = scene.config().display(),
    );
    let ended = in_own_mounts(&script).expect(1);
    assert!(ended.err.contains("no space left") || ended.err.contains("full"), "{}", ended.err);
}

/// Runs a script in a mount namespace of its own, so that it may mount small disks.
fn in_own_mounts(script: &str) -> Said {
    let id = Command::new("id").arg("-u").output().unwrap();
    let rights: &[&str] = if id.stdout.starts_with(b"0\n") { &["-m"] } else { &["-rm"] };
    Command::new("unshare").args(rights).args(["sh", "-c", script]).output().unwrap().into()
}

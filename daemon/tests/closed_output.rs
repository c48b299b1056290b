//! Output into pipes that nobody reads: no command panics, none gives up its work, and the daemon lives on.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a scene that cannot be set up is a failed test")]

mod support;

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lifeboat_testkit::{PgServer, majors_under_test};
use support::{Said, Scene, insert};

/// The end of a pipe whose reader has gone.
fn unread() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

fn output_unread(mut command: Command) -> Said {
    command.stdout(unread()).stderr(Stdio::piped()).output().unwrap().into()
}

fn all_unread(mut command: Command) -> Option<i32> {
    command.stdout(unread()).stderr(unread()).status().unwrap().code()
}

fn backups(scene: &Scene) -> usize {
    scene.daemon(&["--json", "list"]).json()["backups"].as_array().unwrap().len()
}

#[test]
fn commands_end_quietly_and_work_is_done_to_its_end() {
    let server = PgServer::builder(majors_under_test()[0]).start().unwrap();
    let scene = Scene::new(1);
    scene.init_and_back_up(&server);
    let of_daemon = |arguments: &[&str]| {
        let mut command = scene.daemon_command();
        command.args(arguments);
        command
    };
    for arguments in [
        &["list"][..],
        &["--json", "list"],
        &["check-config"],
        &["retention", "plan"],
        &["hold", "list"],
        &["pause", "--list"],
        &["completions", "bash"],
        &["manual"],
    ] {
        let said = output_unread(of_daemon(arguments));
        assert_eq!((said.code, said.err.contains("panicked")), (Some(141), false), "{arguments:?}: {}", said.err);
    }
    // These have codes of their own for what they found out.
    for arguments in [&["doctor"][..], &["status"], &["scrub"]] {
        let said = output_unread(of_daemon(arguments));
        let code = said.code.unwrap();
        assert!(code != 101 && !said.err.contains("panicked"), "{arguments:?}: {code} {}", said.err);
    }
    for arguments in [&["list"][..], &["show"], &["window"], &["completions", "fish"], &["manual"], &["--help"]] {
        let said = output_unread(scene.site.restore_command(arguments));
        let code = if arguments == ["--help"] { 0 } else { 141 };
        assert_eq!((said.code, said.err.as_str()), (Some(code), ""), "{arguments:?}");
    }
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let unwritten: Said = scene.site.restore_command(&["list"]).stdout(full).output().unwrap().into();
    assert!(unwritten.code == Some(1) && unwritten.err.contains("write to standard output"), "{unwritten:?}");

    assert_eq!(all_unread(scene.site.restore_command(&["verify"])), Some(0));
    let target = scene.site.target("back");
    let arguments = ["--json", "restore", "--to", target.to_str().unwrap()];
    assert_eq!(all_unread(scene.site.restore_command(&arguments)), Some(0));
    assert!(target.join("global/pg_control").exists(), "the restore is complete");
    assert_eq!(all_unread(of_daemon(&["--json", "backup", "--type", "full"])), Some(0));
    assert_eq!(backups(&scene), 2);
}

/// Killed when it is dropped.
struct Running(Child);

impl Running {
    #[track_caller]
    fn ended_within(mut self, patience: Duration) -> Option<i32> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.code();
            }
            assert!(begun.elapsed() < patience, "SIGTERM does not end it");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // One that has ended cannot be killed, which is as well.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A pipe whose reader has gone fails every write; one that is full and stays so lets no write return.
#[test]
fn a_daemon_whose_log_nobody_reads_ships_wal_and_obeys_sigterm() {
    let server = PgServer::builder(majors_under_test()[0]).start().unwrap();
    server.psql("postgres", "CREATE TABLE ledger (n int)").unwrap();
    let scene = Scene::new(1);
    scene.configure_wal(&server.connection_string(), "", "");
    scene.daemon(&["init"]).expect(0);
    let (full_reader, mut full) = std::io::pipe().unwrap();
    fill(&mut full);
    for (number, stderr) in [(0, unread()), (1, Stdio::from(full))] {
        let mut command = scene.daemon_command();
        // As much as there can be to say.
        command.arg("run").env("LIFEBOAT_LOG", "debug").stdout(Stdio::null()).stderr(stderr);
        let mut daemon = Running(command.spawn().unwrap());
        scene.wait_for_backups(1);
        assert!(daemon.0.try_wait().unwrap().is_none(), "{number}: it has ended");
        scene.wait_until_durable(&insert(&server, number * 1000, number * 1000 + 999));
        let status = Command::new("kill").args(["-TERM", &daemon.0.id().to_string()]).status().unwrap();
        assert!(status.success());
        assert_eq!(daemon.ended_within(Duration::from_secs(60)), Some(0), "{number}");
    }
    drop(full_reader);
}

/// Writes until there is no room left.
fn fill(pipe: &mut std::io::PipeWriter) {
    use std::io::Write;
    let flags = rustix::fs::fcntl_getfl(&*pipe).unwrap();
    rustix::fs::fcntl_setfl(&*pipe, flags | rustix::fs::OFlags::NONBLOCK).unwrap();
    while pipe.write(&[b'.'; 4096]).is_ok() {}
    while pipe.write(b".").is_ok() {}
    rustix::fs::fcntl_setfl(&*pipe, flags).unwrap();
}

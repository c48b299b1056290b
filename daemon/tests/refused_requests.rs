//! What every command says and does while regions answer one kind of request with 404, 403, 503 or not at all.
//!
//! A cell is a command, a kind of request, an answer, and whether one region of two answers like that or both. What a region did not
//! show must not be claimed: not by a word, not by the exit code. Nothing is deleted, nobody waits for ever, and the message names
//! the region and what was asked of it. A command that never sends a kind of request while all is well has no cells for it: no
//! command that ends by itself asks HEAD, for example.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a scene that cannot be set up is a failed test")]

mod support;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::File;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use bytes::Bytes;
use lifeboat_s3_testd::{
    Bucket, Config, DelaySome, FailNext, Failure, FaultPlan, KeyPattern, Operation, Page, Server, Times,
};
use lifeboat_testkit::{PgServer, majors_under_test};
use support::{BUCKET, LEDGER, Said, Scene, insert};

/// What the regions of these tests are given, per request with all its attempts.
const PATIENCE: &str = "4s";
/// No command takes longer, whatever hangs, also on a busy machine.
const WAIT_MAX: Duration = Duration::from_secs(120);
/// Cells at the same time where nearly all of the time is spent with waiting, and where it is not: what answers must do so in time.
const WAITING_AT_ONCE: usize = 32;
const WORKING_AT_ONCE: usize = 12;
/// Backups at the same time: each takes connections of the server.
const BACKUPS_AT_ONCE: usize = 4;
const ASKED: [Operation; 4] =
    [Operation::ListObjectsV2, Operation::GetObject, Operation::HeadObject, Operation::PutObject];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// The page of a proxy.
    NotFoundPage,
    /// As S3 says it.
    NoSuchKey,
    Denied,
    Unavailable,
    None,
}

const ASKED_AGAIN: [Answer; 3] = [Answer::None, Answer::Unavailable, Answer::NotFoundPage];
const TAKEN_AS_SAID: [Answer; 2] = [Answer::NoSuchKey, Answer::Denied];

impl Answer {
    fn to(self, asked: Operation, plan: &mut FaultPlan) {
        let times = Times::of(asked, u64::MAX);
        let failure = match self {
            Self::NotFoundPage => {
                let page = "<html><body>404 page not found</body></html>";
                plan.page = Some(Page::refusal(times, 404, "text/html", page));
                return;
            }
            Self::None => {
                let (keys, by) = (KeyPattern::any(), Duration::from_secs(86_400));
                plan.delay_some = Some(DelaySome { operation: asked, keys, one_in: 1, by, salt: 0 });
                return;
            }
            Self::NoSuchKey => Failure::new(404, "NoSuchKey"),
            Self::Denied => Failure::status(403),
            Self::Unavailable => Failure::status(503),
        };
        plan.fail_next = Some(FailNext { times, failure });
    }

    /// Whether a message says what was asked of the region.
    fn is_told(self, asked: Operation, text: &str) -> bool {
        let is_about = match asked {
            Operation::ListObjectsV2 => text.contains("list ") && text.contains("* in s3://"),
            Operation::GetObject => text.contains(" from s3://"),
            Operation::PutObject => text.contains(" to s3://"),
            _ => text.contains("look at "),
        };
        // That something is not there is no failure of the request, but it cannot be made there either.
        let missing = ["there is no ", "no repository", "exists already"];
        let is_missing = missing.iter().any(|words| text.contains(words));
        is_about || self == Self::NoSuchKey && is_missing
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Faulty {
    One,
    All,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Program {
    Daemon,
    Restore,
    RestoreWithoutKey,
}

/// A command, and what must be true of it.
#[derive(Clone, Copy)]
struct Case {
    program: Program,
    /// `{...}` stand for what only the scene knows.
    line: &'static str,
    /// What it claims while all is well. Never said of a region that does not give what is asked, nor while none does.
    claim: &'static str,
    /// Its exit code if one region does not give what is asked, and if none does.
    codes: [&'static [i32]; 2],
    /// What it has to say if one region does not give what is asked, beside its name and the request.
    says: &'static str,
    /// Where the claim must not be made at all if one region does not give what is asked, not even of the others.
    is_of_all: bool,
}

const fn case(program: Program, line: &'static str, claim: &'static str, codes: [&'static [i32]; 2]) -> Case {
    Case { program, line, claim, codes, says: "", is_of_all: false }
}

/// As the table of exit codes in docs/COMMANDS.md has it: 4 for what was done in a part of the regions, 1 for what was not done.
const DEGRADED: [&[i32]; 2] = [&[4], &[1]];
const FAILED: [&[i32]; 2] = [&[1], &[1]];
/// A restore of the latest state does without no region; 10 says what else can be reached.
const LATEST: [&[i32]; 2] = [&[10], &[1]];
/// One region proves the target.
const PROVEN: [&[i32]; 2] = [&[0], &[1]];

fn cases() -> Vec<Case> {
    use Program::{Daemon, Restore, RestoreWithoutKey};
    let of_all = |case: Case| Case { is_of_all: true, ..case };
    let says = |says: &'static str, case: Case| Case { says, ..case };
    vec![
        of_all(case(Daemon, "list", " ok ", DEGRADED)),
        says("FAILED", case(Daemon, "doctor", "signed and in order", FAILED)),
        case(Daemon, "retention plan", "nothing goes", DEGRADED),
        case(Daemon, "retention apply --yes", "next deletion", DEGRADED),
        of_all(case(Daemon, "hold list", "is held\n", DEGRADED)),
        case(Daemon, "hold add {backup} --reason matrix --owner tests", "stays: hold", DEGRADED),
        of_all(case(Daemon, "heal --dry-run", "has everything", DEGRADED)),
        of_all(case(Daemon, "heal", "has everything", DEGRADED)),
        of_all(case(Daemon, "--json heal --dry-run", "\"whole\":true", DEGRADED)),
        of_all(says("by the sizes on record", case(Daemon, "scrub", "by names and sizes", DEGRADED))),
        case(
            Daemon,
            "delegate --root-key {signing} --key {other} --name lifeboat.other --role operator",
            ": written",
            DEGRADED,
        ),
        case(Daemon, "init", "recovery kit", FAILED),
        of_all(case(Daemon, "adopt", "nothing to do", FAILED)),
        of_all(case(Daemon, "backup", " is ok", [&[4], &[1, 5]])),
        of_all(case(Restore, "list", " ok ", DEGRADED)),
        of_all(says("may have more", case(Restore, "show", "ok\n", DEGRADED))),
        says("may have more", case(Restore, "window", "to LSN", DEGRADED)),
        says("NOT VERIFIED", case(Restore, "verify", "is intact", FAILED)),
        says("NOT VERIFIED", case(RestoreWithoutKey, "verify", "is intact", FAILED)),
        of_all(says("may have more", case(Restore, "keys signers", "no other key may sign", DEGRADED))),
        of_all(says("--without-region", case(Restore, "restore --dry-run --to {target}", "WAL ends at", LATEST))),
        of_all(says("--without-region", case(Restore, "restore --to {target}", "WAL ends at", LATEST))),
        says(
            "may have a newer backup",
            case(Restore, "restore --dry-run --target immediate --to {target}", "is consistent at", PROVEN),
        ),
        says(
            "what it alone holds is not restored",
            case(Restore, "restore --dry-run --without-region region-2 --to {target}", "WAL ends at", PROVEN),
        ),
    ]
}

/// What a region holds: its objects by key.
type Objects = BTreeMap<String, Bytes>;

/// A repository with a backup and WAL, from which every cell gets copies of its own.
struct Prepared {
    scene: Scene,
    _server: PgServer,
    objects: Vec<Objects>,
    backup: String,
    other_key: String,
    backups: [Mutex<()>; BACKUPS_AT_ONCE],
}

/// Copies of the regions, with a configuration.
struct World {
    servers: Vec<Server>,
    number: usize,
}

impl Prepared {
    fn new() -> Self {
        let builder = PgServer::builder(majors_under_test()[0]).setting("max_wal_senders", "60");
        let server = builder.setting("max_replication_slots", "20").setting("fsync", "off").start().unwrap();
        server.psql("postgres", LEDGER).unwrap();
        let scene = Scene::new(2);
        scene.configure_wal(&server.connection_string(), "", "[durability]\nbackup_quorum = 1");
        scene.daemon(&["init"]).expect(0);
        let daemon = scene.run_daemon();
        scene.wait_for_backups(1);
        scene.wait_until_durable(&insert(&server, 1, 1000));
        assert_eq!(daemon.stop(), Some(0));
        // Both are alike, whatever the daemon has come to.
        scene.daemon(&["heal"]).expect(0);
        let listed = scene.daemon(&["--json", "list"]).expect(0).json();
        let backup = listed["backups"][0]["record"]["backup"].as_str().unwrap().to_owned();
        let objects = scene.regions.iter().map(contents).collect();
        let key = scene.site.dir.path().join("other.key");
        let made = Command::new(scene.site.restore_program()).args(["keygen", "--signing", "--out"]).arg(key).output();
        let other_key = Said::from(made.unwrap()).expect(0).out.trim().to_owned();
        Self { scene, _server: server, objects, backup, other_key, backups: Default::default() }
    }

    fn world(&self, number: usize) -> World {
        let copy = |objects: &Objects| {
            let config = Config { buckets: vec![Bucket::plain(BUCKET)], page_size: 50, ..Config::default() };
            let server = Server::start(config).unwrap();
            server.faults().change(|plan| plan.etag_not_md5 = true);
            objects.iter().for_each(|(key, body)| server.put_raw(BUCKET, key, body.clone()).unwrap());
            server
        };
        let world = World { servers: self.objects.iter().map(copy).collect(), number };
        let mut text = std::fs::read_to_string(self.scene.config()).unwrap();
        text = self.at(&world, &text).replace("/state\"", &format!("/state-{number}\""));
        text = text.replace("profile = ", &format!("patience = \"{PATIENCE}\"\nprofile = "));
        std::fs::write(self.path(number, "toml"), text).unwrap();
        world
    }

    /// The same text with the addresses of a copy.
    fn at(&self, world: &World, text: &str) -> String {
        let pairs = self.scene.regions.iter().zip(&world.servers);
        pairs.fold(text.to_owned(), |text, (original, copy)| text.replace(&original.url(), &copy.url()))
    }

    fn path(&self, number: usize, what: &str) -> std::path::PathBuf {
        self.scene.site.dir.path().join(format!("cell-{number}.{what}"))
    }

    fn command(&self, case: &Case, world: &World) -> Command {
        let site = &self.scene.site;
        let mut command = match case.program {
            Program::Daemon => Command::new(env!("CARGO_BIN_EXE_lifeboatd")),
            Program::Restore | Program::RestoreWithoutKey => Command::new(site.restore_program()),
        };
        match case.program {
            Program::Daemon => {
                command.arg("--config").arg(self.path(world.number, "toml"));
            }
            Program::Restore | Program::RestoreWithoutKey => {
                for region in 0..world.servers.len() {
                    let address = self.at(world, &site.address(region));
                    command.args(["--region", &format!("{address}&patience={PATIENCE}")]);
                }
            }
        }
        if case.program == Program::Restore {
            command.arg("--identity").arg(site.identity());
        }
        for word in case.line.split(' ') {
            match word {
                "{backup}" => command.arg(&self.backup),
                "{other}" => command.arg(&self.other_key),
                "{signing}" => command.arg(site.signing_key()),
                "{target}" => command.arg(site.target(&format!("cell-{}", world.number))),
                word => command.arg(word),
            };
        }
        command
    }

    /// Runs a command to its end, and says how long it took; one that takes too long is killed.
    fn run(&self, case: &Case, world: &World) -> (Said, Duration) {
        let _turn = (case.line == "backup").then(|| {
            let turn = &self.backups[world.number % BACKUPS_AT_ONCE];
            turn.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
        });
        let (out, err) = (self.path(world.number, "out"), self.path(world.number, "err"));
        let mut command = self.command(case, world);
        command.stdin(Stdio::null()).stdout(File::create(&out).unwrap()).stderr(File::create(&err).unwrap());
        let begun = Instant::now();
        let mut child = command.spawn().unwrap();
        let code = loop {
            match child.try_wait().unwrap() {
                Some(status) => break status.code(),
                None if begun.elapsed() > WAIT_MAX => {
                    child.kill().unwrap();
                    child.wait().unwrap();
                    break None;
                }
                None => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        let read = |path| std::fs::read_to_string(path).unwrap();
        (Said { code, out: read(&out), err: read(&err) }, begun.elapsed())
    }
}

fn contents(server: &Server) -> Objects {
    let keys = server.keys(BUCKET).into_iter();
    keys.map(|key| (key.clone(), server.object(BUCKET, &key).unwrap())).collect()
}

/// One command under one fault.
struct Cell {
    case: Case,
    asked: Operation,
    answer: Answer,
    faulty: Faulty,
    /// Whether the command writes into regions while all is well.
    writes: bool,
}

impl Cell {
    fn title(&self) -> String {
        let Self { case, asked, answer, faulty, .. } = self;
        format!("{:?} {:?}, {asked:?} is answered with {answer:?} in {faulty:?}", case.program, case.line)
    }

    /// Everything that is not as it has to be.
    fn judge(&self, prepared: &Prepared, number: usize) -> Vec<String> {
        let world = prepared.world(number);
        let first = usize::from(self.faulty == Faulty::One);
        for server in &world.servers[first..] {
            server.faults().change(|plan| self.answer.to(self.asked, plan));
        }
        let (said, took) = prepared.run(&self.case, &world);
        let mut wrong = self.words(&said);
        if said.code.is_none() {
            wrong.push(format!("it was killed after {took:?}"));
        }
        for (region, server) in world.servers.iter().enumerate() {
            let (before, after) = (&prepared.objects[region], contents(server));
            let is_kept = before.iter().all(|(key, body)| after.get(key) == Some(body) || key.contains("/state/"));
            let is_same = self.writes || before.keys().eq(after.keys());
            if !is_kept || !is_same {
                let (before, after): (BTreeSet<_>, BTreeSet<_>) = (before.keys().collect(), after.keys().collect());
                wrong.push(format!("region {region} was changed: {:?}", before.symmetric_difference(&after)));
            }
        }
        let written = prepared.scene.site.dir.path().join(format!("cell-{number}/data/global/pg_control"));
        if said.code != Some(0) && written.exists() {
            wrong.push("a directory is left that could be started".to_owned());
        }
        if !wrong.is_empty() {
            wrong.push(format!("stdout:\n{}\nstderr:\n{}", said.out, said.err));
        }
        wrong
    }

    fn words(&self, said: &Said) -> Vec<String> {
        let Self { case, asked, answer, faulty, .. } = self;
        let mut wrong = Vec::new();
        let expected = case.codes[usize::from(*faulty == Faulty::All)];
        if !said.code.is_some_and(|code| expected.contains(&code)) {
            wrong.push(format!("exit code {:?} and not one of {expected:?}", said.code));
        }
        let text = format!("{}\n{}", said.out, said.err);
        let lines: Vec<&str> = text.lines().filter(|line| self.is_about_faulty(line)).collect();
        if lines.is_empty() {
            wrong.push("no region is named".to_owned());
        }
        // A table says what was tried, and a region that was left out by hand is not asked.
        let is_table = case.line == "doctor" || case.line.contains("--without-region") && *faulty == Faulty::One;
        if !is_table && !answer.is_told(*asked, &text) {
            wrong.push("what was asked of the region is not told".to_owned());
        }
        let is_claimed = match faulty {
            Faulty::One if !case.is_of_all => lines.iter().any(|line| line.contains(case.claim)),
            Faulty::One | Faulty::All => text.contains(case.claim),
        };
        if is_claimed {
            wrong.push(format!("{:?} is claimed", case.claim));
        }
        if *faulty == Faulty::One && !text.contains(case.says) {
            wrong.push(format!("{:?} is not said", case.says));
        }
        wrong
    }

    /// Whether a line names a region that is faulty: by its name, or by its number on the command line.
    fn is_about_faulty(&self, line: &str) -> bool {
        let names: &[&str] = match self.faulty {
            Faulty::One => &["r1", "region-2"],
            Faulty::All => &["r0", "r1", "region-1", "region-2"],
        };
        line.split(|c: char| !c.is_ascii_alphanumeric() && c != '-').any(|word| names.contains(&word))
    }
}

/// Runs `work` on each item, so many at a time, and gathers what it returns.
fn each<T: Send, R: Send>(items: Vec<T>, at_once: usize, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    let queue: Mutex<VecDeque<T>> = Mutex::new(items.into());
    let results = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                while let Some(item) = { queue.lock().unwrap().pop_front() } {
                    let result = work(item);
                    results.lock().unwrap().push(result);
                }
            });
        }
    });
    results.into_inner().unwrap()
}

/// What a command asks of the regions while all is well, and that it claims what it claims.
fn requests_of(prepared: &Prepared, number: usize, case: Case) -> (Case, Vec<Operation>) {
    let world = prepared.world(number);
    let (said, _) = prepared.run(&case, &world);
    let said = Said { err: format!("{:?}: {}", case.line, said.err), ..said }.expect(0);
    let is_claimed = said.out.contains(case.claim);
    assert!(is_claimed, "{:?} does not say {:?}: {}", case.line, case.claim, said.out);
    let asks = |asked: &Operation| world.servers.iter().any(|server| server.count(*asked) > 0);
    (case, ASKED.into_iter().filter(asks).collect())
}

#[test]
fn no_command_claims_what_a_region_did_not_show_whatever_it_answers_to_which_request() {
    let prepared = Prepared::new();
    let numbered = cases().into_iter().enumerate().collect();
    let asked = each(numbered, WORKING_AT_ONCE, |(number, case)| requests_of(&prepared, number, case));
    let mut number = asked.len();
    let mut cells_of = |answers: &[Answer]| {
        let mut cells = Vec::new();
        for (answer, (case, requests)) in answers.iter().flat_map(|answer| asked.iter().map(move |of| (answer, of))) {
            let writes = requests.contains(&Operation::PutObject);
            for (asked, faulty) in requests.iter().flat_map(|asked| [(*asked, Faulty::One), (*asked, Faulty::All)]) {
                cells.push((number, Cell { case: *case, asked, answer: *answer, faulty, writes }));
                number += 1;
            }
        }
        cells
    };
    let (waiting, working) = (cells_of(&ASKED_AGAIN), cells_of(&TAKEN_AS_SAID));
    let count = waiting.len() + working.len();
    assert!(count > 400, "only {count} cells");
    let begun = Instant::now();
    let judge = |(number, cell): (usize, Cell)| {
        let wrong = cell.judge(&prepared, number);
        (!wrong.is_empty()).then(|| format!("== {}\n{}", cell.title(), wrong.join("\n")))
    };
    let mut failures = each(waiting, WAITING_AT_ONCE, judge);
    failures.extend(each(working, WORKING_AT_ONCE, judge));
    let failures: Vec<String> = failures.into_iter().flatten().collect();
    let summary =
        format!("{} of {count} cells are not as they have to be, after {:?}", failures.len(), begun.elapsed());
    assert!(failures.is_empty(), "{}\n{summary}", failures.join("\n\n"));
}

#[test]
fn damage_that_cannot_be_recorded_is_not_said_to_be_on_record_and_nothing_refused_is_called_healed() {
    let prepared = Prepared::new();
    let world = prepared.world(0);
    let pack = prepared.objects[1].keys().find(|key| key.ends_with(".lbp")).unwrap();
    world.servers[1].remove_raw(BUCKET, pack).unwrap();
    let run = |line: &'static str| prepared.run(&case(Program::Daemon, line, "", DEGRADED), &world).0;
    world.servers[1].faults().change(|plan| Answer::Denied.to(Operation::PutObject, plan));
    let scrubbed = run("scrub").expect(6);
    assert!(scrubbed.out.contains("could not be put on record"), "{}", scrubbed.out);
    assert!(scrubbed.out.contains("not all of it is on record") && !scrubbed.out.contains("it is on record;"));
    let healed = run("heal").expect(6);
    let row = healed.out.lines().find(|line| line.starts_with("r1 ")).unwrap();
    assert!(!row.contains("healed") && !row.contains("has everything"), "{}", healed.out);
    world.servers[1].faults().clear();
    let scrubbed = run("scrub").expect(6);
    assert!(scrubbed.out.contains("it is on record; `lifeboatd heal` replaces it"), "{}", scrubbed.out);
    run("heal").expect(0);
    let scrubbed = run("scrub").expect(0);
    assert_eq!(scrubbed.out.matches("all there, by names and sizes").count(), 2, "{}", scrubbed.out);
    assert_eq!(contents(&world.servers[1]).get(pack), prepared.objects[1].get(pack));
}

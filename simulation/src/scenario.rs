//! What happens: faults that a seed decides, then a quarter of an hour in which everything works, and then the account.

use std::sync::Arc;
use std::time::Duration;

use lifeboat_testkit::SeededRandom;
use lifeboat_vocabulary::WalPosition;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::intruder::Intruder;
use crate::network::Condition;
use crate::outcome::{Counts, Kind, Outcome};
use crate::promises::Account;
use crate::schedule::Schedule;
use crate::server::Server;
use crate::world::{QUORUM, REGIONS, World};

/// An orderly stop.
const PATIENCE: Duration = Duration::from_secs(60);

/// Commits transactions, as clients do, until the stop.
async fn clients(server: Arc<Server>, mut random: SeededRandom, stop: CancellationToken) {
    loop {
        let pause = Duration::from_millis(500 + random.below(8000));
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(pause) => {}
        }
        match random.below(80) {
            0 => server.checkpoint(),
            1 => server.switch_segment(),
            2..5 => drop(server.commit(120_000)),
            _ => drop(server.commit(random.index(8000))),
        }
    }
}

struct Scene {
    world: World,
    random: SeededRandom,
    kind: Kind,
    intruder: Intruder,
    account: Account,
    begun: Instant,
    events: Vec<String>,
    /// What ends later, and when.
    ending: Vec<(Instant, Ending)>,
    is_revoked: bool,
    /// Up to where the server was told that WAL is safe, which it then lost.
    lost_what_was_told: Option<WalPosition>,
}

#[derive(Clone, Copy, Debug)]
enum Ending {
    /// The network from a host to a region is good again.
    Network { is_writers: bool, region: usize },
    /// A host begins again.
    Host { is_writers: bool },
    /// The server is up again.
    Server,
    /// The clock of a host is right again.
    Clock { is_writers: bool },
}

/// Runs the simulation of a seed.
pub(crate) async fn run(seed: u64, kind: Kind) -> anyhow::Result<Outcome> {
    let mut random = SeededRandom::new(seed);
    // Most backups of the others are deleted now and then, too.
    let schedule = Schedule::of(kind, random.one_in(6));
    let wal_quorum = 1 + random.index(QUORUM);
    let world = World::new(random.bits(), schedule, wal_quorum).await?;
    let stop = CancellationToken::new();
    let clients = tokio::spawn(clients(Arc::clone(&world.server), SeededRandom::new(random.bits()), stop.clone()));
    let intruder = Intruder::new(&world, random.bits());
    let mut scene = Scene {
        account: Account::new(world.reader()?, world.onlooker()?),
        world,
        random,
        kind,
        intruder,
        begun: Instant::now(),
        events: Vec::new(),
        ending: Vec::new(),
        is_revoked: false,
        lost_what_was_told: None,
    };
    let broken = match scene.play().await {
        Ok(()) => scene.account.broken(),
        Err(error) => scene.account.broken().into_iter().chain([format!("the scene itself: {error:#}")]).collect(),
    };
    if !broken.is_empty() {
        scene.events.extend(scene.account.logs(&scene.world).await?);
    }
    stop.cancel();
    drop(clients.await);
    scene.world.writer.stop(Duration::ZERO).await;
    scene.world.pruner.stop(Duration::ZERO).await;
    let counts: Counts = scene.account.counts();
    Ok(Outcome { seed, kind, events: scene.events, broken, counts })
}

impl Scene {
    fn note(&mut self, what: impl Into<String>) {
        let at = self.begun.elapsed().as_secs();
        let what: String = what.into();
        tracing::info!(at, what, "EVENT");
        self.events.push(format!("{:>3}:{:02} {what}", at / 60, at % 60));
    }

    async fn play(&mut self) -> anyhow::Result<()> {
        self.world.writer.start()?;
        self.world.pruner.start()?;
        // The first backup, before anything goes wrong.
        sleep(Duration::from_secs(90)).await;
        while self.begun.elapsed() < self.world.schedule().troubled {
            let pause = Duration::from_secs(3 + self.random.below(40));
            self.wait(pause).await?;
            if self.kind != Kind::Quiet {
                self.something().await?;
            }
            self.retention().await?;
            self.look().await?;
        }
        self.calm().await?;
        let until = Instant::now() + self.world.schedule().calm;
        while Instant::now() < until {
            // Retention is carried out when a daemon begins, and each day.
            self.world.pruner.stop(PATIENCE).await;
            self.world.pruner.start()?;
            // A region that was slow is said to have recovered after five minutes.
            self.wait(Duration::from_secs(30)).await?;
            self.account.look_at_window(&self.world, self.kind).await?;
            for _ in 0..8 {
                self.wait(Duration::from_secs(40)).await?;
                self.retention().await?;
                self.look().await?;
            }
        }
        // What is read must not be deleted meanwhile.
        self.world.pruner.stop(PATIENCE).await;
        // A server that took over from there before anybody looked is a standby that lagged, for all that can be seen.
        let is_lag = |told: &WalPosition| {
            let left = self.world.server.left_at(told.timeline.get());
            left.is_some_and(|fork| fork < told.lsn.as_bytes())
        };
        let is_lost = self.lost_what_was_told.is_some_and(|told| !is_lag(&told));
        self.account.close(&self.world, self.kind, self.intruder.deeds(), is_lost).await
    }

    /// Retention is carried out when a daemon begins, and each day.
    async fn retention(&mut self) -> anyhow::Result<()> {
        let one_in = self.world.schedule().retention_one_in;
        if one_in > 0 && self.random.one_in(one_in) && self.world.pruner.is_running() {
            self.world.pruner.stop(PATIENCE).await;
            self.world.pruner.start()?;
        }
        Ok(())
    }

    async fn look(&mut self) -> anyhow::Result<()> {
        let deeds = self.intruder.deeds();
        let is_ours = self.is_revoked || deeds.ahead + deeds.gaps == 0;
        self.account.look(&self.world, is_ours).await
    }

    /// Lets time pass; what is to end meanwhile ends.
    async fn wait(&mut self, pause: Duration) -> anyhow::Result<()> {
        let until = Instant::now() + pause;
        loop {
            let next =
                self.ending.iter().enumerate().min_by_key(|(_, (at, _))| *at).map(|(index, (at, _))| (index, *at));
            match next {
                Some((index, at)) if at <= until => {
                    tokio::time::sleep_until(at).await;
                    let (_, ending) = self.ending.swap_remove(index);
                    self.end(ending)?;
                }
                _ => {
                    tokio::time::sleep_until(until).await;
                    return Ok(());
                }
            }
        }
    }

    fn end(&mut self, ending: Ending) -> anyhow::Result<()> {
        self.note(format!("ends: {ending:?}"));
        match ending {
            Ending::Network { is_writers, region } => {
                let host = if is_writers { &self.world.writer } else { &self.world.pruner };
                if let Some(network) = host.networks().get(region) {
                    network.set(Condition::GOOD);
                }
            }
            Ending::Host { is_writers } => {
                let host = if is_writers { &mut self.world.writer } else { &mut self.world.pruner };
                if !host.is_running() {
                    host.start()?;
                }
            }
            Ending::Server => self.world.server.set_up(true),
            Ending::Clock { is_writers } => {
                let host = if is_writers { &self.world.writer } else { &self.world.pruner };
                host.clock().set_ahead(0);
            }
        }
        Ok(())
    }

    fn later(&mut self, most_seconds: u64, ending: Ending) {
        let after = Duration::from_secs(1 + self.random.below(most_seconds));
        self.ending.push((Instant::now() + after, ending));
    }

    /// Everything works again.
    async fn calm(&mut self) -> anyhow::Result<()> {
        self.note("calm");
        for (_, ending) in std::mem::take(&mut self.ending) {
            self.end(ending)?;
        }
        if self.kind == Kind::Revoked && !self.is_revoked {
            self.revoke().await?;
        }
        Ok(())
    }

    async fn something(&mut self) -> anyhow::Result<()> {
        let is_writers = !self.random.one_in(3);
        let special = !self.random.one_in(3);
        match self.kind {
            Kind::Intruder if special => return self.intrude().await,
            Kind::Revoked if special && !self.is_revoked => {
                // After a while somebody notices.
                if self.begun.elapsed() > self.world.schedule().troubled / 2 {
                    return self.revoke().await;
                } else {
                    return self.intrude().await;
                }
            }
            // What he still has of the key.
            Kind::Revoked if special => return self.intrude().await,
            Kind::SetBack
                if special
                    && !self.world.server.was_set_back()
                    && self.begun.elapsed() > self.world.schedule().troubled / 3 =>
            {
                return self.set_back().await;
            }
            Kind::Disk if special && self.random.one_in(2) => return self.lose_spool().await,
            Kind::Clocks if special && self.random.one_in(2) => {
                let ahead = i64::try_from(self.random.below(40_000)).unwrap_or(0) - 20_000;
                let host = if is_writers { &self.world.writer } else { &self.world.pruner };
                host.clock().set_ahead(ahead);
                self.note(format!("the clock of the {} is {ahead} s ahead", name(is_writers)));
                self.later(400, Ending::Clock { is_writers });
                return Ok(());
            }
            _ => {}
        }
        self.ordinary_fault(is_writers).await
    }

    async fn ordinary_fault(&mut self, is_writers: bool) -> anyhow::Result<()> {
        match self.random.below(10) {
            0..3 => {
                let region = self.random.index(REGIONS);
                let condition = match self.random.below(3) {
                    0 => Condition::AWAY,
                    1 => Condition { loses_one_in: 2 + self.random.below(6), ..Condition::GOOD },
                    _ => Condition { slow_millis: 5000, ..Condition::GOOD },
                };
                self.network(is_writers, region, condition);
            }
            9 => return self.takeover_while_regions_are_away().await,
            3..5 => {
                self.note(format!("the {} loses its power", name(is_writers)));
                let host = if is_writers { &mut self.world.writer } else { &mut self.world.pruner };
                host.stop(Duration::ZERO).await;
                // What was told before it went down is all that there is.
                self.look().await?;
                self.later(60, Ending::Host { is_writers });
            }
            5 => {
                self.note(format!("the {} is stopped in order", name(is_writers)));
                let host = if is_writers { &mut self.world.writer } else { &mut self.world.pruner };
                host.stop(PATIENCE).await;
                self.later(120, Ending::Host { is_writers });
            }
            6 => {
                self.note("the server restarts");
                self.world.server.set_up(false);
                self.later(40, Ending::Server);
            }
            7 => {
                let lacks = if self.random.one_in(2) { self.random.below(60_000) } else { 0 };
                let has_slots = self.random.one_in(2);
                let fork = self.world.server.promote(lacks, has_slots);
                self.note(format!("a standby takes over, slots: {has_slots}, it lacks {lacks} bytes: {fork}"));
            }
            _ => {
                self.note("connections are lost");
                self.world.server.disconnect();
            }
        }
        Ok(())
    }

    fn network(&mut self, is_writers: bool, region: usize, condition: Condition) {
        let host = if is_writers { &self.world.writer } else { &self.world.pruner };
        if let Some(network) = host.networks().get(region) {
            network.set(condition);
        }
        self.note(format!("the network from the {} to r{region}: {condition:?}", name(is_writers)));
        self.later(200, Ending::Network { is_writers, region });
    }

    /// The writer cannot reach one region, or two.
    fn regions_away(&mut self) {
        let (first, both) = (self.random.index(REGIONS), self.random.one_in(2));
        self.network(true, first, Condition::AWAY);
        if both {
            self.network(true, (first + 1) % REGIONS, Condition::AWAY);
        }
    }

    /// What a new primary no longer has is missing, and a daemon that begins then does not know what every region has.
    async fn takeover_while_regions_are_away(&mut self) -> anyhow::Result<()> {
        self.regions_away();
        self.note("the writer loses its power");
        self.world.writer.stop(Duration::ZERO).await;
        self.look().await?;
        let lacks = if self.random.one_in(2) { self.random.below(60_000) } else { 0 };
        let fork = self.world.server.promote(lacks, false);
        self.note(format!("a standby takes over without slots, it lacks {lacks} bytes: {fork}"));
        self.later(20, Ending::Host { is_writers: true });
        Ok(())
    }

    /// The disk loses files of the spool; often while they are the only copy.
    async fn lose_spool(&mut self) -> anyhow::Result<()> {
        if self.random.one_in(2) {
            self.regions_away();
            let pause = Duration::from_secs(5 + self.random.below(20));
            self.wait(pause).await?;
            if self.random.one_in(2) {
                // What was in memory is gone, too.
                self.note("the writer loses its power");
                self.world.writer.stop(Duration::ZERO).await;
                self.look().await?;
                if self.random.one_in(2) {
                    self.later(30, Ending::Host { is_writers: true });
                } else {
                    self.world.writer.start()?;
                    self.wait(Duration::from_secs(8)).await?;
                }
            }
        }
        for _ in 0..=self.random.below(4) {
            self.damage_spool()?;
        }
        Ok(())
    }

    async fn intrude(&mut self) -> anyhow::Result<()> {
        let what = self.intruder.act(&self.world).await?;
        self.note(format!("the intruder {what}"));
        Ok(())
    }

    async fn revoke(&mut self) -> anyhow::Result<()> {
        self.note("the writer's key is revoked, and the host begins with another one");
        self.world.writer.stop(Duration::ZERO).await;
        let key = self.world.writer.key().verify_key();
        self.world.revoke(key).await?;
        self.world.change_writers_key().await?;
        self.look().await?;
        self.is_revoked = true;
        self.world.writer.start()?;
        Ok(())
    }

    async fn set_back(&mut self) -> anyhow::Result<()> {
        let before: Option<WalPosition> = self.world.server.flushed();
        let bytes = 1 + self.random.below(100_000);
        let to = self.world.server.set_back(bytes);
        let lost = before.filter(|told| told.timeline == to.timeline && told.lsn > to.lsn);
        self.lost_what_was_told = lost.or(self.lost_what_was_told);
        self.note(format!("the server is set back to {to}; it was told {before:?}"));
        Ok(())
    }

    #[expect(clippy::disallowed_methods, reason = "it is what a disk does that loses writes")]
    fn damage_spool(&mut self) -> anyhow::Result<()> {
        let spool = self.world.writer.spool();
        let Ok(files) = std::fs::read_dir(&spool) else { return Ok(()) };
        let mut names: Vec<_> = files.filter_map(Result::ok).map(|entry| entry.path()).collect();
        names.retain(|path| path.to_string_lossy().ends_with(".lbw") || path.to_string_lossy().ends_with("-notice"));
        names.sort();
        let Some(path) = self.random.choose(&names).cloned() else { return Ok(()) };
        let length = std::fs::metadata(&path).map_or(0, |meta| meta.len());
        if self.random.one_in(2) {
            std::fs::remove_file(&path)?;
        } else {
            std::fs::write(&path, vec![0; usize::try_from(length)?])?;
        }
        self.note(format!("the disk loses {}", path.file_name().unwrap_or_default().to_string_lossy()));
        Ok(())
    }
}

fn name(is_writers: bool) -> &'static str {
    if is_writers { "writer" } else { "pruner" }
}

//! One session: what the daemon asks, and the answers.

use std::io;
use std::time::Duration;

use bytes::{Buf, BufMut, BytesMut};
use tokio::io::DuplexStream;

use crate::pace::ThreadsWork;
use crate::server::base_backup;
use crate::server::message::{Line, Row};
use crate::server::state::{Inner, SYSTEM_IDENTIFIER, Slot, State, lsn_text, position};
use crate::server::wal::SEGMENT;

/// The most bytes of WAL in a message, as in a real server.
const MESSAGE: u64 = 128 << 10;
/// How often a stream says that it lives.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// Settings that the server tells.
const SETTINGS: [(&str, &str); 10] = [
    ("archive_mode", "off"),
    ("block_size", "8192"),
    ("data_checksums", "off"),
    ("max_connections", "100"),
    ("max_locks_per_transaction", "64"),
    ("max_prepared_transactions", "0"),
    ("max_wal_senders", "10"),
    ("max_worker_processes", "8"),
    ("wal_level", "replica"),
    ("wal_segment_size", "1MB"),
];

/// Answers until the client goes.
pub(super) async fn serve(inner: &Inner, stream: DuplexStream) -> io::Result<()> {
    let mut line = Line::new(stream);
    line.startup().await?;
    let process = {
        let mut state = inner.state.lock();
        state.processes += 1;
        state.processes
    };
    line.put_welcome(process);
    let mut session = Session { inner, line, process, work: None };
    let ended = session.run().await;
    let mut state = inner.state.lock();
    state.slots.retain(|_, slot| !(slot.is_temporary && slot.active == Some(process)));
    state.slots.values_mut().filter(|slot| slot.active == Some(process)).for_each(|slot| slot.active = None);
    ended
}

struct Session<'s> {
    inner: &'s Inner,
    line: Line,
    process: u32,
    /// Whoever has asked for a backup works at it until the session ends.
    work: Option<ThreadsWork>,
}

fn one(text: impl Into<String>) -> Vec<Row> {
    vec![vec![Some(text.into())]]
}

impl Session<'_> {
    async fn run(&mut self) -> io::Result<()> {
        loop {
            self.line.flush().await?;
            match self.line.next().await? {
                (b'Q', text) => {
                    let sql = String::from_utf8_lossy(&text).trim_end_matches('\0').to_owned();
                    if sql.starts_with("START_REPLICATION") {
                        self.stream(&sql).await?;
                    } else if sql.starts_with("BASE_BACKUP") {
                        self.work = Some(ThreadsWork::begin());
                        base_backup::send(self.inner, &mut self.line).await?;
                    } else {
                        self.answer(&sql);
                    }
                    self.line.put_ready();
                }
                _ => return Ok(()),
            }
        }
    }

    fn answer(&mut self, sql: &str) {
        if sql.starts_with("SET ") {
            return sql.split(';').for_each(|_| self.line.put_complete("SET"));
        }
        let mut state = self.inner.state.lock();
        let answered = rows_of(&mut state, sql, self.process);
        drop(state);
        match answered {
            Ok(rows) => {
                self.line.put_rows(rows.first().map_or(1, Vec::len), &rows);
                self.line.put_complete("SELECT");
            }
            Err((code, message)) => self.line.put_error(code, &message),
        }
    }

    /// `START_REPLICATION [SLOT "name"] PHYSICAL lsn TIMELINE timeline`.
    async fn stream(&mut self, sql: &str) -> io::Result<()> {
        let words: Vec<&str> = sql.split_whitespace().collect();
        let after =
            |word: &str| words.iter().position(|found| *found == word).and_then(|at| words.get(at + 1)).copied();
        let slot = after("SLOT").map(|name| name.trim_matches('"').to_owned());
        let timeline: u32 = after("TIMELINE").and_then(|text| text.parse().ok()).unwrap_or(1);
        let from = after("PHYSICAL").and_then(|text| text.parse::<lifeboat_vocabulary::Lsn>().ok());
        let mut at = from.map_or(0, lifeboat_vocabulary::Lsn::as_bytes);
        let begun = begin(&mut self.inner.state.lock(), slot.as_deref(), timeline, at, self.process);
        if let Err((code, message)) = begun {
            self.line.put_error(code, &message);
            return Ok(());
        }
        let mut written = self.inner.written.subscribe();
        let mut keepalive = tokio::time::interval(KEEPALIVE);
        let mut has_begun = false;
        loop {
            let (chunk, end, fork) = {
                let state = self.inner.state.lock();
                let Some((wal, fork)) = state.timeline(timeline) else {
                    return Err(io::ErrorKind::NotConnected.into());
                };
                let end = fork.unwrap_or(wal.end());
                (wal.range(at, end.min(at + MESSAGE)).to_vec(), end, fork)
            };
            if at >= end
                && let Some(fork) = fork
            {
                return self.end_of_timeline(timeline, fork, has_begun).await;
            }
            if !has_begun {
                self.line.put(b'W', &[0, 0, 0]);
                has_begun = true;
                // As the server does: it finds out when it reads, and then it has agreed to stream.
                if let Some(removed) = removed(&self.inner.state.lock(), timeline, at) {
                    self.line.put_error("58P01", &removed);
                    return Ok(());
                }
            }
            if !chunk.is_empty() {
                let mut message = BytesMut::new();
                message.put_u8(b'w');
                message.put_u64(at);
                message.put_u64(end);
                message.put_i64(self.now());
                message.put_slice(&chunk);
                self.line.put(b'd', &message);
                at += chunk.len() as u64;
            }
            self.line.flush().await?;
            let is_behind = at < end;
            tokio::select! {
                biased;
                message = self.line.next() => match message? {
                    (b'd', status) => self.status(slot.as_deref(), timeline, status),
                    _ => return Err(io::ErrorKind::ConnectionAborted.into()),
                },
                () = std::future::ready(()), if is_behind => {}
                _ = written.changed() => {}
                _ = keepalive.tick() => {
                    let mut message = BytesMut::new();
                    message.put_u8(b'k');
                    message.put_u64(at);
                    message.put_i64(self.now());
                    message.put_u8(0);
                    self.line.put(b'd', &message);
                }
            }
        }
    }

    /// Microseconds since 2000.
    fn now(&self) -> i64 {
        self.inner.clock.now().as_unix_micros() - 946_684_800_000_000
    }

    async fn end_of_timeline(&mut self, timeline: u32, fork: u64, has_begun: bool) -> io::Result<()> {
        if has_begun {
            self.line.put(b'c', &[]);
            self.line.flush().await?;
            while self.line.next().await?.0 != b'c' {}
        }
        let next = vec![Some((timeline + 1).to_string()), Some(lsn_text(fork))];
        self.line.put_rows(2, &[next]);
        self.line.put_complete("START_STREAMING");
        Ok(())
    }

    fn status(&self, slot: Option<&str>, timeline: u32, mut status: bytes::Bytes) {
        if status.len() < 17 || status.get_u8() != b'r' {
            return;
        }
        status.advance(8);
        let flush = status.get_u64();
        let mut state = self.inner.state.lock();
        let Some(slot) = slot.and_then(|name| state.slots.get_mut(name)).filter(|_| flush > 0) else { return };
        // Back as well (`PhysicalConfirmReceivedLocation`).
        slot.restart = flush;
        let told = position(timeline, flush);
        let in_order = |position: &lifeboat_vocabulary::WalPosition| (position.timeline, position.lsn);
        state.flushed = state.flushed.into_iter().chain([told]).max_by_key(in_order);
    }
}

type Refusal = (&'static str, String);

/// Whether a stream may begin.
fn begin(state: &mut State, slot: Option<&str>, timeline: u32, at: u64, process: u32) -> Result<(), Refusal> {
    let Some((wal, fork)) = state.timeline(timeline) else {
        return Err(("XX000", format!("requested timeline {timeline} is not in this server's history")));
    };
    let end = fork.unwrap_or(wal.end());
    if at > end {
        let (at, end) = (lsn_text(at), lsn_text(end));
        let text = format!("requested starting point {at} is ahead of the WAL flush position of this server {end}");
        return Err(("XX000", text));
    }
    if let Some(name) = slot {
        match state.slots.get_mut(name) {
            None => return Err(("42704", format!("replication slot \"{name}\" does not exist"))),
            Some(Slot { active: Some(pid), .. }) => {
                return Err(("55006", format!("replication slot \"{name}\" is active for PID {pid}")));
            }
            Some(slot) => slot.active = Some(process),
        }
    }
    Ok(())
}

/// Says that the server does not have what a stream begins with.
fn removed(state: &State, timeline: u32, at: u64) -> Option<String> {
    // Of its own timeline a server has files from the segment on in which it began.
    let begun = timeline.checked_sub(1).and_then(|before| state.ancestors.get(&before)).map_or(0, |past| past.left_at);
    let (high, low) = (at >> 32, (at & 0xffff_ffff) / SEGMENT);
    (at < state.kept_from.max(begun / SEGMENT * SEGMENT))
        .then(|| format!("requested WAL segment {timeline:08X}{high:08X}{low:08X} has already been removed"))
}

fn rows_of(state: &mut State, sql: &str, process: u32) -> Result<Vec<Row>, Refusal> {
    let none = || vec![vec![None]];
    Ok(match sql {
        "IDENTIFY_SYSTEM" => {
            let (timeline, end) = (state.wal.timeline().to_string(), lsn_text(state.wal.end()));
            vec![vec![Some(SYSTEM_IDENTIFIER.to_string()), Some(timeline), Some(end), None]]
        }
        "SHOW wal_segment_size" => one("1MB"),
        "SHOW lifeboat.incarnation" => {
            return Err(("42704", "unrecognized configuration parameter \"lifeboat.incarnation\"".to_owned()));
        }
        _ if sql.starts_with("TIMELINE_HISTORY ") => history(state, sql)?,
        _ if sql.starts_with("CREATE_REPLICATION_SLOT ") => {
            let name = sql.split('"').nth(1).unwrap_or_default().to_owned();
            let restart = state.redo;
            state.slots.insert(name.clone(), Slot { restart, is_temporary: true, active: Some(process) });
            vec![vec![Some(name), Some(lsn_text(restart)), None, None]]
        }
        _ if sql.contains("set_config('search_path'") => one(""),
        _ if sql.contains("pg_create_physical_replication_slot('") => {
            let name = sql.split('\'').nth(1).unwrap_or_default().to_owned();
            let restart = state.redo;
            state.slots.insert(name, Slot { restart, is_temporary: false, active: None });
            one(lsn_text(restart))
        }
        _ if sql.contains("pg_drop_replication_slot('") => {
            state.slots.remove(sql.split('\'').nth(1).unwrap_or_default());
            one("")
        }
        _ if sql.contains("FROM pg_catalog.pg_replication_slots") => slot_row(state, sql),
        _ if sql.contains("'max_slot_wal_keep_size'") => {
            let end = lsn_text(state.wal.end());
            vec![vec![
                Some("f".to_owned()),
                Some(end),
                Some("-1".to_owned()),
                Some(String::new()),
                Some("f".to_owned()),
            ]]
        }
        _ if sql.contains("pg_catalog.current_setting(name, true)") => {
            SETTINGS.iter().map(|(name, value)| vec![Some((*name).to_owned()), Some((*value).to_owned())]).collect()
        }
        _ if sql.contains("rolreplication OR rolsuper") => vec![vec![Some("t".to_owned()), Some("f".to_owned())]],
        _ if sql.contains("SELECT oid, datname") => vec![vec![Some("5".to_owned()), Some("postgres".to_owned())]],
        _ if sql.contains("string_agg(oid::pg_catalog.text") => one("5"),
        _ if sql.contains("pg_control_system()") => one(SYSTEM_IDENTIFIER.to_string()),
        _ if sql.contains("pg_database_size") => one("30000"),
        _ if sql.contains("SELECT rolname") => one("postgres"),
        _ if sql.contains("concat_ws") => one("f,f,f"),
        _ if sql.contains("sourcefile") => Vec::new(),
        _ if sql.contains("'lifeboat.incarnation'") || sql.contains("'data_directory'") => none(),
        _ if sql.contains("pg_is_in_recovery()") => one("f"),
        _ if sql.contains("FROM pg_catalog.pg_stat_replication WHERE pid") => one("t"),
        _ => return Err(("0A000", format!("the simulated server does not know: {sql}"))),
    })
}

fn history(state: &State, sql: &str) -> Result<Vec<Row>, Refusal> {
    let timeline: u32 = sql.rsplit(' ').next().and_then(|text| text.parse().ok()).unwrap_or(0);
    if timeline < 2 || timeline > state.wal.timeline() {
        return Err(("58P01", format!("could not open file \"pg_wal/{timeline:08X}.history\"")));
    }
    Ok(vec![vec![Some(format!("{timeline:08X}.history")), Some(state.history(timeline))]])
}

fn slot_row(state: &State, sql: &str) -> Vec<Row> {
    let name = sql.split('\'').rev().nth(1).unwrap_or_default();
    let Some(slot) = state.slots.get(name) else { return Vec::new() };
    let text = |text: &str| Some(text.to_owned());
    let active = slot.active.map(|pid| pid.to_string());
    vec![vec![text("physical"), active, Some(lsn_text(slot.restart)), text("reserved"), None, None, None]]
}

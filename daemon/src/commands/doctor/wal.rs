//! What `doctor` tries for continuous WAL: slot, limits of the server, synchronous mode, state directory.

use std::path::Path;

use lifeboat_config::{ClusterSettings, CommitMode};
use lifeboat_postgres::{Purpose, Session, SlotCondition, server_wal, slot_status};
use lifeboat_stores::{ByteRange, Store, StoreError};
use lifeboat_vocabulary::{ByteCount, error_chain};

use crate::commands::doctor::lines::Lines;
use crate::settings::wiring::ClusterConfig;

/// Tries everything that continuous WAL needs beside what a backup needs.
pub(crate) async fn check(chosen: ClusterConfig<'_>, lines: &mut Lines) {
    let ClusterConfig { config, cluster } = chosen;
    match Session::connect(&cluster.connection, Purpose::Sql).await {
        Ok(mut session) => {
            slot(&mut session, cluster, lines).await;
            server(&mut session, cluster, lines).await;
            session.close().await;
        }
        // Why the server cannot be reached stands in the lines about the server.
        Err(error) => tracing::debug!(%error, "the server cannot be asked about WAL"),
    }
    state(&chosen.state_directory(), config.limits.spool, lines);
}

/// Whether WAL that is stored can be read, so that a name is not taken for an object of ours: asked for names that nothing has, and for
/// the first one that is listed.
pub(crate) async fn verifies(area: &str, store: &dyn Store, lines: &mut Lines) {
    const NAMES: [&str; 3] = [
        "wal/00000001/0000000000000001-0000000000000002.lbw",
        "slices/00000001/0000000000000001-0000000000000002.lbs",
        "keys/00000000000000000000000000000000/0.json",
    ];
    for name in NAMES {
        let Ok(key) = name.parse() else { continue };
        match store.get(&key, ByteRange::WholeUpTo(ByteCount::from_mib(1))).await {
            Ok(_) | Err(StoreError::NotFound { .. } | StoreError::Unsupported { .. }) => {}
            Err(error) => {
                let fix = "give the role s3:GetObject on wal/, slices/ and keys/ (docs/CONFIGURE.md, Roles)";
                lines.failed(area, "verify stored WAL", error_chain(&error), fix);
                return;
            }
        }
    }
    match reads_what_it_lists(store).await {
        Ok(()) => lines.good(area, "verify stored WAL", "yes"),
        Err(error) => {
            let fix = "see what answers between this host and the region: an object that is listed must be readable";
            lines.failed(area, "verify stored WAL", error_chain(&error), fix);
        }
    }
}

/// Reads the head of an object with WAL that is listed, if there is any: what says of everything that it is not there would seem to
/// have nothing but free names.
async fn reads_what_it_lists(store: &dyn Store) -> Result<(), StoreError> {
    for prefix in ["wal/", "slices/"] {
        let page = store.list(prefix, None).await?;
        let Some(first) = page.entries.first() else { continue };
        match store.get(&first.key, ByteRange::Part { start: 0, length: 64 }).await {
            Ok(_) | Err(StoreError::Unsupported { .. }) => return Ok(()),
            // It may have been deleted since it was listed.
            Err(StoreError::NotFound { .. }) if !store.list(prefix, None).await?.entries.contains(first) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

async fn slot(session: &mut Session, cluster: &ClusterSettings, lines: &mut Lines) {
    let name = &cluster.wal.slot;
    match slot_status(session, name).await {
        Ok(None) => lines.good("wal", "slot", format!("{name} will be made by `lifeboatd run`")),
        Ok(Some(status)) => match status.condition {
            SlotCondition::Holds => lines.good("wal", "slot", format!("{name} holds WAL")),
            SlotCondition::AtRisk => {
                let detail = format!("{name} is about to be given up by the server");
                let fix = "start `lifeboatd run`, or raise max_slot_wal_keep_size";
                lines.failed("wal", "slot", detail, fix);
            }
            SlotCondition::Lost | SlotCondition::Empty => {
                let fix = "nothing to do: `lifeboatd run` makes it anew, records the gap and makes a base backup";
                lines.warning("wal", "slot", format!("{name} holds no WAL any more"), fix);
            }
            SlotCondition::Logical => {
                let fix = "give wal.slot another name";
                lines.failed("wal", "slot", format!("{name} is a logical slot"), fix);
            }
        },
        Err(error) => {
            let detail = error_chain(&error);
            lines.failed("wal", "slot", detail, "see the server's log");
        }
    }
}

async fn server(session: &mut Session, cluster: &ClusterSettings, lines: &mut Lines) {
    let application_name = &cluster.wal.application_name;
    let server = match server_wal(session, application_name).await {
        Ok(server) => server,
        Err(error) => {
            let detail = error_chain(&error);
            lines.failed("wal", "server", detail, "see the server's log");
            return;
        }
    };
    match server.slot_limit {
        Some(limit) => lines.good("wal", "max_slot_wal_keep_size", limit.to_string()),
        None => {
            let detail = "no limit: a receiver that is away for long fills the server's disk".to_owned();
            let fix = "set it to what the disk of pg_wal can spare, and reload";
            lines.warning("wal", "max_slot_wal_keep_size", detail, fix);
        }
    }
    match (cluster.wal.commit, server.synchronous) {
        (CommitMode::Asynchronous, false) => lines.good("wal", "commits", "do not wait for the regions"),
        (CommitMode::Synchronous, true) => lines.good("wal", "commits", "wait for the regions"),
        (CommitMode::Synchronous, false) => {
            let detail = format!("do not wait: synchronous_standby_names does not name {application_name}");
            let fix = format!(
                "ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 ({application_name})'; SELECT pg_catalog.pg_reload_conf()"
            );
            lines.warning("wal", "commits", detail, &fix);
        }
        (CommitMode::Asynchronous, true) => {
            let detail = format!("wait for {application_name}, which ships only every flush_interval");
            let fix = "set wal.synchronous = true, or take the name out of synchronous_standby_names";
            lines.warning("wal", "commits", detail, fix);
        }
    }
}

/// The state directory, or the nearest one above it that exists.
fn state(directory: &Path, spool: ByteCount, lines: &mut Lines) {
    let existing = directory.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/"));
    let shown = directory.display();
    if rustix::fs::access(existing, rustix::fs::Access::WRITE_OK).is_err() {
        let detail = format!("{} cannot be written to", existing.display());
        let fix = format!("make {shown} and give it to the account that runs lifeboatd, with mode 0700");
        lines.failed("wal", "state directory", detail, &fix);
        return;
    }
    match rustix::fs::statvfs(existing) {
        Ok(space) => {
            let free = ByteCount::from_bytes(space.f_bavail.saturating_mul(space.f_frsize));
            if free < spool {
                let detail = format!("{free} free, limits.spool allows {spool}");
                let fix = "make room, or lower limits.spool";
                lines.warning("wal", "state directory", detail, fix);
            } else {
                lines.good("wal", "state directory", format!("{shown}, {free} free"));
            }
        }
        Err(error) => {
            lines.failed("wal", "state directory", error.to_string(), "see that it is mounted");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::doctor::lines::State;
    use lifeboat_stores::{Fault, Hooks, MemoryStore, Operation, Request, Rule, Step, WithFaults, WithHooks};
    use std::sync::Arc;

    #[tokio::test]
    async fn a_role_that_cannot_verify_stored_wal_is_reported() {
        let told = async |denied: &str| {
            let store = WithFaults::new(Arc::new(MemoryStore::new()) as Arc<dyn Store>);
            let operation = Some(Operation::Get);
            store.add(Rule { operation, key_contains: denied.to_owned(), ..Rule::always(Fault::Denied) });
            let mut lines = Lines::default();
            verifies("region r", &store, &mut lines).await;
            lines.states()
        };
        for (denied, expected) in
            [("data/", State::Good), ("wal/", State::Bad), ("slices/", State::Bad), ("keys/", State::Bad)]
        {
            assert_eq!(told(denied).await, [expected], "{denied}");
        }
    }

    struct HasNothing;

    #[async_trait::async_trait]
    impl Hooks for HasNothing {
        async fn before(&self, request: Request<'_>) -> Step {
            match request {
                Request::Get { key, .. } => Step::Fail(StoreError::NotFound { key: key.clone() }),
                _ => Step::Pass,
            }
        }
    }

    #[tokio::test]
    async fn a_store_that_says_of_everything_that_it_is_not_there_cannot_verify_wal() {
        let memory = Arc::new(MemoryStore::new());
        let body = bytes::Bytes::from_static(b"WAL");
        let body =
            lifeboat_stores::SealedBody { sha256: lifeboat_repository::format::aead::sha256(&body), bytes: body };
        let key = "slices/00000001/0000000000000010-0000000000000020.lbs".parse().unwrap();
        memory.put(&key, body, lifeboat_stores::PutMode::CreateOnly).await.unwrap();
        let told = async |store: &dyn Store| {
            let mut lines = Lines::default();
            verifies("region r", store, &mut lines).await;
            lines.states()
        };
        assert_eq!(told(&*memory).await, [State::Good]);
        assert_eq!(told(&WithHooks::new(memory, HasNothing)).await, [State::Bad]);
    }

    #[test]
    fn a_state_directory_without_room_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let told = |path: &Path, spool| {
            let mut lines = Lines::default();
            state(path, spool, &mut lines);
            lines.states()
        };
        assert_eq!(told(&dir.path().join("new/main"), ByteCount::from_mib(1)), [State::Good]);
        assert_eq!(told(&dir.path().join("new/main"), ByteCount::from_bytes(u64::MAX)), [State::Warning]);
        assert_eq!(told(Path::new("/proc/nothing"), ByteCount::from_mib(1)).len(), 1);
    }
}

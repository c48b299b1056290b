//! `lifeboatd adopt --lost-wal`: a person gives up what a server has lost that was set back to an earlier state.

use anyhow::Context;
use lifeboat_cli::exit_code::Ending;
use lifeboat_cli::outln;
use lifeboat_cli::terminal::Output;
use lifeboat_vocabulary::{Lsn, SegmentSize};
use serde_json::json;

use crate::commands::ask_server::{Asked, ask_server};
use crate::settings::wiring::ClusterConfig;
use crate::wal::server_memory::{AcceptedLoss, ServerMemory};

/// Decides where WAL of the refused server is taken again: at the start of a segment of which nothing is stored, because the
/// same positions must never have two contents. The daemon puts the gap on record and orders the backup.
///
/// CRASH SAFETY. One file is replaced. Before that nothing is decided; after it the daemon finds the decision, now or at its
/// next start, and acts upon it until WAL from behind the gap has come.
///
/// # Errors
/// If the server cannot be asked, or is not of the system of the one that is refused.
pub async fn run(chosen: ClusterConfig<'_>, output: Output) -> anyhow::Result<Ending> {
    let memory = ServerMemory::open(&chosen.state_directory());
    let Some(lost) = memory.read().refused else {
        let text = "nothing to do: no server is refused because it lost WAL";
        match output {
            Output::Json => outln!("{}", json!({ "changed": false })),
            Output::Text => outln!("{text}"),
        }
        return Ok(Ending::Done);
    };
    let stored = lost.stored().context("read what is remembered of the server")?;
    let asked = ask_server(chosen).await?;
    if let Some(system_identifier) = lost.system_identifier() {
        asked.ensure_system(system_identifier, "the server that was refused")?;
    }
    let Asked { host, identity, segment, .. } = asked;
    anyhow::ensure!(
        identity.timeline == stored.timeline,
        "{host} is on timeline {}, what is stored ends on timeline {}: positions of two timelines cannot be compared, and \
         a server on a new timeline is followed without this",
        identity.timeline,
        stored.timeline
    );
    let to = followed_from(stored.lsn, identity.flush, segment).context("there is no WAL behind what is stored")?;
    memory.accept(AcceptedLoss::new(stored, to)).context("remember the decision")?;
    let is_there = identity.flush >= to;
    match output {
        Output::Json => outln!(
            "{}",
            json!({ "host": host, "changed": true, "from": stored.lsn.to_string(), "to": to.to_string(), "reached": is_there })
        ),
        Output::Text => {
            outln!(
                "{host} is followed again, from {to} on; WAL from {} to there is put on record as missing, and a base backup is made",
                stored.lsn
            );
            if !is_there {
                outln!(
                    "it is at {} now: `select pg_switch_wal()` on the server takes it to the next segment",
                    identity.flush
                );
            }
        }
    }
    Ok(Ending::Done)
}

/// The start of the server's segment, but never one of which something is stored.
fn followed_from(stored: Lsn, server: Lsn, segment: SegmentSize) -> Option<Lsn> {
    let size = segment.as_bytes();
    // One that ends where a segment does is followed by a whole segment that is missing: a gap of nothing would hide that
    // the two histories do not belong together.
    let behind = (stored.as_bytes() / size + 1).checked_mul(size)?;
    Lsn::from_bytes(behind.max(server.as_bytes() / size * size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_followed_from_a_segment_of_which_nothing_is_stored() {
        const MIB: u64 = 1 << 20;
        let lsn = |at| Lsn::from_bytes(at).unwrap();
        let size = SegmentSize::from_bytes(MIB).unwrap();
        for (why, stored, server, expected) in [
            ("in the same segment", 5 * MIB + 100, 5 * MIB + 200, 6 * MIB),
            ("behind", 5 * MIB + 100, 2 * MIB, 6 * MIB),
            ("far ahead", 5 * MIB + 100, 9 * MIB + 7, 9 * MIB),
            ("what is stored ends with a segment", 5 * MIB, 5 * MIB + 7, 6 * MIB),
        ] {
            assert_eq!(followed_from(lsn(stored), lsn(server), size), Some(lsn(expected)), "{why}");
        }
    }
}

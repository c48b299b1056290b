//! What is decided about continuous WAL: `[cluster.wal]` and `[cluster.objectives]`.

use std::time::Duration;

use lifeboat_postgres::SlotName;
use lifeboat_vocabulary::ClusterName;

use crate::kind::{self, Fit, Wrong};
use crate::reader::{Reader, Section, preset};
use crate::tree::Node;

const APPLICATION_NAME_DEFAULT: &str = "lifeboat";
/// `NAMEDATALEN` - 1 (PostgreSQL `pg_config_manual.h`): longer names would be cut, and then not found again.
const NAME_BYTES_MAX: usize = 63;
const RPO_DEFAULT: Duration = Duration::from_secs(60);

/// How a cluster's WAL is received: `[cluster.wal]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalOptions {
    /// The physical replication slot, made where it is missing. 1 to 63 of `a-z`, `0-9` and `_`.
    pub slot: SlotName,
    /// The name that the server knows the receiver by, as `synchronous_standby_names` spells it.
    pub application_name: String,
    /// Whether commits wait for the regions.
    pub commit: CommitMode,
    /// What is reported as applied.
    pub apply: ApplyReport,
}

/// Whether commits wait for the regions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitMode {
    /// They do not: WAL leaves every `flush_interval`.
    Asynchronous,
    /// They may: WAL leaves at once, so that `synchronous_standby_names` can name the receiver.
    Synchronous,
}

/// What the receiver tells the server about replay, which it does not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApplyReport {
    /// Nothing: `synchronous_commit = remote_apply` would wait for ever.
    Nothing,
    /// What is flushed counts as applied, so that `remote_apply` does not wait for ever.
    AsFlushed,
}

/// What is to be kept: `[cluster.objectives]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectiveSettings {
    /// The age of the oldest commit that the quorum does not hold, above which an alarm is raised.
    pub rpo: Duration,
}

impl WalOptions {
    pub(crate) fn read(reader: &mut Reader<'_>, mut section: Section<'_>, cluster: Option<&ClusterName>) -> Self {
        let slot = SlotName::of_cluster(cluster);
        let shown = format!("{:?}", slot.as_str());
        let slot = section.or_default(reader, "slot", slot_name, preset(slot, &shown));
        let shown = format!("{APPLICATION_NAME_DEFAULT:?}");
        let default = preset(APPLICATION_NAME_DEFAULT.to_owned(), shown.as_str());
        let application_name = section.or_default(reader, "application_name", application_name, default);
        let commit = |node| kind::choice(node, CommitMode::Asynchronous, CommitMode::Synchronous);
        let commit = section.or_default(reader, "synchronous", commit, preset(CommitMode::Asynchronous, "false"));
        let apply = |node| kind::choice(node, ApplyReport::Nothing, ApplyReport::AsFlushed);
        let apply = section.or_default(reader, "report_apply", apply, preset(ApplyReport::Nothing, "false"));
        section.finish(reader);
        Self { slot, application_name, commit, apply }
    }
}

impl ObjectiveSettings {
    pub(crate) fn read(reader: &mut Reader<'_>, mut section: Section<'_>) -> Self {
        let range = Duration::from_secs(1)..=Duration::from_secs(86_400);
        let rpo = |node| kind::duration(node, &range);
        let rpo = section.or_default(reader, "rpo", rpo, preset(RPO_DEFAULT, "\"1m\""));
        section.finish(reader);
        Self { rpo }
    }
}

fn slot_name(node: &Node) -> Fit<SlotName> {
    let name = kind::text(node)?;
    let wrong = |_| Wrong::new(format!("`{name}` cannot name a replication slot"), "give 1 to 63 of a-z, 0-9 and _");
    name.parse().map_err(wrong)
}

fn application_name(node: &Node) -> Fit<String> {
    let name = kind::text(node)?;
    let fits = |b: u8| (0x20..0x7f).contains(&b);
    if (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(fits) {
        return Ok(name.to_owned());
    }
    Err(Wrong::new(format!("`{name}` cannot be an application_name"), "give 1 to 63 printable ASCII characters"))
}

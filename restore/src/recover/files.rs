//! The last files of a restored directory: configuration that was missing, recovery settings, signal file, manifest.

use anyhow::Context;
use lifeboat_postgres::BackupFacts;
use lifeboat_postgres::{
    CopyRole, ManifestVersion, ManifestWriter, RecoverySettings, RecoveryTarget, RecoveryTimeline, Subscriptions,
    TargetAction as PgAction, TargetBound, WalRange,
};
use lifeboat_repository::format::ids::Incarnation;
use lifeboat_repository::log::records::BackupRecord;

use crate::command_line::RestoreArgs;
use crate::fetch::target_dir::TargetDir;
use crate::recover::configuration;
use crate::recover::decide::Decision;
use crate::target::prove::StopAt;
use crate::target::recovery_target::{Inclusion, TargetAction};

/// What the server is told about its recovery.
///
/// # Errors
/// If there is no randomness for a new incarnation.
pub(crate) fn settings(
    decision: &Decision,
    args: &RestoreArgs,
    restore_command: Option<String>,
) -> anyhow::Result<RecoverySettings> {
    let mut settings = RecoverySettings::carried(decision.row.record.pg.version);
    if let Some(command) = restore_command {
        settings.restore_command = command;
        // A number, so that PostgreSQL finds nothing out that was not proven.
        settings.timeline = RecoveryTimeline::Number(decision.proof.timeline);
    }
    let (target, inclusion) = match decision.proof.stop {
        StopAt::End => (RecoveryTarget::Latest, Inclusion::Inclusive),
        StopAt::Immediate => (RecoveryTarget::Immediate, Inclusion::Inclusive),
        StopAt::Lsn(lsn, inclusion) => (RecoveryTarget::Lsn(lsn), inclusion),
    };
    settings.target = target;
    settings.bound = match inclusion {
        Inclusion::Inclusive => TargetBound::Inclusive,
        Inclusion::Exclusive => TargetBound::Exclusive,
    };
    settings.action = match decision.target.action {
        TargetAction::Promote => PgAction::Promote,
        TargetAction::Pause => PgAction::Pause,
        TargetAction::Shutdown => PgAction::Shutdown,
    };
    if args.keep_subscriptions {
        settings.subscriptions = Subscriptions::Kept;
    }
    if args.standby {
        settings.timeline = RecoveryTimeline::Latest;
        settings.role = CopyRole::Standby { primary_conninfo: args.primary.clone(), slot: None };
    } else {
        let incarnation = Incarnation::random().context("draw an incarnation for the copy")?;
        settings.incarnation = Some(incarnation.to_string());
    }
    Ok(settings)
}

/// Adds what a copy needs to start by itself, writes its manifest, makes everything durable. Returns what became of its
/// configuration.
///
/// # Errors
/// Whatever the operating system says; the copy cannot be started then.
pub(crate) fn finish(
    target: &TargetDir,
    facts: &BackupFacts,
    record: &BackupRecord,
    settings: &RecoverySettings,
) -> anyhow::Result<Vec<String>> {
    let configuration = configuration::write(target, &facts.server, &record.omissions);
    let configuration = configuration.context("write the configuration")?;
    let text = settings.text().context("write recovery settings")?;
    target.append("postgresql.auto.conf", &(text + &configuration.settings)).context("write recovery settings")?;
    target.append(settings.signal_file(), "").context("write the recovery signal")?;
    let range = WalRange { timeline: record.start_tli, start: record.start_lsn, end: record.stop_lsn };
    let mut out = Vec::new();
    let version = ManifestVersion::for_server(record.pg.version, record.pg.sysid);
    let mut manifest = ManifestWriter::new(&mut out, version)?;
    for file in target.files() {
        let entry = &file.entry;
        // PostgreSQL's own manifests leave WAL out: it is checked by reading it.
        if !entry.path.is_below(b"pg_wal") {
            manifest.file(&entry.path, entry.size, entry.modified, file.crc32c)?;
        }
    }
    manifest.finish(&[range])?;
    target.append("backup_manifest", &String::from_utf8(out).context("write the manifest")?)?;
    target.publish().context("flush the restored files")?;
    Ok(configuration.notes)
}

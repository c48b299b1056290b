//! What a server leaves out of a base backup, and what that means for the copy.
//!
//! The server copies directories and regular files. Everything else (links, sockets, pipes) it skips with a warning, and the
//! backup succeeds: a database that was moved away and linked is simply not there. Which warnings there are is told by the
//! routine that gives them, because their texts are translated. Sources: `src/backend/backup/basebackup.c` (`sendDir`,
//! `sendFile`), `src/backend/access/transam/xlog.c` (`do_pg_backup_start`), of PostgreSQL 13 to 18.

use crate::session::message::ServerMessage;

/// What is missing in a copy when something was left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MissingPart {
    /// Data of the cluster: the copy is not whole.
    Data,
    /// Configuration: the copy needs something in its place.
    Configuration,
    /// What PostgreSQL needs neither for its data nor to start.
    Other,
}

/// Something that belongs to the cluster and is not in the backup.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeftOut {
    /// What it means for the copy.
    pub part: MissingPart,
    /// Below the data directory, or absolute; as the server names it, so of any length and content.
    pub path: String,
    /// Why it is not there.
    pub why: String,
}

/// What a warning of the server means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Warned {
    /// A page that does not check out.
    Damage,
    /// How many there were, of which each was told before.
    DamageCount,
    /// This is not in the backup.
    LeftOut(LeftOut),
    /// A socket, which belongs to the running server.
    OfTheServer,
    /// Something else, for people.
    Said,
}

/// Directories and files at the top of the data directory without which a copy has not all data or does not start.
/// `pg_*` that are not listed belong to extensions, which keep data there.
const NOT_DATA: [&str; 5] = ["pg_log", "pg_stat_tmp", "pg_hba.conf", "pg_ident.conf", "pg_hba_file_rules"];
/// How names of files end that only the configuration refers to.
const CONFIGURATION: [&str; 6] = [".conf", ".crt", ".key", ".pem", ".crl", ".p12"];

/// Understands a warning.
pub(crate) fn judge_warning(notice: &ServerMessage) -> Warned {
    let text = &notice.message;
    if text.contains("total checksum verification") || text.contains("has a total of") {
        return Warned::DamageCount;
    }
    if text.contains("checksum verification fail") {
        return Warned::Damage;
    }
    let path = quoted_part(text).map(|path| path.strip_prefix("./").unwrap_or(path));
    let why = || format!("the server left it out: {text}");
    match (notice.routine.as_deref(), path) {
        (_, Some(path)) if path.rsplit('/').next().is_some_and(|name| name.starts_with(".s.PGSQL.")) => {
            Warned::OfTheServer
        }
        // A tablespace whose link cannot be followed: all of it is missing.
        (Some("do_pg_backup_start" | "do_pg_start_backup"), Some(path)) if path.starts_with("pg_tblspc/") => {
            Warned::LeftOut(LeftOut { part: MissingPart::Data, path: path.to_owned(), why: why() })
        }
        (Some("sendDir"), Some(path)) => {
            Warned::LeftOut(LeftOut { part: part_of(path), path: path.to_owned(), why: why() })
        }
        // In a language whose quotes are not known. Nobody can tell what it is: it counts as data.
        (Some("sendDir"), None) => {
            Warned::LeftOut(LeftOut { part: MissingPart::Data, path: "?".to_owned(), why: why() })
        }
        // Servers that do not tell the routine.
        (None, Some(path)) if text.contains("skipping special file") => {
            Warned::LeftOut(LeftOut { part: part_of(path), path: path.to_owned(), why: why() })
        }
        _ => Warned::Said,
    }
}

/// What is missing if this member of a cluster is. Paths of tablespaces come as absolute ones, and all that they hold is data.
pub(crate) fn part_of(path: &str) -> MissingPart {
    if path.starts_with('/') {
        return MissingPart::Data;
    }
    let (top, below) = path.split_once('/').map_or((path, None), |(top, below)| (top, Some(below)));
    let is_configuration = CONFIGURATION.iter().any(|end| path.ends_with(end));
    match top {
        "base" | "global" | "PG_VERSION" | "backup_label" => MissingPart::Data,
        _ if below.is_none() && is_configuration => MissingPart::Configuration,
        _ if NOT_DATA.contains(&top) => MissingPart::Other,
        _ if top.starts_with("pg_") => MissingPart::Data,
        _ if is_configuration || top.ends_with(".d") => MissingPart::Configuration,
        _ => MissingPart::Other,
    }
}

/// What stands between the first and the last quotation mark, whatever they look like.
fn quoted_part(text: &str) -> Option<&str> {
    let is_mark = |c: char| matches!(c, '"' | '«' | '»' | '„' | '“' | '”' | '‹' | '›' | '「' | '」' | '『' | '』');
    let (from, mark) = text.char_indices().find(|(_, c)| is_mark(*c))?;
    let from = from + mark.len_utf8();
    let to = text.rfind(is_mark).filter(|to| *to > from)?;
    let part = text.get(from..to)?.trim();
    (!part.is_empty()).then_some(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warning(routine: Option<&str>, text: &str) -> Warned {
        judge_warning(&ServerMessage {
            severity: "WARNING".to_owned(),
            code: "01000".to_owned(),
            message: text.to_owned(),
            routine: routine.map(str::to_owned),
            ..ServerMessage::default()
        })
    }

    #[test]
    fn what_is_missing_follows_from_the_path() {
        use MissingPart::{Configuration, Data, Other};
        for (path, expected) in [
            ("base/16384", Data),
            ("base/5/16390", Data),
            ("global/1262", Data),
            ("/mnt/fast/PG_17_202406281/5/16390", Data),
            ("pg_xact", Data),
            ("pg_wal/000000010000000000000001", Data),
            ("pg_tde", Data),
            ("pg_logical", Data),
            ("pg_log", Other),
            ("log", Other),
            ("scripts/nightly.sh", Other),
            ("postgresql.conf", Configuration),
            ("pg_hba.conf", Configuration),
            ("server.key", Configuration),
            ("conf.d", Configuration),
            ("conf.d/a.conf", Configuration),
        ] {
            assert_eq!(part_of(path), expected, "{path}");
        }
    }

    #[test]
    fn warnings_are_understood_in_any_language() {
        let left = |path: &str, part: MissingPart| (path.to_owned(), part);
        for (routine, text, expected) in [
            (Some("sendDir"), "skipping special file \"./base/16384\"", left("base/16384", MissingPart::Data)),
            (Some("sendDir"), "überspringe besondere Datei »./log«", left("log", MissingPart::Other)),
            (
                Some("sendDir"),
                "特殊ファイル\"./base/5/1259\"をスキップしています",
                left("base/5/1259", MissingPart::Data),
            ),
            (Some("sendDir"), "omission du fichier spécial « ./base/1 »", left("base/1", MissingPart::Data)),
            (Some("sendDir"), "etwas ohne Namen", left("?", MissingPart::Data)),
            (None, "skipping special file \"./pg_hba.conf\"", left("pg_hba.conf", MissingPart::Configuration)),
            (
                Some("do_pg_backup_start"),
                "could not read symbolic link \"pg_tblspc/16385\": Permission denied",
                left("pg_tblspc/16385", MissingPart::Data),
            ),
        ] {
            let Warned::LeftOut(left) = warning(routine, text) else { panic!("{text}") };
            assert_eq!((left.path, left.part), expected, "{text}");
        }
    }

    #[test]
    fn what_belongs_to_the_running_server_and_what_is_damaged_is_not_left_out() {
        assert_eq!(warning(Some("sendDir"), "skipping special file \"./.s.PGSQL.5432\""), Warned::OfTheServer);
        let damage = "checksum verification failed in file \"./base/5/1259\", block 3: calculated A but expected B";
        assert_eq!(warning(Some("sendFile"), damage), Warned::Damage);
        assert_eq!(warning(Some("sendFile"), "5 total checksum verification failures"), Warned::DamageCount);
        assert_eq!(warning(Some("pg_backup_stop"), "aborting \"x\""), Warned::Said);
    }
}

//! The configuration of a server as far as its role may read it: kept with every backup, because a base backup has only what lies in
//! the data directory as a plain file.
//!
//! What is read: the three main files wherever they lie, everything that they include, lists of names, certificates and lists of
//! revoked ones. Never private keys: whoever keeps one outside of the data directory keeps it from copies of it, and it would pass
//! through an SQL session. Sources: PostgreSQL manual, "Generic File Access Functions", views `pg_settings`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

use crate::backup::config_place::{ConfigPlace, is_included_name};
use crate::backup::config_text::{ConfigKind, ReferenceKind, lines, references};
use crate::session::commands::Session;
use crate::session::error::SessionError;

/// The longest file that is kept, in **bytes**.
const FILE_MAX: usize = 1 << 20;
/// What is kept altogether, in **bytes**, and how many files.
const TOTAL_MAX: usize = 4 << 20;
const FILES_MAX: usize = 500;
/// Bytes that one question asks for: the answer is twice as long.
const RANGE: usize = 256 << 10;
/// Values that are kept of files that cannot be read.
const VALUES_MAX: usize = 1000;

/// A file that is kept.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptFile {
    /// Its absolute path on the server.
    pub path: String,
    /// How it is read.
    pub kind: ConfigKind,
    /// Its content.
    #[serde(with = "base64_bytes")]
    pub content: Vec<u8>,
}

/// A value that a file sets whose text is not kept.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptValue {
    /// The file's absolute path on the server.
    pub path: String,
    /// The setting.
    pub name: String,
    /// Its value, in the setting's own unit.
    pub value: String,
}

/// The configuration of a server, as far as its role may read it. It may hold passwords: `Debug` leaves contents out.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptConfig {
    /// Files.
    pub files: Vec<KeptFile>,
    /// Directories of which every file that is included is among `files`, absolute.
    pub directories: BTreeSet<String>,
    /// What files set that are not kept.
    pub values: Vec<KeptValue>,
    /// What is not kept, by its path, and why.
    pub not_kept: BTreeMap<String, String>,
    /// Files that may be missing, and were.
    #[serde(default)]
    pub not_there: BTreeSet<String>,
}

impl fmt::Debug for KeptConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let files: Vec<&str> = self.files.iter().map(|file| file.path.as_str()).collect();
        f.debug_struct("KeptConfig").field("files", &files).field("not_kept", &self.not_kept).finish_non_exhaustive()
    }
}

impl KeptConfig {
    /// The kept file of this path, which has no empty parts, `.` or `..`. Older servers tell a path as it was set.
    #[must_use]
    pub fn file(&self, path: &str) -> Option<&KeptFile> {
        let is_at =
            |file: &&KeptFile| matches!(ConfigPlace::of(&file.path, None), ConfigPlace::Outside(at) if at == path);
        self.files.iter().find(|file| file.path == path).or_else(|| self.files.iter().find(is_at))
    }

    /// Directories are listed before their files are read: those of which one could not be are no whole ones.
    fn drop_partial_directories(&mut self) {
        let not_kept: Vec<_> = self.not_kept.keys().cloned().map(ConfigPlace::Outside).collect();
        self.directories.retain(|directory| {
            let directory = ConfigPlace::Outside(directory.clone());
            !not_kept.iter().any(|path| path.is_member_of(&directory))
        });
    }
}

/// Functions that the role may call.
struct Rights {
    read: ReadRight,
    list: bool,
}

/// Reads what the settings of a server lead to.
pub(crate) struct ConfigReader<'s> {
    session: &'s mut Session,
    rights: Rights,
    data_directory: Option<String>,
    kept: KeptConfig,
    total: usize,
}

impl<'s> ConfigReader<'s> {
    /// # Errors
    /// [`SessionError`] if the session is lost.
    pub(crate) async fn read(
        session: &'s mut Session,
        settings: &BTreeMap<String, String>,
    ) -> Result<KeptConfig, SessionError> {
        let rights = rights(session).await?;
        let data_directory = settings.get("data_directory").cloned();
        let mut reader = Self { session, rights, data_directory, kept: KeptConfig::default(), total: 0 };
        let sources = reader.sources().await?;
        reader.follow(settings, &sources).await?;
        reader.keys(settings);
        reader.values(&sources).await?;
        Ok(reader.kept)
    }

    /// The files that set something, as far as the role may know.
    async fn sources(&mut self) -> Result<BTreeSet<String>, SessionError> {
        let question = "SELECT DISTINCT sourcefile FROM pg_catalog.pg_settings WHERE sourcefile IS NOT NULL";
        let answers = self.session.query(question).await?;
        let rows = answers.into_iter().flat_map(|answer| answer.rows);
        Ok(rows.filter_map(|row| row.into_iter().next().flatten()).take(FILES_MAX).collect())
    }

    async fn follow(
        &mut self,
        settings: &BTreeMap<String, String>,
        sources: &BTreeSet<String>,
    ) -> Result<(), SessionError> {
        let mut open = roots(settings);
        // Files that are included from files which cannot be read.
        open.extend(sources.iter().map(|path| (path.clone(), ConfigKind::Settings)));
        open.reverse();
        let mut seen = BTreeSet::new();
        while let Some((path, kind)) = open.pop() {
            if !seen.insert(path.clone()) {
                continue;
            }
            let content = match self.content(&path).await? {
                Ok(content) => content,
                Err(why) => {
                    self.kept.not_kept.insert(path, why);
                    continue;
                }
            };
            let place = ConfigPlace::Outside(path.clone());
            let found: Vec<_> = lines(&content).flat_map(|line| references(kind, line)).take(FILES_MAX).collect();
            self.total += content.len();
            self.kept.files.push(KeptFile { path, kind, content });
            for reference in found {
                let ConfigPlace::Outside(to) = place.refers_to(&reference.path, None) else { continue };
                match reference.kind {
                    ReferenceKind::File => open.push((to, kind)),
                    ReferenceKind::Names => open.push((to, ConfigKind::Names)),
                    ReferenceKind::FileIfThere => {
                        if matches!(&self.content(&to).await?, Err(why) if why == NOT_THERE) {
                            self.kept.not_there.insert(to);
                        } else {
                            open.push((to, kind));
                        }
                    }
                    ReferenceKind::Directory => self.directory(to, kind, sources, &mut open).await?,
                }
            }
        }
        self.kept.drop_partial_directories();
        Ok(())
    }

    async fn directory(
        &mut self,
        directory: String,
        kind: ConfigKind,
        sources: &BTreeSet<String>,
        open: &mut Vec<(String, ConfigKind)>,
    ) -> Result<(), SessionError> {
        let names = match self.rights.list {
            true => self.names(&directory).await?,
            false => Err("the role may not list it".to_owned()),
        };
        match names {
            Ok(names) => {
                open.extend(names.iter().map(|name| (format!("{directory}/{name}"), kind)));
                self.kept.directories.insert(directory);
            }
            Err(why) => {
                let place = ConfigPlace::Outside(directory.clone());
                let known = sources.iter().filter(|path| ConfigPlace::Outside((*path).clone()).is_member_of(&place));
                open.extend(known.map(|path| (path.clone(), kind)));
                self.kept.not_kept.insert(directory, why);
            }
        }
        Ok(())
    }

    async fn names(&mut self, directory: &str) -> Result<Result<Vec<String>, String>, SessionError> {
        let question = format!("SELECT pg_catalog.pg_ls_dir({}, false, false)", quoted(directory));
        match self.session.query(&question).await {
            Ok(answers) => {
                let rows = answers.into_iter().flat_map(|answer| answer.rows);
                let names = rows.filter_map(|row| row.into_iter().next().flatten());
                let names: BTreeSet<String> = names.filter(|name| is_included_name(name)).collect();
                if names.len() > FILES_MAX {
                    return Ok(Err(format!("more than {FILES_MAX} files in it are not kept")));
                }
                Ok(Ok(names.into_iter().collect()))
            }
            Err(SessionError::Server(message)) if message.severity == "ERROR" => Ok(Err(message.message)),
            Err(error) => Err(error),
        }
    }

    /// The content of a file, or why it is not kept.
    async fn content(&mut self, path: &str) -> Result<Result<Vec<u8>, String>, SessionError> {
        if self.kept.files.len() >= FILES_MAX {
            return Ok(Err(format!("more than {FILES_MAX} files are not kept")));
        }
        let mut content: Vec<u8> = Vec::new();
        loop {
            let Some((question, most)) = self.rights.read.question(path, content.len()) else {
                return Ok(Err("the role may not read files".to_owned()));
            };
            let hex = match self.session.query_one_text(&question).await {
                Ok(Some(hex)) => hex,
                Ok(None) => return Ok(Err(NOT_THERE.to_owned())),
                Err(SessionError::Server(message)) if message.severity == "ERROR" => return Ok(Err(message.message)),
                Err(error) => return Err(error),
            };
            let Ok(part) = HEXLOWER.decode(hex.as_bytes()) else { return Ok(Err("it was not sent whole".to_owned())) };
            content.extend_from_slice(&part);
            if content.len() > FILE_MAX {
                return Ok(Err(format!("it is longer than {FILE_MAX} bytes")));
            }
            if content.len() + self.total > TOTAL_MAX {
                return Ok(Err(format!("the configuration is longer than {TOTAL_MAX} bytes")));
            }
            if part.len() < most {
                return Ok(Ok(content));
            }
        }
    }

    /// A private key outside of the data directory is not read; a copy needs one of its own.
    fn keys(&mut self, settings: &BTreeMap<String, String>) {
        let Some(path) = absolute(settings, "ssl_key_file").filter(|_| uses_tls(settings)) else { return };
        if matches!(ConfigPlace::of(&path, self.data_directory.as_deref()), ConfigPlace::Outside(_)) {
            self.kept.not_kept.insert(path, "it is a private key outside of the data directory: never read".to_owned());
        }
    }

    /// What files set that are not kept: a copy can be given the same values.
    async fn values(&mut self, sources: &BTreeSet<String>) -> Result<(), SessionError> {
        if sources.iter().all(|path| self.kept.file(path).is_some()) {
            return Ok(());
        }
        let question = "SELECT sourcefile, name, setting FROM pg_catalog.pg_settings \
            WHERE sourcefile IS NOT NULL AND setting IS NOT NULL ORDER BY 1, sourceline, 2";
        let answers = self.session.query(question).await?;
        for row in answers.into_iter().flat_map(|answer| answer.rows).take(VALUES_MAX) {
            let mut cells = row.into_iter().flatten();
            if let (Some(path), Some(name), Some(value)) = (cells.next(), cells.next(), cells.next())
                && self.kept.file(&path).is_none()
                && value.len() <= 1024
            {
                self.kept.values.push(KeptValue { path, name, value });
            }
        }
        Ok(())
    }
}

const NOT_THERE: &str = "it is not there";

/// How the role may read files.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ReadRight {
    Bytes,
    /// As text in the server's encoding, so whole or not at all: a range may end within a letter.
    Text,
    Not,
}

impl ReadRight {
    /// The question for a part of a file as hexadecimal digits, and how many bytes of the file it is at most.
    fn question(self, path: &str, from: usize) -> Option<(String, usize)> {
        let path = quoted(path);
        match self {
            Self::Bytes => {
                let bytes = format!("pg_catalog.pg_read_binary_file({path}, {from}, {RANGE}, true)");
                Some((format!("SELECT pg_catalog.encode({bytes}, 'hex')"), RANGE))
            }
            Self::Text => {
                let whole = FILE_MAX + 1;
                let text = format!("pg_catalog.pg_read_file({path}, {from}, {whole}, true)");
                Some((format!("SELECT pg_catalog.encode(pg_catalog.convert_to({text}, 'UTF8'), 'hex')"), usize::MAX))
            }
            Self::Not => None,
        }
    }
}

fn uses_tls(settings: &BTreeMap<String, String>) -> bool {
    settings.get("ssl").is_some_and(|ssl| ssl == "on")
}

/// A file that a setting names: absolute, or below the data directory.
fn absolute(settings: &BTreeMap<String, String>, name: &str) -> Option<String> {
    let path = settings.get(name).filter(|path| !path.is_empty())?;
    if path.starts_with('/') {
        return Some(path.clone());
    }
    Some(format!("{}/{path}", settings.get("data_directory")?))
}

/// The files that the settings name themselves.
fn roots(settings: &BTreeMap<String, String>) -> Vec<(String, ConfigKind)> {
    let main =
        [("config_file", ConfigKind::Settings), ("hba_file", ConfigKind::Access), ("ident_file", ConfigKind::Ident)];
    let tls = ["ssl_cert_file", "ssl_ca_file", "ssl_crl_file"].map(|name| (name, ConfigKind::Certificate));
    let tls = tls.into_iter().filter(|_| uses_tls(settings));
    main.into_iter().chain(tls).filter_map(|(name, kind)| Some((absolute(settings, name)?, kind))).collect()
}

async fn rights(session: &mut Session) -> Result<Rights, SessionError> {
    let may = |function: &str| format!("pg_catalog.has_function_privilege('pg_catalog.{function}', 'execute')");
    let question = format!(
        "SELECT pg_catalog.concat_ws(',', {}, {}, {})",
        may("pg_read_binary_file(text,bigint,bigint,boolean)"),
        may("pg_read_file(text,bigint,bigint,boolean)"),
        may("pg_ls_dir(text,boolean,boolean)"),
    );
    let answer = session.query_one_text(&question).await?.unwrap_or_default();
    let mut parts = answer.split(',').map(|part| part == "t");
    let (binary, text, list) = (parts.next(), parts.next(), parts.next());
    let read = match (binary, text) {
        (Some(true), _) => ReadRight::Bytes,
        (_, Some(true)) => ReadRight::Text,
        _ => ReadRight::Not,
    };
    Ok(Rights { read, list: list == Some(true) })
}

/// A string constant.
pub(crate) fn quoted(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

/// Bytes as base64 in JSON.
mod base64_bytes {
    use data_encoding::BASE64;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&BASE64.encode(bytes))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        BASE64.decode(String::deserialize(from)?.as_bytes()).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_with_a_file_that_is_not_kept_is_no_whole_one() {
        let directories = ["/etc/pg/hba.d", "/etc/pg/conf.d"].map(str::to_owned);
        let not_kept = [("/etc/pg/hba.d/10.conf", "too long"), ("/etc/pg/conf.d/x/10.conf", "not there")];
        let mut kept = KeptConfig {
            directories: BTreeSet::from(directories),
            not_kept: not_kept.map(|(path, why)| (path.to_owned(), why.to_owned())).into(),
            ..KeptConfig::default()
        };
        kept.drop_partial_directories();
        assert_eq!(kept.directories, BTreeSet::from(["/etc/pg/conf.d".to_owned()]));
    }
}

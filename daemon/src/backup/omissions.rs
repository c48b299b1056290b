//! What a backup lacks: what the server left out with a warning, and databases of which nothing came.

use std::collections::BTreeSet;

use lifeboat_postgres::{CopiedFiles, LeftOut, MissingPart, ServerFacts, missing_config};
use lifeboat_repository::log::records::{Omission, Omissions, OmittedPart};
use lifeboat_vocabulary::{EntryKind, FileEntry};

/// Gathers what is missing while a backup passes.
#[derive(Debug, Default)]
pub(crate) struct OmissionWatch {
    all: BTreeSet<Omission>,
    /// The databases of which the first file came.
    databases: BTreeSet<u32>,
}

impl OmissionWatch {
    /// The server left something out. How many it may tell of is bounded by the source.
    pub(crate) fn left_out(&mut self, left_out: &LeftOut) {
        let what = match left_out.part {
            MissingPart::Data => OmittedPart::Data,
            MissingPart::Configuration => OmittedPart::Configuration,
            MissingPart::Other => OmittedPart::Other,
        };
        self.all.insert(Omission::new(what, &left_out.path, &left_out.why));
    }

    /// A member of the data directory comes.
    pub(crate) fn came(&mut self, entry: &FileEntry) {
        if entry.kind == EntryKind::File
            && let Some(database) = database_of(entry.path.as_bytes())
        {
            self.databases.insert(database);
        }
    }

    /// Databases that were there before the backup began and after it ended, and of which nothing came: whatever the reason is,
    /// and whether or not the server warned.
    pub(crate) fn compare(&mut self, before: &[(u32, String)], after: &BTreeSet<u32>) {
        for (oid, name) in before.iter().filter(|(oid, _)| after.contains(oid) && !self.databases.contains(oid)) {
            let path = format!("base/{oid}");
            // The server's own warning says it already.
            if !self.all.iter().any(|omission| omission.what == OmittedPart::Data && omission.path == path) {
                let why = format!("nothing of database {name:?} came from the server");
                self.all.insert(Omission::new(OmittedPart::Data, &path, &why));
            }
        }
    }

    /// The configuration that is in the backup neither as a file of the data directory nor as a text that the role could read.
    pub(crate) fn configuration(&mut self, server: &ServerFacts, copied: &dyn CopiedFiles) {
        let missing = missing_config(server, copied);
        self.all.retain(|omission| {
            let is_told_below = missing.keys().any(|path| path.ends_with(&format!("/{}", omission.path)));
            omission.what != OmittedPart::Configuration || !(server.keeps(&omission.path) || is_told_below)
        });
        let missing = missing.iter().map(|(path, why)| Omission::new(OmittedPart::Configuration, path, why));
        self.all.extend(missing);
    }

    /// What the record says.
    pub(crate) fn finish(self) -> Omissions {
        Omissions::of(self.all)
    }
}

/// The database whose directory holds this file `PG_VERSION`: `base/<oid>/PG_VERSION`, or
/// `pg_tblspc/<oid>/PG_<version>/<oid>/PG_VERSION`. Every database has it in its default tablespace, and nowhere else.
fn database_of(path: &[u8]) -> Option<u32> {
    let path = std::str::from_utf8(path).ok()?.strip_suffix("/PG_VERSION")?;
    let parts: Vec<&str> = path.split('/').collect();
    match parts.as_slice() {
        ["base", database] | ["pg_tblspc", _, _, database] => database.parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use lifeboat_vocabulary::RelativePath;

    use super::*;

    fn file(path: &str) -> FileEntry {
        let path = RelativePath::new(path.as_bytes()).unwrap();
        FileEntry { path, kind: EntryKind::File, mode: 0o600, size: 3, modified: 0 }
    }

    fn left_out(part: MissingPart, path: &str) -> LeftOut {
        LeftOut { part, path: path.to_owned(), why: "a link".to_owned() }
    }

    #[test]
    fn a_database_that_was_there_all_the_time_and_did_not_come_is_missing() {
        let mut watch = OmissionWatch::default();
        for path in
            ["base/1/PG_VERSION", "base/5/1259", "pg_tblspc/16384/PG_17_202406281/16390/PG_VERSION", "PG_VERSION"]
        {
            watch.came(&file(path));
        }
        let before = [(1, "template1"), (5, "postgres"), (16390, "fast"), (16400, "dropped"), (16500, "away")];
        let before: Vec<(u32, String)> = before.map(|(oid, name)| (oid, name.to_owned())).into();
        watch.left_out(&left_out(MissingPart::Data, "base/16500"));
        watch.left_out(&left_out(MissingPart::Other, "log"));
        watch.compare(&before, &BTreeSet::from([1, 5, 16390, 16500, 16600]));
        let omissions = watch.finish();
        let named: Vec<String> = omissions.named_of(OmittedPart::Data).map(ToString::to_string).collect();
        assert_eq!(named, ["base/16500: a link", "base/5: nothing of database \"postgres\" came from the server"]);
        assert_eq!((omissions.data, omissions.configuration, omissions.other), (2, 0, 1));
    }
}

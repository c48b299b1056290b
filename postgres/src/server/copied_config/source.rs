//! What a copy has of the configuration of its server: files that came out of the backup, and those that were kept beside them.

use std::borrow::Cow;
use std::collections::BTreeSet;

use crate::backup::config_files::KeptConfig;
use crate::backup::config_place::{ConfigPlace, is_included_name};
use crate::backup::config_walk::{ConfigSource, Members};

/// What `ALTER SYSTEM` writes.
pub(crate) const AUTO: &str = "postgresql.auto.conf";

/// Settings that name places of the original: the copy finds its own by itself.
pub(crate) const PLACES: [&str; 5] = ["data_directory", "config_file", "hba_file", "ident_file", "external_pid_file"];

/// The files of a copy as they came out of the backup.
pub trait CopiedFiles {
    /// The content of a file, by its path below the data directory; `None` if there is none, or it is too large for configuration.
    fn read(&self, path: &str) -> Option<Vec<u8>>;

    /// The names of the files in a directory, in any order; `None` if there is no such directory.
    fn names(&self, directory: &str) -> Option<Vec<String>>;

    /// What the server left out of the data directory, below it or absolute.
    fn left_out(&self) -> &[String];

    /// Whether [`CopiedFiles::left_out`] has all that can be configuration, with its whole name.
    fn knows_all_left_out(&self) -> bool;
}

/// Kept files, and those that came out of the backup.
pub(crate) struct Source<'a> {
    pub(crate) kept: &'a KeptConfig,
    pub(crate) data_directory: Option<&'a str>,
    pub(crate) copied: &'a dyn CopiedFiles,
}

/// Where the content of a file comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// It came out of the backup and lies in the copy.
    Copy,
    /// It was read from the server and is kept beside the backup's files.
    Kept,
}

/// What a copy has of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Directory {
    Whole,
    /// Some of its files.
    Partial,
    /// No file was in it, so that nobody makes it in the copy.
    Empty,
    Missing,
}

impl Source<'_> {
    /// The content of a file, and where it comes from: the copy's own goes first.
    pub(crate) fn found(&self, place: &ConfigPlace) -> Option<(Cow<'_, [u8]>, Origin)> {
        if let ConfigPlace::Inside(path) = place
            && let Some(content) = self.copied.read(path)
        {
            return Some((Cow::Owned(content), Origin::Copy));
        }
        let kept = self.kept.file(&self.on_server(place)?)?;
        Some((Cow::Borrowed(kept.content.as_slice()), Origin::Kept))
    }

    /// The files that an include of a directory takes in the copy; `None` if the copy has no such directory.
    fn names_in_copy(&self, directory: &ConfigPlace) -> Option<Vec<ConfigPlace>> {
        let ConfigPlace::Inside(path) = directory else { return None };
        let names = self.copied.names(path)?.into_iter().filter(|name| is_included_name(name));
        Some(names.map(|name| ConfigPlace::Inside(format!("{path}/{name}"))).collect())
    }

    /// A file that the server read in this directory, and that nobody has.
    pub(crate) fn lacking(&self, directory: &ConfigPlace) -> Option<ConfigPlace> {
        let top = ConfigPlace::Inside(AUTO.to_owned());
        let named = self.kept.not_kept.keys().chain(self.copied.left_out());
        let mut places = named.map(|path| top.refers_to(path, self.data_directory));
        places.find(|place| place.is_member_of(directory) && self.text(place).is_none())
    }

    /// What there is of a directory that an include names, so that the include can stand in the copy.
    pub(crate) fn directory(&self, place: &ConfigPlace) -> Directory {
        let in_copy = self.names_in_copy(place).is_some();
        match self.members(place) {
            Some(members) if members.places.is_empty() && !in_copy => Directory::Empty,
            Some(members) if members.is_whole => Directory::Whole,
            Some(_) => Directory::Partial,
            None => Directory::Missing,
        }
    }

    /// The path that a place inside had on the server.
    pub(crate) fn on_server(&self, place: &ConfigPlace) -> Option<String> {
        match place {
            ConfigPlace::Outside(path) => Some(path.clone()),
            ConfigPlace::Inside(path) => Some(format!("{}/{path}", self.data_directory?.trim_end_matches('/'))),
        }
    }
}

impl ConfigSource for Source<'_> {
    fn data_directory(&self) -> Option<&str> {
        self.data_directory
    }

    fn text(&self, place: &ConfigPlace) -> Option<Cow<'_, [u8]>> {
        self.found(place).map(|(text, _)| text)
    }

    fn was_absent(&self, place: &ConfigPlace) -> bool {
        self.on_server(place).is_some_and(|path| self.kept.not_there.contains(&path))
    }

    fn members(&self, directory: &ConfigPlace) -> Option<Members> {
        let is_member = |place: &ConfigPlace| place.is_member_of(directory);
        let is_listed = self.on_server(directory).is_some_and(|path| self.kept.directories.contains(&path));
        let copied = self.names_in_copy(directory);
        let is_whole = is_listed || copied.is_some() && self.copied.knows_all_left_out();
        // A file that is a link is in no copy, and may be kept.
        let kept = self.kept.files.iter().map(|file| ConfigPlace::of(&file.path, self.data_directory));
        let mut places: BTreeSet<ConfigPlace> = kept.filter(is_member).collect();
        places.extend(copied.into_iter().flatten());
        let is_whole = is_whole && self.lacking(directory).is_none();
        (is_whole || !places.is_empty()).then(|| Members { places: places.into_iter().collect(), is_whole })
    }
}

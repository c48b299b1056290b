//! Which places of main files the settings name.

use std::collections::BTreeMap;

use crate::backup::config_place::ConfigPlace;
use crate::backup::config_text::{ConfigKind, ReferenceKind, lines, references, setting};
use crate::backup::config_walk::{ConfigSource, DEPTH_MAX, FILES_MAX};
use crate::server::copied_config::source::{PLACES, Source};

/// The places that these files of settings name, one read after the other; the last one that sets a place counts.
pub(crate) fn set_places(files: &[ConfigPlace], source: &Source<'_>) -> BTreeMap<String, String> {
    let mut reading = Reading { source, files_left: FILES_MAX, places: BTreeMap::new() };
    files.iter().for_each(|place| reading.file(place, DEPTH_MAX));
    reading.places
}

struct Reading<'s> {
    source: &'s Source<'s>,
    files_left: usize,
    places: BTreeMap<String, String>,
}

impl Reading<'_> {
    /// Reads a file line by line, and what it includes where it is included, as the server does
    /// (`src/backend/utils/misc/guc-file.l`, `ParseConfigFp`).
    fn file(&mut self, place: &ConfigPlace, depth: usize) {
        let source = self.source;
        let Some(text) = source.text(place).filter(|_| depth > 0 && self.files_left > 0) else { return };
        self.files_left -= 1;
        for line in lines(&text) {
            if let Some((name, value)) = setting(line).filter(|(name, _)| PLACES.contains(&name.as_str())) {
                self.places.insert(name, value);
            }
            for reference in references(ConfigKind::Settings, line) {
                let to = place.refers_to(&reference.path, source.data_directory());
                if reference.kind == ReferenceKind::Directory {
                    let members = source.members(&to).unwrap_or_default().places;
                    members.iter().for_each(|member| self.file(member, depth - 1));
                } else {
                    self.file(&to, depth - 1);
                }
            }
        }
    }
}

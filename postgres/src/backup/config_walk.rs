//! Follows the configuration of a server from file to file, and finds what is not there. Pure.

use std::borrow::Cow;
use std::collections::BTreeSet;

use crate::backup::config_place::ConfigPlace;
use crate::backup::config_text::{ConfigKind, ReferenceKind, lines, references};

/// How deep files may include each other: as deep as the server follows them.
pub(crate) const DEPTH_MAX: usize = 10;
/// How many files are followed.
pub(crate) const FILES_MAX: usize = 1000;

/// Where the texts come from.
pub trait ConfigSource {
    /// The data directory of the server that was backed up, where it is known.
    fn data_directory(&self) -> Option<&str>;

    /// The content of a file; `None` if it is not there.
    fn text(&self, place: &ConfigPlace) -> Option<Cow<'_, [u8]>>;

    /// Whether the server is known to have had no such file.
    fn was_absent(&self, place: &ConfigPlace) -> bool;

    /// The files of a directory that an include of it takes; `None` if nothing is known of it.
    fn members(&self, directory: &ConfigPlace) -> Option<Members>;
}

/// What is there of a directory that is included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// Its files that are there, in the order in which they are read.
    pub places: Vec<ConfigPlace>,
    /// Whether those are all that the server had.
    pub is_whole: bool,
}

/// A file or directory that the configuration names, and that is not there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MissingConfig {
    /// Where it was on the server.
    pub place: ConfigPlace,
    /// The file that names it; `None` if the server itself did.
    pub named_by: Option<ConfigPlace>,
}

/// What [`walk`] has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WalkedConfig {
    /// Every file that was reached and is there.
    pub reached: Vec<(ConfigPlace, ConfigKind)>,
    /// What is not there.
    pub missing: BTreeSet<MissingConfig>,
}

/// Follows everything from these files on.
#[must_use]
pub fn walk(roots: &[(ConfigPlace, ConfigKind)], source: &dyn ConfigSource) -> WalkedConfig {
    let mut walked = WalkedConfig::default();
    let mut seen = BTreeSet::new();
    let begin = roots.iter().rev().map(|(place, kind)| (place.clone(), *kind, None, 0));
    let mut open: Vec<(ConfigPlace, ConfigKind, Option<ConfigPlace>, usize)> = begin.collect();
    while let Some((place, kind, named_by, depth)) = open.pop() {
        if walked.reached.len() >= FILES_MAX || !seen.insert((place.clone(), kind)) {
            continue;
        }
        let Some(text) = source.text(&place) else {
            walked.missing.insert(MissingConfig { place, named_by });
            continue;
        };
        walked.reached.push((place.clone(), kind));
        if depth >= DEPTH_MAX {
            continue;
        }
        for reference in lines(&text).flat_map(|line| references(kind, line)) {
            let to = place.refers_to(&reference.path, source.data_directory());
            let by = Some(place.clone());
            match reference.kind {
                ReferenceKind::File => open.push((to, kind, by, depth + 1)),
                ReferenceKind::FileIfThere if source.text(&to).is_some() => open.push((to, kind, by, depth + 1)),
                ReferenceKind::FileIfThere if kind == ConfigKind::Settings || source.was_absent(&to) => {}
                // It may have been there, and a rule in it may have refused somebody.
                ReferenceKind::FileIfThere => {
                    walked.missing.insert(MissingConfig { place: to, named_by: by });
                }
                ReferenceKind::Names => open.push((to, ConfigKind::Names, by, depth + 1)),
                ReferenceKind::Directory => {
                    let members = source.members(&to).unwrap_or_default();
                    open.extend(members.places.into_iter().map(|member| (member, kind, by.clone(), depth + 1)));
                    if !members.is_whole {
                        walked.missing.insert(MissingConfig { place: to, named_by: by });
                    }
                }
            }
        }
    }
    walked
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    struct Files(BTreeMap<ConfigPlace, &'static str>);

    impl ConfigSource for Files {
        fn data_directory(&self) -> Option<&str> {
            Some("/srv/pg")
        }

        fn text(&self, place: &ConfigPlace) -> Option<Cow<'_, [u8]>> {
            self.0.get(place).map(|text| Cow::Borrowed(text.as_bytes()))
        }

        fn was_absent(&self, place: &ConfigPlace) -> bool {
            place.to_string().starts_with("/absent/")
        }

        fn members(&self, directory: &ConfigPlace) -> Option<Members> {
            let places: Vec<_> = self.0.keys().filter(|place| place.is_member_of(directory)).cloned().collect();
            (!places.is_empty()).then_some(Members { places, is_whole: true })
        }
    }

    #[test]
    fn what_the_configuration_names_and_nobody_has_is_found() {
        let files = [
            ("/srv/pg/postgresql.conf", "include 'a.conf'\ninclude_dir '/etc/pg/conf.d'\ninclude_if_exists 'no.conf'"),
            ("/srv/pg/a.conf", "include '/etc/pg/gone.conf'\ninclude_dir '/etc/pg/empty.d'\ninclude 'postgresql.conf'"),
            ("/etc/pg/conf.d/x.conf", "include '../deep.conf'"),
            ("/srv/pg/pg_hba.conf", "local all @admins peer\ninclude_if_exists /etc/deny\ninclude_if_exists /absent/x"),
        ];
        let place = |path: &str| ConfigPlace::of(path, Some("/srv/pg"));
        let files = Files(files.into_iter().map(|(path, text)| (place(path), text)).collect());
        let roots = [
            (place("/srv/pg/postgresql.conf"), ConfigKind::Settings),
            (place("/srv/pg/pg_hba.conf"), ConfigKind::Access),
            (place("/srv/pg/pg_ident.conf"), ConfigKind::Ident),
        ];
        let walked = walk(&roots, &files);
        assert_eq!(walked.reached.len(), 4);
        let missing: Vec<String> = walked.missing.iter().map(|missing| missing.place.to_string()).collect();
        assert_eq!(
            missing,
            ["admins", "pg_ident.conf", "/etc/deny", "/etc/pg/deep.conf", "/etc/pg/empty.d", "/etc/pg/gone.conf"]
        );
    }
}

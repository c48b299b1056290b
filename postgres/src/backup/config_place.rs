//! Where a configuration file lies: in the data directory, or outside of it. Pure, and without a look at any disk: the paths are
//! those of another machine.

use std::fmt;

/// Where a configuration file lies on the server.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConfigPlace {
    /// Below the data directory, relative to it: a copy has it at the same place.
    Inside(String),
    /// Elsewhere, absolute: no part of a base backup.
    Outside(String),
}

impl fmt::Display for ConfigPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inside(path) | Self::Outside(path) => f.pad(path),
        }
    }
}

impl ConfigPlace {
    /// The place of an absolute path. Without knowing the data directory everything is outside.
    #[must_use]
    pub fn of(path: &str, data_directory: Option<&str>) -> Self {
        let path = normal(path);
        let below = data_directory.map(normal).and_then(|directory| {
            let below = path.strip_prefix(&directory)?.strip_prefix('/')?;
            (!below.is_empty()).then(|| below.to_owned())
        });
        below.map_or(Self::Outside(path), Self::Inside)
    }

    /// What `path` means in a file that lies here: absolute, or relative to the directory of this file.
    #[must_use]
    pub fn refers_to(&self, path: &str, data_directory: Option<&str>) -> Self {
        if path.starts_with('/') {
            return Self::of(path, data_directory);
        }
        match self {
            Self::Outside(from) => Self::of(&format!("{}/{path}", parent(from)), data_directory),
            Self::Inside(from) => {
                let joined = match parent(from) {
                    "" => normal(path),
                    parent => normal(&format!("{parent}/{path}")),
                };
                match (joined.strip_prefix("../"), data_directory) {
                    (None, _) => Self::Inside(joined),
                    (Some(_), Some(directory)) => Self::of(&format!("{directory}/{joined}"), data_directory),
                    // Where that is nobody knows; it is not in the backup.
                    (Some(_), None) => Self::Outside(joined),
                }
            }
        }
    }

    /// Whether it lies directly in this directory, and is a file that an include of the directory takes.
    #[must_use]
    pub(crate) fn is_member_of(&self, directory: &Self) -> bool {
        let (path, directory) = match (self, directory) {
            (Self::Inside(path), Self::Inside(directory)) | (Self::Outside(path), Self::Outside(directory)) => {
                (path, directory)
            }
            _ => return false,
        };
        let name = path.strip_prefix(directory.as_str()).and_then(|rest| rest.strip_prefix('/'));
        name.is_some_and(is_included_name)
    }
}

/// Whether an include of a directory takes a file of this name.
pub(crate) fn is_included_name(name: &str) -> bool {
    name.len() > ".conf".len() && name.ends_with(".conf") && !name.starts_with('.') && !name.contains('/')
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// A path without empty parts, `.` and, as far as it goes, `..`.
fn normal(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => drop(parts.pop()),
            ".." if path.starts_with('/') => {}
            part => parts.push(part),
        }
    }
    let joined = parts.join("/");
    if path.starts_with('/') {
        return format!("/{joined}");
    }
    joined
}

/// How a file of the copy names another one: relative to its own directory.
pub(crate) fn relative(from: &str, to: &str) -> String {
    let mut up: Vec<&str> = from.split('/').collect();
    up.pop();
    let mut down: Vec<&str> = to.split('/').collect();
    while let (Some(a), Some(b)) = (up.first(), down.first())
        && a == b
        && down.len() > 1
    {
        up.remove(0);
        down.remove(0);
    }
    let mut parts = vec![".."; up.len()];
    parts.extend(down);
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_lead_inside_or_outside() {
        let inside = |path: &str| ConfigPlace::Inside(path.to_owned());
        let outside = |path: &str| ConfigPlace::Outside(path.to_owned());
        let data = Some("/srv/pg/");
        for (from, path, data, expected) in [
            (inside("postgresql.conf"), "conf.d", data, inside("conf.d")),
            (inside("postgresql.conf"), "./conf.d//", data, inside("conf.d")),
            (inside("conf.d/a.conf"), "../b.conf", data, inside("b.conf")),
            (inside("postgresql.conf"), "/srv/pg/conf.d", data, inside("conf.d")),
            (inside("postgresql.conf"), "/srv/pg/conf.d", None, outside("/srv/pg/conf.d")),
            (inside("postgresql.conf"), "/srv/pg2/conf.d", data, outside("/srv/pg2/conf.d")),
            (inside("postgresql.conf"), "../etc/a.conf", data, outside("/srv/etc/a.conf")),
            (inside("postgresql.conf"), "../etc/a.conf", None, outside("../etc/a.conf")),
            (inside("postgresql.conf"), "../pg/a.conf", data, inside("a.conf")),
            (outside("/etc/pg/postgresql.conf"), "conf.d", data, outside("/etc/pg/conf.d")),
            (outside("/etc/pg/postgresql.conf"), "/etc/../srv/./pg/x", data, inside("x")),
            (outside("/srv/postgresql.conf"), "pg/x", data, inside("x")),
        ] {
            assert_eq!(from.refers_to(path, data), expected, "{from:?} {path}");
        }
    }

    #[test]
    fn an_include_of_a_directory_takes_what_the_server_takes() {
        let directory = ConfigPlace::Outside("/etc/conf.d".to_owned());
        for (path, expected) in [
            ("/etc/conf.d/a.conf", true),
            ("/etc/conf.d/.a.conf", false),
            ("/etc/conf.d/.conf", false),
            ("/etc/conf.d/a.conf.bak", false),
            ("/etc/conf.d/b/a.conf", false),
            ("/etc/conf.d2/a.conf", false),
        ] {
            assert_eq!(ConfigPlace::Outside(path.to_owned()).is_member_of(&directory), expected, "{path}");
        }
        assert!(!ConfigPlace::Inside("/etc/conf.d/a.conf".to_owned()).is_member_of(&directory));
    }
}

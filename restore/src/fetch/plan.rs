//! What a restore will do, decided before it writes a byte: backup, places, room.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use lifeboat_cli::exit_code::{Ending, Exit};
use lifeboat_postgres::TablespaceFact;
use lifeboat_vocabulary::ByteCount;

use crate::command_line::{RestoreArgs, TablespaceMapping};
use crate::fetch::beneath::{Owner, PlannedPlace, existing};

/// Where a restore will write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RestorePlan {
    /// The data directory.
    pub(crate) root: PlannedPlace,
    /// Tablespaces: where they were, and where they go.
    pub(crate) tablespaces: BTreeMap<u32, (String, PlannedPlace)>,
    /// Who gets the files, when that is not the one who restores.
    pub(crate) owner: Option<Owner>,
    /// What is needed, and what is there.
    pub(crate) room: Room,
}

/// Space needed and available, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Room {
    /// Plain bytes of the backup.
    pub(crate) needed: ByteCount,
    /// Free bytes on the file systems involved.
    pub(crate) available: ByteCount,
}

/// Where tablespaces shall go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TablespaceWish<'a> {
    /// Those that were named one by one.
    pub(crate) mappings: &'a [TablespaceMapping],
    /// What about the others.
    pub(crate) unmapped: Unmapped,
}

/// What becomes of a tablespace that nobody named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unmapped {
    /// Nothing is restored.
    Refused,
    /// It goes where the backup says that it was.
    Original,
}

impl Unmapped {
    /// As the command line says.
    pub(crate) fn of(args: &RestoreArgs) -> Self {
        if args.original_tablespaces { Self::Original } else { Self::Refused }
    }
}

fn unusable(message: String) -> anyhow::Error {
    Exit::error(Ending::BadTarget, message)
}

/// Plans where everything goes, and refuses what cannot work.
///
/// # Errors
/// If the target or a tablespace directory is not empty, a mapping names no tablespace, a tablespace was not named,
/// directories lie in each other, or there is not enough room.
pub(crate) fn plan(
    root: &Path,
    tablespaces: &[TablespaceFact],
    wish: TablespaceWish<'_>,
    needed: ByteCount,
) -> anyhow::Result<RestorePlan> {
    let TablespaceWish { mappings, unmapped } = wish;
    let root = PlannedPlace::of(root).context("find the target directory")?;
    let mut places = BTreeMap::new();
    for tablespace in tablespaces {
        let mapping = mappings.iter().find(|mapping| mapping.old == tablespace.location);
        if mapping.is_none() && unmapped == Unmapped::Refused {
            // The host that was backed up has written this path, and need not have been in the hands of its owner.
            return Err(unusable(format!(
                "the backup has tablespace {} at {}, and nothing is written outside of {} on its word alone: say where it \
                 goes with --tablespace-map {}=NEW, or that all go where they were with --original-tablespaces",
                tablespace.oid,
                tablespace.location,
                root.path.display(),
                tablespace.location
            )));
        }
        let place = mapping.map_or_else(|| PathBuf::from(&tablespace.location), |mapping| mapping.new.clone());
        let place = PlannedPlace::of(&place).context("find the directory of a tablespace")?;
        places.insert(tablespace.oid, (tablespace.location.clone(), place));
    }
    for mapping in mappings {
        if !tablespaces.iter().any(|tablespace| tablespace.location == mapping.old) {
            let known: Vec<&str> = tablespaces.iter().map(|tablespace| tablespace.location.as_str()).collect();
            let known =
                if known.is_empty() { "it has none".to_owned() } else { format!("it has {}", known.join(", ")) };
            return Err(unusable(format!("the backup has no tablespace at {}; {known}", mapping.old)));
        }
    }
    let directories: Vec<&Path> = std::iter::once(&root)
        .chain(places.values().map(|(_, place)| place))
        .map(|place| place.path.as_path())
        .collect();
    for (index, directory) in directories.iter().enumerate() {
        ensure_empty(directory, index > 0)?;
        for other in directories.iter().skip(index + 1) {
            if directory.starts_with(other) || other.starts_with(directory) {
                let text = format!("{} and {} must not be one in the other", directory.display(), other.display());
                return Err(unusable(text));
            }
        }
    }
    let available = available(&directories)?;
    if available < needed {
        let text =
            format!("{} has {available} free, the backup needs {needed}; nothing was written", root.path.display());
        return Err(unusable(text));
    }
    let owner = owner(&root.path)?;
    Ok(RestorePlan { root, tablespaces: places, owner, room: Room { needed, available } })
}

fn ensure_empty(directory: &Path, is_tablespace: bool) -> anyhow::Result<()> {
    let fix = if is_tablespace {
        "map the tablespace to another directory with --tablespace-map OLD=NEW"
    } else {
        "name an empty or new directory with --to; nothing is ever overwritten"
    };
    match std::fs::read_dir(directory) {
        Ok(mut members) => match members.next() {
            None => Ok(()),
            Some(_) => Err(unusable(format!("{} is not empty; {fix}", directory.display()))),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(unusable(format!("{} cannot be used: {error}; {fix}", directory.display()))),
    }
}

fn available(directories: &[&Path]) -> anyhow::Result<ByteCount> {
    let mut devices = Vec::new();
    let mut total = ByteCount::ZERO;
    for directory in directories {
        let place = existing(directory);
        let device = std::fs::metadata(place).with_context(|| format!("look at {}", place.display()))?.dev();
        if !devices.contains(&device) {
            devices.push(device);
            let space =
                rustix::fs::statvfs(place).with_context(|| format!("ask for free space in {}", place.display()))?;
            total = total.plus(ByteCount::from_bytes(space.f_bavail.saturating_mul(space.f_frsize)));
        }
    }
    Ok(total)
}

/// Root restores for somebody else: the owner of the target directory, or of the directory above it.
fn owner(root: &Path) -> anyhow::Result<Option<Owner>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let place = existing(root);
    let metadata = std::fs::metadata(place).with_context(|| format!("look at {}", place.display()))?;
    Ok(Some((metadata.uid(), metadata.gid())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(location: &str) -> TablespaceFact {
        TablespaceFact { oid: 16384, location: location.to_owned() }
    }

    #[test]
    fn tablespaces_go_where_they_are_mapped_to() {
        let dir = tempfile::tempdir().unwrap();
        let mapping = TablespaceMapping { old: "/srv/fast".to_owned(), new: dir.path().join("fast") };
        let wish = TablespaceWish { mappings: &[mapping], unmapped: Unmapped::Refused };
        let plan = plan(&dir.path().join("pgdata"), &[space("/srv/fast")], wish, ByteCount::ZERO).unwrap();
        let (old, new) = &plan.tablespaces[&16384];
        assert_eq!((old.as_str(), &new.path), ("/srv/fast", &dir.path().canonicalize().unwrap().join("fast")));
    }

    #[test]
    fn a_tablespace_goes_where_the_backup_says_only_if_somebody_says_so_too() {
        let dir = tempfile::tempdir().unwrap();
        let (root, recorded) = (dir.path().join("pgdata"), dir.path().join("recorded"));
        let spaces = [space(recorded.to_str().unwrap())];
        let planned = |unmapped| plan(&root, &spaces, TablespaceWish { mappings: &[], unmapped }, ByteCount::ZERO);
        let refused = planned(Unmapped::Refused).unwrap_err();
        assert_eq!(refused.downcast_ref::<Exit>().unwrap().ending, Ending::BadTarget);
        assert!(refused.to_string().contains("--original-tablespaces"), "{refused}");
        assert_eq!(
            planned(Unmapped::Original).unwrap().tablespaces[&16384].1.path,
            recorded.parent().unwrap().canonicalize().unwrap().join("recorded")
        );
    }

    #[test]
    fn what_cannot_work_is_refused_before_anything_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("pgdata");
        let full = dir.path().join("full");
        std::fs::create_dir_all(full.join("x")).unwrap();
        let map = |old: &str, new: &Path| TablespaceMapping { old: old.to_owned(), new: new.to_owned() };
        let huge = ByteCount::from_bytes(u64::MAX);
        for (why, root, spaces, mappings, needed) in [
            ("the target is not empty", &full, vec![], vec![], ByteCount::ZERO),
            ("a mapping without a tablespace", &root, vec![], vec![map("/a", &full)], ByteCount::ZERO),
            ("the tablespace is not empty", &root, vec![space("/a")], vec![map("/a", &full)], ByteCount::ZERO),
            ("one in the other", &root, vec![space("/a")], vec![map("/a", &root.join("in"))], ByteCount::ZERO),
            ("no room", &root, vec![], vec![], huge),
        ] {
            let wish = TablespaceWish { mappings: &mappings, unmapped: Unmapped::Original };
            let error = plan(root, &spaces, wish, needed).expect_err(why);
            let exit = error.downcast_ref::<Exit>().expect(why);
            assert_eq!(exit.ending, Ending::BadTarget, "{why}: {exit}");
            assert!(!dir.path().join("pgdata").exists(), "{why}");
        }
    }
}

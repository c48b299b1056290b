//! Keeps the texts of configuration files as they pass, so that what they include and nobody copies is found with every backup,
//! also where the role may ask the server for nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use lifeboat_postgres::CopiedFiles;
use lifeboat_vocabulary::{EntryKind, FileEntry, FileNumber};

/// The largest file, and all of them, in **bytes**; and how many there may be.
const FILE_MAX: u64 = 1 << 20;
const TOTAL_MAX: u64 = 4 << 20;
const FILES_MAX: usize = 1000;

/// The small files of a data directory that PostgreSQL itself does not write.
#[derive(Debug, Default)]
pub(crate) struct ConfigWatch {
    open: HashMap<FileNumber, String>,
    texts: BTreeMap<String, Vec<u8>>,
    /// All files, also those whose texts are not kept, and directories.
    names: BTreeSet<String>,
    directories: BTreeSet<String>,
    left_out: Vec<String>,
    total: u64,
}

impl ConfigWatch {
    /// A member of the data directory comes.
    pub(crate) fn began(&mut self, number: FileNumber, entry: &FileEntry) {
        let Ok(path) = std::str::from_utf8(entry.path.as_bytes()) else { return };
        let top = path.split('/').next().unwrap_or_default();
        // Where nothing lies that the configuration names, and where logs may fill the room.
        let is_data = matches!(top, "base" | "global" | "log") || top.starts_with("pg_") && path.contains('/');
        if is_data || self.names.len() + self.directories.len() >= FILES_MAX {
            return;
        }
        match entry.kind {
            EntryKind::Directory => drop(self.directories.insert(path.to_owned())),
            EntryKind::File => {
                self.names.insert(path.to_owned());
                if entry.size <= FILE_MAX && self.total + entry.size <= TOTAL_MAX {
                    self.total += entry.size;
                    self.texts.insert(path.to_owned(), Vec::new());
                    self.open.insert(number, path.to_owned());
                }
            }
            EntryKind::Symlink { .. } => {}
        }
    }

    /// The server has left something out.
    pub(crate) fn left_out(&mut self, path: &str) {
        if self.left_out.len() < FILES_MAX {
            self.left_out.push(path.to_owned());
        }
    }

    /// The next bytes of a member.
    pub(crate) fn data(&mut self, number: FileNumber, bytes: &[u8]) {
        if let Some(text) = self.open.get(&number).and_then(|path| self.texts.get_mut(path))
            && (text.len() + bytes.len()) as u64 <= FILE_MAX
        {
            text.extend_from_slice(bytes);
        }
    }

    /// A member is complete.
    pub(crate) fn ended(&mut self, number: FileNumber) {
        self.open.remove(&number);
    }
}

impl CopiedFiles for ConfigWatch {
    fn read(&self, path: &str) -> Option<Vec<u8>> {
        self.texts.get(path).cloned()
    }

    fn names(&self, directory: &str) -> Option<Vec<String>> {
        let below = format!("{directory}/");
        let names = self.names.iter().filter_map(|path| path.strip_prefix(&below));
        let names: Vec<String> = names.filter(|name| !name.contains('/')).map(str::to_owned).collect();
        (self.directories.contains(directory) || !names.is_empty()).then_some(names)
    }

    fn left_out(&self) -> &[String] {
        &self.left_out
    }

    fn knows_all_left_out(&self) -> bool {
        self.left_out.len() < FILES_MAX
    }
}

#[cfg(test)]
mod tests {
    use lifeboat_vocabulary::RelativePath;

    use super::*;

    fn pass(watch: &mut ConfigWatch, number: u32, path: &str, content: &[u8]) {
        let (number, size) = (FileNumber(number), content.len() as u64);
        let path = RelativePath::new(path.as_bytes()).unwrap();
        watch.began(number, &FileEntry { path, kind: EntryKind::File, mode: 0o600, size, modified: 0 });
        content.chunks(3).for_each(|bytes| watch.data(number, bytes));
        watch.ended(number);
    }

    #[test]
    fn only_small_files_that_can_be_configuration_are_kept() {
        let mut watch = ConfigWatch::default();
        pass(&mut watch, 1, "postgresql.conf", b"include 'a.conf'");
        pass(&mut watch, 2, "conf.d/b.conf", b"port = 1");
        pass(&mut watch, 3, "conf.d/more/c.conf", b"port = 1");
        pass(&mut watch, 7, "log/a.log", b"a log");
        pass(&mut watch, 4, "base/5/1259", b"a table");
        pass(&mut watch, 5, "pg_wal/000000010000000000000001", b"WAL");
        pass(&mut watch, 6, "pg_hba.conf", b"local all all peer");
        assert_eq!(watch.read("postgresql.conf").as_deref(), Some(b"include 'a.conf'".as_slice()));
        // One that is too long is known by its name: an include of its directory takes it.
        pass(&mut watch, 8, "conf.d/d.conf", &vec![b'#'; (1 << 20) + 1]);
        assert_eq!(watch.names("conf.d"), Some(vec!["b.conf".to_owned(), "d.conf".to_owned()]));
        assert!(watch.read("conf.d/d.conf").is_none() && watch.read("log/a.log").is_none());
        assert!(watch.read("pg_hba.conf").is_some() && watch.names("none").is_none());
        assert!(watch.read("base/5/1259").is_none() && watch.read("pg_wal/000000010000000000000001").is_none());
        (10..20).for_each(|number| pass(&mut watch, number, &format!("big{number}"), &vec![0; 1 << 20]));
        assert!(watch.texts.values().map(Vec::len).sum::<usize>() <= 4 << 20);
    }
}

//! The configuration of a restored copy: as much as possible that of the server, and never more than the copy has.
//!
//! A copy lies elsewhere, so whatever names a file of the server by its absolute path has to name the copy's own: the original
//! may be gone, or worse, be there. Files that lay outside of the data directory come into the folder [`FOLDER`] of the copy, with
//! their paths; includes lead there. What nobody has is commented out, and said. Access rules are all or nothing: with one part
//! missing, a line that refuses somebody could be the part, so a minimal file takes their place.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use lifeboat_vocabulary::RelativePath;

use crate::backup::config_place::{ConfigPlace, relative};
use crate::backup::config_text::{ConfigKind, Reference, ReferenceKind, access_word, lines, references, setting};
use crate::backup::config_walk::{ConfigSource, WalkedConfig, walk};
use crate::backup::facts::ServerFacts;
use crate::backup::not_copied::belongs_to_a_copy;
use crate::server::copied_config::set_places::set_places;
pub use crate::server::copied_config::source::CopiedFiles;
use crate::server::copied_config::source::{AUTO, Directory, Origin, PLACES, Source};
use crate::server::minimal_configuration::{
    minimal_pg_hba_conf, minimal_pg_ident_conf, minimal_postgresql_conf, quoted,
};

mod set_places;
mod source;

/// The folder of a copy with files that lay outside of the data directory.
const FOLDER: &str = "lifeboat_conf";
/// Settings that recovery wants at least as large as the original's, and libraries without which a copy may not start.
const NEEDED: [&str; 7] = [
    "max_connections",
    "max_worker_processes",
    "max_wal_senders",
    "max_prepared_transactions",
    "max_locks_per_transaction",
    "wal_level",
    "shared_preload_libraries",
];

/// What has to be written so that a copy starts with its own configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CopiedConfig {
    /// Files to write or replace: path below the data directory, and content.
    pub files: BTreeMap<String, Vec<u8>>,
    /// Settings that win over all files, as lines of a file.
    pub settings: Vec<String>,
    /// What a person has to know, a line each.
    pub notes: Vec<String>,
}

/// The three main files.
struct Root {
    /// The setting that names it on the server.
    setting: &'static str,
    /// Its name in a copy.
    name: &'static str,
    kind: ConfigKind,
}

const ROOTS: [Root; 3] = [
    Root { setting: "config_file", name: "postgresql.conf", kind: ConfigKind::Settings },
    Root { setting: "hba_file", name: "pg_hba.conf", kind: ConfigKind::Access },
    Root { setting: "ident_file", name: "pg_ident.conf", kind: ConfigKind::Ident },
];
/// Before an include of a directory that nobody makes in the copy.
const EMPTY: &[u8] = b"# lifeboat: no file was in it: ";

/// Decides what the configuration of a copy is.
#[must_use]
pub fn copied_config(server: &ServerFacts, copied: &dyn CopiedFiles) -> CopiedConfig {
    let mut plan = Plan::new(server, copied);
    for root in &ROOTS {
        plan.root(root);
    }
    plan.not_known_in_force();
    if let Some(auto) = auto(copied) {
        let walked = walk(&[auto], &plan.source);
        plan.put_all(&walked.reached);
    }
    plan.tls();
    plan.done
}

/// The file of `ALTER SYSTEM`. Nobody should write an include into it; the server follows one all the same.
fn auto(copied: &dyn CopiedFiles) -> Option<(ConfigPlace, ConfigKind)> {
    copied.read(AUTO).map(|_| (ConfigPlace::Inside(AUTO.to_owned()), ConfigKind::Settings))
}

/// What belongs to the configuration of a server and is in no file of a copy: paths on the server, and why.
#[must_use]
pub fn missing_config(server: &ServerFacts, copied: &dyn CopiedFiles) -> BTreeMap<String, String> {
    let plan = Plan::new(server, copied);
    let mut missing = BTreeMap::new();
    let roots = ROOTS.iter().map(|root| (plan.root_place(root), root.kind));
    for root in roots.chain(auto(copied)) {
        let walked = walk(&[root], &plan.source);
        let unnamed =
            plan.unnamed(&walked).map(|place| (plan.shown(place), "no copy can have a file of this name".to_owned()));
        missing.extend(unnamed);
        for found in walked.missing {
            let path = plan.shown(&found.place);
            let named = found.named_by.map_or_else(String::new, |by| format!("{} refers to it, and ", plan.shown(&by)));
            let not_kept = |path: &str| server.config.not_kept.get(path).map(String::as_str);
            let why = match plan.source.lacking(&found.place).map(|file| plan.shown(&file)) {
                Some(file) => format!("lacks {file}: {}", not_kept(&file).unwrap_or("the server left it out")),
                None => not_kept(&path).unwrap_or("it is not a plain file in the data directory").to_owned(),
            };
            missing.insert(path, format!("{named}{why}"));
        }
    }
    for (name, path, place) in plan.tls_files() {
        if plan.source.text(&place).is_none() {
            let why = server.config.not_kept.get(&path).map_or("it is not in the backup", String::as_str);
            missing.insert(path, format!("{name} is set to it, and {why}"));
        }
    }
    missing
}

struct Plan<'a> {
    server: &'a ServerFacts,
    source: Source<'a>,
    /// Places that its files set, where the server did not tell them.
    set_places: BTreeMap<String, String>,
    /// For what lay outside of the data directory.
    folder: String,
    /// Files that have been put, each once for every way in which it is read.
    put: BTreeSet<(String, ConfigKind)>,
    done: CopiedConfig,
}

/// [`FOLDER`], or with a number behind it: one that the copy does not have. A server that was restored itself has one, with files
/// that may have been deleted on it since; an include of a directory would read them again.
fn folder(copied: &dyn CopiedFiles) -> String {
    let numbered = (2..u32::MAX).map(|number| format!("{FOLDER}_{number}"));
    let mut names = std::iter::once(FOLDER.to_owned()).chain(numbered);
    names.find(|name| copied.names(name).is_none()).unwrap_or_else(|| FOLDER.to_owned())
}

/// A line of a file that includes others.
struct CopiedLine<'a> {
    /// The file.
    name: &'a str,
    line: &'a [u8],
    reference: Reference,
}

/// What became of a file's text.
struct Rewritten {
    text: Vec<u8>,
    notes: Vec<String>,
}

impl<'a> Plan<'a> {
    fn new(server: &'a ServerFacts, copied: &'a dyn CopiedFiles) -> Self {
        let source = Source { kept: &server.config, data_directory: server.setting("data_directory"), copied };
        let (put, done) = (BTreeSet::new(), CopiedConfig::default());
        let mut plan = Self { server, source, set_places: BTreeMap::new(), folder: folder(copied), put, done };
        let main = ROOTS.iter().filter(|root| root.kind == ConfigKind::Settings).map(|root| plan.root_place(root));
        let settings: Vec<ConfigPlace> = main.chain(auto(copied).map(|(place, _)| place)).collect();
        plan.set_places = set_places(&settings, &plan.source);
        plan
    }

    /// Where a main file was on the server. Those whose role may not know have most often the default.
    fn root_place(&self, root: &Root) -> ConfigPlace {
        let top = ConfigPlace::Inside(AUTO.to_owned());
        let own = || ConfigPlace::Inside(root.name.to_owned());
        match (self.server.setting(root.setting), self.set_places.get(root.setting)) {
            (Some(path), _) => ConfigPlace::of(path, self.source.data_directory),
            // It may be the file of the data directory itself, which nobody could tell.
            (None, Some(path)) if self.may_be_own(path, root) => own(),
            (None, Some(path)) => top.refers_to(path, self.source.data_directory),
            (None, None) => own(),
        }
    }

    /// Whether an absolute path can name the file of this name in the data directory: it is not known where that was.
    fn may_be_own(&self, path: &str, root: &Root) -> bool {
        let is_named_so = path.starts_with('/') && path.rsplit('/').next() == Some(root.name);
        is_named_so && self.source.data_directory.is_none() && self.source.copied.read(root.name).is_some()
    }

    /// A role without rights cannot tell which access rules the server was started with.
    fn not_known_in_force(&mut self) {
        let is_unknown = |root: &&Root| {
            let is_there = self.source.found(&self.root_place(root)).is_some();
            is_there && self.server.setting(root.setting).is_none() && root.kind != ConfigKind::Settings
        };
        let unknown: Vec<&str> = ROOTS.iter().filter(is_unknown).map(|root| root.name).collect();
        if !unknown.is_empty() {
            self.done.notes.push(format!(
                "{}: the role of the backups may not see whether the server used these rules or others (pg_read_all_settings \
                 would let it): look at them before the copy takes connections",
                unknown.join(", ")
            ));
        }
    }

    fn root(&mut self, root: &Root) {
        let place = self.root_place(root);
        let walked = walk(&[(place.clone(), root.kind)], &self.source);
        let has_all = walked.missing.is_empty() && self.unnamed(&walked).next().is_none();
        let is_whole = root.kind == ConfigKind::Settings || has_all;
        if !is_whole || self.source.found(&place).is_none() {
            return self.stand_in(root, &place, &walked);
        }
        self.put(&place, root.name, root.kind);
        self.put_all(walked.reached.get(1..).unwrap_or_default());
    }

    /// Files of the server that no copy can have, for what they are called.
    fn unnamed<'w>(&self, walked: &'w WalkedConfig) -> impl Iterator<Item = &'w ConfigPlace> {
        let behind_the_first = walked.reached.iter().skip(1).map(|(place, _)| place);
        behind_the_first.filter(|place| self.copy_name(place).is_none())
    }

    /// Gives files of the server the names that they have in the copy.
    fn put_all(&mut self, reached: &[(ConfigPlace, ConfigKind)]) {
        for (place, kind) in reached {
            if let Some(name) = self.copy_name(place) {
                self.put(place, &name, *kind);
            }
        }
    }

    /// Gives a file of the server this name in the copy. One that has it already is written only if it changes.
    fn put(&mut self, place: &ConfigPlace, name: &str, kind: ConfigKind) {
        let Some((text, origin)) = self.source.found(place) else { return };
        if !self.put.insert((name.to_owned(), kind)) {
            return;
        }
        let Rewritten { text: new, notes } = self.rewritten(place, name, kind, &text);
        let is_here = origin == Origin::Copy && *place == ConfigPlace::Inside(name.to_owned());
        let is_to_write = !is_here || *text != *new;
        drop(text);
        if !is_here {
            self.done.notes.push(format!("{name}: as it was in {}", self.shown(place)));
        }
        self.done.notes.extend(notes);
        if is_to_write {
            self.done.files.insert(name.to_owned(), new);
        }
    }

    /// A minimal file in place of one that nobody has, or not whole.
    fn stand_in(&mut self, root: &Root, place: &ConfigPlace, walked: &WalkedConfig) {
        let missing = walked.missing.iter().map(|missing| &missing.place).chain(self.unnamed(walked));
        let missing: Vec<String> = missing.map(|place| self.shown(place)).collect();
        let missing = missing.join(", ");
        let (text, what) = match root.kind {
            ConfigKind::Settings => {
                let values = self.known_values();
                let what = format!("has {} settings that the server told", values.len());
                (minimal_postgresql_conf(&values), what)
            }
            ConfigKind::Access => {
                let what = "lets operating system users in by their own name, through the socket alone".to_owned();
                (minimal_pg_hba_conf().to_owned(), what)
            }
            _ => (minimal_pg_ident_conf().to_owned(), "maps no names".to_owned()),
        };
        self.done.notes.push(format!("{}: not in the backup ({missing}); a minimal file {what}", root.name));
        if let Some(original) = self.source.text(place).map(Cow::into_owned) {
            let aside = format!("{}.original", root.name);
            self.done.notes.push(format!("{}: what there is of it is in {aside}", root.name));
            self.done.files.insert(aside, original);
        }
        self.done.files.insert(root.name.to_owned(), text.into_bytes());
    }

    /// All that is known of a configuration of which no text is.
    fn known_values(&self) -> Vec<(String, String)> {
        let mut values: BTreeMap<String, String> = BTreeMap::new();
        for name in NEEDED {
            if let Some(value) = self.server.setting(name) {
                values.insert(name.to_owned(), value.to_owned());
            }
        }
        let told = self.source.kept.values.iter().filter(|value| !PLACES.contains(&value.name.as_str()));
        // The file of ALTER SYSTEM is in the backup.
        let told = told.filter(|value| !value.path.ends_with(AUTO));
        values.extend(told.map(|value| (value.name.clone(), value.value.clone())));
        values.into_iter().collect()
    }

    fn rewritten(&self, place: &ConfigPlace, name: &str, kind: ConfigKind, text: &[u8]) -> Rewritten {
        match kind {
            ConfigKind::Settings => self.settings_text(place, name, text),
            ConfigKind::Access | ConfigKind::Ident | ConfigKind::Names => self.access_text(place, name, kind, text),
            ConfigKind::Certificate => Rewritten { text: text.to_vec(), notes: Vec::new() },
        }
    }

    fn settings_text(&self, place: &ConfigPlace, name: &str, text: &[u8]) -> Rewritten {
        let mut out = Rewritten { text: Vec::with_capacity(text.len()), notes: Vec::new() };
        for (number, line) in lines(text).enumerate() {
            if number > 0 {
                out.text.push(b'\n');
            }
            let found = setting(line).filter(|(name, _)| PLACES.contains(&name.as_str()));
            if let Some((setting, value)) = found {
                out.text.extend([b"# lifeboat: a place of the original: ", line].concat());
                out.notes.push(format!("{name}: {setting} = {value} is a place of the original; commented out"));
                continue;
            }
            match references(ConfigKind::Settings, line).into_iter().next() {
                Some(reference) => self.include(place, &CopiedLine { name, line, reference }, &mut out),
                None => out.text.extend(line),
            }
        }
        out
    }

    /// A line that includes another file or directory.
    fn include(&self, place: &ConfigPlace, copied: &CopiedLine<'_>, out: &mut Rewritten) {
        let CopiedLine { name, line, reference: Reference { path, kind, .. } } = copied;
        let (name, line, path, kind) = (*name, *line, path.as_str(), *kind);
        let to = place.refers_to(path, self.source.data_directory);
        let directory = match kind {
            ReferenceKind::Directory => self.directory(&to),
            _ if self.source.text(&to).is_some() => Directory::Whole,
            _ => Directory::Missing,
        };
        if directory == Directory::Empty {
            return out.text.extend([EMPTY, line].concat());
        }
        let is_there = directory != Directory::Missing;
        let word = match kind {
            ReferenceKind::Directory => "include_dir",
            ReferenceKind::FileIfThere => "include_if_exists",
            _ => "include",
        };
        // What may be missing and would be the copy's own does no harm.
        // An empty name is refused by the server, however little it needs the file.
        let is_own = matches!(to, ConfigPlace::Inside(_)) && !path.starts_with('/') && !path.trim().is_empty();
        let target = self.copy_name(&to);
        let is_kept = target.is_some() && (is_there || kind == ReferenceKind::FileIfThere && is_own);
        match target.filter(|_| is_kept).map(|target| relative(name, &target)) {
            Some(new) if new == path => out.text.extend(line),
            Some(new) => {
                out.text.extend([b"# lifeboat: was: ", line, b"\n"].concat());
                out.text.extend(format!("{word} {}", quoted(&new)).into_bytes());
            }
            None => out.text.extend([b"# lifeboat: not in the backup: ", line].concat()),
        }
        if is_kept && directory != Directory::Partial {
            return;
        }
        let (shown, values) = (self.shown(&to), self.values_of(&to));
        out.text.extend(values.iter().flat_map(|(name, value)| format!("\n{name} = {}", quoted(value)).into_bytes()));
        let told = match (is_kept, values.len()) {
            (true, 0) => "the others of its files are read".to_owned(),
            (true, count) => {
                format!("the others of its files are read, and {count} settings that are known stand behind")
            }
            (false, 0) => "commented out".to_owned(),
            (false, count) => format!("commented out; {count} of its settings are known and stand in its place"),
        };
        let lacking = if is_kept { "is in the backup only in parts" } else { "is not in the backup" };
        // One that may be missing is missed by nobody.
        if kind != ReferenceKind::FileIfThere || !values.is_empty() {
            out.notes.push(format!("{name}: {word} {shown} {lacking}; {told}"));
        }
    }

    /// What the copy gets of a directory: a file whose name no copy can have, it does not get.
    fn directory(&self, place: &ConfigPlace) -> Directory {
        let found = self.source.directory(place);
        let members = self.source.members(place).unwrap_or_default().places;
        let got = members.iter().filter(|member| self.copy_name(member).is_some()).count();
        match (found, got) {
            (Directory::Whole | Directory::Partial, 0) if !members.is_empty() => Directory::Missing,
            (Directory::Whole, got) if got < members.len() => Directory::Partial,
            (found, _) => found,
        }
    }

    /// What a file, or the files of a directory, set, as far as it is known.
    fn values_of(&self, place: &ConfigPlace) -> Vec<(String, String)> {
        let values = self.source.kept.values.iter().filter(|value| {
            let from = ConfigPlace::of(&value.path, self.source.data_directory);
            (from == *place || from.is_member_of(place)) && !PLACES.contains(&value.name.as_str())
        });
        values.map(|value| (value.name.clone(), value.value.clone())).collect()
    }

    fn access_text(&self, place: &ConfigPlace, name: &str, kind: ConfigKind, text: &[u8]) -> Rewritten {
        let mut out = Vec::with_capacity(text.len());
        for (number, line) in lines(text).enumerate() {
            if number > 0 {
                out.push(b'\n');
            }
            let mut line = line.to_vec();
            // From the end on, so that places before stay where they are.
            for reference in references(kind, &line).into_iter().rev() {
                let to = place.refers_to(&reference.path, self.source.data_directory);
                if reference.kind == ReferenceKind::Directory && self.source.directory(&to) == Directory::Empty {
                    line.splice(..0, EMPTY.iter().copied());
                    continue;
                }
                let Some(new) = self.copy_name(&to).map(|target| relative(name, &target)) else { continue };
                if new != reference.path {
                    line.splice(reference.place, access_word(&new).into_bytes());
                }
            }
            out.extend_from_slice(&line);
        }
        Rewritten { text: out, notes: Vec::new() }
    }

    /// The files that TLS needs, where it is on: setting, path as it is set, place.
    fn tls_files(&self) -> Vec<(&'static str, String, ConfigPlace)> {
        if self.server.setting("ssl") != Some("on") {
            return Vec::new();
        }
        let files: [&'static str; 4] = ["ssl_cert_file", "ssl_key_file", "ssl_ca_file", "ssl_crl_file"];
        let set = files.into_iter().filter_map(|name| {
            let path = self.server.setting(name).filter(|path| !path.is_empty())?;
            let place = ConfigPlace::Inside(AUTO.to_owned()).refers_to(path, self.source.data_directory);
            Some((name, path.to_owned(), place))
        });
        set.collect()
    }

    /// With TLS on, a server does not start without its certificate and key.
    fn tls(&mut self) {
        let (mut moved, mut missing) = (Vec::new(), Vec::new());
        for (name, path, place) in self.tls_files() {
            match (self.source.found(&place), self.copy_name(&place)) {
                (Some((content, origin)), Some(copy)) => {
                    if origin == Origin::Kept {
                        self.done.files.insert(copy.clone(), content.into_owned());
                    }
                    if copy != path {
                        moved.push(format!("{name} = {}    # the copy's own file\n", quoted(&copy)));
                    }
                }
                _ => missing.push(format!("{name} = {path}")),
            }
        }
        self.done.settings.extend(moved);
        if !missing.is_empty() {
            let missing = missing.join(", ");
            self.done.settings.push("ssl = off    # a file that TLS needs is not in the backup\n".to_owned());
            self.done.notes.push(format!("TLS is off in the copy: not in the backup: {missing}"));
        }
    }

    /// Where a file lies in a copy; `None` if it cannot be there, as nothing that a server would follow.
    fn copy_name(&self, place: &ConfigPlace) -> Option<String> {
        let name = match place {
            // It was no main file on the server, and would be one in the copy.
            ConfigPlace::Inside(path) if self.is_namesake(place) => format!("{}/data_directory/{path}", self.folder),
            ConfigPlace::Inside(path) => path.clone(),
            ConfigPlace::Outside(path) if path.starts_with('/') => format!("{}{path}", self.folder),
            ConfigPlace::Outside(_) => return None,
        };
        RelativePath::new(name.as_bytes()).is_ok_and(|path| belongs_to_a_copy(&path)).then_some(name)
    }

    /// Whether a file has the name that a main file gets in the copy, and is another one.
    fn is_namesake(&self, place: &ConfigPlace) -> bool {
        let is_it =
            |root: &Root| *place == ConfigPlace::Inside(root.name.to_owned()) && self.root_place(root) != *place;
        ROOTS.iter().any(is_it)
    }

    fn shown(&self, place: &ConfigPlace) -> String {
        self.source.on_server(place).unwrap_or_else(|| place.to_string())
    }
}

#[cfg(test)]
mod tests;

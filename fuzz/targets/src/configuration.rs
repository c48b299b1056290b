//! What operators write, and the configuration of a server as a copy of it gets it.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;

use lifeboat_config::{Config, Environment};
use lifeboat_postgres::{
    ConfigKind, ConfigPlace, ConfigSource, ConnectionSettings, CopiedConfig, CopiedFiles, KeptConfig, KeptFile,
    KeptValue, Members, ServerFacts, copied_config as config_of_copy, missing_config, walk,
};

/// Settings that name places of the original.
const PLACES: [&str; 5] = ["data_directory", "config_file", "hba_file", "ident_file", "external_pid_file"];
/// Where the copy lies.
const COPY: &str = "/copy";

/// The configuration file: every fault has words.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Err(faults) = Config::from_text(Path::new("lifeboat.toml"), text, &Environment::default()) {
        assert!(!faults.as_slice().is_empty() && !faults.to_string().is_empty());
    }
}

/// Connection strings and URIs, as an operator writes them. No error and no listing shows a password.
pub fn connection(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(settings) = ConnectionSettings::parse(text) {
        std::hint::black_box(&format!("{settings} {settings:?}"));
    }
    // A secret of ten characters behind what was read so far, in both forms.
    const SECRET: &str = "sEcrEt%41x";
    for with_secret in [format!("password={SECRET} {text}"), format!("postgresql://u:{SECRET}@{text}")] {
        let shown = match ConnectionSettings::parse(&with_secret) {
            Ok(settings) => format!("{settings} {settings:?}"),
            Err(error) => format!("{error} {error:?}"),
        };
        let shows = |secret: &str| shown.contains(secret) && !text.contains(secret);
        assert!(!shows("sEcrEt"), "{with_secret} shows {shown}");
    }
}

/// The files of a copy: what came out of the backup, and what was written over it.
#[derive(Clone, Debug, Default)]
struct Files {
    files: BTreeMap<String, Vec<u8>>,
    left_out: Vec<String>,
}

impl CopiedFiles for Files {
    fn read(&self, path: &str) -> Option<Vec<u8>> {
        self.files.get(path).cloned()
    }

    fn names(&self, directory: &str) -> Option<Vec<String>> {
        let below = self.files.keys().filter_map(|path| path.strip_prefix(directory)?.strip_prefix('/'));
        let names: Vec<String> = below.map(str::to_owned).collect();
        (!names.is_empty()).then_some(names)
    }

    fn left_out(&self) -> &[String] {
        &self.left_out
    }

    fn knows_all_left_out(&self) -> bool {
        true
    }
}

/// A copy as its server reads it, and where it looked beyond the copy.
struct Started<'a> {
    copy: &'a Files,
    strayed: RefCell<Vec<ConfigPlace>>,
}

impl ConfigSource for Started<'_> {
    fn data_directory(&self) -> Option<&str> {
        Some(COPY)
    }

    fn text(&self, place: &ConfigPlace) -> Option<Cow<'_, [u8]>> {
        match place {
            ConfigPlace::Inside(path) if is_below(path) => {
                self.copy.files.get(path).map(|text| Cow::Borrowed(&text[..]))
            }
            _ => {
                self.strayed.borrow_mut().push(place.clone());
                None
            }
        }
    }

    fn was_absent(&self, _: &ConfigPlace) -> bool {
        true
    }

    fn members(&self, directory: &ConfigPlace) -> Option<Members> {
        let ConfigPlace::Inside(path) = directory else {
            self.strayed.borrow_mut().push(directory.clone());
            return None;
        };
        let is_included = |name: &String| name.ends_with(".conf") && !name.starts_with('.') && !name.contains('/');
        let names = self.copy.names(path)?.into_iter().filter(is_included);
        let places = names.map(|name| ConfigPlace::Inside(format!("{path}/{name}"))).collect();
        Some(Members { places, is_whole: true })
    }
}

/// Whether a path stays below the directory that it is relative to.
fn is_below(path: &str) -> bool {
    !path.is_empty() && path.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

/// Takes an input apart: lines that begin with `=` say what follows.
///
/// `=copy PATH` a file of the backup, `=settings PATH`, `=access PATH`, `=ident PATH` one that was kept; their content follows.
/// `=set NAME VALUE` a setting, `=value PATH NAME VALUE` one of a file that was not kept; `=dir PATH`, `=absent PATH`,
/// `=unkept PATH`, `=out PATH` what is known of other paths.
fn server(data: &[u8]) -> (ServerFacts, Files) {
    let (mut copy, mut config, mut settings) = (Files::default(), KeptConfig::default(), BTreeMap::new());
    let mut content: Option<(String, Option<ConfigKind>, Vec<u8>)> = None;
    for line in data.split(|byte| *byte == b'\n').chain([&b"="[..]]) {
        let Some(command) = line.strip_prefix(b"=") else {
            if let Some((_, _, content)) = &mut content {
                content.extend([line, b"\n"].concat());
            }
            continue;
        };
        match content.take() {
            Some((path, None, content)) if is_below(&path) => drop(copy.files.insert(path, content)),
            Some((path, Some(kind), content)) => config.files.push(KeptFile { path, kind, content }),
            _ => {}
        }
        let command = String::from_utf8_lossy(command);
        let (word, rest) = command.split_once(' ').unwrap_or((&command, ""));
        let rest = rest.to_owned();
        match word {
            "copy" => content = Some((rest, None, Vec::new())),
            "settings" => content = Some((rest, Some(ConfigKind::Settings), Vec::new())),
            "access" => content = Some((rest, Some(ConfigKind::Access), Vec::new())),
            "ident" => content = Some((rest, Some(ConfigKind::Ident), Vec::new())),
            "dir" => drop(config.directories.insert(rest)),
            "absent" => drop(config.not_there.insert(rest)),
            "unkept" => drop(config.not_kept.insert(rest, "nobody may read it".to_owned())),
            "out" => copy.left_out.push(rest),
            "set" => drop(rest.split_once(' ').map(|(name, value)| settings.insert(name.to_owned(), value.to_owned()))),
            "value" => config.values.extend(value(&rest)),
            _ => {}
        }
    }
    (ServerFacts::sample(settings, config), copy)
}

/// The server has only settings whose names it knows.
fn value(text: &str) -> Option<KeptValue> {
    let (path, rest) = text.split_once(' ')?;
    let (name, value) = rest.split_once(' ')?;
    let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        && !name.to_ascii_lowercase().starts_with("include");
    is_name.then(|| KeptValue { path: path.to_owned(), name: name.to_ascii_lowercase(), value: value.to_owned() })
}

/// The configuration of a copy: whatever that of the server was, the copy's is whole, names nothing beyond the copy, sets no
/// place of the original, and a copy of the copy gets the same.
pub fn copied_config(data: &[u8]) {
    let (server, copy) = server(data);
    std::hint::black_box(&missing_config(&server, &copy));
    let CopiedConfig { files, settings, .. } = config_of_copy(&server, &copy);
    assert_eq!(config_of_copy(&server, &copy).files, files);
    assert!(settings.iter().all(|line| line.ends_with('\n') && line.matches('\n').count() == 1), "{settings:?}");
    let mut after = Files { left_out: Vec::new(), ..copy };
    for (path, content) in files {
        assert!(is_below(&path), "{path} is not below the copy");
        after.files.insert(path, content);
    }
    let roots = [
        ("postgresql.conf", ConfigKind::Settings),
        ("postgresql.auto.conf", ConfigKind::Settings),
        ("pg_hba.conf", ConfigKind::Access),
        ("pg_ident.conf", ConfigKind::Ident),
    ];
    let roots =
        roots.into_iter().filter(|(name, _)| *name != "postgresql.auto.conf" || after.files.contains_key(*name));
    let roots: Vec<_> = roots.map(|(name, kind)| (ConfigPlace::Inside(name.to_owned()), kind)).collect();
    let started = Started { copy: &after, strayed: RefCell::default() };
    let walked = walk(&roots, &started);
    let lacks = walked.missing.iter().find(|missing| !is_in_a_loop(&server, &missing.place));
    assert_eq!(lacks, None, "the copy lacks what it names");
    assert_eq!(started.strayed.borrow().as_slice(), [], "the copy reads what is not its own");
    for (place, kind) in walked.reached.iter().filter(|(_, kind)| *kind == ConfigKind::Settings) {
        let text = started.text(place).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let set = text.lines().find(|line| PLACES.iter().any(|name| sets(line, name)));
        assert_eq!(set, None, "{place} ({kind:?}) sets a place of the original");
    }
}

/// Whether a place stands for a main file, or for its directory: no server starts that includes its main file again.
fn is_in_a_loop(server: &ServerFacts, place: &ConfigPlace) -> bool {
    let mains = ["config_file", "hba_file", "ident_file"].into_iter().filter_map(|name| server.setting(name));
    mains.map(|path| ConfigPlace::of(path, None).to_string()).any(|path| {
        let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        [path.as_str(), parent].iter().any(|path| place.to_string() == format!("lifeboat_conf{path}"))
    })
}

/// Whether a line of settings sets this one, in whatever way it is written.
fn sets(line: &str, name: &str) -> bool {
    let line = line.trim_start();
    let Some((found, rest)) = line.split_at_checked(name.len()) else { return false };
    let value = rest.trim_start().trim_start_matches('=').trim_start();
    let is_whole = rest.starts_with(|c: char| c.is_whitespace() || c == '=');
    // Without a value, or with a quotation mark that is never closed, the server refuses it.
    let is_value = !value.is_empty() && !value.starts_with('#') && !value.starts_with('\'');
    found.eq_ignore_ascii_case(name) && is_whole && is_value
}

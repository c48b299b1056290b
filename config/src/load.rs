//! File, environment, rules: either settings that can be worked with, or everything that is wrong with them.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::check;
use crate::environment::{Environment, Override, apply};
use crate::explain::Explained;
use crate::file::{Config, STATE_DIRECTORY_DEFAULT};
use crate::finding::{Faults, Finding, Place};
use crate::reader::{Reader, Section};
use crate::source_text::SourceText;
use crate::tree::{self, Value};

/// The longest file that is read, in bytes.
const FILE_MAX: usize = 1024 * 1024;

/// Settings without a fault, and what an operator should know of them.
#[derive(Debug)]
pub struct Loaded {
    /// The settings.
    pub config: Config,
    /// Settings that environment variables decide; to be logged at start.
    pub overrides: Vec<Override>,
    /// What works, but should not stay so.
    pub warnings: Vec<Finding>,
    /// Every setting in force with its origin, in the order of the file's documentation.
    pub explained: Vec<Explained>,
}

impl Config {
    /// Reads the file at `path` (at most 1 MiB) and lets the environment override it. Secrets are not fetched, no server
    /// is asked.
    ///
    /// # Errors
    /// [`Faults`]: all of them at once.
    pub fn load(path: &Path, environment: &Environment) -> Result<Loaded, Faults> {
        let text = read(path).map_err(|finding| Faults::new(vec![finding]))?;
        Self::from_text(path, &text, environment)
    }

    /// As [`Config::load`], from a text that is already there; `path` is what faults call it.
    ///
    /// # Errors
    /// [`Faults`]: all of them at once.
    pub fn from_text(path: &Path, text: &str, environment: &Environment) -> Result<Loaded, Faults> {
        let source = SourceText::new(path, text);
        let mut tree = tree::parse(text).map_err(|faults| {
            // Without its grammar the file has no settings to find faults in.
            let finding = |fault: &tree::SyntaxFault| Finding {
                place: source.place(&fault.span),
                problem: fault.message.clone(),
                fix: "correct this line; the rest is checked once the file is TOML".to_owned(),
            };
            Faults::new(faults.iter().map(finding).collect())
        })?;
        let mut faults = Vec::new();
        let overrides = apply(environment, &mut tree, &mut faults);
        let mut reader = Reader::new(&source, faults);
        let config = Config::read(&mut reader, Section::root(&tree));
        if let Some(config) = &config {
            check::across(&mut reader, config);
        }
        match config {
            Some(config) if reader.faults.is_empty() => {
                Ok(Loaded { config, overrides, warnings: reader.warnings, explained: reader.explained })
            }
            _ => Err(Faults::new(reader.faults)),
        }
    }
}

impl Config {
    /// Where the state lies, by a configuration that may have faults: as far as it can be made out, else by default. For
    /// those who only look.
    #[must_use]
    pub fn probable_state_directory(path: &Path, environment: &Environment) -> PathBuf {
        let mut tree = read(path).map(|text| tree::parse_what_can_be_parsed(&text)).unwrap_or_default();
        apply(environment, &mut tree, &mut Vec::new());
        let Some(Value::Table(state)) = tree.get("state").map(|entry| &entry.node.value) else {
            return PathBuf::from(STATE_DIRECTORY_DEFAULT);
        };
        let named = match state.get("directory").map(|entry| &entry.node.value) {
            Some(Value::Text(named)) => Some(PathBuf::from(named)),
            _ => None,
        };
        named.filter(|named| named.is_absolute()).unwrap_or_else(|| PathBuf::from(STATE_DIRECTORY_DEFAULT))
    }
}

fn read(path: &Path) -> Result<String, Finding> {
    let place = || Place::File { path: path.to_owned() };
    let refused = |error: io::Error| Finding {
        place: place(),
        problem: format!("read the configuration: {error}"),
        fix: match error.kind() {
            io::ErrorKind::NotFound => "name another file with --config, or begin with a copy of lifeboat.example.toml",
            _ => "let this account read the file",
        }
        .to_owned(),
    };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(refused)?;
    file.take(FILE_MAX as u64 + 1).read_to_end(&mut bytes).map_err(refused)?;
    let unusable =
        |problem: &str, fix: &str| Finding { place: place(), problem: problem.to_owned(), fix: fix.to_owned() };
    if bytes.len() > FILE_MAX {
        return Err(unusable("the configuration is longer than 1 MiB", "name the right file with --config"));
    }
    String::from_utf8(bytes).map_err(|_| unusable("the configuration is not UTF-8", "save it as UTF-8"))
}

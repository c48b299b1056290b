//! Modules of a crate do not import each other in a circle.
//!
//! An import is an arrow to the module that defines the name: names that a module merely hands on (`pub use`) are followed
//! to where they come from, so that the file of a folder which declares and exports makes no arrow. Code for tests does not
//! count.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::house::modules::of_crate;
use crate::house::source::{Import, imports, plain, without_tests, written_paths};
use crate::house::tree::{files, read, shown};

/// How many re-exports of re-exports are followed.
const EXPORTS_MAX: usize = 8;

/// No crate of the workspace has a circle.
pub(crate) fn check(root: &Path) -> Result<String> {
    let sources = files(root, "rs")?;
    let sources = sources.iter().filter(|file| file.ends_with("src/lib.rs") || file.ends_with("src/main.rs"));
    let sources: BTreeSet<&Path> = sources.filter_map(|file| file.parent()).collect();
    let (mut modules, mut circles) = (0, Vec::new());
    for src in &sources {
        let parsed = Crate::parse(src)?;
        modules += parsed.files.len();
        circles.extend(parsed.circles().iter().map(|circle| parsed.told(root, circle)));
    }
    if circles.is_empty() {
        return Ok(format!("{} crates with {modules} modules, none in a circle", sources.len()));
    }
    bail!("{}\nMove what two of them need into a module below both.", circles.join("\n"))
}

/// The modules of one crate, and who imports what of whom.
struct Crate {
    files: BTreeMap<String, PathBuf>,
    /// From a module to another: the names that are taken.
    arrows: BTreeMap<String, BTreeMap<String, BTreeSet<String>>>,
}

/// The names that modules hand on: where, as what, and where they come from.
type Exports = BTreeMap<(String, String), Vec<String>>;

impl Crate {
    fn parse(src: &Path) -> Result<Self> {
        let files = of_crate(src)?;
        let mut parsed = BTreeMap::new();
        let mut exports = Exports::new();
        for (module, file) in &files {
            let (imports, text) = imports(&without_tests(&plain(&read(file)?)));
            for import in imports.iter().filter(|import| import.is_export) {
                if let Some(path) = absolute(&files, module, &import.path) {
                    exports.insert((module.clone(), import.name.clone()), path);
                }
            }
            parsed.insert(module.clone(), (imports, text));
        }
        let mut arrows: BTreeMap<String, BTreeMap<String, BTreeSet<String>>> = BTreeMap::new();
        for (module, (imports, text)) in &parsed {
            let taken = Taken { files: &files, exports: &exports, module }.all(imports, text);
            for (other, name) in taken.into_iter().filter(|(other, _)| other != module) {
                arrows.entry(module.clone()).or_default().entry(other).or_default().insert(name);
            }
        }
        Ok(Self { files, arrows })
    }

    /// Groups of modules of which each leads to each other.
    fn circles(&self) -> Vec<Vec<String>> {
        let reached: BTreeMap<&String, BTreeSet<&String>> =
            self.files.keys().map(|module| (module, self.reached(module))).collect();
        let mut found: BTreeSet<Vec<String>> = BTreeSet::new();
        for (module, ahead) in &reached {
            if ahead.contains(module) {
                let group = ahead.iter().filter(|other| reached.get(**other).is_some_and(|back| back.contains(module)));
                found.insert(group.map(|other| (*other).clone()).collect());
            }
        }
        found.into_iter().collect()
    }

    fn reached<'a>(&'a self, from: &'a String) -> BTreeSet<&'a String> {
        let mut seen = BTreeSet::new();
        let mut open = vec![from];
        while let Some(module) = open.pop() {
            let next = self.arrows.get(module).into_iter().flat_map(BTreeMap::keys);
            open.extend(next.filter(|next| seen.insert(*next)));
        }
        seen
    }

    fn told(&self, root: &Path, circle: &[String]) -> String {
        let name = |module: &String| self.files.get(module).map_or_else(|| module.clone(), |file| shown(root, file));
        let mut lines = vec![format!("{} modules import each other in a circle:", circle.len())];
        for module in circle {
            for (other, names) in
                self.arrows.get(module).into_iter().flatten().filter(|(other, _)| circle.contains(other))
            {
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                lines.push(format!("  {} -> {}: {}", name(module), name(other), names.join(", ")));
            }
        }
        lines.join("\n")
    }
}

/// A written path from the root of the crate; `None` if it leads out of the crate.
fn absolute(files: &BTreeMap<String, PathBuf>, module: &str, path: &[String]) -> Option<Vec<String>> {
    let mut here: Vec<String> = module.split("::").filter(|part| !part.is_empty()).map(str::to_owned).collect();
    let (first, mut rest) = path.split_first()?;
    match first.as_str() {
        "crate" => return Some(rest.to_vec()),
        "self" => {}
        "super" => {
            here.pop()?;
            while rest.first().is_some_and(|next| next == "super") {
                here.pop()?;
                rest = &rest[1..];
            }
        }
        child => {
            here.push(child.to_owned());
            files.contains_key(&here.join("::")).then_some(())?;
        }
    }
    here.extend(rest.iter().cloned());
    Some(here)
}

/// What one module takes of others.
struct Taken<'a> {
    files: &'a BTreeMap<String, PathBuf>,
    exports: &'a Exports,
    module: &'a str,
}

impl Taken<'_> {
    fn all(&self, imports: &[Import], text: &str) -> Vec<(String, String)> {
        let mut found = Vec::new();
        let mut named: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for import in imports {
            let Some(path) = absolute(self.files, self.module, &import.path) else { continue };
            if self.files.contains_key(&path.join("::")) {
                named.insert(&import.name, path.clone());
            }
            // Handing a name on is no use of it.
            if !import.is_export {
                found.extend(self.definer(path));
            }
        }
        for path in written_paths(text) {
            let absolute = match path.first().and_then(|first| named.get(first.as_str())) {
                Some(module) => Some(module.iter().cloned().chain(path[1..].iter().cloned()).collect()),
                None => absolute(self.files, self.module, &path),
            };
            found.extend(absolute.and_then(|path| self.definer(path)));
        }
        found
    }

    /// The module that defines what a path names, and the name.
    fn definer(&self, mut path: Vec<String>) -> Option<(String, String)> {
        for _ in 0..EXPORTS_MAX {
            let length = (0..=path.len()).rev().find(|length| self.files.contains_key(&path[..*length].join("::")))?;
            let module = path[..length].join("::");
            let Some(name) = path.get(length) else {
                // A module by itself: what is taken of it stands where its name is written.
                return None;
            };
            let Some(origin) = self.exports.get(&(module.clone(), name.clone())) else {
                return Some((module, name.clone()));
            };
            path = origin.iter().cloned().chain(path[length + 1..].iter().cloned()).collect();
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::house::tree::put;

    /// A crate with these files below `src`.
    fn crate_of(sources: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in sources {
            put(root.path(), &format!("made_up/src/{name}"), text);
        }
        root
    }

    fn told(sources: &[(&str, &str)]) -> String {
        let root = crate_of(sources);
        match check(root.path()) {
            Ok(text) => text,
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn a_circle_of_two_is_named_with_what_ties_it() {
        let told = told(&[
            ("lib.rs", "mod a;\nmod b;\nmod c;\n"),
            ("a.rs", "use crate::b::{One, Two};\npub struct A;"),
            ("b.rs", "use super::a::A;\nuse crate::c::C;\npub struct One; pub struct Two;"),
            ("c.rs", "pub struct C;"),
        ]);
        let expected = "2 modules import each other in a circle:\n  made_up/src/a.rs -> made_up/src/b.rs: One, Two\n  \
                        made_up/src/b.rs -> made_up/src/a.rs: A\n";
        assert!(told.starts_with(expected), "{told}");
    }

    #[test]
    fn a_circle_through_a_folder_that_only_hands_names_on_is_found() {
        let told = told(&[
            ("lib.rs", "pub mod folder;\nmod top;\n"),
            ("folder/mod.rs", "mod low;\nmod high;\npub use self::high::High;\npub use self::low::Low;\n"),
            ("folder/low.rs", "use crate::top::Top;\npub struct Low;"),
            ("folder/high.rs", "use crate::folder::Low;\npub struct High;"),
            ("top.rs", "use crate::folder::{self};\npub struct Top(folder::High);"),
        ]);
        assert!(told.starts_with("3 modules import each other"), "{told}");
        assert!(told.contains("top.rs -> made_up/src/folder/high.rs: High"), "{told}");
    }

    #[test]
    fn a_parent_that_uses_its_child_and_lends_it_something_is_in_a_circle() {
        let sources = |child| {
            [
                ("lib.rs", "mod folder;\n"),
                ("folder/mod.rs", "mod child;\npub struct Mine(child::Child);"),
                ("folder/child.rs", child),
            ]
        };
        assert!(told(&sources("use super::Mine;\npub struct Child;")).starts_with("2 modules import each other"));
        assert_eq!(told(&sources("pub struct Child;")), "1 crates with 3 modules, none in a circle");
    }

    #[test]
    fn a_path_that_is_written_out_counts_as_an_import() {
        let told = told(&[
            ("main.rs", "mod a;\nmod b;\nfn main() {}"),
            ("a.rs", "pub fn a() { crate::b::b() }"),
            ("b.rs", "pub fn b() { super::a::a() }"),
        ]);
        assert!(told.starts_with("2 modules import each other"), "{told}");
    }

    #[test]
    fn tests_comments_and_strings_close_no_circle() {
        let told = told(&[
            ("lib.rs", "mod a;\nmod b;\n"),
            ("a.rs", "use crate::b::B;\npub struct A(B);\n#[cfg(test)]\nmod tests;\n"),
            ("a/tests.rs", "use crate::b::B;"),
            (
                "b.rs",
                "// use crate::a::A;\nconst TEXT: &str = r#\"use crate::a::A; { \"#;\npub struct B;\n#[cfg(test)]\nmod \
                 tests {\n    use crate::a::A;\n}\n",
            ),
        ]);
        assert_eq!(told, "1 crates with 3 modules, none in a circle");
    }
}

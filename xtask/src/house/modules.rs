//! The modules of a crate: which file each is, and which of them only tests have.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::house::source::{plain, without_tests};
use crate::house::tree::{files, read};

/// The modules that are compiled into a crate's library or program, by path (`a::b`; the root is empty).
pub(super) fn of_crate(src: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let root = ["lib.rs", "main.rs"].map(|name| src.join(name)).into_iter().find(|path| path.exists());
    let mut found = BTreeMap::new();
    let mut open: Vec<(String, PathBuf)> = root.into_iter().map(|path| (String::new(), path)).collect();
    while let Some((module, file)) = open.pop() {
        let text = without_tests(&plain(&read(&file)?));
        let folder = match file.file_name().and_then(|name| name.to_str()) {
            Some("lib.rs" | "main.rs" | "mod.rs") => file.parent().unwrap_or(src).to_owned(),
            _ => file.with_extension(""),
        };
        for name in declared(&text) {
            let path = if module.is_empty() { name.to_owned() } else { format!("{module}::{name}") };
            let candidates = [folder.join(format!("{name}.rs")), folder.join(name).join("mod.rs")];
            open.extend(candidates.into_iter().find(|file| file.exists()).map(|file| (path, file)));
        }
        found.insert(module, file);
    }
    Ok(found)
}

/// Files of a crate's sources that are compiled for tests alone.
pub(super) fn of_tests(src: &Path) -> Result<Vec<PathBuf>> {
    let product: Vec<PathBuf> = of_crate(src)?.into_values().collect();
    // A crate with a library has its program beside it.
    let others = files(src, "rs")?.into_iter().filter(|file| file.file_name().is_none_or(|name| name != "main.rs"));
    Ok(others.filter(|file| !product.contains(file)).collect())
}

fn declared(text: &str) -> Vec<&str> {
    let statements = text.split(['\n', ';', '}', '{']);
    let names = statements.filter_map(|statement| {
        let statement = statement.trim_start();
        let statement = match statement.strip_prefix("pub") {
            Some(rest) => rest
                .trim_start()
                .strip_prefix('(')
                .map_or(rest, |rest| rest.split_once(')').map_or("", |(_, rest)| rest)),
            None => statement,
        };
        statement.trim_start().strip_prefix("mod ").map(str::trim)
    });
    names.filter(|name| !name.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::house::tree::put;

    #[test]
    fn modules_are_found_as_the_compiler_finds_them() {
        let root = tempfile::tempdir().unwrap();
        let src = root.path().join("src");
        put(&src, "lib.rs", "pub mod a;\npub(crate) mod b;\n#[cfg(test)]\nmod samples;\n");
        put(&src, "a.rs", "mod inner;\n#[cfg(test)]\nmod tests;\n");
        put(&src, "a/inner.rs", "");
        put(&src, "a/tests.rs", "");
        put(&src, "b/mod.rs", "");
        put(&src, "samples.rs", "");
        put(&src, "main.rs", "");
        let found: Vec<String> = of_crate(&src).unwrap().into_keys().collect();
        assert_eq!(found, ["", "a", "a::inner", "b"]);
        assert_eq!(of_tests(&src).unwrap(), [src.join("a/tests.rs"), src.join("samples.rs")]);
    }
}

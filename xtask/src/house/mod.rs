//! Rules of the source tree that no compiler knows: short files, small folders, no circles between modules, SQL
//! that nobody can bend, links that lead somewhere.

mod circles;
mod links;
mod modules;
mod sizes;
mod source;
mod sql;
mod tree;

use std::path::Path;

use crate::steps::Steps;

/// Checks every rule, each as a step.
pub(crate) fn add_steps(steps: &mut Steps, root: &Path) {
    steps.step("files", "source files are short", || sizes::check_lengths(root));
    steps.step("folders", "folders are small", || sizes::check_folders(root));
    steps.step("circles", "modules do not import each other in a circle", || circles::check(root));
    steps.step("sql", "SQL names the schema of everything", || sql::check(root));
    steps.step("documents", "links lead somewhere", || links::check(root));
}

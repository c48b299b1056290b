//! Whether the signing key of this host may sign what its part of the work needs, and what that gives up.

use lifeboat_config::{Config, Role as DaemonRole};
use lifeboat_repository::log::{NoteSigner, Role, Signers};
use lifeboat_vocabulary::{Clock, SystemClock};

use crate::commands::doctor::lines::Lines;

/// The roles that the daemon's part of the work takes.
pub(crate) fn needed_roles(config: &Config) -> Vec<Role> {
    let does = |role| config.daemon.does(role);
    let mut roles = Vec::new();
    if does(DaemonRole::Backup) || does(DaemonRole::Wal) {
        roles.push(Role::Writer);
    }
    if does(DaemonRole::Prune) || does(DaemonRole::Heal) || does(DaemonRole::Scrub) {
        roles.push(Role::Pruner);
    }
    roles
}

/// What the key is, before any region is asked.
pub(crate) fn of_key(signer: &NoteSigner, lines: &mut Lines) {
    if signer.is_root() {
        let detail = "it is the signing key of this host: whoever takes the host over can sign deletions".to_owned();
        let fix = "keep a root key offline: `lifeboatd init --root-key` for a new repository, see docs/THREATS.md";
        lines.warning("keys", "root key", detail, fix);
    } else {
        lines.good("keys", "root key", format!("{}, not on this host", signer.root()));
    }
}

/// What one region's log says about the key.
pub(crate) fn of_region(area: &str, signer: &NoteSigner, config: &Config, signers: &Signers, lines: &mut Lines) {
    if signer.is_root() {
        return;
    }
    let now = SystemClock.now();
    let mut held = Vec::new();
    for role in needed_roles(config) {
        match signers.allows(signer, role, now) {
            Ok(()) => held.push(role),
            Err(error) => {
                let fix = format!(
                    "with the root key: lifeboatd delegate --root-key FILE --key {} --name {} --role {role}",
                    signer.verify_key(),
                    signer.name()
                );
                lines.failed(area, &format!("role {role}"), error.to_string(), &fix);
            }
        }
    }
    if held.contains(&Role::Writer) && held.contains(&Role::Pruner) {
        let detail = "writer and pruner: whoever takes this host over can sign deletions".to_owned();
        let fix = "let another host prune, heal and scrub: [daemon] roles, see docs/CONFIGURE.md";
        lines.warning(area, "roles", detail, fix);
    } else if !held.is_empty() {
        let held: Vec<String> = held.iter().map(ToString::to_string).collect();
        lines.good(area, "roles", held.join(", "));
    }
}

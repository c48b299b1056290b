//! What a new configuration means for what runs: what changes at once, which clusters have to begin again, and what cannot
//! be changed without a restart. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use lifeboat_config::{Config, Environment, Faults, Loaded};
use lifeboat_postgres::ConnectionSettings;
use lifeboat_vocabulary::ClusterName;

/// Where the configuration comes from, each time anew.
#[derive(Clone, Debug)]
pub struct ConfigSource {
    /// The file.
    pub path: PathBuf,
    /// Only this cluster of it.
    pub cluster: Option<ClusterName>,
}

/// Why a configuration is not taken over.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// It has faults.
    #[error("{0}")]
    Faults(#[from] Faults),
    /// The cluster that was chosen on the command line is not in it.
    #[error("it has no cluster {0}, which --cluster names")]
    NoCluster(ClusterName),
    /// A cluster that it adds cannot be protected.
    #[error("{0}")]
    NewCluster(String),
    /// It asks for what only a restart can do.
    #[error("it cannot be taken over while the daemon runs: {}; restart the daemon for that", .0.join("; "))]
    NeedsRestart(Vec<String>),
}

impl ConfigSource {
    /// Reads it.
    ///
    /// # Errors
    /// All faults at once.
    pub fn load(&self) -> Result<Loaded, Refused> {
        let mut loaded = Config::load(&self.path, &Environment::of_process())?;
        if let Some(name) = &self.cluster {
            loaded.config.clusters.retain(|cluster| cluster.name == *name);
            if loaded.config.clusters.is_empty() {
                return Err(Refused::NoCluster(name.clone()));
            }
        }
        Ok(loaded)
    }
}

/// What a new configuration leads to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Clusters that are protected from now on.
    pub added: BTreeSet<ClusterName>,
    /// Clusters whose tasks end in order and begin again, and the settings that they were begun with.
    pub again: BTreeMap<ClusterName, BTreeSet<String>>,
    /// Single tasks that begin again, of every cluster, because they hold what changed.
    pub tasks: BTreeSet<&'static str>,
    /// Whether the web server begins again.
    pub web: bool,
    /// Settings that take effect at once.
    pub at_once: BTreeSet<String>,
}

/// Compares two configurations setting by setting.
///
/// # Errors
/// [`Refused::NeedsRestart`] with everything that cannot be changed at runtime.
pub fn plan(old: &Loaded, new: &Loaded) -> Result<Plan, Refused> {
    let names = |loaded: &Loaded| loaded.config.clusters.iter().map(|c| c.name.clone()).collect::<BTreeSet<_>>();
    let (before, after) = (names(old), names(new));
    let mut impossible = Vec::new();
    if old.config.state_directory != new.config.state_directory {
        let (from, to) = (old.config.state_directory.display(), new.config.state_directory.display());
        impossible.push(format!("state.directory moves from {from} to {to}"));
    }
    impossible.extend(before.difference(&after).map(|gone| format!("cluster {gone} is removed")));
    // How many threads and backups there are is decided once for all clusters.
    let fixed = ["limits.workers", "limits.backups"];
    impossible
        .extend(changed(old, new).iter().filter(|path| fixed.contains(path)).map(|path| format!("{path} changes")));
    if !impossible.is_empty() {
        return Err(Refused::NeedsRestart(impossible));
    }
    let mut plan = Plan { added: after.difference(&before).cloned().collect(), ..Plan::default() };
    for path in changed(old, new) {
        let mut parts = path.split('.');
        match (parts.next().unwrap_or_default(), parts.next().unwrap_or_default(), parts.next().unwrap_or_default()) {
            ("cluster", _, "schedule" | "retention" | "backup") | ("daemon", "stop_timeout", _) => {
                plan.at_once.insert(path.to_owned());
            }
            ("cluster", name, _) => {
                for cluster in before.iter().filter(|cluster| cluster.as_str() == name) {
                    plan.again.entry(cluster.clone()).or_default().insert(path.to_owned());
                }
            }
            ("heal", ..) => drop(plan.tasks.insert("heal")),
            ("scrub", ..) => drop(plan.tasks.insert("scrub")),
            ("http", ..) => plan.web = true,
            // Regions, keys, durability, limits, roles, and whatever a later version adds.
            _ => {
                for cluster in &before {
                    plan.again.entry(cluster.clone()).or_default().insert(path.to_owned());
                }
            }
        }
    }
    // Not all of a connection is shown, so that another one may look like the same setting.
    for cluster in before.iter().filter(|name| connection(old, name) != connection(new, name)) {
        plan.again.entry(cluster.clone()).or_default().insert(format!("cluster.{cluster}.connection"));
    }
    // Certificates and tokens are renewed in their files, under the same names.
    plan.web |= new.config.http.listen.is_some() && (new.config.http.tls.is_some() || new.config.http.token.is_some());
    // What is decided for clusters that are not protected here is nobody's business.
    plan.at_once.retain(|path| !path.starts_with("cluster.") || before.iter().any(|name| is_of(path, name)));
    Ok(plan)
}

fn connection<'a>(loaded: &'a Loaded, cluster: &ClusterName) -> Option<&'a ConnectionSettings> {
    loaded.config.clusters.iter().find(|settings| settings.name == *cluster).map(|settings| &settings.connection)
}

fn is_of(path: &str, cluster: &ClusterName) -> bool {
    path.split('.').nth(1) == Some(cluster.as_str())
}

/// Settings that are not the same, or are only in one of the two.
fn changed<'a>(old: &'a Loaded, new: &'a Loaded) -> BTreeSet<&'a str> {
    let values = |loaded: &'a Loaded| {
        loaded.explained.iter().map(|row| (row.path.as_str(), row.value.as_str())).collect::<BTreeMap<_, _>>()
    };
    let (before, after) = (values(old), values(new));
    before.keys().chain(after.keys()).copied().filter(|path| before.get(path) != after.get(path)).collect()
}

impl std::fmt::Display for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut said = Vec::new();
        said.extend(self.added.iter().map(|cluster| format!("cluster {cluster} is new")));
        for (cluster, why) in &self.again {
            let why = why.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
            said.push(format!("cluster {cluster} begins again ({why})"));
        }
        said.extend(self.tasks.iter().map(|task| format!("{task} begins again")));
        if self.web {
            said.push("the web server begins again".to_owned());
        }
        if !self.at_once.is_empty() {
            said.push(format!("in force at once: {}", self.at_once.iter().cloned().collect::<Vec<_>>().join(", ")));
        }
        if said.is_empty() { f.write_str("nothing has changed") } else { f.write_str(&said.join("; ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    const BASE: &str = r#"
[[cluster]]
name = "main"
connection = "host=/run/a"
[cluster.schedule]
full = "0 2 * * *"
[[cluster]]
name = "other"
connection = "host=/run/b"
[[region]]
name = "a"
url = "file:///srv/a"
[[region]]
name = "b"
url = "file:///srv/b"
[durability]
backup_quorum = 1
[keys]
recipients = [
    "lifeboat-pk-1qvpsxqcrqvpsxqcrqvpsxqcrqvpsxqcrqvpsxqcrqvpsxqcrqdqqgq9e0u",
    "lifeboat-pk-1q5zs2pg9q5zs2pg9q5zs2pg9q5zs2pg9q5zs2pg9q5zs2pg9q4qqdsr6qn",
]
signing_key = "file:/etc/lifeboat/signing.key"
[heal]
max_bandwidth = "50MiB"
[http]
listen = "127.0.0.1:9432"
[state]
directory = "/var/lib/lifeboat"
"#;

    fn loaded(replacements: &[(&str, &str)]) -> Loaded {
        let mut text = BASE.to_owned();
        for (from, to) in replacements {
            assert!(text.contains(from), "{from}");
            text = text.replace(from, to);
        }
        Config::from_text(Path::new("l.toml"), &text, &Environment::default())
            .unwrap_or_else(|faults| panic!("{faults}"))
    }

    fn told(replacements: &[(&str, &str)]) -> String {
        plan(&loaded(&[]), &loaded(replacements)).map_or_else(|refused| refused.to_string(), |plan| plan.to_string())
    }

    #[test]
    fn each_setting_takes_effect_with_as_little_disturbance_as_it_can() {
        let new = "[[cluster]]\nname = \"new\"\nconnection = \"host=/run/c\"\n[[region]]\nname = \"a\"";
        for (replacements, expected) in [
            (vec![], "nothing has changed"),
            (vec![("0 2 * * *", "0 3 * * *")], "in force at once: cluster.main.schedule.full"),
            (vec![("50MiB", "10MiB")], "heal begins again"),
            (vec![("9432", "9433")], "the web server begins again"),
            (
                vec![("host=/run/a", "host=/run/a passfile=/etc/lifeboat/pgpass connect_timeout=3")],
                "cluster main begins again (cluster.main.connection)",
            ),
            (vec![("/run/a", "/run/z")], "cluster main begins again (cluster.main.connection)"),
            (
                vec![("backup_quorum = 1", "backup_quorum = 2")],
                "cluster main begins again (durability.backup_quorum); cluster other begins again (durability.backup_quorum)",
            ),
            (vec![("[[region]]\nname = \"a\"", new)], "cluster new is new"),
        ] {
            assert_eq!(told(&replacements), expected);
        }
    }

    #[test]
    fn settings_that_need_a_restart_are_refused_and_all_of_them_are_named() {
        let text = told(&[("/var/lib/lifeboat", "/srv/lifeboat"), ("\"other\"", "\"another\""), ("50MiB", "1MiB")]);
        for part in ["state.directory moves", "cluster other is removed", "restart the daemon"] {
            assert!(text.contains(part), "{text}");
        }
    }
}

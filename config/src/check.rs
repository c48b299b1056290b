//! Rules that no section can judge alone.

use lifeboat_vocabulary::counted;
use std::collections::BTreeMap;
use std::time::Duration;

use crate::file::Config;
use crate::kind::Wrong;
use crate::reader::Reader;

/// The recipients of `lifeboat.example.toml`. Nobody has their private keys: they are digests of a sentence.
const EXAMPLES: [&str; 2] = [
    "lifeboat-pk-1r0hgq5ltjr09qgeyk6ejkrl0ecns0939pks2fz6dn7vhpvwp9ytqd6637c",
    "lifeboat-pk-1jc0065qlwukh7tv3x2g394ttrsyzefems6gyt3dc8f0f7cqtjq2s7l9kzz",
];

/// Notes what does not fit together, and what works but should not stay so.
pub(crate) fn across(reader: &mut Reader<'_>, config: &Config) {
    names(reader, config);
    places(reader, config);
    quorum(reader, config);
    slots(reader, config);
    recipients(reader, config);
    http(reader, config);
    for cluster in &config.clusters {
        retention(reader, cluster);
    }
}

fn twice<'n>(names: impl Iterator<Item = &'n str>) -> Vec<&'n str> {
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for name in names {
        *seen.entry(name).or_default() += 1;
    }
    seen.into_iter().filter(|(_, count)| *count > 1).map(|(name, _)| name).collect()
}

fn names(reader: &mut Reader<'_>, config: &Config) {
    for name in twice(config.clusters.iter().map(|cluster| cluster.name.as_str())) {
        let wrong = Wrong::new(format!("two clusters have the name `{name}`"), "give each a name of its own");
        reader.fault_at(&format!("cluster.{name}.name"), wrong);
    }
    for name in twice(config.regions.iter().map(|region| region.name.as_str())) {
        let wrong = Wrong::new(format!("two regions have the name `{name}`"), "give each a name of its own");
        reader.fault_at(&format!("region.{name}.name"), wrong);
    }
    for name in twice(config.keys.wrap_commands.iter().map(|command| command.name())) {
        let wrong = Wrong::new(format!("two commands have the name `{name}`"), "give each a name of its own");
        reader.fault_at(&format!("keys.wrap_commands.{name}.name"), wrong);
    }
}

/// Two regions in one place would count twice and be lost together.
fn places(reader: &mut Reader<'_>, config: &Config) {
    for (index, region) in config.regions.iter().enumerate() {
        let same =
            |other: &&lifeboat_stores::RegionSettings| other.url == region.url && other.endpoint == region.endpoint;
        if let Some(other) = config.regions.iter().take(index).find(same) {
            let problem = format!("regions `{}` and `{}` are one and the same place", other.name, region.name);
            let wrong = Wrong::new(problem, "give each region a url of its own, or remove one");
            reader.fault_at(&format!("region.{}.url", region.name), wrong);
        }
    }
}

fn quorum(reader: &mut Reader<'_>, config: &Config) {
    let regions = config.regions.len();
    let durability = &config.durability;
    for (key, quorum) in [("backup_quorum", durability.backup_quorum), ("wal_quorum", durability.wal_quorum)] {
        // Regions with faults of their own are not counted, and have been reported.
        if quorum > regions && reader.faults.is_empty() {
            let asked = counted(quorum as u64, "region", "regions");
            let verb = if regions == 1 { "is" } else { "are" };
            let problem = format!("`durability.{key}` asks for {asked}, and there {verb} {regions}");
            let wrong = Wrong::new(problem, format!("give at most {regions}, or add a region"));
            reader.fault_at(&format!("durability.{key}"), wrong);
        }
    }
}

/// Two receivers on one server need a slot each; the same slot on two servers is fine.
fn slots(reader: &mut Reader<'_>, config: &Config) {
    for (index, cluster) in config.clusters.iter().enumerate() {
        let same = |other: &&crate::ClusterSettings| {
            other.wal.slot == cluster.wal.slot && other.connection.to_string() == cluster.connection.to_string()
        };
        if let Some(other) = config.clusters.iter().take(index).find(same) {
            let problem =
                format!("clusters `{}` and `{}` would share the slot `{}`", other.name, cluster.name, cluster.wal.slot);
            let wrong = Wrong::new(problem, "give each a wal.slot of its own");
            reader.fault_at(&format!("cluster.{}.wal.slot", cluster.name), wrong);
        }
    }
}

fn recipients(reader: &mut Reader<'_>, config: &Config) {
    let texts: Vec<String> = config.keys.recipients.iter().map(ToString::to_string).collect();
    for text in twice(texts.iter().map(String::as_str)) {
        let wrong = Wrong::new(format!("recipient {text} is there twice"), "remove one of the two");
        reader.fault_at("keys.recipients", wrong);
    }
    if texts.iter().any(|text| EXAMPLES.contains(&text.as_str())) {
        let problem =
            "a recipient is still the example's: nobody has its private key, so nobody could read the backups";
        let fix = "make a key pair with `lifeboat-restore keygen`, and give its public key";
        reader.fault_at("keys.recipients", Wrong::new(problem, fix));
    }
    if texts.len() == 1 && config.keys.wrap_commands.is_empty() {
        let problem = "there is only one recipient: whoever loses its private key loses every backup";
        let fix = "add a second public key, and keep its private key offline";
        reader.warn_at("keys.recipients", Wrong::new(problem, fix));
    }
}

/// Whoever is not on this machine must show a token, and must not be able to listen in on it.
fn http(reader: &mut Reader<'_>, config: &Config) {
    let Some(address) = config.http.listen.filter(|address| !address.ip().is_loopback()) else { return };
    let problem = |what: &str| format!("`http.listen` is open to other machines ({address}), and there is no {what}");
    if config.http.token.is_none() {
        let fix = "give http.token (file:/path or credential:NAME), or listen on 127.0.0.1";
        reader.fault_at("http.listen", Wrong::new(problem("token"), fix));
    }
    if config.http.tls.is_none() {
        let fix = "give http.tls_certificate and http.tls_key, or listen on 127.0.0.1 behind a proxy that speaks TLS";
        reader.fault_at("http.listen", Wrong::new(problem("certificate"), fix));
    }
}

/// A restore that reads a backup while it goes must be able to end.
const GRACE_SENSIBLE: Duration = Duration::from_secs(86_400);

fn retention(reader: &mut Reader<'_>, cluster: &crate::ClusterSettings) {
    let kept = cluster.retention;
    let path = |key: &str| format!("cluster.{}.retention.{key}", cluster.name);
    if kept.daily == 0 && kept.weekly == 0 && kept.monthly == 0 {
        let problem = format!(
            "no days, weeks or months are kept: cluster `{}` keeps its newest {} and what pitr_window needs",
            cluster.name,
            counted(u64::from(kept.min_keep), "backup", "backups")
        );
        reader.warn_at(
            &path("daily"),
            Wrong::new(problem, "give daily, weekly or monthly, unless that is what you want"),
        );
    }
    if kept.grace < GRACE_SENSIBLE {
        let problem = format!(
            "`{}` is {}: a restore that takes longer may lose the backup that it reads",
            path("grace"),
            crate::show_duration(kept.grace)
        );
        reader.warn_at(&path("grace"), Wrong::new(problem, "give at least 24h"));
    }
}

//! What the prefetcher is told by `restore`: a file beside its socket, so that it can be started again by anybody who may
//! read it. It names keys and credentials, and never holds them.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use lifeboat_cli::place::PlaceArgs;
use lifeboat_postgres::read_small;
use lifeboat_stores::RegionSettings;
use lifeboat_vocabulary::{ByteCount, Lsn, RegionName, SegmentSize, TimelineId};
use serde::{Deserialize, Serialize};

use crate::fetch::beneath::Beneath;
use crate::target::wal_plan::ChainLeg;
use crate::wal_fetch::plan::{FetchPlan, Mode};
use crate::wal_fetch::prefetch::Limits;
use crate::wal_fetch::protocol::SETTINGS;

/// The largest file that is read, in **bytes**.
const BYTES_MAX: u64 = 4 << 20;
const VERSION: u32 = 1;

/// The file's content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WalFetchSettings {
    v: u32,
    /// The restore: 16 hexadecimal digits, drawn for each.
    pub(crate) restore: String,
    /// Addresses of the regions, as they were given; empty if they come from `config`.
    pub(crate) regions: Vec<String>,
    /// The configuration with the regions.
    pub(crate) config: Option<PathBuf>,
    pub(crate) cluster: String,
    /// Files with private keys.
    pub(crate) identities: Vec<PathBuf>,
    /// A program that unwraps keys.
    pub(crate) unwrap_command: Vec<String>,
    /// The key that signs the repository.
    pub(crate) signer: String,
    /// Regions whose loss was accepted.
    pub(crate) without_regions: Vec<String>,
    /// The cluster's system identifier.
    pub(crate) system_identifier: String,
    /// The data directory.
    pub(crate) data_dir: PathBuf,
    pub(crate) plan: WrittenPlan,
    /// Segments that may lie ready.
    pub(crate) segments: usize,
    /// The same in **bytes**.
    pub(crate) bytes: u64,
    /// Segments that are fetched at the same time.
    pub(crate) parallel: usize,
    /// How long recovery waits for one file before it is told to stop, in **seconds**.
    pub(crate) patience_seconds: u64,
}

/// See [`FetchPlan`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WrittenPlan {
    mode: Mode,
    segment_bytes: u64,
    legs: Vec<(u32, String, String)>,
    replay_from: String,
}

/// What of the settings does not come from the command line of `restore`.
#[derive(Clone, Debug)]
pub(crate) struct Parts<'a> {
    pub(crate) restore: &'a str,
    /// The signing key.
    pub(crate) signer: &'a lifeboat_repository::keys::VerifyKey,
    pub(crate) cluster: &'a lifeboat_vocabulary::ClusterName,
    /// Regions whose loss was accepted.
    pub(crate) without: &'a [RegionName],
    pub(crate) system_identifier: u64,
    /// The data directory.
    pub(crate) data_dir: &'a Path,
    pub(crate) plan: &'a FetchPlan,
    pub(crate) limits: Limits,
}

impl WalFetchSettings {
    /// The settings for a restore that was called with `place`.
    ///
    /// # Errors
    /// If a path in them would mean something else for a server that is started elsewhere.
    pub(crate) fn new(place: &PlaceArgs, parts: &Parts<'_>) -> anyhow::Result<Self> {
        let absolute = |path: &PathBuf| std::path::absolute(path).context("find a file");
        for address in &place.regions {
            let settings = RegionSettings::from_url("region".parse()?, address)?;
            let files = [&settings.ca_file, &settings.credentials_file];
            for file in files.into_iter().flatten() {
                let reference = file.to_str().is_some_and(|text| text.starts_with("credential:"));
                let message = "PostgreSQL asks for WAL from its own directory: give absolute paths in the address";
                ensure!(file.is_absolute() || reference, "{} is not absolute; {message}", file.display());
            }
        }
        let config = match (&place.config, place.regions.is_empty()) {
            (Some(config), _) => Some(absolute(config)?),
            (None, _) => None,
        };
        Ok(Self {
            v: VERSION,
            restore: parts.restore.to_owned(),
            regions: place.regions.clone(),
            config,
            cluster: parts.cluster.to_string(),
            identities: place.identities.iter().map(absolute).collect::<anyhow::Result<_>>()?,
            unwrap_command: place.unwrap_command.clone(),
            signer: parts.signer.to_string(),
            without_regions: parts.without.iter().map(ToString::to_string).collect(),
            system_identifier: parts.system_identifier.to_string(),
            data_dir: parts.data_dir.to_owned(),
            plan: WrittenPlan::of(parts.plan),
            segments: parts.limits.segments,
            bytes: parts.limits.bytes.as_bytes(),
            parallel: parts.limits.parallel,
            patience_seconds: parts.limits.patience.as_secs(),
        })
    }

    /// The command line that these settings stand for.
    ///
    /// # Errors
    /// If a name or key in the file is none.
    pub(crate) fn place(&self) -> anyhow::Result<PlaceArgs> {
        Ok(PlaceArgs {
            regions: self.regions.clone(),
            config: self.config.clone(),
            cluster: Some(self.cluster.parse()?),
            identities: self.identities.clone(),
            signer: Some(self.signer.parse()?),
            unwrap_command: self.unwrap_command.clone(),
        })
    }

    /// Regions whose loss was accepted.
    ///
    /// # Errors
    /// If a name in the file is none.
    pub(crate) fn without(&self) -> anyhow::Result<Vec<RegionName>> {
        self.without_regions.iter().map(|name| Ok(name.parse()?)).collect()
    }

    /// The cluster's system identifier.
    ///
    /// # Errors
    /// If it is no number.
    pub(crate) fn system_identifier(&self) -> anyhow::Result<u64> {
        self.system_identifier.parse().context("read the system identifier")
    }

    #[must_use]
    pub(crate) fn limits(&self) -> Limits {
        Limits {
            segments: self.segments,
            bytes: ByteCount::from_bytes(self.bytes),
            parallel: self.parallel.clamp(1, 16),
            patience: std::time::Duration::from_secs(self.patience_seconds),
            ..Limits::default()
        }
    }

    /// Reads the file.
    ///
    /// # Errors
    /// If it cannot be read or understood.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let text = read_small(path, BYTES_MAX).with_context(|| format!("read {}", path.display()))?;
        let settings: Self = serde_json::from_slice(&text).with_context(|| format!("understand {}", path.display()))?;
        ensure!(settings.v == VERSION, "{} has version {}, this program knows {VERSION}", path.display(), settings.v);
        Ok(settings)
    }

    /// Writes the file into the prefetcher's directory, readable by its owner only.
    ///
    /// # Errors
    /// Whatever the operating system says.
    pub(crate) fn write(&self, directory: &Beneath) -> io::Result<()> {
        let mut file = directory.create(SETTINGS.as_bytes(), 0o600)?;
        file.write_all(serde_json::to_string_pretty(self)?.as_bytes())?;
        file.sync_all()
    }
}

impl WrittenPlan {
    fn of(plan: &FetchPlan) -> Self {
        let leg = |leg: &ChainLeg| (leg.timeline.get(), leg.from.to_string(), leg.to.to_string());
        Self {
            mode: plan.mode,
            segment_bytes: plan.segment.as_bytes(),
            legs: plan.legs.iter().map(leg).collect(),
            replay_from: plan.replay_from.to_string(),
        }
    }

    /// The plan.
    ///
    /// # Errors
    /// If a position in the file is none.
    pub(crate) fn plan(&self) -> anyhow::Result<FetchPlan> {
        let leg = |(timeline, from, to): &(u32, String, String)| -> anyhow::Result<ChainLeg> {
            let timeline = TimelineId::new(*timeline).context("there is no timeline 0")?;
            Ok(ChainLeg { timeline, from: lsn(from)?, to: lsn(to)? })
        };
        Ok(FetchPlan {
            segment: SegmentSize::from_bytes(self.segment_bytes)?,
            mode: self.mode,
            legs: self.legs.iter().map(leg).collect::<anyhow::Result<_>>()?,
            replay_from: lsn(&self.replay_from)?,
        })
    }
}

fn lsn(text: &str) -> anyhow::Result<Lsn> {
    Ok(text.parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lifeboat_repository::keys::SigningKey;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_settings_survive_their_file_and_hold_no_relative_path() {
        let dir = tempfile::tempdir().unwrap();
        let timeline = TimelineId::new(11).unwrap();
        let (from, to) = (lsn("0/2000000").unwrap(), lsn("0/3000060").unwrap());
        let legs = vec![ChainLeg { timeline, from, to }];
        let plan = FetchPlan { segment: SegmentSize::DEFAULT, mode: Mode::Standby, legs, replay_from: from };
        let place = PlaceArgs {
            regions: vec!["s3://bucket/p?credentials_file=/c".to_owned()],
            config: None,
            cluster: None,
            identities: vec!["key.txt".into()],
            signer: None,
            unwrap_command: Vec::new(),
        };
        let signer = SigningKey::generate().unwrap().verify_key();
        let parts = Parts {
            restore: "5f1c09ab5f1c09ab",
            signer: &signer,
            cluster: &"main".parse().unwrap(),
            without: &["r1".parse().unwrap()],
            system_identifier: u64::MAX,
            data_dir: dir.path(),
            plan: &plan,
            limits: Limits::default(),
        };
        let settings = WalFetchSettings::new(&place, &parts).unwrap();
        settings.write(&Beneath::keep(&dir.path().join("kept"), None).unwrap()).unwrap();
        let path = dir.path().join("kept").join(SETTINGS);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let read = WalFetchSettings::read(&path).unwrap();
        assert_eq!(read, settings);
        assert_eq!(read.plan.plan().unwrap(), plan);
        assert_eq!((read.limits(), read.system_identifier().unwrap()), (Limits::default(), u64::MAX));
        assert!(read.place().unwrap().identities[0].is_absolute());
        assert_eq!(read.without().unwrap().len(), 1);

        let relative = PlaceArgs { regions: vec!["s3://bucket/p?credentials_file=c".to_owned()], ..place };
        assert!(WalFetchSettings::new(&relative, &parts).unwrap_err().to_string().contains("absolute"));
    }
}

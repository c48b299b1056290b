//! What an operator says about a region: one `[[region]]` table, or one address on the command line.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use lifeboat_vocabulary::{ByteCount, NameError, ParseDurationError, RegionName, parse_duration};
use serde::{Deserialize, Deserializer};

use crate::profile::{Addressing, EndpointRule, Profile, ProfileError, ProfileName};
use crate::url::{Endpoint, StoreUrl, Transport, UrlError, percent_decoded};

/// The most requests that a region is asked at once.
pub const CONCURRENCY_MAX: u16 = 64;
const CONCURRENCY_DEFAULT: u16 = 8;
const PATIENCE_DEFAULT: Duration = Duration::from_secs(300);
const PATIENCE_MIN: Duration = Duration::from_secs(1);
const PATIENCE_MAX: Duration = Duration::from_secs(3600);

/// One region: a place that keeps a whole copy of everything, and how to get there.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegionSettings {
    /// The region's name in tables, alerts and its own log: 1 to 40 of `a-z 0-9 -`. Never change it later.
    #[serde(deserialize_with = "text")]
    pub name: RegionName,
    /// `s3://bucket/prefix` or `file:///directory`. One folder per cluster lies below it.
    #[serde(deserialize_with = "text")]
    pub url: StoreUrl,
    /// How the provider differs from others: `aws`, `minio`, `r2`, `ceph`, ... Default: `other` with an endpoint, `aws` without.
    #[serde(default, deserialize_with = "optional_text")]
    pub profile: Option<ProfileName>,
    /// The server, such as `https://minio.example.com:9000`. Default: what the SDK knows for the region.
    #[serde(default, deserialize_with = "optional_text")]
    pub endpoint: Option<Endpoint>,
    /// The provider's name of the region, for signatures. Default: the profile's, else `AWS_REGION` and the AWS files.
    #[serde(default)]
    pub s3_region: Option<String>,
    /// PEM file with the only certificate authorities that are trusted for this region. Default: the system's.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// A profile in the AWS configuration files, for credentials. Default: the SDK's chain (environment, files, instance).
    #[serde(default)]
    pub aws_profile: Option<String>,
    /// A file with `aws_access_key_id = ` and `aws_secret_access_key = `: a path, or `credential:NAME` for a systemd credential.
    #[serde(default)]
    pub credentials_file: Option<PathBuf>,
    /// The ARN of a role to assume with the credentials above. Default: none.
    #[serde(default)]
    pub role_arn: Option<String>,
    /// The 12-digit account that must own the bucket: guards against a bucket that somebody else created. Default: not checked.
    #[serde(default)]
    pub bucket_owner: Option<String>,
    /// Whether plain `http` may be spoken to other machines. Default: no. Objects are sealed all the same, but names and
    /// sizes show, and answers can be forged.
    #[serde(default)]
    pub allow_plain_http: bool,
    /// Requests at once: 1 to 64, and one small one beside them. Of 2 and more, one is never used for the data of backups. Default 8.
    #[serde(default = "default_concurrency")]
    pub max_concurrency: u16,
    /// Bytes per second in both directions together, such as `50MiB`; at least `64KiB`. WAL goes before the data of backups. Default: unlimited.
    #[serde(default, deserialize_with = "optional_text")]
    pub max_bandwidth: Option<ByteCount>,
    /// How long one request may take, all its attempts together, before the region counts as away for it: `1s` to `1h`, and a second
    /// more for each 32 KiB that has moved. Less finds out sooner that a region hangs. Default `5m`.
    #[serde(default = "default_patience", deserialize_with = "duration")]
    pub patience: Duration,
    /// Whether what is stored is locked until retention lets it go, by the bucket's Object Lock: `none`, `governance`,
    /// `compliance`. Default: none.
    #[serde(default, deserialize_with = "text")]
    pub object_lock: ObjectLock,
}

/// How a bucket's Object Lock keeps objects from being deleted before their time.
///
/// Source: Amazon S3 User Guide, "Locking objects with Object Lock", section "Retention modes".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ObjectLock {
    /// It does not.
    #[default]
    Off,
    /// Whoever has the right `s3:BypassGovernanceRetention` can delete them all the same.
    Governance,
    /// Nobody can, not even the account's owner.
    Compliance,
}

impl ObjectLock {
    /// As the configuration spells it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "none",
            Self::Governance => "governance",
            Self::Compliance => "compliance",
        }
    }
}

/// A text that is not a mode of Object Lock.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a mode of Object Lock (none, governance or compliance)")]
pub struct ObjectLockError(String);

impl FromStr for ObjectLock {
    type Err = ObjectLockError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let modes = [Self::Off, Self::Governance, Self::Compliance];
        modes.into_iter().find(|mode| mode.as_str() == text).ok_or_else(|| ObjectLockError(text.to_owned()))
    }
}

fn default_concurrency() -> u16 {
    CONCURRENCY_DEFAULT
}

fn default_patience() -> Duration {
    PATIENCE_DEFAULT
}

fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    parse_duration(&String::deserialize(from)?).map_err(serde::de::Error::custom)
}

fn text<'de, D: Deserializer<'de>, T: FromStr<Err: fmt::Display>>(from: D) -> Result<T, D::Error> {
    String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
}

fn optional_text<'de, D: Deserializer<'de>, T: FromStr<Err: fmt::Display>>(from: D) -> Result<Option<T>, D::Error> {
    text(from).map(Some)
}

/// Something in a region's settings that cannot work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingsFault {
    /// The key at fault.
    pub key: &'static str,
    /// What is wrong.
    pub problem: String,
    /// What to do.
    pub fix: String,
}

impl fmt::Display for SettingsFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.key, self.problem, self.fix)
    }
}

/// Why an address on the command line could not be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegionUrlError {
    /// The address itself, or that of a server in it.
    #[error(transparent)]
    Url(#[from] UrlError),
    /// The provider profile.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// The region's name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A length of time.
    #[error(transparent)]
    Duration(#[from] ParseDurationError),
    /// A parameter that does not exist.
    #[error("`{key}` is not a parameter of a region's address (one of {PARAMETERS})")]
    Parameter {
        /// What was given.
        key: String,
    },
    /// A parameter with a value that it cannot have.
    #[error("parameter `{key}` cannot be `{value}`")]
    Value {
        /// The parameter.
        key: String,
        /// What was given.
        value: String,
    },
}

/// Escapes what would end or change a parameter (RFC 3986 section 2.1).
fn percent_encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/:".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

const PARAMETERS: &str =
    "name, endpoint, profile, region, ca, aws_profile, credentials_file, bucket_owner, allow_plain_http, patience";

impl RegionSettings {
    /// A region at `url` with every other setting at its default.
    #[must_use]
    pub fn at(name: RegionName, url: StoreUrl) -> Self {
        Self {
            name,
            url,
            profile: None,
            endpoint: None,
            s3_region: None,
            ca_file: None,
            aws_profile: None,
            credentials_file: None,
            role_arn: None,
            bucket_owner: None,
            allow_plain_http: false,
            max_concurrency: CONCURRENCY_DEFAULT,
            max_bandwidth: None,
            patience: PATIENCE_DEFAULT,
            object_lock: ObjectLock::Off,
        }
    }

    /// Reads a whole region from one address, for programs without a configuration file:
    /// `s3://bucket/prefix?endpoint=https://host:9000&profile=minio&region=us-east-1&ca=/etc/ca.pem`.
    ///
    /// `name` is what the region is called unless the address has a `name=` of its own.
    ///
    /// # Errors
    /// [`RegionUrlError`] names the part that was not understood.
    pub fn from_url(name: RegionName, address: &str) -> Result<Self, RegionUrlError> {
        let (url, query) = address.split_once('?').unwrap_or((address, ""));
        let mut settings = Self::at(name, url.parse()?);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            settings.set(key, percent_decoded(value)?)?;
        }
        Ok(settings)
    }

    /// The region as one address that [`Self::from_url`] reads back, for the command line of a restore. Credentials, bounds
    /// and roles are not part of it: whoever restores brings their own.
    #[must_use]
    pub fn to_address(&self) -> String {
        let path = |path: &PathBuf| path.display().to_string();
        let pairs = [
            ("name", Some(self.name.to_string())),
            ("endpoint", self.endpoint.as_ref().map(ToString::to_string)),
            ("profile", self.profile.as_ref().map(ToString::to_string)),
            ("region", self.s3_region.clone()),
            ("ca", self.ca_file.as_ref().map(path)),
            ("bucket_owner", self.bucket_owner.clone()),
            ("allow_plain_http", self.allow_plain_http.then(|| "true".to_owned())),
        ];
        let given = pairs.into_iter().filter_map(|(key, value)| Some(format!("{key}={}", percent_encoded(&value?))));
        let url = match &self.url {
            StoreUrl::Directory(directory) => format!("file://{}", percent_encoded(&path(directory))),
            url @ StoreUrl::S3 { .. } => url.to_string(),
        };
        format!("{url}?{}", given.collect::<Vec<_>>().join("&"))
    }

    fn set(&mut self, key: &str, value: String) -> Result<(), RegionUrlError> {
        if value.is_empty() {
            return Err(RegionUrlError::Value { key: key.to_owned(), value });
        }
        match key {
            "name" => self.name = value.parse()?,
            "endpoint" => self.endpoint = Some(value.parse()?),
            "profile" => self.profile = Some(value.parse()?),
            "region" => self.s3_region = Some(value),
            "ca" => self.ca_file = Some(value.into()),
            "aws_profile" => self.aws_profile = Some(value),
            "credentials_file" => self.credentials_file = Some(value.into()),
            "bucket_owner" => self.bucket_owner = Some(value),
            "patience" => self.patience = parse_duration(&value)?,
            "allow_plain_http" => {
                self.allow_plain_http =
                    value.parse().map_err(|_| RegionUrlError::Value { key: key.to_owned(), value: value.clone() })?;
            }
            _ => return Err(RegionUrlError::Parameter { key: key.to_owned() }),
        }
        Ok(())
    }

    /// The provider's profile that is in force.
    #[must_use]
    pub fn effective_profile(&self) -> ProfileName {
        match (&self.profile, &self.endpoint) {
            (Some(name), _) => name.clone(),
            (None, Some(_)) => ProfileName::other(),
            (None, None) => ProfileName::aws(),
        }
    }

    /// Everything that cannot work, all at once; nothing is asked of the network or the file system.
    #[must_use]
    pub fn faults(&self) -> Vec<SettingsFault> {
        let mut faults = Vec::new();
        let mut fault = |key, problem: &str, fix: &str| {
            faults.push(SettingsFault { key, problem: problem.to_owned(), fix: fix.to_owned() });
        };
        if !(1..=CONCURRENCY_MAX).contains(&self.max_concurrency) {
            fault("max_concurrency", "out of range", "choose a number from 1 to 64");
        }
        if self.max_bandwidth.is_some_and(|rate| rate < ByteCount::from_bytes(64 << 10)) {
            fault("max_bandwidth", "too little to keep up with anything", "choose at least 64KiB, or leave it out");
        }
        if !(PATIENCE_MIN..=PATIENCE_MAX).contains(&self.patience) {
            fault("patience", "out of range", "choose a time from 1s to 1h");
        }
        match &self.url {
            StoreUrl::Directory(_) => {
                for (key, given) in self.keys_for_s3() {
                    if given {
                        fault(key, "has no meaning for a directory", "leave it out");
                    }
                }
            }
            StoreUrl::S3 { .. } => match self.effective_profile().profile() {
                Ok(profile) => self.s3_faults(&profile, &mut fault),
                Err(error) => fault("profile", &error.to_string(), "reinstall this program"),
            },
        }
        faults
    }

    fn keys_for_s3(&self) -> [(&'static str, bool); 10] {
        [
            ("profile", self.profile.is_some()),
            ("endpoint", self.endpoint.is_some()),
            ("s3_region", self.s3_region.is_some()),
            ("ca_file", self.ca_file.is_some()),
            ("aws_profile", self.aws_profile.is_some()),
            ("credentials_file", self.credentials_file.is_some()),
            ("role_arn", self.role_arn.is_some()),
            ("bucket_owner", self.bucket_owner.is_some()),
            ("allow_plain_http", self.allow_plain_http),
            ("object_lock", self.object_lock != ObjectLock::Off),
        ]
    }

    fn s3_faults(&self, profile: &Profile, fault: &mut impl FnMut(&'static str, &str, &str)) {
        match &self.endpoint {
            None if profile.endpoint == EndpointRule::Required => {
                fault("endpoint", "missing for this profile", "give the server's address, such as https://host:9000");
            }
            Some(endpoint) if endpoint.transport() == Transport::Plain => {
                if !endpoint.is_loopback() && !self.allow_plain_http {
                    let fix = "use https, or say allow_plain_http = true if you know what travels that way";
                    fault("endpoint", "plain http to another machine", fix);
                }
                if self.ca_file.is_some() {
                    fault("ca_file", "has no meaning with plain http", "use https, or leave it out");
                }
            }
            _ => {}
        }
        let numeric = self.endpoint.as_ref().is_some_and(|endpoint| endpoint.address().is_some());
        if numeric && profile.addressing == Addressing::Virtual {
            let fix = "name the server, or choose a profile that puts the bucket into the path, such as minio or other";
            fault("endpoint", "a bucket cannot be part of a numeric address", fix);
        }
        let known_by_sdk = profile.endpoint == EndpointRule::Optional;
        if self.s3_region.is_none() && profile.default_region.is_none() && !known_by_sdk {
            fault("s3_region", "missing for this profile", "give the provider's name of the region");
        }
        if self.aws_profile.is_some() && self.credentials_file.is_some() {
            fault("aws_profile", "given together with credentials_file", "keep one of the two");
        }
        let is_account = |text: &String| text.len() == 12 && text.bytes().all(|b| b.is_ascii_digit());
        if self.bucket_owner.as_ref().is_some_and(|owner| !is_account(owner)) {
            fault("bucket_owner", "not the number of an account", "give its 12 digits");
        }
    }
}

#[cfg(test)]
mod tests;

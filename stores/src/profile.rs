//! How the providers of S3 differ: data from `profiles.toml`, not code.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

use crate::store::Support;

const TABLE: &str = include_str!("profiles.toml");

/// The name of a provider profile, such as `aws` or `minio`. Only names that the built-in table has can be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProfileName(String);

/// How a provider wants to be talked to.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Where the name of the bucket goes.
    pub addressing: Addressing,
    /// Which checksum header an upload carries.
    pub checksum_header: ChecksumHeader,
    /// Whether conditional uploads are exact.
    #[serde(deserialize_with = "support")]
    pub conditional_put: Support,
    /// Whether an endpoint must be given.
    pub endpoint: EndpointRule,
    /// What requests are signed for unless the region's settings say otherwise.
    pub default_region: Option<String>,
    /// Headers for every request.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
}

/// Where the name of the bucket goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Addressing {
    /// Into the path: `https://host/bucket/key`.
    Path,
    /// Into the host: `https://bucket.host/key`.
    Virtual,
}

/// Which checksum header an upload carries besides the signed payload hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChecksumHeader {
    /// `x-amz-checksum-sha256`.
    Sha256,
    /// None at all.
    None,
}

/// Whether an endpoint must be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EndpointRule {
    /// The region is enough.
    Optional,
    /// It must.
    Required,
}

/// A text that names no profile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProfileError {
    /// No such profile.
    #[error("`{text}` is not a provider profile (one of {known})")]
    Unknown {
        /// What was given.
        text: String,
        /// The names that exist, separated by commas.
        known: String,
    },
    /// The built-in table is damaged (a fault of this program).
    #[error("read the built-in provider profiles: {text}")]
    Table {
        /// What the parser said.
        text: String,
    },
}

fn support<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Support, D::Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Word {
        Yes,
        No,
        Unknown,
    }
    Ok(match Word::deserialize(from)? {
        Word::Yes => Support::Yes,
        Word::No => Support::No,
        Word::Unknown => Support::Unknown,
    })
}

fn table() -> Result<BTreeMap<String, Profile>, ProfileError> {
    toml::from_str(TABLE).map_err(|error| ProfileError::Table { text: error.to_string() })
}

impl ProfileName {
    /// Amazon's own S3: the default where no endpoint is given.
    #[must_use]
    pub fn aws() -> Self {
        Self("aws".to_owned())
    }

    /// The careful profile for servers that nobody described: the default where an endpoint is given.
    #[must_use]
    pub fn other() -> Self {
        Self("other".to_owned())
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What the table says about this provider.
    ///
    /// # Errors
    /// [`ProfileError::Table`] if the built-in table is damaged.
    pub fn profile(&self) -> Result<Profile, ProfileError> {
        let mut table = table()?;
        table.remove(&self.0).ok_or_else(|| ProfileError::Unknown { text: self.0.clone(), known: names(&table) })
    }
}

fn names(table: &BTreeMap<String, Profile>) -> String {
    table.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
}

impl FromStr for ProfileName {
    type Err = ProfileError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let table = table()?;
        if table.contains_key(text) {
            Ok(Self(text.to_owned()))
        } else {
            Err(ProfileError::Unknown { text: text.to_owned(), known: names(&table) })
        }
    }
}

impl fmt::Display for ProfileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_the_table_lacks_is_refused_with_the_names_it_has() {
        for text in ["", "AWS", "s3", "gcs"] {
            let error = text.parse::<ProfileName>().unwrap_err().to_string();
            assert!(error.contains("aws") && error.contains("minio") && error.contains("other"), "{error}");
        }
    }

    #[test]
    fn every_profile_of_the_table_can_be_read() {
        let all = table().unwrap();
        for (name, addressing, header, conditional) in [
            ("aws", Addressing::Virtual, ChecksumHeader::Sha256, Support::Yes),
            ("r2", Addressing::Path, ChecksumHeader::Sha256, Support::Yes),
            ("minio", Addressing::Path, ChecksumHeader::Sha256, Support::Unknown),
            ("gcs-s3", Addressing::Path, ChecksumHeader::None, Support::No),
            ("garage", Addressing::Path, ChecksumHeader::None, Support::No),
            ("ceph", Addressing::Path, ChecksumHeader::None, Support::Unknown),
            ("tigris", Addressing::Virtual, ChecksumHeader::None, Support::Unknown),
        ] {
            let profile = &all[name];
            assert_eq!((profile.addressing, profile.checksum_header), (addressing, header), "{name}");
            assert_eq!(profile.conditional_put, conditional, "{name}");
        }
        assert_eq!(ProfileName::aws().profile().unwrap().endpoint, EndpointRule::Optional);
        assert_eq!(ProfileName::other().profile().unwrap().endpoint, EndpointRule::Required);
        assert_eq!(all["tigris"].headers["X-Tigris-Consistent"], "true");
    }
}

//! Where the keys for an S3 server come from.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use aws_config::sts::AssumeRoleProvider;
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider, future};
use aws_sdk_s3::config::{BehaviorVersion, Region};
use lifeboat_vocabulary::Secret;
use tokio::io::AsyncReadExt;

use crate::error::StoreError;
use crate::settings::RegionSettings;

const FILE_BYTES_MAX: u64 = 64 << 10;

/// The provider of credentials that the settings ask for, and the SDK's idea of the region where the settings have none.
pub(crate) struct Identity {
    pub(crate) provider: SharedCredentialsProvider,
    pub(crate) region: Option<Region>,
}

/// Looks for credentials as the settings say: a file, a named AWS profile, or the SDK's chain; then the role, if any.
///
/// # Errors
/// [`StoreError::Misconfigured`] if a credentials file is named and cannot be used.
pub(crate) async fn identity(settings: &RegionSettings, version: BehaviorVersion) -> Result<Identity, StoreError> {
    let mut loader = aws_config::defaults(version);
    if let Some(region) = &settings.s3_region {
        loader = loader.region(Region::new(region.clone()));
    }
    if let Some(profile) = &settings.aws_profile {
        loader = loader.profile_name(profile);
    }
    if let Some(file) = &settings.credentials_file {
        let keys = FileCredentials { path: resolved(file)? };
        keys.read().await.map_err(|source| misconfigured(&keys.path, source))?;
        loader = loader.credentials_provider(keys);
    }
    // A file of its own and a region leave nothing to look up in the environment; a role needs the whole configuration.
    let config = loader.load().await;
    let region = config.region().cloned();
    let chain = config.credentials_provider().ok_or_else(|| StoreError::Misconfigured {
        doing: format!("find credentials for region {}", settings.name),
        advice: "set credentials_file or aws_profile".to_owned(),
        source: "the SDK has no provider of credentials".into(),
    })?;
    let provider = match &settings.role_arn {
        None => chain,
        Some(role) => {
            let builder = AssumeRoleProvider::builder(role).session_name("lifeboat").configure(&config);
            SharedCredentialsProvider::new(builder.build_from_provider(chain).await)
        }
    };
    Ok(Identity { provider, region })
}

fn misconfigured(path: &Path, source: ReadKeysError) -> StoreError {
    StoreError::Misconfigured {
        doing: format!("read credentials from {}", path.display()),
        advice: "the file needs lines `aws_access_key_id = ...` and `aws_secret_access_key = ...` and mode 0600"
            .to_owned(),
        source: source.into(),
    }
}

/// `credential:NAME` is a systemd credential; `file:PATH` and `PATH` are paths. Source: systemd.exec(5), `LoadCredential=`.
fn resolved(file: &Path) -> Result<PathBuf, StoreError> {
    let text = file.to_string_lossy();
    if let Some(name) = text.strip_prefix("credential:") {
        let directory = std::env::var_os("CREDENTIALS_DIRECTORY").ok_or_else(|| StoreError::Misconfigured {
            doing: format!("find credential `{name}`"),
            advice: "load it in the service's unit with LoadCredential=, or name a path".to_owned(),
            source: "CREDENTIALS_DIRECTORY is not set".into(),
        })?;
        return Ok(PathBuf::from(directory).join(name));
    }
    Ok(text.strip_prefix("file:").map_or_else(|| file.to_owned(), PathBuf::from))
}

/// Why a credentials file could not be used. Holds nothing of its content.
#[derive(Debug, thiserror::Error)]
enum ReadKeysError {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error("everybody may read the file (mode {mode:o})")]
    Open { mode: u32 },
    #[error("the file is larger than 64 KiB")]
    Large,
    #[error("the file has no line `{key} = ...`")]
    Lacks { key: &'static str },
}

/// A key pair in a file, read anew whenever the SDK's cache lets go of it (about every 15 minutes), so that keys can be
/// rotated without a restart.
#[derive(Debug)]
struct FileCredentials {
    path: PathBuf,
}

impl FileCredentials {
    async fn read(&self) -> Result<Credentials, ReadKeysError> {
        let file = tokio::fs::File::open(&self.path).await?;
        let mode = file.metadata().await?.permissions().mode();
        if mode & 0o007 != 0 {
            return Err(ReadKeysError::Open { mode: mode & 0o777 });
        }
        let mut text = String::new();
        file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).await?;
        parse(&Secret::new(text))
    }
}

fn parse(text: &Secret<String>) -> Result<Credentials, ReadKeysError> {
    if text.expose().len() as u64 > FILE_BYTES_MAX {
        return Err(ReadKeysError::Large);
    }
    // The first section is enough: a file with several belongs to `aws_profile`.
    let value = |key: &str| {
        text.expose().lines().find_map(|line| {
            let (name, value) = line.split_once('=')?;
            (name.trim() == key).then(|| value.trim().to_owned()).filter(|value| !value.is_empty())
        })
    };
    let required = |key: &'static str| value(key).ok_or(ReadKeysError::Lacks { key });
    let mut credentials = Credentials::builder()
        .access_key_id(required("aws_access_key_id")?)
        .secret_access_key(required("aws_secret_access_key")?)
        .provider_name("credentials_file");
    credentials.set_session_token(value("aws_session_token"));
    Ok(credentials.build())
}

impl ProvideCredentials for FileCredentials {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async { self.read().await.map_err(CredentialsError::invalid_configuration) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn text(text: &str) -> Secret<String> {
        Secret::new(text.to_owned())
    }

    #[test]
    fn a_file_without_both_keys_is_refused_without_repeating_its_content() {
        for content in ["", "aws_access_key_id = AK\n", "aws_access_key_id=AK\naws_secret_access_key=\n", "hunter2"] {
            let error = parse(&text(content)).unwrap_err().to_string();
            assert!(!error.contains("hunter2") && !error.contains("AK"), "{error}");
        }
        assert!(matches!(parse(&text(&"x".repeat(70_000))), Err(ReadKeysError::Large)));
    }

    #[test]
    fn keys_are_read_from_the_lines_that_the_aws_tools_write() {
        let keys = parse(&text("# mine\n[default]\naws_access_key_id = AK\naws_secret_access_key=se=cret\n")).unwrap();
        assert_eq!((keys.access_key_id(), keys.secret_access_key()), ("AK", "se=cret"));
        assert_eq!(keys.session_token(), None);
    }

    #[tokio::test]
    async fn a_file_that_everybody_may_read_is_refused() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"aws_access_key_id = AK\naws_secret_access_key = SK\n").unwrap();
        let keys = FileCredentials { path: file.path().to_owned() };
        for (mode, fits) in [(0o644, false), (0o606, false), (0o600, true), (0o640, true), (0o400, true)] {
            std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(keys.read().await.is_ok(), fits, "{mode:o}");
        }
    }
}

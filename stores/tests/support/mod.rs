//! Servers and settings that several tests share.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use lifeboat_stores::RegionSettings;
use lifeboat_vocabulary::RegionName;
use tempfile::NamedTempFile;

/// A credentials file with the keys of the test server.
pub fn credentials() -> NamedTempFile {
    let mut file = NamedTempFile::new().expect("a temporary file");
    file.write_all(b"aws_access_key_id = test-access-key\naws_secret_access_key = test-secret-key\n").expect("written");
    std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o600)).expect("mode");
    file
}

pub fn name() -> RegionName {
    "one".parse().expect("a name")
}

/// A region in bucket `lifeboat` of the server at `endpoint`.
pub fn region(endpoint: &str, credentials: &NamedTempFile, more: &str) -> RegionSettings {
    let file = credentials.path().display();
    let url = format!("s3://lifeboat/pg?endpoint={endpoint}&credentials_file={file}&profile=minio{more}");
    RegionSettings::from_url(name(), &url).expect("settings")
}

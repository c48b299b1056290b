//! Settings that several tests share.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use lifeboat_stores::RegionSettings;
use lifeboat_vocabulary::RegionName;

/// A file with the keys of the test server. It stays, because stores read it again and again; mode 0600.
static CREDENTIALS: LazyLock<PathBuf> = LazyLock::new(|| {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let mut file = tempfile::NamedTempFile::new_in(directory).expect("a temporary file");
    file.write_all(b"aws_access_key_id = test-access-key\naws_secret_access_key = test-secret-key\n").expect("written");
    let path = directory.join("s3-credentials");
    file.persist(&path).expect("renamed");
    path
});

pub fn name() -> RegionName {
    "one".parse().expect("a name")
}

/// A region in folder `pg` of bucket `lifeboat` of the server at `endpoint`, with `more` parameters.
pub fn region(endpoint: &str, more: &str) -> RegionSettings {
    region_in("lifeboat", endpoint, more)
}

/// Likewise, in another bucket.
pub fn region_in(bucket: &str, endpoint: &str, more: &str) -> RegionSettings {
    let file = CREDENTIALS.display();
    let profile = if more.contains("profile=") { "" } else { "&profile=minio" };
    let url = format!("s3://{bucket}/pg?endpoint={endpoint}&credentials_file={file}{profile}{more}");
    RegionSettings::from_url(name(), &url).expect("settings")
}

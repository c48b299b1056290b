//! Which repository, and the keys for it: the arguments that every command of `lifeboat-restore` takes.

use std::path::PathBuf;

use clap::Args;
use lifeboat_repository::keys::VerifyKey;
use lifeboat_vocabulary::ClusterName;

/// Which repository, and the keys for it.
#[derive(Debug, Args)]
pub struct PlaceArgs {
    /// A region's address: s3://bucket/prefix or file:///dir; repeat for several. Parameters may follow:
    /// ?endpoint=https://host:9000&profile=minio&region=us-east-1&ca=/path.pem&name=frankfurt
    #[arg(long = "region", value_name = "URL", global = true)]
    pub regions: Vec<String>,
    /// A configuration file to take the regions from, if no --region is given [default: /etc/lifeboat/lifeboat.toml]
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// The cluster, where a region keeps several.
    #[arg(long, value_name = "NAME", global = true)]
    pub cluster: Option<ClusterName>,
    /// A file with private keys (from `lifeboat-restore keygen`); repeat for several.
    #[arg(long = "identity", value_name = "FILE", global = true)]
    pub identities: Vec<PathBuf>,
    /// The public key that signs this repository's records, from the recovery kit. Without it the key that the
    /// repository itself names is trusted.
    #[arg(long, value_name = "KEY", global = true)]
    pub signer: Option<VerifyKey>,
    /// A program (absolute path, then its arguments) that unwraps keys that a command wrapped.
    #[arg(long = "unwrap-command", value_name = "COMMAND", num_args = 1.., value_terminator = ";", global = true)]
    pub unwrap_command: Vec<String>,
}

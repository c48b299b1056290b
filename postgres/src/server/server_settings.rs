//! What a local server is told at its start.

use std::path::PathBuf;
use std::time::Duration;

/// Who may connect to a local server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listen {
    /// Only its own account and root, through the private socket, as any role and without a password: for a server that
    /// is thrown away. Libraries that the configuration preloads stay out, and the copy's `pg_hba.conf` is not read.
    SocketOnly,
    /// The private socket and 127.0.0.1, for those whom the `pg_hba.conf` in the data directory lets in: for a server that
    /// stays. Libraries are loaded as configured.
    Loopback,
}

/// What to start, and how.
#[derive(Clone, Debug)]
pub struct LocalServerSettings {
    /// The directory with `postgres`; see [`crate::server::server_bin::find_server_bin`].
    pub bin_dir: PathBuf,
    /// The data directory. Its owner is the account that the server runs as.
    pub data_dir: PathBuf,
    /// Settings for the command line, which win over all files and over what this type sets by itself.
    pub extra: Vec<(String, String)>,
    /// The directory for socket and log. It is made if it is not there; else it must be closed to everybody but its owner.
    pub run_directory: PathBuf,
    /// The port, which is also a part of the socket's name.
    pub port: u16,
    /// How long recovery may take, and how long stopping may take.
    pub timeout: Duration,
    /// Who may connect.
    pub listen: Listen,
    /// The role that [`LocalServer::connection_string`](crate::server::local_server::LocalServer::connection_string) names: the cluster's superuser, mostly `postgres`.
    pub user: String,
}

/// Which account the server runs as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RunAs {
    /// That of this process.
    Same,
    /// Another one, as this process is root.
    Other {
        /// Its user number.
        uid: u32,
        /// Its group number.
        gid: u32,
    },
}

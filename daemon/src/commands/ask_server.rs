//! Asks the server of a cluster who it is, for commands that decide whom to follow.

use anyhow::{Context, ensure};
use lifeboat_postgres::{ServerIdentity, WalConnection, WalConnectionOptions};
use lifeboat_repository::format::ids::Incarnation;
use lifeboat_vocabulary::SegmentSize;

use crate::settings::wiring::ClusterConfig;
use crate::wal::receive::upstream::SENDER_TIMEOUT;

/// What a server says of itself.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) host: String,
    pub(crate) identity: ServerIdentity,
    /// Of a restored copy, the one that it was given.
    pub(crate) incarnation: Option<Incarnation>,
    pub(crate) segment: SegmentSize,
}

/// Asks the server to which the configuration leads now.
///
/// # Errors
/// If it cannot be asked.
pub(crate) async fn ask_server(chosen: ClusterConfig<'_>) -> anyhow::Result<Asked> {
    let options =
        WalConnectionOptions { application_name: "lifeboat adopt".to_owned(), sender_timeout: SENDER_TIMEOUT };
    let connection = &chosen.cluster.connection;
    let mut wal = WalConnection::connect(connection, &options).await.context("connect to the server")?;
    let identity = wal.identify().await.context("identify the server")?;
    let segment = wal.segment_size().await.context("ask for the segment size")?;
    let incarnation = wal.incarnation().await.context("ask for the server's incarnation")?;
    let host = wal.host().to_owned();
    wal.close().await;
    let incarnation = incarnation.map(|text| text.parse().context("read the server's incarnation")).transpose()?;
    Ok(Asked { host, identity, incarnation, segment })
}

impl Asked {
    /// Positions of another system mean nothing here.
    ///
    /// # Errors
    /// If it is not of this system, which is that of `whose`.
    pub(crate) fn ensure_system(&self, system_identifier: u64, whose: &str) -> anyhow::Result<()> {
        let (host, own) = (&self.host, self.identity.system_identifier);
        ensure!(
            own == system_identifier,
            "{host} is system {own}, {whose} belongs to system {system_identifier}: look where `connection` leads"
        );
        Ok(())
    }
}

//! What tests of several crates share: real PostgreSQL servers (scratch clusters, standbys, load, and servers over
//! restored directories) a random source with a seed,
//! and a site with keys and addresses for both programs.
//!
//! Everything here is synchronous and ends with the value that owns it: servers and load generators are stopped by
//! process id when they are dropped, directories are removed. As root, servers and tools run as user `postgres`
//! (`nobody` where there is none), because PostgreSQL refuses to run as root.
//!
//! ```no_run
//! use lifeboat_testkit::{Checksums, PgServer};
//!
//! # fn main() -> anyhow::Result<()> {
//! for major in lifeboat_testkit::majors_under_test() {
//!     let server = PgServer::builder(major).checksums(Checksums::On).setting("max_wal_size", "64MB").start()?;
//!     server.psql("postgres", "create table t (i int)")?;
//! }
//! # Ok(())
//! # }
//! ```

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "for tests alone")]

mod account;
mod builder;
mod checks;
mod load;
mod process;
mod restored;
mod seeded_random;
mod server;
mod site;
mod versions;

pub use account::{as_postgres, copy_program, give_to_postgres, let_postgres_pass, run_as_postgres, scratch_dir};
pub use builder::{Checksums, PgServerBuilder};
pub use checks::pg_verifybackup;
pub use load::Load;
pub use process::Stop;
pub use restored::RestoredServer;
pub use seeded_random::SeededRandom;
pub use server::PgServer;
pub use site::{BUCKET, Said, Site, built_beside, write_private};
pub use tempfile::TempDir;
pub use versions::{bin_dir, majors_under_test};

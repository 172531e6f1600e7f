//! The harness of the real-cluster suites: a throw-away PostgreSQL with lookbook, and what a test
//! needs around it. See `tests/README.md` for how a suite looks.
//!
//! It knows what users know: SQL, the programs of PostgreSQL and the `lookbook` command. Never the
//! crates behind them.

mod cluster;
mod database;
mod files;
mod installation;
mod process;
mod random;

pub use cluster::Cluster;
pub use database::{Database, PsqlOutput};
pub use files::{
    loader, not_tested, openvino, pgvector, regression_folder, shared_data, workspace,
};
pub use installation::Installation;
pub use process::{check_output, signal};
pub use random::Random;
